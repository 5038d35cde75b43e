"""A small proxy for tests: forwards http, tunnels https, and remembers what it was asked.

Faithful to RFC 9110, 7.6 and 9.3.6 in what a client sees: the absolute form, CONNECT, 407 with
its challenge, a `Via` on what it forwards. It resolves by a table, so that names in tests need
no name server.
"""

from __future__ import annotations

import base64
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from types import TracebackType


@dataclass
class Asked:
    """One request to the proxy."""

    method: str
    target: str
    headers: dict[str, str]


@dataclass
class TestingProxy:
    """names: host -> address of the server behind it.  credentials: `user:password` it wants.

    status: that it answers to everything; 0: it does its work.  page: an HTML page instead.
    """

    __test__ = False

    names: dict[str, tuple[str, int]] = field(default_factory=dict)
    credentials: str = ""
    status: int = 0
    page: bytes = b""
    asked: list[Asked] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]
        self._open: list[socket.socket] = []
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        for sock in self._open:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive()
        self._server.close()

    @property
    def port(self) -> int:
        return self._server.getsockname()[1]

    def url(self, credentials: str = "") -> str:
        return f"http://{credentials + '@' if credentials else ''}127.0.0.1:{self.port}"

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            self._open.append(client)
            thread = threading.Thread(target=self._serve, args=(client,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            data = b""
            while b"\r\n\r\n" not in data:
                more = client.recv(65536)
                if not more:
                    return
                data += more
            first, *lines = data.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
            method, target, _ = first.split(" ")
            headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
            self.asked.append(Asked(method, target, headers))
            self._answer(client, self.asked[-1])

    def _answer(self, client: socket.socket, asked: Asked) -> None:
        expected = "Basic " + base64.b64encode(self.credentials.encode()).decode()
        if self.credentials and asked.headers.get("proxy-authorization") != expected:
            self._say(client, 407, "Proxy-Authenticate: Basic realm=x\r\n")
        elif self.status:
            self._say(client, self.status, "")
        elif self.page:
            self._say(client, 200, "Content-Type: text/html\r\n", self.page)
        elif asked.method == "CONNECT":
            self._tunnel(client, asked)
        else:
            self._forward(client, asked)

    @staticmethod
    def _say(client: socket.socket, status: int, fields: str, body: bytes = b"") -> None:
        head = f"HTTP/1.1 {status} X\r\n{fields}Content-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)

    def _reach(self, host: str) -> socket.socket:
        server = socket.create_connection(self.names[host], 5)
        self._open.append(server)
        return server

    def _tunnel(self, client: socket.socket, asked: Asked) -> None:
        with self._reach(asked.target.rpartition(":")[0]) as server:
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=self._pump, args=(server, client))
            back.start()
            self._pump(client, server)
            back.join()

    def _forward(self, client: socket.socket, asked: Asked) -> None:
        parts = urlsplit(asked.target)
        path = parts.path + ("?" + parts.query if parts.query else "")
        kept = {k: v for k, v in asked.headers.items() if not k.startswith("proxy-")}
        lines = [f"GET {path} HTTP/1.1", *(f"{k}: {v}" for k, v in kept.items()), "Via: 1.1 test"]
        with self._reach(parts.hostname or "") as server:
            server.sendall("\r\n".join([*lines, "", ""]).encode())
            self._pump(server, client)

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
