"""The asyncio data plane for small answers: one connection, one question at a time, in memory.

A `Line` is kept alive between questions. It reads into one buffer that it keeps, so an answer
of a usual size costs one `recv` and no copy; the body is handed on as a view of that buffer,
valid until the next question. It follows no redirect, repeats nothing and judges nothing: its
owner looks at each head and says whether the body is wanted, and is told when it is over.

It sets no timers: whoever has thousands of exchanges a second looks at all lines now and then
(see `Line.quiet`), and ends what has been silent for too long with `fail`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from holdfast.core.verdict import Sent, Verdict
from holdfast.transfer.plane import End, Received
from holdfast.transfer.plane_threads import describe, verdict_of
from holdfast.wire.addresses import Reach, permitted
from holdfast.wire.connect import tls_context, tune
from holdfast.wire.http1 import (
    MAX_HEAD,
    CutShort,
    Framing,
    Head,
    ProtocolError,
    head_end,
    keeps_open,
    parse_head,
)
from holdfast.wire.strict import BadMessage, Chunks

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Sequence

    from holdfast.wire.addresses import AddrInfo
    from holdfast.wire.urls import Url

BUFFER = MAX_HEAD + 32 * 1024
"""A head of the largest size fits, and a body of some 90 KiB beside a usual one."""


# Where in an exchange a line is. Plain numbers: this is looked at several times per answer.
_IDLE = 0  # nothing was asked
_HEAD = 1  # asked; the head has not come whole
_LENGTH = 2  # in a body of known length, all of it in the buffer
_LARGE = 3  # in a body of known length that has a buffer of its own
_CHUNKS = 4  # in a chunked body
_CLOSE = 5  # in a body that ends with the connection
_DEAD = 6  # the connection is gone, or of no use
_SIZED = (_LENGTH, _LARGE)


class Line(asyncio.BufferedProtocol):
    """One connection.

    wants: told each head; whether its body is to be read.  told: called when an exchange is over.
    most: bytes of a body; more are not taken (`End.LIMIT`).

    Of the exchange that is over: head, end, fault and text as in `Received`; body: what came.
    asked: questions so far.  silent: no byte of an answer came.
    may_reuse: another question may follow.
    """

    def __init__(
        self,
        wants: Callable[[Head], bool],
        told: Callable[[Line], None],
        *,
        most: int,
    ) -> None:
        self.asked = 0
        self.head: Head | None = None
        self.end = End.BROKEN
        self.fault: Verdict | None = None
        self.text = ""
        self.silent = True
        self.may_reuse = False
        self.peer = ""
        self._wants = wants
        self._told = told
        self._most = most
        self._transport: asyncio.Transport | None = None
        self._at = _IDLE
        self._bytes = bytearray(BUFFER)
        self._buffer = memoryview(self._bytes)
        self._filled = 0
        self._start = 0  # of the body in the buffer
        self._need = 0  # of the buffer to be filled, in LENGTH; of the body, in LARGE
        self._large: memoryview | None = None
        # Kept for the next body: new memory costs a fault for each of its pages.
        self._spare = self._buffer[:0]
        self._chunks: Chunks | None = None
        self._content = bytearray()  # of a chunked body
        self._moved = False

    # -- what its owner does ---------------------------------------------------------------------

    @property
    def is_dead(self) -> bool:
        """Whether nothing can be asked here any more."""
        return self._at == _DEAD

    @property
    def body(self) -> memoryview:
        """What came of the body."""
        if self._large is not None:
            return self._large[: self._filled]
        if self._chunks is not None:
            return memoryview(self._content)
        if self.head is None:
            return self._buffer[:0]
        return self._buffer[self._start : self._filled]

    def received(self) -> Received:
        """Return what came of the exchange that is over, as any plane does."""
        taken = len(self.body)
        return Received(self.end, self.head, taken, self.fault, self.text, self.peer)

    def ask(self, question: bytes) -> None:
        """Send a request. Only when nothing is under way and the line is not dead."""
        self.asked += 1
        self.head = self._large = self._chunks = None
        self.silent = self._moved = True
        self._filled = 0
        self._at = _HEAD
        cast("asyncio.Transport", self._transport).write(question)

    def quiet(self) -> bool:
        """Return whether nothing came since this was asked last."""
        moved, self._moved = self._moved, False
        return not moved

    def fail(self, error: OSError) -> None:
        """End the exchange under way as if the connection had raised this."""
        if self._at not in {_IDLE, _DEAD}:
            self._broken(error)

    def close(self) -> None:
        """Give the connection up; nobody is told."""
        self._at = _DEAD
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio.BufferedProtocol ----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self._transport = cast("asyncio.Transport", transport)
        name = transport.get_extra_info("peername")
        self.peer = str(name[0]) if name else ""
        sock = transport.get_extra_info("socket")
        if sock is not None and hasattr(sock, "setsockopt"):
            tune(cast("socket.socket", sock))

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - ours is as large as it is
        """Say where the next bytes go."""
        at = self._at
        if at <= _LENGTH and at != _IDLE:
            return self._buffer[self._filled :]
        if at == _LARGE and self._large is not None:
            return self._large[self._filled :]
        # Chunks are taken out at once; what nobody asked for is looked at by nobody.
        return self._grown() if at == _CLOSE else self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take the bytes that came."""
        at = self._at
        if at == _HEAD:
            self._filled += nbytes
            self.silent = False
            self._moved = True
            self._read_head()
        elif at in _SIZED:
            self._filled += nbytes
            self._moved = True
            if self._filled >= self._need:
                self._over(End.COMPLETE, surplus=self._filled > self._need)
        elif at == _CHUNKS:
            self._moved = True
            self._take_chunks(self._buffer[:nbytes])
        elif at == _CLOSE:
            self._moved = True
            self._filled += nbytes
            if self._filled - self._start > self._most:
                self._over(End.LIMIT, surplus=True)
        elif at == _IDLE:
            self.close()  # bytes that belong to no answer: what follows could be misread

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note that the connection has ended."""
        at = self._at
        if at == _IDLE:
            self._at = _DEAD
        elif at == _CLOSE and exc is None:
            self._over(End.UNFRAMED, surplus=True)
        elif at != _DEAD:
            self._broken(exc if isinstance(exc, OSError) else self._cut_short())

    def eof_received(self) -> bool:
        """Let the connection close; `connection_lost` follows."""
        return False

    # -- inside ----------------------------------------------------------------------------------

    def _read_head(self) -> None:
        while True:
            try:
                end = head_end(self._bytes, self._filled)
                if end < 0:
                    return
                head = parse_head(self._bytes[:end])
            except ProtocolError as error:
                self._broken(error)
                return
            if head.status >= 200 or head.status == 101:
                break
            rest = self._bytes[end : self._filled]  # 1xx: the answer is still to come
            self._bytes[: len(rest)] = rest
            self._filled = len(rest)
        self.head = head
        self.may_reuse = keeps_open(self._bytes, head)
        self._start = end
        self._begin_body(head)

    def _begin_body(self, head: Head) -> None:
        length = head.length
        if not self._wants(head) or (length is not None and length > self._most):
            # All of it may be here already; then the line can go on.
            whole = length is not None and self._filled == self._start + length
            self._over(End.UNREAD, surplus=not whole)
        elif length is None:
            self._at = _CHUNKS if head.framing is Framing.CHUNKED else _CLOSE
            ahead = bytes(self._buffer[self._start : self._filled])
            if head.framing is Framing.CHUNKED:
                self._chunks, self._content = Chunks(), bytearray()
                self._take_chunks(memoryview(ahead))
            else:
                self._large = memoryview(bytearray(max(BUFFER, 2 * len(ahead))))
                self._large[: len(ahead)] = ahead
                self._start, self._filled = 0, len(ahead)
        elif self._start + length <= BUFFER:
            self._at = _LENGTH
            self._need = self._start + length
            if self._filled >= self._need:
                self._over(End.COMPLETE, surplus=self._filled > self._need)
        else:
            ahead_size = self._filled - self._start
            if len(self._spare) < length:
                self._spare = memoryview(bytearray(length))
            self._large = self._spare[:length]
            self._large[:ahead_size] = self._buffer[self._start : self._filled]
            self._filled, self._need, self._at = ahead_size, length, _LARGE

    def _grown(self) -> memoryview:
        """Return room for more of a body without an end, up to one byte more than the most."""
        large = self._large
        if large is None:
            return self._buffer
        if self._filled == len(large):
            more = memoryview(bytearray(min(2 * len(large), self._most + 1)))
            more[: self._filled] = large
            self._large = large = more
        return large[self._filled :]

    def _take_chunks(self, data: memoryview) -> None:
        chunks = self._chunks
        if chunks is None:
            return
        pieces: list[memoryview] = []
        fault = ""
        taken = 0
        try:
            taken = chunks.feed(data, pieces)
        except BadMessage as bad:
            fault = bad.reason
        for piece in pieces:  # views of a buffer that is filled anew
            self._content += piece
        if fault:
            self._broken(ProtocolError(fault))
        elif chunks.done:
            self._over(End.COMPLETE, surplus=taken < len(data))
        elif len(self._content) > self._most:
            self._over(End.LIMIT, surplus=True)

    def _over(self, end: End, *, surplus: bool) -> None:
        """End the exchange. surplus: more came, or may come: nothing can follow here."""
        self.end, self.fault, self.text = end, None, ""
        if self._at == _LENGTH:
            self._filled = self._need
        if surplus or not self.may_reuse:
            self.may_reuse = False
            self.close()
        else:
            self._at = _IDLE
        self._told(self)

    def _broken(self, error: OSError) -> None:
        sent = Sent.MAYBE if self.head is None else Sent.YES
        self.end, self.fault, self.text = End.BROKEN, verdict_of(error, sent), describe(error)
        self.may_reuse = False
        self.close()
        self._told(self)

    def _cut_short(self) -> CutShort:
        if self.silent:
            return CutShort("the connection ended before an answer came")
        if self.head is None:
            return CutShort("the connection ended inside the head of the answer")
        if self._chunks is not None:
            return CutShort("the connection ended between two chunks")
        return CutShort(f"the connection ended {self._need - self._filled} bytes early")


async def dial(
    url: Url,
    make: Callable[[], Line],
    *,
    timeout: float,  # noqa: ASYNC109 - part of what is reported, and asyncio's own way inside
    look_up: Callable[[str, int], Awaitable[Sequence[AddrInfo]]],
    reach: Reach = Reach.TYPED,
) -> Line:
    """Return a line to the host of `url`, after the TLS handshake for https.

    timeout: seconds for everything.  look_up: finds the addresses; of those that `reach`
    permits the first that answers is taken. Raises OSError (AddressDenied, gaierror, SSLError
    and TimeoutError among them).
    """
    loop = asyncio.get_running_loop()
    secure: dict[str, Any] = {}
    if url.scheme == "https":
        secure = {"ssl": tls_context(), "server_hostname": url.host}
    last: OSError | None = None
    async with asyncio.timeout(timeout):
        found = permitted(await look_up(url.host, url.port), url.host, reach)
        for *_, address in found:
            try:
                _, line = await loop.create_connection(
                    make, str(address[0]), int(address[1]), **secure
                )
            except OSError as error:
                last = error
            else:
                return line
    raise last or OSError("the name has no address")
