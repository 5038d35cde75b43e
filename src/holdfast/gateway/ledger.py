"""What has happened at a gateway, in numbers.

    requests = succeeded + failed + cancelled + in flight        at any moment

Every request that begins ends in exactly one outcome, and every attempt in one reason. What is
counted is a few integers and two durations per request, in arrays of fixed size: no line, no
dict and no object is made for it. Reading it is the business of `stats` and `metrics`, and
changes nothing.

It outlives a reload: the cluster is made anew, its ledger goes on.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

from holdfast.core.breaker import Result
from holdfast.core.histogram import Recent, Tally, bucket_of
from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from holdfast.gateway.errors import Tried
    from holdfast.gateway.request import Record, Request
    from holdfast.wire.requests import RequestHead

WINDOW = 300.0
"""Seconds that rates and percentiles look back on."""
MAX_REASONS = 64
"""Reasons of one endpoint that are counted apart; the rest is `other`."""
MAX_GONE = 200
"""Endpoints that reloads took out whose numbers are kept apart; those of others are summed."""
OTHER = "other"

OK = "ok"
CLIENT_ERROR = "client_error"
UPSTREAM_ERROR = "upstream_error"
REFUSED = "refused"
CUT = "cut"
CANCELLED = "cancelled"
OUTCOMES = (OK, CLIENT_ERROR, UPSTREAM_ERROR, REFUSED, CUT, CANCELLED)
"""How a request can end:

ok              an endpoint's answer was given, whole
client_error    the same, and the answer says that the request was wrong (4xx)
upstream_error  the answer that was given says that the endpoint failed, or would not
refused         the answer is one of ours: no endpoint gave any
cut             the answer broke after a part of it was given
cancelled       the client left, or the rest of its request was no good

The first two are successes, the last is neither success nor failure.
"""
ANSWERED = frozenset({OK, CLIENT_ERROR, UPSTREAM_ERROR})
"""Those to which an endpoint's answer was given whole."""
_SUCCESSES = frozenset({OK, CLIENT_ERROR})


class Account:
    """What is counted of one endpoint.

    recent: attempts that say something of it, with the seconds to the first byte.
    reasons: all attempts, by how they ended.  outcomes: requests that it was the last one of.
    last_error: when the latest attempt failed, monotonic, and how.
    row: failures since the last good answer.  seen_at: when an attempt ended, monotonic.
    """

    __slots__ = ("failed", "last_error", "outcomes", "reasons", "recent", "row", "seen_at")

    def __init__(self) -> None:
        self.recent = Recent(WINDOW)
        self.reasons: dict[str, int] = {OK: 0}
        self.outcomes: dict[str, int] = {OK: 0}
        self.row = 0
        self.failed = 0
        self.seen_at = -math.inf
        self.last_error: tuple[float, Tried] | None = None

    def take(self, other: Account) -> None:
        """Add what was counted of another one that is no more."""
        for mine, its in ((self.reasons, other.reasons), (self.outcomes, other.outcomes)):
            for name, count in its.items():
                mine[name] = mine.get(name, 0) + count


class Log(Protocol):
    """Where finished requests are written."""

    def take(self, record: Record, outcome: str, now: float) -> None:
        """Write one, later."""

    def note(
        self, head: RequestHead | None, status: int, outcome: str, *, client: str, size: int
    ) -> None:
        """Write one that no endpoint was to answer, later."""

    def close(self) -> None:
        """Write what is left."""


class Ledger:
    """The numbers of one gateway in one process. For the loop's thread.

    in_flight: requests that have begun and not ended.  streams: of these, answers of which a
    part was given.  began_at: monotonic.  log: where finished requests are written, if anywhere.
    others: what gives the snapshots of the other processes of the gateway.
    """

    def __init__(self) -> None:
        self.requests = self.in_flight = self.streams = 0
        self.succeeded = self.failed = self.cancelled = 0
        self.stale = self.cuts = 0
        self.recent = Recent(WINDOW)
        self.durations = Tally()
        self.retries: dict[str, int] = {}
        self.refusals: dict[str, int] = {}
        self.last_endpoint = ""
        self.began_at = clock.monotonic()
        self.lines_dropped = 0
        self.others: Callable[[], Sequence[dict[str, Any]]] = tuple
        self.log: Log | None = None
        self.accounts: dict[str, Account] = {}

    # -- requests --------------------------------------------------------------------------------

    def began(self) -> None:
        """Count a request that begins. `finished` must follow, once."""
        self.requests += 1
        self.in_flight += 1

    def finished(self, request: Request, outcome: str, now: float) -> None:
        """Count the end of a request. outcome: one of `OUTCOMES`.  now: monotonic."""
        self.in_flight -= 1
        seconds = now - request.began
        bucket = bucket_of(seconds)
        durations = self.durations
        durations.counts[bucket] += 1
        durations.sum += seconds
        outcomes = self._account(request.endpoint_id).outcomes
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        given = request.given_at
        is_stream = given == given  # noqa: PLR0124 - not NaN: it was not given whole, now
        self.streams -= is_stream
        if outcome == OK and not is_stream:
            self.succeeded += 1
            self.recent.add_ok(now, seconds, bucket)
        elif outcome == CANCELLED:
            self.cancelled += 1
        else:
            self._ended(outcome, now, seconds, given - request.began)
        if self.log is not None:
            self.log.take(request, outcome, now)

    def _ended(self, outcome: str, now: float, seconds: float, given: float) -> None:
        """Count the end of a request that was a stream, or is no plain success."""
        if given != given and outcome in ANSWERED:  # noqa: PLR0124 - it was given whole, now
            given = seconds
        good = outcome in _SUCCESSES
        if good:
            self.succeeded += 1
        else:
            self.failed += 1
            self.cuts += outcome == CUT
        self.recent.add(now, given, ok=good)

    def succeeded_at_once(self, endpoint: str, now: float, seconds: float) -> None:
        """Count a request whose first attempt was answered well, and whole, and the attempt.

        seconds: that both of them took.
        """
        account = self._account(endpoint)
        bucket = bucket_of(seconds)
        self.in_flight -= 1
        self.succeeded += 1
        self.last_endpoint = endpoint
        account.seen_at = now
        account.row = 0
        account.reasons[OK] += 1
        account.outcomes[OK] += 1
        account.recent.add_ok(now, seconds, bucket)
        self.recent.add_ok(now, seconds, bucket)
        self.durations.counts[bucket] += 1
        self.durations.sum += seconds

    def answered(self, head: RequestHead, status: int, now: float, client: str, size: int) -> None:
        """Count a request that was answered here, as an endpoint would have.

        now: monotonic.  client: its address.  size: bytes of the answer.
        """
        outcome = outcome_of(status)
        self.requests += 1
        good = outcome in _SUCCESSES
        if good:
            self.succeeded += 1
        else:
            self.failed += 1
        self.recent.add(now, math.nan, ok=good)
        outcomes = self._account("").outcomes
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        if self.log is not None:
            self.log.note(head, status, outcome, client=client, size=size)

    def attempt(
        self,
        endpoint: str,
        result: Result,
        said: Tried | None,
        now: float,
        seconds: float,
    ) -> None:
        """Count the end of an attempt.

        result: what it says of the endpoint.  said: what is told of it if it came to nothing;
        None with another result than OK: it was cancelled.
        seconds: to the first byte of the answer, or to the failure.
        """
        account = self._account(endpoint)
        account.seen_at = now
        self.last_endpoint = endpoint
        if result is Result.OK:
            account.reasons[OK] += 1
            account.row = 0
            account.recent.add_ok(now, seconds, bucket_of(seconds))
            return
        _count(account.reasons, CANCELLED if said is None else said.verdict)
        if result is Result.FAILED:
            account.row += 1
            account.failed += 1
            account.recent.add(now, math.nan, ok=False)
        if said is not None and (result is Result.FAILED or said.status):
            account.last_error = (now, said)

    def retried(self, reason: str) -> None:
        """Count a further attempt. reason: how the one before ended."""
        _count(self.retries, reason)

    def refused(self, code: str) -> None:
        """Count an answer that is one of our errors."""
        _count(self.refusals, code)

    def turned_away(
        self, code: str, status: int, head: RequestHead | None, client: str, size: int
    ) -> None:
        """Count what was refused before it was a request.

        head: None if it could not be read.  client: its address.  size: of the answer.
        """
        self.refused(code)
        if self.log is not None:
            self.log.note(head, status, REFUSED, client=client, size=size)

    # -- endpoints -------------------------------------------------------------------------------

    def know(self, endpoints: Iterable[str]) -> None:
        """Open accounts of the endpoints that are configured now, and keep few of all others."""
        known = set(endpoints)
        for endpoint in sorted(known):
            self._account(endpoint)
        gone = [name for name in self.accounts if name not in known and name != OTHER]
        for name in gone[: max(0, len(gone) - MAX_GONE)]:
            self._account(OTHER).take(self.accounts.pop(name))

    def account(self, endpoint: str) -> Account:
        """Return what is counted of an endpoint; changes nothing."""
        return self.accounts.get(endpoint) or Account()

    def _account(self, endpoint: str) -> Account:
        found = self.accounts.get(endpoint)
        if found is None:
            found = self.accounts[endpoint] = Account()
        return found


def outcome_of(status: int) -> str:
    """Return the outcome of a request to which an endpoint's answer was given whole."""
    if status < 400:
        return OK
    return CLIENT_ERROR if status < 500 else UPSTREAM_ERROR


def _count(counts: dict[str, int], reason: str) -> None:
    reason = _short(reason)
    if reason not in counts and len(counts) >= MAX_REASONS:
        reason = OTHER
    counts[reason] = counts.get(reason, 0) + 1


def _short(reason: str) -> str:
    """Leave the details out: `malformed: two lengths` is one reason with all malformed answers."""
    return reason.partition(":")[0]
