"""How long things took, in a fixed number of buckets: lately, and since the beginning.

Eight buckets per power of two, so a quantile is off by 6 % at most, and adding a duration is a
few operations on integers whatever has been added before. Durations of the last `seconds` are
kept in slots of a tenth of that, each with its own buckets; a slot that is too old is folded into
what was there before. So nothing is counted twice, and reading changes nothing.

Source: the buckets of HdrHistogram, with 3 bits of precision.
"""

from __future__ import annotations

import math
import operator
from array import array
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PARTS = 8
"""Buckets per power of two."""
LOWEST, HIGHEST = -14, 11
"""Powers of two: everything below 61 us is in the first bucket, above 2048 s in the last."""
BUCKETS = (HIGHEST - LOWEST) * PARTS
SLOTS = 10

_LEAST = 2.0**LOWEST
_OFFSET = (LOWEST + 1) * PARTS + PARTS
_LAST = BUCKETS - 1


def bucket_of(seconds: float) -> int:
    """Return the bucket of a duration. NaN is not allowed."""
    if seconds < _LEAST:
        return 0
    share, power = math.frexp(seconds)  # share in [0.5, 1)
    return min(power * PARTS + int(share * (2 * PARTS)) - _OFFSET, _LAST)


def bounds_of(bucket: int) -> tuple[float, float]:
    """Return the durations between which a bucket lies: the first included, the second not."""
    power, part = divmod(bucket, PARTS)
    base = 2.0 ** (LOWEST + power)
    return base * (1 + part / PARTS), base * (1 + (part + 1) / PARTS)


class Tally:
    """What was counted: good and bad, and durations in buckets.

    ok, failed: how many.  counts: durations per bucket.  sum: of the durations, in seconds.
    """

    __slots__ = ("counts", "ends", "failed", "number", "ok", "sum")

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.ends = math.inf  # of a slot: when the next one begins
        self.ok = self.failed = 0
        self.counts = array("Q", bytes(8 * BUCKETS))
        self.sum = 0.0

    def take(self, other: Tally) -> None:
        """Add what another has counted."""
        self.ok += other.ok
        self.failed += other.failed
        self.sum += other.sum
        self.counts = array("Q", map(operator.add, self.counts, other.counts))

    @property
    def timed(self) -> int:
        """How many durations there are."""
        return sum(self.counts)

    @property
    def success_rate(self) -> float | None:
        """In percent; None if nothing was counted."""
        total = self.ok + self.failed
        return 100.0 * self.ok / total if total else None

    @property
    def mean(self) -> float | None:
        """Mean duration in seconds."""
        timed = self.timed
        return self.sum / timed if timed else None

    def quantile(self, share: float) -> float | None:
        """Return a duration that `share` of all, in (0, 1], do not exceed; 6 % off at most."""
        left = math.ceil(share * self.timed - 1e-9)
        for bucket, count in enumerate(self.counts):
            left -= count
            if count and left <= 0:
                low, high = bounds_of(bucket)
                return (low + high) / 2
        return None

    def up_to(self, powers: Iterable[int]) -> list[int]:
        """Return how many durations lie below each power of two, and how many in all."""
        at = [max(0, min(BUCKETS, (power - LOWEST) * PARTS)) for power in powers]
        return [*(sum(self.counts[:end]) for end in at), self.timed]

    def plain(self) -> dict[str, object]:
        """Return it as JSON has it; buckets without a duration are left out."""
        counts = {str(at): count for at, count in enumerate(self.counts) if count}
        return {"ok": self.ok, "failed": self.failed, "sum": self.sum, "counts": counts}

    @classmethod
    def of(cls, *plain: Mapping[str, object]) -> Tally:
        """Return the sum of what `plain` gave."""
        made = cls()
        for one in plain:
            ok, failed, total, counts = one["ok"], one["failed"], one["sum"], one["counts"]
            made.ok += ok  # type: ignore[operator]  # as `plain` made it
            made.failed += failed  # type: ignore[operator]  # the same
            made.sum += total  # type: ignore[operator]  # the same
            for at, count in counts.items():  # type: ignore[attr-defined]  # the same
                made.counts[int(at)] += count
        return made


class Recent:
    """Counts and durations of the last `seconds`, and of all times. Not thread-safe."""

    __slots__ = ("_last", "_older", "_slots", "seconds", "width")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.width = seconds / SLOTS
        self._older: Tally | None = None
        self._slots: list[Tally] = []  # oldest first
        self._last: Tally | None = None

    def add(self, now: float, seconds: float, *, ok: bool) -> None:
        """Count one. seconds: how long it took; NaN if that was not measured."""
        last = self._last
        if last is None or now >= last.ends:
            last = self._turn(int(now // self.width))
        if ok:
            last.ok += 1
        else:
            last.failed += 1
        if seconds == seconds:  # noqa: PLR0124 - not NaN; half the price of asking by name
            last.counts[bucket_of(seconds)] += 1
            last.sum += seconds

    def add_ok(self, now: float, seconds: float, bucket: int) -> None:
        """Count a good one. bucket: of its `seconds`, as `bucket_of` gives it."""
        last = self._last
        if last is None or now >= last.ends:
            last = self._turn(int(now // self.width))
        last.ok += 1
        last.counts[bucket] += 1
        last.sum += seconds

    def _turn(self, number: int) -> Tally:
        """Begin a slot, and fold those that are too old."""
        first = number - SLOTS + 1
        while self._slots and self._slots[0].number < first:
            old = self._slots.pop(0)
            if self._older is None:
                self._older = old
            else:
                self._older.take(old)
        self._last = last = Tally(number)
        last.ends = (number + 1) * self.width
        self._slots.append(last)
        return last

    def window(self, now: float) -> Tally:
        """Return what was counted lately; changes nothing."""
        return self.both(now)[0]

    def whole(self) -> Tally:
        """Return what was counted ever; changes nothing."""
        return self.both(0.0)[1]

    def both(self, now: float) -> tuple[Tally, Tally]:
        """Return what was counted lately, and ever; changes nothing."""
        first = now // self.width - SLOTS + 1
        lately, ever = Tally(), Tally()
        for slot in self._slots:
            (lately if slot.number >= first else ever).take(slot)
        if self._older is not None:
            ever.take(self._older)
        ever.take(lately)
        return lately, ever
