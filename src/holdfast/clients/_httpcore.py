"""Connections of httpcore and httpcore2 that tell what they do.

httpx does not say which connection a request went out on, nor let anybody stop a blocked
read. httpcore, which it stands on, gives two places to stand in:

the `trace` extension   phases of one request: connecting, sending, head received
the network backend     opens connections; ours gives them out in a wrapping that notes the
                        first byte of an answer, names the socket to the attempt's guard, and
                        holds connecting, with all addresses and TLS, to what is left

Which request a read or write belongs to is a context variable, `sending`.
A third thing is a connection that nobody has used (`OneOff`).
"""

from __future__ import annotations

import math
import socket
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from holdfast.clients.exchange import Try
from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

_NOBODY = Try(0, math.inf)

_OPENING = frozenset({"connection.connect_tcp.started", "connection.connect_unix_socket.started"})
_SENDING = frozenset({"http11.send_request_headers.started", "http2.send_request_headers.started"})


class Sending:
    """One try of a request: the callback for the `trace` extension, and its socket's guard.

    can_refresh: a connection that nobody has used could be had instead of a reused one.
    """

    __slots__ = ("_connect", "_expires", "_fresh", "_socket", "_then", "this")

    def __init__(self, this: Try, request: Any, *, can_refresh: bool) -> None:
        self.this = this
        self._then: Callable[[str, Any], Any] | None = request.extensions.get("trace")
        self._connect = request.method == "CONNECT"
        self._fresh = not can_refresh
        self._expires = clock.monotonic() + this.limit
        self._socket: Any = None

    def __call__(self, name: str, info: dict[str, Any]) -> None:
        """Take an event of a synchronous connection."""
        self._note(name, info)
        if self._then is not None:
            self._then(name, info)

    async def acall(self, name: str, info: dict[str, Any]) -> None:
        """Take an event of an asynchronous connection."""
        self._note(name, info)
        if self._then is not None:
            await self._then(name, info)

    def _note(self, name: str, info: dict[str, Any]) -> None:
        if name in _SENDING:
            # To a proxy goes a CONNECT of its own first: that is still connecting.
            if self._connect or info["request"].method != b"CONNECT":
                self.this.connecting = False
                self.this.reused = not self._fresh
        elif name in _OPENING:
            self._fresh = True
            self.this.connecting = True

    def over(self) -> None:
        """Forget the try.

        The pool has the request of an open body, that has this, and the try has the answer:
        nobody could see that an answer was forgotten.
        """
        self.this = _NOBODY

    def guard(self, sock: Any) -> None:
        """Have `sock` shut down when the try has taken too long."""
        guard = self.this.guard
        if guard is not None and sock is not self._socket:
            self._socket = sock
            guard.watch(sock)

    def left(self, timeout: float | None) -> float | None:
        """Return the tighter of `timeout` and what is left of the try; never below 1 ms."""
        if self._expires == math.inf:
            return timeout
        left = max(self._expires - clock.monotonic(), 0.001)
        return left if timeout is None else min(timeout, left)


sending: ContextVar[Sending | None] = ContextVar("holdfast_httpx_sending", default=None)


# -- connections -------------------------------------------------------------------------


class Stream:
    """A synchronous connection."""

    __slots__ = ("_inner", "_sock")

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._sock = inner.get_extra_info("socket")

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data: bytes = self._inner.read(max_bytes, timeout)
        if data:
            now = sending.get()
            if now is not None and now.this.connecting is False:
                now.this.answered = True
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        now = sending.get()
        if now is not None:
            now.guard(self._sock)
        self._inner.write(buffer, timeout)

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> Stream:
        now = sending.get()
        if now is not None:
            timeout = now.left(timeout)
        return Stream(self._inner.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


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
        if now is None or now.this.limit == math.inf:
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
    """An asynchronous connection."""

    __slots__ = ("_inner",)

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's signature
        data: bytes = await self._inner.read(max_bytes, timeout)
        if data:
            now = sending.get()
            if now is not None and now.this.connecting is False:
                now.this.answered = True
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> Awaitable[None]:
        written: Awaitable[None] = self._inner.write(buffer, timeout)
        return written

    def aclose(self) -> Awaitable[None]:
        closed: Awaitable[None] = self._inner.aclose()
        return closed

    async def start_tls(
        self,
        ssl_context: Any,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
    ) -> AsyncStream:
        return AsyncStream(await self._inner.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


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
