"""Time that moves only when it is told to, and draws that repeat: the seams of one thread.

`VirtualClock` is what a simulation installs. It knows one thread: whoever sleeps moves time.
`FakeClock` builds on it for tests with several threads and real event loops.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import TYPE_CHECKING

from holdfast.runtime.random import SeededRandom

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.runtime.clock import Timer

WALL_START = 1_767_225_600.0
"""What `wall()` starts at: 2026-01-01T00:00:00Z. Fixed, because a trace must repeat."""


class VirtualClock:
    """A clock for one thread, that which makes it: a sleep returns at once and time has moved.

    Another thread that sleeps on it, such as a worker that an earlier test left behind, would
    move time under the simulation, so it is refused: RuntimeError, on that thread.
    wall: seconds since the epoch at the start.
    slept: what every completed or begun wait asked for, in seconds, in order.
    """

    auto = True

    def __init__(self, *, wall: float = WALL_START) -> None:
        self._now = 0.0
        self._wall = wall
        self.slept: list[float] = []
        self._busy_before = _busy_workers()
        self._thread = threading.get_ident()

    @property
    def now(self) -> float:
        """Seconds since the start; the same number as `monotonic()`."""
        return self._now

    def monotonic(self) -> float:
        """Return seconds since the start."""
        return self._now

    def wall(self) -> float:
        """Return seconds since the epoch, steps included."""
        return self._wall + self._now

    def step_wall(self, seconds: float) -> None:
        """Let the wall clock jump, as NTP or a person does. No wait may notice."""
        self._wall += seconds

    def suspend(self, seconds: float) -> None:
        """Let both clocks jump at once, as when a laptop wakes up: every timer is late."""
        self._now += checked(seconds)

    def advance(self, seconds: float) -> None:
        """Move time by `seconds` (>= 0)."""
        self._now += checked(seconds)

    def move_to(self, when: float) -> None:
        """Move time to `when`, never back. The event loops call this."""
        self._now = max(self._now, when)

    def sleep(self, seconds: float) -> None:
        """Return at once; time has moved."""
        self._check_thread()
        self.slept.append(checked(seconds))
        self._now += seconds

    def wait(self, event: threading.Event, timeout: float | None) -> bool:
        """Return True if `event` is set. Else nobody is there to set it: the time passes."""
        if event.is_set():
            return True
        self._check_thread()
        if timeout is None:
            raise RuntimeError("waits forever: no other thread can set this event")
        if _busy_workers() > self._busy_before:
            raise RuntimeError(
                "a policy runs a synchronous call on a worker thread, which no simulation can "
                "order: use `interrupt=False`, or asynchronous calls"
            )
        if timeout > 0:
            self.slept.append(timeout)
            self._now += timeout
        return False

    def _check_thread(self) -> None:
        if threading.get_ident() != self._thread:
            name = threading.current_thread().name
            raise RuntimeError(f"thread `{name}` sleeps on the clock of another thread")

    async def asleep(self, seconds: float) -> None:
        """Suspend this task; its loop runs on this clock."""
        self.slept.append(seconds)
        await asyncio.sleep(seconds)

    def call_later(
        self, loop: asyncio.AbstractEventLoop, seconds: float, callback: Callable[[], object]
    ) -> Timer:
        """Use the loop's timers; the loop runs on this clock."""
        return loop.call_later(seconds, callback)


def _busy_workers() -> int:
    """Return how many worker threads of policies run or hang."""
    module = sys.modules.get("holdfast.runtime.workers")
    return module.workers.busy if module is not None else 0


def checked(seconds: float) -> float:
    """Return `seconds`, or raise ValueError for what `time.sleep` refuses too."""
    if not seconds >= 0:
        raise ValueError(f"seconds: {seconds!r}: must be a number >= 0")
    return seconds


class FixedRandom:
    """The random source under a fake clock: seeded, or one fixed draw. Never buggifies."""

    def __init__(self) -> None:
        self._source = SeededRandom(0)
        self._fixed: float | None = None

    def fix(self, fixed: float | None, seed: int | str | None) -> None:
        """Return `fixed` from every draw, or start over from `seed`."""
        if (fixed is None) == (seed is None):
            raise ValueError("random: give either the fixed draw or seed=")
        self._fixed = fixed
        if seed is not None:
            self._source = SeededRandom(seed)

    def draw(self) -> float:
        """Return the fixed draw, or the next one of the seed."""
        return self._source.draw() if self._fixed is None else self._fixed

    def token(self, nbytes: int) -> str:
        """Return `nbytes` bytes in hexadecimal, repeatable."""
        return self._source.token(nbytes)

    def buggify(self, name: str, p: float) -> bool:  # noqa: ARG002 - the shape of the seam
        """Never: a fake clock is no simulation."""
        return False
