"""Mirrors on real sockets: dead, slow, stale, a page in place of the file, all of them bad."""

from __future__ import annotations

import socket
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from downloads_rig import QUICK, Heard, downloads, names_in, sha256_of

import holdfast as hf

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def dead() -> str:
    return f"http://127.0.0.1:{closed_port()}/x.bin"


def good(size: int = 3 * MIB, **options):
    return hf.chaos.server(hf.chaos.Object("/x.bin", size), **options)


def test_a_dead_mirror_costs_one_request(tmp_path: Path) -> None:
    heard = Heard()
    with good() as server:
        with downloads(tmp_path) as d:
            item = d.add(dead(), server.url("/x.bin"))
            d.watch(heard)
            report = d.run()
        assert report.exit_code == 0, report.failed
        assert sha256_of(tmp_path / "x.bin") == server.expected_sha256("/x.bin")
        assert server.stats.requests == 1
    assert [(event.key, event.no) for event in heard.named("MirrorChosen")] == [("127.0.0.1", 1)]
    with closing(sqlite3.connect(tmp_path / ".holdfast.db")) as db:
        rows = db.execute("SELECT item, reason, host FROM attempt").fetchall()
    assert rows == [(item, "ECONNREFUSED", "127.0.0.1")]


def test_a_hundred_files_meet_a_dead_mirror_few_times(tmp_path: Path) -> None:
    """What one file met, the others need not meet: a mirror that hangs would cost each of them."""
    busy = [hf.chaos.Object("/*", 1000, faults=[hf.chaos.Status(503)])]
    objects = [hf.chaos.Object("/*", 1000)]
    with (
        hf.chaos.server(*busy) as bad,
        hf.chaos.server(*objects) as fine,
        downloads(tmp_path, workers=4, plane="threads") as d,
    ):
        for n in range(100):
            d.add(bad.url(f"/{n}"), fine.url(f"/{n}"))
        report = d.run()
    assert (report.done, report.exit_code) == (100, 0)
    assert bad.stats.requests < 20


@pytest.mark.parametrize("plane", ["threads", "asyncio"])
def test_files_do_not_wait_for_a_host_that_asked_to_if_they_have_mirrors(
    tmp_path: Path, plane: str
) -> None:
    busy = hf.chaos.Object("/*", 1000, faults=[hf.chaos.Status(503, retry_after=30)])
    with (
        hf.chaos.server(busy) as bad,
        hf.chaos.server(hf.chaos.Object("/*", 1000)) as fine,
        downloads(tmp_path, workers=4, plane=plane) as d,
    ):
        for n in range(60):  # another name, so that it is another host
            d.add(bad.url(f"/{n}"), fine.url(f"/{n}").replace("127.0.0.1", "localhost"))
        before = time.monotonic()
        report = d.run()
        assert time.monotonic() - before < 15
    assert (report.done, report.exit_code) == (60, 0)
    assert bad.stats.requests <= 4


def test_a_mirror_that_stalls_is_left_within_the_stall_limit(tmp_path: Path) -> None:
    faults = [hf.chaos.Stall(after_bytes=MIB)]
    with good(faults=faults) as slow, good() as fine:
        with downloads(tmp_path) as d:
            d.add(slow.url("/x.bin"), fine.url("/x.bin"), sha256=fine.expected_sha256("/x.bin"))
            before = time.monotonic()
            report = d.run()
            assert time.monotonic() - before < QUICK.idle + 5
        assert report.exit_code == 0, report.failed
        assert sha256_of(tmp_path / "x.bin") == fine.expected_sha256("/x.bin")
        assert slow.stats.requests == 1
        assert report.fetched <= 3 * MIB + 65536  # what the slow one gave was kept


def test_a_stale_mirror_of_the_same_size_is_put_out_by_the_digest(tmp_path: Path) -> None:
    stale = hf.chaos.Object("/x.bin", 3 * MIB, version=2)
    with hf.chaos.server(stale) as old, good() as fine:
        with downloads(tmp_path) as d:
            d.add(old.url("/x.bin"), fine.url("/x.bin"), sha256=fine.expected_sha256("/x.bin"))
            report = d.run()
        assert report.exit_code == 0, report.failed
        assert sha256_of(tmp_path / "x.bin") == fine.expected_sha256("/x.bin")
        assert report.fetched <= 6 * MIB


def test_a_mirror_that_answers_a_page_is_passed_over(tmp_path: Path) -> None:
    page = hf.chaos.Object("/*", 500, content_type="text/html")
    with hf.chaos.server(page) as portal, good() as fine:
        with downloads(tmp_path) as d:
            d.add(portal.url("/x.bin"), fine.url("/x.bin"), size=3 * MIB)
            report = d.run()
        assert report.exit_code == 0, report.failed
        assert sha256_of(tmp_path / "x.bin") == fine.expected_sha256("/x.bin")


def test_a_mirror_of_another_size_is_passed_over(tmp_path: Path) -> None:
    with good(1000) as small, good() as fine:
        with downloads(tmp_path) as d:
            d.add(small.url("/x.bin"), fine.url("/x.bin"), size=3 * MIB)
            report = d.run()
        assert report.exit_code == 0, report.failed
        assert sha256_of(tmp_path / "x.bin") == fine.expected_sha256("/x.bin")
        assert small.stats.requests == 1


def test_when_all_are_bad_the_best_reason_is_in_the_failed_list(tmp_path: Path) -> None:
    with good(1000) as small, hf.chaos.server() as empty:
        with downloads(tmp_path) as d:
            d.add(empty.url("/x.bin"), small.url("/x.bin"), empty.url("/y.bin"), size=3 * MIB)
            report = d.run()
        assert empty.stats.requests == 2
    (failed,) = report.failed
    assert (failed.code, failed.reason) == ("HF-1403", "size")
    assert "all 3 addresses failed" in failed.text
    assert names_in(tmp_path) == []


def test_a_large_file_moves_to_another_mirror_with_all_its_streams(tmp_path: Path) -> None:
    size = 40 * MIB
    faults = [hf.chaos.Reset(after_bytes=6 * MIB)]
    with good(size, faults=faults) as flaky, good(size) as fine:
        with downloads(tmp_path, workers=4) as d:
            d.add(flaky.url("/x.bin"), fine.url("/x.bin"), sha256=fine.expected_sha256("/x.bin"))
            report = d.run()
        assert report.exit_code == 0, report.failed
        assert sha256_of(tmp_path / "x.bin") == fine.expected_sha256("/x.bin")
        assert report.fetched <= size * 1.1


def test_mirrors_of_a_list_are_used(tmp_path: Path) -> None:
    listed = tmp_path / "files.txt"
    with good() as server:
        listed.write_text(f"{dead()}\t{server.url('/x.bin')}\n", encoding="utf-8")
        with downloads(tmp_path / "out") as d:
            assert d.add_list(listed).count == 1
            assert d.run().exit_code == 0
    assert names_in(tmp_path / "out") == ["x.bin"]


def test_mirrors_outlive_the_process(tmp_path: Path) -> None:
    with good() as server:
        with downloads(tmp_path) as d:
            d.add(dead(), server.url("/x.bin"))
        with downloads(tmp_path) as d:
            assert d.run().exit_code == 0


def test_a_mirror_that_somebody_else_named_is_judged_like_the_first_address(tmp_path: Path) -> None:
    with good() as server, downloads(tmp_path) as d:
        d.add("http://169.254.169.254/x.bin", server.url("/x.bin"), typed=False)
        report = d.run()
        assert server.stats.requests == 0
    assert [failed.code for failed in report.failed] == ["HF-1111"]
    assert "all 2 addresses failed" in report.failed[0].text
