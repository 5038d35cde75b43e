"""What happened: counters, the faults that struck, and the log of requests. All bounded."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field, replace
from typing import Final

KEPT: Final = 10_000
"""So many hits and so many log entries are kept, the newest."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One fault that struck. number: of the connection or request; position: in bytes.

    Compare the hits of two runs to see that they were the same.
    """

    kind: str
    number: int
    direction: str = "down"
    position: int = 0


@dataclass(slots=True)
class Entry:
    """One request in the log of the fault server.

    number: from 1 in order of arrival; connection: the number of its connection.
    range, if_range: the fields as sent, or "".  status: of the answer; 0 if the head did not
    go out.  sent: bytes of the body handed to the kernel.  faults: kinds that struck here.
    """

    number: int
    connection: int
    method: str
    path: str
    range: str = ""
    if_range: str = ""
    status: int = 0
    sent: int = 0
    faults: tuple[str, ...] = ()


@dataclass(slots=True)
class Stats:
    """Counters since the start. A snapshot: it does not change any more.

    connections: accepted; open: of these, still there.  refused: resets at the door and
    closures of the port.
    requests: read to their end (server).  bytes_down: sent to clients (server: bodies only);
    bytes_up: sent to the upstream (proxy).  bytes_lost: of what was sent to clients, heads
    included, the bytes that a reset overtook before they left (Linux; 0 elsewhere).
    faults: strikes by kind.  statuses: answers by status (server).  hits: the newest strikes.
    """

    connections: int = 0
    open: int = 0
    refused: int = 0
    requests: int = 0
    bytes_down: int = 0
    bytes_up: int = 0
    bytes_lost: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    hits: deque[Hit] = field(default_factory=lambda: deque(maxlen=KEPT))

    def struck(self, hit: Hit) -> None:
        """Count one strike."""
        self.faults[hit.kind] += 1
        self.hits.append(hit)

    def snapshot(self) -> Stats:
        """Return a copy."""
        return replace(
            self,
            faults=Counter(self.faults),
            statuses=Counter(self.statuses),
            hits=deque(self.hits, maxlen=KEPT),
        )
