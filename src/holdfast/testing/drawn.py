"""Draws policies from a seed: which strategies, in which order, with which options."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.core.adaptive import AdaptiveBulkhead
from holdfast.core.backoff import Constant, Decorrelated, Exponential, Linear
from holdfast.core.breaker import Breaker
from holdfast.core.budget import Budget
from holdfast.core.bulkhead import Bulkhead
from holdfast.core.deadline import Deadline, Timeout
from holdfast.core.fallback import Fallback
from holdfast.core.ratelimit import AdaptiveRateLimit, RateLimit
from holdfast.core.retry import Retry
from holdfast.core.throttle import ClientThrottle
from holdfast.core.verdict import CONNECT, THROTTLED, TIMEOUT, TRANSIENT, UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.core.backoff import Backoff
    from holdfast.core.budget import AnyBudget
    from holdfast.core.matching import On
    from holdfast.core.policy import Strategy
    from holdfast.runtime.random import SeededRandom

FALLBACK = "fallback"
"""The value of every drawn fallback."""


class Draw:
    """Draws policies: the same ones from the same source.

    latency: of the backend in seconds; limits are drawn so that a good attempt fits them.
    interrupt: as for `Deadline` and `Timeout`.
    """

    def __init__(self, source: SeededRandom, latency: float, *, interrupt: bool) -> None:
        self._source = source
        self._latency = latency
        self._interrupt = interrupt
        self._shared: AnyBudget = Budget(200, shared=True)

    def strategies(self) -> list[Strategy]:
        """Return up to eight strategies in a drawn order."""
        maybe = self._maybe
        outer: list[Strategy | None] = [
            maybe(0.15, lambda: Fallback(FALLBACK)),
            maybe(0.75, lambda: Deadline(self._seconds(30, 2000), interrupt=self._interrupt)),
        ]
        middle = [
            maybe(0.5, self._bulkhead),
            maybe(0.35, self._rate),
            maybe(0.1, lambda: ClientThrottle(window=30)),
        ]
        retry = maybe(0.85, self._retry)
        inner = [maybe(0.7, self._breaker)]
        # Admission around the whole call or around each attempt, in any order.
        border = self._source.between(0, 3)
        if self._source.draw() < 0.3:
            middle.reverse()
        if self._source.draw() < 0.2:
            inner, middle = middle, inner
            border = min(border, 1)
        last = maybe(0.6, lambda: Timeout(self._seconds(4, 60), interrupt=self._interrupt))
        parts = [*outer, *middle[:border], retry, *middle[border:], *inner, last]
        return [part for part in parts if part is not None]

    def _maybe(self, chance: float, make: Callable[[], Strategy]) -> Strategy | None:
        return make() if self._source.draw() < chance else None

    def _seconds(self, low: float, high: float) -> float:
        """Return a limit between `low` and `high` latencies; some are the same on purpose."""
        return self._latency * low * float((high / low) ** (self._source.between(0, 8) / 8))

    def _bulkhead(self) -> Bulkhead | AdaptiveBulkhead:
        source = self._source
        limit = source.between(1, 6)
        order = source.choice(("fifo", "fifo", "lifo"))
        queue = source.between(0, 12)
        # Mostly "aimd": its limit moves with single failures, the others need hundreds of calls.
        kind = source.choice((None, None, None, "aimd", "aimd", "aimd", "vegas", "gradient"))
        if kind is None:
            return Bulkhead(limit, queue=queue, order=order)
        return AdaptiveBulkhead(
            max=limit + source.between(0, 6), start=limit, min=1, kind=kind, queue=queue,
            order=order, slow_after=self._seconds(2, 20),
        )  # fmt: skip

    def _rate(self) -> RateLimit | AdaptiveRateLimit:
        source = self._source
        limit = 0.2 / self._latency * 50 ** source.draw()
        learn = source.draw() < 0.6
        if source.draw() < 0.4:
            wmax = source.choice(("before", "after"))
            return RateLimit.adaptive(least=limit / 10, wmax=wmax, learn=learn)
        return RateLimit(limit, burst=source.choice((None, 1, 3)), learn=learn)

    def _breaker(self) -> Breaker:
        source = self._source
        return Breaker(
            ratio=source.choice((0.2, 0.5, 1.0)),
            window=self._latency * 1000,
            min_calls=source.between(2, 20),
            consecutive=source.choice((None, 1, 3, 5)),
            slow_after=source.choice((None, None, self._latency * 20)),
            open_for=self._seconds(10, 1000),
            max_open=self._latency * 2000,
            half_open=source.between(1, 3),
            close_after=source.between(1, 4),
        )

    def _retry(self) -> Retry:
        source = self._source
        # No round numbers: a wait that ends in the tick of a deadline may be made or not.
        base = self._latency * source.choice((0.31, 0.97, 0.97, 9.7))
        backoffs: tuple[Backoff, ...] = (
            Exponential(base=base, cap=base * 50),
            Exponential(base=base, cap=base * 50, jitter="none"),
            Constant(base),
            Linear(base, cap=base * 20),
            Decorrelated(base=base, cap=base * 50),
        )
        budget: AnyBudget | None = source.choice(
            (
                Budget(),
                Budget(60),
                Budget.concurrent(floor=2),
                Budget.ratio(per_second=0.1 / base),
                Budget.switch(),
                self._shared,
                None,
            )
        )
        usual = TRANSIENT | THROTTLED
        ons: tuple[On, ...] = (usual, usual | UNKNOWN, CONNECT, (TIMEOUT, OSError))
        return Retry(
            source.between(1, 6),
            on=source.choice(ons),
            backoff=source.choice(backoffs),
            budget=budget,
            nested=source.choice(("suppress", "suppress", "allow")),
            long_poll=source.draw() < 0.1,
            idempotency_key=False,
        )
