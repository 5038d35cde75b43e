"""Clients of the simulated gateway: they ask, read strictly, leave, read slowly, pipeline."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from holdfast.testing.gateway_book import TICK, Asked, Book, Reply

if TYPE_CHECKING:
    from holdfast.runtime.random import SeededRandom
    from holdfast.testing.faults import Decision
    from holdfast.testing.gateway_world import World

CLIENT_KINDS = ("leave", "reset", "half_close", "pause", "split")
"""What a client does: leaves at any moment, politely or not; stops reading for a while; sends
its request in two parts."""

HANGS = 4000.0
"""Seconds after which an answer is never going to end."""


class BadReply(Exception):
    """The gateway sent what is no HTTP."""


class Line(asyncio.Protocol):
    """One connection of a client, and the requests on it that wait for their answers."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.transport: Any = None
        self.waiting: deque[tuple[Asked, asyncio.Future[Reply | None]]] = deque()
        self.lost = False
        self.left = False
        self.closing = False
        self.given_up = False
        self.idle_since = 0.0
        self.asked_at = self.sent_at = 0.0  # when all of the last requests was sent, and the first
        self._in = bytearray()
        self._reply: Reply | None = None
        self._left = 0
        self._state = "size"

    @property
    def broken(self) -> str:
        """What is wrong with the way to the gateway."""
        return str(self.transport.connection.broken)

    @property
    def is_over(self) -> bool:
        """Whether no further request should be made on it."""
        return self.lost or self.left or self.closing

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = transport

    def ask(self, asked: Asked) -> asyncio.Future[Reply | None]:
        """Expect an answer; None if none begins."""
        future = self.world.sim.loop.create_future()
        self.waiting.append((asked, future))
        if self.lost:
            self.connection_lost(None)
        return future

    def data_received(self, data: bytes) -> None:
        """Read answers, in order."""
        self._in += data
        try:
            while self._in and self._read():
                pass
        except (BadReply, ValueError) as error:
            number = self.waiting[0][0].number if self.waiting else 0
            self.world.sim.violation("no HTTP", f"request {number}: {error}")
            self.transport.abort()

    def _read(self) -> bool:
        if not self.waiting and self.closing:
            self._in.clear()  # a 408 has a body, also if a HEAD was to come
            return False
        if not self.waiting:
            raise BadReply(f"bytes that nobody asked for: {bytes(self._in[:60])!r}")
        if self._reply is None and not self._read_head():
            return False
        reply = self._reply
        if reply is None:
            return True
        if reply.framing == "chunked":
            return self._read_chunks(reply)
        if reply.framing == "close":
            reply.body += self._in
            self._in.clear()
            return False
        piece = self._in[: self._left]
        reply.body += piece
        del self._in[: len(piece)]
        self._left -= len(piece)
        if not self._left:
            self._end(whole=True)
        return not self._left

    def _read_head(self) -> bool:
        end = self._in.find(b"\r\n\r\n")
        if end < 0:
            return False
        raw = bytes(self._in[:end])
        del self._in[: end + 4]
        self.world.book.check_secrets(raw, "client")
        lines = raw.decode("latin-1").split("\r\n")
        version, _, rest = lines[0].partition(" ")
        status = int(rest[:3])
        if version not in {"HTTP/1.1", "HTTP/1.0"} or status == 101:
            raise BadReply(f"status line: {lines[0]!r}")
        if status < 200:
            return bool(self._in)
        fields = [(k.lower(), v) for k, v in (line.split(": ", 1) for line in lines[1:])]
        reply = Reply(status, fields, first_at=self.world.sim.clock.monotonic())
        self._reply = reply
        self._frame(reply, self.waiting[0][0])
        return True

    def _frame(self, reply: Reply, asked: Asked) -> None:
        codings = [v for k, v in reply.fields if k == "transfer-encoding"]
        lengths = [v for k, v in reply.fields if k == "content-length"]
        if len(codings) + len(lengths) > 1 and asked.method != "HEAD":
            raise BadReply(f"framing: {codings}, {lengths}")
        if codings and not asked.minor:
            raise BadReply("a coding for HTTP/1.0")
        self._left = 0
        if asked.method == "HEAD" or reply.status in {204, 304}:
            self._end(whole=True)
        elif codings:
            reply.framing, self._state = "chunked", "size"
        elif lengths:
            self._left = int(lengths[0])
            if not self._left:
                self._end(whole=True)
        else:
            reply.framing = "close"

    def _read_chunks(self, reply: Reply) -> bool:
        if self._left:
            piece = self._in[: self._left]
            reply.body += piece
            del self._in[: len(piece)]
            self._left -= len(piece)
            if self._left:
                return False
            self._state = "after"
        end = self._in.find(b"\r\n")
        if end < 0:
            return False
        line = bytes(self._in[:end])
        del self._in[: end + 2]
        if self._state == "after":
            if line:
                raise BadReply(f"after a chunk: {line!r}")
            self._state = "size"
        elif self._state == "size":
            self._left = int(line.partition(b";")[0], 16)
            self._state = "data" if self._left else "trailers"
        elif not line:
            self._end(whole=True)
        else:
            raise BadReply(f"a trailer: {line!r}")
        return True

    def _end(self, *, whole: bool) -> None:
        reply, self._reply = self._reply, None
        if reply is None:
            return
        reply.whole = whole
        reply.end_at = self.idle_since = self.world.sim.clock.monotonic()
        self.closing |= reply.closes
        _, future = self.waiting.popleft()
        if not future.done():
            future.set_result(reply)

    def connection_lost(self, error: Exception | None) -> None:
        """End what was under way."""
        self.lost = True
        reply = self._reply
        if reply is not None:
            self._end(whole=reply.framing == "close" and error is None and not self.given_up)
        while self.waiting:
            _, future = self.waiting.popleft()
            if not future.done():
                future.set_result(None)

    def leave(self, kind: str) -> None:
        """Go away, and look at no answer any more."""
        self.left = True
        if kind == "reset":
            self.transport.abort()
        elif kind == "half_close" and not self.transport.is_closing():
            self.transport.write_eof()
        else:
            self.transport.close()


class Caller:
    """One user: makes requests, on a connection that is kept, and judges the answers."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.sim = world.sim
        self.book: Book = world.book
        self.source: SeededRandom = world.sim.random(f"caller/{name}")
        self.line: Line | None = None

    async def run(self, count: int, spread: float) -> None:
        """Ask `count` times in about `spread` seconds."""
        done = 0
        while done < count:
            await asyncio.sleep(2 * spread / count * self.source.draw())
            size = self.source.between(2, 4) if self.source.draw() < 0.1 else 1
            fault = self.sim.faults.at("client", self.sim.clock.monotonic())
            await self.some(size, fault)
            done += size
        self.close()

    def close(self) -> None:
        """Give the connection up."""
        if self.line is not None and not self.line.lost:
            self.line.transport.close()
        self.line = None

    async def some(self, size: int, fault: Decision | None = None, form: str = "") -> list[str]:
        """Ask once, or a few times without waiting for the answers in between."""
        batch = [self.world.draw_request(self.source, form) for _ in range(size)]
        line = await self._line()
        if line is None:
            for asked in batch:
                self.world.ledger.started(asked.number, HANGS)
                self.world.ledger.ended(asked.number, "not connected")
            return ["not connected"] * size
        raw = b"".join(asked.raw("gateway.test") for asked in batch)
        futures = [line.ask(asked) for asked in batch]
        slept = await self._send(line, raw, fault)
        outcomes = []
        previous: Reply | None = None
        for asked, future in zip(batch, futures, strict=True):
            begun = line.asked_at if previous is None else max(line.asked_at, previous.end_at)
            self.world.ledger.started(asked.number, HANGS)
            reply = await self._wait(future, line)
            outcome = self._judge(asked, reply, line, begun, slept)
            self.world.ledger.ended(asked.number, outcome)
            self.world.note(asked, outcome)
            outcomes.append(outcome)
            line.closing |= outcome in ("cut", "gone")
            previous = reply or previous
        if line.is_over:
            self.close()
        return outcomes

    async def _line(self) -> Line | None:
        line, now = self.line, self.sim.clock.monotonic()
        keep = 0.7 * float(self.world.settings["client_idle"])
        if line is not None and not line.is_over and now - line.idle_since < keep:
            return line
        self.close()
        try:
            _, made = await self.sim.loop.create_connection(
                lambda: Line(self.world), "127.0.0.1", self.world.port
            )
        except OSError:
            return None
        assert isinstance(made, Line)  # noqa: S101 - tells the type checker
        made.idle_since = self.sim.clock.monotonic()
        self.line = made
        return made

    async def _send(self, line: Line, raw: bytes, fault: Decision | None) -> float:
        """Send requests as the fault says; return the seconds for which nothing was read."""
        line.asked_at = line.sent_at = self.sim.clock.monotonic()
        if fault is None:
            line.transport.write(raw)
            return 0.0
        if fault.kind == "split":
            at = int(fault.x * len(raw))
            line.transport.write(raw[:at])
            await asyncio.sleep(
                0.002 + 0.5 * fault.y * min(2.0, self.world.settings["head_timeout"])
            )
            line.transport.write(raw[at:])
            line.asked_at = self.sim.clock.monotonic()
            return 0.0
        line.transport.write(raw)
        if fault.kind == "pause":
            seconds = 0.01 * 300**fault.x
            line.transport.pause_reading()
            self.sim.loop.call_later(seconds, self._resume, line)
            return float(seconds)
        moment = self.world.latency * 0.3 * 3000**fault.x
        timer = self.sim.loop.call_later(moment, self._leave, line, fault.kind)
        line.waiting[-1][1].add_done_callback(lambda _: timer.cancel())
        return 0.0

    def _resume(self, line: Line) -> None:
        if not line.lost:
            self.world.check_buffer(line)
            line.transport.resume_reading()

    def _leave(self, line: Line, kind: str) -> None:
        if line.lost or not line.waiting:
            return
        self.world.client_leaves(line)
        line.leave(kind)

    async def _wait(self, future: asyncio.Future[Reply | None], line: Line) -> Reply | None:
        timer = self.sim.loop.call_later(100.0 if line.broken else HANGS, _give_up, line)
        try:
            return await future
        finally:
            timer.cancel()

    # -- outcomes ------------------------------------------------------------------------------

    def _judge(
        self,
        asked: Asked,
        reply: Reply | None,
        line: Line,
        begun: float,
        slept: float,
    ) -> str:
        if line.left and (reply is None or not reply.whole or reply.framing == "close"):
            return "left"
        if reply is None:
            # An end that came while it did not read may have taken the answer with it.
            return "gone" if slept else self._unanswered(asked, line)
        reply.excused = bool(line.broken or slept or self.world.is_ending)
        outcome = self.book.judge(asked, reply)
        self.world.check_patience(asked, outcome, reply.end_at - line.sent_at)
        if not reply.excused:
            self._check_time(asked, reply, begun)
        return "gone" if outcome == "cut" and reply.excused else outcome

    def _check_time(self, asked: Asked, reply: Reply, begun: float) -> None:
        media = reply.get("content-type")
        streamed = asked.stream or media == "text/event-stream"
        at = reply.first_at if streamed else reply.end_at
        late = at - begun - asked.limit - TICK - 12 * self.world.latency
        self.sim.check(late <= 0, "late", f"request {asked.number}: {late:.3f} s")

    def _unanswered(self, asked: Asked, line: Line) -> str:
        """Return why there is no answer, if there is a right reason."""
        if line.broken or self.world.is_ending:
            return "gone"
        if line.closing or self.world.ends_soon(line.asked_at):
            ran = self.book.ran(asked.number)
            self.sim.check(not ran, "executed without an answer", f"request {asked.number}")
            return "not taken"
        self.sim.violation("no answer", f"request {asked.number} {asked.method} {asked.target}")
        return "nothing"


def _give_up(line: Line) -> None:
    if not line.broken:  # else it may be that nobody hears of its end
        number = line.waiting[0][0].number if line.waiting else 0
        line.world.sim.violation("hangs", f"request {number}")
    line.given_up = True  # an end of ours says nothing of the answer's
    line.transport.abort()
