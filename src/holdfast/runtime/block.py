"""The block form: `for attempt in policy.attempts(): with attempt: ...`, and with `async for`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Self

from holdfast.core.call import Attempt, GiveUp, Step, Wait
from holdfast.core.errors import Stopped
from holdfast.core.retry import Retry
from holdfast.core.verdict import Kind
from holdfast.runtime.aio import apause
from holdfast.runtime.base import Base, abandon, next_step, succeeded
from holdfast.runtime.clock import clock
from holdfast.runtime.ending import final_error, too_late
from holdfast.runtime.lock import deciding
from holdfast.runtime.random import rng
from holdfast.runtime.scope import scope
from holdfast.runtime.sync import pause

if TYPE_CHECKING:
    import threading
    from contextvars import Token
    from types import TracebackType

    from holdfast.core.call import Call
    from holdfast.core.deadline import Scope
    from holdfast.core.policy import Lane
    from holdfast.core.retry import Request
    from holdfast.runtime.timers import Alarm


class Attempts:
    """The attempts of one logical call. Iterate once, with `for` or with `async for`.

    Each attempt is a context manager. Leaving it without an exception ends the loop; with one
    that is worth repeating the loop goes on after the wait; with any other it is raised.
    """

    def __init__(
        self, policy: Base, lane: Lane, request: Request, stop: threading.Event | None = None
    ) -> None:
        self._policy = policy
        self._stop = stop
        self._outer = scope.get()
        self._call: Call = policy._begin(lane, clock.monotonic(), self._outer, request)
        self._step: Step | None = None
        self._error: BaseException | None = None
        self._over = False
        retry = policy._shape.part(Retry)
        keyed = isinstance(retry, Retry) and retry.idempotency_key
        self._key = rng.token(16) if keyed else None

    @property
    def call(self) -> Call:
        """The machine behind, for its counts; do not steer it."""
        return self._call

    def __iter__(self) -> Attempts:
        if self._policy._shape.hedge is not None:
            abandon(self._call)
            raise TypeError(f"`{self._policy.name}` has a Hedge: use `async for`")
        return self

    def __aiter__(self) -> Attempts:
        return self

    def __next__(self) -> BlockAttempt:
        """Wait as long as the policy says, then hand out the next attempt."""
        try:
            while True:
                step = self._ask()
                if step is None:
                    raise StopIteration
                if isinstance(step, Attempt):
                    return BlockAttempt(self, step, self._outer, interrupts=False)
                pause(step, self._stop)
                if self._stop is not None and self._stop.is_set():
                    raise Stopped("asked to stop while waiting for the next attempt")
        except BaseException:
            abandon(self._call)
            raise

    async def __anext__(self) -> BlockAttempt:
        """Wait as long as the policy says, then hand out the next attempt."""
        try:
            while True:
                step = self._ask()
                if step is None:
                    raise StopAsyncIteration
                if isinstance(step, Attempt):
                    return BlockAttempt(self, step, self._outer, interrupts=True)
                await apause(step)
        except BaseException:
            abandon(self._call)
            raise

    def __del__(self) -> None:
        # A loop that was left between `for` and `with` still holds its permits.
        if hasattr(self, "_call"):
            abandon(self._call)

    def _ask(self) -> Attempt | Wait | None:
        if self._over:
            return None
        step, self._step = self._step, None
        if step is None:
            step = next_step(self._call)
        if type(step) is GiveUp:
            self._over = True
            error, self._error = self._error, None
            raise final_error(self._call, step, error, clock.monotonic())
        if isinstance(step, Attempt):
            self._error = None
        assert not isinstance(step, GiveUp)
        return step

    # -- told by the attempts ----------------------------------------------------------

    def _succeeded(self) -> None:
        self._over = True
        succeeded(self._call)

    def _failed(self, error: BaseException) -> bool:
        """Tell the machine; return whether the loop goes on. Else `error` has got its note."""
        policy = self._policy
        if policy._verdict(error, self._call).kind is Kind.CANCELLED:
            self._over = True
            abandon(self._call)
            return False
        step = policy._failed(self._call, error)
        if type(step) is GiveUp:
            self._over = True
            final = final_error(self._call, step, error, clock.monotonic())
            if final is not error:
                raise final
            return False
        self._step = step
        self._error = error  # until the next attempt: the wait may end in giving up
        return True


class BlockAttempt:
    """One attempt of a block.

    no: from 1.  timeout: seconds it may take, infinite without a limit; in `async for` the
    block is interrupted then, in `for` give it to your client.  idempotency_key: the same for
    all attempts, if the policy's Retry makes one.
    """

    __slots__ = ("_alarm", "_attempts", "_interrupts", "_outer", "_step", "_token", "no", "timeout")

    def __init__(
        self, attempts: Attempts, step: Attempt, outer: Scope, *, interrupts: bool
    ) -> None:
        self._attempts = attempts
        self._step = step
        self._outer = outer
        self._interrupts = interrupts
        self._alarm: Alarm | None = None
        self._token: Token[Scope] | None = None
        self.no = step.no
        self.timeout = step.timeout

    @property
    def idempotency_key(self) -> str | None:
        """The key of the logical call, or None if the policy makes none."""
        return self._attempts._key

    def progress(self) -> None:
        """Say that something was gained: attempts and backoff start afresh."""
        with deciding:
            self._attempts._call.progressed()

    def __enter__(self) -> Self:
        now = clock.monotonic()
        expires = now + self.timeout
        policy = self._attempts._policy
        self._token = scope.set((expires, policy._retrying or self._outer[1]))
        if self._interrupts and self.timeout < math.inf:
            from holdfast.runtime.timers import arm

            self._alarm = arm(now, expires, policy._span)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if self._token is not None:
            scope.reset(self._token)
        alarm, self._alarm = self._alarm, None
        attempts = self._attempts
        if alarm is not None and alarm.caused(error):
            late = too_late(self._step, attempts._call)
            if attempts._failed(late):
                return True
            raise late from error
        if error is None:
            attempts._succeeded()
            return False
        return attempts._failed(error)
