"""Runs a program in a simulated world: one seed in, one trace and a list of violations out.

    async def main(sim):
        sim.network.host("api.test", "10.0.0.1")
        ...
    result = sim_run(main, seed=7)

Inside, the seams (clock, random, files) are the simulated ones, asyncio runs on `SimLoop`, and
garbage collection is off: finalizers would run at moments that no seed decides.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import re
import sys
import traceback
import warnings
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from holdfast.runtime import clock as clock_seam
from holdfast.runtime import files as files_seam
from holdfast.runtime import random as random_seam
from holdfast.runtime.hub import hub
from holdfast.runtime.random import SeededRandom
from holdfast.testing.faults import Decision, Faults, Swarm
from holdfast.testing.files import SimFiles
from holdfast.testing.loop import SimLoop
from holdfast.testing.network import SimNetwork
from holdfast.testing.trace import Trace
from holdfast.testing.virtual import VirtualClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from holdfast.core.events import Event

_ADDRESS = re.compile(r" (at )?0x[0-9a-f]+")

DRAIN_SECONDS = 3600.0
"""After the end of `main` the world lives on for so long; then nothing may be left of it."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A program for the simulator.

    name: as on the command line.  about: one line for `--list`.
    main: takes the `Sim`; a coroutine function, or a plain function that uses no event loop.
    """

    name: str
    about: str
    main: Callable[[Sim], Any]


@dataclass(slots=True)
class SimResult:
    """What one run was.

    calls: logical calls that the program counted.  trace: the hash of all events.
    decisions: the faults, in order.  violations: "kind: what", empty if all is well.
    value: what `main` returned.  error: what it raised.  lines: the trace, if it was kept.
    """

    scenario: str
    seed: int
    calls: int = 0
    violations: list[str] = field(default_factory=list)
    trace: str = ""
    decisions: list[Decision] = field(default_factory=list)
    value: Any = None
    error: BaseException | None = None
    lines: list[str] | None = None

    @property
    def faults(self) -> int:
        """How many faults happened."""
        return len(self.decisions)

    def as_json(self) -> dict[str, object]:
        """Return what the command line prints."""
        return {
            "scenario": self.scenario,
            "seed": self.seed,
            "calls": self.calls,
            "faults": self.faults,
            "violations": self.violations,
            "trace": self.trace,
        }


class SimFailure(AssertionError):
    """A simulated program left something behind or broke an invariant.

    result: the run.
    """

    def __init__(self, result: SimResult) -> None:
        super().__init__(f"seed {result.seed}: " + "; ".join(result.violations))
        self.result = result


class Sim:
    """The simulated world as the program sees it.

    seed: of this run.  clock, network, files: the parts.  calls: the program counts here.
    faults: what goes wrong; nothing until `break_things` was called.
    at_end: callbacks and context managers that end with the world.
    """

    def __init__(
        self, seed: int, *, decisions: Sequence[Decision] | None = None, keep: bool = False
    ) -> None:
        self.seed = seed
        self.clock = VirtualClock()
        self.files = SimFiles()
        self.trace = Trace(keep=keep)
        self.calls = 0
        self.violations: list[str] = []
        self.at_end = ExitStack()
        self._decisions = decisions
        self._source = SeededRandom(seed)
        self._loop: SimLoop | None = None
        self.faults = self._make_faults({}, 0.0)

    @property
    def loop(self) -> SimLoop:
        """The event loop; made at first use, as a synchronous program needs none."""
        if self._loop is None:
            self._loop = SimLoop(self.clock)
            self._loop.network = SimNetwork(self._loop, trace=self.trace)
        return self._loop

    @property
    def network(self) -> SimNetwork:
        """The in-memory network."""
        return self.loop.network

    def random(self, purpose: str) -> SeededRandom:
        """Return a generator for one purpose: draws for another never change its numbers."""
        return self._source.child(purpose)

    def swarm(self) -> Swarm:
        """Return what draws the kinds of fault, their rates, the load and the sizes."""
        return Swarm(self.random("swarm"))

    def break_things(self, rates: Mapping[str, Mapping[str, float]], *, until: float) -> None:
        """Let faults happen from now to the virtual time `until`; see `Faults`."""
        self.faults = self._make_faults(rates, until)
        if self._loop is not None:
            self.network.faults = self.faults

    def listen(self, *subscribers: Callable[[Event], object]) -> None:
        """Put every event of the hub into the trace, and give it to `subscribers`.

        While somebody listens, what policies begin on their fast path ends by the full path; a
        run that wants all of the fast path does not listen.
        """
        for subscriber in (self.trace.event, *subscribers):
            self.at_end.callback(hub.subscribe(subscriber))

    def _make_faults(self, rates: Mapping[str, Mapping[str, float]], until: float) -> Faults:
        return Faults(
            self.random("faults"), rates, until=until, replay=self._decisions, trace=self.trace
        )

    def check(self, ok: object, kind: str, what: str = "") -> None:
        """Record a violation unless `ok`. kind: one word; shrinking keeps the kind."""
        if not ok:
            self.violation(kind, what)

    def violation(self, kind: str, what: str = "") -> None:
        """Record a violation, once per text."""
        text = _ADDRESS.sub("", f"{kind}: {what}" if what else kind)
        if text not in self.violations:
            self.violations.append(text)
            self.trace.add("violation", text)


def sim_run(
    main: Callable[[Sim], Any],
    seed: int = 0,
    *,
    decisions: Sequence[Decision] | None = None,
    keep: bool = False,
) -> SimResult:
    """Run `main(sim)` in a simulated world and return the result.

    decisions: exactly these faults instead of drawn ones.  keep: keep the lines of the trace.
    Raises what `main` raises, and SimFailure if an invariant broke or something was left: a
    task, a timer, a transport, a listening server, an open file, an unhandled error.
    """
    result = run_scenario(Scenario("main", "", main), seed, decisions=decisions, keep=keep)
    if result.error is not None:
        raise result.error
    if result.violations:
        raise SimFailure(result)
    return result


def run_scenario(
    scenario: Scenario,
    seed: int,
    *,
    decisions: Sequence[Decision] | None = None,
    keep: bool = False,
) -> SimResult:
    """Run one seed of a scenario. Never raises for what happens inside: it is a violation."""
    sim = Sim(seed, decisions=decisions, keep=keep)
    result = SimResult(scenario.name, seed)
    with _world(sim):
        try:
            if inspect.iscoroutinefunction(scenario.main):
                result.value = _run_async(sim, scenario.main)
            else:
                result.value = scenario.main(sim)
        except Exception as error:  # noqa: BLE001 - a scenario that fails is a finding
            sim.violation(_kind_of(error), "".join(traceback.format_exception_only(error)).strip())
            result.error = error
    for path in sim.files.left():
        sim.violation("file left", path)
    result.calls = sim.calls
    result.violations = sim.violations
    result.decisions = sim.faults.taken
    result.trace = sim.trace.hexdigest()
    result.lines = sim.trace.lines
    return result


def _kind_of(error: Exception) -> str:
    names = {"SimDeadlock": "deadlock", "SimTimeout": "endless", "AssertionError": "assertion"}
    return names.get(type(error).__name__, "error")


@contextmanager
def _world(sim: Sim) -> Iterator[None]:
    """Install the seams; collect garbage at the end only; a warning is a violation."""
    collecting = gc.isenabled()
    gc.disable()
    with ExitStack() as stack:
        stack.callback(gc.enable if collecting else gc.disable)
        stack.enter_context(sim.at_end)
        stack.enter_context(clock_seam.install(sim.clock))
        stack.enter_context(random_seam.install(sim.random("product")))
        stack.enter_context(files_seam.install(sim.files))
        noted = stack.enter_context(warnings.catch_warnings(record=True))
        stack.enter_context(_unraisable(sim))
        warnings.simplefilter("always")
        yield
        # With the collector off, what this run made is still in the youngest generation.
        gc.collect(0)
        for warning in noted:
            sim.violation("warning", f"{warning.category.__name__}: {warning.message}")


@contextmanager
def _unraisable(sim: Sim) -> Iterator[None]:
    """Record what finalizers raise."""

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        sim.violation("unraisable", repr(unraisable.exc_value))

    before, sys.unraisablehook = sys.unraisablehook, hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def _run_async(sim: Sim, main: Callable[[Sim], Any]) -> object:
    with asyncio.Runner(loop_factory=lambda: sim.loop) as runner:
        value: object = runner.run(main(sim))
        runner.run(_drain(sim))
        _look_for_leaks(sim)
    return value


async def _drain(sim: Sim) -> None:
    """Live on until nothing is scheduled: what is closing may close, what ticks on is found."""
    loop = sim.loop
    end = loop.time() + DRAIN_SECONDS
    while True:
        # Ready callbacks may set timers: a few rounds, as a callback may take some hops.
        for _ in range(10):
            await asyncio.sleep(0)
        when = loop.next_timer()
        if when is None:
            return
        if when > end:
            sim.violation("timer left", f"armed {DRAIN_SECONDS:.0f} s after the end")
            return
        await asyncio.sleep(when - loop.time())


def _look_for_leaks(sim: Sim) -> None:
    for stack in sim.loop.stacks():
        sim.violation("task left", stack)
    for transport in sim.network.left():
        sim.violation("transport left", transport)
    for note in sim.loop.unhandled:
        sim.violation("unhandled", note)
    # Said once is enough: what is closed does not complain again when it is collected.
    sim.network.abort_all()
