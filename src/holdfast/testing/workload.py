"""A drawn workload for policies: which policies, what the backend does, what must follow.

Shared by the scenarios `calls` (asynchronous) and `calls_sync`. They differ in how they wait.
"""

from __future__ import annotations

import errno
import math
from typing import TYPE_CHECKING

from holdfast.core.errors import DeadlineExceeded, Rejected
from holdfast.core.verdict import (
    AUTH,
    CONCURRENCY,
    CONNECT,
    PERMANENT,
    THROTTLED,
    TIMEOUT,
    TRANSIENT,
    UNKNOWN,
    Kind,
    Sent,
    Verdict,
)
from holdfast.runtime.scope import remaining
from holdfast.testing.drawn import FALLBACK, Draw
from holdfast.testing.guards import Guard, Logical
from holdfast.testing.invariants import Ledger

if TYPE_CHECKING:
    from holdfast.runtime.ending import Outcome
    from holdfast.runtime.random import SeededRandom
    from holdfast.testing.faults import Decision, Swarm
    from holdfast.testing.simulation import Sim

KEYS = ("", "b")
LEFT = "left"
FOREVER = math.inf
ITEMS = 6
CALLS = 200
"""Logical calls of one seed, more or less."""

ATTEMPT_KINDS = {
    "refuse": CONNECT,
    "reset": TRANSIENT,
    "silence": TIMEOUT,
    "throttle": THROTTLED,
    "busy": CONCURRENCY,
    "denied": AUTH,
    "wrong": PERMANENT,
    "odd": UNKNOWN,
    "descriptors": CONCURRENCY,
    "slow": None,
    "hang": None,
}
"""What may go wrong in an attempt, and the kind of failure that it is."""

CLOCK_KINDS = ("wall_step", "suspend")
"""What may happen to the clocks: the wall clock jumps a day, the machine sleeps for hours."""

CALL_KINDS = ("cancel", "cancel_at_limit", "cancel_at_release")
"""What a caller may do to its own call: leave at any moment, in the tick of the limit, or in the
tick in which another call gives its permit back (and a waiting one gets it)."""


class Answer(Exception):
    """What an answering backend says; it carries its own verdict."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


class Odd(Exception):
    """A failure that no table knows."""


EXPECTED = (Answer, Odd, OSError, Rejected, DeadlineExceeded)
"""What a caller may see: what the backend raises, and what policies decide."""


class Backend:
    """What is called: takes its time, fails as decided, knows whether it may have been run."""

    def __init__(self, sim: Sim, latency: float) -> None:
        self.sim = sim
        self.latency = latency
        self.down: list[tuple[float, float]] = []
        self._draw = sim.random("backend").draw

    def outages(self, count: int, storm: float) -> None:
        """Be down altogether in up to `count` periods before `storm`."""
        for _ in range(count):
            fault = self.sim.faults.at("outage", 0.0)
            if fault is not None:
                begin = fault.x * storm
                self.down.append((begin, begin + fault.y * (storm - begin)))

    def decide(self) -> tuple[str, float, float]:
        """Return how this attempt goes: the fault or "", seconds until it shows, its size."""
        now = self.sim.clock.monotonic()
        usual = self.latency * (0.5 + self._draw())
        fault = self.sim.faults.at("attempt", now)
        if any(begin <= now < end for begin, end in self.down):
            return "refuse", 0.0, 0.0
        if fault is None:
            return "", usual, 0.0
        return fault.kind, self._seconds(fault, usual), fault.y

    def _seconds(self, fault: Decision, usual: float) -> float:
        if fault.kind in ("refuse", "descriptors"):
            return 0.0
        if fault.kind == "slow":
            return usual * 10 ** (1 + 2 * fault.x)
        if fault.kind == "hang":
            return FOREVER
        if fault.kind == "silence":
            return usual * 10
        return usual * fault.x

    def answer(self, call: Logical, kind: str, size: float) -> int:
        """Return the right value, or raise what this fault raises."""
        if kind in ("", "slow", "hang"):
            return call.number
        failure = ATTEMPT_KINDS[kind]
        assert failure is not None  # noqa: S101 - the others returned
        call.kind = failure
        call.maybe_sent |= kind in ("reset", "silence", "odd")
        raise error_of(kind, failure, size)


def error_of(kind: str, failure: Kind, size: float) -> Exception:
    """Return the exception: a real type where Python has one, else one with a verdict."""
    if kind == "refuse":
        return ConnectionRefusedError(errno.ECONNREFUSED, "refused")
    if kind == "reset":
        return ConnectionResetError(errno.ECONNRESET, "reset")
    if kind == "silence":
        return TimeoutError(errno.ETIMEDOUT, "timed out")
    if kind == "descriptors":
        return OSError(errno.EMFILE, "too many open files")
    if kind == "odd":
        return Odd()
    hint = 0.01 * 3000**size if kind == "throttle" and size > 0.3 else None
    return Answer(Verdict(failure, sent=Sent.YES, reason=kind, retry_after=hint))


def attempt_rates(swarm: Swarm) -> dict[str, dict[str, float]]:
    """Draw how often which attempts and calls go wrong."""
    return {
        "attempt": swarm.rates(tuple(ATTEMPT_KINDS), present=0.45, low=0.02, high=0.4),
        "call": swarm.rates(CALL_KINDS, present=0.6, low=0.02, high=0.25),
        "outage": swarm.rates(("outage",), present=0.5, low=0.3, high=0.9),
        "clock": swarm.rates(CLOCK_KINDS, present=0.3, low=0.002, high=0.02),
        "item": swarm.rates(("cut",), present=0.8, low=0.05, high=0.6),
    }


def moment(fault: Decision, guard: Guard, latency: float) -> float:
    """Return after how many seconds a caller that leaves does so."""
    limits = [limit for limit in (guard.deadline, guard.timeout) if limit < math.inf]
    if fault.kind == "cancel_at_limit" and limits:
        return limits[int(fault.x * len(limits))]
    return latency * 0.01 * float(1e5**fault.x)


def pick(source: SeededRandom, weights: dict[str, int]) -> str:
    """Return one of the names, drawn by weight."""
    left = source.draw() * sum(weights.values())
    for name, weight in weights.items():
        left -= weight
        if left < 0:
            return name
    return name


class Load:
    """One seed: policies, a backend, a ledger. The scenarios add the callers.

    interrupt: limits interrupt attempts; else attempts keep to `remaining()` themselves.
    """

    def __init__(self, sim: Sim, *, interrupt: bool) -> None:
        swarm = sim.swarm()
        self.sim = sim
        self.latency = swarm.between(0.001, 0.2)
        self.storm = self.latency * swarm.between(5, 3000)
        sim.break_things(attempt_rates(swarm), until=self.storm)
        self.backend = Backend(sim, self.latency)
        self.backend.outages(2, self.storm)
        draw = Draw(sim.random("policies"), self.latency, interrupt=interrupt)
        self.guards = [Guard(sim, f"p{i}", draw.strategies()) for i in range(swarm.whole(1, 4))]
        self.callers = swarm.whole(2, 20)
        # Half of the seeds have no listener: then policies take their fast path to its end.
        self.watched = swarm.whole(0, 1) == 1
        if self.watched:
            sim.listen(*(guard.hear for guard in self.guards))
        self.ledger = Ledger(sim)
        self._numbers = 0
        # Without anything that ends a hanging attempt, none may hang for ever.
        self.patience = self.latency * 500

    def new_call(self, key: str) -> Logical:
        """Return the next logical call."""
        self._numbers += 1
        return Logical(self._numbers, key, begin=self.sim.clock.monotonic())

    def disturb_clock(self) -> None:
        """Let the wall clock step, or the machine sleep for eight hours."""
        clock, faults = self.sim.clock, self.sim.faults
        now = clock.monotonic()
        fault = faults.at("clock", now)
        if fault is not None and fault.kind == "wall_step":
            clock.step_wall(86400 if fault.x < 0.5 else -86400)
        elif fault is not None:
            clock.suspend(8 * 3600)
            self.ledger.suspended(now)
            for guard in self.guards:
                guard.slept_at = now
            faults.until += 8 * 3600  # nothing happened meanwhile: the storm goes on

    def after_storm(self) -> float:
        """Return the seconds until nothing fails any more and what is slow is over."""
        return max(0.0, self.sim.faults.until - self.sim.clock.monotonic()) + 30

    def decide(self) -> tuple[str, float, float]:
        """Return how an attempt goes: the fault or "", its seconds, its size."""
        kind, seconds, size = self.backend.decide()
        if seconds == FOREVER and remaining() == math.inf:
            seconds = self.patience
        return kind, seconds, size

    def headers(self, source: SeededRandom) -> dict[str, str]:
        """Return what an answer says of the server's rate limit; mostly nothing."""
        scale, left = self.latency * 10 ** (3 * source.draw()), source.between(0, 3)
        quota = f'"a";r={left};t={scale:.9f}'
        return source.choice(
            (
                {},
                {"RateLimit": quota},
                {"RateLimit": quota, "RateLimit-Policy": f'"a";q={left + 1};w={scale:.9f}'},
                {"Retry-After": f"{scale:.9f}"},
                {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "never"},
            )
        )

    def end_of(self, first: int) -> tuple[int, Decision | None]:
        """Return where a stream that begins at item `first` ends, and why."""
        fault = self.sim.faults.at("item", self.sim.clock.monotonic())
        return (ITEMS if fault is None else first + int(fault.x * (ITEMS - first))), fault

    def finished(self, call: Logical, guard: Guard, value: object) -> None:
        """Tell the guard that the policy gave a value."""
        if value is LEFT:
            guard.finished(call, abandoned=True)
        else:
            guard.finished(call, _fell_back if value == FALLBACK else None)

    def check_value(self, call: Logical, value: object) -> None:
        """Check that the value is the one of this call."""
        self.sim.check(value in (call.number, LEFT, FALLBACK), "wrong value", f"{call.number}")

    def check_items(self, call: Logical, got: list[int]) -> None:
        """Check that no item came twice or was lost."""
        self.sim.check(got == list(range(len(got))), "items", f"call {call.number}: {got}")

    def check_outcome(self, call: Logical, guard: Guard, outcome: Outcome) -> None:
        """Check that an outcome says what happened."""
        check, hits = self.sim.check, call.hits[guard.name]
        check(outcome.attempts == hits, "counters", f"attempts of {call.number}: {hits}")
        check(outcome.ok == (outcome.error is None), "outcome", f"call {call.number}")
        refused = hits == 0 and outcome.error is not None
        check(not refused or outcome.sent is Sent.NO, "outcome", f"sent of {call.number}")

    def unexpected(self, form: str, guard: Guard, error: Exception) -> None:
        """Record an error that neither the backend nor a policy may raise."""
        self.sim.violation("unexpected", f"{form} of {guard.name}: {error!r}")

    def until_open(self, guard: Guard, key: str) -> float:
        """Return the seconds until the policy may serve again."""
        state = guard.policy.state(key)
        until, wait = state["circuit_until"], state["rate_wait"]
        assert isinstance(wait, float)  # noqa: S101 - tells the type checker
        if state["circuit"] == "open" and isinstance(until, float):
            wait = max(wait, until - self.sim.clock.monotonic())
        return wait + 1e-6

    def check_recovered(self, guard: Guard, key: str) -> None:
        """Check that the circuit is closed again."""
        circuit = guard.policy.state(key)["circuit"]
        self.sim.check(circuit == "closed", "no recovery", f"{guard.name}: {circuit}")

    def finish(self) -> dict[str, int]:
        """Check what must hold at the end; return how many calls ended how."""
        for guard in self.guards:
            guard.at_rest()
            if self.watched:
                guard.compare()
        return self.ledger.finish()


_fell_back = RuntimeError("a fallback stands for this error")
