"""How long to wait before a retry: pure values, no clock, no dice of their own.

Every backoff answers two questions about retry number n (1 = the first retry, counted over
all kinds of failure):

    delay(n, cause, u, before)   the wait in seconds, for a draw u that the caller made
    bounds(n, kind)              nominal, least and greatest wait, for the plan

The cap is applied *before* the jitter. Capped after it, as peers do, all waits at the cap
become equal, and clients that failed together come back together. No n overflows
(App-vNext/Polly#2163: a delay below zero from attempt 1024 on).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, cast

from holdfast.core.verdict import CONCURRENCY, THROTTLED, Kind, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

Jitter = Literal["none", "full", "equal", "percent"]

# A base that was not given. A server that asks for less load gets a slower start.
# Source: the AWS SDKs' standard retry mode 2.1 (50 ms; throttling 1 s).
BASE = 0.05
BASE_THROTTLED = 1.0

_LONGEST = 1e9  # seconds (32 years): keeps every product finite

# Jitter as (low, width): the wait is nominal * (low + width * u).
_SPREAD: dict[str, tuple[float, float]] = {
    "none": (1.0, 0.0),
    "full": (0.0, 1.0),
    "equal": (0.5, 0.5),
    "percent": (0.75, 0.5),
}


class Bounds(NamedTuple):
    """What one wait can be, in seconds. nominal: without jitter (for `Decorrelated`: median)."""

    nominal: float
    minimum: float
    maximum: float


def doubled(first: float, times: int, most: float) -> float:
    """Return `first` seconds, doubled so many times, but `most` at the most.

    For how long something is left alone: an endpoint whose circuit opened again, a key that was
    throttled, a mirror that failed, the gap between probes. 2.0**1024 overflows; 64 doublings
    pass every `most`.
    """
    return min(most, first * 2.0 ** min(times, 64))


class Backoff(Protocol):
    """What every backoff offers."""

    def delay(self, n: int, cause: Verdict | Kind, u: float, before: float = 0.5) -> float:
        """Return the seconds to wait before retry `n` (from 1; ValueError below).

        cause: the verdict of the failed attempt, or its kind.
        u: uniform in [0, 1], drawn by the caller for this retry.
        before: the u of retry n - 1; only `Decorrelated` looks at it.
        """
        ...

    def bounds(self, n: int, kind: Kind) -> Bounds:
        """Return what `delay(n, kind, u)` can be over all u."""
        ...

    def describe(self) -> dict[str, object]:
        """Return all options as JSON values."""
        ...


def _check(name: str, value: object, low: float, high: float, *, optional: bool = False) -> None:
    if value is None and optional:
        return
    if isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high:
        return
    more = " or None" if optional else ""
    raise ValueError(f"{name}: {value!r} is not a number in [{low:g}, {high:g}]{more}")


def _check_bases(base: float | None, throttled: float | None, cap: float | None) -> None:
    """Check what all formulas share. A base above the cap is a mistake, not a wish."""
    most = _LONGEST if cap is None else cap
    _check("base", base, 0.0, most, optional=True)
    _check("throttled", throttled, 0.0, most, optional=True)


def _check_jitter(jitter: str) -> None:
    if jitter not in _SPREAD:
        raise ValueError(f"jitter: {jitter!r} is not one of {', '.join(_SPREAD)}")


def _check_n(n: int) -> None:
    if n < 1:
        raise ValueError(f"n: {n!r} is not a retry number (1 = the first retry)")


def _base_for(cause: Verdict | Kind, base: float | None, throttled: float | None) -> float:
    kind = cause if isinstance(cause, Kind) else cause.kind
    if kind is THROTTLED or kind is CONCURRENCY:
        if throttled is not None:
            return throttled
        return BASE_THROTTLED if base is None else base
    return BASE if base is None else base


def _described(backoff: object) -> dict[str, object]:
    found: dict[str, object] = {"type": type(backoff).__name__.lower()}
    for field in fields(backoff):  # type: ignore[arg-type] # every caller is a dataclass
        found[field.name] = getattr(backoff, field.name)
    return found


class _Jittered:
    """A nominal wait, spread by `jitter`. Subclasses say what the nominal wait is."""

    __slots__ = ()

    jitter: Jitter

    def _nominal(self, n: int, cause: Verdict | Kind) -> float:
        raise NotImplementedError

    def delay(self, n: int, cause: Verdict | Kind, u: float, before: float = 0.5) -> float:  # noqa: ARG002 - the shape of Backoff
        """Return the seconds to wait before retry `n`; see `Backoff.delay`."""
        low, width = _SPREAD[self.jitter]
        return self._nominal(n, cause) * (low + width * u)

    def bounds(self, n: int, kind: Kind) -> Bounds:
        """Return nominal, least and greatest wait before retry `n`."""
        low, width = _SPREAD[self.jitter]
        nominal = self._nominal(n, kind)
        return Bounds(nominal, nominal * low, nominal * (low + width))

    def describe(self) -> dict[str, object]:
        """Return all options as JSON values."""
        return _described(self)


@dataclass(frozen=True, slots=True)
class Exponential(_Jittered):
    """`min(cap, base * factor ** (n - 1))`, then jitter.

    base: seconds in [0, cap]; None: 0.05, and 1 for THROTTLED and CONCURRENCY.
    cap: seconds, >= 0; default 20.  factor: growth per retry, in [1, 1000].
    jitter: "full" (0 to nominal, the default: it spreads clients best), "equal" (half to
    nominal), "percent" (+-25 %, so up to 1.25 * cap), "none".
    throttled: base for THROTTLED and CONCURRENCY alone, if it should differ from `base`.
    Source: AWS Builders' Library, "Timeouts, retries and backoff with jitter".
    """

    base: float | None = None
    cap: float = 20.0
    factor: float = 2.0
    jitter: Jitter = "full"
    throttled: float | None = None

    def __post_init__(self) -> None:
        _check("cap", self.cap, 0.0, _LONGEST)
        _check_bases(self.base, self.throttled, self.cap)
        _check("factor", self.factor, 1.0, 1000.0)
        _check_jitter(self.jitter)

    def _nominal(self, n: int, cause: Verdict | Kind) -> float:
        _check_n(n)
        base = _base_for(cause, self.base, self.throttled)
        try:
            grown = base * float(self.factor) ** (n - 1)
        except OverflowError:
            # Nothing grows from base 0, nor by factor 1, however large n is.
            grown = base if base == 0 or self.factor == 1 else math.inf
        return min(self.cap, grown)


@dataclass(frozen=True, slots=True)
class Constant(_Jittered):
    """The same wait before every retry.

    base: seconds in [0, 1e9]; None: 0.05, and 1 for THROTTLED and CONCURRENCY.
    jitter: as in `Exponential`, but "percent" by default: the mean is what was asked for.
    throttled: base for THROTTLED and CONCURRENCY alone.
    """

    base: float | None = None
    jitter: Jitter = "percent"
    throttled: float | None = None

    def __post_init__(self) -> None:
        _check_bases(self.base, self.throttled, None)
        _check_jitter(self.jitter)

    def _nominal(self, n: int, cause: Verdict | Kind) -> float:
        _check_n(n)
        return _base_for(cause, self.base, self.throttled)


@dataclass(frozen=True, slots=True)
class Linear(_Jittered):
    """`base * n`, at most `cap`, then jitter.

    base: seconds in [0, cap]; None: 0.05, and 1 for THROTTLED and CONCURRENCY.
    cap: seconds, or None for none.
    jitter: as in `Exponential`, but "percent" by default: the mean is what was asked for.
    throttled: base for THROTTLED and CONCURRENCY alone.
    """

    base: float | None = None
    cap: float | None = None
    jitter: Jitter = "percent"
    throttled: float | None = None

    def __post_init__(self) -> None:
        _check("cap", self.cap, 0.0, _LONGEST, optional=True)
        _check_bases(self.base, self.throttled, self.cap)
        _check_jitter(self.jitter)

    def _nominal(self, n: int, cause: Verdict | Kind) -> float:
        _check_n(n)
        # 2**53 retries will not happen; a number of any size must still not overflow.
        grown = _base_for(cause, self.base, self.throttled) * min(n, 2**53)
        return grown if self.cap is None else min(self.cap, grown)


def _curve(t: float) -> float:
    """Return 2**t * tanh(sqrt(4 t)) for t in [0, 1024): the smooth curve of `Decorrelated`."""
    if t <= 0.0:
        return 0.0
    return float(2.0**t) * math.tanh(math.sqrt(4.0 * t))


@dataclass(frozen=True, slots=True)
class Decorrelated:
    """Retry *times* that lie evenly spread on a smooth exponential curve.

    With t = n - 1 + u and f(t) = 2**t * tanh(sqrt(4 t)), the wait is
    base * (f(t) - f of the retry before) / 1.4. The waits telescope: the n-th retry comes
    base * f(t) / 1.4 after the failure, so the retries of many clients have no clusters.
    `before` is the previous draw; without it the median (0.5) stands in.

    Beyond the cap the formula alone would return `cap` for every draw, and clients that
    failed together would stay together; there the wait is u * cap (full jitter).

    base: seconds in [0, cap]; None: 0.05, and 1 for THROTTLED and CONCURRENCY.
    cap: seconds, >= 0; default 20.  throttled: base for THROTTLED and CONCURRENCY alone.
    Source: Polly.Contrib.WaitAndRetry, "decorrelated jitter V2".
    """

    base: float | None = None
    cap: float = 20.0
    throttled: float | None = None

    def __post_init__(self) -> None:
        _check("cap", self.cap, 0.0, _LONGEST)
        _check_bases(self.base, self.throttled, self.cap)

    def _formula(self, n: int, base: float, u: float, before: float) -> float:
        """Return the wait without a cap; infinity where floats end."""
        if base == 0.0:
            return 0.0
        if n >= 1024:  # t may be below 1024 for n = 1024, but 2**1023 seconds is no wait
            return math.inf
        earlier = _curve(n - 2 + before) if n > 1 else 0.0
        return base * (_curve(n - 1 + u) - earlier) / 1.4

    def delay(self, n: int, cause: Verdict | Kind, u: float, before: float = 0.5) -> float:
        """Return the seconds to wait before retry `n`; `before` is the u of retry n - 1."""
        _check_n(n)
        wait = self._formula(n, _base_for(cause, self.base, self.throttled), u, before)
        return wait if wait <= self.cap else self.cap * u

    def bounds(self, n: int, kind: Kind) -> Bounds:
        """Return median (of the capped formula), least and greatest wait over all draws."""
        _check_n(n)
        base = _base_for(kind, self.base, self.throttled)
        nominal = self._formula(n, base, 0.5, 0.5)
        maximum = self._formula(n, base, 1.0, 0.0)
        return Bounds(min(self.cap, nominal), 0.0, min(self.cap, maximum))

    def describe(self) -> dict[str, object]:
        """Return all options as JSON values."""
        return _described(self)


@dataclass(frozen=True, slots=True)
class Custom:
    """A caller's own function `(n, verdict) -> seconds`, checked at every use.

    Raises ValueError if the function returns something negative, NaN, infinite or no number.
    """

    function: Callable[[int, Verdict], float]

    def delay(self, n: int, cause: Verdict | Kind, u: float = 0.0, before: float = 0.5) -> float:  # noqa: ARG002 - the shape of Backoff
        """Return what the function says; the draws are not used."""
        _check_n(n)
        wait: object = self.function(n, Verdict(cause) if isinstance(cause, Kind) else cause)
        if isinstance(wait, (int, float)) and 0 <= wait < math.inf:
            return float(wait)
        raise ValueError(f"backoff: {self._name()} returned {wait!r} for retry {n}, not seconds")

    def bounds(self, n: int, kind: Kind) -> Bounds:
        """Ask the function once: what it draws by itself cannot be known."""
        wait = self.delay(n, kind)
        return Bounds(wait, wait, wait)

    def describe(self) -> dict[str, object]:
        """Return the function's name: code is not JSON."""
        return {"type": "custom", "function": self._name()}

    def _name(self) -> str:
        return getattr(self.function, "__qualname__", type(self.function).__qualname__)


def as_backoff(value: object) -> Backoff:
    """Return `value` if it is a backoff, or wrap the function `(n, verdict) -> seconds`.

    Raises ValueError for anything else, and for a backoff's class given without being called.
    """
    if not isinstance(value, type):
        if all(hasattr(value, name) for name in ("delay", "bounds", "describe")):
            return cast("Backoff", value)
        if callable(value):
            return Custom(value)
    raise ValueError(
        f"backoff: {value!r} is neither Exponential(...), Constant(...), Linear(...), "
        "Decorrelated(...) nor a function (n, verdict) -> seconds"
    )
