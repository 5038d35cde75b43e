"""The programs that benchmarks start: where they are, which version, what they cost, their end.

CPU is what the scheduler has booked (utime + stime) to all threads of all processes of a session:
it is of the nanosecond where /proc tells so, else of the clock's tick.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

HERE = Path(__file__).parent
STARTING = 20.0


# -- programs ------------------------------------------------------------------------------------


def found(program: str) -> str | None:
    """Return where a program is: beside this Python (PyPI), else in PATH (Debian), or nowhere."""
    beside = Path(sys.executable).with_name(program)
    if beside.exists():
        return str(beside)
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def version(*command: str) -> str:
    """Return the version that a program says it has, when asked so; `?` if it says none."""
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    number = re.search(r"\d+(\.\d+)+", told.stdout + told.stderr)
    return number[0] if number else "?"


def note_missing(program: str, name: str, install: str) -> None:
    """Say on stderr that somebody is left out, because a program is missing."""
    print(
        f"note: {program} is missing, so `{name}` is left out. To have it: {install}",
        file=sys.stderr,
    )


# -- ports ---------------------------------------------------------------------------------------


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


# -- processes -----------------------------------------------------------------------------------


class Running:
    """A process with its children, in a session of its own; all are gone after the block.

    core: the only one that they may use; None: all.
    """

    def __init__(self, command: Sequence[str], core: int | None = None, **options: Any) -> None:
        pinned = ["taskset", "-c", str(core), *command] if core is not None else list(command)
        self.process: subprocess.Popen[str] = subprocess.Popen(
            pinned, start_new_session=True, text=True, **options
        )

    def kill(self) -> None:
        """End it and its children."""
        kill_session(self.process.pid)
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def await_port(self, port: int, advice: str = "") -> None:
        """Return when it takes connections. advice: what to do if it does not, for the error."""
        until = time.monotonic() + STARTING
        name = f"`{' '.join(map(str, self.process.args))}`"  # type: ignore[arg-type]  # a list
        while time.monotonic() < until:
            code = self.process.poll()
            if code is not None:
                raise SystemExit(f"error: {name} ended at once (exit code: {code})\n  {advice}")
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            time.sleep(0.02)
        raise SystemExit(f"error: {name} does not listen after {STARTING:g} s\n  {advice}")

    def pids(self) -> list[int]:
        """Return all processes of the session."""
        own = self.process.pid
        entries = Path("/proc").glob("[0-9]*")
        return [int(entry.name) for entry in entries if _session(entry) == own]

    def cpu(self) -> float:
        """Return the seconds of CPU that its processes have used."""
        return sum(map(cpu_of, self.pids()))

    def memory(self) -> int:
        """Return the bytes that are resident in its processes."""
        return sum(map(memory_of, self.pids()))


class Script(Running):
    """One of the scripts beside this one: it is told what to do in JSON, and first says a line.

    said: that line.  Until its input ends, it answers each line with one.
    """

    def __init__(self, script: str, told: object, core: int | None = None) -> None:
        super().__init__(
            [sys.executable, str(HERE / script), json.dumps(told)],
            core,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.said = self._read()

    def ask(self, line: str = "?") -> Any:
        """Return the answer to a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())


def kill_session(pid: int) -> None:
    """Kill a process that has a session of its own, with its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def memory_of(pid: int) -> int:
    """Return the bytes that are resident in a process; 0 if it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def cpu_of(pid: int) -> float:
    """Return the seconds of CPU that a process has used, all its threads."""
    try:
        spent = [
            int((task / "schedstat").read_text().split()[0])
            for task in Path(f"/proc/{pid}/task").iterdir()
        ]
        return sum(spent) / 1e9
    except OSError:
        return _ticks(pid)


def _ticks(pid: int) -> float:
    fields = _stat(Path(f"/proc/{pid}"))
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def _session(entry: Path) -> int:
    fields = _stat(entry)
    return int(fields[3]) if fields else -1


def _stat(entry: Path) -> list[str]:
    """Return what the system tells of a process, from its state on; nothing if it has ended."""
    try:
        return (entry / "stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return []
