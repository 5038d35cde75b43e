"""Draws for a simulated gateway: its configuration, what goes wrong, what clients ask."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from holdfast.testing.gateway_answers import ANSWER_KINDS, HARMLESS
from holdfast.testing.gateway_book import Asked
from holdfast.testing.gateway_clients import CLIENT_KINDS
from holdfast.testing.network import CONNECT_KINDS, DNS_KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.runtime.random import SeededRandom
    from holdfast.testing.faults import Swarm
    from holdfast.testing.gateway_upstreams import Up

STREAM_KINDS = ("rst", "fin", "stall", "slow", "hole", "half_open", "trickle", "idle_close")
"""Faults of a connection; no flipped bits, which plain HTTP cannot find."""
CLIENT_STREAM_KINDS = ("rst", "fin", "stall", "slow", "hole", "half_open", "trickle")
OPERATIONS = ("retune", "remove", "restore", "rotate", "invalid")
"""Reloads: other settings, an endpoint less, all of them again, other keys, what is no
configuration."""

NAMES = ("a", "b", "c")
METHODS = ("p2c", "weighted", "round_robin", "random", "least_inflight")
FORMS = (
    ("messages",) * 4 + ("chat",) * 2 + ("get",) * 2 + ("pay",) * 2 + ("events", "keyed", "head")
)
"""What is asked, and how often."""
SHAPES = {
    "messages": ("POST", "/v1/messages", "anthropic"),
    "chat": ("POST", "/v1/chat/completions", "openai"),
    "get": ("GET", "/v1/things", "generic"),
    "head": ("HEAD", "/v1/things", "generic"),
    "pay": ("POST", "/pay", "generic"),
    "keyed": ("POST", "/pay", "generic"),
    "events": ("GET", "/events", "generic"),
}
PREFIX = "HOLDFAST_SIM_"
"""Of the environment variables that hold the secrets."""


def kinds() -> Iterator[str]:
    """Yield every kind of fault that can be drawn."""
    yield from (*ANSWER_KINDS, *CLIENT_KINDS, *STREAM_KINDS, *CONNECT_KINDS, *DNS_KINDS)
    yield from (*OPERATIONS, "outage")


def rates(swarm: Swarm, bad: list[str]) -> dict[str, dict[str, float]]:
    """Draw what goes wrong how often; endpoints that are not bad may still be awkward."""
    found = {
        "client": swarm.rates(CLIENT_KINDS, present=0.4, low=0.02, high=0.2),
        "client/stream": swarm.rates(CLIENT_STREAM_KINDS, present=0.15, low=0.02, high=0.2),
        "operation": swarm.rates(OPERATIONS, present=0.3, low=0.1, high=0.5),
    }
    for name in NAMES:
        some = ANSWER_KINDS if name in bad else HARMLESS
        found[f"{name}/answer"] = swarm.rates(some, present=0.3, low=0.03, high=0.5)
        if name in bad:
            found |= {
                f"{name}/dns": swarm.rates(DNS_KINDS, present=0.15, low=0.03, high=0.5),
                f"{name}/connect": swarm.rates(CONNECT_KINDS, present=0.4, low=0.03, high=0.6),
                f"{name}/stream": swarm.rates(STREAM_KINDS, present=0.4, low=0.03, high=0.5),
                f"{name}/outage": swarm.rates(("outage",), present=0.4, low=0.3, high=0.9),
            }
    return found


def bad_ones(swarm: Swarm) -> list[str]:
    """Draw which endpoints have faults."""
    count = (0, 1, 1, 1, 2, 2, 3, 3, 3, 3)[swarm.whole(0, 9)]
    first = swarm.whole(0, 2)
    return [NAMES[(first + i) % 3] for i in range(count)]


class Drawn:
    """The configuration of a run, and its requests.

    settings, endpoints: as in a file.  tokens: what clients must send, if anything.
    """

    def __init__(self, source: SeededRandom, ups: list[Up]) -> None:
        self._source = source
        self._ups = ups
        self._numbers = 0
        self.settings = self._settings()
        self.endpoints = {up.name: self._endpoint(up) for up in ups}
        if all(not up.enabled for up in ups):
            ups[0].enabled = self.endpoints[ups[0].name]["enabled"] = True
        self.tokens = ["sk-client-token-77aa"] if source.draw() < 0.2 else []
        if self.tokens:
            self.settings["client_tokens"] = [f"env:{PREFIX}token"]

    @property
    def tree(self) -> dict[str, Any]:
        """The configuration as a TOML parser gives it."""
        ends = list(self.endpoints.values())
        return {"listen": "127.0.0.1:0", **self.settings, "endpoint": ends}

    @property
    def most(self) -> int:
        """Attempts of one request at most."""
        attempts = self.settings["attempts"]
        return 4 if attempts == "auto" else int(attempts)

    def environment(self) -> dict[str, str]:
        """Return where the configuration finds its secrets."""
        found = {f"{PREFIX}{up.name}{i}": key for up in self._ups for i, key in enumerate(up.keys)}
        return found | {f"{PREFIX}token": token for token in self.tokens}

    def _seconds(self, low: float, high: float) -> float:
        return float(round(low * (high / low) ** self._source.draw(), 3))

    def _settings(self) -> dict[str, Any]:
        choice, seconds, first = self._source.choice, self._seconds, self._seconds(0.3, 5)
        settings: dict[str, Any] = {
            "balance": choice(METHODS),
            "repeat": choice(("paths", "paths", "paths", "idempotent", "all")),
            "attempts": choice(("auto", "auto", "auto", 1, 2, 3, 6)),
            "retry_budget": choice((0.1, 0.1, 0.0, 0.5)),
            "retry_reserve": choice((100, 100, 10, 0)),
            "connect_timeout": seconds(0.1, 3),
            "first_byte_timeout": choice((first, first, "auto")),
            "first_content_timeout": seconds(0.5, 10),
            "idle_timeout": seconds(0.5, 8),
            "total_timeout": seconds(2, 40),
            "max_wait": choice((0, seconds(0.1, 10), 30)),
            "queue": choice((1000, 1000, 2, 0)),
            "hold_preamble": self._source.draw() < 0.8,
            "buffer_max": choice(("256KiB", "256KiB", "1KiB")),
            "replay_max": choice((32 << 20, 32 << 20, 12_000, 0)),
            "replay_total": choice((256 << 20, 256 << 20, 40_000)),
            "head_timeout": seconds(1, 10),
            "client_idle": seconds(5, 75),
            "write_timeout": seconds(5, 20),
            "via": self._source.draw() < 0.8,
            "expose": self._source.draw() < 0.9,
            "breaker": {"open_for": seconds(0.2, 5), "max_open": seconds(5, 60)},
        }
        if self._source.draw() < 0.4:  # time enough to try all, however slow one of them is
            settings |= {
                "attempts": choice(("auto", 6)),
                "connect_timeout": seconds(0.1, 0.5),
                "first_byte_timeout": seconds(0.3, 1),
                "first_content_timeout": seconds(0.5, 1),
                "idle_timeout": seconds(0.5, 1),
                "total_timeout": 40.0,
                "max_wait": 30,
            }
        if self._source.draw() < 0.3:
            settings["breaker"] |= {"consecutive": self._source.between(2, 8), "min_calls": 10}
        return settings

    def _endpoint(self, up: Up) -> dict[str, Any]:
        choice = self._source.choice
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
        up.enabled = endpoint["enabled"] = self._source.draw() < 0.95
        count = choice((0, 0, 1, 2, 3))
        if count:
            up.keys = [f"sk-{up.name}{i}-5d1f0b" for i in range(3)]
            endpoint["keys"] = [f"env:{PREFIX}{up.name}{i}" for i in range(count)]
            endpoint["key_header"] = choice(("auto", "auto", "x-api-key", "bearer", "api-key"))
            fields = {"x-api-key": "x-api-key", "bearer": "authorization", "api-key": "api-key"}
            up.key_field = fields.get(endpoint["key_header"], "")
        if self._source.draw() < 0.2:
            up.added = {"x-added": f"by-{up.name}"}
            endpoint["headers"] = {"X-Added": f"by-{up.name}"}
        return endpoint

    # -- reloads -------------------------------------------------------------------------------

    def changed(self, kind: str, x: float) -> dict[str, Any]:
        """Return another configuration, to be loaded now."""
        names = list(self.endpoints)
        if kind == "invalid":
            return {**self.tree, "queue": -1}
        if kind == "remove":
            enabled = [name for name in names if self.endpoints[name]["enabled"]]
            gone = enabled[int(x * len(enabled))]
            rest = [one for name, one in self.endpoints.items() if name != gone]
            keyed = any("keys" in one for one in self.endpoints.values())
            # Without the last key clients' own credentials would be passed on from then on.
            if len(enabled) > 1 and any("keys" in one for one in rest) == keyed:
                return {**self.tree, "endpoint": rest}
        elif kind == "rotate":
            for endpoint in self.endpoints.values():
                if "keys" in endpoint:
                    first, count = int(x * 3), self._source.between(1, 3)
                    order = [(first + i) % 3 for i in range(count)]
                    endpoint["keys"] = [f"env:{PREFIX}{endpoint['id']}{i}" for i in order]
        elif kind == "retune":
            fresh = self._settings()
            for name in ("balance", "idle_timeout", "max_wait", "queue", "breaker"):
                self.settings[name] = fresh[name]
            for endpoint in self.endpoints.values():
                endpoint["priority"] = self._source.choice((1, 1, 2))
                endpoint["max_inflight"] = self._source.choice((0, 0, 2))
                endpoint["max_connections"] = self._source.choice((200, 200, 1, 4))
        return self.tree

    # -- requests ------------------------------------------------------------------------------

    def request(self, source: SeededRandom, form: str = "") -> Asked:
        """Draw a request."""
        self._numbers += 1
        number = self._numbers
        form = form or source.choice(FORMS)
        method, path, profile = SHAPES[form]
        stream = form in ("messages", "chat") and source.draw() < 0.5
        query = "?beta=true&n=" if source.draw() < 0.2 else "?n="
        asked = Asked(number, method, f"{path}{query}{number}", profile=profile)
        asked.stream = stream or form == "events"
        if method == "POST":
            pad = f"{number}." * source.choice((1, 1, 10, 10, 300, 300, 6000))
            asked.body = json.dumps({"n": number, "stream": stream, "pad": pad}).encode()
        repeat = self.settings["repeat"]
        listed = form in ("messages", "chat") and repeat == "paths"
        asked.repeatable = method != "POST" or form == "keyed" or repeat == "all" or listed
        asked.limit = float(self.settings["total_timeout"])
        self._fields(asked, form, source)
        return asked

    def _fields(self, asked: Asked, form: str, source: SeededRandom) -> None:
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
        elif asked.body and source.draw() < 0.15:
            asked.chunk = source.choice((7, 100, 5000))
