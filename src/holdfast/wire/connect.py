"""Opening connections: names, addresses that may be asked, TCP, TLS with verification.

Look-up, check and connect are one step: the address that was judged is the one that is connected
to, so a name that leads elsewhere a moment later (DNS rebinding) gains nothing by it.
"""

from __future__ import annotations

import errno
import functools
import os
import select
import socket
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from holdfast.runtime.clock import SystemClock
from holdfast.wire.addresses import Reach, check_host, permitted
from holdfast.wire.resolve import Resolver
from holdfast.wire.tunnel import open_tunnel

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable

    from holdfast.wire.addresses import AddrInfo
    from holdfast.wire.cancel import Cancel
    from holdfast.wire.proxy import Proxy
    from holdfast.wire.urls import Url

# A peer that vanished without a word is noticed after 30 + 3 * 10 s even while we only read.
KEEPALIVE_IDLE = 30
KEEPALIVE_INTERVAL = 10
KEEPALIVE_COUNT = 3
# Bytes of ours that stay unacknowledged this long end the connection (milliseconds, Linux).
USER_TIMEOUT_MS = 30_000
STAGGER = 0.25
"""Seconds that an address has before the next one is tried beside it (RFC 8305, 5)."""
MOST_ADDRESSES = 16
_LOOK_EVERY = 0.1
_UNDER_WAY = {errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EALREADY, errno.EINTR}

# Sockets block in real time, whatever clock is installed.
_now = SystemClock.monotonic


def connect(
    url: Url,
    *,
    timeout: float,
    cancel: Cancel,
    reach: Reach = Reach.TYPED,
    resolver: Resolver | None = None,
    proxy: Proxy | None = None,
) -> socket.socket:
    """Return a connected socket, after the TLS handshake for https.

    timeout: seconds for look-up, all addresses, the proxy and the handshake together.
    reach: which addresses may be asked.  resolver: by default one that remembers nothing.
    proxy: to go through; it looks the host up, so that only the text of it is judged. For http
    it is the one that is asked, for https it is asked to connect.
    Raises AddressDenied if none may be asked, ProxyFailed, or another OSError (socket.gaierror,
    ssl.SSLError and TimeoutError are among them).
    """
    deadline = _now() + timeout
    host, port = url.host, url.port
    if proxy is not None:
        check_host(host, reach)
        host, port, reach = proxy.host, proxy.port, Reach.TYPED
    found = look_up(host, port, reach, resolver, timeout=timeout, cancel=cancel)
    sock = race(found, deadline, cancel)
    if url.scheme != "https":
        return sock
    try:
        if proxy is not None:
            with cancel.watching(sock):
                open_tunnel(sock, url, proxy, deadline)
        return _secured(sock, url.host, max(0.001, deadline - _now()), cancel)
    except BaseException:
        sock.close()  # it may not have been taken over yet
        raise


def look_up(
    host: str,
    port: int,
    reach: Reach,
    resolver: Resolver | None = None,
    *,
    timeout: float,
    cancel: Cancel,
) -> list[AddrInfo]:
    """Return the addresses of a host that may be connected to, in the order to try them.

    An event loop does the same in two steps: `await asyncio.wrap_future(resolver.ask(host,
    port))`, then `addresses.permitted(found, host, reach)`. Raises as `connect` does.
    """
    resolver = resolver or Resolver()
    return permitted(resolver.look_up(host, port, timeout=timeout, cancel=cancel), host, reach)


def peer_of(sock: socket.socket) -> str:
    """Return the IP address at the other end; empty if it has gone already."""
    try:
        return str(sock.getpeername()[0])
    except OSError:
        return ""


def race(found: Iterable[AddrInfo], deadline: float, cancel: Cancel) -> socket.socket:
    """Return a socket that is connected to the first address that answers.

    They are tried in their order, a quarter of a second apart, and at once after a failure, so
    that a dead address costs little (RFC 8305). deadline: monotonic time of the machine.
    """
    found = list(found)
    if len(found) == 1:
        return _connected(found[0], deadline, cancel)
    runners = _Race(found)
    try:
        return runners.run(deadline, cancel)
    finally:
        runners.close()


def _connected(info: AddrInfo, deadline: float, cancel: Cancel) -> socket.socket:
    """Connect to the only address: 30 us less than a race of one."""
    family, kind, proto, _, address = info
    sock = socket.socket(family, kind, proto)
    try:
        sock.settimeout(max(0.001, deadline - _now()))
        with cancel.watching(sock):
            sock.connect(address)
        tune(sock)
    except BaseException as error:
        sock.close()
        if cancel.is_set() and isinstance(error, OSError):
            raise _canceled() from None
        raise
    return sock


def _canceled() -> OSError:
    return OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))


class _Race:
    """Connections that are being made beside each other."""

    def __init__(self, found: Iterable[AddrInfo]) -> None:
        self._waiting = deque(list(found)[:MOST_ADDRESSES])
        self._under_way: dict[int, socket.socket] = {}
        self._poller = select.poll()
        self._error: OSError | None = None
        self._next_at = 0.0

    def run(self, deadline: float, cancel: Cancel) -> socket.socket:
        while self._waiting or self._under_way:
            now = _now()
            if cancel.is_set():
                raise _canceled()
            if now >= deadline:
                raise TimeoutError("no connection in time")
            if self._waiting and (not self._under_way or now >= self._next_at):
                self._next_at = now + STAGGER
                won = self._start(self._waiting.popleft())
            else:
                soon = min(deadline, self._next_at) if self._waiting else deadline
                won = self._wait(min(max(0.0, soon - now), _LOOK_EVERY))
            if won is not None:
                tune(won)
                won.settimeout(max(0.001, deadline - _now()))
                return won
        raise self._error or OSError(errno.EADDRNOTAVAIL, "the name has no address")

    def _start(self, info: AddrInfo) -> socket.socket | None:
        family, kind, proto, _, address = info
        sock: socket.socket | None = None
        try:
            sock = socket.socket(family, kind, proto)
            sock.setblocking(False)  # noqa: FBT003 - its only argument
            number = sock.connect_ex(address)
        except OSError as error:
            if sock is not None:
                sock.close()
            self._failed(error)
            return None
        if number == 0:
            return sock
        self._under_way[sock.fileno()] = sock
        self._poller.register(sock, select.POLLOUT)
        if number not in _UNDER_WAY:
            self._drop(sock.fileno(), number)
        return None

    def _wait(self, seconds: float) -> socket.socket | None:
        # Rounded up: rounded to nothing it would ask in a circle for the last millisecond.
        for number, _ in self._poller.poll(int(seconds * 1000) + 1):
            sock = self._under_way[number]
            wrong = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if wrong:
                self._drop(number, wrong)
                continue
            self._forget(number)
            return sock
        return None

    def _forget(self, number: int) -> socket.socket:
        self._poller.unregister(number)
        return self._under_way.pop(number)

    def _drop(self, number: int, wrong: int) -> None:
        self._forget(number).close()
        self._failed(OSError(wrong, os.strerror(wrong)))

    def _failed(self, error: OSError) -> None:
        self._next_at = 0.0
        # That this machine has no IPv6 says less than what an address of IPv4 answered.
        if self._error is None or error.errno not in {errno.ENETUNREACH, errno.EADDRNOTAVAIL}:
            self._error = error

    def close(self) -> None:
        for number in list(self._under_way):
            self._forget(number).close()


def tune(sock: socket.socket) -> None:
    """Send without delay, and notice a peer that has vanished."""
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
def tls_context() -> ssl.SSLContext:
    """Return how servers are verified; one for all connections."""
    import ssl  # noqa: PLC0415 - 15 ms and the certificate store; plain http needs neither

    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _secured(sock: socket.socket, host: str, timeout: float, cancel: Cancel) -> socket.socket:
    sock.settimeout(timeout)
    # wrap_socket takes the descriptor over; only the new object can be woken by `cancel`.
    secure = tls_context().wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    try:
        with cancel.watching(secure):
            secure.do_handshake()
    except BaseException:
        secure.close()
        raise
    return secure
