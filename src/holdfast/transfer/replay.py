"""An answer that was received already, given to whoever decides about it.

What asks for many small files takes only the plain good answers itself. Everything else goes
to the machine that knows what to do, together with the answer: so nothing is asked for twice,
no received byte is lost, and every decision is made in one place.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.transfer.plane import End, Received

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.transfer.plane import Plane, Request, Sink
    from holdfast.transfer.traffic import Flow, Shared, Traffic
    from holdfast.wire.cancel import Cancel


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one exchange. body: as far as it was received."""

    received: Received
    body: bytes = b""


class Replay:
    """A plane whose first exchange has happened already."""

    def __init__(self, answer: Answer, plane: Plane) -> None:
        self._answer: Answer | None = answer
        self._plane = plane

    def fetch(self, request: Request, sink: Sink, cancel: Cancel) -> Received:
        """Give the answer, the first time; else do an exchange."""
        answer, self._answer = self._answer, None
        if answer is None:
            return self._plane.fetch(request, sink, cancel)
        received = answer.received
        if received.head is None:
            return received
        take = sink.accept(received.head)
        if take is None:
            return Received(End.UNREAD, received.head, peer=received.peer)
        body, at = memoryview(answer.body), 0
        while at < len(body):
            most = take.now()
            piece = len(body) - at if most is None else min(len(body) - at, most - at)
            piece = min(piece, take.piece or piece)
            if piece <= 0:
                return Received(End.LIMIT, received.head, at, peer=received.peer)
            sink.write(body[at : at + piece])
            at += piece
        return Received(
            received.end, received.head, at, received.fault, received.text, received.peer
        )


class _Past:
    """The exchange that has happened: it takes no connection, and taught its lesson already."""

    def __init__(self, cancel: Cancel) -> None:
        self.cancel = cancel
        self.too_slow = False

    def moved(self, n: int) -> None:
        """Count nothing: it was counted when it came."""

    def ended(self, received: Received, *, resumed: bool) -> None:
        """Learn nothing."""


class AfterAll:
    """The `Traffic` of a transfer whose first exchange is a `Replay`: that one waits at no gate."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._first = True
        self.piece = traffic.piece

    def streams(self, host: str) -> int:
        """As for all."""
        return self._traffic.streams(host)

    def may_stay(self, host: str) -> bool:
        """As for all."""
        return self._traffic.may_stay(host)

    @contextmanager
    def flow(self, host: str, cancel: Cancel) -> Iterator[Flow]:
        """Begin at once what has happened, and wait as all do before everything after it."""
        first, self._first = self._first, False
        if first:
            with cancel.child() as mine:
                yield _Past(mine)
        else:
            with self._traffic.flow(host, cancel) as flow:
                yield flow

    def offer(self, work: Shared) -> None:
        """As for all."""
        self._traffic.offer(work)

    def withdraw(self, work: Shared) -> None:
        """As for all."""
        self._traffic.withdraw(work)
