"""One timer for thousands of connections, of which nearly none ever comes due.

A proxy sets a limit at every turn of every request, and nearly all of them are moved on before
they are reached. An entry here is only moved when its time has come: an owner whose limit was put
off writes one attribute, and is looked at again when its old place comes up. So a limit costs no
heap, and a process has one timer of the loop.

Source: the hashed timing wheel of G. Varghese and T. Lauck (1987), with lazy moves.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable

    from holdfast.runtime.clock import Timer

TICK = 0.02
"""Seconds that a limit may be late by."""
HORIZON = 5.0
"""Seconds after which an owner is looked at, however far its limit is. One that is over has an
infinite limit, and is kept by its place until then."""


class Due:
    """Something with a limit. Subclasses say in `on_due` what happens when it is reached.

    due: monotonic time; infinite for none. Write it through `Wheel.set` alone.
    """

    __slots__ = ("_slot", "due")

    def __init__(self) -> None:
        self.due = math.inf
        self._slot = math.inf  # the tick in which the wheel looks at it next

    def on_due(self, now: float) -> None:
        """Act: the limit has been reached, and is infinite again."""
        raise NotImplementedError


class Wheel:
    """The limits of one event loop. For the loop's own thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tick: float = TICK) -> None:
        self._loop = loop
        self._tick = tick
        self._horizon = math.ceil(HORIZON / tick)
        self._slots: dict[int, list[Due]] = {}
        self._timer: Timer | None = None
        self._last = 0  # the tick that was looked at last

    def set(self, owner: Due, due: float) -> None:
        """Set or move a limit. due: monotonic time; infinite takes it back."""
        owner.due = due
        if due < owner._slot:
            # Its old place, if it has one, comes up later and finds nothing to do.
            self._put(owner)

    def _put(self, owner: Due) -> None:
        if self._timer is None:
            self._last = math.floor(clock.monotonic() / self._tick)
            self._timer = clock.call_later(self._loop, self._tick, self._turn)
        number = max(math.ceil(owner.due / self._tick), self._last + 1)
        number = min(number, self._last + self._horizon)
        owner._slot = number * self._tick
        self._slots.setdefault(number, []).append(owner)

    def _turn(self) -> None:
        now = clock.monotonic()
        until = math.floor(now / self._tick)
        self._timer = None
        numbers: Iterable[int] = range(self._last + 1, until + 1)
        if until - self._last > len(self._slots):  # after a long silence: only what is there
            numbers = sorted(n for n in self._slots if n <= until)
        self._last = until
        if self._slots:
            self._timer = clock.call_later(self._loop, self._tick, self._turn)
        for number in numbers:
            for owner in self._slots.pop(number, ()):
                self._look(owner, number * self._tick, now)

    def _look(self, owner: Due, slot: float, now: float) -> None:
        if owner._slot != slot:
            return  # it has an earlier place by now
        owner._slot = math.inf
        if owner.due <= now:
            owner.due = math.inf
            try:
                owner.on_due(now)
            except Exception as error:  # the others in the slot are to be looked at
                self._loop.call_exception_handler(
                    {"message": f"Exception in on_due of {owner!r}", "exception": error}
                )
        elif owner.due < math.inf:
            self._put(owner)

    def close(self) -> None:
        """Forget everything."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._slots.clear()

    @property
    def size(self) -> int:
        """How many places are taken."""
        return sum(len(owners) for owners in self._slots.values())
