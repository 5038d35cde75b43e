"""Chunked bodies (RFC 9112, 7.1) that come in pieces of any size."""

from __future__ import annotations

from holdfast.wire.http1 import CHUNK_LINE, MAX_CHUNK_LINE, MAX_HEAD, ProtocolError


class Chunks:
    """Takes a chunked body apart. body: what it held so far.  is_over: its end has come."""

    def __init__(self) -> None:
        self.body = bytearray()
        self.is_over = False
        self._line = bytearray()  # of a length or a trailer, not whole yet
        self._left = 0  # of the chunk
        self._between = False  # a chunk has ended, and its line end is to come
        self._trailers = -1  # bytes of trailers so far; negative: not there yet

    def feed(self, data: memoryview) -> int:
        """Take the next bytes; return how many are left of them behind the end.

        Raises ProtocolError for what is no chunk. What came before it is in `body`.
        """
        at = 0
        while at < len(data) and not self.is_over:
            if self._left:
                piece = data[at : at + self._left]
                self.body += piece
                self._left -= len(piece)
                at += len(piece)
                self._between = not self._left
            else:
                at = self._feed_line(data, at)
        return len(data) - at

    def _feed_line(self, data: memoryview, at: int) -> int:
        line = self._line
        limit = 4 if self._between else MAX_CHUNK_LINE if self._trailers < 0 else MAX_HEAD
        # Lines are short and rare beside the data, so a byte at a time costs nothing.
        while at < len(data):
            line.append(data[at])
            at += 1
            if line.endswith(b"\n"):
                self._line = bytearray()
                self._take(bytes(line))
                break
            if len(line) >= limit:
                raise ProtocolError(f"a chunk line of more than {limit} bytes")
        return at

    def _take(self, line: bytes) -> None:
        if self._between:
            if line.rstrip(b"\r\n"):
                raise ProtocolError("a chunk longer than its length")
            self._between = False
        elif self._trailers >= 0:
            self._trailers += len(line)
            self.is_over = not line.rstrip(b"\r\n")  # nothing in trailers is used
            if self._trailers > MAX_HEAD:
                raise ProtocolError(f"trailers of more than {MAX_HEAD} bytes")
        else:
            size = CHUNK_LINE.match(line)
            if size is None:
                raise ProtocolError("no chunk length where one belongs")
            self._left = int(size[1], 16)
            if not self._left:
                self._trailers = 0
