"""Clients of a gateway, for its benchmarks: requests one after the other, streams, slow heads.

A request counts as good if all of its answer came, with 200, and it is the answer to that very
request: it repeats the id that was asked with. All else is a failure that the user sees.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from gateway_upstream import BEGIN, SIZE, TAIL

HOST = "127.0.0.1"
STREAM_BODY = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"Hello"}]}'
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close\r\n", re.IGNORECASE)
_TIMES = re.compile(rb'"text":" (\d+)"')


def request(path: str, body: bytes) -> bytes:
    """Return the bytes of a POST."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: api.example\r\nUser-Agent: bench\r\nAccept: */*\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def body_of(number: int) -> bytes:
    """Return the 1 KiB that request `number` asks with."""
    return b'{"id":"%017d' % number + TAIL


def quantile(values: list[float], q: float) -> float:
    """Return the value that a share `q` of them does not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(q * len(ordered)) - 1)] if ordered else 0.0


# -- requests -----------------------------------------------------------------------------------


@dataclass(slots=True)
class Seen:
    """What clients saw. failures: kind -> how many; seconds: of each good answer."""

    good: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    @property
    def asked(self) -> int:
        return self.good + self.failures.total()


class Line(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self._data = b""
        self._answered: asyncio.Future[bytes] | None = None
        self._transport: Any = None
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        self._data += data
        end = self._data.find(b"\r\n\r\n")
        length = _LENGTH.search(self._data, 0, end + 2) if end >= 0 else None
        if length is not None and len(self._data) >= end + 4 + int(length[1]):
            self._answer(self._data)

    def connection_lost(self, error: Exception | None) -> None:
        del error
        self.is_open = False
        self._answer(b"")

    def _answer(self, data: bytes) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(data)

    async def ask(self, data: bytes) -> bytes:
        """Return the answer; nothing if the connection ended before it was whole."""
        self._data = b""
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        return await self._answered

    def close(self) -> None:
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()


def verdict(answer: bytes, number: int) -> str:
    """Return what is wrong with an answer; nothing if it is good."""
    if not answer:
        return "cut"
    status = answer[9:12].decode("latin-1")
    if status != "200":
        return status
    end = answer.find(b"\r\n\r\n") + 4
    right = b'{"id":"%017d' % number + TAIL
    return "" if answer[end:] == right and len(right) == SIZE else "wrong"


@dataclass
class Load:
    """So many requests over so many connections.

    timeout: seconds that a client waits.  rate: requests a second; 0: as fast as answers come.
    most: seconds after which no further one is begun.  first: number of the first request.
    """

    port: int
    requests: int
    connections: int = 16
    timeout: float = 2.0
    rate: float = 0.0
    most: float = math.inf
    path: str = "/v1/messages"
    first: int = 0

    async def run(self) -> Seen:
        """Send them all, and return what came."""
        self._seen = Seen()
        self._next = 0
        self._began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for _ in range(self.connections):
                group.create_task(self._client())
        return self._seen

    async def _client(self) -> None:
        line = Line()
        while self._next < self.requests and time.monotonic() - self._began < self.most:
            number = self.first + self._next
            self._next += 1
            if self.rate:
                due = self._began + (number - self.first) / self.rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            at = time.perf_counter()
            try:
                async with asyncio.timeout(self.timeout):
                    if not line.is_open:
                        loop = asyncio.get_running_loop()
                        _, line = await loop.create_connection(Line, HOST, self.port)
                    answer = await line.ask(request(self.path, body_of(number)))
                wrong = verdict(answer, number)
            except TimeoutError:
                answer, wrong = b"", "timeout"
            except OSError:
                answer, wrong = b"", "connect"
            if not answer or _CLOSE.search(answer[: answer.find(b"\r\n\r\n") + 2]):
                line.close()
            if wrong:
                self._seen.failures[wrong] += 1
            else:
                self._seen.good += 1
                self._seen.seconds.append(time.perf_counter() - at)
        line.close()


# -- streams ------------------------------------------------------------------------------------


class Stream(asyncio.Protocol):
    """One stream of events; notes for each token how long it was on its way, in ns."""

    __slots__ = ("_held", "_into", "tokens", "transport")

    def __init__(self, into: list[int]) -> None:
        self._held = b""
        self._into = into
        self.tokens = 0
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.transport.write(request("/v1/messages", STREAM_BODY))

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        if self._held:
            data = self._held + data
        last = 0
        for found in _TIMES.finditer(data):
            self._into.append(now - int(found[1]))
            self.tokens += 1
            last = found.end()
        self._held = data[last:][-BEGIN * 8 :]

    def connection_lost(self, error: Exception | None) -> None:
        pass


async def open_streams(port: int, count: int, into: list[int]) -> list[Stream]:
    """Begin so many streams, and return when each has had its first token, or after 10 s."""
    loop = asyncio.get_running_loop()
    streams = []
    for _ in range(count):
        _, stream = await loop.create_connection(lambda: Stream(into), HOST, port)
        streams.append(stream)
        await asyncio.sleep(0.0005)
    looked = 0
    # One look at all of them, now and then, costs less than an event of each.
    while looked < 500 and not all(stream.tokens for stream in streams):
        looked += 1
        await asyncio.sleep(0.02)
    return streams


# -- slow heads ---------------------------------------------------------------------------------


class Slow(asyncio.Protocol):
    """A client that sends a head, but never the end of it."""

    __slots__ = ("closed_at", "opened_at", "transport")

    def __init__(self) -> None:
        self.opened_at = self.closed_at = math.inf
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.opened_at = time.monotonic()
        self.transport.write(b"POST /v1/messages HTTP/1.1\r\nHost: api.example\r\n")

    def drip(self) -> None:
        """Send one byte more."""
        if self.closed_at == math.inf:
            self.transport.write(b"x")

    def connection_lost(self, error: Exception | None) -> None:
        del error
        self.closed_at = time.monotonic()


async def open_slow(port: int, count: int) -> list[Slow]:
    """Open so many connections, in bunches."""
    loop = asyncio.get_running_loop()
    found: list[Slow] = []
    for at in range(0, count, 200):
        bunch = min(200, count - at)
        made = await asyncio.gather(
            *(loop.create_connection(Slow, HOST, port) for _ in range(bunch)),
            return_exceptions=True,
        )
        found += [one[1] for one in made if not isinstance(one, BaseException)]
    return found
