"""Files over bad links, on real sockets: whole and right, and hardly a byte fetched twice."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from downloads_rig import Heard, downloads, names_in, sha256_of

import holdfast as hf

if TYPE_CHECKING:
    from pathlib import Path

    from holdfast.chaos import Fault

MIB = 1 << 20

FAULTS: dict[str, list[Fault]] = {
    "reset": [hf.chaos.Reset(mean_bytes=8 * MIB)],
    "fin": [hf.chaos.Fin(mean_bytes=8 * MIB)],
    "stall": [hf.chaos.Stall(mean_bytes=24 * MIB)],
    "503 bursts": [
        hf.chaos.Reset(mean_bytes=8 * MIB),
        hf.chaos.Status(503, share=0.3, burst=3),
    ],
}


@pytest.mark.parametrize("kind", FAULTS)
def test_each_fault_alone_costs_nothing(kind: str, tmp_path: Path) -> None:
    size = 64 * MIB
    with hf.chaos.server(hf.chaos.Object("/data.nc", size), faults=FAULTS[kind], seed=3) as server:
        with downloads(tmp_path) as d:
            d.add(server.url("/data.nc"), sha256=server.expected_sha256("/data.nc"))
            report = d.run()
        assert report.exit_code == 0
        assert sha256_of(tmp_path / "data.nc") == server.expected_sha256("/data.nc")
        assert server.stats.faults.total() >= 2
        assert server.stats.bytes_down <= 1.02 * size
        assert report.fetched == size
        assert names_in(tmp_path) == ["data.nc"]


def test_256_mib_through_all_of_them(tmp_path: Path) -> None:
    size = 256 * MIB
    faults = [
        hf.chaos.Reset(mean_bytes=24 * MIB),
        hf.chaos.Fin(mean_bytes=24 * MIB),
        hf.chaos.Stall(mean_bytes=24 * MIB),
        hf.chaos.Status(503, share=0.2, burst=2),
    ]
    with hf.chaos.server(hf.chaos.Object("/data.nc", size), faults=faults, seed=11) as server:
        with downloads(tmp_path) as d:
            d.add(server.url("/data.nc"), sha256=server.expected_sha256("/data.nc"))
            report = d.run()
        struck = server.stats.faults
        assert report.done == 1
        assert sha256_of(tmp_path / "data.nc") == server.expected_sha256("/data.nc")
        assert set(struck) == {"reset", "fin", "stall", "http 503"}
        assert server.stats.bytes_down <= 1.02 * size


def test_bytes_cut_by_the_network_itself_are_not_counted_twice(tmp_path: Path) -> None:
    """Between server and client a proxy breaks connections, as a middlebox does."""
    size = 32 * MIB
    with (
        hf.chaos.server(hf.chaos.Object("/data.nc", size)) as server,
        hf.chaos.proxy(server.address, hf.chaos.Reset(mean_bytes=4 * MIB), seed=5) as proxy,
    ):
        with downloads(tmp_path) as d:
            d.add(f"http://{proxy.address}/data.nc")
            report = d.run()
        assert proxy.stats.faults["reset"] >= 3
        assert proxy.stats.bytes_down <= 1.02 * size
        assert report.waste == 0
        assert sha256_of(tmp_path / "data.nc") == server.expected_sha256("/data.nc")


def test_fifty_drops_with_progress_need_few_attempts(tmp_path: Path) -> None:
    faults = [hf.chaos.Reset(after_bytes=100_000, limit=50)]
    with hf.chaos.server(hf.chaos.Object("/x", 6 * MIB), faults=faults) as server:
        heard = Heard()
        with downloads(tmp_path, attempts=2) as d:
            d.watch(heard)
            d.add(server.url("/x"))
            assert d.run().exit_code == 0
        offsets = [event.offset for event in heard.named("ResumeAccepted")]
        assert offsets == sorted(offsets)
        assert len(offsets) == 50
        assert server.stats.bytes_down == 6 * MIB


def test_lulls_in_a_body_change_no_byte(tmp_path: Path) -> None:
    """A lull empties the buffer in between; what comes after it must not meet what came before."""
    lulls = [hf.chaos.Stall(after_bytes=n * 100_001, seconds=0.7) for n in (1, 2, 4)]
    with hf.chaos.server(hf.chaos.Object("/x", MIB), faults=lulls) as server:
        with downloads(tmp_path, timeouts=None) as d:
            d.add(server.url("/x"))
            report = d.run()
        assert (report.done, report.fetched) == (1, MIB)
        assert sha256_of(tmp_path / "x") == server.expected_sha256("/x")


def test_a_stall_ends_within_its_limit(tmp_path: Path) -> None:
    faults = [hf.chaos.Stall(after_bytes=MIB, limit=1)]
    with hf.chaos.server(hf.chaos.Object("/x", 4 * MIB), faults=faults) as server:
        with downloads(tmp_path) as d:
            d.add(server.url("/x"))
            before = time.monotonic()
            assert d.run().exit_code == 0
        assert time.monotonic() - before < 3
        assert server.stats.bytes_down == 4 * MIB


@pytest.mark.parametrize("size", [8 * MIB, 7 * MIB, 9 * MIB])
@pytest.mark.parametrize("validators", ["all", "etag", "date", "weak"])
def test_a_replaced_object_gives_the_new_version_whole(
    size: int, validators: str, tmp_path: Path
) -> None:
    faults = [
        hf.chaos.Replace(after_bytes=3 * MIB, size=size),
        hf.chaos.Reset(after_bytes=4 * MIB, limit=1),
    ]
    obj = hf.chaos.Object("/x", 8 * MIB, validators=validators, faults=faults)  # type: ignore[arg-type] # a literal
    with hf.chaos.server(obj) as server:
        with downloads(tmp_path) as d:
            d.add(server.url("/x"))
            report = d.run()
        assert report.exit_code == 0
        assert obj.version == 2
        assert sha256_of(tmp_path / "x") == server.expected_sha256("/x")
        # An ETag is asked for; by a date or a weak ETag the change is seen in an answer whose
        # body the server has begun to send.
        unread = 0 if validators in {"all", "etag"} else 4 * MIB
        # What the reset overtook in the server never was on the line.
        sent = server.stats.bytes_down - server.stats.bytes_lost
        assert sent <= size + 4 * MIB + unread


@pytest.mark.parametrize("digest", [False, True])
def test_nodes_with_their_own_etags_do_not_end_it(digest: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a case
    faults = [hf.chaos.NodeEtag(2), hf.chaos.Reset(after_bytes=MIB)]
    obj = hf.chaos.Object("/x", 12 * MIB, faults=faults)
    with hf.chaos.server(obj, seed=4) as server:
        with downloads(tmp_path) as d:
            d.add(server.url("/x"), sha256=server.expected_sha256("/x") if digest else None)
            report = d.run()
        assert report.exit_code == 0
        assert sha256_of(tmp_path / "x") == server.expected_sha256("/x")


def test_an_object_that_is_replaced_unseen_by_validators_is_caught_by_the_overlap(
    tmp_path: Path,
) -> None:
    faults = [
        hf.chaos.Replace(after_bytes=3 * MIB),
        hf.chaos.Reset(after_bytes=4 * MIB, limit=1),
    ]
    obj = hf.chaos.Object("/x", 8 * MIB, validators="none", faults=faults)
    with hf.chaos.server(obj) as server:
        with downloads(tmp_path) as d:
            d.add(server.url("/x"))
            assert d.run().exit_code == 0
        assert sha256_of(tmp_path / "x") == server.expected_sha256("/x", version=2)


@pytest.mark.parametrize("how", ["shifted", "unnamed", "whole", "200", "multipart", "total"])
def test_a_spoiled_range_is_never_written(how: str, tmp_path: Path) -> None:
    faults = [hf.chaos.Misrange(how), hf.chaos.Reset(after_bytes=MIB, limit=1)]  # type: ignore[arg-type] # a literal
    with hf.chaos.server(hf.chaos.Object("/x", 4 * MIB, faults=faults)) as server:
        with downloads(tmp_path) as d:
            d.add(server.url("/x"))
            assert d.run().exit_code == 0
        assert sha256_of(tmp_path / "x") == server.expected_sha256("/x")


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("fault", ["Reset", "Fin"])
def test_a_cut_body_is_never_taken_for_whole(framing: str, fault: str, tmp_path: Path) -> None:
    cut = getattr(hf.chaos, fault)(after_bytes=MIB, limit=1)
    obj = hf.chaos.Object("/x", 4 * MIB, framing=framing, faults=[cut])  # type: ignore[arg-type] # a literal
    with hf.chaos.server(obj) as server:
        with downloads(tmp_path) as d:
            d.add(server.url("/x"), size=4 * MIB)
            assert d.run().exit_code == 0
        assert sha256_of(tmp_path / "x") == server.expected_sha256("/x")


def test_a_close_delimited_body_is_reported_as_unverified(tmp_path: Path) -> None:
    obj = hf.chaos.Object("/x", MIB, framing="close")
    with hf.chaos.server(obj) as server, downloads(tmp_path) as d:
        d.add(server.url("/x"))
        report = d.run()
    assert (report.done, report.unverified) == (1, 1)


def test_early_hints_and_surplus_bytes_do_no_harm(tmp_path: Path) -> None:
    faults = [hf.chaos.Interim(103, count=2), hf.chaos.Surplus(100)]
    with hf.chaos.server(hf.chaos.Object("/x", MIB, faults=faults)) as server:
        with downloads(tmp_path) as d:
            d.add(server.url("/x"))
            assert d.run().exit_code == 0
        assert sha256_of(tmp_path / "x") == server.expected_sha256("/x")


def test_a_captive_portal_is_waited_out(tmp_path: Path) -> None:
    faults = [hf.chaos.Captive(skip=1, limit=3), hf.chaos.Reset(after_bytes=MIB, limit=1)]
    with hf.chaos.server(hf.chaos.Object("/x.nc", 4 * MIB, faults=faults)) as server:
        with downloads(tmp_path) as d:
            d.add(server.url("/x.nc"))
            assert d.run().exit_code == 0
        assert server.stats.faults["captive"] == 3
        assert sha256_of(tmp_path / "x.nc") == server.expected_sha256("/x.nc")


def test_a_flipped_bit_is_found_and_repaired_with_a_digest(tmp_path: Path) -> None:
    faults = [hf.chaos.Flip(after_bytes=2 * MIB, limit=1)]
    with hf.chaos.server(hf.chaos.Object("/x", 4 * MIB, faults=faults)) as server:
        with downloads(tmp_path) as d:
            d.add(server.url("/x"), sha256=server.expected_sha256("/x"))
            report = d.run()
        assert report.exit_code == 0
        assert sha256_of(tmp_path / "x") == server.expected_sha256("/x")
        assert server.stats.bytes_down <= 2.02 * 4 * MIB


def test_a_redirect_is_followed(tmp_path: Path) -> None:
    routes = (hf.chaos.Redirect("/a.nc", "/b"), hf.chaos.Object("/b", MIB))
    with hf.chaos.server(*routes) as server:
        with downloads(tmp_path) as d:
            d.add(server.url("/a.nc"))
            assert d.run().exit_code == 0
        assert sha256_of(tmp_path / "a.nc") == server.expected_sha256("/b")


def test_many_files_at_once_over_a_bad_link(tmp_path: Path) -> None:
    objects = [hf.chaos.Object(f"/{n}", n * 40_000) for n in range(40)]
    faults = [hf.chaos.Reset(mean_bytes=MIB), hf.chaos.Status(503, share=0.1)]
    with hf.chaos.server(*objects, faults=faults, seed=2) as server:
        with downloads(tmp_path, workers=8) as d:
            for n in range(40):
                d.add(server.url(f"/{n}"))
            report = d.run()
        assert (report.done, report.exit_code) == (40, 0)
        assert names_in(tmp_path) == sorted(str(n) for n in range(40))
        for n in range(40):
            assert sha256_of(tmp_path / str(n)) == server.expected_sha256(f"/{n}")
        assert report.fetched == report.bytes
