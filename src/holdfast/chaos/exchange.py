"""One request and its answer on the fault server, with everything that goes wrong in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

from holdfast.chaos.fault import Fault, HttpFault, Positioned
from holdfast.chaos.line import Cut, Line, Plain, Track
from holdfast.chaos.message import Answer, Request, text_answer
from holdfast.chaos.stats import Entry
from holdfast.chaos.target import Struck
from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Sequence

    from holdfast.chaos.fault import Draws
    from holdfast.chaos.routes import Route
    from holdfast.chaos.stats import Stats
    from holdfast.runtime.random import SeededRandom

_CHUNK: Final = 256 * 1024  # per chunk of the chunked framing
_TOGETHER: Final = 32 * 1024  # up to this, head and body go out in one write


class Visit(Struck):
    """One connection of a client, as the faults that are drawn per connection see it."""

    def __init__(
        self,
        client: socket.socket,
        number: int,
        stats: Stats,
        turn_away: Callable[[float | None], None],
    ) -> None:
        super().__init__(number, stats, turn_away)
        self.client = client
        self.body_track = Track()
        self.answer_track = Track()
        # All answers of the connection share the handicaps of this line.
        self.lines["down"] = Line(client, client, _ignore)

    def track(self, fault: Positioned) -> Track:
        """Return the count of body bytes, or of all bytes, over the connection."""
        return self.answer_track if fault.part == "head" else self.body_track


class Exchange(Struck):
    """One request and its answer.

    request: read to its end.  route: who answers, or None.  failure: what the route raised.
    """

    def __init__(self, visit: Visit, request: Request, route: Route | None) -> None:
        super().__init__(request.number, visit.stats, _cannot_refuse)
        self.request = request
        self.route = route
        self.failure: Exception | None = None
        self._answer: Answer | None = None
        self.entry = Entry(
            request.number,
            request.connection,
            request.method,
            request.path,
            request.headers.get("range", ""),
            request.headers.get("if-range", ""),
        )
        self._visit = visit
        self._answer_track = Track()
        self._body_track = Track()
        self._line = Line(visit.client, visit.client, self._sent).like(visit.line("down"))
        self.lines["down"] = self._line
        self._head_line = Line(visit.client, visit.client, _ignore)

    @property
    def answer(self) -> Answer:
        """The answer that will be sent. Raises LookupError before there is one."""
        if self._answer is None:
            raise LookupError("the route was not asked yet")
        return self._answer

    def respond(self, answer: Answer) -> None:
        """Send this, and do not ask the route."""
        self._answer = answer

    def track(self, fault: Positioned) -> Track:
        """Return the count of this answer's bytes, or of those of its body."""
        return self._answer_track if fault.part == "head" else self._body_track

    async def run(self, draws: Sequence[Draws]) -> Answer:
        """Answer, and return what was sent; `close` in it says that the connection is used up.

        draws: the faults of the whole server; the route brings its own.
        Raises Cut or OSError when the connection ends in the middle.
        """
        try:
            return await self._run(draws)
        finally:
            self.entry.faults = tuple(self.kinds)

    async def _run(self, draws: Sequence[Draws]) -> Answer:
        spoken = [(f, rng) for f, rng in self._drawn(draws) if isinstance(f, HttpFault)]
        for fault, rng in spoken:
            self.rng = rng
            fault.prepare(self)
        self._answer = answer = self._answer or await self._asked()
        for fault, rng in spoken:
            self.rng = rng
            fault.alter(self)
        if not self.request.keeps_alive or answer.surplus or answer.framing == "close":
            answer.close = True
        if self._line.delay is not None:
            await clock.asleep(self._line.delay())
        await self._send(answer)
        if self._line.swallow or self._head_line.swallow:
            raise Cut("fin")
        return answer

    def _drawn(self, draws: Sequence[Draws]) -> list[tuple[Fault, SeededRandom]]:
        hits = self.draw(draws)
        if self.route is not None:
            # The route's faults count its own requests: traffic elsewhere must not move them.
            self.number = self.route.requests
            hits += self.draw(self.route.draws)
        return hits

    async def _asked(self) -> Answer:
        if self.route is None:
            return text_answer(404, "nothing here\n")
        try:
            return await self.route.answer(self.request)
        except Exception as error:  # noqa: BLE001 - a user's function; told when the server ends
            self.failure = error
            return text_answer(500, "the route failed\n")

    async def _send(self, answer: Answer) -> None:
        for interim in answer.interim:
            await self._line.write_all(interim)
        head = answer.head()
        over_all = (self._visit.answer_track, self._answer_track)
        tracks = (self._visit.body_track, self._body_track, *answer.tracks, *over_all)
        bodiless = self.request.method == "HEAD" or not answer.has_body
        if not bodiless and self._is_simple(answer) and not any(tracks):
            await self._send_together(head, answer, tracks)
            return
        await self._head_line.send(Plain(head), 0, len(head), over_all)
        self._head_is_out(answer)
        if bodiless:
            return
        if answer.framing == "chunked":
            await self._send_chunks(answer, tracks)
        else:
            await self._line.send(answer.body, answer.start, answer.end, tracks)
        if answer.surplus:
            await self._line.write_all(answer.surplus)

    def _is_simple(self, answer: Answer) -> bool:
        return (
            answer.end - answer.start <= _TOGETHER
            and answer.framing != "chunked"
            and not answer.surplus
            and self._line.is_plain
        )

    async def _send_together(self, head: bytes, answer: Answer, tracks: Sequence[Track]) -> None:
        """Send a small answer in one write: half the system calls, and one packet."""
        size = answer.end - answer.start
        await self._line.write_all(b"".join([head, *answer.body.pieces(answer.start, answer.end)]))
        self._head_is_out(answer)
        self._sent(size)
        for track in tracks:
            track.position += size

    async def _send_chunks(self, answer: Answer, tracks: Sequence[Track]) -> None:
        # The framing between the chunks is not counted: positions are those of the body.
        for start, stop, wait in _chunks(answer):
            if wait:
                await self._line.hang(wait)
            await self._line.write_all(b"%x\r\n" % (stop - start))
            await self._line.send(answer.body, start, stop, tracks)
            await self._line.write_all(b"\r\n")
        await self._line.write_all(b"0\r\n\r\n")

    def _head_is_out(self, answer: Answer) -> None:
        self.entry.status = answer.status
        self.stats.statuses[answer.status] += 1

    def _sent(self, count: int) -> None:
        self.entry.sent += count
        self.stats.bytes_down += count


def _chunks(answer: Answer) -> Iterator[tuple[int, int, float]]:
    """Yield start, end and the wait before each chunk of an answer."""
    start = answer.start
    for length, wait in answer.chunks or ((_CHUNK, 0.0),) * -(-(answer.end - start) // _CHUNK):
        stop = min(answer.end, start + length)
        if start < stop:  # an empty one would be the last
            yield start, stop, wait
        start = stop


def _ignore(_: int) -> None:
    """Count nothing: heads are not body bytes."""


def _cannot_refuse(_: float | None) -> NoReturn:
    raise RuntimeError("only connections can be refused")
