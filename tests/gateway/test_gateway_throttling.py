"""429 and its kin: who rests, for how long, and how those wait who find nobody."""

from __future__ import annotations

import asyncio
import json
import math
import time

import pytest
from gateway_rig import always, answer, ask, code, gateway, hangs, health, run, tiers, until

OK = answer()
JSON = "Content-Type: application/json"


def throttled_for(seconds, status=429, *fields):
    """Answer 429 for so long after the first request, then 200."""
    began = []

    async def script(upstream, no, writer):
        now = time.monotonic()
        began.append(now)
        ends = began[0] + seconds
        busy = answer(status, b'{"busy":1}', JSON, *fields)
        writer.write(busy if now < ends else OK)

    return script


# -- who rests -------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 529, 503])
def test_one_that_says_when_is_left_alone_until_then_and_has_not_failed(status):
    async def main():
        async with gateway(always(answer(status, b"{}", "Retry-After: 7")), always(OK)) as (
            gw,
            (busy, other),
        ):
            found = [await ask(gw.port) for _ in range(30)]
            assert {status for status, _, _ in found} == {200}
            assert len(busy.asked) == 1
            assert len(other.asked) == 30
            assert tiers(gw) == ["healthy", "healthy"]
            left = health(gw).free_at(time.monotonic()) - time.monotonic()
            assert 6 < left <= 7
            assert health(gw).counts(time.monotonic()).failures == 0

    run(main)


def test_without_a_word_it_rests_one_second_then_two():
    async def main():
        settings = "max_wait = 0\nattempts = 1"
        async with gateway(always(answer(429, b"{}")), settings=settings) as (gw, (up,)):
            await ask(gw.port)
            now = time.monotonic()
            assert 0.8 < health(gw).free_at(now) - now <= 1
            await until(lambda: health(gw).free_at(time.monotonic()) <= time.monotonic())
            await ask(gw.port)
            now = time.monotonic()
            assert 1.8 < health(gw).free_at(now) - now <= 2
            assert len(up.asked) == 2

    run(main)


def test_one_that_asks_to_be_asked_again_at_once_is_not():
    async def main():
        async with gateway(always(answer(429, b"{}", "Retry-After: 0"))) as (gw, (up,)):
            one = asyncio.create_task(ask(gw.port))
            await up.asked_first.wait()
            await asyncio.sleep(0.2)
            assert len(up.asked) == 1
            assert gw.cluster.waiting == 1
            one.cancel()
            await asyncio.gather(one, return_exceptions=True)

    run(main)


@pytest.fixture
def keys(monkeypatch):
    for name in ("one", "two", "three"):
        monkeypatch.setenv(f"HF_TEST_{name.upper()}", name)
    return 'keys = ["env:HF_TEST_ONE", "env:HF_TEST_TWO", "env:HF_TEST_THREE"]'


def by_key(refusal, *bad):
    """Refuse the keys named; answer with the key otherwise."""

    async def script(upstream, no, writer):
        head = upstream.asked[-1][1].lower()
        key = head.split("authorization: bearer ")[1].split("\r\n")[0]
        writer.write(refusal if key in bad else answer(200, key.encode()))

    return script


SPENT = answer(429, b'{"error":{"code":"insufficient_quota"}}', JSON)


@pytest.mark.parametrize(
    ("refusal", "seconds"),
    [
        (answer(429, b"{}", "Retry-After: 30"), 30),
        (answer(401, b"{}"), 600),
        (answer(403, b"{}"), 600),
        (SPENT, 3600),
        (answer(402, b"{}"), 3600),
    ],
    ids=["throttled", "unauthorized", "forbidden", "spent", "payment"],
)
def test_a_key_that_is_refused_rests_and_the_next_is_tried_at_once(keys, refusal, seconds):
    async def main():
        async with gateway(by_key(refusal, "one", "three"), each=keys) as (gw, (up,)):
            began = time.monotonic()
            found = [await ask(gw.port) for _ in range(10)]
            assert {(status, body) for status, _, body in found} == {(200, b"two")}
            assert time.monotonic() - began < 1
            assert len(up.asked) <= 12
            assert tiers(gw) == ["healthy"]
            left = [
                key.cooldown.until - time.monotonic()
                for key in health(gw).keys
                if key.cooldown.until > 0
            ]
            assert left
            assert all(seconds - 5 < one <= seconds for one in left)

    run(main)


@pytest.mark.parametrize("status", [401, 403])
def test_if_every_key_is_refused_the_client_is_told(keys, status):
    refusal = answer(status, b'{"type":"error"}', JSON)

    async def main():
        async with gateway(by_key(refusal, "one", "two", "three"), each=keys) as (gw, (up,)):
            assert (await ask(gw.port, "POST", "/pay"))[::2] == (status, b'{"type":"error"}')
            assert len(up.asked) == 3

    run(main)


def test_content_that_is_refused_is_asked_for_nowhere_else():
    body = b'{"error":{"code":"content_policy_violation"}}'

    async def main():
        async with gateway(always(answer(429, body, JSON)), always(OK)) as (gw, (up, _)):
            while not up.asked:
                found = await ask(gw.port)
            assert found[::2] == (429, body)
            assert health(gw).free_at(0.0) == 0.0

    run(main)


# -- waiting ---------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoints", [1, 2, 3])
@pytest.mark.parametrize("fields", [(), ("Retry-After: 1",)], ids=["silent", "Retry-After"])
def test_who_has_the_time_waits_until_one_is_cool(endpoints, fields):
    async def main():
        scripts = [throttled_for(0.9, 429, *fields) for _ in range(endpoints)]
        async with gateway(*scripts) as (gw, _):
            began = time.monotonic()
            status, _, body = await ask(gw.port)
            assert (status, body) == (200, b"fine")
            assert 0.9 < time.monotonic() - began < 2.5
            assert gw.cluster.waiting == 0

    run(main)


def test_who_has_not_is_told_at_once_when_to_come_back():
    async def main():
        busy = answer(429, b'{"busy":1}', JSON, "Retry-After: 3")
        async with gateway(always(busy), always(busy)) as (gw, ups):
            began = time.monotonic()
            fields = ["x-request-timeout-ms: 1000"]
            status, head, body = await ask(gw.port, "POST", "/v1/messages", b"{}", *fields)
            assert (status, body) == (429, b'{"busy":1}')
            assert "Retry-After: 3" in head
            assert head.lower().count("retry-after") == 1
            # One that comes now has no answer to pass on.
            status, head, body = await ask(gw.port, "POST", "/v1/messages", b"{}", *fields)
            said = json.loads(body)
            assert (status, said["error"]["code"]) == (429, "HF-3104")
            assert said["error"]["type"] == "rate_limit_error"
            assert "Retry-After: 3" in head
            assert 2 < said["holdfast"]["retry_after"] <= 3
            assert time.monotonic() - began < 0.5
            assert sum(len(up.asked) for up in ups) == 2

    run(main)


def test_a_wait_longer_than_max_wait_is_none():
    async def main():
        busy = answer(429, b"{}", "Retry-After: 20")
        async with gateway(always(busy), settings="max_wait = 5") as (gw, _):
            began = time.monotonic()
            status, head, _ = await ask(gw.port)
            assert (status, "Retry-After: 20" in head) == (429, True)
            assert time.monotonic() - began < 0.5

    run(main)


def test_those_in_line_are_let_go_one_two_four_at_a_time():
    width, most = [0], []

    async def script(upstream, no, writer):
        if no == 1:
            writer.write(answer(429, b"{}", "Retry-After: 0.25"))
            return
        width[0] += 1
        most.append(width[0])
        await asyncio.sleep(0.03)
        width[0] -= 1
        writer.write(OK)

    async def main():
        async with gateway(script) as (gw, (up,)):
            first = asyncio.create_task(ask(gw.port))
            await up.asked_first.wait()
            await until(lambda: gw.cluster.waiting == 1)
            crowd = [asyncio.create_task(ask(gw.port)) for _ in range(30)]
            found = await asyncio.gather(first, *crowd)
            assert {status for status, _, _ in found} == {200}
            assert most[:3] == [1, 1, 2]
            assert all(size <= 2 ** math.ceil(math.log2(n + 2)) for n, size in enumerate(most))

    run(main)


def test_one_that_is_throttled_again_holds_the_others_back():
    async def script(upstream, no, writer):
        writer.write(answer(429, b"{}", "Retry-After: 0.25") if no <= 2 else OK)

    async def main():
        async with gateway(script) as (gw, (up,)):
            first = asyncio.create_task(ask(gw.port))
            await until(lambda: gw.cluster.waiting == 1)
            crowd = [asyncio.create_task(ask(gw.port)) for _ in range(10)]
            await until(lambda: len(up.asked) == 2)
            await asyncio.sleep(0.1)
            assert len(up.asked) == 2
            assert gw.cluster.waiting == 11
            found = await asyncio.gather(first, *crowd)
            assert {status for status, _, _ in found} == {200}

    run(main)


def test_beyond_the_queue_it_says_so():
    async def main():
        busy = answer(429, b"{}", "Retry-After: 20")
        async with gateway(always(busy), settings="queue = 2") as (gw, _):
            crowd = [asyncio.create_task(ask(gw.port)) for _ in range(2)]
            await until(lambda: gw.cluster.waiting == 2)
            status, head, body = await ask(gw.port)
            assert (status, code(body)) == (503, "HF-3103")
            assert "Retry-After: 20" in head
            for one in crowd:
                one.cancel()
            await asyncio.gather(*crowd, return_exceptions=True)
            await until(lambda: gw.cluster.waiting == 0)

    run(main)


def test_who_waits_for_a_place_is_served_in_turn_and_may_leave():
    order = []

    async def script(upstream, no, writer):
        order.append(upstream.asked[-1][0].split()[1])
        await asyncio.sleep(0.03)
        writer.write(OK)

    async def main():
        async with gateway(script, each="max_inflight = 1") as (gw, (up,)):
            crowd = []
            for n in range(4):
                crowd.append(asyncio.create_task(ask(gw.port, "GET", f"/{n}")))
                await until(lambda n=n: len(order) + gw.cluster.waiting == n + 1)
            crowd[2].cancel()
            found = await asyncio.gather(*crowd, return_exceptions=True)
            assert [one[0] for n, one in enumerate(found) if n != 2] == [200] * 3
            assert order == ["/0", "/1", "/3"]
            assert up.connections <= 3

    run(main)


def test_one_that_failed_here_and_finds_the_other_full_holds_nobody_up():
    async def script(upstream, no, writer):
        writer.write(answer(500) if "/fails" in upstream.asked[-1][0] else OK)

    async def main():
        settings = "attempts = 3"
        async with gateway(script, always(OK), settings=settings, each="max_inflight = 9") as (
            gw,
            (up, _),
        ):
            health(gw, 1).in_flight = 9
            fails = asyncio.create_task(ask(gw.port, "GET", "/fails"))
            await up.asked_first.wait()
            async with asyncio.timeout(5):
                found = [await ask(gw.port, "GET", "/fine") for _ in range(3)]
            assert {status for status, _, _ in found} == {200}
            assert (await fails)[0] == 500
            assert [line.split()[1] for line, _, _ in up.asked].count("/fails") == 3
            health(gw, 1).in_flight = 0

    run(main)


def test_a_place_that_never_comes_is_a_503():
    async def main():
        settings = "max_wait = 0.1"
        async with gateway(hangs, settings=settings, each="max_inflight = 1") as (gw, (up,)):
            first = asyncio.create_task(ask(gw.port))
            await up.asked_first.wait()
            status, _, body = await ask(gw.port)
            assert (status, code(body)) == (503, "HF-3103")
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)

    run(main)


# -- whatever the states ---------------------------------------------------------------------


def test_when_all_circuits_are_open_one_real_attempt_is_made():
    async def main():
        settings = "breaker = {consecutive = 1, open_for = 100}\nattempts = 1"
        async with gateway(always(answer(500)), settings=settings) as (gw, (up,)):
            await ask(gw.port)
            assert tiers(gw) == ["circuit_open"]
            status, _, _ = await ask(gw.port)
            assert status == 500
            assert len(up.asked) == 2

    run(main)


def test_only_degraded_ones_are_used():
    async def main():
        async with gateway(always(OK), always(OK)) as (gw, ups):
            for number in (0, 1):
                health(gw, number).is_degraded = True
                health(gw, number).calm = False
            assert tiers(gw) == ["degraded", "degraded"]
            assert {(await ask(gw.port))[0] for _ in range(6)} == {200}
            assert sum(len(up.asked) for up in ups) == 6

    run(main)


def test_when_all_are_disabled_it_says_so():
    async def main():
        async with gateway(always(OK), each="enabled = false") as (gw, (up,)):
            status, head, body = await ask(gw.port)
            assert (status, code(body)) == (503, "HF-3109")
            assert "Retry-After" in head
            assert not up.asked

    run(main)
