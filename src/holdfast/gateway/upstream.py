"""Connections to one endpoint: made when they are needed, kept while they are good.

The newest idle connection is used first, so that the rest grow old and go. Each belongs to its
endpoint alone: one that resets touches no connection to another.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from holdfast.gateway.headers import Route, route
from holdfast.gateway.keepalive import Lifetime
from holdfast.runtime.clock import clock
from holdfast.wire.strict import BadMessage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.core.balance import Endpoint
    from holdfast.gateway.config import EndpointConfig
    from holdfast.gateway.exchange import Exchange
    from holdfast.wire.responses import Answer

MAX_IDLE = 64
KEY_FIELDS = {"x-api-key": "{}", "api-key": "{}", "authorization": "Bearer {}"}


class Connection(asyncio.Protocol):
    """One connection to an endpoint. exchange: whose answer comes; None while it is idle."""

    __slots__ = ("answer", "exchange", "idle_since", "transport", "upstream", "uses")

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.transport: Any = None
        self.exchange: Exchange | None = None
        self.answer: Answer | None = None
        self.idle_since = 0.0
        self.uses = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport

    def begin(self, exchange: Exchange, answer: Answer) -> None:
        """Belong to an exchange until its answer is whole."""
        self.exchange = exchange
        self.answer = answer
        self.uses += 1

    def data_received(self, data: bytes) -> None:
        """Give what came to the exchange; what nobody asked for ends the connection."""
        exchange, answer = self.exchange, self.answer
        if exchange is None or answer is None:
            self.close()
            return
        out: list[bytes] = []
        try:
            taken = answer.feed(data, out)
        except BadMessage as bad:
            exchange.malformed(bad)
            return
        if taken < len(data) and answer.head is not None:
            answer.head.persists = False  # whatever follows belongs to no request
        exchange.received(out)

    def eof_received(self) -> bool:
        """Let the end of the connection be told by `connection_lost`."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Tell whom it concerns."""
        self.upstream.lost(self)
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.broke(error)

    def pause_writing(self) -> None:
        """Nothing to do: a request is written at once, and the kernel takes what it can."""

    def close(self) -> None:
        """End it; nobody is told."""
        self.exchange = None
        self.upstream.forget(self)
        self.transport.abort()


class Upstream:
    """One endpoint and its connections. For the loop's thread.

    endpoint: what the balancer knows of it.  keys: the credentials, as many as its health has.
    """

    def __init__(
        self,
        config: EndpointConfig,
        endpoint: Endpoint,
        keys: Sequence[str],
        loop: asyncio.AbstractEventLoop,
        *,
        credentials: bool,
    ) -> None:
        parts = urlsplit(config.url)
        self.config = config
        self.endpoint = endpoint
        self.lifetime = Lifetime(config.keepalive)
        self.waiting: deque[Exchange] = deque()
        self.reused = 0
        self._loop = loop
        self._secure = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._secure else 80)
        self._name = config.host or self._host
        self._context: ssl.SSLContext | None = None
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._making: set[asyncio.Task[None]] = set()
        host = config.host or parts.netloc
        self.routes = tuple(
            self._route(host, parts.path, key, credentials=credentials) for key in keys or [""]
        )

    def _route(self, host: str, base: str, key: str, *, credentials: bool) -> Route:
        field: tuple[str, str] | None = None
        if key:
            name = {"auto": self._usual_field(), "bearer": "authorization"}.get(
                self.config.key_header, self.config.key_header
            )
            field = (name, KEY_FIELDS[name].format(key))
        return route(
            host=host, base=base, key=field, headers=self.config.headers, credentials=credentials
        )

    def _usual_field(self) -> str:
        return "x-api-key" if self._host.endswith("anthropic.com") else "authorization"

    # -- connections -----------------------------------------------------------------------------

    def take(self, now: float, *, careful: bool) -> Connection | None:
        """Return an idle connection that is young enough, the newest first."""
        while self._idle:
            connection = self._idle[-1]
            if not self.lifetime.may_reuse(now - connection.idle_since, now, careful=careful):
                break
            self._idle.pop()
            if not connection.transport.is_closing():
                return connection
        return None

    def expire(self, now: float) -> None:
        """Close what has been idle for too long."""
        limit = self.lifetime.limit()
        while self._idle and now - self._idle[0].idle_since >= limit:
            self._idle[0].close()

    @property
    def is_full(self) -> bool:
        """Whether no further connection may be made."""
        return len(self._all) + len(self._making) >= self.config.max_connections

    def connect(self, exchange: Exchange) -> None:
        """Make a connection for an exchange, or put it into the line for one."""
        if self.is_full and self._idle:
            self._idle[0].close()  # too old for this request: its place is worth more
        if self.is_full:
            self.waiting.append(exchange)
            return
        task = self._loop.create_task(self._connect(exchange))
        self._making.add(task)
        task.add_done_callback(self._making.discard)
        exchange.connecting = task

    async def _connect(self, exchange: Exchange) -> None:
        try:
            _, connection = await self._loop.create_connection(
                lambda: Connection(self),
                self._host,
                self._port,
                ssl=self._tls() if self._secure else None,
                server_hostname=self._name if self._secure else None,
            )
        except OSError as error:
            exchange.not_connected(error)
            return
        self._all.add(connection)
        if exchange.connecting is asyncio.current_task():
            exchange.send(connection)
        else:
            self.give(connection)  # whom it was made for is gone; the next one will want it

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = ssl.create_default_context(cafile=self.config.ca_file or None)
            if not self.config.verify:
                self._context.check_hostname = False
                self._context.verify_mode = ssl.CERT_NONE
        return self._context

    def give(self, connection: Connection) -> None:
        """Take a connection back after a whole answer."""
        connection.exchange = connection.answer = None
        if self.waiting:
            self.waiting.popleft().send(connection)
            return
        now = clock.monotonic()
        if len(self._idle) >= MAX_IDLE or not self.lifetime.keeps(now):
            connection.close()
            return
        connection.idle_since = now
        self._idle.append(connection)

    def lost(self, connection: Connection) -> None:
        """Take note that the peer ended a connection; an idle one tells for how long they live."""
        if connection in self._idle:
            self.lifetime.died(clock.monotonic() - connection.idle_since)
        self.forget(connection)

    def forget(self, connection: Connection) -> None:
        """Count a connection no more, and make one for who waits for its place."""
        if connection not in self._all:
            return
        self._all.discard(connection)
        with suppress(ValueError):
            self._idle.remove(connection)
        if self.waiting and not self.is_full:
            self.connect(self.waiting.popleft())

    def close(self) -> None:
        """End all connections."""
        for task in list(self._making):
            task.cancel()
        for connection in list(self._all):
            connection.close()

    @property
    def connections(self) -> tuple[int, int]:
        """How many are open, and how many of them idle."""
        return len(self._all), len(self._idle)
