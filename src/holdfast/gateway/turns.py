"""Who waits for an endpoint of one gateway, and what lets them look again.

    something ends, or leaves an endpoint    `ended`, `left`
    an endpoint has cooled down, or its      the timer here, set by whoever enters for the first
    circuit may be tried again               such moment that he knows of
    a probe has found an endpoint            `look`
    another configuration holds              `soon`

One line for all configurations that a gateway has had: who waits goes by the one that holds now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.core.balance import Wait
from holdfast.core.line import Line, Phase
from holdfast.runtime.clock import clock
from holdfast.runtime.wheel import Due

if TYPE_CHECKING:
    from holdfast.gateway.cluster import Cluster
    from holdfast.gateway.exchange import Exchange


class Turns(Due):
    """The line of one gateway, with its timer. cluster: the configuration that holds now."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()
        self.cluster = cluster
        self.line: Line[Exchange] = Line(cluster.config.queue, _look_again)

    def enter(self, exchange: Exchange, wait: Wait) -> bool:
        """Let a request wait for an endpoint; False: too many do. wait: what for."""
        if not self.line.enter(exchange, cooling=wait.why == "cooling"):
            return False
        if wait.until < self.due:
            self.cluster.wheel.set(self, wait.until)
        return True

    @property
    def next(self) -> Wait:
        """What the next in line waits for: what those before it do, until the same time."""
        return Wait(self.due, "cooling" if self.line.phase is Phase.HELD else "full")

    def ended(self, exchange: Exchange) -> None:
        """Take a request out that is over, and let the next look again."""
        self.line.leave(exchange)
        self._look_if_held()

    def left(self) -> None:
        """Let the next look again: a request has left an endpoint, and goes on."""
        self.line.freed()
        self._look_if_held()

    def _look_if_held(self) -> None:
        # What all wait for is known, but that end may have changed it: an endpoint that was taken
        # for dead has answered, say.
        if self.line.phase is Phase.HELD:
            self.look(clock.monotonic())

    def look(self, now: float) -> None:
        """Let those go who wait, unless all endpoints cool down."""
        if self.line.calm:
            return
        seconds = self.cluster.soonest(now)
        if seconds > 0:
            self.cluster.wheel.set(self, now + seconds)
        else:
            self.line.cooled()

    def soon(self, now: float) -> None:
        """Look within a tick, not in the midst of what is being done now."""
        self.cluster.wheel.set(self, now)

    def on_due(self, now: float) -> None:
        """Look."""
        self.look(now)


def _look_again(exchange: Exchange) -> None:
    exchange.look_again()
