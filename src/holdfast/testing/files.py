"""A simulated file system that forgets what was not synced, and fails on request.

    files = SimFiles()
    with holdfast.runtime.files.install(files):
        ...                        # product code
    files.crash()                  # the power fails; what is left is what was synced

Two kinds of things are volatile until they are synced. The bytes (and length) of a file, until
`datasync` on a handle of it; the names in a directory, until `sync_dir` on that directory. At a
power cut each un-synced write survives sector by sector (512 bytes) or not, each un-synced name
operation as a whole or not; without a source of randomness nothing un-synced survives.

After a failed `datasync` Linux forgets that the pages were dirty: the bytes can still be read,
a second sync reports success, and they never reach the disk. So it is here.

Several threads may use it: each call is a whole, as in a kernel.
"""

from __future__ import annotations

import errno
import functools
import os
import posixpath
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from holdfast.runtime.clock import clock
from holdfast.runtime.files import FileInfo

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import ReadableBuffer as Buffer

    from holdfast.runtime.random import SeededRandom

_P = ParamSpec("_P")
_R = TypeVar("_R")
_Self = TypeVar("_Self", "SimFiles", "SimFile")


def _whole(
    method: Callable[Concatenate[_Self, _P], _R],
) -> Callable[Concatenate[_Self, _P], _R]:
    """Let no other thread's call come in between."""

    @functools.wraps(method)
    def locked(self: _Self, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with self.lock:
            return method(self, *args, **kwargs)

    return locked


SECTOR = 512
"""Bytes that a disk writes as a whole."""


class PowerCut(BaseException):
    """The power failed at this call. Not an `Exception`: nobody may handle it and go on."""


@dataclass(slots=True)
class _Write:
    """An un-synced change of a file's bytes: data at an offset, or a new length."""

    offset: int
    data: bytes | None
    length: int


@dataclass(slots=True, eq=False)
class _Inode:
    """A file: what reads see, what the disk has, and what lies between."""

    kind: str = "file"
    data: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    pending: list[_Write] = field(default_factory=list)
    sectors: set[int] = field(default_factory=set)
    mtime: float = 0.0


@dataclass(slots=True, eq=False)
class _Op:
    """An un-synced change of names, whole or not at all: (directory, name) -> inode or None."""

    changes: dict[tuple[str, str], _Inode | None]


@dataclass(slots=True)
class _Plan:
    """A failure to come: at call `at` (and after, if `onwards`), of the operations named."""

    at: int
    error: int | None
    short: bool
    cut: bool
    onwards: bool
    ops: tuple[str, ...]
    seen: int = 0


class SimFiles:
    """A file system in memory behind the seam `runtime.files.Files`.

    capacity: bytes that fit, in sectors of 512; ENOSPC beyond.
    calls: how many calls were made; a sweep runs once to learn it, then fails each in turn.
    log: (operation, path) of every call.
    """

    def __init__(self, *, capacity: int = 1 << 40) -> None:
        self.capacity = capacity
        self.lock = threading.RLock()
        self.log: list[tuple[str, str]] = []
        self._dirs: dict[str, dict[str, _Inode]] = {"/": {}}
        self._durable: dict[str, dict[str, _Inode]] = {"/": {}}
        self._ops: list[_Op] = []
        self._plans: list[_Plan] = []
        self._epoch = 0
        self._open: dict[SimFile | SimVolume, str] = {}

    # -- what a test may order -------------------------------------------------------------------

    @property
    def calls(self) -> int:
        """How many calls were made so far."""
        return len(self.log)

    def fail(self, at: int, error: int, *ops: str, onwards: bool = False) -> None:
        """Let call number `at` from now (1 = the next) raise `OSError(error)`.

        ops: count only these operations ("create", "open", "pwrite", "pread", "truncate",
        "allocate", "datasync", "rename", "unlink", "makedirs", "sync_dir", "stat", "listdir",
        "free_space"); default all.
        onwards: all later ones fail too, until `heal`.
        """
        self._plans.append(_Plan(at, error, short=False, cut=False, onwards=onwards, ops=ops))

    def short(self, at: int) -> None:
        """Let the `at`-th `pwrite` from now take only a part of its bytes."""
        self._plans.append(_Plan(at, None, short=True, cut=False, onwards=False, ops=("pwrite",)))

    def cut_at(self, at: int, *ops: str) -> None:
        """Let the power fail before call number `at` from now: it raises `PowerCut`."""
        self._plans.append(_Plan(at, None, short=False, cut=True, onwards=False, ops=ops))

    def heal(self) -> None:
        """Forget all failures to come."""
        self._plans.clear()

    @_whole
    def crash(self, source: SeededRandom | None = None) -> None:
        """Cut the power and start again; handles of before are dead.

        source: draws what un-synced survives, sector by sector; None: nothing does.
        """
        self.heal()
        self._epoch += 1
        self._open.clear()
        for op in self._ops:
            if source is not None and source.draw() < 0.5:
                self._commit(op)
        self._ops.clear()
        reached = dict.fromkeys(i for names in self._durable.values() for i in names.values())
        for inode in reached:
            _settle(inode, source)
        self._dirs = {path: dict(names) for path, names in self._durable.items()}

    def plant(self, path: str, kind: str) -> None:
        """Put something in the way at `path`: "link", "directory" or "device"."""
        path = _normal(path)
        if kind == "directory":
            self.makedirs(path)
            return
        parent, name = posixpath.split(path)
        self._dirs[parent][name] = self._durable[parent][name] = _Inode(kind)

    def put(self, path: str, data: bytes) -> None:
        """Put a durable file at `path`, directories included."""
        path = _normal(path)
        parent, name = posixpath.split(path)
        self._make(parent)
        inode = _Inode(data=bytearray(data), durable=bytes(data), mtime=clock.wall())
        inode.sectors = _sectors(len(data))
        self._dirs[parent][name] = self._durable[parent][name] = inode

    def read(self, path: str) -> bytes:
        """Return the bytes at `path` as a reader sees them now."""
        return bytes(self._file(_normal(path)).data)

    def left(self) -> list[str]:
        """Return the paths of the handles that are still open."""
        return sorted(self._open.values())

    # -- the seam ----------------------------------------------------------------------------------

    @_whole
    def create(self, path: str) -> SimFile:
        """Open a new file; FileExistsError if the name is taken."""
        path = self.enter("create", path)
        parent, name = posixpath.split(path)
        names = self._names(parent, path)
        if name in names or path in self._dirs:
            raise _error(errno.EEXIST, path)
        inode = _Inode(mtime=clock.wall())
        names[name] = inode
        self._ops.append(_Op({(parent, name): inode}))
        return self._handle(inode, path, write=True)

    @_whole
    def open(self, path: str, *, write: bool = False) -> SimFile:
        """Open an existing regular file; a link is refused with ELOOP."""
        path = self.enter("open", path)
        return self._handle(self._file(path), path, write=write)

    @_whole
    def rename(self, source: str, target: str) -> None:
        """Replace `target` atomically."""
        source, target = self.enter("rename", source), _normal(target)
        old_dir, old = posixpath.split(source)
        new_dir, new = posixpath.split(target)
        inode = self._names(old_dir, source).get(old)
        names = self._names(new_dir, target)
        if inode is None:
            raise _error(errno.ENOENT, source)
        if target in self._dirs:
            raise _error(errno.EISDIR, target)
        if source == target:
            return
        del self._dirs[old_dir][old]
        names[new] = inode
        self._ops.append(_Op({(old_dir, old): None, (new_dir, new): inode}))

    @_whole
    def unlink(self, path: str) -> None:
        """Remove a name; open handles keep the file."""
        path = self.enter("unlink", path)
        parent, name = posixpath.split(path)
        if path in self._dirs:
            raise _error(errno.EISDIR, path)
        if self._names(parent, path).pop(name, None) is None:
            raise _error(errno.ENOENT, path)
        self._ops.append(_Op({(parent, name): None}))

    @_whole
    def makedirs(self, path: str) -> None:
        """Create a directory and its parents. They are durable at once (see `_make`)."""
        self._make(self.enter("makedirs", path))

    @_whole
    def sync_dir(self, path: str) -> None:
        """Make the names in a directory durable."""
        path = self.enter("sync_dir", path)
        self._names(path, path)
        kept = []
        for op in self._ops:
            if any(directory == path for directory, _ in op.changes):
                # A rename between two directories is one record of the file system's journal.
                self._commit(op)
            else:
                kept.append(op)
        self._ops = kept

    @_whole
    def stat(self, path: str) -> FileInfo | None:
        """Return what is known of `path`; None if absent."""
        path = self.enter("stat", path)
        if path in self._dirs:
            return FileInfo(0, 0.0, regular=False)
        parent, name = posixpath.split(path)
        inode = self._dirs.get(parent, {}).get(name)
        if inode is None:
            if parent not in self._dirs and self._why_not(parent) == errno.ENOTDIR:
                raise _error(errno.ENOTDIR, path)
            return None
        taken = SECTOR * len(inode.sectors)
        return FileInfo(len(inode.data), inode.mtime, inode.kind == "file", taken)

    @_whole
    def listdir(self, path: str) -> list[str]:
        """Return the names in a directory, sorted."""
        path = self.enter("listdir", path)
        inside = [
            posixpath.basename(other)
            for other in self._dirs
            if other != path and posixpath.dirname(other) == path
        ]
        return sorted([*self._names(path, path), *inside])

    @_whole
    def free_space(self, path: str) -> int:
        """Return the bytes that still fit."""
        self.enter("free_space", path)
        return max(0, self.capacity - self._used())

    @_whole
    def volume(self, path: str) -> SimVolume:
        """Open the whole file system."""
        path = self.enter("volume", path)
        self._names(path, path)
        return SimVolume(self, path, self._epoch)

    # -- inside ------------------------------------------------------------------------------------

    def enter(self, op: str, path: str) -> str:
        """Count one call and fail it if that was ordered; return the path in normal form."""
        path = _normal(path)
        self.log.append((op, path))
        # Every plan counts the call, also when an earlier one fails it.
        for plan in [plan for plan in self._plans if self._due(plan, op)]:
            if plan.short:
                continue
            if plan.cut:
                raise PowerCut(f"power cut before {op} {path} (call {self.calls})")
            assert plan.error is not None  # noqa: S101 - neither short nor cut
            raise _error(plan.error, path)
        return path

    @staticmethod
    def _due(plan: _Plan, op: str) -> bool:
        if plan.ops and op not in plan.ops:
            return False
        plan.seen += 1
        return plan.seen >= plan.at if plan.onwards else plan.seen == plan.at

    def takes(self, inode: _Inode, offset: int, size: int) -> int:
        """Return how many of `size` bytes are written: fewer if ordered; ENOSPC if none fit."""
        # `enter` has counted this pwrite for every plan already.
        if any(plan.short and plan.seen == plan.at for plan in self._plans):
            self._plans = [plan for plan in self._plans if not plan.short or plan.seen != plan.at]
            size = max(1, size // 2)
        free = (self.capacity - self._used()) // SECTOR
        first, last = offset // SECTOR, (offset + size - 1) // SECTOR
        for sector in range(first, last + 1):
            if sector in inode.sectors:
                continue
            if free <= 0:
                size = max(0, sector * SECTOR - offset)
                if not size:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                break
            inode.sectors.add(sector)
            free -= 1
        return size

    @_whole
    def sync_all(self) -> None:
        """Make all bytes and names durable. If it fails, what was pending never will be."""
        inodes = dict.fromkeys(i for names in self._dirs.values() for i in names.values())
        try:
            self.enter("syncfs", "/")
        except OSError:
            for inode in inodes:
                inode.pending.clear()
            raise
        for inode in inodes:
            for write in inode.pending:
                inode.durable = _applied(inode.durable, write, None)
            inode.pending.clear()
        for op in self._ops:
            self._commit(op)
        self._ops.clear()

    def allocate(self, inode: _Inode, size: int) -> None:
        """Take the sectors of `size` bytes, all or none."""
        wanted = set(range(-(-size // SECTOR))) - inode.sectors
        if len(wanted) * SECTOR > self.capacity - self._used():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        inode.sectors |= wanted

    def alive(self, epoch: int) -> bool:
        """Return whether a handle of this epoch survived (no power cut since)."""
        return epoch == self._epoch

    def opened(self, handle: SimFile | SimVolume, path: str) -> None:
        """Remember an open handle."""
        self._open[handle] = path

    def closed(self, handle: SimFile | SimVolume) -> None:
        """Forget an open handle."""
        self._open.pop(handle, None)

    def _used(self) -> int:
        # As on a disk a hole costs nothing: only sectors that were written count.
        inodes = (inode for names in self._dirs.values() for inode in names.values())
        return SECTOR * sum(len(inode.sectors) for inode in inodes)

    def _names(self, directory: str, path: str) -> dict[str, _Inode]:
        names = self._dirs.get(directory)
        if names is None:
            raise _error(self._why_not(directory), path)
        return names

    def _why_not(self, directory: str) -> int:
        """Return why there is no such directory: nothing there, or a file in the way."""
        while directory not in self._dirs:
            directory, name = posixpath.split(directory)
            if name in self._dirs.get(directory, {}):
                return errno.ENOTDIR
        return errno.ENOENT

    def _file(self, path: str) -> _Inode:
        parent, name = posixpath.split(path)
        if path in self._dirs:
            raise _error(errno.EISDIR, path)
        inode = self._names(parent, path).get(name)
        if inode is None:
            raise _error(errno.ENOENT, path)
        if inode.kind == "link":
            raise _error(errno.ELOOP, path)
        return inode

    def _handle(self, inode: _Inode, path: str, *, write: bool) -> SimFile:
        handle = SimFile(self, inode, path, self._epoch, write=write)
        self.opened(handle, path)
        return handle

    def _make(self, path: str) -> None:
        # Directories are not torn away at a power cut: that would only repeat what losing the
        # names inside them tests already.
        missing = []
        while path not in self._dirs:
            parent, name = posixpath.split(path)
            if name in self._dirs.get(parent, {}):
                raise _error(errno.EEXIST, path)
            missing.append(path)
            path = parent
        for directory in missing:
            self._dirs[directory] = {}
            self._durable[directory] = {}

    def _commit(self, op: _Op) -> None:
        for (directory, name), inode in op.changes.items():
            if inode is None:
                self._durable[directory].pop(name, None)
            else:
                self._durable[directory][name] = inode


class SimFile:
    """An open file of `SimFiles`."""

    def __init__(
        self, files: SimFiles, inode: _Inode, path: str, epoch: int, *, write: bool
    ) -> None:
        self.lock = files.lock
        self._files = files
        self._inode = inode
        self._path = path
        self._epoch = epoch
        self._write = write
        self._closed = False

    @_whole
    def pwrite(self, data: Buffer, offset: int) -> int:
        """Write at `offset`; return how many bytes were taken."""
        self._check("pwrite", write=True)
        piece = bytes(data)
        piece = piece[: self._files.takes(self._inode, offset, len(piece))]
        inode = self._inode
        if len(inode.data) < offset:
            inode.data.extend(bytes(offset - len(inode.data)))
        inode.data[offset : offset + len(piece)] = piece
        inode.pending.append(_Write(offset, piece, len(inode.data)))
        inode.mtime = clock.wall()
        return len(piece)

    @_whole
    def pread(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes from `offset`."""
        self._check("pread")
        return bytes(self._inode.data[offset : offset + size])

    @_whole
    def truncate(self, size: int) -> None:
        """Cut or extend with zeros."""
        self._check("truncate", write=True)
        data = self._inode.data
        del data[size:]
        data.extend(bytes(size - len(data)))
        kept = -(-size // SECTOR)  # also of what was only allocated
        self._inode.sectors = {sector for sector in self._inode.sectors if sector < kept}
        self._inode.pending.append(_Write(size, None, size))
        self._inode.mtime = clock.wall()

    @_whole
    def allocate(self, size: int) -> bool:
        """Take the room of `size` bytes; the length stays."""
        self._check("allocate", write=True)
        self._files.allocate(self._inode, size)
        return True

    @_whole
    def datasync(self) -> None:
        """Make bytes and length durable. If it fails, what was pending never will be."""
        inode = self._inode
        self._check_open()
        try:
            self._files.enter("datasync", self._path)
        except OSError:
            inode.pending.clear()
            raise
        for write in inode.pending:
            inode.durable = _applied(inode.durable, write, None)
        inode.pending.clear()

    @_whole
    def size(self) -> int:
        """Return the length in bytes."""
        self._check("size")
        return len(self._inode.data)

    @_whole
    def close(self) -> None:
        """Give the handle back; a second call does nothing."""
        self._closed = True
        self._files.closed(self)

    def _check(self, op: str, *, write: bool = False) -> None:
        self._check_open(write=write)
        self._files.enter(op, self._path)

    def _check_open(self, *, write: bool = False) -> None:
        if self._closed or not self._files.alive(self._epoch) or (write and not self._write):
            raise _error(errno.EBADF, self._path)


class SimVolume:
    """The whole of `SimFiles`, held open."""

    def __init__(self, files: SimFiles, path: str, epoch: int) -> None:
        self._files = files
        self._path = path
        self._epoch = epoch
        self._closed = False
        files.opened(self, path)

    def sync(self) -> None:
        """Make everything durable; see `SimFiles.sync_all`."""
        if self._closed or not self._files.alive(self._epoch):
            raise _error(errno.EBADF, self._path)
        self._files.sync_all()

    def close(self) -> None:
        """Give the handle back; a second call does nothing."""
        self._closed = True
        self._files.closed(self)


def _settle(inode: _Inode, source: SeededRandom | None) -> None:
    """Give the file what the disk has after a power cut."""
    if source is not None:
        for write in inode.pending:
            inode.durable = _applied(inode.durable, write, source)
    inode.pending.clear()
    inode.data = bytearray(inode.durable)
    inode.sectors = _sectors(len(inode.durable))


def _sectors(size: int) -> set[int]:
    return set(range(-(-size // SECTOR)))


def _applied(durable: bytes, write: _Write, source: SeededRandom | None) -> bytes:
    """Return the disk's bytes after `write`; with a source each sector and the length may fail."""
    image = bytearray(durable)
    if write.data is None:
        if source is None or source.draw() < 0.5:
            image = image[: write.length].ljust(write.length, b"\0")
        return bytes(image)
    position, end = write.offset, write.offset + len(write.data)
    while position < end:
        stop = min(end, (position // SECTOR + 1) * SECTOR)
        if source is None or source.draw() < 0.5:
            if len(image) < position:
                image.extend(bytes(position - len(image)))
            image[position:stop] = write.data[position - write.offset : stop - write.offset]
        position = stop
    return bytes(image)


def _normal(path: str) -> str:
    return posixpath.normpath(posixpath.join("/", path))


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)
