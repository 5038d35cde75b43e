"""What one process of a gateway knows, as plain data.

A snapshot has raw counts too, and may cross a process boundary as JSON; `stats` and `metrics` make
of one or several what is given out. Reading is all that happens here: no state is moved, no counter
reset, no look taken that a request would have to take.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

from holdfast.core.breaker import State
from holdfast.core.health import Tier
from holdfast.runtime.clock import clock
from holdfast.telemetry.redact import visible

if TYPE_CHECKING:
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
        "keepalive_learned_s": rounded(upstream.lifetime.learned),
        "ewma_ms": ms(mean),
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


def rounded(value: float | None) -> float | None:
    """Return a number with as many digits as anybody reads."""
    return None if value is None else round(value, 3)


def ms(seconds: float | None) -> float | None:
    """Return seconds as ms."""
    return None if seconds is None else round(1000 * seconds, 3)
