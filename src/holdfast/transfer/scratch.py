"""A part in memory, for what is small and only read: nothing of it reaches a disk or a journal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.runtime.clock import clock
from holdfast.transfer.extents import Extents
from holdfast.transfer.part import Part

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

    from holdfast.transfer.verify import Hasher


class Scratch(Part):
    """What a transfer fills in place of a file; `max_size` of the transfer bounds it."""

    def __init__(self) -> None:
        super().__init__("", Extents(), lambda _: None, durable=False)

    def open(self, hasher: Hasher | None = None) -> None:
        """Begin with nothing."""
        self._file = _Memory()
        self.hasher = hasher
        self._saved_at = clock.monotonic()

    def content(self) -> bytes:
        """Return what was received without a gap."""
        return self.read(self.offset, 0)


class _Memory:
    """A `File` without a file system."""

    def __init__(self) -> None:
        self._data = bytearray()

    def pwrite(self, data: Buffer, offset: int) -> int:
        """Write at `offset`."""
        view = memoryview(data)
        self._data[offset : offset + len(view)] = view
        return len(view)

    def pread(self, size: int, offset: int) -> bytes:
        """Read from `offset`."""
        return bytes(self._data[offset : offset + size])

    def truncate(self, size: int) -> None:
        """Cut; it is never extended."""
        del self._data[size:]

    def allocate(self, size: int) -> bool:
        """Take nothing: what comes is taken as it comes."""
        return size < 0

    def datasync(self) -> None:
        """Do nothing: there is no disk."""

    def size(self) -> int:
        """Return the length in bytes."""
        return len(self._data)

    def close(self) -> None:
        """Do nothing: it may be read after its end."""
