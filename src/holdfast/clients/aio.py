"""The asynchronous loop of an adapter. Compare with `sync`: they differ by `await`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol, TypeVar

from holdfast.clients.exchange import Answer, Exchange, Try
from holdfast.core.call import Attempt, GiveUp, Wait
from holdfast.runtime.aio import apause
from holdfast.runtime.clock import clock
from holdfast.runtime.hedging import hedged
from holdfast.runtime.scope import scope
from holdfast.runtime.timers import arm

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable

R = TypeVar("R")
T = TypeVar("T")


class AsyncSender(Protocol[R]):
    """What the asynchronous loop needs of a client library."""

    async def send(self, this: Try) -> Answer[R]:
        """As `sync.Sender.send`; it is cancelled at the limit."""
        ...

    async def discard(self, answer: Answer[R]) -> None:
        """As `sync.Sender.discard`."""

    def hold(self, answer: Answer[R], exchange: Exchange) -> R:
        """As `sync.Sender.hold`."""
        ...

    @property
    def concurrent(self) -> bool:
        """Whether several `send` may run at the same time, so that attempts can be hedged."""
        ...


async def arun(exchange: Exchange, sender: AsyncSender[R], since: float | None = None) -> R:
    """Make the logical call and return its response; raise what the policy decides to raise.

    since: when the first attempt began, if it has begun; its first `send` goes on with it.
    """
    this: Try | None = None
    try:
        step = exchange.next()
        while True:
            if type(step) is Attempt:
                now = clock.monotonic() if since is None else since
                since = None
                expires = now + step.timeout
                token = exchange.enter(expires)
                try:
                    if step.hedge_after is not None and exchange.may_race and sender.concurrent:
                        this = await _raced(exchange, sender, step, expires)
                    else:
                        this = await _sent(exchange, sender, step, now, expires)
                finally:
                    scope.reset(token)
                answer: Answer[R] | None = this.answer
                if answer is None:
                    assert this.error is not None
                    step = exchange.failed(this.error, this)
                    continue
                following = exchange.answered(answer, this)
                if following is None:
                    return answer.response if answer.complete else sender.hold(answer, exchange)
                if type(following) is Wait and not answer.complete:
                    await sender.discard(answer)
                step = following
            elif type(step) is Wait:
                await apause(step)
                step = exchange.next()
            else:
                break
        assert type(step) is GiveUp
        response: R = exchange.ended(step, this)
        return response
    finally:
        exchange.release()
        this = None  # no cycle through the traceback


async def _raced(exchange: Exchange, sender: AsyncSender[R], step: Attempt, expires: float) -> Try:
    """Make an attempt that may be hedged. Each copy is a try of its own."""

    async def discard(this: Try) -> None:
        if this.answer is not None and not this.answer.complete:
            await sender.discard(this.answer)

    try:
        return await hedged(
            exchange.call,
            step,
            lambda: _sent(exchange, sender, step, None, expires),
            judge=exchange.verdict_on,
            discard=discard,
        )
    except BaseException as error:  # noqa: BLE001 - the machine decides about all of them
        this = Try(step.no, step.timeout)
        this.error = error
        return this


async def _sent(
    exchange: Exchange, sender: AsyncSender[R], step: Attempt, now: float | None, expires: float
) -> Try:
    """Send; and once more, on a fresh connection, if the one that was kept alive was stale.

    now: the limit is enforced here; None: in a race the race does that.
    """
    limit = step.timeout
    fresh = False
    while True:
        this = Try(step.no, limit, fresh=fresh)
        # As `limited`, which as a coroutine of its own would cost a microsecond more.
        alarm = None if now is None or expires == math.inf else arm(now, expires, exchange.span)
        try:
            this.answer = await sender.send(this)
        except BaseException as error:  # noqa: BLE001 - the machine decides about all of them
            if alarm is not None and alarm.caused(error):
                this.error = exchange.late(error)
            elif exchange.may_resend(error, this, expires):
                again = clock.monotonic()
                limit, fresh = expires - again, True
                now = None if now is None else again
                continue
            else:
                this.error = error
        else:
            if alarm is not None:
                alarm.caused(None)
        return this


async def reading(exchange: Exchange, pieces: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
    """Give the pieces of an opened body, and tell `exchange` how that went.

    A read that fails raises its error with the note of the call; one that takes longer than
    the policy's Timeout, or goes past its deadline, raises TimeoutError. Closing it early
    counts as success of the call.
    """
    source = aiter(pieces)
    try:
        while True:
            now = clock.monotonic()
            limit = exchange.body_limit(now)
            try:
                piece = await limited(
                    anext(source), now, now + limit, exchange.body_span, exchange.body_late
                )
            except StopAsyncIteration:
                return
            yield piece
    except GeneratorExit:
        raise
    except BaseException as error:
        failure = exchange.body_failed(error)
        if failure is error:
            raise
        raise failure from error
    finally:
        exchange.body_closed()


async def limited(
    awaitable: Awaitable[T],
    now: float,
    expires: float,
    span: float,
    late: Callable[[BaseException], BaseException],
) -> T:
    """Await until `expires` at most; then raise what `late` says.

    span: the usual distance of `expires` from `now`; alarms of one span share a timer.
    """
    if expires == math.inf:
        return await awaitable
    alarm = arm(now, expires, span)
    try:
        value = await awaitable
    except BaseException as error:
        if alarm.caused(error):
            raise late(error) from error
        raise
    alarm.caused(None)
    return value
