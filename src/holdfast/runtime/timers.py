"""Interrupting an asyncio task at its deadline, for a fraction of a timer per call.

Calls of one policy all have the same time limit, so they expire in the order in which they
began. One insertion-ordered dict and one loop timer per (loop, limit) are enough: a call
that ends in time costs a dict entry, not a heap operation. Only limits inherited from a
surrounding deadline have a time of their own and get a timer of their own.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from holdfast.core.bulkhead import Ticket
    from holdfast.runtime.clock import Timer


class Alarm:
    """One attempt's limit: cancels its task when it goes off, and tells that from others.

    The bookkeeping is that of `asyncio.timeout`: a cancellation that came from outside, even
    in the same tick, wins over ours. To await it is to go through `steps`: see `limit`.
    """

    __slots__ = ("_cancelling", "_home", "_task", "fired", "steps", "when")

    # `arm` fills these in: a constructor would cost each attempt one more call.
    _cancelling: int
    _home: dict[Alarm, None] | Timer
    _task: asyncio.Task[object]
    fired: bool
    steps: Any
    when: float

    def __await__(self) -> Generator[Any, Any, Any]:
        return self.steps  # type: ignore[no-any-return]  # an iterator is enough

    def fire(self) -> None:
        """Cancel the task."""
        self.fired = True
        self._task.cancel()

    def caused(self, error: BaseException | None) -> bool:
        """Take the alarm back, and say whether `error` is the cancellation it caused.

        Called exactly once, when the attempt is over; error: None if it ended well, in which
        case a cancellation that came too late is taken back as well.
        """
        home = self._home
        if type(home) is dict:
            home.pop(self, None)
        else:
            home.cancel()  # type: ignore[union-attr]  # it is a Timer
        alone = self.fired and self._task.uncancel() <= self._cancelling
        if error is not None:
            del self._task  # it holds the error, which holds frames, and they may hold this
        return alone and isinstance(error, asyncio.CancelledError)


class _Queue:
    """The alarms of one limit on one loop, in the order in which they go off."""

    __slots__ = ("alarms", "armed")

    def __init__(self) -> None:
        self.alarms: dict[Alarm, None] = {}
        self.armed = False

    def ring(self) -> None:
        now = clock.monotonic()
        for alarm in list(self.alarms):
            if alarm.when > now:
                break
            del self.alarms[alarm]
            alarm.fire()
        self.armed = False
        if self.alarms:
            self.arm(asyncio.get_running_loop(), next(iter(self.alarms)).when - now)

    def arm(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self.armed = True
        clock.call_later(loop, seconds, self.ring)


_queues: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[float, _Queue]] = WeakKeyDictionary()
_latest: tuple[Callable[[], object], dict[float, _Queue]] = (lambda: None, {})


def arm(now: float, expires: float, limit: float) -> Alarm:
    """Arm an alarm for the current task at `expires`, which is `now + limit` if it is the usual.

    Raises RuntimeError outside a task: only a task can be interrupted.
    """
    alarm = Alarm()
    arm_this(alarm, asyncio.get_running_loop(), now, expires, limit)
    return alarm


def arm_this(
    alarm: Alarm, loop: asyncio.AbstractEventLoop, now: float, expires: float, limit: float
) -> None:
    """Do what `arm` does with `alarm`, which was not armed before.

    It may be more than an alarm, to save an object. loop: the running one, which who knows it
    need not ask for (that is a system call in CPython 3.11).
    """
    global _latest  # noqa: PLW0603 - most processes have one loop: ask the weak dict once
    task = asyncio.current_task(loop)
    if task is None:
        raise RuntimeError("a deadline needs a task to interrupt: run this inside one")
    alarm._task = task
    alarm._cancelling = task.cancelling()
    alarm.when = expires
    alarm.fired = False
    if expires != now + limit:
        alarm._home = clock.call_later(loop, expires - now, alarm.fire)
        return
    if _latest[0]() is loop:
        queues = _latest[1]
    else:
        queues = _queues.setdefault(loop, {})
        _latest = (ref(loop), queues)
    queue = queues.get(limit)
    if queue is None:
        queue = queues[limit] = _Queue()
    queue.alarms[alarm] = None
    alarm._home = queue.alarms
    if not queue.armed:
        queue.arm(loop, limit)


async def granted(ticket: Ticket, seconds: float | None) -> None:
    """Return when `ticket` is granted, by whichever thread, or after `seconds`."""
    loop = asyncio.get_running_loop()
    here = threading.get_ident()
    done = loop.create_future()

    def settle() -> None:
        if not done.done():
            done.set_result(None)

    def wake() -> None:
        if threading.get_ident() == here:
            settle()
        else:
            # A closed loop has no waiter any more; its ticket comes back when it is collected.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(settle)

    ticket.wake = wake
    # The grant may have come before `wake` was set: look once more.
    if ticket.granted:
        return
    timer = None if seconds is None else clock.call_later(loop, seconds, settle)
    try:
        await done
    finally:
        if timer is not None:
            timer.cancel()
