"""Which stream fetches what: the missing ranges of one object, and who has claimed them.

Claims are taken from the front, so that what is there grows in order and can be hashed while
the rest comes. Their size is guided: a share of what is left, so that they are large in the
beginning (few requests) and small at the end (no stream is alone for long). When all is
claimed, a free stream takes over the second half of the claim that would take longest.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

LARGEST = 256 * 1024 * 1024
"""Bytes of one claim at most: more would let what is hashed fall far behind."""

STEAL_FROM = 1024 * 1024
STEAL_SECONDS = 5.0
"""A rest is shared if it is so large and would take so long."""


@dataclass(slots=True, eq=False)
class Claim:
    """Bytes [at, end) that one stream fetches. at: moves on; end: may come nearer.

    since: when it was made; first: where it began.
    """

    at: int
    end: int
    since: float
    first: int

    def seconds_left(self, now: float) -> float:
        """Return how long the rest takes at the speed so far."""
        gained, seconds = self.at - self.first, now - self.since
        if gained:
            return (self.end - self.at) * seconds / gained
        return float("inf") if seconds > STEAL_SECONDS else 0.0


class Ranges:
    """The missing ranges of one object. Thread-safe.

    gaps: (start, end), in order.  extent: claims end at multiples of it, where they can.
    """

    def __init__(self, gaps: Iterable[tuple[int, int]], extent: int) -> None:
        self._free = list(gaps)
        self._extent = extent
        self._claims: list[Claim] = []
        self._lock = threading.Lock()

    def has_work(self, now: float) -> bool:
        """Whether one more stream would get something."""
        with self._lock:
            return bool(self._free) or self._to_share(now) is not None

    def claim(self, streams: int, now: float, *, whole: bool = False) -> Claim | None:
        """Return the next range for one of `streams`; None if there is nothing to do.

        whole: a full share: for an answer that is open-ended and would be cut off.
        """
        with self._lock:
            if not self._free:
                return self._steal(now)
            start, end = self._free[0]
            if streams > 1:
                end = min(end, start + self._length(start, streams if whole else 2 * streams))
            self._cut_free(end)
            claim = Claim(start, end, now, start)
            self._claims.append(claim)
            return claim

    def _length(self, start: int, parts: int) -> int:
        left = sum(end - begin for begin, end in self._free)
        length = max(self._extent, min(LARGEST, left // parts))
        # From a broken place it goes to the end of its extent and on from there.
        stop = (start + length) // self._extent * self._extent
        return (stop if stop > start else stop + self._extent) - start

    def _cut_free(self, end: int) -> None:
        if self._free[0][1] == end:
            del self._free[0]
        else:
            self._free[0] = (end, self._free[0][1])

    def _to_share(self, now: float) -> tuple[Claim, int] | None:
        """Return the claim of which a part should be taken over, and from where on."""
        victim = max(self._claims, key=lambda claim: claim.end - claim.at, default=None)
        if victim is None:
            return None
        rest = victim.end - victim.at
        if rest < 2 * self._extent and (
            rest < STEAL_FROM or victim.seconds_left(now) < STEAL_SECONDS
        ):
            return None
        middle = victim.at + rest // 2
        if rest >= 2 * self._extent:
            middle = -(-middle // self._extent) * self._extent
        return (victim, middle) if victim.at < middle < victim.end else None

    def _steal(self, now: float) -> Claim | None:
        found = self._to_share(now)
        if found is None:
            return None
        victim, middle = found
        claim = Claim(middle, victim.end, now, middle)
        victim.end = middle
        self._claims.append(claim)
        return claim

    def extend(self, claim: Claim, streams: int) -> int:
        """Return the end of a claim; one that has come there takes on what follows.

        Only what is nobody's, of course: then its answer need not be cut off.
        """
        with self._lock:
            if claim.at >= claim.end and self._free and self._free[0][0] == claim.end:
                start, end = self._free[0]
                if streams > 1:
                    end = min(end, start + self._length(start, 2 * streams))
                self._cut_free(end)
                claim.end = end
            return claim.end

    def share(self, claim: Claim, streams: int) -> None:
        """Let a claim on everything shrink to what one of `streams` should have."""
        with self._lock:
            before = claim.end
            self._free = sorted([*self._free, (claim.at, before)])
            end = min(before, claim.at + self._length(claim.at, streams))
            self._free = [gap for gap in self._free if gap != (claim.at, before)]
            if end < before:
                self._free = sorted([*self._free, (end, before)])
            claim.end = end

    def take(self, claim: Claim, n: int) -> int:
        """Reserve up to `n` bytes at the front of a claim; return how many are still its own.

        They are written after this: nobody can take them over meanwhile.
        """
        with self._lock:
            n = min(n, claim.end - claim.at)
            claim.at += n
            return n

    def give_back(self, claim: Claim, at: int) -> None:
        """End a claim that has come to `at`; what is left of it is nobody's again."""
        with self._lock:
            self._claims.remove(claim)
            if at < claim.end:
                self._free = sorted([*self._free, (at, claim.end)])
