"""What the two httpx transports share: the library, request bodies, and bodies of answers.

`httpx` and `httpx2` have the same names and unrelated classes, and check with isinstance. So
the stream classes here are mix-ins, and `library()` makes a set of them per library.
"""

from __future__ import annotations

import functools
import json
import math
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from holdfast.clients._httpcore import AsyncBackend, Backend, OneOff, tell
from holdfast.clients._httpx_streams import (
    AsyncBegun,
    AsyncBody,
    AsyncHeld,
    Begun,
    Body,
    Decoding,
    Held,
)
from holdfast.clients.body import AsyncOnce, File, Once, is_seekable_file
from holdfast.clients.decoding import (
    ACCEPT_ENCODING,
    Limit,
    decoder_for,
)
from holdfast.clients.exchange import KEY_HEADER
from holdfast.core.tables.answers import provider_code

if TYPE_CHECKING:
    from types import ModuleType

    from holdfast.clients.body import Body as Source
    from holdfast.clients.decoding import Decoder, DecodingFault
    from holdfast.clients.options import Options

NAMES = ("httpx2", "httpx")

KEPT = 4 << 20
"""Decoded bytes of a body that are kept for its reader, if it was read inside the attempt."""

# What httpx asks for of itself if brotli or zstandard is installed. A user who wants one of
# them for a reason asks for it in other words ("br", "zstd, gzip") and is left alone.
AUTOMATIC = frozenset({b"gzip, deflate, br", b"gzip, deflate, zstd", b"gzip, deflate, br, zstd"})


# -- the library -------------------------------------------------------------------------


class Library:
    """One of the two libraries, and our stream classes for it."""

    def __init__(self, module: ModuleType) -> None:
        self.module: Any = module
        both = (module.SyncByteStream, module.AsyncByteStream)
        self.byte_stream = module.ByteStream
        self.body = type("Body", (Body, module.SyncByteStream), {})
        self.async_body = type("AsyncBody", (AsyncBody, module.AsyncByteStream), {})
        self.decoding = type("Decoding", (Decoding, *both), {})
        self.begun = type("Begun", (Begun, module.SyncByteStream), {})
        self.async_begun = type("AsyncBegun", (AsyncBegun, module.AsyncByteStream), {})
        self.held = type("Held", (Held, module.SyncByteStream), {})
        self.async_held = type("AsyncHeld", (AsyncHeld, module.AsyncByteStream), {})

    def fault(self, fault: DecodingFault, request: Any) -> Exception:
        """Return the library's error for a body that cannot be decoded."""
        # A body that ends too early is the connection's fault: another attempt may help.
        name = "RemoteProtocolError" if fault.truncated else "DecodingError"
        error: Exception = getattr(self.module, name)(str(fault), request=request)
        error.__cause__ = fault
        return error


@functools.cache
def library(cls: type) -> Library:
    """Return the library whose class `cls` is, or whose class it derives from."""
    for base in cls.__mro__:
        name = base.__module__.partition(".")[0]
        if name in NAMES:
            return by_name(name)
    raise TypeError(f"`{cls.__qualname__}` belongs to neither httpx2 nor httpx")


@functools.cache
def by_name(name: str) -> Library:
    """Return an imported library."""
    return Library(sys.modules[name])


class Line:
    """A transport of the library under ours, and what can be asked of it.

    fresh: sends a request on a connection that nobody has used; None if that cannot be had,
    because the transport is none of the library's own.
    """

    def __init__(self, lib: Library, inner: Any, *, is_async: bool) -> None:
        self.lib = lib
        self.inner = inner
        self.is_async = is_async
        method = "handle_async_request" if is_async else "handle_request"
        self.fresh = None
        module = lib.module
        own = module.AsyncHTTPTransport if is_async else module.HTTPTransport
        pool = getattr(inner, "_pool", None)
        if not isinstance(inner, own) or not hasattr(pool, "_network_backend"):
            return
        tell(pool, AsyncBackend if is_async else Backend)
        # A transport of the same class over other connections: its `handle` makes httpcore's
        # request of ours and the library's errors of httpcore's.
        twin = object.__new__(type(inner))
        twin.__dict__.update(inner.__dict__)
        twin._pool = OneOff(pool)
        self.fresh = getattr(twin, method)


def check_inner(inner: Any, *, is_async: bool) -> None:
    """Raise TypeError or ValueError for a transport that cannot be under ours."""
    method = "handle_async_request" if is_async else "handle_request"
    if not hasattr(inner, method):
        raise TypeError(f"`inner` must be a transport with `{method}`: {inner!r}")
    retries = getattr(getattr(inner, "_pool", None), "_retries", 0)
    if retries:
        raise ValueError(
            f"`inner` has retries={retries}: the policy does the retrying, so leave it at 0"
        )


# -- bodies of requests ------------------------------------------------------------------


def body_of(
    lib: Library, request: Any, options: Options, *, is_async: bool
) -> tuple[Any, Source | None]:
    """Return the stream to send for `request`, as often as asked, and whether that is possible.

    The library's own streams give a file or an iterator once, and then, silently, nothing.
    None stands for a body that can always be sent again.
    """
    stream = request.stream
    if isinstance(stream, lib.byte_stream):
        return stream, None
    known = getattr(stream, "_holdfast_body", None)
    if known is None:
        known = _wrapped(lib, stream, options, is_async=is_async)
        # For the next hop of a redirect, or the second request of an authentication: they
        # have the same stream, which stands somewhere else by then.
        with suppress(AttributeError):
            stream._holdfast_body = known
    wrapped, body = known
    if body is not None and not body.replayable:
        raise lib.module.StreamConsumed
    return wrapped, body


def _wrapped(
    lib: Library, stream: Any, options: Options, *, is_async: bool
) -> tuple[Any, Source | None]:
    fields = getattr(stream, "fields", None)
    if isinstance(fields, list):  # multipart: its files are rewound by the library, if they can be
        if all(_is_repeatable(getattr(field, "file", b"")) for field in fields):
            return stream, None
    else:
        source = getattr(stream, "_stream", None)
        if isinstance(source, list | tuple):
            return stream, None
        if is_seekable_file(source):
            file = File(source)
            return lib.body(file), file
    if is_async:
        aonce = AsyncOnce(stream, options.replay_buffer)
        return lib.async_body(aonce), aonce
    once = Once(stream, options.replay_buffer)
    return lib.body(once), once


def _is_repeatable(content: object) -> bool:
    return isinstance(content, str | bytes) or is_seekable_file(content)


# -- bodies of answers -------------------------------------------------------------------


class Plan:
    """What is to be done with the body of an answer, found from its head.

    take: bytes to read inside the attempt; infinite: all of it, 0: nothing.
    """

    __slots__ = ("_coding", "_limit", "_response", "decoder", "length", "take")

    def __init__(self, method: str, response: Any, options: Options) -> None:
        self._response = response
        status = response.status_code
        chunked, length, coding, kind = _described(response.headers.raw)
        self.length = None if chunked or length is None else _number(length)
        self.decoder: Decoder | None = None
        if method == "HEAD" or status in (204, 304) or self.length == 0:
            self.take = math.inf
            return
        if coding is not None:
            self._coding = coding.decode("latin-1")
            self._limit = Limit(options.max_decoded, options.max_ratio)
            self.decoder = self.new_decoder()
        self.take = 0.0
        events = kind is not None and kind.lower().startswith(b"text/event-stream")
        if events or status == 101 or method == "CONNECT":
            return
        if self.length is not None and self.length <= options.buffer:
            self.take = math.inf
        elif self.length is None and status >= 400:
            # An error's text, mostly short: the attempt's limit is over it, and its provider's
            # code can be read.
            self.take = options.buffer

    @property
    def stated(self) -> bool:
        """Whether the end of the body is told by more than the end of the connection."""
        response = self._response
        return (
            self.length is not None
            or "transfer-encoding" in response.headers
            or bool(response.http_version.startswith("HTTP/2"))
        )

    def new_decoder(self) -> Decoder | None:
        """Return a decoder for the body, None if it is not coded in a way that is ours."""
        return decoder_for(self._coding, limit=self._limit)

    def decoded(self, raw: bytes) -> tuple[bytes, int]:
        """Return the body and its size; of a large one only the beginning, the rest is checked.

        Whoever streams a body must not find 100 MiB of it in memory, because its 1 MiB was
        read ahead.
        """
        assert self.decoder is not None
        pieces, size = [], 0
        for piece in self.decoder.feed(raw):
            if size <= KEPT:
                pieces.append(piece)
            size += len(piece)
        self.decoder.end(empty=self.stated)
        return b"".join(pieces), size


def _described(
    raw: list[tuple[bytes, bytes]],
) -> tuple[bool, bytes | None, bytes | None, bytes | None]:
    """Return of a head: chunked, Content-Length, Content-Encoding and Content-Type.

    In one pass, because each look into the library's Headers goes through all of them.
    """
    chunked, length, coding, kind = False, None, None, None
    for name, value in raw:
        match name.lower():
            case b"content-length":
                length = value
            case b"content-type":
                kind = value
            case b"content-encoding":
                coding = value if coding is None else coding + b", " + value
            case b"transfer-encoding":
                chunked = True
    return chunked, length, coding, kind


def _number(text: bytes) -> int | None:
    return int(text) if text.isdigit() else None


def stated_length(headers: Any) -> int | None:
    """Return the value of Content-Length, None without a proper one."""
    text = headers.get("content-length")
    return None if text is None else _number(text.encode())


def undress(response: Any) -> None:
    """Remove the fields that describe a body which is decoded now, or httpx decodes it again."""
    for name in ("content-encoding", "content-length"):
        if name in response.headers:
            del response.headers[name]


def code_in(content: bytes, provider: str | None) -> str | None:
    """Return the provider's code in the text of an answer."""
    if provider is None or not content:
        return None
    try:
        return provider_code(provider, json.loads(content))
    except (ValueError, RecursionError):
        return None


class Asked:
    """The header fields of a request. keyed: it has an Idempotency-Key."""

    __slots__ = ("_automatic", "_headers", "keyed")

    def __init__(self, headers: Any) -> None:
        self._headers = headers
        self._automatic = self.keyed = False
        for name, value in headers.raw:  # in one pass, as above
            match name.lower():
                case b"accept-encoding":
                    self._automatic = value in AUTOMATIC
                case b"idempotency-key":
                    self.keyed = True

    def with_key(self, key: str | None) -> Any:
        """Return the fields to send, a copy only if there is a difference."""
        if key is None and not self._automatic:
            return self._headers
        headers = self._headers.copy()
        if key is not None:
            headers[KEY_HEADER] = key
        if self._automatic:
            headers["Accept-Encoding"] = ACCEPT_ENCODING
        return headers
