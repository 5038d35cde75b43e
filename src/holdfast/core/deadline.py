"""Time limits: `Deadline` for the whole operation, `Timeout` for one attempt."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from holdfast.core.checks import positive


@dataclass(frozen=True, slots=True)
class Deadline:
    """The whole logical call, waits included, ends within `seconds`.

    Within another deadline the tighter one wins. interrupt: synchronous calls run on a
    worker thread, so that the caller returns in time even if the call hangs; the thread is
    left behind and its result dropped. With False they run inline and are only bounded by
    their own timeouts. Asynchronous calls are always interrupted.
    """

    seconds: float
    interrupt: bool = True

    def __post_init__(self) -> None:
        positive("Deadline", "seconds", self.seconds)


@dataclass(frozen=True, slots=True)
class Timeout:
    """One attempt ends within `seconds`, or within what is left of the deadline.

    For a stream it limits each wait for the next item. interrupt: as for `Deadline`.
    """

    seconds: float
    interrupt: bool = True

    def __post_init__(self) -> None:
        positive("Timeout", "seconds", self.seconds)


TICK = 1e-6
"""Less time than this is none: sums of waits are rounded, and a deadline is often their sum."""

Scope: TypeAlias = tuple[float, bool]
"""What surrounds a call: (expires, retrying). Tasks and our worker threads inherit it.

expires: monotonic time at which everything inside is over; infinite without a deadline.
retrying: a policy outside already retries, so those inside make one attempt.
A plain tuple, because one is made per call on the hot path.
"""

OUTSIDE: Scope = (math.inf, False)
