"""Awaiting with a limit, which costs nothing until something suspends.

The first step of a coroutine is made by hand. Only if it hands out a future is an alarm armed;
then the future is handed on to the loop, and the rest is delegated to. The alarm is what is
awaited meanwhile, as a generator in between would hold 250 bytes more per call in flight.
"""

from __future__ import annotations

from itertools import repeat
from types import CoroutineType, coroutine
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Generator

    from holdfast.runtime.timers import Alarm

T = TypeVar("T")


class Expired(BaseException):
    """The limit of an attempt passed; never leaves the drivers."""


async def limited(awaitable: Awaitable[T], now: float, expires: float, span: float) -> T:
    """Await until `expires`; raise `Expired` then. span: the usual limit, see `timers.arm`."""
    steps = steps_of(awaitable)
    try:
        first = steps.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]  # the value of a coroutine
    return await suspended(steps, [first], now, expires, span)  # type: ignore[no-any-return]  # the same


async def suspended(
    steps: Any, handed: list[object], now: float, expires: float, span: float
) -> Any:
    """Await the rest of what has handed out its first future, the only item of `handed`."""
    alarm = alarm_for(steps, handed.pop(), now, expires, span)
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
    return value


def steps_of(awaitable: Awaitable[T]) -> Any:
    """Return what `send` and `throw` can be called on."""
    if type(awaitable) is CoroutineType:
        return awaitable
    try:
        return awaitable.__await__()
    except AttributeError:
        kind = type(awaitable).__name__
        raise TypeError(f"`acall` needs a function that returns an awaitable: {kind}") from None


def rest_of(steps: Any) -> Any:
    """Return the iterator that goes on with what has begun: a coroutine itself is none."""
    return steps.__await__() if type(steps) is CoroutineType else steps


def alarm_for(steps: Any, first: object, now: float, expires: float, span: float) -> Alarm:
    """Arm an alarm for `steps`; to await it hands `first` to the loop, once."""
    try:
        alarm = _arm(now, expires, span)
    except BaseException:
        steps.close()  # outside a task there is no way to go on
        raise
    alarm.steps = repeat(first, 1)
    return alarm


def _arm(now: float, expires: float, limit: float) -> Alarm:
    """Load the timers, which need asyncio, when the first task needs one."""
    global _arm  # noqa: PLW0603 - replaces itself: importing on each call would cost
    from holdfast.runtime.timers import arm

    _arm = arm
    return arm(now, expires, limit)


@coroutine
def thrown_into(steps: Any, error: BaseException) -> Generator[Any, Any, Any]:
    """Throw into what is suspended and go on delegating to it."""
    while True:
        try:
            waiting_for = steps.throw(error)
        except StopIteration as done:
            return done.value
        try:
            yield waiting_for
        except BaseException as again:
            error = again
        else:
            return (yield from steps)
