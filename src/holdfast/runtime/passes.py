"""Attempts that a driver of its own makes by the thousand: admitted one by one, told in bulk.

For callers that hand over whatever does not succeed at once: a call that comes to nothing here
is abandoned, neutral for all counts, and begins anew where it was handed to. So only successes
are told, and an undisturbed success of an undisturbed policy costs no lock and no object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from holdfast.core.call import Attempt, Call
from holdfast.core.deadline import OUTSIDE
from holdfast.core.retry import Request
from holdfast.runtime.base import HAS_GIL, abandon, next_step, succeeded
from holdfast.runtime.clock import clock
from holdfast.runtime.hub import hub
from holdfast.runtime.lock import deciding

if TYPE_CHECKING:
    from holdfast.runtime.base import Base

Admitted: TypeAlias = "tuple[float, float, int] | Call"
"""One admitted attempt: (calm, began, generation) by the fast way, else the machine itself."""

BULK = 256
"""Successes that the budget is told of at once."""

_GET = Request(method="GET")


class Passes:
    """The passes of one key of a policy. For one thread; the policy is shared by all."""

    def __init__(self, policy: Base, key: str) -> None:
        self._policy = policy
        self._lane = policy._lane_of(key)
        self._owed = 0

    def enter(self) -> Admitted | None:
        """Admit an attempt, or return None: then nothing was taken."""
        now = clock.monotonic()
        lane = self._lane
        if HAS_GIL and not hub.listening and (calm := lane.enter(now)) is not None:
            return (calm, now, lane.breaker.gen)
        call = self._policy._begin(lane, now, OUTSIDE, _GET)
        if isinstance(next_step(call), Attempt):
            return call
        abandon(call)
        return None

    def succeeded(self, given: Admitted) -> None:
        """Take a success."""
        if isinstance(given, Call):
            succeeded(given)
            return
        lane = self._lane
        breaker, bulkhead = lane.breaker, lane.bulkhead
        # As `Lane.leave`, but for a budget that wants to hear of it: that waits for `flush`.
        if given[0] is breaker.calm_until and not bulkhead.waiting:
            bulkhead.active -= 1
            breaker.tally += 1
            if not lane.budget.idle:
                self._owed += 1
                if self._owed >= BULK:
                    self.flush()
            return
        self._policy._adopt(lane, given[1], given[2], succeeded=True)

    def abandoned(self, given: Admitted) -> None:
        """Take an attempt back, as if it had not been."""
        call = given
        if not isinstance(call, Call):
            call = self._policy._adopt(self._lane, call[1], call[2])
        abandon(call)

    def flush(self) -> None:
        """Tell the budget of the successes since the last time."""
        owed, self._owed = self._owed, 0
        if owed:
            now, budget = clock.monotonic(), self._lane.budget
            with deciding:
                for _ in range(owed):
                    budget.started(now)
                    budget.ended(None, ok=True)
