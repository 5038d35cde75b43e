"""The adaptive rate limit, against the vectors of the AWS SDKs and in a closed loop."""

from __future__ import annotations

import dis
import json
import math
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

import holdfast as hf
from holdfast.core.cubic import AdaptiveRate, Cubic
from holdfast.core.events import LimitChanged
from holdfast.core.ratelimit import LearningRate

if TYPE_CHECKING:
    from pathlib import Path


class Throttled(Exception):
    """What a service raises that wants less."""


def classify(error: object) -> hf.Kind | None:
    return hf.THROTTLED if isinstance(error, Throttled) else None


# -- vectors -----------------------------------------------------------------------------


def smithy(vectors: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((vectors / "aws_adaptive_cubic.json").read_text())
    return found


def kotlin(vectors: Path) -> dict[str, Any]:
    file = vectors / "aws-retries" / "AdaptiveRetryIntegrationTestResources.json"
    cases = json.loads(file.read_text())["cases_yaml"]
    return {name: yaml.safe_load(text) for name, text in cases.items()}


def follow(curve: Cubic, steps: list[tuple[float, bool, float]]) -> None:
    """Feed (time, throttled, rate expected) to the curve alone, and compare each rate."""
    rate = 0.0
    for now, throttled, expected in steps:
        rate = curve.cut(now, rate) if throttled else curve.grown(now)
        assert rate == pytest.approx(expected, rel=1e-6), now


def curve_after(wmax: str) -> Cubic:
    return Cubic(hf.RateLimit.adaptive(wmax=wmax), wmax=10, cut_at=5)


@pytest.mark.parametrize("wmax", ["before", "after"])
def test_successes_alone_follow_both_sets(vectors, wmax):
    rows = smithy(vectors)["cubic_successes(last_throttle=5.0,rate=10)"]
    steps = [(r["seconds_since_unix_epoch"], False, r["expected_calculated_rate"]) for r in rows]
    follow(curve_after(wmax), steps)
    case = kotlin(vectors)["Cubic success #1"]
    assert case["given"] == {"last_max_rate": 10, "last_throttle_time": 5}
    follow(
        curve_after(wmax), [(r["timestamp"], False, r["calculated_rate"]) for r in case["cases"]]
    )
    assert len(steps) == len(case["cases"]) == 7


def kotlin_throttles(vectors: Path) -> list[tuple[float, bool, float]]:
    rows = kotlin(vectors)["Cubic success #2"]["cases"]
    return [(r["timestamp"], r["response"] == "throttle", r["calculated_rate"]) for r in rows]


def smithy_throttles(vectors: Path) -> list[tuple[float, bool, float]]:
    rows = smithy(vectors)["cubic_throttles(last_throttle=5.0,rate=10)"]
    return [
        (r["seconds_since_unix_epoch"], r["throttled"], r["expected_calculated_rate"]) for r in rows
    ]


def test_after_a_throttle_the_sets_contradict_each_other_and_a_parameter_chooses(vectors):
    # The same input, other rates from the second throttled answer on (t=9: 6.607 and 4.670):
    # one set grows towards the rate before the cut, the other towards the rate after it. Ours
    # is "before", because the plateau of the curve is meant to lie where the trouble was.
    before, after = kotlin_throttles(vectors), smithy_throttles(vectors)
    assert [step[:2] for step in before] == [step[:2] for step in after]
    differing = [one[0] for one, other in zip(before, after, strict=True) if one != other]
    assert differing == [9, 10, 11, 12]
    assert hf.RateLimit.adaptive().wmax == "before"
    follow(curve_after("before"), before)
    follow(curve_after("after"), after)
    for wmax, steps in (("after", before), ("before", after)):
        with pytest.raises(AssertionError, match="9"):
            follow(curve_after(wmax), steps)


def test_the_measured_rate_and_the_bucket_follow_the_vectors_end_to_end(vectors):
    rows = smithy(vectors)["client_sending_rates"]
    steps = [
        (
            r["seconds_since_unix_epoch"],
            r["throttled"],
            r["expected_tokens_retrieved_per_second"],
            r["expected_token_refill_rate"],
        )
        for r in rows
    ]
    other = [
        (r["timestamp"], r["response"] == "throttle", r["measured_tx_rate"],
         r["new_token_bucket_rate"])
        for r in kotlin(vectors)["End-to-end test for client sending rates"]["cases"]
    ]  # fmt: skip
    assert len(steps) == len(other) == 17
    for script in (steps, other):
        state = AdaptiveRate(hf.RateLimit.adaptive())  # type: ignore[arg-type]  # same type
        for now, throttled, measured, allowed in script:
            if throttled:
                state.throttled(now)
            else:
                state.succeeded(now)
            assert state.measured == pytest.approx(measured, abs=1e-5), now
            # Both sets were made with one throttle before the second cut: no contradiction.
            assert state.allowed == pytest.approx(allowed, rel=1e-5), now


# -- as a strategy -----------------------------------------------------------------------


def test_there_is_no_limit_before_the_first_throttle():
    with hf.testing.clock() as clock:
        policy = hf.policy(hf.RateLimit.adaptive())
        before = clock.now
        for _ in range(1000):
            policy.call(int)
        assert clock.now == before
        assert policy.state()["rate"] is None


def closed_loop(clock, policy: hf.Policy, seconds: float, allowed: float) -> tuple[int, int]:
    """Call as fast as the policy lets us; return how many were served and refused.

    The service has a bucket of its own: `allowed` per second, a second's worth at most.
    """
    served = refused = 0
    tokens, last, end = allowed, clock.now, clock.now + seconds

    def service() -> None:
        nonlocal served, refused, tokens, last
        clock.sleep(0.001)
        tokens, last = min(allowed, tokens + (clock.now - last) * allowed), clock.now
        if tokens < 1:
            refused += 1
            raise Throttled
        tokens -= 1
        served += 1

    while clock.now < end:
        policy.outcome(service)
    return served, refused


# The steepness of the curve is absolute, so it looks beyond a small rate relatively further.
@pytest.mark.parametrize(("allowed", "most"), [(2, 0.2), (20, 0.1), (100, 0.1)])
def test_it_finds_the_rate_that_a_service_allows(allowed, most):
    with hf.testing.clock() as clock:
        policy = hf.policy(hf.RateLimit.adaptive(), classify=classify)
        closed_loop(clock, policy, 30, allowed)
        served, refused = closed_loop(clock, policy, 90, allowed)
        deaf = closed_loop(clock, hf.policy(hf.Retry(1), classify=classify), 10, allowed)
    assert served / 90 > 0.8 * allowed
    assert refused / (served + refused) < most
    assert deaf[1] / sum(deaf) > 0.75  # the same caller without it


def test_it_goes_down_when_the_service_allows_less_and_up_when_it_allows_more():
    with hf.testing.clock() as clock:
        policy = hf.policy(hf.RateLimit.adaptive(), classify=classify)
        rates = []
        for allowed in (50, 10, 100):
            closed_loop(clock, policy, 60, allowed)
            rates.append(closed_loop(clock, policy, 60, allowed)[0] / 60)
    assert rates == [pytest.approx(allowed, rel=0.25) for allowed in (50, 10, 100)]


def test_a_throttled_answer_is_told_with_the_rate_before_and_after():
    heard: list[object] = []
    stop = hf.subscribe(heard.append)
    try:
        with hf.testing.clock() as clock:
            policy = hf.policy(hf.RateLimit.adaptive(), classify=classify, name="api")
            closed_loop(clock, policy, 5, 100)
    finally:
        stop()
    news = [event for event in heard if isinstance(event, LimitChanged)]
    assert news[0].before is None
    assert {(event.what, event.why) for event in news} == {("rate", "throttled")}
    assert all(later.limit < later.before for later in news[1:] if later.before is not None)


def test_never_less_than_the_least_however_often_it_is_throttled():
    def refuse() -> None:
        raise Throttled

    with hf.testing.clock() as clock:
        policy = hf.policy(hf.RateLimit.adaptive(least=2), classify=classify)
        for _ in range(100):
            policy.outcome(refuse)
        begin = clock.now
        for _ in range(10):
            policy.outcome(refuse)
        assert clock.now - begin == pytest.approx(5)


@pytest.mark.parametrize(
    "failure",
    [ConnectionRefusedError(111, "no"), ValueError(), OSError(24, "files"), TimeoutError()],
    ids=lambda failure: type(failure).__name__,
)
def test_other_failures_never_bring_a_limit(failure):
    def fail() -> None:
        raise failure

    with hf.testing.clock():
        policy = hf.policy(hf.RateLimit.adaptive())
        for _ in range(100):
            policy.outcome(fail)
        assert policy.state()["rate"] is None


def test_it_heeds_what_servers_say_before_and_after_the_first_throttle():
    with hf.testing.clock() as clock:
        policy = hf.policy(hf.RateLimit.adaptive(), classify=classify)
        for _ in range(2):
            for attempt in (attempts := policy.attempts()):
                with attempt:
                    attempts.call.answered(clock.now, {"Retry-After": "30"}, clock.wall())
            begin = clock.now
            policy.call(int)
            assert clock.now - begin == pytest.approx(30, abs=2.1)
            closed_loop(clock, policy, 3, 1)
            assert policy.state()["rate"] is not None


@given(
    st.lists(
        st.tuples(
            st.floats(0, 3), st.sampled_from(["take", "ok", "throttle", "hold", "count"])
        ),
        max_size=200,
    )
)  # fmt: skip
@example(script=[(0.0, "throttle"), (0.0, "hold"), (2.0, "ok"), (0.0, "take")])
def test_slots_come_no_faster_than_the_rate_that_was_allowed(script):
    state = AdaptiveRate(hf.RateLimit.adaptive())  # type: ignore[arg-type]  # same type
    now, begins, most, held = 1e6, [], 0.0, 0.0
    for pause, what in script:
        now += pause
        if what == "take":
            begin = now + state.take(now)
            assert math.isfinite(begin)
            assert begin >= held - 1e-6
            if state.enabled:
                begins.append(begin)
        elif what == "hold":
            held = max(held, now + 5)
            state.hold(now + 5)
        elif what == "count":
            state.counted(now)
        elif what == "ok":
            state.succeeded(now)
        else:
            state.throttled(now)
        assert state.allowed >= 0.5
        assert math.isfinite(state.tat) or not state.enabled
        most = max(most, state.allowed)
    for i, first in enumerate(begins):
        for count, last in enumerate(begins[i:], 1):
            assert count <= max(1.0, most) + (last - first) * most + 1 + 1e-3


@pytest.mark.parametrize(
    ("function", "last"), [(AdaptiveRate._use, "slack"), (LearningRate._push, "tat")]
)
def test_the_bucket_changes_without_interruption(function, last):
    # A driver's fast path on another thread takes slots from it without the lock: between
    # reading `tat` and writing it there is no call and no loop, where threads are switched.
    ops = list(dis.get_instructions(function))
    reads = [i for i, op in enumerate(ops) if op.opname == "LOAD_ATTR" and op.argval == "tat"]
    writes = [i for i, op in enumerate(ops) if op.opname == "STORE_ATTR" and op.argval == last]
    first, end = min(reads), max(writes)
    assert first < end
    switches = ("CALL", "JUMP_BACKWARD", "SEND", "FOR_ITER")
    assert [op.opname for op in ops[first:end] if op.opname.startswith(switches)] == []


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"beta": 0}, "beta"),
        ({"beta": 1}, "beta"),
        ({"scale": 0}, "scale"),
        ({"least": 0}, "least"),
        ({"wmax": "both"}, "wmax"),
    ],
)
def test_options_are_checked(options, name):
    with pytest.raises(ValueError, match=rf"RateLimit.adaptive\({name}="):
        hf.RateLimit.adaptive(**options)


def test_both_kinds_share_one_place_in_a_policy():
    with pytest.raises(ValueError, match="either RateLimit or AdaptiveRateLimit"):
        hf.policy(hf.RateLimit(1), hf.RateLimit.adaptive())
    adaptive = hf.policy(hf.RateLimit(1), hf.Retry(2)).but(hf.RateLimit.adaptive())
    kinds = [part["type"] for part in adaptive.describe()["strategies"]]
    assert kinds == ["AdaptiveRateLimit", "Retry"]
