"""What an endpoint's name leads to: kept for a minute, and longer while nobody can tell."""

from __future__ import annotations

import asyncio
import socket

import pytest

from holdfast.gateway.names import Names
from holdfast.testing import sim_run


class Server:
    """A name server by hand: what it answers, after how many seconds, and how often it was asked.

    It stands in the place of the loop's `getaddrinfo`, and answers in its form.
    """

    def __init__(self, sim, *addresses):
        self.addresses = addresses
        self.seconds = 0.01
        self.asked = 0
        sim.loop.getaddrinfo = self.getaddrinfo

    async def getaddrinfo(self, host, port, **options):
        self.asked += 1
        await asyncio.sleep(self.seconds)
        if not self.addresses:
            raise socket.gaierror(socket.EAI_AGAIN, "it cannot be asked now")
        six = socket.AF_INET6
        return [
            (six, 1, 6, "", (one, port, 0, 0)) if ":" in one else (2, 1, 6, "", (one, port))
            for one in self.addresses
        ]


def simulated(main):
    def run():
        sim_run(main)

    run.__name__ = main.__name__
    return run


@simulated
async def test_an_answer_holds_for_a_minute(sim):
    server = Server(sim, "10.0.0.1")
    names = Names(sim.loop)
    assert await names.addresses("a", 80) == ["10.0.0.1"]
    server.addresses = ("10.0.0.2",)
    await asyncio.sleep(59)
    assert await names.addresses("a", 80) == ["10.0.0.1"]
    await asyncio.sleep(1)
    assert await names.addresses("a", 80) == ["10.0.0.2"]
    assert server.asked == 2


@simulated
async def test_when_it_fails_the_old_answer_holds_and_it_is_asked_again_soon(sim):
    server = Server(sim, "10.0.0.1")
    names = Names(sim.loop)
    await names.addresses("a", 80)
    server.addresses = ()
    await asyncio.sleep(61)
    for _ in range(10):
        assert await names.addresses("a", 80) == ["10.0.0.1"]
    assert server.asked == 2
    await asyncio.sleep(5)
    server.addresses = ("10.0.0.2",)
    assert await names.addresses("a", 80) == ["10.0.0.2"]


@simulated
async def test_a_slow_one_is_not_waited_for_while_there_is_an_old_answer(sim):
    server = Server(sim, "10.0.0.1")
    names = Names(sim.loop)
    await names.addresses("a", 80)
    server.addresses, server.seconds = ("10.0.0.2",), 8.0
    await asyncio.sleep(61)
    began = sim.loop.time()
    assert await names.addresses("a", 80) == ["10.0.0.1"]
    assert sim.loop.time() - began < 0.3
    await asyncio.sleep(8)  # it came in the end
    assert await names.addresses("a", 80) == ["10.0.0.2"]
    assert server.asked == 2


@simulated
async def test_without_any_answer_the_error_is_told_and_not_kept(sim):
    server = Server(sim)
    names = Names(sim.loop)
    for _ in range(2):
        with pytest.raises(socket.gaierror):
            await names.addresses("a", 80)
    server.addresses = ("10.0.0.1",)
    assert await names.addresses("a", 80) == ["10.0.0.1"]
    assert server.asked == 3


@simulated
async def test_many_who_ask_share_one_question_and_one_that_leaves_does_not_end_it(sim):
    server = Server(sim, "10.0.0.1")
    names = Names(sim.loop)
    tasks = [asyncio.create_task(names.addresses("a", 80)) for _ in range(20)]
    await asyncio.sleep(0.001)
    tasks[0].cancel()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert found[1:] == [["10.0.0.1"]] * 19
    assert server.asked == 1


@simulated
async def test_each_of_many_gets_an_error_of_its_own(sim):
    Server(sim)
    names = Names(sim.loop)
    tasks = [names.addresses("a", 80) for _ in range(3)]
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [one.errno for one in found] == [socket.EAI_AGAIN] * 3
    assert len(set(map(id, found))) == 3


@simulated
async def test_a_number_is_no_question(sim):
    server = Server(sim)
    names = Names(sim.loop)
    assert await names.addresses("127.0.0.1", 80) == ["127.0.0.1"]
    assert await names.addresses("::1", 80) == ["::1"]
    assert server.asked == 0


@simulated
async def test_families_take_turns(sim):
    Server(sim, "fd00::1", "fd00::2", "fd00::3", "10.0.0.1")
    found = await Names(sim.loop).addresses("a", 80)
    assert found == ["fd00::1", "10.0.0.1", "fd00::2", "fd00::3"]


@simulated
async def test_one_that_succeeds_another_knows_what_that_one_knew(sim):
    server = Server(sim, "10.0.0.1")
    before, names = Names(sim.loop), Names(sim.loop)
    await before.addresses("a", 80)
    await before.addresses("b", 80)
    names.succeed(before, {("a", 80)})
    server.addresses = ()
    await asyncio.sleep(100)
    assert await names.addresses("a", 80) == ["10.0.0.1"]
    assert server.asked == 3
    with pytest.raises(socket.gaierror):  # who is asked no more is forgotten
        await names.addresses("b", 80)


@simulated
async def test_closing_leaves_no_question_behind(sim):
    server = Server(sim, "10.0.0.1")
    server.seconds = 3600
    names = Names(sim.loop)
    task = asyncio.create_task(names.addresses("a", 80))
    await asyncio.sleep(1)
    names.close()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_name_that_cannot_be_one_is_no_address():
    async def main():
        names = Names(asyncio.get_running_loop())
        for host in ("a..b", "x" * 64):
            with pytest.raises(socket.gaierror):
                await names.addresses(host, 80)

    asyncio.run(main())
