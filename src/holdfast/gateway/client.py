"""A client's connection: requests in, answers out, in order.

Requests may be pipelined: one is in work, the others wait as bytes. Reading goes on meanwhile,
so that a client that leaves is noticed at once. How bytes become requests is in `reading`.

A client that is slow has one limit at a time: for its head, for its body, for its next request,
for taking what was written.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import socket
import struct
from typing import TYPE_CHECKING, Any, Protocol

from holdfast.gateway import errors
from holdfast.gateway.exchange import Exchange
from holdfast.gateway.headers import NOBODY, told_of
from holdfast.gateway.headers import Client as Identity
from holdfast.gateway.reading import Reader
from holdfast.gateway.upload import Upload
from holdfast.runtime.clock import clock
from holdfast.runtime.wheel import Due
from holdfast.wire.strict import BadMessage

if TYPE_CHECKING:
    from holdfast.gateway.cluster import Cluster
    from holdfast.gateway.config import GatewayConfig
    from holdfast.gateway.ending import Ending
    from holdfast.gateway.lobby import Lobby
    from holdfast.wire.requests import RequestHead

MAX_AHEAD = 256 * 1024
"""Bytes of pipelined requests that are kept; then reading stops until one is answered."""
MAX_QUEUED = 100
"""Requests that may wait behind the one in work; the connection ends after them."""
UNWRITTEN_MOST = 64 * 1024
"""Bytes that wait for the client to take them; then the endpoint is read no further."""
LINGER_SECONDS = 2.0
"""For how long a client that is refused may go on sending. RFC 9112, 9.6: to close while bytes
wait unread resets the connection, and that can take the answer away from the client."""

_SLOW = BadMessage(408, "the request came too slowly")


class Site(Protocol):
    """Where clients connect: a gateway.

    cluster: what new requests are given; a reload replaces it, and requests keep what they have.
    clients: all that are connected, the oldest first.
    lobby: how many they are, and who goes if there are too many.
    draining: it is ending, so no connection outlives the answer that it waits for.
    """

    cluster: Cluster
    clients: dict[Client, None]
    lobby: Lobby
    draining: bool


class Client(asyncio.Protocol, Due):
    """One connection of a client.

    identity: what endpoints are told of it.  host: its address, if that matters; else empty.
    chunked: content that is given gets our framing.
    terminator: what ends the body of the answer that is being given.
    serial: what the names of its requests begin with.
    paused: it takes less than comes.  entered: it has a place in the lobby.
    """

    __slots__ = (
        "_close",
        "_cluster",
        "_ends",
        "_exchange",
        "_heading",
        "_lingers",
        "_out",
        "_queued",
        "_reader",
        "_reading",
        "_site",
        "_stopped_at",
        "_unwritten",
        "_upload",
        "_written",
        "chunked",
        "entered",
        "host",
        "identity",
        "paused",
        "serial",
        "terminator",
        "transport",
    )

    def __init__(self, site: Site, serial: str) -> None:
        Due.__init__(self)
        self._site = site
        self._cluster = site.cluster
        self.serial = serial.encode()
        self._reader = Reader(site.cluster.config.head_max)
        self._exchange: Exchange | None = None
        self._upload: Upload | None = None  # of a body that is still coming
        self._out: list[bytes] = []
        self._queued = self._unwritten = self._written = 0
        self._stopped_at = 0.0
        self._close = self._heading = self._lingers = self._reading = False
        self._ends = self.chunked = self.entered = self.paused = False
        self.terminator = b""
        self.host = ""
        self.identity = NOBODY
        self.transport: Any = None

    @property
    def written(self) -> int:
        """Bytes of the answer that is being given, as far as there are any."""
        return self._written + sum(map(len, self._out))

    @property
    def draining(self) -> bool:
        """Whether the gateway is ending."""
        return self._site.draining

    # -- bytes in --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a request."""
        self.transport = transport
        self.transport.set_write_buffer_limits(high=UNWRITTEN_MOST)
        config = self._cluster.config
        self._meet(config)
        self._site.clients[self] = None
        if self._site.lobby.enter(self, most=config.max_connections, of_host=config.max_per_ip):
            self._heading = True
            self._cluster.wheel.set(self, clock.monotonic() + config.head_timeout)
        else:
            self._refuse_bytes(BadMessage(503, "there are too many connections"))

    def _meet(self, config: GatewayConfig) -> None:
        """Find out who it is, as far as anything depends on it."""
        logged = config.access_log != "off"
        if not (config.max_per_ip or config.forwarded or config.trusted_proxies or logged):
            return
        peer = self.transport.get_extra_info("peername")
        if not isinstance(peer, tuple):
            return
        self.host = peer[0]
        address = ipaddress.ip_address(self.host.partition("%")[0])
        trusted = any(address in network for network in config.trusted_proxies)  # type: ignore[operator]  # networks, by its kind
        if trusted:
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
        elif self._exchange is None:
            self._read()
        elif len(reader.ahead) > MAX_AHEAD:
            self.transport.pause_reading()

    def _read_short(self, data: bytes) -> bool:
        """Begin with a request that came whole and alone, if its head is one that is known."""
        site = self._site
        if self._reader.is_within or self._close or site.draining:
            return False
        cluster = site.cluster
        end = data.find(b"\r\n\r\n") + 4
        found = cluster.forms.find(data, end) if end > 4 else None
        if found is None or len(data) != end + found[1] or not cluster.line.calm:
            return False
        form, _ = found
        self._cluster = cluster
        self._heading = False
        self._queued = self._written = 0
        site.lobby.waiting.pop(self, None)
        cluster.started()
        self._exchange = exchange = Exchange(cluster, self, form.head, data[end:])
        exchange.number = cluster.ledger.requests
        now = clock.monotonic()
        if not exchange.begin_short(form, now):
            cluster.wheel.set(self, math.inf)
            exchange.begin(now)
        return True

    def _read(self) -> None:
        if self._reading:
            return  # answered at once, from inside `_start`: the loop below goes on
        self._reading = True
        try:
            while self._exchange is None and not self._close and self._read_request():
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
        if reader.is_large and not self._counts(reader.head):
            self._start(large=True)
            return True
        self._cluster.wheel.set(self, now + self._cluster.config.body_timeout)
        return False

    def _read_head(self, reader: Reader) -> bool:
        if not reader.ahead:
            return False
        self._cluster = cluster = self._site.cluster
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

    def _counts(self, head: RequestHead | None) -> bool:
        """Say whether all of a body is needed here."""
        return head is not None and self._cluster.counting.asks(head)

    def _start(self, *, large: bool) -> None:
        """Begin with a request. large: the body is not read whole, but given on as it comes."""
        reader, cluster = self._reader, self._cluster
        head, pieces = reader.head, reader.pieces()
        if head is None:
            return
        now = clock.monotonic()
        body, upload = b"", None
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
        local = cluster.local(head, body, self)
        if local is not None:
            self._out.append(local)
            self.answered(close=False, abort=False)
            return
        cluster.started()
        if cluster.config.forwarded and self.host:
            self.identity = told_of(head, self.host, self.identity, secure=self._is_secure)
        exchange = Exchange(cluster, self, head, body, upload)
        exchange.number = cluster.ledger.requests
        self._exchange = exchange
        exchange.begin(now)

    @property
    def _is_secure(self) -> bool:
        return self.transport.get_extra_info("ssl_object") is not None

    # -- a large body ----------------------------------------------------------------------------

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
            exchange.abandon()
        if given:
            self._cut_off()
        else:
            self._refuse_bytes(bad)

    # -- bytes out -------------------------------------------------------------------------------

    def closes(self, head: RequestHead, *, ends: bool) -> bool:
        """Decide whether the connection ends after an answer. ends: only that ends its body."""
        self._ends = ends
        self._close = (
            ends
            or not (head.keeps_alive and head.minor)
            or bool(head.upgrade)
            or self._queued > MAX_QUEUED
            or self._upload is not None
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
            data = out[0] if len(out) == 1 else b"".join(out)
            self._written += len(data)
            self.transport.write(data)
            out.clear()

    def refuse(
        self,
        code: str,
        exchange: Ending,
        *,
        sent: str,
        retry_after: float | None,
        final: bool = False,
    ) -> None:
        """Answer with an error of ours."""
        why = self._cluster.why_cooling() if code == "HF-3104" else ""
        value = errors.body(
            code,
            exchange.id,
            text=why and f"{errors.ERRORS[code].text} ({why})",
            sent=sent,
            retry_after=retry_after,
            attempts=exchange.told,
        )
        fields = self._cluster.added(exchange).decode("latin-1").split("\r\n")[:-1]
        if retry_after is not None:
            fields.append(f"Retry-After: {math.ceil(retry_after)}")
        if final:
            fields.append("x-should-retry: false")
        close = self.closes(exchange.head, ends=False)
        is_head = exchange.head.method == b"HEAD"
        self._out.append(errors.answer(code, value, close=close, fields=fields, head=is_head))

    def _refuse_bytes(self, bad: BadMessage) -> None:
        """Answer what is no request, or none that is served, and end the connection."""
        code = errors.BY_STATUS.get(bad.status) or next(
            code for code, row in errors.ERRORS.items() if row.status == bad.status
        )
        reason = "malformed" if bad.status == 400 else ""
        value = errors.body(code, self.serial.decode(), text=bad.reason, reason=reason)
        answer = errors.answer(code, value, close=True, fields=errors.FIELDS.get(code, ()))
        self._cluster.ledger.turned_away(code, bad.status, self.host, len(answer))
        self.transport.write(answer)
        self._end()

    def answered(self, *, close: bool, abort: bool) -> None:
        """Take note that an answer is over; go on with the next request."""
        self._exchange = None
        self._upload = None
        self.flush()
        if abort:
            self._cut_off()
            return
        reader = self._reader
        if close or self._close or (self._site.draining and not reader.ahead):
            self._end()
            return
        cluster = self._cluster
        self._heading = bool(reader.ahead)
        wait = cluster.config.head_timeout if reader.ahead else cluster.config.client_idle
        cluster.wheel.set(self, clock.monotonic() + wait)
        self._site.lobby.waiting[self] = None
        if reader.ahead:
            self.transport.resume_reading()
            self._read()

    def pause_writing(self) -> None:
        """Let the endpoint wait: the client takes less than comes."""
        self.paused = True
        if self._exchange is not None:
            self._exchange.pause(paused=True)
        self._unwritten = self.transport.get_write_buffer_size()
        cluster = self._cluster
        cluster.wheel.set(self, clock.monotonic() + cluster.config.write_timeout)

    def resume_writing(self) -> None:
        """Let the endpoint go on."""
        self.paused = False
        if self._exchange is not None:
            self._exchange.pause(paused=False)
            if self._upload is None:
                self._cluster.wheel.set(self, math.inf)

    # -- the end ---------------------------------------------------------------------------------

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

    def give_way(self) -> None:
        """End at once: its place is given to another."""
        self._close = True
        self.transport.abort()

    def _cut_off(self) -> None:
        """End the connection so that what was given cannot be taken for a whole answer."""
        sock = self.transport.get_extra_info("socket")
        if self._ends and sock is not None:
            # A plain end would be that of the body. With this option it is a reset.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _end(self) -> None:
        """Close our side, and the rest when the client does, or after LINGER_SECONDS."""
        self._close = True
        self._reader.ended()
        self._reader.ahead.clear()
        self._lingers = self.transport.can_write_eof()  # not in TLS
        config, now = self._cluster.config, clock.monotonic()
        if self.transport.get_write_buffer_size():
            self._cluster.wheel.set(self, now + config.write_timeout)
        elif self._lingers:
            self._cluster.wheel.set(self, now + LINGER_SECONDS)
        if self._lingers:
            self.transport.write_eof()
            self.transport.resume_reading()
        else:
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
        exchange, self._exchange, self._upload = self._exchange, None, None
        self._close = True
        if exchange is not None:
            exchange.abandon()

    def on_due(self, now: float) -> None:
        """Close a connection that is idle, whose request does not come, or that takes nothing."""
        exchange = self._exchange
        if exchange is not None and exchange.is_short:
            exchange.on_due(now)
            return
        unwritten = self.transport.get_write_buffer_size()
        if self._close and self._exchange is None:
            self.transport.abort()
        elif self._upload is not None and not self.paused:
            self._break_off(_SLOW)
        elif self._exchange is None and self._reader.is_within:
            self._refuse_bytes(_SLOW)
        elif unwritten and unwritten < self._unwritten:
            self._unwritten = unwritten  # it takes something
            self._cluster.wheel.set(self, now + self._cluster.config.write_timeout)
        elif unwritten:
            self.transport.abort()
        elif self._exchange is None:
            self.transport.close()
