"""What the end of an attempt, or an answer's headers, tell the limits of a key that learn.

    adaptive bulkhead     how long a success took, and failures that say the backend is not well
    adaptive rate limit   successes and throttled answers
    any rate limit        what the server says of its own; unless `learn=False`

Neutral results (throttled, wrong credentials, client faults, cancellations, what has gone
wrong on this machine) tell the bulkhead nothing: they say nothing about how many calls at
once the backend can work on. A failure's time counts only if it ran out of time: then it
would have taken at least that long; a refused connection takes no time at all. A stream is
as slow as its first item; how long the rest is read is up to the reader.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.core.adaptive import AdaptiveState, LimitChange
from holdfast.core.cubic import AdaptiveRate
from holdfast.core.events import LimitChanged
from holdfast.core.rate_headers import read_limits
from holdfast.core.samples import Sample
from holdfast.core.verdict import Hint, Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.core.bulkhead import Ticket
    from holdfast.core.call import Labels
    from holdfast.core.policy import Lane
    from holdfast.core.retry_after import Headers
    from holdfast.core.verdict import Verdict


def heard_success(
    lane: Lane, now: float, seconds: float, draw: Callable[[], float]
) -> list[LimitChange | Ticket]:
    """Take a success; return the changes of limits and the tickets to wake."""
    found: list[LimitChange | Ticket] = []
    bulkhead, rate = lane.bulkhead, lane.rate
    if isinstance(bulkhead, AdaptiveState):
        sample = Sample(now, seconds, bulkhead.active, failed=False, timed=True)
        found += _sampled(bulkhead, sample, draw)
    if isinstance(rate, AdaptiveRate):
        rate.succeeded(now)
    return found


def heard_failure(
    lane: Lane, now: float, seconds: float, draw: Callable[[], float], *, verdict: Verdict,
    failed: bool,
) -> list[LimitChange | Ticket]:  # fmt: skip
    """Take a failure, as `heard_success`. failed: it says that the backend is not well."""
    found: list[LimitChange | Ticket] = []
    bulkhead, rate = lane.bulkhead, lane.rate
    if failed and isinstance(bulkhead, AdaptiveState):
        late = verdict.kind is Kind.TIMEOUT
        found += _sampled(bulkhead, Sample(now, seconds, bulkhead.active, failed, late), draw)
    throttled = verdict.kind is Kind.THROTTLED and not verdict.local
    if isinstance(rate, AdaptiveRate):
        if throttled:
            found.append(LimitChange("rate", *rate.throttled(now), "throttled"))
        elif verdict.kind is not Kind.CONNECT and not verdict.local:
            rate.counted(now)
    after = verdict.retry_after
    if throttled and rate.learns and after is not None and verdict.hint is Hint.HTTP:
        rate.hold(now + after)
    return found


def _sampled(
    bulkhead: AdaptiveState, sample: Sample, draw: Callable[[], float]
) -> list[LimitChange | Ticket]:
    change = bulkhead.heard(sample, draw)
    return [] if change is None else [change, *bulkhead.grant()]


def heard_answer(
    lane: Lane, now: float, headers: Headers | None, now_wall: float | None
) -> LimitChange | None:
    """Take the headers of an answer; return the change if the server's rate is news."""
    news = lane.rate.learn(now, read_limits(headers, now_wall=now_wall))
    return None if news is None else LimitChange("rate", *news, "the server's limit")


def limit_event(change: LimitChange, labels: Labels) -> LimitChanged:
    """Return the event that tells of a change."""
    return LimitChanged(
        **labels, what=change.what, before=change.before, limit=change.limit, why=change.why
    )
