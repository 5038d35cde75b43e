"""Twelve answers as raw bytes, and a server that breaks each of them at any byte.

The server speaks through the path: `/SHAPE/FAULT/K/TIMES/TOKEN` answers with the first K bytes
of SHAPE and then FAULT, for the first TIMES requests of TOKEN; later ones get it whole. So one
server serves a whole sweep, many requests at a time.

    rst    the connection is reset (SO_LINGER 0)
    fin    the connection is closed in an orderly way
    hole   nothing more ever comes, and the connection stays open
    none   the whole answer
"""

from __future__ import annotations

import gzip
import itertools
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scripted import Listening, answer, body_of, request_head, reset_at_close

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

BODY = b"The quick brown fox jumps over the lazy dog. " * 2


def head(status: str, *fields: str) -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", "Server: shapes", *fields, "", "")).encode()


def chunked(body: bytes, size: int = 40, *, extension: str = "", trailers: str = "") -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    chunks = [b"%x%s\r\n%s\r\n" % (len(one), extension.encode(), one) for one in pieces]
    return b"".join(chunks) + b"0\r\n" + trailers.encode() + b"\r\n"


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


PACKED = gzip.compress(BODY, mtime=0)


@dataclass(frozen=True)
class Shape:
    """One answer. enough: from so many bytes on it is whole, whatever follows."""

    name: str
    raw: bytes
    status: int = 200
    body: bytes = BODY
    method: str = "GET"
    closes: bool = False  # the end of the connection is the end of the body

    @property
    def enough(self) -> int:
        return len(self.raw)


SHAPES = (
    Shape("length", head("200 OK", f"Content-Length: {len(BODY)}") + BODY),
    Shape("empty", head("200 OK", "Content-Length: 0"), body=b""),
    Shape("chunked", head("200 OK", "Transfer-Encoding: chunked") + chunked(BODY)),
    Shape(
        "trailers",
        head("200 OK", "Transfer-Encoding: chunked", "Trailer: X-Sum")
        + chunked(BODY, extension=";name=value", trailers="X-Sum: 1234\r\n"),
    ),
    Shape(
        "gzip",
        head("200 OK", "Content-Encoding: gzip", f"Content-Length: {len(PACKED)}") + PACKED,
    ),
    Shape(
        "gzip_chunked",
        head("200 OK", "Content-Encoding: gzip", "Transfer-Encoding: chunked") + chunked(PACKED),
    ),
    Shape(
        "deflate_chunked",
        head("200 OK", "Content-Encoding: deflate", "Transfer-Encoding: chunked")
        + chunked(raw_deflate(BODY)),
    ),
    Shape(
        "gzip_close",  # without the encoding a cut could not be told from the end
        head("200 OK", "Content-Encoding: gzip", "Connection: close") + PACKED,
        closes=True,
    ),
    Shape("head", head("200 OK", "Content-Length: 90"), body=b"", method="HEAD"),
    Shape("no_content", head("204 No Content"), status=204, body=b""),
    Shape(
        "interim",
        head("103 Early Hints", "Link: </style.css>; rel=preload")
        + head("200 OK", f"Content-Length: {len(BODY)}")
        + BODY,
    ),
    Shape("redirect", head("302 Found", "Location: /length/none/0/0/TOKEN", "Content-Length: 0")),
)
"""The answer to `redirect` leads to a whole `length`, so its body is BODY in the end."""

FAULTS = ("rst", "fin", "hole")
_BY_NAME = {shape.name: shape for shape in SHAPES}


@dataclass
class Seen:
    """What the server saw of one token."""

    requests: int = 0
    bodies: list[bytes] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)  # Idempotency-Key


class Cutter(Listening):
    """The server. `seen[token]` is what it saw."""

    def __init__(self) -> None:
        self.seen: dict[str, Seen] = {}
        self._tokens = itertools.count()
        super().__init__()

    def url(self, shape: Shape, fault: str, at: int, times: int = 10_000) -> tuple[str, str]:
        """Return (url, token) of one experiment."""
        token = f"t{next(self._tokens)}"
        self.seen[token] = Seen()
        path = f"/{shape.name}/{fault}/{at}/{times}/{token}"
        return f"http://127.0.0.1:{self.port}{path}", token

    def serve(self, sock: socket.socket) -> None:
        with sock.makefile("rb") as reader:
            while self._answer(sock, reader):
                pass

    def _answer(self, sock: socket.socket, reader: Any) -> bool:
        """Serve one request; return whether the connection goes on."""
        head = request_head(reader)
        if head is None:
            return False
        method, target, fields = head
        if fields.get("expect") == "100-continue":
            sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = body_of(reader, fields)
        parts = target.partition("?")[0].split("/")
        if len(parts) != 6 or parts[1] not in _BY_NAME:  # a client followed half a Location
            sock.sendall(answer(404))
            return True
        _, name, fault, at, times, token = parts
        shape = _BY_NAME[name]
        with self._lock:
            seen = self.seen.setdefault(token, Seen())
            seen.requests += 1
            seen.bodies.append(body)
            seen.keys.append(fields.get("idempotency-key"))
            broken = fault != "none" and seen.requests <= int(times)
        raw = shape.raw.replace(b"/TOKEN", f"/{token}-target".encode())
        if method == "HEAD" and shape.method != "HEAD":
            raw = raw[: raw.index(b"\r\n\r\n") + 4]
        if not broken:
            sock.sendall(raw)
            return not shape.closes
        sock.sendall(raw[: int(at)])
        if fault == "hole":
            reader.read()  # until the client hangs up
        elif fault == "rst":
            reset_at_close(sock)
        return False


@contextmanager
def cutter() -> Iterator[Cutter]:
    """Run a server for the block."""
    with Cutter() as server:
        yield server


# -- the sweep ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One experiment: `shape` breaks by `fault` at byte `at`, the first `times` times."""

    shape: Shape
    fault: str
    at: int
    times: int

    @property
    def whole(self) -> bool:
        """Whether what arrives is a whole answer, so that success is right."""
        if self.at < self.shape.enough:
            return False
        # Where the end of the connection ends the body, only an orderly end is one.
        return not self.shape.closes or self.fault == "fin"


@dataclass(frozen=True)
class Result:
    """outcome: (status, decoded body), or the exception."""

    case: Case
    outcome: tuple[int, bytes] | BaseException
    seconds: float
    requests: int


def cases(*, every: int = 1, times: int = 10_000, faults: tuple[str, ...] = FAULTS) -> list[Case]:
    """Return every shape, fault and byte offset, or each `every`-th offset and the last one."""
    return [
        Case(shape, fault, at, times)
        for shape in SHAPES
        for fault in faults
        for at in sorted({*range(0, len(shape.raw), every), len(shape.raw)})
    ]


def sweep(
    server: Cutter,
    fetch: Callable[[str, str], tuple[int, bytes]],
    todo: list[Case],
    *,
    method: str | None = None,
    threads: int = 24,
) -> list[Result]:
    """Run `fetch(method, url)` for each case, `threads` at a time; never raises for them."""

    def run(case: Case) -> Result:
        url, token = server.url(case.shape, case.fault, case.at, case.times)
        began = time.monotonic()
        try:
            outcome: tuple[int, bytes] | BaseException = fetch(method or case.shape.method, url)
        except BaseException as error:
            outcome = error
        return Result(case, outcome, time.monotonic() - began, server.seen[token].requests)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(run, todo))


def wrong(results: list[Result]) -> list[tuple[str, str, int, object]]:
    """Return the successes that are not the whole answer: there must be none."""
    return [
        (one.case.shape.name, one.case.fault, one.case.at, one.outcome)
        for one in results
        if isinstance(one.outcome, tuple)
        and one.outcome != (one.case.shape.status, one.case.shape.body)
    ]


def unfinished(results: list[Result]) -> Counter[tuple[str, str, str]]:
    """Return what failed although a whole answer came at last, by shape, fault and error type."""
    return Counter(
        (one.case.shape.name, one.case.fault, type(one.outcome).__name__)
        for one in results
        if isinstance(one.outcome, BaseException) and (one.case.times < 2 or one.case.whole)
    )
