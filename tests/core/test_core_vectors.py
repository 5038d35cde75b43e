"""Other people's test vectors of a retry policy, through our public API.

The vectors are of the AWS SDKs' standard retry mode, older and newer. Their randomness is a
constant 1, their responses are scripted; what is compared: every delay, what is left in the
retry quota after every step, and why each call ended.
"""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import holdfast as hf
from holdfast.core.classify import verdict_for_status
from holdfast.core.events import Event, Waited

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OUTCOMES = {
    "success": "",
    "max_attempts_exceeded": "attempts",
    "retry_quota_exceeded": "budget",
    "fail_request": "permanent",
}


class Answer(Exception):
    """An answer of the scripted service that is no success."""

    def __init__(self, response: dict[str, Any]) -> None:
        super().__init__(response)
        self.response = response


def classify(error: object) -> hf.Verdict | None:
    if not isinstance(error, Answer):
        return None
    response = error.response
    return verdict_for_status(
        response["status_code"],
        response.get("headers"),
        now_wall=0,
        provider="aws",
        code=response.get("error_code"),
    )


def policy_for(given: dict[str, Any], *, transient_cost: float, fixed_base: bool) -> hf.Policy:
    """Configure a policy as the vector's `given` says.

    fixed_base: `exponential_base` is the base in seconds (older vectors); in the newer ones it
    is the value that replaces the random factor, and the bases are 50 ms and 1 s.
    """
    backoff = hf.Exponential(
        base=given["exponential_base"] if fixed_base else None,
        cap=given.get("max_backoff_time", 20),
        factor=given.get("exponential_power", 2),
    )
    tokens = given.get("initial_retry_tokens", 500)
    return hf.policy(
        hf.Retry(
            given.get("max_attempts", 3),
            backoff=backoff,
            budget=hf.Budget(capacity=tokens, transient=transient_cost),
            long_poll=given.get("long_polling", False),
        ),
        classify=classify,
    )


@contextmanager
def waits_of(policy: hf.Policy) -> Iterator[list[Waited]]:
    """Collect the waits of `policy`."""
    found: list[Waited] = []

    def note(event: Event) -> None:
        if isinstance(event, Waited) and event.policy == policy.name:
            found.append(event)

    stop = hf.subscribe(note)
    try:
        yield found
    finally:
        stop()


def play(policy: hf.Policy, steps: list[dict[str, Any]], waits: list[Waited]) -> None:
    """Let one caller get the scripted answers, call after call, and compare every step."""
    script = iter(steps)

    def service() -> int:
        step = next(script)
        if step["response"]["status_code"] == 200:
            return 200
        raise Answer(step["response"])

    while rest := list(script):
        script = iter(rest)
        seen = len(waits)
        outcome = policy.outcome(service)
        played = rest[: outcome.attempts]
        # A call's retries, then its end.
        for step, wait in zip(played[:-1], waits[seen:], strict=False):
            compare_wait(step["expected"], wait)
        last = played[-1]["expected"]
        assert outcome.reason == OUTCOMES[last["outcome"]]
        assert outcome.ok is (last["outcome"] == "success")
        if "delay" in last:  # a long poll that may not repeat waits all the same
            assert waits[-1].seconds == pytest.approx(last["delay"])
        extra = 1 if "delay" in last else 0
        assert len(waits) - seen == len(played) - 1 + extra
        if "retry_quota" in last:
            assert policy.state()["budget"] == last["retry_quota"]


def compare_wait(expected: dict[str, Any], wait: Waited) -> None:
    assert expected["outcome"] == "retry_request"
    if "delay" in expected:
        assert wait.seconds == pytest.approx(expected["delay"])
    if "retry_quota" in expected:
        assert wait.budget_left == expected["retry_quota"]


def run(policy: hf.Policy, steps: list[dict[str, Any]]) -> None:
    with hf.testing.clock() as clock, waits_of(policy) as waits:
        clock.random(1.0)
        play(policy, steps, waits)
        assert clock.slept == [wait.seconds for wait in waits]


def test_the_standard_mode_as_smithy_specifies_it(vectors: Path) -> None:
    cases = json.loads((vectors / "smithy_standard_retry.json").read_text())["spec_tests"]
    for case in cases:
        policy = policy_for(case["given"], transient_cost=14, fixed_base=False)
        run(policy, case["responses"])
    assert len(cases) == 8


def yaml_cases(vectors: Path, name: str) -> dict[str, dict[str, Any]]:
    file = vectors / "aws-retries" / f"{name}RetryIntegrationTestResources.json"
    return {
        case: yaml.safe_load(text)
        for case, text in json.loads(file.read_text())["cases_yaml"].items()
    }


def test_the_standard_mode_before_2026_by_configuration(vectors: Path) -> None:
    cases = yaml_cases(vectors, "Standard")
    for case in cases.values():
        policy = policy_for(case["given"], transient_cost=5, fixed_base=True)
        run(policy, case["responses"])
    assert len(cases) == 5


def test_the_new_standard_mode(vectors: Path) -> None:
    cases = yaml_cases(vectors, "NewStandard")
    single = {name: case for name, case in cases.items() if "responses" in case}
    for case in single.values():
        policy = policy_for(case["given"], transient_cost=14, fixed_base=False)
        run(policy, case["responses"])
    assert len(single) == 17
    assert set(cases) - set(single) == {"Shared multi-threaded scenarios"}


def test_two_threads_share_one_quota(vectors: Path) -> None:
    case = yaml_cases(vectors, "NewStandard")["Shared multi-threaded scenarios"]
    policy = policy_for(case["given"], transient_cost=14, fixed_base=False)
    first, second = case["threads"]
    with hf.testing.clock() as clock, waits_of(policy) as waits:
        clock.random(1.0)
        script = iter(first)
        failed: list[BaseException] = []

        def other() -> None:
            try:
                play(policy, second, waits)
            except BaseException as error:
                failed.append(error)

        def service() -> int:
            step = next(script)
            if step["response"]["status_code"] != 200:
                raise Answer(step["response"])
            # The quotas that are expected tell the order: the second thread comes and goes
            # while the first one's last attempt is under way.
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
            return 200

        outcome = policy.outcome(service)
    assert not failed, failed
    assert (outcome.ok, outcome.attempts) == (True, 3)
    for step, wait in zip(first[:-1], waits, strict=False):
        compare_wait(step["expected"], wait)
    assert policy.state()["budget"] == first[-1]["expected"]["retry_quota"]
    assert policy.state()["budget"] == case["expected_final_quota"]


# kind, base, the same throttled, cost, the same throttled
TIMINGS = {"timing_2026": (None, None, 14, 5), "timing_pre2026": (0.1, 0.5, 10, 5)}


@pytest.mark.parametrize("era", TIMINGS)
def test_the_timing_tables_of_smithy(vectors: Path, era: str) -> None:
    base, throttled, cost, throttled_cost = TIMINGS[era]
    cases = json.loads((vectors / "smithy_standard_retry.json").read_text())[era]
    for case in cases:
        rows = case["timings"]
        backoff = hf.Exponential(base=base, throttled=throttled)
        # The first row is a token that has not been used: its delay is the transient base.
        assert backoff.bounds(1, hf.TRANSIENT).nominal * 1000 == pytest.approx(rows[0][3])
        kinds = iter([{"TRANSIENT": 500, "THROTTLING": 429}[row[0]] for row in rows[1:]])
        policy = hf.policy(
            hf.Retry(
                len(rows),
                backoff=backoff,
                budget=hf.Budget(transient=cost, throttled=throttled_cost),
                long_poll=case.get("scope") == ":longpoll",
            ),
            classify=classify,
        )

        def service(kinds: Iterator[int] = kinds) -> None:
            status = next(kinds, None)
            if status is not None:
                raise Answer({"status_code": status})

        with hf.testing.clock() as clock, waits_of(policy) as waits:
            clock.random(1.0)
            policy.call(service)
        quota = [500.0, *[wait.budget_left or 0 for wait in waits]]
        found = [
            (round(wait.seconds * 1000), before - after)
            for wait, before, after in zip(waits, quota, quota[1:], strict=False)
        ]
        assert found == [(row[3], row[2]) for row in rows[1:]], case["name"]
        assert [row[1] for row in rows] == list(range(len(rows)))
    assert len(cases) == {"timing_2026": 3, "timing_pre2026": 9}[era]
