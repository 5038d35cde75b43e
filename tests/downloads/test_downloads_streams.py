"""Large files by several streams, on real sockets: shared out, watched, and held to limits."""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from typing import TYPE_CHECKING

import pytest
from downloads_rig import Heard, downloads, names_in, quick_policy, sha256_of

import holdfast as hf
from holdfast.downloads import DownloadError
from holdfast.transfer.plane import Timeouts

if TYPE_CHECKING:
    from pathlib import Path

KIB = 1024
MIB = 1 << 20
PATIENT = Timeouts(connect=5, first_byte=10, idle=15)


def test_a_large_file_has_several_streams_and_each_byte_is_received_once(tmp_path: Path) -> None:
    size = 64 * MIB
    with hf.chaos.server(hf.chaos.Object("/x", size)) as server:
        with downloads(tmp_path) as d:
            d.add(server.url("/x"), sha256=server.expected_sha256("/x"))
            report = d.run()
        log = server.log
        assert sha256_of(tmp_path / "x") == server.expected_sha256("/x")
    assert (report.exit_code, report.fetched, report.waste) == (0, size, 0)
    assert log[0].range == ""
    assert len(log) >= 4
    assert all(entry.range for entry in log[1:])
    assert len({entry.connection for entry in log}) == len(log)


def test_one_worker_asks_once(tmp_path: Path) -> None:
    with hf.chaos.server(hf.chaos.Object("/x", 32 * MIB)) as server:
        with downloads(tmp_path, workers=1) as d:
            d.add(server.url("/x"))
            assert d.run().exit_code == 0
        assert server.stats.requests == 1
        assert sha256_of(tmp_path / "x") == server.expected_sha256("/x")


def test_it_begins_with_four_connections_to_a_host(tmp_path: Path) -> None:
    slow = hf.chaos.Slow(bytes_per_second=8 * MIB)
    most = 0
    with hf.chaos.server(hf.chaos.Object("/x", 32 * MIB), faults=[slow]) as server:
        with downloads(tmp_path, workers=16) as d:
            d.add(server.url("/x"))
            thread = threading.Thread(target=d.run)
            thread.start()
            while thread.is_alive():
                most = max(most, server.stats.open)
                time.sleep(0.01)
            thread.join()
        # One more may be seen open: the client has closed it, and the server not yet.
        assert 4 <= most <= 5
        assert sha256_of(tmp_path / "x") == server.expected_sha256("/x")


def test_small_files_do_not_wait_for_a_large_one(tmp_path: Path) -> None:
    slow = hf.chaos.Slow(bytes_per_second=16 * MIB)
    big = hf.chaos.Object("/big", 48 * MIB, faults=[slow])
    small = [hf.chaos.Object(f"/{n}", 100 * KIB) for n in range(30)]
    heard = Heard()
    with hf.chaos.server(big, *small) as server:
        with downloads(tmp_path, workers=4) as d:
            d.watch(heard)
            d.add(server.url("/big"))
            for n in range(30):
                d.add(server.url(f"/{n}"))
            assert d.run().done == 31
        ranges = [n for n, entry in enumerate(server.log) if entry.range]
        assert sha256_of(tmp_path / "big") == server.expected_sha256("/big")
    # No second stream while a small file waited (the last three may be on their way at that
    # moment); then all that are free.
    assert len(ranges) >= 2
    assert min(ranges) >= 31 - 3
    done = [event.path for event in heard.events if getattr(event.event, "state", "") == "done"]
    assert done[-1] == "big"


def test_two_large_files_share_the_connections(tmp_path: Path) -> None:
    slow = hf.chaos.Slow(bytes_per_second=16 * MIB)
    objects = [hf.chaos.Object(f"/{name}", 32 * MIB) for name in "ab"]
    with hf.chaos.server(*objects, faults=[slow]) as server:
        with downloads(tmp_path) as d:
            for name in "ab":
                d.add(server.url(f"/{name}"))
            assert d.run().done == 2
        for name in "ab":
            assert sha256_of(tmp_path / name) == server.expected_sha256(f"/{name}")
            assert sum(entry.path == f"/{name}" for entry in server.log) >= 2


def test_one_of_four_streams_that_stalls_is_replaced_within_three_seconds(tmp_path: Path) -> None:
    """The limit for silence is 15 s, but its peers show that it is the connection."""
    size = 48 * MIB
    faults = [
        hf.chaos.Slow(bytes_per_second=4 * MIB),
        hf.chaos.Stall(after_bytes=MIB, skip=1, limit=1),
    ]
    with hf.chaos.server(hf.chaos.Object("/x", size), faults=faults) as server:
        heard = Heard()
        with downloads(tmp_path, timeouts=PATIENT, policy=quick_policy(1)) as d:
            d.watch(heard)
            d.add(server.url("/x"))
            report = d.run()
        assert server.stats.faults["stall"] == 1
        assert sha256_of(tmp_path / "x") == server.expected_sha256("/x")
    # 3 s at the rate of four streams, and 3 s more for the stall at the worst.
    assert (report.exit_code, report.fetched) == (0, size)
    assert report.seconds < 3 + 3 + 2
    assert [a.kind for a in heard.named("Attempt")].count("ok") >= 1


def test_retry_after_stops_new_requests_to_the_whole_host(tmp_path: Path) -> None:
    burst = hf.chaos.Status(503, retry_after=1, skip=2, limit=1)
    slow = hf.chaos.Latency(seconds=0.05)
    objects = [hf.chaos.Object(f"/{n}", 10 * KIB) for n in range(12)]
    at: list[float] = []
    with hf.chaos.server(*objects, faults=[burst, slow]) as server:
        heard = Heard()
        with downloads(tmp_path, workers=4, policy=None) as d:
            d.watch(heard)
            for n in range(12):
                d.add(server.url(f"/{n}"))
            report = d.run()
        assert report.done == 12
        assert server.stats.requests == 13
    at = [event.event.time for event in heard.events if getattr(event.event, "state", "") == "done"]
    pauses = [late - early for early, late in itertools.pairwise(at)]
    assert max(pauses) > 0.8


def test_a_file_does_not_lose_its_bytes_when_the_host_wants_fewer_streams(tmp_path: Path) -> None:
    """The object answers, and then refuses all but one connection: S3 and CDNs do that."""
    size = 24 * MIB
    faults = [hf.chaos.Status(403, skip=1, limit=3), hf.chaos.Slow(bytes_per_second=24 * MIB)]
    with hf.chaos.server(hf.chaos.Object("/x", size), faults=faults) as server:
        with downloads(tmp_path) as d:
            d.add(server.url("/x"))
            report = d.run()
        assert (report.exit_code, report.fetched) == (0, size)
        assert sha256_of(tmp_path / "x") == server.expected_sha256("/x")


def test_a_bandwidth_limit_holds_for_all_streams_together(tmp_path: Path) -> None:
    rate = 2 * MIB
    small = [hf.chaos.Object(f"/{n}", 512 * KIB) for n in range(8)]
    with hf.chaos.server(*small) as server, downloads(tmp_path, limit_rate=rate) as d:
        for n in range(8):
            d.add(server.url(f"/{n}"))
        report = d.run()
    assert report.done == 8
    assert 0.9 * 4 * MIB / rate <= report.seconds <= 4 * MIB / rate + 1


def test_a_replaced_object_is_noticed_by_all_streams(tmp_path: Path) -> None:
    size = 96 * MIB
    obj = hf.chaos.Object("/x", size, faults=[hf.chaos.Replace(after_bytes=20 * MIB)])
    slow = hf.chaos.Slow(bytes_per_second=64 * MIB)
    with hf.chaos.server(obj, faults=[slow]) as server:
        with downloads(tmp_path) as d:
            d.add(server.url("/x"))
            report = d.run()
        assert report.exit_code == 0
        assert obj.version == 2
        assert sha256_of(tmp_path / "x") == server.expected_sha256("/x")
        assert names_in(tmp_path) == ["x"]


def test_stop_ends_all_streams_and_the_next_run_fetches_only_the_rest(tmp_path: Path) -> None:
    size = 64 * MIB
    slow = hf.chaos.Slow(bytes_per_second=8 * MIB)
    with hf.chaos.server(hf.chaos.Object("/x", size), faults=[slow]) as server:
        with downloads(tmp_path) as d:
            d.add(server.url("/x"), sha256=server.expected_sha256("/x"))
            threading.Timer(0.7, d.stop).start()
            before = time.monotonic()
            report = d.run()
            assert time.monotonic() - before < 2.7
        assert (report.exit_code, report.waste) == (130, 0)
        assert 4 * MIB < report.fetched < size
        server.use()
        with downloads(tmp_path) as d:
            again = d.run()
        assert again.exit_code == 0
        assert report.fetched + again.fetched == size
        assert sha256_of(tmp_path / "x") == server.expected_sha256("/x")


def test_no_thread_is_left_of_a_large_file(tmp_path: Path) -> None:
    with hf.chaos.server(hf.chaos.Object("/x", 32 * MIB)) as server:
        threads = threading.active_count()
        with downloads(tmp_path) as d:
            d.add(server.url("/x"), sha256=server.expected_sha256("/x"))
            assert d.run().exit_code == 0
        assert threading.active_count() == threads


@pytest.mark.parametrize("known", ["pieces", "sha256"])
def test_a_flipped_bit_costs_one_extent_with_piece_sums_and_at_most_the_size_without(
    known: str, tmp_path: Path
) -> None:
    """With an object of several extents."""
    size = 32 * MIB
    faults = [hf.chaos.Flip(after_bytes=5 * MIB, skip=1, limit=1)]
    with hf.chaos.server(hf.chaos.Object("/x", size, faults=faults)) as server:
        body = server.expected_bytes("/x")
        parts = [body[at : at + MIB] for at in range(0, size, MIB)]
        sums = (
            MIB,
            "sha1",
            [hashlib.sha1(part, usedforsecurity=False).hexdigest() for part in parts],
        )
        heard = Heard()
        with downloads(tmp_path) as d:
            d.watch(heard)
            d.add(
                server.url("/x"),
                sha256=server.expected_sha256("/x"),
                pieces=sums if known == "pieces" else None,
            )
            report = d.run()
        assert server.stats.faults["flip"] == 1
        assert (report.exit_code, report.unverified) == (0, 0)
        assert sha256_of(tmp_path / "x") == server.expected_sha256("/x")
    assert report.fetched - size == 8 * MIB if known == "pieces" else report.fetched <= 2 * size
    assert heard.states == ["active", "verifying", "active", "verifying", "finishing", "done"]


def test_piece_sums_are_remembered_for_the_next_run(tmp_path: Path) -> None:
    size = 32 * MIB
    with hf.chaos.server(hf.chaos.Object("/x", size)) as server:
        with downloads(tmp_path) as d:
            d.add(server.url("/x"), pieces=(16 * MIB, "sha1", ["0" * 40, "1" * 40]))
        with downloads(tmp_path) as d:
            report = d.run()
        assert [item.code for item in report.failed] == ["HF-1401"]
        with downloads(tmp_path) as d, pytest.raises(DownloadError, match="not a sha1 digest"):
            d.add(server.url("/x"), pieces=(16 * MIB, "sha1", ["0"]))
