"""Next hops behind the gateway that remember each request as their own parser read it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from contextlib import asynccontextmanager
from pathlib import Path

import h11
import pytest
from aiohttp import web
from gateway_rig import read

LARGEST = 128 * 1024


def record(method, target, fields, body):
    """What was read, in the form of `hop.js`."""
    return [
        method,
        target,
        [list(one) for one in fields],
        len(body),
        hashlib.sha256(body).hexdigest(),
    ]


def text(data: bytes) -> str:
    return data.decode("latin-1")


class Hop:
    """A hop in this process. port: its own.  refused: requests that it could not read."""

    def __init__(self):
        self.port = 0
        self.refused = 0
        self._seen = []

    async def seen(self):
        """Return what was read since the last time."""
        found, self._seen = self._seen, []
        return found

    def saw(self, method, target, fields, body):
        self._seen.append(record(method, target, [(text(n), text(v)) for n, v in fields], body))


@asynccontextmanager
async def aiohttp_hop():
    hop = Hop()

    async def handler(request):
        body = await request.content.read()
        hop.saw(request.method, request._message.path, request.raw_headers, body)
        return web.Response(text="ok")

    server = web.Server(
        handler, max_line_size=LARGEST, max_field_size=LARGEST, max_headers=1000, access_log=None
    )
    runner = web.ServerRunner(server)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    hop.port = site._server.sockets[0].getsockname()[1]
    try:
        yield hop
    finally:
        await runner.cleanup()


class _H11(asyncio.Protocol):
    def __init__(self, hop):
        self.hop = hop

    def connection_made(self, transport):
        self.transport = transport
        self.begin(h11.Connection(h11.SERVER, max_incomplete_event_size=LARGEST))

    def begin(self, connection):
        self.connection, self.request, self.body = connection, None, b""

    def data_received(self, data):
        self.connection.receive_data(data)
        try:
            while self.one(self.connection.next_event()):
                pass
        except h11.RemoteProtocolError:
            self.hop.refused += 1
            self.transport.write(
                b"HTTP/1.1 400 Bad\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
            self.transport.close()

    def one(self, event):
        if isinstance(event, h11.Request):
            self.request = event
        elif isinstance(event, h11.Data):
            self.body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            self.answer()
        else:
            return False
        return True

    def answer(self):
        asked, connection = self.request, self.connection
        self.hop.saw(text(asked.method), text(asked.target), asked.headers.raw_items(), self.body)
        send = self.transport.write
        send(connection.send(h11.Response(status_code=200, headers=[("Content-Length", "2")])))
        if asked.method != b"HEAD":
            send(connection.send(h11.Data(data=b"ok")))
        send(connection.send(h11.EndOfMessage()))
        if connection.our_state is h11.DONE and connection.their_state is h11.DONE:
            connection.start_next_cycle()
            self.begin(connection)
        else:
            self.transport.close()


@asynccontextmanager
async def h11_hop():
    hop = Hop()
    server = await asyncio.get_running_loop().create_server(lambda: _H11(hop), "127.0.0.1", 0)
    hop.port = server.sockets[0].getsockname()[1]
    try:
        yield hop
    finally:
        server.close()


class _Node:
    def __init__(self, port):
        self.port = port
        self.refused = 0

    async def seen(self):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"GET /__seen HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        _, _, body = await read(reader)
        writer.close()
        await writer.wait_closed()
        return json.loads(body)


@asynccontextmanager
async def node_hop():
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node: install Debian's nodejs")
    process = await asyncio.create_subprocess_exec(
        node,
        str(Path(__file__).with_name("hop.js")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield _Node(int(await process.stdout.readline()))
    finally:
        process.stdin.close()
        await asyncio.wait_for(process.wait(), 10)
        process._transport.close()


HOPS = {"aiohttp": aiohttp_hop, "h11": h11_hop, "node": node_hop}
