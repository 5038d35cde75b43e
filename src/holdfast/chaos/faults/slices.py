"""Many small portions: finds parsers that believe a read returns a message."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.chaos.fault import Fault, check

if TYPE_CHECKING:
    from holdfast.chaos.fault import Target


@dataclass(frozen=True, slots=True)
class Slices(Fault):
    """Send at most `size` bytes per write, `gap` seconds apart.

    size: bytes, at least 1.  gap: with 0 the receiver's kernel may join portions again; a
    millisecond keeps them apart on loopback. At the server it concerns bodies.
    """

    size: int
    gap: float = 0.001

    def __post_init__(self) -> None:
        """Check the ranges."""
        Fault.__post_init__(self)
        check(self, "size", low=1)
        check(self, "gap", low=0)

    def install(self, on: Target) -> None:
        """Limit the writes."""
        line = on.line(self.direction)
        line.most, line.gap = self.size, self.gap
