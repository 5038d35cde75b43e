"""The same script through both drivers: their events, outcomes and states must be identical.

A script is a drawn policy and a list of calls, each with what its attempts do. It is played
twice: asynchronously on a simulated loop, and synchronously with a fake clock, where limited
calls run on worker threads.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from holdfast.core.events import Unclassified
from holdfast.runtime import clock as clock_seam
from holdfast.runtime import random as random_seam
from holdfast.runtime.clock import clock
from holdfast.runtime.hub import hub
from holdfast.runtime.policy import Policy, policy
from holdfast.testing.drawn import Draw
from holdfast.testing.fakeclock import FakeClock
from holdfast.testing.loop import SimLoop
from holdfast.testing.simulation import Scenario, Sim
from holdfast.testing.virtual import VirtualClock
from holdfast.testing.workload import ATTEMPT_KINDS, EXPECTED, KEYS, error_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from holdfast.core.events import Event
    from holdfast.core.retry import Request

LATENCY = 0.0625
"""Seconds, a power of two: sums of it are exact."""

PATIENCE = 0.25
"""Real seconds before a thread that executes nothing counts as waiting."""

FORMS = ("call", "call", "outcome", "block", "stream", "resumed")
MOST_ATTEMPTS = 8
ITEMS = 4
RATES = {"attempt": {kind: 0.6 / len(ATTEMPT_KINDS) for kind in ATTEMPT_KINDS}}


@dataclass(frozen=True, slots=True)
class Step:
    """One logical call: after `pause` seconds, in this form, with what its attempts do."""

    number: int
    form: str
    key: str
    pause: float
    method: str
    behaviour: tuple[tuple[str, float, float], ...]


class Record:
    """What one playing of the script was, in a form that compares."""

    def __init__(self) -> None:
        self.lines: list[tuple[object, ...]] = []
        self._calls: dict[int, int] = {}

    def hear(self, event: Event) -> None:
        """Take an event."""
        if isinstance(event, Unclassified):
            return  # once per process
        call = self._calls.setdefault(event.call_id, len(self._calls))
        values = [getattr(event, f.name) for f in fields(event) if f.name != "call_id"]
        self.lines.append((type(event).__name__, call, *map(_plain, values)))

    def ended(self, step: Step, outcome: object, state: dict[str, object]) -> None:
        """Take the end of a call and the policy's state after it."""
        self.lines.append(("ended", step.number, _plain(outcome), *map(_plain, state.values())))


def _plain(value: object) -> object:
    if isinstance(value, float):
        return round(value, 6)  # the two drivers may add the same numbers in another order
    if isinstance(value, BaseException):
        notes = tuple(getattr(value, "__notes__", ()))
        return (type(value).__name__, str(value), notes, getattr(value, "retry_after", None))
    return value


def draw_steps(sim: Sim) -> list[Step]:
    """Draw a script of one to eight calls."""
    source = sim.random("script")
    steps = []
    for number in range(source.between(1, 8)):
        form = source.choice(FORMS)
        behaviour = []
        for _ in range(MOST_ATTEMPTS):
            fault = sim.faults.at("attempt", 0.0)
            kind = fault.kind if fault else ""
            # A synchronous stream is not interrupted: in streams no time passes.
            seconds = 0.0 if form in ("stream", "resumed") else _seconds(kind, source.draw())
            behaviour.append((kind, seconds, fault.y if fault else 0.0))
        pause = LATENCY * source.between(0, 40) if source.draw() < 0.8 else 60.0
        method = source.choice(("GET", "POST"))
        steps.append(Step(number, form, source.choice(KEYS), pause, method, tuple(behaviour)))
    return steps


def _seconds(kind: str, draw: float) -> float:
    # Never in the tick of a limit: which of the two comes first is open, and in threads luck.
    usual = 0.99 * LATENCY * int(1 + draw * 3) / 2
    return usual * {"slow": 20, "hang": 100_000, "refuse": 0, "descriptors": 0}.get(kind, 1)


class Played:
    """What both players have in common: the script, the policy, the record."""

    def __init__(self, sim: Sim, steps: list[Step]) -> None:
        draw = Draw(sim.random("policies"), LATENCY, interrupt=True)
        self.steps = steps
        self.policy: Policy = policy(*draw.strategies(), name="p", key=_key_of, order="free")
        self.record = Record()
        self.seed = sim.random("drivers").seed
        self._tries: dict[int, int] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Record events and give both players the same draws."""
        unsubscribe = hub.subscribe(self.record.hear)
        try:
            with random_seam.install(random_seam.SeededRandom(self.seed)):
                yield
        finally:
            unsubscribe()

    def behaviour(self, step: Step) -> tuple[str, float, float]:
        """Return what the next attempt of this step does; the last one repeats itself."""
        no = self._tries.get(step.number, 0)
        self._tries[step.number] = no + 1
        return step.behaviour[min(no, len(step.behaviour) - 1)]

    def answer(self, step: Step, kind: str, size: float) -> int:
        """Return the value of a call, or raise."""
        failure = ATTEMPT_KINDS.get(kind)
        if failure is not None:
            raise error_of(kind, failure, size)
        return step.number

    def ended(self, step: Step, outcome: object) -> None:
        """Record the end of a step."""
        self.record.ended(step, outcome, self.policy.state(step.key))


def _key_of(request: Request) -> str:
    step = request.args[0]
    assert isinstance(step, Step)  # noqa: S101 - the players call nothing else
    return step.key


class Sync(Played):
    """Plays the script through `call`, `outcome`, `attempts` and `stream`."""

    def play(self) -> None:
        """Play all steps under a fake clock."""
        # On a busy machine a thread that was not given the processor must not pass for one
        # that waits.
        with FakeClock(grace=PATIENCE) as _, self.listening():
            for step in self.steps:
                clock.sleep(step.pause)
                try:
                    outcome = getattr(self, step.form)(step)
                except EXPECTED as error:
                    outcome = error
                self.ended(step, outcome)

    def attempt(self, step: Step) -> int:
        """Be the function that is called."""
        kind, seconds, size = self.behaviour(step)
        if seconds:
            clock.sleep(seconds)
        return self.answer(step, kind, size)

    def items(self, step: Step, first: int) -> Iterator[int]:
        """Be the stream that is called."""
        kind, _, size = self.behaviour(step)
        for item in range(first, ITEMS):
            if kind and size * ITEMS < item:
                break
            yield item
        self.answer(step, kind, size)

    def call(self, step: Step) -> object:
        """Call the plain way."""
        return self.policy.call(self.attempt, step)

    def outcome(self, step: Step) -> object:
        """Take the outcome."""
        return _outcome(self.policy.outcome(self.attempt, step))

    def block(self, step: Step) -> object:
        """Use the block form; the block keeps to its limit itself, as it is not interrupted."""
        value: object = None
        for attempt in self.policy.attempts(key=step.key, method=step.method):
            with attempt:
                value = self.quick(step)
        return value

    def quick(self, step: Step) -> int:
        """Do an attempt without time."""
        kind, _, size = self.behaviour(step)
        return self.answer(step, kind, size)

    def stream(self, step: Step) -> object:
        """Read a stream."""
        return list(self.policy.stream(self.items, step, 0))

    def resumed(self, step: Step) -> object:
        """Read a stream that goes on where it broke."""
        stream = self.policy.stream(
            self.items, step, 0, resume=lambda last: self.items(step, last + 1)
        )
        return list(stream)


class Async(Played):
    """Plays the script through `acall`, `aoutcome`, `attempts` and `astream`."""

    def play(self) -> None:
        """Play all steps on a simulated loop."""
        time = VirtualClock()
        with (
            clock_seam.install(time),
            self.listening(),
            asyncio.Runner(loop_factory=lambda: SimLoop(time)) as runner,
        ):
            runner.run(self._play())

    async def _play(self) -> None:
        for step in self.steps:
            await clock.asleep(step.pause)
            try:
                outcome = await getattr(self, step.form)(step)
            except EXPECTED as error:
                outcome = error
            self.ended(step, outcome)

    async def attempt(self, step: Step) -> int:
        """Be the function that is called."""
        kind, seconds, size = self.behaviour(step)
        if seconds:
            await asyncio.sleep(seconds)
        return self.answer(step, kind, size)

    async def items(self, step: Step, first: int) -> AsyncIterator[int]:
        """Be the stream that is called."""
        kind, _, size = self.behaviour(step)
        for item in range(first, ITEMS):
            if kind and size * ITEMS < item:
                break
            yield item
        self.answer(step, kind, size)

    async def call(self, step: Step) -> object:
        """Call the plain way."""
        return await self.policy.acall(self.attempt, step)

    async def outcome(self, step: Step) -> object:
        """Take the outcome."""
        return _outcome(await self.policy.aoutcome(self.attempt, step))

    async def block(self, step: Step) -> object:
        """Use the block form."""
        value: object = None
        async for attempt in self.policy.attempts(key=step.key, method=step.method):
            with attempt:
                value = self.quick(step)
        return value

    def quick(self, step: Step) -> int:
        """Do an attempt without time."""
        kind, _, size = self.behaviour(step)
        return self.answer(step, kind, size)

    async def stream(self, step: Step) -> object:
        """Read a stream."""
        return [item async for item in self.policy.astream(self.items, step, 0)]

    async def resumed(self, step: Step) -> object:
        """Read a stream that goes on where it broke."""
        stream = self.policy.astream(
            self.items, step, 0, resume=lambda last: self.items(step, last + 1)
        )
        return [item async for item in stream]


def _outcome(outcome: Any) -> object:  # noqa: ANN401 - an Outcome; all fields are looked at
    return tuple(_plain(getattr(outcome, field.name)) for field in fields(outcome))


def main(sim: Sim) -> int:
    """Play one script through both drivers and compare; return how many lines were compared."""
    sim.break_things(RATES, until=float("inf"))
    steps = draw_steps(sim)
    sim.calls = 2 * len(steps)
    players = (Async(sim, steps), Sync(sim, steps))
    for player in players:
        player.play()
    awaited, called = (player.record.lines for player in players)
    for line in awaited:
        sim.trace.add(*line)
    if awaited != called:
        same = zip(awaited, called, strict=False)
        at = next((i for i, (a, b) in enumerate(same) if a != b), min(len(awaited), len(called)))
        sim.violation("drivers differ", f"async {awaited[at:][:1]}, sync {called[at:][:1]}")
    return len(awaited)


SCENARIO = Scenario("scripts", "one script through both drivers gives one trace", main)
