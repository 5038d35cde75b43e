"""RST: the connection is torn down, as by a crashed process or a middlebox."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.chaos.fault import Positioned

if TYPE_CHECKING:
    from holdfast.chaos.line import Line


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset(Positioned):
    """Reset the connection (SO_LINGER 1, 0 and close): the client gets ECONNRESET.

    The bytes before the position arrive first, if the client reads them within a second.
    The proxy resets both of its connections.
    """

    async def strike(self, line: Line) -> None:
        """Wait for what is on its way, then reset."""
        await line.flushed()
        line.end("reset")
