"""Plain clients and plain peers: what the chaos tools do is checked without their own code."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

import pytest

from holdfast import chaos

TIMEOUT = 5.0


@dataclass
class Got:
    """What a client saw. error: how the body ended, if not well."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    error: BaseException | None = None


@pytest.fixture
def get() -> Callable[..., Got]:
    """Fetch over a fresh connection with `http.client`; the received part is kept on errors."""

    def fetch(address: str, path: str = "/", method: str = "GET", **headers: str) -> Got:
        connection = http.client.HTTPConnection(address, timeout=TIMEOUT)
        got = Got()
        with closing(connection):
            try:
                named = {name.replace("_", "-"): value for name, value in headers.items()}
                connection.request(method, path, headers=named)
                with connection.getresponse() as response:
                    got.status, got.headers = response.status, dict(response.headers)
                    got.body = read_all(response, got)
            except (OSError, http.client.HTTPException) as error:
                got.error = error
        return got

    return fetch


def read_all(response: http.client.HTTPResponse, got: Got) -> bytes:
    parts = []
    try:
        while part := response.read1(65536):
            parts.append(part)
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
    except (OSError, http.client.HTTPException) as error:
        got.error = error
    return b"".join(parts)


@pytest.fixture
def raw() -> Callable[..., bytes]:
    """Send bytes, read to the end of the stream, return what came. Errors pass."""

    def talk(port: int, data: bytes, *, timeout: float = TIMEOUT, shut: bool = False) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=timeout) as sock:
            sock.sendall(data)
            if shut:
                sock.shutdown(socket.SHUT_WR)
            parts = []
            while part := sock.recv(65536):
                parts.append(part)
            return b"".join(parts)

    return talk


class Sink:
    """A TCP peer that reads each connection to its end, then answers `ok` and closes."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.errors: list[OSError] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def _run(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            with sock:
                sock.settimeout(TIMEOUT)
                data = b""
                try:
                    while part := sock.recv(65536):
                        data += part
                    if data == b"stop":
                        return
                    sock.sendall(b"ok")
                except OSError as error:
                    self.errors.append(error)
                self.received.append(data)

    def stop(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port)) as sock:
            sock.sendall(b"stop")
        self._thread.join(TIMEOUT)
        self._listener.close()


@pytest.fixture
def sink() -> Iterator[Sink]:
    peer = Sink()
    yield peer
    peer.stop()


@pytest.fixture
def served() -> Callable[..., object]:
    """Serve one object `/o` with these faults, behind a proxy if `via` is "proxy"."""

    @contextmanager
    def serve(
        size: int, *faults: chaos.Fault, via: str = "server", seed: int = 1
    ) -> Iterator[tuple[chaos.Server, str, chaos.Server | chaos.Proxy]]:
        if via == "server":
            with chaos.server(chaos.Object("/o", size), faults=faults, seed=seed) as server:
                yield server, server.address, server
        else:
            with (
                chaos.server(chaos.Object("/o", size), seed=seed) as server,
                chaos.proxy(server.address, *faults, seed=seed).running() as proxy,
            ):
                yield server, proxy.address, proxy

    return serve
