"""HTTP/1.1 messages of the fault server: requests in, answers out. Pure.

Small on purpose: a test server must read what real clients send and must be able to say
what no proper server would say. It is no parser for hostile input from the open net.
"""

from __future__ import annotations

import http
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import parse_qsl, unquote

from holdfast.chaos.line import Plain, Source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.chaos.line import Track

MAX_HEAD: Final = 64 * 1024
MAX_BODY: Final = 16 * 1024 * 1024
Framing = Literal["length", "chunked", "close"]
_REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) (\S+) HTTP/1\.([01])")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*")
_NO_BODY: Final = frozenset({204, 304})


class BadRequest(Exception):
    """The request cannot be read. status: what to answer."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(slots=True)
class Request:
    """A request, read to its end.

    target: as sent.  path: decoded, without the query.  headers: names in lower case; of
    repeated fields the values are joined with a comma.  number: from 1, over the whole server;
    connection: from 1.  node: which of several servers is being played (see `NodeEtag`).
    """

    method: str
    target: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    minor: int = 1
    number: int = 0
    connection: int = 0
    node: int = 0

    @property
    def path(self) -> str:
        """The path, percent-decoded."""
        return unquote(self.target.partition("?")[0])

    @property
    def query(self) -> dict[str, str]:
        """The query parameters; of repeated ones the last."""
        return dict(parse_qsl(self.target.partition("?")[2], keep_blank_values=True))

    @property
    def keeps_alive(self) -> bool:
        """Whether the client wants the connection to stay open."""
        wish = self.headers.get("connection", "").lower()
        return "keep-alive" in wish if self.minor == 0 else "close" not in wish


def parse_head(head: bytes) -> Request:
    """Return the request of `head`, the bytes before the empty line. Raises BadRequest."""
    first, *lines = head.split(b"\r\n")
    matched = _REQUEST_LINE.fullmatch(first)
    if matched is None:
        raise BadRequest(400, "bad request line")
    headers: dict[str, str] = {}
    for line in lines:
        found = _FIELD.fullmatch(line)
        if found is None:
            raise BadRequest(400, "bad header field")
        name, value = found[1].decode("ascii").lower(), found[2].decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    target = matched[2].decode("latin-1")
    if "://" in target:  # absolute form, as sent to proxies
        target = "/" + target.split("://", 1)[1].partition("/")[2]
    return Request(matched[1].decode("ascii"), target, headers, minor=int(matched[3]))


@dataclass(slots=True)
class Answer:
    """An answer, and the ways in which it may be wrong.

    body: where its bytes come from; start, stop: which of them (stop None: to the end).
    framing: how its end is told: Content-Length, chunked, or the end of the connection.
    length: Content-Length if it is to differ from the truth.
    interim: complete 1xx heads to send before.  surplus: bytes sent after the body.
    close: the connection ends after it.  close_idle: it ends so many seconds after it, without
    having said so, unless another request came.
    tracks: shared byte counts along which faults wait (an object's, over all its answers).
    chunks: (length, seconds) of each chunk of the chunked framing, seconds to wait before it;
    empty: large ones, without waiting.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: Source = field(default_factory=lambda: Plain(b""))
    start: int = 0
    stop: int | None = None
    framing: Framing = "length"
    length: int | None = None
    interim: list[bytes] = field(default_factory=list)
    surplus: bytes = b""
    close: bool = False
    close_idle: float | None = None
    tracks: Sequence[Track] = ()
    chunks: Sequence[tuple[int, float]] = ()

    @property
    def end(self) -> int:
        """The index after the last byte of the body that is sent."""
        return len(self.body) if self.stop is None else self.stop

    @property
    def has_body(self) -> bool:
        """Whether this status may have a body."""
        return self.status not in _NO_BODY and self.status >= 200

    def head(self) -> bytes:
        """Return the bytes up to and with the empty line."""
        fields = dict(self.headers)
        if self.framing == "chunked":
            fields["Transfer-Encoding"] = "chunked"
        elif self.framing == "length" and self.has_body:
            length = self.end - self.start if self.length is None else self.length
            fields["Content-Length"] = str(length)
        if self.close:
            fields["Connection"] = "close"
        lines = [f"HTTP/1.1 {self.status} {reason(self.status)}"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def text_answer(status: int, text: str, kind: str = "text/plain; charset=utf-8") -> Answer:
    """Return an answer that carries `text`."""
    return Answer(status, {"Content-Type": kind}, Plain(text.encode()))


def reason(status: int) -> str:
    """Return the reason phrase of a status, or "Unknown"."""
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
