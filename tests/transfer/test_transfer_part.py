"""The part file: what is kept, what is trusted again, and every moment at which power can fail."""

from __future__ import annotations

import errno
import hashlib
import zlib
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from holdfast.runtime import files as seam
from holdfast.runtime.random import SeededRandom
from holdfast.testing.files import PowerCut, SimFiles
from holdfast.transfer.extents import (
    EXTENT_SIZE,
    Extent,
    Extents,
    checkpoint_size,
    extent_size,
)
from holdfast.transfer.part import CHECKPOINT_BYTES, Part, UnsafePart
from holdfast.transfer.verify import Hasher

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MIB = 1 << 20
BODY = SeededRandom("body").bytes(3 * CHECKPOINT_BYTES + 12345)
STEP = 1 << 20


class Rows:
    """A journal that loses nothing: what a committed row is."""

    def __init__(self) -> None:
        self.by_off: dict[int, Extent] = {}

    def keep(self, extents: Sequence[Extent]) -> None:
        self.by_off |= {extent.off: extent for extent in extents}

    def part(self, *, durable: bool = True) -> Part:
        return Part("/d/.x.part", Extents.of(self.by_off.values()), self.keep, durable=durable)


@pytest.fixture
def disk() -> Iterator[SimFiles]:
    files = SimFiles()
    files.makedirs("/d")
    with seam.install(files):
        yield files


def written(part: Part, body: bytes = BODY, step: int = STEP) -> None:
    """Write what is missing of `body`."""
    while part.offset < len(body):
        part.write(memoryview(body)[part.offset : part.offset + step])


def test_bytes_are_journaled_by_checkpoints_with_their_crc(disk: SimFiles) -> None:
    rows = Rows()
    part = rows.part()
    part.open()
    written(part)
    assert part.saved == 3 * CHECKPOINT_BYTES
    part.seal()
    part.close()
    assert part.saved == len(BODY)
    assert sum(extent.len for extent in rows.by_off.values()) == len(BODY)
    for extent in rows.by_off.values():
        assert extent.crc32 == zlib.crc32(BODY[extent.off : extent.end])
        assert extent.off % EXTENT_SIZE == 0
    assert disk.read("/d/.x.part") == BODY
    assert disk.left() == []


def test_a_smaller_step_is_what_a_crash_may_cost(disk: SimFiles) -> None:
    rows = Rows()
    part = rows.part()
    part.open()
    part.step = 2 * STEP
    most = 0
    while part.offset < CHECKPOINT_BYTES:
        part.write(memoryview(BODY)[part.offset : part.offset + STEP])
        most = max(most, part.held - part.saved)
    assert most == STEP
    part.close()


@pytest.mark.parametrize(
    ("mib", "step"), [(1, 8), (15, 8), (16, 1), (128, 1), (256, 2), (1 << 10, 8), (1 << 20, 8)]
)
def test_a_crash_costs_a_128th_of_a_large_object(mib: int, step: int) -> None:
    assert checkpoint_size(mib << 20) == step << 20


def test_a_slow_stream_is_journaled_each_second(disk: SimFiles) -> None:
    import holdfast as hf  # noqa: PLC0415 - the lazy public name is what is used

    rows = Rows()
    with hf.testing.clock(auto=False) as clock:
        part = rows.part()
        part.open()
        part.write(memoryview(b"x" * 10))
        assert part.saved == 0
        clock.advance(1.0)
        part.write(memoryview(b"y" * 10))
        assert part.saved == 20
        part.close()


def test_a_row_comes_only_after_the_sync_of_its_bytes(disk: SimFiles) -> None:
    rows = Rows()
    part = rows.part()
    part.open()
    disk.fail(1, errno.EIO, "datasync")
    with pytest.raises(OSError, match="Input/output"):
        written(part)
    part.close()
    assert rows.by_off == {}


def test_short_writes_lose_nothing(disk: SimFiles) -> None:
    rows = Rows()
    part = rows.part()
    part.open()
    disk.short(1)
    disk.short(5)
    written(part, BODY[: 9 << 20])
    part.seal()
    part.close()
    assert disk.read("/d/.x.part") == BODY[: 9 << 20]


def test_a_full_disk_keeps_what_fitted(disk: SimFiles) -> None:
    rows = Rows()
    disk.capacity = 5 << 20
    part = rows.part()
    part.open()
    with pytest.raises(OSError, match="No space"):
        written(part)
    part.checkpoint()
    part.close()
    assert part.saved == 5 << 20
    assert rows.by_off[0].len == 5 << 20


def begun(rows: Rows, size: int) -> None:
    part = rows.part()
    part.open()
    written(part, BODY[:size])
    part.checkpoint()
    part.close()


def test_it_goes_on_where_the_rows_end_not_where_the_file_ends(disk: SimFiles) -> None:
    rows = Rows()
    begun(rows, 10 << 20)
    with closing(disk.open("/d/.x.part", write=True)) as file:
        file.pwrite(b"z" * 1000, 10 << 20)
    part = rows.part()
    part.open()
    assert part.offset == 10 << 20
    written(part)
    part.seal()
    part.close()
    assert disk.read("/d/.x.part") == BODY


def test_a_tail_that_is_wrong_is_fetched_again(disk: SimFiles) -> None:
    rows = Rows()
    begun(rows, 10 << 20)
    with closing(disk.open("/d/.x.part", write=True)) as file:
        file.pwrite(b"\0", (10 << 20) - 1)
    part = rows.part()
    part.open()
    assert part.offset == EXTENT_SIZE
    part.close()


def test_with_a_digest_all_kept_bytes_are_read_and_checked(disk: SimFiles) -> None:
    rows = Rows()
    begun(rows, len(BODY))
    with closing(disk.open("/d/.x.part", write=True)) as file:
        file.pwrite(b"\0", EXTENT_SIZE + 5)
    part = rows.part()
    part.open(Hasher(["sha256"]))
    assert part.offset == EXTENT_SIZE  # the second extent is wrong, and what follows it goes too
    written(part)
    part.seal()
    assert part.hasher is not None
    hasher = Hasher(["sha256"])
    part.digest_all(hasher)
    part.close()
    assert hasher.hex("sha256") == hashlib.sha256(BODY).hexdigest()


def test_a_digest_runs_on_over_a_resume(disk: SimFiles) -> None:
    rows = Rows()
    begun(rows, 10 << 20)
    part = rows.part()
    part.open(Hasher(["sha256"]))
    written(part)
    part.close()
    assert part.hasher is not None
    assert part.hasher.position == len(BODY)
    assert part.hasher.hex("sha256") == hashlib.sha256(BODY).hexdigest()


@pytest.mark.parametrize("left", [0, 1, EXTENT_SIZE, EXTENT_SIZE + 7])
def test_a_file_shorter_than_its_rows_is_believed_as_far_as_it_goes(
    disk: SimFiles, left: int
) -> None:
    rows = Rows()
    begun(rows, 10 << 20)
    with closing(disk.open("/d/.x.part", write=True)) as file:
        file.truncate(left)
    part = rows.part()
    part.open()
    assert part.offset == left // EXTENT_SIZE * EXTENT_SIZE
    part.close()


def test_rows_without_a_file_count_for_nothing(disk: SimFiles) -> None:
    rows = Rows()
    begun(rows, 10 << 20)
    disk.unlink("/d/.x.part")
    part = rows.part()
    part.open()
    assert part.offset == 0
    part.close()


def test_what_is_no_plain_file_is_not_opened(disk: SimFiles) -> None:
    disk.makedirs("/d/.x.part")
    with pytest.raises(UnsafePart):
        Rows().part().open()


def test_a_shorter_new_version_keeps_no_tail(disk: SimFiles) -> None:
    rows = Rows()
    part = rows.part()
    part.open()
    written(part, BODY[: 9 << 20])
    rows.by_off.clear()
    part.restart()
    written(part, b"short", step=5)
    part.seal()
    part.close()
    assert disk.read("/d/.x.part") == b"short"


@pytest.mark.parametrize("torn", [None, 1])
def test_whenever_power_fails_what_is_journaled_is_on_the_disk(torn: int | None) -> None:
    body = BODY[: 2 * CHECKPOINT_BYTES + 999]
    cuts = 0
    for at in range(1, 1000):
        files, rows = SimFiles(), Rows()
        files.makedirs("/d")
        files.cut_at(at)
        with seam.install(files):
            if _whole_run(rows, body):
                break
            cuts += 1
            files.crash(SeededRandom(f"{torn} {at}") if torn else None)
            for extent in rows.by_off.values():
                assert (
                    files.read("/d/.x.part")[extent.off : extent.end]
                    == body[extent.off : extent.end]
                )
            assert _whole_run(rows, body)
            assert files.read("/d/.x.part") == body
    assert cuts > 15


def _whole_run(rows: Rows, body: bytes) -> bool:
    part = rows.part()
    try:
        part.open()
        written(part, body)
        part.seal()
    except PowerCut:
        return False
    finally:
        part.close()
    return True


# -- several streams -------------------------------------------------------------------------------


def test_bytes_that_come_in_any_order_leave_gaps_that_are_known(disk: SimFiles) -> None:
    rows = Rows()
    part = rows.part()
    part.open()
    body = memoryview(BODY)
    part.put(body[EXTENT_SIZE : EXTENT_SIZE + 5], EXTENT_SIZE)
    part.put(body[:7], 0)
    assert (part.offset, part.held) == (7, 12)
    size = len(BODY)
    assert part.gaps(size) == [(7, EXTENT_SIZE), (EXTENT_SIZE + 5, size)]
    part.put(body[7:EXTENT_SIZE], 7)
    assert part.offset == EXTENT_SIZE + 5
    assert part.run_start(EXTENT_SIZE + 5) == 0
    part.checkpoint()
    part.close()
    again = rows.part()
    again.open()
    assert again.gaps(size) == [(EXTENT_SIZE + 5, size)]
    again.close()


def test_a_second_stream_in_one_extent_has_a_row_of_its_own(disk: SimFiles) -> None:
    rows = Rows()
    part = rows.part()
    part.open()
    body = memoryview(BODY)
    part.put(body[:1000], 0)
    part.put(body[5000:6000], 5000)
    part.put(body[1000:5000], 1000)
    part.put(body[6000:7000], 6000)
    part.checkpoint()
    part.close()
    assert sorted(rows.by_off) == [0, 5000]
    assert [rows.by_off[off].len for off in (0, 5000)] == [5000, 2000]
    for extent in rows.by_off.values():
        assert extent.crc32 == zlib.crc32(BODY[extent.off : extent.end])


def test_the_end_of_each_stream_is_read_again(disk: SimFiles) -> None:
    rows = Rows()
    part = rows.part()
    part.open()
    for off in (0, EXTENT_SIZE, 2 * EXTENT_SIZE):
        part.put(memoryview(BODY)[off : off + 1000], off)
    part.checkpoint()
    part.close()
    with closing(disk.open("/d/.x.part", write=True)) as file:
        file.pwrite(b"\0", EXTENT_SIZE + 999)
    part = rows.part()
    part.open()
    assert part.held == 2000
    assert (EXTENT_SIZE, EXTENT_SIZE) not in part.gaps(len(BODY))
    assert part.gaps(len(BODY))[0] == (1000, 2 * EXTENT_SIZE)
    part.close()


def test_the_last_extent_is_read_again_though_it_is_a_full_one(disk: SimFiles) -> None:
    rows = Rows()
    part = rows.part()
    part.open()
    part.put(memoryview(BODY)[: 2 * EXTENT_SIZE], 0)
    part.checkpoint()
    part.close()
    with closing(disk.open("/d/.x.part", write=True)) as file:
        file.pwrite(b"\0", 2 * EXTENT_SIZE - 1)
    part = rows.part()
    part.open()
    assert part.held == part.offset == EXTENT_SIZE
    part.close()


def test_a_hasher_forgets_what_it_took_of_a_bad_extent(disk: SimFiles) -> None:
    rows = Rows()
    part = rows.part()
    part.open()
    part.put(memoryview(BODY)[: 2 * EXTENT_SIZE], 0)
    part.checkpoint()
    part.close()
    with closing(disk.open("/d/.x.part", write=True)) as file:
        file.pwrite(b"\0" if BODY[:1] != b"\0" else b"\1", 0)
    part, hasher = rows.part(), Hasher(["sha256"])
    part.open(hasher)
    assert (part.offset, part.held) == (0, EXTENT_SIZE)
    part.put(memoryview(BODY)[:EXTENT_SIZE], 0)
    part.put(memoryview(BODY)[2 * EXTENT_SIZE :], 2 * EXTENT_SIZE)
    part.digest_all(hasher)
    assert hasher.hex("sha256") == hashlib.sha256(BODY).hexdigest()
    part.close()


def test_extents_that_are_forgotten_are_gone_from_the_rows_first(disk: SimFiles) -> None:
    rows = Rows()
    begun(rows, 2 * EXTENT_SIZE)
    order: list[str] = []

    def drop(extents: Sequence[Extent]) -> None:
        order.append("dropped")
        for extent in extents:
            del rows.by_off[extent.off]

    part = Part("/d/.x.part", Extents.of(rows.by_off.values()), rows.keep, drop=drop)
    part.open()
    part.forget([rows.by_off[0]])
    assert order == ["dropped"]
    assert part.gaps(2 * EXTENT_SIZE) == [(0, EXTENT_SIZE)]
    part.put(memoryview(BODY)[:EXTENT_SIZE], 0)
    part.seal()
    part.close()
    assert disk.read("/d/.x.part") == BODY[: 2 * EXTENT_SIZE]


@pytest.mark.parametrize(
    ("size", "extent"),
    [
        (None, 8 << 20),
        (1, 8 << 20),
        (8 << 30, 8 << 20),
        ((8 << 30) + 1, 16 << 20),
        (1 << 40, 64 << 20),
    ],
)
def test_extents_grow_with_the_object(size: int | None, extent: int) -> None:
    assert extent_size(size) == extent


# -- room ------------------------------------------------------------------------------------------


def test_room_is_taken_once_and_is_no_data(disk: SimFiles) -> None:
    part = Part("/d/.x.part", Extents(), lambda _: None)
    part.open()
    part.allocate(4 * MIB)
    part.allocate(4 * MIB)
    assert (part.held, part.offset, part.gaps(4 * MIB)) == (0, 0, [(0, 4 * MIB)])
    assert disk.stat("/d/.x.part").size == 0  # type: ignore[union-attr] # it is there
    assert [op for op, _ in disk.log].count("allocate") == 1
    part.restart()
    part.allocate(4 * MIB)  # a new version may need it again
    assert [op for op, _ in disk.log].count("allocate") == 2
    part.close()


def test_what_is_small_takes_no_room_beforehand(disk: SimFiles) -> None:
    part = Part("/d/.x.part", Extents(), lambda _: None)
    part.open()
    part.allocate(1 * MIB - 1)
    assert "allocate" not in {op for op, _ in disk.log}
    part.close()


def test_where_there_is_no_room_none_is_kept(disk: SimFiles) -> None:
    part = Part("/d/.x.part", Extents(), lambda _: None)
    part.open()
    part.put(memoryview(bytes(1000)), 0)
    disk.capacity = 2 * MIB
    with pytest.raises(OSError, match="No space"):
        part.allocate(4 * MIB)
    assert disk.log[-1] == ("truncate", "/d/.x.part")
    assert disk.free_space("/d") >= 2 * MIB - 1024
    assert part.held == 1000
    part.close()
