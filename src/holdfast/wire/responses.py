"""What a server answers, read as far as a proxy needs it: the head, and where the body ends.

The body is not decoded. It is given out as it came, chunk framing and all, or as its content
where the caller wants to frame it anew. A parser that does not know the request cannot tell where
the answer to HEAD ends, and one that reads on beyond the end takes the next answer for content;
so an answer here belongs to its request, and says how many of the bytes are its own.

Refused, because two readers could take it for different things: a length beside a transfer
coding, lengths that differ or are no number, a coding other than `chunked`, a malformed chunk
length, a bare CR or LF in the head, a switch of protocols that nobody asked for. What is no HTTP,
and a bare LF, are refused when they come: the end of such a head would be waited for in vain.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.wire.strict import BadMessage, Chunks

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_HEAD = 64 * 1024
MAX_INTERIM = 16
"""Answers of 1xx that may come before the final one."""

TEXT = rb"([\t\x20-\x7e\x80-\xff]*)"
"""What may stand in a reason or in the value of a field: an expression with one group."""
FIELD = rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*" + TEXT
"""A field without its end: name and value."""
LENGTH = re.compile(rb"[0-9]{1,18}\Z")

_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: %b)?\r\n" % TEXT)
_FIELD = re.compile(FIELD + rb"\r\n")
_BARE = re.compile(rb"(?<!\r)\n")
_BEGINNING = b"HTTP/1."


@dataclass(slots=True)
class ResponseHead:
    """The head of an answer.

    fields: as they were sent, in order, without blanks around the values.
    length: of the body in bytes; None if it is chunked or ends with the connection.
    chunked: its framing.  persists: the connection can be used again afterwards.
    media_type: the Content-Type, in lower case and without parameters; empty without one.
    options: what its Connection fields name, in lower case.
    unbuffered: the server wants nobody to hold it back (`X-Accel-Buffering: no`).
    """

    status: int
    reason: bytes
    minor: int
    fields: list[tuple[bytes, bytes]]
    length: int | None = None
    chunked: bool = False
    persists: bool = True
    media_type: bytes = b""
    options: tuple[bytes, ...] = ()
    unbuffered: bool = False

    @property
    def ends_with_connection(self) -> bool:
        """Whether only the end of the connection ends the body."""
        return self.length is None and not self.chunked


def parse_head(raw: bytes, method: bytes) -> ResponseHead:
    """Read a head, from its first byte to its empty line. Raises BadMessage.

    method: of the request that it answers.
    """
    line = _LINE.match(raw)
    if line is None:
        raise BadMessage(502, "the status line is malformed")
    fields: list[tuple[bytes, bytes]] = []
    at, end = line.end(), len(raw) - 2
    while at < end:
        found = _FIELD.match(raw, at)
        if found is None:
            raise BadMessage(502, "a header field is malformed")
        fields.append((found[1], found[2].rstrip(b" \t")))
        at = found.end()
    head = ResponseHead(int(line[2]), line[3] or b"", int(line[1]), fields)
    _frame(head, method)
    return head


def _frame(head: ResponseHead, method: bytes) -> None:
    lists: tuple[list[bytes], list[bytes], list[bytes]] = ([], [], [])
    for name, value in head.fields:
        into = _LISTS.get(name.lower())
        if into is None:
            continue
        if into == _ACCEL:
            head.unbuffered = value.strip(b" \t").lower() == b"no"
        elif into == _TYPE:
            head.media_type = value.partition(b";")[0].strip(b" \t").lower()
        else:
            lists[into].extend([part.strip(b" \t") for part in value.lower().split(b",")])
    lengths, codings, options = lists
    head.options = tuple(options)
    _refuse(head, lengths, codings)
    head.persists = b"close" not in options and (bool(head.minor) or b"keep-alive" in options)
    if method == b"HEAD" or head.status in {204, 304} or head.status < 200:
        head.length = 0
    elif codings:
        head.chunked = True
    elif lengths:
        head.length = int(lengths[0])
    else:
        head.persists = False


def _refuse(head: ResponseHead, lengths: list[bytes], codings: list[bytes]) -> None:
    """Refuse what leaves open where the body ends. Raises BadMessage."""
    if codings and lengths:
        raise BadMessage(502, "a length beside a transfer coding")
    if len(set(lengths)) > 1 or not all(LENGTH.match(length) for length in lengths):
        raise BadMessage(502, "the length is malformed")
    if codings and codings != [b"chunked"]:
        raise BadMessage(502, "a transfer coding other than `chunked`")
    if codings and not head.minor:
        raise BadMessage(502, "a transfer coding in HTTP/1.0")


_TYPE, _ACCEL = -1, -2
_LISTS = {
    b"content-length": 0,
    b"transfer-encoding": 1,
    b"connection": 2,
    b"content-type": _TYPE,
    b"x-accel-buffering": _ACCEL,
}
READ = frozenset(_LISTS)
"""Names of the fields that mean something here, in lower case."""


class Answer:
    """One answer, as its bytes come.

    method: of its request.  raw: asked, when the head is there, whether a chunked body keeps its
    framing (see `strict.Chunks`); by default it does.
    head: None until it is whole; answers of 1xx before it are passed over.
    done: all of it has come.
    """

    __slots__ = ("_chunks", "_head", "_interim", "_left", "_method", "_raw", "done", "head")

    def __init__(
        self, method: bytes, *, raw: Callable[[ResponseHead], bool] = lambda _: True
    ) -> None:
        self.head: ResponseHead | None = None
        self.done = False
        self._method = method
        self._raw = raw
        self._head = bytearray()
        self._interim = 0
        self._left = 0
        self._chunks: Chunks | None = None

    @property
    def started(self) -> bool:
        """Whether at least one byte has come."""
        return self.head is not None or bool(self._head) or self._interim > 0

    @property
    def is_between_chunks(self) -> bool:
        """Whether the next byte begins a chunk, so that whole chunks need not be fed."""
        return self._chunks is not None and self._chunks.is_between

    def feed(self, data: bytes, out: list[bytes]) -> int:
        """Take from `data`; put the body's bytes into `out`; return how many were of this answer.

        What is left over after the end belongs to nothing that was asked for. Raises BadMessage.
        """
        at = 0
        while self.head is None and at < len(data):
            at = self._take_head(data, at)
        head = self.head
        if head is None or self.done:
            return at
        if self._chunks is not None:
            taken = self._chunks.feed(data[at:] if at else data, out)
            self.done = self._chunks.done
            return at + taken
        if head.length is None:
            if at < len(data):
                out.append(data[at:] if at else data)
            return len(data)
        piece = data[at : at + self._left] if at or len(data) > self._left else data
        if piece:
            out.append(piece)
            self._left -= len(piece)
        self.done = not self._left
        return at + len(piece)

    def _take_head(self, data: bytes, at: int) -> int:
        before = len(self._head)
        self._head += data[at:] if at else data
        end = self._head.find(b"\r\n\r\n", max(0, before - 3))
        if end < 0 or end + 4 > MAX_HEAD:
            if len(self._head) > MAX_HEAD:
                raise BadMessage(502, f"a head of more than {MAX_HEAD} bytes")
            if not self._head.startswith(_BEGINNING[: len(self._head)]):
                raise BadMessage(502, "the status line is malformed")
            if _BARE.search(self._head, before):
                raise BadMessage(502, "a line of the head does not end with CR LF")
            return len(data)
        raw = bytes(self._head[: end + 4])
        self._head.clear()
        head = parse_head(raw, self._method)
        at += end + 4 - before
        if head.status >= 200:
            self._begin(head)
        elif head.status == 101:
            raise BadMessage(502, "a switch of protocols that nobody asked for")
        else:
            self._interim += 1
            if self._interim > MAX_INTERIM:
                raise BadMessage(502, f"more than {MAX_INTERIM} interim answers")
        return at

    def _begin(self, head: ResponseHead) -> None:
        self.head = head
        if head.chunked:
            self._chunks = Chunks(raw=self._raw(head))
        elif head.length is not None:
            self._left = head.length
            self.done = not self._left

    def end(self) -> bool:
        """Take note that the connection has ended; return whether the answer is whole."""
        if self.head is not None and self.head.ends_with_connection:
            self.done = True
        return self.done
