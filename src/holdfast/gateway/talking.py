"""What a client is given: answers and errors in the bytes of its connection, and its end.

What is given is gathered and written at once. While the client takes less than comes, whoever
answers has to wait; a client that takes nothing is left.
"""

from __future__ import annotations

import asyncio
import math
import socket
import struct
from typing import TYPE_CHECKING, Any, Protocol

from holdfast.gateway import errors
from holdfast.gateway.headers import NOBODY
from holdfast.gateway.reading import Reader
from holdfast.runtime.clock import clock
from holdfast.runtime.wheel import Due

if TYPE_CHECKING:
    from holdfast.gateway.client import Client
    from holdfast.gateway.cluster import Cluster
    from holdfast.gateway.lobby import Lobby
    from holdfast.gateway.request import Request
    from holdfast.gateway.upload import Upload
    from holdfast.wire.requests import RequestHead
    from holdfast.wire.strict import BadMessage

MAX_QUEUED = 100
"""Requests that may wait behind the one in work; the connection ends after them."""
UNWRITTEN_MOST = 64 * 1024
"""Bytes that wait for the client to take them; then the endpoint is read no further."""
LINGER_SECONDS = 2.0
"""For how long a client that is refused may go on sending. RFC 9112, 9.6: to close while bytes
wait unread resets the connection, and that can take the answer away from the client."""


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


class Work(Protocol):
    """What is done for the request that is in work: on its short way, or on the long one."""

    @property
    def is_given(self) -> bool:
        """Whether something of an answer was given to the client."""

    def late(self, now: float) -> bool:
        """Take note that the client's limit has passed; False: it was none of the request's."""

    def pause(self, *, paused: bool) -> None:
        """Let the endpoint wait while the client takes less than comes, or go on."""

    def cut(self, reason: str) -> None:
        """End it now and tell the client so."""

    def abandon(self, status: int = 0) -> None:
        """End it for a client that is gone. status: of the answer that it gets all the same."""


class Talking(asyncio.Protocol, Due):
    """One connection of a client.

    identity: what endpoints are told of it.  host: its address; empty at a Unix socket.
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
        self._exchange: Work | None = None
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
    def unwritten(self) -> int:
        """Bytes that wait for the client to take them."""
        size: int = self.transport.get_write_buffer_size()
        return size

    @property
    def draining(self) -> bool:
        """Whether the gateway is ending."""
        return self._site.draining

    def go_on_with(self, work: Work) -> None:
        """Take another way with the request that is in work."""
        self._exchange = work

    # -- answers -----------------------------------------------------------------------------------

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

    def pass_on(self, data: bytes) -> None:
        """Write what is framed already; nothing else is waiting to be written."""
        self._written += len(data)
        self.transport.write(data)

    def count(self, size: int) -> None:
        """Count bytes of the answer that somebody else has written."""
        self._written += size

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

    # -- errors ------------------------------------------------------------------------------------

    def refuse(
        self,
        code: str,
        request: Request,
        *,
        sent: str,
        retry_after: float | None,
        final: bool = False,
    ) -> None:
        """Answer with an error of ours."""
        why = self._cluster.why_cooling() if code == "HF-3104" else ""
        value = errors.body(
            code,
            request.id,
            text=why and f"{errors.ERRORS[code].text} ({why})",
            sent=sent,
            retry_after=retry_after,
            attempts=request.told,
        )
        fields = self._cluster.added(request).decode("latin-1").split("\r\n")[:-1]
        if retry_after is not None:
            fields.append(f"Retry-After: {math.ceil(retry_after)}")
        if final:
            fields.append("x-should-retry: false")
        close = self.closes(request.head, ends=False)
        is_head = request.head.method == b"HEAD"
        self._out.append(errors.answer(code, value, close=close, fields=fields, head=is_head))

    def _refuse_bytes(self, bad: BadMessage, *, is_logged: bool = False) -> None:
        """Answer what is no request, or none that is served, and end the connection.

        is_logged: it was one, and has its line in the log.
        """
        code = errors.BY_STATUS.get(bad.status) or next(
            code for code, row in errors.ERRORS.items() if row.status == bad.status
        )
        reason = "malformed" if bad.status == 400 else ""
        value = errors.body(code, self.serial.decode(), text=bad.reason, reason=reason)
        judged = self._reader.judged
        is_head = judged is not None and judged.method == b"HEAD"
        fields = errors.FIELDS.get(code, ())
        answer = errors.answer(code, value, close=True, fields=fields, head=is_head)
        ledger = self._cluster.ledger
        if is_logged:
            ledger.refused(code)
        else:
            ledger.turned_away(code, bad.status, judged, self.host, len(answer))
        self.transport.write(answer)
        self._end()

    # -- the pace ----------------------------------------------------------------------------------

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

    # -- the end -----------------------------------------------------------------------------------

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
