"""How well one endpoint does: its tier, its latency, what it asked us to leave alone.

    healthy        takes traffic
    degraded       fails now and then, or is slow: used when no healthy one can
    unhealthy      fails more than its peers, failed its probe, or is half-open
    circuit open   refused until its time is over; used when nothing else is left

The tiers are applied last, so an endpoint is never filtered away for good. What says nothing
about the endpoint changes nothing here: an answer that refuses the client (4xx), a client
that went away, a kept-alive connection that had died.

Cool-downs are apart from health: an endpoint that throttles works. They belong to the key that
was throttled, or to the endpoint where it spoke for all its keys.
"""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING, NamedTuple

from holdfast.core.backoff import doubled
from holdfast.core.breaker import Breaker, BreakerState, Permit, Result, State
from holdfast.core.mean import Mean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEGRADED_SHARE = 0.1
DEGRADED_CALLS = 5
DEGRADED_ROW = 2
SLOW_FACTOR = 3.0
"""Slow: a mean of more than so many times the median of all endpoints."""
SLOW_LEAST = 0.05
"""Seconds below which nothing is slow: of a few milliseconds the machine makes three times."""
CLEAN = 10
"""So many good answers in a row bring a degraded endpoint back."""

COOL_LEAST, COOL_FIRST, COOL_MOST = 0.1, 1.0, 60.0
PROBE_FIRST = 1.0
PROBE_MOST = 60.0


class Tier(enum.IntEnum):
    """How far down the list of choices an endpoint stands; lower is better."""

    HEALTHY = 0
    DEGRADED = 1
    UNHEALTHY = 2
    CIRCUIT_OPEN = 3


class Counts(NamedTuple):
    """Calls of the last 30 s that say something about the endpoint."""

    calls: int
    failures: int

    @property
    def success_rate(self) -> float:
        """In [0, 1]; 1 without calls."""
        return 1 - self.failures / self.calls if self.calls else 1.0


class Cooldown:
    """Until when somebody asked to be left alone. until: monotonic; -inf if never.

    row: how often in a row it said so without naming a time of 1 s or more.
    """

    __slots__ = ("row", "until")

    def __init__(self) -> None:
        self.until = -math.inf
        self.row = 0

    def throttled(self, now: float, retry_after: float | None) -> None:
        """Stay away for as long as was asked, else 1 s, doubled in a row up to 60 s.

        A time that is over names none: to heed it would be to ask without a pause. One below
        1 s is heeded, but it doubles in a row as well, up to that. What comes while
        it cools down already was sent before that: a hundred requests that are refused together
        are one refusal, not a hundred in a row.
        """
        seconds = 0.0 if retry_after is None else retry_after
        if seconds < COOL_FIRST:
            if now < self.until:
                return
            first, most = (COOL_LEAST, COOL_FIRST) if seconds > 0 else (COOL_FIRST, COOL_MOST)
            seconds = max(seconds, doubled(first, self.row, most))
            self.row += 1
        self.until = max(self.until, now + seconds)

    def out(self, now: float, seconds: float) -> None:
        """Stay away for `seconds`: the key was refused, or its money is spent."""
        self.until = max(self.until, now + seconds)

    def answered(self, began: float = math.inf) -> None:
        """Forget the row: it gave an answer. began: when it was asked; what was before is old."""
        if began >= self.until:
            self.row = 0


class Key:
    """One credential of an endpoint. number: its place in the configuration."""

    __slots__ = ("cooldown", "number", "used_at")

    def __init__(self, number: int) -> None:
        self.number = number
        self.cooldown = Cooldown()
        self.used_at = -math.inf


class Health:
    """The state of one endpoint. Not thread-safe.

    breaker: its options.  keys: how many credentials it has; 0 means that it is asked
    without one, which then cools down as a key would.
    in_flight: requests at it right now; counted by `begin` and `settle`.
    heir: what goes on in its place, with other credentials; it counts what is still asked here.
    ejected: set by the balancer, which alone sees all endpoints.
    calm: nothing is wrong with it, and nothing has happened since that was looked at: then it is
    healthy, its breaker is closed, and no key cools down. Whatever disturbs it says so here.
    """

    def __init__(self, breaker: Breaker | None = None, *, keys: int = 0) -> None:
        self.breaker = BreakerState(breaker or Breaker(), strict=True)
        self.keys = tuple(Key(number) for number in range(max(1, keys)))
        self.cooldown = Cooldown()
        self.mean = Mean()
        self.in_flight = 0
        self.heir: Health | None = None
        self.ejected = False
        self.is_degraded = False
        self.probe_at = math.inf
        self.calm = False
        self._probe_failed = False
        self._probes = 0  # since it was well last
        self._probe_most = PROBE_MOST
        self._row = 0
        self._clean = 0

    def succeed(self, before: Health, keys: Mapping[int, int]) -> None:
        """Go on where another one stands that has other credentials.

        keys: number of a credential here -> number of the same one there, whose rest goes on.
        What is in flight there is counted here, too, until it is over: it takes room.
        """
        own = {"keys", "heir"}
        vars(self).update({name: one for name, one in vars(before).items() if name not in own})
        for number, there in keys.items():
            self.keys[number].cooldown = before.keys[there].cooldown
            self.keys[number].used_at = before.keys[there].used_at
        before.heir = self
        self.calm = before.calm = False

    # -- reading: nothing here changes anything ------------------------------------------------

    def tier(self, now: float) -> Tier:
        """Return where it stands."""
        state = self.breaker.state
        if state is State.OPEN or state is State.ISOLATED:
            over = state is State.OPEN and now >= self.breaker.until
            return Tier.UNHEALTHY if over else Tier.CIRCUIT_OPEN
        if state is State.HALF_OPEN or self.ejected or self._probe_failed:
            return Tier.UNHEALTHY
        return Tier.DEGRADED if self.is_degraded else Tier.HEALTHY

    @property
    def takes_traffic(self) -> bool:
        """Whether it is healthy or degraded, were it not for its peers."""
        closed = self.breaker.state in {State.CLOSED, State.DISABLED}
        return closed and not self._probe_failed

    def counts(self, now: float) -> Counts:
        """Return what the breaker's window holds."""
        return Counts(*self.breaker.counts(now)[:2])

    def look(self, now: float) -> None:
        """Find out whether it is calm."""
        # A row of refusals ends with an answer, which the short way does not look for.
        rests = (self.cooldown, *[key.cooldown for key in self.keys])
        cool = all(one.until <= now and not one.row for one in rests)
        self.calm = cool and self.tier(now) is Tier.HEALTHY and self.heir is None

    def free_at(self, now: float) -> float:
        """Return when it may be asked: `now`, or when endpoint and a key are cool."""
        first = min(key.cooldown.until for key in self.keys)
        return max(now, self.cooldown.until, first)

    def next_key(self, now: float) -> Key | None:
        """Return the key that rested longest of those that are not cooling down."""
        if self.cooldown.until > now:
            return None
        free = [key for key in self.keys if key.cooldown.until <= now]
        return min(free, key=lambda key: key.used_at, default=None)

    # -- cooling down --------------------------------------------------------------------------

    def throttled(self, now: float, retry_after: float | None, key: Key | None = None) -> None:
        """Let a key rest, or without one the endpoint. retry_after: seconds, if they were named."""
        (self.cooldown if key is None else key.cooldown).throttled(now, retry_after)
        self.calm = False

    def key_out(self, key: Key, now: float, seconds: float) -> None:
        """Let a key rest for long: it was refused, or its money is spent."""
        key.cooldown.out(now, seconds)
        self.calm = False

    # -- requests ------------------------------------------------------------------------------

    def begin(self, now: float, limit: float, u: float) -> Permit | float:
        """Admit a request and count it, or return for how many seconds the breaker refuses.

        limit: seconds that it may take.  u: uniform in [0, 1).
        """
        permit = self.breaker.acquire(now, limit, u)
        if isinstance(permit, Permit):
            self._count(1)
        return permit

    def _count(self, more: int) -> None:
        one: Health | None = self
        while one is not None:
            one.in_flight += more
            one = one.heir

    def force(self) -> Permit:
        """Admit one request whatever the breaker says, and count it.

        Its result says something all the same: a success is taken as a good probe.
        """
        self._count(1)
        return Permit(-1)

    def settle(
        self,
        permit: Permit,
        result: Result,
        now: float,
        u: float,
        *,
        seconds: float,
        median: float | None = None,
        key: Key | None = None,
    ) -> None:
        """Take the result of an admitted request; exactly once for each.

        key: with which it was asked.
        seconds: to the first byte of the answer, or to the failure.
        median: of the means of all endpoints, if there are several.
        u: uniform in [0, 1), for the time that an opened breaker stays open.
        """
        if result is Result.OK and self.settle_calm(permit, now, seconds, median):
            return
        self._count(-1)
        self.breaker.settle(permit, result, seconds, now, u)
        if result is Result.NEUTRAL:
            return
        failed = result is Result.FAILED
        if failed:
            self.calm = False
            self.mean.failed(now, seconds)
        else:
            self.mean.add(now, seconds)
            self.cooldown.answered(now - seconds)
            if key is not None:
                key.cooldown.answered(now - seconds)
            if permit.gen < 0:
                self.breaker.probed(now)
            self._probe_failed = False
        self._judge(failed=failed, slow=self._is_slow(median), now=now)
        self._plan_probe(now)

    def prove(self, permit: Permit, now: float, u: float, *, seconds: float) -> None:
        """Let an answer that has begun make place for the next probe; `settle` follows.

        No success yet: it may take an hour, and be cut. So the breaker alone is told.
        """
        if permit.probe and permit.gen == self.breaker.gen:  # else it says nothing of now
            self.breaker.settle(permit, Result.OK, seconds, now, u)
            permit.probe, permit.gen = False, self.breaker.gen  # a cut counts on its own

    def settle_calm(self, permit: Permit, now: float, seconds: float, median: float | None) -> bool:
        """Take a success as `settle` does, but cheaper; False: something is wrong, use that."""
        breaker = self.breaker
        if not self.calm or permit.gen != breaker.gen:
            return False
        self.in_flight -= 1
        self._row = 0
        if now < breaker.calm_until:
            breaker.tally += 1
        else:
            breaker.count_success(now)
        self.mean.add(now, seconds)
        if self._is_slow(median):
            self.calm = False
            self._judge(failed=False, slow=True, now=now)
        return True

    def _is_slow(self, median: float | None) -> bool:
        mean = self.mean.value
        limit = math.inf if median is None else max(SLOW_FACTOR * median, SLOW_LEAST)
        return mean is not None and mean > limit

    def _judge(self, *, failed: bool, slow: bool, now: float) -> None:
        self._row = self._row + 1 if failed else 0
        self._clean = 0 if failed or slow else self._clean + 1
        if self.is_degraded:
            if self._clean >= CLEAN:
                self.is_degraded = False
            return
        calls, failures, _ = self.breaker.counts(now)
        often = calls >= DEGRADED_CALLS and failures >= DEGRADED_SHARE * calls
        self.is_degraded = slow or self._row >= DEGRADED_ROW or (failed and often)

    # -- probes --------------------------------------------------------------------------------

    def _plan_probe(self, now: float) -> None:
        state = self.breaker.state
        if state is State.OPEN or self._probe_failed:
            if self.probe_at == math.inf:
                self.probe_at = now + doubled(PROBE_FIRST, self._probes, self._probe_most)
            return
        self.probe_at = math.inf
        if state is State.CLOSED:
            self._probes = 0

    def put_off_probe(self, now: float) -> None:
        """Take note that a probe came to nothing, which says nothing of the endpoint."""
        if self.probe_at <= now:
            self.probe_at = now + PROBE_FIRST

    def probed(self, now: float, *, ok: bool, most: float = PROBE_MOST) -> None:
        """Take the result of a probe, which costs nothing and asks for nothing.

        A good one lets requests try (half-open); it closes nothing, since a port that
        accepts is no service that answers. So the next probes still grow rarer, or one such
        port would be sent a request each second for ever. most: seconds between two at most.
        """
        self._probe_failed = not ok
        self._probe_most = most
        self._probes += 1
        self.calm = False
        if ok:
            self.breaker.probed(now)
        self.probe_at = math.inf
        self._plan_probe(now)


def median_of(healths: Sequence[Health]) -> float | None:
    """Return the median of the mean latencies; None if fewer than two are known."""
    means = [health.mean for health in healths if health.mean.answered]
    known = sorted(mean.value for mean in means if mean.value is not None)
    return known[(len(known) - 1) // 2] if len(known) > 1 else None
