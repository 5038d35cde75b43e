"""One logical HTTP call, as every adapter makes it: the policy's machine, told about HTTP.

An adapter knows its client library: how to send, what a connection did, how to read a body.
This module knows what that means:

* an answer with a status of 400 or more is a failure with a verdict; after the last attempt
  it is returned, not raised, because that is what the client's users expect;
* a kept-alive connection that breaks before any byte of the answer was stale: the request
  goes out once more on a fresh connection, and neither attempts, budget nor health hear of it;
* a body that is still to be read keeps the permits until it has ended or was closed; then a
  failure is the reader's, since what was read cannot be taken back.

`sync` and `aio` have the loops. Adapters whose library brings a loop of
its own (botocore) call the steps below from its hooks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from holdfast.core.call import Attempt, GiveUp, Phase, Step
from holdfast.core.classify import verdict_for_status, with_kind
from holdfast.core.deadline import OUTSIDE, TICK
from holdfast.core.rate_headers import mentions_limits
from holdfast.core.retry import Request, Retry
from holdfast.core.verdict import Kind, Sent, Verdict
from holdfast.runtime.base import abandon, answered, flush, next_step, succeeded
from holdfast.runtime.clock import clock
from holdfast.runtime.ending import final_error, has_fallback, too_late
from holdfast.runtime.hub import hub
from holdfast.runtime.lock import deciding
from holdfast.runtime.random import rng
from holdfast.runtime.scope import scope
from holdfast.wire.watchdog import watchdog

if TYPE_CHECKING:
    from contextvars import Token

    from holdfast.clients.body import Body
    from holdfast.clients.options import Options
    from holdfast.core.call import Call
    from holdfast.core.deadline import Scope
    from holdfast.core.policy import Lane
    from holdfast.core.retry_after import Headers
    from holdfast.runtime.policy import Policy
    from holdfast.wire.watchdog import Guard

R = TypeVar("R")

Entered: TypeAlias = "tuple[Lane, float, int, float]"
"""The lane that was entered, when, the generation of its breaker, and what `enter` returned."""

KEY_HEADER = "Idempotency-Key"

_EARLY = 0.002

_OVER = frozenset((Phase.DONE, Phase.GAVE_UP, Phase.ABANDONED))

DRAIN = 64 << 10
"""Bytes of a discarded answer that are read so that its connection can be used again."""


class Try:
    """One sending of the request, and what the library told while it ran.

    Given to the adapter: no (attempt, from 1), limit (seconds it may take, may be infinite),
    fresh (must not use a kept-alive connection), guard (synchronous adapters: name the socket
    to it with `guard.watch(sock)` as soon as it is known; None without a limit).

    Filled in by the adapter: connecting (True while no connection is up, False once it is,
    None if the library does not tell), reused (it went out on a kept-alive connection),
    answered (a byte of the answer came).

    Filled in by the loop: answer or error, exactly one of them.
    """

    __slots__ = (
        "answer", "answered", "connecting", "error", "fresh", "guard", "limit", "no", "reused",
    )  # fmt: skip

    answer: Answer[Any] | None
    error: BaseException | None

    def __init__(
        self, no: int, limit: float, guard: Guard | None = None, *, fresh: bool = False
    ) -> None:
        self.no = no
        self.limit = limit
        self.guard = guard
        self.fresh = fresh
        self.connecting: bool | None = None
        self.reused = False
        self.answered = False
        self.answer = None
        self.error = None

    def within(self, timeout: float | None) -> float | None:
        """Return the tighter of a library's own timeout and this try's limit, in seconds."""
        if self.limit == math.inf:
            return timeout
        return self.limit if timeout is None else min(timeout, self.limit)


@dataclass(slots=True)
class Answer(Generic[R]):
    """What came back: the library's response, and what the decisions need of it.

    complete: the body was read to its end, or there is none; nothing is open any more.
    code: the provider's code in the body, if `Options.provider` asks for it.
    """

    response: R
    status: int
    headers: Headers
    complete: bool
    code: str | None = None


class Exchange:
    """The steps of one logical call. Not shared between threads at the same time."""

    __slots__ = (
        "_attempt", "_began", "_body", "_call", "_calm", "_gen", "_guard", "_lane", "_outer",
        "_over", "_policy", "key", "options", "request",
    )  # fmt: skip

    def __init__(
        self,
        policy: Policy,
        options: Options,
        request: Request,
        *,
        body: Body | None = None,
        keyed: bool = False,
        fast: bool = False,
        entered: Entered | None = None,
    ) -> None:
        """Begin. keyed: the request has an Idempotency-Key of its own.

        entered: the adapter has entered the lane itself, and takes the exchange for the rest.

        fast: a loop of `sync` or `aio` drives this, and nobody looks at `call` before they
        have returned: then a good answer of an undisturbed policy needs no machine, which
        saves 15 us of the 20 that a logical call costs.
        """
        self._policy = policy
        self.options = options
        self._body = body
        self._outer: Scope = scope.get()
        self._attempt: Attempt | None = None
        self._guard: Guard | None = None  # of the body that is being read
        self.key: str | None = None  # to be sent as KEY_HEADER with every attempt
        if keyed:
            request = replace(request, idempotent=True)
        elif not request.is_safe_to_repeat:
            retry = policy._shape.part(Retry)
            if retry is not None and retry.idempotency_key:
                self.key = rng.token(16)
                request = replace(request, idempotent=True)
        self.request = request
        self._over = False  # ended on the fast path
        self._call: Call | None = None
        if entered is not None:
            self._lane, self._began, self._gen, self._calm = entered
            return
        self._lane = lane = policy._lane_for(request)
        self._began = now = clock.monotonic()
        self._gen = lane.breaker.gen
        calm = lane.enter(now) if fast and policy._fast and self._outer is OUTSIDE else None
        if calm is None:
            self._call = policy._begin(lane, now, self._outer, request)
        else:
            self._calm = calm

    @property
    def call(self) -> Call:
        """The machine; what the fast path began is handed over to it."""
        call = self._call
        if call is None:
            call = self._call = self._policy._adopt(self._lane, self._began, self._gen)
            call.request = self.request
        return call

    @property
    def attempting(self) -> bool:
        """Whether an attempt has begun of which nothing was told yet."""
        call = self._call
        if call is None:
            return self._attempt is not None and not self._over
        return call.phase is Phase.ATTEMPT

    @property
    def over(self) -> bool:
        """Whether the call has ended."""
        return self._over if self._call is None else self._call.phase in _OVER

    @property
    def holds(self) -> bool:
        """Whether permits are out."""
        return not self.over and (self._call is None or self._call.attempts > 0)

    # -- what to do ----------------------------------------------------------------------

    def next(self) -> Step:
        """Say what to do now."""
        if self._call is None:
            self._attempt = first = self._policy._first
            return first
        return self._noted(next_step(self._call))

    def _noted(self, step: Step) -> Step:
        if type(step) is Attempt:
            self._attempt = step
        return step

    def enter(self, expires: float) -> Token[Scope]:
        """Set the scope of an attempt that ends at `expires`: others inside see both."""
        return scope.set((expires, self._policy._retrying or self._outer[1]))

    def guard(self, seconds: float) -> Guard | None:
        """Return what shuts the socket of a synchronous attempt down after `seconds`."""
        self._unguard()
        self._guard = watchdog.guard(seconds) if seconds < math.inf else None
        return self._guard

    def guarded(self, guard: Guard | None) -> None:
        """Take the guard of an attempt that has begun already."""
        self._guard = guard

    # -- what happened -------------------------------------------------------------------

    def may_resend(self, error: BaseException, this: Try, expires: float) -> bool:
        """Say whether `error` only means that a kept-alive connection was stale.

        expires: the attempt's end; with no time left there is nothing to send in.
        """
        which = self.options.replay_reused
        if not this.reused or this.answered or this.fresh or which == "never":
            return False
        if clock.monotonic() + TICK >= expires:
            return False
        if which == "idempotent" and not self.request.is_safe_to_repeat:
            return False
        if self._body is not None and not self._body.replayable:
            return False
        verdict = self._policy._verdict(error, self.call, connecting=False)
        return verdict.kind is Kind.TRANSIENT and not verdict.local

    def failed(self, error: BaseException, this: Try) -> Step:
        """Take the exception of an attempt. A cancellation is none, and is raised again."""
        verdict = self._broke(error, this)
        if verdict.kind is Kind.CANCELLED:
            raise error
        self.call.reused = this.reused
        return self._told(verdict, error)

    def _broke(self, error: BaseException, this: Try) -> Verdict:
        verdict = self._policy._verdict(error, self.call, connecting=this.connecting)
        if verdict.sent is Sent.MAYBE:
            if this.answered:
                return replace(verdict, sent=Sent.YES)
            if this.connecting:  # our own limit, for instance, which knows of no connection
                return replace(verdict, sent=Sent.NO)
        return verdict

    def answered(self, answer: Answer[Any], this: Try) -> Step | None:
        """Take an answer; return what follows a bad one, None after a good one.

        A good one that is complete ends the call; else its body is `open` now.
        """
        if self._call is None and self._leaves(answer, this):
            return None
        self.call.reused = this.reused
        answered(self.call, answer.headers)
        verdict = self._judged(answer)
        if verdict is not None:
            return self._told(verdict, None)
        if answer.complete:
            succeeded(self.call)
            return None
        now = clock.monotonic()
        with deciding:
            self.call.committed(now, resumable=False)
        if self._guard is not None:
            self._guard.move(self.call.expires - now)
        return None

    def _leaves(self, answer: Answer[Any], this: Try) -> bool:
        """End on the fast path, if there is nothing to think about."""
        if answer.status >= 400 or not answer.complete or answer.code is not None:
            return False
        lane, policy = self._lane, self._policy
        if policy._hook is not None or (lane.rate.learns and mentions_limits(answer.headers)):
            return False
        self._over = True
        if hub.listening or not lane.leave(self._calm):
            call = self.call
            call.reused = this.reused
            succeeded(call)
        return True

    @property
    def may_race(self) -> bool:
        """Whether several copies of the request may be on their way: a file has one position."""
        return self._body is None

    def verdict_on(self, this: Try | None, error: BaseException | None) -> Verdict | None:
        """Return the verdict on one copy of a race, None for a good answer."""
        if this is None:
            assert error is not None
            return self._policy._verdict(error, self.call)
        if this.answer is not None:
            return self._judged(this.answer)
        assert this.error is not None
        return self._broke(this.error, this)

    def _judged(self, answer: Answer[Any]) -> Verdict | None:
        hook = self._policy._hook
        kind = None if hook is None else hook(answer.response)
        if isinstance(kind, Verdict):
            return kind
        if kind is None and answer.status < 400 and answer.code is None:
            return None
        verdict = verdict_for_status(
            answer.status,
            answer.headers,
            now_wall=clock.wall(),
            provider=self.options.provider,
            code=answer.code,
        )
        if kind is not None:
            return with_kind(replace(verdict, sent=Sent.YES), kind)
        return None if verdict.kind is Kind.UNKNOWN and answer.status < 400 else verdict

    def _told(self, verdict: Verdict, error: BaseException | None) -> Step:
        call = self.call
        body = self._body
        if body is not None and not body.replayable:
            call.request = replace(self.request, replayable=False)
        with deciding:
            step = call.failed(clock.monotonic(), verdict, error)
        flush(call)
        return self._noted(step)

    def late(self, error: BaseException | None) -> TimeoutError:
        """Return the error of an attempt that was interrupted at its limit, which was `error`."""
        assert self._attempt is not None
        late = too_late(self._attempt, self.call)
        late.__cause__ = error
        return late

    # -- while an opened body is read ----------------------------------------------------

    @property
    def open(self) -> bool:
        """Whether a body is being read: neither ended, failed nor closed."""
        return self._call is not None and self._call.phase is Phase.COMMITTED

    @property
    def span(self) -> float:
        """The usual limit of an attempt, in seconds; infinite without one."""
        return self._policy._span

    @property
    def body_span(self) -> float:
        """The usual limit of a read, in seconds; infinite without one."""
        return self._policy._shape.limit

    def body_limit(self, now: float) -> float:
        """Return the seconds that the next read may take: of the Timeout, or what is left."""
        left = self.call.expires - now
        return min(self._policy._shape.limit, max(left, 0.0))

    @property
    def cut(self) -> bool:
        """Whether the guard ended the connection: an end of the body is then no end of it."""
        return self._guard is not None and self._guard.fired

    def body_late(self, error: BaseException) -> TimeoutError:
        """Return the error of a read that was interrupted at its limit, which was `error`."""
        limit = self._policy._shape.limit
        # Loops round timers to milliseconds, so an alarm may go off that much too early.
        final = limit == math.inf or self.call.expires - clock.monotonic() < _EARLY
        late = too_late(Attempt(self.call.attempts, limit, final), self.call)
        late.__cause__ = error
        return late

    def body_failed(self, error: BaseException) -> BaseException:
        """Take the failure of a read; return what to raise, with its note."""
        guard = self._guard
        if guard is not None and guard.over and isinstance(error, Exception):
            error = self.body_late(error)
        self._unguard()
        if not self.open:
            return error
        verdict = self._policy._verdict(error, self.call, connecting=False)
        if verdict.kind is Kind.CANCELLED:
            abandon(self.call)
            return error
        step = self._told(replace(verdict, sent=Sent.YES), error)
        assert type(step) is GiveUp
        return final_error(self.call, step, error, clock.monotonic())

    def body_closed(self) -> None:
        """Take the end of the body, or that its reader wants no more: the answer was good."""
        self._unguard()
        if self.open:
            succeeded(self.call)

    def release(self) -> None:
        """Leave the loop: without a body that is still open, whatever is held comes back."""
        if not self.open:
            self.abandon()

    def abandon(self) -> None:
        """End without a result; nothing happens if it has ended already."""
        self._unguard()
        if not self._over:
            abandon(self.call)

    def _unguard(self) -> None:
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.close()

    # -- the end -------------------------------------------------------------------------

    def ended(self, step: GiveUp, last: Try | None) -> Any:
        """Return the last response, or raise: what giving up means to the caller."""
        call, shape = self.call, self._policy._shape
        fallback = shape.fallback
        error = None if last is None else last.error
        answer = None if last is None else last.answer
        if step.error is None and answer is not None:
            matcher = shape.fallback_on
            if fallback is None or matcher is None or not matcher.matches(call.verdicts[-1], None):
                return answer.response
            return fallback.value(answer.response) if callable(fallback.value) else fallback.value
        final = final_error(call, step, error, clock.monotonic())
        if fallback is None or not has_fallback(shape, final, self._policy._verdict(final, call)):
            raise final
        return fallback.value(final) if callable(fallback.value) else fallback.value
