"""Upstreams by script on a real loop, a gateway in front of them, and a raw client."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
import tomllib
from contextlib import asynccontextmanager, suppress

from holdfast.gateway.config import read_gateways
from holdfast.gateway.gateway import Gateway


def run(main, seconds=30):
    """Run a coroutine function to its end; return what it does."""
    return asyncio.run(asyncio.wait_for(main(), seconds))


class Upstream:
    """Answers by `script(self, no, head, body, writer)`; asked: (request line, head, body)."""

    def __init__(self, script):
        self.script = script
        self.asked = []
        self.asked_first = asyncio.Event()
        self.open = 0
        self.connections = 0
        self.heads = 0

    async def serve(self, reader, writer):
        self.connections += 1
        self.open += 1
        writer.reader = reader
        try:
            while await self.one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def one(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:-2])
        lower = {name.lower(): value for name, value in fields.items()}
        early = getattr(self.script, "early", None)  # before the body is read
        self.heads += 1
        if early is not None and await early(self, self.heads, writer) is False:
            return False
        if lower.get("transfer-encoding") == "chunked":
            body = await chunks(reader)
        else:
            body = await reader.readexactly(int(lower.get("content-length", 0)))
        self.asked.append((head.split("\r\n")[0], head, body))
        self.asked_first.set()
        return await self.script(self, len(self.asked), writer) is not False


def answer(status=200, body=b"fine", *fields):
    lines = [f"HTTP/1.1 {status} X", *fields, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def always(data):
    async def script(upstream, no, writer):
        writer.write(data)

    return script


def in_turn(*datas):
    async def script(upstream, no, writer):
        writer.write(datas[min(no, len(datas)) - 1])

    return script


async def hangs(upstream, no, writer):
    """Never answer; end when the connection does."""
    await writer.reader.read(1)
    return False


def reset(writer):
    sock = writer.transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def gateway(*scripts, settings="", each="", secure=None):
    """Give (gateway, upstreams). each: settings of each endpoint.  secure: their TLS context."""
    ups, servers, ends = [], [], ""
    for n, script in enumerate(scripts):
        up = Upstream(script)
        server = await asyncio.start_server(up.serve, "127.0.0.1", 0, ssl=secure)
        port = server.sockets[0].getsockname()[1]
        url = f"{'https' if secure else 'http'}://127.0.0.1:{port}"
        ends += f'[[gateway.g.endpoint]]\nid = "{"abcdef"[n]}"\nurl = "{url}"\n'
        ends += f"{each}\n"
        up.server = server
        ups.append(up)
        servers.append(server)
    text = f'[gateway.g]\nlisten = "127.0.0.1:0"\n{settings}\n{ends}'
    result = read_gateways(tomllib.loads(text))
    assert not result.problems, result.problems
    try:
        async with Gateway(result.value["g"]) as made:
            yield made, ups
    finally:
        for server in servers:
            server.close()
        await asyncio.sleep(0.02)


async def connect(gw, data=b"", **options):
    """Return the streams of a connection to a gateway, on which something was sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gw.port, **options)
    writer.write(data)
    return reader, writer


async def ask(port, method="POST", path="/v1/messages", body=b"{}", *fields, keep=None):
    """Return (status, head, body) of one request on a connection of its own."""
    reader, writer = keep or await asyncio.open_connection("127.0.0.1", port)
    lines = [f"{method} {path} HTTP/1.1", "Host: gw", *fields, f"Content-Length: {len(body)}"]
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
    try:
        return await read(reader, method)
    finally:
        if keep is None:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


async def read(reader, method="GET"):
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status = int(head.split(" ", 2)[1])
    low = head.lower()
    if method == "HEAD" or status in {204, 304}:
        return status, head, b""
    if "transfer-encoding: chunked" in low:
        return status, head, await chunks(reader)
    if "content-length:" in low:
        size = int(low.split("content-length:")[1].split("\r\n")[0])
        return status, head, await reader.readexactly(size)
    return status, head, await reader.read()


async def each_chunk(reader):
    """Give each chunk of a body when it is there."""
    while size := int((await reader.readline()).strip(), 16):
        piece = await reader.readexactly(size)
        await reader.readexactly(2)
        yield piece
    await reader.readline()


async def chunks(reader):
    """Return the content of a chunked body."""
    return b"".join([piece async for piece in each_chunk(reader)])


def events(*values, ends=b"", head=()):
    """Return the head of a stream of events, and those; dicts are JSON. ends: a last piece."""
    lines = ["HTTP/1.1 200 OK", "Content-Type: text/event-stream", *head, "", ""]
    return "\r\n".join(lines).encode() + b"".join(map(event, values)) + ends


def event(value):
    text = value if isinstance(value, str) else json.dumps(value)
    return b"data: %b\n\n" % text.encode()


def code(body):
    """Return the code of an error of ours."""
    return json.loads(body)["error"]["code"]


def tiers(made):
    """Return the tier of each endpoint now."""
    now = time.monotonic()
    return [one.health.tier(now).name.lower() for one in made.cluster.balancer.endpoints]


def health(made, number=0):
    return made.cluster.balancer.endpoints[number].health


async def until(true, seconds=5.0):
    """Wait until something is so."""
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.005)
