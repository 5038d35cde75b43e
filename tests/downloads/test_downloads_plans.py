"""What a run would do, whether it fits, when it ends, and which items it is about."""

from __future__ import annotations

import asyncio
import io
import threading
import time

import pytest
from downloads_rig import Heard, downloads, names_in

import holdfast as hf
from holdfast.downloads import Entry
from holdfast.runtime import files as seam
from holdfast.runtime.files import SystemFiles
from holdfast.testing.files import SimFiles

KIB = 1024
MIB = 1 << 20
BASE = "http://127.0.0.1:9/"


# -- the plan ---------------------------------------------------------------------------------


def test_a_plan_counts_and_asks_for_nothing(tmp_path):
    with hf.chaos.server(hf.chaos.Object("/*", 10 * KIB)) as server, downloads(tmp_path) as d:
        d.add_many([Entry(server.url(f"/{n}"), size=10 * KIB) for n in range(9)])
        d.add(server.url("/unknown"))
        d.add(server.url("/other/3"))
        d.pause(d.add(server.url("/paused"), size=KIB))
        plan = d.plan()
        assert (plan.files, plan.bytes, plan.unknown_sizes) == (10, 90 * KIB, 1)
        assert (plan.collisions, plan.needed, plan.requests) == (1, 90 * KIB, 10)
        assert plan.fits
        assert plan.free > 0
        assert (server.stats.requests, names_in(tmp_path)) == (0, [])
        d.run()
        again = d.plan()
        assert (again.files, again.bytes, again.needed) == (0, 0, 0)


def test_a_plan_needs_what_is_not_on_disk_yet(tmp_path):
    size = 4 * MIB
    slow = hf.chaos.Slow(bytes_per_second=2 * MIB)
    with hf.chaos.server(hf.chaos.Object("/x", size, faults=[slow])) as server:
        with downloads(tmp_path, max_time=1) as d:
            d.add(server.url("/x"))
            report = d.run()
            assert (report.exit_code, report.left_why) == (3, ("max-time",))
        with downloads(tmp_path) as d:
            plan = d.plan()
            assert (plan.files, plan.bytes) == (1, size)
            assert plan.needed <= size - report.fetched


def test_a_done_file_that_was_deleted_is_planned_and_only_it_is_fetched(tmp_path):
    """E14."""
    with hf.chaos.server(hf.chaos.Object("/*", KIB)) as server:
        listed = io.BytesIO("".join(f"{server.url(f'/{n}')}\n" for n in range(20)).encode())
        with downloads(tmp_path) as d:
            d.add_list(listed)
            assert d.run().done == 20
        (tmp_path / "7").unlink()
        with downloads(tmp_path) as d:
            listed.seek(0)
            d.add_list(listed)
            assert (d.plan().files, d.plan().bytes) == (1, KIB)
            report = d.run()
        assert (report.done, report.skipped, report.exit_code) == (1, 19, 0)
        assert server.stats.requests == 21


# -- room ----------------------------------------------------------------------------------------


class Tight(SystemFiles):
    """The machine's files on a disk that has so many bytes left."""

    def __init__(self, free: int) -> None:
        self.free = free

    def free_space(self, path: str) -> int:
        return self.free


def test_what_cannot_fit_is_refused_before_a_byte_is_fetched(tmp_path):
    """E13."""
    with hf.chaos.server(hf.chaos.Object("/*", 10 * KIB)) as server:
        with seam.install(Tight(50 * KIB)), downloads(tmp_path) as d:
            d.add_many([Entry(server.url(f"/{n}"), size=10 * KIB) for n in range(6)])
            d.add(server.url("/unknown"))
            with pytest.raises(hf.downloads.DownloadError) as caught:
                d.run()
            assert (caught.value.code, caught.value.exit_code) == ("HF-1012", 2)
            for word in (str(tmp_path), "60.0 KiB", "50.0 KiB", "1 of them, of unknown size"):
                assert word in str(caught.value)
            assert not d.plan().fits
            assert len(d.status().items) == 7  # they are in the journal all the same
            d.cancel(d.add(server.url("/5")))
            assert d.run().done == 6
        assert server.stats.requests == 6


def test_who_knows_better_is_not_refused(tmp_path):
    served = hf.chaos.server(hf.chaos.Object("/x", 10 * KIB))
    with served as server, seam.install(Tight(0)), downloads(tmp_path, space_check=False) as d:
        d.add(server.url("/x"), size=10 * KIB)
        assert d.run().done == 1


def test_what_lies_there_already_needs_no_room(tmp_path):
    with hf.chaos.server(hf.chaos.Object("/x", 10 * KIB)) as server:
        (tmp_path / "x").write_bytes(server.expected_bytes("/x"))
        with seam.install(Tight(5 * KIB)), downloads(tmp_path) as d:
            d.add(server.url("/x"), size=10 * KIB)
            assert d.run().skipped == 1


def test_a_part_whose_place_was_taken_on_the_disk_is_not_counted_twice(tmp_path):
    size = 4 * MIB
    slow = hf.chaos.Slow(bytes_per_second=2 * MIB)
    obj = hf.chaos.Object("/x", size, faults=[slow])
    with hf.chaos.server(obj) as server:
        with downloads(tmp_path, max_time=1) as d:
            d.add(server.url("/x"), size=size)
            d.run()
        (part,) = tmp_path.glob(".x.*.part")
        with part.open("r+b") as file:
            file.truncate(size)
        obj.draws.clear()
        with seam.install(Tight(KIB)), downloads(tmp_path) as d:
            assert d.plan().needed == 0
            assert d.run().done == 1


# -- time -----------------------------------------------------------------------------------------


def test_max_time_ends_a_run_with_3_and_the_next_one_goes_on(tmp_path):
    slow = hf.chaos.Slow(bytes_per_second=MIB)
    obj = hf.chaos.Object("/x", 8 * MIB, faults=[slow])
    with hf.chaos.server(obj) as server:
        with downloads(tmp_path, max_time=0.5) as d:
            d.add(server.url("/x"))
            before = time.monotonic()
            report = d.run()
            assert 0.5 <= time.monotonic() - before < 2.5
            assert (report.exit_code, report.left, report.left_why) == (3, 1, ("max-time",))
            assert not report.interrupted
        obj.draws.clear()
        with downloads(tmp_path, max_time=60) as d:
            again = d.run()
        assert (again.exit_code, again.left_why) == (0, ())
        assert report.fetched + again.fetched <= 8 * MIB + report.waste + again.waste


def test_max_time_ends_a_backoff(tmp_path):
    policy = hf.policy(hf.Retry(5, backoff=hf.Constant(30), budget=None))
    failing = hf.chaos.server(hf.chaos.Object("/x", 1), faults=[hf.chaos.Status(500)])
    with failing as server, downloads(tmp_path, policy=policy, max_time=0.5) as d:
        d.add(server.url("/x"))
        before = time.monotonic()
        assert d.run().exit_code == 3
        assert time.monotonic() - before < 2.5


@pytest.mark.parametrize("max_time", [-1, 1 << 41])
def test_a_time_that_cannot_be_is_refused(tmp_path, max_time):
    with pytest.raises(hf.downloads.DownloadError, match="max_time"):
        downloads(tmp_path, max_time=max_time)


# -- asyncio ---------------------------------------------------------------------------------------


def test_arun_runs_beside_a_loop(tmp_path):
    async def main() -> hf.downloads.Report:
        async with downloads(tmp_path) as d:
            d.add(server.url("/x"))
            ticks = 0

            async def tick() -> None:
                nonlocal ticks
                while True:
                    ticks += 1
                    await asyncio.sleep(0.005)

            beside = asyncio.create_task(tick())
            report = await d.arun()
            beside.cancel()
            assert ticks > 10
            return report

    slow = hf.chaos.Slow(bytes_per_second=MIB)
    with hf.chaos.server(hf.chaos.Object("/x", 300 * KIB, faults=[slow])) as server:
        assert asyncio.run(main()).done == 1


def test_a_cancelled_arun_stops_within_two_seconds_and_keeps_what_came(tmp_path):
    async def main() -> None:
        async with downloads(tmp_path) as d:
            d.add(server.url("/x"))
            running = asyncio.create_task(d.arun())
            while server.stats.bytes_down < MIB:  # noqa: ASYNC110 - another thread counts it
                await asyncio.sleep(0.01)
            before = time.monotonic()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert time.monotonic() - before < 2
            assert next(iter(d.status().items)).kept > 0

    slow = hf.chaos.Slow(bytes_per_second=4 * MIB)
    with hf.chaos.server(hf.chaos.Object("/x", 8 * MIB, faults=[slow])) as server:
        asyncio.run(main())
    assert not [thread for thread in threading.enumerate() if thread.name == "holdfast-run"]


def test_what_run_raises_arun_raises(tmp_path):
    with seam.install(Tight(0)), downloads(tmp_path) as d:
        d.add(BASE + "x", size=1)
        with pytest.raises(hf.downloads.DownloadError, match="no room"):
            asyncio.run(d.arun())


# -- what failed ---------------------------------------------------------------------------------


def test_only_what_failed_is_done_again(tmp_path):
    """E7: one request for each 404 and 403, and again only these."""
    broken = {n: (404 if n % 2 else 403) for n in range(0, 1000, 20)}
    objects = [hf.chaos.Object("/*", 100)]
    gone = [
        hf.chaos.Handler(f"/{n}", lambda _, s=s: hf.chaos.message.Answer(s))
        for n, s in broken.items()
    ]
    with hf.chaos.server(*gone, *objects) as server:
        with downloads(tmp_path, durability="process") as d:
            d.add_many([server.url(f"/{n}") for n in range(1000)])
            report = d.run()
            assert (report.done, len(report.failed), report.exit_code) == (950, 50, 1)
            assert server.stats.requests == 1000
            assert {item.attempts for item in d.failed()} == {1}
        with downloads(tmp_path, durability="process") as d:
            d.add_many([server.url(f"/{n}") for n in range(1000, 1100)])  # open, and not meant
            assert d.retry_failed() == 50
            assert {item.attempts for item in d.status().items if item.state == "queued"} == {0}
            assert d.plan().files == 150
            heard = Heard()
            d.watch(heard)
            again = d.run(only_failed=True)
            assert (again.done, len(again.failed), again.left, again.exit_code) == (0, 50, 0, 1)
            assert server.stats.requests == 1050
            assert {event.path for event in heard.events if event.path} == {str(n) for n in broken}
            assert d.run().done == 100


def test_what_is_done_again_keeps_its_bytes(tmp_path):
    size = 2 * MIB
    cut = hf.chaos.Reset(after_bytes=512 * KIB)
    obj = hf.chaos.Object("/x", size, faults=[cut])
    with hf.chaos.server(obj) as server:
        policy = hf.policy(hf.Retry(1, budget=None))
        with downloads(tmp_path, policy=policy) as d:
            d.add(server.url("/x"))
            first = d.run()
            assert first.exit_code == 1
            kept = next(iter(d.status().items)).kept
            assert kept > 0
            obj.draws.clear()
            assert d.retry_failed() == 1
            report = d.run(only_failed=True)
        assert (report.done, report.fetched) == (1, size - kept)


def test_a_run_of_what_failed_does_nothing_if_nothing_did(tmp_path):
    with downloads(tmp_path) as d:
        d.add(BASE + "x")
        assert d.retry_failed() == 0
        report = d.run(only_failed=True)
        assert (report.done, report.left, report.exit_code) == (0, 0, 0)


def test_a_simulated_disk_is_asked_for_its_room(tmp_path):
    with seam.install(SimFiles(capacity=MIB)), downloads(tmp_path / "d", journal=":memory:") as d:
        d.add(BASE + "x", size=2 * MIB)
        with pytest.raises(hf.downloads.DownloadError, match=r"2\.0 MiB, free: 1\.0 MiB"):
            d.run()
