"""Retry budgets: what keeps retries from multiplying the load on a backend that is down.

A budget is asked before every retry and never before a first attempt. Four kinds:

    Budget              tokens; a retry costs, a success pays back (AWS standard retry mode 2.1)
    Budget.concurrent   retries in flight at most a share of the calls in flight (Envoy)
    Budget.ratio        retries at most a share of recent calls, plus a trickle (Finagle)
    Budget.switch       retries only while successes outweigh failures (gRPC A6)

All are values; the counting objects below are made per key, or once if `shared=True`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from holdfast.core.checks import at_least, between, positive
from holdfast.core.verdict import Kind
from holdfast.core.window import Window

if TYPE_CHECKING:
    from collections.abc import Callable

_THROTTLE = Kind.THROTTLED | Kind.CONCURRENCY


class BudgetState(Protocol):
    """The counting side of a budget. Not thread-safe: the driver holds the lock."""

    idle: bool
    """A first-try success now would change nothing, so it need not be reported."""

    def started(self, now: float) -> None:
        """Count a logical call that begins."""

    def allows(self, kind: Kind, now: float, last: float | None) -> bool:
        """Say whether a retry after a failure of this kind could be paid now.

        last: the cost of this call's retry before this one; None for its first retry.
        """
        ...

    def pay(self, kind: Kind, now: float, last: float | None) -> float:
        """Pay for a retry that `allows` granted; return its cost."""
        ...

    def failed(self) -> None:
        """Count a failed attempt."""

    def ended(self, cost: float | None, *, ok: bool) -> None:
        """Count the end of a logical call; cost: of its last retry, None if never retried."""

    def left(self, now: float) -> float:
        """Return what is left, in the budget's own unit."""
        ...


@dataclass(frozen=True, slots=True)
class Budget:
    """A token bucket for retries; each key has its own.

    capacity: tokens when full, which it is at the start.
    transient, throttled: what a retry costs after a transient failure, and after THROTTLED
        or CONCURRENCY. Success gives back the cost of the last retry, or 1 token if the call
        was never retried. With the defaults 35 retries are possible when full, so a dead
        backend sees at most 1.1 times the load from 350 calls on.
    shared: one bucket for every key and policy that holds this very object.

    Source: AWS SDKs, standard retry mode 2.1 (test vectors of smithy).
    """

    capacity: float = 500
    transient: float = 14
    throttled: float = 5
    shared: bool = False
    _own: list[BudgetState] = field(default_factory=list, repr=False, compare=False)

    def __post_init__(self) -> None:
        at_least("Budget", "capacity", self.capacity, 0)
        positive("Budget", "transient", self.transient)
        positive("Budget", "throttled", self.throttled)

    @staticmethod
    def concurrent(share: float = 0.2, floor: int = 3, *, shared: bool = False) -> ConcurrentBudget:
        """Allow `max(floor, share * calls in flight)` retries in flight."""
        return ConcurrentBudget(share, floor, shared)

    @staticmethod
    def ratio(
        share: float = 0.2, per_second: float = 10, ttl: float = 10, *, shared: bool = False
    ) -> RatioBudget:
        """Allow `share` retries per call of the last `ttl` seconds, plus `per_second`."""
        return RatioBudget(share, per_second, ttl, shared)

    @staticmethod
    def switch(tokens: float = 10, refund: float = 0.1, *, shared: bool = False) -> SwitchBudget:
        """Retry only while more than half of `tokens` are left; failure -1, success +refund."""
        return SwitchBudget(tokens, refund, shared)

    def build(self) -> BudgetState:
        """Return the counting object: a new one, or the shared one."""
        return _build(self.shared, self._own, lambda: _Tokens(self))

    def describe(self) -> dict[str, object]:
        """Return the options as plain data."""
        return {
            "kind": "tokens",
            "capacity": self.capacity,
            "transient": self.transient,
            "throttled": self.throttled,
            "shared": self.shared,
        }


@dataclass(frozen=True, slots=True)
class ConcurrentBudget:
    """See `Budget.concurrent`."""

    share: float
    floor: int
    shared: bool = False
    _own: list[BudgetState] = field(default_factory=list, repr=False, compare=False)

    def __post_init__(self) -> None:
        between("Budget.concurrent", "share", self.share, 0, 1)
        at_least("Budget.concurrent", "floor", self.floor, 0)

    def build(self) -> BudgetState:
        """Return the counting object."""
        return _build(self.shared, self._own, lambda: _Concurrent(self))

    def describe(self) -> dict[str, object]:
        """Return the options as plain data."""
        return {
            "kind": "concurrent",
            "share": self.share,
            "floor": self.floor,
            "shared": self.shared,
        }


@dataclass(frozen=True, slots=True)
class RatioBudget:
    """See `Budget.ratio`."""

    share: float
    per_second: float
    ttl: float
    shared: bool = False
    _own: list[BudgetState] = field(default_factory=list, repr=False, compare=False)

    def __post_init__(self) -> None:
        between("Budget.ratio", "share", self.share, 0, 1)
        at_least("Budget.ratio", "per_second", self.per_second, 0)
        positive("Budget.ratio", "ttl", self.ttl)

    def build(self) -> BudgetState:
        """Return the counting object."""
        return _build(self.shared, self._own, lambda: _Ratio(self))

    def describe(self) -> dict[str, object]:
        """Return the options as plain data."""
        return {
            "kind": "ratio",
            "share": self.share,
            "per_second": self.per_second,
            "ttl": self.ttl,
            "shared": self.shared,
        }


@dataclass(frozen=True, slots=True)
class SwitchBudget:
    """See `Budget.switch`."""

    tokens: float
    refund: float
    shared: bool = False
    _own: list[BudgetState] = field(default_factory=list, repr=False, compare=False)

    def __post_init__(self) -> None:
        positive("Budget.switch", "tokens", self.tokens)
        positive("Budget.switch", "refund", self.refund)

    def build(self) -> BudgetState:
        """Return the counting object."""
        return _build(self.shared, self._own, lambda: _Switch(self))

    def describe(self) -> dict[str, object]:
        """Return the options as plain data."""
        return {
            "kind": "switch",
            "tokens": self.tokens,
            "refund": self.refund,
            "shared": self.shared,
        }


AnyBudget = Budget | ConcurrentBudget | RatioBudget | SwitchBudget


def _build(
    shared: bool,  # noqa: FBT001 - private
    own: list[BudgetState],
    make: Callable[[], BudgetState],
) -> BudgetState:
    if not shared:
        return make()
    if not own:
        own.append(make())
    return own[0]


class Unlimited:
    """No budget: every retry is allowed."""

    __slots__ = ("idle",)

    def __init__(self) -> None:
        self.idle = True

    def started(self, now: float) -> None:
        """Nothing to count."""

    def allows(self, kind: Kind, now: float, last: float | None) -> bool:
        """Grant it always."""
        return True

    def pay(self, kind: Kind, now: float, last: float | None) -> float:
        """Cost nothing."""
        return 0.0

    def failed(self) -> None:
        """Nothing to count."""

    def ended(self, cost: float | None, *, ok: bool) -> None:
        """Nothing to count."""

    def left(self, now: float) -> float:
        """Infinite."""
        return math.inf


class _Tokens(Unlimited):
    __slots__ = ("_tokens", "_value")

    def __init__(self, value: Budget) -> None:
        self._value = value
        self._tokens = value.capacity
        self.idle = True  # full: a refund would be cut at the capacity

    def _cost(self, kind: Kind) -> float:
        return self._value.throttled if kind & _THROTTLE else self._value.transient

    def allows(self, kind: Kind, now: float, last: float | None) -> bool:
        return self._tokens >= self._cost(kind)

    def pay(self, kind: Kind, now: float, last: float | None) -> float:
        cost = self._cost(kind)
        self._tokens -= cost
        self.idle = False
        return cost

    def ended(self, cost: float | None, *, ok: bool) -> None:
        if ok and not self.idle:
            refund = 1 if cost is None else cost
            self._tokens = min(self._value.capacity, self._tokens + refund)
            self.idle = self._tokens >= self._value.capacity

    def left(self, now: float) -> float:
        return self._tokens


class _Concurrent(Unlimited):
    __slots__ = ("_active", "_retrying", "_value")

    def __init__(self, value: ConcurrentBudget) -> None:
        self.idle = False
        self._value = value
        self._active = 0
        self._retrying = 0

    def _limit(self) -> float:
        return max(self._value.floor, self._value.share * self._active)

    def started(self, now: float) -> None:
        self._active += 1

    def allows(self, kind: Kind, now: float, last: float | None) -> bool:
        return last is not None or self._retrying + 1 <= self._limit()

    def pay(self, kind: Kind, now: float, last: float | None) -> float:
        self._retrying += last is None  # a call that retries again is still one retry in flight
        return 1.0

    def ended(self, cost: float | None, *, ok: bool) -> None:
        self._active -= 1
        if cost is not None:
            self._retrying -= 1

    def left(self, now: float) -> float:
        return self._limit() - self._retrying


class _Ratio(Unlimited):
    __slots__ = ("_value", "_window")

    def __init__(self, value: RatioBudget) -> None:
        self.idle = False
        self._value = value
        self._window = Window(value.ttl)  # calls are deposits, failures are withdrawals

    def started(self, now: float) -> None:
        self._window.add(now, calls=1)

    def allows(self, kind: Kind, now: float, last: float | None) -> bool:
        return self.left(now) >= 1

    def pay(self, kind: Kind, now: float, last: float | None) -> float:
        self._window.add(now, failures=1)
        return 1.0

    def left(self, now: float) -> float:
        calls, retries, _ = self._window.totals(now)
        value = self._value
        return value.per_second * value.ttl + value.share * calls - retries


class _Switch(Unlimited):
    __slots__ = ("_tokens", "_value")

    def __init__(self, value: SwitchBudget) -> None:
        self._value = value
        self._tokens = value.tokens
        self.idle = True

    def allows(self, kind: Kind, now: float, last: float | None) -> bool:
        return self._tokens > self._value.tokens / 2

    def failed(self) -> None:
        self._tokens = max(0.0, self._tokens - 1)
        self.idle = False

    def ended(self, cost: float | None, *, ok: bool) -> None:
        if ok and not self.idle:
            self._tokens = min(self._value.tokens, self._tokens + self._value.refund)
            self.idle = self._tokens >= self._value.tokens

    def left(self, now: float) -> float:
        return self._tokens
