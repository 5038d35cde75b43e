"""Connections of httpcore and httpcore2 that tell what they do.

httpx does not say which connection a request goes out on, nor lets anybody stop a blocked
read. httpcore, which it stands on, opens connections through a network backend. Ours gives
them out in a wrapping that

* notes when the request begins to go out, whether the connection had been used before, and
  the first byte of an answer (the `trace` extension tells less, at 15 us per request);
* names the socket to the attempt's guard;
* holds connecting, with all addresses of a name and TLS, to what is left of the attempt.

Which request a read or write belongs to is a context variable, `sending`.
There are also connections that nobody has used (`OneOff`).
"""

from __future__ import annotations

import math
import socket
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from holdfast.clients.exchange import Try
    from holdfast.wire.watchdog import Guard

# What goes to a proxy before the request: its own CONNECT, or the three messages of SOCKS 5.
# No request begins so: a method is of letters, and a frame of HTTP/2 with a length of 3 bytes,
# of which the first is 0 below 64 KiB.
_TO_A_PROXY = (b"CONNECT ", b"\x05", b"\x01")


class Sending:
    """One try of a request, as its connection sees it.

    connecting, reused, answered: as of a `Try`.  watched: the socket its guard knows of.
    expires: when the try ends; may be infinite.
    """

    __slots__ = (
        "_guard", "_tunnels", "answered", "connecting", "expires", "reused", "watched",
    )  # fmt: skip

    def __init__(self, guard: Guard | None, expires: float, method: str) -> None:
        self.connecting: bool | None = True  # waiting for a connection is part of it
        self.reused = self.answered = False
        self.expires = expires
        self.watched: Any = None
        self._guard = guard
        self._tunnels = method == "CONNECT"

    def tell(self, this: Try) -> None:
        """Tell the try what became of it."""
        this.connecting = self.connecting
        this.reused = self.reused
        this.answered = self.answered

    def over(self) -> None:
        """Take notice of nothing more, for whatever keeps its context alive."""
        self.connecting = self._guard = self.watched = None

    def wrote(self, buffer: bytes, connection: Stream | AsyncStream) -> None:
        """Note the first bytes that go out; called before they do, and never with none."""
        if buffer.startswith(_TO_A_PROXY) and not self._tunnels:
            return
        self.connecting = False
        self.reused = connection.used
        connection.used = True

    def watch(self, sock: Any) -> None:
        """Have `sock` shut down when the try has taken too long."""
        self.watched = sock
        if self._guard is not None:
            self._guard.watch(sock)

    def left(self, timeout: float | None) -> float | None:
        """Return the tighter of `timeout` and what is left of the try; never below 1 ms."""
        if self.expires == math.inf:
            return timeout
        left = max(self.expires - clock.monotonic(), 0.001)
        return left if timeout is None else min(timeout, left)


sending: ContextVar[Sending | None] = ContextVar("holdfast_httpx_sending", default=None)


# -- connections -------------------------------------------------------------------------


class Stream:
    """A synchronous connection. used: a request has gone out on it."""

    __slots__ = ("_inner", "_sock", "close", "get_extra_info", "used")

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._sock = inner.get_extra_info("socket")
        self.used = False
        self.close = inner.close
        self.get_extra_info = inner.get_extra_info

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data: bytes = self._inner.read(max_bytes, timeout)
        if data:
            now = sending.get()
            if now is not None and now.connecting is False:
                now.answered = True
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not buffer:  # an empty body and its end, each of which httpcore writes: nothing
            return
        now = sending.get()
        if now is not None:
            if now.watched is not self._sock:
                now.watch(self._sock)
            if now.connecting:
                now.wrote(buffer, self)
        self._inner.write(buffer, timeout)

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> Stream:
        now = sending.get()
        if now is not None:
            timeout = now.left(timeout)
        return Stream(self._inner.start_tls(ssl_context, server_hostname, timeout))


class Backend:
    """What opens synchronous connections."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.sleep = inner.sleep

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> Stream:
        def connect(host: str, timeout: float | None) -> Stream:
            opened = self._inner.connect_tcp(host, port, timeout, local_address, socket_options)
            return Stream(opened)

        now = sending.get()
        if now is None or now.expires == math.inf:
            return connect(host, timeout)
        # httpcore gives each address of a name the whole timeout. Here all of them together
        # have what is left of the attempt, and each its share of it.
        addresses = _addresses(host, port) if local_address is None else [host]
        while True:
            address = addresses.pop(0)
            left = now.left(timeout)
            assert left is not None
            try:
                return connect(address, left / (len(addresses) + 1))
            except Exception:  # httpcore's or httpcore2's ConnectError or ConnectTimeout
                if not addresses:
                    raise

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Any = None
    ) -> Stream:
        return Stream(self._inner.connect_unix_socket(path, timeout, socket_options))


def _addresses(host: str, port: int) -> list[str]:
    """Return the addresses of `host`; itself if it has none, for httpcore to fail on."""
    with suppress(OSError, UnicodeError):
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return [str(sockaddr[0]) for *_, sockaddr in found] or [host]
    return [host]


class AsyncStream:
    """An asynchronous connection. used: a request has gone out on it."""

    __slots__ = ("_inner", "aclose", "get_extra_info", "used")

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.used = False
        self.aclose = inner.aclose
        self.get_extra_info = inner.get_extra_info

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's signature
        data: bytes = await self._inner.read(max_bytes, timeout)
        if data:
            now = sending.get()
            if now is not None and now.connecting is False:
                now.answered = True
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> Any:
        now = sending.get()
        if now is not None and now.connecting and buffer:
            now.wrote(buffer, self)
        return self._inner.write(buffer, timeout)

    async def start_tls(
        self,
        ssl_context: Any,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
    ) -> AsyncStream:
        try:
            secure = await self._inner.start_tls(ssl_context, server_hostname, timeout)
        except BaseException:
            # httpcore 1.0.9 and httpcore2 2.16.2 do this for an Exception, but leave the
            # connection open if the handshake is cancelled.
            await self.aclose()
            raise
        return AsyncStream(secure)


class AsyncBackend:
    """What opens asynchronous connections; they are cancelled at the attempt's limit."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.sleep = inner.sleep

    async def connect_tcp(self, *args: Any, **options: Any) -> AsyncStream:
        return AsyncStream(await self._inner.connect_tcp(*args, **options))

    async def connect_unix_socket(self, *args: Any, **options: Any) -> AsyncStream:
        return AsyncStream(await self._inner.connect_unix_socket(*args, **options))


def tell(pool: Any, backend: type[Backend | AsyncBackend]) -> None:
    """Let the connections that `pool` opens from now on tell what they do."""
    if not isinstance(pool._network_backend, backend):
        pool._network_backend = backend(pool._network_backend)


# -- a connection that nobody has used ---------------------------------------------------


class OneOff:
    """In place of a pool: each request has a connection of its own, made as `pool` makes them.

    The same proxy, certificates and addresses; it is closed with the answer. It does not
    count towards the pool's max_connections, or a resend might wait for the very connections
    that it is there to avoid; there are at most as many as there are calls in flight.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def handle_request(self, request: Any) -> Any:
        """Send `request` and return the head of its answer."""
        connection = self._pool.create_connection(request.url.origin)
        try:
            response = connection.handle_request(request)
        except BaseException:
            connection.close()
            raise
        response.stream = _Last(response.stream, connection)
        return response

    async def handle_async_request(self, request: Any) -> Any:
        """Send `request` and return the head of its answer."""
        connection = self._pool.create_connection(request.url.origin)
        try:
            response = await connection.handle_async_request(request)
        except BaseException:
            await connection.aclose()
            raise
        response.stream = _AsyncLast(response.stream, connection)
        return response


class _Last:
    """The only body that a connection gives."""

    def __init__(self, stream: Any, connection: Any) -> None:
        self._stream = stream
        self._connection = connection

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._stream)

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            self._connection.close()


class _AsyncLast:
    """The only body that an asynchronous connection gives."""

    def __init__(self, stream: Any, connection: Any) -> None:
        self._stream = stream
        self._connection = connection

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._stream)

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            await self._connection.aclose()
