"""What a user does to a download that is there already: pause, resume, cancel, restart."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from holdfast.downloads.aria2.states import Input, State, after, applies, is_with_aria2

if TYPE_CHECKING:
    from holdfast.downloads.aria2.item import Item
    from holdfast.downloads.aria2.supervisor import Supervisor


class Control:
    """The operations; for the supervisor's loop. All raise Aria2Error if aria2 must be told."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._roster = supervisor.roster

    async def pause(self, item: Item) -> bool:
        """Hold a download. Raises Aria2Unavailable if aria2 has it and cannot be told."""
        if is_with_aria2(item.state) and not item.held:
            if item.state is not State.PAUSED and not await self._supervisor.rpc.succeeds(
                "aria2.forcePause", item.gid
            ):
                return False
        elif applies(item.state, Input.HOLD):
            item.held = True
            item.disk = False
            self._roster.drop_task(item, State.RESTARTING)
            self._roster.drop_task(item, State.PAUSED)
        else:
            return False
        if not applies(item.state, Input.HOLD):
            return False  # it ended while aria2 was told
        item.state = after(item.state, Input.HOLD)
        self._roster.commit(item)
        return True

    async def resume(self, item: Item) -> bool:
        """Let a paused download go on."""
        if item.state is not State.PAUSED:
            return False
        if not item.held and await self._supervisor.rpc.succeeds("aria2.unpause", item.gid):
            self._supervisor.moved(item, Input.QUEUED)
            self._supervisor.wake()
            return True
        self._roster.drop_task(item, State.PAUSED)
        self._supervisor.release(item)
        self._supervisor.launch(item)
        return True

    async def cancel(self, item: Item) -> bool:
        """Remove a download; what is on disk stays, and counts if it is added again."""
        if not applies(item.state, Input.CANCEL):
            return False
        known = is_with_aria2(item.state) and not item.held
        self._roster.drop_task(item, State.RESTARTING)
        self._roster.drop_task(item, State.PAUSED)
        item.state = after(item.state, Input.CANCEL)
        item.held = item.disk = False
        self._roster.commit(item)
        if known:
            await asyncio.shield(self._supervisor.leaving.begin(item.gid))
        return True
