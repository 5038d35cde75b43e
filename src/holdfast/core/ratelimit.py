"""The rate limit: the generic cell rate algorithm (GCRA), a leaky bucket in one number.

`tat` is the theoretical arrival time: when the bucket would be empty again. Because it is
never behind `now`, hours of sleep or suspension earn no more than one burst.
Source: ITU-T I.371, annex A; the same bound as a token bucket of `burst` tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from holdfast.core.checks import positive


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `limit` attempts `per` seconds and key, evenly, with bursts of `burst`.

    burst: how many may go at once after a pause; default `limit`. A call that must wait
    waits; one whose slot lies beyond its deadline is refused (`RateLimited`) and takes none.
    """

    limit: float
    per: float = 1.0
    burst: float | None = None

    def __post_init__(self) -> None:
        positive("RateLimit", "limit", self.limit)
        positive("RateLimit", "per", self.per)
        if self.burst is not None:
            positive("RateLimit", "burst", self.burst)


class RateLimitState:
    """The bucket of one key. `interval` seconds per slot, `slack` seconds of burst."""

    __slots__ = ("interval", "slack", "tat")

    def __init__(self, options: RateLimit | None) -> None:
        self.tat = -math.inf
        if options is None:
            self.interval, self.slack = 0.0, math.inf
        else:
            self.interval = options.per / options.limit
            self.slack = self.interval * (options.limit if options.burst is None else options.burst)

    def wait_time(self, now: float) -> float:
        """Return the seconds until the next slot; 0 if it is free now. Changes nothing."""
        return max(0.0, max(now, self.tat) + self.interval - now - self.slack)

    def take(self, now: float) -> float:
        """Reserve the next slot and return the seconds to wait for it."""
        # Straight line up to the store: a driver's fast path may run on another thread.
        # The slack is compared to the distance with the new slot included, so a full burst
        # of n goes out at once and the n+1st waits one interval.
        tat = self.tat
        if tat < now:  # noqa: PLR1730 - `max` would be a call
            tat = now
        tat += self.interval
        self.tat = tat
        return max(0.0, tat - now - self.slack)

    def give_back(self) -> None:
        """Undo one `take` whose slot will not be used."""
        self.tat -= self.interval
