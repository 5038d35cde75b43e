"""Request bodies that may have to be sent again: never a short one.

bytes, str, None            sent again as they are
a seekable file             sent again from where it stood at first
an iterator                 sent once; with `replay_buffer=N` what it gave is kept up to N
                            bytes, and sent again before what it still has
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator

PIECE = 64 << 10
"""Bytes that are read from a file at once."""


class Body(Protocol):
    """A request body as the exchange sees it."""

    @property
    def replayable(self) -> bool:
        """Whether it can be sent (again) from its start now."""
        ...


class File:
    """A seekable file: each sending starts where it stood at first."""

    __slots__ = ("_file", "_start")

    def __init__(self, file: Any) -> None:
        self._file = file
        self._start = file.tell()

    replayable = True

    def rewind(self) -> Any:
        """Return the file, standing at its start."""
        self._file.seek(self._start)
        return self._file

    def __iter__(self) -> Iterator[bytes]:
        """Give the whole file from its start, in pieces."""
        file = self.rewind()
        while piece := file.read(PIECE):
            yield piece


class Kept:
    """What of an iterator was given out, up to `limit` bytes; beyond that nothing is kept."""

    __slots__ = ("_begun", "_limit", "_pieces", "_size", "_whole")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: list[bytes] = []
        self._size = 0
        self._whole = True
        self._begun = False

    @property
    def replayable(self) -> bool:
        """Whether nothing has been given out yet, or all of it was kept."""
        return not self._begun or self._whole

    def _begin(self) -> list[bytes]:
        if not self.replayable:
            raise RuntimeError("this body was given out and cannot be sent again")
        return list(self._pieces)

    def _gave(self, piece: bytes) -> None:
        self._begun = True
        self._size += len(piece)
        if self._size <= self._limit:
            self._pieces.append(piece)
        else:
            self._broke()

    def _broke(self) -> None:
        """Note that what is kept is not all, or that there will be no rest."""
        self._begun = True
        self._whole = False
        self._pieces.clear()


class Once(Kept):
    """An iterator as a body."""

    __slots__ = ("_rest",)

    def __init__(self, pieces: Iterable[bytes], limit: int = 0) -> None:
        super().__init__(limit)
        self._rest = iter(pieces)

    def __iter__(self) -> Iterator[bytes]:
        """Give it from its start; RuntimeError if that is not possible any more."""
        yield from self._begin()
        while True:
            try:
                piece = next(self._rest)
            except StopIteration:
                return
            except BaseException:
                self._broke()  # a generator that raised has ended: asked again it would be short
                raise
            self._gave(piece)
            yield piece


class AsyncOnce(Kept):
    """An asynchronous iterator as a body."""

    __slots__ = ("_rest",)

    def __init__(self, pieces: AsyncIterable[bytes], limit: int = 0) -> None:
        super().__init__(limit)
        self._rest = aiter(pieces)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Give it from its start; RuntimeError if that is not possible any more."""
        for piece in self._begin():
            yield piece
        while True:
            try:
                piece = await anext(self._rest)
            except StopAsyncIteration:
                return
            except BaseException:
                self._broke()  # so has one that was cancelled
                raise
            self._gave(piece)
            yield piece


def is_seekable_file(value: object) -> bool:
    """Say whether `value` is a file whose position can be set."""
    if not hasattr(value, "read"):
        return False
    seekable = getattr(value, "seekable", None)
    try:
        return bool(seekable()) if seekable is not None else hasattr(value, "seek")
    except (OSError, ValueError):
        return False  # closed, or a pipe that says so
