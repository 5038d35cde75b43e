"""Which gateway runs, and how it is told something without ever telling a stranger.

`gateway-NAME.json` in the state directory says who serves, and the one who serves holds a lock
on it until it ends, however it ends. A number of a process alone proves nothing: numbers are
given again. So the file also has the moment at which the process began, in clock ticks since the
machine was started, and a signal goes through a descriptor of the process (pidfd), opened first
and compared with the file afterwards. A file whose lock is free, or whose process began at
another moment, is stale: it is replaced, and nobody is signalled. While somebody holds its lock it
may be a start that has not written yet, so then it is replaced only if it does not change for a
while.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import stat
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from holdfast._version import __version__
from holdfast.core.errors import HoldfastError
from holdfast.runtime.clock import clock

STARTING = 5.0
"""Seconds in which a start that holds the lock must have said who it is."""
_LOOK = 0.02


class BadState(HoldfastError):
    """The state directory cannot be used."""

    code = "HF-3203"
    exit_code = 2
    next_step = "Name another one in `HOLDFAST_STATE_DIR`."


class AlreadyRuns(HoldfastError):
    """A gateway of this name runs. pid: its process."""

    code = "HF-3204"
    exit_code = 1

    def __init__(self, cluster: str, pid: int) -> None:
        super().__init__(f"gateway `{cluster}` runs already, as process {pid}")
        self.cluster, self.pid = cluster, pid
        self.next_step = (
            f"End it with `holdfast gateway stop --cluster {cluster}`, give it another "
            "configuration with `holdfast gateway reload`, or name yours differently: "
            "`[gateway.NAME]`."
        )

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.cluster, self.pid))


@dataclass(frozen=True, slots=True)
class Running:
    """Who serves. start_ticks: when its process began, in ticks since the machine was started.

    host, port: of its first listener; a Unix socket's path and 0.  start_time: seconds since
    the epoch.
    """

    pid: int
    start_ticks: int
    host: str
    port: int
    start_time: float
    cluster: str
    version: str

    @property
    def is_alive(self) -> bool:
        """Whether that very process is there still."""
        return ticks_of(self.pid) == self.start_ticks


def state_directory() -> Path:
    """Return the directory for what outlives a command; made if absent, for this user only.

    `HOLDFAST_STATE_DIR`, else the user's (XDG Base Directory Specification 0.8).
    Raises BadState if it belongs to somebody else, or cannot be made.
    """
    named = os.environ.get("HOLDFAST_STATE_DIR")
    if not named:
        base = os.environ.get("XDG_STATE_HOME", "")
        named = str((Path(base) if base else Path.home() / ".local" / "state") / "holdfast")
    path = Path(named).expanduser().absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
    except OSError as error:
        raise BadState(f"`{path}`: it cannot be made: {error.strerror}") from None
    if found.st_uid not in {os.geteuid(), 0}:
        raise BadState(f"`{path}`: it belongs to another user")
    if found.st_mode & 0o022:
        raise BadState(f"`{path}`: others may write in it, which `chmod go-w` ends")
    return path


def ticks_of(pid: int) -> int:
    """Return when a process began, in clock ticks since the machine was started; 0: it is gone.

    Source: proc(5), field 22 of /proc/PID/stat. Where there is no /proc, a process that is there
    counts as begun at tick 1.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        if Path("/proc/self/stat").exists():
            return 0
        with suppress(OSError):
            os.kill(pid, 0)  # asks whether it is there, and tells it nothing
            return 1
        return 0
    fields = text.rpartition(")")[2].split()  # the name may hold blanks and brackets
    return 0 if fields[0] in {"Z", "X"} else int(fields[19])


class PidFile:
    """The file of one name. Whoever serves calls `acquire`, `write`, and `release` at the end."""

    def __init__(self, directory: Path, cluster: str) -> None:
        self.cluster = cluster
        self.path = directory / f"gateway-{cluster}.json"
        self._fd = -1

    def read(self) -> Running | None:
        """Return who serves; None if nobody does. Changes nothing.

        Raises BadState if the file may not be read, or is not one of ours.
        """
        try:
            fd = self._open(os.O_RDONLY)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BadState(f"`{self.path}`: {error.strerror}") from None
        try:
            if _lock(fd, fcntl.LOCK_SH):
                return None  # the lock is free: who wrote it is gone
            found = _parse(_content(fd))
        finally:
            os.close(fd)
        return found if found is not None and found.is_alive else None

    def acquire(self) -> None:
        """Become the one who serves. Raises AlreadyRuns, BadState, or OSError."""
        seen, since = self._seen(), clock.monotonic()
        while not self._take():
            found = self.read()
            if found is not None:
                raise AlreadyRuns(self.cluster, found.pid)
            now = self._seen()
            if now != seen:
                seen, since = now, clock.monotonic()
            elif seen is not None and clock.monotonic() - since > STARTING:
                self._remove_stale(seen)
            clock.sleep(_LOOK)

    def _open(self, how: int) -> int:
        """Open the file. Raises OSError, and BadState if it is another user's, or no file."""
        fd = os.open(self.path, how | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        found = os.fstat(fd)
        if found.st_uid in {os.geteuid(), 0} and stat.S_ISREG(found.st_mode):
            return fd
        os.close(fd)
        raise BadState(f"`{self.path}`: it belongs to another user, or is no file")

    def _take(self) -> bool:
        fd = self._open(os.O_RDWR | os.O_CREAT)
        if not _lock(fd, fcntl.LOCK_EX):
            os.close(fd)
            return False
        if not _is_same(fd, self.path):
            os.close(fd)  # its holder removed it between our open and our lock
            return False
        self._fd = fd
        self.write("", 0)  # who it is; where it listens is known later
        return True

    def _seen(self) -> tuple[int, int, bytes] | None:
        """Return which file is there, and what it says."""
        try:
            fd = self._open(os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            found = os.fstat(fd)
            return found.st_dev, found.st_ino, _content(fd)
        finally:
            os.close(fd)

    def _remove_stale(self, seen: tuple[int, int, bytes]) -> None:
        """Remove a file that is held, but not by whom it names: by a child that outlived it.

        Nobody else looks and removes meanwhile: what is removed is what was looked at.
        Raises BadState if it names nobody: whoever holds it may serve.
        """
        if _parse(seen[2]) is None:
            raise BadState(f"`{self.path}`: a process holds it that does not say who it is")
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            if self._seen() == seen:
                self.path.unlink(missing_ok=True)
        finally:
            os.close(directory)

    def write(self, host: str, port: int) -> Running:
        """Say who serves, and where."""
        pid = os.getpid()
        running = Running(
            pid, ticks_of(pid), host, port, round(clock.wall(), 3), self.cluster, __version__
        )
        data = json.dumps(asdict(running)).encode() + b"\n"
        os.pwrite(self._fd, data, 0)
        os.ftruncate(self._fd, len(data))
        return running

    def release(self) -> None:
        """Serve no longer; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            if _is_same(fd, self.path):
                self.path.unlink(missing_ok=True)
            os.close(fd)


def _lock(fd: int, kind: int) -> bool:
    """Take the lock if it is free."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _content(fd: int) -> bytes:
    return os.pread(fd, 65536, 0)


_UNKNOWN = {"host": "", "port": 0, "start_time": 0.0, "cluster": "", "version": ""}
"""What another version may not have said: who it is counts, and that is known without."""


def _parse(text: bytes) -> Running | None:
    """Return what a file says; None if it does not say who it is, or not yet."""
    try:
        value: dict[str, Any] = _UNKNOWN | json.loads(text)
        if not (isinstance(value["pid"], int) and isinstance(value["start_ticks"], int)):
            return None
        return Running(**{name: value[name] for name in Running.__dataclass_fields__})
    except (ValueError, KeyError, TypeError):
        return None


def _is_same(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


class Handle:
    """A process that was found to be the one of a pid file, and stays it while this is open.

    Raises ProcessLookupError if it is gone, or another one has its number.
    """

    def __init__(self, running: Running) -> None:
        self._running = running
        opener = getattr(os, "pidfd_open", None)
        self._fd = opener(running.pid) if opener is not None else -1
        if not running.is_alive:  # asked once the descriptor is there: now it cannot change
            self.close()
            raise ProcessLookupError(running.pid)

    def signal(self, number: int) -> None:
        """Send a signal; nothing happens if it is gone."""
        with suppress(ProcessLookupError):
            if self._fd >= 0:
                signal.pidfd_send_signal(self._fd, number)
            elif self._running.is_alive:
                os.kill(self._running.pid, number)

    def wait(self, seconds: float) -> bool:
        """Wait until it is gone; False: it is not."""
        due = clock.monotonic() + seconds
        while self._running.is_alive:
            left = due - clock.monotonic()
            if left <= 0:
                return False
            if self._fd >= 0:
                select.select([self._fd], [], [], min(left, 1.0))
            else:
                clock.sleep(min(left, _LOOK))
        return True

    def close(self) -> None:
        """Give the descriptor back."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
