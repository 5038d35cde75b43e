"""Policies with a witness that counts for itself what the policy should count.

A `Guard` wraps one policy. The program under test says `entered` and `left` around every
attempt that the policy lets through, and `finished` when the logical call is over. So the guard
knows the truth: how many are in flight, how often a call was tried, what its retries cost, how
fast attempts followed each other. It holds that against what the policy promised and against
what the policy says of itself.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from holdfast.core.adaptive import AdaptiveBulkhead
from holdfast.core.breaker import Breaker
from holdfast.core.budget import Budget, ConcurrentBudget
from holdfast.core.bulkhead import Bulkhead
from holdfast.core.deadline import Deadline, Timeout
from holdfast.core.errors import Rejected
from holdfast.core.fallback import Fallback
from holdfast.core.ratelimit import AdaptiveRateLimit, RateLimit
from holdfast.core.retry import Retry
from holdfast.core.verdict import CONCURRENCY, THROTTLED, Kind
from holdfast.runtime.policy import Policy, policy

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from holdfast.core.events import Event
    from holdfast.core.policy import Strategy
    from holdfast.core.retry import Request
    from holdfast.testing.simulation import Sim

T = TypeVar("T")

NEAR = 1e-6
"""Seconds within which two moments are one."""

_EVENTS = {"Attempt": "attempts", "GaveUp": "surrenders", "Refused": "refusals"}
_INSIDE_MAY_WAIT = (Bulkhead, AdaptiveBulkhead, RateLimit, AdaptiveRateLimit)


@dataclass(slots=True, eq=False)
class Logical:
    """One logical call, as its caller sees it.

    number, key: which.  safe: may be repeated after it may have been executed.
    steady: makes no progress, so its attempts are bounded.  nested: goes through two policies.
    maybe_sent: an attempt failed after it may have been executed.  kind: of the last failure.
    hits: attempts, by guard.  paid: what the last retry cost, by guard.  limits: when the
    attempt at hand must be over, by guard.  cuts: when an attempt was interrupted, by guard.
    gens: the generation of the breaker that let it through, by guard.
    """

    number: int
    key: str = ""
    safe: bool = True
    steady: bool = True
    nested: bool = False
    begin: float = 0.0
    maybe_sent: bool = False
    kind: Kind | None = None
    hits: Counter[str] = field(default_factory=Counter)
    paid: dict[str, float] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)
    cuts: dict[str, float] = field(default_factory=dict)
    gens: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Truth:
    """What is true of one key.

    gen, circuit: of the breaker, when last looked at.  row, longest, failures, calls: failures
    in a row now, at most, and in all, and attempts, since that generation began; rather too many
    than too few.
    """

    in_flight: int = 0
    gen: int = 0
    circuit: str = "closed"
    row: int = 0
    longest: int = 0
    failures: int = 0
    calls: int = 0
    tat: float = -math.inf
    spent: float = 0.0
    refunded: float = 0.0


class Guard:
    """A policy and its witness.

    name: also of the policy.  said, true: how many attempts, refusals and surrenders the policy
    told of, and how many there were.  at_next_release: called once when an attempt ends.
    slept_at: when the machine was last suspended.
    """

    def __init__(self, sim: Sim, name: str, strategies: list[Strategy]) -> None:
        self.sim = sim
        self.name = name
        self.policy: Policy = policy(*strategies, name=name, key=_key_of, order="free")
        kinds = [type(strategy) for strategy in strategies]
        self._parts: dict[type, Strategy] = dict(zip(kinds, strategies, strict=True))
        self.attempts = self.policy.plan().attempts_max
        deadline, timeout = self.part(Deadline), self.part(Timeout)
        self.deadline = deadline.seconds if deadline else math.inf
        self.timeout = timeout.seconds if timeout else math.inf
        self.said: Counter[str] = Counter()
        self.true: Counter[str] = Counter()
        self.slept_at = -1.0
        self.at_next_release: list[Callable[[], object]] = []
        self._unsure = 0
        self._keys: defaultdict[str, _Truth] = defaultdict(_Truth)
        bulkhead, self._adaptive = self.part(Bulkhead), self.part(AdaptiveBulkhead)
        # A limit that follows the backend may fall while more are in flight, but not above.
        self._at_once = bulkhead.limit if bulkhead else math.inf
        if self._adaptive is not None:
            self._at_once = self._adaptive.max
        self._breaker = self.part(Breaker)
        self._rate = self.part(RateLimit)
        retry = self.part(Retry)
        self._budget = retry.budget if retry else None
        # An attempt that waits inside the breaker or the rate limit may start in another state
        # than the one that admitted it: then only the layers themselves know.
        inside = {kind: kinds[kinds.index(kind) + 1 :] for kind in kinds}
        self._breaker_exact = Breaker in inside and not any(
            kind in _INSIDE_MAY_WAIT or kind is Retry for kind in inside[Breaker]
        )
        self._rate_exact = RateLimit in inside and not (
            {Bulkhead, AdaptiveBulkhead, Retry}.intersection(inside[RateLimit])
        )

    def part(self, kind: type[T]) -> T | None:
        """Return the strategy of this type, or None."""
        found: Any = self._parts.get(kind)
        return found  # type: ignore[no-any-return]  # stored under its own type

    @property
    def limited(self) -> bool:
        """Whether the policy has a limit of its own."""
        return min(self.deadline, self.timeout) < math.inf

    # -- told by the program ----------------------------------------------------------------

    def entered(self, call: Logical) -> None:
        """Note that the policy let an attempt of `call` through."""
        check, truth, name = self.sim.check, self._keys[call.key], self.name
        now = self.sim.clock.monotonic()
        hits = call.hits[name] = call.hits[name] + 1
        if call.cuts.pop(name, None) is not None:
            self.true["attempts"] += 1  # the one before: the policy itself had cut it
        call.limits[name] = min(now + self.timeout, call.begin + self.deadline)
        if call.steady and hits > self.attempts:
            check(False, "too many attempts", f"call {call.number} of {name}: {hits}")  # noqa: FBT003 - the shape of `check`
        if not call.safe and call.maybe_sent:
            self.sim.violation("sent twice", f"call {call.number} of {name}")
        truth.in_flight += 1
        check(truth.in_flight <= self._at_once, "bulkhead exceeded", name)
        if self._breaker_exact:
            self._check_admission(call, truth)
        # Whose slot came while the machine slept goes at once when it wakes: with all the others.
        if self._rate_exact and call.begin > self.slept_at:
            self._check_rate(truth, now)
        if hits > 1:
            self._pay(call, truth)

    def left(self, call: Logical, *, ended: bool, ok: bool) -> None:
        """Note that an attempt of `call` is over.

        ended: it returned or raised by itself.  ok: it returned.
        """
        truth = self._keys[call.key]
        truth.in_flight -= 1
        self.true["attempts"] += ended
        if call.gens.get(self.name) == truth.gen:
            truth.calls += 1
            truth.failures += not ok
            truth.row = 0 if ok else truth.row + 1
            truth.longest = max(truth.longest, truth.row)
        watchers, self.at_next_release = self.at_next_release, []
        for watcher in watchers:
            watcher()

    def cut(self, call: Logical) -> None:
        """Note that the attempt was interrupted, by the policy or from outside."""
        call.maybe_sent, call.kind = True, Kind.TIMEOUT
        call.cuts[self.name] = self.sim.clock.monotonic()

    def finished(
        self, call: Logical, error: BaseException | None = None, *, abandoned: bool = False
    ) -> None:
        """Note how the policy ended `call`: a value, an error, or abandoned from outside."""
        cut = call.cuts.pop(self.name, None)
        if cut is not None:
            self._count_cut(call, cut, abandoned=abandoned)
        if self._breaker_exact:
            self._look_at_breaker(call.key, self._keys[call.key])
        if abandoned:
            return
        if error is None:
            self._keys[call.key].refunded += call.paid.get(self.name, 1.0)
            return
        self.true["surrenders"] += 1
        if isinstance(error, Rejected) and error.policy == self.name:
            self.true["refusals"] += 1

    def _count_cut(self, call: Logical, cut: float, *, abandoned: bool) -> None:
        """Say whether the policy tells of an attempt that was interrupted at `cut`."""
        now = self.sim.clock.monotonic()
        if not abandoned or now > cut + NEAR:
            self.true["attempts"] += 1  # its own doing: it went on after it
        elif call.nested or now >= call.limits[self.name] - NEAR:
            self._unsure += 1  # both in one tick: either may have come first

    # -- checks ---------------------------------------------------------------------------------

    def _check_admission(self, call: Logical, truth: _Truth) -> None:
        """Check that the breaker may have let this attempt through."""
        state = self._look_at_breaker(call.key, truth)
        call.gens[self.name] = truth.gen
        circuit, probes = truth.circuit, state["probes"]
        self.sim.check(circuit not in ("open", "isolated"), "sent while open", self.name)
        if circuit == "half-open" and self._breaker is not None:
            assert isinstance(probes, int)  # noqa: S101 - tells the type checker
            self.sim.check(1 <= probes <= self._breaker.half_open, "probes", f"{probes}")

    def _look_at_breaker(self, key: str, truth: _Truth) -> dict[str, object]:
        """Look for a transition; if it has opened there must have been failures enough."""
        state, breaker = self.policy.state(key), self._breaker
        gen, circuit = state["circuit_gen"], state["circuit"]
        assert isinstance(gen, int)  # noqa: S101 - tells the type checker
        assert breaker is not None  # noqa: S101 - only called with one
        if gen == truth.gen:
            return state
        tripped = truth.circuit == "closed" and circuit == "open" and gen == truth.gen + 1
        if tripped and breaker.slow_after is None:
            share = breaker.ratio * breaker.min_calls - NEAR
            enough = (truth.failures >= share and truth.calls >= breaker.min_calls) or (
                breaker.consecutive is not None and truth.longest >= breaker.consecutive
            )
            text = f"{self.name}: {truth.failures} failures, {truth.longest} in a row"
            self.sim.check(enough, "opened without reason", text)
        truth.gen, truth.circuit = gen, str(circuit)
        truth.row = truth.longest = truth.failures = truth.calls = 0
        return state

    def _check_rate(self, truth: _Truth, now: float) -> None:
        """Count by the cell rate algorithm: a burst at once, then one per interval."""
        rate = self._rate
        assert rate is not None  # noqa: S101 - only called with one
        interval = rate.per / rate.limit
        burst = rate.limit if rate.burst is None else rate.burst
        truth.tat = max(truth.tat, now) + interval
        ahead = truth.tat - now - interval * burst
        self.sim.check(ahead <= NEAR, "rate exceeded", f"{self.name}: {ahead:.6f} s early")

    def _pay(self, call: Logical, truth: _Truth) -> None:
        """Count what a retry costs; the bucket never lends."""
        budget = self._budget
        if not isinstance(budget, Budget) or budget.shared or call.nested or call.kind is None:
            return
        cheap = call.kind & (THROTTLED | CONCURRENCY)
        cost = call.paid[self.name] = budget.throttled if cheap else budget.transient
        truth.spent += cost
        if truth.spent > budget.capacity + truth.refunded + NEAR:
            text = f"{self.name}: {truth.spent:g} spent, {truth.refunded:g} refunded"
            self.sim.violation("budget exceeded", text)

    def hear(self, event: Event) -> None:
        """Count what the policy says."""
        if event.policy == self.name:
            self.said[_EVENTS.get(type(event).__name__, "other")] += 1

    def at_rest(self) -> None:
        """Check that everything is given back, now that nothing runs."""
        check = self.sim.check
        for key in self.policy.keys():  # noqa: SIM118 - a policy is no dict
            state = self.policy.state(key)
            for what in ("active", "queued", "probes"):
                check(state[what] == 0, "permits left", f"{self.name}: {what} {state[what]}")
            check(self._keys[key].in_flight == 0, "attempt left", self.name)
            self._check_limits(state)
            left, budget = state["budget"], self._budget
            if isinstance(budget, Budget):
                assert isinstance(left, float | int)  # noqa: S101 - tells the type checker
                check(0 <= left <= budget.capacity, "budget", f"{self.name}: {left}")
            elif isinstance(budget, ConcurrentBudget) and not budget.shared:
                check(left == budget.floor, "budget", f"{self.name}: {left}")

    def _check_limits(self, state: dict[str, object]) -> None:
        """Check that limits which follow the backend are within their bounds."""
        limit, rate, check = state["limit"], state["rate"], self.sim.check
        adaptive, curve = self._adaptive, self.part(AdaptiveRateLimit)
        if adaptive is not None:
            assert isinstance(limit, int)  # noqa: S101 - tells the type checker
            check(adaptive.min <= limit <= adaptive.max, "limit", f"{self.name}: {limit}")
        if curve is not None and not curve.learn and rate is not None:
            assert isinstance(rate, float)  # noqa: S101 - tells the type checker
            check(rate >= curve.least - NEAR, "rate", f"{self.name}: {rate:g}")

    def compare(self) -> None:
        """Check that what the policy said is what happened. Only if somebody listened."""
        told = ["surrenders"] if self.part(Fallback) else ["surrenders", "refusals"]
        for what in told:
            said, true = self.said[what], self.true[what]
            self.sim.check(said == true, "counters", f"{self.name}: {what} {said}, not {true}")
        said, least = self.said["attempts"], self.true["attempts"]
        most = least + self._unsure
        self.sim.check(
            least <= said <= most, "counters", f"{self.name}: attempts {said}, not {least}..{most}"
        )


def _key_of(request: Request) -> Hashable:
    return request.args[0].key if request.args else ""
