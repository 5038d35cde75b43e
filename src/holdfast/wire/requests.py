"""What a client sent, read strictly: heads by httptools, chunked bodies by `strict`.

Two parsers that disagree about where a request ends let a client hide one request in another
("request smuggling"), so whatever RFC 9112 leaves open is refused here. llhttp, in httptools,
rejects most of it: a length beside a transfer coding, repeated or signed lengths, bare line
feeds, folded lines, spaces before a colon, control characters. What it accepts and we refuse:

    a transfer coding other than `chunked` alone, or in HTTP/1.0
    no Host, several, or one that is no authority (HTTP/1.0 may leave it out)
    HTTP/0.9, HTTP/2.0 and what lies between; RTSP and ICE
    two spaces after the method, a `#` in the target, an authority that contradicts Host
    heads, targets, chunk extensions and trailers of any size

Limits are counted before the parser sees anything. However a head is cut into pieces, the verdict
is the same; only it may come sooner: a first line that is none and a bare line feed are refused
when they are there, not when the head ends, because such a head may never end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

import httptools

from holdfast.wire.strict import BadMessage

MAX_FIELDS = 100
MAX_TARGET = 16 * 1024

# llhttp knows no method that is longer, or that has other letters.
_LINE = re.compile(
    rb"(?P<method>[A-Z-]{1,32}) (?P<target>[^\x00-\x20#\x7f]+)"
    rb" HTTP/(?P<version>[0-9]\.[0-9])\r\n"
)
_BEGINNING = re.compile(rb"[A-Z-]{1,32}(?: |\Z)|\r\Z")
_LONG_TARGET = re.compile(rb"[A-Z-]{1,32} [^ \r\n]{%d}" % (MAX_TARGET + 1))
_BARE = re.compile(rb"(?<!\r)\n|\r(?=[^\n])")
# An authority (RFC 3986, 3.2.2) without userinfo: a name, an IPv4 address or [IPv6], a port.
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?\Z")
_ABSOLUTE = re.compile(rb"(?i:https?)://(?P<authority>[^/?]*)(?P<rest>.*)\Z", re.DOTALL)
Expect = Literal["", "100-continue", "other"]


@dataclass(slots=True)
class RequestHead:
    """The head of a request.

    target: in origin form (`/path?query`), or `*`; an absolute form is reduced to it.
    minor: of the HTTP version, 0 or 1.  fields: as they were sent, in order, duplicates too.
    host: of the Host field, or of the absolute form; empty only in HTTP/1.0.
    length: of the body in bytes; None for a chunked one.
    keeps_alive: the client wants to go on on this connection.  upgrade: the protocols asked for.
    options: what its Connection fields name, in lower case.
    origin: of the Origin field; None without one, and `null` if there are several.
    """

    method: bytes
    target: bytes
    minor: int
    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    host: bytes = b""
    length: int | None = 0
    keeps_alive: bool = True
    expect: Expect = ""
    upgrade: bytes = b""
    options: frozenset[bytes] = frozenset()
    origin: bytes | None = None


def parse_head(raw: bytes) -> RequestHead:
    """Read a head, from its first byte to its empty line. Raises BadMessage."""
    line = _first_line(raw)
    if raw.count(b"\n", line.end()) - 1 > MAX_FIELDS:
        _refuse_bare(raw, 0, len(raw))
        raise BadMessage(431, f"more than {MAX_FIELDS} header fields")
    reader = _Reader()
    parser = httptools.HttpRequestParser(reader)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # what follows is judged by us
    except httptools.HttpParserError:
        raise BadMessage(400, "the head is malformed") from None
    if not reader.complete:
        raise BadMessage(400, "the head is malformed")
    minor = line["version"] == b"1.1"
    head = RequestHead(line["method"], line["target"], minor, reader.fields)
    _Judge(head).judge()
    return head


def _first_line(raw: bytes | bytearray) -> re.Match[bytes]:
    line = _LINE.match(raw)
    if line is None:
        raise BadMessage(400, "the request line is malformed")
    if line["version"] not in {b"1.1", b"1.0"}:
        raise BadMessage(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
    if len(line["target"]) > MAX_TARGET:
        raise BadMessage(414, f"the target has more than {MAX_TARGET} bytes")
    return line


def _refuse_bare(data: bytes | bytearray, start: int, end: int) -> None:
    if _BARE.search(data, start, end):
        raise BadMessage(400, "a line of the head does not end with CR LF")


class _Reader:
    """What httptools calls."""

    __slots__ = ("complete", "fields")

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def on_headers_complete(self) -> None:
        self.complete = True


class _Judge:
    """Reads from the fields what the framing and the connection need, or refuses."""

    def __init__(self, head: RequestHead) -> None:
        self.head = head
        self.hosts: list[bytes] = []
        self.lengths = 0
        self.codings: list[bytes] = []
        self.options: set[bytes] = set()

    def judge(self) -> None:
        head = self.head
        for name, value in head.fields:
            note = _NOTES.get(name.lower())
            if note is not None:
                note(self, value.strip(b" \t"))
        self._frame()
        self._place()
        if self.options:
            head.options = frozenset(self.options)
        # In HTTP/1.0 it would be for us to say that we agree; we close, as is usual there.
        head.keeps_alive = bool(head.minor) and b"close" not in self.options
        if b"upgrade" not in self.options:
            head.upgrade = b""

    def _frame(self) -> None:
        head = self.head
        if self.lengths > 1:
            raise BadMessage(400, "more than one length")
        if not self.codings:
            return
        if self.lengths:
            raise BadMessage(400, "a length beside a transfer coding")
        if self.codings != [b"chunked"]:
            raise BadMessage(400, "a transfer coding other than `chunked`")
        if not head.minor:
            raise BadMessage(400, "a transfer coding in HTTP/1.0")
        head.length = None

    def _place(self) -> None:
        head = self.head
        if len(self.hosts) > 1 or (not self.hosts and head.minor):
            raise BadMessage(400, "there must be one Host field")
        host = self.hosts[0] if self.hosts else b""
        if self.hosts and not (_HOST.match(host) or (not host and head.target != b"*")):
            raise BadMessage(400, "the Host field is malformed")
        head.host = host
        if head.target.startswith(b"/") or head.method == b"CONNECT":
            return
        if head.target == b"*" and head.method == b"OPTIONS":
            return
        absolute = _ABSOLUTE.match(head.target)
        if absolute is None:
            raise BadMessage(400, "the target is malformed")
        authority = absolute["authority"]
        if not _HOST.match(authority):
            raise BadMessage(400, "the target is malformed")
        if self.hosts and authority.lower() != host.lower():
            raise BadMessage(400, "the target contradicts the Host field")
        rest = absolute["rest"]
        head.host = authority
        if not rest and head.method == b"OPTIONS":
            head.target = b"*"  # RFC 9112, 3.2.4
        else:
            head.target = rest if rest.startswith(b"/") else b"/" + rest

    def note_length(self, value: bytes) -> None:
        # llhttp has refused all but one field of digits; the number may still be any.
        self.lengths += 1
        if not value.isdigit() or len(value) > 18:
            raise BadMessage(400, "the length is malformed")
        self.head.length = int(value)

    def note_coding(self, value: bytes) -> None:
        self.codings += [coding.strip(b" \t").lower() for coding in value.split(b",")]

    def note_host(self, value: bytes) -> None:
        self.hosts.append(value)

    def note_connection(self, value: bytes) -> None:
        self.options |= {option.strip(b" \t").lower() for option in value.split(b",")}

    def note_expect(self, value: bytes) -> None:
        same = self.head.expect != "other" and value.lower() == b"100-continue"
        self.head.expect = "100-continue" if same else "other"

    def note_upgrade(self, value: bytes) -> None:
        upgrade = self.head.upgrade
        self.head.upgrade = b"%b, %b" % (upgrade, value.lower()) if upgrade else value.lower()

    def note_origin(self, value: bytes) -> None:
        self.head.origin = value if self.head.origin is None else b"null"


_NOTES = {
    b"content-length": _Judge.note_length,
    b"transfer-encoding": _Judge.note_coding,
    b"host": _Judge.note_host,
    b"connection": _Judge.note_connection,
    b"expect": _Judge.note_expect,
    b"upgrade": _Judge.note_upgrade,
    b"origin": _Judge.note_origin,
}


class Heads:
    """Takes heads off what a connection has brought. Each byte is looked at once.

    limit: bytes that a head may have.
    """

    __slots__ = ("_blank", "_line", "_seen", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._seen = 0  # bytes that hold no end of a head
        self._line = False  # the first line is there, and is one
        self._blank = False  # an empty line was passed over

    def take(self, ahead: bytearray) -> bytes | None:
        """Return the next head, and delete it from `ahead`; None if it has not come whole.

        One empty line before it is passed over: some clients send one too many (RFC 9112, 2.2).
        Raises BadMessage for what can become no head.
        """
        if ahead.startswith(b"\r\n") and not self._blank:
            del ahead[:2]
            self._blank, self._seen = True, 0
        end = ahead.find(b"\r\n\r\n", max(0, self._seen - 3)) + 4
        if not 4 <= end <= self.limit:
            self._look(ahead, is_long=end >= 4 or len(ahead) > self.limit)
            return None
        raw = bytes(ahead[:end])
        del ahead[:end]
        self._seen, self._line, self._blank = 0, False, False
        return raw

    def _look(self, ahead: bytearray, *, is_long: bool) -> None:
        """Look at what has come of a head that is not whole, or too long."""
        stop = min(len(ahead), self.limit + 1)
        if not self._line and ahead.find(b"\n", self._seen, stop) >= 0:
            _first_line(ahead)
            self._line = True
        if not self._line and ahead and not _BEGINNING.match(ahead, 0, stop):
            raise BadMessage(400, "the request line is malformed")
        _refuse_bare(ahead, max(0, self._seen - 1), stop)
        if is_long and not self._line and _LONG_TARGET.match(ahead):
            raise BadMessage(414, f"the target has more than {MAX_TARGET} bytes")
        if is_long:
            raise BadMessage(431, f"the head has more than {self.limit} bytes")
        self._seen = stop
