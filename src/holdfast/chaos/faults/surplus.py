"""More bytes than were announced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.chaos.fault import HttpFault, check

if TYPE_CHECKING:
    from holdfast.chaos.fault import HttpTarget


@dataclass(frozen=True, slots=True)
class Surplus(HttpFault):
    """Send `count` bytes after the body, then close. The announced length stays.

    A client must cut there and must not use the connection again: what follows would be taken
    for the next answer.
    """

    count: int = 16

    def __post_init__(self) -> None:
        """Check the ranges."""
        HttpFault.__post_init__(self)
        check(self, "count", low=1)

    def alter(self, on: HttpTarget) -> None:
        """Add them."""
        on.answer.surplus = on.rng.bytes(self.count)
