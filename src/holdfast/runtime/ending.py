"""How a logical call ends: the error that is raised, the fallback, the outcome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast.core.errors import DeadlineExceeded
from holdfast.core.verdict import Sent, Verdict

if TYPE_CHECKING:
    from holdfast.core.call import Attempt, Call, GiveUp
    from holdfast.core.policy import Shape

_WORDS = {
    "attempts": "no attempts left",
    "permanent": "not worth repeating",
    "not_idempotent": "it may have been executed and must not be repeated",
    "body_not_replayable": "its body cannot be sent again",
    "budget": "retry budget empty",
    "deadline": "no time left for another",
    "retry_after_too_long": "the server asks to wait longer than there is time",
    "rejected": "refused",
    "committed": "the stream had begun",
    "nested": "a policy outside does the retrying",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a logical call ended, as a value.

    value: what it returned; None if it failed.  error: what would have been raised; None if it
    succeeded.  attempts: how many were made.  waited: seconds of backoff and rate limit.
    verdicts: of the failed attempts (the last 100).  reason: why it gave up; empty after a
    success.  sent: whether the last attempt may have been executed.  retry_after: seconds
    after which trying again makes sense, if that is known.
    """

    value: Any
    error: BaseException | None
    attempts: int
    waited: float
    verdicts: tuple[Verdict, ...]
    reason: str
    sent: Sent
    retry_after: float | None

    @property
    def ok(self) -> bool:
        """Whether it succeeded; a fallback's value counts as success."""
        return self.error is None


def outcome_of(call: Call, value: object, error: BaseException | None) -> Outcome:
    """Return the outcome of a call that has ended."""
    sent = Sent.YES
    if error is not None or not call.attempts:
        sent = call.verdicts[-1].sent if call.verdicts else Sent.NO
    return Outcome(
        value=value,
        error=error,
        attempts=call.attempts,
        waited=call.waited,
        verdicts=tuple(call.verdicts),
        reason=call.reason,
        sent=sent,
        retry_after=call.retry_after,
    )


def final_error(call: Call, step: GiveUp, error: BaseException | None, now: float) -> BaseException:
    """Return what to raise: our own decision with its cause, or the last failure with a note."""
    if step.error is not None:
        step.error.__cause__ = error
        return step.error
    assert error is not None
    times = "1 attempt" if call.attempts == 1 else f"{call.attempts} attempts"
    error.add_note(f"{times} in {now - call.started:.3g} s; {_WORDS[step.reason]}")
    return error


def too_late(step: Attempt, call: Call) -> TimeoutError:
    """Return the error of an attempt that was interrupted at its limit."""
    if step.final:
        span = max(0.0, call.expires - call.started)  # below 0: it had passed before the call
        return DeadlineExceeded(f"the deadline passed after {span:.3g} s, during an attempt")
    return TimeoutError(f"the attempt took longer than {step.timeout:.3g} s")


def has_fallback(shape: Shape, error: BaseException, verdict: Verdict) -> bool:
    """Say whether the policy's fallback replaces this error."""
    return shape.fallback_on is not None and shape.fallback_on.matches(verdict, error)
