"""Composition: what is accepted, what is warned about, what a policy says of itself."""

from __future__ import annotations

import json
import pickle

import pytest

import holdfast as hf


def full(**options):
    return hf.policy(
        hf.Deadline(120),
        hf.Bulkhead(8, queue=50),
        hf.RateLimit(10, per=1.0),
        hf.Retry(5, on=hf.TRANSIENT | hf.THROTTLED, backoff=hf.Exponential(base=0.2, cap=30)),
        hf.Breaker(ratio=0.5, window=30, min_calls=20, open_for=5),
        hf.Timeout(10),
        **options,
    )


def test_the_example_of_the_readme_is_accepted_without_a_warning():
    assert full(name="kling").name == "kling"


def test_two_strategies_of_a_type_are_refused():
    with pytest.raises(ValueError, match="at most one Retry"):
        hf.policy(hf.Retry(2), hf.Retry(3))


@pytest.mark.parametrize("wrong", [3, hf.Retry, None, lambda: 1], ids=["3", "class", "none", "fn"])
def test_anything_but_a_strategy_is_refused(wrong):
    with pytest.raises(TypeError, match="takes strategies"):
        hf.policy(wrong)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((hf.Breaker(), hf.Retry()), "Breaker outside Retry"),
        ((hf.Timeout(3), hf.Retry()), "Timeout outermost"),
        ((hf.Retry(), hf.Fallback(None)), "Fallback inside Retry"),
    ],
    ids=["breaker", "timeout", "fallback"],
)
def test_a_composition_that_is_rarely_meant_explains_itself(parts, words):
    with pytest.warns(hf.PolicyWarning, match=words):
        policy = hf.policy(*parts)
    assert any(words in text for text in policy.plan().warnings)
    hf.policy(*parts, order="free")  # silent: warnings are errors here


@pytest.mark.parametrize("on", [Exception, BaseException, (hf.TRANSIENT, Exception)], ids=str)
def test_on_exception_would_repeat_programming_errors_and_is_refused(on):
    with pytest.raises(ValueError, match="programming errors"):
        hf.Retry(on=on)


@pytest.mark.parametrize("on", ["TRANSIENT", 5, (int,)], ids=str)
def test_on_takes_nothing_but_kinds_and_exception_types(on):
    with pytest.raises(ValueError, match="kinds and exception types"):
        hf.Retry(on=on)


@pytest.mark.parametrize("attempts", [0, -1, 1.5, True], ids=str)
def test_fewer_than_one_attempt_is_refused(attempts):
    with pytest.raises(ValueError, match="attempts"):
        hf.Retry(attempts)


def test_options_of_policy_are_checked():
    with pytest.raises(ValueError, match="max_keys"):
        hf.policy(max_keys=0)
    with pytest.raises(ValueError, match="order"):
        hf.policy(order="any")


def test_describe_gives_every_option_as_json():
    described = full(name="kling").describe()
    assert json.loads(json.dumps(described)) == described
    retry = next(s for s in described["strategies"] if s["type"] == "Retry")
    assert retry["on"] == ["transient", "throttled"]
    assert retry["backoff"]["base"] == 0.2
    assert retry["budget"]["capacity"] == 500


def test_values_are_equal_by_value_and_immutable():
    assert hf.Retry(3) == hf.Retry(3)
    assert hf.Breaker(ratio=0.4) != hf.Breaker()
    with pytest.raises(AttributeError):
        hf.Retry(3).attempts = 4


def test_the_plan_lists_each_wait_and_start():  # T3
    policy = hf.policy(hf.Retry(6, backoff=hf.Exponential(base=60, cap=300, jitter="none")))
    plan = policy.plan()
    assert [delay.nominal for delay in plan.delays] == [60, 120, 240, 300, 300]
    assert plan.attempt_times == (0, 60, 180, 420, 720, 1020)
    assert plan.wait_total == 1020
    assert plan.attempts_max == plan.requests_max == 6
    assert plan.as_dict()["seconds_max"] == "unbounded"


def test_a_deadline_cuts_the_plan():
    backoff = hf.Exponential(base=60, cap=300, jitter="none")
    plan = hf.policy(hf.Deadline(200), hf.Retry(6, backoff=backoff)).plan()
    assert plan.attempt_times == (0, 60, 180)
    assert plan.attempts_max == 3
    assert plan.seconds_max == 200


def test_the_plan_bounds_the_time_by_timeouts_and_waits():
    backoff = hf.Exponential(base=1, cap=20, jitter="full")
    plan = hf.policy(hf.Retry(3, backoff=backoff), hf.Timeout(10)).plan()
    assert plan.seconds_max == 3 * 10 + 1 + 2
    assert [(d.min, d.max) for d in plan.delays] == [(0, 1), (0, 2)]


def test_jitter_lets_more_attempts_fit_than_the_nominal_waits_say():
    plan = hf.policy(hf.Deadline(5), hf.Retry(6, backoff=hf.Exponential(base=2))).plan()
    assert plan.attempt_times == (0, 2)  # the next would start at 6
    assert plan.attempts_max == 6  # full jitter may draw no wait at all


def test_the_plan_tells_the_load_on_a_dead_backend():
    assert hf.policy(hf.Retry(3)).plan().dead_backend_factor == pytest.approx(1.035)
    unbounded = hf.policy(hf.Retry(3, budget=None)).plan()
    assert unbounded.dead_backend_factor == 3
    assert any("budget" in text for text in unbounded.warnings)


@pytest.mark.parametrize(
    ("budget", "factor"),
    [
        (hf.Budget(capacity=0), 1.0),
        (hf.Budget.ratio(share=0.2), 1.2),
        (hf.Budget.concurrent(share=0.5), 1.5),
        (hf.Budget.switch(10), 1.003),
    ],
    ids=["tokens", "ratio", "concurrent", "switch"],
)
def test_each_budget_bounds_the_load_that_the_plan_tells(budget, factor):
    plan = hf.policy(hf.Retry(3, budget=budget)).plan()
    assert plan.dead_backend_factor == pytest.approx(factor)


def test_a_plan_of_many_attempts_lists_a_thousand_waits_and_counts_all():
    policy = hf.policy(hf.Retry(5001, backoff=hf.Constant(1.0, jitter="none")), hf.Timeout(1))
    plan = policy.plan()
    assert (plan.attempts_max, len(plan.delays)) == (5001, 1000)
    assert plan.seconds_max == 5001 + 5000


def test_what_really_happens_is_what_the_plan_said():
    backoff = hf.Exponential(base=60, cap=300, jitter="none")
    policy = hf.policy(hf.Retry(6, backoff=backoff, budget=None))
    with hf.testing.clock() as clock:
        starts = []

        def fail():
            starts.append(clock.now)
            raise TimeoutError

        policy.outcome(fail)
    assert [start - starts[0] for start in starts] == list(policy.plan().attempt_times)


def test_but_replaces_adds_and_keeps_the_rest():
    base = full(name="kling")
    derived = base.but(hf.Retry(2), hf.Fallback(0))
    kinds = [s["type"] for s in derived.describe()["strategies"]]
    assert kinds == ["Fallback", "Deadline", "Bulkhead", "RateLimit", "Retry", "Breaker", "Timeout"]
    assert derived.plan().attempts_max == 2
    assert base.plan().attempts_max == 5
    assert derived.name == "kling"


def test_a_derived_policy_shares_the_state_of_what_it_kept():
    base = hf.policy(hf.Bulkhead(1), hf.Retry(2), hf.Breaker(consecutive=1))
    derived = base.but(hf.Retry(1))

    def fail():
        raise ConnectionResetError

    assert derived.outcome(fail).reason == "attempts"
    assert isinstance(base.outcome(fail).error, hf.CircuitOpen)
    base.reset()
    with base.attempts().__next__():
        assert isinstance(derived.outcome(fail).error, hf.BulkheadFull)


def test_state_is_kept_per_key_and_bounded():
    policy = hf.policy(hf.Breaker(consecutive=1), key=lambda call: call.args[0], max_keys=100)

    def fail(host):
        raise ConnectionResetError(host)

    policy.outcome(fail, "bad")
    assert isinstance(policy.outcome(fail, "bad").error, hf.CircuitOpen)
    assert policy.outcome(lambda host: host, "good").ok
    for n in range(1000):
        policy.outcome(lambda host: host, f"host-{n}")
    assert len(policy.keys()) <= 100
    assert "host-999" in set(policy.keys())


def test_a_key_with_permits_out_is_never_dropped():
    policy = hf.policy(hf.Bulkhead(1), key=lambda call: call.args[0], max_keys=4)
    with next(policy.attempts(key="busy")):
        for n in range(50):
            policy.call(lambda host: host, f"host-{n}")
        assert policy.state("busy")["active"] == 1
    assert policy.state("busy")["active"] == 0


def test_reading_an_unknown_key_creates_none():
    policy = hf.policy(hf.Breaker(), key=lambda call: "a")
    assert policy.state("nowhere")["circuit"] == "closed"
    assert policy.keys() == []


@pytest.mark.parametrize(
    "error",
    [
        hf.CircuitOpen("open", retry_after=3.0, policy="p", key="k"),
        hf.DeadlineExceeded("late", policy="p"),
        hf.BulkheadFull("full"),
    ],
    ids=["circuit", "deadline", "bulkhead"],
)
def test_our_errors_pickle_with_their_data(error):
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (type(error), str(error))
    assert (copy.retry_after, copy.policy, copy.key) == (error.retry_after, error.policy, error.key)


def test_a_deadline_is_a_timeout_and_a_refusal_is_not():
    assert issubclass(hf.DeadlineExceeded, TimeoutError)
    assert not issubclass(hf.CircuitOpen, TimeoutError)
    assert issubclass(hf.CircuitOpen, hf.Rejected)


def test_repr_fits_a_line():
    assert repr(full(name="kling")) == (
        "<Policy 'kling': Deadline, Bulkhead, RateLimit, Retry, Breaker, Timeout; keys: 1>"
    )
