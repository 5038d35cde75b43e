"""A `Line` on the calling thread: the same state machine, read from a blocking socket."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from holdfast.runtime.clock import clock
from holdfast.transfer.plane_async import Line
from holdfast.wire.connect import connect, peer_of

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from holdfast.transfer.plane import Timeouts
    from holdfast.wire.addresses import Reach
    from holdfast.wire.cancel import Cancel
    from holdfast.wire.http1 import Head
    from holdfast.wire.resolve import Resolver
    from holdfast.wire.urls import Url

CRAWL_SECONDS = 20.0
CRAWL_RATE = 1024


class _Transport(asyncio.Transport):
    """What a line needs of a transport."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__({"peername": (peer_of(sock),)})
        self._sock = sock

    def write(self, data: Any) -> None:  # noqa: ANN401 - as the base class has it
        self._sock.sendall(data)

    def abort(self) -> None:
        self._sock.close()


class BlockingLine:
    """One connection that is kept alive, for one thread.

    wants, most: as for `Line`, whose attributes tell of the exchange that is over.
    """

    def __init__(
        self,
        url: Url,
        wants: Callable[[Head], bool],
        *,
        most: int,
        timeouts: Timeouts,
        reach: Reach,
        resolver: Resolver,
        cancel: Cancel,
    ) -> None:
        """Connect. Raises as `wire.connect.connect` does."""
        self._sock = connect(
            url, timeout=timeouts.connect, cancel=cancel, reach=reach, resolver=resolver
        )
        self.line = Line(wants, self._told, most=most)
        self._timeouts = timeouts
        self._over = True
        self.line.connection_made(_Transport(self._sock))

    def _told(self, _: Line) -> None:
        self._over = True

    def ask(self, question: bytes, cancel: Cancel) -> Line:
        """Do one exchange. Whatever the network does, the line says it."""
        line, sock, timeouts = self.line, self._sock, self._timeouts
        self._over = False
        began = clock.monotonic()
        with cancel.watching(sock):
            sock.settimeout(timeouts.first_byte)
            try:
                line.ask(question)
            except OSError as error:
                line.fail(error)
            while not self._over:
                try:
                    self._receive(line, sock, began)
                except OSError as error:
                    line.fail(error)
        return line

    def _receive(self, line: Line, sock: socket.socket, began: float) -> None:
        passed = clock.monotonic() - began
        if line.head is not None:
            sock.settimeout(self._timeouts.idle)
            if passed >= CRAWL_SECONDS and len(line.body) < CRAWL_RATE * passed:
                raise TimeoutError("hardly a byte came")
        elif passed >= self._timeouts.first_byte:
            raise TimeoutError("the head of the answer did not come in time")
        elif passed:
            sock.settimeout(self._timeouts.first_byte - passed)
        n = sock.recv_into(line.get_buffer(-1))
        if n:
            line.buffer_updated(n)
        else:
            line.connection_lost(None)

    def close(self) -> None:
        """Give the connection up."""
        self.line.close()
