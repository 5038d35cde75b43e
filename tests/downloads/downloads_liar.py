"""A server on real sockets that answers ranges as it likes: one request per connection."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from scripted import FIN, Asked, Scripted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DATE = "Tue, 14 Nov 2023 22:13:20 GMT"


@dataclass(frozen=True)
class Ask:
    """A request. ranged: which number among those with a range, from 1; 0 for none of them."""

    headers: dict[str, str]
    size: int
    start: int
    end: int
    ranged: int


@dataclass
class Reply:
    """An answer. sent: how much of the body goes out before the connection ends; None: all.

    framed: whether Content-Length is sent; chunked: in chunks, `ended` with the last one.
    """

    status: str
    body: bytes
    fields: dict[str, str] = field(default_factory=dict)
    sent: int | None = None
    framed: bool = True
    chunked: bool = False
    ended: bool = True

    def encoded(self) -> tuple[bytes, bytes]:
        fields = {
            "ETag": '"v1"',
            "Last-Modified": DATE,
            "Date": DATE.replace("22:13", "23:13"),
            "Content-Type": "application/x-netcdf",
            "Accept-Ranges": "bytes",
            "Connection": "close",
            **self.fields,
        }
        if self.chunked:
            fields["Transfer-Encoding"] = "chunked"
        elif self.framed:
            fields.setdefault("Content-Length", str(len(self.body)))
        lines = [f"HTTP/1.1 {self.status}", *(f"{k}: {v}" for k, v in fields.items() if v)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode(), self.body[: self.sent]


def honest(body: bytes, ask: Ask) -> Reply:
    """Answer as RFC 9110 says."""
    if not ask.ranged or ask.headers.get("if-range", '"v1"') not in {'"v1"', DATE}:
        return Reply("200 OK", body)
    if ask.headers.get("if-match", '"v1"') != '"v1"':
        return Reply("412 Precondition Failed", b"")
    if ask.start >= len(body):
        return Reply("416 Range Not Satisfiable", b"", {"Content-Range": f"bytes */{len(body)}"})
    given = f"bytes {ask.start}-{ask.end - 1}/{len(body)}"
    return Reply("206 Partial Content", body[ask.start : ask.end], {"Content-Range": given})


class Liar(Scripted):
    """Answers as `answer` says. ranges: the Range fields, "" for none; served: bytes of bodies."""

    def __init__(self, size: int, answer: Callable[[Ask], Reply]) -> None:
        self.served = 0
        self._size = size
        self._answer = answer
        super().__init__(self._reply)

    @property
    def ranges(self) -> list[str]:
        return [one.headers.get("range", "") for one in self.asked]

    def serve(self, sock: socket.socket) -> None:
        # What waits here counts as served, also what nobody takes any more.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        super().serve(sock)

    def _reply(self, asked: Asked) -> Iterator[bytes | str]:
        reply = self._answer(self._read(asked))
        head, body = reply.encoded()
        yield head
        step = 256 * 1024
        for at in range(0, len(body), step):
            piece = body[at : at + step]
            yield b"%x\r\n%s\r\n" % (len(piece), piece) if reply.chunked else piece
            with self._lock:
                self.served += len(piece)
        if reply.chunked and reply.ended:
            yield b"0\r\n\r\n"
        yield FIN

    def _read(self, asked: Asked) -> Ask:
        ranges = self.ranges[: asked.no]
        first, _, last = ranges[-1].removeprefix("bytes=").partition("-")
        number = sum(map(bool, ranges)) if ranges[-1] else 0
        end = min(self._size, int(last) + 1) if last else self._size
        return Ask(asked.headers, self._size, int(first or 0), end, number)
