"""Which event loop is used: uvloop's where it is installed, else asyncio's own."""

from __future__ import annotations

import asyncio

from holdfast.runtime.clock import SystemClock, clock


def new_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop, the fastest that is installed."""
    if isinstance(clock.installed, SystemClock):  # no other clock moves uvloop's timers
        try:
            import uvloop
        except ImportError:
            pass
        else:
            return uvloop.new_event_loop()
    return asyncio.new_event_loop()
