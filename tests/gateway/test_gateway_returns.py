"""Endpoints that close, break and come back, over real sockets; see also the virtual hours."""

from __future__ import annotations

import asyncio
import functools
import itertools

import uvloop
from gateway_rig import always, answer, ask, gateway, reset

from holdfast.core.health import Tier
from holdfast.runtime.clock import clock

OK = answer()


def on_both_loops(test):
    """Run an async test on asyncio's loop, then on uvloop's."""

    @functools.wraps(test)
    def run():
        for new_loop in (asyncio.new_event_loop, uvloop.new_event_loop):
            with asyncio.Runner(loop_factory=new_loop) as runner:
                runner.run(asyncio.wait_for(test(), 25))

    return run


def health(made, number=0):
    return made.cluster.balancer.endpoints[number].health


def tier(made, number=0):
    return health(made, number).tier(clock.monotonic())


def closing_after(seconds):
    """Return a script that answers, and closes connections that are idle for so long."""
    timers = {}

    async def script(upstream, no, writer):
        if writer in timers:
            timers[writer].cancel()
        writer.write(OK)
        timers[writer] = asyncio.get_running_loop().call_later(seconds, writer.close)

    return script


@on_both_loops
async def test_idle_connections_that_the_server_closes_cost_nothing():  # Q3, fifty times as fast
    async def one():
        async with gateway(closing_after(0.1), settings="attempts = 1") as (made, (up,)):
            for _ in range(50):
                assert (await ask(made.port))[0] == 200
                await asyncio.sleep(0.12)
            assert tier(made) is Tier.HEALTHY
            assert health(made).counts(clock.monotonic()).failures == 0
            before = up.connections
            for _ in range(50):
                assert (await ask(made.port))[0] == 200
                await asyncio.sleep(0.02)
            assert up.connections - before < 50  # some were used again, however slow it is here
            await asyncio.sleep(0.15)
            assert made.cluster.upstream_of(made.cluster.balancer.endpoints[0]).connections[0] == 0

    await asyncio.gather(*(one() for _ in range(4)))


@on_both_loops
async def test_of_a_thousand_requests_a_broken_endpoint_gets_a_handful():  # Q8
    async def resets(upstream, no, writer):
        reset(writer)
        return False

    async with gateway(resets, always(OK)) as (made, (bad, good)):

        async def some(n):
            return [(await ask(made.port))[0] for _ in range(n)]

        found = await asyncio.gather(*(some(50) for _ in range(20)))
        assert set(itertools.chain(*found)) == {200}
        assert len(good.asked) == 1000
        seconds = 25  # more than it takes: a trial for each, two failures of 20 at once, five
        assert len(bad.asked) <= 20 + 5 + seconds
        assert tier(made) is not Tier.HEALTHY


@on_both_loops
async def test_a_hundred_at_once_find_a_half_open_endpoint_and_one_is_admitted():  # Q8
    works, now, most = False, 0, 0

    async def script(upstream, no, writer):
        nonlocal now, most
        if not works:
            reset(writer)
            return False
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.1)
        now -= 1
        writer.write(OK)
        return True

    settings = 'breaker = { open_for = "200ms" }\nattempts = 1'
    async with gateway(script, settings=settings) as (made, _):
        while tier(made) is not Tier.CIRCUIT_OPEN:
            assert (await ask(made.port))[0] == 502
        works = True
        await asyncio.sleep(0.3)
        asking = [asyncio.create_task(ask(made.port)) for _ in range(100)]
        await asyncio.sleep(0.25)
        assert most == 1
        assert {status for status, _, _ in await asyncio.gather(*asking)} == {200}
        assert tier(made) is Tier.HEALTHY


@on_both_loops
async def test_a_node_that_returns_is_found_by_probes_and_used():  # Q15
    async with gateway(always(OK), always(OK)) as (made, (up, _)):
        port = up.server.sockets[0].getsockname()[1]
        up.server.close()
        while tier(made) is not Tier.CIRCUIT_OPEN:
            # Asked together, so that some go to it although it failed before.
            found = await asyncio.gather(*(ask(made.port) for _ in range(20)))
            assert {status for status, _, _ in found} == {200}
            await asyncio.sleep(0.05)
        asked, connections = len(up.asked), up.connections
        up.server = await asyncio.start_server(up.serve, "127.0.0.1", port)
        began = clock.monotonic()
        while tier(made) is not Tier.UNHEALTHY:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)
        assert clock.monotonic() - began < 4.5  # before its 5 s are over: a probe has found it
        assert (len(up.asked), up.connections) == (asked, connections + 1)
        while health(made).breaker.state.value != "closed":
            assert (await ask(made.port))[0] == 200
            await asyncio.sleep(0.005)
        assert len(up.asked) == asked + 3
        up.server.close()
