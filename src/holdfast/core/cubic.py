"""The adaptive rate limit: no limit until a server throttles, then a rate that grows by CUBIC.

    success, t seconds after the last throttled answer:
        r = scale * (t - K)**3 + Wmax,   K = cbrt(Wmax * (1 - beta) / scale)
    throttled:
        Wmax = r, r = beta * r           (the first time r is the rate that was measured)
    always:
        least <= r <= 2 * measured rate

So the rate comes back steeply, lingers around what was too much, and then looks beyond.
Source: RFC 9438 for the curve, the AWS SDKs' adaptive retry mode for its use on requests.

Two sets of published vectors differ after a second throttled answer: one takes the rate before
the cut as the new Wmax, the other the rate after it. Ours is "before", as in RFC 9438 (4.6) and
in the older SDKs: the curve then passes its plateau where the server last objected, and not
30 % below. `wmax="after"` is for whoever must behave like the other set.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from holdfast.core.ratelimit import LearningRate

if TYPE_CHECKING:
    from holdfast.core.ratelimit import AdaptiveRateLimit

_HALF = 0.5  # seconds per bucket of the measured rate
_FRESH = 0.8  # weight of the newest bucket in its moving average
_IDLE_SLACK = 1.0  # any finite slack above 0 does while there is no limit


class Cubic:
    """The curve alone: the rate that was cut, when, and what it allows now."""

    __slots__ = ("_options", "cut_at", "wmax")

    def __init__(self, options: AdaptiveRateLimit, wmax: float = 0.0, cut_at: float = 0.0) -> None:
        self._options = options
        self.wmax, self.cut_at = wmax, cut_at

    def grown(self, now: float) -> float:
        """Return the rate that the curve has reached."""
        options = self._options
        k = math.cbrt(self.wmax * (1.0 - options.beta) / options.scale)
        # Not further than a day: the cube of a machine's uptime is no rate.
        since = min(now - self.cut_at, 86400.0)
        return options.scale * (since - k) ** 3 + self.wmax

    def cut(self, now: float, rate: float) -> float:
        """Return what is left of `rate` after a throttled answer, and grow from there."""
        left = rate * self._options.beta
        self.wmax = rate if self._options.wmax == "before" else left
        self.cut_at = now
        return left


class Measured:
    """How many answers come per second: per half second, in a moving average."""

    __slots__ = ("_bucket", "_count", "rate")

    def __init__(self) -> None:
        self._bucket = -math.inf  # none yet
        self._count = 0
        self.rate = 0.0

    def add(self, now: float) -> float:
        """Count one answer and return the rate."""
        bucket = math.floor(now / _HALF) * _HALF
        self._count += 1
        if self._bucket == -math.inf:
            self._bucket = bucket
        elif bucket > self._bucket:
            newest = self._count / (bucket - self._bucket)
            self.rate = newest * _FRESH + self.rate * (1.0 - _FRESH)
            self._count = 0
            self._bucket = bucket
        return self.rate


class AdaptiveRate(LearningRate):
    """The bucket of one key, whose rate follows what the server says.

    allowed: requests per second by the curve.  enabled: whether they are limited to that;
    from the first throttled answer on.
    """

    __slots__ = ("_cubic", "_learns", "_least", "_measured", "allowed", "enabled")

    def __init__(self, options: AdaptiveRateLimit) -> None:
        super().__init__(None)
        self.slack = _IDLE_SLACK
        self._cubic = Cubic(options)
        self._measured = Measured()
        self._least = options.least
        self._learns = options.learn
        self.allowed = options.least
        self.enabled = False

    @property
    def learns(self) -> bool:  # type: ignore[override]  # a constant of the class above
        """Whether it wants to know what servers say."""
        return self._learns

    @property
    def measured(self) -> float:
        """Answers per second, as measured."""
        return self._measured.rate

    def succeeded(self, now: float) -> None:
        """Take a success: the rate grows by the curve."""
        measured = self._measured.add(now)
        self._allow(self._cubic.grown(now), measured)
        if self.enabled:
            self._use(now)

    def throttled(self, now: float) -> tuple[float | None, float]:
        """Take a throttled answer; return the rate before it, if there was one, and now."""
        measured = self._measured.add(now)
        before = self.allowed if self.enabled else None
        rate = measured if before is None else min(measured, before)
        self._allow(self._cubic.cut(now, rate), measured)
        self._use(now)
        return before, self.allowed

    def counted(self, now: float) -> None:
        """Take an answer that says nothing about rates: a failure of another kind."""
        self._measured.add(now)

    def _allow(self, rate: float, measured: float) -> None:
        self.allowed = max(min(rate, 2.0 * measured), self._least)

    def _use(self, now: float) -> None:
        """Make the bucket one of `allowed`, with the tokens that it has; of the first, none.

        It holds `max(1, rate)` tokens: a second's worth.
        """
        interval = 1.0 / self.allowed
        slack = max(1.0, interval)
        old, server = self.interval, self._server
        # Straight line from here on: see `take`.
        tat = self.tat if server is None else server.own
        start = tat + old - self.slack  # of the next slot
        if start > now:  # those before are given out, or the server has named that time
            tat = start + slack - interval
        else:
            tokens = (now + self.slack - tat) / old if old else 0.0  # as many as before; of none, 0
            tat = now + slack - tokens * interval
            if tat < now:  # noqa: PLR1730 - `max` would be a call
                tat = now
        if server is None:
            self.tat = tat
        else:
            server.own = tat
        self.interval = interval
        self.slack = slack
        self.enabled = True
