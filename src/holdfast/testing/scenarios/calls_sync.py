"""One thread calls through drawn policies to a backend that fails in drawn ways.

The synchronous counterpart of `calls`. There is nobody else, so nothing waits for a permit;
instead of a cancellation the user presses Control-C inside an attempt. Attempts keep to their
limits themselves, as clients with socket timeouts do (`interrupt=False`); a limit from around
meets only policies that have such a limit too, because others would use worker threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.core.verdict import Kind
from holdfast.runtime.base import answered
from holdfast.runtime.clock import clock
from holdfast.runtime.scope import deadline, remaining
from holdfast.testing.simulation import Scenario, Sim
from holdfast.testing.workload import (
    CALLS,
    EXPECTED,
    ITEMS,
    KEYS,
    LEFT,
    Load,
    pick,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from holdfast.runtime.random import SeededRandom
    from holdfast.testing.guards import Guard, Logical

FORMS = {
    "call": 45, "outcome": 15, "block": 14, "left": 3, "stream": 10, "resumed": 5, "nested": 12,
}  # fmt: skip


class Program(Load):
    """One seed, synchronously."""

    # -- what is called ----------------------------------------------------------------------

    def attempt(self, call: Logical, guard: Guard) -> int:
        """Be the function that is called."""
        guard.entered(call)
        ended, ok = True, False
        try:
            kind, seconds, size = self.decide()
            self.disturb_clock()
            left = remaining()
            if seconds > left:
                clock.sleep(left)
                call.maybe_sent, call.kind = True, Kind.TIMEOUT
                raise TimeoutError
            clock.sleep(seconds)
            fault = self.sim.faults.at("call", self.sim.clock.monotonic())
            if fault is not None:
                ended = False
                raise KeyboardInterrupt
            value = self.backend.answer(call, kind, size)
            ok = True
            return value
        finally:
            guard.left(call, ended=ended, ok=ok)

    def items(self, call: Logical, guard: Guard, first: int) -> Iterator[int]:
        """Be the stream that is called: some items, perhaps cut off."""
        guard.entered(call)
        ended = ok = False
        try:
            end, fault = self.end_of(first)
            for item in range(first, end):
                clock.sleep(self.latency * 0.2)
                yield item
            ended = True
            if fault is not None:
                self.backend.answer(call, "reset", 0.0)
            ok = True
        finally:
            guard.left(call, ended=ended, ok=ok)

    # -- forms of a call ---------------------------------------------------------------------

    def call(self, call: Logical, guard: Guard, _: SeededRandom) -> object:
        """Call the plain way."""
        return guard.policy.call(self.attempt, call, guard)

    def outcome(self, call: Logical, guard: Guard, _: SeededRandom) -> object:
        """Take the outcome as a value, and compare it with the truth."""
        outcome = guard.policy.outcome(self.attempt, call, guard)
        self.check_outcome(call, guard, outcome)
        if outcome.error is not None:
            raise outcome.error
        return outcome.value

    def block(self, call: Logical, guard: Guard, source: SeededRandom) -> object:
        """Use the block form, half of the time for what must not be sent twice."""
        call.safe = source.draw() < 0.5
        value: object = None
        attempts = guard.policy.attempts(key=call.key, method="GET" if call.safe else "POST")
        for attempt in attempts:
            with attempt:
                value = self.attempt(call, guard)
                answered(attempts.call, self.headers(source))
        return value

    def left(self, call: Logical, guard: Guard, _: SeededRandom) -> object:
        """Leave the block form with a permit in hand."""
        for attempt in guard.policy.attempts(key=call.key):
            self.sim.check(attempt.no == 1, "attempt.no", str(attempt.no))
            break
        return LEFT

    def stream(self, call: Logical, guard: Guard, source: SeededRandom) -> object:
        """Read a stream that starts over only before its first item; perhaps leave early."""
        return self._read(call, guard, source, None)

    def resumed(self, call: Logical, guard: Guard, source: SeededRandom) -> object:
        """Read a stream that goes on where it broke."""
        call.steady = False

        def resume(last: int) -> Iterator[int]:
            return self.items(call, guard, last + 1)

        return self._read(call, guard, source, resume)

    def _read(
        self,
        call: Logical,
        guard: Guard,
        source: SeededRandom,
        resume: Callable[[int], Iterator[int]] | None,
    ) -> object:
        enough = source.between(1, 2 * ITEMS)
        got: list[int] = []
        items: Any = guard.policy.stream(self.items, call, guard, 0, resume=resume)
        try:
            for item in items:
                got.append(item)
                if len(got) == enough:
                    return LEFT
        finally:
            self.check_items(call, got)
            items.close()
        self.sim.check(len(got) == ITEMS, "items", f"call {call.number}: only {got}")
        return call.number

    def nested(self, call: Logical, guard: Guard, source: SeededRandom) -> object:
        """Call through two policies."""
        inner = source.choice(self.guards)
        if inner is guard or (guard.limited and not inner.limited):
            return self.call(call, guard, source)
        call.nested = True
        call.steady = False  # the inner policy is entered once per attempt of the outer one

        def through_inner(call: Logical) -> object:
            guard.entered(call)
            ended, ok = True, False
            begin, call.begin = call.begin, self.sim.clock.monotonic()
            try:
                self._finish(call, inner, lambda: self.call(call, inner, source))
                ok = True
                return call.number  # also for the inner policy's fallback: it is no failure
            except KeyboardInterrupt:
                ended = False
                raise
            finally:
                call.begin = begin
                guard.left(call, ended=ended, ok=ok)

        return guard.policy.call(through_inner, call)

    def _finish(self, call: Logical, guard: Guard, run: Callable[[], object]) -> object:
        """Run a call through `guard` and tell the guard how it ended."""
        try:
            value = run()
        except KeyboardInterrupt:
            guard.finished(call, abandoned=True)
            raise
        except Exception as error:
            guard.finished(call, error)
            raise
        self.finished(call, guard, value)
        return value

    # -- the caller --------------------------------------------------------------------------

    def caller(self) -> None:
        """Make calls one after the other."""
        source = self.sim.random("caller")
        for _ in range(CALLS):
            clock.sleep(self.storm * 2.4 / CALLS * source.draw())
            call, guard = self.new_call(source.choice(KEYS)), source.choice(self.guards)
            self._one(call, guard, source)

    def _one(self, call: Logical, guard: Guard, source: SeededRandom) -> None:
        """Make one call in a drawn form, and tell the ledger how it ended."""
        form = pick(source, FORMS)
        bound, around = guard.deadline, source.draw() < 0.08
        around = around and guard.limited
        if around:
            bound = min(bound, self.latency * (2 + 100 * source.draw()))
        # Nothing interrupts a synchronous iterator: its own client has to.
        timed = form not in ("stream", "resumed")
        self.ledger.started(call.number, bound if timed else float("inf"))
        try:
            if around:
                with deadline(bound):
                    value = self._finish(call, guard, lambda: self._make(form, call, guard, source))
            else:
                value = self._finish(call, guard, lambda: self._make(form, call, guard, source))
            outcome = "ok"
            self.check_value(call, value)
        except KeyboardInterrupt:
            outcome = "cancelled"
        except EXPECTED as error:
            outcome = type(error).__name__
        except Exception as error:  # noqa: BLE001 - the policy itself failed: that is the finding
            outcome = type(error).__name__
            self.unexpected(form, guard, error)
        self.ledger.ended(call.number, outcome)

    def _make(self, form: str, call: Logical, guard: Guard, source: SeededRandom) -> object:
        value: object = getattr(self, form)(call, guard, source)
        return value

    # -- the end -----------------------------------------------------------------------------

    def recover(self) -> None:
        """Check that after the storm each policy serves again, and stays well."""
        clock.sleep(self.after_storm())
        for guard in self.guards:
            for key in guard.policy.keys():  # noqa: SIM118 - a policy is no dict
                for _ in range(6):
                    clock.sleep(self.until_open(guard, key))
                    self._must_succeed(guard, key)
                self.check_recovered(guard, key)

    def _must_succeed(self, guard: Guard, key: str) -> None:
        call = self.new_call(key)
        self.ledger.started(call.number, guard.deadline)
        outcome = "ok"
        try:
            value = self._finish(call, guard, lambda: guard.policy.call(self.attempt, call, guard))
            self.sim.check(value == call.number, "no recovery", f"{guard.name}: {value}")
        except Exception as error:  # noqa: BLE001 - any failure is the finding
            outcome = type(error).__name__
            self.sim.violation("no recovery", f"{guard.name}: {outcome}")
        self.ledger.ended(call.number, outcome)


def main(sim: Sim) -> dict[str, int]:
    """Run one seed; return how many calls ended how."""
    program = Program(sim, interrupt=False)
    program.caller()
    program.recover()
    return program.finish()


SCENARIO = Scenario("calls_sync", "one thread calls through drawn policies", main)
