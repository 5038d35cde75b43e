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
creep up to what overload looks like, and the limit with it.

Sources: Brakmo and Peterson, "TCP Vegas"; Netflix, concurrency-limits (Vegas, Gradient2,
AIMD); failsafe-go's adaptive limiter for the idea of correlating load and throughput.
"""

from __future__ import annotations

import math
from array import array
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from holdfast.core.bulkhead import Bulkhead, BulkheadState
from holdfast.core.checks import one_of, positive, whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.core.bulkhead import Ticket

SHORTEST = 1.0
LONGEST = 30.0
FEWEST = 50
"""A window: seconds at least and at most, answers at least."""

_KEPT = 256  # durations of one window; of more, every second, fourth, ... is kept
_ROOM = 5.0  # the limit may be this many times what was in flight: room for a burst
_BASE_WEIGHT = 2.0 / 11.0  # of a moving average over ten windows
_LONG_WEIGHT = 2.0 / 601.0  # ... over 600
_PROBE_EVERY = 30.0  # rounds of L answers
_PROBE_FEWEST = 20.0 * FEWEST  # answers, at small limits
_PROBE_SHARE = 0.8  # of the limit, at most, while `base` is measured anew
_TREND = 12  # windows that the guard looks back on
_TREND_FEWEST = 5
_FOLLOWS = 0.3  # throughput follows the load if it grows at least that much as fast


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


class Sample(NamedTuple):
    """One answer.

    in_flight: when it came, itself included.  failed: it says that the backend is not well.
    timed: `seconds` is how long the backend took, or longer than anybody waits.
    """

    now: float
    seconds: float
    in_flight: int
    failed: bool
    timed: bool


class Look(NamedTuple):
    """What a window of samples says. load: mean number in flight; peak: the most."""

    p90: float
    mean: float
    load: float
    peak: int
    throughput: float


class Window:
    """Samples until there are enough for a look, of bounded size."""

    __slots__ = ("_answers", "_began", "_good", "_load", "_next", "_peak", "_stride", "_times")

    def __init__(self) -> None:
        self._times = array("d")
        self._began = -math.inf
        self._start(-math.inf)

    def _start(self, now: float) -> None:
        self._began = now
        del self._times[:]
        self._answers = self._good = self._load = self._peak = 0
        self._stride = self._next = 1

    def add(self, sample: Sample) -> Look | None:
        """Take a sample; return what the window says if it is full, and begin the next."""
        now = sample.now
        if now - self._began > LONGEST:  # too few answers to say anything; or the first of all
            self._start(now - sample.seconds if self._began == -math.inf else now)
        self._answers += 1
        self._good += not sample.failed
        self._load += sample.in_flight
        self._peak = max(self._peak, sample.in_flight)
        if sample.timed and now - sample.seconds >= self._began:
            self._keep(sample.seconds)
        if now - self._began < SHORTEST or len(self._times) * self._stride < FEWEST:
            return None
        look = self._look(now)
        self._start(now)
        return look

    def _keep(self, seconds: float) -> None:
        self._next -= 1
        if self._next:
            return
        self._times.append(seconds)
        if len(self._times) >= _KEPT:
            self._times = self._times[::2]
            self._stride *= 2
        self._next = self._stride

    def _look(self, now: float) -> Look:
        times = sorted(self._times)
        return Look(
            p90=times[math.ceil(len(times) * 0.9) - 1],
            mean=math.fsum(times) / len(times),
            load=self._load / self._answers,
            peak=self._peak,
            throughput=self._good / (now - self._began),
        )


class Trend:
    """Whether throughput follows the load, over the last windows.

    A backend with room gives half as much again when half as much again is asked of it at
    once: elasticity 1. One that is full gives the same: elasticity 0, and by Little's law
    latency grows instead. That is a regression, and it is heeded only if the load varied
    enough for it to mean something.
    """

    __slots__ = ("_points",)

    def __init__(self) -> None:
        self._points: deque[tuple[float, float]] = deque(maxlen=_TREND)

    def add(self, load: float, throughput: float) -> None:
        """Take one window."""
        self._points.append((load, throughput))

    def is_flat(self) -> bool:
        """Say whether more in flight has brought no more throughput, with some confidence."""
        n = len(self._points)
        if n < _TREND_FEWEST:
            return False
        load = math.fsum(x for x, _ in self._points) / n
        throughput = math.fsum(y for _, y in self._points) / n
        spread = math.fsum((x - load) ** 2 for x, _ in self._points)
        if spread < n * (0.01 * load) ** 2:
            return False
        if not throughput > 0.0:
            return True  # nothing good came of it at all
        slope = math.fsum((x - load) * (y - throughput) for x, y in self._points) / spread
        rest = math.fsum((y - throughput - slope * (x - load)) ** 2 for x, y in self._points)
        doubt = math.sqrt(rest / (n - 2) / spread)
        return (slope + doubt) * load / throughput < _FOLLOWS


class Law(Protocol):
    """Turns samples into limits."""

    why: str

    def sample(self, limit: float, sample: Sample, draw: Callable[[], float]) -> float:
        """Return the limit that follows `limit`."""


def _step(limit: float) -> float:
    return max(1.0, math.log10(limit))


class Vegas:
    """By how many calls wait in the backend, told from latency with and without load."""

    __slots__ = ("_base", "_countdown", "_resume", "_trend", "_window", "why")

    def __init__(self) -> None:
        self._window = Window()
        self._trend = Trend()
        self._base = math.inf
        self._countdown = math.inf  # answers until `base` is measured anew
        self._resume = 0.0  # the limit to go on with after that; 0: it is not being measured
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
        if self._resume:
            limit, self._resume = self._resume, 0.0
            self._base = look.p90
            self.why = "measured"
            return limit
        if look.p90 < self._base:
            faster = self._base == math.inf
            self._base = look.p90 if faster else self._base + _BASE_WEIGHT * (look.p90 - self._base)
        if self._countdown <= 0 and limit >= 2.0:
            self._countdown = self._pause(limit, draw)
            self._resume, self.why = limit, "measuring"
            return max(1.0, limit * min(_PROBE_SHARE, self._base / look.p90))
        return self._decide(limit, look)

    def _decide(self, limit: float, look: Look) -> float:
        waiting = math.ceil(limit * (1.0 - self._base / look.p90))
        log = math.log10(limit)
        if waiting > max(3.0, 6.0 * log) or limit > _ROOM * look.peak + _step(limit):
            self.why = "waiting" if waiting > max(3.0, 6.0 * log) else "unused"
            return limit - _step(limit)
        if self._trend.is_flat():
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
        if after > limit and self._trend.is_flat():
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
