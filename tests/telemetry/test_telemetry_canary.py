"""The canary: a marked secret goes in wherever one can, and comes out nowhere."""

from __future__ import annotations

import base64
import io
import json
import logging
from urllib.parse import quote

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import holdfast as hf
from holdfast.core import events
from holdfast.runtime.hub import hub
from holdfast.wire.urls import parse

CANARY = "CANARY/q7Zx+4410=value"
FORMS = [
    CANARY,
    quote(CANARY),
    quote(CANARY, safe=""),
    *[base64.b64encode(user + CANARY.encode()).decode()[4:-4] for user in (b"", b"u", b"us")],
]
"""What may not come out: the text, percent-encoded, and what base64 makes of its middle."""

PLACES = {
    "header": f"Authorization: Bearer {CANARY}",
    "headers": repr({"Cookie": f"session={CANARY}; a=b", "X-Api-Key": CANARY}),
    "pairs": repr([(b"authorization", f"Basic {CANARY}".encode())]),
    "userinfo": f"https://user:{quote(CANARY, safe='')}@h.example/p",
    "query": f"https://h.example/p?X-Amz-Signature={quote(CANARY, safe='')}&x=1",
    "raw query": f"GET /p?access_token={CANARY} HTTP/1.1",
    "fragment": f"http://127.0.0.1:1/#t={CANARY}",
    "body": json.dumps({"user": "u", "nested": [{"client_secret": CANARY, "api_key": CANARY}]}),
    "form": f"grant_type=x&client_secret={quote(CANARY, safe='')}&scope=y",
    "argument": f"connect(password='{CANARY}', host='h')",
}


@pytest.fixture
def secret():
    return hf.telemetry.Secret(CANARY)


class Everywhere:
    """All outputs that telemetry has, at once."""

    def __init__(self):
        self.plain, self.json = io.StringIO(), io.StringIO()
        self.logger = logging.Logger("canary", logging.DEBUG)  # noqa: LOG001 - of its own
        for stream, formatter in (
            (self.plain, logging.Formatter("%(message)s")),
            (self.json, hf.telemetry.JsonFormatter()),
        ):
            handler = logging.StreamHandler(stream)
            handler.setFormatter(formatter)
            self.logger.addHandler(handler)
        self.spans, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.spans))
        self.meters = MeterProvider([self.reader])
        self.metrics = hf.telemetry.metrics()
        self.told = []
        rule = hf.telemetry.Rule("r", "error_rate", above=0.1, min_count=1)
        self.stops = [
            hf.telemetry.log_to(self.logger),
            hf.telemetry.opentelemetry(self.tracers, self.meters),
            hf.telemetry.alert_on(rule),
            hf.subscribe(lambda event: self.told.append(repr(event))),
            self.metrics.close,
        ]

    def stop(self):
        for stop in self.stops:
            stop()

    def said(self):
        spans = "".join(span.to_json() for span in self.spans.get_finished_spans())
        data = self.reader.get_metrics_data()
        return {
            "log": self.plain.getvalue(),
            "json": self.json.getvalue(),
            "prometheus": self.metrics.text() + self.metrics.openmetrics(),
            "spans": spans,
            "instruments": data.to_json() if data is not None else "",
        }


@pytest.fixture
def everywhere():
    found = Everywhere()
    yield found
    found.stop()
    found.tracers.shutdown()
    found.meters.shutdown()


def assert_absent(text, where):
    hits = [form for form in FORMS if form in text]
    assert not hits, (where, text)


@pytest.mark.parametrize("place", PLACES)
def test_a_failing_call_does_not_tell_its_secret(everywhere, place):
    class Bad(Exception):
        pass

    def call():
        error = Bad(PLACES[place])
        error.add_note(PLACES[place])
        raise error from ConnectionResetError(PLACES[place])

    with hf.testing.clock():
        policy = hf.policy(hf.Retry(3), hf.Breaker(consecutive=2), name="api")
        for _ in range(3):
            outcome = policy.outcome(call)
    everywhere.stop()
    assert len(everywhere.told) > 5
    for where, text in everywhere.said().items():
        assert len(text) > 100, where
        assert_absent(text, where)
    assert_absent("".join(everywhere.told), "events")
    assert_absent(repr(outcome.verdicts), "verdicts")
    assert_absent(hf.telemetry.redact.error(outcome.error), "error")


@pytest.mark.parametrize("place", PLACES)
def test_a_secret_in_a_label_or_a_text_is_masked_on_the_way_out(everywhere, place):
    # A user's `key=` may return a URL, a surface's alert may quote an error.
    found = {"time": 0.0, "policy": PLACES[place], "key": PLACES[place], "call_id": 1}
    hub.publish(events.Attempt(**found, no=1, kind="x", seconds=1, reason=PLACES[place]))
    hub.publish(events.Waited(**found, seconds=1, why=PLACES[place], next_at=1, budget_left=1))
    hub.publish(events.Alert(**found, name=PLACES[place], text=PLACES[place]))
    hub.publish(events.CircuitOpened(**found, gen=1, why=PLACES[place], until=1))
    hub.publish(events.GaveUp(**found, reason=PLACES[place], attempts=1, seconds=1))
    everywhere.stop()
    for where, text in everywhere.said().items():
        assert len(text) > 100, where
        assert_absent(text, where)


def test_a_living_secret_is_masked_without_any_name_beside_it(everywhere, secret):
    encoded = base64.b64encode(f"us:{CANARY}".encode()).decode()
    shapeless = f"upstream said: no such key {CANARY} ({quote(CANARY, safe='')}), {encoded}"
    found = {"time": 0.0, "policy": shapeless, "key": shapeless}
    hub.publish(events.Refused(**found, kind=shapeless))
    hub.publish(events.Alert(**found, name="a", text=shapeless))
    everywhere.logger.error("call failed: %s", shapeless)
    try:
        int(shapeless)
    except ValueError:
        everywhere.logger.exception("with its error")
    everywhere.stop()
    said = everywhere.said()
    del said["log"]  # what others write is redacted by `JsonFormatter`, not by their own
    for where, text in said.items():
        assert_absent(text, where)
    assert secret.reveal() == CANARY


def test_addresses_of_wire_and_the_words_of_redaction_agree():
    for place in ("userinfo", "query"):
        url = parse(PLACES[place])
        for text in (repr(url), url.canonical(), hf.telemetry.redact.url(url.full())):
            assert_absent(text, place)
