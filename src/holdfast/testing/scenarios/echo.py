"""Plain asyncio streams over the faulty network: proves the simulator, not the product.

Clients send frames (length, hash, number, body) over kept-alive connections to an echo server
and repeat until they get the right answer or 30 s have passed. Whatever the network does, a
client must never take a wrong body for a right one, and must succeed once the faults are over.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.testing.invariants import Ledger
from holdfast.testing.network import KINDS
from holdfast.testing.simulation import Scenario, Sim
from holdfast.testing.tcp import Link

if TYPE_CHECKING:
    from holdfast.runtime.random import SeededRandom

CALL_SECONDS = 30.0
ATTEMPT_SECONDS = 5.0
LARGEST = 1 << 20

# A connection that was given its fault before the storm ended may still stall: one attempt.
RECOVERY_SECONDS = ATTEMPT_SECONDS


class BadFrame(Exception):
    """A frame is too long or does not match its hash."""


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(20)
    size = int.from_bytes(head[:4])
    if size > LARGEST:
        raise BadFrame(f"length: {size}")
    body = await reader.readexactly(size)
    if hashlib.blake2b(body, digest_size=16).digest() != head[4:]:
        raise BadFrame("hash")
    return body


def _frame(body: bytes) -> bytes:
    return len(body).to_bytes(4) + hashlib.blake2b(body, digest_size=16).digest() + body


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):  # it was broken; that is why it is closed
        await writer.wait_closed()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Echo frames until the peer leaves, sends rubbish or is silent for 30 s."""
    try:
        while True:
            async with asyncio.timeout(30):
                body = await _read_frame(reader)
                writer.write(_frame(body))
                await writer.drain()
    except (OSError, EOFError, BadFrame):
        pass
    finally:
        await _close(writer)


@dataclass
class _Client:
    """One worker with its connection."""

    sim: Sim
    source: SeededRandom
    largest: int
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self, number: int) -> bool:
        """Send one body until it comes back; return whether it did."""
        body = number.to_bytes(8) + self.source.bytes(self.source.between(0, self.largest))
        try:
            async with asyncio.timeout(CALL_SECONDS):
                while True:
                    if await self._attempt(body):
                        return True
                    await asyncio.sleep(0.05 + 0.2 * self.source.draw())
        except TimeoutError:
            return False

    async def _attempt(self, body: bytes) -> bool:
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                if self.streams is None:
                    self.streams = await asyncio.open_connection("echo.test", 7)
                reader, writer = self.streams
                writer.write(_frame(body))
                await writer.drain()
                answer = await _read_frame(reader)
        except (OSError, EOFError, BadFrame):
            # Not politely: bytes that nobody acknowledges would keep `wait_closed` for minutes.
            await self.close(abort=True)
            return False
        except asyncio.CancelledError:
            # Half of an exchange is under way: the connection is of no use to the next call.
            await self.close(abort=True)
            raise
        self.sim.check(answer == body, "wrong body", f"{len(body)} bytes")
        return True

    async def close(self, *, abort: bool = False) -> None:
        """Give the connection back."""
        if self.streams is not None:
            _, writer = self.streams
            self.streams = None
            if abort:
                writer.transport.abort()
            else:
                await _close(writer)


async def main(sim: Sim) -> dict[str, int]:
    """Run some clients against one echo server; return how many calls ended how."""
    swarm = sim.swarm()
    largest = int(swarm.between(10, 100_000))
    sim.network.link = Link(
        latency=swarm.between(0.0001, 0.1),
        bandwidth=swarm.between(1e6, 1e9) if swarm.whole(0, 1) else None,
        window=max(swarm.whole(1, 64) * 1024, largest // 8),  # few hundred segments per body
    )
    sim.network.reach = 4 * largest + 64
    sim.network.host("echo.test", "10.0.0.1", "10.0.0.2")
    rates = {point: swarm.rates(kinds, low=0.03) for point, kinds in KINDS.items()}
    storm = swarm.between(5, 300)
    sim.break_things(rates, until=storm)
    server = await asyncio.start_server(serve, "echo.test", 7)
    ledger = Ledger(sim, recovery=RECOVERY_SECONDS)
    workers, calls = swarm.whole(1, 6), swarm.whole(5, 25)
    # Some seeds keep their connections, others make many: faults are drawn per connection.
    leave = swarm.between(0.01, 1.0)

    async def work(worker: int) -> None:
        client = _Client(sim, sim.random(f"workload/{worker}"), largest)
        for number in range(calls):
            await asyncio.sleep(client.source.draw() * storm / calls * 2)
            name = f"{worker}.{number}"
            ledger.started(name, CALL_SECONDS)
            ok = await client.call(number)
            ledger.ended(name, "ok" if ok else "TimeoutError")
            if client.source.draw() < leave:
                await client.close()
        await client.close()

    async with asyncio.TaskGroup() as group:
        for worker in range(workers):
            group.create_task(work(worker))
    for transport in sim.network.left_by_clients():
        sim.violation("transport left", transport)
    server.close()
    sim.network.close_servers_ends()
    await server.wait_closed()
    return ledger.finish()


SCENARIO = Scenario("echo", "plain asyncio streams over the faulty network", main)
