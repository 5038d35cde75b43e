"""One HTTP/1.1 exchange on a blocking socket, read so that no received byte is lost.

This is not `http.client`, for three reasons that were met in tests: its `readinto` fills
the buffer with several `recv` calls and throws away what the earlier ones brought when the
last one fails; a head that is cut by a FIN is taken for a whole one; and 103 Early Hints
(RFC 8297) is taken for the answer. Over a link that breaks every few megabytes the first
costs up to a buffer per cut, and the second turns a cut into an empty file.
"""

from __future__ import annotations

import enum
import fcntl
import math
import re
import select
import socket
import struct
import termios
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from holdfast._version import __version__
from holdfast.runtime.clock import clock
from holdfast.wire.intake import intake
from holdfast.wire.strict import MAX_SIZE_LINE, MAX_TRAILERS, BadMessage, check_trailer, chunk_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.wire.intake import Intake
    from holdfast.wire.proxy import Proxy
    from holdfast.wire.urls import Url

USER_AGENT = f"holdfast/{__version__}"
# RFC 9110 sets no limit; nginx, Apache and curl stop between 8 KiB and 300 KiB.
MAX_HEAD = 64 * 1024
_WINDOW_CLAMP = getattr(socket, "TCP_WINDOW_CLAMP", None)
_LEAST_WINDOW = 64 * 1024
_INT = struct.Struct("i")
LULL = 0.25
"""Seconds after which what has come of a body is handed on, and silence is noticed, at most."""

_STATUS = re.compile(r"HTTP/1\.[0-9] ([1-9][0-9]{2})(?: [^\r\x00]*)?\Z")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_LENGTH = re.compile(r"[0-9]{1,18}\Z")
_FRAMING_FIELDS = {"content-length", "transfer-encoding"}


class ProtocolError(OSError):
    """The peer's bytes are no HTTP/1.1 answer. An OSError: the connection is of no use."""


class CutShort(OSError):
    """The connection ended in order (FIN), but before the answer did."""


class Framing(enum.StrEnum):
    """How the end of a body is known (RFC 9112, 6.3)."""

    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"


@dataclass(frozen=True, slots=True)
class Head:
    """The head of an answer.

    headers: lower-case name -> value; a repeated field is joined by `, `.
    length: of the body, if the framing tells it.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    framing: Framing = Framing.CLOSE
    length: int | None = None


def parse_head(data: bytes | bytearray) -> Head:
    """Read the head of an answer, up to and with its empty line. Raises ProtocolError.

    A line that is no field is passed over, as browsers do; not so where it could concern
    the framing, since a wrong length means wrong bytes.
    """
    text = data.decode("latin-1")
    lines = text.split("\n")
    status = _STATUS.match(lines[0].removesuffix("\r"))
    if status is None:
        raise ProtocolError(f"not an HTTP answer: {lines[0][:40]!r}")
    usual = text.count("\r") == len(lines) - 1 and "\x00" not in text
    headers = _usual_fields(lines) if usual else None
    return _framed(int(status[1]), _fields(lines) if headers is None else headers)


_NAMES: dict[str, str] = {}
"""Names of fields as they were sent, all of them tokens -> in lower case."""
_MOST_NAMES = 500


def _usual_fields(lines: list[str]) -> dict[str, str] | None:
    """Read fields that are as nearly all are: known names, once each. None: look closer.

    A quarter of the time of `_fields`, which matters with ten thousand answers a second.
    """
    if lines[-2:] != ["\r", ""]:
        return None
    headers: dict[str, str] = {}
    for line in lines[1:-2]:
        name, _, value = line.partition(":")
        known = _NAMES.get(name)
        if known is None or known in headers or value[-1:] != "\r":
            return None
        headers[known] = value[:-1].strip(" \t")
    return headers


def _fields(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    last = ""
    for raw in lines[1:]:
        line = raw.removesuffix("\r")
        if "\r" in line or "\x00" in line:
            raise ProtocolError("a CR or NUL inside a header")
        if line.startswith((" ", "\t")) and last:  # obs-fold (RFC 9112, 5.2)
            headers[last] += " " + line.strip()
            continue
        name, colon, value = line.partition(":")
        last = name.lower()
        if not colon or not _TOKEN.match(name):
            if last.strip() in _FRAMING_FIELDS:
                raise ProtocolError(f"a malformed `{last.strip()}`")
            last = ""
            continue
        if len(_NAMES) < _MOST_NAMES:
            _NAMES[name] = last
        value = value.strip(" \t")
        headers[last] = f"{headers[last]}, {value}" if last in headers else value
    return headers


def _framed(status: int, headers: dict[str, str]) -> Head:
    if status in {204, 304} or status < 200:
        return Head(status, headers, Framing.LENGTH, 0)
    coding = headers.get("transfer-encoding")
    if coding is not None:
        if coding.lower() != "chunked":
            raise ProtocolError(f"a transfer coding that was not asked for: {coding[:40]}")
        return Head(status, headers, Framing.CHUNKED)  # wins over a length (RFC 9112, 6.3)
    told = headers.get("content-length")
    if told is None:
        return Head(status, headers, Framing.CLOSE)
    if told.isdigit() and told.isascii() and len(told) <= 18:
        return Head(status, headers, Framing.LENGTH, int(told))
    lengths = {part.strip(" \t") for part in told.split(",")}
    length = lengths.pop()
    if lengths or not _LENGTH.match(length):
        raise ProtocolError(f"no usable length: {told[:40]!r}")
    return Head(status, headers, Framing.LENGTH, int(length))


def request_head(url: Url, headers: Mapping[str, str], *, proxy: Proxy | None = None) -> bytes:
    """Return the bytes of a GET. Raises ValueError for a header that could split the request.

    headers: added to ours, or in their place; an empty value leaves a field out.
    proxy: that is asked for it, in the absolute form (RFC 9112, 3.2.2); not for a tunnel.
    """
    fields = {
        "host": url.netloc,
        "user-agent": USER_AGENT,
        "accept": "*/*",
        # The bytes as they are: ranges, sizes and digests then all mean the same thing.
        "accept-encoding": "identity",
        "connection": "close",
        "authorization": url.authorization,
        "proxy-authorization": proxy.authorization if proxy else "",
    }
    for name, value in headers.items():
        if not _TOKEN.match(name) or re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value):
            raise ValueError(f"header `{name}`: a character that may not stand in a header")
        fields[name.lower()] = value
    lines = [f"{name.title()}: {value}" for name, value in fields.items() if value]
    target = url.full() if proxy else url.target
    return "\r\n".join([f"GET {target} HTTP/1.1", *lines, "", ""]).encode("latin-1", "replace")


class Response:
    """The answer on one connection: its head at once, its body piece by piece."""

    def __init__(self, sock: socket.socket, *, first_byte: float, idle: float) -> None:
        """Read the head.

        first_byte: seconds for the whole head, however slowly it drips.
        idle: seconds of silence after which reading the body gives up.
        Raises ProtocolError, CutShort, TimeoutError or another OSError.
        """
        self._sock = sock
        self._ahead = memoryview(b"")  # received, not yet read
        deadline = clock.monotonic() + first_byte
        while True:
            self.head = parse_head(self._receive_head(deadline))
            if self.head.status >= 200 or self.head.status == 101:
                break
        sock.settimeout(idle)
        self._left = self.head.length  # of the body or of the current chunk; None: unknown
        self._started = False  # a chunk was begun, so a CRLF comes before the next one
        self._ended = False
        # A whole number of lulls makes the time after which a body counts as dead.
        self.lull = idle / math.ceil(idle / LULL)
        self._intake: Intake | None = None
        self._error: OSError | None = None  # met by bytes that are returned before it

    def wait(self, seconds: float) -> bool:
        """Return whether something comes within `seconds`: data, an end or an error.

        Over TLS something may come that is no data; then `read_into` waits as usual.
        """
        pending = getattr(self._sock, "pending", None)  # of TLS: decrypted, not yet read
        if self._ended or self._ahead or (pending is not None and pending()):
            return True
        poller = select.poll()
        poller.register(self._sock, select.POLLIN)
        return bool(poller.poll(seconds * 1000))

    def expect(self, n: int) -> None:
        """Let the peer send about `n` more bytes at most, where the system can (Linux).

        For a body that will be cut off: what is on its way at that moment came in vain, and
        on a fast line that is megabytes. The window never needs to be larger than what is
        wanted, so this costs no speed.
        """
        if _WINDOW_CLAMP is not None:
            with suppress(OSError):
                # The window begins behind what has come and is not read yet.
                told = fcntl.ioctl(self._sock, termios.FIONREAD, bytes(_INT.size))
                more = n - len(self._ahead) - _INT.unpack(told)[0]
                # Below a segment the system offers nothing: right when all that is wanted is
                # here, else too little. A least window in both cases would be offered anew
                # with every read, and what waits unread would never become less.
                clamp = min(max(more, _LEAST_WINDOW), 1 << 30) if more > 0 else 1
                self._sock.setsockopt(socket.IPPROTO_TCP, _WINDOW_CLAMP, clamp)

    def fill(self, buffer: memoryview) -> int | None:
        """Read until `buffer` is full, the body ends, or `lull` seconds have passed.

        Return how many bytes came; 0 at the body's end; None if nothing came: only the caller
        knows how long is too long. Errors are those of `read_into`, and raised when all that
        came before them was returned. Not to be mixed with `read_into`.
        """
        error, self._error = self._error, None
        if error is not None:
            raise error
        if self.head.framing is Framing.CHUNKED:
            return self._gather(buffer)
        if self._ended or self._left == 0:
            self._ended = True
            return 0
        if self._left is not None:
            buffer = buffer[: self._left]
        n = self._receive(buffer) if self._ahead else None
        if n is None:
            n = self._take(buffer)
        elif n < len(buffer):
            try:
                n += self._take(buffer[n:]) or 0
            except OSError as error:
                self._error = error
        return None if n is None else self._count(n)

    def _take(self, buffer: memoryview) -> int | None:
        if self._intake is None:
            self._intake = intake(self._sock, self.lull)
        return self._intake.take(buffer)

    def _gather(self, buffer: memoryview) -> int | None:
        """Do as `fill` with many small reads."""
        n, until = 0, clock.monotonic() + self.lull
        while n < len(buffer) and self.wait(max(0.0, until - clock.monotonic())):
            try:
                more = self.read_into(buffer[n:])
            except OSError as error:
                if n == 0:
                    raise
                self._error = error
                break
            if more == 0:
                return n
            n += more
        return n or None

    def read_into(self, buffer: memoryview) -> int:
        """Read into `buffer`, with one `recv` for data at most; return 0 at the body's end.

        Raises CutShort if the connection ends before the body does, ProtocolError for a
        broken chunk, TimeoutError after `idle` seconds of silence, or another OSError. What
        earlier calls returned is never affected.
        """
        if self._ended:
            return 0
        if self.head.framing is Framing.CHUNKED and not self._left:
            self._next_chunk()
        if self._left == 0:
            self._ended = True
            return 0
        return self._count(self._receive(buffer if self._left is None else buffer[: self._left]))

    def _count(self, n: int) -> int:
        """Take note of `n` bytes of the body; 0: the connection has ended."""
        if self._left is not None:
            if n == 0:
                raise CutShort(f"the connection ended {self._left} bytes early")
            self._left -= n
        elif n == 0:
            self._ended = True
        return n

    def _next_chunk(self) -> None:
        if self._started and self._line(4) != b"\r\n":
            raise ProtocolError("a chunk longer than its length")
        line = self._line(MAX_SIZE_LINE)
        try:
            self._left = chunk_size(line)
            if self._left == 0:
                self._pass_trailers()
        except BadMessage as bad:
            raise ProtocolError(bad.reason) from None
        self._started = True

    def _pass_trailers(self) -> None:
        left = MAX_TRAILERS
        while not check_trailer(line := self._line(left)):
            left -= len(line)  # nothing in them is used

    def _receive(self, buffer: memoryview) -> int:
        if self._ahead:
            n = min(len(buffer), len(self._ahead))
            buffer[:n] = self._ahead[:n]
            self._ahead = self._ahead[n:]
            return n
        return self._sock.recv_into(buffer)

    def _line(self, limit: int) -> bytes:
        """Return one line with its end; only chunk lines and trailers, so speed is no matter."""
        line = bytearray()
        while not line.endswith(b"\n"):
            if len(line) >= limit:
                raise ProtocolError(f"a chunk line of more than {limit} bytes")
            if not self._ahead:
                self._ahead = memoryview(self._sock.recv(4096))
            if not self._ahead:
                raise CutShort("the connection ended between two chunks")
            line.append(self._ahead[0])
            self._ahead = self._ahead[1:]
        return bytes(line)

    def _receive_head(self, deadline: float) -> bytes:
        data = bytearray(self._ahead)
        self._ahead = memoryview(b"")
        while (end := head_end(data)) < 0:
            left = deadline - clock.monotonic()
            if left <= 0:
                raise TimeoutError("the head of the answer did not come in time")
            self._sock.settimeout(left)
            more = self._sock.recv(16 * 1024)
            if not more:
                where = "inside the head of the answer" if data else "before an answer came"
                raise CutShort(f"the connection ended {where}")
            data += more
        self._ahead = memoryview(bytes(data[end:]))
        return bytes(data[:end])


def head_end(data: bytearray, stop: int | None = None) -> int:
    """Return where the body starts, or -1; of `data` only what lies before `stop` is looked at.

    A bare LF ends a line too (RFC 9112, 2.2). Raises ProtocolError for a head that is too long,
    also if all of it is there: how the bytes came in pieces must make no difference.
    """
    end = len(data) if stop is None else stop
    at = data.find(b"\n\r\n", 0, end)
    bare = data.find(b"\n\n", 0, end if at < 0 else at + 1)
    found = bare + 2 if bare >= 0 else at + 3 if at >= 0 else -1
    if (end if found < 0 else found) > MAX_HEAD:
        raise ProtocolError(f"a head of more than {MAX_HEAD} bytes")
    return found


def keeps_open(data: bytearray, head: Head) -> bool:
    """Whether the connection may be asked again after this answer (RFC 9112, 9.3).

    data: begins with the head.
    """
    said = head.headers.get("connection", "").lower()
    return (
        data.startswith(b"HTTP/1.1")
        and "close" not in said
        and head.framing is not Framing.CLOSE
        and head.status != 101
    )
