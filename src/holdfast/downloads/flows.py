"""What a crew hands out and keeps count of: jobs, exchanges under way, and hosts."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from holdfast.core.events import EndpointState
from holdfast.core.verdict import Kind, Sent, Verdict
from holdfast.downloads.hosts import HostLimit, Pace
from holdfast.runtime.hub import hub
from holdfast.transfer.failures import Reason, TransferFailed

if TYPE_CHECKING:
    from holdfast.downloads.crew import Crew
    from holdfast.downloads.items import Item
    from holdfast.downloads.rows import Small
    from holdfast.transfer.plane import Received
    from holdfast.transfer.traffic import Shared
    from holdfast.wire.cancel import Cancel


class Job(NamedTuple):
    """What a thread is to do: fetch `item`, or be one more stream of `work` for it."""

    item: Item | Small
    host: str
    work: Shared | None = None


class Flow:
    """One exchange (see `transfer.traffic.Flow`)."""

    def __init__(self, crew: Crew, host: Host, cancel: Cancel) -> None:
        self.cancel = cancel
        self.too_slow = False
        self.pace = Pace()
        self._crew = crew
        self._host = host

    def moved(self, n: int) -> None:
        """Count bytes, and wait as long as the bandwidth limit asks."""
        self.pace.began = True
        self.pace.moved += n
        self._crew.moved(self._host, n, self.cancel)

    def ended(self, received: Received, *, resumed: bool) -> None:
        """Let the limit of the host learn from it."""
        self._crew.learn(self._host, received, resumed=resumed)


@dataclass(eq=False)
class Host:
    """What is known of one host.

    jobs: threads that work on it.  flows: exchanges under way.  moved: bytes so far.
    slots: connections that the lane of small files may have (see `small`).
    """

    name: str
    limit: HostLimit
    jobs: int = 0
    files: int = 0
    moved: int = 0
    slots: int = 0
    flows: dict[Flow, None] = field(default_factory=dict)
    waiting: deque[Item | Small] = field(default_factory=deque)

    @property
    def connections(self) -> int:
        """How many connections are in use, or may be at any moment."""
        return len(self.flows) + self.slots


def tell(host: Host, now: float, why: str) -> None:
    """Publish what is known of a host now."""
    if not hub.listening:
        return
    held = host.limit.wait(now) > 0
    hub.publish(
        EndpointState(
            time=now,
            policy="downloads",
            key=host.name,
            state="held" if held else "limited",
            reason=why,
            limit=host.limit.limit,
            until=host.limit.held_until if held else None,
        )
    )


def wants_hours(wait: float) -> TransferFailed:
    """Return the failure of what a host wants to be asked for in hours only."""
    verdict = Verdict(
        Kind.THROTTLED,
        Sent.NO,
        "host asked to wait",
        retry_after=wait,
        max_retries=0,
        evidence="transfer",
    )
    text = f"the host asked to come back in {wait:.0f} s"
    return TransferFailed(Reason.STATUS, text, verdict)
