"""The file seam: the few operations that durable work needs, and nothing else.

Handles are positional (`pwrite`, `pread`): no shared offset, so threads need no lock.
A simulated counterpart loses what was not synced and tears writes.
"""

from __future__ import annotations

import errno
import functools
import os
import stat as _stat
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


class Volume(Protocol):
    """A whole file system, held open from before the writes that it is to make safe."""

    def sync(self) -> None:
        """Return when all bytes and names on it are on stable storage.

        Raises OSError if anything was lost since it was opened. After an error: do not call
        again, and trust nothing that was written.
        """

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

    def volume(self, path: str) -> Volume | None:
        """Open the file system that a directory lies on; None: it cannot be synced as a whole."""
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


class SystemVolume:
    """A descriptor of a directory, for `syncfs`.

    The kernel remembers per open descriptor which failures of writing back were told to it, so
    one that was opened before the writes hears of every failure that could concern them.
    """

    __slots__ = ("_fd", "_syncfs")

    def __init__(self, fd: int, syncfs: Callable[[int], int]) -> None:
        self._fd = fd
        self._syncfs = syncfs

    def sync(self) -> None:
        """Sync all of it; the other threads run on meanwhile."""
        if self._syncfs(self._fd):
            import ctypes

            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def close(self) -> None:
        """Close once."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


_WHOLE_SYNC = {
    0xEF53,  # ext2, ext3, ext4
    0x58465342,  # XFS
    0x9123683E,  # Btrfs
    0xF2F52010,  # F2FS
    0x01021994,  # tmpfs
    0x794C7630,  # overlayfs, which passes it on
}
"""File systems (`statfs.f_type`) whose `syncfs` writes all back and reports what failed.

Those over a network, or in a process of its own (FUSE), need not: there each file is synced.
"""


@functools.cache
def _whole_sync() -> tuple[Callable[[int], int], Callable[[int], int]] | None:
    """Return `syncfs` and what tells the kind of a file system; None where they are not."""
    # Before Linux 5.8 syncfs did not report what could not be written.
    release = [int(n) for n in os.uname().release.split(".")[:2] if n.isdigit()]
    if sys.platform != "linux" or release < [5, 8]:
        return None
    import ctypes

    try:
        libc = ctypes.CDLL(None, use_errno=True)
        syncfs, fstatfs = libc.syncfs, libc.fstatfs
    except (OSError, AttributeError):
        return None

    def kind(fd: int) -> int:
        found = (ctypes.c_long * 64)()  # struct statfs begins with f_type and has 120 bytes
        return -1 if fstatfs(fd, found) else int(found[0])

    return syncfs, kind


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

    def volume(self, path: str) -> SystemVolume | None:
        """Open the file system of a directory, where `syncfs` can be relied on."""
        calls = _whole_sync()
        if calls is None:
            return None
        fd = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if calls[1](fd) not in _WHOLE_SYNC:
            os.close(fd)
            return None
        return SystemVolume(fd, calls[0])


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
