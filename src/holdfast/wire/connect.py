"""Opening connections: names, TCP with dead-peer detection, TLS with verification."""

from __future__ import annotations

import functools
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    import ssl

    from holdfast.wire.cancel import Cancel
    from holdfast.wire.urls import Url

# A peer that vanished without a word is noticed after 30 + 3 * 10 s even while we only read.
KEEPALIVE_IDLE = 30
KEEPALIVE_INTERVAL = 10
KEEPALIVE_COUNT = 3
# Bytes of ours that stay unacknowledged this long end the connection (milliseconds, Linux).
USER_TIMEOUT_MS = 30_000


def connect(url: Url, *, timeout: float, cancel: Cancel) -> socket.socket:
    """Return a connected socket, after the TLS handshake for https.

    timeout: seconds for all addresses and the handshake together; the name look-up is
    bounded by the resolver's own limits. Addresses are tried in the resolver's order, each
    with its share of what is left, so that one dead address does not use it all up.
    Raises OSError (socket.gaierror, ssl.SSLError and TimeoutError are among them).
    """
    deadline = clock.monotonic() + timeout
    found = socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
    last: OSError | None = None
    for n, (family, kind, proto, _, address) in enumerate(found):
        left = deadline - clock.monotonic()
        if cancel.is_set() or left <= 0:
            break
        sock = socket.socket(family, kind, proto)
        try:
            sock.settimeout(left / (len(found) - n))
            with cancel.watching(sock):
                sock.connect(address)
            _tune(sock)
            if url.scheme == "https":
                sock = _secured(sock, url.host, max(0.001, deadline - clock.monotonic()), cancel)
        except OSError as error:
            sock.close()
            last = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise last or TimeoutError(f"no connection within {timeout:g} s")


def _tune(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL),
        ("TCP_KEEPCNT", KEEPALIVE_COUNT),
        ("TCP_USER_TIMEOUT", USER_TIMEOUT_MS),
    )
    for name, value in options:
        option = getattr(socket, name, None)  # not every system has each of them
        if option is not None:
            with suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, option, value)


@functools.cache
def _context() -> ssl.SSLContext:
    import ssl  # noqa: PLC0415 - 15 ms and the certificate store; plain http needs neither

    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _secured(sock: socket.socket, host: str, timeout: float, cancel: Cancel) -> socket.socket:
    sock.settimeout(timeout)
    # wrap_socket takes the descriptor over; only the new object can be woken by `cancel`.
    secure = _context().wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    try:
        with cancel.watching(secure):
            secure.do_handshake()
    except BaseException:
        secure.close()
        raise
    return secure
