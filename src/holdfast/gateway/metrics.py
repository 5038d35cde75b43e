"""A gateway's numbers as Prometheus text: `holdfast_gateway_*`.

Written from snapshots (see `stats`), so that several processes are scraped as one. Labels are
bounded: endpoints that are configured, and reasons, outcomes and states from fixed sets; what is
beyond that is `other`. Counters of an endpoint that a reload took out go on to be told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.core.histogram import LOWEST, Tally
from holdfast.gateway.ledger import OUTCOMES
from holdfast.gateway.snapshots import ENDPOINT_STATES
from holdfast.gateway.stats import merged
from holdfast.telemetry import exposition
from holdfast.telemetry.families import Registry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from holdfast.gateway.snapshots import Snapshot

PREFIX = "holdfast_gateway_"
CONTENT_TYPE = exposition.PROMETHEUS
POWERS = tuple(range(LOWEST + 4, 10))
"""The buckets' upper bounds are these powers of two, in seconds: 1 ms to 512 s."""

COUNTERS = {
    "requests_total": ("Requests that ended, by endpoint and outcome.", ("endpoint", "outcome")),
    "attempts_total": ("Attempts that ended, by endpoint and reason.", ("endpoint", "reason")),
    "retries_total": ("Further attempts, by how the one before had ended.", ("reason",)),
    "stale_sockets_total": ("Kept connections that were dead when they were used again.", ()),
    "midstream_cuts_total": ("Answers that broke after a part of them was given.", ()),
    "rejected_total": ("Answers that were errors of the gateway, by reason.", ("reason",)),
    "log_lines_dropped_total": ("Lines of the access log that could not be written.", ()),
}
GAUGES = {
    "inflight": ("Requests that are under way.", ()),
    "waiting": ("Requests that wait for an endpoint.", ()),
    "streams": ("Answers of which a part was given.", ()),
    "endpoint_state": ("1 for the state of an endpoint, 0 for the others.", ("endpoint", "state")),
    "connections": ("Connections to an endpoint, open and idle.", ("endpoint", "state")),
    "budget_tokens": ("Retries that the budget has left.", ()),
    "workers": ("Processes that serve.", ()),
    "draining": ("1 while the gateway is ending.", ()),
}
HISTOGRAMS = {
    "first_byte_seconds": "Time from a request to the first byte of its answer.",
    "duration_seconds": "Time from a request to the end of its answer.",
}
REASONS = {
    "HF-3001": "malformed",
    "HF-3002": "target",
    "HF-3003": "head",
    "HF-3004": "body",
    "HF-3005": "slow",
    "HF-3006": "method",
    "HF-3007": "unsupported",
    "HF-3008": "version",
    "HF-3009": "token",
    "HF-3010": "loop",
    "HF-3011": "expectation",
    "HF-3012": "forbidden",
    "HF-3013": "no_page",
    "HF-3101": "no_answer",
    "HF-3102": "deadline",
    "HF-3103": "queue_full",
    "HF-3104": "cooling",
    "HF-3105": "malformed_answer",
    "HF-3106": "maybe_executed",
    "HF-3107": "draining",
    "HF-3109": "disabled",
}
"""Our errors as labels; one that is not here has its code as its label."""


def text(snapshots: Sequence[Snapshot]) -> str:
    """Return the metrics of one gateway's processes, one at least: format 0.0.4."""
    whole = merged(snapshots)
    registry = Registry()
    _count(registry, whole)
    _measure(registry, whole, len(snapshots))
    for name, key in (("first_byte_seconds", "whole"), ("duration_seconds", "durations")):
        _histogram(registry, name, Tally.of(whole[key]))
    return exposition.prometheus(registry)


def _count(registry: Registry, whole: Mapping[str, Any]) -> None:
    made = {name: registry.counter(PREFIX + name, *row) for name, row in COUNTERS.items()}
    rows = {one["id"]: one for one in whole["endpoints"]} | whole["gone"]
    for endpoint, row in rows.items():
        for outcome in OUTCOMES:
            count = row["outcomes"].get(outcome, 0)
            made["requests_total"].add(count, endpoint, outcome)
        for reason, count in row["reasons"].items():
            made["attempts_total"].add(count, endpoint, reason)
    for reason, count in whole["retries"].items():
        made["retries_total"].add(count, reason)
    for code, count in whole["refusals"].items():
        made["rejected_total"].add(count, REASONS.get(code, code))
    made["stale_sockets_total"].add(whole["stale"])
    made["midstream_cuts_total"].add(whole["cuts"])
    made["log_lines_dropped_total"].add(whole["lines_dropped"])


def _measure(registry: Registry, whole: Mapping[str, Any], workers: int) -> None:
    made = {name: registry.gauge(PREFIX + name, *row) for name, row in GAUGES.items()}
    for name in ("inflight", "waiting", "streams"):
        made[name].set(whole[name])
    made["budget_tokens"].set(whole["tokens"])
    made["workers"].set(workers)
    made["draining"].set(whole["draining"])
    for one in whole["endpoints"]:
        for state in ENDPOINT_STATES:
            made["endpoint_state"].set(one["state"] == state, one["id"], state)
        for state in ("open", "idle"):
            made["connections"].set(one["connections"][state], one["id"], state)


def _histogram(registry: Registry, name: str, tally: Tally) -> None:
    bounds = [2.0**power for power in POWERS]
    made = registry.histogram(PREFIX + name, HISTOGRAMS[name], bounds=bounds)
    counts = tally.up_to(POWERS)
    with registry.lock:
        series = made.series()
        series.value = tally.sum
        series.buckets = [
            count - before for before, count in zip([0, *counts[:-1]], counts, strict=True)
        ]
