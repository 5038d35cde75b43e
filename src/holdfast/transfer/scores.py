"""How well a host does, and who of several is asked first. Knows nothing of downloads.

A score is a small value: what an exchange brought makes a new one. `Ledger` keeps those of a run
behind a lock; everything else is pure, and the time comes as an argument.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from holdfast.core.backoff import doubled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Key = tuple[str, str, int]
    """Scheme, host and port."""

WEIGHT = 0.3
"""Of the newest exchange in the goodput."""
STICK = 2.0
"""Another host must be so many times as fast, or the one in use is kept."""
COOL_SECONDS = 1.0
COOL_MOST = 30.0
WORTH = 1 << 20
"""Bytes that an exchange must bring for its failure not to count as one more in a row."""
MOST_KEPT = 1000


@dataclass(frozen=True, slots=True)
class Score:
    """How well a host does.

    goodput: bytes per second, a moving average; 0: not measured.  errors: in a row.
    until: monotonic time before which it is better left alone.
    """

    goodput: float = 0.0
    errors: int = 0
    until: float = -math.inf

    def moved(self, n: int, seconds: float) -> Score:
        """Return it after an exchange that brought `n` bytes, however it ended."""
        if n <= 0:
            return self
        rate = n / max(seconds, 0.001)
        mean = self.goodput + WEIGHT * (rate - self.goodput) if self.goodput else rate
        return replace(self, goodput=mean)

    def served(self) -> Score:
        """Return it after an exchange that ended well."""
        return replace(self, errors=0, until=-math.inf)

    def failed(self, now: float, n: int = 0, wait: float | None = None) -> Score:
        """Return it after a failure. n: bytes that came before.  wait: seconds it asked for.

        Several connections that break together are one failure.
        """
        errors = self.errors if now < self.until else self.errors + 1
        if n >= WORTH:
            errors = 1
        cool = doubled(COOL_SECONDS, errors - 1, COOL_MOST)
        return replace(self, errors=errors, until=max(self.until, now + max(cool, wait or 0.0)))


def ranked(scores: Sequence[Score], now: float, current: int | None = None) -> list[int]:
    """Return the places of `scores`, best first. current: the one in use, if there is one.

    First those that do not cool down, the others by when they will be ready: somebody always
    comes first. Then those with fewer errors, then the faster; what was not measured comes after
    what does well, in the order given, which is the user's.
    """

    def key(no: int) -> tuple[bool, float, int, float]:
        score = scores[no]
        cooling = now < score.until
        goodput = score.goodput
        if no == current:
            goodput = goodput * STICK or math.inf
        return cooling, score.until if cooling else 0.0, score.errors, -goodput

    return sorted(range(len(scores)), key=key)


class Ledger:
    """The scores of a run, by origin. Thread-safe; bounded, the oldest go first.

    held: host -> seconds for which it wants no request.
    """

    def __init__(self, held: Callable[[str], float] = lambda _: 0.0) -> None:
        self._held = held
        self._lock = threading.Lock()
        self._scores: dict[Key, Score] = {}

    def of(self, key: Key) -> Score:
        """Return a score; of who is not known, that of a beginner."""
        return self._scores.get(key, Score())

    def now(self, key: Key, now: float) -> Score:
        """Return a score with what the host asked for of others."""
        score, wait = self.of(key), self._held(key[1])
        return replace(score, until=max(score.until, now + wait)) if wait else score

    def note(
        self,
        key: Key,
        n: int,
        seconds: float,
        failure: tuple[float, float | None] | None,
        *,
        whole: bool,
    ) -> None:
        """Note an exchange. failure: when, and the wait that was asked for.  whole: ended well."""
        with self._lock:
            score = self._scores.pop(key, Score()).moved(n, seconds)
            if failure is not None:
                score = score.failed(failure[0], n, failure[1])
            elif whole:
                score = score.served()
            while len(self._scores) >= MOST_KEPT:
                del self._scores[next(iter(self._scores))]
            self._scores[key] = score
