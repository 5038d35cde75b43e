"""The socket through which a running gateway is told something: JSON lines, for its own user.

    {"do": "status"}     {"ok": true, "pids": [4711], ...}
    {"do": "reload"}     {"ok": false, "error": "...", "code": "HF-3201", "next": "..."}

It is a Unix socket with mode 0600 in a directory of mode 0700, and asks the kernel besides who
has connected. Nothing of it is on the port of the clients.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast.core.errors import HoldfastError
from holdfast.gateway.link import MOST, encoded, refusal
from holdfast.gateway.listeners import remove_dead

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from holdfast.gateway.link import Answering

LONGEST = 100
"""Characters of an address that every kernel takes."""
PATIENCE = 30.0
"""Seconds that a connection may say nothing."""
MOST_ASKED = 64 * 1024


@dataclass(frozen=True, slots=True)
class Paths:
    """The files of one gateway in the state directory."""

    directory: Path
    cluster: str

    @property
    def control(self) -> Path:
        """The control socket."""
        return self.directory / f"gateway-{self.cluster}.sock"

    @property
    def log(self) -> Path:
        """What a detached gateway says."""
        return self.directory / f"gateway-{self.cluster}.log"


class NoAnswer(HoldfastError):
    """The gateway runs, but does not answer."""

    code = "HF-3206"
    next_step = "See what it says with `holdfast gateway logs`."


class Refused(HoldfastError):
    """The gateway was told something and refuses it; it goes on as it was."""

    def __init__(self, answer: Mapping[str, Any]) -> None:
        super().__init__(str(answer.get("error", "it is refused")))
        self.answer = dict(answer)
        self.code = str(answer.get("code", "HF-3206"))
        self.next_step = str(answer.get("next", ""))
        self.exit_code = int(answer.get("exit_code", 1))

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.answer,))


class Control:
    """The server. answering: does what a message asks for, and returns the answer."""

    def __init__(self, path: Path, answering: Answering) -> None:
        self._path = path
        self._answering = answering
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Listen. Raises OSError."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _address(self._path) as address:
                remove_dead(address)
                sock.bind(address)
            self._path.chmod(0o600)  # before anybody can connect
            self._server = await asyncio.start_unix_server(self._serve, sock=sock, limit=MOST_ASKED)
        except BaseException:
            sock.close()
            raise

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            if not _is_ours(writer.get_extra_info("socket")):
                return
            while True:
                async with asyncio.timeout(PATIENCE):
                    line = await reader.readline()
                if not line:
                    return
                writer.write(encoded(await self._answer(line)))
                await writer.drain()
        except (OSError, ValueError):  # gone, silent for too long (TimeoutError), or a long line
            return
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            message = json.loads(line)
            if not isinstance(message, dict):
                raise ValueError  # noqa: TRY004, TRY301 - answered as all that is no message
        except ValueError:
            return {"ok": False, "error": "a JSON object is wanted", "code": "HF-3206"}
        try:
            return await self._answering(message)
        except HoldfastError as error:
            return refusal(error)

    async def close(self) -> None:
        """Listen no more; answers that are on their way are given."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        with suppress(OSError):
            self._path.unlink()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=0.2)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1)


def tell(path: Path, message: Mapping[str, Any], seconds: float = 5.0) -> dict[str, Any]:
    """Tell a running gateway something and return its answer; without an event loop.

    Raises Refused, or NoAnswer if nobody answers in time.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock, _address(path) as address:
            sock.settimeout(seconds)
            sock.connect(address)
            sock.sendall(encoded(message))
            with sock.makefile("rb") as lines:
                line = lines.readline(MOST)
    except OSError as error:
        why = error.strerror or str(error)
        raise NoAnswer(f"`{path}`: the gateway does not answer: {why}") from None
    if not line:
        raise NoAnswer(f"`{path}`: the gateway has ended before it answered")
    answer: dict[str, Any] = json.loads(line)
    if not answer.get("ok"):
        raise Refused(answer)
    return answer


@contextmanager
def _address(path: Path) -> Iterator[str]:
    """Give a socket's address; a long path is shortened by way of its directory."""
    if len(os.fsencode(path)) <= LONGEST:
        yield str(path)
        return
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)


def _is_ours(sock: Any) -> bool:  # noqa: ANN401 - a socket, or what a loop shows of one
    """Whether who connected is this user, or root."""
    kind = getattr(socket, "SO_PEERCRED", None)
    if kind is None:
        return True  # the mode of the file says the same
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, kind, 12))
    return uid in {os.geteuid(), 0}
