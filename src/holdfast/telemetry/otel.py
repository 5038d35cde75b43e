"""Events as OpenTelemetry spans and instruments. Needs the extra `[otel]` (its API only).

Spans:        `holdfast.call` (INTERNAL) per logical call, inside it `holdfast.attempt` (CLIENT)
              per attempt; waits, refusals and what else happened are events of the call's span.
Instruments:  `holdfast.call.duration`, `holdfast.attempt.duration`, `holdfast.wait.duration`,
              `holdfast.refusals`, `holdfast.circuit.transitions`.

Names that exist are used: `http.request.resend_count` and `error.type` of the semantic
conventions (both stable since 1.23: opentelemetry.io/docs/specs/semconv/registry/attributes/).
Their metric `http.client.request.duration` is not: it requires the method, server and port of
a request, and a call of a policy need not be one. What is ours begins with `holdfast.`.

Spans are made when their end is known, with the times at which it happened, under the span
that is current in the caller. So they are no parent of what an instrumented client library
makes during the attempt: both have the same parent.
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING

from holdfast._version import __version__
from holdfast.core import events
from holdfast.core.errors import HoldfastError
from holdfast.runtime.clock import clock
from holdfast.runtime.hub import hub
from holdfast.telemetry import redact
from holdfast.telemetry.families import SECONDS, Values
from holdfast.telemetry.logs import fields_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

    Attributes = dict[str, str | bool | int | float]

MAX_CALLS = 10_000
"""Calls under way at the same time; the oldest beyond is ended as it stands."""

_CIRCUIT = (events.CircuitOpened, events.CircuitHalfOpened, events.CircuitClosed)

RESEND_COUNT = "http.request.resend_count"
ERROR_TYPE = "error.type"


class ExtraMissing(HoldfastError, ImportError):
    """What was asked for needs a package that is not installed; the message names the extra."""

    code = "HF-6002"
    exit_code = 2
    next_step = "Install it: pip install 'holdfast[otel]'"


class _Open:
    """The span of a call that has not ended.

    began: monotonic seconds.  offset: what makes them wall time; one per call, so that a step
    of the wall clock does not bend its spans.
    """

    __slots__ = ("_offset", "began", "context", "latest", "span")

    def __init__(self, span: Span, context: Context, began: float, offset: float) -> None:
        self.span = span
        self.context = context
        self.began = began
        self._offset = offset
        self.at(began)

    def at(self, time: float) -> int:
        """Return a monotonic time as nanoseconds since the epoch."""
        self.latest = int((time + self._offset) * 1e9)
        return self.latest


class Spans:
    """Tells OpenTelemetry what the hub says. Made by `opentelemetry()`."""

    def __init__(
        self, tracer_provider: TracerProvider | None, meter_provider: MeterProvider | None
    ) -> None:
        try:
            from opentelemetry import metrics, trace  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise ExtraMissing(
                "OpenTelemetry is not installed: pip install 'holdfast[otel]'"
            ) from error
        self._api = trace
        self._tracer = trace.get_tracer("holdfast", __version__, tracer_provider)
        meter = metrics.get_meter("holdfast", __version__, meter_provider)
        self._seconds = {
            what: meter.create_histogram(
                f"holdfast.{what}.duration",
                "s",
                text,
                explicit_bucket_boundaries_advisory=SECONDS,
            )
            for what, text in (
                ("call", "Duration of logical calls, waits included."),
                ("attempt", "Duration of attempts."),
                ("wait", "Length of waits, when they begin."),
            )
        }
        self._refusals = meter.create_counter(
            "holdfast.refusals", "{call}", "Calls refused before any I/O."
        )
        self._transitions = meter.create_counter(
            "holdfast.circuit.transitions", "{transition}", "Transitions of circuit breakers."
        )
        self._policies, self._words = Values(), Values()
        self._lock = threading.RLock()
        self._open: dict[int, _Open] = {}

    # -- events ------------------------------------------------------------------------------

    def hear(self, event: events.Event) -> None:
        """Tell one event."""
        if isinstance(event, events.Attempt):
            self._attempt(event)
        elif isinstance(event, events.GaveUp):
            call = self._call_of(event, event.time - event.seconds)
            self._end(event, call, event.reason)
        elif isinstance(event, events.Waited):
            self._note(event, self._call_of(event, event.time))
            self._seconds["wait"].record(event.seconds, self._labels(event.policy, why=event.why))
        elif isinstance(event, events.Refused):
            self._note(event, self._call_of(event, event.time))
            self._refusals.add(1, self._labels(event.policy, kind=event.kind))
        elif isinstance(event, events.Hedged):
            self._note(event, self._call_of(event, event.time - event.after))
        else:
            if isinstance(event, _CIRCUIT):
                state = _snake(type(event).__name__).removeprefix("circuit_")
                self._transitions.add(1, self._labels(event.policy, state=state))
            with self._lock:
                found = self._open.get(event.call_id)
            if found is not None:
                self._note(event, found)

    def good(self, policy: str, key: str, began: float, ended: float) -> None:
        """Tell of an undisturbed good call."""
        event = events.Attempt(
            time=ended, policy=policy, key=key, no=1, kind="ok", seconds=ended - began
        )
        self._attempt(event)

    def close(self) -> None:
        """End what is still open, as it stands."""
        with self._lock:
            left, self._open = list(self._open.values()), {}
        for call in left:
            call.span.end(call.latest)

    def _attempt(self, event: events.Attempt) -> None:
        began = event.time - event.seconds
        if event.kind == "cancelled" and event.call_id not in self._open:
            return  # the copy of a hedged attempt that lost; its call has been told already
        call = self._call_of(event, began)
        attributes: Attributes = {**_fields(event)}
        if event.no > 1:
            attributes[RESEND_COUNT] = event.no - 1
        span = self._tracer.start_span(
            "holdfast.attempt",
            call.context,
            self._api.SpanKind.CLIENT,
            attributes,
            start_time=call.at(began),
        )
        labels = self._labels(event.policy, kind=event.kind)
        if event.kind not in ("ok", "cancelled"):
            labels[ERROR_TYPE] = self._mark(span, event.reason or event.kind)
        span.end(call.at(event.time))
        self._seconds["attempt"].record(event.seconds, labels)
        if event.kind == "ok":
            self._end(event, call, "")

    # -- spans -------------------------------------------------------------------------------

    def _call_of(self, event: events.Event, began: float) -> _Open:
        """Return the span of the event's call; it begins at `began` if it is new."""
        with self._lock:
            found = self._open.get(event.call_id)
            if found is not None:
                return found
        offset = clock.wall() - clock.monotonic()
        attributes = _fields(event)
        span = self._tracer.start_span(
            "holdfast.call",
            kind=self._api.SpanKind.INTERNAL,
            attributes={name: attributes[name] for name in ("holdfast.policy", "holdfast.key")},
            start_time=int((began + offset) * 1e9),
        )
        made = _Open(span, self._api.set_span_in_context(span), began, offset)
        if event.call_id:  # 0: a good call of the fast path, which ends at once
            with self._lock:
                self._open[event.call_id] = made
                oldest = next(iter(self._open)) if len(self._open) > MAX_CALLS else 0
                left = self._open.pop(oldest, None)
            if left is not None:
                left.span.end(left.latest)
        return made

    def _end(self, event: events.Event, call: _Open, reason: str) -> None:
        with self._lock:
            self._open.pop(event.call_id, None)
        labels = self._labels(event.policy, outcome=reason or "ok")
        call.span.set_attribute("holdfast.outcome", redact.visible(reason or "ok"))
        if reason:
            labels[ERROR_TYPE] = self._mark(call.span, reason)
        call.span.end(call.at(event.time))
        self._seconds["call"].record(event.time - call.began, labels)

    def _mark(self, span: Span, word: str) -> str:
        """Mark a span as failed; return the word as a bounded label."""
        span.set_attribute(ERROR_TYPE, redact.visible(word))
        span.set_status(self._api.Status(self._api.StatusCode.ERROR, redact.visible(word)))
        return self._words(word)

    @staticmethod
    def _note(event: events.Event, call: _Open) -> None:
        name = f"holdfast.{_snake(type(event).__name__)}"
        call.span.add_event(name, {**_fields(event)}, call.at(event.time))

    def _labels(self, policy: str, **words: str) -> dict[str, str]:
        labels = {f"holdfast.{name}": self._words(word) for name, word in words.items()}
        return {"holdfast.policy": self._policies(policy), **labels}


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _fields(event: events.Event) -> Attributes:
    """Return an event's fields as attributes, redacted; None has no place there."""
    skipped = ("event", "call_id")
    return {
        f"holdfast.{name}": value
        for name, value in fields_of(event).items()
        if name not in skipped and isinstance(value, str | bool | int | float)
    }


def opentelemetry(
    tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
) -> Callable[[], None]:
    """Tell OpenTelemetry about every call from now on; return how to stop that.

    tracer_provider, meter_provider: default the global ones, which the application sets up.
    Raises ExtraMissing without the extra `[otel]`.
    """
    spans = Spans(tracer_provider, meter_provider)
    unsubscribe = hub.subscribe(spans.hear, success=spans.good)

    def stop() -> None:
        unsubscribe()
        spans.close()

    return stop
