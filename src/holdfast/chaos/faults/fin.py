"""FIN: the connection is closed in good order, only too early."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.chaos.fault import Positioned

if TYPE_CHECKING:
    from holdfast.chaos.line import Line


@dataclass(frozen=True, slots=True, kw_only=True)
class Fin(Positioned):
    """Close the whole connection, cleanly for the client, in the middle of what was said.

    A client that counts bytes sees a short body (`http.client.IncompleteRead`); one that does
    not takes the part for the whole.
    """

    async def strike(self, line: Line) -> None:
        """Close."""
        line.end("fin")
