"""What a request through the aiohttp middleware does when things go wrong."""

from __future__ import annotations

import asyncio
import dis
import errno
import json

import aiohttp
import pytest
from aiohttp import web
from clients_aiohttp_rig import HOST, Scripted, answer, chunked, fetch, sessions, simulate

import holdfast as hf
from holdfast.core.events import Attempt
from holdfast.runtime.base import HAS_GIL

URL = f"http://{HOST}/"
GOOD = answer(200, b"good")


def retrying(attempts=3, **options):
    return hf.Retry(attempts, backoff=hf.Constant(0.1), budget=None, **options)


def rule_of(*parts, attempts=3, **options):
    return hf.policy(*parts, retrying(attempts, **options))


def run(server, main, policy=None, **options):
    """Run `main(session, policy)` against `server`."""
    rule = policy or rule_of()

    async def program(sim):
        async with sessions(sim, rule, server, **options) as (session, _):
            await main(session, rule)
        assert rule.state()["active"] == 0

    simulate(program)


def test_a_bad_answer_is_asked_for_again():
    server = Scripted(answer(503), answer(429, b"", "Retry-After: 2"), GOOD)

    async def main(session, rule):
        began = asyncio.get_running_loop().time()
        assert await fetch(session, URL) == (200, b"good")
        assert asyncio.get_running_loop().time() - began >= 2.1

    run(server, main)
    assert len(server.requests) == 3
    assert server.connections == 1


def test_the_last_bad_answer_is_returned_and_can_be_read():
    server = Scripted(chunked(b"busy", b" today", status=503))

    async def main(session, rule):
        async with session.get(URL) as response:
            assert response.status == 503
            assert await response.text() == "busy today"

    run(server, main)
    assert len(server.requests) == 3


def test_a_discarded_answer_that_is_short_leaves_its_connection_in_use():
    server = Scripted(chunked(b"busy", status=503), answer(503, b"x" * 2000), GOOD)

    async def main(session, rule):
        assert await fetch(session, URL) == (200, b"good")

    run(server, main)
    assert server.connections == 1


def test_a_discarded_answer_that_does_not_end_costs_its_connection():
    server = Scripted(("hang", chunked(b"busy", status=503, end=False)), GOOD)

    async def main(session, rule):
        began = asyncio.get_running_loop().time()
        assert await fetch(session, URL) == (200, b"good")
        assert asyncio.get_running_loop().time() - began < 1

    run(server, main)
    assert server.connections == 2


def test_the_error_of_the_last_attempt_is_raised_with_a_note():
    server = Scripted(("rst", b""))

    async def main(session, rule):
        with pytest.raises(aiohttp.ClientOSError) as caught:
            await fetch(session, URL)
        assert caught.value.errno == errno.ECONNRESET
        assert len(caught.value.__notes__) == 1
        assert "3 attempts" in caught.value.__notes__[0]

    run(server, main)


@pytest.mark.parametrize("trust_env", [False, True])
@pytest.mark.parametrize("step", [("rst", b""), ("fin", b""), ("fin", b"HTTP/1.1 2")])
def test_accepted_connections_are_the_attempts(step, trust_env):
    # aiohttp itself sends once more, on the first call of a session too: see `_take_over`.
    server = Scripted(step)

    async def main(session, rule):
        session._trust_env = trust_env
        for number in range(1, 4):
            with pytest.raises(aiohttp.ClientError) as caught:
                await fetch(session, URL)
            assert server.connections == 3 * number
            assert len(caught.value.__notes__) == 1

    run(server, main)


def test_many_first_calls_at_once_make_their_attempts_and_no_more():
    server = Scripted(("rst", b""))

    async def main(session, rule):
        session._trust_env = True
        calls = [fetch(session, URL) for _ in range(10)]
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in errors} == {aiohttp.ClientOSError}
        assert server.connections == 30

    run(server, main)


def test_requests_that_a_middleware_further_out_held_back_make_their_attempts_and_no_more():
    server = Scripted(("rst", b""))

    async def late(request, handler):
        await asyncio.sleep(0.01)
        return await handler(request)

    async def main(session, rule):
        session._middlewares = (late, *session._middlewares)
        calls = [fetch(session, URL) for _ in range(10)]
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in errors} == {aiohttp.ClientOSError}
        assert server.connections == 30

    run(server, main)


def test_a_middleware_further_in_may_send_two_at_the_same_time():
    async def twice(request, handler):
        one, other = await asyncio.gather(handler(request), handler(request))
        one.close()
        return other

    async def main(session, rule):
        assert await fetch(session, URL) == (200, b"good")
        session._middlewares = (*session._middlewares, twice)
        for _ in range(3):
            assert await fetch(session, URL) == (200, b"good")

    run(Scripted(GOOD), main)


def test_limits_are_learnt_from_the_first_answer_that_has_them():
    rule = rule_of(hf.RateLimit(1000))
    told = answer(200, b"good", "RateLimit: limit=10, remaining=0, reset=7")
    server = Scripted(GOOD, GOOD, GOOD, told, GOOD, GOOD)

    async def main(session, rule):
        began = asyncio.get_running_loop().time()
        for _ in range(4):
            assert await fetch(session, URL) == (200, b"good")
        assert asyncio.get_running_loop().time() - began < 1
        assert await fetch(session, URL) == (200, b"good")
        assert asyncio.get_running_loop().time() - began >= 6.9

    run(server, main, rule)


@pytest.mark.skipif(not HAS_GIL, reason="there are no fast paths without a GIL")
def test_permits_are_taken_and_given_back_without_interruption():
    # As the fast paths of the drivers are: see `runtime.lock`.
    steps = list(dis.get_instructions(hf.clients.aiohttp.Middleware.__call__))

    def place(argval, *opnames):
        return [i for i, op in enumerate(steps) if op.argval == argval and op.opname in opnames]

    refused = place("_fully", "LOAD_METHOD", "LOAD_ATTR")[1]
    back = next(i for i, op in enumerate(steps) if i > refused and op.opname.startswith("RETURN"))
    taken = place("active", "STORE_ATTR")[0]
    entered = steps[place("now", "STORE_FAST")[0] : refused] + steps[back + 1 : taken]
    asked = place("_mentions_limits", "LOAD_METHOD", "LOAD_ATTR")[0]
    called = next(i for i, op in enumerate(steps) if i > asked and op.opname == "CALL")
    left = steps[called + 1 : place("tally", "STORE_ATTR")[0]]
    assert [op.argval for op in left if op.opname == "STORE_ATTR"] == ["active"]
    switches = ("CALL", "JUMP_BACKWARD", "RESUME", "SEND", "YIELD", "FOR_ITER")
    assert [op.opname for op in entered + left if op.opname.startswith(switches)] == []


def test_a_redirect_after_a_failure_is_no_repetition():
    server = Scripted(("rst", b""), answer(302, b"", "Location: /two"), ("rst", b""), GOOD)

    async def main(session, rule):
        assert await fetch(session, URL) == (200, b"good")

    run(server, main)
    assert [request[1] for request in server.requests] == ["/", "/", "/two", "/two"]


# -- what may be sent twice ------------------------------------------------------------------


def test_a_post_whose_answer_was_lost_is_not_sent_again():
    server = Scripted(("rst", b""))
    heard = []

    async def main(session, rule):
        stop = hf.subscribe(heard.append)
        with pytest.raises(aiohttp.ClientOSError) as caught:
            await fetch(session, URL, "POST", data=b"once")
        stop()
        assert "may have been executed" in caught.value.__notes__[0]

    run(server, main)
    assert server.bodies == [b"once"]
    attempts = [event for event in heard if isinstance(event, Attempt)]
    assert [event.sent for event in attempts] == ["maybe"]


@pytest.mark.parametrize(
    ("options", "headers"),
    [({"idempotency_key": True}, {}), ({}, {"Idempotency-Key": "mine"})],
)
def test_a_post_with_a_key_is_sent_again_with_the_same_key(options, headers):
    server = Scripted(("rst", b""), answer(503), GOOD)

    async def main(session, rule):
        got = await fetch(session, URL, "POST", data=b"once", headers=headers)
        assert got == (200, b"good")

    run(server, main, rule_of(**options))
    keys = {request[2].get("idempotency-key") for request in server.requests}
    assert len(server.requests) == 3
    assert len(keys) == 1
    assert None not in keys


def test_a_post_that_never_went_out_is_sent_again():
    server = Scripted(GOOD)

    async def main(sim):
        sim.break_things({"connect": {"refuse": 1.0}}, until=0.15)
        async with sessions(sim, rule_of(attempts=5), server) as (session, _):
            assert await fetch(session, URL, "POST", data=b"once") == (200, b"good")

    simulate(main)
    assert server.bodies == [b"once"]


def test_out_of_descriptors_the_breaker_does_not_move(monkeypatch):
    server = Scripted(GOOD)
    rule = hf.policy(retrying(), hf.Breaker(consecutive=1))

    async def main(sim):
        async def dial(addresses):
            raise OSError(errno.EMFILE, "Too many open files")

        async with sessions(sim, rule, server) as (session, _):
            monkeypatch.setattr(sim.network, "dial", dial)
            with pytest.raises(aiohttp.ClientConnectorError):
                await fetch(session, URL)
        assert rule.state()["failures"] == 0
        assert rule.state()["circuit"] == "closed"

    simulate(main)


# -- stale connections -----------------------------------------------------------------------


def stale(method="GET", **options):
    """Ask twice; the server resets the connection when the second request comes."""
    server = Scripted(GOOD, ("rst", b""), GOOD)
    got = []

    async def main(session, rule):
        assert await fetch(session, URL) == (200, b"good")
        try:
            got.append(await fetch(session, URL, method))
        except aiohttp.ClientError as error:
            got.append(error)
        state = rule.state()
        assert state["failures"] == (0 if isinstance(got[0], tuple) else 1)

    run(server, main, hf.policy(hf.Breaker()), **options)
    return got[0], server


@pytest.mark.parametrize(
    ("method", "options", "good"),
    [
        ("GET", {}, True),
        ("PUT", {}, True),
        ("POST", {}, False),
        ("POST", {"replay_reused": "any"}, True),
        ("GET", {"replay_reused": "never"}, False),
    ],
)
def test_a_stale_connection_is_replaced_without_a_retry(method, options, good):
    got, server = stale(method, **options)
    assert (got == (200, b"good")) is good
    assert server.connections == (2 if good else 1)
    assert len(server.requests) == (3 if good else 2)


@pytest.mark.parametrize("what", ["rst", "fin"])
def test_a_connection_that_breaks_in_its_answer_was_not_stale(what):
    server = Scripted(GOOD, (what, b"H"), GOOD)

    async def main(session, rule):
        await fetch(session, URL)
        with pytest.raises(aiohttp.ClientError):
            await fetch(session, URL)
        assert rule.state()["failures"] == 1

    run(server, main, hf.policy(hf.Breaker()))


def test_the_connection_in_place_of_a_stale_one_is_new_and_others_stay():
    slow = ("drip", answer(200, b""))
    server = Scripted(slow, slow, slow, ("rst", b""), GOOD)

    async def main(session, rule):
        await asyncio.gather(*(fetch(session, URL) for _ in range(3)))
        assert server.connections == 3
        assert await fetch(session, URL) == (200, b"good")
        assert server.connections == 4
        assert server.requests[-1][4] == 4
        await asyncio.gather(*(fetch(session, URL) for _ in range(3)))
        assert server.connections == 4

    run(server, main, hf.policy())


def test_a_full_pool_makes_room_for_the_new_connection():
    server = Scripted(GOOD, ("rst", b""), GOOD)

    async def main(session, rule):
        session.connector._limit = 1
        await fetch(session, URL)
        assert await fetch(session, URL) == (200, b"good")
        assert server.connections == 2

    run(server, main, hf.policy())


def test_two_hundred_requests_over_connections_that_the_server_gives_up_fail_never():
    async def main(sim):
        server = Scripted(GOOD)
        rule = hf.policy(hf.Breaker(consecutive=1))
        sim.break_things({"stream": {"idle_close": 1.0}}, until=10_000)
        async with sessions(sim, rule, server) as (session, _):
            draw = sim.random("pauses").draw
            for _ in range(200):
                assert await fetch(session, URL) == (200, b"good")
                await asyncio.sleep(0.05 * 1000 ** draw())
            assert rule.state()["failures"] == 0
            assert server.connections > 20

    for seed in range(3):
        simulate(main, seed)


# -- time ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "step", [("hang", b""), ("drip", answer(200, b"x" * 50)), ("drip", chunked(b"x" * 50))]
)
def test_a_deadline_ends_a_call_on_time(step):
    server = Scripted(step)

    async def main(session, rule):
        began = asyncio.get_running_loop().time()
        with pytest.raises(hf.DeadlineExceeded):
            await fetch(session, URL)
        assert asyncio.get_running_loop().time() - began <= 1.05

    run(server, main, hf.policy(hf.Deadline(1), hf.Bulkhead(1)))


def test_a_deadline_ends_connecting_on_time():
    async def main(sim):
        sim.break_things({"connect": {"blackhole": 1.0}}, until=100)
        rule = hf.policy(hf.Deadline(1), retrying())
        async with sessions(sim, rule, Scripted(GOOD)) as (session, _):
            with pytest.raises(hf.DeadlineExceeded):
                await fetch(session, URL)
            assert sim.clock.monotonic() <= 1.05

    simulate(main)


def test_an_attempt_that_takes_too_long_is_followed_by_another():
    server = Scripted(("hang", b""), ("hang", answer(200, b"good")[:-2]), GOOD)

    async def main(session, rule):
        assert await fetch(session, URL) == (200, b"good")
        assert asyncio.get_running_loop().time() < 2.5

    run(server, main, hf.policy(hf.Deadline(10), retrying(), hf.Timeout(1)))


def test_redirects_share_the_deadline_around_them():
    server = Scripted(("drip", answer(302, b"", "Location: /again")))

    async def main(session, rule):
        began = asyncio.get_running_loop().time()
        with hf.deadline(20), pytest.raises(TimeoutError):
            await fetch(session, URL)
        assert asyncio.get_running_loop().time() - began <= 20.05

    run(server, main, hf.policy(hf.Bulkhead(1)))
    assert len(server.requests) == 2


@pytest.mark.parametrize("step", [("hang", b""), ("hang", answer(200, b"good")[:-2])])
def test_after_the_total_time_of_aiohttp_there_is_no_other_attempt(step):
    server = Scripted(step)

    async def main(session, rule):
        began = asyncio.get_running_loop().time()
        with pytest.raises(TimeoutError):
            await fetch(session, URL, timeout=aiohttp.ClientTimeout(total=2))
        assert asyncio.get_running_loop().time() - began <= 2.01

    run(server, main)
    assert len(server.requests) == 1


def test_the_total_time_of_aiohttp_ends_a_wait_between_attempts():
    server = Scripted(answer(503, b"", "Retry-After: 30"))

    async def main(session, rule):
        began = asyncio.get_running_loop().time()
        with pytest.raises(TimeoutError):
            await fetch(session, URL, timeout=aiohttp.ClientTimeout(total=2))
        assert asyncio.get_running_loop().time() - began <= 2.01
        assert rule.state()["active"] == 0

    run(server, main, hf.policy(hf.Bulkhead(1), retrying()))


def test_a_socket_timeout_of_aiohttp_is_a_failed_attempt():
    server = Scripted(("hang", b""), GOOD)

    async def main(session, rule):
        timeout = aiohttp.ClientTimeout(sock_read=1)
        assert await fetch(session, URL, timeout=timeout) == (200, b"good")

    run(server, main)


# -- codes, hedges, redirects, upgrades --------------------------------------------------------


def kling(code):
    return answer(429, json.dumps({"code": code}).encode(), "Content-Type: application/json")


@pytest.mark.parametrize("form", ["length", "chunked"])
def test_codes_of_a_provider_decide(form):
    def said(code):
        body = json.dumps({"code": code}).encode()
        return kling(code) if form == "length" else chunked(body[:5], body[5:], status=429)

    server = Scripted(*[said(1303)] * 5, GOOD)
    out_of_money = Scripted(said(1102))

    async def main(session, rule):
        assert await fetch(session, URL) == (200, b"good")
        assert asyncio.get_running_loop().time() >= 5

    async def other(session, rule):
        async with session.get(URL) as response:
            assert response.status == 429
            assert (await response.json(content_type=None))["code"] == 1102

    run(server, main, rule_of(attempts=6), provider="kling")
    run(out_of_money, other, rule_of(attempts=6), provider="kling")
    assert len(server.requests) == 6
    assert len(out_of_money.requests) == 1


def test_a_slow_attempt_is_hedged():
    server = Scripted(("hang", b""), GOOD)

    async def main(session, rule):
        assert await fetch(session, URL) == (200, b"good")
        assert asyncio.get_running_loop().time() < 2

    run(server, main, hf.policy(retrying(), hf.Hedge(after=1.0, budget=1.0)))
    assert server.connections == 2


def test_credentials_do_not_follow_a_redirect_to_another_origin():
    server = Scripted(answer(302, b"", "Location: http://other.test/"), GOOD)

    async def main(sim):
        sim.network.host("other.test", "10.0.0.1")
        async with sessions(sim, rule_of(idempotency_key=True), server) as (session, _):
            secret = {"Authorization": "Bearer secret", "Cookie": "a=b"}
            assert await fetch(session, URL, headers=secret) == (200, b"good")

    simulate(main)
    first, second = (request[2] for request in server.requests)
    assert first["authorization"] == "bearer secret"
    assert "authorization" not in second
    assert "cookie" not in second


def test_a_websocket_passes_untouched():
    async def main(sim):
        async def talk(request):
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            async for message in socket:
                await socket.send_str(message.data[::-1])
            return socket

        rule = hf.policy(hf.Deadline(5), hf.Bulkhead(1), retrying(), hf.Timeout(1))
        app = web.Application()
        app.router.add_get("/", talk)
        runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=1)
        await runner.setup()
        sim.network.host(HOST, "10.0.0.1")
        await web.TCPSite(runner, HOST, 80).start()
        wrapped = hf.clients.aiohttp.Middleware(rule)
        async with (
            aiohttp.ClientSession(middlewares=[wrapped]) as session,
            session.ws_connect(URL) as socket,
        ):
            for text in ("abc", "def"):
                await socket.send_str(text)
                assert await socket.receive_str() == text[::-1]
                await asyncio.sleep(20)
                assert rule.state()["active"] == 0
        await runner.cleanup()

    simulate(main)


def test_refusals_of_the_policy_reach_the_caller():
    server = Scripted(answer(500))

    async def main(session, rule):
        assert (await fetch(session, URL))[0] == 500
        with pytest.raises(hf.CircuitOpen):
            await fetch(session, URL)

    run(server, main, hf.policy(hf.Breaker(consecutive=1)))
    assert len(server.requests) == 1


def test_the_key_of_a_policy_is_the_host():
    rule = hf.policy(hf.Breaker(consecutive=1), key=lambda call: call.host)
    server = Scripted(answer(500), GOOD)

    async def main(sim):
        sim.network.host("other.test", "10.0.0.1")
        async with sessions(sim, rule, server) as (session, _):
            await fetch(session, URL)
            assert await fetch(session, "http://other.test/") == (200, b"good")
        assert sorted(rule.keys()) == [HOST, "other.test"]

    simulate(main)


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="replay_reused"):
        hf.clients.aiohttp.Middleware(hf.policy(), replay_reused="sometimes")
