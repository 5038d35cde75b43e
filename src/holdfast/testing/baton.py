"""Blocking code of several threads in a simulation: one of them runs at a time, in one order.

Each thread is real, but it runs only while it has the baton, and gives it back where it would
block: in `clock.wait`, and where it has a coroutine run for it. Meanwhile the loop's thread waits
for it. So threads are to the simulated loop what tasks are, and the same seed gives the same run.

    baton = Baton(sim)
    with baton.installed():
        report = await baton.run(engine.run)     # a plain function, on a thread of its own

A wait for an event is a look now and then, in virtual time: whoever sets an event tells nobody.
Between the looks a thread sleeps a millisecond at first, and then longer each time.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from holdfast.runtime import clock as clock_seam

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator

    from holdfast.runtime.clock import Timer
    from holdfast.testing.simulation import Sim
    from holdfast.testing.virtual import VirtualClock

_R = TypeVar("_R")
FIRST_LOOK = 0.001
LAST_LOOK = 0.1
GROWTH = 1.5


class Player:
    """One thread."""

    def __init__(self, work: Callable[[], object], name: str) -> None:
        self._work = work
        self._turn = threading.Semaphore(0)
        self.said: SimpleQueue[Coroutine[Any, Any, object] | None] = SimpleQueue()
        self.value: object = None
        self.error: BaseException | None = None
        self.ended = threading.Event()
        self.result: object = None
        self.raised: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._turn.acquire()
        try:
            self.result = self._work()
        except BaseException as error:  # noqa: BLE001 - raised again by who waits for the end
            self.raised = error
        self.ended.set()
        self.said.put(None)

    def go_on(self) -> Coroutine[Any, Any, object] | None:
        """Let it run until it blocks; return what it waits for, None at its end."""
        self._turn.release()
        said = self.said.get()
        if said is None:
            self._thread.join()
        return said

    def ask(self, awaited: Coroutine[Any, Any, object]) -> Any:  # noqa: ANN401 - what it gives
        """Give the baton back until `awaited` has ended; called on the thread itself."""
        self.said.put(awaited)
        self._turn.acquire()
        error, self.error = self.error, None
        if error is not None:
            raise error
        return self.value


class Baton:
    """Runs blocking code on the loop of a simulation. It is a `Hands` of downloads as well."""

    def __init__(self, sim: Sim) -> None:
        self._clock = sim.clock
        self._loop = sim.loop
        self._here = threading.local()
        self._tasks: list[asyncio.Task[None]] = []

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Let waits on the clock seam give the baton back."""
        with clock_seam.install(_BatonClock(self, self._clock)):
            yield

    # -- for the loop ------------------------------------------------------------------------------

    async def run(self, work: Callable[[], _R]) -> _R:
        """Run a function on a thread of its own; return what it returns, raise what it raises."""
        player = self._player(work, "main")
        await self._drive(player)
        for task in self._tasks:
            await task
        self._tasks.clear()
        if player.raised is not None:
            raise player.raised
        return player.result  # type: ignore[return-value]  # what `work` returned

    def _player(self, work: Callable[[], object], name: str) -> Player:
        def begin() -> object:
            self._here.player = player
            return work()

        player = Player(begin, name)
        return player

    async def _drive(self, player: Player) -> None:
        while (awaited := player.go_on()) is not None:
            try:
                player.value = await awaited
            except BaseException as error:  # noqa: BLE001 - for the thread that asked
                player.error = error

    # -- for the threads ---------------------------------------------------------------------------

    def start(self, work: Callable[[], None], name: str) -> _Hand:
        """Start one more thread (see `downloads.hands`)."""
        player = self._player(work, name)
        self._tasks.append(self._loop.create_task(self._drive(player), name=name))
        return _Hand(self, player)

    def run_coroutine(self, awaited: Coroutine[Any, Any, _R]) -> _R:
        """Have a coroutine run for the thread that calls."""
        return self._here.player.ask(awaited)  # type: ignore[no-any-return]  # what it gives

    def wait(self, event: threading.Event, timeout: float | None) -> bool:
        """Wait for an event, or for so many seconds."""
        if event.is_set():
            return True
        return self.run_coroutine(_look(event, timeout))

    @property
    def plays(self) -> bool:
        """Whether the calling thread is one of ours."""
        return getattr(self._here, "player", None) is not None


async def _look(event: threading.Event, seconds: float | None) -> bool:
    """Look at an event now and then, for so long; return whether it was set."""
    pause, left = FIRST_LOOK, seconds
    while not event.is_set():
        if left is not None and left <= 0:
            return False
        step = pause if left is None else min(pause, left)
        await asyncio.sleep(step)
        left = None if left is None else left - step
        pause = min(pause * GROWTH, LAST_LOOK)
    return True


class Runs:
    """`downloads.hands.Hands`, played with a baton."""

    def __init__(self, baton: Baton) -> None:
        self._baton = baton

    def start(self, work: Callable[[], None], name: str) -> _Hand:
        """Start a thread."""
        return self._baton.start(work, name)

    def run(self, main: Callable[[], Coroutine[object, object, None]]) -> None:
        """Run a coroutine on the simulated loop, while this thread waits."""
        self._baton.run_coroutine(main())


class _Hand:
    """A thread that was started."""

    def __init__(self, baton: Baton, player: Player) -> None:
        self._baton = baton
        self._player = player

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, or for so many seconds."""
        self._baton.wait(self._player.ended, timeout)


class _BatonClock:
    """The simulation's clock for several threads."""

    def __init__(self, baton: Baton, clock: VirtualClock) -> None:
        self._baton = baton
        self._clock = clock
        self.monotonic = clock.monotonic
        self.wall = clock.wall

    def sleep(self, seconds: float) -> None:
        """Sleep: give the baton back."""
        self.wait(threading.Event(), seconds)

    def wait(self, event: threading.Event, timeout: float | None) -> bool:
        """Wait: give the baton back."""
        if self._baton.plays:
            return self._baton.wait(event, timeout)
        return self._clock.wait(event, timeout)

    def asleep(self, seconds: float) -> Awaitable[None]:
        """Suspend a task."""
        return self._clock.asleep(seconds)

    def call_later(
        self, loop: asyncio.AbstractEventLoop, seconds: float, callback: Callable[[], object]
    ) -> Timer:
        """Use the loop's timers."""
        return self._clock.call_later(loop, seconds, callback)
