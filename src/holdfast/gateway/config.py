"""What a gateway can be told, in `holdfast.toml` or from a program, and what that must be.

[gateway.main]
listen = "127.0.0.1:7860"

[[gateway.main.endpoint]]
url = "https://api.anthropic.com"
keys = ["env:ANTHROPIC_API_KEY"]
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from holdfast.core.balance import METHODS
from holdfast.core.breaker import Breaker
from holdfast.core.settings import (
    Choice,
    Either,
    Flag,
    Group,
    Groups,
    Kind,
    Many,
    Number,
    Problem,
    Result,
    Seconds,
    SecretRef,
    Size,
    Text,
    Texts,
    Wrong,
    name_of,
    nearest,
    read,
    setting,
)
from holdfast.telemetry import redact

if TYPE_CHECKING:
    from collections.abc import Mapping

SECTIONS = ("gateway",)
"""The tables that a `holdfast.toml` may have; what else stands at its top is not known."""

REPEATABLE = (
    "/v1/messages*",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
)
"""Paths of LLM providers whose POST changes nothing but a bill, and that only if it answers."""

_WAIT = Seconds(0.001, 86400)
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_NAME = Text(r"|[A-Za-z0-9][A-Za-z0-9._-]{0,62}", "a name of letters, digits, `.`, `_` and `-`")


@dataclass(frozen=True, slots=True)
class Listen:
    """An address to listen at: host and port, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True)
class _ListenKind:
    def read(self, value: object) -> Listen:
        if not isinstance(value, str):
            raise Wrong(f"{self} is wanted, not {name_of(value)}")
        if value.startswith("unix:") and len(value) > 5:
            return Listen(path=value[5:])
        found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]+))?:(\d{1,5})", value)
        if found is None or int(found[3]) > 65535:
            raise Wrong(f"{self} is wanted, not `{value}`")
        return Listen(found[1] or found[2] or "127.0.0.1", int(found[3]))

    def __str__(self) -> str:
        return "`HOST:PORT`, `[IPv6]:PORT` or `unix:PATH`"


@dataclass(frozen=True)
class _UrlKind:
    def read(self, value: object) -> str:
        if not isinstance(value, str):
            raise Wrong(f"{self} is wanted, not {name_of(value)}")
        try:
            parts = urlsplit(value)
            port = parts.port
        except ValueError:
            raise Wrong(f"{self} is wanted") from None
        if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
            raise Wrong(f"{self} is wanted")
        if parts.username is not None or parts.password is not None:
            raise Wrong("credentials do not belong into the address; use `keys`")
        if parts.query or parts.fragment or not re.fullmatch(r"[\x21-\x7e]+", value):
            raise Wrong(f"{self} is wanted, without a query")
        return value.rstrip("/")

    def __str__(self) -> str:
        return "an address `http://HOST[:PORT][/PATH]` or `https://...`"


@dataclass(frozen=True)
class _NetworkKind:
    def read(self, value: object) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        try:
            return ipaddress.ip_network(value if isinstance(value, str) else "")
        except ValueError:
            raise Wrong(f"{self} is wanted") from None

    def __str__(self) -> str:
        return "a network such as `10.0.0.0/8`"


class _Headers(dict[str, str]):
    """Header fields. What may be secret in them is not shown."""

    def __repr__(self) -> str:
        return repr(dict(redact.headers(self)))


@dataclass(frozen=True)
class _HeadersKind:
    def read(self, value: object) -> dict[str, str]:
        found = Texts().read(value)
        for name, text in found.items():
            if not _HEADER.match(name) or re.search(r"[\x00-\x08\x0a-\x1f\x7f]", text):
                raise Wrong("a header has a name or a value that may not be sent")
        return _Headers(found)

    def __str__(self) -> str:
        return "a table of header fields"


@dataclass(frozen=True)
class _WorkersKind:
    def read(self, value: object) -> int | str:
        if value == "auto":
            return "auto"
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 256:
            raise Wrong(f"{self} is wanted")
        return value

    def __str__(self) -> str:
        return "a whole number from 1 to 256, or `auto`"


_FILE: Kind = Text()


@dataclass(frozen=True, kw_only=True)
class BreakerConfig:
    """When the circuit of an endpoint opens and closes (see `hf.Breaker`)."""

    ratio: float = setting(Number(0.01, 1), 0.5, "share of failures in the window that opens it")
    window: float = setting(Seconds(1, 3600), 30, "seconds looked at")
    min_calls: int = setting(
        Number(1, 100_000, whole=True), 20, "below so many calls the ratio is not used"
    )
    consecutive: int = setting(
        Number(1, 10_000, whole=True), 5, "so many failures in a row open it, too"
    )
    open_for: float = setting(Seconds(0.01, 3600), 5, "seconds open, doubled for each reopening")
    max_open: float = setting(Seconds(0.01, 86400), 300, "seconds open at most")
    half_open: int = setting(Number(1, 100, whole=True), 1, "requests that try at a time")
    close_after: int = setting(Number(1, 1000, whole=True), 3, "results that decide about closing")

    def options(self) -> Breaker:
        """Return the breaker."""
        return Breaker(**{name: getattr(self, name) for name in self.__dataclass_fields__})


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """One endpoint: `[[gateway.NAME.endpoint]]`. Times of 0 are those of the cluster."""

    url: str = setting(_UrlKind(), doc="where it is; its path goes before that of each request")
    id: str = setting(_NAME, "", "default: host and number")
    keys: tuple[str, ...] = setting(
        Many(SecretRef(), single=True), [], "credentials; used in turn, each cools down alone"
    )
    key_header: str = setting(
        Choice(("auto", "x-api-key", "bearer", "api-key")), "auto", "where the key is sent"
    )
    weight: int = setting(Number(1, 1000, whole=True), 100, "its share beside others")
    priority: int = setting(Number(0, 1000, whole=True), 1, "lower ones are used first")
    enabled: bool = setting(Flag(), True, "whether it is used at all")
    max_inflight: int = setting(
        Number(0, 1_000_000, whole=True), 0, "requests at a time; 0: no limit"
    )
    max_connections: int = setting(
        Number(1, 100_000, whole=True), 200, "connections, and so requests, at a time"
    )
    keepalive: float = setting(
        Seconds(0, 3600), 60, "seconds that an unused connection is kept at most"
    )
    connect_timeout: float = setting(Seconds(0, 3600), 0, "see the cluster's")
    first_byte_timeout: float = setting(Seconds(0, 86400), 0, "see the cluster's")
    idle_timeout: float = setting(Seconds(0, 86400), 0, "see the cluster's")
    probe_path: str = setting(
        Text(r"|/[\x21-\x7e]*", "a path such as `/health`"),
        "",
        "GET that costs nothing, for probes; default: only a connection",
    )
    probe_max: float = setting(Seconds(1, 86400), 60, "seconds between two probes at most")
    headers: dict[str, str] = setting(_HeadersKind(), {}, "added to each request")
    host: str = setting(Text(), "", "Host field and TLS name, if not those of the address")
    verify: bool = setting(Flag(), True, "check the certificate")
    ca_file: str = setting(_FILE, "", "authorities to trust instead of the system's")


@dataclass(frozen=True, kw_only=True)
class GatewayConfig:
    """One gateway: `[gateway.NAME]`."""

    listen: tuple[Listen, ...] = setting(
        Many(_ListenKind(), single=True), "127.0.0.1:7860", "where clients connect"
    )
    endpoint: list[EndpointConfig] = setting(Groups(EndpointConfig), doc="see below; one at least")
    tls_cert: str = setting(_FILE, "", "certificate chain; with it clients speak TLS")
    tls_key: str = setting(_FILE, "", "its key")
    workers: int | str = setting(_WorkersKind(), 1, "processes on the one port")
    profile: str = setting(
        Choice(("auto", "generic", "anthropic", "openai")), "auto", "the API; auto: by path"
    )
    balance: str = setting(Choice(METHODS), "p2c", "how one of equally good endpoints is chosen")
    repeat: str = setting(
        Choice(("idempotent", "paths", "all")), "paths", "which requests may be sent twice"
    )
    repeat_paths: tuple[str, ...] = setting(
        Many(Text(r"/.*", "a path that may end with `*`")), list(REPEATABLE), "for `paths`"
    )
    attempts: int | str = setting(
        Either((Number(1, 100, whole=True), Choice(("auto",)))),
        "auto",
        "per request; auto: endpoints + 1, from 4 to 8",
    )
    retry_budget: float = setting(Number(0, 10), 0.1, "retries per request, in the long run")
    retry_reserve: float = setting(Number(0, 100_000), 100, "retries saved up")
    connect_timeout: float = setting(_WAIT, 3, "TCP and TLS")
    first_byte_timeout: float | str = setting(
        Seconds(0.001, 86400, ("auto",)), "auto", "auto: 8 times the p99 of late, from 2 s"
    )
    first_content_timeout: float = setting(_WAIT, 60, "of a stream, from sending")
    idle_timeout: float = setting(_WAIT, 120, "of silence within an answer")
    total_timeout: float = setting(_WAIT, 600, "for all attempts; of a stream, until it begins")
    stream_timeout: float = setting(Seconds(0, 86400 * 30), 0, "of a whole stream; 0: none")
    max_wait: float = setting(Seconds(0, 86400), 30, "for an endpoint that cools down or is full")
    queue: int = setting(Number(0, 1_000_000, whole=True), 1000, "requests that wait at most")
    hold_preamble: bool = setting(
        Flag(), True, "keep a stream's empty beginning back until content comes"
    )
    buffer_max: int = setting(Size(1024, 1 << 30), "256KiB", "of an answer held to be retried")
    head_max: int = setting(Size(1024, 1 << 20), "32KiB", "of a request's head")
    body_max: int = setting(Size(0, 1 << 40), "64MiB", "of a request's body")
    replay_max: int = setting(Size(0, 1 << 34), "32MiB", "of a body kept to be sent again")
    replay_total: int = setting(Size(0, 1 << 40), "256MiB", "of all bodies that are kept")
    head_timeout: float = setting(_WAIT, 10, "for a request's head")
    body_timeout: float = setting(_WAIT, 30, "without a byte of a request's body")
    body_min_rate: int = setting(Size(0, 1 << 30), 512, "bytes per second of a body, after 10 s")
    client_idle: float = setting(_WAIT, 75, "between two requests of a connection")
    write_timeout: float = setting(_WAIT, 60, "in which a client takes nothing")
    max_connections: int = setting(Number(1, 1_000_000, whole=True), 10_000, "of clients")
    max_per_ip: int = setting(Number(0, 1_000_000, whole=True), 0, "of one client; 0: no limit")
    client_tokens: tuple[str, ...] = setting(
        Many(SecretRef(), single=True), [], "one of which a client must send"
    )
    trusted_proxies: tuple[object, ...] = setting(
        Many(_NetworkKind(), single=True), [], "whose X-Forwarded-For is believed"
    )
    forwarded: bool = setting(Flag(), False, "tell endpoints the client's address")
    hosts: tuple[str, ...] = setting(
        Many(Text(), single=True),
        [],
        "names for the pages under admin_prefix, and of sites that may ask, beside loopback",
    )
    via: bool = setting(Flag(), True, "add a Via field, which also finds loops")
    expose: bool = setting(Flag(), True, "add x-holdfast-request, -endpoint and -attempts")
    count_tokens: str = setting(
        Choice(("auto", "local", "pass")), "auto", "who answers .../count_tokens"
    )
    admin_prefix: str = setting(
        Text(r"/[\w.-]+", "a path such as `/__holdfast__`"),
        "/__holdfast__",
        "where the pages of the gateway itself are",
    )
    access_log: str = setting(Text(), "off", "`off`, `stderr` or a path")
    access_log_sample: float = setting(Number(0, 1), 1.0, "share of requests logged")
    drain_timeout: float = setting(Seconds(0, 86400), 600, "for requests under way at the end")
    panic: float = setting(Number(0, 1), 0.5, "with fewer left, no outlier is ejected")
    max_ejected: float = setting(Number(0, 1), 0.5, "share of endpoints ejected at most")
    breaker: BreakerConfig = setting(Group(BreakerConfig), {}, "see below")

    @property
    def attempts_max(self) -> int:
        """How many attempts a request has."""
        if isinstance(self.attempts, str):
            return min(8, max(4, len(self.endpoint) + 1))
        return self.attempts

    def __post_init__(self) -> None:
        if not self.endpoint:
            raise ValueError("there is no endpoint: add `[[gateway.NAME.endpoint]]` with a `url`")
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("`tls_cert` and `tls_key` belong together")
        ids = [one.id for one in self.endpoint if one.id]
        twice = next((name for name in ids if ids.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two endpoints have the id `{twice}`")
        far = next((one for one in self.listen if not one.is_local), None)
        if far is not None and not self.client_tokens:
            raise ValueError(
                f"`{far}` can be reached from other machines: set `client_tokens` (`env:NAME`)"
            )


def read_gateways(tree: Mapping[str, object]) -> Result[dict[str, GatewayConfig]]:
    """Read `[gateway.*]` of a whole configuration. tree: as a TOML parser gives it."""
    tables = tree.get("gateway", {})
    if not isinstance(tables, dict):
        return Result(None, [Problem("gateway", "a table of gateways is wanted")])
    problems = [_stray(key) for key in tree if key not in SECTIONS]
    found: dict[str, GatewayConfig] = {}
    for name, table in tables.items():
        if not isinstance(table, dict):
            near = nearest(name, GatewayConfig.__dataclass_fields__)
            hint = "settings stand under a name: `[gateway.main]`" if near else "a table is wanted"
            problems.append(Problem(f"gateway.{name}", hint))
            continue
        result = read(GatewayConfig, table, f"gateway.{name}")
        problems += result.problems
        if result.value is not None:
            found[name] = result.value
    return Result(None if problems else found, problems)


def _stray(key: str) -> Problem:
    """Return what is wrong with something at the top of a file that nobody reads."""
    if key in GatewayConfig.__dataclass_fields__:
        return Problem(key, "settings stand under a name: write it below `[gateway.main]`")
    return Problem(key, "not known", nearest(key, SECTIONS))
