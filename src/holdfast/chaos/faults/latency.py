"""A long way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.chaos.fault import Fault, check

if TYPE_CHECKING:
    from holdfast.chaos.fault import Target


@dataclass(frozen=True, slots=True)
class Latency(Fault):
    """Let the bytes of one direction arrive later.

    seconds: by how much; jitter: plus or minus up to so much, uniform, for each portion that
    was read together (at most 256 KiB). The order is kept, and the bandwidth too: portions
    are on their way at the same time. The fault server delays the start of each answer.
    """

    seconds: float
    jitter: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        Fault.__post_init__(self)
        check(self, "seconds", low=0)
        check(self, "jitter", low=0, high=self.seconds)

    def install(self, on: Target) -> None:
        """Give the stream its delay."""
        draw = on.rng.draw
        on.line(self.direction).delay = lambda: self.seconds + self.jitter * (2.0 * draw() - 1.0)
