"""The pages of the gateway itself, on the port of its clients: read only.

    GET /__holdfast__/stats     the JSON of `stats`; also /__qcc__/stats
    GET /__holdfast__/ready     200, or 503 while it is ending or no endpoint is enabled
    GET /__holdfast__/metrics   Prometheus text

A page that any site could ask a browser for needs care: the Host field must name this machine or
one of `hosts` (else another site's name could be pointed here), an Origin must be the page's own,
and without a token the listener and the peer must both be loopback, with nobody in between who
speaks for others. Everything under the prefix is answered here, so that no probing reaches an
endpoint that is paid for.
"""

from __future__ import annotations

import ipaddress
import json
from typing import TYPE_CHECKING, Any

from holdfast.gateway import errors, metrics
from holdfast.gateway.snapshots import snapshot, tier_name
from holdfast.gateway.stats import shown
from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    from holdfast.gateway.client import Client
    from holdfast.gateway.cluster import Cluster
    from holdfast.gateway.tokens import Tokens
    from holdfast.wire.requests import RequestHead

ALIAS = b"/__qcc__"
"""Another prefix for the statistics, under which clients of qcc ask for them."""

_METHODS = frozenset({b"GET", b"HEAD"})
_BETWEEN = frozenset({b"forwarded", b"via", b"x-forwarded-for", b"x-real-ip"})
_JSON = "application/json"


class Pages:
    """The pages of one cluster."""

    def __init__(self, cluster: Cluster, tokens: Tokens) -> None:
        self._cluster = cluster
        self._tokens = tokens
        self._prefix = cluster.config.admin_prefix.encode()
        self._hosts = frozenset(host.lower().encode() for host in cluster.config.hosts)
        self._for_sites = not all(one.path for one in cluster.config.listen)
        self._far = frozenset(one.port for one in cluster.config.listen if not one.is_local)

    @property
    def prefixes(self) -> bytes | tuple[bytes, ...]:
        """What targets of pages begin with; one text if it can be, as each request is asked."""
        both = (self._prefix, ALIAS)
        return b"/__" if all(one.startswith(b"/__") for one in both) else both

    def covers(self, head: RequestHead) -> bool:
        """Say whether a request is for a page, or for what could be one."""
        path = head.target.partition(b"?")[0]
        return any(path == one or path.startswith(one + b"/") for one in (self._prefix, ALIAS))

    def answer(self, head: RequestHead, client: Client) -> bytes | None:
        """Return the answer to a request for a page; None if it is for an endpoint."""
        path = head.target.partition(b"?")[0]
        for prefix in (self._prefix, ALIAS):
            if path == prefix or path.startswith(prefix + b"/"):
                break
        else:
            return None
        code = self._refusal(head, client)
        if code is None:
            name = path[len(prefix) :]
            if name not in ({b"/stats"} if prefix == ALIAS != self._prefix else _PAGES):
                code = "HF-3013"
            elif head.method not in _METHODS:
                code = "HF-3006"
            else:
                return _PAGES[name](self, head, client)
        return self._refuse(code, head, client)

    # -- who may ask -----------------------------------------------------------------------------

    def _refusal(self, head: RequestHead, client: Client) -> str | None:
        """Return the error for who may not ask."""
        if not self._is_known(head.host):
            return "HF-3012"
        names = {name.lower() for name, _ in head.fields}
        if b"origin" in names and not _is_own_origin(head):
            return "HF-3012"
        if self._tokens.admits(head):
            return None
        return None if self._is_near(client) and not names & _BETWEEN else "HF-3009"

    def knows(self, origin: bytes) -> bool:
        """Say whether a page that a browser shows may ask without a token.

        A site can only have an origin of HTTP, or `null`; others are those of programs, which
        could leave the field out. To a Unix socket no browser connects.
        """
        scheme, is_whole, host = origin.lower().partition(b"://")
        if not self._for_sites or (is_whole and scheme not in {b"http", b"https"}):
            return True
        return self._is_known(host)

    def _is_known(self, host: bytes) -> bool:
        host = host.lower()
        name = _without_port(host)
        return bool(host) and (host in self._hosts or name in self._hosts or _is_loopback(name))

    def _is_near(self, client: Client) -> bool:
        """Say whether both ends of a connection are on this machine, and for it alone."""
        here = client.transport.get_extra_info("sockname")
        peer = client.transport.get_extra_info("peername")
        if isinstance(here, str | bytes):
            return True  # a Unix socket; its file says who may use it
        if not here or not peer or not (_is_loopback_text(here[0]) and _is_loopback_text(peer[0])):
            return False
        # A listener at all addresses is reached by a loopback one, too.
        return here[1] not in self._far and 0 not in self._far

    # -- pages -----------------------------------------------------------------------------------

    def _snapshots(self, client: Client) -> list[dict[str, Any]]:
        own = snapshot(self._cluster, draining=client.draining)
        others = self._cluster.ledger.others()
        return [own, *(one for one in others if one["pid"] != own["pid"])]

    def _stats(self, head: RequestHead, client: Client) -> bytes:
        return _page(200, _JSON, _encoded(shown(self._snapshots(client))), head, client)

    def _metrics(self, head: RequestHead, client: Client) -> bytes:
        text = metrics.text(self._snapshots(client)).encode()
        return _page(200, metrics.CONTENT_TYPE, text, head, client)

    def _ready(self, head: RequestHead, client: Client) -> bytes:
        endpoints = self._cluster.balancer.endpoints
        reason = "draining" if client.draining else ""
        if not reason and not any(one.enabled for one in endpoints):
            reason = "no endpoint is enabled"
        tier = tier_name(self._cluster.balancer.tier(clock.monotonic()))
        said = _encoded({"ready": not reason, "reason": reason or None, "tier": tier})
        return _page(503 if reason else 200, _JSON, said, head, client)

    @staticmethod
    def _refuse(code: str, head: RequestHead, client: Client) -> bytes:
        fields = ["Cache-Control: no-store"]
        if code == "HF-3006":
            fields.append("Allow: GET, HEAD")
        elif code == "HF-3009":
            fields.append('WWW-Authenticate: Bearer realm="holdfast"')
        value = errors.body(code, "", text="" if code != "HF-3006" else "pages are only read")
        close = client.closes(head, ends=False)
        is_head = head.method == b"HEAD"
        return errors.answer(code, value, close=close, fields=fields, head=is_head)


_PAGES = {b"/stats": Pages._stats, b"/ready": Pages._ready, b"/metrics": Pages._metrics}  # noqa: SLF001 - the table of its own methods


def _page(status: int, kind: str, data: bytes, head: RequestHead, client: Client) -> bytes:
    lines = [
        f"HTTP/1.1 {status} {'OK' if status == 200 else 'Service Unavailable'}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(data)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
    ]
    if client.closes(head, ends=False):
        lines.append("Connection: close")
    start = "\r\n".join([*lines, "", ""]).encode("latin-1")
    return start if head.method == b"HEAD" else start + data


def _encoded(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False).encode() + b"\n"


def _is_own_origin(head: RequestHead) -> bool:
    """Say whether the page that asks is one of this very address."""
    origins = [value for name, value in head.fields if name.lower() == b"origin"]
    own = {scheme + head.host.lower() for scheme in (b"http://", b"https://")}
    return all(value.strip().lower() in own for value in origins)


def _without_port(host: bytes) -> bytes:
    if host.startswith(b"["):
        return host[1:].partition(b"]")[0]
    return host.partition(b":")[0]


def _is_loopback(name: bytes) -> bool:
    return name == b"localhost" or _is_loopback_text(name.decode("latin-1"))


def _is_loopback_text(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
