"""The stale keep-alive connection: closed by the server just when the client reuses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.chaos.fault import HttpFault, check

if TYPE_CHECKING:
    from holdfast.chaos.fault import HttpTarget


@dataclass(frozen=True, slots=True)
class IdleClose(HttpFault):
    """Close the kept-alive connection shortly after the answer, unless a request came.

    at_most: seconds; the delay is uniform in [0, at_most], exact with at_least = at_most.
    The answer does not say `Connection: close`, so a pool keeps the connection. A request
    that crosses the close is answered with RST and was not executed.
    """

    at_most: float = 0.01
    at_least: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        HttpFault.__post_init__(self)
        check(self, "at_most", low=0)
        check(self, "at_least", low=0, high=self.at_most)

    def alter(self, on: HttpTarget) -> None:
        """Set the time of the close."""
        span = self.at_most - self.at_least
        on.answer.close_idle = self.at_least + span * on.rng.draw()
