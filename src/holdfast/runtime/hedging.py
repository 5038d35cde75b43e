"""One attempt as a race: the first copy, and hedges if it is slow. Needs asyncio, loaded late.

Every copy runs in a task of its own, with a copy of the caller's context. The caller only
waits: for a copy to end, for the time of the next hedge, for the limit of the attempt. So its
limit needs no cancellation, and one that arrives is always the caller's own.

However the race ends (an answer, all failed, too late, the caller cancelled), the losers are
cancelled and waited for: one or two steps of the loop, usually. A loser that does not obey (it
shields something, or awaits in a `finally`) may not hold the caller up for longer than `GRACE`;
then it is left to end by itself, is kept alive until it has, and its result is dropped. At most
`MOST_LEFT` are left so in a process; beyond that callers wait for theirs. Permits go back when
the caller goes on, as they do for a function that is left behind on its worker thread.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from holdfast.core.hedge import most_telling
from holdfast.core.verdict import Kind
from holdfast.runtime.base import flush
from holdfast.runtime.clock import clock
from holdfast.runtime.ending import too_late
from holdfast.runtime.lock import deciding

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from holdfast.core.call import Attempt, Call
    from holdfast.core.verdict import Verdict

T = TypeVar("T")

GRACE = 0.04
"""Seconds that a caller waits for losers. With it a deadline of one second is kept to 1.05."""

MOST_LEFT = 64
"""Losers that are left to end by themselves, in the whole process."""

# A dict as an ordered set. It keeps them alive: the loop itself does not.
_left: dict[asyncio.Future[Any], None] = {}


async def hedged(
    call: Call,
    step: Attempt,
    send: Callable[[], Awaitable[T]],
    *,
    judge: Callable[[T | None, BaseException | None], Verdict | None],
    discard: Callable[[T], Awaitable[object] | None] | None = None,
) -> T:
    """Make the attempt `step` of `call`, hedged as its policy says; return the value that won.

    For drivers, to be used if `step.hedge_after` is not None; they go on as after any attempt:
    tell the machine `succeeded` with the value, `failed` with what is raised here or with a
    value that they judge a failure.

    send: begins one copy; called once per copy, in a task of its own, the context a copy of the
        caller's.
    judge: given the value or the error of a copy (the other is None), returns the verdict of a
        failure, None for a success. A failure waits for the copies that are still out, unless it
        is PERMANENT or AUTH, which they would only be told too.
    discard: gets each value that is not returned (a response to close), also one that a loser
        comes in with later. What it returns is awaited if it can be; what it raises is dropped.

    If every copy failed, the most telling failure is returned or raised: an answer rather than
    a broken connection, rather than none. Raises TimeoutError or DeadlineExceeded at the limit
    of the attempt, at most `GRACE` late.
    """
    race = _Race(call, step, send, judge, discard)
    try:
        return await race.run()
    finally:
        race.forget()  # an error's traceback holds this frame: it must not hold the error


class _Race(Generic[T]):
    """The copies of one attempt."""

    def __init__(
        self,
        call: Call,
        step: Attempt,
        send: Callable[[], Awaitable[T]],
        judge: Callable[[T | None, BaseException | None], Verdict | None],
        discard: Callable[[T], Awaitable[object] | None] | None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._call = call
        self._step = step
        self._send = send
        self._judge = judge
        self._discard = discard
        self._copies: list[asyncio.Task[T]] = []  # by number
        self._ended: deque[int] = deque()  # numbers, in the order in which they ended
        self._failed: list[tuple[Verdict, asyncio.Task[T]]] = []
        self._wake: asyncio.Future[None] | None = None
        self._late = False  # the limit passed; a copy may still save what it has

    async def run(self) -> T:
        """Return the value of the copy that decides, or raise its error."""
        chosen: asyncio.Task[T] | None = None
        error: BaseException | None = None
        try:
            try:
                chosen = await self._decided()
            except GeneratorExit:
                raise  # the loop is gone, and the copies with it
            except BaseException as caught:
                error = caught
            cancelled, chosen = await self._stop(chosen)
            if cancelled:
                raise asyncio.CancelledError
            if chosen is not None:
                return chosen.result()
            assert error is not None
            raise error
        finally:
            # No cycle through the traceback.
            chosen = error = None

    def forget(self) -> None:
        """Hold nothing any more."""
        self._copies.clear()
        self._ended.clear()
        self._failed.clear()

    # -- until it is decided -----------------------------------------------------------

    async def _decided(self) -> asyncio.Task[T]:
        """Return the copy that decides the attempt, once one does."""
        step = self._step
        assert step.hedge_after is not None
        now = clock.monotonic()
        expires, hedge_at = now + step.timeout, now + step.hedge_after
        self._begin()
        while True:
            # What has come is looked at first: an answer in the tick of the limit counts.
            while self._ended:
                chosen = self._look(self._copies[self._ended.popleft()])
                if chosen is not None:
                    return chosen
            now = clock.monotonic()
            if now >= expires:
                self._late = True
                raise too_late(step, self._call)
            if now >= hedge_at:
                hedge_at = now + step.hedge_after if self._hedge() else math.inf
            if not self._ended:  # an eager task may be over already
                await self._next(min(expires, hedge_at) - now)

    def _begin(self) -> None:
        number = len(self._copies)
        task = self._loop.create_task(self._copy(number))
        self._copies.append(task)

        def cancelled(task: asyncio.Task[T]) -> None:
            if task.cancelled():
                self._over(number)

        task.add_done_callback(cancelled)

    async def _copy(self, number: int) -> T:
        try:
            return await self._send()
        finally:
            # A callback of the task would tell one step of the loop later (but one that is
            # cancelled before it began has nothing else). The caller looks in the next step,
            # when this task has ended.
            self._over(number)

    def _over(self, number: int) -> None:
        self._ended.append(number)
        self._ring()

    def _hedge(self) -> bool:
        call = self._call
        with deciding:
            number = call.hedge(clock.monotonic())
        flush(call)
        if number is None:
            return False
        self._begin()
        return True

    def _look(self, task: asyncio.Task[T]) -> asyncio.Task[T] | None:
        """Take the end of one copy; return the copy that decides, if it is decided now."""
        if task.cancelled():
            return task  # by itself, or by whoever knows its task: passed on like any other
        error = task.exception()
        verdict = self._judge(task.result() if error is None else None, error)
        number = self._copies.index(task)
        call = self._call
        if verdict is None:
            with deciding:
                call.won(clock.monotonic(), number)
            return task
        if verdict.kind is Kind.CANCELLED:
            return task
        self._failed.append((verdict, task))
        with deciding:
            others = call.copy_failed(clock.monotonic(), number, verdict)
        flush(call)
        if others:
            return None
        return self._failed[most_telling([verdict for verdict, _ in self._failed])][1]

    async def _next(self, seconds: float) -> None:
        """Return when a copy has ended, or after `seconds`."""
        wake = self._wake = self._loop.create_future()
        timer = None if seconds == math.inf else clock.call_later(self._loop, seconds, self._ring)
        try:
            await wake
        finally:
            self._wake = None
            if timer is not None:
                timer.cancel()

    def _ring(self, _: object = None) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    # -- afterwards --------------------------------------------------------------------

    async def _stop(self, chosen: asyncio.Task[T] | None) -> tuple[bool, asyncio.Task[T] | None]:
        """Cancel the losers and wait for them within reason.

        Returns whether we were cancelled meanwhile, which drops what was chosen, and the copy
        to return. At the limit of the attempt that may be one which answers its cancellation
        with a value: as without hedging, that is kept.
        """
        waiting: list[asyncio.Future[Any]] = [task for task in self._copies if task is not chosen]
        for task in waiting:
            task.cancel()
        until = clock.monotonic() + GRACE
        cancelled = False
        while True:
            if self._late and chosen is None:
                chosen = next(filter(self._saves, self._copies), None)
            waiting = self._still_waiting([task for task in waiting if task is not chosen])
            left = until - clock.monotonic()
            if not waiting or (left <= 0 and not _too_many_left()):
                break
            try:
                await self._next(left if left > 0 else math.inf)
            except asyncio.CancelledError:
                cancelled, self._late = True, False
                waiting += [] if chosen is None else [chosen]
                chosen = None
                for task in self._copies:
                    task.cancel()  # once more, as it would reach them without us
        for straggler in waiting:
            _leave(straggler, self._discard if straggler in self._copies else None)
        return cancelled, chosen

    def _saves(self, task: asyncio.Task[T]) -> bool:
        if not task.done() or task.cancelled() or task.exception() is not None:
            return False
        try:
            if self._judge(task.result(), None) is not None:
                return False
        except Exception:
            return False  # a user's `classify=`; nothing may keep the losers from being stopped
        with deciding:
            self._call.won(clock.monotonic(), self._copies.index(task))
        return True

    def _still_waiting(self, waiting: list[asyncio.Future[Any]]) -> list[asyncio.Future[Any]]:
        """Drop what has ended; a value that is being closed has to be waited for in turn."""
        still = []
        for task in waiting:
            if not task.done():
                still.append(task)
                continue
            closing = _drop(task, self._discard if task in self._copies else None)
            if closing is not None:
                closing.add_done_callback(self._ring)
                still.append(closing)
        return still


def _drop(
    task: asyncio.Future[Any], discard: Callable[[T], Awaitable[object] | None] | None
) -> asyncio.Future[Any] | None:
    """Drop the result of what has ended; return the task that closes its value, if there is one.

    Asking for the exception tells asyncio that somebody has seen it.
    """
    if task.cancelled() or task.exception() is not None or discard is None:
        return None
    return asyncio.ensure_future(_closed(discard, task.result()))


async def _closed(discard: Callable[[T], Awaitable[object] | None], value: T) -> None:
    with suppress(Exception):  # nobody wants this value any more
        closing = discard(value)
        if closing is not None:
            await closing


def _too_many_left() -> bool:
    if len(_left) >= MOST_LEFT:
        for task in [task for task in _left if task.get_loop().is_closed()]:
            del _left[task]  # it will never end
    return len(_left) >= MOST_LEFT


def _leave(
    task: asyncio.Future[Any], discard: Callable[[T], Awaitable[object] | None] | None
) -> None:
    """Keep `task` alive until it ends by itself, then drop its result."""

    def ended(task: asyncio.Future[Any]) -> None:
        _left.pop(task, None)
        closing = _drop(task, discard)
        if closing is not None:
            _leave(closing, None)

    _left[task] = None
    task.add_done_callback(ended)
