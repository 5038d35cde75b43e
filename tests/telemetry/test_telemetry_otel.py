"""OpenTelemetry, with its own SDK: spans as they happened, instruments, and the missing extra."""

from __future__ import annotations

import asyncio
import sys

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import holdfast as hf
from holdfast.core import events
from holdfast.runtime.hub import hub
from holdfast.telemetry import otel


class Rig:
    """Both in-memory exporters of the SDK, and what they got."""

    def __init__(self):
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])
        self.stop = hf.telemetry.opentelemetry(self.tracers, self.meters)

    def spans(self, name=None):
        found = self.exporter.get_finished_spans()
        return [span for span in found if name is None or span.name == name]

    def points(self):
        """Return {metric: {attributes: point}}."""
        data = self.reader.get_metrics_data()
        return {
            metric.name: {frozenset(p.attributes.items()): p for p in metric.data.data_points}
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def rig():
    rig = Rig()
    yield rig
    rig.stop()
    rig.tracers.shutdown()
    rig.meters.shutdown()


def failing_then_fine():
    results = iter([ConnectionResetError("gone"), TimeoutError(), None])

    def call():
        result = next(results)
        if result is not None:
            raise result

    return call


def test_a_call_is_a_span_with_a_client_span_per_attempt(rig):
    with hf.testing.clock() as clock:
        wall = clock.wall() * 1e9
        policy = hf.policy(hf.Retry(5, backoff=hf.Constant(3.0, jitter="none")), name="api")
        policy.call(failing_then_fine())
    (call,) = rig.spans("holdfast.call")
    attempts = rig.spans("holdfast.attempt")
    assert (call.kind, call.status.status_code) == (SpanKind.INTERNAL, StatusCode.UNSET)
    assert call.attributes["holdfast.policy"] == "api"
    assert call.attributes["holdfast.outcome"] == "ok"
    assert "error.type" not in call.attributes
    assert {a.kind for a in attempts} == {SpanKind.CLIENT}
    assert {a.parent.span_id for a in attempts} == {call.context.span_id}
    assert [a.attributes.get("http.request.resend_count") for a in attempts] == [None, 1, 2]
    assert [a.attributes.get("error.type") for a in attempts] == [
        "ECONNRESET",
        "ETIMEDOUT",
        None,
    ]
    assert [a.status.status_code for a in attempts] == [
        StatusCode.ERROR, StatusCode.ERROR, StatusCode.UNSET,
    ]  # fmt: skip
    assert [e.name for e in call.events] == ["holdfast.waited"] * 2
    assert call.events[0].attributes["holdfast.why"] == "backoff"
    began = [round((a.start_time - wall) / 1e9, 3) for a in attempts]
    assert began == [0, 3, 6]
    assert round((call.end_time - call.start_time) / 1e9, 3) == 6


def test_a_call_that_gave_up_is_an_error(rig):
    def fail():
        raise ConnectionResetError

    with hf.testing.clock():
        hf.policy(hf.Retry(1), name="api").outcome(fail)
    (call,) = rig.spans("holdfast.call")
    assert call.status.status_code is StatusCode.ERROR
    assert call.attributes["error.type"] == "attempts"
    points = rig.points()["holdfast.call.duration"]
    assert list(points) == [
        frozenset(
            {
                ("holdfast.policy", "api"),
                ("holdfast.outcome", "attempts"),
                ("error.type", "attempts"),
            }
        )
    ]


def test_refusals_and_transitions_are_events_and_counters(rig):
    def fail():
        raise ConnectionResetError

    with hf.testing.clock():
        policy = hf.policy(hf.Breaker(consecutive=1), name="api")
        policy.outcome(fail)
        policy.outcome(fail)
        policy.reset()
    first, refused = rig.spans("holdfast.call")
    assert "holdfast.circuit_opened" in [e.name for e in first.events]
    assert [e.name for e in refused.events] == ["holdfast.refused"]
    assert refused.events[0].attributes["holdfast.kind"] == "CircuitOpen"
    points = rig.points()
    ((where, point),) = points["holdfast.refusals"].items()
    assert where == {("holdfast.policy", "api"), ("holdfast.kind", "CircuitOpen")}
    assert point.value == 1
    states = {dict(where)["holdfast.state"] for where in points["holdfast.circuit.transitions"]}
    assert states == {"opened", "closed"}


def test_good_calls_of_the_fast_path_are_told_too(rig):
    policy = hf.policy(hf.Retry(2), name="api")
    for _ in range(60):
        policy.call(int)
    assert not hub.watched
    assert len(rig.spans("holdfast.call")) == len(rig.spans("holdfast.attempt")) == 60
    for call, attempt in zip(
        rig.spans("holdfast.call"), rig.spans("holdfast.attempt"), strict=True
    ):
        assert call.start_time <= attempt.start_time <= attempt.end_time <= call.end_time
        assert attempt.parent.span_id == call.context.span_id
    (point,) = rig.points()["holdfast.attempt.duration"].values()
    assert point.count == 60
    assert point.explicit_bounds[0] == 0.005


@pytest.mark.parametrize("warm", [0, 60], ids=["full path", "fast path"])
def test_a_call_is_a_child_of_the_callers_span(rig, warm):
    tracer = rig.tracers.get_tracer("test")
    policy = hf.policy(hf.Retry(2), name="api")

    async def work():
        await asyncio.sleep(0)

    async def main(name):
        with tracer.start_as_current_span(name) as outer:
            await policy.acall(work)
            policy.call(int)
        return outer.get_span_context().span_id

    async def both():
        for _ in range(warm):
            policy.call(int)
        rig.exporter.clear()
        return await asyncio.gather(main("a"), main("b"))

    first, second = asyncio.run(both())
    parents = [span.parent.span_id for span in rig.spans("holdfast.call")]
    assert sorted(parents) == sorted([first, first, second, second])


def test_wall_clock_steps_do_not_bend_a_call(rig):
    hear = otel.Spans(rig.tracers, rig.meters).hear
    with hf.testing.clock() as clock:
        now = clock.monotonic()
        found = {"policy": "p", "call_id": 900_001}
        hear(events.Attempt(time=now + 1, no=1, kind="timeout", seconds=1.0, **found))
        clock.step_wall(86_400)
        hear(events.Attempt(time=now + 2, no=2, kind="ok", seconds=0.5, **found))
    (call,) = rig.spans("holdfast.call")
    assert call.end_time - call.start_time == pytest.approx(2e9, abs=1e4)


def test_calls_under_way_are_bounded_and_ended_at_the_stop(rig, monkeypatch):
    monkeypatch.setattr(otel, "MAX_CALLS", 5)
    spans = otel.Spans(rig.tracers, rig.meters)
    for n in range(1, 9):
        spans.hear(events.Waited(time=float(n), call_id=n, seconds=1.0, why="backoff", next_at=2.0))
    assert len(rig.spans("holdfast.call")) == 3
    spans.close()
    assert len(rig.spans("holdfast.call")) == 8
    assert {span.attributes.get("holdfast.outcome") for span in rig.spans()} == {None}


def test_the_copy_of_a_hedged_attempt_that_lost_opens_no_call(rig):
    spans = otel.Spans(rig.tracers, rig.meters)
    found = {"policy": "p", "call_id": 900_002, "no": 1, "seconds": 1.0}
    spans.hear(events.Attempt(time=2.0, kind="ok", **found))
    spans.hear(events.Attempt(time=2.1, kind="cancelled", **found))
    assert len(rig.spans("holdfast.call")) == 1
    assert len(rig.spans("holdfast.attempt")) == 1


def test_a_hedged_call_has_a_span_per_copy_and_begins_with_the_first(rig):
    spans = otel.Spans(rig.tracers, rig.meters)
    found = {"policy": "p", "call_id": 900_003, "no": 1}
    spans.hear(events.Hedged(time=3.0, hedge=1, after=1.0, budget_left=0.0, **found))
    spans.hear(events.Attempt(time=3.25, kind="cancelled", seconds=1.25, **found))
    spans.hear(events.Attempt(time=3.25, kind="ok", seconds=0.25, hedge=1, **found))
    (call,) = rig.spans("holdfast.call")
    assert call.end_time - call.start_time == pytest.approx(1.25e9)
    assert len(rig.spans("holdfast.attempt")) == 2


def test_metric_labels_are_bounded(rig):
    spans = otel.Spans(rig.tracers, rig.meters)
    for n in range(500):
        spans.hear(events.Refused(time=1.0, policy=f"p{n}", kind="RateLimited"))
    assert len(rig.points()["holdfast.refusals"]) == 201


def test_without_the_extra_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(
        hf.telemetry.ExtraMissing, match=r"pip install 'holdfast\[otel\]'"
    ) as caught:
        hf.telemetry.opentelemetry()
    assert isinstance(caught.value, ImportError)
    assert caught.value.code == "HF-6002"
    assert not hub.listening
