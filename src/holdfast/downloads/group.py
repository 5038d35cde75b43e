"""Small files are finished in groups: each step once for all of them.

    part written, for each file -> sync the file system -> commit `finishing`, one for all
    -> rename, for each -> sync each directory -> commit `done`, one for all

The order is that of a single file (see `fetch`), and so is what a crash leaves: what is
`finishing` has still its part or has its name; a part without that state counts for nothing. So
the group that is on its way to the disk is fetched again, and the one that fills up meanwhile;
while both are full nothing is asked for.

After a sync that failed nobody knows whose bytes were lost: none of the group is believed, and
the file system is not synced as a whole any more in this run.
"""

from __future__ import annotations

import posixpath
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from holdfast.downloads.names import part_name
from holdfast.downloads.rows import Done, finished, finishing
from holdfast.runtime.clock import clock
from holdfast.runtime.files import Volume, files
from holdfast.storage.journal import JournalFull

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from _typeshed import ReadableBuffer as Buffer

    from holdfast.downloads.rows import Small
    from holdfast.downloads.store import Store
    from holdfast.transfer.wanted import Whole
    from holdfast.wire.http1 import Head

MOST = 1000
SECONDS = 1.0
"""A group is finished when it has so many files, or its first one is so old."""
SLICE = 100
"""Files that get their names at a time: 2 ms, for which nobody is asked anything."""


class Group:
    """Takes files whose parts are written, and brings them to their ends. For any thread.

    ended: told the files that are done.  refused: told a file that somebody else must look at,
    as the journal has it.  stuck: told files that keep their state, and the error; the next
    run goes on with them.  room: called when there is room for more.
    where: runs many short calls of the system on the thread that makes the others. With two
    threads at it each call would hand the interpreter to and fro, which costs more than itself.
    """

    def __init__(
        self,
        store: Store,
        into: str,
        *,
        durable: bool,
        ended: Callable[[Sequence[Done]], None],
        refused: Callable[[Done], None],
        stuck: Callable[[Sequence[Done], Exception], None],
        room: Callable[[], None],
        where: Callable[[Callable[[], None]], None] = lambda work: work(),
    ) -> None:
        self._store = store
        self._into = into
        self._durable = durable
        self._ended = ended
        self._refused = refused
        self._stuck = stuck
        self._room = room
        self._where = where
        self._volume: Volume | None = None
        self._opened = not durable
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._waiting: list[Done] = []
        self._since = 0.0
        self._hurried = self._closing = False
        self._under_way = 0

    def __len__(self) -> int:
        """How many files wait for their end."""
        return len(self._waiting) + self._under_way

    @property
    def is_full(self) -> bool:
        """Whether a whole group waits behind one that is under way: a death would lose both."""
        return len(self._waiting) >= MOST

    # -- parts -----------------------------------------------------------------------------------

    def open(self) -> None:
        """Open the file system, before the first write: so it hears of every write that fails."""
        if not self._opened:
            self._opened = True
            self._volume = files().volume(self._into)

    def write(self, item: Small, head: Head, whole: Whole, body: Buffer) -> Done:
        """Make the part of a file that came whole. Raises OSError; then there is none."""
        parent, _, name = item.path.rpartition("/")
        directory = f"{self._into}/{parent}" if parent else self._into
        target = f"{directory}/{name}"
        part = f"{directory}/{part_name(name, item.id)}"
        self._write(part, body)
        seen = head.headers
        kind = seen.get("content-type", "").partition(";")[0].strip().lower()
        etag, modified = seen.get("etag", ""), seen.get("last-modified", "")
        return Done(item.id, item.path, part, target, whole, etag, modified, kind)

    def _write(self, part: str, data: Buffer) -> None:
        # A part that is there was left by a death before its group was committed, and holds
        # nothing that counts.
        place = files()
        try:
            file = place.create(part)
        except FileExistsError:
            info = place.stat(part)
            if info is None or not info.regular:
                raise
            place.unlink(part)
            file = place.create(part)
        try:
            left, at = memoryview(data), 0
            while left:
                n = file.pwrite(left, at)
                left, at = left[n:], at + n
            if self._durable and self._volume is None:
                file.datasync()
        except OSError:
            with suppress(OSError):
                place.unlink(part)
            raise
        finally:
            file.close()

    # -- ends ------------------------------------------------------------------------------------

    def put(self, done: Done) -> None:
        """Take a file whose part is written and right."""
        with self._lock:
            waiting = self._waiting
            waiting.append(done)
            n = len(waiting)
            if n == 1:
                self._since = clock.monotonic()
        if n in {1, MOST}:
            self._news.set()

    def hurry(self) -> None:
        """Do not wait for more: somebody waits for what is there."""
        if self._waiting and not self._hurried:
            self._hurried = True
            self._news.set()

    def close(self) -> None:
        """End `run` when nothing waits any more."""
        self._closing = True
        self._news.set()

    def run(self) -> None:
        """Finish groups, until `close` was called and none is left; for a thread of its own."""
        try:
            while True:
                self._news.clear()
                wait = self._due(clock.monotonic())
                if wait == 0:
                    self.flush()
                elif self._closing and not self._waiting:
                    return
                else:
                    clock.wait(self._news, wait)
        finally:
            if self._volume is not None:
                self._volume.close()

    def _due(self, now: float) -> float | None:
        """Return in how many seconds a group is due; None: there is none."""
        if not self._waiting:
            self._hurried = False
            return None
        if self._hurried or self._closing or len(self._waiting) >= MOST:
            return 0.0
        return max(0.0, self._since + SECONDS - now)

    def flush(self) -> None:
        """Bring one group to its end."""
        with self._lock:
            group, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
            self._since = clock.monotonic()
            self._hurried = False
            self._under_way = len(group)
        self._room()
        try:
            self._finish(group)
        finally:
            self._under_way = 0

    def _finish(self, group: list[Done]) -> None:
        directories = dict.fromkeys(posixpath.dirname(done.target) for done in group)
        try:
            if self._durable:
                self._sync(directories)
            finishing(self._store, group)
        except (OSError, JournalFull):
            self._distrust(group)
            return
        named: list[tuple[Done, float]] = []
        for at in range(0, len(group), SLICE):
            some = group[at : at + SLICE]
            self._where(lambda some=some: named.extend(self._name(some)))  # type: ignore[misc] # bound at once
        try:
            if self._durable:
                for directory in directories:
                    files().sync_dir(directory)
            finished(self._store, named)
        except (OSError, JournalFull) as error:
            self._stuck([done for done, _ in named], error)
            return
        self._ended([done for done, _ in named])

    def _sync(self, directories: dict[str, None]) -> None:
        volume = self._volume
        if volume is None:  # then each part was synced when it was written
            for directory in directories:
                files().sync_dir(directory)
            return
        try:
            volume.sync()
        except OSError:
            self._volume = None
            volume.close()
            raise

    def _distrust(self, group: list[Done]) -> None:
        for done in group:
            with suppress(OSError):
                files().unlink(done.part)
            self._refused(done)

    def _name(self, group: Sequence[Done]) -> list[tuple[Done, float]]:
        return [pair for done in group if (pair := self._named(done)) is not None]

    def _named(self, done: Done) -> tuple[Done, float] | None:
        """Give a file its name; None if that is for others to decide."""
        place = files()
        try:
            # Once more: somebody else may have put a file there while this one came in.
            if place.stat(done.target) is None:
                place.rename(done.part, done.target)
                info = place.stat(done.target)
                return done, info.mtime if info else 0.0
        except OSError:
            pass  # it meets the error again where it is judged
        self._refused(done)
        return None
