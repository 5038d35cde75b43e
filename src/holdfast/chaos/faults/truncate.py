"""A stream that ends early while its sender believes that all of it arrived."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.chaos.fault import Positioned

if TYPE_CHECKING:
    from holdfast.chaos.line import Line


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncate(Positioned):
    """Swallow all further bytes of this direction, and end it with FIN (half-close).

    Unlike `Fin` the other direction goes on, and the sender is drained: an upload is cut
    although every write succeeded. At the server, Content-Length promises more than comes.
    """

    async def strike(self, line: Line) -> None:
        """End this direction for the receiver only."""
        line.swallow = True
        with contextlib.suppress(OSError):
            line.sock.shutdown(socket.SHUT_WR)
