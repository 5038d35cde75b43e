"""The connections to one server: made when they are needed, kept while they are good.

The newest idle connection is used first, so that the rest grow old and go. Each belongs to its
server alone: one that resets touches no connection to another. When there are as many as there
may be, who wants one waits in line for the first that comes back.
"""

from __future__ import annotations

import asyncio
import errno
import math
import os
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from holdfast.gateway.keepalive import LEAST, Lifetime, hint_of
from holdfast.gateway.tls import is_ended, remember
from holdfast.runtime.clock import clock
from holdfast.runtime.wheel import Due
from holdfast.wire.connect import tune
from holdfast.wire.strict import BadMessage

if TYPE_CHECKING:
    from holdfast.gateway.dial import Dialer
    from holdfast.gateway.short import Short
    from holdfast.gateway.upload import Upload
    from holdfast.runtime.wheel import Wheel
    from holdfast.wire.responses import Answer

MAX_IDLE = 64


class Asker(Protocol):
    """Who wants a connection, and is told what comes on it: an exchange, or a probe."""

    connecting: Dial | None

    def send(self, connection: Connection) -> None:
        """Take a connection, which nobody else uses."""

    def not_connected(self, error: OSError) -> None:
        """Take note that none came up."""

    def received(self, out: list[bytes]) -> None:
        """Take what came of the answer; its head is in the connection's."""

    def malformed(self, bad: BadMessage) -> None:
        """Take note that the answer cannot be read."""

    def broke(self, error: Exception | None) -> None:
        """Take note that the connection has ended."""


class Dial:
    """One wish for a connection. asker: whose; None once it has been called off."""

    __slots__ = ("_pool", "_task", "asker")

    def __init__(self, pool: Pool, asker: Asker) -> None:
        self._pool = pool
        self._task: asyncio.Task[None] | None = None
        self.asker: Asker | None = asker

    @property
    def queued(self) -> bool:
        """Whether it waits for a place in the pool, which is no fault of the endpoint."""
        return self._task is None

    def begin(self, task: asyncio.Task[None]) -> None:
        """Take note of the task that makes the connection."""
        self._task = task

    def cancel(self) -> None:
        """Call it off; the place is for the next one."""
        self.asker = None
        if self._task is not None:
            self._task.cancel()
        else:
            with suppress(ValueError):
                self._pool.waiting.remove(self)


class Connection(asyncio.Protocol):
    """One connection to an endpoint. exchange: whose answer comes; None while it is idle.

    short: the same, while it is on its short way, on which nothing is read but a whole answer.
    idle_since: when it came back last.  rested: seconds it had been idle when it was taken last.
    """

    __slots__ = (
        "_ended",
        "answer",
        "exchange",
        "idle_since",
        "pool",
        "rested",
        "short",
        "transport",
        "upload",
        "uses",
    )

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.transport: Any = None
        self.exchange: Asker | None = None
        self.answer: Answer | None = None
        self.short: Short | None = None
        self.upload: Upload | None = None
        self.idle_since = 0.0
        self.rested = 0.0
        self.uses = 0
        self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport
        sock = transport.get_extra_info("socket")
        if sock is not None and hasattr(sock, "setsockopt"):
            tune(sock)

    def begin(self, exchange: Asker, answer: Answer) -> None:
        """Belong to an exchange until its answer is whole."""
        self.exchange = exchange
        self.answer = answer
        self.uses += 1

    def data_received(self, data: bytes) -> None:
        """Give what came to the exchange; what nobody asked for ends the connection."""
        short = self.short
        if short is not None:
            self.short = None
            if short.take_whole(data):
                return
            short.leave_short()
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
        secured = self.transport.get_extra_info("ssl_object")
        self._ended = secured is None or is_ended(secured)
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Tell whom it concerns."""
        if error is None and not self._ended and self.transport.get_extra_info("ssl_object"):
            # RFC 9112, 9.8: without TLS's own end anybody on the way may have ended it.
            error = ConnectionAbortedError(errno.ECONNABORTED, os.strerror(errno.ECONNABORTED))
        self.pool.lost(self)
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.broke(error)

    def pause_writing(self) -> None:
        """Let a large body wait; anything else was written at once, and the kernel takes it."""
        if self.upload is not None:
            self.upload.stall(stalled=True)

    def resume_writing(self) -> None:
        """Let it go on."""
        if self.upload is not None:
            self.upload.stall(stalled=False)

    def remember(self) -> None:
        """Let later connections resume the TLS session of this one, whose answer has come."""
        secured = self.transport.get_extra_info("ssl_object")
        if secured is not None:
            remember(secured)

    def close(self) -> None:
        """End it; nobody is told."""
        if self.uses == 1 and self.answer is not None and self.answer.done:
            self.remember()
        self.exchange = None
        self.pool.forget(self)
        self.transport.abort()


class Pool(Due):
    """The connections to one server. For the loop's thread.

    dialer: how they are made.  most: so many at a time.
    lifetime: what is known of how long idle ones live.
    waiting: who waits for a place.  reused: how often a kept connection was used.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        wheel: Wheel,
        dialer: Dialer,
        *,
        most: int,
        keepalive: float,
    ) -> None:
        super().__init__()
        self.dialer = dialer
        self.most = most
        self.lifetime = Lifetime(keepalive)
        self.waiting: deque[Dial] = deque()
        self.reused = 0
        self._loop = loop
        self._wheel = wheel
        self._retired = False
        self._idle: list[Connection] = []  # the oldest first
        self._all: dict[Connection, None] = {}  # dicts keep their order, so runs can be repeated
        self._making: dict[Dial, None] = {}

    # -- taking ----------------------------------------------------------------------------------

    def take(self, now: float, *, careful: bool) -> Connection | None:
        """Return an idle connection that is young enough, the newest first.

        careful: for a request that must not be sent twice.
        """
        lifetime = self.lifetime
        while self._idle:
            connection = self._idle[-1]
            rested = now - connection.idle_since
            if rested < LEAST and not lifetime.limit():
                break  # for a trial it has to live first
            if not lifetime.may_reuse(rested, now, careful=careful):
                break
            self._idle.pop()
            if not connection.transport.is_closing():
                connection.rested = rested
                self.reused += 1
                return connection
        return None

    @property
    def is_full(self) -> bool:
        """Whether no further connection may be made."""
        return len(self._all) + len(self._making) >= self.most

    def connect(self, asker: Asker) -> None:
        """Make a connection for one who wants it, or put it into the line for one."""
        dial = asker.connecting = Dial(self, asker)
        if self.is_full and self._idle:
            self._idle[0].close()  # too old for this request: its place is worth more
        if self.is_full:
            self.waiting.append(dial)
        else:
            self._begin(dial)

    def dial(self, asker: Asker) -> None:
        """Make a connection, whether or not there is a place: for a probe, which is alone."""
        asker.connecting = Dial(self, asker)
        self._begin(asker.connecting)

    def _begin(self, dial: Dial) -> None:
        self._making[dial] = None
        task = self._loop.create_task(self._make(dial))
        # One that is cancelled before its first step never gets to its `finally`.
        task.add_done_callback(lambda _: self._made(dial))
        dial.begin(task)

    def _made(self, dial: Dial) -> None:
        """Give a place back that is taken by nobody any more."""
        self._making.pop(dial, None)
        self._fill()

    async def _make(self, dial: Dial) -> None:
        try:
            connection = await self.open()
        except OSError as error:
            self._making.pop(dial, None)
            if dial.asker is not None:
                dial.asker.not_connected(error)
            return
        finally:
            self._made(dial)
        if dial.asker is not None:
            dial.asker.send(connection)
        else:
            self.give(connection)  # whom it was made for is gone; the next one will want it

    async def open(self) -> Connection:
        """Return a new connection, which counts as one of the pool's. Raises OSError."""
        connection = await self.dialer.open(lambda: Connection(self))
        if connection.transport.is_closing():  # it broke before anybody listened
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        self._all[connection] = None
        return connection

    def _fill(self) -> None:
        """Make connections for those in line, as far as there are places."""
        while self.waiting and not self.is_full:
            self._begin(self.waiting.popleft())

    # -- giving back -----------------------------------------------------------------------------

    def give(self, connection: Connection) -> None:
        """Take a connection back after a whole answer, or one that nobody has used."""
        self._learn(connection)
        connection.exchange = connection.answer = None
        now = clock.monotonic()
        connection.idle_since = now
        if connection.transport.is_closing():
            connection.close()
            return
        while self.waiting:
            asker = self.waiting.popleft().asker
            if asker is not None:
                connection.rested = 0.0
                asker.send(connection)
                return
        lifetime = self.lifetime
        if self._retired or not lifetime.keeps(now) or (self._idle and not lifetime.limit()):
            connection.close()  # where reuse is off, one is kept for the next trial
            return
        if len(self._idle) >= MAX_IDLE:
            self._idle[0].close()
        self._idle.append(connection)
        if self.due == math.inf:
            self._wheel.set(self, now + lifetime.shelf())

    def _learn(self, connection: Connection) -> None:
        if connection.uses > 1:
            self.lifetime.reused(connection.rested)
            return
        connection.remember()
        answer = connection.answer
        head = answer.head if answer is not None else None
        if head is not None and b"keep-alive" in head.options:
            seconds = hint_of(head.fields)
            if seconds is not None:
                self.lifetime.hinted(seconds)

    # -- losing ----------------------------------------------------------------------------------

    def lost(self, connection: Connection) -> None:
        """Take note that the peer ended a connection; an idle one tells for how long they live."""
        if connection in self._idle:
            now = clock.monotonic()
            if connection.uses:  # servers have another limit for one that was never used
                self.lifetime.died(now - connection.idle_since, now)
            self._idle.remove(connection)
            self._set_sweep(now)
        self.forget(connection)

    def forget(self, connection: Connection) -> None:
        """Count a connection no more, and make one for who waits for its place."""
        if connection not in self._all:
            return
        self._all.pop(connection, None)
        with suppress(ValueError):
            self._idle.remove(connection)
        self._fill()

    def expire(self, now: float) -> None:
        """Close what has been idle for too long."""
        shelf = self.lifetime.shelf()
        while self._idle and now - self._idle[0].idle_since >= shelf:
            self._idle[0].close()

    def on_due(self, now: float) -> None:
        """Close what has been idle for too long, and look again when the next one will be."""
        self.expire(now)
        self._set_sweep(now)

    def _set_sweep(self, now: float) -> None:
        due = self._idle[0].idle_since + self.lifetime.shelf() if self._idle else math.inf
        self._wheel.set(self, max(now, due))

    # -- another configuration -------------------------------------------------------------------

    def retune(self, dialer: Dialer, *, most: int, keepalive: float) -> None:
        """Take what another configuration says of the same server."""
        self.dialer = dialer
        self.most = most
        self.lifetime.retune(keepalive)
        self.expire(clock.monotonic())
        self._fill()

    def retire(self) -> None:
        """Keep nothing any more: what is in use goes on, and is the last."""
        self._retired = True
        while self._idle:
            self._idle[0].close()

    def close(self) -> None:
        """End all connections; who waits for one is told nothing."""
        self.waiting.clear()
        for dial in list(self._making):
            dial.cancel()
        for connection in list(self._all):
            connection.close()
        self._wheel.set(self, math.inf)

    @property
    def connections(self) -> tuple[int, int]:
        """How many are open, and how many of them idle."""
        return len(self._all), len(self._idle)
