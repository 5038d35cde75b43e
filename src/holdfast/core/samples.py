"""What the answers of a window say, and whether throughput follows the load."""

from __future__ import annotations

import math
from array import array
from collections import deque
from typing import NamedTuple

SHORTEST = 1.0
LONGEST = 30.0
FEWEST = 50
"""A window: seconds at least and at most, answers at least."""

_KEPT = 256  # durations of one window; of more, every second, fourth, ... is kept
_TREND = 12  # windows that the guard looks back on
_TREND_FEWEST = 5

FOLLOWS = 0.3
"""Throughput follows the load if it grows at least that much as fast."""


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
        return (slope + doubt) * load / throughput < FOLLOWS
