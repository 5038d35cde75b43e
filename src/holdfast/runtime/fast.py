"""The fast paths: `call` and `acall` of a policy that has one state for all its calls.

A good call of an undisturbed policy needs none of the machine in `core.call`. It takes its
permits and its slot, sets the scope, calls the function, and gives the permits back: about
twenty loads and stores, written out here because each function call, each attribute of `self`
and each object costs a twentieth of the whole. All else is the full path's: whatever is not
open at once, every failure, every success of a disturbed policy, and one call per bucket of
the breaker to be measured. Policies with `key=` have the same in `Lane.enter` and
`Lane.leave`, called as functions: finding the state costs them more than that.

What was measured, and made these decisions:

* Closures: a variable of the function around costs less than an attribute of an attribute.
* The sections marked "straight line" contain no call and no loop, so with a GIL no other thread
  comes in between, and no lock is needed: see `lock`. A test disassembles them.
* The context variable is set to a bare float where that says all: see `scope.Around`.
* Empty arguments are not unpacked: that would cost up to 40 ns.
* A method called on a slot costs 20 ns more than a load and a call: hence `monotonic`.
"""

from __future__ import annotations

import math
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from holdfast.runtime.clock import clock
from holdfast.runtime.hub import hub
from holdfast.runtime.limit import Expired, alarm_for, rest_of, steps_of, thrown_into
from holdfast.runtime.scope import around, leave

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from holdfast.core.policy import Lane
    from holdfast.runtime.aio import AsyncDriver
    from holdfast.runtime.sync import SyncDriver

_around_get, _around_set, _around_reset = around.get, around.set, around.reset
_NOTHING: dict[str, Any] = {}


def fast_call(policy: SyncDriver, lane: Lane) -> Callable[..., Any]:
    """Return `policy.call`, with `lane` as the state of every call."""
    breaker, bulkhead, rate, budget = lane.breaker, lane.bulkhead, lane.rate, lane.budget
    span, retrying = policy._span, policy._retrying

    def call(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        outer = _around_get()
        monotonic = clock.monotonic
        now = monotonic()
        # Straight line from here to `try`: `Lane.enter`.
        calm = breaker.calm_until
        tat = rate.tat
        if tat < now:
            tat = now
        tat += rate.interval
        if (
            outer is not None
            or now >= calm
            or bulkhead.active >= bulkhead.limit
            or tat - now > rate.slack
        ):
            return policy._call_fully(fn, *args, **kwargs)
        rate.tat = tat
        bulkhead.active += 1
        gen = breaker.gen
        try:
            token = _around_set(now + span if retrying else (now + span, False))
            value = fn(*args, **kwargs) if kwargs else fn(*args) if args else fn()
            _around_reset(token)
        except BaseException as caught:
            error = caught
        else:
            # Straight line again: `Lane.leave`.
            if (
                calm is breaker.calm_until
                and budget.idle
                and not bulkhead.waiting
                and not hub.watched
            ):
                bulkhead.active -= 1
                breaker.tally += 1
                ring = hub.ring
                if ring is not None:
                    ring.append((policy.name, lane.key, now, monotonic()))
                return value
            policy._adopt(lane, now, gen, succeeded=True)
            return value
        try:
            return policy._go_on(lane, now, gen, fn, args, kwargs, error)
        finally:
            del error  # with its traceback, it and this frame would keep each other alive

    return call


def fast_acall(policy: AsyncDriver, lane: Lane) -> Callable[..., Any]:  # noqa: C901, PLR0915 - inlined: each call costs
    """Return `policy.acall`, with `lane` as the state of every call."""
    breaker, bulkhead, rate, budget = lane.breaker, lane.bulkhead, lane.rate, lane.budget
    span, retrying = policy._span, policy._retrying
    endless = span == math.inf

    async def acall(fn: Callable[..., Awaitable[Any]], /, *args: Any, **kwargs: Any) -> Any:  # noqa: C901, PLR0912, PLR0915 - the same
        outer = _around_get()
        monotonic = clock.monotonic
        now = monotonic()
        # Straight line from here to `try`: `Lane.enter`.
        calm = breaker.calm_until
        tat = rate.tat
        if tat < now:
            tat = now
        tat += rate.interval
        if (
            outer is not None
            or now >= calm
            or bulkhead.active >= bulkhead.limit
            or tat - now > rate.slack
        ):
            return await policy._acall_fully(fn, *args, **kwargs)
        rate.tat = tat
        bulkhead.active += 1
        gen = breaker.gen
        try:
            expires = now + span
            token = _around_set(expires if retrying else (expires, False))
            steps: Any = fn(*args, **kwargs) if kwargs else fn(*args) if args else fn()
            if endless:
                value = await steps
            else:
                # `limited` by hand: what never suspends needs neither it nor an alarm.
                if type(steps) is not CoroutineType:
                    steps = steps_of(steps)
                try:
                    first = steps.send(None)
                except StopIteration as done:
                    value = done.value
                else:
                    alarm = alarm_for(steps, first, now, expires, span)
                    # What is not needed any more is not kept while the call is in flight.
                    del first, tat
                    kwargs = kwargs or _NOTHING
                    try:
                        try:
                            await alarm
                        except BaseException as thrown:
                            value = await thrown_into(steps, thrown)
                        else:
                            alarm.steps = rest_of(steps)
                            value = await alarm
                    except BaseException as error:
                        if alarm.caused(error):
                            raise Expired from error
                        raise
                    alarm.caused(None)
            _around_reset(token)
        except BaseException as caught:
            failure = caught
        else:
            # Straight line again: `Lane.leave`.
            if (
                calm is breaker.calm_until
                and budget.idle
                and not bulkhead.waiting
                and not hub.watched
            ):
                bulkhead.active -= 1
                breaker.tally += 1
                ring = hub.ring
                if ring is not None:
                    ring.append((policy.name, lane.key, now, monotonic()))
                return value
            policy._adopt(lane, now, gen, succeeded=True)
            return value
        if type(failure) is GeneratorExit:
            leave(token)  # type: ignore[possibly-undefined]  # it came from an `await`
        try:
            return await policy._ago_on(lane, now, gen, fn, args, kwargs, failure)
        finally:
            del failure  # with its traceback, it and this frame would keep each other alive

    return acall
