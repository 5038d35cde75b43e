"""The chunked coding, read strictly and without copying more than a line (RFC 9112, 7.1).

What is lenient elsewhere is where two parsers can disagree about the end of a message: a length
in another form, a bare line feed, a space before the end of a line, a quote that is not closed.
None of that is taken, neither from clients nor from servers, and neither by the gateway nor by
downloads: a body that two readers end at different places is a body of which one reader has the
wrong bytes.
"""

from __future__ import annotations

import re
from typing import TypeVar

MAX_EXTENSION = 1024
MAX_TRAILERS = 8 * 1024
MAX_SIZE_LINE = MAX_EXTENSION + 18
"""Bytes of a line that announces a chunk: 15 digits, its extension, `;`, CR LF."""

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*"'
_CHUNK = re.compile(
    rb"([0-9A-Fa-f]{1,15})(?:;%b(?:=(?:%b|%b))?)*\r\n\Z" % (_TOKEN, _TOKEN, _QUOTED)
)
_TRAILER = re.compile(rb"(?:%b:[\t\x20-\x7e\x80-\xff]*)?\r\n\Z" % _TOKEN)
# What stands between two chunks nearly always: an end, and a length without an extension.
_BETWEEN = re.compile(rb"\r\n([0-9A-Fa-f]{1,15})\r\n")
_GLANCE = 64  # bytes in which the end of a line is looked for first

_Buffer = TypeVar("_Buffer", bytes, memoryview)


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


def chunk_size(line: bytes | bytearray) -> int:
    """Return the length that a line, its CR LF included, announces. Raises BadMessage."""
    found = _CHUNK.match(line)
    if found is None:
        raise BadMessage(400, "a chunk length is malformed")
    return int(found[1], 16)


def check_trailer(line: bytes | bytearray) -> bool:
    """Return whether a line, its CR LF included, ends the trailers. Raises BadMessage."""
    if _TRAILER.match(line) is None:
        raise BadMessage(400, "a trailer is malformed")
    return len(line) == 2


_SIZE, _AFTER, _TRAILERS = range(3)
_LONGEST = {_SIZE: MAX_SIZE_LINE, _AFTER: 2, _TRAILERS: MAX_TRAILERS}
"""Bytes of a line, its end included, in each state."""


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
        self._line = bytearray()  # what has come of a line without its end
        self._state = _SIZE
        self._trailers = 0

    def feed(self, data: _Buffer, out: list[_Buffer]) -> int:
        """Take from `data`; put content into `out`; return how many bytes were of this body.

        What is put is slices of `data`: of a memoryview they are views, and nothing is copied.
        With `raw`, only bytes, and a line is only given out whole. Raises BadMessage for anything
        that is not exactly the framing of RFC 9112, 7.1; content before it is in `out`.
        """
        at, size, raw = 0, len(data), self._raw
        given = 0  # up to where the framing was given out; only with `raw`
        while at < size and not self.done:
            if self._left:
                piece = data[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._state = _AFTER
                if not raw:
                    out.append(piece)
                continue
            found = _BETWEEN.match(data, at) if self._state == _AFTER and not self._line else None
            length = int(found[1], 16) if found is not None else 0
            if found is not None and length:
                self._announce(length)
                at = found.end()
                continue
            line, begun, before = self._line, len(self._line), at
            at = self._take_line(data, at)
            if raw and (self._line or self._state == _TRAILERS):
                if given < before:
                    out.append(data[given:before])
                given = at  # of a line that is not whole, or of the end
            elif raw and begun:
                out.append(bytes(line[:begun]))  # type: ignore[arg-type]  # raw: `data` is bytes
        if raw and given < at:
            out.append(data[given:at])
        return at

    @property
    def is_between(self) -> bool:
        """Whether the next byte begins a chunk, or the last one."""
        return self._state == _SIZE and not (self._left or self._line)

    def _take_line(self, data: _Buffer, at: int) -> int:
        """Take one line, or what has come of it; return where that ends."""
        state, line = self._state, self._line
        part = bytes(data[at : at + _GLANCE])
        end = part.find(b"\n")
        if end < 0 and len(part) == _GLANCE:
            part = bytes(data[at : at + _LONGEST[state] + 1])
            end = part.find(b"\n")
        line += part if end < 0 else part[: end + 1]
        if state == _AFTER and line != b"\r\n"[: len(line)]:
            raise BadMessage(400, "a chunk is longer than its length")
        if len(line) > _LONGEST[state]:
            raise BadMessage(400, "a chunk extension or a trailer is too long")
        if end < 0:
            return at + len(part)
        if not line.endswith(b"\r\n"):
            raise BadMessage(400, "a line of the chunked body does not end with CR LF")
        self._line = bytearray()
        if state == _SIZE:
            self._announce(chunk_size(line))
        elif state == _AFTER:
            self._state = _SIZE
        else:
            self._pass_trailer(line)
        return at + end + 1

    def _announce(self, length: int) -> None:
        self._left = length
        self.content += length
        if self.content > self.limit:
            raise BadMessage(413, f"the body has more than {self.limit} bytes")
        self._state = _SIZE if length else _TRAILERS

    def _pass_trailer(self, line: bytearray) -> None:
        self._trailers += len(line)
        if self._trailers > MAX_TRAILERS:
            raise BadMessage(400, "the trailers are too long")
        self.done = check_trailer(line)
