"""A program that fetches small files, and kills itself (SIGKILL) at a given call of the files.

    python downloads_small_killed.py URL COUNT DIR CALL PLANE

Prints the number of calls if it lives to the end.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from downloads_rig import downloads

from holdfast.runtime import files as seam
from holdfast.runtime.files import SystemFile, SystemFiles, SystemVolume

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

    def datasync(self) -> None:
        step()
        super().datasync()


class KillingVolume(SystemVolume):
    def sync(self) -> None:
        step()
        super().sync()


class KillingFiles(SystemFiles):
    def create(self, path: str) -> KillingFile:
        step()
        made = super().create(path)
        mine = KillingFile(os.dup(made._fd))
        made.close()
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
        if found is None:
            return None
        mine = KillingVolume(os.dup(found._fd), found._syncfs)
        found.close()
        return mine


if __name__ == "__main__":
    url, count, into = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    with seam.install(KillingFiles()), downloads(into, plane=sys.argv[5]) as d:
        d.add_many([f"{url}{n}" for n in range(count)])
        report = d.run()
    sys.stdout.write(f"{calls}\n")
    raise SystemExit(report.exit_code)
