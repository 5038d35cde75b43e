"""Nobody there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.chaos.fault import Fault, check

if TYPE_CHECKING:
    from holdfast.chaos.fault import Per, Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse(Fault):
    """Turn a connection away.

    seconds: None accepts and resets at once. `connect()` has then succeeded already, because
    the kernel completes the handshake by itself; the first read or write gets ECONNRESET.
    A number resets too and then closes the port for so long: `connect()` gets ECONNREFUSED.
    """

    seconds: float | None = None
    per: Per = "connection"

    def __post_init__(self) -> None:
        """Check the ranges."""
        Fault.__post_init__(self)
        check(self, "seconds", low=0)
        if self.per != "connection":
            raise ValueError("Refuse: per: only connections can be refused")

    def install(self, on: Target) -> None:
        """Turn it away."""
        on.refuse(self.seconds)
