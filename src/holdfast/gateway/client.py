"""A client's connection: requests in, answers out, in order.

Requests may be pipelined: one is in work, the others wait as bytes. Reading goes on meanwhile,
so that a client that leaves is noticed at once.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, Protocol

from holdfast.gateway import errors
from holdfast.gateway.exchange import Exchange
from holdfast.gateway.headers import Client as Identity
from holdfast.gateway.headers import is_loop
from holdfast.runtime.clock import clock
from holdfast.runtime.wheel import Due
from holdfast.wire.requests import Heads, RequestHead, parse_head
from holdfast.wire.strict import BadMessage, Chunks

if TYPE_CHECKING:
    from holdfast.gateway.cluster import Cluster

MAX_AHEAD = 256 * 1024
"""Bytes of pipelined requests that are kept; then reading stops until one is answered."""
MAX_QUEUED = 100
"""Requests that may wait behind the one in work; the connection ends after them."""
LINGER_SECONDS = 2.0
"""For how long a client may go on sending when its last answer is given. RFC 9112, 9.6: to close
while bytes wait unread resets the connection, and that can take the answer away from the client."""


class Site(Protocol):
    """Where clients connect: a gateway.

    cluster: what new requests are given; a reload replaces it, and requests keep what they have.
    clients: all that are connected, the oldest first.
    draining: it is ending, so no connection outlives the answer that it waits for.
    """

    cluster: Cluster
    clients: dict[Client, None]
    draining: bool


class Client(asyncio.Protocol, Due):
    """One connection of a client.

    identity: what endpoints are told of it.  chunked: content that is given gets our framing.
    terminator: what ends the body of the answer that is being given.
    """

    __slots__ = (
        "_ahead",
        "_body",
        "_chunks",
        "_close",
        "_cluster",
        "_exchange",
        "_head",
        "_heads",
        "_left",
        "_lingers",
        "_out",
        "_paused",
        "_queued",
        "_reading",
        "_serial",
        "_site",
        "chunked",
        "identity",
        "terminator",
        "transport",
    )

    def __init__(self, site: Site, serial: str) -> None:
        Due.__init__(self)
        self._site = site
        self._cluster = site.cluster
        self._serial = serial
        self._ahead = bytearray()
        self._heads = Heads(site.cluster.config.head_max)
        self._queued = 0
        self._reading = False
        self._lingers = False
        self._exchange: Exchange | None = None
        self._head: RequestHead | None = None
        self._body: list[bytes] = []
        self._out: list[bytes] = []
        self._left = 0
        self._chunks: Chunks | None = None
        self._close = False
        self._paused = False
        self.chunked = False
        self.terminator = b""
        self.identity = Identity()
        self.transport: Any = None

    @property
    def draining(self) -> bool:
        """Whether the gateway is ending."""
        return self._site.draining

    # -- bytes in --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a request."""
        self.transport = transport
        self._site.clients[self] = None
        self.transport.set_write_buffer_limits(high=64 * 1024)
        self._cluster.wheel.set(self, clock.monotonic() + self._cluster.config.head_timeout)

    def data_received(self, data: bytes) -> None:
        """Read requests, one after the other."""
        if self._lingers:
            return
        if self._exchange is not None or self._close:
            self._ahead += data
            if len(self._ahead) > MAX_AHEAD:
                self.transport.pause_reading()
            return
        self._ahead += data
        self._read()

    def _read(self) -> None:
        if self._reading:
            return  # answered at once, from inside `_start`: the loop below goes on
        self._reading = True
        try:
            while self._ahead and self._exchange is None and not self._close:
                if self._head is None and not self._take_head():
                    return
                if not self._take_body():
                    return
                self._start()
        except BadMessage as bad:
            self._refuse_bytes(bad)
        finally:
            self._reading = False

    def _take_head(self) -> bool:
        ahead = self._ahead
        raw = self._heads.take(ahead)
        if raw is None:
            return False
        if self._cluster is not self._site.cluster:
            self._cluster = self._site.cluster
            self._heads.limit = self._cluster.config.head_max
        head = parse_head(raw)
        self._check(head)
        self._head = head
        self._body = []
        if head.length is None:
            self._chunks = Chunks(self._cluster.config.body_max)
        else:
            self._left = head.length
        if head.expect and head.minor and not ahead and self._left | (self._chunks is not None):
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True

    def _check(self, head: RequestHead) -> None:
        if head.length is not None and head.length > self._cluster.config.body_max:
            raise BadMessage(413, "the body is too large")
        if head.method in {b"CONNECT", b"TRACE"}:
            raise BadMessage(405, "the method is not served here")
        if head.expect == "other":
            raise BadMessage(417, "that expectation cannot be met")
        if b"websocket" in head.upgrade or (head.upgrade and head.length != 0):
            raise BadMessage(501, "a switch of protocols is not supported")
        if self._cluster.via and is_loop(head, self._cluster.via):
            raise BadMessage(508, "the request has been here before")

    def _take_body(self) -> bool:
        ahead = self._ahead
        if self._chunks is not None:
            taken = self._chunks.feed(bytes(ahead), self._body)
            del ahead[:taken]
            return self._chunks.done
        if self._left:
            piece = bytes(ahead[: self._left])
            del ahead[: len(piece)]
            self._body.append(piece)
            self._left -= len(piece)
        return not self._left

    def _start(self) -> None:
        head, self._head, self._chunks = self._head, None, None
        if head is None:
            return
        self._queued = self._queued + 1 if self._ahead else 0
        now = clock.monotonic()
        self._cluster.wheel.set(self, math.inf)
        body = b"".join(self._body)
        local = self._cluster.local(head, body, self)
        if local is not None:
            self._body = []
            self._out.append(local)
            self.answered(close=False, abort=False)
            return
        self._cluster.started()
        exchange = Exchange(self._cluster, self, head, body)
        exchange.id = f"{self._serial}-{self._cluster.ledger.requests:x}"
        self._body = []
        self._exchange = exchange
        exchange.begin(now)

    def _refuse_bytes(self, bad: BadMessage) -> None:
        code = errors.BY_STATUS.get(bad.status) or next(
            code for code, row in errors.ERRORS.items() if row.status == bad.status
        )
        value = errors.body(code, self._serial, text=bad.reason, reason="malformed")
        self._cluster.ledger.refused(code)
        self.transport.write(errors.answer(code, value, close=True))
        self._end()

    # -- bytes out -------------------------------------------------------------------------------

    def closes(self, head: RequestHead, *, ends: bool) -> bool:
        """Decide whether the connection ends after an answer. ends: only that ends its body."""
        self._close = (
            ends
            or not head.keeps_alive
            or bool(head.upgrade)
            or self._queued > MAX_QUEUED
            or self._site.draining
        )
        return self._close

    def write(self, data: bytes) -> None:
        """Put a head into what is written next."""
        self._out.append(data)

    def give(self, pieces: list[bytes]) -> None:
        """Put content into what is written next, in our framing where there is one."""
        if self.chunked:
            size = sum(map(len, pieces))
            if size:
                self._out += (b"%x\r\n" % size, *pieces, b"\r\n")
        else:
            self._out += pieces

    def end_body(self) -> None:
        """Put the end of a body into what is written next."""
        if self.terminator:
            self._out.append(self.terminator)
        self.terminator = b""
        self.chunked = False

    def flush(self) -> None:
        """Write all of it at once: a system call for each piece costs more than all the rest."""
        out = self._out
        if out:
            self.transport.write(out[0] if len(out) == 1 else b"".join(out))
            out.clear()

    def refuse(
        self,
        code: str,
        exchange: Exchange,
        *,
        sent: str,
        retry_after: float | None,
        final: bool = False,
    ) -> None:
        """Answer with an error of ours."""
        value = errors.body(
            code, exchange.id, sent=sent, retry_after=retry_after, attempts=exchange.told
        )
        fields = []
        if retry_after is not None:
            fields.append(f"Retry-After: {math.ceil(retry_after)}")
        if final:
            fields.append("x-should-retry: false")
        close = self.closes(exchange.head, ends=False)
        is_head = exchange.head.method == b"HEAD"
        self._out.append(errors.answer(code, value, close=close, fields=fields, head=is_head))

    def answered(self, *, close: bool, abort: bool) -> None:
        """Take note that an answer is over; go on with the next request."""
        self._exchange = None
        self.flush()
        if abort:
            self.transport.abort()
            return
        if close or self._close or (self._site.draining and not self._ahead):
            self._end()
            return
        config = self._cluster.config
        wait = config.head_timeout if self._ahead else config.client_idle
        self._cluster.wheel.set(self, clock.monotonic() + wait)
        self.transport.resume_reading()
        if self._ahead:
            self._read()

    def pause_writing(self) -> None:
        """Let the endpoint wait: the client takes less than comes."""
        self._paused = True
        if self._exchange is not None:
            self._exchange.pause(paused=True)

    def resume_writing(self) -> None:
        """Let the endpoint go on."""
        self._paused = False
        if self._exchange is not None:
            self._exchange.pause(paused=False)

    def drain(self) -> None:
        """Close the connection if nothing is asked on it; else after the answer."""
        if self._exchange is None and self._head is None and not self._ahead:
            self.transport.close()

    def cut(self, reason: str) -> None:
        """End now what is asked, and say so; then the connection."""
        if self._exchange is not None:
            self._ahead.clear()
            self._exchange.cut(reason)
        self.transport.close()

    # -- the end ---------------------------------------------------------------------------------

    def _end(self) -> None:
        """Close our side, and the rest when the client does, or after LINGER_SECONDS."""
        self._close = True
        self._head = self._chunks = None
        self._ahead.clear()
        self._body = []
        self._lingers = self.transport.can_write_eof()  # not in TLS
        if not self._lingers:
            self.transport.close()
            return
        self.transport.write_eof()
        self.transport.resume_reading()
        self._cluster.wheel.set(self, clock.monotonic() + LINGER_SECONDS)

    def eof_received(self) -> bool:
        """Nobody reads an answer any more, as far as we can know: end everything."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """End what was done for it."""
        del error
        self._site.clients.pop(self, None)
        self._cluster.wheel.set(self, math.inf)
        exchange, self._exchange = self._exchange, None
        self._close = True
        if exchange is not None:
            exchange.abandon()

    def on_due(self, now: float) -> None:
        """Close a connection that is idle, or whose request does not come."""
        del now
        if self._head is not None or self._ahead:
            self._refuse_bytes(BadMessage(408, "the request came too slowly"))
        else:
            self.transport.close()
