"""The time seam: the only place that asks the machine what time it is, or sleeps.

Product code uses `clock.monotonic()` and its siblings below. A test or a simulation puts
another `Clock` in with `install`; nothing else in the package needs to know.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    import threading
    from collections.abc import Awaitable, Callable, Iterator


class Timer(Protocol):
    """A timer that can still be called off."""

    def cancel(self) -> None:
        """Do not fire; calling it twice, or after it fired, does nothing."""


class Clock(Protocol):
    """What a clock must offer. Times are seconds."""

    def monotonic(self) -> float:
        """Return a time that never goes back; its zero means nothing."""
        ...

    def wall(self) -> float:
        """Return seconds since the epoch; may jump either way."""
        ...

    def sleep(self, seconds: float) -> None:
        """Block this thread."""

    def wait(self, event: threading.Event, timeout: float | None) -> bool:
        """Block this thread until `event` is set (True) or `timeout` seconds passed (False)."""
        ...

    def asleep(self, seconds: float) -> Awaitable[None]:
        """Suspend this task."""
        ...

    def call_later(
        self, loop: asyncio.AbstractEventLoop, seconds: float, callback: Callable[[], object]
    ) -> Timer:
        """Run `callback` on `loop` after `seconds`; called on the loop's own thread."""
        ...


class SystemClock:
    """The machine's clock."""

    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)
    sleep = staticmethod(time.sleep)

    @staticmethod
    async def asleep(seconds: float) -> None:
        """Suspend this task."""
        import asyncio

        await asyncio.sleep(seconds)

    @staticmethod
    def wait(event: threading.Event, timeout: float | None) -> bool:
        """Block until `event` is set or `timeout` seconds passed."""
        return event.wait(timeout)

    @staticmethod
    def call_later(
        loop: asyncio.AbstractEventLoop, seconds: float, callback: Callable[[], object]
    ) -> Timer:
        """Use the loop's own timer."""
        return loop.call_later(seconds, callback)


class _Active:
    """The installed clock, one slot per function: `clock.monotonic()` costs one attribute."""

    __slots__ = ("asleep", "call_later", "installed", "monotonic", "sleep", "wait", "wall")

    def __init__(self, installed: Clock) -> None:
        self.use(installed)

    def use(self, installed: Clock) -> None:
        self.installed = installed
        self.monotonic = installed.monotonic
        self.wall = installed.wall
        self.sleep = installed.sleep
        self.wait = installed.wait
        self.asleep = installed.asleep
        self.call_later = installed.call_later


clock = _Active(SystemClock())


@contextmanager
def install(replacement: Clock) -> Iterator[None]:
    """Use `replacement` for all policies and surfaces of this process inside the block."""
    before = clock.installed
    clock.use(replacement)
    try:
        yield
    finally:
        clock.use(before)
