"""The connections to one server, on the simulated network: who gets which, and when they go."""

from __future__ import annotations

import asyncio

from holdfast.gateway.dial import Dialer
from holdfast.gateway.pool import MAX_IDLE, Pool
from holdfast.runtime.clock import clock
from holdfast.runtime.wheel import Wheel
from holdfast.testing import sim_run
from holdfast.wire.responses import Answer

OK = b"HTTP/1.1 200 X\r\nContent-Length: 0\r\n\r\n"
HINT = OK.replace(b"X\r\n", b"X\r\nConnection: keep-alive\r\nKeep-Alive: timeout=3\r\n")


class Known:
    """A name with one address."""

    async def addresses(self, host, port):
        return ["10.0.0.1"]


class Asker:
    """Asks once per connection; notes what it was told."""

    def __init__(self, pool):
        self.pool = pool
        self.connecting = None
        self.connection = None
        self.error = None
        self.told = asyncio.Event()
        self.answered = asyncio.Event()

    def send(self, connection):
        self.connecting = None
        self.connection = connection
        connection.begin(self, Answer(b"GET"))
        connection.transport.write(b"?")
        self.told.set()

    def not_connected(self, error):
        self.connecting = None
        self.error = error
        self.told.set()

    def take(self, data):
        self.connection.read(data, [])
        if self.connection.answer.done:
            self.answered.set()

    def broke(self, error):
        self.error = error or EOFError()
        self.told.set()
        self.answered.set()

    def give(self):
        self.pool.give(self.connection)


class World:
    """A server that answers each byte, and a pool for it."""

    def __init__(self, sim, **options):
        self.sim = sim
        self.wheel = Wheel(sim.loop)
        self.reply = OK
        self.ends = []
        self.made = 0
        options = {"most": 200, "keepalive": 60.0, **options}
        self.pool = Pool(sim.loop, self.wheel, Dialer(sim.loop, Known(), "up", 80), **options)

    async def listen(self):
        self.server = await self.sim.loop.create_server(lambda: End(self), "10.0.0.1", 80)

    async def ask(self):
        """Ask once, over a kept connection if there is one; return who asked."""
        asker = Asker(self.pool)
        kept = self.pool.take(clock.monotonic(), careful=False)
        if kept is not None:
            asker.send(kept)
        else:
            self.pool.connect(asker)
            await asker.told.wait()
        if asker.connection is not None:
            await asker.answered.wait()
        return asker

    async def ask_many(self, n):
        return await asyncio.gather(*(self.ask() for _ in range(n)))

    async def close(self):
        self.pool.close()
        self.wheel.close()
        self.server.close()
        await self.server.wait_closed()


class End(asyncio.Protocol):
    def __init__(self, world):
        self.world = world

    def connection_made(self, transport):
        self.transport = transport
        self.world.ends.append(self)
        self.world.made += 1

    def data_received(self, data):
        for _ in data:
            self.transport.write(self.world.reply)

    def connection_lost(self, error):
        self.world.ends.remove(self)


def simulated(**options):
    def around(main):
        async def whole(sim):
            world = World(sim, **options)
            await world.listen()
            try:
                await main(world)
            finally:
                await world.close()

        def run():
            sim_run(whole)

        run.__name__ = main.__name__
        return run

    return around


@simulated()
async def test_the_newest_idle_connection_is_used_first(world):
    askers = await world.ask_many(3)
    for asker in askers:
        asker.give()
        await asyncio.sleep(0.1)
    assert world.pool.take(clock.monotonic(), careful=False) is askers[2].connection
    assert world.pool.take(clock.monotonic(), careful=False) is askers[1].connection
    assert world.pool.reused == 2


@simulated(keepalive=5.0)
async def test_idle_connections_past_their_time_are_closed_without_being_asked_for(world):
    for asker in await world.ask_many(3):
        asker.give()
    await asyncio.sleep(4.9)
    assert world.pool.connections == (3, 3)
    await asyncio.sleep(0.2)
    assert world.pool.connections == (0, 0)
    await asyncio.sleep(0.1)
    assert world.ends == []
    assert world.wheel.size == 0


@simulated(keepalive=5.0)
async def test_each_idle_connection_has_its_own_time(world):
    for asker in await world.ask_many(3):
        asker.give()
        await asyncio.sleep(1)
    left = []
    await asyncio.sleep(0.5)
    for _ in range(5):
        left.append(world.pool.connections[1])
        await asyncio.sleep(1)
    assert left == [3, 3, 2, 1, 0]


@simulated()
async def test_what_the_server_closes_shortens_the_life_of_the_others(world):
    first, *others = await world.ask_many(3)
    for asker in others:
        asker.give()
    first.give()
    await asyncio.sleep(10)
    world.ends[0].transport.close()
    await asyncio.sleep(0.1)
    assert 7.9 < world.pool.lifetime.learned < 8.1
    assert world.pool.connections == (0, 0)  # they are older than that


@simulated()
async def test_no_more_than_so_many_are_kept_and_those_are_the_newest(world):
    askers = await world.ask_many(MAX_IDLE + 6)
    for asker in askers:
        asker.give()
    await asyncio.sleep(0.1)
    assert world.pool.connections == (MAX_IDLE, MAX_IDLE)
    assert askers[0].connection.transport.is_closing()
    assert world.pool.take(clock.monotonic(), careful=False) is askers[-1].connection


@simulated()
async def test_one_that_must_not_be_sent_twice_takes_a_young_one_only(world):
    (await world.ask()).give()
    world.pool.lifetime.died(50)  # so 40 s are relied on, and 10 for it
    await asyncio.sleep(11)
    assert world.pool.take(clock.monotonic(), careful=True) is None
    assert world.pool.take(clock.monotonic(), careful=False) is not None


@simulated(most=2)
async def test_who_waits_for_a_place_gets_it_in_turn(world):
    first, second = await world.ask_many(2)
    waiting = [Asker(world.pool) for _ in range(3)]
    for asker in waiting:
        world.pool.connect(asker)
        assert asker.connecting.queued
    await asyncio.sleep(1)
    assert not any(asker.told.is_set() for asker in waiting)
    second.give()
    assert [asker.connection is not None for asker in waiting] == [True, False, False]
    assert waiting[0].connection is second.connection
    first.connection.close()  # its place is free: a new one is made for the next
    await waiting[1].told.wait()
    assert waiting[1].connection is not None
    assert waiting[2].connection is None
    assert world.made == 3


@simulated(most=1)
async def test_one_that_leaves_the_line_gets_nothing(world):
    busy = await world.ask()
    gone, next_one = Asker(world.pool), Asker(world.pool)
    world.pool.connect(gone)
    world.pool.connect(next_one)
    gone.connecting.cancel()
    busy.give()
    assert gone.connection is None
    assert next_one.connection is busy.connection


@simulated(most=1)
async def test_where_none_is_used_again_who_waits_gets_a_fresh_one(world):
    busy = await world.ask()
    waiting = [Asker(world.pool) for _ in range(2)]
    for asker in waiting:
        world.pool.connect(asker)
    world.pool.lifetime.died(0.01)
    assert world.pool.lifetime.limit() == 0
    await asyncio.sleep(100)  # a trial would be due
    busy.give()
    await waiting[0].told.wait()
    assert waiting[0].connection is not busy.connection
    assert busy.connection.transport.is_closing()
    await waiting[0].answered.wait()
    waiting[0].give()
    await waiting[1].told.wait()
    assert world.made == 3


@simulated(most=1)
async def test_one_beside_the_others_takes_no_place(world):
    probe = Asker(world.pool)
    world.pool.dial(probe)
    asker = await world.ask()
    assert asker.connection is not None
    await probe.told.wait()
    second = Asker(world.pool)
    world.pool.connect(second)
    assert second.connecting.queued
    probe.connection.close()
    assert second.connecting.queued
    asker.connection.close()
    await second.told.wait()
    assert second.connection is not None


@simulated(most=1)
async def test_one_beside_the_others_that_is_called_off_is_not_kept(world):
    for seconds in (0, 0.0005, 0.001, 0.002, 1):
        probe = Asker(world.pool)
        world.pool.dial(probe)
        await asyncio.sleep(seconds)
        if probe.connecting is not None:
            probe.connecting.cancel()
        else:
            probe.connection.close()
        await asyncio.sleep(1)
        assert world.pool.connections == (0, 0)
        assert not world.pool.is_full
    assert world.ends == []


@simulated(most=1)
async def test_a_place_whose_connection_failed_or_was_called_off_is_for_the_next(world):
    world.server.close()
    await world.server.wait_closed()
    first, second, third = (Asker(world.pool) for _ in range(3))
    for asker in (first, second, third):
        world.pool.connect(asker)
    await first.told.wait()
    assert isinstance(first.error, OSError)
    second.connecting.cancel()
    await third.told.wait()
    assert isinstance(third.error, OSError)
    assert second.error is None
    assert world.pool.connections == (0, 0)
    await world.listen()


@simulated(most=1)
async def test_an_idle_connection_too_old_for_a_request_makes_room_for_it(world):
    (await world.ask()).give()
    world.pool.lifetime.died(50)
    await asyncio.sleep(11)
    assert world.pool.take(clock.monotonic(), careful=True) is None
    asker = Asker(world.pool)
    world.pool.connect(asker)
    await asker.told.wait()
    assert asker.connection is not None
    assert world.made == 2


@simulated()
async def test_a_hint_of_the_server_is_heeded(world):
    world.reply = HINT
    (await world.ask()).give()
    assert world.pool.lifetime.limit() == 2
    await asyncio.sleep(2.1)
    assert world.pool.connections == (0, 0)


@simulated()
async def test_those_that_rest_already_go_sooner_when_the_time_gets_shorter(world):
    first, second = await world.ask_many(2)
    first.give()
    await asyncio.sleep(1)
    world.pool.lifetime.died(6.25)  # by one that was reused: 5 s from now on
    second.give()
    await asyncio.sleep(6)
    assert world.pool.connections == (0, 0)


@simulated()
async def test_a_server_that_closes_at_once_costs_no_request(world):
    class Hasty(End):
        def data_received(self, data):
            super().data_received(data)
            world.sim.loop.call_later(0.003, self.transport.close)

    world.server.close()
    await world.server.wait_closed()
    world.server = await world.sim.loop.create_server(lambda: Hasty(world), "10.0.0.1", 80)
    for _ in range(200):
        asker = await world.ask()
        assert asker.error is None
        asker.give()
        await asyncio.sleep(0.05)
    assert world.pool.lifetime.limit() == 0
    assert world.made == 200


@simulated()
async def test_after_a_restart_connections_are_soon_kept_again(world):
    async def traffic(times):
        for _ in range(times):
            asker = await world.ask()
            asker.give()
            await asyncio.sleep(0.01)

    await traffic(10)
    for end in list(world.ends):
        end.transport.abort()
    await asyncio.sleep(0.001)
    assert world.pool.lifetime.limit() == 0  # one that ended so soon is all it knows
    await traffic(100)
    before = world.made
    await traffic(100)
    assert world.pool.lifetime.limit() > 0
    assert world.made == before


@simulated()
async def test_a_retired_pool_lets_those_end_that_are_in_use(world):
    used, idle = await world.ask_many(2)
    idle.give()
    world.pool.retire()
    await asyncio.sleep(0.1)
    assert world.pool.connections == (1, 0)
    used.give()
    await asyncio.sleep(0.1)
    assert world.pool.connections == (0, 0)


@simulated()
async def test_what_nobody_asked_for_ends_the_connection(world):
    (await world.ask()).give()
    world.ends[0].transport.write(OK)
    await asyncio.sleep(0.1)
    assert world.pool.connections == (0, 0)
    assert world.pool.lifetime.learned is None


@simulated(most=3)
async def test_one_pools_resets_touch_no_other(world):
    other = World(world.sim)
    other.pool.dialer = Dialer(world.sim.loop, Known(), "up", 81)
    other.server = await world.sim.loop.create_server(lambda: End(other), "10.0.0.1", 81)
    for asker in (await world.ask_many(3)) + (await other.ask_many(3)):
        asker.give()
    for end in list(world.ends):
        end.transport.abort()
    await asyncio.sleep(0.1)
    assert world.pool.connections == (0, 0)
    assert other.pool.connections == (3, 3)
    await other.close()
