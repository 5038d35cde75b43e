"""One object by several streams: one version, each byte once, whatever happens to any of them."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest
from transfer_origin import Bench, Origin, body_of, sha256_of, with_head

import holdfast.transfer.extents
import holdfast.transfer.part
from holdfast.transfer.failures import Interrupted, TransferFailed
from holdfast.transfer.validators import Rung
from holdfast.wire.cancel import Cancel
from holdfast.wire.http1 import Framing, Head

if TYPE_CHECKING:
    from holdfast.transfer.plane import Request

KIB = 1024
EXTENT = 64 * KIB
SIZE = 1 << 20
OLD, NEW = body_of(1), body_of(2)


@pytest.fixture(autouse=True)
def small_extents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holdfast.transfer.extents, "EXTENT_SIZE", EXTENT)
    monkeypatch.setattr(holdfast.transfer.extents, "SPLIT_FROM", 2 * EXTENT)
    monkeypatch.setattr(holdfast.transfer.part, "CHECKPOINT_BYTES", EXTENT)


@pytest.fixture
def origin() -> Origin:
    return Origin(headers={"accept-ranges": "bytes"})


def shared(origin: Origin, streams: int = 4) -> Bench:
    origin.step = 4 * KIB
    origin.wakes = True
    return Bench(origin, streams=streams)


def test_several_streams_bring_each_byte_once(origin: Origin) -> None:
    bench = shared(origin)
    assert bench.run(sha256=sha256_of(OLD)).verified == "sha256"
    assert bench.content == OLD
    assert origin.served == SIZE
    assert bench.transfer is not None
    assert bench.transfer.received == SIZE
    first, *others = origin.asked
    assert "Range" not in first.headers  # no HEAD, and nothing asked twice
    assert len(others) >= 2
    assert {request.headers["If-Match"] for request in others} == {'"v1"'}


def test_bytes_are_made_safe_in_shares_of_the_object(
    origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holdfast.transfer.extents, "MIN_CHECKPOINT", KIB)
    bench = shared(origin)
    bench.run()
    assert bench.transfer is not None
    assert bench.transfer.part.step == SIZE // 128


def test_an_object_below_the_limit_has_one_stream() -> None:
    origin = Origin(body=OLD[: 2 * EXTENT - 1])
    bench = shared(origin)
    bench.run()
    assert len(origin.asked) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"etag": False},
        {"etag": False, "dated": False},
        {"headers": {"content-encoding": "gzip"}},
        {"ranges": False},
    ],
)
def test_without_ranges_or_something_that_vouches_there_is_one_stream(
    changes: dict[str, object],
) -> None:
    origin = Origin(**changes)  # type: ignore[arg-type] # fields of the class
    if origin.ranges:
        origin.headers = {**origin.headers, "accept-ranges": "bytes"}
    bench = shared(origin)
    bench.run()
    assert bench.content == OLD
    assert len(origin.asked) == 1


def test_a_date_will_do_where_a_digest_follows() -> None:
    origin = Origin(etag=False, headers={"accept-ranges": "bytes"})
    bench = shared(origin)
    assert bench.run(sha256=sha256_of(OLD)).verified == "sha256"
    assert len(origin.asked) > 1


def test_streams_that_break_lose_no_byte(origin: Origin) -> None:
    origin.cuts = [30_001, 1, 50_003, 70_000, 0, 10_000, 12_345] * 3
    bench = shared(origin)
    bench.run(sha256=sha256_of(OLD), attempts=4)
    assert bench.content == OLD
    assert origin.served == SIZE
    assert set(bench.failed) == {"network"}


def test_the_rows_say_exactly_what_is_there_when_it_is_interrupted(origin: Origin) -> None:
    cancel = Cancel()
    origin.before = lambda n: cancel.set() if n == 5 else None
    bench = shared(origin)
    with pytest.raises(Interrupted):
        bench.run(cancel=cancel)
    assert 0 < bench.kept < SIZE
    for extent in bench.rows.values():
        assert bench.content[extent.off : extent.end] == OLD[extent.off : extent.end]
    assert bench.kept == origin.served
    origin.before = None
    assert bench.run(sha256=sha256_of(OLD)).verified == "sha256"
    assert bench.content == OLD
    assert origin.served == SIZE


def test_one_stream_fills_the_gaps_that_several_left(origin: Origin) -> None:
    cancel = Cancel()
    origin.before = lambda n: cancel.set() if n == 5 else None
    bench = shared(origin)
    with pytest.raises(Interrupted):
        bench.run(cancel=cancel)
    bench.company = None
    bench.run(sha256=sha256_of(OLD))
    assert bench.content == OLD
    assert origin.served == SIZE


def test_a_gap_at_zero_is_asked_for_as_a_range(origin: Origin) -> None:
    bench = shared(origin)
    bench.run()
    del bench.rows[0], bench.rows[3 * EXTENT]
    before = origin.served
    bench.company = None
    bench.run()
    assert bench.content == OLD
    assert origin.served == before + 2 * EXTENT
    assert bench.ranges[-2:] == [f"bytes=0-{EXTENT - 1}", f"bytes={3 * EXTENT}-{4 * EXTENT - 1}"]


# -- one version -----------------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(2, 8))
@pytest.mark.parametrize("size", [SIZE, SIZE - 5, 3 * EXTENT, EXTENT])
@pytest.mark.parametrize("if_match", [True, False])
def test_a_change_seen_by_any_stream_gives_the_new_version_whole(
    at: int, size: int, *, if_match: bool, origin: Origin
) -> None:
    new = body_of(2, size)
    origin.if_match = if_match
    origin.before = lambda n: origin.change(new) if n == at else None
    bench = shared(origin)
    whole = bench.run()
    if origin.version == 2:  # else the streams were through before the change
        assert (whole.size, bench.content) in {(size, new), (SIZE, OLD)}
        if bench.content == new:
            assert bench.standing.changes == 1
    assert bench.standing.pinned is not None
    expected = OLD if bench.standing.pinned.etag == '"v1"' else new
    assert bench.content == expected


def test_a_server_that_stops_giving_ranges_is_asked_by_one_stream(origin: Origin) -> None:
    def whole(head: Head, body: bytes, request: Request) -> tuple[Head, bytes]:
        if "Range" not in request.headers:
            return head, body
        head = with_head(head, status=200, length=SIZE)
        return with_head(head, headers={**head.headers, "content-range": ""}), OLD

    origin.alter = whole
    bench = shared(origin)
    bench.run()
    assert bench.content == OLD
    # No byte of the others was taken. The first goes on, or, if it was through with its quarter
    # before they were answered, is given the whole once more.
    assert origin.served in {SIZE, SIZE + SIZE // 4}


def test_helpers_that_are_refused_leave_and_the_first_goes_on(origin: Origin) -> None:
    def refused(head: Head, body: bytes, request: Request) -> tuple[Head, bytes]:
        if "Range" in request.headers:
            return Head(403, {}, Framing.LENGTH, 0), b""
        return head, body

    origin.alter = refused
    bench = shared(origin)
    bench.run()
    assert bench.content == OLD
    assert origin.served == SIZE
    assert len(origin.asked) <= 4


def test_nodes_with_their_own_etags_end_the_sharing_but_not_the_transfer(origin: Origin) -> None:
    def node(head: Head, body: bytes, request: Request) -> tuple[Head, bytes]:
        if len(origin.asked) % 3 == 2 and head.status < 400:
            return with_head(head, headers={**head.headers, "etag": '"other"'}), body
        return head, body

    origin.alter = node
    origin.if_match = False
    bench = shared(origin)
    bench.run(attempts=20)
    assert bench.content == OLD


# -- failures of the disk --------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["pwrite", "datasync"])
@pytest.mark.parametrize("at", [1, 2, 3, 5, 9])
def test_an_error_of_the_disk_in_any_stream_ends_the_transfer(
    op: str, at: int, origin: Origin
) -> None:
    bench = shared(origin)
    bench.files.fail(at, errno.EIO, op)
    with pytest.raises(OSError, match="Input/output"):
        bench.run()
    assert bench.files.left() == []
    bench.files.heal()
    bench.run(sha256=sha256_of(OLD))
    assert bench.content == OLD


def test_attempts_without_progress_of_any_stream_end_it(origin: Origin) -> None:
    origin.cuts = [30_000, *([0] * 200)]
    bench = shared(origin)
    with pytest.raises(TransferFailed, match="reset"):
        bench.run(attempts=3)
    assert bench.kept == 30_000


def test_a_connection_that_is_ended_from_outside_is_replaced_and_its_bytes_kept(
    origin: Origin,
) -> None:
    bench = shared(origin)
    company = bench.company
    assert company is not None

    def before(n: int) -> None:
        if n == 4:
            for flow in list(company.flows):
                flow.cancel.set()

    origin.before = before
    bench.run(attempts=1)  # it is no failure
    assert bench.content == OLD
    assert origin.served == SIZE
    assert bench.failed == []


def test_the_rung_that_a_server_honours_is_that_of_all_streams(origin: Origin) -> None:
    bench = shared(origin)
    bench.standing = bench.standing.__class__(limit=Rung.IF_RANGE)
    bench.run()
    assert bench.content == OLD
    assert {request.headers.get("If-Range") for request in origin.asked[1:]} == {'"v1"'}
