"""One wrong bit, on a connection that is otherwise in perfect health."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.chaos.fault import Positioned, check

if TYPE_CHECKING:
    from holdfast.chaos.fault import Target
    from holdfast.chaos.line import Line


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip(Positioned):
    """Flip one bit of the byte with index `after_bytes`.

    bit: 0 (the lowest) to 7; None draws it. TCP's own checksum misses such errors now and
    then (bad memory in a router does worse); only a digest of the content finds them.
    """

    bit: int | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        Positioned.__post_init__(self)
        check(self, "bit", low=0, high=7)

    def install(self, on: Target) -> None:
        """Choose the bit, and let the byte at the position go out changed."""
        bit = on.rng.between(0, 7) if self.bit is None else self.bit

        async def strike(line: Line) -> None:
            line.mask = 1 << bit

        on.at(self, self.offset(on.rng), strike)
