"""Benchmarks as they are run: as programs, which a signal may end at any time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def assert_ends_clean(words: list[str], child: str, number: int, folder: Path) -> None:
    """Run a benchmark; see that a signal ends it, what it has started, and all its files.

    words: the script and its options, but for the seed.  child: the script that is started.
    number: of the signal.  folder: for what is temporary.
    """
    seed = str(int.from_bytes(os.urandom(6)))  # to find what was started
    script, *options = words
    with subprocess.Popen(
        [sys.executable, str(BENCHMARKS / script), *options, "--seed", seed],
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        until = time.monotonic() + 20
        while not started(child, seed) and time.monotonic() < until:
            time.sleep(0.02)
        assert started(child, seed)
        time.sleep(0.5)
        process.send_signal(number)
        process.communicate(timeout=10)
    assert process.returncode == 128 + number
    assert started(child, seed) == []
    assert list(folder.iterdir()) == []


def started(child: str, seed: str) -> list[int]:
    """Return the processes of a script that was told this seed."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue
        if child.encode() in line and f'"seed": {seed}'.encode() in line:
            found.append(int(entry.name))
    return found
