"""Streams for httpx and httpx2: mix-ins, because each library checks for its own base class.

Bodies of requests: `Body`, `AsyncBody`. Bodies of answers, one around the other from the inside
out: `Begun` (the first pieces were read), `Decoding`, `Held` (tells its exchange what happens).
"""

from __future__ import annotations

import asyncio
import threading
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from holdfast.clients.aio import reading as areading
from holdfast.clients.decoding import DecodingFault, adecoded, decoded
from holdfast.clients.sync import reading

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Callable,
        Coroutine,
        Generator,
        Iterator,
    )

    from holdfast.clients.decoding import Decoder
    from holdfast.clients.exchange import Exchange


_STEPS = 100


class Undisturbed:
    """Awaits a coroutine that closes something, and lets no cancellation in at its pauses.

    To close an answer takes locks that are free, and pauses (`sleep(0)`) that let others run.
    httpcore 1.0.9, cancelled at such a pause, never closes the answer: its connection and its
    place in the pool are lost. So the pauses are skipped; a real wait is a wait.
    """

    __slots__ = ("_coro",)

    def __init__(self, coro: Coroutine[Any, Any, None]) -> None:
        self._coro = coro

    def __await__(self) -> Generator[Any, Any, None]:
        coro, skipped = self._coro, 0
        try:
            waits = coro.send(None)
            while True:
                if waits is None and skipped < _STEPS:
                    skipped += 1
                    waits = coro.send(None)
                    continue
                try:
                    value = yield waits
                except BaseException as error:  # noqa: BLE001 - it is the coroutine's
                    waits = coro.throw(error)
                else:
                    waits = coro.send(value)
        except StopIteration:
            return


class Body:
    """A request body that is given out by one of `body`'s classes."""

    def __init__(self, source: Any) -> None:
        self._source = source

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._source)


class AsyncBody:
    """The same, asynchronous."""

    def __init__(self, source: Any) -> None:
        self._source = source

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._source)


class Decoding:
    """The body of an answer, decoded in pieces of at most 64 KiB."""

    def __init__(
        self,
        stream: Any,
        decoder: Decoder,
        fault: Callable[[DecodingFault], Exception],
        *,
        stated: bool,
    ) -> None:
        self._stream = stream
        self._decoder = decoder
        self._fault = fault
        self._stated = stated

    def __iter__(self) -> Generator[bytes]:
        try:
            yield from decoded(self._stream, self._decoder, empty=self._stated)
        except DecodingFault as fault:
            raise self._fault(fault) from fault

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        try:
            async for piece in adecoded(self._stream, self._decoder, empty=self._stated):
                yield piece
        except DecodingFault as fault:
            raise self._fault(fault) from fault

    def close(self) -> None:
        self._stream.close()

    async def aclose(self) -> None:
        await self._stream.aclose()


class Begun:
    """A body whose first pieces have been read."""

    def __init__(self, pieces: list[bytes], rest: Iterator[bytes], stream: Any) -> None:
        self._pieces = pieces
        self._rest = rest
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        yield from self._pieces
        yield from self._rest

    def close(self) -> None:
        self._stream.close()


class AsyncBegun:
    """The same, asynchronous."""

    def __init__(self, pieces: list[bytes], rest: AsyncIterator[bytes], stream: Any) -> None:
        self._pieces = pieces
        self._rest = rest
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece
        async for piece in self._rest:
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Tracked:
    """An opened body: its exchange hears how its reading goes, and its permits come back."""

    def __init__(self, exchange: Exchange, stream: Any) -> None:
        self._exchange = exchange
        self._stream = stream
        self._reader: Any = None
        self._closed = False

    def __del__(self) -> None:
        if not self._closed:
            self._exchange.abandon()
            self._drop()
            warnings.warn(
                "an answer was neither read to its end nor closed",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )

    def _drop(self) -> None:
        """Give the connection up, without waiting."""


class Held(_Tracked):
    """An opened body of a synchronous client."""

    def __iter__(self) -> Iterator[bytes]:
        if self._reader is None:
            self._reader = reading(self._exchange, self._stream)
        return self._reader  # type: ignore[no-any-return]  # a generator

    def close(self) -> None:
        self._closed = True
        if self._reader is not None:
            with suppress(ValueError):  # another thread is reading; the end comes to it below
                self._reader.close()
        self._exchange.body_closed()  # its guard lets the socket go before the pool has it
        self._stream.close()

    def _drop(self) -> None:
        # On another thread: this one may have been collecting garbage in the middle of the
        # pool's own work, with the lock that closing takes.
        with suppress(RuntimeError):  # the interpreter is ending
            threading.Thread(target=self._stream.close, daemon=True).start()


class AsyncHeld(_Tracked):
    """An opened body of an asynchronous client."""

    def __init__(self, exchange: Exchange, stream: Any) -> None:
        super().__init__(exchange, stream)
        self._loop = asyncio.get_running_loop()

    def __aiter__(self) -> AsyncIterator[bytes]:
        if self._reader is None:
            self._reader = areading(self._exchange, self._stream)
        return self._reader  # type: ignore[no-any-return]  # a generator

    def _drop(self) -> None:
        loop, stream = self._loop, self._stream
        with suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(lambda: loop.create_task(stream.aclose()))

    async def aclose(self) -> None:
        self._closed = True
        try:
            if self._reader is not None:
                with suppress(RuntimeError):  # another task is reading
                    await self._reader.aclose()
            self._exchange.body_closed()
        finally:
            await Undisturbed(self._stream.aclose())
