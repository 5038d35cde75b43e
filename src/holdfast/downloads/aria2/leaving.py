"""Downloads that aria2 is told to let go of.

It answers before it has closed the file and saved the control file, so that whoever cleared
or used the part at once could find a control file of the past beside a part of the present.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from typing import TYPE_CHECKING

from holdfast.downloads.aria2.errors import Aria2Error
from holdfast.downloads.aria2.states import HEARD
from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    from holdfast.downloads.aria2.rpc import Rpc

EVERY, LOOKS = 0.05, 200
"""Seconds between two looks, and how many: ten seconds in all."""


class Leaving:
    """Removes downloads from aria2. up: set while it is there."""

    def __init__(self, rpc: Rpc, up: asyncio.Event) -> None:
        self._rpc = rpc
        self._up = up
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def begin(self, gid: str) -> asyncio.Task[None]:
        """Remove a download; if aria2 is away, its watcher does that when it is back."""
        if gid not in self._tasks:
            loop = asyncio.get_running_loop()
            task = loop.create_task(self._remove(gid), context=contextvars.Context())
            task.add_done_callback(lambda _: self._tasks.pop(gid, None))
            self._tasks[gid] = task
        return self._tasks[gid]

    async def over(self, gid: str) -> None:
        """Return when aria2 has let go of a download."""
        if gid in self._tasks:
            await asyncio.wait([self._tasks[gid]])

    async def aclose(self) -> None:
        """Wait for nothing any more."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _remove(self, gid: str) -> None:
        if not self._up.is_set():
            return
        with contextlib.suppress(Aria2Error):
            await self._rpc.succeeds("aria2.forceRemove", gid)
            for _ in range(LOOKS):
                if await self._rpc.status(gid) not in HEARD:
                    return
                await clock.asleep(EVERY)
