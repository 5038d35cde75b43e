"""Hedging: when an attempt is slower than most, send the same request once more.

Whichever copy answers first wins. The loser is cancelled and neutral: it says nothing about
the backend. This shortens the tail that comes from one slow connection or one slow node, and
it makes everything worse if all is slow, so the extra load is bounded by a budget.
Source: Dean and Barroso, "The Tail at Scale", CACM 2013, "hedged requests".
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from holdfast.core.breaker import Permit, State
from holdfast.core.checks import between, positive, whole
from holdfast.core.verdict import Kind, Sent
from holdfast.core.window import Durations

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.core.policy import Lane
    from holdfast.core.verdict import Verdict

ENOUGH = 20
"""Durations that make a percentile; until then nothing is hedged."""

KEPT = 256
"""Durations looked at. With 32 the share of attempts beyond the measured p95 would vary by
4 points (one standard deviation), with 256 by 1.4; 2 KiB per key, only with a `Hedge`."""

SAVED = 10.0
"""Hedges that quiet times may save up: more would double the load when all becomes slow."""

_REFRESH = 16  # durations after which the percentile is worked out again
_PERCENTILE = re.compile(r"p(\d\d(?:\.\d)?)", re.ASCII)
_FINAL = Kind.PERMANENT | Kind.AUTH
_SENT_RANK = {Sent.NO: 0, Sent.MAYBE: 1, Sent.YES: 2}


@dataclass(frozen=True, slots=True)
class Hedge:
    """Send a slow attempt once more, and take the first answer. Asynchronous calls only.

    after: how long the attempt at hand may take first: a percentile of the last successes of
        this key, "p50" to "p99.9" (at least 20 are needed, until then nothing is hedged), or
        seconds.
    max: hedges per attempt; each comes `after` later than the copy before it.
    budget: hedges per attempt in the long run, in (0, 1]. Each attempt of a key earns it this
        share of a hedge, at most 10 are saved up; with less than one nothing is hedged. So the
        load is never more than `1 + budget` times the one without hedging.

    Only what may be run twice is hedged: plain functions, and idempotent requests. A hedge
    passes the layers that stand after `Hedge` at once or is not sent.
    """

    after: str | float = "p95"
    max: int = 1
    budget: float = 0.05

    def __post_init__(self) -> None:
        if isinstance(self.after, str):
            percentile(self.after)
        else:
            positive("Hedge", "after", self.after)
        whole("Hedge", "max", self.max, 1)
        positive("Hedge", "budget", self.budget)
        between("Hedge", "budget", self.budget, 0, 1)


def percentile(text: str) -> float:
    """Return the share that "p95" stands for, 0.95. Raises ValueError outside p50 to p99.9."""
    match = _PERCENTILE.fullmatch(text)
    if match is None or float(match[1]) < 50:
        raise ValueError(
            f'`Hedge(after=...)` must be seconds or a percentile from "p50" to "p99.9": {text!r}'
        )
    return float(match[1]) / 100


class HedgeState:
    """The hedges of one key: its recent durations and its budget. The driver holds the lock."""

    __slots__ = ("_after", "_durations", "_new", "_share", "options", "tokens")

    def __init__(self, options: Hedge) -> None:
        self.options = options
        self.tokens = 0.0  # what `budget` has earned: a first attempt is never hedged by chance
        after = options.after
        fixed = not isinstance(after, str)
        self._share = 0.0 if fixed else percentile(str(after))
        self._after = float(after) if fixed else None
        self._durations = Durations(0 if fixed else KEPT)
        self._new = 0  # durations since `_after` was worked out

    def started(self) -> None:
        """Take the share that an attempt earns."""
        self.tokens = min(SAVED, self.tokens + self.options.budget)

    @property
    def allows(self) -> bool:
        """Whether a hedge can be paid now."""
        return self.tokens >= 1 - 1e-9  # twenty times 0.05 is not quite 1

    def pay(self) -> None:
        """Pay for one hedge."""
        self.tokens = max(0.0, self.tokens - 1)

    def measured(self, seconds: float) -> None:
        """Take the duration of an attempt that succeeded.

        If a hedge won, it is how long the first copy had been out. That is less than it would
        have taken, but more than the percentile it is compared with, so the percentile is the
        same as if one had waited for it.
        """
        if self._share:
            self._durations.add(seconds)
            self._new += 1

    @property
    def after(self) -> float | None:
        """The seconds after which an attempt may be hedged; None: too little is known."""
        if self._new and (self._after is None or self._new >= _REFRESH):
            self._after = self._durations.quantile(self._share, ENOUGH)
            self._new = 0
        return self._after


@dataclass(slots=True)
class Copies:
    """The copies of one attempt, from its first hedge on.

    out: hedges on their way, by number: when they were sent, and their permits.
    sent: how many hedges there were.  first: the first copy is still out.
    winner: number of the copy that answered; 0 is the first one; None: none so far.
    decided_at: when that was, or when the attempt had failed for good.
    """

    out: dict[int, tuple[float, list[object]]] = field(default_factory=dict)
    sent: int = 0
    first: bool = True
    winner: int | None = None
    decided_at: float | None = None


def is_final(verdict: Verdict) -> bool:
    """Say whether the other copies would only be told the same: then nobody waits for them."""
    return bool(verdict.kind & _FINAL)


def most_telling(verdicts: Sequence[Verdict]) -> int:
    """Return which failure of several copies stands for their attempt.

    An answer says more than a broken connection, and that more than none at all; among equals
    one that says when to come back, then the last.
    """

    def rank(i: int) -> tuple[bool, int, bool, int]:
        verdict = verdicts[i]
        hinted = verdict.retry_after is not None
        return is_final(verdict), _SENT_RANK[verdict.sent], hinted, i

    return max(range(len(verdicts)), key=rank)


def enter_at_once(lane: Lane, layer: str, now: float) -> tuple[object] | None:
    """Return the permit of one layer for a hedge (in a tuple), or None: it would have to wait.

    What refuses it is left as it was. A hedge is extra load, so only a closed circuit lets it
    pass: the probes of a half-open one are for attempts.
    """
    if layer == "breaker":
        breaker = lane.breaker
        if breaker.state in (State.CLOSED, State.DISABLED):
            return (Permit(breaker.gen),)
    elif layer == "bulkhead":
        answer = lane.bulkhead.acquire()
        if answer is True:
            return (None,)
        if answer is not False:
            lane.bulkhead.leave(answer)
    elif layer == "rate":
        if lane.rate.wait_time(now) <= 0:
            lane.rate.take(now)
            return (None,)
    else:
        throttle = lane.throttle
        assert throttle is not None  # noqa: S101 - tells the type checker
        if throttle.chance(now) <= 0:
            throttle.acquire(now, 1.0)
            return (None,)
    return None


def hedge_after(state: HedgeState, timeout: float) -> float:
    """Return after how many seconds an attempt is to be hedged; infinite: not this one."""
    after = state.after
    return math.inf if after is None or after >= timeout else after
