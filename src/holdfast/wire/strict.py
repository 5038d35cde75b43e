"""The chunked coding, read strictly and without copying more than a line (RFC 9112, 7.1).

What is lenient here is where two parsers can disagree about the end of a message: a length in
another form, a bare line feed, a space before the end of a line, a quote that is not closed.
None of that is taken.
"""

from __future__ import annotations

import re

MAX_EXTENSION = 1024
MAX_TRAILERS = 8 * 1024

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*"'
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;%b(?:=(?:%b|%b))?)*\Z" % (_TOKEN, _TOKEN, _QUOTED))
_TRAILER = re.compile(rb"%b:[\t\x20-\x7e\x80-\xff]*\Z" % _TOKEN)


class BadMessage(Exception):
    """A request or an answer that is not passed on; its connection is of no use any more.

    status: of the answer to a client that sent it; of no meaning for an answer.
    reason: what is wrong, without anything that the peer sent.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.status, self.reason))


_SIZE, _DATA, _AFTER, _TRAILERS = range(4)
_LONGEST = {_SIZE: MAX_EXTENSION + 18, _AFTER: 2, _TRAILERS: MAX_TRAILERS}
"""Bytes of a line, its end included, in each state that reads lines."""


class Chunks:
    """Takes the framing off a chunked body.

    limit: bytes of content that the body may have.  content: bytes announced so far.
    raw: what is given out keeps its framing, but for the last chunk and what follows it.
    done: the last chunk and the trailers, which are dropped, have come.
    """

    __slots__ = ("_left", "_line", "_raw", "_state", "_trailers", "content", "done", "limit")

    def __init__(self, limit: int = 1 << 62, *, raw: bool = False) -> None:
        self.limit = limit
        self._raw = raw
        self.content = 0
        self.done = False
        self._left = 0  # of the chunk that is coming
        self._line = b""
        self._state = _SIZE
        self._trailers = 0

    def feed(self, data: bytes, out: list[bytes]) -> int:
        """Take from `data`; put content into `out`; return how many bytes were of this body.

        Raises BadMessage for anything that is not exactly the framing of RFC 9112, 7.1.
        """
        at = 0
        while at < len(data) and not self.done:
            if self._state == _DATA:
                piece = data[at : at + self._left]
                out.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._state = _AFTER
            else:
                at = self._take_line(data, at, out)
        return at

    def _take_line(self, data: bytes, at: int, out: list[bytes]) -> int:
        end = data.find(b"\n", at)
        line = self._line + (data[at:] if end < 0 else data[at : end + 1])
        if self._state == _AFTER and line != b"\r\n"[: len(line)]:
            raise BadMessage(400, "a chunk is longer than its length")
        if len(line) > _LONGEST[self._state]:
            raise BadMessage(400, "a chunk extension or a trailer is too long")
        if end < 0:
            self._line = line
            return len(data)
        self._line = b""
        if not line.endswith(b"\r\n"):
            raise BadMessage(400, "a line of the chunked body does not end with CR LF")
        if self._state == _SIZE:
            self._begin_chunk(line[:-2])
        elif self._state == _AFTER:
            self._state = _SIZE
        else:
            self._pass_trailer(line[:-2])
        if self._raw and self._state != _TRAILERS and not self.done:
            out.append(line)
        return end + 1

    def _begin_chunk(self, line: bytes) -> None:
        found = _CHUNK.match(line)
        if found is None:
            raise BadMessage(400, "a chunk length is malformed")
        self._left = int(found[1], 16)
        self.content += self._left
        if self.content > self.limit:
            raise BadMessage(413, f"the body has more than {self.limit} bytes")
        self._state = _DATA if self._left else _TRAILERS

    def _pass_trailer(self, line: bytes) -> None:
        self._trailers += len(line) + 2
        if self._trailers > MAX_TRAILERS:
            raise BadMessage(400, "the trailers are too long")
        if not line:
            self.done = True
        elif _TRAILER.match(line) is None:
            raise BadMessage(400, "a trailer is malformed")
