"""The line of those who wait for an endpoint, and how it moves on.

    open    who is in line waits for a place; when anything ends, the first looks again
    held    all endpoints cool down: nobody goes before the first of them is cool
    ramp    one goes, and no other before it has its answer; each answer doubles how many
            may be under way, until the line is empty

Without the ramp a thousand who waited for the same second would go together, be throttled
together, and wait again. Those who come while others wait go behind them; who was let go and
comes back, because it found nobody after all, is the first again.

Decisions only: who keeps it says when the first endpoint has cooled down, and wakes those who go.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Phase(enum.StrEnum):
    """How the line moves."""

    OPEN = "open"
    HELD = "held"
    RAMP = "ramp"


class Input(enum.StrEnum):
    """What moves it."""

    COOLING = "cooling"  # one enters because all endpoints cool down
    COOLED = "cooled"  # the first endpoint has left its cool-down
    ANSWERED = "answered"  # one that was let go has its answer, and others wait
    LAST = "last"  # the same, and nobody waits any more
    ENDED = "ended"  # anything has ended without an answer, or was not let go by the line


TRANSITIONS: dict[tuple[Phase, Input], Phase] = {
    (Phase.OPEN, Input.COOLING): Phase.HELD,
    (Phase.OPEN, Input.COOLED): Phase.OPEN,
    (Phase.OPEN, Input.ANSWERED): Phase.OPEN,
    (Phase.OPEN, Input.LAST): Phase.OPEN,
    (Phase.OPEN, Input.ENDED): Phase.OPEN,
    (Phase.HELD, Input.COOLING): Phase.HELD,
    (Phase.HELD, Input.COOLED): Phase.RAMP,
    (Phase.HELD, Input.ANSWERED): Phase.HELD,
    (Phase.HELD, Input.LAST): Phase.HELD,  # let go before: it says nothing of now
    (Phase.HELD, Input.ENDED): Phase.HELD,
    (Phase.RAMP, Input.COOLING): Phase.HELD,
    (Phase.RAMP, Input.COOLED): Phase.RAMP,
    (Phase.RAMP, Input.ANSWERED): Phase.RAMP,
    (Phase.RAMP, Input.LAST): Phase.OPEN,
    (Phase.RAMP, Input.ENDED): Phase.RAMP,  # its place goes to the next
}
"""Every cell."""


class Line(Generic[T]):
    """Those who wait, first come, first served. Not thread-safe.

    most: so many may wait.  wake: called with each that may look for an endpoint now; it may
    enter again, or leave, before it returns.
    calm: nobody waits, nobody was let go, and nobody needs to wait: there is nothing to tell it.
    width: so many of those that were let go may be without an answer, while it ramps.
    """

    def __init__(self, most: int, wake: Callable[[T], object]) -> None:
        self.most = most
        self._wake = wake
        self._waiting: OrderedDict[T, None] = OrderedDict()
        self._gone: dict[T, bool] = {}  # let go, without an answer -> counts in this ramp
        self._out = 0
        self._waking = False
        self.phase = Phase.OPEN
        self.width = 1
        self.calm = True

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, one: object) -> bool:
        return one in self._waiting

    # -- coming and going ------------------------------------------------------------------------

    def admits(self, one: T) -> bool:
        """Say whether one that comes may look for an endpoint at once, or has to enter first."""
        if self.calm or one in self._gone:
            return True
        if self._waiting or self.phase is Phase.HELD:
            return False
        if self.phase is Phase.RAMP:
            if self._out >= self.width:
                return False
            self._let_go(one)
        return True

    def enter(self, one: T, *, cooling: bool) -> bool:
        """Let one wait; False if too many do. cooling: all endpoints cool down.

        One that was let go comes before all others, however many there are.
        """
        back = self._forget(one)
        if not back and len(self._waiting) >= self.most:
            return False
        if cooling:
            self._cools()
        self._waiting[one] = None
        if back:
            self._waiting.move_to_end(one, last=False)
        self.calm = False
        return True

    def leave(self, one: T) -> None:
        """Take out one that waits no longer, or is over without having been answered."""
        self._waiting.pop(one, None)
        if self.calm:
            return
        self._forget(one)
        self._move(Input.ENDED)
        self._release()

    # -- what happens to others ------------------------------------------------------------------

    def cooled(self) -> None:
        """Take note that the first endpoint has left its cool-down."""
        self._move(Input.COOLED)
        self._release()

    def answered(self, one: T) -> None:
        """Take note that one got its answer: not a refusal. Once for each; then `leave`."""
        if self.calm:
            return
        ramps = self._gone.get(one, False)
        self._forget(one)
        if ramps:
            self.width *= 2
            self._move(Input.ANSWERED if self._waiting else Input.LAST)
        self._release()

    def freed(self) -> None:
        """Take note that there is room: who took it has ended, or goes on elsewhere."""
        if not self.calm:
            self._move(Input.ENDED)
            self._release()

    # -- the rule --------------------------------------------------------------------------------

    def _cools(self) -> None:
        self._move(Input.COOLING)
        self.width = 1
        self._out = 0
        self._gone = dict.fromkeys(self._gone, False)

    def _move(self, what: Input) -> None:
        self.phase = TRANSITIONS[self.phase, what]

    def _let_go(self, one: T) -> None:
        ramps = self.phase is Phase.RAMP
        self._gone[one] = ramps
        self._out += ramps

    def _forget(self, one: T) -> bool:
        """Return whether it had been let go."""
        counts = self._gone.pop(one, None)
        if counts:
            self._out -= 1
        return counts is not None

    def _release(self) -> None:
        """Wake those who may go now; stop at one that found nobody and came back."""
        if self._waking:
            return  # a step within `wake`; the loop that called it goes on
        self._waking = True
        try:
            while self._waiting and self._may_go:
                one, _ = self._waiting.popitem(last=False)
                self._let_go(one)
                self._wake(one)
                if one in self._waiting:
                    break
        finally:
            self._waking = False
        self.calm = not self._waiting and not self._gone and self.phase is Phase.OPEN

    @property
    def _may_go(self) -> bool:
        if self.phase is Phase.RAMP:
            return self._out < self.width
        return self.phase is Phase.OPEN
