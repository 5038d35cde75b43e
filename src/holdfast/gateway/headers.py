"""Heads as they go on: what belongs to one connection is dropped, the rest is left as it is.

    dropped both ways   what is of one connection (see `wire.onward`), and what Connection names
    to the endpoint     Host is the endpoint's; the client's credentials give way to the
                        endpoint's key; who the client is, is told only if that was wished
    to the client       framing is ours; Via and the request's id are added

Case, order and duplicates of everything else are kept, because some servers care.
Source: RFC 9110, 7.6.1; RFC 9112, 7.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.wire.onward import HOP, goes_on

if TYPE_CHECKING:
    from collections.abc import Iterable

    from holdfast.wire.requests import RequestHead
    from holdfast.wire.responses import ResponseHead

    Fields = Iterable[tuple[bytes, bytes]]

_TO_ENDPOINT = HOP | {b"host", b"expect", b"x-request-timeout-ms"}
_CREDENTIALS = frozenset({b"authorization", b"x-api-key", b"api-key"})
_FORWARDED = b"forwarded"
_KEPT = frozenset({b"host", b"content-length", b"transfer-encoding", b"forwarded", b"via"})
"""What a Connection field may name without effect: dropping it would change what is asked."""
_PLAIN = frozenset({b"close", b"keep-alive", b"upgrade", b"te"})
"""What it usually names: nothing that is not dropped anyway."""


@dataclass(frozen=True, slots=True, eq=False)  # found by what it is, not by what it says
class Route:
    """What is the same for all requests to one endpoint with one key.

    base: path that goes before each target, without a final `/`.  own: whole lines of ours:
    Host, the key, configured fields.  dropped: names of fields that go no further, in lower case.
    """

    base: bytes
    own: bytes
    dropped: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks. trusted: what it says of those behind it is believed.

    told: the lines that tell the endpoint of it; empty if that is not wished.
    """

    trusted: bool = False
    told: bytes = b""


NOBODY = Client()
"""One of whom nothing is known, and nothing is told."""


def route(
    *,
    host: str,
    base: str = "",
    key: tuple[str, str] | None = None,
    headers: dict[str, str],
    credentials: bool,
) -> Route:
    """Make a route. key: name and value of the field that carries it.

    credentials: the client's go along.
    """
    own = {"Host": host, **headers}
    if key is not None:
        own[key[0]] = key[1]
    lines = "".join(f"{name}: {value}\r\n" for name, value in own.items())
    names = frozenset(name.lower().encode() for name in own)
    dropped = _TO_ENDPOINT | names | (frozenset() if credentials else _CREDENTIALS)
    return Route(base.rstrip("/").encode(), lines.encode("latin-1"), dropped)


def request_head(
    head: RequestHead,
    to: Route,
    client: Client,
    *,
    length: int | None,
    via: bytes = b"",
    identity: bool = False,
) -> bytes:
    """Return the bytes of the head that goes to an endpoint.

    length: of the body in our framing; None for a chunked one.
    via: our token in the Via field; empty to add none.  identity: ask for no content coding.
    """
    dropped = to.dropped
    if head.options and not head.options <= _PLAIN:
        dropped |= _named(head.options)
    if identity:
        dropped |= {b"accept-encoding"}
    if via:
        dropped |= {b"via"}
    base = to.base if head.target != b"*" else b""  # the server as a whole has no path
    out = [head.method, b" ", base, head.target, b" HTTP/1.1\r\n", to.own]
    _pass_on(head.fields, dropped, out, forwarding=client.trusted)
    if via:
        out += (b"Via: ", _via(head, via), b"\r\n")
    if client.told:
        out.append(client.told)
    if identity:
        out.append(b"Accept-Encoding: identity\r\n")
    if length is None:
        out.append(b"Transfer-Encoding: chunked\r\n")
    elif length or head.method not in BODYLESS:
        out.append(b"Content-Length: %d\r\n" % length)
    out.append(b"\r\n")
    return b"".join(out)


def _named(options: Iterable[bytes]) -> set[bytes]:
    """Return the fields that go no further because Connection names them."""
    return {one for one in options if one not in _KEPT and not one.startswith(b"x-forwarded-")}


BODYLESS = frozenset({b"GET", b"HEAD", b"OPTIONS", b"DELETE"})
"""Methods of requests that mostly have no body: then they say nothing of its length."""


def _pass_on(
    fields: Fields, dropped: frozenset[bytes], out: list[bytes], *, forwarding: bool
) -> None:
    for name, value in fields:
        lower = name.lower()
        if not goes_on(lower, dropped):
            continue
        if not forwarding and (lower == _FORWARDED or lower.startswith(b"x-forwarded-")):
            continue
        out += (name, b": ", value, b"\r\n")


def _via(head: RequestHead | ResponseHead, own: bytes) -> bytes:
    seen = [value for name, value in head.fields if name.lower() == b"via"]
    return b", ".join([*seen, b"1.%d %b" % (head.minor, own)])


def told_of(head: RequestHead, address: str, client: Client, *, secure: bool) -> Client:
    """Return a client of which endpoints are told the address, as proxies tell it.

    What a trusted one says of those behind it stays, and its own address is added to that.
    Source: RFC 7239, and the fields that were custom before it.
    """
    lines = [f"X-Forwarded-For: {address}"]
    if not client.trusted:
        proto = "https" if secure else "http"
        host = head.host.decode("latin-1")
        node = f'"[{address}]"' if ":" in address else address
        lines += [f"X-Forwarded-Proto: {proto}"]
        if host:
            lines += [f"X-Forwarded-Host: {host}"]
        lines += [f"Forwarded: for={node};proto={proto}" + (f';host="{host}"' if host else "")]
    told = "".join(f"{line}\r\n" for line in lines).encode("latin-1")
    return Client(trusted=client.trusted, told=told)


def wants_events(head: RequestHead) -> bool:
    """Say whether a request asks for a stream of events in its head, as browsers do.

    One that would take anything else as well does not: what it gets may take long to begin.
    """
    return any(
        name.lower() == b"accept" and value.strip().lower() == b"text/event-stream"
        for name, value in head.fields
    )


def is_loop(head: RequestHead, own: bytes) -> bool:
    """Whether a request has been through this gateway before. own: our token in Via."""
    return any(name.lower() == b"via" and own in value for name, value in head.fields)


def response_head(
    head: ResponseHead,
    *,
    length: int | None = None,
    chunked: bool = False,
    close: bool = False,
    via: bytes = b"",
    added: bytes = b"",
) -> bytes:
    """Return the bytes of the head that goes to the client.

    length, chunked: our framing; neither for an answer without a body, or one that ends with
    the connection.  close: the connection ends afterwards.  added: whole lines of ours.
    """
    dropped = HOP
    if head.options and not _PLAIN.issuperset(head.options):
        dropped = HOP | _named(head.options)
    if via:
        dropped |= {b"via"}
    out = [b"HTTP/1.1 %d " % head.status, head.reason, b"\r\n"]
    _pass_on(head.fields, dropped, out, forwarding=True)
    if via:
        out += (b"Via: ", _via(head, via), b"\r\n")
    out.append(added)
    if chunked:
        out.append(b"Transfer-Encoding: chunked\r\n")
    elif length is not None:
        out.append(b"Content-Length: %d\r\n" % length)
    out.append(b"Connection: close\r\n\r\n" if close else b"\r\n")
    return b"".join(out)
