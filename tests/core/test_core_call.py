"""The machine of one logical call, driven by hand: every phase, every refusal, every end."""

from __future__ import annotations

import itertools
import math

import pytest

import holdfast as hf
from holdfast.core.call import TRANSITIONS, Attempt, Call, GiveUp, Input, Phase, Wait
from holdfast.core.deadline import OUTSIDE
from holdfast.core.policy import Lane, compile_shape
from holdfast.core.retry import Request
from holdfast.core.verdict import Hint, Sent, Verdict

DROP = Verdict(hf.TRANSIENT, Sent.MAYBE, "ECONNRESET")
PLAIN = hf.Exponential(base=1, jitter="none")


def begin(*parts, request=None, scope=OUTSIDE, lane=None, now=0.0):
    shape = compile_shape(parts)
    lane = lane or Lane(shape, "")
    return Call(shape, lane, now, scope, request=request, draw=lambda: 0.5, watched=True)


def fail(call, *verdicts, at=0.0):
    """Fail attempts with `verdicts` in turn, obeying every wait; return the last step."""
    step = None
    for verdict in verdicts:
        while not isinstance(step, Attempt):
            step = call.next(at)
            if isinstance(step, Wait):
                at += step.seconds
        step = call.failed(at, verdict)
    return step


# -- phases ------------------------------------------------------------------------------


@pytest.mark.parametrize(("phase", "what"), list(itertools.product(Phase, Input)))
def test_each_cell_of_the_table_moves_or_is_a_drivers_mistake(phase, what):
    call = begin(hf.Retry(2))
    call.phase = phase
    if (phase, what) in TRANSITIONS:
        call._go(what)
        assert call.phase is TRANSITIONS[phase, what]
    else:
        with pytest.raises(RuntimeError, match=f"{what.name} in phase {phase.name}"):
            call._go(what)


def test_an_ended_call_answers_nothing_any_more():
    call = begin(hf.Retry(2))
    call.next(0)
    call.succeeded(0)
    for ask in (call.next, call.succeeded, lambda now: call.failed(now, DROP)):
        with pytest.raises(RuntimeError):
            ask(1)
    call.abandoned(1)  # harmless: drivers do it in every `finally`
    assert call.phase is Phase.DONE


def test_asking_too_early_only_says_how_long_is_left():
    call = begin(hf.Retry(3, backoff=PLAIN))
    assert fail(call, DROP) == Wait(1.0, "backoff")
    assert call.next(0.25) == Wait(0.75, "backoff")
    assert call.next(1.0) == Attempt(2, math.inf, final=True)


# -- what ends it ------------------------------------------------------------------------


def test_each_reason_for_giving_up_is_named():
    permanent = Verdict(hf.PERMANENT, Sent.YES)
    post = Request(method="POST")
    once = Request(method="PUT", replayable=False)
    endings = {
        "attempts": fail(begin(hf.Retry(2)), DROP, DROP),
        "permanent": fail(begin(hf.Retry(2)), permanent),
        "not_idempotent": fail(begin(hf.Retry(2), request=post), DROP),
        "body_not_replayable": fail(begin(hf.Retry(2), request=once), DROP),
        "budget": fail(begin(hf.Retry(2, budget=hf.Budget(capacity=1))), DROP),
        "deadline": fail(begin(hf.Deadline(0.5), hf.Retry(2, backoff=PLAIN)), DROP),
        "retry_after_too_long": fail(
            begin(hf.Deadline(5), hf.Retry(2)), Verdict(hf.THROTTLED, retry_after=60)
        ),
        "nested": fail(begin(hf.Retry(2), scope=(math.inf, True)), DROP),
    }
    assert {name: step.reason for name, step in endings.items()} == {n: n for n in endings}
    assert all(step.error is None for step in endings.values())  # the failure itself is raised
    assert endings["retry_after_too_long"].retry_after == 60


def test_the_gate_is_asked_before_on_and_on_before_the_attempts():
    post = Request(method="POST")
    unsent = Verdict(hf.PERMANENT, Sent.MAYBE)
    assert fail(begin(hf.Retry(1), request=post), unsent).reason == "not_idempotent"
    assert fail(begin(hf.Retry(1)), unsent).reason == "permanent"


@pytest.mark.parametrize(
    "verdict",
    [
        Verdict(hf.CONNECT, Sent.NO),
        Verdict(hf.TIMEOUT, Sent.YES, not_executed=True),  # 408
        Verdict(hf.THROTTLED, Sent.YES),
        Verdict(hf.CONCURRENCY, Sent.YES),
    ],
    ids=["unsent", "408", "429", "423"],
)
def test_what_was_not_executed_is_repeated_whatever_the_method(verdict):
    assert isinstance(fail(begin(hf.Retry(2), request=Request(method="POST")), verdict), Wait)


def test_an_idempotency_key_makes_any_method_repeatable():
    call = begin(hf.Retry(2, idempotency_key=True), request=Request(method="POST"))
    assert isinstance(fail(call, DROP), Wait)


def test_an_unknown_failure_is_repeated_only_if_named_and_then_once():
    unknown = Verdict(hf.UNKNOWN)
    assert fail(begin(hf.Retry(5)), unknown).reason == "permanent"
    named = begin(hf.Retry(5, on=hf.UNKNOWN))
    assert fail(named, unknown, unknown).reason == "attempts"
    assert named.attempts == 2


def test_an_unknown_failure_whose_type_is_named_gets_every_attempt():
    class Mine(Exception):
        pass

    call = begin(hf.Retry(4, on=Mine))
    now = 0.0
    while True:
        step = call.next(now)
        if isinstance(step, Wait):
            now += step.seconds
            continue
        step = call.failed(now, Verdict(hf.UNKNOWN, max_retries=1), Mine())
        if isinstance(step, GiveUp):
            break
    assert (call.attempts, step.reason) == (4, "attempts")


def test_a_cause_with_its_own_limit_gets_no_more_retries_than_that():
    no_such_name = Verdict(hf.CONNECT, Sent.NO, max_retries=1)
    call = begin(hf.Retry(9))
    assert fail(call, no_such_name, no_such_name).reason == "attempts"


def test_on_takes_exception_types_beside_kinds():
    call = begin(hf.Retry(2, on=(hf.THROTTLED, KeyError)))
    call.next(0)
    assert isinstance(call.failed(0, Verdict(hf.PERMANENT), KeyError("x")), Wait)
    other = begin(hf.Retry(2, on=(hf.THROTTLED, KeyError)))
    other.next(0)
    assert other.failed(0, DROP, ConnectionResetError()).reason == "permanent"


# -- time --------------------------------------------------------------------------------


def test_a_call_that_begins_late_makes_no_attempt():
    call = begin(hf.Retry(2), scope=(5.0, False), now=5.0)
    step = call.next(5.0)
    assert isinstance(step.error, hf.DeadlineExceeded)
    assert call.attempts == 0


def test_the_limit_of_an_attempt_is_the_smaller_of_timeout_and_rest():
    call = begin(hf.Deadline(12), hf.Retry(2, backoff=PLAIN), hf.Timeout(10))
    assert call.next(0) == Attempt(1, 10, final=False)
    call.failed(5, DROP)
    assert call.next(6) == Attempt(2, 6, final=True)


def test_no_attempt_is_made_that_usually_would_not_fit():
    shape = compile_shape((hf.Deadline(1), hf.Retry(2, backoff=hf.Constant(0.0))))
    lane = Lane(shape, "")
    for n in range(20):
        call = Call(shape, lane, n * 10.0, OUTSIDE, draw=lambda: 0.5)
        call.next(n * 10.0)
        call.succeeded(n * 10.0 + 0.8)
    call = Call(shape, lane, 500.0, OUTSIDE, draw=lambda: 0.5)
    call.next(500.0)
    assert call.failed(500.8, DROP).reason == "deadline"


def test_a_server_hint_is_a_lower_bound_of_the_wait():
    hinted = Verdict(hf.THROTTLED, Sent.YES, retry_after=7)
    call = begin(hf.Retry(2))
    assert fail(call, hinted) == Wait(7 * 1.05, "retry_after")  # a tenth of jitter, drawn 0.5


def test_the_aws_hint_adds_at_most_five_seconds():
    hinted = Verdict(hf.TRANSIENT, retry_after=100, hint=Hint.AWS)
    assert fail(begin(hf.Retry(2, backoff=PLAIN)), hinted) == Wait(6.0, "retry_after")


def test_long_poll_waits_once_more_although_the_budget_is_empty():
    call = begin(hf.Retry(3, backoff=PLAIN, budget=hf.Budget(capacity=0), long_poll=True))
    assert fail(call, DROP) == Wait(1.0, "backoff")
    assert call.next(1.0) == GiveUp("budget", None)
    assert call.attempts == 1


# -- progress and streams ----------------------------------------------------------------


def test_progress_starts_attempts_and_backoff_afresh():
    call = begin(hf.Retry(3, backoff=PLAIN, budget=None))
    now = 0.0
    for _ in range(50):
        step = call.next(now)
        assert isinstance(step, Attempt)
        call.progressed()
        step = call.failed(now, DROP)
        assert step == Wait(1.0, "backoff")
        now += 1
    assert fail(call, DROP, DROP, at=now).reason == "attempts"


def test_drops_after_progress_do_not_open_the_breaker():
    shape = compile_shape((hf.Retry(3, budget=None), hf.Breaker(consecutive=2)))
    lane = Lane(shape, "")
    call = Call(shape, lane, 0.0, OUTSIDE, draw=lambda: 0.0)
    for now in range(10):
        assert isinstance(call.next(float(now)), Attempt)
        call.progressed()
        call.failed(float(now), DROP)
    assert lane.breaker.state.value == "closed"


def test_a_committed_stream_is_not_repeated_unless_it_can_resume():
    call = begin(hf.Retry(3))
    call.next(0)
    call.committed(0.0, resumable=False)
    assert call.failed(0, DROP).reason == "committed"
    resumed = begin(hf.Retry(3))
    resumed.next(0)
    resumed.committed(0.0, resumable=True)
    assert isinstance(resumed.failed(0, DROP), Wait)


def test_the_duration_of_a_stream_is_the_time_to_its_first_item():
    shape = compile_shape([hf.Retry(3)])
    lane = Lane(shape, "")
    for _ in range(20):
        call = begin(hf.Retry(3), lane=lane)
        call.next(0)
        call.committed(0.25, resumable=False)
        call.committed(30.0, resumable=False)
        call.succeeded(60.0)
    assert lane.durations.median() == 0.25


# -- permits -----------------------------------------------------------------------------


def test_a_wait_between_attempts_holds_no_inner_permit_but_every_outer_one():
    shape = compile_shape((hf.Bulkhead(5), hf.Retry(2), hf.Breaker()))
    lane = Lane(shape, "")
    call = Call(shape, lane, 0.0, OUTSIDE, draw=lambda: 0.5)
    call.next(0)
    call.failed(0, DROP)
    assert call.phase is Phase.WAITING
    assert lane.bulkhead.active == 1
    call.abandoned(0)
    assert lane.bulkhead.active == 0


def test_a_refusal_further_in_gives_back_what_was_taken_further_out():
    shape = compile_shape((hf.Retry(2), hf.Bulkhead(5), hf.Breaker(consecutive=1)))
    lane = Lane(shape, "")
    first = Call(shape, lane, 0.0, OUTSIDE, draw=lambda: 0.5)
    first.next(0)
    first.failed(0, DROP)  # opens it
    second = Call(shape, lane, 0.0, OUTSIDE, draw=lambda: 0.5)
    step = second.next(0)
    assert isinstance(step.error, hf.CircuitOpen)
    assert lane.bulkhead.active == 0


def test_a_probe_that_is_refused_further_in_is_not_held_against_the_backend():
    parts = (hf.Deadline(1), hf.Retry(2), hf.Breaker(consecutive=1), hf.RateLimit(1, 100, burst=1))
    shape = compile_shape(parts)
    lane = Lane(shape, "")
    first = Call(shape, lane, 0.0, OUTSIDE, draw=lambda: 0.5)
    first.next(0)
    first.failed(0, DROP)  # opens it, and the one slot of 100 s is used
    probe = Call(shape, lane, 6.0, OUTSIDE, draw=lambda: 0.5)
    assert isinstance(probe.next(6.0).error, hf.RateLimited)
    assert lane.breaker.state.value == "half-open"
    assert lane.breaker.probes_out == 0


def test_verdicts_are_kept_up_to_a_bound():
    call = begin(hf.Retry(2, budget=None, backoff=hf.Constant(0.0)))
    for now in range(250):
        call.next(float(now))
        call.progressed()
        call.failed(float(now), DROP)
    assert call.attempts == 250
    assert len(call.verdicts) == 100


def test_a_deadline_that_had_passed_before_the_call_says_so_without_a_negative_time():
    call = begin(hf.Retry(2), scope=(-2.0, False))
    step = call.next(0.0)
    assert step.reason == "deadline"
    assert "after 0 s" in str(step.error)
