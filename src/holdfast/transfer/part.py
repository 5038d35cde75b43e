"""The part file: received bytes become kept bytes here, in an order that survives a crash.

    write to the file -> fdatasync(file) -> commit extents to the journal

A crash between any two steps only leaves bytes in the file that no row speaks of, and those
are fetched again. The other order would leave rows that speak of bytes which never reached
the disk, and these would end up in a finished file.

Several streams write at once, each at a place of its own. An extent grows in order and is
written by one stream at a time, so its CRC runs along, and what a broken stream leaves is
kept to the byte. Writing and CRC happen outside the lock: both let other threads run.
"""

from __future__ import annotations

import posixpath
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from holdfast.runtime.clock import clock
from holdfast.runtime.files import File, files
from holdfast.transfer import extents as _extents
from holdfast.transfer.crc import crc32
from holdfast.transfer.extents import Extent, Extents

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.transfer.verify import Hasher

CHECKPOINT_BYTES = _extents.MAX_CHECKPOINT
CHECKPOINT_SECONDS = 1.0
_READ = 1024 * 1024
ALLOCATE_FROM = 1024 * 1024
"""Bytes from which on room is taken beforehand; what is smaller is written before it matters."""


class UnsafePart(OSError):
    """Something that is no regular file stands at the name of a part."""


class Part:
    """The part file of one object; with several streams it has gaps.

    offset: bytes from the start that are there without a gap.  held: all that were received;
    saved: those of them that are journaled.  streams: how many write; step: bytes after which
    they are made safe, 8 MiB at most; both set by their owner.
    grown: called when `offset` has moved on; who sets it does the hashing from then on.

    path: of the part.  extents: what the journal knows; only these bytes are trusted.
    keep: commits extents; called only after they are on stable storage.
    drop: takes extents back from the journal, before their bytes are overwritten.
    durable: False leaves the syncs out: safe against a kill, not against a power cut.
    """

    def __init__(
        self,
        path: str,
        extents: Extents,
        keep: Callable[[Sequence[Extent]], None],
        *,
        drop: Callable[[Sequence[Extent]], None] = lambda _: None,
        durable: bool = True,
    ) -> None:
        self.path = path
        self.extent = _extents.EXTENT_SIZE
        self.streams = 1
        self.step = CHECKPOINT_BYTES
        self.hasher: Hasher | None = None
        self.grown: Callable[[], None] | None = None
        self._keep = keep
        self._drop = drop
        self._durable = durable
        self._file: File | None = None
        self._name_is_durable = False
        self._lost = False  # a sync failed: what was not journaled must not be believed
        self._lock = threading.Lock()
        self._saving = threading.Lock()  # held during a sync; the streams go on meanwhile
        self._dirty: dict[int, Extent] = {}
        self._saved_at = 0.0
        self._allocated = 0
        self._believe(extents)

    def _believe(self, extents: Extents) -> None:
        self.extents = extents
        self._tails = {extent.end: extent for extent in extents}
        self._heads = {extent.off: extent for extent in extents}
        self._dirty.clear()
        self.held = self.saved = extents.kept
        self.offset = extents.prefix

    # -- opening ---------------------------------------------------------------------------

    def open(self, hasher: Hasher | None = None) -> None:
        """Open or create the file, and believe of it only what is journaled and still there.

        The extents at which streams ended are read again and compared; if one is wrong, or a
        hasher needs the bytes anyway, every extent is. Afterwards `offset` and `gaps` say
        where to go on.
        """
        info = files().stat(self.path)
        if info is not None and not info.regular:
            raise UnsafePart(f"`{posixpath.basename(self.path)}` is no regular file")
        if info is None:
            self._believe(Extents())
            self._file = files().create(self.path)
        else:
            self._name_is_durable = bool(len(self.extents))
            self._file = files().open(self.path, write=True)
            self._believe(self.extents.within(info.size))
        self.hasher = hasher
        self._recheck()
        # What lies beyond is of nobody; a shorter new version must not keep a tail of it.
        self._opened.truncate(self.extents.end)
        self._saved_at = clock.monotonic()

    def _recheck(self) -> None:
        kept = list(self.extents)
        ends = [extent for extent in kept if extent.end % self.extent or extent is kept[-1]]
        if self.hasher is None and all(self._is_intact(extent) for extent in ends):
            return
        self._believe(Extents.of(e for e in kept if self._is_intact(e, self.hasher)))
        if self.hasher is not None and self.hasher.position > self.offset:
            self.hasher.restart()  # it took bytes of a bad extent; they are read again later

    def _is_intact(self, extent: Extent, hasher: Hasher | None = None) -> bool:
        crc, at = 0, extent.off
        while at < extent.end:
            data = self._opened.pread(min(_READ, extent.end - at), at)
            if not data:
                return False
            crc = crc32(data, crc)
            if hasher is not None and hasher.position == at:
                hasher.update(data)
            at += len(data)
        return crc == extent.crc32

    def allocate(self, size: int) -> None:
        """Take the room for `size` bytes, so that a full disk is met before a byte is fetched.

        The length of the file stays: what was only allocated is never taken for data. Nothing is
        done where the file system cannot. Raises OSError if there is no room.
        """
        if size >= ALLOCATE_FROM and size != self._allocated:
            try:
                self._opened.allocate(size)
            except OSError:
                # Some file systems keep what they could get, and others could use it.
                with suppress(OSError):
                    self._opened.truncate(self._opened.size())
                raise
            self._allocated = size

    @property
    def _opened(self) -> File:
        if self._file is None:
            raise RuntimeError("the part is not open")
        return self._file

    # -- writing ---------------------------------------------------------------------------

    def write(self, data: memoryview) -> None:
        """Take the next bytes from the start; for one stream alone. Raises OSError."""
        self.put(data, self.offset)

    def put(self, data: memoryview, at: int) -> None:
        """Take bytes at their place; after 8 MiB or a second they are made safe.

        No other stream may write to the same extent meanwhile. Raises OSError; what was
        written before the error is kept.
        """
        while len(data):
            piece = data[: self.extent - at % self.extent]
            n = self._opened.pwrite(piece, at)
            piece, data = piece[:n], data[n:]
            grows = self._tails.get(at) if at % self.extent else None
            off, known = (grows.off, grows.crc32) if grows else (at, 0)
            self._took(Extent(off, at + n - off, crc32(piece, known)), n)
            hasher = self.hasher
            if hasher is not None and self.grown is None and hasher.position == at:
                hasher.update(piece)
            at += n
        self._save_if_due()

    def _took(self, extent: Extent, n: int) -> None:
        with self._lock:
            if extent.len > n:
                self._tails.pop(extent.end - n, None)  # it grew
            self._tails[extent.end] = self._heads[extent.off] = extent
            self._dirty[extent.off] = extent
            self.held += n
            moved = extent.off <= self.offset < extent.end
            if moved:
                self.offset = extent.end
                while (follower := self._heads.get(self.offset)) is not None:
                    self.offset = follower.end
        if moved and self.grown is not None:
            self.grown()

    def _save_if_due(self) -> None:
        unsaved = self.held - self.saved
        step = min(self.step, CHECKPOINT_BYTES)
        if unsaved < step and clock.monotonic() - self._saved_at < CHECKPOINT_SECONDS:
            return
        # One stream syncs while the others go on, until 8 MiB of each are not safe.
        if self._saving.acquire(blocking=unsaved >= CHECKPOINT_BYTES * self.streams):
            try:
                self._checkpoint()
            finally:
                self._saving.release()

    def checkpoint(self) -> None:
        """Make what was written safe: sync, then commit. Raises OSError.

        After a failed sync it does nothing any more: a second fdatasync on the same file
        reports success for pages that the first one lost. The file is opened afresh later.
        """
        with self._saving:
            self._checkpoint()

    def _checkpoint(self) -> None:
        with self._lock:
            fresh = list(self._dirty.values())
        if not fresh or self._lost:
            return
        if self._durable:
            self._sync()
        self._keep(fresh)
        with self._lock:
            for extent in fresh:
                before = self.extents.at(extent.off)
                self.saved += extent.len - (before.len if before else 0)
                self.extents.put(extent)
                if self._dirty.get(extent.off) is extent:  # else it has grown meanwhile
                    del self._dirty[extent.off]
        self._saved_at = clock.monotonic()

    def _sync(self) -> None:
        try:
            self._opened.datasync()
            if not self._name_is_durable:
                files().sync_dir(posixpath.dirname(self.path))
                self._name_is_durable = True
        except OSError:
            self._lost = True
            raise

    def restart(self, hasher: Hasher | None = None) -> None:
        """Forget all bytes. The journal must have been told before, and no stream may write."""
        self._believe(Extents())
        self._opened.truncate(0)
        self._allocated = 0
        self.hasher = hasher

    def forget(self, extents: Sequence[Extent]) -> None:
        """Make gaps of some extents, journal first; no stream may write meanwhile."""
        self.checkpoint()
        self._drop(extents)
        gone = {extent.off for extent in extents}
        self._believe(Extents.of(extent for extent in self.extents if extent.off not in gone))
        self.hasher = None

    # -- the end -----------------------------------------------------------------------------

    def crc32(self, start: int, end: int) -> int:
        """Return the CRC-32 of bytes [start, end), as they are in the file."""
        crc = 0
        while start < end and (data := self._opened.pread(min(_READ, end - start), start)):
            crc = crc32(data, crc)
            start += len(data)
        return crc

    def gaps(self, size: int) -> list[tuple[int, int]]:
        """Return what is missing of `size` bytes, as (start, end), in order."""
        with self._lock:
            return Extents.of(self._heads.values()).gaps(size)

    def run_start(self, at: int) -> int:
        """Return from where on the bytes before `at` are there without a gap."""
        with self._lock:
            while (before := self._tails.get(at)) is not None:
                at = before.off
            return at

    def read(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes from `offset`; fewer only at the end."""
        pieces = []
        while size > 0:
            data = self._opened.pread(size, offset)
            if not data:
                break
            pieces.append(data)
            size -= len(data)
            offset += len(data)
        return b"".join(pieces)

    def digest_all(self, hasher: Hasher, *, enough: Callable[[], bool] = lambda: False) -> None:
        """Run `hasher` on over the bytes that are there without a gap, or until `enough`."""
        while hasher.position < self.offset and not enough():
            size = min(_READ, self.offset - hasher.position)
            data = self._opened.pread(size, hasher.position)
            if not data:
                return
            hasher.update(data)

    def seal(self) -> None:
        """Make the file exactly what was received, and safe."""
        self.checkpoint()
        if self._opened.size() != self.offset:
            self._opened.truncate(self.offset)
            if self._durable:
                self._sync()

    def close(self) -> None:
        """Give the file back; nothing is synced."""
        if self._file is not None:
            self._file.close()
            self._file = None
