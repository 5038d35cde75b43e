"""Metrics of the events: what each event adds to which family.

One `Metrics` is one subscriber with one registry. Surfaces that measure something of their
own ask `metrics.registry` for a family.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, TypeVar

from holdfast._version import __version__
from holdfast.core import events
from holdfast.runtime.hub import hub
from holdfast.telemetry import exposition
from holdfast.telemetry.families import MAX_VALUES, SECONDS, Registry, Series

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self

E = TypeVar("E", bound=events.Event)

MAX_CALLS = 10_000
"""Calls under way whose beginning is remembered; of the oldest beyond, the last attempt counts."""

STATES = {"closed": 0.0, "half_open": 1.0, "open": 2.0, "isolated": 3.0}
"""The values of `holdfast_breaker_state`."""


COUNTERS = {
    "holdfast_events_total": ("Events by type.", ("event",)),
    "holdfast_calls_total": (
        "Logical calls that ended, by how: ok, or the reason for giving up.",
        ("policy", "key", "outcome"),
    ),
    "holdfast_attempts_total": (
        "Attempts that ended, by kind of verdict and whether they may have been executed.",
        ("policy", "key", "kind", "sent"),
    ),
    "holdfast_attempt_failures_total": (
        "Failed attempts by the verdict's reason.",
        ("policy", "reason"),
    ),
    "holdfast_refusals_total": (
        "Calls refused before any I/O, by the class of the refusal.",
        ("policy", "key", "kind"),
    ),
    "holdfast_hedges_total": (
        "Second copies of slow attempts that were sent.",
        ("policy", "key"),
    ),
    "holdfast_breaker_transitions_total": (
        "Transitions of the circuit breaker, by the state entered.",
        ("policy", "key", "state"),
    ),
    "holdfast_unclassified_total": ("Exception types that no table knows.", ("policy",)),
    "holdfast_download_resumes_total": (
        "Transfers that went on (accepted) or started over (declined), and why.",
        ("outcome", "reason"),
    ),
}
GAUGES = {
    "holdfast_retry_budget": (
        "Tokens left in the retry budget, as of the last wait.",
        ("policy", "key"),
    ),
    "holdfast_limit": (
        "Limits that follow the backend: concurrency (calls at once), rate (per second).",
        ("policy", "key", "what"),
    ),
    "holdfast_breaker_state": (
        "State of the circuit breaker: 0 closed, 1 half-open, 2 open, 3 isolated.",
        ("policy", "key"),
    ),
    "holdfast_alert_active": (
        "1 while an alert is on, 0 once it has cleared.",
        ("policy", "key", "rule"),
    ),
    "holdfast_build_info": ("1; the version is the label.", ("version",)),
}
HISTOGRAMS = {
    "holdfast_call_seconds": (
        "Duration of logical calls, waits included.",
        ("policy", "outcome"),
    ),
    "holdfast_wait_seconds": (
        "Length of waits for a retry, a permit or a slot, when they begin.",
        ("policy", "why"),
    ),
}
"""Name -> (help, labels), of everything that comes from events."""


class Metrics:
    """Counts events. Made by `metrics()`; usable as a `with` block, which ends with `close`.

    registry: all families, also for what does not come from events.
    """

    content_type = exposition.PROMETHEUS
    openmetrics_type = exposition.OPENMETRICS

    def __init__(self, *, max_values: int = MAX_VALUES, buckets: Sequence[float] = SECONDS) -> None:
        self.registry = made = Registry(max_values)
        self._counters = {name: made.counter(name, *row) for name, row in COUNTERS.items()}
        self._gauges = {name: made.gauge(name, *row) for name, row in GAUGES.items()}
        self._histograms = {
            name: made.histogram(name, *row, buckets) for name, row in HISTOGRAMS.items()
        }
        self._gauges["holdfast_build_info"].set(1.0, __version__)
        self._lock = made.lock
        self._bounds = self._histograms["holdfast_call_seconds"].bounds
        self._begun: dict[int, float] = {}
        self._good: dict[tuple[str, str], tuple[Series, Series, Series]] = {}
        self._most_good = max_values
        heard = self._counters["holdfast_events_total"]
        self._attempts_heard = heard.series(events.Attempt.__name__)
        self._types: dict[type, Series] = {events.Attempt: self._attempts_heard}
        self._handlers: dict[type, Callable[[events.Event], None]] = {}
        self._on(events.Attempt, self._attempt)
        self._on(events.Waited, self._waited)
        self._on(events.GaveUp, self._gave_up)
        self._on(events.Refused, self._refused)
        self._on(events.Hedged, self._hedged)
        self._on(events.LimitChanged, self._limited)
        self._on(events.CircuitOpened, self._opened)
        self._on(events.CircuitHalfOpened, lambda event: self._moved(event, "half_open"))
        self._on(events.CircuitClosed, lambda event: self._moved(event, "closed"))
        self._on(events.Alert, self._alert)
        self._on(events.Unclassified, self._unclassified)
        self._on(events.ResumeAccepted, lambda event: self._resumed("accepted", event.rung))
        self._on(events.ResumeDeclined, lambda event: self._resumed("declined", event.reason))
        self._stop: Callable[[], None] = lambda: None

    def _on(self, kind: type[E], handler: Callable[[E], None]) -> None:
        self._handlers[kind] = handler  # type: ignore[assignment]  # looked up by the same type

    # -- use ---------------------------------------------------------------------------------

    def text(self) -> str:
        """Return everything as Prometheus text, format 0.0.4 (`content_type`)."""
        return exposition.prometheus(self.registry)

    def openmetrics(self) -> str:
        """Return everything as OpenMetrics text 1.0.0 (`openmetrics_type`)."""
        return exposition.openmetrics(self.registry)

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of all series of `name` with these labels; a histogram's count."""
        return self.registry.family(name).value(**labels)

    def names(self) -> list[str]:
        """Return the names of all families."""
        return [family.name for family in self.registry]

    def close(self) -> None:
        """Stop counting. What was counted can still be read."""
        self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- events ------------------------------------------------------------------------------

    def hear(self, event: events.Event) -> None:
        """Count one event."""
        kind = type(event)
        with self._lock:
            series = self._types.get(kind)
            if series is None:
                family = self._counters["holdfast_events_total"]
                series = self._types[kind] = family.series(kind.__name__)
            series.value += 1
            handler = self._handlers.get(kind)
            if handler is not None:
                handler(event)

    def succeeded(self, policy: str, key: str, began: float, ended: float) -> None:
        """Count an undisturbed good call of the fast path."""
        with self._lock:
            self._attempts_heard.value += 1
            self._good_call(policy, key, ended - began)

    def _add(self, name: str, *labels: str) -> None:
        self._counters[name].add(1, *labels)

    def _attempt(self, event: events.Attempt) -> None:
        if event.kind == "ok":
            seconds = event.seconds
            if self._begun:
                seconds = event.time - self._begun.pop(event.call_id, event.time - seconds)
            self._good_call(event.policy, event.key, seconds)
            return
        self._add("holdfast_attempts_total", event.policy, event.key, event.kind, event.sent)
        self._add("holdfast_attempt_failures_total", event.policy, event.reason)
        if event.kind != "cancelled":  # the copy of a hedged attempt that lost, after the call
            self._begin(event.call_id, event.time - event.seconds)

    def _good_call(self, policy: str, key: str, taken: float) -> None:
        # Three series, found by one look-up: this is what each good call costs.
        found = self._good.get((policy, key))
        attempts, calls, seconds = self._good_series(policy, key) if found is None else found
        attempts.value += 1
        calls.value += 1
        seconds.value += taken
        seconds.buckets[bisect_left(self._bounds, taken)] += 1

    def _good_series(self, policy: str, key: str) -> tuple[Series, Series, Series]:
        found = (
            self._counters["holdfast_attempts_total"].series(policy, key, "ok", "yes"),
            self._counters["holdfast_calls_total"].series(policy, key, "ok"),
            self._histograms["holdfast_call_seconds"].series(policy, "ok"),
        )
        if len(self._good) < self._most_good:
            self._good[policy, key] = found
        return found

    def _begin(self, call_id: int, at: float) -> None:
        if call_id not in self._begun:
            if len(self._begun) >= MAX_CALLS:
                del self._begun[next(iter(self._begun))]
            self._begun[call_id] = at

    def _waited(self, event: events.Waited) -> None:
        self._begin(event.call_id, event.time)
        self._histograms["holdfast_wait_seconds"].observe(event.seconds, event.policy, event.why)
        if event.budget_left is not None:
            self._gauges["holdfast_retry_budget"].set(event.budget_left, event.policy, event.key)

    def _gave_up(self, event: events.GaveUp) -> None:
        self._begun.pop(event.call_id, None)
        self._add("holdfast_calls_total", event.policy, event.key, event.reason)
        seconds = self._histograms["holdfast_call_seconds"]
        seconds.observe(event.seconds, event.policy, event.reason)

    def _refused(self, event: events.Refused) -> None:
        self._add("holdfast_refusals_total", event.policy, event.key, event.kind)

    def _hedged(self, event: events.Hedged) -> None:
        self._add("holdfast_hedges_total", event.policy, event.key)
        # If the hedge wins, its own duration says nothing of when the call began.
        self._begin(event.call_id, event.time - event.after)

    def _limited(self, event: events.LimitChanged) -> None:
        self._gauges["holdfast_limit"].set(event.limit, event.policy, event.key, event.what)

    def _opened(self, event: events.CircuitOpened) -> None:
        self._moved(event, "isolated" if event.why.startswith("isolate ") else "open")

    def _moved(self, event: events.Event, state: str) -> None:
        self._gauges["holdfast_breaker_state"].set(STATES[state], event.policy, event.key)
        self._add("holdfast_breaker_transitions_total", event.policy, event.key, state)

    def _alert(self, event: events.Alert) -> None:
        active = 0.0 if event.cleared else 1.0
        self._gauges["holdfast_alert_active"].set(active, event.policy, event.key, event.name)

    def _unclassified(self, event: events.Unclassified) -> None:
        self._add("holdfast_unclassified_total", event.policy)

    def _resumed(self, outcome: str, reason: str) -> None:
        self._add("holdfast_download_resumes_total", outcome, reason)


def metrics(*, max_values: int = MAX_VALUES, buckets: Sequence[float] = SECONDS) -> Metrics:
    """Count all events from now on and return the `Metrics` to read.

    max_values: distinct values that each label keeps; what comes later is `other`.
    buckets: upper bounds of the histograms in seconds, ascending.
    Raises ValueError for values out of range.
    """
    made = Metrics(max_values=max_values, buckets=buckets)
    made._stop = hub.subscribe(made.hear, success=made.succeeded)  # noqa: SLF001 - the one way to make it listen
    return made
