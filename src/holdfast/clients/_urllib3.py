"""What requests and botocore share: urllib3 pools that tell what their connections do.

How an adapter uses it
    manager.pool_classes_by_scheme = watched(manager.pool_classes_by_scheme)
        for each PoolManager, ProxyManager and SOCKSProxyManager, before its first request (or
        after `manager.clear()`). The pools and connections are subclasses of those that were
        there, so a library's own connection (100-continue of botocore, SOCKS) stays.
    with sending(this):
        pool.urlopen(..., retries=..., timeout=limited(own, this))
        Everything in the block belongs to the `Try`: threads and contexts do not mix.

What happens then
    this.connecting, this.reused, this.answered   are filled in, as `exchange.Try` says.
    this.fresh     the kept-alive connection of the pool is closed, a new one is opened.
    this.guard     knows the socket while it connects, during TLS, and until the connection
                   goes back to the pool; then it lets go, for the next user's sake.
    this.limit     bounds waiting for a connection (`block=True`) and all addresses of a
                   name together. The look-up itself is bounded by the resolver's limits.
    the head       ends with its blank line or the attempt fails: http.client takes the end
                   of the stream for the end of the head, and gives a 200 without its fields.
    chunk sizes    and trailers are whole lines: "0" at the end of the stream may have been
                   "0a", so it is no last chunk.
    1xx            is skipped, not only 100: http.client takes 103 for the answer.

What ends too early raises `http.client.RemoteDisconnected`, which urllib3 wraps in a
ProtocolError. Outside `sending` only the reading of heads and lines differs from urllib3's.
"""

from __future__ import annotations

import http.client
import math
import socket
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from urllib3.connection import HTTPConnection

try:
    from urllib3.exceptions import ConnectTimeoutError, NameResolutionError
except ImportError as error:
    raise ImportError("urllib3 2.0 or newer is needed: `pip install 'urllib3>=2'`") from error
from urllib3.util import Timeout
from urllib3.util.connection import allowed_gai_family

from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from holdfast.clients.exchange import Try

current: ContextVar[Try | None] = ContextVar("holdfast.clients.urllib3", default=None)
"""The sending that runs in this context. Set it with `sending`."""


@contextmanager
def sending(this: Try) -> Iterator[None]:
    """Let the pools that are used inside fill in `this`."""
    token = current.set(this)
    try:
        yield
    finally:
        current.reset(token)


def limited(own: Timeout, this: Try) -> Timeout:
    """Return the library's own timeout, with `this.limit` as the limit of connect and head."""
    if this.limit == math.inf:
        return own
    total = own.total
    return Timeout(
        total=this.within(total if isinstance(total, (int, float)) else None),
        connect=own._connect,
        read=own._read,
    )


def watched(classes: Mapping[str, Any]) -> dict[str, Any]:
    """Return for each scheme a subclass of its pool class that does what the module says."""
    return {scheme: _pool_class(pool) for scheme, pool in classes.items()}


@cache
def _pool_class(pool: Any) -> Any:
    if issubclass(pool, _Pool):
        return pool  # asked twice
    connection = _connection_class(pool.ConnectionCls)
    return type(pool.__name__, (_Pool, pool), {"ConnectionCls": connection})


@cache
def _connection_class(connection: Any) -> Any:
    # A SOCKS proxy resolves the name itself, so there the addresses are none of our business.
    plain = connection._new_conn is HTTPConnection._new_conn
    bases = (_Connection, _Addresses, connection) if plain else (_Connection, connection)
    return type(connection.__name__, bases, {})


@cache
def _response_class(response: Any) -> Any:
    if issubclass(response, Response):
        return response  # asked twice
    return type(response.__name__, (Response, response), {})


if TYPE_CHECKING:  # mixins: what they are mixed with is the library's, or a subclass of it
    from urllib3.connectionpool import HTTPConnectionPool as _AnyPool

    _AnyConnection = HTTPConnection
else:
    _AnyPool = _AnyConnection = object


class _Pool(_AnyPool):
    """Notes which connection a sending got."""

    def _get_conn(self, timeout: float | None = None) -> Any:
        this = current.get()
        if this is None:
            return super()._get_conn(timeout)
        conn: Any = super()._get_conn(this.within(timeout) if self.block else timeout)
        if this.fresh and conn.sock is not None:
            conn.close()
        sock = conn.sock
        this.connecting = sock is None
        this.reused = sock is not None
        _watch(conn, sock, this)
        return conn

    def _put_conn(self, conn: Any) -> None:
        # From here on the connection may be another call's: a guard of this one, whose call
        # has not ended yet, must not shut it down.
        guard = None if conn is None else conn.__dict__.pop("_holdfast_guard", None)
        if guard is not None:
            guard.watch(None)
        super()._put_conn(conn)


def _watch(conn: Any, sock: Any, this: Try) -> None:
    """Name to the guard of `this` the socket that `conn` uses now."""
    guard = this.guard
    if guard is None:
        return
    # TLS within TLS and pyOpenSSL are wrapped by hand.
    while (inner := getattr(sock, "socket", None)) is not None:
        sock = inner
    conn._holdfast_guard = guard
    guard.watch(sock)


class Lines:
    """What comes from a socket, as its file `fp`; but a line that has begun must end.

    head: the head is being read; then the stream may not end between two lines either.
    """

    def __init__(self, fp: Any, *, head: bool = False) -> None:
        self._fp = fp
        self._head = head

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fp, name)

    def readline(self, size: int = -1) -> bytes:
        """Return a line with its end, or the first `size` bytes of it.

        Raises RemoteDisconnected if the stream ends before that; b"" if it ends between two
        lines outside a head (a body that ends with its last chunk is whole without the blank
        line after it: RFC 9112, 8).
        """
        line: bytes = self._fp.readline(size)
        if line[-1:] == b"\n" or (not line and not self._head):
            return line
        if 0 <= size <= len(line):
            return line  # the caller has a limit and its own error
        what = "the head" if self._head else "a line of the body"
        raise http.client.RemoteDisconnected(f"the connection ended before {what} did")


class Response(http.client.HTTPResponse):
    """http.client's response, with a head that must be whole."""

    fp: Any

    def begin(self) -> None:
        """Read the head: the status line, what comes before it, and the fields."""
        fp = self.fp
        came = fp.peek(1)
        this = current.get()
        if this is not None and not this.answered:
            this.answered = bool(came)
        # Mostly the whole head is there, so that it cannot end too early. What begins with 1
        # is an interim answer, whose blank line is not the one that is looked for.
        whole = b"\r\n\r\n" in came and came[9:10] != b"1"
        if not whole:
            self.fp = Lines(fp, head=True)
        super().begin()
        if self.headers.get("transfer-encoding") is not None:
            self.fp = Lines(fp)
        elif not whole:
            self.fp = fp

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            found: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]  # private
            if not 100 < found[1] < 200 or found[1] == http.HTTPStatus.SWITCHING_PROTOCOLS:
                return found
            while self.fp.readline(_MAX_LINE) not in {b"\r\n", b"\n", b""}:
                pass  # the fields of an interim answer


_MAX_LINE = 65537
"""Of an interim answer's field; longer ones are read in parts."""


class _Connection(_AnyConnection):
    """Notes how connecting goes, and reads heads with `Response`."""

    response_class: Any = Response
    _holdfast_second: socket.socket | None = None

    def connect(self) -> None:
        this = current.get()
        if this is None:
            super().connect()
            return
        this.connecting = True
        try:
            super().connect()
            this.connecting = False
            _watch(self, self.sock, this)
        finally:
            second, self._holdfast_second = self._holdfast_second, None
            if second is not None:
                second.close()

    def _new_conn(self) -> Any:
        sock = super()._new_conn()
        this = current.get()
        if this is None or this.guard is None:
            return sock
        watched: Any = sock
        if hasattr(self, "cert_reqs"):
            # The TLS handshake takes the descriptor and leaves `sock` without one. What is
            # shut down is the connection, so any other descriptor of it does.
            watched = self._holdfast_second = sock.dup()
        _watch(self, watched, this)
        return sock

    @property
    def has_connected_to_proxy(self) -> bool:
        """Whether an error is not one of connecting to the proxy."""
        # http.client closes a connection that ends before the answer, and urllib3 forgets with
        # that what it was: its ProxyError would say that nothing was sent.
        this = current.get()
        if this is not None and this.connecting is False:
            return True
        return super().has_connected_to_proxy

    def getresponse(self) -> Any:
        kind: Any = self.response_class
        if isinstance(kind, partial):
            # botocore has read the status line itself, and hands it on in this way.
            this = current.get()
            if this is not None:
                this.answered = True
            self.response_class = partial(_response_class(kind.func), *kind.args, **kind.keywords)
        elif not issubclass(kind, Response):
            self.response_class = _response_class(kind)
        return super().getresponse()


class _Addresses(_AnyConnection):
    """Bounds the addresses of a name together; urllib3 gives each the whole timeout."""

    def _new_conn(self) -> socket.socket:
        this = current.get()
        timeout = self.timeout
        if this is None or this.limit == math.inf or not isinstance(timeout, (int, float)):
            return super()._new_conn()
        expires = clock.monotonic() + timeout
        name = self._dns_host
        *others, last = self._looked_up(name)
        shares = len(others) + 1
        try:
            for address in others:
                self._aim(address, expires, shares)
                shares -= 1
                with suppress(ConnectTimeoutError):  # refused is one of these too
                    return super()._new_conn()
            self._aim(last, expires, shares)
            return super()._new_conn()
        finally:
            self._dns_host = name
            self.timeout = timeout

    def _aim(self, address: str, expires: float, shares: int) -> None:
        """Connect next to `address`, in its share of what is left."""
        self._dns_host = address
        self.timeout = max(0.001, expires - clock.monotonic()) / shares

    def _looked_up(self, name: str) -> list[str]:
        """Return the addresses of a name, at least one, in the resolver's order."""
        try:
            found = socket.getaddrinfo(
                name.strip("[]"), self.port, allowed_gai_family(), socket.SOCK_STREAM
            )
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except UnicodeError:
            return [name]  # urllib3 has its own error for that
        return [str(address[0]) for *_, address in found] or [name]
