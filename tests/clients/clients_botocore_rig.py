"""A server that answers by script, and clients of botocore that talk to it.

A script is a function from the `Asked` request to what is done on the wire, in order: bytes
are sent, a number is a pause in seconds, and a word ends the connection: RST, FIN, or HOLE
(nothing more comes). After a script without such a word the connection goes on.
"""

from __future__ import annotations

import hashlib
import re
import socket
import struct
import threading
import time
import warnings
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

import holdfast as hf

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Iterator

    Script = Callable[["Asked"], Iterable[bytes | float | str]]

RST, FIN, HOLE = "rst", "fin", "hole"


@dataclass
class Asked:
    """One request. no: its number on this server, from 1; turn: on its connection, from 1."""

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


class Scripted:
    """The server. `port`, `asked` (the requests), `connections` accepted, `open` right now."""

    def __init__(self, script: Script, context: ssl.SSLContext | None = None) -> None:
        """context: for TLS."""
        self._script = script
        self._context = context
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self.asked: list[Asked] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http{'' if self._context is None else 's'}://127.0.0.1:{self.port}"

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
                sock.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self._open.add(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        turn = 0
        own = sock
        try:
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_side=True)
            with sock, sock.makefile("rb") as reader:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while self._one(sock, reader, turn := turn + 1):
                    pass
        except OSError:
            own.close()
        finally:
            with self._lock:
                self._open.discard(own)

    def _one(self, sock: socket.socket, reader: Any, turn: int) -> bool:
        line = reader.readline()
        if not line.endswith(b"\r\n"):
            return False
        method, target, _ = line.decode().split(" ", 2)
        headers = {}
        while text := reader.readline().strip():
            name, _, value = text.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        with self._lock:
            asked = Asked(len(self.asked) + 1, turn, method, target, headers)
            self.asked.append(asked)
        if headers.get("expect") != "100-continue":  # else the script says when
            asked.body = body_of(reader, headers)
        for action in self._script(asked):
            if action == "body":
                asked.body = body_of(reader, headers)
            elif action == RST:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
            elif action == FIN:
                return False
            elif action == HOLE:
                reader.read()
                return False
            elif isinstance(action, bytes):
                sock.sendall(action)
            else:
                time.sleep(action)
        return True


def body_of(reader: Any, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        pieces = []
        while size := int(reader.readline().partition(b";")[0], 16):
            pieces.append(reader.read(size))
            reader.readline()
        while reader.readline().strip():
            pass
        return b"".join(pieces)
    return reader.read(int(headers.get("content-length", 0)))


@contextmanager
def serving(script: Script, context: ssl.SSLContext | None = None) -> Iterator[Scripted]:
    server = Scripted(script, context)
    try:
        yield server
    finally:
        server.close()


def answer(
    status: int, body: bytes = b"", *fields: str, length: int | None = None, reason: str = "X"
) -> bytes:
    size = len(body) if length is None else length
    lines = (f"HTTP/1.1 {status} {reason}", *fields, f"Content-Length: {size}", "", "")
    return "\r\n".join(lines).encode() + body


def s3_error(status: int, code: str, *fields: str) -> bytes:
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>"
    return answer(status, text.encode(), *fields)


def json_error(status: int, code: str, *fields: str) -> bytes:
    return answer(status, b'{"__type":"%s","message":"no"}' % code.encode(), *fields)


def etag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


def object_answer(asked: Asked, content: bytes, *fields: str) -> bytes:
    """Answer GET of an object as S3 does: If-Match, Range, ETag."""
    tag = etag(content)
    if asked.headers.get("if-match", tag) != tag:
        return s3_error(412, "PreconditionFailed")
    if asked.range is None:
        return answer(200, content, f"ETag: {tag}", *fields)
    first, last = asked.range
    last = len(content) - 1 if last is None else min(last, len(content) - 1)
    place = f"Content-Range: bytes {first}-{last}/{len(content)}"
    return answer(206, content[first : last + 1], f"ETag: {tag}", place, *fields)


@cache
def session() -> Any:
    """Return one session for all: it keeps the models that it has read."""
    return boto3.session.Session()


def bare(
    url: str, service: str = "s3", mode: str = "standard", *, verify: object = None, **config: Any
) -> Any:
    """Return a client of boto3 for `url`, without a policy."""
    s3 = {"addressing_style": "path"} if service == "s3" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # botocore's own
        return session().client(
            service,
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id="AKIDEXAMPLE",
            aws_secret_access_key="secret",
            verify=verify,
            config=Config(retries={"mode": mode}, s3=s3, **config),
        )


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


@contextmanager
def attached(
    url: str, policy: hf.Policy, service: str = "s3", *, mode: str = "standard", **options: Any
) -> Iterator[Any]:
    """Give a client with `policy`, and look afterwards whether anything was left."""
    config = options.pop("config", {})
    client = hf.clients.botocore.attach(bare(url, service, mode, **config), policy, **options)
    try:
        yield client
    finally:
        client.close()
        assert policy.state()["active"] == 0
