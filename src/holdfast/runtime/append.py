"""Lines at the end of a file that several processes write, and that must not grow for ever.

A write of whole lines to a file that is open for appending goes to its end in one piece, so
writers need no lock. Whoever finds the file too large renames it (`log` to `log.1`, that to
`log.2`, ...) under a lock; the others see at their next write that the name belongs to another
file, and open that one. So it is no matter who rotates, another program included.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BLOCK = 256 * 1024
"""Bytes of one write at most, but for a line that is longer."""


class Appender:
    """One file for lines. May be used by one thread at a time.

    most: bytes after which it is renamed.  kept: how many older ones are kept.
    descriptor: write there instead, and never rename.
    """

    def __init__(
        self, path: str, *, most: int = 50 << 20, kept: int = 5, descriptor: int | None = None
    ) -> None:
        self._path = path
        self._most = most
        self._kept = kept
        self._fixed = descriptor is not None
        self._fd = -1 if descriptor is None else descriptor
        self._torn = False  # the file may end inside a line of ours

    def write(self, lines: Sequence[bytes]) -> int:
        """Write whole lines, each with its end; return how many were written.

        Raises OSError if not even the first was.
        """
        written = 0
        for block, count in _blocks(lines):
            try:
                self._turn(len(block))
                self._put(block)
            except OSError:
                if not written:
                    raise
                return written
            written += count
        return written

    def _put(self, block: bytes) -> None:
        data = memoryview(b"\n" + block if self._torn else block)
        while data:
            taken = os.write(self._fd, data)
            data = data[taken:]
            self._torn = bool(data)

    def _turn(self, more: int) -> None:
        """Open the file; take another if it is too large, or has another name by now."""
        if self._fixed:
            return
        if self._fd >= 0 and not self._is_named():
            self.close()
        if self._fd < 0:
            self._open()
        found = os.fstat(self._fd)
        if stat.S_ISREG(found.st_mode) and found.st_size and found.st_size + more > self._most:
            self._rotate()

    def _open(self) -> None:
        # Without O_NONBLOCK opening a FIFO would wait for its reader.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        self._fd = os.open(self._path, flags, 0o600)
        self._torn = False

    def _is_named(self) -> bool:
        try:
            named = os.stat(self._path)
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(self._fd))

    def _rotate(self) -> None:
        with suppress(OSError):  # where it may not be renamed it grows: no line is lost for that
            self._rename()
        if not self._is_named():
            self.close()
            self._open()

    def _rename(self) -> None:
        with self._locked() as locked:
            if locked and self._is_named():  # else somebody else is doing it, or has done it
                for number in range(self._kept, 0, -1):
                    older = f"{self._path}.{number - 1}" if number > 1 else self._path
                    with suppress(FileNotFoundError):
                        os.replace(older, f"{self._path}.{number}")

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        import fcntl

        fd = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            locked = False
        else:
            locked = True
        try:
            yield locked
        finally:
            os.close(fd)

    def close(self) -> None:
        """Give the file back; the next write opens it again."""
        if not self._fixed and self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


def _blocks(lines: Sequence[bytes]) -> Iterator[tuple[bytes, int]]:
    """Yield blocks of whole lines, and how many each has."""
    block: list[bytes] = []
    size = 0
    for line in lines:
        if block and size + len(line) > BLOCK:
            yield b"".join(block), len(block)
            block, size = [], 0
        block.append(line)
        size += len(line)
    if block:
        yield b"".join(block), len(block)
