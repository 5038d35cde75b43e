"""One simulated gateway with its endpoints: the configuration, the faults, what must hold."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from holdfast.testing.gateway_answers import ANSWER_KINDS, HARMLESS
from holdfast.testing.gateway_book import Asked, Book
from holdfast.testing.gateway_clients import CLIENT_KINDS, FORMS, Line, body_of
from holdfast.testing.gateway_upstreams import Up
from holdfast.testing.invariants import Ledger
from holdfast.testing.network import CONNECT_KINDS, DNS_KINDS
from holdfast.testing.tcp import Link

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.gateway.gateway import Gateway
    from holdfast.runtime.random import SeededRandom
    from holdfast.testing.faults import Swarm
    from holdfast.testing.simulation import Sim

STREAM_KINDS = ("rst", "fin", "stall", "slow", "hole", "half_open", "trickle", "idle_close")
"""Faults of a connection; no flipped bits, which plain HTTP cannot find."""
CLIENT_STREAM_KINDS = ("rst", "fin", "stall", "slow", "hole", "half_open", "trickle")

NAMES = ("a", "b", "c")
METHODS = ("p2c", "weighted", "round_robin", "random", "least_inflight")
PREFIX = "HOLDFAST_SIM_"
LARGE = 256 * 1024


class World:
    """One seed: endpoints, a configuration, a gateway, a book.

    settings: of the gateway, as in a file.  latency: of the links, one way.
    storm: virtual time from which nothing fails any more.  bad: endpoints that have faults.
    """

    def __init__(self, sim: Sim) -> None:
        self.sim = sim
        swarm = sim.swarm()
        self.latency = swarm.between(0.0002, 0.01)
        self.storm = swarm.between(1, 60)
        self.book = Book(sim)
        self.ledger = Ledger(sim)
        self.is_ending = False
        self.outcomes: dict[int, str] = {}
        self.gateway: Gateway | None = None
        self._numbers = 0
        sim.network.link = Link(latency=self.latency)
        sim.network.reach = 1 << swarm.whole(9, 16)
        source = sim.random("gateway")
        self.callers, self.calls = swarm.whole(1, 10), swarm.whole(6, 24)
        self.ups = [Up(self.book, name, self.latency) for name in NAMES]
        for number, up in enumerate(self.ups):
            address = f"10.0.0.{number + 1}"
            sim.network.host(up.host, address)
            sim.network.zones |= {up.host: up.name, address: up.name}
            up.answers.large = 0.02 if swarm.whole(0, 9) == 0 else 0.0
        sim.network.zones["127.0.0.1"] = "client"
        self.settings = self._draw_settings(source)
        self.endpoints = [self._draw_endpoint(up, source) for up in self.ups]
        self.tokens = self._draw_tokens(source)
        sim.break_things(self._rates(swarm), until=self.storm)
        self._outages()

    # -- drawing -------------------------------------------------------------------------------

    def _rates(self, swarm: Swarm) -> dict[str, dict[str, float]]:
        """Draw which endpoints are bad, and in which ways; good ones may still be awkward."""
        rates = {
            "client": swarm.rates(CLIENT_KINDS, present=0.4, low=0.02, high=0.2),
            "client/stream": swarm.rates(CLIENT_STREAM_KINDS, present=0.15, low=0.02, high=0.2),
        }
        count = (0, 1, 1, 1, 2, 2, 3, 3, 3, 3)[swarm.whole(0, 9)]
        first = swarm.whole(0, 2)
        self.bad = [NAMES[(first + i) % 3] for i in range(count)]
        for name in NAMES:
            bad = name in self.bad
            kinds = ANSWER_KINDS if bad else HARMLESS
            rates[f"{name}/answer"] = swarm.rates(kinds, present=0.3, low=0.03, high=0.5)
            if not bad:
                continue
            rates[f"{name}/dns"] = swarm.rates(DNS_KINDS, present=0.15, low=0.03, high=0.5)
            rates[f"{name}/connect"] = swarm.rates(CONNECT_KINDS, present=0.4, low=0.03, high=0.6)
            rates[f"{name}/stream"] = swarm.rates(STREAM_KINDS, present=0.4, low=0.03, high=0.5)
            rates[f"{name}/outage"] = swarm.rates(("outage",), present=0.4, low=0.3, high=0.9)
        return rates

    def _outages(self) -> None:
        for up in self.ups:
            fault = self.sim.faults.at(f"{up.name}/outage", 0.0)
            if fault is not None:
                begin = fault.x * self.storm * 0.8
                up.down.append((begin, begin + fault.y * (self.storm - begin)))

    def _draw_settings(self, source: SeededRandom) -> dict[str, Any]:
        def seconds(low: float, high: float) -> float:
            return float(round(low * (high / low) ** source.draw(), 3))

        first = seconds(0.3, 5)
        settings: dict[str, Any] = {
            "balance": source.choice(METHODS),
            "repeat": source.choice(("paths", "paths", "paths", "idempotent", "all")),
            "attempts": source.choice(("auto", "auto", "auto", 1, 2, 3, 6)),
            "retry_budget": source.choice((0.1, 0.1, 0.0, 0.5)),
            "retry_reserve": source.choice((100, 100, 10, 0)),
            "connect_timeout": seconds(0.1, 3),
            "first_byte_timeout": source.choice((first, first, "auto")),
            "first_content_timeout": seconds(0.5, 10),
            "idle_timeout": seconds(0.5, 8),
            "total_timeout": seconds(2, 40),
            "max_wait": source.choice((0, seconds(0.1, 10), 30)),
            "queue": source.choice((1000, 1000, 2, 0)),
            "hold_preamble": source.draw() < 0.8,
            "buffer_max": source.choice(("256KiB", "256KiB", "1KiB")),
            "head_timeout": seconds(1, 10),
            "client_idle": seconds(5, 75),
            "write_timeout": seconds(5, 20),
            "via": source.draw() < 0.8,
            "expose": source.draw() < 0.9,
            "breaker": {"open_for": seconds(0.2, 5), "max_open": seconds(5, 60)},
        }
        if source.draw() < 0.3:
            settings["breaker"] |= {"consecutive": source.between(2, 8), "min_calls": 10}
        return settings

    def _draw_endpoint(self, up: Up, source: SeededRandom) -> dict[str, Any]:
        choice = source.choice
        endpoint: dict[str, Any] = {
            "id": up.name,
            "weight": choice((100, 100, 100, 10, 300)),
            "priority": choice((1, 1, 1, 2)),
            "max_inflight": choice((0, 0, 0, 0, 1, 3)),
            "max_connections": choice((200, 200, 200, 2, 1)),
            "keepalive": choice((60, 60, 5, 0)),
        }
        up.base = choice(("", "", "/base"))
        endpoint["url"] = f"http://{up.host}{up.base}"
        keys = source.choice((0, 0, 1, 2, 3))
        up.keys = [f"sk-{up.name}{i}-5d1f0b" for i in range(keys)]
        if keys:
            endpoint["keys"] = [f"env:{PREFIX}{up.name}{i}" for i in range(keys)]
            endpoint["key_header"] = choice(("auto", "auto", "x-api-key", "bearer", "api-key"))
            fields = {"x-api-key": "x-api-key", "bearer": "authorization", "api-key": "api-key"}
            up.key_field = fields.get(endpoint["key_header"], "")
        if source.draw() < 0.2:
            up.added = {"x-added": f"by-{up.name}"}
            endpoint["headers"] = {"X-Added": f"by-{up.name}"}
        return endpoint

    def _draw_tokens(self, source: SeededRandom) -> list[str]:
        tokens = ["sk-client-token-77aa"] if source.draw() < 0.2 else []
        if tokens:
            self.settings["client_tokens"] = [f"env:{PREFIX}token"]
        has_keys = any(up.keys for up in self.ups)
        self.book.forwards = not (tokens or has_keys)
        self.book.secrets = {key: up.name for up in self.ups for key in up.keys}
        self.book.secrets |= dict.fromkeys(tokens, "")
        return tokens

    def draw_request(self, source: SeededRandom, form: str = "") -> Asked:
        """Draw a request and enter it into the book."""
        self._numbers += 1
        number = self._numbers
        form = form or source.choice(FORMS)
        stream = form in ("messages", "chat") and source.draw() < 0.5
        method, path, profile = _SHAPES[form]
        if form == "messages" and source.draw() < 0.3:
            path += "?beta=true&n="
        else:
            path += "?n="
        asked = Asked(number, method, f"{path}{number}", profile=profile)
        asked.stream = stream or form == "events"
        if method == "POST":
            asked.body = body_of(number, stream=stream, size=source.choice((1, 10, 300)))
        repeat = self.settings["repeat"]
        listed = form in ("messages", "chat")
        asked.repeatable = (
            method != "POST" or form == "keyed" or repeat == "all" or (listed and repeat == "paths")
        )
        asked.limit = float(self.settings["total_timeout"])
        self._draw_fields(asked, form, source)
        return self.book.ask(asked)

    def _draw_fields(self, asked: Asked, form: str, source: SeededRandom) -> None:
        fields = asked.fields
        fields += [("X-Keep-Case", f"k{asked.number}"), ("x-keep-case", "second")]
        if form == "keyed":
            fields.append(("Idempotency-Key", f"key-{asked.number}"))
        if asked.body:
            fields.append(("Content-Type", "application/json"))
        if self.tokens:
            fields.append(("Authorization", f"Bearer {self.tokens[0]}"))
        elif source.draw() < 0.3:
            fields.append(("X-Api-Key", f"sk-own-{asked.number}"))
        if source.draw() < 0.1:
            fields += [("Connection", "x-drop"), ("X-Drop", "1")]
        if source.draw() < 0.15:
            asked.limit = min(asked.limit, round(0.3 * 30 ** source.draw(), 3))
            fields.append(("X-Request-Timeout-Ms", str(round(asked.limit * 1000))))
        if source.draw() < 0.06:
            asked.minor = 0

    # -- the gateway ---------------------------------------------------------------------------

    def environment(self) -> dict[str, str]:
        """Return where the configuration finds its secrets."""
        found = {f"{PREFIX}{up.name}{i}": key for up in self.ups for i, key in enumerate(up.keys)}
        return found | {f"{PREFIX}token": token for token in self.tokens}

    def configuration(self) -> Any:  # noqa: ANN401 - imported late, with its dependencies
        """Return the configuration as the gateway wants it."""
        from holdfast.gateway.config import read_gateways  # noqa: PLC0415 - needs httptools

        tree = {"listen": "127.0.0.1:0", **self.settings, "endpoint": self.endpoints}
        result = read_gateways({"gateway": {"g": tree}})
        if result.value is None:
            raise ValueError("; ".join(str(problem) for problem in result.problems))
        return result.value["g"]

    async def start(self) -> None:
        """Start endpoints and gateway."""
        from holdfast.gateway.gateway import Gateway  # noqa: PLC0415 - needs httptools

        self.sim.at_end.enter_context(patch.dict(os.environ, self.environment()))
        self._servers = [
            await self.sim.loop.create_server(up.serve, up.host, 80) for up in self.ups
        ]
        self.gateway = Gateway(self.configuration())
        await self.gateway.start()
        self.port = self.gateway.port

    async def stop(self) -> None:
        """Stop the gateway, then its endpoints; nothing may be left."""
        self.is_ending = True
        if self.gateway is not None:
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

    def note(self, asked: Asked, outcome: str) -> None:
        """Keep an outcome."""
        self.outcomes[asked.number] = outcome

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
        assert self.gateway is not None  # noqa: S101 - tells the type checker
        cluster, check = self.gateway.cluster, self.sim.check
        assert cluster is not None  # noqa: S101 - tells the type checker
        for endpoint in cluster.balancer.endpoints:
            text = f"{endpoint.id}: {endpoint.health.in_flight}"
            check(endpoint.health.in_flight == 0, "in flight left", text)
            probes = endpoint.health.breaker.probes_out
            check(probes == 0, "probes left", f"{endpoint.id}: {probes}")
            upstream = cluster.upstream_of(endpoint)
            check(not upstream.waiting, "line left", endpoint.id)
            total, idle = upstream.connections
            check(total == idle, "busy connection left", f"{endpoint.id}: {total - idle}")

    def check_neutral(self) -> None:
        """Check that endpoints without a fault have kept their health."""
        assert self.gateway is not None  # noqa: S101 - tells the type checker
        cluster = self.gateway.cluster
        assert cluster is not None  # noqa: S101 - tells the type checker
        now = self.sim.clock.monotonic()
        for endpoint in cluster.balancer.endpoints:
            if endpoint.id in self.bad:
                continue
            counts = endpoint.health.counts(now)
            text = f"{endpoint.id}: {counts.failures} of {counts.calls}"
            self.sim.check(counts.failures == 0, "blamed without reason", text)

    def check_load(self) -> None:
        """Check that no request was sent more often than it may be."""
        attempts = self.settings["attempts"]
        most = 4 if attempts == "auto" else attempts
        for number, executions in self.book.of.items():
            # One attempt may meet a kept connection that was dead, and have a second one.
            count = len(executions)
            self.sim.check(count <= 2 * most, "too many attempts", f"request {number}: {count}")


def kinds() -> Iterator[str]:
    """Yield every kind of fault that this world knows."""
    yield from (*ANSWER_KINDS, *CLIENT_KINDS, *STREAM_KINDS, *CONNECT_KINDS, *DNS_KINDS)
    yield "outage"


_SHAPES = {
    "messages": ("POST", "/v1/messages", "anthropic"),
    "chat": ("POST", "/v1/chat/completions", "openai"),
    "get": ("GET", "/v1/things", "generic"),
    "head": ("HEAD", "/v1/things", "generic"),
    "pay": ("POST", "/pay", "generic"),
    "keyed": ("POST", "/pay", "generic"),
    "events": ("GET", "/events", "generic"),
}
