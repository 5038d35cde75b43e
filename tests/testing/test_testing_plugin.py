"""The pytest plugin: there when it is wanted, unnoticed when it is not."""

import subprocess
import sys

PROJECT = """
import asyncio, time
from holdfast.runtime.clock import clock

def test_clock(holdfast_clock):
    clock.sleep(3600)
    assert holdfast_clock.slept == [3600]

def test_sim(holdfast_sim):
    async def main(sim):
        await asyncio.sleep(3600)
        return sim.clock.now
    assert holdfast_sim(main, seed=4).value == 3600

def test_leak(holdfast_sim):
    async def main(sim):
        sim.kept = asyncio.create_task(asyncio.Event().wait())
        await asyncio.sleep(0)
    holdfast_sim(main)

def test_unaffected():
    begin = time.monotonic()
    clock.sleep(0.01)
    assert time.monotonic() - begin >= 0.01
"""


def test_fixtures_work_in_a_project_of_its_own(tmp_path):
    (tmp_path / "test_project.py").write_text(PROJECT)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "3 passed" in done.stdout, done.stdout + done.stderr
    assert "1 failed" in done.stdout
    assert "SimFailure: seed 0: task left" in done.stdout


def test_loading_it_imports_nothing_of_weight():
    program = (
        "import sys, pytest; before = set(sys.modules); import holdfast.testing.plugin; "
        "print(*sorted(m for m in set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert {m for m in loaded if m.startswith("holdfast")} == {
        "holdfast",
        "holdfast._version",
        "holdfast.testing",
        "holdfast.testing.plugin",
    }
    assert "asyncio" not in loaded
