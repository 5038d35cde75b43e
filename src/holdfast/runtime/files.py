"""The file seam: the few operations that durable work needs, and nothing else.

Handles are positional (`pwrite`, `pread`): no shared offset, so threads need no lock.

In a path `ROOT//a/b` what follows the last `//` comes from others. Each of its directories is
opened from the one above it and must not be a link, so it stays below ROOT also while somebody
puts links in its way; a check beforehand could not see that. ROOT itself may be a link: whoever
chose it meant where it leads. `beneath` makes such a path.

A simulated counterpart loses what was not synced and tears writes.
"""

from __future__ import annotations

import errno
import os
import stat as _stat
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from holdfast.runtime.linux import CANNOT_ALLOCATE, WHOLE_SYNC, fallocate, whole_sync

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _typeshed import ReadableBuffer as Buffer


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What is known of a name. regular is False for a link, directory, device or FIFO.

    taken: bytes on the disk; more than `size` where room was taken beforehand.
    """

    size: int
    mtime: float
    regular: bool
    taken: int = 0


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

    def allocate(self, size: int) -> bool:
        """Take the room that `size` bytes need, from the start; the length stays as it is.

        False: this file system cannot. Raises OSError (ENOSPC, EDQUOT) if there is no room.
        """
        ...

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

    def allocate(self, size: int) -> bool:
        """Take the room by fallocate(2), where there is one."""
        call = fallocate()
        if call is None or size <= 0:
            return False
        number = call(self._fd, size)
        if number in CANNOT_ALLOCATE:
            return False
        if number:
            raise OSError(number, os.strerror(number))
        return True

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


def beneath(root: str, path: str) -> str:
    """Return the path of `path` below `root`, no component of which may be a link."""
    # Of a plain name there is no directory in between, and its own link is never followed.
    return f"{root}//{path}" if "/" in path else f"{root}/{path}"


@contextmanager
def _parent(path: str) -> Iterator[tuple[str, int | None]]:
    """Open the directory of the last component; yield that component, and the directory."""
    root, mark, rest = path.rpartition("//")
    if not mark:
        yield path, None
        return
    *parents, name = rest.split("/")
    fd = _descend(root, parents)
    try:
        yield name, fd
    finally:
        os.close(fd)


def _descend(root: str, names: list[str], *, make: bool = False) -> int:
    fd = os.open(root or "/", _DIRECTORY)
    try:
        for name in names:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(name, dir_fd=fd)
            inner = os.open(name, _DIRECTORY | _NO_FOLLOW, dir_fd=fd)
            os.close(fd)
            fd = inner
    except BaseException:
        os.close(fd)
        raise
    return fd


_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_DIRECTORY = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC


class SystemFiles:
    """The machine's file system."""

    # O_NOFOLLOW: a link planted at the name must not redirect our bytes.
    _FLAGS = os.O_CLOEXEC | _NO_FOLLOW

    def create(self, path: str) -> SystemFile:
        """Open a new file, without exec bits."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | self._FLAGS
        with _parent(path) as (name, parent):
            return SystemFile(os.open(name, flags, 0o666, dir_fd=parent))

    def open(self, path: str, *, write: bool = False) -> SystemFile:
        """Open an existing file."""
        # Without O_NONBLOCK opening a FIFO would wait for its other end.
        mode = (os.O_RDWR if write else os.O_RDONLY) | os.O_NONBLOCK
        with _parent(path) as (name, parent):
            fd = os.open(name, mode | self._FLAGS, dir_fd=parent)
        if not _stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "not a regular file", path)
        return SystemFile(fd)

    def rename(self, source: str, target: str) -> None:
        """Replace `target` atomically."""
        with _parent(source) as (old, old_dir), _parent(target) as (new, new_dir):
            os.replace(old, new, src_dir_fd=old_dir, dst_dir_fd=new_dir)

    def unlink(self, path: str) -> None:
        """Remove a name."""
        with _parent(path) as (name, parent):
            os.unlink(name, dir_fd=parent)

    def makedirs(self, path: str) -> None:
        """Create a directory and its parents."""
        root, mark, rest = path.rpartition("//")
        os.makedirs(root or "/" if mark else path, exist_ok=True)
        if mark:
            os.close(_descend(root, rest.split("/"), make=True))

    def sync_dir(self, path: str) -> None:
        """Sync the directory itself: a rename is durable only then."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        with _parent(path or ".") as (name, parent):
            fd = os.open(name, flags | (_NO_FOLLOW if parent is not None else 0), dir_fd=parent)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def stat(self, path: str) -> FileInfo | None:
        """Look without following a link."""
        try:
            with _parent(path) as (name, parent):
                found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return None
        taken = found.st_blocks * 512
        return FileInfo(found.st_size, found.st_mtime, _stat.S_ISREG(found.st_mode), taken)

    def listdir(self, path: str) -> list[str]:
        """Return the names, sorted."""
        return sorted(os.listdir(path))

    def free_space(self, path: str) -> int:
        """Return the bytes available to this user."""
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def volume(self, path: str) -> SystemVolume | None:
        """Open the file system of a directory, where `syncfs` can be relied on."""
        calls = whole_sync()
        if calls is None:
            return None
        fd = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if calls[1](fd) not in WHOLE_SYNC:
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
