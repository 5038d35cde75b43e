"""What is sent again, to whom, how often, and what the client is told in the end."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from gateway_rig import (
    always,
    answer,
    ask,
    code,
    connect,
    events,
    gateway,
    hangs,
    health,
    in_turn,
    reset,
    run,
    tiers,
    until,
)

from holdfast.core.breaker import State

OK = answer()


async def resets(upstream, no, writer):
    reset(writer)
    return False


def asked(ups):
    return sum(len(up.asked) for up in ups)


# -- which requests --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "fields", "settings"),
    [
        ("GET", "/pay", (), ""),
        ("PUT", "/pay", (), ""),
        ("DELETE", "/pay", (), ""),
        ("POST", "/pay", ("Idempotency-Key: 1",), ""),
        ("POST", "/v1/messages?beta=true", (), ""),
        ("POST", "/v1/messages/count_tokens", (), ""),
        ("POST", "/v1/chat/completions", (), ""),
        ("POST", "/mine", (), 'repeat_paths = ["/mine"]'),
        ("POST", "/pay", (), 'repeat = "all"'),
    ],
)
def test_what_may_be_sent_twice_is(method, path, fields, settings):
    async def main():
        async with gateway(resets, always(OK), settings=settings) as (gw, _):
            found = [await ask(gw.port, method, path, b"{}", *fields) for _ in range(12)]
            assert {status for status, _, _ in found} == {200}

    run(main)


@pytest.mark.parametrize(
    ("path", "settings"),
    [
        ("/pay", ""),
        ("/v1/chat/completions/x", ""),
        ("/v1/messages", 'repeat = "idempotent"'),
    ],
)
def test_what_may_not_is_sent_once_and_may_have_run(path, settings):
    async def main():
        async with gateway(resets, resets, settings=settings) as (gw, ups):
            status, head, body = await ask(gw.port, "POST", path)
            said = json.loads(body)
            assert (status, said["error"]["code"]) == (502, "HF-3106")
            assert said["holdfast"]["sent"] == "maybe"
            assert [one["endpoint"] for one in said["holdfast"]["attempts"]] == ["a"] or ups[
                1
            ].asked
            assert "x-holdfast-attempts: 1" in head
            assert asked(ups) == 1

    run(main)


def test_on_a_fresh_connection_a_reset_after_the_body_is_executed_once():
    async def main():
        async with gateway(resets) as (gw, (up,)):
            status, _, body = await ask(gw.port, "POST", "/pay", b"x" * 1000)
            assert (status, code(body)) == (502, "HF-3106")
            assert [one[2] for one in up.asked] == [b"x" * 1000]

    run(main)


def test_what_was_never_sent_is_always_sent_again():
    async def main():
        async with gateway(always(OK), always(OK)) as (gw, (gone, here)):
            gone.server.close()
            found = [await ask(gw.port, "POST", "/pay") for _ in range(10)]
            assert {status for status, _, _ in found} == {200}
            assert len(here.asked) == 10

    run(main)


@pytest.mark.parametrize("status", [429, 529, 421, 425])
def test_what_was_refused_before_it_ran_is_always_sent_again(status):
    async def main():
        async with gateway(always(answer(status, b"{}")), always(OK)) as (gw, _):
            found = [await ask(gw.port, "POST", "/pay") for _ in range(10)]
            assert {status for status, _, _ in found} == {200}

    run(main)


def test_a_500_for_what_may_have_run_is_passed_on():
    async def main():
        async with gateway(always(answer(500, b"oops", "X-Why: me"))) as (gw, (up,)):
            status, head, body = await ask(gw.port, "POST", "/pay")
            assert (status, body, "X-Why: me" in head) == (500, b"oops", True)
            assert len(up.asked) == 1

    run(main)


def test_an_earlier_refusal_is_not_the_answer_to_what_may_have_run():
    async def throttles(upstream, no, writer):
        writer.write(answer(429, b"{}", "Retry-After: 0"))

    async def main():
        settings = 'balance = "round_robin"'
        async with gateway(throttles, resets, settings=settings) as (gw, (first, _)):
            status, _, body = await ask(gw.port, "POST", "/pay")
            assert first.asked
            assert (status, code(body)) == (502, "HF-3106")

    run(main)


# -- which answers ---------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 520, 522, 524, 529])
def test_a_refusal_is_asked_for_elsewhere(status):
    async def main():
        async with gateway(always(answer(status, b"{}")), always(OK)) as (gw, _):
            found = [await ask(gw.port) for _ in range(12)]
            assert {status for status, _, _ in found} == {200}

    run(main)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 501, 505])
def test_what_is_the_clients_is_passed_on_from_one_call_and_changes_nothing(status):
    async def main():
        bad = answer(status, b'{"type":"error"}', "Content-Type: application/json", "X-Twice: 1")
        async with gateway(always(bad), always(bad)) as (gw, ups):
            found = [await ask(gw.port) for _ in range(6)]
            assert {(code, body) for code, _, body in found} == {(status, b'{"type":"error"}')}
            assert all("x-should-retry" not in head for _, head, _ in found)
            assert asked(ups) == 6
            assert tiers(gw) == ["healthy", "healthy"]

    run(main)


@pytest.mark.parametrize(
    ("kind", "state"), [("overloaded_error", "healthy"), ("api_error", "degraded")]
)
def test_an_error_in_a_200_means_what_its_status_would(kind, state):
    body = json.dumps({"type": "error", "error": {"type": kind, "message": "x"}}).encode()
    bad = answer(200, body, "Content-Type: application/json")

    async def main():
        async with gateway(always(bad), always(OK)) as (gw, (up, _)):
            found = [await ask(gw.port) for _ in range(20)]
            assert {body for _, _, body in found} == {b"fine"}
            assert up.asked
            assert tiers(gw)[0] == state or len(up.asked) < 2

    run(main)


def test_an_error_in_a_200_that_is_the_clients_is_passed_on():
    body = b'{"type":"error","error":{"type":"invalid_request_error"}}'

    async def main():
        async with gateway(always(answer(200, body, "Content-Type: application/json"))) as (
            gw,
            (up,),
        ):
            assert (await ask(gw.port))[::2] == (200, body)
            assert len(up.asked) == 1

    run(main)


# -- how often -------------------------------------------------------------------------------


def test_another_endpoint_is_asked_at_once_and_each_before_one_twice():
    async def main():
        scripts = [always(answer(500, b"%d" % n)) for n in range(3)]
        async with gateway(*scripts) as (gw, ups):
            began = time.monotonic()
            status, head, _ = await ask(gw.port)
            assert (status, "x-holdfast-attempts: 4" in head) == (500, True)
            assert sorted(len(up.asked) for up in ups) == [1, 1, 2]
            assert time.monotonic() - began < 0.3

    run(main)


@pytest.mark.parametrize("attempts", [1, 2, 6])
def test_no_more_attempts_are_made_than_configured(attempts):
    async def main():
        settings = f"attempts = {attempts}"
        async with gateway(always(answer(502)), settings=settings) as (gw, (up,)):
            assert (await ask(gw.port))[0] == 502
            assert len(up.asked) == attempts

    run(main)


def test_in_an_outage_retries_cost_budget_and_first_attempts_never_do():
    async def main():
        settings = "retry_reserve = 5\nretry_budget = 0.1\nbreaker = {consecutive = 10000}"
        async with gateway(always(answer(500)), settings=settings) as (gw, (up,)):
            found = [await ask(gw.port) for _ in range(60)]
            assert {status for status, _, _ in found} == {500}
            assert 60 < len(up.asked) <= 60 + 5 + 60 * 0.1

    run(main)


def test_one_request_counts_once_against_an_endpoint():
    async def main():
        async with gateway(always(answer(500)), settings="attempts = 4") as (gw, (up,)):
            await ask(gw.port)
            assert len(up.asked) == 4
            assert health(gw).counts(time.monotonic()).failures == 1

    run(main)


# -- giving up -------------------------------------------------------------------------------


def test_the_last_answer_is_given_unchanged_but_for_when_to_come_back():
    async def main():
        down = answer(503, b"down for tea", "X-Why: tea", "x-should-retry: true")
        async with gateway(always(down), settings="attempts = 2") as (gw, _):
            status, head, body = await ask(gw.port)
            assert (status, body) == (503, b"down for tea")
            assert "X-Why: tea" in head
            assert head.lower().count("x-should-retry") == 1
            assert "x-should-retry: false" in head
            assert "\r\nRetry-After: 1\r\n" in head

    run(main)


def test_only_paths_that_sdks_retry_are_marked_as_final():
    async def main():
        async with gateway(always(answer(500))) as (gw, _):
            assert "x-should-retry: false" in (await ask(gw.port))[1]
            assert "x-should-retry" not in (await ask(gw.port, "GET", "/x"))[1]

    run(main)


def test_without_any_answer_the_error_is_ours_and_names_each_attempt():
    async def main():
        async with gateway(resets, resets) as (gw, _):
            status, head, body = await ask(gw.port)
            said = json.loads(body)
            assert (status, said["error"]["code"]) == (502, "HF-3101")
            assert len(said["holdfast"]["attempts"]) == 4
            assert {one["endpoint"] for one in said["holdfast"]["attempts"]} == {"a", "b"}
            assert "x-should-retry: false" in head

    run(main)


# -- stale sockets ---------------------------------------------------------------------------


def test_a_kept_connection_that_had_died_costs_no_attempt_and_no_health():
    async def script(upstream, no, writer):
        if no == 2:
            reset(writer)
            return False
        writer.write(OK)
        return True

    async def main():
        async with gateway(script, settings="attempts = 1") as (gw, (up,)):
            assert [(await ask(gw.port))[0] for _ in range(3)] == [200, 200, 200]
            assert len(up.asked) == 4
            assert health(gw).counts(time.monotonic()).failures == 0
            assert gw.cluster.ledger.stale == 1

    run(main)


# -- timeouts --------------------------------------------------------------------------------


def test_an_endpoint_that_never_answers_is_left_after_the_first_byte_timeout():
    async def main():
        settings = "first_byte_timeout = 0.1"
        async with gateway(hangs, always(OK), settings=settings) as (gw, (up, _)):
            began = time.monotonic()
            found = [await ask(gw.port)]
            while not up.asked and len(found) < 200:  # whom it asks first is drawn
                found.append(await ask(gw.port))
            assert {status for status, _, _ in found} == {200}
            assert up.asked
            assert time.monotonic() - began < 3
            assert health(gw).counts(time.monotonic()).failures >= 1

    run(main)


def test_the_wait_for_a_first_byte_is_compared_with_what_others_take_meanwhile(monkeypatch):
    monkeypatch.setattr("holdfast.gateway.cluster.FIRST_BYTE_LEAST", 0.2)

    async def main():
        async def first_hangs(upstream, no, writer):
            if no == 1:
                return await hangs(upstream, no, writer)
            writer.write(OK)
            return True

        async with gateway(first_hangs) as (gw, (up,)):
            one = asyncio.create_task(ask(gw.port))  # no sample yet: it could wait for long
            await up.asked_first.wait()
            for _ in range(100):
                assert (await ask(gw.port))[0] == 200
            assert (await one)[0] == 200
            assert len(up.asked) == 102

    run(main)


def test_when_the_whole_time_is_over_it_says_so_and_blames_nobody_in_a_hurry():
    async def main():
        async with gateway(hangs, hangs) as (gw, ups):
            began = time.monotonic()
            fields = ["x-request-timeout-ms: 150"]
            status, _, body = await ask(gw.port, "POST", "/v1/messages", b"{}", *fields)
            assert time.monotonic() - began < 0.4
            said = json.loads(body)
            assert (status, said["error"]["code"]) == (504, "HF-3102")
            assert said["error"]["type"] == "timeout_error"
            assert said["holdfast"]["sent"] == "maybe"
            assert tiers(gw) == ["healthy", "healthy"]
            assert sum(health(gw, n).counts(time.monotonic()).failures for n in (0, 1)) == 0
            assert all("x-request-timeout-ms" not in up.asked[0][1] for up in ups if up.asked)

    run(main)


def test_a_client_cannot_lengthen_the_total():
    async def main():
        async with gateway(hangs, settings="total_timeout = 0.1") as (gw, _):
            fields = ["x-request-timeout-ms: 60000"]
            status, _, _ = await ask(gw.port, "GET", "/", b"", *fields)
            assert status == 504

    run(main)


def test_after_the_total_a_refusal_that_came_is_the_answer():
    async def main():
        settings = "total_timeout = 0.3"
        async with gateway(always(answer(500, b"me")), settings=settings, each="") as (gw, _):
            status, _, body = await ask(gw.port)
            assert (status, body) == (500, b"me")

    run(main)


def test_silence_within_an_answer_is_a_failure():
    async def main():
        settings = "idle_timeout = 0.1"
        json_type = "Content-Type: application/json"

        async def stalls_json(upstream, no, writer):
            writer.write(answer(200, b"x" * 100, json_type)[:-50])
            return await hangs(upstream, no, writer)

        async with gateway(stalls_json, always(OK), settings=settings) as (gw, (up, _)):
            found = [await ask(gw.port) for _ in range(6)]
            assert {body for _, _, body in found} == {b"fine"}
            assert up.asked

    run(main)


def test_a_clients_end_is_neutral_and_frees_everything_at_once():
    async def main():
        async with gateway(hangs, hangs) as (gw, ups):
            for n in range(100):
                _, writer = await connect(
                    gw, b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
                )
                await until(lambda n=n: asked(ups) > n)
                writer.close()
            gone = time.monotonic()
            await until(lambda: not sum(up.open for up in ups))
            assert time.monotonic() - gone < 0.1
            assert tiers(gw) == ["healthy", "healthy"]
            assert [health(gw, n).in_flight for n in (0, 1)] == [0, 0]
            assert gw.cluster.ledger.cancelled == 100
            assert gw.cluster.ledger.failed == 0

    run(main)


def test_a_client_that_only_stops_sending_is_gone_too():
    async def main():
        async with gateway(hangs) as (gw, (up,)):
            _, writer = await connect(gw, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await up.asked_first.wait()
            writer.write_eof()
            await until(lambda: not up.open, 0.5)
            assert health(gw).in_flight == 0
            writer.close()

    run(main)


# -- many ------------------------------------------------------------------------------------


def test_one_that_resets_all_is_left_alone_and_nobody_notices():
    async def main():
        async with gateway(resets, always(OK)) as (gw, (bad, good)):

            async def user():
                keep = await connect(gw)
                found = [(await ask(gw.port, keep=keep))[0] for _ in range(50)]
                keep[1].close()
                return found

            found = await asyncio.gather(*(user() for _ in range(20)))
            assert {status for one in found for status in one} == {200}
            assert len(good.asked) == 1000
            assert len(bad.asked) <= 5 + 20 + 3

    run(main)


def sick_until(well, then):
    """Reset all until an event, then do something else."""

    async def script(upstream, no, writer):
        return await (then if well.is_set() else resets)(upstream, no, writer)

    return script


def test_a_half_open_endpoint_gets_one_request_of_a_hundred():
    async def main():
        gate, well = asyncio.Event(), asyncio.Event()

        async def waits(upstream, no, writer):
            await gate.wait()
            writer.write(OK)

        settings = "breaker = {open_for = 0.1, consecutive = 1}\nattempts = 1\nmax_wait = 5"
        async with gateway(sick_until(well, waits), settings=settings) as (gw, (up,)):
            await ask(gw.port)
            assert tiers(gw) == ["circuit_open"]
            well.set()
            await until(lambda: tiers(gw) == ["unhealthy"])
            before = len(up.asked)
            crowd = [asyncio.create_task(ask(gw.port)) for _ in range(100)]
            await until(lambda: gw.cluster.waiting >= 99)
            await asyncio.sleep(0.02)
            assert len(up.asked) == before + 1
            gate.set()
            found = await asyncio.gather(*crowd)
            assert {status for status, _, _ in found} == {200}

    run(main)


def test_a_stream_that_has_begun_keeps_a_half_open_endpoint_from_nobody():
    async def main():
        gate, well = asyncio.Event(), asyncio.Event()

        async def begins(upstream, no, writer):
            writer.write(events({"n": 1}))
            await gate.wait()
            return False

        settings = "breaker = {open_for = 0.1, consecutive = 1}\nattempts = 1"
        async with gateway(sick_until(well, begins), settings=settings) as (gw, (up,)):
            await ask(gw.port)
            well.set()
            await until(lambda: tiers(gw) == ["unhealthy"])
            before = len(up.asked)
            crowd = [asyncio.create_task(ask(gw.port, "GET", "/events")) for _ in range(5)]
            await until(lambda: len(up.asked) == before + 5)
            assert health(gw).in_flight == 5
            assert health(gw).breaker.state is State.CLOSED
            gate.set()
            await asyncio.gather(*crowd)
            assert health(gw).in_flight == 0

    run(main)


def test_the_answer_of_another_is_executed_once():
    async def slow(upstream, no, writer):
        await asyncio.sleep(0.2)
        writer.write(answer(200, b"slow"))

    async def main():
        settings = 'balance = "round_robin"'
        async with gateway(resets, slow, settings=settings) as (gw, (bad, good)):
            assert (await ask(gw.port))[::2] == (200, b"slow")
            assert (len(bad.asked), len(good.asked)) == (1, 1)

    run(main)


def test_a_second_answer_on_a_connection_reaches_nobody():
    async def main():
        async with gateway(in_turn(OK + answer(200, b"smuggled"), OK)) as (gw, (up,)):
            assert [(await ask(gw.port))[2] for _ in range(5)] == [b"fine"] * 5
            assert up.connections == 2

    run(main)
