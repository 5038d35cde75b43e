"""Connections in the making: addresses beside each other, on any loop."""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest
import uvloop

from holdfast.gateway.dial import Dialer
from holdfast.testing import sim_run
from holdfast.testing.tcp import Link

LOOPS = pytest.mark.parametrize(
    "new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)


class Known:
    """Names whose addresses are given."""

    def __init__(self, *addresses):
        self.found = list(addresses)

    async def addresses(self, host, port):
        return self.found


class Landing(asyncio.Protocol):
    """Notes where it landed."""

    transport = None

    def connection_made(self, transport):
        self.transport = transport

    @property
    def peer(self):
        return self.transport.get_extra_info("peername")[0]


async def listen(sim, *addresses, port=80):
    for one in addresses:
        server = await sim.loop.create_server(asyncio.Protocol, one, port)
        sim.servers.append(server)


def dialer(sim, *addresses):
    return Dialer(sim.loop, Known(*addresses), "up", 80)


def simulated(main):
    async def whole(sim):
        sim.servers = []
        try:
            await main(sim)
        finally:
            for server in sim.servers:
                server.close()
                await server.wait_closed()

    def run():
        sim_run(whole)

    run.__name__ = main.__name__
    return run


async def timed(sim, dial):
    began = sim.loop.time()
    made = await dial.open(Landing)
    made.transport.abort()
    return made.peer, sim.loop.time() - began


@simulated
async def test_the_first_address_is_taken_if_it_answers(sim):
    await listen(sim, "10.0.0.1", "10.0.0.2")
    assert (await timed(sim, dialer(sim, "10.0.0.1", "10.0.0.2")))[0] == "10.0.0.1"


@simulated
async def test_a_silent_address_costs_a_quarter_of_a_second_once(sim):
    await listen(sim, "10.0.0.2")
    dial = dialer(sim, "10.0.0.1", "10.0.0.2")
    peer, seconds = await timed(sim, dial)
    assert peer == "10.0.0.2"
    assert 0.25 <= seconds < 0.3
    peer, seconds = await timed(sim, dial)  # now it is tried last
    assert peer == "10.0.0.2"
    assert seconds < 0.05
    await asyncio.sleep(61)
    await listen(sim, "10.0.0.1")
    assert (await timed(sim, dial))[0] == "10.0.0.1"


@simulated
async def test_a_refusal_costs_nothing(sim):
    await listen(sim, "10.0.0.1", port=81)  # the host is there
    await listen(sim, "10.0.0.2")
    peer, seconds = await timed(sim, dialer(sim, "10.0.0.1", "10.0.0.2"))
    assert peer == "10.0.0.2"
    assert seconds < 0.05


@simulated
async def test_a_slow_one_may_still_win(sim):
    sim.network.link = Link(latency=0.2)
    await listen(sim, "10.0.0.1")
    peer, seconds = await timed(sim, dialer(sim, "10.0.0.1", "10.9.9.9"))
    assert peer == "10.0.0.1"
    assert 0.4 <= seconds < 0.7


@simulated
async def test_when_all_fail_the_most_telling_error_is_raised(sim):
    refused = OSError(errno.ECONNREFUSED, "refused")
    no_route = OSError(errno.ENETUNREACH, "no IPv6 here")
    answers = {"10.0.0.1": refused, "fd00::1": no_route}

    async def create_connection(factory, host, port, **options):
        raise answers[host]

    sim.loop.create_connection = create_connection
    for order in (("fd00::1", "10.0.0.1"), ("10.0.0.1", "fd00::1")):
        with pytest.raises(ConnectionRefusedError):
            await dialer(sim, *order).open(Landing)


@simulated
async def test_one_that_leaves_leaves_nothing(sim):
    dial = dialer(sim, "10.0.0.1", "10.0.0.2", "10.0.0.3")
    for seconds in (0.0, 0.001, 0.1, 0.3, 0.6):
        task = asyncio.create_task(dial.open(Landing))
        await asyncio.sleep(seconds)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    # What is left of tasks and transports after this fails the simulation.


@simulated
async def test_a_connection_that_breaks_before_anybody_listens_is_an_error(sim):
    await listen(sim, "10.0.0.1")
    real = sim.loop.create_connection

    async def create_connection(*args, **options):
        transport, protocol = await real(*args, **options)
        transport.close()
        return transport, protocol

    sim.loop.create_connection = create_connection
    with pytest.raises(ConnectionResetError):
        await dialer(sim, "10.0.0.1", "10.0.0.2").open(Landing)


@LOOPS
def test_real_loops_race_real_addresses(new_loop):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]

        # 127.0.0.2 refuses; 192.0.2.1 (RFC 5737) answers nobody, or there is no way to it.
        dial = Dialer(loop, Known("127.0.0.2", "192.0.2.1", "127.0.0.1"), "up", port)
        began = loop.time()
        made = await dial.open(Landing)
        assert made.peer == "127.0.0.1"
        assert loop.time() - began < 2
        made.transport.abort()
        server.close()
        await asyncio.sleep(0.05)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


@LOOPS
def test_a_refusal_keeps_its_number_on_every_loop(new_loop):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        for addresses in (["127.0.0.1"], ["127.0.0.1", "127.0.0.2"]):
            with pytest.raises(ConnectionRefusedError) as caught:
                await Dialer(loop, Known(*addresses), "up", port).open(Landing)
            assert caught.value.errno == errno.ECONNREFUSED

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
