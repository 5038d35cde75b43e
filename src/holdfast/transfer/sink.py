"""One stream of an object, and what lets a body into it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from holdfast.transfer.access import MAX_REFUSAL, REFUSALS
from holdfast.transfer.answers import Action, Decision, Question, judge
from holdfast.transfer.plane import Take

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.transfer.mirrors import Pick
    from holdfast.transfer.object import ObjectTransfer
    from holdfast.transfer.ranges import Claim
    from holdfast.transfer.traffic import Flow
    from holdfast.wire.http1 import Head

_BODIES = {Action.APPEND, Action.FROM_ZERO, Action.NEW_VERSION}


@dataclass(slots=True, eq=False)
class Stream:
    """One stream: the range that it has, and how far it is.

    pick: the mirror that it asks.
    at: where the next byte goes; end: of its range, None if the size is unknown.
    reached: bytes saved when progress was last counted.  was_cut_off: we ended its exchange.
    """

    pick: Pick
    reached: int = 0
    at: int = 0
    end: int | None = None
    received: int = 0
    claim: Claim | None = None
    flow: Flow | None = None
    was_cut_off: bool = False
    progress: Callable[[], None] = field(default=lambda: None)


class Sink:
    """Lets a body in as the table says. only_append: what would begin at zero is not wanted.

    refusal: the body of an answer that refused who asks; None if there is none, or nobody who
    could read it.
    """

    def __init__(
        self,
        transfer: ObjectTransfer,
        question: Question,
        stream: Stream,
        *,
        only_append: bool = False,
    ) -> None:
        self.decision: Decision | None = None
        self.refusal: bytearray | None = None
        self.question = question
        self.stream = stream
        self._transfer = transfer
        self._wanted = {Action.APPEND} if only_append else _BODIES
        self._overlap = 0

    def again(self, question: Question) -> Sink:
        """Return one for the same range at another address."""
        return Sink(self._transfer, question, self.stream, only_append=self._wanted is not _BODIES)

    def accept(self, head: Head) -> Take | None:
        """Look at the head; None leaves the body unread."""
        self.decision = decision = judge(self.question, head)
        if decision.action not in self._wanted:
            return self._refused(decision, head)
        if decision.action is Action.APPEND and self.question.start:
            self._overlap = self.stream.at - self.question.start
        if self.stream.flow is not None:
            self.stream.flow.moved(0)
        return self._transfer.begin(decision, self.stream)

    def _refused(self, decision: Decision, head: Head) -> Take | None:
        access = self._transfer.wanted.access
        if decision.action is not Action.FAIL or access is None or head.status not in REFUSALS:
            return None
        self.refusal = bytearray()
        return Take(MAX_REFUSAL)

    def write(self, data: memoryview) -> None:
        """Take the next bytes of the body."""
        if self.refusal is not None:
            self.refusal += data
            return
        overlap, self._overlap = self._overlap, max(0, self._overlap - len(data))
        self._transfer.write(data, overlap, self.stream)

    def lull(self) -> None:
        """Make safe what has come: more may never come."""
        if self.refusal is None:
            self._transfer.save(self.stream)
