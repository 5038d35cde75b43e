"""The file seam: the few operations that durable work needs, and nothing else.

Handles are positional (`pwrite`, `pread`): no shared offset, so threads need no lock.
A simulated counterpart loses what was not synced and tears writes.
"""

from __future__ import annotations

import errno
import os
import stat as _stat
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed import ReadableBuffer as Buffer


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What is known of a name. regular is False for a link, directory, device or FIFO."""

    size: int
    mtime: float
    regular: bool


class File(Protocol):
    """An open file. Every method may raise OSError."""

    def pwrite(self, data: Buffer, offset: int) -> int:
        """Write at `offset`; return how many bytes were taken (may be fewer)."""
        ...

    def pread(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes from `offset`; empty at the end."""
        ...

    def truncate(self, size: int) -> None:
        """Cut or extend with zeros."""

    def datasync(self) -> None:
        """Return when the bytes are on stable storage. After an error: do not call again."""

    def size(self) -> int:
        """Return the length in bytes."""
        ...

    def close(self) -> None:
        """Give the handle back; a second call does nothing."""


class Files(Protocol):
    """A file system. Paths are text; every method may raise OSError."""

    def create(self, path: str) -> File:
        """Open a new file for reading and writing; FileExistsError if the name is taken."""
        ...

    def open(self, path: str, *, write: bool = False) -> File:
        """Open an existing regular file; a link as last component is refused."""
        ...

    def rename(self, source: str, target: str) -> None:
        """Replace `target` atomically."""

    def unlink(self, path: str) -> None:
        """Remove a name."""

    def makedirs(self, path: str) -> None:
        """Create a directory and its parents; an existing one is fine."""

    def sync_dir(self, path: str) -> None:
        """Make the names in a directory durable."""

    def stat(self, path: str) -> FileInfo | None:
        """Return what is known of `path` (links are not followed); None if absent."""
        ...

    def listdir(self, path: str) -> list[str]:
        """Return the names in a directory, sorted."""
        ...

    def free_space(self, path: str) -> int:
        """Return the bytes that this user may still write there."""
        ...


class SystemFile:
    """A file descriptor."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def pwrite(self, data: Buffer, offset: int) -> int:
        """Write at `offset`."""
        return os.pwrite(self._fd, data, offset)

    def pread(self, size: int, offset: int) -> bytes:
        """Read from `offset`."""
        return os.pread(self._fd, size, offset)

    def truncate(self, size: int) -> None:
        """Cut or extend with zeros."""
        os.ftruncate(self._fd, size)

    def datasync(self) -> None:
        """Sync data and length; macOS has no fdatasync."""
        getattr(os, "fdatasync", os.fsync)(self._fd)

    def size(self) -> int:
        """Return the length in bytes."""
        return os.fstat(self._fd).st_size

    def close(self) -> None:
        """Close once."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class SystemFiles:
    """The machine's file system."""

    # O_NOFOLLOW: a link planted at the name must not redirect our bytes.
    _FLAGS = os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)

    def create(self, path: str) -> SystemFile:
        """Open a new file, without exec bits."""
        return SystemFile(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | self._FLAGS, 0o666))

    def open(self, path: str, *, write: bool = False) -> SystemFile:
        """Open an existing file."""
        # Without O_NONBLOCK opening a FIFO would wait for its other end.
        mode = (os.O_RDWR if write else os.O_RDONLY) | os.O_NONBLOCK
        fd = os.open(path, mode | self._FLAGS)
        if not _stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "not a regular file", path)
        return SystemFile(fd)

    def rename(self, source: str, target: str) -> None:
        """Replace `target` atomically."""
        os.replace(source, target)

    def unlink(self, path: str) -> None:
        """Remove a name."""
        os.unlink(path)

    def makedirs(self, path: str) -> None:
        """Create a directory and its parents."""
        os.makedirs(path, exist_ok=True)

    def sync_dir(self, path: str) -> None:
        """Sync the directory itself: a rename is durable only then."""
        fd = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def stat(self, path: str) -> FileInfo | None:
        """Look without following a link."""
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return None
        return FileInfo(found.st_size, found.st_mtime, _stat.S_ISREG(found.st_mode))

    def listdir(self, path: str) -> list[str]:
        """Return the names, sorted."""
        return sorted(os.listdir(path))

    def free_space(self, path: str) -> int:
        """Return the bytes available to this user."""
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize


class _Active:
    __slots__ = ("installed",)

    def __init__(self, installed: Files) -> None:
        self.installed = installed


_active = _Active(SystemFiles())


def files() -> Files:
    """Return the installed file system."""
    return _active.installed


@contextmanager
def install(replacement: Files) -> Iterator[None]:
    """Use `replacement` inside the block."""
    before = _active.installed
    _active.installed = replacement
    try:
        yield
    finally:
        _active.installed = before
