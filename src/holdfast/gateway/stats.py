"""What a gateway says of itself: the JSON of `/stats`, of one process or of several.

    snapshot(cluster)        everything that one process knows, as plain data: its raw counts too
    shown([snapshot, ...])   the JSON that is given out: counts summed, rates and percentiles made
                             from the sums

A snapshot may cross a process boundary as JSON. Reading is all that happens here: no state is
moved, no counter reset, no look taken that a request would have to take.

Where workers disagree about an endpoint, the worse is shown, as that is what somebody looks for.
"""

from __future__ import annotations

import math
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from holdfast.core.breaker import State
from holdfast.core.health import Tier
from holdfast.core.histogram import Tally
from holdfast.gateway.ledger import WINDOW
from holdfast.runtime.clock import clock
from holdfast.telemetry.redact import visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from holdfast.core.balance import Endpoint
    from holdfast.core.health import Cooldown, Health, Key
    from holdfast.core.histogram import Recent
    from holdfast.gateway.cluster import Cluster
    from holdfast.gateway.ledger import Account

Snapshot = dict[str, Any]
"""What `snapshot` gives."""

DISABLED, COOLING = "disabled", "cooling"
ENDPOINT_STATES = ("healthy", COOLING, "degraded", "unhealthy", "circuit_open", DISABLED)
"""States of an endpoint, the better first."""
_BREAKERS = ("disabled", "closed", "half-open", "open", "isolated")


class _Now:
    """The moment of a snapshot; turns monotonic times into those of a calendar."""

    def __init__(self) -> None:
        self.monotonic = clock.monotonic()
        self.wall = clock.wall()

    def told(self, monotonic: float | None) -> float | None:
        """Return seconds since the epoch; None for never."""
        if monotonic is None or not math.isfinite(monotonic):
            return None
        return round(self.wall + monotonic - self.monotonic, 3)

    def ahead(self, monotonic: float) -> float | None:
        """Return the same for what is still to come; None for what is over."""
        return self.told(monotonic) if monotonic > self.monotonic else None


def tier_name(tier: Tier) -> str:
    """Return how a tier is called outside: `circuit_open`."""
    return tier.name.lower()


def state_of(endpoint: Endpoint, now: float) -> str:
    """Return the state of an endpoint: its tier, unless it is disabled or only cools down."""
    if not endpoint.enabled:
        return DISABLED
    tier = endpoint.health.tier(now)
    cooling = tier is Tier.HEALTHY and endpoint.health.free_at(now) > now
    return COOLING if cooling else tier_name(tier)


# -- one process -------------------------------------------------------------------------------


def snapshot(cluster: Cluster, *, draining: bool = False) -> Snapshot:
    """Return what this process knows, as data that JSON can carry."""
    now, ledger = _Now(), cluster.ledger
    known = {endpoint.id for endpoint in cluster.balancer.endpoints}
    return {
        "pid": os.getpid(),
        "at": now.wall,
        "start_time": now.told(ledger.began_at),
        "draining": draining,
        "tier": tier_name(cluster.balancer.tier(now.monotonic)),
        "requests": ledger.requests,
        "succeeded": ledger.succeeded,
        "failed": ledger.failed,
        "cancelled": ledger.cancelled,
        "inflight": ledger.in_flight,
        "streams": ledger.streams,
        "waiting": cluster.waiting,
        "tokens": cluster.budget,
        "stale": ledger.stale,
        "cuts": ledger.cuts,
        "retries": dict(ledger.retries),
        "refusals": dict(ledger.refusals),
        "lines_dropped": ledger.lines_dropped,
        **_lately_and_ever(ledger.recent, now),
        "durations": ledger.durations.plain(),
        "last_endpoint": ledger.last_endpoint,
        "endpoints": [_endpoint(cluster, one, now) for one in cluster.balancer.endpoints],
        "gone": {
            name: {"outcomes": dict(account.outcomes), "reasons": dict(account.reasons)}
            for name, account in ledger.accounts.items()
            if name not in known
        },
    }


def _endpoint(cluster: Cluster, one: Endpoint, now: _Now) -> dict[str, Any]:
    health, upstream = one.health, cluster.upstream_of(one)
    account = cluster.ledger.account(one.id)
    opened, idle = upstream.connections
    mean = health.mean.value
    return {
        "id": one.id,
        "base_url": visible(upstream.config.url),
        "priority": one.priority,
        "weight": one.weight,
        "enabled": one.enabled,
        "state": state_of(one, now.monotonic),
        "tier": tier_name(health.tier(now.monotonic)),
        "inflight": health.in_flight,
        "connections": {"open": opened, "idle": idle, "reused": upstream.reused},
        "keepalive_learned_s": _rounded(upstream.lifetime.learned),
        "ewma_ms": _ms(mean),
        "cooling_until": now.ahead(health.free_at(now.monotonic)),
        "breaker": _breaker(health, now),
        "keys": [_key(key, now) for key in health.keys] if upstream.config.keys else [],
        "consecutive_failures": account.row,
        "last_check": now.told(account.seen_at),
        "last_error": _last_error(account, now),
        "failed": account.failed,
        "outcomes": dict(account.outcomes),
        "reasons": dict(account.reasons),
        **_lately_and_ever(account.recent, now),
    }


def _lately_and_ever(recent: Recent, now: _Now) -> dict[str, Any]:
    window, whole = recent.both(now.monotonic)
    return {"window": window.plain(), "whole": whole.plain()}


def _breaker(health: Health, now: _Now) -> dict[str, Any]:
    breaker = health.breaker
    opened = breaker.state is State.OPEN
    return {
        "state": breaker.state.value,
        "generation": breaker.gen,
        "reopens_at": now.told(breaker.until) if opened else None,
    }


def _key(key: Key, now: _Now) -> dict[str, Any]:
    until = _until(key.cooldown, now)
    return {"id": key.number, "state": COOLING if until else "ready", "cooling_until": until}


def _until(cooldown: Cooldown, now: _Now) -> float | None:
    return now.ahead(cooldown.until)


def _last_error(account: Account, now: _Now) -> dict[str, Any] | None:
    if account.last_error is None:
        return None
    at, said = account.last_error
    return {
        "at": now.told(at),
        "verdict": visible(said.verdict),
        "sent": said.sent,
        "status": said.status or None,
        "ms": said.ms,
    }


# -- given out ---------------------------------------------------------------------------------


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
        "p50_ms": _ms(_either(window.quantile(0.5), ever.quantile(0.5))),
        "p99_ms": _ms(_either(window.quantile(0.99), ever.quantile(0.99))),
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
        "success_rate": _rounded(_either(window.success_rate, ever.success_rate)),
        "avg_response_time": _ms(_either(window.mean, ever.mean)),
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
        "ewma_ms": _rounded(math.fsum(means) / len(means)) if means else None,
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


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 3)


def _date(wall: float | None) -> str | None:
    """Return a time as RFC 3339 has it, in UTC: `2026-01-31T12:00:00.000Z`."""
    if wall is None:
        return None
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
