"""Opening a list so that it can be read twice: once to check it, once to use it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol, cast

from holdfast.downloads.failures import DownloadError

if TYPE_CHECKING:
    from collections.abc import Iterator

IN_MEMORY = 1 << 20
"""Bytes of a copy that are kept in memory; a longer one is a nameless file, gone with us."""


class Readable(Protocol):
    """A binary file, or something like one."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes."""
        ...

    def readline(self, limit: int, /) -> bytes:
        """Return the next line, at most `limit` bytes of it."""
        ...


@contextmanager
def opened(source: str | os.PathLike[str] | Readable) -> Iterator[tuple[IO[bytes], str]]:
    """Yield a file that stands at its start and can be read again, and its name for messages.

    source: a path, `-` for standard input, or a binary file. What cannot be rewound (a pipe, a
    terminal) is copied first.
    Raises DownloadError (HF-1009) if it cannot be read.
    """
    name, own = "the list", False
    try:
        if source == "-":
            name, file = "standard input", cast("IO[bytes]", sys.stdin.buffer)
        elif isinstance(source, (str, os.PathLike)):
            name, own = os.fspath(source), True
            file = Path(name).open("rb")  # noqa: SIM115 - closed below, as a file of ours
        else:
            file = cast("IO[bytes]", source)
        try:
            with _rewindable(file) as found:
                yield found, name
        finally:
            if own:
                file.close()
    except OSError as error:
        text = f"`{name}`: the list cannot be read ({error.strerror or error})"
        raise DownloadError("bad-list", text) from None


@contextmanager
def _rewindable(file: IO[bytes]) -> Iterator[IO[bytes]]:
    if getattr(file, "seekable", lambda: False)():
        file.seek(0)
        yield file
        return
    # Lists may hold tokens, so the copy has no name and belongs to this user alone.
    with tempfile.SpooledTemporaryFile(IN_MEMORY) as copy:
        shutil.copyfileobj(file, copy)
        copy.seek(0)
        yield cast("IO[bytes]", copy)
