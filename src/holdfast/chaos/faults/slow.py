"""A thin link."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.chaos.fault import Fault, check

if TYPE_CHECKING:
    from holdfast.chaos.fault import Target


@dataclass(frozen=True, slots=True)
class Slow(Fault):
    """Let at most so many bytes per second through, in 20 portions a second.

    bytes_per_second: at least 1. Kernel buffers before the link fill up first, as they do
    before a real one.
    """

    bytes_per_second: float

    def __post_init__(self) -> None:
        """Check the ranges."""
        Fault.__post_init__(self)
        check(self, "bytes_per_second", low=1)

    def install(self, on: Target) -> None:
        """Set the rate of the stream."""
        on.line(self.direction).rate = self.bytes_per_second
