"""Pause, resume, cancel, retry: while a run works, and between runs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from downloads_rig import Running, downloads, names_in, quick_policy, sha256_of, until

import holdfast as hf
import holdfast.downloads.engine
from holdfast.runtime import files as seam
from holdfast.testing.files import SimFiles

if TYPE_CHECKING:
    from pathlib import Path

KIB = 1024
MIB = 1 << 20


def state_of(d: hf.Downloads, item: str) -> str:
    return next(str(one.state) for one in d.status().items if one.id == item)


@pytest.mark.parametrize("size", [8 * MIB, 48 * MIB])
def test_a_paused_file_stops_at_once_and_the_others_go_on(size: int, tmp_path: Path) -> None:
    slow = hf.chaos.Slow(bytes_per_second=4 * MIB)
    objects = [hf.chaos.Object("/x", size, faults=[slow]), hf.chaos.Object("/y", 100 * KIB)]
    with hf.chaos.server(*objects) as server:
        with downloads(tmp_path) as d:
            x = d.add(server.url("/x"))
            d.add(server.url("/y"))
            running = Running(d)
            until(lambda: server.stats.bytes_down > MIB)
            before = time.monotonic()
            assert d.pause(x) == 1
            report = running.join()
            assert time.monotonic() - before < 2
            assert (report.exit_code, report.left_why, report.waste) == (3, ("paused",), 0)
            assert (report.done, state_of(d, x)) == (1, "paused")
            assert d.run().left_why == ("paused",)  # a new run does not take it up
            objects[0].draws.clear()
            assert d.resume(x) == 1
            again = d.run()
        assert again.exit_code == 0
        assert report.fetched + again.fetched == size + 100 * KIB
        assert sha256_of(tmp_path / "x") == server.expected_sha256("/x")


def test_a_running_engine_takes_up_what_is_resumed(tmp_path: Path) -> None:
    slow = hf.chaos.Slow(bytes_per_second=2 * MIB)
    objects = [hf.chaos.Object("/x", 100 * KIB), hf.chaos.Object("/y", 4 * MIB, faults=[slow])]
    with hf.chaos.server(*objects) as server, downloads(tmp_path) as d:
        x = d.add(server.url("/x"))
        assert d.pause(x) == 1
        assert d.pause(x) == 0  # it is paused already
        d.add(server.url("/y"))
        running = Running(d)
        until(lambda: server.stats.bytes_down > 100 * KIB)
        assert state_of(d, x) == "paused"
        assert d.resume() == 1
        assert running.join().done == 2


def test_pause_ends_a_backoff(tmp_path: Path) -> None:
    policy = hf.policy(hf.Retry(5, backoff=hf.Constant(30), budget=None))
    failing = hf.chaos.server(hf.chaos.Object("/x", 1), faults=[hf.chaos.Status(500)])
    with failing as server, downloads(tmp_path, policy=policy) as d:
        d.add(server.url("/x"))
        running = Running(d)
        until(lambda: server.stats.requests == 1)
        time.sleep(0.1)
        before = time.monotonic()
        d.pause()
        assert running.join().left_why == ("paused",)
        assert time.monotonic() - before < 1


@pytest.mark.parametrize("size", [8 * MIB, 48 * MIB])
def test_a_cancelled_file_leaves_nothing(size: int, tmp_path: Path) -> None:
    slow = hf.chaos.Slow(bytes_per_second=4 * MIB)
    with hf.chaos.server(hf.chaos.Object("/x", size), faults=[slow]) as server:
        with downloads(tmp_path) as d:
            x = d.add(server.url("/x"))
            running = Running(d)
            until(lambda: server.stats.bytes_down > MIB)
            assert d.cancel(x) == 1
            report = running.join()
            assert (report.left, report.exit_code, report.failed) == (0, 0, ())
            assert state_of(d, x) == "cancelled"
            assert names_in(tmp_path) == []
            server.use()
            d.add(server.url("/x"))
            assert d.run().done == 1
        assert sha256_of(tmp_path / "x") == server.expected_sha256("/x")


def test_cancel_between_runs_sweeps_the_part_and_keeps_what_is_done(tmp_path: Path) -> None:
    cut = hf.chaos.Reset(after_bytes=50 * KIB)
    objects = [hf.chaos.Object("/x", 100 * KIB, faults=[cut]), hf.chaos.Object("/y", 1000)]
    with hf.chaos.server(*objects) as server, downloads(tmp_path, policy=quick_policy(1)) as d:
        d.add(server.url("/x"))
        d.add(server.url("/y"))
        d.run()
        assert len(names_in(tmp_path)) == 2
        assert d.cancel() == 1
        assert names_in(tmp_path) == ["y"]
        assert d.run().left == 0


def test_failed_items_are_retried_alone_with_their_bytes_kept(tmp_path: Path) -> None:
    cut = hf.chaos.Reset(after_bytes=60 * KIB, limit=1)
    refused = hf.chaos.Status(500, skip=1, limit=1)
    objects = [
        hf.chaos.Object("/x", 100 * KIB, faults=[cut, refused]),
        hf.chaos.Object("/y", 1000),
    ]
    with hf.chaos.server(*objects) as server:
        with downloads(tmp_path, policy=quick_policy(1)) as d:
            d.add(server.url("/x"))
            d.add(server.url("/y"))
            assert d.run().exit_code == 1
            assert [item.path for item in d.failed()] == ["x"]
            requests = server.stats.requests
            assert d.retry_failed() == 1
            assert d.failed() == ()
            d.run()
            d.retry_failed()
            assert d.run().exit_code == 0
        assert server.stats.requests <= requests + 2
        assert server.stats.bytes_down <= 100 * KIB + 1000 + 100
        assert sha256_of(tmp_path / "x") == server.expected_sha256("/x")


def test_an_unknown_id_is_nothing(tmp_path: Path) -> None:
    with downloads(tmp_path) as d:
        assert (d.pause("0" * 16), d.resume("0" * 16), d.cancel("0" * 16)) == (0, 0, 0)


def test_a_full_disk_is_waited_for_and_it_goes_on_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holdfast.downloads.engine, "ROOM_EVERY", 0.05)
    files = SimFiles(capacity=3 * MIB)
    with hf.chaos.server(hf.chaos.Object("/x", 4 * MIB)) as server, seam.install(files):
        with downloads(tmp_path / "d", journal=tmp_path / "j.db") as d:
            x = d.add(server.url("/x"))
            running = Running(d)
            until(lambda: state_of(d, x) == "paused")
            time.sleep(0.2)
            assert server.stats.requests == 1
            files.capacity = 1 << 30
            report = running.join()
        assert (report.exit_code, report.left_why) == (0, ())
        assert files.read(str(tmp_path / "d" / "x")) == server.expected_bytes("/x")
        assert report.fetched <= 4 * MIB + 256 * KIB


def test_a_run_that_waits_for_room_can_be_stopped(tmp_path: Path) -> None:
    files = SimFiles(capacity=3 * MIB)
    with (
        hf.chaos.server(hf.chaos.Object("/x", 4 * MIB)) as server,
        seam.install(files),
        downloads(tmp_path / "d", journal=tmp_path / "j.db") as d,
    ):
        x = d.add(server.url("/x"))
        running = Running(d)
        until(lambda: state_of(d, x) == "paused")
        d.stop()
        report = running.join()
    assert (report.exit_code, report.left) == (130, 1)
