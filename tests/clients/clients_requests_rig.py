"""Sessions of requests with a policy, and a proxy before the scripted server."""

from __future__ import annotations

import gc
import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import requests

import holdfast as hf
from scripted import Listening, fields_of

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = hf.Constant(0)  # no wait between attempts


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


def chunks(*pieces: bytes, fields: tuple[str, ...] = (), end: bool = True) -> bytes:
    lines = ("HTTP/1.1 200 OK", *fields, "Transfer-Encoding: chunked", "", "")
    head = "\r\n".join(lines).encode()
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return head + body + (b"0\r\n\r\n" if end else b"")


@contextmanager
def proxying() -> Iterator[Proxy]:
    with Proxy() as proxy:
        yield proxy


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
