"""Which proxy a request goes through: the variables that every tool reads, as curl reads them.

    http_proxy, https_proxy     for addresses of that scheme
    all_proxy                   where neither is set
    no_proxy                    hosts that are asked directly

Each in lower case or upper case; lower case wins, and one that is empty means no proxy. In a CGI
program (REQUEST_METHOD is set) HTTP_PROXY is a header of whoever sent the request, `Proxy:`, so
it does not count there.

A proxy was named by the user of this machine, so it may have a private address. What is behind it
is looked up by the proxy, not by us: only hosts that are addresses, or names with one meaning,
can be judged here (see `addresses.check_host`).

Pure: the environment comes as an argument.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes, urlsplit

from holdfast.core.verdict import Kind, Sent, Verdict
from holdfast.wire.addresses import literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.wire.urls import Url

_PORTS = {"http": 80, "https": 443}  # as curl, but for http: it takes 1080
_HOST = re.compile(r"[A-Za-z0-9_.:%-]{1,254}\Z")


class ProxyFailed(OSError):
    """A proxy did not do it. An OSError: no connection came up.

    status: that it answered, 0 for none.  verdict: what may follow.
    """

    def __init__(self, text: str, verdict: Verdict, status: int = 0) -> None:
        super().__init__(text)
        self.verdict = verdict
        self.status = status

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (str(self), self.verdict, self.status))


def unusable(text: str) -> ProxyFailed:
    """Return the failure of a proxy that cannot be used as it is named."""
    return ProxyFailed(text, Verdict(Kind.PERMANENT, Sent.NO, "proxy", evidence="proxy"))


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy. credentials: `user:password` in clear, or empty; never part of a repr."""

    host: str
    port: int
    credentials: str = field(default="", repr=False)

    @property
    def authorization(self) -> str:
        """The value of a Proxy-Authorization header, or empty."""
        if not self.credentials:
            return ""
        return "Basic " + base64.b64encode(self.credentials.encode()).decode("ascii")


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxies of a run, and the hosts without one.

    by_scheme: scheme -> the variable's value, and its name, for messages. Values may hold
    credentials, and are never shown.
    """

    by_scheme: Mapping[str, tuple[str, str]] = field(default_factory=dict, repr=False)
    without: tuple[str, ...] = ()

    def choose(self, url: Url) -> Proxy | None:
        """Return the proxy for an address; None: it is asked directly.

        Raises ProxyFailed if the variable names what cannot be used. Going without it would
        show the address to a network that the user did not mean.
        """
        value, name = self.by_scheme.get(url.scheme, ("", ""))
        if not value or self.is_exempt(url):
            return None
        return _read(value, name)

    def is_exempt(self, url: Url) -> bool:
        """Whether `no_proxy` names the host."""
        return any(_fits(one, url) for one in self.without)


NONE = Proxies()
"""All hosts are asked directly."""


def proxies_of(environment: Mapping[str, str]) -> Proxies:
    """Return the proxies that an environment names."""
    found = {}
    for scheme in _PORTS:
        own = [f"{scheme}_proxy", f"{scheme}_proxy".upper()]
        if scheme == "http" and "REQUEST_METHOD" in environment:
            own = own[:1]  # CVE-2016-5385, "httpoxy"
        names = [*own, "all_proxy", "ALL_PROXY"]
        name = next((one for one in names if one in environment), "")
        if name:
            found[scheme] = (environment[name].strip(), name)
    without = environment.get("no_proxy", environment.get("NO_PROXY", ""))
    return Proxies(found, tuple(re.split(r"[\s,]+", without.strip())) if without.strip() else ())


def _read(value: str, name: str) -> Proxy:
    """Read `[http://][user:password@]host[:port]`. No message holds the value."""
    text = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise unusable(f"`{name}` is not the address of a proxy") from None
    if parts.scheme != "http":
        scheme = re.sub(r"[^a-z0-9+.-]", "_", parts.scheme)[:20]
        raise unusable(f"`{name}` names a proxy of the scheme `{scheme}`; only `http` is known")
    if not _HOST.match(host) or port == 0:
        raise unusable(f"`{name}` is not the address of a proxy")
    userinfo = parts.netloc.rpartition("@")[0]
    credentials = unquote_to_bytes(userinfo).decode("utf-8", "replace")
    if re.search(r"[\x00-\x1f\x7f]", credentials):
        raise unusable(f"`{name}` has a control character in its credentials")
    return Proxy(host, port or _PORTS["http"], credentials)


def _fits(entry: str, url: Url) -> bool:
    """Whether one entry of `no_proxy` means a host.

    `*` means all; a name means itself and what ends in it, with or without `.` or `*.` before
    it; an address means itself, with `/bits` its network; a port after it restricts it.
    """
    if entry == "*":
        return True
    entry, port = _split_port(entry.lower())
    if port is not None and port != url.port:
        return False
    address = literal(url.host)
    if address is not None:
        return _covers(entry, url.host)
    name = entry.removeprefix("*").strip(".")
    host = url.host.rstrip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _split_port(entry: str) -> tuple[str, int | None]:
    """Split `host:port` and `[v6]:port`; IPv6 without brackets has no port."""
    found = re.match(r"(\[[^\]]*\]|[^:]*):([0-9]{1,5})\Z", entry)
    return (found[1], int(found[2])) if found else (entry, None)


def _covers(entry: str, host: str) -> bool:
    address = literal(host)
    entry = entry.replace("[", "").replace("]", "")
    if "/" in entry:
        try:
            network = ip_network(entry, strict=False)
        except ValueError:
            return False
        return address is not None and address.version == network.version and address in network
    return literal(entry) == address
