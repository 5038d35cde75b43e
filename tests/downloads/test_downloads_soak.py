"""Many files, and many hours: nothing grows, nothing is lost."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING

import pytest
from downloads_rig import downloads, quick_policy

import holdfast as hf
from benchmark_runs import BENCHMARKS
from holdfast.chaos.line import Plain
from holdfast.chaos.message import Answer, text_answer
from holdfast.runtime.clock import clock
from holdfast.runtime.random import SeededRandom
from holdfast.transfer.plane import Timeouts

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

KIB = 1024


@pytest.fixture
def soak(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import soak  # noqa: PLC0415 - a script, found only with the line above

    return soak


@pytest.mark.parametrize("objects", [3000, pytest.param(100_000, marks=pytest.mark.long)])
def test_thousands_of_files_with_faults_in_little_memory(
    objects: int, soak: ModuleType, tmp_path: Path
) -> None:
    """The small edition of `benchmarks/soak.py`, without what it says of the pace."""
    result = soak.soak(objects, 0.05, 1, "auto", str(tmp_path))
    assert min(result["faults"].values()) > objects / 200  # each kind struck
    assert (result["wrong"], result["strays"]) == (0, 0)
    assert result["report"]["done"] == objects
    assert result["report"]["exit_code"] == 0
    assert result["peak"] <= soak.MEMORY_LIMIT
    first, last = result["tenths"][0], result["tenths"][-1]
    assert last["rss"] - first["rss"] < 10e6
    assert max(tenth["fds"] for tenth in result["tenths"]) <= soak.WORKERS + soak.SPARE
    assert last["threads"] <= first["threads"] + 2


def test_a_file_that_is_wrong_or_absent_is_counted(soak: ModuleType, tmp_path: Path) -> None:
    """The soak itself would see it."""
    result = soak.soak(40, 0.5, 2, "auto", str(tmp_path))
    assert (result["wrong"], result["strays"]) == (0, 0)
    files = sorted(tmp_path.rglob("*.bin"))
    assert len(files) == 40
    files[3].write_bytes(b"wrong")
    files[5].unlink()
    (tmp_path / "stray").touch()
    assert soak.count_wrong(str(tmp_path), 40, 2) == 2
    assert soak.count_strays(str(tmp_path), 40) == 0  # one came and one went
    for goal, (met, _) in soak.goals({**result, "wrong": 2}).items():
        assert met or goal == "every file there and right" or "pace" in goal


class Grudging:
    """Gives 4 KiB at a time, and between two of them asks to come back in 500 s."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.requests = 0

    def answer(self, request: hf.chaos.Request) -> Answer:
        self.requests += 1
        if self.requests % 2 == 0:
            refusal = text_answer(503, "later\n")
            refusal.headers["Retry-After"] = "500"
            return refusal
        asked = request.headers.get("range", "bytes=0-")
        start, size = int(asked.removeprefix("bytes=").split("-")[0]), len(self.content)
        headers = {"ETag": '"1"', "Accept-Ranges": "bytes"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        body = Plain(self.content[start : start + 4 * KIB])
        status = 206 if start else 200
        return Answer(status, headers, body, length=size - start, close=True)


def test_eight_hours_of_waits_cost_neither_bytes_nor_threads(tmp_path: Path) -> None:
    """On a clock that jumps over waits: 60 pieces, and 500 s between two of them."""
    content = SeededRandom("content").token(120 * KIB).encode()
    origin = Grudging(content)
    with hf.chaos.server(hf.chaos.Handler("/x", origin.answer)) as server, hf.testing.clock():
        began, threads = clock.monotonic(), threading.active_count()
        with downloads(tmp_path, policy=quick_policy(3), timeouts=Timeouts()) as d:
            d.add(server.url("/x"), sha256=hashlib.sha256(content).hexdigest())
            report = d.run()
        assert clock.monotonic() - began > 8 * 3600
        assert threading.active_count() <= threads  # some of other tests may have ended
    assert (report.exit_code, report.fetched) == (0, len(content))
    assert origin.requests == 119
    assert (tmp_path / "x").read_bytes() == content
