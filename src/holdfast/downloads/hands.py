"""Where the work of a run happens: threads, and an event loop on one of them.

A run asks for both here and nowhere else, so that a simulation can put others in: threads that
take turns, and its own loop.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

from holdfast.runtime.clock import SystemClock, clock

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine


class Hand(Protocol):
    """A thread that was started."""

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, or for so many seconds."""


class Hands(Protocol):
    """Starts threads and runs coroutines."""

    def start(self, work: Callable[[], None], name: str) -> Hand:
        """Do `work` on another thread, which does not keep the process alive."""
        ...

    def run(self, main: Callable[[], Coroutine[object, object, None]]) -> None:
        """Run a coroutine on an event loop, on the calling thread, to its end."""


class Threads:
    """The machine's own."""

    def start(self, work: Callable[[], None], name: str) -> threading.Thread:
        """Start a daemon thread."""
        thread = threading.Thread(target=work, name=name, daemon=True)
        thread.start()
        return thread

    def run(self, main: Callable[[], Coroutine[object, object, None]]) -> None:
        """Run it on uvloop if that is installed, else on asyncio's own loop."""
        import asyncio  # noqa: PLC0415 - 40 ms, for who has something to run

        factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
        if isinstance(clock.installed, SystemClock):  # no other clock moves uvloop's timers
            try:
                import uvloop  # noqa: PLC0415 - optional, and only here
            except ImportError:
                pass
            else:
                factory = uvloop.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main())
