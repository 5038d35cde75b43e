"""The asynchronous driver. Compare with `sync`: they differ by `await` and by how they wait."""

from __future__ import annotations

import inspect
import math
from types import CoroutineType, coroutine
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
from holdfast.runtime.scope import scope

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterable,
        AsyncIterator,
        Awaitable,
        Callable,
        Generator,
        Iterable,
    )

    from holdfast.core.deadline import Scope
    from holdfast.core.verdict import Verdict
    from holdfast.runtime.timers import Alarm

T = TypeVar("T")

_scope_get, _scope_set, _scope_reset = scope.get, scope.set, scope.reset
_NEVER = math.inf


class AsyncDriver(Base):
    """`acall`, `aoutcome` and `astream` of a policy."""

    async def acall(self, fn: Callable[..., Awaitable[T]], /, *args: Any, **kwargs: Any) -> T:  # noqa: C901, PLR0912, PLR0915 - inlined: each call costs
        """Return `await fn(*args, **kwargs)`, called as this policy says.

        Raises what the last attempt raised, with a note of what was tried; or Rejected or
        DeadlineExceeded if the policy decided so. Cancellation is passed on at once.
        """
        lane = self._lane
        if lane is None:
            lane = self._lane_for(Request(fn, args, kwargs))
        breaker, bulkhead, rate = lane.breaker, lane.bulkhead, lane.rate
        outer = _scope_get()
        monotonic = clock.monotonic  # in two steps: a method call on a slot costs 20 ns more
        now = monotonic()
        # From here to `try` no call, no loop: see `lock`. Everything that is open admits at
        # once, so the order of the layers does not matter; else nothing was touched.
        span = self._span
        calm = breaker.calm_until
        expires = now + span
        tat = rate.tat
        if tat < now:
            tat = now
        tat += rate.interval
        if (
            outer is not OUTSIDE
            or now >= calm
            or bulkhead.active >= bulkhead.limit
            or tat - now > rate.slack
            or hub.watched
        ):
            return await self._acall_fully(fn, *args, **kwargs)
        rate.tat = tat
        bulkhead.active += 1
        gen = breaker.gen
        try:
            token = _scope_set((expires, self._retrying))
            # Unpacking what is empty would cost up to 40 ns.
            steps = fn(*args, **kwargs) if kwargs else fn(*args) if args else fn()
            if span == _NEVER:
                value = await steps
            else:
                # `_limited` by hand: what never suspends needs neither it nor an alarm.
                if type(steps) is not CoroutineType:
                    steps = _steps(steps)
                try:
                    waiting_for = steps.send(None)
                except StopIteration as done:
                    value = done.value
                else:
                    value = await _suspended(steps, waiting_for, now, expires, span)
            _scope_reset(token)
        except BaseException as caught:
            error = caught
        else:
            # Straight line again: an undisturbed success is one more in the tally. Whatever
            # disturbs the breaker puts another object there, so `is` tells all of it.
            if calm is breaker.calm_until and lane.budget.idle and not bulkhead.waiting:
                bulkhead.active -= 1
                breaker.tally = tally = breaker.tally + 1
                if tally > lane.stride:
                    self._measure(lane, now)
                ring = hub.ring
                if ring is not None:
                    ring.append((self.name, lane.key, now, monotonic()))
                return value
            self._adopt(lane, now, outer, gen, succeeded=True)
            return value
        _scope_set(outer)
        call = self._adopt(lane, now, outer, gen)
        try:
            if type(error) is _Expired:
                error = too_late(Attempt(1, span, self._shape.seconds <= span), call)
            return await self._adrive(call, outer, fn, args, kwargs, error)  # type: ignore[no-any-return]  # it returns what `fn` does
        finally:
            del error  # with its traceback, it and this frame would keep each other alive

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
            return await _limited(fn(*args, **kwargs), now, expires, self._span)
        except _Expired:
            raise too_late(step, call) from None
        finally:
            _scope_reset(token)

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
                        step if expires == math.inf else _limited(step, now, expires, self._span)
                    )
                except StopAsyncIteration:
                    return
                except _Expired:
                    final = call.expires <= now + self._shape.limit
                    raise too_late(Attempt(0, expires - now, final), call) from None
                finally:
                    _scope_reset(token)
                yield item
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()


class _Expired(BaseException):
    """The limit of an attempt passed; never leaves this module."""


async def _limited(awaitable: Awaitable[T], now: float, expires: float, span: float) -> T:
    """Await with a limit; raise `_Expired` when it passes.

    What never suspends never needs an alarm: the first step is made by hand, and only if it
    hands out a future is an alarm armed and the rest delegated.
    """
    steps = _steps(awaitable)
    try:
        waiting_for = steps.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]  # the value of a coroutine
    return await _suspended(steps, waiting_for, now, expires, span)  # type: ignore[no-any-return]  # same


@coroutine
def _suspended(
    inner: Any, waiting_for: Any, now: float, expires: float, span: float
) -> Generator[Any, Any, Any]:
    """Await the rest of a coroutine that has handed out its first future, with an alarm."""
    try:
        alarm = _arm(now, expires, span)
    except BaseException:
        inner.close()  # outside a task there is no way to go on
        raise
    try:
        try:
            yield waiting_for
        except BaseException as thrown:
            value = yield from _thrown(inner, thrown)
        else:
            value = yield from inner
    except BaseException as error:
        if alarm.caused(error):
            raise _Expired from error
        raise
    alarm.caused(None)
    return value


def _steps(awaitable: Awaitable[T]) -> Any:
    if type(awaitable) is CoroutineType:
        return awaitable
    try:
        return awaitable.__await__()
    except AttributeError:
        kind = type(awaitable).__name__
        raise TypeError(f"`acall` needs a function that returns an awaitable: {kind}") from None


@coroutine
def _thrown(inner: Any, error: BaseException) -> Generator[Any, Any, Any]:
    """Throw into a suspended coroutine and go on delegating to it."""
    while True:
        try:
            waiting_for = inner.throw(error)
        except StopIteration as done:
            return done.value
        try:
            yield waiting_for
        except BaseException as again:
            error = again
        else:
            return (yield from inner)


def _arm(now: float, expires: float, limit: float) -> Alarm:
    """Load the timers, which need asyncio, when the first task needs one."""
    global _arm  # noqa: PLW0603 - replaces itself: importing on each call would cost
    from holdfast.runtime.timers import arm

    _arm = arm
    return arm(now, expires, limit)


def _resumed(resume: Callable[[T], AsyncIterable[T]], last: T) -> Callable[[], AsyncIterable[T]]:
    return lambda: resume(last)


async def apause(step: Wait) -> None:
    """Wait as the step says, without blocking the loop."""
    if step.ticket is None:
        await clock.asleep(step.seconds)
    else:
        from holdfast.runtime.timers import granted

        await granted(step.ticket, wait_limit(step.seconds))
