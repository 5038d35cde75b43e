"""What processes of one gateway say to each other: JSON lines, asked and answered in any order."""

from __future__ import annotations

import asyncio
import itertools
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from holdfast.core.errors import HoldfastError

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Mapping

    Answering = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]

MOST = 16 * 1024 * 1024
"""Bytes of a line."""


class Broken(HoldfastError):
    """The other process is gone, or does not answer."""

    code = "HF-3206"


class Gone(Broken):
    """The other process is gone."""


class Link:
    """One end. answering: what returns the answer to what the other end asks."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None

    async def open(self, sock: socket.socket) -> None:
        """Take a connected socket."""
        self._reader, self._writer = await asyncio.open_connection(sock=sock, limit=MOST)

    async def run(self) -> None:
        """Read until the other end is gone."""
        reader = self._reader
        try:
            while line := await reader.readline():
                self._heard(json.loads(line))
        except (OSError, ValueError):
            pass  # as good as gone
        finally:
            self.close()

    def _heard(self, message: dict[str, Any]) -> None:
        answered = message.pop("re", None)
        if answered is not None:
            future = self._asked.pop(answered, None)
            if future is not None and not future.done():
                future.set_result(message)
            return
        task = asyncio.get_running_loop().create_task(self._answer(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, message: dict[str, Any]) -> None:
        number = message.pop("no", 0)
        try:
            found = await self._answering(message)
        except HoldfastError as error:
            found = refusal(error)
        self.tell({**found, "re": number})

    def tell(self, message: Mapping[str, Any]) -> None:
        """Send; nothing happens if nobody is there."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(encoded(message))

    async def ask(self, message: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Return the answer. Raises Broken if there is none in time."""
        if self._writer is None or self._writer.is_closing():
            raise Gone("the process is gone")
        number = next(self._numbers)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[number] = future
        self.tell({**message, "no": number})
        try:
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError:
            raise Broken(f"the process has not answered in {seconds:g} s") from None
        finally:
            self._asked.pop(number, None)

    def close(self) -> None:
        """End it; whoever waits for an answer is told."""
        for future in self._asked.values():
            if not future.done():
                future.set_exception(Gone("the process is gone"))
        self._asked.clear()
        if self._writer is not None:
            with suppress(OSError, RuntimeError):
                self._writer.close()


def encoded(message: Mapping[str, Any]) -> bytes:
    """Return a message as it is sent."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def refusal(error: HoldfastError) -> dict[str, Any]:
    """Return an error as an answer."""
    return {
        "ok": False,
        "error": str(error),
        "code": error.code,
        "next": getattr(error, "next_step", ""),
        "exit_code": int(getattr(error, "exit_code", 1)),
    }
