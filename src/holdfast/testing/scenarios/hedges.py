"""Many tasks call through drawn policies with a `Hedge`; some copies will not be cancelled.

The backend answers most requests quickly, one in ten late, and fails in drawn ways. A copy that
is cancelled may hold on for a while, and may even return a value then. Beside what every
scenario asks (one outcome, in time, permits back, no task left) this one asks that hedges keep
to their budget and to the layers inside `Hedge`, that an answer is handed out as soon as it is
there, and that no copy runs on untold once its call has ended.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast.core.bulkhead import Bulkhead
from holdfast.core.deadline import Deadline
from holdfast.core.events import Attempt, Hedged
from holdfast.core.hedge import Hedge
from holdfast.core.retry import Retry
from holdfast.runtime.hedging import GRACE, MOST_LEFT
from holdfast.runtime.policy import Policy, policy
from holdfast.runtime.scope import remaining
from holdfast.testing.drawn import FALLBACK, Draw
from holdfast.testing.guards import Logical
from holdfast.testing.invariants import TICK, Ledger
from holdfast.testing.simulation import Scenario, Sim
from holdfast.testing.workload import EXPECTED, FOREVER, KEYS, Backend, attempt_rates

if TYPE_CHECKING:
    from collections.abc import Hashable

    from holdfast.core.events import Event
    from holdfast.core.policy import Strategy
    from holdfast.core.retry import Request
    from holdfast.runtime.random import SeededRandom

CALLS = 120
"""Logical calls of one seed, more or less."""


@dataclass(slots=True, eq=False)
class Copy:
    """One copy on its way. told: it has been cancelled."""

    call: Logical
    told: bool = False


class Witness:
    """A policy, and what is true of its copies.

    lingering: copies of any policy that were told to end and have not.
    """

    lingering = 0

    def __init__(self, sim: Sim, name: str, strategies: list[Strategy]) -> None:
        self.sim = sim
        self.name = name
        self.policy: Policy = policy(*strategies, name=name, key=_key_of, order="free")
        self.parts = strategies
        self.hedge = self._part(Hedge)
        self.requests = self.policy.plan().requests_max
        deadline = self._part(Deadline)
        self.deadline = FOREVER if deadline is None else deadline.seconds + GRACE
        bulkhead = self._part(Bulkhead)
        self.limit = FOREVER if bulkhead is None else bulkhead.limit
        kinds = [type(part) for part in strategies]
        hedge = max(kinds.index(Hedge), kinds.index(Retry) if Retry in kinds else 0)
        # What stands before `Hedge` counts attempts or calls, not copies.
        self.per_copy = Bulkhead in kinds and kinds.index(Bulkhead) > hedge
        self._out: dict[Copy, None] = {}
        self._entered: Counter[int] = Counter()
        self._hedged: Counter[str] = Counter()
        self._attempts: Counter[str] = Counter()
        self._calls: Counter[str] = Counter()
        self._cancelled: Counter[str] = Counter()
        self._answered: dict[int, float] = {}
        self._told_of: Counter[tuple[int, int, int]] = Counter()
        self._owed: dict[tuple[int, int, int], None] = {}

    def _part(self, kind: type[Any]) -> Any:  # noqa: ANN401 - of the type asked for
        return next((part for part in self.parts if type(part) is kind), None)

    # -- told by the copies ----------------------------------------------------------------

    def entered(self, call: Logical) -> Copy:
        """Note that a copy of `call` was let through."""
        check, copy = self.sim.check, Copy(call)
        self._out[copy] = None
        self._entered[call.number] += 1
        running = [other for other in self._out if not other.told and other.call.key == call.key]
        mine = sum(other.call is call for other in running)
        check(mine <= 1 + self.hedge.max, "copies", f"{self.name}: {mine} of one call")
        counted = len(running) if self.per_copy else len({other.call.number for other in running})
        check(counted <= self.limit, "bulkhead exceeded", f"{self.name}: {counted}")
        entered = self._entered[call.number]
        check(entered <= self.requests, "too many requests", f"{self.name}: {entered}")
        return copy

    def told(self, copy: Copy) -> None:
        """Note that `copy` was told to end."""
        if not copy.told:
            copy.told = True
            Witness.lingering += 1

    def left(self, copy: Copy) -> None:
        """Note that `copy` has ended."""
        del self._out[copy]
        Witness.lingering -= copy.told

    def answered(self, call: Logical) -> None:
        """Note that a copy has the answer."""
        self._answered.setdefault(call.number, self.sim.clock.monotonic())

    # -- told by the callers and by the policy -------------------------------------------------

    def started(self, call: Logical) -> None:
        """Note that `call` begins."""
        self._calls[call.key] += 1

    def finished(self, call: Logical, *, cancelled: bool) -> None:
        """Note that `call` has ended."""
        check, now = self.sim.check, self.sim.clock.monotonic()
        self._calls[call.key] -= 1
        self._cancelled[call.key] += cancelled
        at = self._answered.pop(call.number, None)
        if at is not None and Witness.lingering < MOST_LEFT:
            late = now - at - GRACE
            check(late <= TICK, "held up", f"{self.name}: {late:.6f} s after the answer")
        untold = sum(copy.call is call and not copy.told for copy in self._out)
        check(untold == 0, "copy left", f"{self.name}: {untold}")

    def hear(self, event: Event) -> None:
        """Hold hedges against their budget, and what is told of copies against what was sent."""
        if event.policy != self.name:
            return
        check = self.sim.check
        if isinstance(event, Hedged):
            key = event.key
            self._hedged[key] += 1
            self._owed[event.call_id, event.no, event.hedge] = None
            # Of each attempt it is told how its first copy ended, but for those under way and
            # those of cancelled callers.
            most = self._attempts[key] + self._calls[key] + self._cancelled[key]
            extra = self._hedged[key] - self.hedge.budget * most
            check(extra <= TICK, "budget exceeded", f"{self.name}: {extra:.3f} hedges")
        elif isinstance(event, Attempt):
            which = event.call_id, event.no, event.hedge
            self._attempts[event.key] += not event.hedge
            self._told_of[which] += 1
            check(self._told_of[which] == 1, "told twice", f"{self.name}: {event.hedge}")
            known = not event.hedge or which in self._owed
            check(known, "counters", f"{self.name}: hedge {event.hedge} was never sent")
            self._owed.pop(which, None)

    def at_rest(self) -> int:
        """Check that everything is given back; return how many hedges there were."""
        check = self.sim.check
        check(not self._out, "copy left", f"{self.name}: {len(self._out)}")
        for key in self.policy.keys():  # noqa: SIM118 - a policy is no dict
            state = self.policy.state(key)
            for what in ("active", "queued", "probes"):
                check(state[what] == 0, "permits left", f"{self.name}: {what} {state[what]}")
        owed, gone = len(self._owed), sum(self._cancelled.values()) * self.hedge.max
        check(owed <= gone, "counters", f"{self.name}: {owed} hedges without an end")
        return sum(self._hedged.values())


def _key_of(request: Request) -> Hashable:
    return request.args[0].key if request.args else ""


def _with_hedge(parts: list[Strategy], source: SeededRandom, latency: float) -> list[Strategy]:
    """Put a drawn `Hedge` somewhere after `Retry`."""
    after: tuple[str | float, ...] = ("p50", "p75", "p95", 0.7 * latency, 2.3 * latency)
    hedge = Hedge(
        source.choice(after),
        max=source.choice((1, 1, 2, 3)),
        budget=source.choice((0.05, 0.3, 1.0)),
    )
    kinds = [type(part) for part in parts]
    first = kinds.index(Retry) + 1 if Retry in kinds else 0
    at = source.between(first, len(parts))
    return [*parts[:at], hedge, *parts[at:]]


class Program:
    """One seed."""

    def __init__(self, sim: Sim) -> None:
        swarm = sim.swarm()
        self.sim = sim
        self.latency = swarm.between(0.001, 0.2)
        self.storm = self.latency * swarm.between(100, 1000)
        rates = attempt_rates(swarm)
        rates["call"] = {"cancel": sum(rates["call"].values()) / 2}
        rates["cancel"] = swarm.rates(("hold", "swallow"), present=0.5, low=0.05, high=0.5)
        sim.break_things(rates, until=self.storm)
        self.backend = Backend(sim, self.latency)
        draw = Draw(sim.random("policies"), self.latency, interrupt=True)
        hedges = sim.random("hedges")
        self.witnesses = [
            Witness(sim, f"p{i}", _with_hedge(draw.strategies(), hedges, self.latency))
            for i in range(swarm.whole(1, 2))
        ]
        Witness.lingering = 0
        sim.listen(*(witness.hear for witness in self.witnesses))
        self.callers = swarm.whole(2, 12)
        self.ledger = Ledger(sim)
        self._tail = sim.random("tail").draw
        self._numbers = 0

    async def copy(self, call: Logical, witness: Witness) -> int:
        """Be the function that is called, once per copy."""
        copy = witness.entered(call)
        try:
            kind, seconds, size = self.backend.decide()
            if seconds == FOREVER and remaining() == FOREVER:
                seconds = self.latency * 500
            if not kind and self._tail() < 0.1 and self.sim.clock.monotonic() < self.storm:
                seconds *= 20
            if seconds == FOREVER:
                await self.sim.loop.create_future()
            await asyncio.sleep(seconds)
            value = self.backend.answer(call, kind, size)
            witness.answered(call)
            return value
        except asyncio.CancelledError:
            witness.told(copy)
            fault = self.sim.faults.at("cancel", self.sim.clock.monotonic())
            if fault is None:
                raise
            await asyncio.sleep(self.latency * 10 * fault.x)
            if fault.kind == "hold":
                raise
            return call.number
        finally:
            witness.left(copy)

    async def caller(self, number: int) -> None:
        """Make calls one after the other, each in a task of its own."""
        source = self.sim.random(f"caller/{number}")
        count = CALLS // self.callers
        for _ in range(count):
            await asyncio.sleep(self.storm / count * source.draw())
            witness = source.choice(self.witnesses)
            task = asyncio.create_task(self._one(source.choice(KEYS), witness))
            fault = self.sim.faults.at("call", self.sim.clock.monotonic())
            if fault is not None:
                seconds = self.latency * 0.1 * float(1e3**fault.x)
                timer = self.sim.loop.call_later(seconds, task.cancel)
                await asyncio.wait([task])
                timer.cancel()
            await asyncio.wait([task])

    async def _one(self, key: str, witness: Witness) -> str:
        self._numbers += 1
        call = Logical(self._numbers, key)
        self.ledger.started(call.number, witness.deadline)
        witness.started(call)
        outcome = "cancelled"
        try:
            value = await witness.policy.acall(self.copy, call, witness)
            outcome = "ok"
            self.sim.check(value in (call.number, FALLBACK), "wrong value", f"{value}")
        except EXPECTED as error:
            outcome = type(error).__name__
        except Exception as error:  # noqa: BLE001 - the policy itself failed: that is the finding
            outcome = type(error).__name__
            self.sim.violation("unexpected", f"{witness.name}: {error!r}")
        finally:
            witness.finished(call, cancelled=outcome == "cancelled")
            self.ledger.ended(call.number, outcome)
        return outcome

    async def recover(self) -> None:
        """Check that after the storm each policy serves again."""
        await asyncio.sleep(max(0.0, self.storm - self.sim.clock.monotonic()) + 30)
        for witness in self.witnesses:
            for key in witness.policy.keys():  # noqa: SIM118 - a policy is no dict
                for _ in range(6):
                    await asyncio.sleep(self._until_open(witness, key))
                    outcome = await self._one(key, witness)
                    self.sim.check(outcome == "ok", "no recovery", f"{witness.name}: {outcome}")

    def _until_open(self, witness: Witness, key: str) -> float:
        state = witness.policy.state(key)
        until, wait = state["circuit_until"], state["rate_wait"]
        assert isinstance(wait, float)  # noqa: S101 - tells the type checker
        if state["circuit"] == "open" and isinstance(until, float):
            wait = max(wait, until - self.sim.clock.monotonic())
        return wait + 1e-6

    def finish(self) -> dict[str, int]:
        """Check what must hold at the end; return how many calls ended how, and the hedges."""
        hedges = sum(witness.at_rest() for witness in self.witnesses)
        return {**self.ledger.finish(), "hedges": hedges}


async def main(sim: Sim) -> dict[str, int]:
    """Run one seed; return how many calls ended how."""
    program = Program(sim)
    async with asyncio.TaskGroup() as group:
        for number in range(program.callers):
            group.create_task(program.caller(number))
    await program.recover()
    return program.finish()


SCENARIO = Scenario("hedges", "tasks call through drawn policies that hedge slow attempts", main)
