"""Many tasks call through drawn policies to a backend that fails in drawn ways.

All forms of a call: `acall`, `aoutcome`, the block form (also for requests that must not be
sent twice, and left half-way), streams with and without `resume`, nested policies, surrounding
deadlines, cancellation at any moment. The backend is a coroutine in this process, so a seed of
200 calls takes some 20 ms. When the faults are over, every policy must come back.

`calls_sync` does the same in one thread; the two differ by `await` and by what can happen to a
thread and to a task.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from holdfast.runtime.base import answered
from holdfast.runtime.scope import deadline
from holdfast.testing.simulation import Scenario, Sim
from holdfast.testing.workload import (
    CALLS,
    EXPECTED,
    FOREVER,
    ITEMS,
    KEYS,
    LEFT,
    Load,
    moment,
    pick,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from holdfast.runtime.random import SeededRandom
    from holdfast.testing.faults import Decision
    from holdfast.testing.guards import Guard, Logical

FORMS = {
    "acall": 45, "outcome": 15, "block": 14, "left": 3, "stream": 10, "resumed": 5, "nested": 12,
}  # fmt: skip


class Program(Load):
    """One seed, asynchronously."""

    # -- what is called ----------------------------------------------------------------------

    async def attempt(self, call: Logical, guard: Guard) -> int:
        """Be the function that is called."""
        guard.entered(call)
        ended, ok = True, False
        try:
            kind, seconds, size = self.decide()
            if seconds == FOREVER:
                await self.sim.loop.create_future()
            elif seconds > 0:
                await asyncio.sleep(seconds)
            value = self.backend.answer(call, kind, size)
            ok = True
            return value
        except asyncio.CancelledError:
            ended = False
            guard.cut(call)
            raise
        finally:
            guard.left(call, ended=ended, ok=ok)

    async def items(self, call: Logical, guard: Guard, first: int) -> AsyncIterator[int]:
        """Be the stream that is called: some items, perhaps cut off."""
        guard.entered(call)
        ended = ok = False
        try:
            end, fault = self.end_of(first)
            for item in range(first, end):
                await asyncio.sleep(self.latency * 0.2)
                yield item
            ended = True
            if fault is not None:
                self.backend.answer(call, "reset", 0.0)
            ok = True
        except asyncio.CancelledError:
            guard.cut(call)
            raise
        finally:
            guard.left(call, ended=ended, ok=ok)

    # -- forms of a call ---------------------------------------------------------------------

    async def acall(self, call: Logical, guard: Guard, _: SeededRandom) -> object:
        """Call the plain way."""
        return await guard.policy.acall(self.attempt, call, guard)

    async def outcome(self, call: Logical, guard: Guard, _: SeededRandom) -> object:
        """Take the outcome as a value, and compare it with the truth."""
        outcome = await guard.policy.aoutcome(self.attempt, call, guard)
        self.check_outcome(call, guard, outcome)
        if outcome.error is not None:
            raise outcome.error
        return outcome.value

    async def block(self, call: Logical, guard: Guard, source: SeededRandom) -> object:
        """Use the block form, half of the time for what must not be sent twice."""
        call.safe = source.draw() < 0.5
        value: object = None
        attempts = guard.policy.attempts(key=call.key, method="GET" if call.safe else "POST")
        async for attempt in attempts:
            with attempt:
                value = await self.attempt(call, guard)
                answered(attempts.call, self.headers(source))
        return value

    async def left(self, call: Logical, guard: Guard, _: SeededRandom) -> object:
        """Leave the block form with a permit in hand."""
        async for attempt in guard.policy.attempts(key=call.key):
            self.sim.check(attempt.no == 1, "attempt.no", str(attempt.no))
            break
        return LEFT

    async def stream(self, call: Logical, guard: Guard, source: SeededRandom) -> object:
        """Read a stream that starts over only before its first item; perhaps leave early."""
        return await self._read(call, guard, source, None)

    async def resumed(self, call: Logical, guard: Guard, source: SeededRandom) -> object:
        """Read a stream that goes on where it broke."""
        call.steady = False

        def resume(last: int) -> AsyncIterator[int]:
            return self.items(call, guard, last + 1)

        return await self._read(call, guard, source, resume)

    async def _read(
        self,
        call: Logical,
        guard: Guard,
        source: SeededRandom,
        resume: Callable[[int], AsyncIterator[int]] | None,
    ) -> object:
        enough = source.between(1, 2 * ITEMS)
        got: list[int] = []
        items: Any = guard.policy.astream(self.items, call, guard, 0, resume=resume)
        try:
            async for item in items:
                got.append(item)
                if len(got) == enough:
                    return LEFT
        finally:
            self.check_items(call, got)
            await items.aclose()
        self.sim.check(len(got) == ITEMS, "items", f"call {call.number}: only {got}")
        return call.number

    async def nested(self, call: Logical, guard: Guard, source: SeededRandom) -> object:
        """Call through two policies."""
        # Always the later policy inside the earlier one: two nested calls without a deadline
        # that each hold a permit which the other waits for would wait for ever, and rightly.
        later = self.guards[self.guards.index(guard) + 1 :]
        if not later:
            return await self.acall(call, guard, source)
        inner = source.choice(later)
        call.nested = True
        call.steady = False  # the inner policy is entered once per attempt of the outer one

        async def through_inner(call: Logical) -> object:
            guard.entered(call)
            ended, ok = True, False
            begin, call.begin = call.begin, self.sim.clock.monotonic()
            try:
                await self._finish(call, inner, self.acall(call, inner, source))
                ok = True
                return call.number  # also for the inner policy's fallback: it is no failure
            except asyncio.CancelledError:
                ended = False
                guard.cut(call)
                raise
            finally:
                call.begin = begin
                guard.left(call, ended=ended, ok=ok)

        return await guard.policy.acall(through_inner, call)

    async def _finish(self, call: Logical, guard: Guard, awaitable: Awaitable[object]) -> object:
        """Await a call through `guard` and tell the guard how it ended."""
        try:
            value = await awaitable
        except asyncio.CancelledError:
            guard.finished(call, abandoned=True)
            raise
        except Exception as error:
            guard.finished(call, error)
            raise
        self.finished(call, guard, value)
        return value

    # -- callers -----------------------------------------------------------------------------

    async def caller(self, number: int) -> None:
        """Make calls one after the other, each in a task of its own."""
        source = self.sim.random(f"caller/{number}")
        count = CALLS // self.callers
        for _ in range(count):
            await asyncio.sleep(self.storm * 2.4 / count * source.draw())
            self.disturb_clock()
            call, guard = self.new_call(source.choice(KEYS)), source.choice(self.guards)
            task = asyncio.create_task(self._one(call, guard, source))
            fault = self.sim.faults.at("call", self.sim.clock.monotonic())
            if fault is not None:
                self._leave(task, fault, guard)
            await asyncio.wait([task])

    def _leave(self, task: asyncio.Task[None], fault: Decision, guard: Guard) -> None:
        """Cancel the call at some moment, as its caller would."""

        def leave() -> None:
            if not task.done() and task.cancel():
                task.add_done_callback(self._must_be_cancelled)

        if fault.kind == "cancel_at_release":
            guard.at_next_release.append(lambda: self.sim.loop.call_soon(leave))
            return
        timer = self.sim.loop.call_later(moment(fault, guard, self.latency), leave)
        task.add_done_callback(lambda _: timer.cancel())

    def _must_be_cancelled(self, task: asyncio.Task[None]) -> None:
        self.sim.check(task.cancelled(), "cancellation swallowed")

    async def _one(self, call: Logical, guard: Guard, source: SeededRandom) -> None:
        """Make one call in a drawn form, and tell the ledger how it ended."""
        form = pick(source, FORMS)
        awaitable: Awaitable[object] = getattr(self, form)(call, guard, source)
        bound, around = guard.deadline, source.draw() < 0.08
        if around:
            bound = min(bound, self.latency * (2 + 100 * source.draw()))
        self.ledger.started(call.number, bound)
        outcome = "cancelled"
        try:
            if around:
                with deadline(bound):
                    value = await self._finish(call, guard, awaitable)
            else:
                value = await self._finish(call, guard, awaitable)
            outcome = "ok"
            self.check_value(call, value)
        except EXPECTED as error:
            outcome = type(error).__name__
        except Exception as error:  # noqa: BLE001 - the policy itself failed: that is the finding
            outcome = type(error).__name__
            self.unexpected(form, guard, error)
        finally:
            self.ledger.ended(call.number, outcome)

    # -- the end -----------------------------------------------------------------------------

    async def recover(self) -> None:
        """Check that after the storm each policy serves again, and stays well."""
        await asyncio.sleep(self.after_storm())
        for guard in self.guards:
            for key in guard.policy.keys():  # noqa: SIM118 - a policy is no dict
                for _ in range(6):
                    await asyncio.sleep(self.until_open(guard, key))
                    await self._must_succeed(guard, key)
                self.check_recovered(guard, key)

    async def _must_succeed(self, guard: Guard, key: str) -> None:
        call = self.new_call(key)
        self.ledger.started(call.number, guard.deadline)
        outcome = "ok"
        try:
            value = await self._finish(call, guard, guard.policy.acall(self.attempt, call, guard))
            self.sim.check(value == call.number, "no recovery", f"{guard.name}: {value}")
        except Exception as error:  # noqa: BLE001 - any failure is the finding
            outcome = type(error).__name__
            self.sim.violation("no recovery", f"{guard.name}: {outcome}")
        self.ledger.ended(call.number, outcome)


async def main(sim: Sim) -> dict[str, int]:
    """Run one seed; return how many calls ended how."""
    program = Program(sim, interrupt=True)
    async with asyncio.TaskGroup() as group:
        for number in range(program.callers):
            group.create_task(program.caller(number))
    await program.recover()
    return program.finish()


SCENARIO = Scenario("calls", "tasks call through drawn policies to a flaky backend", main)
