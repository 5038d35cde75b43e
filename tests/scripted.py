"""Servers on real sockets: one accept loop, and on top of it one that answers by script.

A script is a function from the `Asked` request to what is done on the wire, in order: bytes
are sent, a number is a pause in seconds, "body" reads the request's body (only where it was
not read before: after `Expect: 100-continue`), and a word ends the connection: RST, FIN, or
HOLE (nothing more comes). After a script without such a word the connection goes on.
"""

from __future__ import annotations

import re
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable

    Script = Callable[["Asked"], Iterable[bytes | float | str]]

RST, FIN, HOLE = "rst", "fin", "hole"


class Listening:
    """Accepts, and runs `serve(sock)` in a thread per connection, which may end by OSError.

    connections: accepted so far; open: right now.  errors: what else `serve` raised.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self.connections = 0
        self.errors: list[BaseException] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def open(self) -> int:
        with self._lock:
            return len(self._open)

    def quiet(self, seconds: float = 5.0) -> bool:
        """Say whether all clients hang up within `seconds`."""
        until = time.monotonic() + seconds
        while self.open and time.monotonic() < until:
            time.sleep(0.005)
        return not self.open

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        with self._lock:
            left = list(self._open)
        for sock in left:
            with suppress(OSError):
                # Not sock.shutdown(): a thread may be reading from it over TLS.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        self.quiet()
        assert not self.errors, self.errors

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self._open.add(sock)
            threading.Thread(target=self._guarded, args=(sock,), daemon=True).start()

    def _guarded(self, sock: socket.socket) -> None:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.serve(sock)
        except OSError:
            pass  # the client hung up
        except BaseException as error:
            self.errors.append(error)
        finally:
            sock.close()
            with self._lock:
                self._open.discard(sock)

    def serve(self, sock: socket.socket) -> None:
        raise NotImplementedError


def reset_at_close(sock: socket.socket) -> None:
    """Let the connection end with a reset instead of an orderly FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@dataclass
class Asked:
    """One request. no: its number on this server; turn: on its connection; both from 1."""

    no: int
    turn: int
    method: str
    target: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def range(self) -> tuple[int, int | None] | None:
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", ""))
        return None if found is None else (int(found[1]), int(found[2]) if found[2] else None)


class Scripted(Listening):
    """Answers by `script`. `asked`: the requests. context: for TLS."""

    def __init__(self, script: Script, context: ssl.SSLContext | None = None) -> None:
        self._script = script
        self._context = context
        self.asked: list[Asked] = []
        super().__init__()

    @property
    def url(self) -> str:
        scheme = "http" if self._context is None else "https"
        return f"{scheme}://127.0.0.1:{self.port}"

    def serve(self, sock: socket.socket) -> None:
        if self._context is None:
            self._talk(sock)
        else:
            with self._context.wrap_socket(sock, server_side=True) as secure:
                self._talk(secure)

    def _talk(self, sock: socket.socket) -> None:
        with sock.makefile("rb") as reader:
            turn = 0
            while self._one(sock, reader, turn := turn + 1):
                pass

    def _one(self, sock: socket.socket, reader: Any, turn: int) -> bool:
        head = request_head(reader)
        if head is None:
            return False
        with self._lock:
            asked = Asked(len(self.asked) + 1, turn, *head)
            self.asked.append(asked)
        if asked.headers.get("expect") != "100-continue":  # else the script says when
            asked.body = body_of(reader, asked.headers)
        for action in self._script(asked):
            if action == "body":
                asked.body = body_of(reader, asked.headers)
            elif isinstance(action, bytes):
                sock.sendall(action)
            elif isinstance(action, str):
                if action == RST:
                    reset_at_close(sock)
                elif action == HOLE:
                    reader.read()
                return False
            else:
                time.sleep(action)
        return True


def request_head(reader: Any) -> tuple[str, str, dict[str, str]] | None:
    """Read a request's head: method, target, fields by lower-case name; None at the end."""
    line = reader.readline()
    if not line.endswith(b"\r\n"):
        return None
    method, target, _ = line.decode().split(" ", 2)
    return method, target, fields_of(reader)


def fields_of(reader: Any) -> dict[str, str]:
    headers = {}
    while text := reader.readline().strip():
        name, _, value = text.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    return headers


def body_of(reader: Any, headers: dict[str, str]) -> bytes:
    """Read a request's body. Raises ConnectionError if the client hangs up inside it."""
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return _whole(reader, int(headers.get("content-length", 0)))
    pieces = []
    while size := int(_line(reader).partition(b";")[0], 16):
        pieces.append(_whole(reader, size))
        reader.readline()
    while reader.readline().strip():
        pass
    return b"".join(pieces)


def _line(reader: Any) -> bytes:
    line = reader.readline()
    if not line.endswith(b"\n"):
        raise ConnectionError("a cut body")
    return line


def _whole(reader: Any, size: int) -> bytes:
    data = reader.read(size)
    if len(data) < size:
        raise ConnectionError("a cut body")
    return data


def answer(
    status: int, body: bytes = b"", *fields: str, length: int | None = None, reason: str = "Text"
) -> bytes:
    """Return an answer with a Content-Length; length: another one than the body's."""
    size = len(body) if length is None else length
    lines = (f"HTTP/1.1 {status} {reason}", *fields, f"Content-Length: {size}", "", "")
    return "\r\n".join(lines).encode() + body
