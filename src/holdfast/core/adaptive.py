"""The adaptive bulkhead: a limit on what is in flight that follows what the backend can do.

A backend that is asked for more at once than it can work on lets the rest wait, so latency
says how much waits there. Three laws turn that into a limit; L is the limit, a real number
whose integer part counts.

vegas       q = ceil(L * (1 - base / recent)) calls wait in the backend.
            q < 3 log10 L: up; q > 6 log10 L: down; by max(1, log10 L) per look.
gradient    g = clamp(1.5 * long / short, .5, 1); L = .8 L + .2 (g L + 4).
aimd        a failure, or an answer after more than `slow_after`: L = .9 L, once per round;
            else one more per round of L answers. It needs no idea of what latency should be.

Vegas and gradient look at windows: at least 1 s and 50 answers, at most 30 s. `recent` and
`short` are the 90th percentile and the mean of the answers to what began in the window: what
began before it tells of an older limit.

Latency alone can lie. If it was measured under load from the start, `base` is too high and
nothing seems to wait; if everything times out after the same second, latency is constant. So
both laws are guarded by what happened when the number in flight changed (`Trend`): a limit
that brings no more throughput is not raised, it is lowered, until throughput does follow.

`base` falls with whatever is faster, and is measured anew now and then in a window with fewer
calls in flight, as few as should leave nothing waiting: measured under full load it would
creep up to what overload looks like, and the limit with it. If as much gets done in that window,
the lower limit stays: nothing tells more than an experiment.

Sources: Brakmo and Peterson, "TCP Vegas"; Netflix, concurrency-limits (Vegas, Gradient2,
AIMD); failsafe-go's adaptive limiter for the idea of correlating load and throughput.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from holdfast.core.bulkhead import Bulkhead, BulkheadState
from holdfast.core.checks import one_of, positive, whole
from holdfast.core.samples import FEWEST, FOLLOWS, Trend, Window

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.core.bulkhead import Ticket
    from holdfast.core.samples import Look, Sample

_ROOM = 5.0  # the limit may be this many times what was in flight: room for a burst
_BASE_WEIGHT = 2.0 / 11.0  # of a moving average over ten windows
_LONG_WEIGHT = 2.0 / 601.0  # ... over 600
_PROBE_EVERY = 30.0  # rounds of L answers
_PROBE_FEWEST = 20.0 * FEWEST  # answers, at small limits
_PROBE_SHARE = 0.8  # of the limit, at most, while `base` is measured anew
_PROBE_TELLS = 0.1  # the load must have fallen by more for the throughput to tell anything
_USED = 0.8  # of the limit: with fewer in flight it was not the limit that made the difference


@dataclass(frozen=True, slots=True)
class AdaptiveBulkhead:
    """At most so many at once per key as the backend works on without letting them wait.

    max, start, min: the limit's bounds, and where it begins (within them).  kind: "vegas"
    (by latency against the latency without load), "gradient" (by the trend of latency) or
    "aimd" (by failures and by `slow_after`).  queue, order: as for `Bulkhead`.
    slow_after: seconds after which "aimd" takes an answer for a failure.
    """

    max: int = 200
    start: int = 20
    min: int = 1
    kind: str = "vegas"
    queue: int = 0
    order: str = "fifo"
    slow_after: float = 5.0

    def __post_init__(self) -> None:
        whole("AdaptiveBulkhead", "min", self.min, 1)
        whole("AdaptiveBulkhead", "max", self.max, self.min)
        whole("AdaptiveBulkhead", "start", self.start, 1)
        whole("AdaptiveBulkhead", "queue", self.queue, 0)
        one_of("AdaptiveBulkhead", "kind", self.kind, tuple(_LAWS))
        one_of("AdaptiveBulkhead", "order", self.order, ("fifo", "lifo"))
        positive("AdaptiveBulkhead", "slow_after", self.slow_after)


class LimitChange(NamedTuple):
    """A limit that changed. what: "concurrency" or "rate"; before: None if there was none."""

    what: str
    before: float | None
    limit: float
    why: str


class Law(Protocol):
    """Turns samples into limits."""

    why: str

    def sample(self, limit: float, sample: Sample, draw: Callable[[], float]) -> float:
        """Return the limit that follows `limit`."""


def _step(limit: float) -> float:
    return max(1.0, math.log10(limit))


class Vegas:
    """By how many calls wait in the backend, told from latency with and without load."""

    __slots__ = ("_base", "_countdown", "_probe", "_trend", "_window", "why")

    def __init__(self) -> None:
        self._window = Window()
        self._trend = Trend()
        self._base = math.inf
        self._countdown = math.inf  # answers until `base` is measured anew
        # While it is being measured: the limit to go on with, and the look before it was lowered.
        self._probe: tuple[float, Look] | None = None
        self.why = ""

    def sample(self, limit: float, sample: Sample, draw: Callable[[], float]) -> float:
        """Return the limit that follows `limit`."""
        self._countdown -= 1
        look = self._window.add(sample)
        if look is None:
            return limit
        if self._countdown == math.inf:
            self._countdown = self._pause(limit, draw)
        self._trend.add(look.load, look.throughput)
        if self._probe is not None:
            return self._measured(limit, look, *self._probe)
        if look.p90 < self._base:
            faster = self._base == math.inf
            self._base = look.p90 if faster else self._base + _BASE_WEIGHT * (look.p90 - self._base)
        if self._countdown <= 0 and limit >= 2.0:
            self._countdown = self._pause(limit, draw)
            self._probe, self.why = (limit, look), "measuring"
            return max(1.0, min(limit, look.peak) * min(_PROBE_SHARE, self._base / look.p90))
        return self._decide(limit, look)

    def _measured(self, limit: float, look: Look, resume: float, before: Look) -> float:
        """Go back to the limit before, unless fewer calls at once gave as much."""
        self._probe = None
        self._base = look.p90
        less = 1.0 - look.load / before.load
        lost = 1.0 - look.throughput / before.throughput if before.throughput else 0.0
        if less > _PROBE_TELLS and lost < FOLLOWS * less:
            self.why = "no gain"
            return limit
        self.why = "measured"
        return resume

    def _decide(self, limit: float, look: Look) -> float:
        waiting = math.ceil(limit * (1.0 - self._base / look.p90))
        log = math.log10(limit)
        if waiting > max(3.0, 6.0 * log) or limit > _ROOM * look.peak + _step(limit):
            self.why = "waiting" if waiting > max(3.0, 6.0 * log) else "unused"
            return limit - _step(limit)
        if look.peak >= _USED * limit and self._trend.is_flat():
            self.why = "no gain"
            return limit - _step(limit)
        if waiting < max(1.5, 3.0 * log) and limit < _ROOM * look.peak:
            self.why = "room"
            return limit + _step(limit)
        return limit

    @staticmethod
    def _pause(limit: float, draw: Callable[[], float]) -> float:
        # Clients that began together must not all measure at once; and a small limit must not
        # spend most of its windows on it.
        return max(_PROBE_EVERY * limit, _PROBE_FEWEST) * (0.5 + 0.5 * draw())


class Gradient:
    """By how the latency of late compares with that of the last ten minutes or so."""

    __slots__ = ("_long", "_trend", "_window", "why")

    def __init__(self) -> None:
        self._window = Window()
        self._trend = Trend()
        self._long = 0.0
        self.why = ""

    def sample(self, limit: float, sample: Sample, draw: Callable[[], float]) -> float:  # noqa: ARG002 - the shape of a law
        """Return the limit that follows `limit`."""
        look = self._window.add(sample)
        if look is None:
            return limit
        self._trend.add(look.load, look.throughput)
        short = look.mean
        self._long += (short - self._long) * (_LONG_WEIGHT if self._long else 1.0)
        gradient = min(1.0, max(0.5, 1.5 * self._long / short)) if short else 1.0
        if self._long > 2.0 * short:  # after a long overload come down to what is true now
            self._long *= 0.95
        if look.peak < limit / 2.0:
            return limit
        after = 0.8 * limit + 0.2 * (gradient * limit + 4.0)
        if after > limit and look.peak >= _USED * limit and self._trend.is_flat():
            self.why = "no gain"
            return limit - _step(limit)
        self.why = "room" if after > limit else "waiting"
        return after


class Aimd:
    """By failures: one more per round of good answers, a tenth less per round with a bad one."""

    __slots__ = ("_cut_at", "_slow_after", "why")

    def __init__(self, slow_after: float) -> None:
        self._slow_after = slow_after
        self._cut_at = -math.inf
        self.why = ""

    def sample(self, limit: float, sample: Sample, draw: Callable[[], float]) -> float:  # noqa: ARG002 - the shape of a law
        """Return the limit that follows `limit`."""
        if sample.failed or sample.seconds > self._slow_after:
            # What began before the last cut does not know of it yet.
            if sample.now - sample.seconds < self._cut_at:
                return limit
            self._cut_at = sample.now
            self.why = "failure"
            return limit * 0.9
        if 2 * sample.in_flight < limit:
            return limit
        self.why = "room"
        return limit + 1.0 / limit


_LAWS: dict[str, Callable[[AdaptiveBulkhead], Law]] = {
    "vegas": lambda _: Vegas(),
    "gradient": lambda _: Gradient(),
    "aimd": lambda options: Aimd(options.slow_after),
}


class AdaptiveState(BulkheadState):
    """The permits of one key, whose number follows a law.

    When the limit falls below what is in flight, permits that come back are kept until it
    fits; when it rises, those who wait are served.
    """

    __slots__ = ("_exact", "_law", "_least", "_most")

    def __init__(self, options: AdaptiveBulkhead) -> None:
        start = min(max(options.start, options.min), options.max)
        super().__init__(Bulkhead(start, options.queue, options.order))
        self._exact = float(start)
        self._least, self._most = options.min, options.max
        self._law = _LAWS[options.kind](options)

    def heard(self, sample: Sample, draw: Callable[[], float]) -> LimitChange | None:
        """Take a sample; return the change if the limit, as an integer, is another now.

        draw: uniform in [0, 1). After a rise call `grant`.
        """
        exact = self._law.sample(self._exact, sample, draw)
        self._exact = min(max(exact, self._least), self._most)
        before, limit = self.limit, int(self._exact)
        if limit == before:
            return None
        self.limit = limit
        return LimitChange("concurrency", before, limit, self._law.why)

    def release(self) -> Ticket | None:
        """Give a permit back; return the ticket that got it, to be woken without the lock."""
        if self.active > self.limit:
            self.active -= 1
            return None
        return super().release()

    def grant(self) -> list[Ticket]:
        """Serve those who wait as far as the limit goes; return their tickets, to be woken."""
        served: list[Ticket] = []
        while self._queue:
            # Straight line: a driver's fast path may take the permit on another thread.
            if self.active >= self.limit:
                break
            self.active += 1
            served.append(self._serve())
        return served
