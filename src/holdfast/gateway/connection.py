"""One connection to an endpoint: who wants it, whose answer comes on it, how it ends."""

from __future__ import annotations

import asyncio
import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from holdfast.gateway.tls import is_ended, remember
from holdfast.wire.connect import tune

if TYPE_CHECKING:
    from holdfast.gateway.pool import Pool
    from holdfast.gateway.upload import Upload
    from holdfast.wire.responses import Answer, ResponseHead


class Asker(Protocol):
    """Who wants a connection from a pool: an attempt, or a probe."""

    connecting: Dial | None

    def send(self, connection: Connection) -> None:
        """Take a connection, which nobody else uses."""

    def not_connected(self, error: OSError) -> None:
        """Take note that none came up."""


class Hearer(Protocol):
    """Whose answer comes on a connection."""

    def take(self, data: bytes) -> None:
        """Take what came; `Connection.read` reads it."""

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
    """One connection to an endpoint.

    exchange: whose answer comes; None while it is idle.  answer: what reads it, if anything does.
    idle_since: when it came back last.  rested: seconds it had been idle when it was taken last.
    """

    __slots__ = (
        "_ended",
        "answer",
        "exchange",
        "idle_since",
        "pool",
        "rested",
        "transport",
        "upload",
        "uses",
    )

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.transport: Any = None
        self.exchange: Hearer | None = None
        self.answer: Answer | None = None
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

    def begin(self, exchange: Hearer, answer: Answer) -> None:
        """Belong to an exchange until its answer is whole."""
        self.exchange = exchange
        self.answer = answer
        self.uses += 1

    def data_received(self, data: bytes) -> None:
        """Give what came to whom it is for; what nobody asked for ends the connection."""
        exchange = self.exchange
        if exchange is None:
            self.close()
        else:
            exchange.take(data)

    def read(self, data: bytes, out: list[bytes]) -> ResponseHead | None:
        """Read on in the answer; return its head, once it is there. Raises BadMessage.

        out: takes what came of the body.
        """
        answer = self.answer
        if answer is None:
            return None
        taken = answer.feed(data, out)
        if taken < len(data) and answer.head is not None:
            answer.head.persists = False  # whatever follows belongs to no request
        return answer.head

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
