"""Death at every moment: by SIGKILL, by power cut, by a failing disk. Then the same again."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from downloads_rig import downloads, names_in, sha256_of

import holdfast as hf
import holdfast.transfer.extents
import holdfast.transfer.part
import holdfast.transfer.plane_threads
from holdfast.runtime import files as seam
from holdfast.runtime.random import SeededRandom
from holdfast.testing.files import PowerCut, SimFile, SimFiles

MIB = 1 << 20
SIZE = 4 * MIB
STEP = 512 * 1024


@pytest.fixture(params=[1, 4], ids=["one stream", "four streams"])
def streams(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Make checkpoints and extents small; with several streams a file of 4 MiB is a large one."""
    monkeypatch.setattr(holdfast.transfer.part, "CHECKPOINT_BYTES", STEP)
    monkeypatch.setattr(holdfast.transfer.plane_threads, "BUFFER", STEP // 2)
    count = int(request.param)
    if count > 1:
        monkeypatch.setattr(holdfast.transfer.extents, "EXTENT_SIZE", STEP)
        monkeypatch.setattr(holdfast.transfer.extents, "SPLIT_FROM", 2 * STEP)
    return count


def test_kill_9_loses_at_most_what_was_not_journaled(tmp_path: Path) -> None:
    """At each of several moments of a real download by the command, then the command again."""
    size = 64 * MIB
    obj = hf.chaos.Object("/x", size)
    slow = hf.chaos.Slow(bytes_per_second=16 * MIB)
    for part in (0.2, 0.5, 0.9):
        with hf.chaos.server(obj, faults=[slow]) as server:
            into = tmp_path / str(part)
            words = [sys.executable, "-m", "holdfast", "get", server.url("/x"), "-o", str(into)]
            process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            while server.stats.bytes_down < part * size:
                time.sleep(0.01)
            process.kill()
            process.communicate()
            served = server.stats.bytes_down
            assert names_in(into)[0].endswith(".part")
            server.use()
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            assert names_in(into) == ["x"]
            assert sha256_of(into / "x") == server.expected_sha256("/x")
            # 8 MiB of each of four streams at most, and what the sockets held.
            assert server.stats.bytes_down - size <= 4 * 8 * MIB + 8 * MIB
            assert served < size


class Disk:
    """A simulated disk with a journal beside it that loses nothing it committed."""

    def __init__(self, journal: Path) -> None:
        self.files = SimFiles()
        self.journal = journal

    def run(
        self, server: hf.chaos.Server, streams: int, *, digest: bool = True
    ) -> hf.downloads.Report:
        sha256 = server.expected_sha256("/x") if digest else None
        options = {"journal": self.journal, "workers": streams, "on_full": "fail"}
        with seam.install(self.files), downloads(Path("/d"), **options) as d:
            d.add(server.url("/x"), sha256=sha256)
            return d.run()


@pytest.mark.parametrize("torn", [None, 1, 2])
def test_a_power_cut_at_every_call(torn: int | None, streams: int, tmp_path: Path) -> None:
    with hf.chaos.server(hf.chaos.Object("/x", SIZE)) as server:
        cuts = 0
        for at in range(1, 1000):
            disk = Disk(tmp_path / f"{at}.db")
            disk.files.cut_at(at)
            try:
                disk.run(server, streams)
                break
            except PowerCut:
                cuts += 1
            disk.files.crash(SeededRandom(f"{torn} {at}") if torn else None)
            if "x" in _names(disk):
                assert disk.files.read("/d/x") == server.expected_bytes("/x")
            assert disk.run(server, streams).exit_code == 0
            assert _names(disk) == ["x"]
            assert disk.files.read("/d/x") == server.expected_bytes("/x")
        assert cuts > (25 if streams == 1 else 10)


def _names(disk: Disk) -> list[str]:
    try:
        return disk.files.listdir("/d")
    except FileNotFoundError:
        return []


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EROFS])
def test_an_error_at_every_call_ends_in_a_report_and_the_next_run_finishes(
    error: int, streams: int, tmp_path: Path
) -> None:
    with hf.chaos.server(hf.chaos.Object("/x", SIZE)) as server:
        failed = 0
        for at in range(2, 1000):  # the first call makes the directory
            disk = Disk(tmp_path / f"{at}.db")
            disk.files.fail(at, error)
            report = disk.run(server, streams, digest=False)
            disk.files.heal()
            if disk.files.calls < at:
                break
            failed += report.exit_code != 0
            assert report.exit_code in {0, 1, 3}
            if "x" in _names(disk):
                assert disk.files.read("/d/x") == server.expected_bytes("/x")
            assert disk.run(server, streams, digest=False).exit_code == 0
            assert disk.files.read("/d/x") == server.expected_bytes("/x")
            assert disk.files.left() == []
        assert failed > 20


def test_a_disk_without_room_for_it_pauses_before_a_byte_is_fetched(
    streams: int, tmp_path: Path
) -> None:
    with hf.chaos.server(hf.chaos.Object("/x", SIZE)) as server:
        disk = Disk(tmp_path / "j.db")
        disk.files.capacity = 3 * MIB
        report = disk.run(server, streams)
        assert (report.exit_code, report.left, report.left_why) == (3, 1, ("disk",))
        assert (report.fetched, _names(disk)) == (0, [])
        disk.files.capacity = 1 << 30
        report = disk.run(server, streams)
        assert (report.exit_code, report.fetched) == (0, SIZE)
        assert disk.files.read("/d/x") == server.expected_bytes("/x")


def test_a_full_disk_pauses_and_goes_on_when_there_is_room(
    streams: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system that cannot allocate: what fitted is kept."""
    monkeypatch.setattr(SimFile, "allocate", lambda *_: False)
    with hf.chaos.server(hf.chaos.Object("/x", SIZE)) as server:
        disk = Disk(tmp_path / "j.db")
        disk.files.capacity = 3 * MIB
        report = disk.run(server, streams)
        assert (report.exit_code, report.left, report.left_why) == (3, 1, ("disk",))
        assert _names(disk)[0].endswith(".part")
        disk.files.capacity = 1 << 30
        before = server.stats.bytes_down
        assert disk.run(server, streams).exit_code == 0
        assert disk.files.read("/d/x") == server.expected_bytes("/x")
        again = server.stats.bytes_down - before
        # Each stream may have had a buffer in hand for which there was no room.
        assert again == MIB if streams == 1 else MIB <= again <= MIB + streams * 256 * 1024


def test_a_real_full_disk_says_what_to_do(tmp_path: Path) -> None:
    """On a tmpfs of 3 MiB; the journal lies on the same full disk."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(small)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    try:
        with hf.chaos.server(hf.chaos.Object("/x", SIZE)) as server:
            words = [sys.executable, "-m", "holdfast", "get", server.url("/x"), "-o", str(small)]
            words += ["--on-full", "fail"]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            assert done.returncode == 3
            assert "the disk is full" in done.stderr
            assert "[HF-1204]" in done.stderr
            remount = ["mount", "-o", "remount,size=16m", str(small)]
            subprocess.run(remount, check=True)
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            assert names_in(small) == ["x"]
            assert sha256_of(small / "x") == server.expected_sha256("/x")
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_after_a_failed_sync_that_file_is_not_synced_again(streams: int, tmp_path: Path) -> None:
    with hf.chaos.server(hf.chaos.Object("/x", SIZE)) as server:
        disk = Disk(tmp_path / "j.db")
        disk.files.fail(2, errno.EIO, "datasync")
        report = disk.run(server, streams)
        assert report.exit_code == 1
        assert [item.code for item in report.failed] == ["HF-1206"]
        syncs = [path for op, path in disk.files.log if op == "datasync"]
        assert len(syncs) == 2
        disk.files.crash()
        assert disk.run(server, streams).exit_code == 0
        assert disk.files.read("/d/x") == server.expected_bytes("/x")
