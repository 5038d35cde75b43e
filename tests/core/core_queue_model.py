"""A backend as a queue, and callers in front of it, in simulated time.

`capacity` calls are worked on at once, each for about `service` seconds; what comes on top
waits, first in, first out. Faithful in what an adaptive limit lives on: latency grows with
what waits (Little's law), throughput ends at capacity / service, answers scatter, and a
caller that has lost patience leaves its call in the queue.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from holdfast.core.samples import Sample
from holdfast.runtime.random import SeededRandom

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.core.adaptive import AdaptiveState


@dataclass
class Model:
    """The backend, and an open loop of callers that come at `rate` per second.

    callers: if not 0, a closed loop instead: so many, each with one call at a time.
    jitter: share by which a service time scatters either way.  patience: seconds after which a
    caller takes its call for failed.  room: calls that may wait in the backend; one more fails
    at once.  constant: answer after `service` seconds whatever the load.
    """

    state: AdaptiveState
    capacity: int = 10
    service: float = 0.1
    rate: float = 1000.0
    callers: int = 0
    jitter: float = 0.2
    patience: float = math.inf
    room: float = math.inf
    seed: int = 1
    now: float = 0.0
    done: int = 0
    refused: int = 0
    limits: list[tuple[float, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._draw = SeededRandom(self.seed).draw
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._waiting: deque[list[float]] = deque()
        self._working = 0
        for _ in range(self.callers or 1):
            self._at(0.0, self._arrive)

    def run(self, seconds: float) -> list[int]:
        """Go on for so long; return the limit at each change, and at the end."""
        end = self.now + seconds
        seen = [self.state.limit]
        while self._events and self._events[0][0] <= end:
            self.now, _, act = heapq.heappop(self._events)
            act()
            if self.state.limit != seen[-1]:
                seen.append(self.state.limit)
                self.limits.append((self.now, self.state.limit))
        self.now = end
        return seen

    def mean_limit(self, seconds: float) -> float:
        """Go on for so long; return the limit's mean over time."""
        begin, limit = self.now, self.state.limit
        del self.limits[:]
        self.run(seconds)
        total, last = 0.0, begin
        for at, after in self.limits:
            total += limit * (at - last)
            limit, last = after, at
        return (total + limit * (self.now - last)) / seconds

    def _at(self, time: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._numbers), act))

    def _arrive(self) -> None:
        if not self.callers:
            self._at(self.now - math.log(1.0 - self._draw()) / self.rate, self._arrive)
        if self.state.acquire() is not True:
            self.refused += 1
            self._again(0.01)
            return
        if len(self._waiting) >= self.room:
            self._answered(self.now, failed=True, timed=False)
            return
        call = [self.now, 0.0]  # when it came; whether its caller has left
        self._waiting.append(call)
        if self.patience < math.inf:
            self._at(self.now + self.patience, lambda: self._leave(call))
        self._work()

    def _work(self) -> None:
        while self._waiting and self._working < self.capacity:
            call = self._waiting.popleft()
            self._working += 1
            took = self.service * (1.0 + self.jitter * (2.0 * self._draw() - 1.0))
            self._at(self.now + took, lambda call=call: self._finish(call))

    def _finish(self, call: list[float]) -> None:
        self._working -= 1
        if not call[1]:
            call[1] = 1.0
            self._answered(call[0], failed=False, timed=True)
        self._work()

    def _leave(self, call: list[float]) -> None:
        if not call[1]:
            call[1] = 1.0
            self._answered(call[0], failed=True, timed=True)

    def _answered(self, began: float, *, failed: bool, timed: bool) -> None:
        self.done += not failed
        sample = Sample(self.now, self.now - began, self.state.active, failed, timed)
        self.state.heard(sample, self._draw)
        self.state.release()
        self._again(0.0)

    def _again(self, pause: float) -> None:
        if self.callers:
            self._at(self.now + pause, self._arrive)
