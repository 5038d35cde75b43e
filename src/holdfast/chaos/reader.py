"""Reads requests from a socket."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from holdfast.chaos.message import MAX_BODY, MAX_HEAD, BadRequest, Request, parse_head

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable


class Reader:
    """One connection's requests, one after the other. Bytes after one belong to the next."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._held = bytearray()

    async def request(self, proceed: Callable[[], Awaitable[None]]) -> Request | None:
        """Return the next request; None if the client has closed instead.

        proceed: called when the client waits for `100 Continue`.
        Raises BadRequest, or OSError if the connection broke.
        """
        head = await self._until(b"\r\n\r\n", MAX_HEAD)
        if head is None:
            return None
        request = parse_head(head)
        if request.headers.get("expect", "").lower() == "100-continue":
            await proceed()
        coding = request.headers.get("transfer-encoding", "").lower()
        if coding == "chunked":
            request.body = await self._chunks()
        elif coding:
            raise BadRequest(501, "unknown transfer coding")
        else:
            digits = request.headers.get("content-length", "0")
            if not (digits.isascii() and digits.isdigit()):
                raise BadRequest(400, "bad content-length")
            request.body = await self._exactly(int(digits))
        return request

    async def _chunks(self) -> bytes:
        body = b""
        while True:
            line = await self._until(b"\r\n", 1024)
            digits = (line or b"").partition(b";")[0].strip()
            try:
                size = int(digits, 16)
            except ValueError:
                raise BadRequest(400, "bad chunk size") from None
            if not size:
                break
            body += await self._exactly(size, already=len(body))
            await self._exactly(2)
        while await self._until(b"\r\n", MAX_HEAD):  # trailers
            pass
        return body

    async def _until(self, mark: bytes, limit: int) -> bytes | None:
        while (at := self._held.find(mark)) < 0:
            if len(self._held) > limit:
                raise BadRequest(431, "head too large")
            if not await self._more():
                return None
        found = bytes(self._held[:at])
        del self._held[: at + len(mark)]
        return found

    async def _exactly(self, size: int, already: int = 0) -> bytes:
        if size + already > MAX_BODY:
            raise BadRequest(413, "body too large")
        while len(self._held) < size:
            if not await self._more():
                raise ConnectionResetError("the client closed inside its request")
        found = bytes(self._held[:size])
        del self._held[:size]
        return found

    async def _more(self) -> bool:
        data = await asyncio.get_running_loop().sock_recv(self._sock, 65536)
        self._held += data
        return bool(data)
