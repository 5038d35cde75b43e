"""Many small files, on one event loop: plain GETs on connections that are kept alive.

    row -> is anything in the way? -> ask -> a plain good answer? -> part -> group (see `group`)
                     |                               |
                     `---------- handed over --------'

The lane takes the plain good answers itself and decides nothing else. Whatever is not plain, a
status, a fault, a promise that is not kept, a file in the way, a full disk, goes to a worker
thread with all that was received (see `transfer.replay`), and is judged there as every other
file is. So a fault of the lane ends as it does anywhere; only good news is told here.

One thread, no task per file and no timer per request: a slot is a connection that asks for the
next file when it has the last one, and ten times a second somebody looks at all slots.

A connection counts with those of the threads: together they stay within `workers`, and within
what each host bears. A thread that waits for a connection gets one before the lane goes on.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from holdfast.core.verdict import Kind, Sent
from holdfast.downloads.origins import TOO_LARGE, Origin, origin_of, wants
from holdfast.downloads.rows import MOST, Small
from holdfast.runtime.clock import clock
from holdfast.runtime.hub import hub
from holdfast.transfer.plain import checked, is_plain
from holdfast.transfer.plane import End, Received
from holdfast.transfer.plane_async import Line, dial
from holdfast.transfer.plane_threads import describe, verdict_of
from holdfast.transfer.replay import Answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from holdfast.downloads.crew import Crew
    from holdfast.downloads.fetch import Options
    from holdfast.downloads.group import Group
    from holdfast.downloads.rows import Rows
    from holdfast.runtime.clock import Timer
    from holdfast.runtime.passes import Admitted, Passes
    from holdfast.wire.addresses import AddrInfo, Reach
    from holdfast.wire.urls import Url

    LookUp = Callable[[str, int], Awaitable[Sequence[AddrInfo]]]

LOOK_EVERY = 0.1
AHEAD = 250
"""Rows that are ready at least, while the journal has more."""
MANY_EXPECTED = 1 << 40
HANDED = 256
"""While so many files wait for a thread, the lane asks for none."""
COUNT_EVERY = 32
"""Files after which the crew hears of them; of each at once if there is a bandwidth limit."""
CRAWL_SECONDS = 20.0
CRAWL_RATE = 1024


class _Slot:
    """One connection that the lane may have, and what it does."""

    __slots__ = ("again", "at", "began", "given", "item", "line", "origin", "quiet", "task")

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.line: Line | None = None
        self.item: Small | None = None
        self.given: Admitted | None = None
        self.task: asyncio.Task[None] | None = None
        self.began = self.at = self.quiet = 0.0
        self.again = False


class _Job:
    """Work that is done once, by whichever of two threads comes to it first."""

    __slots__ = ("_error", "_lock", "_work", "over")

    def __init__(self, work: Callable[[], None]) -> None:
        self.over = threading.Event()
        self._work: Callable[[], None] | None = work
        self._lock = threading.Lock()
        self._error: BaseException | None = None

    def run(self) -> None:
        """Do it, if nobody has; return when it is done."""
        with self._lock:
            work, self._work = self._work, None
            if work is None:
                return
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - raised again by `result`
                self._error = error
            self.over.set()

    def result(self) -> None:
        """Raise what it raised."""
        if self._error is not None:
            raise self._error


class Lane:
    """Fetches the small files of a run.

    rows: the journal's.  passes: the policy's, for a host.  reach: which addresses may be asked,
    if the user typed the URL or not.
    steered: ids that somebody paused or cancelled.  reread: called with the id of a row that is
    no business of the lane (any more).  handed: called with what was received of a file.
    clear: whether nothing is in the way of a name in a directory, which is made.
    look_up: finds addresses; called on the loop.  stopping: whether the run is to end.
    """

    def __init__(
        self,
        rows: Rows,
        into: str,
        *,
        crew: Crew,
        group: Group,
        options: Options,
        passes: Callable[[str], Passes],
        reach: Callable[[bool], Reach],
        look_up: LookUp,
        proxied: Callable[[Url], bool],
        steered: set[str],
        reread: Callable[[str], None],
        handed: Callable[[str, Answer | None], None],
        clear: Callable[[str, str], bool],
        stopping: Callable[[], bool],
    ) -> None:
        self._rows = rows
        self._into = into
        self._crew = crew
        self._group = group
        self._options = options
        self._most = min(MOST, options.max_size)
        self._passes = passes
        self._reach = reach
        self._look_up = look_up
        self._proxied = proxied
        self._steered = steered
        self._reread = reread
        self._handed = handed
        self._clear = clear
        self._stopping = stopping
        self._origins: dict[tuple[str, bool], Origin | None] = {}
        self._slots: dict[_Slot, None] = {}
        self._kept: list[_Slot] = []
        self._busy: dict[str, _Slot] = {}
        self._slot_of: dict[Line, _Slot] = {}
        self._ready = 0
        self._put = 0
        self._every = 1 if crew.piece else COUNT_EVERY
        self._exhausted = False
        self._not_before = 0.0
        self._error: BaseException | None = None
        self._over: asyncio.Event | None = None
        self._ended = threading.Event()  # nothing that is put on the loop now need ever run
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: Timer | None = None

    async def main(self) -> None:
        """Do it all, on this loop."""
        # Files in a group may come back until they have their names. One count for all of
        # them, and what came of it at the end: telling of each would cost a lock per file.
        self._crew.expect(MANY_EXPECTED)
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self._timer = clock.call_later(self._loop, LOOK_EVERY, self._look)
        try:
            self._spread()
            await self._over.wait()
        finally:
            self._ended.set()
            self._stop()
            if self._timer is not None:
                self._timer.cancel()
            self._crew.expect(self._put - MANY_EXPECTED)
        if self._error is not None:
            raise self._error

    # -- from other threads ----------------------------------------------------------------------

    def holds(self, item_id: str) -> bool:
        """Whether this file is being asked for now."""
        return item_id in self._busy

    def wake(self) -> None:
        """Go on, if nothing was asked because the group was full; for any thread."""
        loop = self._loop
        if self._kept and loop is not None:
            with suppress(RuntimeError):  # it has just been closed
                loop.call_soon_threadsafe(lambda: self._guarded(self._spread))

    def do(self, work: Callable[[], None]) -> None:
        """Have work done on the loop's thread, or here if it has ended; for any other thread."""
        job = _Job(work)
        loop = self._loop
        if loop is not None and not self._ended.is_set():
            with suppress(RuntimeError):  # it has just been closed
                loop.call_soon_threadsafe(job.run)
                while not clock.wait(job.over, LOOK_EVERY) and not self._ended.is_set():
                    pass
        job.run()
        job.result()

    def drop(self, item_id: str, then: Callable[[], None]) -> None:
        """Give a file up, and call `then` on the loop's thread; for any thread."""
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # it has just been closed; the file is at its end
                loop.call_soon_threadsafe(self._drop, item_id, then)

    def _drop(self, item_id: str, then: Callable[[], None]) -> None:
        slot = self._busy.get(item_id)
        if slot is not None:
            self._clear_slot(slot)
        self._guarded(then)
        if slot is not None and slot in self._slots:
            self._guarded(lambda: self._next(slot))

    # -- rows ------------------------------------------------------------------------------------

    def _refill(self) -> None:
        while not self._exhausted and self._ready < AHEAD and self._crew.ahead < HANDED:
            page, self._exhausted = self._rows.page()
            for row in page:
                origin = self._origin_of(row) if isinstance(row, Small) else None
                if origin is None or isinstance(row, str):
                    self._reread(row if isinstance(row, str) else row.id)
                else:
                    origin.waiting.append(row)
                    self._ready += 1

    def _origin_of(self, row: Small) -> Origin | None:
        """Return whom a file is asked from; None if that is left to the threads."""
        key = (row.origin, row.typed)
        if key not in self._origins:
            self._origins[key] = origin_of(
                row, self._crew, self._passes, self._reach, self._proxied
            )
        origin = self._origins[key]
        return origin if origin is not None and origin.too_large < TOO_LARGE else None

    def _spread(self) -> None:
        """Let as many connections work as may, and find the end."""
        if self._is_ending:
            return  # the next look ends it, if it has not ended
        self._refill()
        kept, self._kept = self._kept, []
        for slot in kept:
            self._next(slot)
        if not self._must_wait():
            for origin in [one for one in self._origins.values() if one is not None]:
                while origin.waiting and self._crew.take_slot(origin.host):
                    slot = _Slot(origin)
                    self._slots[slot] = None
                    self._next(slot)
        if self._exhausted and not self._ready and not self._slots and self._over is not None:
            self._over.set()

    # -- one slot --------------------------------------------------------------------------------

    def _next(self, slot: _Slot) -> None:
        """Let a slot ask for its next file; or keep it for a moment, or give it back."""
        origin = slot.origin
        while self._may_go_on(origin):
            if self._must_wait():
                self._kept.append(slot)
                return
            item = origin.waiting.popleft()
            self._ready -= 1
            if not self._is_free(item, origin):
                continue
            given = origin.passes.enter()
            if given is None:
                self._reread(item.id)  # there the policy says why not
                continue
            slot.item, slot.given, slot.again = item, given, False
            self._busy[item.id] = slot
            self._ask(slot)
            return
        self._give_back(slot)

    def _may_go_on(self, origin: Origin) -> bool:
        if self._ready < AHEAD:
            self._refill()
        if self._is_ending or not origin.waiting:
            return False
        return self._crew.may_go_on(origin.host, clock.monotonic())

    @property
    def _is_ending(self) -> bool:
        """Whether nothing may be asked for any more: what is asked now, nobody would end."""
        return self._error is not None or self._ended.is_set() or self._stopping()

    def _must_wait(self) -> bool:
        """Whether those behind us have enough to do: the disk, the threads, or the line."""
        if self._group.is_full or self._crew.ahead >= HANDED:
            return True
        return self._not_before > 0 and clock.monotonic() < self._not_before

    def _is_free(self, item: Small, origin: Origin) -> bool:
        """Whether a file can be asked for here: nobody wants otherwise, nothing is in its way."""
        if item.id in self._steered or origin.too_large >= TOO_LARGE:
            self._reread(item.id)
            return False
        parent, _, name = item.path.rpartition("/")
        if self._clear(parent, name):
            return True
        self._reread(item.id)
        return False

    def _ask(self, slot: _Slot) -> None:
        slot.began = slot.at = clock.monotonic()
        slot.quiet = 0.0
        line, item = slot.line, slot.item
        if line is None or line.is_dead:
            slot.line = None
            loop = asyncio.get_running_loop()
            slot.task = loop.create_task(self._connect(slot))
        elif item is not None:
            line.ask(slot.origin.question(item.target))

    async def _connect(self, slot: _Slot) -> None:
        origin, line = slot.origin, None
        try:
            line = await dial(
                origin.url,
                lambda: Line(wants, self._answered, most=self._most),
                timeout=self._options.timeouts.connect,
                look_up=self._look_up,
                reach=origin.reach,
            )
        except OSError as error:
            slot.task = None
            if slot.item is not None:
                fault = verdict_of(error, Sent.NO)
                received = Received(End.BROKEN, fault=fault, text=describe(error))
                self._guarded(lambda: self._hand_over(slot, received, b""))
            return
        slot.task = None
        if slot.item is None or slot not in self._slots:
            line.close()
            return
        slot.line = line
        self._slot_of[line] = slot
        self._guarded(lambda: self._ask(slot))

    def _answered(self, line: Line) -> None:
        slot = self._slot_of.get(line)
        if slot is None or slot.item is None:
            return
        try:
            self._take(slot, slot.item, line)
        except BaseException as error:  # noqa: BLE001 - the loop would only log it
            self._failed(error)

    def _take(self, slot: _Slot, item: Small, line: Line) -> None:
        """Take an answer that is good and plain, and hand over every other."""
        head, fault = line.head, line.fault
        if fault is not None and line.silent and line.asked > 1 and fault.kind is not Kind.TIMEOUT:
            # The peer had closed a connection that was idle: nobody's failure.
            self._forget(slot)
            self._ask(slot)
            return
        if line.end is not End.COMPLETE or head is None or not is_plain(head, item.size):
            self._pass_on(slot, line)
            return
        body = line.body
        whole = checked(body, head, item.size, item.digests)
        if whole is None:
            self._pass_on(slot, line)
            return
        try:
            done = self._group.write(item, head, whole, body)
        except OSError:
            self._pass_on(slot, line)
            return
        self._put += 1
        self._group.put(done)
        self._good(slot, item, len(body))

    def _good(self, slot: _Slot, item: Small, size: int) -> None:
        origin, given = slot.origin, slot.given
        origin.too_large = 0
        if given is not None:
            if hub.listening:
                self._crew.here.item = item
            origin.passes.succeeded(given)
        origin.count += 1
        origin.moved += size
        if origin.count >= self._every:
            self._count(origin)
        del self._busy[item.id]
        slot.item = slot.given = None
        self._next(slot)

    def _count(self, origin: Origin) -> None:
        """Tell the crew what has come; it may want the lane to wait."""
        count, origin.count = origin.count, 0
        moved, origin.moved = origin.moved, 0
        if count:
            wait = self._crew.counted(origin.host, count, moved)
            if wait:
                self._not_before = clock.monotonic() + wait

    def _pass_on(self, slot: _Slot, line: Line) -> None:
        """Hand an answer over, or the question, where the body was too large to be taken."""
        head, size = line.head, slot.item.size if slot.item is not None else None
        large = line.end in {End.UNREAD, End.LIMIT} and head is not None and wants(head)
        if large and not (
            size is not None and head is not None and head.length not in {None, size}
        ):
            slot.origin.too_large += 1
            self._hand_over(slot, None, b"")
        else:
            self._hand_over(slot, line.received(), bytes(line.body))

    def _hand_over(self, slot: _Slot, received: Received | None, body: bytes) -> None:
        item = slot.item
        self._forget(slot, keep=received is not None)
        if item is not None:
            if received is not None:
                self._crew.learn(slot.origin.host, received, resumed=False)
            self._clear_slot(slot, keep=True)
            self._handed(item.id, Answer(received, body) if received is not None else None)
        self._next(slot)

    def _forget(self, slot: _Slot, *, keep: bool = False) -> None:
        """Let a connection go that cannot be asked again."""
        line = slot.line
        if line is not None and not (keep and line.may_reuse and not line.is_dead):
            self._slot_of.pop(line, None)
            line.close()
            slot.line = None

    def _clear_slot(self, slot: _Slot, *, keep: bool = False) -> None:
        """Let a slot have nothing to do; what it did is nobody's success and nobody's failure."""
        item, given = slot.item, slot.given
        slot.item = slot.given = None
        if item is not None:
            self._busy.pop(item.id, None)
        if given is not None:
            slot.origin.passes.abandoned(given)
        task, slot.task = slot.task, None
        if task is not None:
            task.cancel()
        self._forget(slot, keep=keep)

    def _give_back(self, slot: _Slot) -> None:
        self._clear_slot(slot)
        if self._slots.pop(slot, 0) is None:
            self._crew.give_slot(slot.origin.host)
        if not self._slots and self._loop is not None:
            self._loop.call_soon(lambda: self._guarded(self._spread))

    # -- now and then ----------------------------------------------------------------------------

    def _look(self) -> None:
        loop, over = self._loop, self._over
        if loop is None or over is None or over.is_set():
            return
        self._guarded(self._look_at_all)
        if not over.is_set():
            self._timer = clock.call_later(loop, LOOK_EVERY, self._look)

    def _look_at_all(self) -> None:
        if self._stopping():
            if self._over is not None:
                self._over.set()
            return
        now = clock.monotonic()
        for slot in list(self._slots):
            line = slot.line
            if slot.item is not None and line is not None and slot.task is None:
                self._check_time(slot, line, now)
        for origin in self._origins.values():
            if origin is not None:
                origin.passes.flush()
                self._count(origin)
        self._spread()

    def _check_time(self, slot: _Slot, line: Line, now: float) -> None:
        timeouts = self._options.timeouts
        passed, slot.at = now - slot.at, now
        if line.head is None:
            if now - slot.began >= timeouts.first_byte:
                line.fail(TimeoutError("the head of the answer did not come in time"))
            return
        slot.quiet = slot.quiet + passed if line.quiet() else 0.0
        age = now - slot.began
        if slot.quiet >= timeouts.idle:
            line.fail(TimeoutError(f"no byte came for {timeouts.idle:g} s"))
        elif age >= CRAWL_SECONDS and len(line.body) < CRAWL_RATE * age:
            line.fail(TimeoutError("hardly a byte came"))

    def _stop(self) -> None:
        for slot in list(self._slots):
            self._slots.pop(slot)
            self._clear_slot(slot)
            self._crew.give_slot(slot.origin.host)
        for origin in self._origins.values():
            if origin is not None:
                origin.passes.flush()
                self._count(origin)
        self._group.hurry()

    def _guarded(self, step: Callable[[], None]) -> None:
        """Do a step of a callback; what it raises ends the lane, and is raised by `main`."""
        try:
            step()
        except BaseException as error:  # noqa: BLE001 - the loop would only log it
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        self._error = self._error or error
        if self._over is not None:
            self._over.set()
