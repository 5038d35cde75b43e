"""What is done with an object whose digest is wrong: find the damaged extents and fetch them anew.

With sums of pieces it is known which they are. Without, the extents are read again from the
server on new connections, in random order. One that comes with another CRC is taken as it
came now, and the digest of the whole decides. If it is still wrong when all have been read
twice, a third reading of those that differed says which of the two was right. So it costs the
size of the object once more at most, and `THIRD` extents; then it fails.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.runtime.random import rng

if TYPE_CHECKING:
    from collections.abc import Iterable

    from holdfast.transfer.extents import Extent
    from holdfast.transfer.part import Part

PIECE_ALGORITHMS = {"sha512": 64, "sha256": 32, "sha1": 20, "md5": 16}
ROUNDS = 2
"""How often a piece may come wrong."""
THIRD = 4
"""Extents that may be read a third time."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """Digests of consecutive pieces of the object. size: of each piece but the last, in bytes.

    hexes: in order, lower case.
    """

    size: int
    algorithm: str
    hexes: tuple[str, ...]

    def __post_init__(self) -> None:
        length = PIECE_ALGORITHMS.get(self.algorithm)
        if length is None:
            known = ", ".join(PIECE_ALGORITHMS)
            raise ValueError(f"pieces: `{self.algorithm}`: not one of the digests {known}")
        if self.size < 1024:
            raise ValueError(f"pieces: size: {self.size}: at least 1024 bytes")
        wrong = [one for one in self.hexes if not re.fullmatch(rf"[0-9a-f]{{{2 * length}}}", one)]
        if wrong or not self.hexes:
            shown = wrong[0][:140] if wrong else ""
            raise ValueError(f"pieces: `{shown}`: not a {self.algorithm} digest")

    def fits(self, size: int) -> bool:
        """Whether there is one digest for each piece of an object of `size` bytes."""
        return len(self.hexes) == max(1, -(-size // self.size))

    def bad(self, part: Part, size: int) -> list[tuple[int, int]]:
        """Read the whole part; return the pieces that are wrong, as (start, end)."""
        found = []
        for n, expected in enumerate(self.hexes):
            start, end = n * self.size, min(size, (n + 1) * self.size)
            running, at = hashlib.new(self.algorithm, usedforsecurity=False), start
            while at < end and (data := part.read(min(1 << 20, end - at), at)):
                running.update(data)
                at += len(data)
            if running.hexdigest() != expected:
                found.append((start, end))
        return found


class Repair:
    """Reads the extents of a part again until its digest is right. extents: of the whole part."""

    def __init__(self, extents: Iterable[Extent]) -> None:
        self._left = sorted(extents, key=lambda _: rng.draw())
        self._asked: list[Extent] = []
        self._readings: dict[Extent, list[int]] = {}
        self._thirds = THIRD

    def next(self, count: int) -> list[Extent]:
        """Return up to `count` extents to be fetched again; none: there is no more to try."""
        if self._left:
            chosen = self._left[: max(1, count)]
            del self._left[: len(chosen)]
            self._readings |= {extent: [extent.crc32] for extent in chosen}
        else:
            doubtful = [e for e, read in self._readings.items() if len(read) == 2 and _differ(read)]
            chosen = doubtful[: min(max(1, count), self._thirds)]
            self._thirds -= len(chosen)
        self._asked = chosen
        return chosen

    def judge(self, part: Part) -> bool:
        """Look at what came; return whether the digest may have changed by it."""
        changed = False
        for extent in self._asked:
            readings = self._readings[extent]
            readings.append(part.crc32(extent.off, extent.end))
            changed = changed or _differ(readings)
        return changed


def _differ(readings: list[int]) -> bool:
    return readings[-1] != readings[-2]
