"""aiohttp with the middleware, against a small HTTP server over the faulty network.

Requests of all kinds (safe and unsafe methods, with keys, bodies that can and cannot be sent
twice, redirects) to a server that answers in all ways (with a length, in chunks, compressed, up
to the end of the connection, throttled, broken). Callers read the answers in different ways,
some only in part, and leave at any moment. A wrong or short body must never pass for a right
one, nothing unsafe may be executed twice, and nothing may be left. Needs aiohttp.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast.core.backoff import Exponential
from holdfast.core.breaker import Breaker
from holdfast.core.bulkhead import Bulkhead
from holdfast.core.deadline import Deadline, Timeout
from holdfast.core.errors import Rejected
from holdfast.core.retry import Retry
from holdfast.runtime.policy import policy
from holdfast.runtime.scope import deadline
from holdfast.testing.aiohttp_sim import simulated_aiohttp
from holdfast.testing.invariants import Ledger
from holdfast.testing.network import KINDS
from holdfast.testing.simulation import Scenario, Sim
from holdfast.testing.tcp import Link

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp import ClientResponse, ClientSession

    from holdfast.runtime.policy import Policy
    from holdfast.runtime.random import SeededRandom
    from holdfast.testing.faults import Swarm

HOST = "api.test"
FORMS = ("length", "chunked", "gzip", "close", "redirect", "empty")
TROUBLES = ("busy", "error", "slow", "hang", "early")
READERS = ("read", "any", "lines", "part")
METHODS = ("GET", "PUT", "POST", "KEYED")
STREAM_KINDS = tuple(kind for kind in KINDS["stream"] if kind != "flip")  # no TLS, no checksum
MOST = 2000
"""Bytes of a body: faults strike at any byte, so small ones show what large ones would."""


def content(number: int, size: int) -> bytes:
    """Return the body that belongs to a number; part of another one is never like it."""
    seed = hashlib.blake2b(number.to_bytes(8), digest_size=32).hexdigest().encode() + b"\n"
    return (seed * (size // len(seed) + 1))[:size]


@dataclass(frozen=True, slots=True)
class Asked:
    """What one logical call asks for; the server reads it from the path."""

    number: int
    method: str
    form: str
    size: int

    @property
    def path(self) -> str:
        """The path of its URL."""
        return f"/{self.number}/{self.form}/{self.size}"

    @property
    def unsafe(self) -> bool:
        """Whether it must not be executed twice."""
        return self.method == "POST"


class Server:
    """Answers, and knows what it has executed."""

    def __init__(self, sim: Sim, latency: float) -> None:
        self._sim = sim
        self._latency = latency
        self.executed: Counter[int] = Counter()
        self.keys: dict[int, str] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        with suppress(OSError, EOFError, TimeoutError):
            while True:
                async with asyncio.timeout(60):
                    if not await self._one(reader, writer):
                        break
                    await writer.drain()
        writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Take one request; return whether the connection goes on."""
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        method, path, _ = lines[0].split(" ")
        _, number, form, size = path.split("/")
        fault = self._sim.faults.at("answer", self._sim.clock.monotonic())
        trouble = "" if fault is None else fault.kind
        if trouble == "early":
            writer.write(_head("503 Busy", "Content-Length: 0", "Connection: close"))
            return False
        body = await _body(reader, fields)
        if trouble == "busy":
            writer.write(_head("429 Later", "Content-Length: 0"))
            return True
        self._execute(int(number), method, body, fields)
        if trouble == "slow" and fault is not None:
            await asyncio.sleep(self._latency * 1000**fault.x)
        elif trouble == "hang":
            await reader.read()
            return False
        elif trouble == "error":
            writer.write(_head("500 Oh", "Content-Length: 0"))
            return True
        writer.write(_answer(int(number), form, int(size)))
        return form != "close"

    def _execute(self, number: int, method: str, body: bytes, fields: dict[str, str]) -> None:
        check = self._sim.check
        self.executed[number] += 1
        if method != "GET":
            check(body == content(number, len(body)) and body, "wrong request", f"call {number}")
            stated = int(fields.get("x-size", -1))
            check(len(body) == stated, "short request", f"call {number}: {len(body)}")
        key = fields.get("idempotency-key", "")
        check(self.keys.setdefault(number, key) == key, "two keys", f"call {number}")


def _head(status: str, *fields: str) -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", *fields, "", "")).encode()


def _answer(number: int, form: str, size: int) -> bytes:
    body = content(number, size)
    if form == "redirect":
        return _head("307 There", f"Location: /{number}/length/{size}", "Content-Length: 0")
    if form == "empty":
        return _head("204 Nothing")
    if form == "chunked":
        pieces = [body[at : at + 300] for at in range(0, size, 300)]
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
        return _head("200 OK", "Transfer-Encoding: chunked") + chunks + b"0\r\n\r\n"
    coded = gzip.compress(body, mtime=0)
    if form == "gzip":
        fields = ("Content-Encoding: gzip", f"Content-Length: {len(coded)}")
        return _head("200 OK", *fields) + coded
    if form == "close":
        return _head("200 OK", "Content-Encoding: gzip", "Connection: close") + coded
    return _head("200 OK", f"Content-Length: {size}") + body


async def _body(reader: asyncio.StreamReader, fields: dict[str, str]) -> bytes:
    if fields.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(fields.get("content-length", 0)))
    pieces = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        pieces.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readexactly(2)
    return b"".join(pieces)


class Program:
    """One seed: a server, a policy, a session, and callers."""

    def __init__(self, sim: Sim, swarm: Swarm) -> None:
        self.sim = sim
        self.latency = swarm.between(0.0005, 0.05)
        self.storm = swarm.between(2, 200)
        self.bound = self.latency * swarm.between(50, 2000)
        self.policy: Policy = policy(
            Deadline(self.bound),
            Bulkhead(swarm.whole(2, 8), queue=20),
            Retry(
                swarm.whole(1, 5),
                backoff=Exponential(self.latency),
                idempotency_key=False,
            ),
            Breaker(open_for=self.latency * 20, max_open=self.latency * 200),
            Timeout(self.bound * swarm.between(0.1, 1)),
            order="free",
        )
        self.options = {
            "buffer": swarm.whole(0, 1) << 20,
            "replay_buffer": swarm.whole(0, 1) * MOST,
        }
        self.server = Server(sim, self.latency)
        self.ledger = Ledger(sim)
        self.callers, self.calls = swarm.whole(1, 8), swarm.whole(5, 20)
        self._numbers = 0

    async def run(self, session: ClientSession) -> dict[str, int]:
        """Let everybody call, and look at what is left."""
        async with asyncio.TaskGroup() as group:
            for number in range(self.callers):
                group.create_task(self._caller(session, self.sim.random(f"caller/{number}")))
        await self._recover(session)
        active = self.policy.state()["active"]
        self.sim.check(active == 0, "permits left", f"{active}")
        return self.ledger.finish()

    async def _caller(self, session: ClientSession, source: SeededRandom) -> None:
        for _ in range(self.calls):
            await asyncio.sleep(self.storm * 2 / self.calls * source.draw())
            asked = self._draw(source)
            task = asyncio.create_task(self._call(session, asked, source))
            fault = self.sim.faults.at("call", self.sim.clock.monotonic())
            if fault is not None:
                self._leave(task, self.bound * float(1e-4**fault.x))
            await asyncio.wait([task])

    def _leave(self, task: asyncio.Task[None], seconds: float) -> None:
        """Cancel the call after so long, as its caller would."""
        timer = self.sim.loop.call_later(seconds, task.cancel)
        task.add_done_callback(lambda _: timer.cancel())

    def _draw(self, source: SeededRandom) -> Asked:
        self._numbers += 1
        method, form = source.choice(METHODS), source.choice(FORMS)
        return Asked(self._numbers, method, form, source.between(1, MOST))

    async def _call(self, session: ClientSession, asked: Asked, source: SeededRandom) -> None:
        """Make one call; the ledger hears how it ended."""
        import aiohttp  # noqa: PLC0415 - an optional dependency

        self.ledger.started(asked.number, self.bound)
        outcome = "cancelled"
        try:
            with deadline(self.bound):
                outcome = await self._fetch(session, asked, source)
        except (aiohttp.ClientError, TimeoutError, Rejected) as error:
            outcome = type(error).__name__
        finally:
            self.ledger.ended(asked.number, outcome)
        if asked.unsafe:
            # A redirect is an answer, and what it leads to another request.
            most = 2 if asked.form == "redirect" else 1
            done = self.server.executed[asked.number]
            self.sim.check(done <= most, "executed twice", f"call {asked.number}: {done}")

    async def _fetch(self, session: ClientSession, asked: Asked, source: SeededRandom) -> str:
        method = "POST" if asked.method == "KEYED" else asked.method
        headers = {"X-Size": str(asked.size)}
        if asked.method == "KEYED":
            headers["Idempotency-Key"] = f"key-{asked.number}"
        data: Any = None
        if method != "GET":
            body = content(asked.number, asked.size)
            data = body if source.draw() < 0.5 else _pieces(body)
        reader = source.choice(READERS)
        url = f"http://{HOST}{asked.path}"
        response = await session.request(method, url, headers=headers, data=data)
        async with response:
            if response.status >= 400:
                return str(response.status)
            got = await _read(response, reader)
            want = b"" if asked.form == "empty" else content(asked.number, asked.size)
            whole = got == want or (reader == "part" and want.startswith(got))
            self.sim.check(whole, "wrong body", f"call {asked.number}: {len(got)} bytes")
        return "ok"

    async def _recover(self, session: ClientSession) -> None:
        """Check that after the storm requests succeed again."""
        left = self.storm - self.sim.clock.monotonic()
        # What a fault holds up may hold a pooled connection up for a while longer.
        await asyncio.sleep(max(0.0, left) + 30)
        outcome = ""
        for number in range(3):
            await asyncio.sleep(self.latency * 250)
            asked = Asked(10_000 + number, "GET", "length", 100)
            self.ledger.started(asked.number, self.bound)
            try:
                outcome = await self._fetch(session, asked, self.sim.random("end"))
            except Exception as error:  # noqa: BLE001 - any failure is the finding
                outcome = type(error).__name__
            self.ledger.ended(asked.number, outcome)
        self.sim.check(outcome == "ok", "no recovery", outcome)


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(body), 500):
        yield body[at : at + 500]
        await asyncio.sleep(0)


async def _read(response: ClientResponse, reader: str) -> bytes:
    if reader == "read":
        return await response.read()
    if reader == "part":
        return await response.content.readany()
    if reader == "lines":
        return b"".join([line async for line in response.content])
    return b"".join([piece async for piece in response.content.iter_any()])


async def main(sim: Sim) -> dict[str, int]:
    """Run one seed; return how many calls ended how."""
    import aiohttp  # noqa: PLC0415 - an optional dependency

    from holdfast.clients.aiohttp import Middleware  # noqa: PLC0415 - the same

    sim.at_end.enter_context(simulated_aiohttp())
    swarm = sim.swarm()
    program = Program(sim, swarm)
    sim.network.link = Link(latency=program.latency / 4)
    sim.network.reach = 2 * MOST
    sim.network.host(HOST, "10.0.0.1")
    kinds = {**KINDS, "stream": STREAM_KINDS, "answer": TROUBLES, "call": ("cancel",)}
    rates = {point: swarm.rates(names, low=0.03) for point, names in kinds.items()}
    sim.break_things(rates, until=program.storm)
    server = await asyncio.start_server(program.server.serve, HOST, 80)
    try:
        made = Middleware(program.policy, **program.options)
        async with aiohttp.ClientSession(middlewares=[made]) as session:
            counts = await program.run(session)
        await asyncio.sleep(0)
        for transport in sim.network.left_by_clients():
            sim.violation("transport left", transport)
    finally:
        server.close()
        sim.network.close_servers_ends()
    await server.wait_closed()
    return counts


SCENARIO = Scenario("clients_aiohttp", "aiohttp with the middleware, over the faulty network", main)
