"""The synchronous loop of an adapter. Compare with `aio`: they differ by `await`.

An adapter gives a `Sender`, made per logical call, and gets back the response to return to
its library's caller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

from holdfast.clients.exchange import Answer, Exchange, Try
from holdfast.core.call import Attempt, GiveUp, Wait
from holdfast.runtime.clock import clock
from holdfast.runtime.scope import scope
from holdfast.runtime.sync import pause

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from holdfast.runtime.policy import Policy
    from holdfast.wire.watchdog import Guard

R = TypeVar("R")

First: TypeAlias = "tuple[float, Guard | None]"
"""When an attempt began, and its guard."""


class Sender(Protocol[R]):
    """What the synchronous loop needs of a client library."""

    def send(self, this: Try) -> Answer[R]:
        """Send the request once, within `this.limit`, and return the answer.

        Bodies that are to be buffered are read here, so that a cut is a failed attempt.
        Raises what the library raises, with nothing left open.
        """
        ...

    def discard(self, answer: Answer[R]) -> None:
        """Get rid of an answer that will not be returned: read up to DRAIN bytes, else close.

        Called only if it is not complete. Must not raise.
        """

    def hold(self, answer: Answer[R], exchange: Exchange) -> R:
        """Return the response with a body that tells `exchange` how its reading went."""
        ...


def refuse_hedge(policy: Policy, where: str) -> None:
    """Raise TypeError if `policy` hedges: no copy of a blocking request can be cancelled."""
    if policy._shape.hedge is not None:
        raise TypeError(
            f"`{policy.name}` has a Hedge, which is for asynchronous clients only: "
            f"leave Hedge out for `{where}`"
        )


def run(exchange: Exchange, sender: Sender[R], first: First | None = None) -> R:
    """Make the logical call and return its response; raise what the policy decides to raise.

    first: of a first attempt that has been made; the first `send` gives what it came to.
    """
    this: Try | None = None
    try:
        step = exchange.next()
        while True:
            if type(step) is Attempt:
                this = _attempt(exchange, sender, step, first)
                first = None
                answer: Answer[R] | None = this.answer
                if answer is None:
                    assert this.error is not None
                    step = exchange.failed(this.error, this)
                    continue
                following = exchange.answered(answer, this)
                if following is None:
                    return answer.response if answer.complete else sender.hold(answer, exchange)
                if type(following) is Wait and not answer.complete:
                    sender.discard(answer)
                step = following
            elif type(step) is Wait:
                pause(step)
                step = exchange.next()
            else:
                break
        assert type(step) is GiveUp
        response: R = exchange.ended(step, this)
        return response
    finally:
        exchange.release()
        this = None  # no cycle through the traceback


def _attempt(exchange: Exchange, sender: Sender[R], step: Attempt, first: First | None) -> Try:
    """Send; and once more, on a fresh connection, if the one that was kept alive was stale."""
    if first is None:
        expires = clock.monotonic() + step.timeout
        guard = exchange.guard(step.timeout)
    else:
        since, guard = first
        expires = since + step.timeout
        exchange.guarded(guard)
    this = Try(step.no, step.timeout, guard)
    token = exchange.enter(expires)
    try:
        while True:
            try:
                answer = sender.send(this)
                if guard is None or not guard.fired:
                    this.answer = answer
                    return this
                # Where the end of the connection ends the body, it was our own doing.
                this.error = exchange.late(None)
                if not answer.complete:
                    sender.discard(answer)
            except BaseException as error:  # noqa: BLE001 - the machine decides about all of them
                # `over`: a timeout of the library's own, set to the same moment, may be faster.
                if guard is not None and guard.over and isinstance(error, Exception):
                    this.error = exchange.late(error)
                elif exchange.may_resend(error, this, expires):
                    this = Try(step.no, expires - clock.monotonic(), guard, fresh=True)
                    continue
                else:
                    this.error = error
            return this
    finally:
        scope.reset(token)
        del this  # the traceback of its error holds this frame: no cycle


def reading(exchange: Exchange, pieces: Iterable[bytes]) -> Generator[bytes]:
    """Give the pieces of an opened body, and tell `exchange` how that went.

    A read that fails raises its error with the note of the call; one that was ended by the
    deadline raises DeadlineExceeded. Closing it early counts as success of the call.
    """
    try:
        yield from pieces
        if exchange.cut:
            raise EOFError("the connection was ended at the limit")  # noqa: TRY301 - as a failed read
    except GeneratorExit:
        raise
    except BaseException as error:
        failure = exchange.body_failed(error)
        if failure is error:
            raise
        raise failure from error
    finally:
        exchange.body_closed()
