"""What the aiohttp adapter learns of a request on its way, at the places that it passes.

`ClientRequest.send` is called once a connection is up, and the parser sees the first byte of
the answer; so both are stood in for. Where the end of the connection ends a body, the parser
stays stood in for until then.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any

from aiohttp.streams import EMPTY_PAYLOAD

from holdfast.clients.decoding import DecodingFault, Limit, decoder_for
from holdfast.runtime.timers import Alarm

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from aiohttp import ClientRequest, ClientResponse, StreamReader
    from aiohttp.connector import Connection

    from holdfast.clients.decoding import Decoder
    from holdfast.clients.exchange import Try


class NotFreshError(Exception):
    """A kept-alive connection came where a new one is needed; never leaves the adapter."""


class Sending(Alarm):
    """One request on its way: all that is learnt of it, in a single object.

    As `exchange.Try` has them: fresh, connecting, reused, answered. body: the answer's, if it
    came as a whole with its head, and as it is (see `is_whole`).

    It is its own alarm, if it has a limit. From the moment that a connection is up until the
    head of the answer is there it stands in the place of the connection's parser, to note
    that a byte came: nothing else in aiohttp tells afterwards, and without one a kept-alive
    connection was stale.
    """

    __slots__ = ("_parser", "_protocol", "answered", "body", "connecting", "fresh", "reused")

    _parser: Any
    _protocol: Any

    def __init__(self) -> None:
        self.fresh = False
        self.connecting = True
        self.reused = False
        self.answered = False
        self.body: StreamReader | None = None
        self._protocol = None

    def tell(self, this: Try) -> None:
        """Tell `this` what was learnt."""
        this.connecting = self.connecting
        this.reused = self.reused
        this.answered = self.answered

    def feed_data(self, data: bytes) -> Any:
        """Pass `data` on; with the head complete, step aside."""
        if data:
            self.answered = True
        parser = self._parser
        found = parser.feed_data(data)
        if found[0]:
            message, content = found[0][-1]
            code = message.code
            if code >= 200 or code == 101:
                protocol = self._protocol
                if protocol._parser is self:
                    protocol._parser = parser
                    if content is EMPTY_PAYLOAD:
                        pass
                    elif content._eof:
                        if content.total_compressed_bytes is None:
                            self.body = content
                    elif not (message.chunked or message.upgrade) and (
                        "Content-Length" not in message.headers
                    ):
                        ToTheEnd(protocol, message, content, data)
        return found

    def feed_eof(self) -> Any:
        """Pass the end on."""
        return self._parser.feed_eof()

    def pause_reading(self) -> None:
        """Pass it on."""
        self._parser.pause_reading()


class _Another(Sending):
    """A copy of what is on its way already."""

    __slots__ = ("_first",)

    def __init__(self, first: Sending) -> None:
        super().__init__()
        self._first = first

    def feed_data(self, data: bytes) -> Any:
        """Pass `data` on."""
        if data:
            self._first.answered = True
        return super().feed_data(data)


@cache
def telling(kind: type[ClientRequest]) -> type[ClientRequest]:
    """Return a subclass whose `send`, called once a connection is up, tells a `Sending` so.

    A class for all requests of a session costs less than a function for each; and the request,
    which is all that `send` has, need not be known to what it tells: there is no cycle.
    """
    if hasattr(kind, "_holdfast"):
        return kind  # asked twice

    class Telling(kind):  # type: ignore[misc, valid-type]  # the session's own class
        _holdfast: Sending | None = None

        def send(self, conn: Connection) -> Coroutine[Any, Any, ClientResponse]:
            sending = self._holdfast
            if sending is not None:
                protocol: Any = conn.protocol
                sending.connecting = False
                # A protocol that has had no answer yet is a connection that was just made.
                sending.reused = protocol._payload is not None
                if sending.fresh and sending.reused:
                    raise NotFreshError
                before = sending._protocol
                if before is not None and before._parser is sending:
                    sending = _Another(sending)  # a middleware further in sends two at once
                sending._protocol = protocol
                sending._parser = protocol._parser
                protocol._parser = sending
            return kind.send(self, conn)

    Telling.__name__ = Telling.__qualname__ = kind.__name__
    Telling.__module__ = kind.__module__
    return Telling


class ToTheEnd:
    """Stands before the parser of a body that ends with the connection.

    There aiohttp takes any end for the end of the body: a reset, and the middle of a gzip
    stream. So a reset is made an error; and gzip is decoded a second time for the sake of its
    last bytes, which are all that tells whether it is whole.
    """

    __slots__ = ("_broken", "_decoder", "_parser", "_protocol")

    def __init__(self, protocol: Any, message: Any, content: Any, data: bytes) -> None:
        """Stand there. data: ends with the first bytes of the body."""
        self._protocol = protocol
        self._parser = protocol._parser
        self._broken: BaseException | None = None
        self._decoder: Decoder | None = None
        packed = content.total_compressed_bytes
        if packed is not None:
            coding = message.headers.get("Content-Encoding", "")
            self._decoder = decoder_for(coding, limit=Limit(max_ratio=math.inf))
            self._take(data[len(data) - packed :])
        protocol._parser = self
        protocol.__dict__["connection_lost"] = self._lost

    def _take(self, data: bytes) -> None:
        if self._decoder is None:
            return
        try:
            for _ in self._decoder.feed(data):
                pass
        except DecodingFault as fault:
            self._broken = fault
            self._decoder = None

    def feed_data(self, data: bytes) -> Any:
        """Pass `data` on."""
        found = self._parser.feed_data(data)
        self._take(data)
        return found

    def feed_eof(self) -> Any:
        """Raise if this is no good end; aiohttp makes that a ClientPayloadError."""
        if self._broken is not None:
            raise self._broken
        if self._decoder is not None:
            self._decoder.end(empty=False)
        return self._parser.feed_eof()

    def pause_reading(self) -> None:
        """Pass it on."""
        self._parser.pause_reading()

    def _lost(self, error: BaseException | None) -> None:
        """Stand in for `connection_lost`, which does not tell the parser why."""
        protocol = self._protocol
        protocol.__dict__.pop("connection_lost", None)
        self._broken = error or self._broken
        protocol.connection_lost(error)
