"""Composition: strategies in reading order, outer to inner, checked and compiled once.

`Shape` is what the state machine (`call`) runs on, `Lane` the state of one key.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from holdfast.core.adaptive import AdaptiveBulkhead, AdaptiveState
from holdfast.core.breaker import Breaker, BreakerState, NoBreaker
from holdfast.core.budget import BudgetState, Unlimited
from holdfast.core.bulkhead import Bulkhead, BulkheadState
from holdfast.core.cubic import AdaptiveRate
from holdfast.core.deadline import Deadline, Timeout
from holdfast.core.fallback import Fallback
from holdfast.core.hedge import Hedge, HedgeState
from holdfast.core.matching import Matcher, compile_on
from holdfast.core.ratelimit import (
    AdaptiveRateLimit,
    LearningRate,
    RateLimit,
    RateLimitState,
)
from holdfast.core.retry import Retry, Rule
from holdfast.core.throttle import ClientThrottle, ThrottleState
from holdfast.core.verdict import Kind
from holdfast.core.window import Durations

if TYPE_CHECKING:
    from collections.abc import Callable

Strategy: TypeAlias = (
    Deadline
    | Bulkhead
    | AdaptiveBulkhead
    | RateLimit
    | AdaptiveRateLimit
    | ClientThrottle
    | Retry
    | Hedge
    | Breaker
    | Timeout
    | Fallback
)

# The strategies that admit or refuse, by the name of their state in a `Lane`. Two of one name
# are two kinds of the same thing: a policy has one of them.
ADMISSION: dict[type, str] = {
    Bulkhead: "bulkhead",
    AdaptiveBulkhead: "bulkhead",
    RateLimit: "rate",
    AdaptiveRateLimit: "rate",
    ClientThrottle: "throttle",
    Breaker: "breaker",
}


_LEARNING = frozenset((AdaptiveBulkhead, AdaptiveRateLimit))

ENOUGH = 20
"""Durations that make a median; until then every call goes by the full path, to be measured."""


class PolicyWarning(UserWarning):
    """A composition that is legal but rarely meant. `order="free"` silences it."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A compiled policy.

    parts: the strategies as given.  outer, inner: names of the admission layers around the
    whole call and around each attempt.  seconds: of the Deadline; limit: of the Timeout;
    both infinite if absent.  warnings: what is legal but rarely meant.  hedge_from: how many
    of the layers, outer and inner, are entered once per attempt; those after it per copy.
    learns: a limit follows the results, so each of them has to be heard of.
    """

    parts: tuple[Strategy, ...]
    outer: tuple[str, ...]
    inner: tuple[str, ...]
    rule: Rule | None
    seconds: float
    limit: float
    interrupt: bool
    fallback: Fallback | None
    fallback_on: Matcher | None
    warnings: tuple[str, ...]
    hedge: Hedge | None
    hedge_from: int
    learns: bool

    def part(self, *kinds: type[Any]) -> Any:
        """Return the strategy of this type, or of one of these, or None."""
        return next((part for part in self.parts if type(part) in kinds), None)

    @property
    def limited(self) -> bool:
        """Whether the policy itself limits the time of an attempt."""
        return self.seconds < math.inf or self.limit < math.inf


USUAL_ORDER: tuple[type, ...] = (
    Fallback, Deadline, Bulkhead, AdaptiveBulkhead, RateLimit, AdaptiveRateLimit, Retry, Hedge,
    ClientThrottle, Breaker, Timeout,
)  # fmt: skip
"""Outer to inner, as most compositions want it."""


def with_change(parts: tuple[Strategy, ...], change: Strategy) -> tuple[Strategy, ...]:
    """Return `parts` with `change` in place of its type's strategy, or at its usual place."""
    kinds = [type(part) for part in parts]
    slots = [_slot(part) for part in parts]
    if _slot(change) in slots:
        at = slots.index(_slot(change))
        return (*parts[:at], change, *parts[at + 1 :])
    if type(change) not in USUAL_ORDER:
        return (*parts, change)  # not a strategy: `compile_shape` says so
    rank = USUAL_ORDER.index(type(change))
    at = next((i for i, kind in enumerate(kinds) if USUAL_ORDER.index(kind) > rank), len(parts))
    return (*parts[:at], change, *parts[at:])


def _slot(part: Strategy) -> object:
    return ADMISSION.get(type(part), type(part))


def compile_shape(parts: tuple[Strategy, ...]) -> Shape:
    """Check the strategies and compile them. Raises ValueError or TypeError on nonsense."""
    seen: dict[type, Strategy] = {}
    for part in parts:
        if not isinstance(part, Strategy):
            raise TypeError(
                f"`policy(...)` takes strategies such as `hf.Retry(3)`: {part!r}"
                + (" (forgot to call it?)" if isinstance(part, type) else "")
            )
        if type(part) in seen:
            raise ValueError(f"`policy(...)` takes at most one {type(part).__name__}")
        other = next((kind for kind in seen if _slot(seen[kind]) == _slot(part)), None)
        if other is not None:
            names = f"{other.__name__} or {type(part).__name__}"
            raise ValueError(f"`policy(...)` takes either {names}, not both")
        seen[type(part)] = part
    retry, deadline, timeout = (seen.get(kind) for kind in (Retry, Deadline, Timeout))
    fallback, hedge = seen.get(Fallback), seen.get(Hedge)
    border = parts.index(retry) if retry is not None else 0
    # Only single attempts are hedged, wherever `Hedge` stands: a copy has no retries of its own.
    copied = max(border, parts.index(hedge)) if hedge is not None else len(parts)
    return Shape(
        parts=parts,
        outer=_layers(parts[:border]),
        inner=_layers(parts[border:]),
        rule=Rule.of(retry) if isinstance(retry, Retry) else None,
        seconds=deadline.seconds if isinstance(deadline, Deadline) else math.inf,
        limit=timeout.seconds if isinstance(timeout, Timeout) else math.inf,
        interrupt=all(
            part.interrupt for part in (deadline, timeout) if isinstance(part, Deadline | Timeout)
        ),
        fallback=fallback if isinstance(fallback, Fallback) else None,
        fallback_on=(
            compile_on("Fallback", fallback.on) if isinstance(fallback, Fallback) else None
        ),
        warnings=tuple(_order_warnings([type(part) for part in parts])),
        hedge=hedge if isinstance(hedge, Hedge) else None,
        hedge_from=len(_layers(parts[:copied])),
        learns=not _LEARNING.isdisjoint(seen),
    )


def _layers(parts: tuple[Strategy, ...]) -> tuple[str, ...]:
    return tuple(ADMISSION[type(part)] for part in parts if type(part) in ADMISSION)


def _order_warnings(kinds: list[type]) -> list[str]:
    found = []
    if Breaker in kinds and Retry in kinds and kinds.index(Breaker) < kinds.index(Retry):
        found.append(
            "Breaker outside Retry counts a logical call, however many attempts failed, once: "
            "put it after Retry so that it sees every attempt"
        )
    if kinds and kinds[0] is Timeout and Deadline not in kinds:
        found.append(
            "Timeout outermost limits each attempt, not the whole call: "
            "use Deadline for the whole, or put Timeout last"
        )
    if Fallback in kinds and Retry in kinds and kinds.index(Fallback) > kinds.index(Retry):
        found.append(
            "Fallback inside Retry is still used after the last attempt only: put it first"
        )
    if Hedge in kinds and Retry in kinds and kinds.index(Hedge) < kinds.index(Retry):
        found.append(
            "Retry inside Hedge: a hedge is one more copy of an attempt and has no retries of its "
            "own: put Hedge after Retry"
        )
    return found


def _bulkhead(part: Bulkhead | AdaptiveBulkhead | None) -> BulkheadState:
    return AdaptiveState(part) if isinstance(part, AdaptiveBulkhead) else BulkheadState(part)


def _rate(part: RateLimit | AdaptiveRateLimit | None) -> RateLimitState:
    if isinstance(part, AdaptiveRateLimit):
        return AdaptiveRate(part)
    return LearningRate(part) if part is not None and part.learn else RateLimitState(part)


_BUILDERS: dict[str, tuple[tuple[type, ...], Callable[[Any], Any]]] = {
    "breaker": ((Breaker,), lambda part: BreakerState(part) if part else NoBreaker()),
    "bulkhead": ((Bulkhead, AdaptiveBulkhead), _bulkhead),
    "rate": ((RateLimit, AdaptiveRateLimit), _rate),
    "throttle": ((ClientThrottle,), lambda part: ThrottleState(part) if part else None),
    "hedge": ((Hedge,), lambda part: HedgeState(part) if part else None),
    "budget": (
        (Retry,),
        lambda part: part.budget.build() if part and part.budget else Unlimited(),
    ),
}
"""Name in a `Lane` -> the strategies whose state it is, and how it is built from one or None."""


class Lane:
    """The state of one key. Not thread-safe: the driver holds the lock, but see `enter`."""

    __slots__ = (
        "breaker", "budget", "bulkhead", "durations", "hedge", "key", "rate", "throttle", "used",
    )  # fmt: skip

    breaker: BreakerState
    bulkhead: BulkheadState
    rate: RateLimitState
    budget: BudgetState
    throttle: ThrottleState | None
    hedge: HedgeState | None
    durations: Durations

    def __init__(self, shape: Shape, key: str, parent: tuple[Shape, Lane] | None = None) -> None:
        """Build the state of `key`.

        parent: shape and lane of the policy that `but()` derived this one from. A strategy
        that was taken over unchanged keeps its state: two spellings of one policy must not
        have two bulkheads in front of one backend.
        """
        self.key = key
        self.durations = Durations() if parent is None else parent[1].durations
        self.used = -math.inf
        for name, (kinds, build) in _BUILDERS.items():
            part = shape.part(*kinds)
            if parent is not None and part is not None and parent[0].part(*kinds) is part:
                setattr(self, name, getattr(parent[1], name))
            else:
                setattr(self, name, build(part))

    # -- the fast path -------------------------------------------------------------------

    def enter(self, now: float) -> float | None:
        """Admit a call if everything is open, and return what `leave` takes; else touch nothing.

        Everything that is open admits at once, so the order of the layers does not matter.
        Straight-line code without calls, as `leave` is: with a GIL both are atomic without the
        lock. The drivers have them inlined as well.
        """
        bulkhead, rate = self.bulkhead, self.rate
        calm, tat = self.breaker.calm_until, rate.tat
        if tat < now:  # noqa: PLR1730 - `max` would be a call
            tat = now
        tat += rate.interval
        if now >= calm or bulkhead.active >= bulkhead.limit or tat - now > rate.slack:
            return None
        rate.tat = tat
        bulkhead.active += 1
        return calm

    def leave(self, calm: float) -> bool:
        """Take the success of a call that `enter` admitted; False if something was disturbed.

        An undisturbed success is one more in the tally. Whatever disturbs the breaker puts
        another object at `calm_until`, so `is` tells all of it.
        """
        breaker, bulkhead = self.breaker, self.bulkhead
        if calm is not breaker.calm_until or bulkhead.waiting or not self.budget.idle:
            return False
        bulkhead.active -= 1
        breaker.tally += 1
        return True

    # -- the full path -------------------------------------------------------------------

    def begin(self, now: float) -> None:
        """Note a call that begins by the full path."""
        self.used = now
        self.breaker.renew(now, ENOUGH - len(self.durations))

    def measured(self, seconds: float) -> None:
        """Take the duration of a success."""
        self.durations.add(seconds)
        if self.hedge is not None:
            self.hedge.measured(seconds)

    @property
    def in_use(self) -> bool:
        """Whether anything is out that will come back to this lane."""
        return bool(self.bulkhead.active or self.bulkhead.queued or self.breaker.probes_out)


def describe(name: str, shape: Shape) -> dict[str, object]:
    """Return all options as data that `json.dumps` takes."""
    return {
        "name": name,
        "strategies": [{"type": type(part).__name__, **_options(part)} for part in shape.parts],
        "warnings": list(shape.warnings),
    }


def _options(part: Strategy) -> dict[str, object]:
    return {
        spec.name: _plain(getattr(part, spec.name))
        for spec in dataclasses.fields(part)
        if not spec.name.startswith("_")
    }


def _plain(value: Any) -> object:
    if isinstance(value, Kind):
        return [kind.name.lower() for kind in value if kind.name]
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if dataclasses.is_dataclass(value) and hasattr(value, "describe"):
        return value.describe()
    return getattr(value, "__qualname__", type(value).__qualname__)
