"""Both libraries, synchronous and asynchronous, behind one face; and a server by script.

A test is written once, as synchronous code: `face.client(policy)` gives `request` and
`stream`, which run an event loop if the face is asynchronous.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import httpx2

import holdfast as hf
from scripted import Listening, body_of, request_head, reset_at_close

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

NOW = hf.Constant(0)  # no wait between attempts


class Client:
    """A client of one face. `transport` is ours, `inner` the library's."""

    def __init__(self, face: Face, client: Any, transport: Any, run: Callable[[Any], Any]) -> None:
        self.face = face
        self.client = client
        self.transport = transport
        self.run = run

    def request(self, method: str, url: str, **options: Any) -> Any:
        """Return the response, read."""
        return self.run(self.client.request(method, url, **options))

    def get(self, url: str, **options: Any) -> Any:
        return self.request("GET", url, **options)

    def post(self, url: str, **options: Any) -> Any:
        return self.request("POST", url, **options)

    def open(self, method: str, url: str, **options: Any) -> Any:
        """Return the response, its body unread."""
        request = self.client.build_request(method, url, **options)
        return self.run(self.client.send(request, stream=True))

    def pieces(self, response: Any) -> Iterator[bytes]:
        """Give the pieces of an open body."""
        if not self.face.is_async:
            yield from response.iter_bytes()
            return
        source = response.aiter_bytes()
        try:
            while True:
                yield self.run(anext(source))
        except StopAsyncIteration:
            pass
        finally:
            self.run(source.aclose())

    def read(self, response: Any) -> bytes:
        return self.run(response.aread() if self.face.is_async else response.read())

    def shut(self, response: Any) -> None:
        self.run(response.aclose() if self.face.is_async else response.close())
        self.settle()

    def settle(self) -> None:
        """Let the event loop, which only runs inside `run`, do what it has scheduled."""
        if self.face.is_async:
            self.run(asyncio.sleep(0.01))


@dataclass(frozen=True)
class Face:
    """One library, and one of its two ways."""

    lib: Any
    is_async: bool

    def __repr__(self) -> str:
        return f"{self.lib.__name__}{'-async' if self.is_async else ''}"

    @property
    def inner(self) -> Any:
        """The library's transport class."""
        return self.lib.AsyncHTTPTransport if self.is_async else self.lib.HTTPTransport

    @contextmanager
    def client(
        self, policy: hf.Policy, inner: Any = None, *, client: Any = None, **options: Any
    ) -> Iterator[Client]:
        """Run a client for the block. client: options of the client, as a dictionary."""
        # The certificates, which nobody needs here, take 50 ms to load.
        inner = inner or self.inner(verify=False)
        ours = hf.clients.httpx
        kwargs = {"follow_redirects": True, **(client or {})}
        if not self.is_async:
            transport = ours.Transport(policy, inner, **options)
            with self.lib.Client(transport=transport, **kwargs) as made:
                yield Client(self, made, transport, lambda value: value)
            return
        with asyncio.Runner() as runner:
            transport = ours.AsyncTransport(policy, inner, **options)
            made = self.lib.AsyncClient(transport=transport, **kwargs)

            def run(value: Any) -> Any:
                return runner.run(_awaited(value), context=contextvars.copy_context())

            try:
                yield Client(self, made, transport, run)
            finally:
                run(made.aclose())
                run(asyncio.sleep(0.001))  # transports close in the next round of the loop
                left = [task for task in asyncio.all_tasks(runner.get_loop()) if not task.done()]
                assert not left


async def _awaited(value: Any) -> Any:
    return await value


FACES = [Face(lib, is_async) for lib in (httpx, httpx2) for is_async in (False, True)]


# -- the server --------------------------------------------------------------------------


@dataclass
class Request:
    """What arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Connection:
    """One accepted connection, as the script sees it. no: from 1."""

    def __init__(self, server: Server, sock: socket.socket, no: int) -> None:
        self._server = server
        self.sock = sock
        self.no = no
        self._reader = sock.makefile("rb")

    def request(self) -> Request | None:
        """Read one request; None if the client hung up."""
        head = self.head()
        if head is None:
            return None
        head.body = body_of(self._reader, head.headers)
        self._server.requests.append(head)
        return head

    def head(self) -> Request | None:
        """Read the head of a request and leave its body."""
        head = request_head(self._reader)
        return None if head is None else Request(*head, b"")

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def reset(self) -> None:
        """Let the connection end with a reset when the script returns."""
        reset_at_close(self.sock)

    def wait(self) -> None:
        """Say nothing until the client hangs up."""
        with suppress(OSError):
            while self._reader.read(65536):
                pass


class Server(Listening):
    """Runs `script(connection)` for each connection. wrap: what TLS needs."""

    def __init__(
        self,
        script: Callable[[Connection], None],
        wrap: Callable[[socket.socket], socket.socket] | None = None,
        scheme: str = "http",
    ) -> None:
        self.script = script
        self.requests: list[Request] = []
        self._wrap = wrap
        self._numbers = itertools.count(1)
        super().__init__()
        self.url = f"{scheme}://127.0.0.1:{self.port}/"

    def serve(self, sock: socket.socket) -> None:
        no = next(self._numbers)
        if self._wrap is not None:
            sock = self._wrap(sock)
        with sock:
            connection = Connection(self, sock, no)
            with connection._reader:
                self.script(connection)


@contextmanager
def serving(script: Callable[[Connection], None], **options: Any) -> Iterator[Server]:
    """Run a server for the block."""
    with Server(script, **options) as server:
        yield server


def answer(body: bytes = b"fine", status: str = "200 OK", *fields: str) -> bytes:
    """Return an answer with a Content-Length."""
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields, "", ""]
    return "\r\n".join(head).encode() + body


def answers(*all_of_them: bytes | str) -> Callable[[Connection], None]:
    """Return a script: one answer per request, counted over all connections; the last one on.

    Instead of an answer: "rst" and "fin" end the connection, "hole" says nothing more.
    """
    left = list(all_of_them)
    lock = threading.Lock()

    def script(connection: Connection) -> None:
        while connection.request() is not None:
            with lock:
                now = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(now, bytes):
                connection.send(now)
            elif now == "hole":
                connection.wait()
                return
            else:
                if now == "rst":
                    connection.reset()
                return

    return script
