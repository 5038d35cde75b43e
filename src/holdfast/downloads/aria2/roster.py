"""The downloads of one client: what is known of each, what is shown, and who works on it.

Every change is committed before it is shown. Each download has at most one task; whoever else
wants to change it asks `is_busy` first.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from typing import TYPE_CHECKING, Any

from holdfast.downloads.aria2.item import KEPT_FAILURES
from holdfast.downloads.aria2.model import Failure, RetryInfo
from holdfast.downloads.aria2.states import State, is_open, judge
from holdfast.runtime.clock import clock
from holdfast.telemetry import redact

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from holdfast.downloads.aria2.item import Item
    from holdfast.downloads.aria2.ledger import Ledger
    from holdfast.downloads.aria2.model import DownloadProgress
    from holdfast.downloads.aria2.states import Ruling

logger = logging.getLogger("holdfast.aria2")


class Roster:
    """All downloads of one service. Its methods are for its loop, `view` and `retry` for any.

    view: gid -> the latest snapshot.  retry: gid -> the latest `RetryInfo`.
    claimed: gids that a caller works on.
    up: set while the service is there.  most: restarts without progress.
    """

    def __init__(self, ledger: Ledger, most: int) -> None:
        self.ledger = ledger
        self.items: dict[str, Item] = {}
        self.view: dict[str, DownloadProgress] = {}
        self.retry: dict[str, RetryInfo] = {}
        self.up = asyncio.Event()
        self._most = most
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.claimed: set[str] = set()
        for item in ledger.items():
            self.items[item.gid] = item
            self.show(item)

    async def aclose(self) -> None:
        """End all tasks of ours; aria2 goes on with what it has."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def adopt(self, item: Item) -> None:
        """Take a download in."""
        self.items[item.gid] = item
        self.show(item)

    def drop(self, gid: str) -> None:
        """Forget a download."""
        del self.items[gid], self.view[gid], self.retry[gid]

    # -- what is shown ---------------------------------------------------------------------------

    def show(self, item: Item) -> None:
        """Put out the snapshots of a download."""
        self.view[item.gid] = item.progress(away=not self.up.is_set())
        self.retry[item.gid] = RetryInfo(
            gid=item.gid,
            retry_count=item.idle,
            max_retries=self._most,
            can_retry=self.can_restart(item),
            url=item.urls[0],
            options=dict(item.options),
            history=item.failures,
        )

    def show_all(self) -> None:
        """Put out the snapshots of all that are not over: the service came or went."""
        for item in self.items.values():
            if is_open(item.state):
                self.show(item)

    def can_restart(self, item: Item) -> bool:
        """Whether a failure now, or the one that ended it, leaves another attempt."""
        if is_open(item.state):
            return item.idle < self._most
        if item.state is not State.ERROR:
            return False
        ruling = judge(item.code, item.message)
        return ruling.may_restart and item.idle < self.most_for(ruling)

    def commit(self, item: Item) -> None:
        """Make the state durable, then show it."""
        self.ledger.keep(item)
        self.show(item)

    def note(self, item: Item, code: str, message: str, delay: float, had: int) -> None:
        """Commit a failure with the state that it led to. had: bytes that were there."""
        failure = Failure(clock.wall(), code, message, delay, had)
        item.code, item.message = code, message
        item.failures = (*item.failures, failure)[-KEPT_FAILURES:]
        self.ledger.failed(item, failure)
        self.show(item)

    def most_for(self, ruling: Ruling) -> int:
        """Return how many restarts without progress a cause gets."""
        return self._most if ruling.most is None else min(ruling.most, self._most)

    # -- tasks ---------------------------------------------------------------------------------

    def start(self, item: Item, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` for a download, which has no other task then."""
        # An empty context: nothing of the call that caused it, no deadline, belongs to it.
        task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
        self._tasks[item.gid] = task
        task.add_done_callback(lambda done: self._ended(item, done))

    def _ended(self, item: Item, task: asyncio.Task[None]) -> None:
        if self._tasks.get(item.gid) is task:
            del self._tasks[item.gid]
        if not task.cancelled() and task.exception() is not None:
            # A defect, or a journal that breaks: said aloud, and the download ends with it.
            error = task.exception()
            logger.error("aria2: %s: %s", item.gid, redact.text(f"{type(error).__name__}: {error}"))
            item.state = State.ERROR
            item.code, item.message = "1", ""
            self.show(item)

    def is_busy(self, item: Item) -> bool:
        """Whether a task of ours works on it."""
        task = self._tasks.get(item.gid)
        return item.gid in self.claimed or (task is not None and not task.done())

    def give_up_task(self, item: Item) -> None:
        """Let the task that runs now end without being the download's: another will be."""
        self._tasks.pop(item.gid, None)

    def drop_task(self, item: Item, waits_in: State) -> None:
        """End the task of a download that only waits, in this state."""
        if item.state is waits_in:
            task = self._tasks.pop(item.gid, None)
            if task is not None:
                task.cancel()
