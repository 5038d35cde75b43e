"""Through a proxy: CONNECT for https (RFC 9110, 9.3.6).

The proxy joins two connections and sees nothing of what they say; TLS is with the server behind
it, under the server's name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.core.classify import verdict_for_status
from holdfast.core.verdict import Kind, Sent, Verdict
from holdfast.runtime.clock import SystemClock, clock
from holdfast.wire.http1 import (
    USER_AGENT,
    CutShort,
    Head,
    ProtocolError,
    head_end,
    parse_head,
)
from holdfast.wire.proxy import ProxyFailed

if TYPE_CHECKING:
    import socket

    from holdfast.wire.proxy import Proxy
    from holdfast.wire.urls import Url


def connect_head(url: Url, proxy: Proxy) -> bytes:
    """Return the bytes of the CONNECT for an address. The port is always said."""
    host = f"[{url.host}]" if ":" in url.host else url.host
    lines = [f"CONNECT {host}:{url.port} HTTP/1.1", f"Host: {host}:{url.port}"]
    lines.append(f"User-Agent: {USER_AGENT}")
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")


def check_answer(head: Head, proxy: Proxy) -> None:
    """Raise ProxyFailed unless the answer to a CONNECT opened the way."""
    if 200 <= head.status < 300:
        return
    where = f"the proxy `{proxy.host}:{proxy.port}`"
    if head.status == 407:
        verdict = Verdict(Kind.PERMANENT, Sent.NO, "proxy", evidence="proxy")
        wrong = "refuses its credentials" if proxy.credentials else "wants credentials"
        raise ProxyFailed(f"{where} {wrong} (status: 407)", verdict, 407)
    said = verdict_for_status(head.status, head.headers, now_wall=clock.wall())
    kind = said.kind if head.status >= 400 else Kind.PERMANENT
    verdict = Verdict(kind, Sent.NO, "proxy", retry_after=said.retry_after, evidence="proxy")
    raise ProxyFailed(f"{where} did not connect (status: {head.status})", verdict, head.status)


def open_tunnel(sock: socket.socket, url: Url, proxy: Proxy, deadline: float) -> None:
    """Have the proxy at the other end of `sock` connect it to the server of `url`.

    deadline: monotonic time of the machine. Raises ProxyFailed, ProtocolError, CutShort,
    TimeoutError or another OSError.
    """
    sock.settimeout(_left(deadline))
    sock.sendall(connect_head(url, proxy))
    head, rest = _answer(sock, deadline)
    check_answer(head, proxy)
    if rest:
        # Nothing can have come from the server, since with TLS the client speaks first.
        raise ProtocolError("the proxy said more than its answer")


def _answer(sock: socket.socket, deadline: float) -> tuple[Head, bytes]:
    """Return the head of the final answer, and what came after it."""
    data = bytearray()
    while True:
        while (end := head_end(data)) < 0:
            sock.settimeout(_left(deadline))
            got = sock.recv(4096)
            if not got:
                raise CutShort("the proxy closed the connection")
            data += got
        head = parse_head(bytes(data[:end]))
        del data[:end]
        if head.status >= 200:
            return head, bytes(data)


def _left(deadline: float) -> float:
    left = deadline - SystemClock.monotonic()
    if left <= 0:
        raise TimeoutError("the proxy did not answer in time")
    return left
