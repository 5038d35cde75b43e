"""One direction of a connection: bytes go out, and faults strike at their positions.

Both the proxy and the server send through `Line.send`, so a fault is written once. The
bytes come from a `Source`, which hands out views of any range: nothing is copied on the way,
and a large object is never built.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import select
import socket
import struct
import sys
from typing import TYPE_CHECKING, Final, Literal, NoReturn, Protocol

from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    Strike = Callable[["Line"], Awaitable[None]]

CHUNK: Final = 1 << 20
"""Bytes offered to the kernel at once; it takes what fits."""
_SLICE_SECONDS: Final = 0.05  # a slow stream moves 20 times a second, as a thin link would
_LOOK_SECONDS: Final = 0.05  # how often a silent connection is checked for a departed client
_RDHUP: Final = getattr(select, "POLLRDHUP", 0)
_TCP_CLOSE: Final = 7  # Linux, <netinet/tcp.h>: no connection any more
_TIOCOUTQ: Final = 0x5411  # Linux, <asm/termbits.h>: bytes the peer has not acknowledged


class Source(Protocol):
    """Bytes that can be handed out by range."""

    def __len__(self) -> int:
        """Return the number of bytes."""
        ...

    def pieces(self, start: int, stop: int) -> list[bytes | memoryview]:
        """Return buffers which together are the bytes [start, stop)."""
        ...


class Plain:
    """A source over bytes in memory."""

    __slots__ = ("_view",)

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._view = memoryview(data)

    def __len__(self) -> int:
        return len(self._view)

    def pieces(self, start: int, stop: int) -> list[bytes | memoryview]:
        """Return one view."""
        return [self._view[start:stop]]


class Cut(Exception):
    """The connection ends here. how: "reset" (RST) or "fin" (a clean close)."""

    def __init__(self, how: Literal["reset", "fin"]) -> None:
        super().__init__(how)
        self.how = how


class Track:
    """A byte count, and what waits along it."""

    __slots__ = ("_serial", "_waiting", "position")

    def __init__(self) -> None:
        self.position = 0
        self._serial = 0
        self._waiting: list[tuple[int, int, Strike]] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def at(self, offset: int, strike: Strike) -> None:
        """Run `strike` when `offset` more bytes have passed, before the next one does."""
        self._serial += 1  # equal positions strike in the order given
        heapq.heappush(self._waiting, (self.position + offset, self._serial, strike))

    def room(self) -> int:
        """Return how many bytes may pass before the next strike."""
        return self._waiting[0][0] - self.position if self._waiting else CHUNK

    def due(self) -> Strike | None:
        """Take the strike that is due now."""
        if self._waiting and self._waiting[0][0] <= self.position:
            return heapq.heappop(self._waiting)[2]
        return None


class Line:
    """The sending side of one socket, with its handicaps.

    sock: non-blocking; who made it closes it.  client: the accepted socket of the connection;
    a stalled line ends when the client has gone, and only then.
    rate: bytes per second, or None.  most: bytes per write, or None; gap: seconds between
    such writes.  delay: gives the seconds by which the next bytes come late, or None.
    mask: the next byte goes out XORed with it.  swallow: bytes pass the positions but are not
    sent.  note: told of each write, in bytes; those of `write_all` are not counted.
    """

    __slots__ = (
        "_due", "client", "delay", "gap", "mask", "most", "note", "rate", "sock", "swallow",
    )  # fmt: skip

    def __init__(
        self, sock: socket.socket, client: socket.socket, note: Callable[[int], None]
    ) -> None:
        self.sock = sock
        self.client = client
        self.note = note
        self.rate: float | None = None
        self.most: int | None = None
        self.gap = 0.0
        self.delay: Callable[[], float] | None = None
        self.mask = 0
        self.swallow = False
        self._due = 0.0

    def like(self, other: Line) -> Line:
        """Take over the handicaps of `other`; return self."""
        self.rate, self.most, self.gap, self.delay = other.rate, other.most, other.gap, other.delay
        return self

    @property
    def is_plain(self) -> bool:
        """Whether nothing slows the line down or changes its bytes."""
        return self.rate is None and self.most is None and not (self.mask or self.swallow)

    async def send(
        self, source: Source, start: int, stop: int, tracks: Sequence[Track] = ()
    ) -> None:
        """Send [start, stop) of `source`; strikes on `tracks` happen at their positions.

        Raises Cut when a strike ends the connection, OSError when the peer did.
        """
        while start < stop:
            await self._strike(tracks)
            room = min([stop - start, self._allowed(), *(track.room() for track in tracks)])
            pieces = source.pieces(start, start + room)
            if self.mask:
                pieces, self.mask = [bytes([bytes(pieces[0][:1])[0] ^ self.mask])], 0
            if self.swallow:
                count = sum(map(len, pieces))
            else:
                count = await self.write(pieces)
                self.note(count)
            start += count
            for track in tracks:
                track.position += count
            if self.rate is not None:
                await self._pace(count / self.rate)
            if self.gap:
                await clock.asleep(self.gap)  # always whole, or late portions would join
            elif start < stop:
                # A reader as fast as we are never makes the socket full: without this the
                # other connections would wait for the end of the object.
                await asyncio.sleep(0)

    async def write(self, pieces: Iterable[bytes | memoryview]) -> int:
        """Hand `pieces` to the kernel; return how many bytes it took, at least one."""
        while True:
            try:
                return self.sock.sendmsg(pieces)
            except BlockingIOError:
                await _writable(self.sock)

    async def write_all(self, data: bytes) -> None:
        """Send a few bytes that no fault concerns."""
        if self.swallow:
            return
        view = memoryview(data)
        while view:
            view = view[await self.write([view]) :]

    def end(self, how: Literal["reset", "fin"]) -> NoReturn:
        """End the whole connection: by RST, or by a clean close. Raises Cut."""
        raise Cut(how)

    async def finish(self) -> None:
        """Send FIN: no more bytes will come. A stream that was swallowed has sent it already."""
        if not self.swallow:
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_WR)

    async def flushed(self, limit: float = 1.0) -> None:
        """Wait until the peer's kernel has all bytes, at most `limit` seconds.

        A reset throws away what is still queued here. Waiting first makes the position of a
        reset mean something. Only Linux tells; elsewhere this returns at once.
        """
        until = clock.monotonic() + limit
        while _queued(self.sock) and clock.monotonic() < until:
            await clock.asleep(0.001)

    async def hang(self, seconds: float | None = None) -> None:
        """Be silent for `seconds` (None: for ever). Raises Cut when the client has gone."""
        until = clock.monotonic() + seconds if seconds is not None else None
        while until is None or clock.monotonic() < until:
            if has_hung_up(self.client):
                raise Cut("fin")
            left = _LOOK_SECONDS if until is None else until - clock.monotonic()
            await clock.asleep(max(0.0, min(_LOOK_SECONDS, left)))

    async def _strike(self, tracks: Sequence[Track]) -> None:
        for track in tracks:
            while strike := track.due():
                await strike(self)

    def _allowed(self) -> int:
        allowed = CHUNK if not self.mask else 1
        if self.most is not None:
            allowed = min(allowed, self.most)
        if self.rate is not None:
            allowed = min(allowed, max(1, int(self.rate * _SLICE_SECONDS)))
        return allowed

    async def _pace(self, cost: float) -> None:
        # Booked on a schedule, not slept one by one: late wake-ups do not add up.
        self._due = max(self._due, clock.monotonic() - _SLICE_SECONDS) + cost
        await clock.asleep(max(0.0, self._due - clock.monotonic()))


async def _writable(sock: socket.socket) -> None:
    """Wait until the kernel takes bytes again."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_writer(sock, wake)
    try:
        await ready
    finally:
        loop.remove_writer(sock)


def has_hung_up(sock: socket.socket) -> bool:
    """Return whether the peer has closed or reset, even if unread bytes lie before the end.

    A client that only closed its sending half counts as gone as well. Where `poll` cannot
    tell (no POLLRDHUP), only errors and resets are seen.
    """
    poller = select.poll()
    poller.register(sock, _RDHUP)
    return bool(poller.poll(0))


def linger_not(sock: socket.socket) -> None:
    """Make the close of `sock`, whenever it comes, a reset: the peer gets ECONNRESET."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def abort(sock: socket.socket) -> None:
    """Close with a reset."""
    linger_not(sock)
    sock.close()


async def close_cleanly(sock: socket.socket, limit: float = 1.0) -> None:
    """Send FIN, then read to the peer's own end, at most `limit` seconds.

    A plain close with unread bytes in the buffer sends RST instead, which is another fault.
    """
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError, TimeoutError):
        sock.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(limit):
            while await loop.sock_recv(sock, 65536):
                pass
    sock.close()


def undelivered(sock: socket.socket) -> int:
    """Return how many sent bytes never arrive: the connection was reset, or its close will be.

    What waits behind a clean close does arrive. 0 where the system hides it (all but Linux).
    """
    waiting = _queued(sock)
    if not waiting:
        return 0
    state = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    lingers = sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
    return waiting if state == _TCP_CLOSE or struct.unpack("ii", lingers) == (1, 0) else 0


def _queued(sock: socket.socket) -> int:
    """Return how many sent bytes the peer has not acknowledged; 0 where the system hides it."""
    if sys.platform != "linux" or sock.fileno() < 0:
        return 0
    import fcntl  # noqa: PLC0415 - absent on Windows

    try:
        return int(struct.unpack("i", fcntl.ioctl(sock, _TIOCOUTQ, b"\0\0\0\0"))[0])
    except OSError:
        return 0
