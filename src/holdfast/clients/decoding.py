"""Decompression of answers that no body can blow up: gzip and deflate, in pieces of 64 KiB.

A client library that decompresses whatever has arrived turns 64 KiB from the wire into 64 MiB
at once (gzip packs up to 1032 to 1). So the adapters decode themselves:

    decoder = decoder_for(headers["content-encoding"], limit=Limit(max_ratio=100))
    if decoder is not None:                      # else it is the library's business
        for data in body:
            for piece in decoder.feed(data):     # to its end, before the next feed
                ...
        decoder.end(empty=length_was_stated)     # DecodingFault if the body was cut

or in one go `decoded(body, decoder, empty=...)` (`adecoded` for async iterators), and
`decoder.whole(data)` for a body that is in memory. The adapter turns a `DecodingFault` into
its library's own error; one that is `truncated` is a connection's fault more often than the
data's, and worth another attempt.

What is accepted:

* `gzip` and `x-gzip`, any number of members (RFC 1952, 2.2: concatenated files); each is
  checked by its CRC-32 and length. httpx gives the first member and drops the rest.
* `deflate` as RFC 9110 has it (zlib, RFC 1950) and as some servers send it (raw, RFC 1951);
  the first two bytes tell them apart.
* After a whole stream: zero padding and bytes that begin no member are ignored, as by
  gzip(1), browsers and urllib3. The start of a member counts as one, so a cut in it is seen.
* `identity`, and up to two codings one upon the other.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable

PIECE = 64 << 10
"""Bytes that are given out at once, at most."""

RATIO_FROM = 1 << 20
"""Decoded bytes up to which no ratio is too large: small texts of blanks are no bombs."""

ACCEPT_ENCODING = "gzip, deflate"
"""What the adapters ask for unless the user does: what is decoded here."""

MAX_CODINGS = 2

# zlib returns what it did not use as a new object each time: long input is given in parts,
# or a bomb in one piece of 1 MiB would be copied for each 64 KiB that come out.
_PART = 16 << 10

_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
_MAGIC = b"\x1f\x8b"
_GZIP_NAMES = frozenset({"gzip", "x-gzip"})
_KNOWN = _GZIP_NAMES | {"deflate"}


class DecodingFault(Exception):
    """A body that cannot be decoded, or may not be.

    truncated: it ended too early. reason: "truncated", "corrupt", "max_decoded", "max_ratio"
    or "codings".
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (str(self), self.reason))

    @property
    def truncated(self) -> bool:
        """Whether the body ended too early."""
        return self.reason == "truncated"


@dataclass(frozen=True, slots=True)
class Limit:
    """What a body may become.

    max_decoded: bytes, None without a limit. max_ratio: decoded bytes per byte that came,
    looked at once more than 1 MiB was decoded.
    """

    max_decoded: int | None = None
    max_ratio: float = 100.0

    def check(self, taken: int, given: int) -> None:
        """Raise DecodingFault if `taken` bytes of the wire may not become `given`."""
        if self.max_decoded is not None and given > self.max_decoded:
            raise DecodingFault(
                f"the body is larger than max_decoded={self.max_decoded} bytes once decoded",
                "max_decoded",
            )
        if given > RATIO_FROM and given > self.max_ratio * taken:
            raise DecodingFault(
                f"{taken} bytes became {given} so far: over max_ratio={self.max_ratio:g} times",
                "max_ratio",
            )


_NO_LIMIT = Limit()


class _Stage:
    """One coding. `taken` and `given` count the bytes in and out."""

    __slots__ = ("_engine", "_gzip", "_head", "_over", "_streams", "given", "taken")

    def __init__(self, *, gzip: bool) -> None:
        self._gzip = gzip
        self._engine: zlib._Decompress | None = None  # of the stream that is being read
        self._head = b""  # bytes of which it is not known yet what they begin
        self._streams = 0  # that ended as they should
        self._over = False  # nothing of interest follows
        self.taken = 0
        self.given = 0

    def feed(self, data: bytes) -> Generator[bytes]:
        """Give what `data` decodes to, in pieces."""
        for start in range(0, len(data), _PART):
            if self._over:
                self.taken += len(data) - start
                return
            yield from self._part(data[start : start + _PART])

    def _part(self, data: bytes) -> Generator[bytes]:
        full = False  # zlib may hold more of what it has taken
        while data or full:
            engine = self._engine
            if engine is None:
                self.taken += len(data)
                data = self._begin(data)
                self.taken -= len(data)
                continue
            before = len(data)
            try:
                piece = engine.decompress(data, PIECE)
            except zlib.error as error:
                raise DecodingFault(f"the body is damaged: {error}", "corrupt") from error
            data = engine.unconsumed_tail
            full = len(piece) == PIECE
            if engine.eof:
                data = engine.unused_data
                self._engine = None
                self._streams += 1
                full = False
            self.taken += before - len(data)
            if piece:
                self.given += len(piece)
                yield piece

    def _begin(self, data: bytes) -> bytes:
        """Find out what begins with `data`; return what of it is to be decoded."""
        head = self._head + data
        self._head = b""
        if self._streams:
            # Only gzip may go on: with another member, after padding or not.
            head = head.lstrip(b"\0") if self._gzip else b""
            if head == _MAGIC[:1]:
                self._head = head
                return b""
            if head[:2] != _MAGIC:
                self._over = bool(head) or not self._gzip
                return b""
        elif not self._gzip and len(head) < 2:
            self._head = head
            return b""
        self._engine = zlib.decompressobj(_GZIP if self._gzip else _deflate_form(head))
        return head

    def end(self, *, empty: bool) -> None:
        """Raise DecodingFault unless all that came was whole."""
        if self._engine is None and not self._head and (self._streams or empty):
            return
        raise DecodingFault(
            f"the body ended inside its compressed data, after {self.given} decoded bytes",
            "truncated",
        )


def _deflate_form(head: bytes) -> int:
    """Tell zlib's form from the raw one by the header that RFC 1950 defines.

    A raw stream that looks like it would begin with a stored block whose padding bits are not
    zero; no encoder is known to write that.
    """
    is_zlib = head[0] & 15 == 8 and head[0] >> 4 <= 7 and (head[0] << 8 | head[1]) % 31 == 0
    return _ZLIB if is_zlib else _RAW


class Decoder:
    """The codings of one body, in the order in which they are to be undone."""

    __slots__ = ("_first", "_limit", "_second")

    def __init__(self, names: Iterable[str], limit: Limit = _NO_LIMIT) -> None:
        first, *more = [_Stage(gzip=name in _GZIP_NAMES) for name in names]
        self._first = first
        self._second = more[0] if more else None
        self._limit = limit

    def feed(self, data: bytes) -> Generator[bytes]:
        """Give what `data` decodes to, in pieces of at most 64 KiB; read it to its end.

        Raises DecodingFault if the data are damaged or become too many.
        """
        first, second, check = self._first, self._second, self._limit.check
        for piece in first.feed(data):
            check(first.taken, first.given)
            if second is None:
                yield piece
                continue
            for inner in second.feed(piece):
                check(first.taken, second.given)
                yield inner

    def end(self, *, empty: bool = True) -> None:
        """Take the end of the body; DecodingFault, which is `truncated`, if it came too early.

        empty: whether no byte at all is a body. It is one if the answer said so (its length
        was stated, or it was chunked); if the end of the connection is the end of the body,
        no byte at all is a cut, because an empty body takes 20 bytes as gzip.
        """
        self._first.end(empty=empty)
        if self._second is not None:
            self._second.end(empty=empty and not self._first.given)

    def whole(self, data: bytes, *, empty: bool = True) -> bytes:
        """Return what a body that has arrived as a whole decodes to."""
        body = b"".join(self.feed(data))
        self.end(empty=empty)
        return body


def decoder_for(content_encoding: str, *, limit: Limit = _NO_LIMIT) -> Decoder | None:
    """Return the decoder for the value of a Content-Encoding field.

    None if there is nothing to decode, or a coding that is not ours (br, zstd): then the
    field and the body are the library's business. Raises DecodingFault for more than two
    codings, which no server has a reason to send.
    """
    names = [name for part in content_encoding.lower().split(",") if (name := part.strip())]
    codings = [name for name in names if name != "identity"]
    if not codings or not _KNOWN.issuperset(codings):
        return None
    if len(codings) > MAX_CODINGS:
        raise DecodingFault(
            f"the body has {len(codings)} codings; at most {MAX_CODINGS} are undone", "codings"
        )
    return Decoder(reversed(codings), limit)


def decoded(pieces: Iterable[bytes], decoder: Decoder, *, empty: bool = True) -> Generator[bytes]:
    """Give the pieces of a body decoded; DecodingFault as `Decoder.feed` and `Decoder.end`."""
    for piece in pieces:
        yield from decoder.feed(piece)
    decoder.end(empty=empty)


async def adecoded(
    pieces: AsyncIterable[bytes], decoder: Decoder, *, empty: bool = True
) -> AsyncGenerator[bytes]:
    """Do what `decoded` does with an asynchronous iterable."""
    async for piece in pieces:
        for inner in decoder.feed(piece):
            yield inner
    decoder.end(empty=empty)
