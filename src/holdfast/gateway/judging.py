"""What is to be done with an answer of which nothing was given, or that does not come.

    WHOLE       all of it came, and it is good
    GO_ON       the client gets what there is, and what follows as it comes
    ENOUGH      no more of it can be held: it is passed on, or refused by its status alone
    Refusal     it says: not here, or not now; see `refusals`
    Failure     the attempt has come to nothing
    a time      wait until then

Decisions only: who asks for one acts on it.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

from holdfast.core.breaker import Result
from holdfast.core.verdict import Sent
from holdfast.gateway.refusals import Refusal, codes_of, refusal_of, status_of
from holdfast.gateway.sse import Meaning
from holdfast.gateway.states import ANSWERING, CONNECTING, PASSING, SENDING, SENT
from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    from holdfast.gateway.answering import Passage
    from holdfast.gateway.attempt import Attempt
    from holdfast.gateway.states import State

LOOK_SECONDS = 1.0
"""How often a request that waits for its answer is compared with what others take by now."""
HOLD_SECONDS = 0.25
"""For how long an answer that is no JSON is held from its first byte on."""

PATIENT = 0.9
"""An attempt that took so much of the total time has failed when that is over."""


class Judgement(enum.Enum):
    """What is to be done with an answer: see above."""

    WHOLE = "whole"
    GO_ON = "go on"
    ENOUGH = "enough"


class Failure(NamedTuple):
    """How an attempt has come to nothing.

    sent: whether the request reached the endpoint; None: as far as its state tells.
    neutral: that says nothing of the endpoint.
    """

    reason: str
    sent: Sent | None = None
    neutral: bool = False


Judged = Judgement | Refusal | Failure | float


def judge(attempt: Attempt, passage: Passage, out: list[bytes], now: float) -> Judged:
    """Keep what came of an answer, and say what is to be done with it."""
    config, status = attempt.request.cluster.config, passage.head.status
    meaning = passage.hold(out)
    if meaning is Meaning.ERROR:
        refusal = refusal_in(attempt, passage, codes_of(passage.error) or frozenset({"api_error"}))
        if refusal is not None:
            return refusal
    if attempt.is_whole:
        return judge_whole(attempt, passage)
    if meaning is None and passage.size > config.buffer_max:
        return Judgement.ENOUGH
    if meaning is not None or (passage.is_stream and status < 400 and not passage.watched):
        return Judgement.GO_ON
    if passage.watched:
        content = attempt.request.sent_at + config.first_content_timeout
        return min(content, now + attempt.idle_timeout)
    return now + attempt.idle_timeout if passage.is_json else attempt.first_byte + HOLD_SECONDS


def judge_whole(attempt: Attempt, passage: Passage) -> Judged:
    """Say what is to be done with an answer that has come to its end."""
    if passage.head.status >= 400 or passage.may_be_error(attempt.request.profile):
        refusal = refusal_in(attempt, passage, passage.codes())
        if refusal is not None:
            return refusal
    return Judgement.WHOLE if passage.has_ended else Failure("cut")


def refusal_in(
    attempt: Attempt, passage: Passage, codes: frozenset[str] = frozenset()
) -> Refusal | None:
    """Say whether, and how, an answer refuses. codes: of the error that it carries."""
    status = passage.head.status
    if status < 400:
        if not codes:
            return None
        status = status_of(codes)
    return refusal_of(
        status,
        codes,
        passage.head.fields,
        own_key=bool(attempt.upstream.config.keys),
        now_wall=clock.wall(),
    )


def judge_late(attempt: Attempt, state: State, now: float) -> Judged:
    """Say what is to be done about an attempt whose limit in a state has passed."""
    if state is CONNECTING:
        full = attempt.is_queued
        return Failure("no place" if full else "connect timeout", Sent.NO, neutral=full)
    if state is SENT:
        return _look_at_clock(attempt, now)
    if state is SENDING and not attempt.is_stalled:
        return now + attempt.idle_timeout
    if state is ANSWERING and attempt.passage is not None:
        return _held_too_long(attempt, attempt.passage, now)
    due = attempt.heard_at + attempt.idle_timeout  # pieces of a stream put no limit off
    return due if state is PASSING and now < due else Failure("timeout")


def _held_too_long(attempt: Attempt, passage: Passage, now: float) -> Judged:
    if passage.is_json or passage.watched or now < attempt.first_byte + HOLD_SECONDS:
        return Failure("no content" if passage.watched else "timeout")
    return Judgement.ENOUGH


def _look_at_clock(attempt: Attempt, now: float) -> Judged:
    """Compare the wait for the first byte with what it takes by now."""
    request = attempt.request
    seconds = request.cluster.first_byte_timeout(attempt.upstream, stream=request.stream)
    due = request.sent_at + seconds
    return Failure("timeout") if now >= due else min(due, now + LOOK_SECONDS)


def result_of_timeout(attempt: Attempt | None, state: State, now: float) -> Result:
    """Say what it says of an endpoint that the whole time of a request is over."""
    if attempt is None or state is PASSING:
        return Result.NEUTRAL
    # A client in a hurry proves nothing; one that had all the time there is, does.
    request = attempt.request
    patient = now - request.sent_at >= PATIENT * request.cluster.config.total_timeout
    # Nor does one whose body did not come.
    waits_for_client = state is SENDING and not attempt.is_stalled
    return Result.FAILED if patient and not waits_for_client else Result.NEUTRAL
