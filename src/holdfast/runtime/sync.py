"""The synchronous driver. Compare with `aio`: they differ by `await` and by how they wait."""

from __future__ import annotations

import math
import threading
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
from holdfast.runtime.scope import around, scope
from holdfast.runtime.workers import workers

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from holdfast.core.deadline import Scope
    from holdfast.core.policy import Lane

T = TypeVar("T")

LOOK_EVERY = 0.1
"""Seconds after which a waiter for a permit looks whether it was asked to stop."""

_scope_get, _scope_set, _scope_reset = scope.get, scope.set, scope.reset
_around_get, _around_set, _around_reset = around.get, around.set, around.reset


class SyncDriver(Base):
    """`call`, `outcome` and `stream` of a policy."""

    def call(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Return `fn(*args, **kwargs)`, called as this policy says.

        Raises what the last attempt raised, with a note of what was tried; or Rejected or
        DeadlineExceeded if the policy decided so.
        """
        # Policies with one state for all calls have `fast_call` in its place.
        lane = self._lane_for(Request(fn, args, kwargs))
        monotonic = clock.monotonic
        now = monotonic()
        gen = lane.breaker.gen
        calm = lane.enter(now) if _around_get() is None else None
        if calm is None:
            outer = _scope_get()
            call = self._begin(lane, now, outer, None)
            return self._drive(call, outer, fn, args, kwargs)  # type: ignore[no-any-return]  # it returns what `fn` does
        try:
            token = _around_set(now + self._span if self._retrying else (now + self._span, False))
            value = fn(*args, **kwargs)
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
        try:
            return self._go_on(lane, now, gen, fn, args, kwargs, error)  # type: ignore[no-any-return]  # it returns what `fn` does
        finally:
            del error  # with its traceback, it and this frame would keep each other alive

    def _go_on(
        self,
        lane: Lane,
        now: float,
        gen: int,
        fn: Callable[..., Any],
        args: Iterable[Any],
        kwargs: dict[str, Any],
        error: BaseException,
    ) -> Any:
        """Go on by the full path after the attempt failed that a fast path began at `now`."""
        _around_set(None)  # it was outside, or it would not have been a fast path
        call = self._adopt(lane, now, gen)
        try:
            return self._drive(call, OUTSIDE, fn, args, kwargs, error)
        finally:
            del error  # no cycle through the traceback

    def _call_fully(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Do what `call` does, by the machine from the start.

        It stands in for `call` in policies whose calls a fast path cannot serve.
        """
        lane = self._lane_for(Request(fn, args, kwargs))
        outer = _scope_get()
        call = self._begin(lane, clock.monotonic(), outer, None)
        return self._drive(call, outer, fn, args, kwargs)  # type: ignore[no-any-return]  # it returns what `fn` does

    def outcome(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Outcome:
        """Call `fn(*args, **kwargs)` and return how it ended; raises no failure of it.

        Cancellation (KeyboardInterrupt, SystemExit) is still raised.
        """
        request = Request(fn, args, kwargs)
        outer = _scope_get()
        call = self._begin(self._lane_for(request), clock.monotonic(), outer, None)
        try:
            return outcome_of(call, self._drive(call, outer, fn, args, kwargs), None)
        except BaseException as error:
            if not call.reason:
                raise  # cancelled: nobody gave up
            return outcome_of(call, None, error)

    def _drive(
        self,
        call: Call,
        outer: Scope,
        fn: Callable[..., Any],
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
                        value = self._attempt(call, step, outer, fn, args, kwargs)
                    except BaseException as caught:
                        error = caught
                        step = self._failed(call, caught)
                    else:
                        succeeded(call)
                        return value
                elif type(step) is Wait:
                    pause(step)
                    step = next_step(call)
                else:
                    break
            assert type(step) is GiveUp
            final = final_error(call, step, error, clock.monotonic())
            fallback = self._shape.fallback
            if fallback is None or not has_fallback(self._shape, final, self._verdict(final, call)):
                raise final
            return fallback.value(final) if callable(fallback.value) else fallback.value
        finally:
            abandon(call)  # does nothing unless something above was cancelled
            error = final = None  # type: ignore[assignment]  # no cycle through the traceback

    def _attempt(
        self,
        call: Call,
        step: Attempt,
        outer: Scope,
        fn: Callable[..., Any],
        args: Iterable[Any],
        kwargs: dict[str, Any],
    ) -> Any:
        inside = (clock.monotonic() + step.timeout, self._retrying or outer[1])
        token = _scope_set(inside)
        try:
            if step.timeout == math.inf or not self._shape.interrupt:
                return fn(*args, **kwargs)
            done, value = workers.run(lambda: fn(*args, **kwargs), step.timeout)
            if done:
                return value
            raise too_late(step, call)
        finally:
            _scope_reset(token)

    def stream(
        self,
        fn: Callable[..., Iterable[T]],
        /,
        *args: Any,
        resume: Callable[[T], Iterable[T]] | None = None,
        **kwargs: Any,
    ) -> Iterator[T]:
        """Iterate over `fn(*args, **kwargs)`; repeat it only while no item has come out.

        resume: given the last item, returns an iterable of what follows it; with it a broken
        stream goes on, and each item that comes out starts the attempts afresh. No item comes
        twice. Closing the iterator gives all permits back. Time limits are not enforced
        inside a synchronous iterator: use those of its own client, or `astream`.
        """
        request = Request(fn, args, kwargs)
        outer = _scope_get()
        call = self._begin(self._lane_for(request), clock.monotonic(), outer, None)
        source: Callable[[], Iterable[T]] = lambda: fn(*args, **kwargs)
        error: BaseException | None = None
        try:
            step = next_step(call)
            while True:
                if type(step) is Attempt:
                    inside = (call.expires, self._retrying or outer[1])
                    items = _guarded(source, inside)
                    try:
                        for item in items:
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
                        items.close()
                elif type(step) is Wait:
                    pause(step)
                    step = next_step(call)
                else:
                    break
            assert type(step) is GiveUp
            raise final_error(call, step, error, clock.monotonic())
        finally:
            abandon(call)
            error = None


def _resumed(resume: Callable[[T], Iterable[T]], last: T) -> Callable[[], Iterable[T]]:
    return lambda: resume(last)


def _guarded(source: Callable[[], Iterable[T]], inside: Scope) -> Generator[T]:
    """Iterate with the scope set around each step only: it must not leak to the consumer."""
    items: Iterator[T] | None = None
    try:
        while True:
            token = _scope_set(inside)
            try:
                if items is None:
                    items = iter(source())
                item = next(items)
            except StopIteration:
                return
            finally:
                _scope_reset(token)
            yield item
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()


def pause(step: Wait, stop: threading.Event | None = None) -> None:
    """Wait as the step says; return early once `stop` is set."""
    ticket = step.ticket
    if ticket is None:
        if stop is None:
            clock.sleep(step.seconds)
        else:
            clock.wait(stop, step.seconds)
        return
    event = threading.Event()
    ticket.wake = event.set
    # The grant may have come before `wake` was set: look once more.
    if ticket.granted:
        return
    if stop is None:
        clock.wait(event, wait_limit(step.seconds))
        return
    # Two events: whoever grants the permit knows only the first, so look after the second.
    until = clock.monotonic() + step.seconds
    while not stop.is_set() and clock.monotonic() < until:
        if clock.wait(event, min(LOOK_EVERY, until - clock.monotonic())):
            return
