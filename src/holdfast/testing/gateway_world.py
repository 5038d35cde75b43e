"""One simulated gateway with its endpoints: how it starts, is reloaded, ends; what must hold."""

from __future__ import annotations

import asyncio
import math
import os
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from holdfast.core.breaker import State
from holdfast.core.line import Phase
from holdfast.testing.gateway_book import TICK, Asked, Book
from holdfast.testing.gateway_drawn import Drawn, bad_ones, rates
from holdfast.testing.gateway_upstreams import MANY, Up
from holdfast.testing.invariants import Ledger
from holdfast.testing.tcp import Link

if TYPE_CHECKING:
    from holdfast.core.balance import Endpoint
    from holdfast.core.events import Event
    from holdfast.gateway.cluster import Cluster
    from holdfast.gateway.connection import Dial
    from holdfast.gateway.gateway import Gateway
    from holdfast.runtime.random import SeededRandom
    from holdfast.testing.gateway_clients import Line
    from holdfast.testing.simulation import Sim

LARGE = 256 * 1024
REFUSED = {"408", "421", "425", "429", "500", "502", "503", "522", "529"}
"""Outcomes that another endpoint could have mended."""
LOOK = 0.1
"""Seconds between two looks at the line."""
ROOM = 1000
"""A line of so many is never full."""
SMALL = 4096
"""Bytes above which bodies count as large in half of the runs."""


class World:
    """One seed: endpoints, a configuration, a gateway, a book.

    latency: of the links, one way.  storm: virtual time from which nothing fails any more.
    bad: endpoints that have faults.  blackout: all are down until the storm is over.
    is_changed: limits or keys were others once, and requests of then may be under way.
    """

    def __init__(self, sim: Sim) -> None:
        self.sim = sim
        swarm = sim.swarm()
        self.latency = swarm.between(0.0002, 0.01)
        self.storm = swarm.between(1, 60)
        self.book = Book(sim)
        self.ledger = Ledger(sim)
        self.is_ending = False
        self.drains_at = math.inf
        self.outcomes: dict[int, str] = {}
        self.gateway: Gateway
        self.clusters: list[Cluster] = []
        self.is_changed = False
        self._changed_at = -math.inf
        self._queued: set[Dial] = set()
        sim.network.link = Link(latency=self.latency)
        sim.network.reach = 1 << swarm.whole(9, 16)
        self.callers, self.calls = swarm.whole(1, 10), swarm.whole(6, 24)
        self.ups = [Up(self.book, name, self.latency) for name in ("a", "b", "c")]
        for number, up in enumerate(self.ups):
            address = f"10.0.0.{number + 1}"
            sim.network.host(up.host, address)
            sim.network.zones |= {up.host: up.name, address: up.name}
            up.answers.large = 0.02 if swarm.whole(0, 9) == 0 else 0.0
        sim.network.zones["127.0.0.1"] = "client"
        self.drawn = Drawn(sim.random("gateway"), self.ups)
        self.settings = self.drawn.settings
        self._divide_secrets()
        sim.listen(self._hear)
        self.bad = bad_ones(swarm)
        self.blackout = swarm.whole(0, 19) == 0
        sim.break_things(rates(swarm, self.bad), until=self.storm)
        self._outages()

    def _divide_secrets(self) -> None:
        tokens, book = self.drawn.tokens, self.book
        book.forwards = not (tokens or any(up.keys for up in self.ups))
        book.secrets = {key: up.name for up in self.ups for key in up.keys}
        book.secrets |= dict.fromkeys(tokens, "")

    def _hear(self, event: Event) -> None:
        text = repr(event).encode()
        self.book.check_secrets(text, "an event")

    def _outages(self) -> None:
        for up in self.ups:
            fault = self.sim.faults.at(f"{up.name}/outage", 0.0)
            if self.blackout:
                up.down.append((0.0, self.storm))
            elif fault is not None:
                begin = fault.x * self.storm * 0.8
                up.down.append((begin, begin + fault.y * (self.storm - begin)))

    def draw_request(self, source: SeededRandom, form: str = "") -> Asked:
        """Draw a request and enter it into the book."""
        return self.book.ask(self.drawn.request(source, form))

    # -- the gateway ---------------------------------------------------------------------------

    @staticmethod
    def _read(tree: dict[str, Any]) -> Any:  # noqa: ANN401 - imported late, with its dependencies
        from holdfast.gateway.config import read_gateways  # noqa: PLC0415 - needs httptools

        return read_gateways({"gateway": {"g": tree}})

    def configuration(self) -> Any:  # noqa: ANN401 - imported late, with its dependencies
        """Return the configuration as the gateway wants it."""
        result = self._read(self.drawn.tree)
        if result.value is None:
            raise ValueError("; ".join(str(problem) for problem in result.problems))
        return result.value["g"]

    async def start(self) -> None:
        """Start endpoints and gateway."""
        from holdfast.gateway.gateway import Gateway  # noqa: PLC0415 - needs httptools

        self.sim.at_end.enter_context(patch.dict(os.environ, self.drawn.environment()))
        if self.sim.random("large").draw() < 0.5:  # megabytes would show what kilobytes do
            for name in ("reading.WHOLE", "upload.UNSENT_MOST"):
                self.sim.at_end.enter_context(patch(f"holdfast.gateway.{name}", SMALL))
        self.book.look = self.look
        total, most = (self.settings[f"replay_{name}"] for name in ("total", "max"))
        self.book.replays = min(total / 8, most)
        self._servers = [
            await self.sim.loop.create_server(up.serve, up.host, 80) for up in self.ups
        ]
        self.gateway = Gateway(self.configuration())
        self._limit(free=False)
        await self.gateway.start()
        self.port = self.gateway.port
        self.clusters.append(self.gateway.cluster)

    async def operate(self) -> None:
        """Reload the configuration now and then, as long as the storm lasts."""
        source = self.sim.random("operator")
        while True:
            await asyncio.sleep(self.storm / 8 * 2 * source.draw())
            now = self.sim.clock.monotonic()
            if now >= self.storm:
                return
            fault = self.sim.faults.at("operation", now)
            if fault is not None:
                self._reload(fault.kind, fault.x)

    def _reload(self, kind: str, x: float) -> None:
        result = self._read(self.drawn.changed(kind, x))
        if result.value is None:
            self.sim.check(kind == "invalid", "reload", f"{kind}: {result.problems}")
            return
        self.is_changed |= kind in ("retune", "rotate")
        self._limit(free=kind in ("remove", "restore", "rotate"))
        before = self._states()
        self.gateway.use(result.value["g"])
        if kind != "rotate":  # with other keys it is another endpoint, as far as that goes
            for name, state in self._states().items():
                text = f"{name}: {before.get(name)}, {state}"
                self.sim.check(before.get(name, state) == state, "forgotten by a reload", text)
        self.clusters.append(self.gateway.cluster)
        self._changed_at = self.sim.clock.monotonic()

    def _states(self) -> dict[str, tuple[object, ...]]:
        """Return what a reload must not change, by endpoint."""
        return {
            one.id: (one.health.in_flight, one.health.breaker.state, one.health.breaker.gen)
            for one in self.gateway.cluster.balancer.endpoints
        }

    def _limit(self, *, free: bool) -> None:
        """Tell endpoints what may be asked of them; free: not, as two sets may share them."""
        for up in self.ups:
            up.forget()
            own = self.drawn.endpoints[up.name]
            busy, connections = own["max_inflight"] or math.inf, own["max_connections"]
            # One that was sent there under another limit, or with keys of before, may lose its
            # connection and wait for a place, decided as it is.
            up.roomy = (up.roomy or not self.clusters) and (
                connections >= MANY or not self.is_changed
            )
            if self.clusters:  # what began before goes on
                busy, connections = max(busy, up.most_busy), max(connections, up.most_open)
            up.most_busy = math.inf if free else busy
            up.most_open = math.inf if free else connections

    async def watch(self) -> None:
        """Look at the line again and again, as long as the storm lasts."""
        while self.sim.clock.monotonic() < self.storm:
            await asyncio.sleep(LOOK)
            self.check_line()
            self._check_pools()

    def ends_soon(self, asked_at: float) -> bool:
        """Whether a request that was sent then may have come too late for a gateway that ends."""
        return asked_at + 2 * self.latency >= self.drains_at

    async def drain(self, seconds: float) -> None:
        """End well."""
        self.drains_at = self.sim.clock.monotonic()
        self.book.ends_at = self.drains_at + seconds
        await self.gateway.drain(seconds)
        took = self.sim.clock.monotonic() - self.drains_at
        self.sim.check(took <= seconds + 2, "drain", f"{took:.3f} s instead of {seconds:.3f} s")

    async def stop(self) -> None:
        """Stop the gateway, then its endpoints; nothing may be left."""
        self.is_ending = True
        await self.gateway.stop()
        # Where a link has a hole, the end of a connection is not heard at the other end.
        await asyncio.sleep(1 + 10 * self.latency)
        for up in self.ups:
            for serving in list(up.open):
                if not serving.is_left:
                    self.sim.violation("connection left", f"at {up.name}")
                serving.end()
        for server in self._servers:
            server.close()

    # -- what must hold ------------------------------------------------------------------------

    def look(self) -> None:
        """Check the endpoints' state, at any moment: good ones are healthy, trials are few."""
        now, check = self.sim.clock.monotonic(), self.sim.check
        for endpoint in self.gateway.cluster.balancer.endpoints:
            health = endpoint.health
            probes = health.breaker.probes_out
            check(probes <= 1, "probes", f"{endpoint.id}: {probes}")
            if endpoint.id not in self.bad and not self.blackout:
                tier = health.tier(now).name
                check(tier == "HEALTHY", "blamed without reason", f"{endpoint.id}: {tier}")
        self.check_line()

    def check_line(self) -> None:
        """Check that nobody waits in line while there is an endpoint that he may ask."""
        cluster = self.gateway.cluster
        line = cluster.line
        if not cluster.waiting or self.sim.clock.monotonic() < self._changed_at + TICK:
            return
        ramps = line.phase is Phase.RAMP
        if ramps and line._out >= line.width:  # noqa: SLF001 - the ramp is all that may hold it up
            return
        free = [one.id for one in cluster.balancer.endpoints if self._is_free(one)]
        text = f"{cluster.waiting} for {', '.join(free)}, {line.phase.value}"
        self.sim.check(not free, "waits though there is room", text)

    def _is_free(self, endpoint: Endpoint) -> bool:
        """Whether an endpoint may be asked, and might have been a tick ago if time alone counts."""
        health, since = endpoint.health, self.sim.clock.monotonic() - TICK
        breaker = health.breaker
        may = {
            State.OPEN: breaker.until <= since,
            State.HALF_OPEN: not breaker.probes_out,
        }.get(breaker.state, True)
        room = health.in_flight < endpoint.max_in_flight
        return endpoint.enabled and room and may and health.free_at(since) <= since

    def _check_pools(self) -> None:
        """Check that nobody was sent to an endpoint that has no place for him.

        Where there were more places once, one whose connection has died meanwhile has none.
        """
        before, self._queued = self._queued, set()
        for upstream in self.gateway.cluster.upstreams:
            self._queued |= set(upstream.waiting)
            left = len(before & set(upstream.waiting))
            more = upstream.endpoint.health.in_flight - upstream.pool.most
            text = f"{left} wait for one at {upstream.endpoint.id}"
            self.sim.check(left <= max(0, more), "no place", text)

    def check_promise(self, asked: Asked, outcome: str) -> None:
        """Check that one bad endpoint beside good ones is not seen by clients."""
        good = [up for up in self.ups if up.name not in self.bad and up.enabled]
        ample = [up for up in good if self.drawn.endpoints[up.name]["max_inflight"] == 0]
        keys = sum(len(self.drawn.endpoints[name].get("keys", "1")) for name in self.bad)
        settings = self.settings
        patience = settings["first_byte_timeout"]
        if len(self.clusters) > 1 or not ample or self.drawn.most <= keys or patience == "auto":
            return
        slow = ("connect_timeout", "first_content_timeout", "idle_timeout")
        most = patience + sum(settings[name] for name in slow) + 1
        large = len(asked.body) > min(self.book.replays, SMALL)
        may = asked.repeatable and not large and asked.limit > (keys + 1) * most
        seen = outcome.startswith(("HF-", "ours")) or outcome in REFUSED
        # With few connections there may be no room for as long as one waits.
        few = all(self.drawn.endpoints[up.name]["max_connections"] < MANY for up in ample)
        seen &= not (few and outcome in ("HF-3103", "ours 503"))
        broken = self.blackout or self.book.ends_at < math.inf or outcome in ("HF-3005", "ours 408")
        self.sim.check(
            not (may and seen) or broken, "seen by a client", f"{asked.number}: {outcome}"
        )

    def check_patience(self, asked: Asked, outcome: str, seconds: float) -> None:
        """Check that nobody who may wait is told before his time that there is no room."""
        settings = self.settings
        if outcome != "HF-3103" or len(self.clusters) > 1 or settings["queue"] < ROOM:
            return
        text = f"{asked.number}: after {seconds:.3f} s of {settings['max_wait']}"
        self.sim.check(seconds >= settings["max_wait"], "sent away early", text)

    def note(self, asked: Asked, outcome: str) -> None:
        """Keep an outcome."""
        self.outcomes[asked.number] = outcome
        self.check_promise(asked, outcome)

    def check_buffer(self, line: Line) -> None:
        """Check how much of an answer waits in the gateway for a client that does not read."""
        size = line.transport.peer.get_write_buffer_size()
        self.sim.check(size <= 2 * LARGE, "buffer", f"{size} bytes for one client")

    def client_leaves(self, line: Line) -> None:
        """Look, a little later, whether the work for a client that leaves has ended."""
        if line.broken or line.waiting[0][0].minor == 0:
            return
        number = line.waiting[0][0].number
        self.sim.loop.call_later(0.1 + 6 * self.latency, self._look_for, number)

    def _look_for(self, number: int) -> None:
        for execution in self.book.of[number]:
            serving = execution.serving
            if serving.execution is execution and not serving.is_left:
                self.sim.violation("work for nobody", f"request {number} at {execution.up}")

    def check_at_rest(self) -> None:
        """Check that everything is given back, now that nobody asks."""
        check = self.sim.check
        for cluster in self.clusters:
            for endpoint in cluster.balancer.endpoints:
                text = f"{endpoint.id}: {endpoint.health.in_flight}"
                check(endpoint.health.in_flight == 0, "in flight left", text)
                probes = endpoint.health.breaker.probes_out
                check(probes == 0, "probes left", f"{endpoint.id}: {probes}")
                upstream = cluster.upstream_of(endpoint)
                check(not upstream.waiting, "line left", endpoint.id)
                total, idle = upstream.connections
                check(total == idle, "busy connection left", f"{endpoint.id}: {total - idle}")
            check(not cluster.waiting, "line left", f"{cluster.waiting} requests")
        check(self.gateway.cluster.room.used == 0, "memory left", "of bodies")
        self._check_sums()

    def check_forgotten(self) -> None:
        """Check that what is over has no limit any more, which would hold it for as long."""
        wheel: Any = self.clusters[0].wheel
        for owners in wheel._slots.values():  # noqa: SLF001 - what it holds shows nowhere else
            for one in owners:
                state = getattr(getattr(one, "state", None), "name", "")
                over = state == "OVER" and one.due < math.inf
                self.sim.check(not over, "held though over", type(one).__name__)

    def _check_sums(self) -> None:
        """Check that what the gateway counted adds up, and that it is what happened."""
        check, ledger = self.sim.check, self.gateway.cluster.ledger
        ended = ledger.succeeded + ledger.failed + ledger.cancelled
        text = f"{ledger.requests} requests, {ended} ended"
        check(ledger.requests == ended and ledger.in_flight == 0, "sums", text)
        check(ledger.streams == 0, "sums", f"{ledger.streams} streams")
        check(ledger.cuts <= ledger.failed, "sums", f"{ledger.cuts} cuts")
        outcomes = sum(sum(one.outcomes.values()) for one in ledger.accounts.values())
        check(outcomes == ledger.requests, "sums", f"{outcomes} outcomes of {ledger.requests}")
        lost = ("left", "gone", "not taken", "not connected", "HF-3005", "ours 408")
        sure = sum(one not in lost for one in self.outcomes.values())
        check(sure <= ledger.requests <= len(self.outcomes), "sums", f"{sure}, {text}")

    def check_neutral(self) -> None:
        """Check that endpoints without a fault have kept their health."""
        now = self.sim.clock.monotonic()
        for endpoint in self.gateway.cluster.balancer.endpoints:
            if endpoint.id in self.bad or self.blackout:
                continue
            counts = endpoint.health.counts(now)
            text = f"{endpoint.id}: {counts.failures} of {counts.calls}"
            self.sim.check(counts.failures == 0, "blamed without reason", text)

    def check_load(self) -> None:
        """Check that no request was sent more often than it may be, nor all of them together."""
        most, check = self.drawn.most, self.sim.check
        accounts = list(self.gateway.cluster.ledger.accounts.values())
        vain = sum(one.reasons.get("no place", 0) for one in accounts)
        check(not vain or self.is_changed, "no place", f"{vain} waited for one in vain")
        for number, executions in self.book.of.items():
            # One attempt may meet a kept connection that was dead, and have a second one.
            count = len(executions)
            check(count <= 2 * most, "too many attempts", f"request {number}: {count}")
        if not self.blackout:
            return
        # Who found no place in the pool has asked nobody.
        reasons = [pair for one in accounts for pair in one.reasons.items()]
        attempts = sum(count for name, count in reasons if name != "no place")
        # As long as an endpoint looks healthy, each caller may find that out for himself.
        free = len(self.ups) * (self.callers + 2)
        offered, share = len(self.outcomes), float(self.settings["retry_budget"])
        limit = offered * (1 + share) + float(self.settings["retry_reserve"]) + free
        check(attempts <= limit, "retry budget", f"{attempts} attempts for {offered} requests")
