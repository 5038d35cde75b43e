"""What a gateway says of itself: the JSON of `/stats`, of one process or of several.

    merged([snapshot, ...])  one snapshot, summed
    shown([snapshot, ...])   the JSON that is given out: rates and percentiles made from the sums

Where workers disagree about an endpoint, the worse is shown, as that is what somebody looks for.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from holdfast.core.histogram import Tally
from holdfast.gateway.ledger import WINDOW
from holdfast.gateway.snapshots import DISABLED, ENDPOINT_STATES, ms, rounded

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from holdfast.gateway.snapshots import Snapshot

_BREAKERS = ("disabled", "closed", "half-open", "open", "isolated")


def merged(snapshots: Sequence[Snapshot]) -> Snapshot:
    """Return the sum of snapshots of one gateway's processes; one at least."""
    first = snapshots[0]
    newest = max(snapshots, key=lambda one: (_newest(one), one["at"]))
    summed = ("requests", "succeeded", "failed", "cancelled", "inflight", "streams", "waiting")
    return {
        "at": max(one["at"] for one in snapshots),
        "start_time": min(one["start_time"] for one in snapshots),
        "draining": any(one["draining"] for one in snapshots),
        "tier": max((one["tier"] for one in snapshots), key=ENDPOINT_STATES.index),
        "last_endpoint": newest["last_endpoint"],
        **{
            name: sum(one[name] for one in snapshots)
            for name in (*summed, "tokens", "stale", "cuts", "lines_dropped")
        },
        **{name: _counts(one[name] for one in snapshots) for name in ("retries", "refusals")},
        **{name: _tally(snapshots, name) for name in ("window", "whole", "durations")},
        "endpoints": [
            {**_merged_endpoint(_rows(snapshots, row["id"])), **_counted(snapshots, row["id"])}
            for row in first["endpoints"]
        ],
        "gone": _gone(snapshots),
    }


def ended(snapshot: Snapshot) -> Snapshot:
    """Return what a process that is gone has counted, without what it had in hand."""
    calm = {
        "inflight": 0,
        "state": "healthy",
        "tier": "healthy",
        "cooling_until": None,
        "ewma_ms": None,
        "keys": [],
    }
    endpoints = [
        {**one, **calm, "connections": {**one["connections"], "open": 0, "idle": 0}}
        for one in snapshot["endpoints"]
    ]
    idle = {"inflight": 0, "streams": 0, "waiting": 0, "tokens": 0.0, "tier": "healthy"}
    return {**snapshot, **idle, "endpoints": endpoints, "pid": 0, "draining": False}


def shown(snapshots: Sequence[Snapshot]) -> dict[str, Any]:
    """Return the JSON of `/stats`, of all processes together and of each. One at least.

    A snapshot whose pid is 0 is of processes that are gone: counted, and not shown.
    """
    whole = merged(snapshots)
    window, ever = Tally.of(whole["window"]), Tally.of(whole["whole"])
    endpoints = [_shown_endpoint(one) for one in whole["endpoints"]]
    failing = ("unhealthy", "circuit_open")
    return {
        "total_requests": whole["requests"],
        "successful_requests": whole["succeeded"],
        "failed_requests": whole["failed"],
        "cancelled_requests": whole["cancelled"],
        **_rates(window, ever),
        "window_seconds": round(WINDOW),
        "p50_ms": ms(_either(window.quantile(0.5), ever.quantile(0.5))),
        "p99_ms": ms(_either(window.quantile(0.99), ever.quantile(0.99))),
        "start_time": _date(whole["start_time"]),
        "uptime": round(whole["at"] - whole["start_time"], 3),
        "tier": whole["tier"],
        "inflight": whole["inflight"],
        "waiting": whole["waiting"],
        "streams": whole["streams"],
        "retries": sum(whole["retries"].values()),
        "last_used_endpoint_id": whole["last_endpoint"] or None,
        "total_endpoints": len(endpoints),
        "healthy_endpoints": sum(one["is_healthy"] for one in endpoints),
        "failed_endpoints": [
            one["id"] for one in endpoints if one["enabled"] and one["state"] in failing
        ],
        "workers": sum(bool(one["pid"]) for one in snapshots),
        "draining": whole["draining"],
        "budget_tokens": round(whole["tokens"], 3),
        "stale_sockets": whole["stale"],
        "midstream_cuts": whole["cuts"],
        "refused": whole["refusals"],
        "access_log_dropped": whole["lines_dropped"],
        "endpoints": endpoints,
        "per_worker": [_worker(one) for one in snapshots if one["pid"]],
    }


def _worker(one: Snapshot) -> dict[str, Any]:
    return {
        "pid": one["pid"],
        "total_requests": one["requests"],
        "successful_requests": one["succeeded"],
        "failed_requests": one["failed"],
        "cancelled_requests": one["cancelled"],
        "inflight": one["inflight"],
        "waiting": one["waiting"],
        "streams": one["streams"],
        "tier": one["tier"],
        "draining": one["draining"],
        "uptime": round(one["at"] - one["start_time"], 3),
    }


def _shown_endpoint(one: Mapping[str, Any]) -> dict[str, Any]:
    passed = ("id", "base_url", "priority", "weight", "enabled", "state")
    counted = ("inflight", "connections", "keepalive_learned_s", "ewma_ms")
    error = one["last_error"]
    return {
        **{name: one[name] for name in passed},
        "is_healthy": one["enabled"] and one["tier"] == "healthy",
        **{name: one[name] for name in counted},
        "cooling_until": _date(one["cooling_until"]),
        "breaker": {**one["breaker"], "reopens_at": _date(one["breaker"]["reopens_at"])},
        "keys": [{**key, "cooling_until": _date(key["cooling_until"])} for key in one["keys"]],
        "health_status": {
            "status": one["tier"] if one["enabled"] else DISABLED,
            "last_check": _date(one["last_check"]),
            "consecutive_failures": one["consecutive_failures"],
            "total_requests": sum(one["reasons"].values()),
            "failed_requests": one["failed"],
            **_rates(Tally.of(one["window"]), Tally.of(one["whole"])),
            "last_error": error and {**error, "at": _date(error["at"])},
        },
    }


def _rates(window: Tally, ever: Tally) -> dict[str, float | None]:
    """Return the rates of the window; if it is empty, those of all times."""
    return {
        "success_rate": rounded(_either(window.success_rate, ever.success_rate)),
        "avg_response_time": ms(_either(window.mean, ever.mean)),
    }


# -- sums --------------------------------------------------------------------------------------


def _merged_endpoint(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what several processes know of one endpoint."""
    worst = max(rows, key=lambda one: ENDPOINT_STATES.index(one["state"]))
    means = [one["ewma_ms"] for one in rows if one["ewma_ms"] is not None]
    breakers = [one["breaker"] for one in rows]
    return {
        **worst,
        "tier": max((one["tier"] for one in rows), key=ENDPOINT_STATES.index),
        "inflight": sum(one["inflight"] for one in rows),
        "connections": _counts(one["connections"] for one in rows),
        "keepalive_learned_s": _least(one["keepalive_learned_s"] for one in rows),
        "ewma_ms": rounded(math.fsum(means) / len(means)) if means else None,
        "cooling_until": _most(one["cooling_until"] for one in rows),
        "breaker": max(breakers, key=lambda one: _BREAKERS.index(one["state"])),
        "keys": [_merged_key(keys) for keys in zip(*(one["keys"] for one in rows), strict=False)],
        "consecutive_failures": max(one["consecutive_failures"] for one in rows),
        "last_check": _most(one["last_check"] for one in rows),
        "last_error": max(
            (one["last_error"] for one in rows if one["last_error"]),
            key=lambda one: one["at"],
            default=None,
        ),
        "failed": sum(one["failed"] for one in rows),
        "window": _tally(rows, "window"),
        "whole": _tally(rows, "whole"),
    }


def _merged_key(keys: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return dict(max(keys, key=lambda one: one["cooling_until"] or 0.0))


def _gone(snapshots: Sequence[Snapshot]) -> dict[str, Any]:
    """Return what is still counted of endpoints that the first process has no more.

    Those of another one that has not heard of a reload yet, or died before it, are among them.
    """
    known = {row["id"] for row in snapshots[0]["endpoints"]}
    names = [row["id"] for one in snapshots for row in one["endpoints"]]
    names += [name for one in snapshots for name in one["gone"]]
    return {name: _counted(snapshots, name) for name in dict.fromkeys(names) if name not in known}


def _counted(snapshots: Sequence[Snapshot], name: str) -> dict[str, Any]:
    """Return the counters of one endpoint, wherever it is configured still, or was once."""
    gone = [one["gone"][name] for one in snapshots if name in one["gone"]]
    found = [*_rows(snapshots, name), *gone]
    return {what: _counts(one[what] for one in found) for what in ("outcomes", "reasons")}


def _rows(snapshots: Sequence[Snapshot], name: str) -> list[dict[str, Any]]:
    return [row for one in snapshots if (row := _find(one, name)) is not None]


def _find(one: Snapshot, name: str) -> dict[str, Any] | None:
    return next((row for row in one["endpoints"] if row["id"] == name), None)


def _newest(one: Snapshot) -> float:
    row = _find(one, one["last_endpoint"])
    return (row["last_check"] or 0.0) if row is not None else 0.0


def _counts(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    made: dict[str, int] = {}
    for one in counts:
        for name, count in one.items():
            made[name] = made.get(name, 0) + count
    return made


def _tally(rows: Iterable[Mapping[str, Any]], name: str) -> dict[str, object]:
    return Tally.of(*(row[name] for row in rows)).plain()


def _most(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _least(values: Iterable[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)


def _either(first: float | None, second: float | None) -> float | None:
    return second if first is None else first


def _date(wall: float | None) -> str | None:
    """Return a time as RFC 3339 has it, in UTC: `2026-01-31T12:00:00.000Z`."""
    if wall is None:
        return None
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
