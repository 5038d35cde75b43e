"""A program that fetches, and kills itself (SIGKILL) at a given call of the file system.

    python downloads_killed.py URL DIR SHA256 CALL STREAMS

Prints the number of calls if it lives to the end.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

from downloads_rig import downloads

import holdfast.transfer.extents
import holdfast.transfer.part
from holdfast.runtime import files as seam
from holdfast.runtime.files import SystemFile, SystemFiles

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

calls = 0


def step() -> None:
    global calls  # noqa: PLW0603 - one counter for all files of this program
    calls += 1
    if calls == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)


class KillingFile(SystemFile):
    def pwrite(self, data: ReadableBuffer, offset: int) -> int:
        step()
        return super().pwrite(data, offset)

    def truncate(self, size: int) -> None:
        step()
        super().truncate(size)

    def datasync(self) -> None:
        step()
        super().datasync()


class KillingFiles(SystemFiles):
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

    def sync_dir(self, path: str) -> None:
        step()
        super().sync_dir(path)


if __name__ == "__main__":
    from pathlib import Path

    streams = int(sys.argv[5])
    holdfast.transfer.part.CHECKPOINT_BYTES = 512 * 1024
    if streams > 1:
        holdfast.transfer.extents.EXTENT_SIZE = 512 * 1024
        holdfast.transfer.extents.SPLIT_FROM = 1024 * 1024
    with seam.install(KillingFiles()), downloads(Path(sys.argv[2]), workers=streams) as d:
        d.add(sys.argv[1], sha256=sys.argv[3])
        report = d.run()
    sys.stdout.write(f"{calls}\n")
    raise SystemExit(report.exit_code)
