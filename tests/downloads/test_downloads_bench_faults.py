"""The rig of `benchmarks/faults.py` breaks what it says, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING

import pytest

from benchmark_runs import BENCHMARKS, assert_ends_clean

if TYPE_CHECKING:
    from types import ModuleType

SIZE = 2 << 20
NAIVE = "curl, one try"


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import faults  # noqa: PLC0415 - a script, found only with the line above

    return faults


def trial(
    faults: ModuleType, name: str, fault: str, ceiling: float = 20, **asked: object
) -> object:
    import faults_clients  # noqa: PLC0415 - see `faults`

    client = next((c for c in faults_clients.CLIENTS if c.name == name), None)
    if client is None:
        command = faults_clients.program("holdfast", limit=0.5, **asked)
        client = faults_clients.Client(name, command, "holdfast", "")
    return faults.Trial(client, fault, faults.versions(SIZE, 1), ceiling).run()


@pytest.mark.skipif(which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ("none", "right"),
        ("rst", "F"),
        ("fin", "F"),
        ("stall", "F"),
        ("503", "F"),
        ("replaced", "F"),
        ("flipped", "S"),
    ],
)
def test_a_naive_client_meets_each_fault(faults: ModuleType, fault: str, outcome: str) -> None:
    cell = trial(faults, NAIVE, fault, ceiling=1)
    assert cell.outcome == outcome
    assert (cell.struck > 0) == (fault != "none")
    if fault == "stall":
        assert cell.exit is None
        assert cell.ratio < 1
    elif fault in {"none", "flipped"}:
        assert cell.ratio == 1
    elif fault == "replaced":
        assert cell.ratio == pytest.approx(0.4, abs=0.01)


@pytest.mark.skipif(which("curl") is None, reason="curl is not installed")
def test_who_joins_two_versions_is_found_out(faults: ModuleType) -> None:
    cell = trial(faults, "loop of curl -C -", "replaced")
    assert (cell.outcome, cell.exit) == ("S", 0)


@pytest.mark.parametrize(("fault", "most"), [("rst", 1.01), ("replaced", 1.41)])
def test_holdfast_brings_the_right_file(faults: ModuleType, fault: str, most: float) -> None:
    cell = trial(faults, "ours", fault)
    assert (cell.outcome, cell.stray) == ("right", 0)
    assert cell.ratio <= most
    assert cell.struck > 0


def test_a_flipped_byte_is_found_with_piece_sums_and_only_with_a_digest(
    faults: ModuleType,
) -> None:
    assert trial(faults, "ours", "flipped").outcome == "S"
    assert trial(faults, "ours", "flipped", pieces=True).outcome == "right"


def test_the_worst_round_is_the_one_that_is_shown(faults: ModuleType) -> None:
    from faults_results import Cell, worst  # noqa: PLC0415 - see `faults`

    cells = [Cell("right", 1.0, 1, 1, 0), Cell("F", 0.5, 9, 1, 1)]
    cells += [Cell("S", 0.9, 2, 1, 0), Cell("S", 0.7, 4, 1, 0, stray=2)]
    assert str(worst(cells)) == "**S** 0.80 +2, 3 s"
    assert str(worst(cells[:2])) == "F 0.50, 9 s"


def test_a_process_and_its_children_end_with_the_block(faults: ModuleType) -> None:
    command = ["/bin/sh", "-c", "sleep 60 & echo $!; wait"]
    with faults.Running(command, stdout=subprocess.PIPE) as running:
        child = int(running.process.stdout.readline())
        os.kill(child, 0)
    until = time.monotonic() + 5
    while is_alive(child) and time.monotonic() < until:
        time.sleep(0.01)
    assert not is_alive(child)
    assert running.process.returncode == -signal.SIGKILL


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and waits for its parent does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.skipif(which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_that_was_started(number: int, tmp_path: Path) -> None:
    words = ["faults.py", "--only", NAIVE, "--fault", "stall", "--size", "2"]
    assert_ends_clean(words, "faults_origin.py", number, tmp_path)


def test_results_name_machine_versions_and_command(tmp_path: Path) -> None:
    script, out = BENCHMARKS / "faults.py", tmp_path / "out.json"
    told = subprocess.run(
        [sys.executable, str(script), "--only", "holdfast", "--fault", "none", "--size", "1",
         "--json", str(out)],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    results = json.loads(out.read_text())
    assert {"machine", "python", "date", "command", "tools", "size", "seed"} <= set(results)
    assert "holdfast" in results["tools"]
    assert "\n".join(results["table"]) in told.stdout
    assert "no fault: holdfast: 1.00" in told.stderr
