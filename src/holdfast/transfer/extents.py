"""What of one object is safely on disk: extents, as the journal knows them.

Only what a committed journal row says counts. The file's own length says nothing: after a
power cut it may be long and hold zeros.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

EXTENT_SIZE = 8 * 1024 * 1024
"""Extents end at multiples of this; each grows in order, by one stream at a time, until there."""

MAX_EXTENT = 64 * 1024 * 1024
MANY = 1024
"""Extents of one object; beyond it they become larger, up to `MAX_EXTENT`."""

SPLIT_FROM = 16 * 1024 * 1024
"""Bytes from which on an object is fetched by several streams."""

MIN_CHECKPOINT = 1024 * 1024
MAX_CHECKPOINT = 8 * 1024 * 1024


def extent_size(size: int | None) -> int:
    """Return the extent of an object of `size` bytes: 8 MiB, for huge ones up to 64 MiB."""
    extent = EXTENT_SIZE
    while size is not None and extent * MANY < size and extent < MAX_EXTENT:
        extent *= 2
    return extent


def checkpoint_size(size: int) -> int:
    """Return after how many bytes of an object they are made safe: what a crash costs.

    A 128th of it, within 1 and 8 MiB. A small one, of one stream, is not worth more than one
    commit per 8 MiB.
    """
    if size < SPLIT_FROM:
        return MAX_CHECKPOINT
    return min(MAX_CHECKPOINT, max(MIN_CHECKPOINT, size // 128))


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes [off, off + len) are on disk and have this CRC-32.

    CRC-32 (zlib), not CRC-32C: it finds the same torn writes, and the standard library
    computes it at memory speed.
    """

    off: int
    len: int
    crc32: int

    def __post_init__(self) -> None:
        if self.off < 0 or self.len <= 0 or not 0 <= self.crc32 < 1 << 32:
            raise ValueError(f"not an extent: off {self.off}, len {self.len}, crc {self.crc32}")

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.off + self.len


@dataclass(slots=True)
class Extents:
    """The extents of one object, by offset; they never overlap."""

    _by_off: dict[int, Extent] = field(default_factory=dict)

    @classmethod
    def of(cls, extents: Iterable[Extent]) -> Extents:
        """Collect `extents`; of two that overlap the later one is dropped."""
        made = cls()
        end = 0
        for extent in sorted(extents, key=lambda e: (e.off, e.len)):
            if extent.off >= end:
                made.put(extent)
                end = extent.end
        return made

    def __iter__(self) -> Iterator[Extent]:
        return iter(sorted(self._by_off.values(), key=lambda e: e.off))

    def __len__(self) -> int:
        return len(self._by_off)

    def put(self, extent: Extent) -> None:
        """Add an extent, or let the one at its offset grow."""
        self._by_off[extent.off] = extent

    def at(self, off: int) -> Extent | None:
        """Return the extent that starts at `off`."""
        return self._by_off.get(off)

    def clear(self) -> None:
        """Forget all."""
        self._by_off.clear()

    @property
    def kept(self) -> int:
        """Bytes on disk."""
        return sum(extent.len for extent in self._by_off.values())

    @property
    def prefix(self) -> int:
        """How many bytes from the start are there without a gap."""
        end = 0
        for extent in self:
            if extent.off != end:
                break
            end = extent.end
        return end

    @property
    def end(self) -> int:
        """The first byte after all of them; what lies between may have gaps."""
        return max((extent.end for extent in self._by_off.values()), default=0)

    def within(self, end: int) -> Extents:
        """Return those that lie wholly below `end`."""
        return Extents.of(extent for extent in self if extent.end <= end)

    def gaps(self, size: int) -> list[tuple[int, int]]:
        """Return what is missing of `size` bytes, as (start, end), in order."""
        found, at = [], 0
        for extent in self:
            if extent.off > at:
                found.append((at, extent.off))
            at = extent.end
        if at < size:
            found.append((at, size))
        return found

    def pop(self, off: int) -> Extent | None:
        """Forget the extent that starts at `off`, and return it."""
        return self._by_off.pop(off, None)
