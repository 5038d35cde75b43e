"""Lets the timers of a real asyncio loop follow a fake clock.

asyncio offers no hook for this, so a loop is changed in three places while a fake clock is
installed, and put back afterwards: `time` reads the fake clock, the timers that are set move by
the difference of the two clocks, and the selector is wrapped. When the loop would wait in
`select`, nothing is ready; then the clock may jump to the loop's next timer.
"""

from __future__ import annotations

import asyncio
import math
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.testing.loop import SimLoop

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

    from holdfast.testing.fakeclock import FakeClock


class LoopHook:
    """Stands for the selector of one loop."""

    def __init__(self, clock: FakeClock, loop: Any) -> None:  # noqa: ANN401 - see below
        # Any: the names with an underscore are asyncio's own; there is no public way.
        self._loop = loop
        self._clock = clock
        self._inner: Any = self._loop._selector  # noqa: SLF001
        self._own_time = self._loop.__dict__.get("time")
        self._shift(clock.monotonic() - loop.time())
        self._loop.time = clock.monotonic
        self._loop._selector = self  # noqa: SLF001

    def detach(self) -> None:
        """Put the loop back. Its timers keep the time that is left to them."""
        if self._loop.is_closed():
            return
        before = self._loop.time()
        if self._own_time is None:
            del self._loop.time
        else:
            self._loop.time = self._own_time
        self._shift(self._loop.time() - before)
        if self._loop._selector is self:  # noqa: SLF001
            self._loop._selector = self._inner  # noqa: SLF001

    def _shift(self, seconds: float) -> None:
        # All by the same amount: the heap stays a heap.
        for handle in self._loop._scheduled:  # noqa: SLF001
            handle._when += seconds  # noqa: SLF001

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    # -- what the clock asks ---------------------------------------------------------------------

    def select(self, timeout: float | None = None) -> list[Any]:
        """Wait as the fake clock says; called by the loop when nothing is ready."""
        events: list[Any] = self._inner.select(0)
        if events or (timeout is not None and timeout <= 0):
            return events
        if self._clock.closed:
            return self.block(timeout)
        return self._clock.idle(self)

    def due(self) -> float:
        """Return when the loop's next timer is due; infinity without one."""
        scheduled = self._loop._scheduled  # noqa: SLF001
        when: float = scheduled[0].when() if scheduled else math.inf
        if when > 1e6 and when != math.inf:
            # See SimLoop: a nanosecond gets lost in large numbers, and a due timer never runs.
            self._loop._clock_resolution = max(1e-9, 2 * math.ulp(when))  # noqa: SLF001
        return when

    def ready(self) -> bool:
        """Return whether the loop has something to run."""
        return bool(self._loop._ready) or bool(self._loop._stopping)  # noqa: SLF001

    def has_io(self) -> bool:
        """Return whether something other than the loop's own wake-up pipe is watched."""
        try:
            return len(self._inner.get_map()) > 1
        except AttributeError:  # Windows: the proactor does not say
            return True

    def block(self, limit: float | None) -> list[Any]:
        """Wait for real I/O, at most `limit` real seconds."""
        events: list[Any] = self._inner.select(limit)
        return events

    def wake(self) -> None:
        """Let `block` return; called from other threads."""
        if not self._loop.is_closed():
            self._loop._write_to_self()  # noqa: SLF001


def attachable(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether the timers of this loop can follow a fake clock: asyncio's own loops."""
    return isinstance(loop, asyncio.BaseEventLoop) and hasattr(loop, "_selector")


class SimHook:
    """Puts a fake clock into a running `SimLoop`, and its own clock back afterwards."""

    def __init__(self, clock: FakeClock, loop: SimLoop) -> None:
        self._loop = loop
        self._before = loop.clock
        self._shift(clock.monotonic() - loop.time())
        loop.clock = clock

    def detach(self) -> None:
        """Put the loop's clock back; it has lived through the same time."""
        passed = self._loop.clock.monotonic()
        self._before.advance(passed)
        self._shift(self._before.monotonic() - passed)
        self._loop.clock = self._before

    def _shift(self, seconds: float) -> None:
        for handle in self._loop._scheduled:  # noqa: SLF001 - asyncio offers no public way
            handle._when += seconds  # type: ignore[attr-defined]  # noqa: SLF001 - the same


@contextmanager
def new_loops(start: Callable[[asyncio.AbstractEventLoop], object]) -> Iterator[None]:
    """Call `start` with every real loop that begins to run inside the block, in any thread."""
    original = asyncio.BaseEventLoop.run_forever

    def run_forever(self: asyncio.BaseEventLoop) -> None:
        if not isinstance(self, SimLoop) and attachable(self):
            start(self)
        original(self)

    asyncio.BaseEventLoop.run_forever = run_forever  # type: ignore[method-assign]  # put back below
    try:
        yield
    finally:
        asyncio.BaseEventLoop.run_forever = original  # type: ignore[method-assign]


def running() -> asyncio.AbstractEventLoop | None:
    """Return the loop that runs in this thread, if any."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def positions(threads: list[threading.Thread]) -> tuple[object, ...]:
    """Return where each thread is, as something that changes when the thread moves on."""
    frames = sys._current_frames()  # noqa: SLF001 - the documented way to see other threads
    places: list[object] = []
    for thread in threads:
        frame = frames.get(thread.ident or 0)
        places.append((thread.ident, frame and (id(frame.f_code), frame.f_lasti), _spent(thread)))
    return tuple(places)


def _spent(thread: threading.Thread) -> object:
    """Return the time that the thread has run on a processor, as Linux says it.

    Its place in the code is not enough: threads are switched at the ends of loops, so a tight
    loop is always seen at the same instruction. A thread that is ready to run but gets no
    processor is not waiting either: it equals nothing, not even itself.
    """
    folder = Path(f"/proc/self/task/{thread.native_id}")
    try:
        # "pid (name) state ...", and the name may hold anything.
        state = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        spent = (folder / "schedstat").read_text(encoding="ascii").split()[0]
    except (OSError, IndexError):
        return ""  # not Linux, or it has just ended
    return object() if state == "R" else spent


def is_worker(thread: threading.Thread) -> bool:
    """Return whether this is one of the threads that policies run limited calls on."""
    return thread.name == "holdfast-worker"


def is_parked(thread: threading.Thread) -> bool:
    """Return whether this is such a thread and has nothing to do."""
    module = sys.modules.get("holdfast.runtime.workers")
    # A copy, as the pool may change meanwhile; making it does not let other threads run.
    return module is not None and thread in tuple(module.workers._idle)  # noqa: SLF001
