"""How long an endpoint takes to answer, of late."""

from __future__ import annotations

import math

HALF_LIFE = 10.0
"""Seconds after which a sample of latency has lost half its weight."""
FAILURE_FACTOR = 2.0
"""A failure counts as an answer that took so many times the mean."""
LONGEST_MEAN = 600.0


class Mean:
    """A mean of latencies that forgets: exponentially weighted by age, not by count.

    Source: the peak-EWMA balancer of Finagle, without its peaks: a single slow answer of a
    language model says little.

    rank: by what it is compared with others: the mean, as long as it is asked. Who is not asked
    gives no samples, so one bad one would keep it out for ever; the older the last is, the less
    it is held against it.
    answered: there was an answer. Until then failures are all that is known, and how long they
    took (mostly no time at all) says nothing of answers.
    """

    __slots__ = ("_at", "answered", "rank", "value")

    def __init__(self) -> None:
        self.value: float | None = None
        self.rank: float | None = None
        self.answered = False
        self._at = -math.inf

    def add(self, now: float, seconds: float) -> None:
        """Take the seconds of an answer."""
        if self.answered:
            self._take(now, seconds)
            return
        self.answered = True
        self.value = self.rank = min(seconds, LONGEST_MEAN)
        self._at = now

    def _take(self, now: float, seconds: float) -> None:
        before, keep = self.value, 0.5 ** (max(0.0, now - self._at) / HALF_LIFE)
        mixed = seconds if before is None else before * keep + seconds * (1 - keep)
        self.value = self.rank = min(mixed, LONGEST_MEAN)
        self._at = now

    def fade(self, now: float) -> None:
        """Let the last sample count for less, as nothing has been asked since."""
        if self.value is not None:
            self.rank = self.value * 0.5 ** (max(0.0, now - self._at) / HALF_LIFE)

    def failed(self, now: float, seconds: float) -> None:
        """Take a failure after `seconds`: fast failures must not attract traffic."""
        self._take(now, max(seconds, FAILURE_FACTOR * (self.value or 0.0)))
