"""Metrics: counted exactly, with bounded labels, in text that the official parsers read."""

from __future__ import annotations

import math
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open
from prometheus_client.parser import text_string_to_metric_families as read

import holdfast as hf
from holdfast.core import events
from holdfast.runtime.hub import hub
from holdfast.telemetry import exposition
from holdfast.telemetry.families import MAX_SERIES, Registry
from holdfast.telemetry.meters import MAX_CALLS


@pytest.fixture
def metrics():
    with hf.telemetry.metrics() as metrics:
        yield metrics


def fail():
    raise ConnectionResetError("gone")


def samples(text, reader=read):
    """Return {(name, labels): value} as the official parser reads it."""
    found = {}
    for family in reader(text):
        assert family.documentation
        for sample in family.samples:
            where = (sample.name, frozenset(sample.labels.items()))
            assert where not in found, where
            found[where] = sample.value
    return found


def at(name, **labels):
    return (name, frozenset(labels.items()))


def test_a_call_with_retries_is_counted_once_and_timed_whole(metrics):
    with hf.testing.clock() as clock:
        clock.random(1.0)
        results = iter([True, True, False])

        def thrice():
            clock.advance(2)
            if next(results):
                raise ConnectionResetError

        hf.policy(hf.Retry(5, backoff=hf.Constant(3.0, jitter="none")), name="api").call(thrice)
    text = samples(metrics.text())
    assert text[at("holdfast_calls_total", policy="api", key="", outcome="ok")] == 1
    assert text[at("holdfast_call_seconds_sum", policy="api", outcome="ok")] == 12
    bucket = {"policy": "api", "outcome": "ok"}
    assert text[at("holdfast_call_seconds_bucket", **bucket, le="10.0")] == 0
    assert text[at("holdfast_call_seconds_bucket", **bucket, le="30.0")] == 1
    labels = {"policy": "api", "key": ""}
    assert text[at("holdfast_attempts_total", **labels, kind="ok", sent="yes")] == 1
    assert text[at("holdfast_attempts_total", **labels, kind="transient", sent="maybe")] == 2
    assert text[at("holdfast_attempt_failures_total", policy="api", reason="ECONNRESET")] == 2
    assert text[at("holdfast_wait_seconds_sum", policy="api", why="backoff")] == 6
    assert text[at("holdfast_wait_seconds_count", policy="api", why="backoff")] == 2
    assert text[at("holdfast_retry_budget", **labels)] == 500 - 2 * 14
    assert text[at("holdfast_events_total", event="Attempt")] == 3


def test_failures_refusals_and_the_breaker_are_counted(metrics):
    with hf.testing.clock():
        policy = hf.policy(hf.Breaker(consecutive=2), name="api")
        for _ in range(3):
            policy.outcome(fail)
        value = metrics.value
        assert value("holdfast_calls_total", policy="api") == 3
        assert value("holdfast_calls_total", outcome="rejected") == 1
        assert value("holdfast_call_seconds", outcome="attempts") == 2
        assert value("holdfast_refusals_total", kind="CircuitOpen") == 1
        assert value("holdfast_breaker_state", policy="api") == 2
        assert value("holdfast_breaker_transitions_total", state="open") == 1
        assert value("holdfast_alert_active", rule="circuit") == 1
        policy.reset()
        assert value("holdfast_breaker_state", policy="api") == 0
        policy.isolate()
        assert value("holdfast_breaker_state", policy="api") == 3


def test_resumes_unclassified_types_and_the_version_are_there(metrics):
    hub.publish(events.ResumeAccepted(time=0, rung="strong-etag", offset=1))
    hub.publish(events.ResumeDeclined(time=0, reason="changed", offset=1))
    hub.publish(events.Unclassified(time=0, policy="p", type="m.E"))
    hub.publish(events.Alert(time=0, name="circuit", text="t", cleared=True))
    hub.publish(events.Progress(time=0, bytes=1))
    hub.publish(events.Hedged(time=0, policy="p", no=1, hedge=1, after=0.5, budget_left=3))
    limit = {"policy": "p", "what": "rate", "before": None, "limit": 2.5, "why": "throttled"}
    hub.publish(events.LimitChanged(time=0, **limit))
    value = metrics.value
    assert value("holdfast_limit", policy="p", what="rate") == 2.5
    assert value("holdfast_download_resumes_total", outcome="accepted", reason="strong-etag") == 1
    assert value("holdfast_download_resumes_total", outcome="declined") == 1
    assert value("holdfast_unclassified_total", policy="p") == 1
    assert value("holdfast_hedges_total", policy="p") == 1
    assert value("holdfast_alert_active", rule="circuit") == 0
    assert value("holdfast_events_total", event="Progress") == 1
    assert value("holdfast_build_info", version=hf.__version__) == 1


def test_good_calls_on_the_fast_path_are_counted(metrics):
    policy = hf.policy(hf.Retry(3), hf.Breaker(), name="api", key=lambda call: call.args[0])
    for n in range(300):
        policy.call(str, f"k{n % 3}")
    assert not hub.watched
    assert metrics.value("holdfast_calls_total", policy="api", key="k1", outcome="ok") == 100
    assert metrics.value("holdfast_attempts_total", kind="ok") == 300
    assert metrics.value("holdfast_call_seconds") == 300
    assert metrics.value("holdfast_events_total", event="Attempt") == 300


def test_closing_stops_the_counting_and_keeps_the_counts(metrics):
    policy = hf.policy(hf.Retry(2))
    policy.call(int)
    metrics.close()
    policy.call(int)
    assert metrics.value("holdfast_calls_total") == 1


def test_counts_are_exact_under_threads(metrics):
    policy = hf.policy(hf.Retry(1), name="api", key=lambda call: call.args[0])
    rounds, threads = 3000, 8
    barrier = threading.Barrier(threads)

    def work(n):
        barrier.wait()
        for i in range(rounds):
            policy.call(str, f"k{(n + i) % 5}")
            if i % 100 == 0:
                policy.outcome(fail_for, f"k{n}")
                metrics.text()

    running = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert metrics.value("holdfast_calls_total", outcome="ok") == rounds * threads
    assert metrics.value("holdfast_calls_total", outcome="attempts") == rounds // 100 * threads
    assert metrics.value("holdfast_call_seconds") == (rounds + rounds // 100) * threads
    read_back = samples(metrics.text())
    by_key = [
        read_back[at("holdfast_calls_total", policy="api", key=f"k{k}", outcome="ok")]
        for k in range(5)
    ]
    assert sum(by_key) == rounds * threads


def fail_for(_):
    raise ConnectionResetError


def test_labels_are_bounded_and_the_sum_stays_right():
    with hf.telemetry.metrics(max_values=10) as metrics:
        policy = hf.policy(hf.Retry(1), name="api", key=lambda call: call.args[0])
        for n in range(500):
            policy.call(str, f"k{n}")
            policy.outcome(fail_for, f"k{n}")
        keys = {
            dict(labels)["key"]
            for name, labels in samples(metrics.text())
            if name == "holdfast_calls_total"
        }
        assert len(keys) == 11
        assert metrics.value("holdfast_calls_total", key="other") == 2 * 490
        assert metrics.value("holdfast_calls_total") == 1000


def test_series_are_bounded_and_the_sum_stays_right():
    registry = Registry(most=1000)
    counter = registry.counter("c_total", "text", ["a", "b"])
    for n in range(10_000):
        counter.add(1, f"a{n % 100}", f"b{n // 100}")
    assert len(list(counter)) == MAX_SERIES + 1
    assert counter.value(a="other", b="other") == 10_000 - MAX_SERIES
    assert counter.value() == 10_000


def test_what_is_remembered_of_calls_under_way_is_bounded(metrics):
    def waited(n):
        return events.Waited(time=0.0, call_id=n, seconds=1, why="backoff", next_at=1)

    for n in range(1, MAX_CALLS + 10):
        metrics.hear(waited(n))
    assert len(metrics._begun) == MAX_CALLS


def test_a_hedged_copy_that_lost_leaves_nothing_behind(metrics):
    labels = {"policy": "p", "call_id": 5, "no": 1, "seconds": 1.0}
    metrics.hear(events.Attempt(time=2.0, kind="ok", **labels))
    metrics.hear(events.Attempt(time=2.1, kind="cancelled", **labels))
    assert metrics._begun == {}
    assert metrics.value("holdfast_attempts_total", kind="cancelled") == 1
    assert metrics.value("holdfast_calls_total") == 1


def test_a_call_that_its_hedge_won_took_as_long_as_its_caller_waited(metrics):
    labels = {"policy": "p", "call_id": 6, "no": 1}
    metrics.hear(events.Hedged(time=3.0, hedge=1, after=1.0, budget_left=0.0, **labels))
    metrics.hear(events.Attempt(time=3.25, kind="cancelled", seconds=1.25, **labels))
    metrics.hear(events.Attempt(time=3.25, kind="ok", seconds=0.25, hedge=1, **labels))
    assert metrics.value("holdfast_hedges_total") == 1
    assert 'holdfast_call_seconds_sum{policy="p",outcome="ok"} 1.25' in metrics.text()
    assert metrics._begun == {}


STRANGE = ['a"b', "a\\b", "a\nb", "a\r\x0bb\x1b", "", "ü\u2028", "\ud800", "}", "{", "a,b=c", "#"]


@pytest.mark.parametrize("value", STRANGE)
def test_strange_labels_are_read_back(metrics, value):
    metrics.hear(events.Refused(time=0, policy=value, key=value, kind="K"))
    shown = hf.telemetry.redact.visible(value)
    for text, reader in ((metrics.text(), read), (metrics.openmetrics(), read_open)):
        text.encode()
        found = samples(text, reader)
        assert found[at("holdfast_refusals_total", policy=shown, key=shown, kind="K")] == 1


@given(st.lists(st.tuples(st.text(max_size=20), st.floats(allow_nan=False)), max_size=20))
@settings(max_examples=100, deadline=None)
def test_whatever_is_observed_both_official_parsers_read(observed):
    registry = Registry()
    histogram = registry.histogram("h_seconds", "A\\B\nC", ["a"], [0.5, 2])
    gauge = registry.gauge("g", 'say "x"', ["a"])
    counter = registry.counter("c_total", "c", ["a"])
    for word, value in observed:
        histogram.observe(abs(value), word)
        gauge.set(value, word)
        counter.add(1, word)
    plain = samples(exposition.prometheus(registry))
    text = exposition.openmetrics(registry)
    assert text.endswith("# EOF\n")
    assert samples(text, read_open) == plain
    counts = [value for (name, _), value in plain.items() if name == "h_seconds_count"]
    assert sum(counts) == len(observed)


def test_the_form_of_the_text_is_the_documented_one():
    registry = Registry()
    registry.counter("c_total", "Back\\slash\nline.", ["a"]).add(2, 'x"\\')
    registry.gauge("g", "No labels.").set(math.inf)
    registry.histogram("h_seconds", "Three.", [], [0.5, 1]).observe(0.5)
    assert exposition.prometheus(registry).splitlines() == [
        "# HELP c_total Back\\\\slash\\nline.",
        "# TYPE c_total counter",
        'c_total{a="x\\"\\\\"} 2.0',
        "# HELP g No labels.",
        "# TYPE g gauge",
        "g +Inf",
        "# HELP h_seconds Three.",
        "# TYPE h_seconds histogram",
        'h_seconds_bucket{le="0.5"} 1',
        'h_seconds_bucket{le="1.0"} 1',
        'h_seconds_bucket{le="+Inf"} 1',
        "h_seconds_sum 0.5",
        "h_seconds_count 1",
    ]
    assert [exposition.number(n) for n in (-math.inf, math.nan, 1e-9)] == ["-Inf", "NaN", "1e-09"]


def test_a_histogram_counts_at_its_bounds_and_leaves_nan_out():
    histogram = Registry().histogram("h", "t", [], [1, 2])
    for value in (-1, 0, 1, 1.5, 2, 3, math.inf, math.nan):
        histogram.observe(value)
    assert next(iter(histogram)).buckets == [3, 2, 2]


def test_a_surface_gets_its_own_families_in_the_same_registry(metrics):
    registry = metrics.registry
    inflight = registry.gauge("holdfast_gateway_inflight", "Requests under way.", ["endpoint"])
    inflight.set(3, "a")
    assert registry.gauge("holdfast_gateway_inflight", "", ["endpoint"]) is inflight
    assert samples(metrics.text())[at("holdfast_gateway_inflight", endpoint="a")] == 3
    assert "holdfast_gateway_inflight" in metrics.names()
    assert repr(inflight) == "<Gauge holdfast_gateway_inflight: 1 series>"


def test_mistakes_in_families_are_refused():
    registry = Registry()
    registry.gauge("g", "t", ["a"])
    with pytest.raises(ValueError, match="another kind"):
        registry.histogram("g", "t", ["a"])
    with pytest.raises(ValueError, match="another kind"):
        registry.gauge("g", "t", ["b"])
    with pytest.raises(ValueError, match="_total"):
        registry.counter("c", "t")
    with pytest.raises(ValueError, match="no label nonsense"):
        registry.family("g").value(nonsense="x")
    for bounds in ([], [2, 1], [1, 1], [1, math.inf]):
        with pytest.raises(ValueError, match="ascending"):
            registry.histogram("h", "t", [], bounds)
    with pytest.raises(ValueError, match="most"):
        hf.telemetry.metrics(max_values=0)
    with pytest.raises(KeyError):
        registry.family("nonsense")
    assert not hub.watched


def test_content_types_are_those_of_the_formats(metrics):
    assert metrics.content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert metrics.openmetrics_type.startswith("application/openmetrics-text; version=1.0.0")
