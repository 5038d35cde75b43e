"""How many connections a host bears, and which of them are worth keeping. Decisions only.

Nothing here waits or asks for the time: `now` (monotonic seconds) comes as an argument, and
all of it runs in a simulation.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

START = 4
GROW_SECONDS = 5.0
GROWTH = 1.02
"""A period is one of growth if it moved so many times what the best before it did."""
FORGET_SECONDS = 60.0
"""After so long at a limit that brings no more, one more is tried: networks change."""
HALVE_EVERY = 1.0
RESET_SHARE = 0.2
RESET_SECONDS = 10.0
RESETS_OF = 5
"""Of so many exchanges within `RESET_SECONDS` at least a share is taken."""

SLOW_SHARE = 0.1
SLOW_SECONDS = 2.0
PEER_SECONDS = 0.5
PEERS = 2
CRAWL_RATE = 1024.0
CRAWL_SECONDS = 20.0


class HostLimit:
    """The limit of connections to one host: additive increase, multiplicative decrease.

    limit: from 1 to `most`; begins at 4. One more after five seconds in which all were in
    use, nothing went wrong, and more was moved than before; half, at most once a second, when
    the host throttles, refuses connections beside others, or breaks more than a fifth.
    held_until: no new request before; the host asked for it.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = min(START, most)
        self.held_until = 0.0
        self._halved_at = float("-inf")
        self._ends: deque[list[int]] = deque()  # of each second: [second, ends, broken]
        self._since: float | None = None
        self._moved = 0
        self._best = 0.0
        self._best_at = 0.0

    def wait(self, now: float) -> float:
        """Return the seconds for which the host wants no request."""
        return max(0.0, self.held_until - now)

    # -- what goes wrong -----------------------------------------------------------------------

    def throttled(self, now: float, retry_after: float | None) -> None:
        """Note that the host asked for less. retry_after: seconds, if it named them."""
        if retry_after:
            self.held_until = max(self.held_until, now + retry_after)
        self._halve(now)

    def refused(self, now: float, connections: int) -> None:
        """Note a refusal. connections: open at that time; alone it says nothing of the limit."""
        if connections > 1:
            self._halve(now)

    def ended(self, now: float, *, broken: bool, count: int = 1) -> None:
        """Note the ends of exchanges. broken: reset, or cut short."""
        ends, second = self._ends, int(now)
        if not ends or ends[-1][0] != second:
            # Counted by the second: there may be thousands in each.
            ends.append([second, 0, 0])
            while second - ends[0][0] > RESET_SECONDS:
                ends.popleft()
        ends[-1][1] += count
        if not broken:
            return
        ends[-1][2] += count
        all_, bad = sum(one[1] for one in ends), sum(one[2] for one in ends)
        if all_ >= RESETS_OF and bad > RESET_SHARE * all_:
            ends.clear()
            self._halve(now)

    def _halve(self, now: float) -> None:
        self._since, self._best = None, 0.0
        if now - self._halved_at >= HALVE_EVERY:
            self._halved_at = now
            self.limit = max(1, self.limit // 2)

    # -- what goes well ------------------------------------------------------------------------

    def tick(self, now: float, moved: int, connections: int) -> bool:
        """Look at the host; return whether the limit was raised.

        moved: bytes received from it so far.  connections: in use now.
        """
        if self._since is None or connections < self.limit or self.wait(now):
            self._since, self._moved = now, moved
            return False
        if now - self._since < GROW_SECONDS:
            return False
        rate = (moved - self._moved) / (now - self._since)
        self._since, self._moved = now, moved
        if self._best and now - self._best_at >= FORGET_SECONDS:
            self._best = 0.0
        if rate <= self._best * GROWTH:
            return False
        self._best, self._best_at = rate, now
        if self.limit >= self.most:
            return False
        self.limit += 1
        return True


@dataclass(eq=False)
class Pace:
    """How fast one connection is: samples of what it has moved, taken at every look.

    began: whether the head of its answer has come; before, other limits apply.
    """

    moved: int = 0
    began: bool = False
    _samples: deque[tuple[float, int]] = field(default_factory=deque)

    def look(self, now: float) -> None:
        """Take a sample."""
        if self.began:
            self._samples.append((now, self.moved))
            while now - self._samples[0][0] > 1.5 * CRAWL_SECONDS:
                self._samples.popleft()

    def rate(self, now: float, seconds: float, *, least: float | None = None) -> float | None:
        """Return bytes per second over the last `seconds`.

        least: a younger one is judged by its whole life if that was so long; by default None
        is returned for it.
        """
        before = None
        for sample in self._samples:
            if before is not None and now - sample[0] < seconds:
                break
            before = sample
        if before is None or now - before[0] < (seconds if least is None else least):
            return None
        return (self.moved - before[1]) / (now - before[0])


def laggards(paces: Sequence[Pace], now: float) -> list[Pace]:
    """Return those far slower than their peers on one host. If all are slow, that is its pace."""
    found = []
    rates = {pace: pace.rate(now, SLOW_SECONDS, least=PEER_SECONDS) for pace in paces}
    for pace in paces:
        rate = pace.rate(now, SLOW_SECONDS)
        # Streams that work well begin anew every few seconds, so peers may be young.
        peers = [other for one, other in rates.items() if one is not pace and other is not None]
        if rate is None or len(peers) < PEERS:
            continue
        if rate < SLOW_SHARE * _median(peers):
            found.append(pace)
    return found


def _median(values: Sequence[float]) -> float:
    # That of `statistics` is exact with fractions, too, and takes 5 ms to import.
    ordered = sorted(values)
    middle = len(ordered) // 2
    return (ordered[middle] + ordered[-middle - 1]) / 2


def crawls(pace: Pace, now: float) -> bool:
    """Whether hardly a byte came for 20 s."""
    rate = pace.rate(now, CRAWL_SECONDS)
    return rate is not None and rate < CRAWL_RATE


class Bucket:
    """A bandwidth limit. rate: bytes per second, all streams together.

    piece: bytes that one stream should bring at once at most.
    """

    BURST = 0.1
    """Seconds of its rate that may come at once after a silence."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        # So small that what several streams are ahead by matters little within seconds.
        self.piece = min(256 * 1024, max(1024, int(rate / 40)))
        self._due = float("-inf")

    def take(self, n: int, now: float) -> float:
        """Count `n` bytes; return the seconds to wait before more may come."""
        self._due = max(self._due, now - self.BURST) + n / self.rate
        return max(0.0, self._due - now)
