"""What changes at the endpoints, said once per change, as events.

A change comes with the result of an attempt or a probe, or with time: a circuit's open time ends,
a key has cooled down. So the endpoint is looked at after each result that is not plainly good,
and all of them once a second for as long as one is not well. While all are, nothing is done and
no timer runs.

Who listens decides nothing: the state is the same with and without.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from holdfast.core.call import circuit_events
from holdfast.core.events import EndpointState, TierChanged
from holdfast.core.health import COOL_MOST, Tier
from holdfast.gateway.snapshots import COOLING, DISABLED, state_of, tier_name
from holdfast.runtime.clock import clock
from holdfast.runtime.hub import hub
from holdfast.runtime.wheel import Due
from holdfast.telemetry.redact import visible

if TYPE_CHECKING:
    from holdfast.core.balance import Endpoint
    from holdfast.gateway.cluster import Cluster

LOOK_SECONDS = 1.0
SURFACE = "gateway"
"""The `policy` of these events."""
HEALTHY, KEY_OUT = "healthy", "key_out"
_RECENT = 60.0


class Watch(Due):
    """Looks at the endpoints of one gateway. For the loop's thread.

    is_busy: some endpoint is not well, so that each result is worth a look.
    """

    __slots__ = ("_cluster", "_healths", "_keys", "_told", "is_busy", "tier")

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()
        self._cluster = cluster
        endpoints = cluster.balancer.endpoints
        self._told = {one.id: DISABLED for one in endpoints if not one.enabled}
        self._healths = {one.id: one.health for one in endpoints}
        self._keys: dict[tuple[str, int], float] = {}
        self.tier = Tier.HEALTHY
        self.is_busy = False

    def look(self, endpoint: Endpoint, now: float) -> None:
        """Say what has changed at one endpoint."""
        self._circuit(endpoint, now)
        if self._healths.get(endpoint.id) is not endpoint.health:
            return  # a request that began before a reload, at what is another endpoint by now
        self._look_at_keys(endpoint, now)
        state, before = state_of(endpoint, now), self._told.get(endpoint.id, HEALTHY)
        if state != before:
            self._told[endpoint.id] = state
            if hub.listening:
                why, until = self._reason(endpoint, state, now), _until(endpoint, state, now)
                hub.publish(self._event(endpoint, state, now, why, until))
        self._look_at_tier(now)
        busy = any(state not in {HEALTHY, DISABLED} for state in self._told.values())
        if busy is not self.is_busy:
            self.is_busy = busy
            self._cluster.wheel.set(self, now + LOOK_SECONDS if busy else math.inf)

    def on_due(self, now: float) -> None:
        """Look at all of them: time alone changes states, too."""
        self.is_busy = False  # so that the first look arms the wheel anew
        for endpoint in self._cluster.balancer.endpoints:
            self.look(endpoint, now)

    def succeed(self, before: Watch) -> None:
        """Go on for another configuration: endpoints that are gone are forgotten."""
        self._cluster.wheel.set(before, math.inf)
        self._healths = {one.id: one.health for one in self._cluster.balancer.endpoints}
        told = before._told.items()
        self._told = {name: state for name, state in told if name in self._healths}
        keys = before._keys.items()
        self._keys = {name: until for name, until in keys if name[0] in self._healths}
        self.tier = before.tier
        self.on_due(clock.monotonic())

    def _look_at_keys(self, endpoint: Endpoint, now: float) -> None:
        """Say which keys were refused, or have no money left: somebody has to see to that."""
        for key in endpoint.health.keys:
            until, name = key.cooldown.until, (endpoint.id, key.number)
            if until <= now + COOL_MOST:
                if until <= now:
                    self._keys.pop(name, None)
                continue
            if self._keys.get(name) == until:
                continue
            self._keys[name] = until
            if hub.listening:
                why = f"{self._why(endpoint, now)}, key {key.number}"
                hub.publish(self._event(endpoint, KEY_OUT, now, why, until))

    # -- words -----------------------------------------------------------------------------------

    def _circuit(self, endpoint: Endpoint, now: float) -> None:
        """Say what the breaker did. Taken from it in any case: the list would grow for ever."""
        breaker = endpoint.health.breaker
        if not breaker.changes:
            return
        changes, breaker.changes = breaker.changes, []
        if hub.listening:
            labels = {"time": now, "policy": SURFACE, "key": endpoint.id, "call_id": 0}
            for event in circuit_events(changes, labels):  # type: ignore[arg-type]  # a TypedDict
                hub.publish(event)

    @staticmethod
    def _event(
        endpoint: Endpoint, state: str, now: float, why: str, until: float | None
    ) -> EndpointState:
        return EndpointState(
            time=now, policy=SURFACE, key=endpoint.id, state=state, reason=why, until=until
        )

    def _reason(self, endpoint: Endpoint, state: str, now: float) -> str:
        """Return why, in a word or two of a fixed set."""
        if state == HEALTHY:
            return "recovered"
        if state == DISABLED:
            return "configuration"
        if state == tier_name(Tier.UNHEALTHY):
            if endpoint.health.ejected:
                return "fails more than others"
            closed = endpoint.health.breaker.state.value == "closed"
            return "probe failed" if closed else "half-open"
        return self._why(endpoint, now)

    def _why(self, endpoint: Endpoint, now: float) -> str:
        """Return how the latest attempt failed."""
        last = self._cluster.ledger.account(endpoint.id).last_error
        if last is not None and now - last[0] < _RECENT:
            return visible(last[1].verdict.partition(":")[0])
        return "slow"

    def _look_at_tier(self, now: float) -> None:
        tier = self._cluster.balancer.tier(now)
        before, self.tier = self.tier, tier
        if tier is not before and hub.listening:
            hub.publish(
                TierChanged(
                    time=now, policy=SURFACE, before=tier_name(before), tier=tier_name(tier)
                )
            )


def _until(endpoint: Endpoint, state: str, now: float) -> float | None:
    """Return when a state ends, if that is known."""
    if state == COOLING:
        return endpoint.health.free_at(now)
    opened = state == tier_name(Tier.CIRCUIT_OPEN) and math.isfinite(endpoint.health.breaker.until)
    return endpoint.health.breaker.until if opened else None
