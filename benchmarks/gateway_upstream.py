"""The upstreams of the gateway's benchmarks: fast, and each broken in one way at most.

    python benchmarks/gateway_upstream.py '{"faults": ["rst", "", ""], "seed": 1}'

It prints the ports, one per upstream, as a line of JSON, answers a line on its input with a line
of JSON (see `Counts`), and ends when its input ends. A line `["", "", ""]` changes the faults.
It is one process of its own, a protocol on uvloop, so that it costs a proxy nothing and keeps up
with all of them.

    ""      answers at once: 200, 1 KiB of JSON, which begins like the body that was asked with
    rst     resets the connection in place of 30 % of the answers, the request read
    idle    closes the connection 0 to 10 ms after each answer, unless a request has come by then
    hang    reads, and never answers
    503     answers 503, without Retry-After
    cut     resets the connection within 30 % of the answers, after the head and half of the body
    429     answers 429 with `Retry-After: 1` for a second of every third, the upstreams in turn
    refuse  resets each connection as it is made

`GET` and requests whose body has `"stream":true` or whose path is /v1/stream are answered with
events: `tokens` of them a second and stream, each with the time when it was written, in ns.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import struct
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

import uvloop

SHARE = 0.3
IDLE_MOST = 0.010
BURST, PERIOD = 1.0, 3.0
SIZE = 1024
BEGIN = 24
"""Bytes at the beginning of a body that an answer repeats: `{"id":"` and 17 of an id."""
TICK = 0.002
"""Seconds between two looks at which streams are to get a token."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
HEAD = (
    b"HTTP/1.1 200 OK\r\nServer: upstream\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n"
    b"Request-Id: req_011CSHoEeqs5C35K2UUqR7Fy\r\n\r\n" % SIZE
)
TAIL = b'","content":"' + b"x" * (SIZE - BEGIN - 15) + b'"}'
REFUSED = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 2"
    b"\r\n\r\n{}"
)
THROTTLED = (
    b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
    b"Content-Length: 2\r\n\r\n{}"
)
EVENTS = (
    b"HTTP/1.1 200 OK\r\nServer: upstream\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"
)
START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","type":"message",'
    b'"role":"assistant","content":[],"model":"m","usage":{"input_tokens":9,"output_tokens":1}}}\n\n'
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
    b'"content_block":{"type":"text","text":""}}\n\n'
)
TOKEN = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"text_delta","text":" %d"}}\n\n'
)


@dataclass(slots=True)
class Counts:
    """What one upstream has seen. open: connections now; streams: that are running now."""

    requests: int = 0
    answered: int = 0
    struck: int = 0
    connections: int = 0
    open: int = 0
    streams: int = 0


class Upstream:
    """One of them: its fault, what it has counted, and its place among the others."""

    def __init__(self, number: int, fault: str, seed: int, streams: Streams) -> None:
        self.number = number
        self.fault = fault
        self.draw = random.Random(f"{seed}/{number}").random
        self.streams = streams
        self.counts = Counts()
        self.began = time.monotonic()

    def is_throttling(self) -> bool:
        at = (time.monotonic() - self.began) % PERIOD
        return self.number * BURST <= at < (self.number + 1) * BURST


class Streams:
    """All streams: each tick writes to those whose next token is due, so that load is even."""

    def __init__(self, loop: asyncio.AbstractEventLoop, rate: float) -> None:
        self._loop = loop
        self._every = 1 / rate
        self._due: deque[tuple[float, Connection]] = deque()
        self._ticking = False

    def add(self, connection: Connection) -> None:
        self._due.append((self._loop.time() + self._every, connection))
        if not self._ticking:
            self._ticking = True
            self._loop.call_later(TICK, self._tick)

    def _tick(self) -> None:
        now, due = self._loop.time(), self._due
        while due and due[0][0] <= now:
            at, connection = due.popleft()
            if connection.streaming:
                text = TOKEN % time.monotonic_ns()
                connection.transport.write(b"%x\r\n%b\r\n" % (len(text), text))
                due.append((at + self._every, connection))
        self._ticking = bool(due)
        if due:
            self._loop.call_later(TICK, self._tick)


class Connection(asyncio.Protocol):
    """One connection of a proxy."""

    __slots__ = ("_ahead", "_closing", "_upstream", "streaming", "transport")

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._ahead = b""
        self._closing: asyncio.TimerHandle | None = None
        self.streaming = False
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._upstream.counts.connections += 1
        self._upstream.counts.open += 1
        if self._upstream.fault == "refuse":
            self._reset()

    def connection_lost(self, error: Exception | None) -> None:
        del error
        self._upstream.counts.open -= 1
        self._upstream.counts.streams -= self.streaming
        self.streaming = False
        if self._closing is not None:
            self._closing.cancel()

    def data_received(self, data: bytes) -> None:
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        data = self._ahead + data if self._ahead else data
        while data:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                break
            length = _LENGTH.search(data, 0, end + 2)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(data) < whole:
                break
            self._answer(data, end + 4, whole)
            data = data[whole:]
        self._ahead = data

    def _answer(self, data: bytes, at: int, end: int) -> None:
        upstream = self._upstream
        upstream.counts.requests += 1
        if upstream.fault and self._strike(data[at : at + BEGIN]):
            upstream.counts.struck += 1
            return
        upstream.counts.answered += 1
        if data.startswith(b"POST /v1/stream") or data.find(b'"stream":true', at, end) >= 0:
            self._stream()
            return
        self.transport.write(b"".join((HEAD, data[at : at + BEGIN], TAIL)))
        if upstream.fault == "idle":
            wait = upstream.draw() * IDLE_MOST
            self._closing = asyncio.get_running_loop().call_later(wait, self.transport.close)

    def _strike(self, begin: bytes) -> bool:
        fault = self._upstream.fault
        if fault == "rst" and self._upstream.draw() < SHARE:
            self._reset()
        elif fault == "cut" and self._upstream.draw() < SHARE:
            self.transport.write(b"".join((HEAD, begin, TAIL[: SIZE // 2 - BEGIN])))
            # Not before the kernel has it: what was sent before a reset should arrive.
            asyncio.get_running_loop().call_later(0.002, self._reset)
        elif fault == "503":
            self.transport.write(REFUSED)
            return True
        elif fault == "429" and self._upstream.is_throttling():
            self.transport.write(THROTTLED)
            return True
        else:
            return fault == "hang"
        return True

    def _stream(self) -> None:
        self.streaming = True
        self._upstream.counts.streams += 1
        self.transport.write(EVENTS + b"%x\r\n%b\r\n" % (len(START), START))
        self._upstream.streams.add(self)

    def _reset(self) -> None:
        sock: socket.socket | None = self.transport.get_extra_info("socket")
        if sock is not None and not self.transport.is_closing():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


async def serve(asked: dict[str, Any]) -> None:
    """Serve until the input ends."""
    loop = asyncio.get_running_loop()
    streams = Streams(loop, asked.get("tokens", 20))
    upstreams = [
        Upstream(number, fault, asked.get("seed", 1), streams)
        for number, fault in enumerate(asked["faults"])
    ]
    ports = []
    for one in upstreams:
        server = await loop.create_server(
            lambda one=one: Connection(one), "127.0.0.1", 0, backlog=4096
        )
        ports.append(server.sockets[0].getsockname()[1])
    print(json.dumps(ports), flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        if line.startswith("["):
            for one, fault in zip(upstreams, json.loads(line), strict=True):
                one.fault, one.counts, one.began = (
                    fault,
                    Counts(open=one.counts.open),
                    time.monotonic(),
                )
        print(json.dumps([asdict(one.counts) for one in upstreams]), flush=True)


if __name__ == "__main__":
    uvloop.run(serve(json.loads(sys.argv[1])))
