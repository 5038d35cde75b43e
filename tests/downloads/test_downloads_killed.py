"""`kill -9` at every step of one file and of a batch. Nothing is lost that was journaled."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from downloads_kill_rig import Death, Killer
from downloads_rig import downloads, names_in, sha256_of

import holdfast as hf
import holdfast.transfer.extents
import holdfast.transfer.part
from holdfast.downloads.downloads import read_status
from holdfast.runtime.random import SeededRandom

if TYPE_CHECKING:
    from collections.abc import Iterator

KIB = 1024
EXTENT = 64 * KIB
EXTENTS = 64
SIZE = EXTENT * EXTENTS - 1000  # the last extent is not a full one
WORKERS = 8
GROUP = 12
BUFFER = 32 * KIB
"""What a stream collects before it writes, here. Usually 1 MiB beside extents of 8 MiB."""


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory if there is one: a killed process leaves the page cache alone."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="holdfast-test-", dir="/dev/shm") as name:
        yield Path(name)


@pytest.fixture(autouse=True)
def small_extents(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the processes that die, so that the next run believes what they left."""
    monkeypatch.setattr(holdfast.transfer.part, "CHECKPOINT_BYTES", EXTENT)
    monkeypatch.setattr(holdfast.transfer.extents, "EXTENT_SIZE", EXTENT)
    monkeypatch.setattr(holdfast.transfer.extents, "SPLIT_FROM", 2 * EXTENT)


class OneFile:
    """A file of 64 extents, killed at a call and then finished by this process."""

    def __init__(self, server: hf.chaos.Server, root: Path, killer: Killer, streams: int) -> None:
        self.server = server
        self.root = root
        self.killer = killer
        self.streams = streams
        self.file = (server.url("/x"), server.expected_sha256("/x"))

    def check(self, call: int) -> Death:
        into = self.root / str(call)
        death = self.killer.run(into, [self.file], call=call)
        assert death.signal in {0, signal.SIGKILL}
        kept = self.kept(into)
        done = "x" in names_in(into) if into.exists() else False
        assert not done or sha256_of(into / "x") == self.file[1]
        # What was written and is not journaled: one extent of each stream, as it was in hand.
        assert done or death.written - kept <= self.streams * (EXTENT + BUFFER)
        with downloads(into, workers=self.streams) as d:
            d.add(self.file[0], sha256=self.file[1])
            report = d.run()
        assert report.exit_code == 0, (call, report)
        assert names_in(into) == ["x"]
        assert sha256_of(into / "x") == self.file[1]
        assert report.fetched == (0 if done else SIZE - kept), call
        shutil.rmtree(into)
        return death

    @staticmethod
    def kept(into: Path) -> int:
        """Return what the journal that a dead process left says to be on disk."""
        if not (into / ".holdfast.db").exists():
            return 0
        try:
            items = read_status(str(into)).items
        except hf.downloads.DownloadError:
            return 0  # it died before the journal had its tables
        return items[0].kept if items else 0


@pytest.fixture(params=[1, 4], ids=["one stream", "four streams"])
def one_file(request: pytest.FixtureRequest, quick: Path) -> Iterator[OneFile]:
    streams = int(request.param)
    with (
        hf.chaos.server(hf.chaos.Object("/x", SIZE)) as server,
        Killer(extent=EXTENT, workers=streams) as killer,
    ):
        yield OneFile(server, quick, killer, streams)


def chosen(calls: int, some: int) -> list[int]:
    """Return the first calls, the last, and some of those between."""
    draws = SeededRandom("some")
    between = [int(4 + draws.draw() * (calls - 10)) for _ in range(some)]
    return [1, 2, 3, *between, *range(calls - 6, calls + 1)]


def test_kill_9_at_some_calls_of_a_file_of_64_extents(one_file: OneFile) -> None:
    calls = one_file.check(0).calls
    assert calls >= EXTENTS
    died = [one_file.check(call).signal for call in chosen(calls, 6)]
    # How many calls several streams need depends on how they meet.
    assert died.count(signal.SIGKILL) >= len(died) - (0 if one_file.streams == 1 else 8)


@pytest.mark.long
def test_kill_9_at_every_call_of_a_file_of_64_extents(one_file: OneFile) -> None:
    calls = one_file.check(0).calls
    died = [one_file.check(call).signal for call in range(1, calls + 1)]
    assert died.count(signal.SIGKILL) >= (calls if one_file.streams == 1 else calls // 2)


SYSTEM_CALLS = "pwrite64,fdatasync,fsync,ftruncate,rename,unlink"


def killed_by_strace(call: int, words: list[str]) -> int:
    """Run a command that dies on entering such a system call of any thread; return its status."""
    inject = f"inject={SYSTEM_CALLS}:signal=SIGKILL:when={call}"
    strace = ["strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={SYSTEM_CALLS}", "-e", inject]
    return subprocess.run([*strace, *words], check=False, capture_output=True).returncode


@pytest.mark.long
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_kill_9_at_every_system_call_of_the_command(quick: Path) -> None:
    """Those within SQLite as well, which the seam does not see: its frames, syncs, checkpoints."""
    size, at = 40 * KIB, 0
    with hf.chaos.server(hf.chaos.Object("/x", size), hf.chaos.Object("/y", size)) as server:
        words = [sys.executable, "-m", "holdfast", "get", server.url("/x"), server.url("/y")]
        words += ["--workers", "1", "-o"]
        while True:
            at += 1
            into = quick / str(at)
            status = killed_by_strace(at, [*words, str(into)])
            if status == 0:
                break
            assert status in {-signal.SIGKILL, 128 + signal.SIGKILL}, at
            for name in {"x", "y"} & set(names_in(into) if into.exists() else []):
                assert sha256_of(into / name) == server.expected_sha256(f"/{name}")
            done = subprocess.run([*words, str(into)], check=False, capture_output=True)
            assert (done.returncode, names_in(into)) == (0, ["x", "y"]), (at, done.stderr)
            assert sha256_of(into / "y") == server.expected_sha256("/y")
            shutil.rmtree(into)
    assert at > 20


# -- a batch ---------------------------------------------------------------------------------------


class Batch:
    """200 files, and a directory in which processes that fetch them are killed one by one.

    at_most: files that one kill may cause to be fetched again.
    """

    def __init__(self, server: hf.chaos.Server, into: Path, killer: Killer, at_most: int) -> None:
        self.server = server
        self.into = into
        self.killer = killer
        self.at_most = at_most
        self.paths = [route.path for route in server.routes]
        self.files = [
            (server.url(path), server.expected_sha256(path) if n % 2 else None)
            for n, path in enumerate(self.paths)
        ]
        self.done: set[str] = set()
        self.again: Counter[str] = Counter()

    def kill(self, *, call: int = 0, after: float = 0) -> Death:
        """Run until it dies, and check what it left."""
        before = len(self.server.log)
        death = self.killer.run(self.into, self.files, call=call, after=after)
        assert death.exit_code in {-1, 0}
        asked = {entry.path for entry in self.server.log[before:]}
        assert not self.done & asked  # what has its name is not fetched again
        journaled = self.journaled()
        for name in set(self.names()) - {path[1:] for path in self.done}:
            path = f"/{name}"
            assert (self.into / name).read_bytes() == self.server.expected_bytes(path)
        self.done |= journaled | {f"/{name}" for name in self.names()}
        lost = asked - self.done
        assert len(lost) <= self.at_most
        self.again.update(lost)
        return death

    def journaled(self) -> set[str]:
        """Return the files that need not be fetched again: they are done, or lack only a name."""
        if not (self.into / ".holdfast.db").exists():
            return set()
        try:
            items = read_status(str(self.into)).items
        except hf.downloads.DownloadError:
            return set()  # it died before the journal had its tables
        return {f"/{item.path}" for item in items if item.state in {"done", "finishing"}}

    def names(self) -> list[str]:
        return (
            [n for n in names_in(self.into) if not n.endswith(".part")]
            if self.into.exists()
            else []
        )

    def begin_anew(self, into: Path) -> None:
        """Fetch everything once more, into another directory."""
        self.into = into
        self.done.clear()

    def finish(self) -> None:
        last = self.kill()
        assert (last.signal, last.exit_code) == (0, 0)
        assert names_in(self.into) == sorted(path[1:] for path in self.paths)
        assert read_status(str(self.into)).counts == {"done": len(self.paths)}


@pytest.fixture(params=["threads", "asyncio"])
def batch(request: pytest.FixtureRequest, quick: Path) -> Iterator[Batch]:
    draws = SeededRandom("sizes")
    # Most are small; every tenth is large enough for several checkpoints; three are empty.
    sizes = [int(draws.draw() * (400 if n % 10 == 0 else 30) * KIB) * (n > 2) for n in range(200)]
    objects = [hf.chaos.Object(f"/{n:03}.nc", size) for n, size in enumerate(sizes)]
    # A worker has one file in hand. One group of small files may be on its way to the disk, and
    # the next one be filled.
    at_most = WORKERS + 2 * GROUP
    with (
        hf.chaos.server(*objects) as server,
        Killer(group=GROUP, workers=WORKERS, plane=request.param) as killer,
    ):
        yield Batch(server, quick / "d", killer, at_most)


def kill_often(batch: Batch, kills: int) -> None:
    """Half of them at a random call of the file system, half of them at a random time."""
    draws = SeededRandom(f"{kills} kills")
    for kill in range(kills):
        by_call = kill % 2
        while (
            batch.kill(
                call=int(1 + draws.draw() * 60) if by_call else 0,
                after=0 if by_call else 0.02 + draws.draw() * 0.1,
            ).signal
            != signal.SIGKILL
        ):
            batch.finish()  # it was faster: the next ones die in another directory
            batch.begin_anew(batch.into.with_name(f"d{kill}"))
    batch.finish()
    assert batch.again  # else nothing was under way when it died


def test_some_kills_in_a_batch_of_200_files_lose_nothing(batch: Batch) -> None:
    kill_often(batch, 10)


@pytest.mark.long
def test_fifty_kills_in_a_batch_of_200_files_lose_nothing(batch: Batch) -> None:
    kill_often(batch, 50)
