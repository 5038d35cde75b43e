"""Which endpoint gets the next attempt. Decisions only; the state of each is in `health`.

    trial          one repeatable request in 20, once a second at most, goes to an endpoint
                   that has something to prove while others stand better, so that recovery
                   waits for nobody's failure
    by tier        healthy, then degraded, then unhealthy: within a tier the lowest priority
                   number, within that the method (`p2c` and others)
    wait           all that is left is cooling down, full, or has its one probe out
    last resort    circuit open, the soonest to reopen: one real attempt
    tried          all were tried by this request: the caller backs off and begins anew

So there is an answer in any mix of states, and "all endpoints have failed" is never said by
anything but an endpoint.
"""

from __future__ import annotations

import enum
import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from holdfast.core.breaker import Permit
from holdfast.core.health import Health, Key, Tier, median_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

Method = Literal["p2c", "weighted", "round_robin", "random", "least_inflight"]
METHODS: tuple[Method, ...] = ("p2c", "weighted", "round_robin", "random", "least_inflight")

TRIAL_OF = 20
TRIAL_SECONDS = 1.0
LOOK_SECONDS = 1.0
OUTLIER_ENDPOINTS = 5
OUTLIER_CALLS = 100
OUTLIER_DEVIATIONS = 1.9
OUTLIER_LEAST = 0.03
"""Below the mean by so much at least: of five, any single failure is 2 deviations away."""
_LEAST_MEAN = 1e-4  # seconds; an endpoint nobody has asked yet is as good as the best


class Wait(NamedTuple):
    """Nobody may be asked now.

    full       one has as many requests as it may have, which can end at any moment
    half-open  one is being proved, which ends as soon
    cooling    all that is left is to be left alone, or is dead

    until: when one may be had by the time alone: cool again, or to be tried again; monotonic.
    """

    until: float
    why: Literal["cooling", "full", "half-open"]


class Nobody(enum.StrEnum):
    """Why there is no endpoint, and no time at which there will be one."""

    TRIED = "tried"  # each was tried by this request
    DISABLED = "disabled"  # all are switched off


@dataclass(slots=True, eq=False)
class Endpoint:
    """One endpoint of a cluster.

    weight: its share beside others, from 1.  priority: lower ones are used first.
    max_in_flight: requests at a time; infinite if it has no limit.
    """

    id: str
    health: Health
    weight: float = 100
    priority: int = 1
    max_in_flight: float = math.inf
    enabled: bool = True
    credit: float = 0.0  # of the smooth weighted round-robin
    _plain: Pick | None = None

    @property
    def plain(self) -> Pick:
        """What is picked while nothing is wrong with it; the same for all requests."""
        pick, gen = self._plain, self.health.breaker.gen
        if pick is None or pick.permit.gen != gen:
            self._plain = pick = Pick(self, self.health.keys[0], Permit(gen), Tier.HEALTHY)
        return pick


class Pick(NamedTuple):
    """The next attempt: where, with which key, by which permit.

    tier: where the endpoint stands now.  trial: it is to prove itself.
    """

    endpoint: Endpoint
    key: Key
    permit: Permit
    tier: Tier
    trial: bool = False


class Balancer:
    """Chooses among endpoints. Not thread-safe.

    method: of choosing within a tier.  max_ejected: the share of endpoints that may be
    ejected as outliers.  panic: with a smaller share than this left, ejection is ignored.
    endpoints: may be replaced at any time; requests under way keep what they have.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        method: Method = "p2c",
        *,
        max_ejected: float = 0.5,
        panic: float = 0.5,
    ) -> None:
        self.endpoints = list(endpoints)
        self.median: float | None = None
        self._choose = _CHOOSE[method]
        self._max_ejected = max_ejected
        self._panic = panic
        self._look_at = -math.inf
        self._plain: list[Endpoint] | None = None
        self._since_trial = 0
        self._trial_at = -math.inf

    def pick(
        self,
        now: float,
        u: float,
        *,
        tried: Collection[Endpoint] = (),
        repeatable: bool = True,
        limit: float = math.inf,
        patience: float = 0.0,
    ) -> Pick | Wait | Nobody:
        """Return where the next attempt goes, and count it there.

        u: uniform in [0, 1).  tried: by this request, since its last backoff.
        repeatable: it may be sent twice, so it may go to an endpoint that has to prove itself.
        limit: seconds that the attempt may take.  patience: seconds that it could wait.
        """
        picked = None if tried else self.pick_plain(now, u)
        if picked is not None:
            return picked
        if now >= self._look_at:
            self._look(now)
        enabled = [one for one in self.endpoints if one.enabled]
        if not enabled:
            return Nobody.DISABLED
        left = [one for one in enabled if one not in tried]
        if not left:
            return Nobody.TRIED
        by_tier: dict[Tier, list[Endpoint]] = {tier: [] for tier in Tier}
        for one in _free(left, now):
            by_tier[one.health.tier(now)].append(one)
        picked = self._trial(by_tier, now, u, limit) if repeatable and not tried else None
        for tier in (Tier.HEALTHY, Tier.DEGRADED, Tier.UNHEALTHY):
            picked = picked or self._of(by_tier[tier], tier, now, u, limit)
        dead = by_tier[Tier.CIRCUIT_OPEN]
        return picked or _wait(left, dead, now, patience) or self._forced(dead, now)

    def has_to_wait(self, now: float, patience: float = 0.0) -> bool:
        """Say whether one that would take any endpoint finds none now; asks no breaker."""
        enabled = [one for one in self.endpoints if one.enabled]
        free = _free(enabled, now)
        if any(one.health.tier(now) is not Tier.CIRCUIT_OPEN for one in free):
            return False
        return _wait(enabled, free, now, patience) is not None

    def pick_plain(self, now: float, u: float) -> Pick | None:
        """Choose among endpoints of which none had anything to prove at the last look.

        Most requests find nothing else. The one that is chosen must be calm still; whatever has
        happened to it sends the request through the full choice. Its breaker is closed then, so
        there is nothing to ask it, and all its requests may have one permit.
        """
        if now >= self._look_at:
            self._look(now)
        if self._plain is None:
            return None
        chosen = _p2c(self._plain, u)
        health = chosen.health
        if not (health.calm and chosen.enabled and health.in_flight < chosen.max_in_flight):
            return None
        health.in_flight += 1
        return chosen.plain

    def _trial(
        self, by_tier: dict[Tier, list[Endpoint]], now: float, u: float, limit: float
    ) -> Pick | None:
        proving = list(by_tier[Tier.UNHEALTHY])
        if by_tier[Tier.HEALTHY]:
            proving += by_tier[Tier.DEGRADED]
        elif not by_tier[Tier.DEGRADED]:
            return None  # there is nobody better, and all are asked anyway
        if not proving:
            return None
        self._since_trial += 1
        if self._since_trial < TRIAL_OF or now - self._trial_at < TRIAL_SECONDS:
            return None
        for one in sorted(proving, key=lambda one: min(key.used_at for key in one.health.keys)):
            picked = self._begin(one, now, u, limit)
            if picked is not None:
                self._since_trial, self._trial_at = 0, now
                return picked._replace(trial=True)
        return None

    def _of(
        self, group: list[Endpoint], tier: Tier, now: float, u: float, limit: float
    ) -> Pick | None:
        """Return one of a tier, or None if no breaker there gives a permit."""
        left = list(group)
        while left:
            first = min(one.priority for one in left)
            chosen = self._choose([one for one in left if one.priority == first], u)
            picked = self._begin(chosen, now, u, limit)
            if picked is not None:
                return picked._replace(tier=tier)
            left.remove(chosen)  # half-open, and its probes are out
        return None

    @staticmethod
    def _begin(one: Endpoint, now: float, u: float, limit: float) -> Pick | None:
        health = one.health
        key, tier = health.next_key(now), health.tier(now)
        if key is None:
            return None
        permit = health.begin(now, limit, u)
        if isinstance(permit, float | int):
            return None
        key.used_at = now
        return Pick(one, key, permit, tier)

    def force(self, now: float) -> Pick | None:
        """Return a real attempt, for one that waited in vain; None if all cool down or are full."""
        free = _free([one for one in self.endpoints if one.enabled], now)
        return self._forced(free, now) if free else None

    @staticmethod
    def _forced(free: list[Endpoint], now: float) -> Pick:
        one = min(free, key=lambda one: one.health.breaker.until)
        key = one.health.next_key(now)
        if key is None:
            raise RuntimeError("only those with a key that is free are looked at")
        key.used_at = now
        return Pick(one, key, one.health.force(), Tier.CIRCUIT_OPEN)

    # -- what only all endpoints together show ---------------------------------------------------

    def _look(self, now: float) -> None:
        """Find outliers, and the median of the latencies.

        Source: success-rate outlier detection of Envoy, with its defaults but for the number
        of endpoints that may be ejected: with 10 % it ejects none of nine.
        """
        self._look_at = now + LOOK_SECONDS
        enabled = [one for one in self.endpoints if one.enabled]
        self.median = median_of([one.health for one in enabled])
        rates = {one: one.health.counts(now) for one in enabled}
        known = {one: c.success_rate for one, c in rates.items() if c.calls >= OUTLIER_CALLS}
        bad: list[Endpoint] = []
        if len(known) >= OUTLIER_ENDPOINTS:
            spread = statistics.pstdev(known.values())
            margin = max(OUTLIER_DEVIATIONS * spread, OUTLIER_LEAST)
            least = statistics.fmean(known.values()) - margin
            bad = sorted((one for one in known if known[one] < least), key=known.__getitem__)
            bad = bad[: int(self._max_ejected * len(enabled))]
            left = [one for one in enabled if one not in bad and one.health.takes_traffic]
            if len(left) < self._panic * len(enabled):
                bad = []  # panic: too few would have to carry what all were bought for
        for one in enabled:
            one.health.ejected = one in bad
            if not one.health.in_flight:
                one.health.mean.fade(now)
            one.health.look(now)
        alike = len({one.priority for one in enabled}) == 1
        calm = all(one.health.calm and len(one.health.keys) == 1 for one in enabled)
        self._plain = enabled if self._choose is _p2c and alike and calm else None

    def tier(self, now: float) -> Tier:
        """Return the best tier in which there is an endpoint."""
        tiers = [one.health.tier(now) for one in self.endpoints if one.enabled]
        return min(tiers, default=Tier.CIRCUIT_OPEN)


def _free(group: list[Endpoint], now: float) -> list[Endpoint]:
    """Return those that have room and a key that is not cooling down, whatever breakers say."""
    return [
        one
        for one in group
        if one.health.in_flight < one.max_in_flight and one.health.next_key(now) is not None
    ]


def _wait(left: list[Endpoint], dead: list[Endpoint], now: float, patience: float) -> Wait | None:
    """Return what to wait for, when nobody can be asked now; None: rather ask one that is dead.

    dead: of those that are left the ones with room whose circuits are open.
    """
    cool, full, proved = math.inf, False, False
    for one in left:
        free = one.health.free_at(now)
        if free > now:
            cool = min(cool, free)
        elif one in dead:
            continue
        elif one.health.in_flight < one.max_in_flight:
            proved = True
        elif one.health.tier(now) is not Tier.CIRCUIT_OPEN:
            full = True  # and works: it is soon to be had again
    reopens = min((one.health.breaker.until for one in dead), default=math.inf)
    if full or proved:
        return Wait(min(cool, reopens), "full" if full else "half-open")
    if dead and cool - now > patience:
        return None
    if cool < math.inf:
        return Wait(min(cool, reopens), "cooling")
    return Wait(math.inf, "full")  # dead, and busy with those who tried that


# -- methods ---------------------------------------------------------------------------------


def _p2c(group: list[Endpoint], u: float) -> Endpoint:
    """Of two at random the one where one more request would wait less, for its weight.

    Source: M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (2001).
    """
    n = len(group)
    if n == 1:
        return group[0]
    pair = min(int(u * n * (n - 1)), n * (n - 1) - 1)  # one draw gives both
    first, second = pair // (n - 1), pair % (n - 1)
    one, other = group[first], group[second + (second >= first)]
    a, b = one.health, other.health
    # One that has requests and has answered none yet is taken to be as fast as the other, or it
    # would be sent all there is for as long as it says nothing.
    fast, its = a.mean.rank, b.mean.rank
    if fast is None:
        fast = its if a.in_flight else _LEAST_MEAN
    if its is None:
        its = fast if b.in_flight else _LEAST_MEAN
    fast = _LEAST_MEAN if fast is None or fast < _LEAST_MEAN else fast
    its = _LEAST_MEAN if its is None or its < _LEAST_MEAN else its
    fair = (a.in_flight + 1) * fast * other.weight <= (b.in_flight + 1) * its * one.weight
    return one if fair else other


def _weighted(group: list[Endpoint], _: float) -> Endpoint:
    """In turn, as often as the weights say, and no endpoint twice in a row without need.

    Source: smooth weighted round-robin of nginx.
    """
    return _in_turn(group, lambda one: one.weight)


def _round_robin(group: list[Endpoint], _: float) -> Endpoint:
    """In turn."""
    return _in_turn(group, lambda _: 1.0)


def _in_turn(group: list[Endpoint], weight: Callable[[Endpoint], float]) -> Endpoint:
    total = 0.0
    for one in group:
        one.credit += weight(one)
        total += weight(one)
    chosen = max(group, key=lambda one: one.credit)
    chosen.credit -= total
    return chosen


def _random(group: list[Endpoint], u: float) -> Endpoint:
    """Any, as often as the weights say."""
    at = u * math.fsum(one.weight for one in group)
    for one in group:
        at -= one.weight
        if at < 0:
            return one
    return group[-1]


def _least_in_flight(group: list[Endpoint], u: float) -> Endpoint:
    """Choose that with the least in flight for its weight; of equals, any."""
    loads = [(one.health.in_flight + 1) / one.weight for one in group]
    least = min(loads)
    return _random([one for one, load in zip(group, loads, strict=True) if load == least], u)


_CHOOSE: dict[Method, Callable[[list[Endpoint], float], Endpoint]] = {
    "p2c": _p2c,
    "weighted": _weighted,
    "round_robin": _round_robin,
    "random": _random,
    "least_inflight": _least_in_flight,
}
