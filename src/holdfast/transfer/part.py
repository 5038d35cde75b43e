"""The part file: received bytes become kept bytes here, in an order that survives a crash.

    write to the file -> fdatasync(file) -> commit extents to the journal

A crash between any two steps only leaves bytes in the file that no row speaks of, and those
are fetched again. The other order would leave rows that speak of bytes which never reached
the disk, and these would end up in a finished file.
"""

from __future__ import annotations

import posixpath
import zlib
from typing import TYPE_CHECKING

from holdfast.runtime.clock import clock
from holdfast.runtime.files import File, files
from holdfast.transfer.extents import EXTENT_SIZE, Extent, Extents

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.transfer.verify import Hasher

CHECKPOINT_BYTES = 8 * 1024 * 1024
CHECKPOINT_SECONDS = 1.0
_READ = 1024 * 1024


class UnsafePart(OSError):
    """Something that is no regular file stands at the name of a part."""


class Part:
    """One stream's part file, written from the start without gaps.

    offset: bytes from the start that were received; saved: those of them that are journaled.

    path: of the part.  extents: what the journal knows; only these bytes are trusted.
    keep: commits extents; called only after they are on stable storage.
    durable: False leaves the syncs out: safe against a kill, not against a power cut.
    """

    def __init__(
        self,
        path: str,
        extents: Extents,
        keep: Callable[[Sequence[Extent]], None],
        *,
        durable: bool = True,
    ) -> None:
        self.path = path
        self.extents = extents.contiguous()
        self._keep = keep
        self._durable = durable
        self._file: File | None = None
        self._name_is_durable = False
        self._lost = False  # a sync failed: what was not journaled must not be believed
        self._dirty: dict[int, Extent] = {}
        self._saved_at = 0.0
        self.offset = self.saved = self.extents.prefix
        self.hasher: Hasher | None = None

    # -- opening ---------------------------------------------------------------------------

    def open(self, hasher: Hasher | None = None) -> None:
        """Open or create the file, and believe of it only what is journaled and still there.

        The last extent is read again and compared; if it is wrong, or a hasher needs all the
        bytes anyway, every extent is. Afterwards `offset` says where to go on.
        """
        info = files().stat(self.path)
        if info is not None and not info.regular:
            raise UnsafePart(f"`{posixpath.basename(self.path)}` is no regular file")
        if info is None:
            self.extents.clear()
            self._file = files().create(self.path)
        else:
            self._name_is_durable = bool(len(self.extents))
            self._file = files().open(self.path, write=True)
            self.extents = self.extents.within(info.size).contiguous()
        self.hasher = hasher
        self._recheck()
        self.offset = self.saved = self.extents.prefix
        # What lies beyond is of nobody; a shorter new version must not keep a tail of it.
        self._opened.truncate(self.offset)
        self._saved_at = clock.monotonic()

    def _recheck(self) -> None:
        kept = list(self.extents)
        if self.hasher is None and (not kept or self._is_intact(kept[-1])):
            return
        good = []
        for extent in kept:
            if not self._is_intact(extent, self.hasher):
                break
            good.append(extent)
        self.extents = Extents.of(good)
        if self.hasher is not None and self.hasher.position != self.extents.prefix:
            self.hasher.restart()  # it took bytes of the bad extent; `digest` reads it all later

    def _is_intact(self, extent: Extent, hasher: Hasher | None = None) -> bool:
        crc, at = 0, extent.off
        while at < extent.end:
            data = self._opened.pread(min(_READ, extent.end - at), at)
            if not data:
                return False
            crc = zlib.crc32(data, crc)
            at += len(data)
            if hasher is not None:
                hasher.update(data)
        return crc == extent.crc32

    @property
    def _opened(self) -> File:
        if self._file is None:
            raise RuntimeError("the part is not open")
        return self._file

    # -- writing ---------------------------------------------------------------------------

    def write(self, data: memoryview) -> None:
        """Take the next bytes; every 8 MiB or second they are made safe. Raises OSError."""
        while len(data):
            start = self.offset - self.offset % EXTENT_SIZE
            piece = data[: start + EXTENT_SIZE - self.offset]
            n = self._opened.pwrite(piece, self.offset)
            piece, data = piece[:n], data[n:]
            known = self._dirty.get(start) or self.extents.at(start)
            crc = zlib.crc32(piece, known.crc32 if known else 0)
            self.offset += n
            self._dirty[start] = Extent(start, self.offset - start, crc)
            if self.hasher is not None:
                self.hasher.update(piece)
        unsaved = self.offset - self.saved
        if unsaved >= CHECKPOINT_BYTES or clock.monotonic() - self._saved_at >= CHECKPOINT_SECONDS:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Make what was written safe: sync, then commit. Raises OSError.

        After a failed sync it does nothing any more: a second fdatasync on the same file
        reports success for pages that the first one lost. The file is opened afresh later.
        """
        if not self._dirty or self._lost:
            return
        fresh = list(self._dirty.values())
        if self._durable:
            self._sync()
        self._keep(fresh)
        for extent in fresh:
            self.extents.put(extent)
        self._dirty.clear()
        self.saved = self.offset
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
        """Forget all bytes. The journal must have been told before."""
        self._dirty.clear()
        self.extents.clear()
        self._opened.truncate(0)
        self.offset = self.saved = 0
        self.hasher = hasher

    # -- the end -----------------------------------------------------------------------------

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

    def digest_all(self, hasher: Hasher) -> None:
        """Run `hasher` over the whole file, from zero."""
        while data := self._opened.pread(_READ, hasher.position):
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
