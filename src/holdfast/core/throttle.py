"""Client-side throttling: stop sending what the backend will refuse anyway.

Source: Google SRE book, "Handling Overload", equation "client request rejection
probability": `p = max(0, (requests - k * accepts) / (requests + 1))`.
"""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.core.checks import at_least, between, positive
from holdfast.core.window import Window


@dataclass(frozen=True, slots=True)
class ClientThrottle:
    """Refuse calls here (`BudgetEmpty`) in the proportion in which the backend refuses them.

    k: how many requests are sent per accepted one; 2 lets recovery be noticed soon.
    window: seconds looked at.  most: upper bound of the share refused, so that some calls
    always find out whether the backend is back.
    """

    k: float = 2
    window: float = 120
    most: float = 0.9

    def __post_init__(self) -> None:
        at_least("ClientThrottle", "k", self.k, 1)
        positive("ClientThrottle", "window", self.window)
        between("ClientThrottle", "most", self.most, 0, 1)


class ThrottleState:
    """Requests and refusals of one key."""

    __slots__ = ("_options", "_window")

    def __init__(self, options: ClientThrottle) -> None:
        self._options = options
        self._window = Window(options.window)

    def acquire(self, now: float, u: float) -> bool:
        """Count the request, then say whether it may be sent."""
        p = self.chance(now)
        self._window.add(now, calls=1)
        if u < p:
            self._window.add(now, failures=1)
            return False
        return True

    def refused(self, now: float) -> None:
        """Count an answer that says: no more (throttled, not connected, timed out)."""
        self._window.add(now, failures=1)

    def chance(self, now: float) -> float:
        """Return the probability of refusing the next call; changes nothing."""
        requests, refused, _ = self._window.totals(now)
        accepts = requests - refused
        options = self._options
        return min(options.most, max(0.0, (requests - options.k * accepts) / (requests + 1)))
