"""A program that starts processes which fetch, and die (SIGKILL) at a given call of the files.

    python downloads_killed.py              reads one JSON line per process, answers with one

Each process is forked off here, where all is imported and no thread runs: that costs 20 ms, a
new interpreter a third of a second. See `Killer` in `downloads_kill_rig`.

In: {"into", "files": [[url, sha256 or null], ...], "call": which one kills, 0 for none, "after":
seconds until this program kills, 0 for never, "extent": bytes, "group": files, "options": of
`Downloads`}.
Out: {"signal", "exit_code", "calls": how many there were, "written": bytes into parts}.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import struct
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from downloads_rig import downloads

import holdfast.downloads.group
import holdfast.transfer.extents
import holdfast.transfer.part
import holdfast.transfer.plane_threads
from holdfast.runtime import files as seam
from holdfast.runtime.files import SystemFile, SystemFiles, Volume

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

board = mmap.mmap(-1, 16)  # shared with the process that dies: calls, and bytes written
kill_at = 0


def step() -> None:
    calls, written = struct.unpack("QQ", board[:16])
    board[:16] = struct.pack("QQ", calls + 1, written)
    if calls + 1 == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)


class KillingFile(SystemFile):
    def pwrite(self, data: ReadableBuffer, offset: int) -> int:
        step()
        n = super().pwrite(data, offset)
        calls, written = struct.unpack("QQ", board[:16])
        board[:16] = struct.pack("QQ", calls, written + n)
        return n

    def truncate(self, size: int) -> None:
        step()
        super().truncate(size)

    def datasync(self) -> None:
        step()
        super().datasync()


class KillingVolume:
    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self.close = volume.close

    def sync(self) -> None:
        step()
        self._volume.sync()


class KillingFiles(SystemFiles):
    """Counts all calls that change something."""

    def create(self, path: str) -> KillingFile:
        step()
        return self._mine(super().create(path))

    def open(self, path: str, *, write: bool = False) -> KillingFile:
        return self._mine(super().open(path, write=write))

    @staticmethod
    def _mine(file: SystemFile) -> KillingFile:
        mine = KillingFile(os.dup(file._fd))
        file.close()
        return mine

    def rename(self, source: str, target: str) -> None:
        step()
        super().rename(source, target)

    def unlink(self, path: str) -> None:
        step()
        super().unlink(path)

    def sync_dir(self, path: str) -> None:
        step()
        super().sync_dir(path)

    def volume(self, path: str) -> KillingVolume | None:
        found = super().volume(path)
        return KillingVolume(found) if found is not None else None


def fetch(order: dict[str, Any]) -> int:
    if order["extent"]:
        holdfast.transfer.part.CHECKPOINT_BYTES = order["extent"]
        holdfast.transfer.extents.EXTENT_SIZE = order["extent"]
        holdfast.transfer.extents.SPLIT_FROM = 2 * order["extent"]
        holdfast.transfer.plane_threads.BUFFER = order["extent"] // 2
    if order["group"]:
        holdfast.downloads.group.MOST = order["group"]
    with seam.install(KillingFiles()), downloads(Path(order["into"]), **order["options"]) as d:
        for url, sha256 in order["files"]:
            d.add(url, sha256=sha256)
        return d.run().exit_code


def one(order: dict[str, Any]) -> dict[str, int]:
    global kill_at  # noqa: PLW0603 - one counter for all files of a process
    board[:16] = bytes(16)
    kill_at = order["call"]
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = fetch(order)
        finally:
            os._exit(code)
    if order["after"]:
        time.sleep(order["after"])
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    calls, written = struct.unpack("QQ", board[:16])
    died = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -1
    return {"signal": died, "exit_code": code, "calls": calls, "written": written}


if __name__ == "__main__":
    for line in sys.stdin:
        sys.stdout.write(json.dumps(one(json.loads(line))) + "\n")
        sys.stdout.flush()
