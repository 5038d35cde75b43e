"""The server of `clients_shapes` once more, in a simulated network: no thread, no real time.

`/SHAPE/FAULT/K/TIMES/TOKEN` means what it means there; K may be followed by `,SIZE`: the bytes
come in segments of that size.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress

import aiohttp
from clients_shapes import SHAPES, Seen

import holdfast as hf
from holdfast.testing import sim_run
from holdfast.testing.aiohttp_sim import simulated_aiohttp

BY_NAME = {shape.name: shape for shape in SHAPES}
HOST = "api.test"


class SimCutter:
    """Counts as `clients_shapes.Cutter` does."""

    def __init__(self):
        self.seen = {}
        self.connections = 0
        self.tokens = 0

    def url(self, shape, fault="none", at=0, times=10_000):
        self.tokens += 1
        token = f"t{self.tokens}"
        self.seen[token] = Seen()
        return f"http://{HOST}/{shape.name}/{fault}/{at}/{times}/{token}", self.seen[token]

    async def serve(self, reader, writer):
        self.connections += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self.answer(reader, writer):
                pass
        writer.close()

    async def answer(self, reader, writer):
        method, target, fields = await request_head(reader)
        if fields.get("expect") == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await request_body(reader, fields)
        parts = target.split("/")
        if len(parts) != 6 or parts[1] not in BY_NAME:
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return True
        _, name, fault, at, times, token = parts
        shape = BY_NAME[name]
        seen = self.seen.setdefault(token, Seen())
        seen.requests += 1
        seen.bodies.append(body)
        seen.keys.append(fields.get("idempotency-key"))
        raw = shape.raw.replace(b"/TOKEN", f"/{token}-target".encode())
        if method == "HEAD" and shape.method != "HEAD":
            raw = raw[: raw.index(b"\r\n\r\n") + 4]
        at, _, size = at.partition(",")
        broken = fault != "none" and seen.requests <= int(times)
        await write_in(writer, raw[: int(at)] if broken else raw, int(size or 0))
        if not broken:
            return not shape.closes
        if fault == "hole" and int(at) < len(raw):
            await reader.read()
        elif fault == "hole":
            return True  # a hole after a whole answer would be the next case's
        elif fault == "rst":
            writer.transport.abort()
        return False


async def write_in(writer, data, size):
    for at in range(0, len(data), size or len(data) or 1):
        if at:
            await asyncio.sleep(0.001)
        writer.write(data[at : at + size] if size else data)


async def request_head(reader):
    text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *lines = text.split("\r\n")
    method, target, _ = line.split(" ", 2)
    fields = dict(one.lower().split(": ", 1) for one in lines if one)
    return method, target, fields


async def request_body(reader, fields):
    if fields.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(fields.get("content-length", 0)))
    pieces = []
    while size := int((await reader.readline()).partition(b";")[0], 16):
        pieces.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readline()
    return b"".join(pieces)


@asynccontextmanager
async def sessions(sim, policy, handle=None, **options):
    """Give (session, server) in a simulated network; handle: serves instead of the cutter."""
    cutter = SimCutter()
    sim.network.host(HOST, "10.0.0.1")
    server = await asyncio.start_server(handle or cutter.serve, HOST, 80)
    wrapped = hf.clients.aiohttp.Middleware(policy, **options)
    try:
        async with aiohttp.ClientSession(middlewares=[wrapped]) as session:
            yield session, cutter
    finally:
        server.close()
        sim.network.close_servers_ends()
        await asyncio.sleep(0.1)


def simulate(main, seed=0):
    """Run `main(sim)`; anything that is left of it is an error."""
    with simulated_aiohttp():
        return sim_run(main, seed).value


async def fetch(session, url, method="GET", **options):
    async with session.request(method, url, **options) as response:
        return response.status, await response.read()


def answer(status=200, body=b"", *fields, keep=True):
    """Return an answer with a Content-Length as raw bytes."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *fields]
    lines += [] if keep else ["Connection: close"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunked(*pieces, status=200, fields=(), end=True):
    lines = [f"HTTP/1.1 {status} X", "Transfer-Encoding: chunked", *fields, "", ""]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return "\r\n".join(lines).encode() + chunks + (b"0\r\n\r\n" if end else b"")


class Scripted:
    """A server whose n-th request of all is answered by the n-th step, later ones by the last.

    A step is bytes (what follows keeps the connection), or (what, bytes): "fin", "rst" and "hang"
    happen after the bytes, "drip" sends them one by one every 0.3 s. requests: (method, target,
    fields, body, connection) of each; a request that breaks off is not in it.
    """

    def __init__(self, *steps):
        self.steps = list(steps)
        self.requests = []
        self.connections = 0

    async def __call__(self, reader, writer):
        self.connections += 1
        connection = self.connections
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self.one(reader, writer, connection):
                pass
        writer.close()

    async def one(self, reader, writer, connection):
        method, target, fields = await request_head(reader)
        if fields.get("expect") == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await request_body(reader, fields)
        step = self.steps[min(len(self.requests), len(self.steps) - 1)]
        self.requests.append((method, target, fields, body, connection))
        what, data = ("", step) if isinstance(step, bytes) else step
        if what == "drip":
            for at in range(len(data)):
                writer.write(data[at : at + 1])
                await asyncio.sleep(0.3)
        else:
            writer.write(data)
        if what == "hang":
            await reader.read()
        elif what == "rst":
            writer.transport.abort()
        return what in ("", "drip")

    @property
    def bodies(self):
        return [request[3] for request in self.requests]
