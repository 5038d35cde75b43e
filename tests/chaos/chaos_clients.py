"""Plain clients and plain peers: what the chaos tools do is checked without their own code."""

from __future__ import annotations

import http.client
import socket
import threading
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from holdfast import chaos

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    Get = Callable[..., "Got"]
    Raw = Callable[..., bytes]
    Running = tuple[chaos.Server, str, chaos.Server | chaos.Proxy]
    Served = Callable[..., AbstractContextManager[Running]]

TIMEOUT = 5.0


@dataclass
class Got:
    """What a client saw. error: how the exchange ended, if not well."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    error: BaseException | None = None


def get(address: str, path: str = "/", method: str = "GET", **headers: str) -> Got:
    """Fetch over a fresh connection with `http.client`; what came before an error is kept."""
    connection = http.client.HTTPConnection(address, timeout=TIMEOUT)
    got = Got()
    with closing(connection):
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, headers=named)
            with connection.getresponse() as response:
                got.status, got.headers = response.status, dict(response.headers)
                got.body = _read_all(response, got)
        except (OSError, http.client.HTTPException) as error:
            got.error = error
    return got


def _read_all(response: http.client.HTTPResponse, got: Got) -> bytes:
    parts = []
    try:
        while part := response.read1(65536):
            parts.append(part)
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
    except (OSError, http.client.HTTPException) as error:
        got.error = error
    return b"".join(parts)


def raw(port: int, data: bytes, *, timeout: float = TIMEOUT, shut: bool = False) -> bytes:
    """Send bytes, read to the end of the stream, return what came. Errors pass."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as sock:
        sock.sendall(data)
        if shut:
            sock.shutdown(socket.SHUT_WR)
        return drain(sock)


def drain(sock: socket.socket, into: bytearray | None = None) -> bytes:
    """Read to the end of the stream; what came before an error is in `into`."""
    into = bytearray() if into is None else into
    while part := sock.recv(65536):
        into += part
    return bytes(into)


class Sink:
    """A TCP peer that reads each connection to its end, then answers `ok` and closes."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
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
                    self.received.append(data)  # first, so that who has the answer finds it
                    sock.sendall(b"ok")
                except OSError:
                    self.received.append(data)

    def stop(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port)) as sock:
            sock.sendall(b"stop")
        self._thread.join(TIMEOUT)
        self._listener.close()


@contextmanager
def served(
    size: int, *faults: chaos.Fault, via: str = "server", seed: int = 1
) -> Iterator[Running]:
    """Serve one object `/o` with these faults; `via="proxy"`: a good server behind a bad proxy.

    Gives the server, the address to fetch from, and the one that has the faults.
    """
    if via == "server":
        with chaos.server(chaos.Object("/o", size), faults=faults, seed=seed) as server:
            yield server, server.address, server
    else:
        with (
            chaos.server(chaos.Object("/o", size), seed=seed) as server,
            chaos.proxy(server.address, *faults, seed=seed).running() as proxy,
        ):
            yield server, proxy.address, proxy
