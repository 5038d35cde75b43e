"""Calls of Linux that Python does not have: `syncfs` and `fallocate`. Each is None elsewhere."""

from __future__ import annotations

import errno
import functools
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

TMPFS = 0x01021994
WHOLE_SYNC = {
    0xEF53,  # ext2, ext3, ext4
    0x58465342,  # XFS
    0x9123683E,  # Btrfs
    0xF2F52010,  # F2FS
    TMPFS,
    0x794C7630,  # overlayfs, which passes it on
}
"""File systems (`statfs.f_type`) whose `syncfs` writes all back and reports what failed.

Those over a network, or in a process of its own (FUSE), need not: there each file is synced.
"""


@functools.cache
def whole_sync() -> tuple[Callable[[int], int], Callable[[int], int]] | None:
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


_KEEP_SIZE = 1
CANNOT_ALLOCATE = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.ENODEV}


def _is_in_memory(fd: int) -> bool:
    """Whether to allocate is to fill memory: 0.4 s per GiB, in which no byte is moved.

    On a disk it is one entry in a table. So in memory it is only looked whether there is room.
    """
    calls = whole_sync()
    return calls is not None and calls[1](fd) == TMPFS


@functools.cache
def fallocate() -> Callable[[int, int], int] | None:
    """Return what allocates so many bytes of a descriptor and tells the errno; None: nothing does.

    Not `os.posix_fallocate`: where the file system cannot, the C library writes a byte into
    every block instead. That takes minutes on NFS, and nothing stops it.
    """
    if sys.platform != "linux":
        return None
    import ctypes

    try:
        call = ctypes.CDLL(None, use_errno=True).fallocate64
    except (OSError, AttributeError):
        return None
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]

    def allocate(fd: int, size: int) -> int:
        if _is_in_memory(fd):
            there = os.fstatvfs(fd)
            room = there.f_bavail * there.f_frsize + os.fstat(fd).st_blocks * 512
            return errno.ENOSPC if room < size else errno.EOPNOTSUPP
        while call(fd, _KEEP_SIZE, 0, size):
            number = ctypes.get_errno()
            if number != errno.EINTR:
                return number
        return 0

    return allocate
