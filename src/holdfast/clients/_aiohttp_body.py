"""Request bodies of aiohttp: sent whole, again if they can be, and never in part.

aiohttp's payloads say `consumed` when they cannot be written once more, but only those of its
own classes, and not all of them in time. So what is not known to be repeatable is sent once.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from aiohttp.multipart import MultipartWriter
from aiohttp.payload import AsyncIterablePayload, BytesPayload, IOBasePayload

from holdfast.clients.body import AsyncOnce, is_seekable_file

if TYPE_CHECKING:
    from aiohttp import ClientRequest
    from aiohttp.payload import Payload

    from holdfast.clients.options import Options


class Content:
    """A request's payload as the exchange sees it, and what has to happen to send it again."""

    __slots__ = ("_begun", "_once", "_payload")

    def __init__(self, payload: Payload, options: Options) -> None:
        self._payload = payload
        self._begun = False
        self._once: AsyncOnce | None = None
        if isinstance(payload, AsyncIterablePayload) and payload._cached_chunks is None:
            value: Any = payload._value
            if isinstance(value, AsyncOnce):
                self._once = value  # an earlier hop's
            elif payload._iter is not None and not payload.consumed:
                payload._value = self._once = AsyncOnce(payload._iter, options.replay_buffer)

    @property
    def replayable(self) -> bool:
        """Whether it can be sent (again) from its start now."""
        if self._once is not None:
            return self._once.replayable
        return not self._begun or can_rewind(self._payload)

    def begin(self) -> None:
        """Get ready to be sent (again)."""
        self._begun = True
        if self._once is not None:
            payload: Any = self._payload
            payload._iter = aiter(self._once)
        for file in files_in(self._payload):
            fence(file)

    def settle(self) -> None:
        """Let aiohttp know whether a redirect may send it again."""
        if self._once is not None:
            self._payload._consumed = not self._once.replayable
            if self._once.replayable:
                payload: Any = self._payload
                payload._iter = aiter(self._once)


def content_of(request: ClientRequest, options: Options) -> Content | None:
    """Return the body of a request, None if it has none."""
    payload: Any = request._body
    return None if payload is None else Content(payload, options)


def can_rewind(payload: Payload) -> bool:
    """Say whether `payload`, which may have been sent in part, can be sent from its start.

    What is not known to be, is not: aiohttp itself takes a payload for repeatable unless its
    class says otherwise.
    """
    if isinstance(payload, BytesPayload):
        return True
    if isinstance(payload, IOBasePayload):
        return not payload.consumed and is_seekable_file(payload._value)
    if isinstance(payload, AsyncIterablePayload):
        return payload._cached_chunks is not None
    if isinstance(payload, MultipartWriter):
        return not payload.consumed and all(can_rewind(part) for part, _, _ in payload._parts)
    return False


def files_in(payload: Payload) -> list[IOBasePayload]:
    """Return the files that are sent."""
    if isinstance(payload, IOBasePayload):
        return [payload]
    if isinstance(payload, MultipartWriter):
        return [file for part, _, _ in payload._parts for file in files_in(part)]
    return []


def fence(payload: IOBasePayload) -> None:
    """Keep a read of the attempt before, which a thread may still be at, out of this one.

    aiohttp reads files in threads, and cancelling the task that waits does not stop the
    thread. It would read from where this attempt has just rewound the file to.
    """
    own: Any = payload.__dict__
    before: _Fence | None = own.get("_holdfast")
    if before is not None:
        before.over = True
    now = own["_holdfast"] = _Fence(threading.Lock() if before is None else before.lock)
    kind = type(payload)

    def first(length: int | None) -> Any:
        with now.lock:
            return (None, b"") if now.over else kind._read_and_available_len(payload, length)

    def more(length: int | None) -> Any:
        with now.lock:
            return b"" if now.over else kind._read(payload, length)

    own["_read_and_available_len"] = first
    own["_read"] = more


class _Fence:
    """One attempt's right to read. over: it has gone to the next attempt."""

    __slots__ = ("lock", "over")

    def __init__(self, lock: threading.Lock) -> None:
        self.lock = lock
        self.over = False
