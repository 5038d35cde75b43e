"""A server by script, plain or TLS, a proxy before it, and sessions with a policy.

A script is a function from the `Asked` request to what is done on the wire, in order: bytes
are sent, a number is a pause in seconds, and a word ends the connection: RST, FIN, or HOLE
(nothing more comes). After a script without such a word the connection goes on.
"""

from __future__ import annotations

import gc
import socket
import struct
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import requests

import holdfast as hf

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    Script = Callable[["Asked"], Iterable[bytes | float | str]]

RST, FIN, HOLE = "rst", "fin", "hole"
NOW = hf.Constant(0)  # no wait between attempts


@dataclass
class Asked:
    """One request. no: its number on this server; turn: on its connection; both from 1."""

    no: int
    turn: int
    method: str
    target: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class Listening:
    """Accepts, and runs `serve` in a thread per connection. `open` connections right now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

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
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

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
            self.serve(sock)
        except (OSError, ValueError):
            pass
        finally:
            sock.close()
            with self._lock:
                self._open.discard(sock)

    def serve(self, sock: socket.socket) -> None:
        raise NotImplementedError


class Scripted(Listening):
    """The server. `asked`: the requests. context: for TLS."""

    def __init__(self, script: Script, context: ssl.SSLContext | None = None) -> None:
        self._script = script
        self._context = context
        self.asked: list[Asked] = []
        super().__init__()

    @property
    def url(self) -> str:
        scheme = "http" if self._context is None else "https"
        return f"{scheme}://127.0.0.1:{self.port}/"

    def serve(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context is None:
            self._talk(sock)
        else:
            with self._context.wrap_socket(sock, server_side=True) as secure:
                self._talk(secure)

    def _talk(self, sock: socket.socket) -> None:
        with sock, sock.makefile("rb") as reader:
            turn = 0
            while self._one(sock, reader, turn := turn + 1):
                pass

    def _one(self, sock: socket.socket, reader: Any, turn: int) -> bool:
        line = reader.readline()
        if not line.endswith(b"\r\n"):
            return False
        method, target, _ = line.decode().split(" ", 2)
        headers = fields_of(reader)
        asked = Asked(0, turn, method, target, headers)
        with self._lock:
            self.asked.append(asked)
            asked.no = len(self.asked)
        asked.body = body_of(reader, headers)
        for action in self._script(asked):
            if action == RST:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
            if action == FIN:
                return False
            if action == HOLE:
                reader.read()
                return False
            if isinstance(action, bytes):
                sock.sendall(action)
            else:
                time.sleep(float(action))
        return True


class Proxy(Listening):
    """A proxy for CONNECT. `asked`: the first lines of what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        super().__init__()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def serve(self, sock: socket.socket) -> None:
        with sock.makefile("rb", buffering=0) as reader:
            line = reader.readline().decode()
            self.asked.append((line.strip(), fields_of(reader)))
        host, _, port = line.split(" ")[1].rpartition(":")
        with socket.create_connection((host, int(port))) as far:
            sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=_pass_on, args=(far, sock), daemon=True)
            back.start()
            _pass_on(sock, far)
            back.join(5)


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for sock in (source, sink):
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def fields_of(reader: Any) -> dict[str, str]:
    headers = {}
    while text := reader.readline().strip():
        name, _, value = text.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    return headers


def body_of(reader: Any, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        pieces = []
        while size := int(reader.readline().partition(b";")[0], 16):
            piece = reader.read(size)
            if len(piece) < size:
                raise ValueError("a cut body")
            pieces.append(piece)
            reader.readline()
        while reader.readline().strip():
            pass
        return b"".join(pieces)
    size = int(headers.get("content-length", 0))
    body = reader.read(size)
    if len(body) < size:
        raise ValueError("a cut body")
    return body


def answer(status: int, body: bytes = b"", *fields: str, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    lines = (f"HTTP/1.1 {status} Text", *fields, f"Content-Length: {size}", "", "")
    return "\r\n".join(lines).encode() + body


def chunks(*pieces: bytes, fields: tuple[str, ...] = (), end: bool = True) -> bytes:
    lines = ("HTTP/1.1 200 OK", *fields, "Transfer-Encoding: chunked", "", "")
    head = "\r\n".join(lines).encode()
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return head + body + (b"0\r\n\r\n" if end else b"")


@contextmanager
def serving(script: Script, context: ssl.SSLContext | None = None) -> Iterator[Scripted]:
    server = Scripted(script, context)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def proxying() -> Iterator[Proxy]:
    proxy = Proxy()
    try:
        yield proxy
    finally:
        proxy.close()


@contextmanager
def mounted(
    policy: hf.Policy, server: Listening | None = None, **options: Any
) -> Iterator[requests.Session]:
    """Give a session with `policy`; look afterwards whether anything was left."""
    session = requests.Session()
    session.trust_env = False
    with hf.clients.requests.mount(session, policy, **options):
        yield session
    assert policy.state()["active"] == 0
    if server is not None and not server.quiet(1.0):
        gc.collect()  # an error that the test itself keeps
        assert server.quiet()


@contextmanager
def listening() -> Iterator[list[Any]]:
    """Collect the events of the block."""
    events: list[Any] = []
    stop = hf.subscribe(events.append)
    try:
        yield events
    finally:
        stop()


def attempts_of(events: list[Any]) -> list[Any]:
    return [event for event in events if type(event).__name__ == "Attempt"]


def certificate(folder: Path) -> tuple[str, str]:
    """Make a certificate for 127.0.0.1; return (its file, the key's file)."""
    crt, key = folder / "crt.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "30", "-subj", "/CN=127.0.0.1", "-addext",
         "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(crt)],
        check=True, capture_output=True,
    )  # fmt: skip
    return str(crt), str(key)
