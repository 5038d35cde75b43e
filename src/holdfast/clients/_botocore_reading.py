"""Bodies that are read at once, and what botocore calls the errors of reading."""

from __future__ import annotations

import io
import zlib
from typing import TYPE_CHECKING, Any

from botocore.exceptions import (  # type: ignore[import-untyped]  # it has no types
    ChecksumError,
    ConnectionClosedError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from urllib3.exceptions import ProtocolError
from urllib3.exceptions import ReadTimeoutError as ReadTimedOut

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE = 64 << 10
"""Bytes that are asked of a connection at once. What a failing read had got is lost with it,
so a read of megabytes over a line that drops every megabyte would never come to an end."""


class Whole(io.BytesIO):
    """A body that was read already, in the place of its urllib3 response."""

    def __init__(self, data: bytes, raw: Any) -> None:
        super().__init__(data)
        self._raw = raw

    # `StreamingBody.set_socket_timeout` goes this way to the socket; nothing comes from there.
    _fp = fp = raw = _sock = property(lambda self: self)

    def settimeout(self, timeout: float | None) -> None:
        """Do nothing."""

    def stream(self, amt: int = PIECE, **_: Any) -> Iterator[bytes]:
        """Give the body in pieces."""
        while piece := self.read(amt):
            yield piece

    def __getattr__(self, name: str) -> Any:
        """Return what else a urllib3 response has: headers, status, ..."""
        if name == "_raw":
            raise AttributeError(name)
        return getattr(self._raw, name)


def whole(raw: Any, length: int, url: str) -> Whole:
    """Read all of `raw` and return it as a response whose body cannot fail any more."""
    try:
        data = raw.read(decode_content=False)
    except Exception as error:
        failure = of_reading(error, url)
        if failure is error:
            raise
        raise failure from error
    if len(data) != length:
        raise IncompleteReadError(actual_bytes=len(data), expected_bytes=length)
    return Whole(data, raw)


def content(raw: Any, url: str) -> bytes:
    """Read all of an error's body; raise what botocore raises where it expects that this fails."""
    try:
        return b"".join(raw.stream(PIECE, decode_content=False))
    except Exception as error:
        failure = of_reading(error, url, streaming=False)
        if failure is error:
            raise
        raise failure from error


def check_crc32(response: Any) -> None:
    """Raise ChecksumError if an answer of DynamoDB is not what its checksum says.

    botocore's own check is a part of the retry handlers that are taken away.
    """
    stated = str(response.headers.get("x-amz-crc32", ""))
    if stated.isdigit() and int(stated) != (found := zlib.crc32(response.content)):
        raise ChecksumError(
            checksum_type="crc32", expected_checksum=int(stated), actual_checksum=found
        )


def of_reading(error: Exception, url: str = "", *, streaming: bool = True) -> Exception:
    """Return botocore's error for one of urllib3's."""
    if isinstance(error, ReadTimedOut):
        late = ReadTimeoutError(endpoint_url=url, error=error)
        late.url = url  # StreamingBody asks for it, and botocore's own error has none
        return late  # type: ignore[no-any-return]  # botocore has no types
    if isinstance(error, ProtocolError):
        if streaming:
            return ResponseStreamingError(error=error)  # type: ignore[no-any-return]  # as above
        return ConnectionClosedError(error=error, endpoint_url=url)  # type: ignore[no-any-return]  # as above
    return error
