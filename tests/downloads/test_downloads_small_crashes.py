"""Death at every moment of a group of small files; then the same again."""

from __future__ import annotations

import errno
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from downloads_kill_rig import Killer
from downloads_rig import downloads, names_in

import holdfast as hf
import holdfast.downloads.group
from holdfast.downloads.small import Lane
from holdfast.runtime import files as seam
from holdfast.runtime.random import SeededRandom
from holdfast.testing.files import PowerCut, SimFiles

if TYPE_CHECKING:
    from collections.abc import Iterator

COUNT = 6
SIZE = 1500


@pytest.fixture(autouse=True)
def groups_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holdfast.downloads.group, "MOST", 4)


@pytest.fixture
def server() -> Iterator[hf.chaos.Server]:
    with hf.chaos.server(hf.chaos.Object("/f/*", SIZE)) as running:
        yield running


def content(server: hf.chaos.Server, n: int) -> bytes:
    route = server.routes[0]
    assert isinstance(route, hf.chaos.Object)
    return route.content(f"/f/{n}").read()


def test_kill_9_at_every_call_of_a_group(server: hf.chaos.Server, tmp_path: Path) -> None:
    files = [(server.url(f"/f/{n}"), None) for n in range(COUNT)]
    with Killer(plane="asyncio", group=4) as killer:
        first = killer.run(tmp_path / "0", files)
        assert first.calls >= 3 * COUNT + 2
        deaths = [
            killer.run(tmp_path / str(call), files, call=call).signal
            for call in range(1, first.calls + 1)
        ]
    for call in range(1, first.calls + 1):
        into = tmp_path / str(call)
        for name in names_in(into):
            if not name.startswith("."):
                assert (into / name).read_bytes() == content(server, int(name))
        before = server.stats.requests
        with downloads(into, plane="asyncio") as d:
            d.add_many([server.url(f"/f/{n}") for n in range(COUNT)])
            report = d.run()
        assert report.exit_code == 0, (call, report)
        assert names_in(into) == [str(n) for n in range(COUNT)]
        assert all((into / str(n)).read_bytes() == content(server, n) for n in range(COUNT))
        assert server.stats.requests - before <= COUNT
    # How the groups fall decides how many calls there are.
    assert deaths.count(signal.SIGKILL) >= first.calls - 4


class Disk:
    """A simulated disk with a journal beside it that loses nothing it committed."""

    def __init__(self, journal: Path) -> None:
        self.files = SimFiles()
        self.journal = journal

    def run(self, server: hf.chaos.Server) -> hf.downloads.Report:
        options = {"journal": self.journal, "workers": 2, "on_full": "fail", "plane": "asyncio"}
        with seam.install(self.files), downloads(Path("/d"), **options) as d:
            d.add_many([server.url(f"/f/{n}") for n in range(COUNT)])
            return d.run()

    def names(self) -> list[str]:
        try:
            return self.files.listdir("/d")
        except FileNotFoundError:
            return []

    def check_names(self, server: hf.chaos.Server) -> None:
        for name in self.names():
            if not name.startswith("."):
                assert self.files.read(f"/d/{name}") == content(server, int(name))


@pytest.mark.parametrize("torn", [None, 1, 2])
def test_a_power_cut_at_every_call(
    torn: int | None, server: hf.chaos.Server, tmp_path: Path
) -> None:
    cuts = 0
    for at in range(1, 1000):
        disk = Disk(tmp_path / f"{at}.db")
        disk.files.cut_at(at)
        try:
            disk.run(server)
            break
        except PowerCut:
            cuts += 1
        disk.files.crash(SeededRandom(f"{torn} {at}") if torn else None)
        disk.check_names(server)
        assert disk.run(server).exit_code == 0
        assert disk.names() == [str(n) for n in range(COUNT)]
        disk.check_names(server)
    assert cuts > 30


def test_a_lane_that_failed_asks_for_nothing_more(
    server: hf.chaos.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, busy = Lane._stop, []

    def stopped(lane: Lane) -> None:
        stop(lane)
        lane._spread()  # as a group that has room for more has it called
        busy.append(len(lane._slots))

    def write(*_: object) -> None:
        raise PowerCut

    monkeypatch.setattr(Lane, "_stop", stopped)
    monkeypatch.setattr(holdfast.downloads.group.Group, "write", write)
    with pytest.raises(PowerCut):
        Disk(tmp_path / "j.db").run(server)
    assert busy == [0]


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EROFS])
def test_an_error_at_every_call_ends_in_a_report_and_the_next_run_finishes(
    error: int, server: hf.chaos.Server, tmp_path: Path
) -> None:
    hurt = 0
    for at in range(4, 1000):  # the first calls look after the directory
        disk = Disk(tmp_path / f"{at}.db")
        disk.files.fail(at, error)
        report = disk.run(server)
        disk.files.heal()
        if disk.files.calls < at:
            break
        hurt += report.exit_code != 0
        assert report.exit_code in {0, 1, 3}
        assert report.done + report.left + len(report.failed) == COUNT
        disk.check_names(server)
        assert disk.run(server).exit_code == 0
        assert disk.names() == [str(n) for n in range(COUNT)]
        disk.check_names(server)
        assert disk.files.left() == []
    assert hurt < at / 2  # most are healed by asking again


def test_after_a_failed_sync_of_the_whole_each_file_is_synced(
    server: hf.chaos.Server, tmp_path: Path
) -> None:
    disk = Disk(tmp_path / "j.db")
    disk.files.fail(1, errno.EIO, "syncfs")
    report = disk.run(server)
    assert (report.exit_code, report.done) == (0, COUNT)
    operations = [op for op, _ in disk.files.log]
    assert operations.count("syncfs") == 1
    assert operations.count("datasync") >= COUNT
    disk.files.crash()
    assert disk.names() == [str(n) for n in range(COUNT)]
    disk.check_names(server)


def test_what_is_done_survives_a_power_cut(server: hf.chaos.Server, tmp_path: Path) -> None:
    disk = Disk(tmp_path / "j.db")
    assert disk.run(server).done == COUNT
    disk.files.crash()
    assert disk.names() == [str(n) for n in range(COUNT)]
    disk.check_names(server)
    before = server.stats.requests
    assert disk.run(server).skipped == COUNT
    assert server.stats.requests == before


def test_where_no_file_system_can_be_synced_as_a_whole_each_file_is(
    server: hf.chaos.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SimFiles, "volume", lambda *_: None)
    disk = Disk(tmp_path / "j.db")
    assert disk.run(server).done == COUNT
    assert [op for op, _ in disk.files.log].count("datasync") == COUNT
    disk.files.crash()
    disk.check_names(server)
    assert disk.names() == [str(n) for n in range(COUNT)]


def test_without_durability_nothing_is_synced(server: hf.chaos.Server, tmp_path: Path) -> None:
    disk = Disk(tmp_path / "j.db")
    options = {"journal": disk.journal, "plane": "asyncio", "durability": "process"}
    with seam.install(disk.files), downloads(Path("/d"), **options) as d:
        d.add_many([server.url(f"/f/{n}") for n in range(COUNT)])
        assert d.run().done == COUNT
    assert not {"syncfs", "datasync", "sync_dir"} & {op for op, _ in disk.files.log}
