"""A whole answer at a glance: what nearly all answers of an API are, read line by line.

A server says mostly the same in its heads: of ten lines eight were there the time before. So a
line is read once, by the rules of `responses`, and what it means is looked up by its bytes from
then on. That takes a fifth of the time that reading the head takes.

What is seen here is an answer that came in one piece: HTTP/1.1, a status from 200 to 299 with
one length, on a connection that goes on. Anything else, and anything that is wrong, is for
`responses` to read and to refuse: then there is None, and nothing was taken.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from holdfast.wire.onward import HOP, goes_on
from holdfast.wire.responses import FIELD, LENGTH, MAX_HEAD, READ, TEXT

if TYPE_CHECKING:
    from collections.abc import Callable

KNOWN_MOST = 1024
"""Lines that are remembered; then all are forgotten, since most were dates and ids."""
LINE_MOST = 512
"""Bytes of a line that is remembered."""

_START = re.compile(rb"HTTP/1\.1 (2[0-9]{2})(?: %b)?\Z" % TEXT)
_FIELD = re.compile(FIELD + rb"\Z")
_BODYLESS = frozenset({b"204", b"205"})
# What is read, dropped or written anew; but for what a glance makes out itself.
_ODD_NAMES = (READ | HOP | {b"via"}) - {b"connection", b"keep-alive", b"content-type"}
_JSON = b"application/json"
_PASSING = re.compile(rb".*(?:stream|ndjson|jsonl|json-seq)")


class _Length(NamedTuple):
    """The line says how long the body is."""

    value: int


class _Type(NamedTuple):
    """The line says what the body is."""

    line: bytes
    is_json: bool


class _Odd(NamedTuple):
    """The line says something that is not seen at a glance."""


_Note = bytes | _Length | _Type | _Odd
_ODD: Final = _Odd()


class Whole(NamedTuple):
    """A whole answer. lines: its first line, then the fields that go on; each with its end.

    at: where the body begins.  is_json: it says that the body is JSON.
    """

    status: int
    lines: list[bytes]
    at: int
    is_json: bool


_whole: Callable[[tuple[int, list[bytes], int, bool]], Whole] = partial(tuple.__new__, Whole)
"""Makes one at a quarter of the price."""


class Glance:
    """Looks at answers, and remembers lines."""

    __slots__ = ("_known", "_starts")

    def __init__(self) -> None:
        self._known: dict[bytes, _Note] = {}
        self._starts: dict[bytes, tuple[int, bytes]] = {}

    @property
    def known(self) -> int:
        """How many lines are remembered."""
        return len(self._known)

    def look(self, data: bytes) -> Whole | None:
        """Return the answer that `data` is, if it is one, whole, and nothing else."""
        end = data.find(b"\r\n\r\n")
        if not 0 <= end <= MAX_HEAD - 4:
            return None
        fields = data[:end].split(b"\r\n")
        start = self._starts.get(fields[0]) or self._begin(fields[0])
        if start is None:
            return None
        lines = [start[1]]
        known, length = self._known, -1
        is_json: bool | None = None
        del fields[0]
        for field in fields:
            note = known.get(field)
            if note is None:
                note = self._learn(field)
            if isinstance(note, bytes):
                lines.append(note)
            elif isinstance(note, _Length) and length < 0:
                length = note.value
            elif isinstance(note, _Type) and is_json is None:
                is_json = note.is_json
                lines.append(note.line)
            else:
                return None
        at = end + 4
        if len(data) != at + length or length < 0:
            return None
        return _whole((start[0], lines, at, bool(is_json)))

    def _begin(self, line: bytes) -> tuple[int, bytes] | None:
        found = _START.match(line)
        if found is None or found[1] in _BODYLESS:
            return None
        if len(self._starts) >= KNOWN_MOST:
            self._starts.clear()
        made = int(found[1]), b"HTTP/1.1 %b %b\r\n" % (found[1], found[2] or b"")
        self._starts[line] = made
        return made

    def _learn(self, line: bytes) -> _Note:
        note = _read(line)
        if len(line) <= LINE_MOST:
            if len(self._known) >= KNOWN_MOST:
                self._known.clear()
            self._known[line] = note
        return note


def _read(line: bytes) -> _Note:
    """Return what a line means: how it goes on, with its end; nothing if it does not."""
    found = _FIELD.match(line)
    if found is None:
        return _ODD
    name, value = found[1].lower(), found[2].rstrip(b" \t")
    out = b"%b: %b\r\n" % (found[1], value)
    if name == b"content-type":
        return _typed(out, value.partition(b";")[0].strip(b" \t").lower())
    if name == b"content-length" and LENGTH.match(value):
        return _Length(int(value))
    if name in _ODD_NAMES or (name == b"connection" and value.lower() != b"keep-alive"):
        return _ODD
    return out if goes_on(name) else b""


def _typed(out: bytes, media: bytes) -> _Note:
    if _PASSING.match(media):
        return _ODD
    return _Type(out, media == _JSON)
