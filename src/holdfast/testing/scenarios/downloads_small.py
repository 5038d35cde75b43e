"""Many small files over the faulty network: right, or in the failed list; and nothing is left.

A run of downloads with its lane, its threads and its groups, on a simulated disk that may lose
its power at any call. Then it runs again, until all is done: at the latest when nothing fails any
more. At any moment a final name holds one version of its file, whole.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from holdfast.core.verdict import Sent
from holdfast.downloads.addresses import Addresses
from holdfast.downloads.downloads import default_policy
from holdfast.downloads.engine import Engine
from holdfast.downloads.fetch import Options
from holdfast.downloads.items import Item, item_id
from holdfast.downloads.states import State
from holdfast.downloads.store import Store
from holdfast.storage.journal import MEMORY
from holdfast.testing.baton import Baton, Runs
from holdfast.testing.files import PowerCut
from holdfast.testing.network import CONNECT_KINDS
from holdfast.testing.simulation import Scenario, Sim
from holdfast.transfer.plane import End, Received, Timeouts
from holdfast.transfer.plane_async import Line, dial
from holdfast.transfer.plane_threads import describe, verdict_of
from holdfast.transfer.replay import Answer, Replay
from holdfast.transfer.verify import Digest
from holdfast.wire.addresses import Reach
from holdfast.wire.http1 import request_head
from holdfast.wire.resolve import Resolver

if TYPE_CHECKING:
    from holdfast.downloads.items import Report
    from holdfast.transfer.plane import Request, Sink
    from holdfast.wire.addresses import AddrInfo
    from holdfast.wire.cancel import Cancel
    from holdfast.wire.http1 import Head

HOST, ADDRESS = "files.test", "10.0.0.1"
STREAM_KINDS = ("rst", "fin", "stall", "slow", "hole", "half_open", "trickle", "idle_close")
ANSWER_KINDS = ("busy", "broken", "gone", "replaced", "chunked", "close")
TIMEOUTS = Timeouts(connect=5, first_byte=5, idle=3)
STORM_SECONDS = 60.0
RUNS = 4


@dataclass
class Origin:
    """Serves files that change, now and then refuses, and speaks three framings."""

    sim: Sim
    sizes: list[int]
    steady: int  # files below this number have a digest, and never change
    versions: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.versions = [1] * len(self.sizes)

    def content(self, n: int, version: int) -> bytes:
        """Return the bytes of one version of a file."""
        block = hashlib.sha256(f"{self.sim.seed} {n} {version}".encode()).digest()
        return (block * (self.sizes[n] // 32 + 1))[: self.sizes[n]]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer on one connection until it ends."""
        try:
            async with asyncio.timeout(120):
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    if not await self._answer(head.decode("latin-1"), writer):
                        break
        except (OSError, EOFError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, head: str, writer: asyncio.StreamWriter) -> bool:
        lines = head.split("\r\n")
        n = int(lines[0].split(" ")[1].rpartition("/")[2])
        asked = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}
        fault = self.sim.faults.at("answer", self.sim.loop.time())
        kind = fault.kind if fault is not None else ""
        if kind == "replaced" and n >= self.steady:
            self.versions[n] += 1
        if kind in {"busy", "broken", "gone"}:
            status = {"busy": "503 Busy", "broken": "500 Oops", "gone": "404 Not Found"}[kind]
            after = fault is not None and kind == "busy" and fault.x < 0.5
            wait = f"Retry-After: {int(3 * fault.y)}\r\n" if fault is not None and after else ""
            writer.write(f"HTTP/1.1 {status}\r\n{wait}Content-Length: 2\r\n\r\nno".encode())
        else:
            self._send(n, asked, kind, writer)
        await writer.drain()
        return kind != "close" and asked.get("connection") != "close"

    def _send(self, n: int, asked: dict[str, str], kind: str, writer: asyncio.StreamWriter) -> None:
        body = self.content(n, self.versions[n])
        tag = f'"{n}-{self.versions[n]}"'
        start, status = 0, "200 OK"
        fields = f"ETag: {tag}\r\n"
        if asked.get("if-match", tag) != tag:
            writer.write(b"HTTP/1.1 412 Changed\r\nContent-Length: 0\r\n\r\n")
            return
        if "range" in asked and asked.get("if-range", tag) == tag:
            first, _, last = asked["range"].removeprefix("bytes=").partition("-")
            start, stop = int(first), int(last) + 1 if last else len(body)
            status = "206 Partial"
            fields += f"Content-Range: bytes {start}-{stop - 1}/{len(body)}\r\n"
            body = body[start:stop]
        if kind == "chunked" and body:
            chunk = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
            head = f"HTTP/1.1 {status}\r\n{fields}Transfer-Encoding: chunked\r\n\r\n"
            writer.write(head.encode() + chunk)
            return
        # "close" promises to keep the connection, and the server then closes it.
        head = f"HTTP/1.1 {status}\r\n{fields}Content-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)


class SimPlane:
    """What the threads use: one exchange on the simulated network, on a fresh connection."""

    def __init__(self, baton: Baton) -> None:
        self._baton = baton

    def fetch(self, request: Request, sink: Sink, cancel: Cancel) -> Received:
        """Do one exchange; the body is collected, then given to the sink."""
        answer = self._baton.run_coroutine(self._exchange(request, cancel))
        return Replay(answer, self).fetch(request, sink, cancel)

    async def _exchange(self, request: Request, cancel: Cancel) -> Answer:
        over = asyncio.Event()
        try:
            line = await dial(
                request.url,
                lambda: Line(_wants, lambda _: over.set(), most=1 << 30),
                timeout=request.timeouts.connect,
                look_up=_look_up,
                reach=Reach.TYPED,
            )
        except OSError as error:
            return _broken(error)
        line.ask(request_head(request.url, request.headers))
        quiet = 0.0
        while not over.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await over.wait()
            quiet = quiet + 0.1 if line.quiet() else 0.0
            limit = request.timeouts.first_byte if line.head is None else request.timeouts.idle
            if quiet >= limit or cancel.is_set():
                line.fail(TimeoutError("silence"))
        line.close()
        return Answer(line.received(), bytes(line.body))


def _wants(head: Head) -> bool:
    return head.status in {200, 203, 206}


def _broken(error: OSError) -> Answer:
    fault = verdict_of(error, Sent.NO)
    return Answer(Received(End.BROKEN, fault=fault, text=describe(error)))


async def _look_up(host: str, port: int) -> list[AddrInfo]:
    return await asyncio.get_running_loop().getaddrinfo(host, port)


class _Resolver(Resolver):
    """Knows one host, and answers at once: nobody is asked on a thread."""

    def ask(self, host: str, port: int) -> Future[list[AddrInfo]]:
        """Return what is known."""
        del host
        done: Future[list[AddrInfo]] = Future()
        done.set_result([(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ADDRESS, port))])
        return done


class World:
    """The downloads of one seed."""

    def __init__(self, sim: Sim) -> None:
        swarm = sim.swarm()
        self.sim = sim
        self.count = swarm.whole(5, 60)
        source = sim.random("sizes")
        sizes = [source.between(0, 20_000) for _ in range(self.count)]
        self.origin = Origin(sim, sizes, self.count // 3)
        self.workers = swarm.whole(1, 8)
        self.cuts = swarm.chance(0.5, 0.2, 1.0)
        self.rates = {
            "connect": swarm.rates(CONNECT_KINDS, high=0.1),
            "stream": swarm.rates(STREAM_KINDS, high=0.2),
            "answer": swarm.rates(ANSWER_KINDS, high=0.2),
        }
        self.store = Store(MEMORY)
        self.baton = Baton(sim)
        sim.files.makedirs("/d")

    def add(self) -> None:
        """Put all files into the journal."""
        items = []
        for n in range(self.count):
            url, path = f"http://{HOST}/{n}", f"d{n % 3}/{n}" if n % 2 else str(n)
            digests: tuple[Digest, ...] = ()
            if n < self.origin.steady:
                sha256 = hashlib.sha256(self.origin.content(n, 1)).hexdigest()
                digests = (Digest("sha256", sha256),)
            size = self.origin.sizes[n] if n % 5 == 0 else None
            items.append(Item(item_id(url, path), path, url, size=size, digests=digests))
        self.store.insert(items)

    async def run(self) -> Report | None:
        """Run once; None if the power failed."""
        engine = Engine(
            self.store,
            "/d",
            default_policy(8),
            workers=self.workers,
            options=Options(timeouts=TIMEOUTS),
            addresses=Addresses(),
            plane=SimPlane(self.baton),
            lane="asyncio",
            resolver=_Resolver(),
            hands=Runs(self.baton),
        )
        try:
            report = await self.baton.run(engine.run)
        except PowerCut:
            return None
        self.sim.check(engine.connections == 0, "gates", f"{engine.connections} connections")
        ended = report.done + report.skipped + len(report.failed) + report.left
        self.sim.check(ended == self.count or report.skipped, "report", f"{ended} files")
        return report

    def check(self, *, finished: bool) -> None:
        """Look at the disk: whole files of one version; after a finished run nothing else."""
        files = self.sim.files
        found = 0
        for directory in ("/d", "/d/d0", "/d/d1", "/d/d2"):
            with suppress(FileNotFoundError):
                for name in files.listdir(directory):
                    if name.startswith("."):
                        self.sim.check(not finished, "stray part", f"{directory}/{name}")
                    elif name.isdigit():
                        found += 1
                        self._check_file(f"{directory}/{name}", int(name))
        self.sim.check(found == self.count or not finished, "files", f"{found} of {self.count}")

    def _check_file(self, path: str, n: int) -> None:
        body = self.sim.files.read(path)
        versions = range(1, self.origin.versions[n] + 1)
        right = any(body == self.origin.content(n, version) for version in versions)
        self.sim.check(right, "wrong bytes", f"{path}: {len(body)} bytes")

    def retry_failed(self) -> None:
        """Put what has failed into the plan again."""
        for item in list(self.store.items(State.FAILED)):
            self.store.renew(item.id)
            self.store.update(item.id, state=State.QUEUED.value)


async def main(sim: Sim) -> None:
    """Run with faults, perhaps with a power cut, and again until all is there."""
    sim.network.host(HOST, ADDRESS)
    world = World(sim)
    server = await asyncio.start_server(world.origin.serve, HOST, 80)
    world.add()
    draws = sim.random("cuts")
    report: Report | None = None
    over = sim.loop.time() + STORM_SECONDS
    sim.break_things(world.rates, until=over)
    with world.baton.installed():
        for no in range(RUNS):
            if no == RUNS - 1:
                await asyncio.sleep(max(0.0, over - sim.loop.time()))
            elif draws.draw() < world.cuts:
                sim.files.cut_at(draws.between(1, 10 * world.count))
            report = await world.run()
            sim.files.heal()
            sim.calls += world.count
            if report is None:
                sim.files.crash(sim.random(f"crash {no}"))
            world.check(finished=False)
            world.retry_failed()
    sim.check(report is not None and report.exit_code == 0, "not finished", f"{report}")
    world.check(finished=True)
    server.close()
    sim.network.close_servers_ends()
    await server.wait_closed()
    world.store.close()


SCENARIO = Scenario("downloads_small", "many small files: lane, groups, power cuts", main)
