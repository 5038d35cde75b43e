"""A client's connection: requests in, in order. What goes out is in `talking`.

Requests may be pipelined: one is in work, the others wait as bytes. Reading goes on meanwhile,
so that a client that leaves is noticed at once. How bytes become requests is in `reading`.

While a client takes less than it is given, no other request of it begins.

A client that is slow has one limit at a time: for its head, for its body, for its next request,
for taking what was written.
"""

from __future__ import annotations

import ipaddress
import math
from typing import TYPE_CHECKING

from holdfast.gateway.counting import READ_MAX
from holdfast.gateway.exchange import Exchange
from holdfast.gateway.forms import Form
from holdfast.gateway.headers import NOBODY, told_of
from holdfast.gateway.headers import Client as Identity
from holdfast.gateway.request import Request, wants_stream
from holdfast.gateway.short import Short
from holdfast.gateway.talking import UNWRITTEN_MOST, Talking
from holdfast.gateway.upload import Upload
from holdfast.runtime.clock import clock
from holdfast.wire.strict import BadMessage

if TYPE_CHECKING:
    import asyncio

    from holdfast.gateway.config import GatewayConfig
    from holdfast.gateway.reading import Reader

MAX_AHEAD = 256 * 1024
"""Bytes of pipelined requests that are kept; then reading stops until one is answered."""
_SLOW = BadMessage(408, "the request came too slowly")


class Client(Talking):
    """One connection of a client: its requests, one after the other."""

    __slots__ = ()

    # -- bytes in ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a request."""
        self.transport = transport
        self.transport.set_write_buffer_limits(high=UNWRITTEN_MOST)
        config = self._cluster.config
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.host = peer[0]
        self._meet(config)
        self._site.clients[self] = None
        if self._site.lobby.enter(self, most=config.max_connections, of_host=config.max_per_ip):
            self._heading = True
            self._cluster.wheel.set(self, clock.monotonic() + config.head_timeout)
        else:
            self._refuse_bytes(BadMessage(503, "there are too many connections"))

    def _meet(self, config: GatewayConfig) -> None:
        """Find out who it is for this configuration."""
        self.identity = NOBODY
        if not (config.trusted_proxies and self.host):
            return
        address = ipaddress.ip_address(self.host.partition("%")[0])
        # A socket for both families gives ::ffff:192.0.2.1 for 192.0.2.1.
        address = getattr(address, "ipv4_mapped", None) or address
        if any(address in network for network in config.trusted_proxies):  # type: ignore[operator]  # networks, by its kind
            self.identity = Identity(trusted=True)

    def data_received(self, data: bytes) -> None:
        """Read requests, one after the other."""
        if self._lingers:
            return
        if self._exchange is None and self.identity is NOBODY and self._read_short(data):
            return
        reader = self._reader
        reader.ahead += data
        if self._upload is not None:
            self._read_on(self._upload)
        elif self._exchange is None and not self.paused:
            self._read()
        elif len(reader.ahead) > MAX_AHEAD:
            self.transport.pause_reading()

    def _read_short(self, data: bytes) -> bool:
        """Begin with a request that came whole and alone, if its head is one that is known."""
        site = self._site
        if self._reader.is_within or self._close or self.paused or site.draining:
            return False
        cluster = site.cluster
        if cluster is not self._cluster:
            return False  # it may have to be met again
        end = data.find(b"\r\n\r\n") + 4
        found = cluster.forms.find(data, end) if end > 4 else None
        if found is None or len(data) != end + found[1] or not cluster.line.calm:
            return False
        form, _ = found
        self._heading = False
        self._queued = self._written = 0
        site.lobby.waiting.pop(self, None)
        cluster.started()
        now, body = clock.monotonic(), data[end:]
        self._exchange = Short.begin(cluster, self, form, body, now)
        if self._exchange is None:
            cluster.wheel.set(self, math.inf)
            self._begin(form, body, None, now)
        return True

    def _read(self) -> None:
        if self._reading:
            return  # answered at once, from inside `_start`: the loop below goes on
        self._reading = True
        try:
            while not (self._exchange or self._close or self.paused) and self._read_request():
                pass
        except BadMessage as bad:
            self._refuse_bytes(bad)
        finally:
            self._reading = False

    def _read_request(self) -> bool:
        """Read a request as far as it has come, and begin with it; False if it has to come yet."""
        reader = self._reader
        is_new = reader.head is None
        if is_new and not self._read_head(reader):
            return False
        if reader.take_body():
            self._start(large=False)
            return True
        now = clock.monotonic()
        if is_new:
            reader.begin_clock(now)
        elif reader.is_too_slow(now, self._cluster):
            raise _SLOW
        if reader.is_large and not self._counts(reader):
            self._start(large=True)
            return True
        self._cluster.wheel.set(self, now + self._cluster.config.body_timeout)
        return False

    def _read_head(self, reader: Reader) -> bool:
        if not reader.ahead:
            return False
        cluster = self._site.cluster
        if cluster is not self._cluster:
            self._cluster = cluster
            self._meet(cluster.config)
        if reader.take_head(cluster) is None:
            if not self._heading:
                self._heading = True
                cluster.wheel.set(self, clock.monotonic() + cluster.config.head_timeout)
            return False
        self._heading = False
        self._site.lobby.waiting.pop(self, None)
        if reader.expects:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True

    def _counts(self, reader: Reader) -> bool:
        """Say whether all of a body is needed here, and read."""
        head = reader.head
        return head is not None and reader.known <= READ_MAX and self._cluster.counting.asks(head)

    def _start(self, *, large: bool) -> None:
        """Begin with a request. large: the body is not read whole, but given on as it comes."""
        reader, cluster = self._reader, self._cluster
        head, pieces = reader.head, reader.pieces()
        if head is None:
            return
        now = clock.monotonic()
        body, upload, size = b"", None, reader.known
        if large:
            upload = Upload(self, head.length, cluster.room, cluster.config.replay_max)
            self._upload = upload
            upload.take(pieces, whole=False)
            cluster.wheel.set(self, now + cluster.config.body_timeout)
        else:
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            reader.ended()
            cluster.wheel.set(self, math.inf)
            self._queued = self._queued + 1 if reader.ahead else 0
        self._written = 0
        local = cluster.local(head, body, self, size)
        if local is not None:
            if upload is not None:
                upload.close()
            self._out.append(local)
            self.answered(close=False, abort=False)
            return
        cluster.started()
        if cluster.config.forwarded and self.host:
            self.identity = told_of(head, self.host, self.identity, secure=self._is_secure)
        self._begin(Form(head, cluster), body, upload, now)

    def _begin(self, form: Form, body: bytes, upload: Upload | None, now: float) -> None:
        """Begin with a request on the long way."""
        cluster = self._cluster
        request = Request(
            cluster,
            self,
            form,
            body,
            now,
            number=cluster.ledger.requests,
            stream=wants_stream(form, body),
            upload=upload,
        )
        self._exchange = exchange = Exchange(request)
        exchange.begin(now)

    @property
    def _is_secure(self) -> bool:
        return self.transport.get_extra_info("ssl_object") is not None

    # -- a large body ------------------------------------------------------------------------------

    def _read_on(self, upload: Upload) -> None:
        """Read more of a large body."""
        reader, cluster = self._reader, self._cluster
        try:
            whole = reader.take_body()
            now = clock.monotonic()
            if not whole and reader.is_too_slow(now, cluster):
                raise _SLOW
        except BadMessage as bad:
            self._break_off(bad)
            return
        if whole:
            self._upload = None
            reader_pieces = reader.pieces()
            reader.ended()
            if not self.paused:
                cluster.wheel.set(self, math.inf)
            upload.take(reader_pieces, whole=True)
            return
        cluster.wheel.set(self, now + cluster.config.body_timeout)
        upload.take(reader.pieces(), whole=False)

    def read_on(self, *, on: bool) -> None:
        """Read the body no further, or go on: the endpoint takes less than comes."""
        now = clock.monotonic()
        if not on:
            self._stopped_at = now
            self.transport.pause_reading()
            self._cluster.wheel.set(self, math.inf)
            return
        self.transport.resume_reading()
        if self._upload is not None:
            self._reader.put_off(now - self._stopped_at)
            self._cluster.wheel.set(self, now + self._cluster.config.body_timeout)

    def _break_off(self, bad: BadMessage) -> None:
        """Refuse a request of which some was sent on already."""
        exchange, self._exchange, self._upload = self._exchange, None, None
        given = exchange is not None and exchange.is_given
        if exchange is not None:
            exchange.abandon(0 if given else bad.status)
        if given:
            self._cut_off()
        else:
            self._refuse_bytes(bad, is_logged=exchange is not None)

    # -- one after the other -----------------------------------------------------------------------

    def answered(self, *, close: bool, abort: bool) -> None:
        """Take note that an answer is over; go on with the next request."""
        self._exchange = None
        self._upload = None
        if self._out:
            self.flush()
        if abort:
            self._cut_off()
            return
        reader = self._reader
        if close or self._close or (self._site.draining and not reader.ahead):
            self._end()
            return
        self._site.lobby.waiting[self] = None
        if not self.paused:
            self._go_on()

    def _go_on(self) -> None:
        """Wait for the next request, or begin with it."""
        reader, cluster = self._reader, self._cluster
        self._heading = bool(reader.ahead)
        wait = cluster.config.head_timeout if reader.ahead else cluster.config.client_idle
        cluster.wheel.set(self, clock.monotonic() + wait)
        if reader.ahead:
            self._read()
            upload = self._upload
            if len(reader.ahead) <= MAX_AHEAD and (upload is None or not upload.waits):
                self.transport.resume_reading()

    def resume_writing(self) -> None:
        """Let the endpoint go on, or the next request begin."""
        super().resume_writing()
        if self._exchange is None and not self._close and not self.transport.is_closing():
            self._go_on()

    # -- the end -----------------------------------------------------------------------------------

    @property
    def is_asking(self) -> bool:
        """Whether a request has come that is not answered."""
        return self._exchange is not None or self._reader.head is not None

    def drain(self) -> None:
        """Close the connection if nothing is asked on it; else after the answer."""
        if self._exchange is None and not self._reader.is_within:
            self.transport.close()

    def cut(self, reason: str) -> None:
        """End now what is asked, and say so; then the connection."""
        if self._exchange is not None:
            self._reader.ahead.clear()
            self._exchange.cut(reason)
        self.transport.close()

    def eof_received(self) -> bool:
        """Nobody reads an answer any more, as far as we can know: end everything."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """End what was done for it."""
        del error
        self._site.clients.pop(self, None)
        self._site.lobby.leave(self)
        self._cluster.wheel.set(self, math.inf)
        self._close, self._upload = True, None
        if self._exchange is not None:
            self._exchange.abandon()
            self._exchange = None

    def on_due(self, now: float) -> None:
        """Close a connection that is idle, whose request does not come, or that takes nothing."""
        if self._exchange is not None and self._exchange.late(now):
            return
        unwritten = self.transport.get_write_buffer_size()
        if self._close and self._exchange is None:
            self.transport.abort()
        elif self._upload is not None and not self.paused:
            self._break_off(_SLOW)
        elif self._exchange is None and self._reader.is_within and not self.paused:
            self._refuse_bytes(_SLOW)
        elif unwritten and unwritten < self._unwritten:
            self._unwritten = unwritten  # it takes something
            self._cluster.wheel.set(self, now + self._cluster.config.write_timeout)
        elif unwritten:
            self.transport.abort()
        elif self._exchange is None:
            self.transport.close()
