"""One process at a time: an advisory lock that says who holds it.

The lock is the kernel's (`flock`), so it ends with its process however that ends; the pid in
the file is for the message only. The file is removed when the lock is given back, and a
newcomer who locked the removed file notices by its inode and tries again.

It is not behind the file seam: it keeps processes apart, and a simulation has one.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress

from holdfast.core.errors import HoldfastError


class Held(HoldfastError):
    """Another process holds the lock. pid: its number, or 0 if it did not say."""

    def __init__(self, path: str, pid: int) -> None:
        super().__init__(f"`{path}` is held by process {pid or 'unknown'}")
        self.path = path
        self.pid = pid

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.path, self.pid))


class ProcessLock:
    """An exclusive lock on a file of its own."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1

    def acquire(self) -> None:
        """Take it at once or raise Held; OSError if the file cannot be made."""
        while self._fd < 0:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = _pid_in(fd)
                os.close(fd)
                raise Held(self.path, pid) from None
            except BaseException:
                os.close(fd)
                raise
            if _is_same(fd, self.path):
                os.ftruncate(fd, 0)
                os.pwrite(fd, b"%d\n" % os.getpid(), 0)
                self._fd = fd
            else:
                os.close(fd)  # its holder removed it between our open and our lock

    def release(self) -> None:
        """Give it back; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):
                os.unlink(self.path)  # noqa: PTH108 - beside the other calls on the descriptor
            os.close(fd)


def _pid_in(fd: int) -> int:
    text = os.pread(fd, 20, 0).strip()
    return int(text) if text.isdigit() else 0


def _is_same(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False
