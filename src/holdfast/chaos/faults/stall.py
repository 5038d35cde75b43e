"""Silence: the connection stays up and nothing comes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.chaos.fault import Positioned, check

if TYPE_CHECKING:
    from holdfast.chaos.line import Line


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall(Positioned):
    """Stop sending and keep the connection open. No error ever comes by itself.

    seconds: how long; then the stream goes on. None: until the client has gone.
    `Stall(direction="up", after_bytes=0)` at the proxy is a black hole: it accepts, and the
    request reaches nobody.
    """

    seconds: float | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        Positioned.__post_init__(self)
        check(self, "seconds", low=0)

    async def strike(self, line: Line) -> None:
        """Be silent."""
        await line.hang(self.seconds)
