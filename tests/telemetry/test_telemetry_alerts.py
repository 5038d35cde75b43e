"""Alert rules: once when it starts, once when it is over, and nothing in between."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import holdfast as hf
from holdfast.core import events
from holdfast.runtime.hub import hub
from holdfast.telemetry.alerts import MAX_TARGETS, METRICS

Rule, Alerts = hf.telemetry.Rule, hf.telemetry.Alerts


def feed(engine, metric, values, start=0.0, every=1.0, **target):
    """Give samples in turn; return what was said."""
    found = []
    for n, value in enumerate(values):
        found += engine.sample(metric, value, start + n * every, **target)
    return found


def test_it_starts_once_and_clears_once():
    engine = Alerts(Rule("errors", "error_rate", above=0.1, window=60, clear_for=30))
    started = feed(engine, "error_rate", [0] * 89 + [1] * 11, every=0.1, policy="api")
    assert [(a.name, a.policy, a.cleared) for a in started] == [("errors", "api", False)]
    assert started[0].text == "error_rate is above 10%: 10.1% (99 samples in 60 s)"
    assert engine.firing() == [("errors", "api", "")]
    assert feed(engine, "error_rate", [1] * 100, 10, 0.1, policy="api") == []
    over = feed(engine, "error_rate", [0] * 200, 20, policy="api")
    assert [a.cleared for a in over] == [True]
    assert over[0].text.startswith("error_rate is no longer above 10%")
    assert engine.firing() == []


def test_between_the_two_thresholds_nothing_is_said():
    engine = Alerts(Rule("x", "load", above=10, measure="last", clear_for=0))
    # The alert begins above 10 and is over at 8: 9 says nothing either way.
    said = feed(engine, "load", [9, 11, 9, 11, 9, 8.1, 10, 8, 9, 11])
    assert [(a.time, a.cleared) for a in said] == [(1, False), (7, True), (9, False)]


def test_it_must_hold_for_as_long_as_asked():
    engine = Alerts(Rule("x", "load", above=10, measure="last", fire_for=5, clear_for=5))
    assert feed(engine, "load", [11, 11, 11, 9, 11, 11, 11, 11]) == []
    assert [a.time for a in engine.tick(9.0)] == [9.0]
    assert feed(engine, "load", [0, 0, 11, 0], start=10) == []
    assert engine.tick(17.9) == []
    assert [a.cleared for a in engine.tick(18.0)] == [True]
    assert engine.tick(100.0) == []


def test_too_few_samples_never_fire_and_silence_clears():
    engine = Alerts(Rule("x", "error_rate", above=0.1, window=60, min_count=20, clear_for=30))
    assert feed(engine, "error_rate", [1] * 19, every=0.1) == []
    assert len(feed(engine, "error_rate", [1], start=2)) == 1
    assert engine.tick(60) == []
    assert engine.tick(62 + 5) == []
    (over,) = engine.tick(62 + 5 + 30)
    assert over.cleared
    assert over.text.endswith("no samples in 60 s")


def test_what_is_older_than_the_window_does_not_count():
    engine = Alerts(Rule("x", "error_rate", above=0.5, window=60, min_count=10))
    feed(engine, "error_rate", [1] * 9, every=0.1)
    assert feed(engine, "error_rate", [1] * 9, start=70, every=0.1) == []
    assert len(feed(engine, "error_rate", [1], start=75)) == 1


def test_a_percentile_is_beyond_if_more_than_its_share_of_samples_is():
    rule = Rule("slow", "first_byte", above=5, measure="p95", min_count=100, clear_for=0)
    engine = Alerts(rule)
    assert feed(engine, "first_byte", [1] * 95 + [5.1] * 5, every=0.01) == []
    (alert,) = feed(engine, "first_byte", [5.1], start=1)
    assert "0.0594 of the samples are, p95" in alert.text
    # 4.5 s is within the threshold of 5, but not within the 4 at which it clears.
    assert feed(engine, "first_byte", [4.5] * 50 + [1] * 50, start=2, every=0.01) == []
    assert [a.cleared for a in feed(engine, "first_byte", [1] * 100, start=70, every=0.01)] == [
        True
    ]


def test_below_is_the_mirror_of_above():
    engine = Alerts(Rule("disk", "free", below=100, measure="last", clear_for=0, clear_at=0.8))
    said = feed(engine, "free", [200, 100, 99, 110, 124, 125])
    assert [(a.time, a.cleared) for a in said] == [(2, False), (5, True)]
    assert said[0].text == "free is below 100: 99"


def test_each_policy_and_key_is_watched_apart_within_bounds():
    engine = Alerts(Rule("x", "load", above=1, measure="last"))
    said = feed(engine, "load", [2], policy="a", key="k") + feed(engine, "load", [2], policy="b")
    assert [(a.policy, a.key) for a in said] == [("a", "k"), ("b", "")]
    for n in range(MAX_TARGETS + 50):
        feed(engine, "load", [2], policy=f"p{n}")
    assert len(engine.firing()) == MAX_TARGETS + 1
    assert ("x", "other", "") in engine.firing()


def test_a_rule_for_one_policy_ignores_the_others():
    engine = Alerts(Rule("x", "load", above=1, measure="last", policy="a"))
    assert feed(engine, "load", [2], policy="b") == []
    assert feed(engine, "other", [2], policy="a") == []
    assert len(feed(engine, "load", [2], policy="a")) == 1


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"above": None}, "either"),
        ({"below": 1.0}, "either"),
        ({"name": ""}, "name"),
        ({"above": math.nan}, "above"),
        ({"measure": "median"}, "measure"),
        ({"above": None, "below": 1.0, "measure": "p95"}, "goes with `above`"),
        ({"window": 0}, "window"),
        ({"min_count": 0}, "min_count"),
        ({"fire_for": -1}, "fire_for"),
        ({"clear_for": -1}, "clear_for"),
        ({"clear_at": 0}, "clear_at"),
    ],
)
def test_a_wrong_rule_is_refused_when_it_is_made(wrong, text):
    with pytest.raises(ValueError, match=text):
        Rule(**{"name": "x", "metric": "error_rate", "above": 0.1} | wrong)


def test_rules_are_values_with_names_of_their_own():
    rule = Rule("x", "error_rate", above=0.1)
    assert rule == Rule("x", "error_rate", above=0.1)
    with pytest.raises(AttributeError):
        rule.above = 0.2
    with pytest.raises(ValueError, match="one name"):
        Alerts(rule, Rule("x", "load", above=1))


@given(
    st.lists(st.tuples(st.floats(0, 20), st.floats(0, 1)), max_size=200),
    st.sampled_from(["mean", "last", "p50", "p95"]),
    st.floats(0, 20),
)
@settings(max_examples=100, deadline=None)
def test_starts_and_ends_alternate(samples, measure, hold):
    rule = Rule("x", "m", above=0.5, measure=measure, min_count=3, fire_for=hold, clear_for=hold)
    engine, now, said = Alerts(rule), 0.0, []
    for pause, value in samples:
        now += pause
        said += engine.sample("m", value, now)
        said += engine.tick(now)
    assert [alert.cleared for alert in said] == [n % 2 == 1 for n in range(len(said))]
    times = [alert.time for alert in said]
    assert all(b - a >= hold for a, b in pairwise(times))


# -- with events -----------------------------------------------------------------------------


def fail():
    raise ConnectionResetError


def refuse():
    raise ValueError


def test_a_backend_that_fails_and_recovers_is_told_once_each():
    heard = []
    with hf.testing.clock() as clock:
        stop = hf.telemetry.alert_on(Rule("errors", "error_rate", above=0.5))
        also = hf.subscribe(lambda event: heard.append(event) if is_rule(event) else None)
        policy = hf.policy(hf.Retry(1), name="api", key=lambda _: "h")
        for _ in range(30):
            policy.outcome(fail)
        for _ in range(200):
            policy.outcome(int)
            clock.advance(1)
        stop()
        also()
    assert [(a.name, a.policy, a.key, a.cleared) for a in heard] == [
        ("errors", "api", "h", False),
        ("errors", "api", "h", True),
    ]


def is_rule(event):
    return isinstance(event, events.Alert) and event.name != "circuit"


def test_good_calls_of_the_fast_path_count_and_it_stays_open():
    told = []
    stop = hf.telemetry.alert_on(
        Rule("slow", "attempt_seconds", above=0.5, min_count=5, clear_for=0), tell=told.append
    )
    try:
        assert not hub.watched
        with hf.testing.clock() as clock:
            policy = hf.policy(hf.Retry(2), name="api")
            for _ in range(60):
                policy.call(clock.advance, 1)
    finally:
        stop()
    assert [(a.name, a.policy) for a in told] == [("slow", "api")]


def test_faults_of_the_caller_are_no_errors_of_the_backend():
    told = []
    stop = hf.telemetry.alert_on(
        Rule("errors", "error_rate", above=0.1), Rule("failures", "failure_rate", above=0.1),
        tell=told.append,
    )  # fmt: skip
    try:
        policy = hf.policy(hf.Retry(1))
        for _ in range(30):
            policy.outcome(refuse)
    finally:
        stop()
    assert [a.name for a in told] == ["failures"]


def test_waits_budgets_and_circuits_give_samples():
    told = []
    stop = hf.telemetry.alert_on(
        Rule("waits", "wait_seconds", above=1, min_count=1),
        Rule("budget", "retry_budget", below=480, measure="last"),
        Rule("open", "circuit_open", above=0, measure="last", clear_for=0),
        tell=told.append,
    )
    try:
        with hf.testing.clock():
            steady = hf.Constant(3.0, jitter="none")
            policy = hf.policy(hf.Retry(3, backoff=steady), hf.Breaker(consecutive=3), name="api")
            policy.outcome(fail)
            policy.reset()
    finally:
        stop()
    assert [(a.name, a.cleared) for a in told] == [
        ("waits", False), ("budget", False), ("open", False), ("open", True),
    ]  # fmt: skip


def test_a_rule_of_which_no_event_speaks_is_refused():
    with pytest.raises(ValueError, match="error_rate"):
        hf.telemetry.alert_on(Rule("x", "eror_rate", above=0.1))
    assert set(METRICS) == {
        "error_rate", "failure_rate", "attempt_seconds", "wait_seconds", "retry_budget",
        "circuit_open",
    }  # fmt: skip
