"""The asynchronous driver. Compare with `sync`: they differ by `await` and by how they wait."""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any, TypeVar

from holdfast.core.call import Attempt, Call, GiveUp, Wait
from holdfast.core.deadline import OUTSIDE
from holdfast.core.retry import Request
from holdfast.runtime.base import (
    Base,
    abandon,
    item_out,
    next_step,
    succeeded,
    wait_limit,
)
from holdfast.runtime.clock import clock
from holdfast.runtime.ending import Outcome, final_error, has_fallback, outcome_of, too_late
from holdfast.runtime.hub import hub
from holdfast.runtime.limit import Expired, limited, steps_of, suspended
from holdfast.runtime.scope import around, leave, scope

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterable,
        AsyncIterator,
        Awaitable,
        Callable,
        Iterable,
    )

    from holdfast.core.deadline import Scope
    from holdfast.core.policy import Lane
    from holdfast.core.verdict import Verdict

T = TypeVar("T")

_scope_get, _scope_set, _scope_reset = scope.get, scope.set, scope.reset
_around_get, _around_set, _around_reset = around.get, around.set, around.reset


class AsyncDriver(Base):
    """`acall`, `aoutcome` and `astream` of a policy."""

    async def acall(self, fn: Callable[..., Awaitable[T]], /, *args: Any, **kwargs: Any) -> T:
        """Return `await fn(*args, **kwargs)`, called as this policy says.

        Raises what the last attempt raised, with a note of what was tried; or Rejected or
        DeadlineExceeded if the policy decided so. Cancellation is passed on at once.
        """
        # Policies with one state for all calls have `fast_acall` in its place.
        lane = self._lane_for(Request(fn, args, kwargs))
        monotonic = clock.monotonic
        now = monotonic()
        gen = lane.breaker.gen
        calm = lane.enter(now) if _around_get() is None else None
        if calm is None:
            outer = _scope_get()
            call = self._begin(lane, now, outer, None)
            return await self._adrive(call, outer, fn, args, kwargs)  # type: ignore[no-any-return]  # it returns what `fn` does
        span = self._span
        expires = now + span
        try:
            token = _around_set(expires if self._retrying else (expires, False))
            if span == math.inf:
                value = await fn(*args, **kwargs)
            else:
                steps = steps_of(fn(*args, **kwargs))
                try:
                    handed = [steps.send(None)]
                except StopIteration as done:
                    value = done.value
                else:
                    value = await suspended(steps, handed, now, expires, span)
            _around_reset(token)
        except BaseException as caught:
            error = caught
        else:
            if hub.watched or not lane.leave(calm):
                self._adopt(lane, now, gen, succeeded=True)
                return value
            ring = hub.ring
            if ring is not None:
                ring.append((self.name, lane.key, now, monotonic()))
            return value
        if type(error) is GeneratorExit:
            leave(token)  # type: ignore[possibly-undefined]  # it came from an `await`
        try:
            return await self._ago_on(lane, now, gen, fn, args, kwargs, error)  # type: ignore[no-any-return]  # it returns what `fn` does
        finally:
            del error  # with its traceback, it and this frame would keep each other alive

    async def _ago_on(
        self,
        lane: Lane,
        now: float,
        gen: int,
        fn: Callable[..., Awaitable[Any]],
        args: Iterable[Any],
        kwargs: dict[str, Any],
        error: BaseException,
    ) -> Any:
        """Go on by the full path after the attempt failed that a fast path began at `now`."""
        if type(error) is not GeneratorExit:  # see `leave`
            _around_set(None)  # it was outside, or it would not have been a fast path
        call = self._adopt(lane, now, gen)
        try:
            if type(error) is Expired:
                error = too_late(Attempt(1, self._span, self._shape.seconds <= self._span), call)
            return await self._adrive(call, OUTSIDE, fn, args, kwargs, error)
        finally:
            del error  # no cycle through the traceback

    async def _acall_fully(
        self, fn: Callable[..., Awaitable[T]], /, *args: Any, **kwargs: Any
    ) -> T:
        """Do what `acall` does, by the machine from the start.

        It stands in for `acall` in policies whose calls the fast path cannot serve.
        """
        lane = self._lane_for(Request(fn, args, kwargs))
        outer = _scope_get()
        call = self._begin(lane, clock.monotonic(), outer, None)
        return await self._adrive(call, outer, fn, args, kwargs)  # type: ignore[no-any-return]  # it returns what `fn` does

    async def aoutcome(
        self, fn: Callable[..., Awaitable[Any]], /, *args: Any, **kwargs: Any
    ) -> Outcome:
        """Await `fn(*args, **kwargs)` and return how it ended; raises no failure of it.

        Cancellation is still raised.
        """
        request = Request(fn, args, kwargs)
        outer = _scope_get()
        call = self._begin(self._lane_for(request), clock.monotonic(), outer, None)
        try:
            return outcome_of(call, await self._adrive(call, outer, fn, args, kwargs), None)
        except BaseException as error:
            if not call.reason:
                raise  # cancelled: nobody gave up
            return outcome_of(call, None, error)

    async def _adrive(
        self,
        call: Call,
        outer: Scope,
        fn: Callable[..., Awaitable[Any]],
        args: Iterable[Any],
        kwargs: dict[str, Any],
        error: BaseException | None = None,
    ) -> Any:
        """Obey the machine until the call has ended. error: of an attempt that just failed."""
        try:
            step = next_step(call) if error is None else self._failed(call, error)
            while True:
                if type(step) is Attempt:
                    try:
                        value = await self._aattempt(call, step, outer, fn, args, kwargs)
                    except BaseException as caught:
                        error = caught
                        step = self._failed(call, caught)
                    else:
                        succeeded(call)
                        return value
                elif type(step) is Wait:
                    await apause(step)
                    step = next_step(call)
                else:
                    break
            assert type(step) is GiveUp
            final = final_error(call, step, error, clock.monotonic())
            fallback = self._shape.fallback
            if fallback is None or not has_fallback(self._shape, final, self._verdict(final, call)):
                raise final
            value = fallback.value(final) if callable(fallback.value) else fallback.value
            return await value if inspect.isawaitable(value) else value
        finally:
            abandon(call)  # does nothing unless something above was cancelled
            error = final = None  # type: ignore[assignment]  # no cycle through the traceback

    async def _aattempt(
        self,
        call: Call,
        step: Attempt,
        outer: Scope,
        fn: Callable[..., Awaitable[Any]],
        args: Iterable[Any],
        kwargs: dict[str, Any],
    ) -> Any:
        now = clock.monotonic()
        expires = now + step.timeout
        token = _scope_set((expires, self._retrying or outer[1]))
        try:
            if step.hedge_after is not None:
                return await self._hedged(call, step, lambda: fn(*args, **kwargs))
            if step.timeout == math.inf:
                return await fn(*args, **kwargs)
            return await limited(fn(*args, **kwargs), now, expires, self._span)
        except Expired:
            raise too_late(step, call) from None
        finally:
            leave(token)

    async def _hedged(self, call: Call, step: Attempt, send: Callable[[], Awaitable[Any]]) -> Any:
        from holdfast.runtime.hedging import hedged  # it needs asyncio

        def judge(_: object, error: BaseException | None) -> Verdict | None:
            return None if error is None else self._verdict(error, call)

        return await hedged(call, step, send, judge=judge)

    async def astream(
        self,
        fn: Callable[..., AsyncIterable[T]],
        /,
        *args: Any,
        resume: Callable[[T], AsyncIterable[T]] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[T]:
        """Iterate over `fn(*args, **kwargs)`; repeat it only while no item has come out.

        resume: given the last item, returns an iterable of what follows it; with it a broken
        stream goes on, and each item that comes out starts the attempts afresh. No item comes
        twice. Closing the iterator gives all permits back. A Timeout limits each wait for the
        next item, a Deadline the whole.
        """
        request = Request(fn, args, kwargs)
        outer = _scope_get()
        call = self._begin(self._lane_for(request), clock.monotonic(), outer, None)
        source: Callable[[], AsyncIterable[T]] = lambda: fn(*args, **kwargs)
        error: BaseException | None = None
        try:
            step = next_step(call)
            while True:
                if type(step) is Attempt:
                    items = self._aguarded(source, call, outer)
                    try:
                        async for item in items:
                            item_out(call, resumable=resume is not None)
                            yield item
                            if resume is not None:
                                source = _resumed(resume, item)
                    except GeneratorExit:
                        raise
                    except BaseException as caught:
                        error = caught
                        step = self._failed(call, caught)
                    else:
                        succeeded(call)
                        return
                    finally:
                        await items.aclose()
                elif type(step) is Wait:
                    await apause(step)
                    step = next_step(call)
                else:
                    break
            assert type(step) is GiveUp
            raise final_error(call, step, error, clock.monotonic())
        finally:
            abandon(call)
            error = None

    async def _aguarded(
        self, source: Callable[[], AsyncIterable[T]], call: Call, outer: Scope
    ) -> AsyncGenerator[T]:
        """Iterate with the scope and the limit set around each step only."""
        items: AsyncIterator[T] | None = None
        try:
            while True:
                now = clock.monotonic()
                expires = min(call.expires, now + self._shape.limit)
                token = _scope_set((expires, self._retrying or outer[1]))
                try:
                    if items is None:
                        items = aiter(source())
                    step = anext(items)
                    item = await (
                        step if expires == math.inf else limited(step, now, expires, self._span)
                    )
                except StopAsyncIteration:
                    return
                except Expired:
                    final = call.expires <= now + self._shape.limit
                    raise too_late(Attempt(0, expires - now, final), call) from None
                finally:
                    _scope_reset(token)
                yield item
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()


def _resumed(resume: Callable[[T], AsyncIterable[T]], last: T) -> Callable[[], AsyncIterable[T]]:
    return lambda: resume(last)


async def apause(step: Wait) -> None:
    """Wait as the step says, without blocking the loop."""
    if step.ticket is None:
        await clock.asleep(step.seconds)
    else:
        from holdfast.runtime.timers import granted

        await granted(step.ticket, wait_limit(step.seconds))
