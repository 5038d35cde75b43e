"""The worst case of a policy: what it may cost before it gives up."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.core.budget import Budget, ConcurrentBudget, RatioBudget, SwitchBudget
from holdfast.core.deadline import TICK
from holdfast.core.verdict import TRANSIENT

if TYPE_CHECKING:
    from holdfast.core.policy import Shape
    from holdfast.core.retry import Rule

_CALLS = 1000
"""How many calls on a dead backend `dead_backend_factor` looks at."""

_MOST_LISTED = 1000
"""Delays listed one by one; a plan of a million attempts must not fill the memory."""


@dataclass(frozen=True, slots=True)
class Delay:
    """The wait before one retry, in seconds: without jitter, and the range that jitter makes."""

    nominal: float
    min: float
    max: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The worst case of one logical call, for failures that make no progress.

    attempts_max: attempts of this policy.  requests_max: what the backend may see of it: the
    same, as policies nested inside make one attempt each, times the copies of a hedged attempt.
    delays: the waits between them.
    attempt_times: when each attempt starts if the ones before failed at once (seconds, without
    jitter); those at or after the deadline are not made. With jitter more may fit, which
    attempts_max counts.  wait_total: the sum of the nominal waits that are made.
    seconds_max: longest duration, None if nothing bounds it.
    dead_backend_factor: requests per call over 1,000 calls while everything fails, each attempt
    as late as can be, so that hedges are sent as well.
    """

    attempts_max: int
    requests_max: int
    delays: tuple[Delay, ...]
    attempt_times: tuple[float, ...]
    wait_total: float
    seconds_max: float | None
    dead_backend_factor: float
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        """Return it as data that `json.dumps` takes; an unbounded time reads "unbounded"."""
        return {
            "attempts_max": self.attempts_max,
            "requests_max": self.requests_max,
            "delays": [
                {"nominal": delay.nominal, "min": delay.min, "max": delay.max}
                for delay in self.delays
            ],
            "attempt_times": list(self.attempt_times),
            "wait_total": self.wait_total,
            "seconds_max": "unbounded" if self.seconds_max is None else self.seconds_max,
            "dead_backend_factor": self.dead_backend_factor,
            "warnings": list(self.warnings),
        }


def make_plan(shape: Shape) -> Plan:
    """Work out the worst case of a compiled policy."""
    rule = shape.rule
    attempts = 1 if rule is None else rule.options.attempts
    delays = [] if rule is None else _delays(rule, attempts)
    times = _starts([delay.nominal for delay in delays], shape.seconds)
    # With jitter the waits can be shorter than nominal, so more attempts fit into a deadline.
    soonest = _starts([delay.min for delay in delays], shape.seconds)
    made = attempts if len(soonest) == len(delays) + 1 else len(soonest)
    delays = delays[: made - 1]
    unlisted = (made - 1 - len(delays)) * (delays[-1].max if delays else 0.0)
    longest = made * shape.limit + sum(delay.max for delay in delays) + unlisted
    seconds = min(shape.seconds, longest)
    warnings = list(shape.warnings)
    if rule is not None and rule.options.budget is None and attempts > 1:
        warnings.append("Retry without budget: a dead backend sees every retry of every call")
    if seconds == math.inf:
        warnings.append("nothing bounds the time: add a Deadline")
    return Plan(
        attempts_max=made,
        requests_max=made * (1 if shape.hedge is None else 1 + shape.hedge.max),
        delays=tuple(delays),
        attempt_times=tuple(times),
        wait_total=times[-1],
        seconds_max=None if seconds == math.inf else seconds,
        dead_backend_factor=_factor(rule, made)
        * (1 if shape.hedge is None else 1 + shape.hedge.budget),
        warnings=tuple(warnings),
    )


def _delays(rule: Rule, attempts: int) -> list[Delay]:
    return [
        Delay(*rule.backoff.bounds(n, TRANSIENT)) for n in range(1, min(attempts, _MOST_LISTED + 1))
    ]


def _starts(waits: list[float], seconds: float) -> list[float]:
    """Return when attempts start; none whose wait ends at or after the deadline."""
    times = [0.0]
    for wait in waits:
        at = times[-1] + wait
        if at >= seconds - TICK:
            break
        times.append(at)
    return times


def _factor(rule: Rule | None, attempts: int) -> float:
    """Return requests per call over `_CALLS` calls that all fail."""
    budget = None if rule is None else rule.options.budget
    match budget:
        case Budget():
            retries = min(budget.capacity // budget.transient, _CALLS * (attempts - 1))
        case RatioBudget() | ConcurrentBudget():  # the trickle and the floor come on top
            retries = min(budget.share, attempts - 1) * _CALLS
        case SwitchBudget():
            retries = min(math.ceil(budget.tokens / 4), _CALLS * (attempts - 1))
        case _:
            retries = _CALLS * (attempts - 1)
    return (_CALLS + retries) / _CALLS
