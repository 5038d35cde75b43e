"""Who has a port that was wanted: as far as the kernel tells this user."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_LISTENING = "0A"


def occupant_of(port: int) -> str:
    """Return `process 4711 (nginx)` for who listens at a TCP port; empty if that is not known.

    Source: proc(5), /proc/net/tcp and /proc/PID/fd. Other users' processes are not told.
    """
    inodes = {f"socket:[{one}]" for table in ("tcp", "tcp6") for one in _inodes(table, port)}
    if not inodes:
        return ""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            for fd in (process / "fd").iterdir():
                with suppress(OSError):  # closed meanwhile
                    if os.readlink(fd) in inodes:  # noqa: PTH115 - not a path
                        name = (process / "comm").read_text(errors="replace").strip()
                        return f"process {process.name} ({name})"
    return ""


def _inodes(table: str, port: int) -> list[str]:
    try:
        lines = Path("/proc/net", table).read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return []
    rows = [line.split() for line in lines]
    return [
        row[9]
        for row in rows
        if row[3] == _LISTENING and int(row[1].rpartition(":")[2], 16) == port
    ]
