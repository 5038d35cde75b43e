"""Scripted endpoints of an LLM provider for the simulated gateway: plain HTTP/1.1, many faults.

An endpoint reads a request as strictly as it can, enters it into the book, and answers in the
shape of the API that was asked, or in one of the ways of `ANSWER_KINDS` that go wrong.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.testing.gateway_answers import Answers, Script, Step
from holdfast.testing.gateway_book import Asked, Execution

if TYPE_CHECKING:
    from holdfast.testing.faults import Decision
    from holdfast.testing.gateway_book import Book

CREDENTIALS = {"authorization": "Bearer {}", "x-api-key": "{}", "api-key": "{}"}
"""Fields that may carry a key, and how."""

MANY = 200
"""Connections of which there are always enough."""


class Head(NamedTuple):
    """The head of a request as an endpoint reads it; names in lower case."""

    method: str
    target: str
    fields: list[tuple[str, str]]

    def all(self, name: str) -> list[str]:
        """Return all values of a field."""
        return [value for key, value in self.fields if key == name]


class Up:
    """One endpoint.

    name: its id, and the zone of its faults.  keys: those that it accepts.
    key_field: the field in which its key must be; empty for any.
    most_busy, most_open: requests and connections that it may have at a time.
    roomy: who is sent to it never waits for a place.
    """

    def __init__(self, book: Book, name: str, latency: float) -> None:
        self.book = book
        self.sim = book.sim
        self.name = name
        self.host = f"up-{name}.test"
        self.base = ""
        self.latency = latency
        self.keys: list[str] = []
        self.key_field = ""
        self.enabled = True
        self.most_busy = self.most_open = math.inf
        self.roomy = False
        self._cool: dict[str, tuple[float, float]] = {}
        self.added: dict[str, str] = {}
        self.down: list[tuple[float, float]] = []
        self.open: dict[Serving, None] = {}
        self.answers = Answers(self, self.sim.random(f"answers/{name}"))

    def serve(self) -> Serving:
        """Return the protocol of a new connection."""
        return Serving(self)

    @property
    def is_down(self) -> bool:
        """Whether it serves nobody right now."""
        now = self.sim.clock.monotonic()
        return any(begin <= now < end for begin, end in self.down)

    def fault(self) -> Decision | None:
        """Return what goes wrong with the next answer."""
        return self.sim.faults.at(f"{self.name}/answer", self.sim.clock.monotonic())

    # -- limits --------------------------------------------------------------------------------

    def check_room(self) -> None:
        """Check how much is asked of it at a time."""
        live = [one for one in self.open if not one.is_left]
        busy = sum(one.execution is not None for one in live)
        self.sim.check(busy <= self.most_busy, "too many requests", f"{busy} at {self.name}")
        self.book.look()
        # One beside the others looks whether the endpoint is back.
        text = f"{len(live)} at {self.name}"
        self.sim.check(len(live) <= self.most_open + 1, "too many connections", text)

    def cools(self, serving: Serving, execution: Execution) -> None:
        """Take note that the gateway was asked to leave a key, or all of it, alone."""
        if execution.cools and not serving.broken:
            key = serving.key if execution.status == 429 else ""
            args = (serving, key, self.sim.clock.monotonic(), execution.cools)
            self.sim.loop.call_later(1.5 * self.latency, self._told, *args)

    def _told(self, serving: Serving, key: str, now: float, seconds: float) -> None:
        if not serving.is_left:
            self._cool[key] = (now, now + seconds)

    def forget(self) -> None:
        """Forget what the gateway was asked: it may have a new configuration."""
        self._cool.clear()

    def check_cool(self, serving: Serving) -> None:
        """Check that the gateway keeps away while it was asked to."""
        now = self.sim.clock.monotonic()
        if not self.roomy or serving.broken:
            return  # it may have been in line for a connection, or under way, since before
        for key in ("", serving.key):
            told, until = self._cool.get(key, (0.0, 0.0))
            early = told + 3 * self.latency + 0.005 < now < until - 0.005
            self.sim.check(not early, "asked while it cools", f"{self.name}, key {key!r}")

    # -- requests ------------------------------------------------------------------------------

    def read_head(self, raw: bytes) -> tuple[Head, Asked] | None:
        """Read a head, and look whose it is; None for what no endpoint should get."""
        lines = raw.decode("latin-1").split("\r\n")
        try:
            method, target, version = lines[0].split(" ")
            fields = [(k.lower(), v) for k, v in (line.split(": ", 1) for line in lines[1:-2])]
            number = int(target.rpartition("n=")[2])
        except ValueError:
            self.sim.violation("malformed request", f"{lines[0]!r} at {self.name}")
            return None
        head = Head(method, target, fields)
        asked = self.book.asked.get(number)
        if asked is None:
            return (head, Asked(number, method, target)) if number == 0 else None
        self.book.heads[self.name] += 1
        self._check_head(head, asked, version, raw)
        return head, asked

    def _check_head(self, head: Head, asked: Asked, version: str, raw: bytes) -> None:
        check, text = self.sim.check, f"request {asked.number} at {self.name}"
        check(self.enabled, "asked though disabled", text)
        same = (head.method, head.target) == (asked.method, self.base + asked.target)
        check(same and version == "HTTP/1.1", "wrong request", text)
        hosts = head.all("host")
        check(hosts == [self.host], "wrong host", text)
        lengths, codings = head.all("content-length"), head.all("transfer-encoding")
        check(len(lengths) + len(codings) <= 1, "ambiguous framing", text)
        check(not head.all("x-drop") and not head.all("connection"), "hop-by-hop field", text)
        for name, value in asked.fields:
            lower = name.lower()
            kept = lower not in CREDENTIALS and lower.startswith("x-keep")
            check(not kept or value in head.all(lower), "field lost", text)
        for name, value in self.added.items():
            check(head.all(name) == [value], "field not added", text)
        self._check_credentials(head, asked, text)
        self.book.check_secrets(raw, self.name)

    def _check_credentials(self, head: Head, asked: Asked, text: str) -> None:
        check = self.sim.check
        found = [(name, v) for name in CREDENTIALS for v in head.all(name)]
        if self.keys:
            check(len(found) == 1, "one key", text)
            for name, value in found:
                right = [CREDENTIALS[name].format(key) for key in self.keys]
                place = self.key_field in ("", name)
                check(value in right and place, "wrong key", text)
            return
        told = [(name.lower(), v) for name, v in asked.fields if name.lower() in CREDENTIALS]
        allowed = told if self.book.forwards else []
        check(sorted(found) == sorted(allowed), "credentials", text)


class Serving(asyncio.Protocol):
    """One connection to an endpoint: a request, its answer, the next request."""

    def __init__(self, up: Up) -> None:
        self.up = up
        self.transport: Any = None
        self.execution: Execution | None = None
        self.head: Head | None = None
        self._asked: Asked | None = None
        self._fault: Decision | None = None
        self._in = bytearray()
        self._steps: deque[Step] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._gone = False
        self._served = 0
        self._deaf = False
        self.key = ""

    @property
    def broken(self) -> str:
        """What is wrong with the connection."""
        return str(self.transport.connection.broken)

    @property
    def is_left(self) -> bool:
        """Whether the other end has given the connection up."""
        return self._gone or bool(self.transport.connection.client.is_closing())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = transport
        self.up.open[self] = None
        if self.up.is_down:
            self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """End."""
        del error
        self._gone = True
        self.up.open.pop(self, None)
        self._stop()

    def _stop(self) -> None:
        self._steps.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def data_received(self, data: bytes) -> None:
        """Take bytes of a request."""
        if self._deaf:
            return
        if self.execution is not None:
            self.up.sim.violation("pipelined upstream", f"at {self.up.name}")
            return
        self._in += data
        self._read()

    def _read(self) -> None:
        if self.head is None and not self._take_head():
            return
        body = self._take_body()
        if body is None or self._gone:
            return
        asked, head = self._asked, self.head
        if asked is None or head is None:
            return
        if asked.number:
            same = body == asked.body
            self.up.sim.check(same, "wrong request body", f"{asked.number}: {len(body)} bytes")
        self._answer(asked)

    def _take_head(self) -> bool:
        end = self._in.find(b"\r\n\r\n")
        if end < 0:
            return False
        read = self.up.read_head(bytes(self._in[: end + 4]))
        del self._in[: end + 4]
        if read is None:
            self.transport.abort()
            return False
        self.head, self._asked = read
        self.key = next((v for name in CREDENTIALS for v in self.head.all(name)), "")
        if self._served and self._asked.number:
            self.up.check_cool(self)  # on a new one it may have been decided long ago
        self._fault = self.up.fault() if self._asked.number else None
        kind = self._fault.kind if self._fault is not None else ""
        if self.up.is_down or kind == "rst_early":
            self._stop()
            self.transport.abort()
            return False
        if kind == "answers_early":
            self._refuse_early(self._asked)
            return False
        return True

    def _refuse_early(self, asked: Asked) -> None:
        self._deaf = True
        self.execution = Execution(-1, asked, self.up.name, self)
        script = self.up.answers.early(self.execution)
        self._steps.extend(script.steps)
        self._after = script
        self._play()

    def _take_body(self) -> bytes | None:
        head = self.head
        if head is None:
            return None
        if head.all("transfer-encoding"):
            return self._take_chunks()
        size = int((head.all("content-length") or ["0"])[0])
        if len(self._in) < size:
            return None
        body = bytes(self._in[:size])
        del self._in[:size]
        return body

    def _take_chunks(self) -> bytes | None:
        data, at, pieces = bytes(self._in), 0, []
        while True:
            end = data.find(b"\r\n", at)
            if end < 0:
                return None
            size = int(data[at:end], 16)
            at = end + 2
            if len(data) < at + size + 2:
                return None
            pieces.append(data[at : at + size])
            at += size + 2
            if not size:
                break
        del self._in[:at]
        return b"".join(pieces)

    # -- answers -------------------------------------------------------------------------------

    def _answer(self, asked: Asked) -> None:
        if self._in:
            self.up.sim.violation("pipelined upstream", f"at {self.up.name}")
        execution = Execution(-1, asked, self.up.name, self)
        script = self.up.answers.script(execution, self._fault)
        self.execution = execution
        self.up.check_room()
        self._steps.extend(script.steps)
        self._after = script
        self._play()

    def _play(self) -> None:
        self._timer = None
        while self._steps and not self._gone:
            step = self._steps.popleft()
            if isinstance(step, float):
                self._timer = self.up.sim.loop.call_later(step, self._play)
                return
            if isinstance(step, bytes):
                self.transport.write(step)
            elif step == "rst":
                self.transport.abort()
                return
            elif step == "fin":
                self.transport.close()
                return
            elif step == "done":
                self._done(self._after)

    def _done(self, script: Script) -> None:
        self._served += 1
        if self.execution is not None:
            self.execution.over = True
            self.up.cools(self, self.execution)
        self.execution = self.head = self._asked = None
        if script.idle >= 0:
            self._timer = self.up.sim.loop.call_later(script.idle, self._idle_over)

    def _idle_over(self) -> None:
        """Close for want of work, as servers do, in the very moment perhaps that some comes."""
        self._timer = None
        if not self._in and self.head is None:
            self.transport.close()

    def end(self) -> None:
        """Give the connection up."""
        self._stop()
        if self.transport is not None:
            self.transport.abort()
