"""What the aiohttp adapter does to the bodies of answers.

aiohttp hands out one `StreamReader` per answer, with a dozen ways to read it. Copying what
comes out of it into another would cost a task or a copy per piece, so the stream itself
becomes a `Stream`: its class is exchanged (both have the same slots), and the one slot that
aiohttp lets others fill, the timer, carries what there is to know. Every way of reading goes
through `_wait` when there is nothing to read, and that is where limits act.
"""

from __future__ import annotations

import json
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

from aiohttp import ClientConnectionError, ClientPayloadError, StreamReader
from aiohttp.helpers import BaseTimerContext
from aiohttp.http_exceptions import ContentEncodingError
from aiohttp.streams import EMPTY_PAYLOAD

from holdfast.clients.aio import limited
from holdfast.clients.decoding import PIECE, DecodingFault, Limit
from holdfast.core.classify import provider_code
from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    from types import TracebackType

    from aiohttp import ClientResponse
    from aiohttp.connector import Connection

    from holdfast.clients.exchange import Exchange


class Watched(BaseTimerContext):
    """A stream's timer, which is aiohttp's `total`, and what a `Stream` has to know."""

    __slots__ = ("exchange", "inner", "limit")

    def __init__(self, inner: BaseTimerContext, limit: Limit) -> None:
        self.inner = inner
        self.limit = limit
        self.exchange: Exchange | None = None  # once the answer is with its reader

    def assert_timeout(self) -> None:
        """Raise TimeoutError if aiohttp's total time is over."""
        self.inner.assert_timeout()

    def __enter__(self) -> BaseTimerContext:
        self.inner.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool | None:
        return self.inner.__exit__(exc_type, exc_val, exc_tb)


class Stream(StreamReader):
    """A response body that keeps to limits and tells the exchange how its reading went."""

    __slots__ = ()

    _timer: Watched  # put there by `watch`

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        """Take a failure, as soon as it is known: its permits need not wait for a reader."""
        exchange = self._timer.exchange
        # A reader that closes the answer is told so by an exception of this very type.
        if exchange is not None and type(exc) is not ClientConnectionError:
            exc = exchange.body_failed(exc)
        super().set_exception(exc, *cause)

    def set_read_chunk_size(self, n: int) -> None:
        """Allow for pieces of `n` bytes. `read()` asks for everything: not from a decoder."""
        if self.total_compressed_bytes is not None:
            n = min(n, PIECE)
        super().set_read_chunk_size(n)

    async def whole(self, limit: int) -> bool:
        """Wait for the end of the body and return True; False once more than `limit` is there.

        Nothing is taken out: whoever reads it afterwards finds it all.
        """
        super().set_read_chunk_size(limit)
        protocol = self._protocol
        if protocol._reading_paused and self._size < limit:
            protocol.resume_reading()  # it had stopped for want of the room that there is now
        while not self._eof:
            if self._exception is not None:
                raise self._exception
            if self._size > limit:
                return False
            await self._wait("whole")
        self.check()
        return True

    def check(self) -> None:
        """Raise if a compressed body has grown beyond what is allowed."""
        packed = self.total_compressed_bytes
        if packed is None:
            return
        try:
            self._timer.limit.check(packed, self.total_bytes)
        except DecodingFault as fault:
            cause = ContentEncodingError(str(fault))
            error = ClientPayloadError(f"Response payload is not completed: {fault}")
            error.__cause__ = cause
            self.set_exception(error)
            raise error from cause

    def _read_nowait_chunk(self, n: int) -> bytes:
        self.check()  # here, too: a decoder refills what is read without anybody waiting
        return super()._read_nowait_chunk(n)

    async def _wait(self, func_name: str) -> None:
        exchange = self._timer.exchange
        if exchange is None or not exchange.open:
            await super()._wait(func_name)
        else:
            now = clock.monotonic()
            expires = now + exchange.body_limit(now)
            try:
                await limited(
                    super()._wait(func_name), now, expires, exchange.body_span, exchange.body_late
                )
            except BaseException as error:
                failure = exchange.body_failed(error)
                if isinstance(failure, TimeoutError):
                    self.set_exception(failure)  # what comes later comes too late
                if failure is error:
                    raise
                raise failure from error
        self.check()


def is_whole(content: StreamReader) -> bool:
    """Say whether a body has come with its head, and needs no look at how it was compressed."""
    return content.is_eof() and (content is EMPTY_PAYLOAD or content.total_compressed_bytes is None)


def code_of(response: ClientResponse, provider: str) -> str | None:
    """Return the provider's code in a body that is there as a whole; nothing is taken out."""
    if not (response.status >= 400 or response.content_type.endswith("json")):
        return None
    buffer: Any = getattr(response.content, "_buffer", ())
    try:
        return provider_code(provider, json.loads(b"".join(buffer)))
    except ValueError:
        return None


def watch(response: ClientResponse, limit: Limit) -> Stream:
    """Make the body of `response` a `Stream` and return it."""
    content: Any = response.content
    content._timer = Watched(content._timer, limit)
    content.__class__ = Stream
    stream: Stream = content
    return stream


def let_go(stream: Stream, response: ClientResponse) -> None:
    """Let `response` be collected when nobody has it any more.

    The parser holds the stream, and the stream its response, to give the connection back at
    the end: a response that was dropped would keep a connection for as long as one lasts.
    """
    at_end = stream._eof_callbacks
    for place, callback in enumerate(at_end):
        if getattr(callback, "__self__", None) is response:
            at_end[place] = partial(_ended, ref(response))


def _ended(response: ref[ClientResponse]) -> None:
    alive = response()
    if alive is not None:
        alive._response_eof()


def opened(stream: Stream, response: ClientResponse, conn: Connection, exchange: Exchange) -> None:
    """Let the reading of a body be known to `exchange`, until its connection is given back."""
    stream._timer.exchange = exchange
    failure = stream.exception()
    if failure is not None:
        exchange.body_failed(failure)
    let_go(stream, response)
    own = response.__dict__
    own["_holdfast"] = _Open(exchange)
    conn.add_callback(partial(_released, exchange, own))


class _Open:
    """Belongs to a response whose body is being read, and goes with it."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def __del__(self) -> None:
        if self._exchange.open:
            self._exchange.body_closed()
            warnings.warn("a response was neither read nor closed", ResourceWarning, stacklevel=2)


def _released(exchange: Exchange, own: dict[str, Any]) -> None:
    """Take that the response gave its connection back: read, closed, or (not closed) collected.

    own: the attributes of the response; itself it could not be collected.
    """
    if own["_closed"]:
        exchange.body_closed()
