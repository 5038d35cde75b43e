"""The rate limit: the generic cell rate algorithm (GCRA), a leaky bucket in one number.

`tat` is the theoretical arrival time: when the bucket would be empty again. Because it is
never behind `now`, hours of sleep or suspension earn no more than one burst.
Source: ITU-T I.371, annex A; the same bound as a token bucket of `burst` tokens.

What a server says of its own limit (`rate_headers`) can only make requests rarer:

    nothing left until the reset   `tat` moves so far that the next slot is at the reset
    a smaller limit                a second bucket stands beside ours until its window ends

While there are two buckets `tat` is infinite and the true one is kept beside the server's. That
closes the drivers' fast path, which knows one bucket, and costs it nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.core.checks import between, one_of, positive

if TYPE_CHECKING:
    from holdfast.core.rate_headers import ServerLimits


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `limit` attempts `per` seconds and key, evenly, with bursts of `burst`.

    burst: how many may go at once after a pause; default `limit`. A call that must wait
    waits; one whose slot lies beyond its deadline is refused (`RateLimited`) and takes none.
    learn: heed what the server says of its own limit, if that is tighter than this one.
    """

    limit: float
    per: float = 1.0
    burst: float | None = None
    learn: bool = True

    def __post_init__(self) -> None:
        positive("RateLimit", "limit", self.limit)
        positive("RateLimit", "per", self.per)
        if self.burst is not None:
            positive("RateLimit", "burst", self.burst)

    @staticmethod
    def adaptive(
        *,
        beta: float = 0.7,
        scale: float = 0.4,
        least: float = 0.5,
        wmax: str = "before",
        learn: bool = True,
    ) -> AdaptiveRateLimit:
        """Return a rate limit that finds its rate: none until the server throttles, then CUBIC.

        beta: what a throttled answer leaves of the rate, in (0, 1).  scale: how steeply the
        rate grows back, requests per second and cubic second.  least: requests per second that
        are always allowed.  wmax: the rate that growth aims at, the one "before" the cut or the
        one "after" it.  learn: as for `RateLimit`.
        """
        return AdaptiveRateLimit(beta=beta, scale=scale, least=least, wmax=wmax, learn=learn)


@dataclass(frozen=True, slots=True)
class AdaptiveRateLimit:
    """What `hf.RateLimit.adaptive()` returns; see there for the options."""

    beta: float = 0.7
    scale: float = 0.4
    least: float = 0.5
    wmax: str = "before"
    learn: bool = True

    def __post_init__(self) -> None:
        between("RateLimit.adaptive", "beta", self.beta, 0.01, 0.99)
        positive("RateLimit.adaptive", "scale", self.scale)
        positive("RateLimit.adaptive", "least", self.least)
        one_of("RateLimit.adaptive", "wmax", self.wmax, ("before", "after"))


class RateLimitState:
    """The bucket of one key. `interval` seconds per slot, `slack` seconds of burst."""

    __slots__ = ("interval", "slack", "tat")

    learns = False
    """Whether it wants to know what servers say."""

    def __init__(self, options: RateLimit | None) -> None:
        self.tat = -math.inf
        if options is None:
            self.interval, self.slack = 0.0, math.inf
        else:
            self.interval = options.per / options.limit
            self.slack = self.interval * (options.limit if options.burst is None else options.burst)

    @property
    def rate(self) -> float | None:
        """Slots per second, or None without a limit."""
        return 1.0 / self.interval if self.interval else None

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

    def learn(self, now: float, limits: ServerLimits) -> tuple[float | None, float] | None:  # noqa: ARG002 - see `LearningRate`
        """Ignore what the server says."""
        return None

    def hold(self, until: float) -> None:
        """Ignore until when the server wants to hear nothing."""


class _Server:
    """The server's bucket: one slot per `interval`, without bursts, until `until`.

    tat: when its next slot is.  own: the `tat` of our own bucket meanwhile.  undo: both before
    the last `take`.
    """

    __slots__ = ("interval", "own", "tat", "undo", "until")

    def __init__(self, interval: float, until: float, tat: float, own: float) -> None:
        self.interval, self.until = interval, until
        self.tat, self.own = tat, own
        self.undo = tat, own


class LearningRate(RateLimitState):
    """A bucket that heeds what the server says of its own."""

    __slots__ = ("_server",)

    learns = True

    def __init__(self, options: RateLimit | None) -> None:
        super().__init__(options)
        self._server: _Server | None = None

    def learn(self, now: float, limits: ServerLimits) -> tuple[float | None, float] | None:
        """Heed what a response says; return (slots per second before, now) if it is news.

        It never loosens anything but what a server's earlier answer had tightened.
        """
        if limits.wait > 0.0:
            self.hold(now + limits.wait)
        if not limits.lasts > 0.0:
            return None
        before, interval, server = self.rate, limits.interval, self._server
        if interval <= self.interval:  # ours is the smaller one
            self._forget()
        elif server is None:
            # The answer that says so has just used a slot of the server's.
            tat = self.tat
            self.tat = math.inf
            self._server = _Server(interval, now + limits.lasts, now + interval, tat)
        else:
            server.interval, server.until = interval, now + limits.lasts
        after = self.rate
        return (before, after) if after is not None and after != before else None

    def hold(self, until: float) -> None:
        """Let no slot begin before `until`, and no burst at it: the server's bucket was empty."""
        self._push(until + self.slack - self.interval)

    def _push(self, tat: float) -> None:
        # Straight line: see `take`.
        server = self._server
        if server is not None:
            if tat > server.own:  # noqa: PLR1730 - `max` would be a call
                server.own = tat
        elif tat > self.tat:
            self.tat = tat

    def _forget(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            self.tat = server.own

    @property
    def rate(self) -> float | None:
        """Slots per second, the server's limit included, or None without a limit."""
        interval = self.interval if self._server is None else self._server.interval
        return 1.0 / interval if interval else None

    def wait_time(self, now: float) -> float:
        """Return the seconds until the next slot; 0 if it is free now. Changes nothing."""
        server = self._server
        return super().wait_time(now) if server is None else self._start(now, server) - now

    def take(self, now: float) -> float:
        """Reserve the next slot and return the seconds to wait for it."""
        server = self._server
        if server is not None and now >= server.until:
            self._forget()
            server = None
        if server is None:
            return super().take(now)
        start = self._start(now, server)
        server.undo = server.tat, server.own
        # The slot counts in our bucket from where it begins, or those that had to wait for
        # the server would all be let go at once when its window ends.
        server.own = max(start, server.own) + self.interval
        server.tat = max(start, server.tat) + server.interval
        return start - now

    def _start(self, now: float, server: _Server) -> float:
        """Return when the next slot begins by both buckets."""
        start = max(now, max(now, server.own) + self.interval - self.slack)
        # Where its window ends, the server's bucket ends.
        return max(start, min(server.tat, server.until))

    def give_back(self) -> None:
        """Undo the `take` before, whose slot will not be used."""
        server = self._server
        if server is None:
            super().give_back()
        else:
            server.tat, server.own = server.undo
