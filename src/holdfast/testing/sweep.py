"""Cancel a task at every step of the loop: whatever it was doing, nothing may be left.

async def main(sim):                      # is cancelled, at another step in each run
    await policy.acall(fetch)

cancel_sweep(main, check=lambda sim: ...)
"""

from __future__ import annotations

import asyncio
from itertools import count
from typing import TYPE_CHECKING, Any

from holdfast.testing.simulation import Sim, SimFailure, sim_run

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


def cancel_sweep(
    main: Callable[[Sim], Coroutine[Any, Any, object]],
    check: Callable[[Sim], object] | None = None,
    *,
    seed: int = 0,
    around: Callable[[Sim, Callable[[], asyncio.Task[Any]]], Coroutine[Any, Any, None]]
    | None = None,
    most: int = 100_000,
) -> int:
    """Run `main(sim)` again and again, cancelled at loop step k, for every k until it ends.

    main: the coroutine function that is cancelled.  check: looks at the world after each run,
    raises what it finds.  around: runs beside it, as `around(sim, start)`: prepares, calls
    `start()` to begin the task, cleans up after it.  most: SimFailure beyond this many steps.

    Returns how many steps were swept. Raises SimFailure, with the step in a note, if a task, a
    timer, a transport or a file was left, if the cancellation was swallowed, and what `main` or
    `check` raise.
    """
    for k in count(1):
        world = _World(main, check, around, k)
        try:
            result = sim_run(world.run, seed)
        except BaseException as error:
            error.add_note(f"cancelled at loop step {k}")
            raise
        if not world.cancelled:
            return k - 1
        if k >= most:
            raise SimFailure(result)
    raise AssertionError  # `count` does not end


class _World:
    """One run of the sweep."""

    def __init__(
        self,
        main: Callable[[Sim], Coroutine[Any, Any, object]],
        check: Callable[[Sim], object] | None,
        around: Callable[[Sim, Callable[[], asyncio.Task[Any]]], Coroutine[Any, Any, None]] | None,
        k: int,
    ) -> None:
        self._main, self._check, self._around, self._k = main, check, around, k
        self._task: asyncio.Task[Any] | None = None
        self.cancelled = False

    async def run(self, sim: Sim) -> None:
        """Let the task run, cancel it at its k-th step, and look at what is left."""
        if self._around is not None:
            await self._around(sim, lambda: self._start(sim))
        else:
            self._start(sim)
        task = self._task
        if task is None:
            raise RuntimeError("`around` must call `start()`")
        await asyncio.wait([task])
        sim.loop.on_step = None
        sim.check(task.cancelled() or not self.cancelled, "cancellation swallowed")
        if not task.cancelled():
            task.result()
        if self._check is not None:
            self._check(sim)

    def _start(self, sim: Sim) -> asyncio.Task[Any]:
        task = self._task = asyncio.ensure_future(self._main(sim))
        begin = sim.loop.steps

        def on_step(step: int) -> None:
            if step == begin + self._k and not task.done():
                self.cancelled = task.cancel()

        sim.loop.on_step = on_step
        return task
