"""Endpoints that fail and come back, in virtual time: probes, half-open, who is asked meanwhile."""

from __future__ import annotations

import asyncio
import errno
import itertools
from contextlib import asynccontextmanager

import pytest
from gateway_rig import always, answer, ask, gateway

from holdfast.core.breaker import Result, State
from holdfast.core.health import Tier
from holdfast.runtime.clock import clock
from holdfast.testing import sim_run

OK = answer()
DOWN = answer(503)
HEALTH = 'probe_path = "/health"'


def simulated(main):
    async def whole(sim):
        await (main(sim) if main.__code__.co_argcount else main())

    def run():
        sim_run(whole)

    run.__name__ = main.__name__
    return run


class Node:
    """The script of an endpoint with a switch. looks: when it was probed; asked: when it was asked.

    most: so many requests were in work at a time.
    """

    def __init__(self, *, works=True, seconds=0.0):
        self.works = works
        self.seconds = seconds
        self.looks = []
        self.asked = []
        self.most = self._now = 0

    async def __call__(self, upstream, no, writer):
        is_look = upstream.asked[no - 1][0].startswith("GET /health ")
        (self.looks if is_look else self.asked).append(clock.monotonic())
        if not is_look:
            self._now += 1
            self.most = max(self.most, self._now)
            await asyncio.sleep(self.seconds)
            self._now -= 1
        writer.write(OK if self.works else DOWN)


def tier(made, number=0):
    return made.cluster.balancer.endpoints[number].health.tier(clock.monotonic())


def break_down(made, number=0):
    health = made.cluster.balancer.endpoints[number].health
    while health.breaker.state is not State.OPEN:
        permit = health.begin(clock.monotonic(), 10, 0.5)
        health.settle(permit, Result.FAILED, clock.monotonic(), 0.5, seconds=0.1)


async def traffic(made, seconds, every):
    """Ask steadily; return the statuses."""
    found = []
    until = clock.monotonic() + seconds
    while clock.monotonic() < until:
        found.append((await ask(made.port))[0])
        await asyncio.sleep(every)
    return found


async def opened(made, number=0):
    """Ask until the circuit of an endpoint is open."""
    while tier(made, number) is not Tier.CIRCUIT_OPEN:
        assert (await ask(made.port))[0] == 200
        await asyncio.sleep(0.1)


@asynccontextmanager
async def switched_off(up):
    """Refuse connections, and reset those that are there."""
    port = up.server.sockets[0].getsockname()[1]
    up.server.close()
    up.server.abort_clients()
    yield
    up.server = await asyncio.start_server(up.serve, "127.0.0.1", port)


async def close(up):
    up.server.close()
    await up.server.wait_closed()


# -- probes --------------------------------------------------------------------------------------


@simulated
async def test_nobody_is_probed_while_all_is_well():
    node = Node()
    async with gateway(node, always(OK), each=HEALTH) as (made, _):
        assert set(await traffic(made, 120, 0.5)) == {200}
        await asyncio.sleep(600)
        assert node.looks == []


@simulated
async def test_probes_of_an_endpoint_that_fails_grow_rarer_and_cost_nothing():
    node = Node(works=False)
    async with gateway(node, always(OK), each=HEALTH) as (made, (_, other)):
        assert set(await traffic(made, 300, 0.25)) == {200}
        gaps = [b - a for a, b in itertools.pairwise(node.looks)]
        assert gaps == pytest.approx([2, 4, 8, 16, 32, 60, 60, 60], abs=0.2)
        # Five open the circuit; each time that it is over one more asks in vain.
        assert 5 <= len(node.asked) <= 5 + 6
        assert all(line.startswith("POST") for line, _, _ in other.asked)


@simulated
async def test_the_largest_gap_between_probes_can_be_set():
    node = Node(works=False)
    async with gateway(node, always(OK), each=f"{HEALTH}\nprobe_max = 3") as (made, _):
        await opened(made)
        await traffic(made, 30, 0.25)
        gaps = [b - a for a, b in itertools.pairwise(node.looks)]
        assert gaps[1:] == pytest.approx([3] * len(gaps[1:]), abs=0.2)
        assert len(gaps) > 5


@simulated
async def test_a_node_that_returns_is_used_within_the_gap_of_its_probes():  # Q15
    node = Node(works=False)
    async with gateway(node, always(OK), each=HEALTH) as (made, _):
        await traffic(made, 20, 0.05)
        gap = node.looks[-1] - node.looks[-2]
        node.works, before, since = True, len(node.asked), clock.monotonic()
        assert set(await traffic(made, 2 * gap + 10, 0.05)) == {200}
        # 2 * gap: the next gap is twice the last; 1 s and 20 requests more for the trial.
        assert node.asked[before] - since <= 2 * gap + 2
        assert tier(made) is Tier.HEALTHY
        looks = len(node.looks)
        await asyncio.sleep(300)
        assert len(node.looks) == looks


@simulated
async def test_a_port_that_accepts_again_is_found_without_sending_anything():
    async with gateway(always(OK), always(OK)) as (made, (up, _)):
        await traffic(made, 2, 0.05)
        async with switched_off(up):
            await opened(made)
            asked, made_before = len(up.asked), up.connections
        await asyncio.sleep(20)  # nobody asks anything: only the probe sees that it is back
        assert up.connections == made_before + 1
        assert len(up.asked) == asked
        assert tier(made) is Tier.UNHEALTHY
        assert set(await traffic(made, 20, 0.05)) == {200}
        assert tier(made) is Tier.HEALTHY
        await close(up)


@simulated
async def test_a_service_that_knows_no_such_path_is_there_all_the_same():
    works = False

    async def script(upstream, no, writer):
        looked = "/health" in upstream.asked[no - 1][0]
        writer.write(answer(404) if looked else OK if works else DOWN)

    async with gateway(script, always(OK), each=HEALTH) as (made, _):
        await opened(made)
        works = True
        await asyncio.sleep(10)
        assert tier(made) is Tier.UNHEALTHY  # half-open: it is for requests to find out


@simulated
async def test_a_probe_that_gets_no_answer_is_given_up():
    async def hangs(upstream, no, writer):
        if "/health" in upstream.asked[no - 1][0]:
            await asyncio.sleep(3600)
        writer.write(DOWN)

    async with gateway(hangs, always(OK), each=HEALTH) as (made, (up, _)):
        assert set(await traffic(made, 60, 0.25)) == {200}
        looks = [line for line, _, _ in up.asked if line.startswith("GET")]
        assert 4 <= len(looks) <= 6  # each takes 5 s to be given up
        assert tier(made) >= Tier.UNHEALTHY


@simulated
async def test_a_gateway_that_ends_leaves_no_probe_behind():
    async def hangs(upstream, no, writer):
        if "/health" in upstream.asked[no - 1][0]:
            await asyncio.sleep(3600)
        writer.write(DOWN)

    async with gateway(hangs, always(OK), each=HEALTH) as (made, (up, _)):
        await opened(made)
        await asyncio.sleep(2)
        assert any(line.startswith("GET") for line, _, _ in up.asked)
    # What is left of tasks, timers and transports after this fails the simulation.


# -- half-open -----------------------------------------------------------------------------------


@simulated
async def test_of_a_hundred_at_once_a_half_open_endpoint_gets_one():  # Q8
    node = Node(works=False, seconds=0.5)
    async with gateway(node) as (made, _):
        while tier(made) is not Tier.CIRCUIT_OPEN:
            await ask(made.port)
        node.works, node.most = True, 0
        await asyncio.sleep(10)
        assert tier(made) is Tier.UNHEALTHY
        asking = [asyncio.create_task(ask(made.port)) for _ in range(100)]
        await asyncio.sleep(0.4)
        assert node.most == 1
        await asyncio.sleep(1.0)
        assert node.most == 1  # three successes, one after the other, close it
        assert [status for status, _, _ in await asyncio.gather(*asking)] == [200] * 100
        assert tier(made) is Tier.HEALTHY


@simulated
async def test_beside_a_healthy_one_a_half_open_endpoint_is_tried_by_one_of_a_hundred():
    node = Node(works=False, seconds=0.5)
    async with gateway(node, always(OK), each=HEALTH) as (made, _):
        await opened(made)
        node.works, node.most = True, 0
        await asyncio.sleep(20)
        before = len(node.asked)
        found = await asyncio.gather(*(ask(made.port) for _ in range(100)))
        assert {status for status, _, _ in found} == {200}
        assert len(node.asked) - before == 1


# -- tiers ---------------------------------------------------------------------------------------


@simulated
async def test_each_tier_is_tried_when_there_is_no_better_one():  # Q2
    async with gateway(always(OK), always(OK)) as (made, ups):
        healths = [one.health for one in made.cluster.balancer.endpoints]
        for health in healths:
            health.is_degraded = True
        assert made.cluster.balancer.tier(clock.monotonic()) is Tier.DEGRADED
        assert (await ask(made.port))[0] == 200
        for health in healths:
            health.probed(clock.monotonic(), ok=False)
        assert made.cluster.balancer.tier(clock.monotonic()) is Tier.UNHEALTHY
        assert (await ask(made.port))[0] == 200
        for number in range(2):
            break_down(made, number)
        assert made.cluster.balancer.tier(clock.monotonic()) is Tier.CIRCUIT_OPEN
        assert (await ask(made.port))[0] == 200
        assert sum(len(up.asked) for up in ups) == 3


@simulated
async def test_a_lone_endpoint_that_was_down_serves_as_soon_as_it_is_back():
    async with gateway(always(OK), settings="attempts = 2") as (made, (up,)):
        assert (await ask(made.port))[0] == 200
        async with switched_off(up):
            for _ in range(20):
                assert (await ask(made.port))[0] == 502
            assert tier(made) is Tier.CIRCUIT_OPEN
        assert (await ask(made.port))[0] == 200
        await close(up)


# -- connections ---------------------------------------------------------------------------------


@simulated
async def test_a_server_that_closes_idle_connections_is_no_trouble():  # Q3
    async def closes(upstream, no, writer):
        writer.write(OK)
        timers.append(asyncio.get_running_loop().call_later(5, writer.transport.close))
        for timer in timers[:-1]:
            timer.cancel()

    timers = []
    async with gateway(closes, settings="attempts = 1") as (made, (up,)):
        for _ in range(200):
            assert (await ask(made.port))[0] == 200
            await asyncio.sleep(6)
        assert tier(made) is Tier.HEALTHY
        before = up.connections
        for _ in range(50):
            assert (await ask(made.port))[0] == 200
            await asyncio.sleep(1)
        assert up.connections == before + 1
        await asyncio.sleep(10)


@simulated
async def test_too_few_files_here_are_no_fault_of_an_endpoint(sim):
    async with gateway(always(OK), always(OK), settings="attempts = 4") as (made, _):
        real = sim.loop.create_connection
        ours = made.port

        async def create_connection(factory, host=None, port=None, **options):
            if port == ours:
                return await real(factory, host, port, **options)
            raise OSError(errno.EMFILE, "Too many open files")

        sim.loop.create_connection = create_connection
        for _ in range(10):
            assert (await ask(made.port))[0] == 502
        assert [tier(made, number) for number in range(2)] == [Tier.HEALTHY] * 2
        for one in made.cluster.balancer.endpoints:
            assert one.health.counts(clock.monotonic()).calls == 0
        sim.loop.create_connection = real
        assert (await ask(made.port))[0] == 200


@simulated
async def test_who_finds_all_connections_in_use_waits_in_line():
    node = Node(seconds=5)
    each = "max_connections = 1"
    async with gateway(node, each=each, settings='connect_timeout = "100ms"\nattempts = 1') as (
        made,
        _,
    ):
        found = await asyncio.gather(*(ask(made.port) for _ in range(3)))
        assert [status for status, _, _ in found] == [200] * 3
        assert clock.monotonic() == pytest.approx(15, abs=1)
        assert tier(made) is Tier.HEALTHY
        assert made.cluster.balancer.endpoints[0].health.counts(clock.monotonic()).failures == 0
        assert node.most == 1


@simulated
async def test_who_finds_no_place_in_time_is_told_to_come_back():
    node = Node(seconds=5)
    async with gateway(node, each="max_connections = 1", settings="max_wait = 1") as (made, _):
        first = asyncio.create_task(ask(made.port))
        await asyncio.sleep(0.1)
        status, _, body = await ask(made.port)
        assert status == 503
        assert b"HF-3103" in body
        assert (await first)[0] == 200


def throttles(seconds):
    """Return an endpoint that throttles each request for so long."""
    return always(answer(429, b"slow down", f"Retry-After: {seconds}"))


@simulated
async def test_a_busy_endpoint_is_waited_for_while_the_others_cool_down():
    busy = Node(seconds=2)
    async with gateway(busy, throttles(60), each="max_connections = 1") as (made, (_, other)):
        asked = [asyncio.create_task(ask(made.port)) for _ in range(4)]
        await asyncio.sleep(0.5)
        asked += [asyncio.create_task(ask(made.port)) for _ in range(4)]
        assert [(await one)[0] for one in asked] == [200] * 8
        assert clock.monotonic() == pytest.approx(16, abs=1)
        assert len(other.asked) == 1


@simulated
async def test_who_waits_for_a_busy_endpoint_takes_another_one_that_is_cool_again():
    hits = []

    async def recovers(upstream, no, writer):
        hits.append(clock.monotonic())
        good = len(hits) > 1
        writer.write(OK if good else answer(429, b"", "Retry-After: 3"))

    async with gateway(Node(seconds=20), recovers, each="max_connections = 1") as (made, _):
        asked = [asyncio.create_task(ask(made.port)) for _ in range(3)]
        assert [(await one)[0] for one in asked] == [200] * 3
        assert 3 <= hits[1] - hits[0] < 3.2


async def waits(made, count=1):
    """Wait until so many are in line."""
    async with asyncio.timeout(5):
        while made.cluster.waiting != count:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


@simulated
async def test_who_waits_gets_the_place_of_one_that_failed_there_and_goes_on_elsewhere():
    asked = []

    async def fails_late(upstream, no, writer):
        asked.append(clock.monotonic())
        await asyncio.sleep(1 if len(asked) == 1 else 0)
        writer.write(answer(500) if len(asked) == 1 else OK)

    each, settings = "max_inflight = 1", "balance = 'round_robin'"
    async with gateway(fails_late, Node(seconds=20), each=each, settings=settings) as (made, _):
        first = [asyncio.create_task(ask(made.port)) for _ in range(2)]
        await asyncio.sleep(0.1)
        assert (await ask(made.port))[0] == 200
        assert clock.monotonic() < 1.2
        assert [(await one)[0] for one in first] == [200] * 2


@simulated
async def test_who_waits_for_a_busy_endpoint_tries_one_whose_circuit_is_open_no_longer():
    busy, other = Node(seconds=60), Node()
    each = f"max_connections = 1\n{HEALTH}"
    async with gateway(other, busy, each=each) as (made, (up, _)):
        break_down(made)
        made.cluster.balancer.endpoints[0].health.probe_at = float("inf")
        opened_at, until = (
            clock.monotonic(),
            made.cluster.balancer.endpoints[0].health.breaker.until,
        )
        first = asyncio.create_task(ask(made.port))
        await asyncio.sleep(0.1)
        assert (await ask(made.port))[0] == 200
        assert opened_at + 1 < until
        assert other.asked == pytest.approx([until], abs=0.05)
        assert other.looks == []
        assert (await first)[0] == 200
        assert len(up.asked) == 1


@simulated
async def test_who_waits_for_a_busy_endpoint_tries_one_that_a_probe_has_found():
    busy, other = Node(seconds=60), Node()
    settings = "breaker = {open_for = 50}"
    each = f"max_connections = 1\n{HEALTH}"
    async with gateway(other, busy, each=each, settings=settings) as (made, _):
        break_down(made)
        first = asyncio.create_task(ask(made.port))
        await asyncio.sleep(0.1)
        second = asyncio.create_task(ask(made.port))
        await waits(made)
        made.cluster._probes.look(made.cluster.balancer.endpoints[0].health)
        assert (await second)[0] == 200
        assert other.asked == pytest.approx(other.looks, abs=0.05)
        assert (await first)[0] == 200


@simulated
async def test_who_waits_for_a_cool_down_takes_a_dead_endpoint_that_has_answered():
    dead = Node(seconds=1)
    settings = "breaker = {open_for = 50}"
    async with gateway(dead, throttles(20), settings=settings) as (made, (_, other)):
        break_down(made)
        first = asyncio.create_task(ask(made.port))  # throttled, then sent there for want of others
        await asyncio.sleep(0.5)
        assert len(dead.asked) == 1
        assert (await ask(made.port))[0] == 200
        assert clock.monotonic() == pytest.approx(2, abs=0.2)
        assert (await first)[0] == 200
        assert len(other.asked) == 1


@simulated
async def test_a_probe_takes_no_place_of_a_request():
    looks = []

    async def silent(upstream, no, writer):
        if upstream.asked[no - 1][0].startswith("GET /health "):
            looks.append(clock.monotonic())
            await asyncio.sleep(100)
        writer.write(OK)

    each = f"max_connections = 1\n{HEALTH}"
    settings = "breaker = {open_for = 50}"
    async with gateway(silent, each=each, settings=settings) as (made, _):
        break_down(made)
        made.cluster._probes.look(made.cluster.balancer.endpoints[0].health)
        await asyncio.sleep(2)
        assert len(looks) == 1
        assert (await ask(made.port))[0] == 200  # all circuits are open: one real attempt
        assert clock.monotonic() == pytest.approx(2, abs=0.2)


@simulated
async def test_a_reload_goes_on_with_the_probes():
    node = Node(works=False)
    async with gateway(node, always(OK), each=HEALTH) as (made, _):
        await opened(made)
        await asyncio.sleep(5)
        before = len(node.looks)
        assert before
        await made.reload(made.config)
        node.works = True
        await asyncio.sleep(20)
        assert len(node.looks) == before + 1
        assert tier(made) is Tier.UNHEALTHY
        assert set(await traffic(made, 30, 0.05)) == {200}
        assert tier(made) is Tier.HEALTHY
