"""A urllib3 response that decodes in bounded pieces and tells an exchange how it was read.

`adopt(response, limit)` makes the response that a pool returned a `Raw`. It stays the same
object, because it owns the connection and its finalizer closes that; so everything that people
do with `response.raw` goes on working: `read`, `stream`, `read1`, `readinto`, lines,
`release_conn`, file objects put around it.

    raw.keep()             reads a body into memory as it came; it can then be read from there
    raw.informs(exchange)  from now on the exchange hears of its end, a failure and its closing
    raw.dispose()          gives up the rest, and the connection with it unless that is short

Errors are urllib3's: ProtocolError for a body that ended too early (also inside its compressed
data, where urllib3 itself sees nothing), DecodeError for one that is damaged or over a limit.
"""

from __future__ import annotations

import io
import warnings
from collections import deque
from contextlib import contextmanager, suppress
from functools import cache
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

from urllib3.exceptions import DecodeError, HTTPError, ProtocolError
from urllib3.response import ContentDecoder, HTTPResponse

from holdfast.clients.decoding import DecodingFault, Limit, decoder_for
from holdfast.clients.exchange import DRAIN
from holdfast.runtime.clock import clock
from holdfast.telemetry.redact import url as shown

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from contextlib import AbstractContextManager

    from holdfast.clients.decoding import Decoder
    from holdfast.clients.exchange import Exchange

DRAIN_SECONDS = 0.25
"""How long the rest of an answer that nobody wants may take; a new connection is cheaper."""


def adopt(response: Any, limit: Limit) -> Raw | None:
    """Return `response`, made a `Raw`; None if it is none of urllib3's (of a test's fake)."""
    if not isinstance(response, HTTPResponse):
        return None
    response.__class__ = _raw_class(type(response))
    raw: Any = response
    raw._holdfast_limit = limit
    found: Raw = raw
    return found


@cache
def _raw_class(response: Any) -> Any:
    if response is HTTPResponse:
        return Raw
    return type(response.__name__, (Raw, response), {})


class Raw(HTTPResponse):
    """See the module. The methods with an underscore are urllib3's, of versions 2.0 to 2.8."""

    _holdfast_limit = Limit()
    _holdfast_exchange: Exchange | None = None
    _holdfast_ready = False  # the decoder was looked for
    _holdfast_parsing = False  # a chunk's head is being read

    # -- what an adapter does with it ----------------------------------------------------

    def keep(self) -> bytes:
        """Read the body into memory as it came, and return it; it can be read again."""
        data = self.read(decode_content=False)
        kept: Any = _Kept(data)
        self._fp = kept
        self._fp_bytes_read = 0
        if self.length_remaining is not None:
            self.length_remaining = len(data)
        return data

    def informs(self, exchange: Exchange) -> None:
        """Tell `exchange` how the reading goes from here on."""
        self._holdfast_exchange = exchange

    def dispose(self) -> None:
        """Read up to DRAIN bytes, so that the connection can be used again, else close it."""
        connection: Any = self._connection
        sock = None if connection is None else connection.sock
        if sock is not None and (self.length_remaining or 0) <= DRAIN:
            left, until = DRAIN, clock.monotonic() + DRAIN_SECONDS
            with suppress(HTTPError, HTTPException, OSError):
                sock.settimeout(DRAIN_SECONDS)
                for piece in self.stream(4096, decode_content=False):
                    left -= len(piece)
                    if left < 0 or clock.monotonic() > until:
                        break
        self.close()

    def decoded(self, data: bytes) -> bytes:
        """Return what `data`, the whole body as it came, decodes to."""
        decoder = decoder_for(self.headers.get("content-encoding", ""), limit=self._holdfast_limit)
        return data if decoder is None else decoder.whole(data)

    # -- telling -------------------------------------------------------------------------

    def _error_catcher(self) -> Any:
        # All reading from the connection happens inside this.
        catcher = super()._error_catcher()
        exchange = self._holdfast_exchange
        return catcher if exchange is None else self._telling(catcher, exchange)

    @contextmanager
    def _telling(self, catcher: AbstractContextManager[None], exchange: Exchange) -> Iterator[None]:
        try:
            with catcher:
                yield
            if exchange.cut and self.isclosed():
                # The end of the connection ends some bodies, and this end was our own.
                raise ProtocolError("Connection broken: its time was over")  # noqa: TRY301 - as one that came from the connection
        except GeneratorExit:
            exchange.body_closed()  # the reader of the chunks wants no more
            raise
        except BaseException as error:
            failure = exchange.body_failed(error)
            if failure is error:
                raise
            raise failure from error

    def _update_chunk_length(self) -> None:
        self._holdfast_parsing = True
        try:
            super()._update_chunk_length()
        finally:
            self._holdfast_parsing = False

    def close(self) -> None:
        """Close the connection unless the body has ended: its reader wants no more."""
        super().close()
        # urllib3 closes a response with a bad chunk before it raises: that is no such wish.
        if self._holdfast_exchange is not None and not self._holdfast_parsing:
            self._holdfast_exchange.body_closed()

    def __del__(self) -> None:
        exchange = self._holdfast_exchange
        if exchange is not None and exchange.open:
            what = shown(self.url or "")
            warnings.warn(
                f"a streamed answer was neither read to its end nor closed: {what}",
                ResourceWarning,
                stacklevel=1,
                source=self,
            )
        super().__del__()  # closes

    # -- reading -------------------------------------------------------------------------

    def read(
        self,
        amt: int | None = None,
        decode_content: bool | None = None,  # noqa: FBT001 - the signature of urllib3
        *args: Any,
        **kwargs: Any,
    ) -> bytes:
        """As urllib3's; compressed data must be whole at the end."""
        data = super().read(amt, decode_content, *args, **kwargs)
        if self.isclosed():
            self._ended(decode_content)
        return data

    if hasattr(HTTPResponse, "read1"):  # urllib3 2.2 and later; `io` looks whether it is there

        def read1(self, amt: int | None = None, decode_content: bool | None = None) -> bytes:  # noqa: FBT001 - the signature of urllib3
            """As urllib3's; compressed data must be whole at the end."""
            data = super().read1(amt, decode_content)
            if self.isclosed():
                self._ended(decode_content)
            return data

    def read_chunked(
        self,
        amt: int | None = None,
        decode_content: bool | None = None,  # noqa: FBT001 - the signature of urllib3
    ) -> Generator[bytes]:
        """As urllib3's; compressed data must be whole at the end."""
        yield from super().read_chunked(amt, decode_content)
        self._ended(decode_content)

    def _ended(self, decode_content: bool | None) -> None:  # noqa: FBT001 - of the reader
        """Take that nothing more comes from the connection."""
        decoder: ContentDecoder | None = self._decoder
        wanted = self.decode_content if decode_content is None else decode_content
        if wanted and decoder is not None:
            if decoder.has_unconsumed_tail:
                return  # it will be asked for more
            try:
                decoder.flush()  # urllib3 does not when the stated length is reached
            except (DecodeError, ProtocolError) as error:
                raise self._failed(error) from error.__cause__
        if self._holdfast_exchange is not None:
            self._holdfast_exchange.body_closed()

    # -- decoding ------------------------------------------------------------------------

    def _init_decoder(self) -> None:
        if self._holdfast_ready:
            return
        encoding = self.headers.get("content-encoding")
        if encoding is not None:
            try:
                decoder = decoder_for(encoding, limit=self._holdfast_limit)
            except DecodingFault as fault:
                raise self._failed(_error_of(fault)) from fault
            if decoder is not None:
                stated = self.chunked or self.length_remaining is not None
                self._decoder = _Bounded(decoder, empty=stated)
            else:
                super()._init_decoder()
                if self._decoder is not None:
                    self._decoder = _Checked(self._decoder, self._holdfast_limit)
        self._holdfast_ready = True

    def _decode(self, *args: Any, **kwargs: Any) -> bytes:
        try:
            return super()._decode(*args, **kwargs)
        except (DecodeError, ProtocolError) as error:
            failure = self._failed(error)
            if failure is error:
                raise
            raise failure from error

    def _failed(self, error: Exception) -> BaseException:
        """Give the connection up; return what to raise for `error`."""
        exchange = self._holdfast_exchange
        failure = error if exchange is None else exchange.body_failed(error)
        self.close()
        return failure


class _Kept(io.BytesIO):
    """A body in memory, which is over when it was read, as one from a connection is."""

    def isclosed(self) -> bool:
        return self.closed or self.tell() >= self.getbuffer().nbytes


def _error_of(fault: DecodingFault) -> HTTPError:
    if fault.truncated:
        return ProtocolError(f"Connection broken: {fault}", fault)
    return DecodeError(str(fault), fault)


class _Bounded(ContentDecoder):
    """Our decoder in the place of one of urllib3's."""

    def __init__(self, decoder: Decoder, *, empty: bool) -> None:
        self._decoder = decoder
        self._empty = empty
        self._inputs: deque[bytes] = deque()
        self._pieces: Iterator[bytes] | None = None  # what is left of the input before those
        self._rest = b""  # of the piece that was given out last

    @property
    def has_unconsumed_tail(self) -> bool:
        return bool(self._rest or self._pieces is not None or self._inputs)

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """Return up to `max_length` decoded bytes, negative: all, and keep the others."""
        if data:
            self._inputs.append(data)
        wanted: float = max_length if max_length >= 0 else float("inf")
        given: list[bytes] = []
        while wanted > 0 and (piece := self._rest or self._next()):
            taken = piece if len(piece) <= wanted else piece[: int(wanted)]
            self._rest = piece[len(taken) :]
            wanted -= len(taken)
            given.append(taken)
        return b"".join(given)

    def _next(self) -> bytes:
        """Return the next piece; b"" if there is none yet."""
        try:
            while True:
                if self._pieces is None:
                    if not self._inputs:
                        return b""
                    self._pieces = self._decoder.feed(self._inputs.popleft())
                for piece in self._pieces:
                    return piece
                self._pieces = None
        except DecodingFault as fault:
            raise _error_of(fault) from fault

    def flush(self) -> bytes:
        """Take the end of the body."""
        try:
            self._decoder.end(empty=self._empty)
        except DecodingFault as fault:
            raise _error_of(fault) from fault
        return b""


class _Checked(ContentDecoder):
    """A decoder of urllib3's for a coding that is not ours (br, zstd), within the limits."""

    def __init__(self, decoder: Any, limit: Limit) -> None:
        self._decoder = decoder
        self._limit = limit
        self._taken = self._given = 0

    @property
    def has_unconsumed_tail(self) -> bool:
        return bool(self._decoder.has_unconsumed_tail)

    def decompress(self, data: bytes, *max_length: int, **named: int) -> bytes:
        # Without a maximum in versions of urllib3 before 2.6.
        decoded: bytes = self._decoder.decompress(data, *max_length, **named)
        self._taken += len(data)
        self._given += len(decoded)
        try:
            self._limit.check(self._taken, self._given)
        except DecodingFault as fault:
            raise _error_of(fault) from fault
        return decoded

    def flush(self) -> bytes:
        return bytes(self._decoder.flush())
