"""A large body on its way to an endpoint, as it comes from the client.

It is kept as well, so that it can be sent again: as long as it is no larger than `replay_max`,
and all bodies that are kept together no larger than `replay_total`. After that only what was not
sent yet is in memory, and the request can be sent only once.

Whoever is slower makes the other wait: the client is not read while too much is unsent, and
nothing is written while the endpoint takes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from holdfast.gateway.reading import gather

if TYPE_CHECKING:
    from holdfast.gateway.client import Client

UNSENT_MOST = 256 * 1024
"""Bytes that wait to be sent; then the client is read no further, until a quarter is left."""


class Room:
    """The memory of a process for bodies that are kept. most: bytes.  used: of these."""

    __slots__ = ("most", "used")

    def __init__(self, most: int) -> None:
        self.most = most
        self.used = 0

    def take(self, size: int) -> bool:
        """Take so much, or nothing if there is not so much."""
        if self.used + size > self.most:
            return False
        self.used += size
        return True

    def give(self, size: int) -> None:
        """Give so much back."""
        self.used -= size


class Sender(Protocol):
    """Who sends a body: an attempt."""

    def uploaded(self) -> None:
        """Take note that all of it was written."""


class Upload:
    """One large body.

    length: in bytes, if the client has told it; else None, and it goes on in chunks.
    whole: all of it has come from the client.  done: all of it was written to the endpoint that
    is asked.  intact: it can be sent from its beginning.  stalled: the endpoint takes nothing.
    """

    __slots__ = (
        "_at",
        "_client",
        "_kept",
        "_most",
        "_pieces",
        "_room",
        "_sender",
        "_transport",
        "_unsent",
        "done",
        "intact",
        "length",
        "size",
        "stalled",
        "waits",
        "whole",
    )

    def __init__(self, client: Client, length: int | None, room: Room, most: int) -> None:
        self._client = client
        self._room = room
        self._most = most
        self._kept = 0  # bytes taken from the room; -1: it is not kept
        self._pieces: list[bytes] = []
        self._at = 0  # the first piece that was not written
        self._unsent = 0
        self._transport: Any = None
        self._sender: Sender | None = None
        self.length = length
        self.size = 0
        self.whole = self.done = self.stalled = self.waits = False
        self.intact = True

    # -- from the client -------------------------------------------------------------------------

    def take(self, pieces: list[bytes], *, whole: bool) -> None:
        """Take what has come. whole: that was all."""
        more = sum(map(len, pieces))
        self._pieces += [piece for piece in pieces if piece]
        gather(self._pieces, len(self._pieces), self._at)
        self.size += more
        self._unsent += more
        self.whole = whole
        if self._kept >= 0:
            self._keep(more)
        self._pump()
        if self._unsent > UNSENT_MOST and not self.waits:
            self.waits = True
            self._client.read_on(on=False)

    def _keep(self, more: int) -> None:
        if self.size <= self._most and self._room.take(more):
            self._kept += more
            return
        self._room.give(self._kept)
        self._kept = -1
        self._drop_sent()

    def _drop_sent(self) -> None:
        if self._at:
            del self._pieces[: self._at]
            self._at = 0
            self.intact = False

    # -- to the endpoint -------------------------------------------------------------------------

    def begin(self, transport: Any, sender: Sender) -> None:  # noqa: ANN401 - of many types
        """Send it from its beginning; it must be intact."""
        self._transport = transport
        self._sender = sender
        self._at = 0
        self._unsent = self.size
        self.done = self.stalled = False
        self._pump()

    def stop(self) -> None:
        """Send no more: the connection is gone, or its answer is whole."""
        self._transport = self._sender = None

    def stall(self, *, stalled: bool) -> None:
        """Take note that the endpoint takes nothing, or goes on."""
        self.stalled = stalled
        self._pump()

    def _pump(self) -> None:
        transport, pieces = self._transport, self._pieces
        if transport is None:
            return
        while self._at < len(pieces) and not self.stalled:
            piece = pieces[self._at]
            self._at += 1
            self._unsent -= len(piece)
            if self.length is None:
                piece = b"%x\r\n%b\r\n" % (len(piece), piece)
            transport.write(piece)  # may call `stall`
            if self._kept >= 0:
                self._at = gather(pieces, self._at)
        if self._kept < 0:
            self._drop_sent()
        if self.waits and self._unsent <= UNSENT_MOST // 4:
            self.waits = False
            self._client.read_on(on=True)
        if self.whole and not self.done and self._at == len(self._pieces):
            self.done = True
            if self.length is None:
                transport.write(b"0\r\n\r\n")
            if self._sender is not None:
                self._sender.uploaded()

    def close(self) -> None:
        """Forget it."""
        self._transport = self._sender = None
        if self._kept > 0:
            self._room.give(self._kept)
        self._kept = -1
        self._pieces = []
        if self.waits:
            self.waits = False
            self._client.read_on(on=True)
