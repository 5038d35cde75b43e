"""A server on real sockets that answers ranges as it likes: one request per connection."""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

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


class Liar:
    """Answers as `answer` says. asked: the Range fields, "" for none; served: bytes of bodies."""

    def __init__(self, size: int, answer: Callable[[Ask], Reply]) -> None:
        self.asked: list[str] = []
        self.served = 0
        self._size = size
        self._answer = answer
        self._lock = threading.Lock()
        self._ranged = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in list(self._threads):
            thread.join(10)

    def url(self, path: str = "/data.nc") -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}{path}"

    def _start(self, run: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=run, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            # What waits here counts as served, also what nobody takes any more.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
            self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        try:
            with sock:
                data = b""
                while b"\r\n\r\n" not in data:
                    more = sock.recv(65536)
                    if not more:
                        return
                    data += more
                head, body = self._answer(self._read(data.decode("latin-1"))), b""
                first, body = head.encoded()
                sock.sendall(first)
                self._send(sock, head, body)
        except OSError:
            pass  # the client had enough

    def _send(self, sock: socket.socket, reply: Reply, body: bytes) -> None:
        step = 256 * 1024
        for at in range(0, len(body), step):
            piece = body[at : at + step]
            data = b"%x\r\n%s\r\n" % (len(piece), piece) if reply.chunked else piece
            sock.sendall(data)
            with self._lock:
                self.served += len(piece)
        if reply.chunked and reply.ended:
            sock.sendall(b"0\r\n\r\n")

    def _read(self, text: str) -> Ask:
        lines = text.split("\r\n")[1:]
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        asked = headers.get("range", "")
        first, _, last = asked.removeprefix("bytes=").partition("-")
        with self._lock:
            self.asked.append(asked)
            if asked:
                self._ranged += 1
            number = self._ranged if asked else 0
        end = min(self._size, int(last) + 1) if last else self._size
        return Ask(headers, self._size, int(first or 0), end, number)
