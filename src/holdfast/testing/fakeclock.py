"""A fake clock for tests: one thread, several threads, real asyncio loops, simulated loops.

    with hf.testing.clock() as clock:
        policy.call(flaky)
        assert clock.slept == [1.0, 2.0, 4.0]

Theory of operation. Everything that can wait is a *party*: a thread that sleeps or waits for an
event through the seam, and an event loop that has nothing ready. Time stands still while any
party runs. With `auto=True`, the party that goes to wait last moves time to the earliest wake-up
of all; with `auto=False` only `advance` does.

The difficult part is to know that nothing runs. A thread that joins another, a worker that reads
a real socket, a loop that watches a file descriptor: they wait, but not on us. They count as
running until `grace` real seconds have passed in which no party came or went and no such thread
executed a single instruction. Threads that were there before the clock are none of its business
until they wait on it.
"""

from __future__ import annotations

import math
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from holdfast.runtime import clock as clock_seam
from holdfast.runtime import random as random_seam
from holdfast.testing import realloop
from holdfast.testing.loop import SimLoop
from holdfast.testing.realsleep import RealSleep, forbidden
from holdfast.testing.virtual import FixedRandom, VirtualClock, checked

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from types import TracebackType

    from holdfast.runtime.clock import Timer

__all__ = ["ClockStuck", "FakeClock", "RealSleep"]

_SLICE = 0.001
"""Real seconds between two looks at who is running."""


class ClockStuck(RuntimeError):
    """Everything waits, the clock is moved by hand, and nobody is left to move it."""


@dataclass(slots=True, eq=False)
class _Waiter:
    """A party that waits. until: its own wake-up, or infinity.

    surely: whether it waits on nothing but us.  wake: ends its real wait after a jump.
    """

    until: float
    surely: Callable[[], bool]
    wake: Callable[[], object]


class FakeClock(VirtualClock):
    """Replaces clock, sleeps, timers and randomness of all policies inside a `with` block.

    auto: time jumps to the next wake-up when everything waits; else only `advance` moves it.
    grace: real seconds, see the module's text.
    slept: what `sleep` and `asleep` asked for and what `wait` waited in vain, in seconds.

    asyncio loops that run inside the block follow the clock too: `asyncio.sleep` and
    `asyncio.timeout` of the code under test take no real time either.
    Raises RealSleep if Holdfast's own code sleeps in real time.
    """

    def __init__(self, *, auto: bool = True, grace: float = 0.05) -> None:
        super().__init__()
        self.auto = auto
        self.closed = True
        self._slices = max(1, round(grace / _SLICE))
        self._random = FixedRandom()
        self._cond = threading.Condition(threading.Lock())
        self._waiting: dict[int, _Waiter] = {}
        self._moves = 0
        self._strangers: set[threading.Thread] = set()
        self._hooks: dict[int, realloop.LoopHook | realloop.SimHook] = {}
        self._real_sleeps: list[str] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if not self.closed:
            raise RuntimeError("this clock is in use already; make another")
        self.closed = False
        self._strangers = {
            thread
            for thread in threading.enumerate()
            if thread is not threading.current_thread() and not realloop.is_worker(thread)
        }
        self._stack.enter_context(forbidden(self._real_sleeps))
        self._stack.enter_context(realloop.new_loops(self._follow))
        self._stack.enter_context(clock_seam.install(self))
        self._stack.enter_context(random_seam.install(self._random))
        loop = realloop.running()
        if loop is not None:
            self._follow(loop)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        with self._cond:
            self.closed = True
            self._wake_due(math.inf)
        for hook in self._hooks.values():
            hook.detach()
        self._hooks.clear()
        if self._real_sleeps and error is None:
            raise RealSleep(self._real_sleeps[0])

    def random(self, fixed: float | None = None, *, seed: int | str | None = None) -> None:
        """Let every draw return `fixed` (1.0: the longest jitter), or draw from `seed`.

        Without a call the draws come from seed 0.
        """
        self._random.fix(fixed, seed)

    # -- the seam --------------------------------------------------------------------------------

    def sleep(self, seconds: float) -> None:
        """Block this thread until time has moved on by `seconds`."""
        until = self._now + checked(seconds)
        self.slept.append(seconds)
        with self._cond:
            me = self._enter(until, surely=lambda: True, wake=self._cond.notify_all)
            try:
                while self._now < until and not self.closed:
                    self._pass(self._cond.wait)
            finally:
                self._leave(me)

    def wait(self, event: threading.Event, timeout: float | None) -> bool:
        """Block until `event` is set (True) or `timeout` seconds have passed (False)."""
        until = math.inf if timeout is None else self._now + max(0.0, timeout)
        with self._cond:
            me = self._enter(until, surely=lambda: not event.is_set(), wake=lambda: None)
            try:
                while not (event.is_set() or self._now >= until or self.closed):
                    self._pass(self._event_block(event))
            finally:
                self._leave(me)
        if event.is_set():
            return True
        if timeout:
            self.slept.append(timeout)
        return False

    async def asleep(self, seconds: float) -> None:
        """Suspend this task until time has moved on by `seconds`."""
        loop = realloop.running()
        if loop is not None:
            self._follow(loop)
        await super().asleep(seconds)

    def call_later(
        self, loop: asyncio.AbstractEventLoop, seconds: float, callback: Callable[[], object]
    ) -> Timer:
        """Run `callback` on `loop` when time has moved on by `seconds`."""
        self._follow(loop)
        return loop.call_later(seconds, callback)

    # -- moving time -----------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Move time by `seconds`; sleepers wake in the order of their time.

        Threads that are woken run on until they wait again before time moves further. Timers of
        the event loop of this very thread run when the loop runs again: see `aadvance`.
        """
        target = self._now + checked(seconds)
        with self._cond:
            while (due := self._next_due()) <= target:
                self.move_to(due)
                self._wake_due(self._now)
                self._settle()
            self.move_to(target)
            self._moves += 1

    async def aadvance(self, seconds: float) -> None:
        """Move time by `seconds`; tasks of this loop run at each wake-up on the way."""
        loop = realloop.running()
        assert loop is not None  # noqa: S101 - a coroutine runs on a loop
        self._follow(loop)
        target = self._now + checked(seconds)
        while True:
            await _quiet(loop)
            timers = [t.when() for t in loop._scheduled if not t.cancelled()]  # type: ignore[attr-defined]  # noqa: SLF001
            with self._cond:
                due = min([self._next_due(), *timers])
                if due > target:
                    self.move_to(target)
                    self._moves += 1
                    return
                self.move_to(due)
                self._wake_due(self._now)
                self._settle()

    def suspend(self, seconds: float) -> None:
        """Let both clocks jump at once, as when a laptop wakes up: every timer is late."""
        with self._cond:
            self._now += checked(seconds)
            self._wake_due(self._now)

    def _next_due(self) -> float:
        return min((waiter.until for waiter in self._waiting.values()), default=math.inf)

    def _wake_due(self, until: float) -> None:
        """Wake the parties whose time has come. From here on they count as running."""
        self._moves += 1
        for ident, waiter in list(self._waiting.items()):
            if waiter.until <= until:
                del self._waiting[ident]
                waiter.wake()

    def _settle(self) -> None:
        """Let the others run until they wait again, or have not moved for the grace time."""
        me = threading.current_thread()

        def others() -> list[threading.Thread]:
            return [thread for thread in self._running() if thread is not me]

        while running := others():
            before = self._position(running)
            for _ in range(self._slices):
                self._cond.wait(_SLICE)
                running = others()
                if not running:
                    return
            if before == self._position(running):
                return

    # -- parties (all with the lock held) --------------------------------------------------------

    def _enter(
        self, until: float, *, surely: Callable[[], bool], wake: Callable[[], object]
    ) -> int:
        me = threading.get_ident()
        self._strangers.discard(threading.current_thread())
        self._waiting[me] = _Waiter(until, surely, wake)
        self._moves += 1
        self._cond.notify_all()
        return me

    def _leave(self, me: int) -> None:
        self._waiting.pop(me, None)
        self._moves += 1

    def _pass(self, block: Callable[[float | None], Any]) -> Any:  # noqa: ANN401 - what block gives
        """Let time move on if everything waits; else wait for real, and return what came."""
        running = self._running()
        if not self.auto:
            if not running:
                self._refuse_if_stuck()
            return block(None)
        if not running and self._jump():
            return None
        before = self._position(running)
        for _ in range(self._slices):
            got = block(_SLICE)
            if got:
                return got
            running = self._running()
            if not running:
                break  # whoever ran has ended, or has nothing to do: nobody tells us that
        if not running or before == self._position(running):
            self._jump()
        return None

    def _jump(self) -> bool:
        due = self._next_due()
        if due == math.inf:
            return False
        self.move_to(due)
        self._wake_due(self._now)
        return True

    def _running(self) -> list[threading.Thread]:
        """Return the threads that do not surely wait on this clock."""
        return [
            thread
            for thread in threading.enumerate()
            if thread not in self._strangers
            and not self._is_foreign(thread)
            and thread.ident is not None
            and not self._surely_waits(thread.ident)
            and not realloop.is_parked(thread)
        ]

    def _is_foreign(self, thread: threading.Thread) -> bool:
        """Say whether a thread was not begun by Python, and has not used this clock.

        It shows up whenever it first asks who it is: a test runner's own may do so at any moment.
        """
        foreign = isinstance(thread, threading._DummyThread)  # noqa: SLF001 - nothing else tells
        return foreign and thread.ident not in self._waiting

    def _surely_waits(self, ident: int) -> bool:
        waiter = self._waiting.get(ident)
        return waiter is not None and waiter.surely()

    def _position(self, running: list[threading.Thread]) -> tuple[object, ...]:
        """Return something that changes when a party comes or goes, or a thread moves on."""
        others = [thread for thread in running if thread.ident not in self._waiting]
        return (self._moves, realloop.positions(others))

    def _refuse_if_stuck(self) -> None:
        due = self._next_due()
        if due != math.inf:
            raise ClockStuck(
                f"everything waits until t={due:.6g} s, but the clock is moved by hand "
                "(auto=False) and no thread is left to call advance(): use auto=True"
            )

    def _event_block(self, event: threading.Event) -> Callable[[float | None], bool]:
        def block(limit: float | None) -> bool:
            # In slices: whoever moves time cannot wake a thread that waits on a foreign event.
            moves = self._moves
            for _ in range(max(1, round((limit or 10 * _SLICE) / _SLICE))):
                self._cond.release()
                try:
                    came = event.wait(_SLICE)
                finally:
                    self._cond.acquire()
                if came or moves != self._moves:
                    return True
            return False

        return block

    # -- event loops -----------------------------------------------------------------------------

    def _follow(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let the loop's timers follow this clock; called in the loop's thread."""
        if id(loop) in self._hooks or clock_seam.clock.installed is not self:
            return
        if isinstance(loop, SimLoop):
            if loop.clock is not self:
                self._hooks[id(loop)] = realloop.SimHook(self, loop)
        elif realloop.attachable(loop):
            self._hooks[id(loop)] = realloop.LoopHook(self, loop)
        else:
            raise RuntimeError(
                f"{type(loop).__module__}: the timers of this loop cannot be moved by a fake "
                "clock; run the test on asyncio's own loop"
            )

    def idle(self, hook: realloop.LoopHook) -> list[Any]:
        """Wait for a loop that has nothing ready: until I/O, its next timer, or a wake-up."""

        def surely() -> bool:
            return not (hook.ready() or hook.has_io())

        def block(limit: float | None) -> list[Any]:
            self._cond.release()
            try:
                return hook.block(limit)
            finally:
                self._cond.acquire()

        until = hook.due()
        with self._cond:
            me = self._enter(until, surely=surely, wake=hook.wake)
            try:
                while self._now < until and not (self.closed or hook.ready()):
                    events: list[Any] = self._pass(block)
                    if events:
                        return events
            finally:
                self._leave(me)
        return []


async def _quiet(loop: asyncio.AbstractEventLoop) -> None:
    """Return when nothing else on this loop is ready."""
    import asyncio  # noqa: PLC0415 - the module is imported for types only

    while True:
        await asyncio.sleep(0)
        # While this task runs, what is ready is in this queue.
        if not loop._ready:  # type: ignore[attr-defined]  # noqa: SLF001 - no public way
            return
