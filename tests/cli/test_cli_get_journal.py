"""`holdfast get` and a journal that is damaged: refused with the way out, or rebuilt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cli_rig import KIB, get

import holdfast as hf
from holdfast.runtime.random import SeededRandom

if TYPE_CHECKING:
    from pathlib import Path


def test_a_damaged_journal_is_refused_and_rebuilt_on_request(tmp_path: Path) -> None:
    with hf.chaos.server(hf.chaos.Object("/x", 9 * KIB), hf.chaos.Object("/y", 9 * KIB)) as server:
        words = [server.url("/x"), server.url("/y"), "-o", str(tmp_path)]
        assert get(*words).returncode == 0
        journal = tmp_path / ".holdfast.db"
        content = bytearray(journal.read_bytes())
        content[4096 * 3 : 4096 * 3 + 100] = bytes(100)
        journal.write_bytes(content)
        refused = get(*words)
        assert refused.returncode == 2
        assert "[HF-1006]" in refused.stderr
        assert "--rebuild-journal" in refused.stderr
        (tmp_path / "y").unlink()
        done = get(*words, "--rebuild-journal")
        assert done.returncode == 0, done.stderr
        assert f"the old one: `{tmp_path}/.holdfast.db.broken`" in done.stderr
        assert "1 done, 1 skipped, 0 failed" in done.stderr
        assert (tmp_path / ".holdfast.db.broken").read_bytes() == content
        assert server.stats.requests == 3
        again = get(*words, "--rebuild-journal")
        assert "rebuilt" not in again.stderr
        assert again.returncode == 0


@pytest.mark.parametrize("seed", [0, 2, 6])
def test_no_damage_to_a_journal_shows_a_traceback(seed: int, tmp_path: Path) -> None:
    draws = SeededRandom(f"damage {seed}")
    with hf.chaos.server(hf.chaos.Object("/x", 9 * KIB), hf.chaos.Object("/y", 9 * KIB)) as server:
        assert get(server.url("/x"), "-o", str(tmp_path)).returncode == 0
        journal = tmp_path / ".holdfast.db"
        content = bytearray(journal.read_bytes())
        if seed == 0:
            del content[5000:]
        for _ in range(2 * seed * seed):
            content[int(draws.draw() * len(content))] = int(draws.draw() * 256)
        journal.write_bytes(content)
        for words in (["status"], [server.url("/y")], [server.url("/y"), "--rebuild-journal"]):
            done = get(*words, "-o", str(tmp_path))
            assert "Traceback" not in done.stderr
            assert done.returncode == 0 or "HF-1006" in done.stderr
        assert (tmp_path / "x").read_bytes() == server.expected_bytes("/x")
        assert (tmp_path / "y").read_bytes() == server.expected_bytes("/y")
