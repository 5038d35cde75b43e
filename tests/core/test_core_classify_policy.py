"""What verdicts lead to, through a policy."""

from __future__ import annotations

import errno
import io
import urllib.error
from email.message import Message

import pytest

import holdfast as hf
from holdfast.core.classify import classify, verdict_for_status

PLAIN = hf.Exponential(base=1, cap=30, jitter="none")


def http_error(status: int, retry_after: str | None = None) -> urllib.error.HTTPError:
    headers = Message()
    if retry_after is not None:
        headers["Retry-After"] = retry_after
    return urllib.error.HTTPError("http://a/", status, "text", headers, io.BytesIO())


@pytest.mark.parametrize(
    "error",
    [TimeoutError(), ConnectionResetError(errno.ECONNRESET, "text"), http_error(503)],
)
def test_what_passes_is_repeated_with_waits_of_1_2_4(error: Exception) -> None:  # T2
    def call() -> None:
        raise error

    with hf.testing.clock() as clock:
        outcome = hf.policy(hf.Retry(4, backoff=PLAIN)).outcome(call)
        assert clock.slept == [1, 2, 4]
    assert (outcome.attempts, outcome.reason) == (4, "attempts")


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404])
def test_what_stays_wrong_is_not_repeated(status: int) -> None:  # T2
    def call() -> None:
        raise http_error(status)

    outcome = hf.policy(hf.Retry(4, backoff=PLAIN)).outcome(call)
    assert (outcome.attempts, outcome.reason) == (1, "permanent")


def test_a_servers_hint_is_waited_for_plus_up_to_a_tenth() -> None:
    answers = iter([http_error(503, "7"), None])

    def call() -> None:
        error = next(answers)
        if error is not None:
            raise error

    with hf.testing.clock() as clock:
        clock.random(0.5)
        hf.policy(hf.Retry(2)).call(call)
        assert clock.slept == [pytest.approx(7 * 1.05)]


def test_without_free_descriptors_the_breaker_does_not_move() -> None:  # A4
    policy = hf.policy(hf.Breaker(consecutive=3))

    def call() -> None:
        raise OSError(errno.EMFILE, "text")

    for _ in range(50):
        policy.outcome(call)
    assert policy.state()["circuit"] == "closed"


class KlingError(Exception):
    def __init__(self, status: int, code: int) -> None:
        super().__init__(status, code)
        self.status = status
        self.code = code


def kling(error: object) -> hf.Verdict | None:
    if not isinstance(error, KlingError):
        return None
    return verdict_for_status(error.status, None, now_wall=0, provider="kling", code=error.code)


def test_klings_full_slots_are_waited_for_and_its_empty_account_is_not() -> None:  # A4
    answers = [1303] * 5

    def submit() -> str:
        if answers:
            raise KlingError(429, answers.pop())
        return "task"

    def broke() -> None:
        raise KlingError(429, 1102)

    policy = hf.policy(hf.Retry(6), hf.Breaker(consecutive=3), classify=kling)
    with hf.testing.clock() as clock:
        clock.random(0.0)
        assert policy.call(submit) == "task"
        assert len(clock.slept) == 5
        assert all(wait >= 1 for wait in clock.slept)
        outcome = policy.outcome(broke)
    assert (outcome.attempts, outcome.reason) == (1, "permanent")
    assert policy.state()["circuit"] == "closed"


def test_a_name_that_is_not_there_is_tried_twice() -> None:
    class NoSuchName(Exception):
        verdict = hf.Verdict(hf.CONNECT, hf.Sent.NO, max_retries=1)

    def call() -> None:
        raise NoSuchName

    with hf.testing.clock():
        outcome = hf.policy(hf.Retry(5)).outcome(call)
    assert outcome.attempts == 2


def test_a_refusal_inside_is_a_refusal_outside() -> None:
    inner = hf.policy(hf.Breaker(consecutive=1, open_for=5))

    def fail() -> None:
        raise ConnectionResetError

    inner.outcome(fail)
    refused = inner.outcome(fail)
    assert isinstance(refused.error, hf.CircuitOpen)
    verdict = classify(refused.error)
    assert (verdict.kind, verdict.sent, verdict.local) == (hf.CONCURRENCY, hf.Sent.NO, True)
    assert verdict.retry_after == refused.error.retry_after
