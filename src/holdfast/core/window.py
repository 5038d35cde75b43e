"""What happened lately: counts over a sliding window, and recent durations."""

from __future__ import annotations

import math
from array import array


class Window:
    """Counts of calls, failures and slow calls over the last `seconds`.

    seconds: length of the window; buckets: its granularity. A bucket leaves as a whole, so
    the window really spans between `seconds * (1 - 1/buckets)` and `seconds`.
    """

    __slots__ = ("_buckets", "_kept", "width")

    def __init__(self, seconds: float, buckets: int = 10) -> None:
        self.width = seconds / buckets
        self._kept = buckets
        # [number, calls, failures, slow], oldest first. A list, as a deque takes 600 bytes even
        # when empty, and there is a window per key; at most `buckets` long, so `del` is cheap.
        self._buckets: list[list[int]] = []

    def add(self, now: float, *, calls: int = 0, failures: int = 0, slow: int = 0) -> None:
        """Count in the bucket of `now`."""
        number = int(now // self.width)
        buckets = self._buckets
        if not buckets or buckets[-1][0] != number:
            first = number - self._kept + 1
            self._buckets = buckets = [bucket for bucket in buckets if bucket[0] >= first]
            buckets.append([number, 0, 0, 0])
        last = buckets[-1]
        last[1] += calls
        last[2] += failures
        last[3] += slow

    def totals(self, now: float) -> tuple[int, int, int]:
        """Return (calls, failures, slow) of the window that ends now; changes nothing."""
        first = int(now // self.width) - self._kept + 1
        live = [bucket for bucket in self._buckets if bucket[0] >= first]
        return (
            sum(bucket[1] for bucket in live),
            sum(bucket[2] for bucket in live),
            sum(bucket[3] for bucket in live),
        )

    def bucket_end(self, now: float) -> float:
        """Return when the bucket of `now` is over."""
        return (int(now // self.width) + 1) * self.width

    def clear(self) -> None:
        """Forget everything."""
        self._buckets.clear()


class Durations:
    """The last `keep` durations of successes, for medians and percentiles.

    Law: an attempt that has less time left than a success usually takes is not started.
    """

    __slots__ = ("_keep", "_next", "_values")

    def __init__(self, keep: int = 32) -> None:
        self._keep = keep
        self._next = 0  # where the oldest is, once there are `keep`
        self._values = array("d")

    def add(self, seconds: float) -> None:
        """Remember one duration."""
        if len(self._values) < self._keep:
            self._values.append(seconds)
        else:
            self._values[self._next] = seconds
            self._next = (self._next + 1) % self._keep

    def median(self, at_least: int = 20) -> float | None:
        """Return the median, or None with fewer than `at_least` samples."""
        if len(self._values) < at_least:
            return None
        ordered = sorted(self._values)
        return ordered[len(ordered) // 2]

    def quantile(self, share: float, at_least: int = 20) -> float | None:
        """Return the shortest duration that at least `share` of all, in (0, 1], do not exceed.

        None with fewer than `at_least` samples. Source: the nearest-rank method.
        """
        if len(self._values) < at_least:
            return None
        rank = math.ceil(share * len(self._values) - 1e-9)
        return sorted(self._values)[max(0, rank - 1)]

    def __len__(self) -> int:
        return len(self._values)
