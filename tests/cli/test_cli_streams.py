"""Where the output cannot go: a full disk, a stream that the caller has closed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FULL = Path("/dev/full")
COMMANDS = (["plan", "Retry(3)"], ["--help"], ["plan", "Retry(3)", "--json"])


def run(words: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload,no-any-return]  # streams by name
        [sys.executable, "-W", "error", "-m", "holdfast", *words],
        env={**os.environ, "PYTHONUNBUFFERED": ""},
        text=True,
        check=False,
        **options,
    )


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_full_disk_is_an_error_and_no_traceback(words: list[str]) -> None:
    if not FULL.exists():
        return
    with FULL.open("w") as full:
        done = run(words, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr == (
        "error: the output cannot be written: No space left on device\n"
        "  Send the output elsewhere. [HF-6003]\n"
    )


def test_an_error_that_cannot_be_written_anywhere_has_its_exit_code() -> None:
    if not FULL.exists():
        return
    with FULL.open("w") as full:
        assert run(["plan", "Retry(0)"], stdout=full, stderr=full).returncode == 2
        assert run(["plan", "Retry(0)", "--json"], stdout=full, stderr=full).returncode == 2
        assert run(["plan", "Retry(3)"], stdout=full, stderr=full).returncode == 1


@pytest.mark.parametrize("closed", ["0", "1", "2", "0, 1, 2"])
def test_a_stream_that_is_closed_is_as_one_that_leads_nowhere(closed: str) -> None:
    code = (
        f"import os, sys\nfor fd in ({closed},): os.close(fd)\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'holdfast', *sys.argv[1:]])"
    )
    words = [sys.executable, "-c", code, "plan", "Retry(3)", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr == ""
    if "1" in closed:
        assert done.stdout == ""
    else:
        assert json.loads(done.stdout)["attempts_max"] == 3
