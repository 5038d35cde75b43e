"""The life of each download: handed to aria2, watched, restarted, finished.

All of it runs on one loop, and each download is changed by one task at a time: the one that
launches or finishes it, or else whoever brings aria2's word (`told`). `tries` tells an answer
about an earlier attempt, which may arrive late, from one about this attempt.

aria2 writes to a part beside the target; the target's name appears by a rename at the end. A
part without its control file is never taken for data: aria2 allocates files to their full
length at once, and "continue" would take the zeros in it for bytes that are there.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from holdfast.core.backoff import Exponential
from holdfast.core.verdict import TRANSIENT
from holdfast.downloads.aria2.errors import Aria2Error, Aria2Refused
from holdfast.downloads.aria2.item import options_for
from holdfast.downloads.aria2.leaving import Leaving
from holdfast.downloads.aria2.look import (
    FIRST_LOOK,
    LATER_LOOK,
    Resume,
    has_changed,
    look,
    resume_of,
    was_cut,
    was_mixed,
)
from holdfast.downloads.aria2.states import (
    HEARD,
    Input,
    Next,
    State,
    after,
    applies,
    is_open,
    judge,
)
from holdfast.runtime.clock import clock
from holdfast.runtime.random import rng
from holdfast.telemetry import redact

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.downloads.aria2.item import Item, Option
    from holdfast.downloads.aria2.parts import Parts
    from holdfast.downloads.aria2.roster import Roster
    from holdfast.downloads.aria2.rpc import Rpc

LAUNCHES = 16
"""Downloads that are looked at and handed over at the same time."""
MOST_CHANGES = 3
LONGEST_WAIT = 30.0
DISK_EVERY = 5.0
DISK_ROOM = 1024 * 1024
"""Bytes that must be free beyond what a held download still needs: for its control file."""
MAX_TEXT = 500
KEYS = (
    "gid", "status", "totalLength", "completedLength", "downloadSpeed", "uploadSpeed",
    "numPieces", "connections", "errorCode", "errorMessage",
)  # fmt: skip


class Supervisor:
    """What happens to each download of a roster. For its loop.

    parts: the files.  delay: seconds, the base of the waits before restarts.  auto: restart
    what fails.  say: where lines go.  wake: called when the service should be asked soon.
    """

    def __init__(
        self,
        rpc: Rpc,
        roster: Roster,
        parts: Parts,
        *,
        delay: float,
        auto: bool,
        say: Callable[[str], None],
    ) -> None:
        self.rpc = rpc
        self.roster = roster
        self.parts = parts
        self.leaving = Leaving(rpc, roster.up)
        self.wake: Callable[[], object] = lambda: None
        self._auto = auto
        self._say = say
        self._backoff = Exponential(base=delay, cap=max(delay, LONGEST_WAIT))
        self._slots = asyncio.Semaphore(LAUNCHES)

    # -- tasks -----------------------------------------------------------------------------------

    async def launch_now(self, item: Item) -> None:
        """Hand a PENDING download over. What raises was not added: it is removed again."""
        self.roster.claimed.add(item.gid)
        try:
            await self.hand_over(item)
        except BaseException as error:
            self._take_back(item)
            # Silence, or a cancellation: aria2 may have it all the same.
            if not isinstance(error, Aria2Refused) and item.state is State.REMOVED:
                self.leaving.begin(item.gid)
            raise
        finally:
            self.roster.claimed.discard(item.gid)

    def _take_back(self, item: Item) -> None:
        """Undo an addition; one that had failed before is among the failed again."""
        if not applies(item.state, Input.CANCEL):
            return
        if item.failures:
            item.code, item.message = item.failures[-1].code, item.failures[-1].message
        item.state = after(item.state, Input.FAILED if item.failures else Input.CANCEL)
        self.roster.commit(item)

    def launch(self, item: Item) -> None:
        """Hand a PENDING download over, in the background; again until the service takes it."""
        if not self.roster.is_busy(item):
            self.roster.start(item, self._launch_until_taken(item))

    async def _launch_until_taken(self, item: Item) -> None:
        while item.state is State.PENDING:
            await self.roster.up.wait()
            try:
                await self.hand_over(item)
            except Aria2Refused as error:
                self.end(item, "28", error.reason)
            except Aria2Error:
                # The service is going away; whoever watches it finds that out.
                await clock.asleep(1.0)

    def _restart_after(self, item: Item, seconds: float) -> None:
        async def wait() -> None:
            await clock.asleep(seconds)
            if item.state is State.RESTARTING:
                item.state = after(item.state, Input.DUE)
                await self._launch_until_taken(item)

        self.roster.start(item, wait())

    # -- to aria2 ----------------------------------------------------------------------------------

    async def hand_over(self, item: Item) -> None:
        """Look at the origin, decide about the bytes that are there, and give it to aria2.

        Raises Aria2Error if the service is away or refuses; then it is PENDING as before.
        """
        async with self._slots:
            await self.leaving.over(item.gid)
            status = await self.rpc.status(item.gid)
            if status in HEARD:  # it has it: the journal was lost, or an answer
                item.tries = max(1, item.tries)
                await self._settle(item)
                return
            try:
                options = await self._prepared(item)
            except OSError as error:
                self.end(item, "17", f"the file system failed ({error.strerror})")
                return
            if options is not None:
                await self._give(item, options, old=status is not None)

    async def _prepared(self, item: Item) -> dict[str, Option] | None:
        """Return what aria2 is to be given; None if it is not to be given anything now."""
        if item.source is None:
            self.end(item, "24", "its address or a header was secret and is not stored; add it")
            return None
        if self.parts.is_taken(item):
            self.end(item, "13", "another file has this name; it was not touched")
            return None
        seconds = LATER_LOOK if item.tries else FIRST_LOOK
        seen = await look(self.rpc.session(), item.source, seconds)
        if item.state is not State.PENDING:
            return None  # cancelled or paused meanwhile
        resume = resume_of(item, seen, kept=self.parts.has_data(item))
        if resume is Resume.LATER:
            self.failed(item, seen.code, seen.text)
            return None
        if has_changed(item, seen) and self._too_many_changes(item):
            return None
        if resume is Resume.FRESH:
            self._wipe(item)
            item.pinned = seen.validators
        item.tries += 1
        self.roster.commit(item)  # what is pinned is on disk before the first byte of it
        fresh = resume is Resume.FRESH
        return options_for(item, fresh=fresh, head=seen.by_head, shared=self.parts.shared)

    async def _give(self, item: Item, options: dict[str, Option], *, old: bool) -> None:
        assert item.source is not None  # noqa: S101 - `hand_over` looked
        if old:
            # aria2 takes a gid again only when its old result is gone.
            await self.rpc.succeeds("aria2.removeDownloadResult", item.gid)
        try:
            await self.rpc.call("aria2.addUri", item.source.full(), options)
        except Aria2Refused:
            # An earlier try of this call may have been executed without its answer reaching us.
            if await self.rpc.status(item.gid) is None:
                raise
        self._say(f"added: {item.urls[0]} -> {item.gid}")
        await self._settle(item)

    async def _settle(self, item: Item) -> None:
        """Do what was asked while the download was on its way to aria2."""
        if item.state is State.PENDING:
            item.state = after(item.state, Input.QUEUED)
            self.roster.show(item)
            self.wake()
        elif item.state is State.PAUSED:
            await self.rpc.succeeds("aria2.forcePause", item.gid)
            item.held = False
            self.roster.commit(item)
        elif item.state is State.REMOVED:
            await asyncio.shield(self.leaving.begin(item.gid))

    # -- from aria2 --------------------------------------------------------------------------------

    def told(self, item: Item, status: dict[str, str], tries: int) -> None:
        """Take aria2's word about a download. tries: `item.tries` when it was asked."""
        if item.tries != tries or self.roster.is_busy(item) or not is_open(item.state):
            return
        word = status.get("status", "")
        if item.held:
            if word not in HEARD:
                return  # what is left of an attempt that is over
            item.held = item.disk = False  # it has it after all
        item.total = _number(status, "totalLength") or item.total
        item.completed = _number(status, "completedLength")
        item.download_speed = _number(status, "downloadSpeed")
        item.upload_speed = _number(status, "uploadSpeed")
        item.num_pieces = _number(status, "numPieces")
        item.connections = _number(status, "connections")
        if word in HEARD:
            self.moved(item, HEARD[word])
        elif word == "complete" and applies(item.state, Input.WHOLE):
            item.state = after(item.state, Input.WHOLE)
            self.roster.commit(item)
            self.roster.start(item, self._finish(item))
        elif word == "error":
            self.failed(item, status.get("errorCode", "1"), status.get("errorMessage", ""))
        elif word == "removed" and applies(item.state, Input.CANCEL):
            item.state = after(item.state, Input.CANCEL)
            self.roster.commit(item)

    def moved(self, item: Item, happened: Input) -> None:
        """Take it that aria2 queued, started or paused a download."""
        before = item.state
        if not applies(before, happened):
            return
        item.state = after(before, happened)
        if State.PAUSED in {before, item.state} and before is not item.state:
            self.roster.ledger.keep(item)
        self.roster.show(item)

    def missing(self, item: Item, tries: int) -> None:
        """Take it that aria2 does not know a download: hand it over again."""
        if item.tries != tries or self.roster.is_busy(item) or not is_open(item.state):
            return
        if item.state is State.FINISHING:
            self.roster.start(item, self._finish(item))
            return
        if item.state is State.PAUSED:
            item.held = True
            if item.disk:
                self.roster.start(item, self._await_room(item))
        item.state = after(item.state, Input.MISSING)
        if item.state is State.RESTARTING:  # the wait was cut off with the program
            item.state = after(item.state, Input.DUE)
        self.roster.commit(item)
        if item.state is State.PENDING:
            self.launch(item)

    # -- failures ----------------------------------------------------------------------------------

    def failed(self, item: Item, code: str, message: str) -> None:
        """Decide what follows from a failed attempt."""
        message = redact.text(message)[:MAX_TEXT]
        ruling = judge(code, message)
        most = self.roster.most_for(ruling)
        had = item.completed
        if had > item.best:  # progress starts the count afresh
            item.best, item.idle = had, 0
        if ruling.next is Next.HOLD:
            self._hold_for_disk(item, code, message)
        elif ruling.may_restart and self._auto and item.idle < most:
            item.idle += 1
            delay = self._backoff.delay(item.idle, TRANSIENT, rng.draw())
            self._say(f"{item.gid} failed ({code}): restart {item.idle}/{most} in {delay:.1f} s")
            if ruling.next is Next.AFRESH:
                self._wipe(item)
            item.state = after(item.state, Input.BROKE)
            self.roster.note(item, code, message, delay, had)
            # In a task of its own, also when the caller is the download's task.
            self.roster.give_up_task(item)
            self._restart_after(item, delay)
        else:
            self.end(item, code, message)

    def end(self, item: Item, code: str, message: str) -> None:
        """Put a download among the failed ones."""
        message = redact.text(message)[:MAX_TEXT]
        self._say(f"{item.gid} failed for good ({code}): {message}")
        had = item.completed
        if judge(code, message).next is Next.AFRESH:
            self._wipe(item)
        item.state = after(item.state, Input.FAILED)
        self.roster.note(item, code, message, 0.0, had)

    def _wipe(self, item: Item) -> None:
        """Let the next attempt begin at the first byte. `best` stays: the same is no progress."""
        self.parts.clear(item)
        item.pinned = None
        item.completed = 0

    def _too_many_changes(self, item: Item) -> bool:
        item.changes += 1
        if item.changes < MOST_CHANGES:
            return False
        self.end(item, "8", "the object changes while it is fetched")
        return True

    def _hold_for_disk(self, item: Item, code: str, message: str) -> None:
        item.state = after(item.state, Input.HOLD)
        item.held = item.disk = True
        self.roster.note(item, code, message, 0.0, item.completed)
        self.roster.give_up_task(item)
        self.roster.start(item, self._await_room(item))

    async def _await_room(self, item: Item) -> None:
        """Go on by ourselves when the disk has room again; we look every five seconds."""
        await clock.asleep(DISK_EVERY)
        while not self.parts.has_room(item, DISK_ROOM):
            await clock.asleep(DISK_EVERY)
        self.release(item)
        await self._launch_until_taken(item)

    # -- the end -----------------------------------------------------------------------------------

    async def _finish(self, item: Item) -> None:
        """Check what aria2 calls complete, and give it its name."""
        if await was_cut(self.rpc.session(), item):
            self._wipe(item)  # aria2 has removed the control file, so it cannot go on
            self.failed(item, "7", "the body ended early, by the size that the origin says")
            return
        if await was_mixed(self.rpc.session(), item):
            self._say(f"{item.gid}: the object changed while it was fetched")
            if not self._too_many_changes(item):
                self._wipe(item)
                item.state = after(item.state, Input.MISSING)
                self.roster.commit(item)
                await self._launch_until_taken(item)
            return
        loop = asyncio.get_running_loop()
        try:
            problem = await loop.run_in_executor(None, self.parts.publish, item)
        except OSError as error:
            self.end(item, "17", f"the file cannot get its name ({error.strerror})")
            return
        if problem is not None:
            self.failed(item, *problem)
            return
        item.state = after(item.state, Input.PUBLISHED)
        item.completed = item.total = max(item.total, item.completed)
        item.code = item.message = ""
        self.roster.commit(item)
        self._say(f"complete: {item.gid} -> {item.path}")

    # -- what `Control` shares --------------------------------------------------------------------

    def release(self, item: Item) -> None:
        """Let a held download go on; somebody launches it."""
        item.state = after(item.state, Input.RELEASE)
        item.held = item.disk = False
        self.roster.commit(item)

    def restart(self, item: Item, *, afresh: bool = False) -> None:
        """Start one that failed again. afresh: the counters too, since it was asked for anew."""
        item.state = after(item.state, Input.ADD if afresh else Input.DUE)
        if afresh:
            item.idle = item.changes = item.best = 0
            item.code = item.message = ""
        else:
            item.idle += 1
        self.roster.commit(item)


def _number(status: dict[str, str], name: str) -> int:
    text = str(status.get(name, ""))
    return int(text) if text.isdecimal() else 0
