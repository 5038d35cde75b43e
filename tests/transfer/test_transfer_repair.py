"""Bytes damaged on the way: found and fetched again, at a bounded price."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
from transfer_origin import Bench, Origin, body_of, sha256_of

import holdfast.transfer.extents
import holdfast.transfer.part
from holdfast.transfer.failures import TransferFailed
from holdfast.transfer.repair import Pieces

if TYPE_CHECKING:
    from holdfast.transfer.plane import Request
    from holdfast.wire.http1 import Head

KIB = 1024
EXTENT = 64 * KIB
SIZE = 1 << 20
GOOD = body_of(1)
SHA256 = sha256_of(GOOD)


@pytest.fixture(autouse=True)
def small_extents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holdfast.transfer.extents, "EXTENT_SIZE", EXTENT)
    monkeypatch.setattr(holdfast.transfer.extents, "SPLIT_FROM", 2 * EXTENT)
    monkeypatch.setattr(holdfast.transfer.part, "CHECKPOINT_BYTES", EXTENT)


def sums(body: bytes, size: int = EXTENT, algorithm: str = "sha1") -> Pieces:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return Pieces(size, algorithm, tuple(hashlib.new(algorithm, p).hexdigest() for p in parts))


def flipping(*flips: tuple[int, int], streams: int = 1) -> Origin:
    """An origin that flips a bit at offset `at`, the first `times` that this byte is sent.

    With several streams the first answer is left after a share.
    """
    left = dict(flips)

    def alter(head: Head, body: bytes, request: Request) -> tuple[Head, bytes]:
        if head.status >= 300:
            return head, body
        start, _, last = request.headers.get("Range", "bytes=0-")[6:].partition("-")
        begin, end = int(start), int(last) + 1 if last else SIZE
        if not request.headers.get("Range"):
            end = SIZE // streams
        changed = bytearray(body)
        for at, times in left.items():
            if begin <= at < end and times:
                left[at] -= 1
                changed[at - begin] ^= 1
        return head, bytes(changed)

    return Origin(headers={"accept-ranges": "bytes"}, alter=alter)


@pytest.mark.parametrize("streams", [1, 4])
@pytest.mark.parametrize("at", [0, 500_000, SIZE - 1])
def test_with_piece_sums_only_the_bad_extent_is_fetched_again(at: int, streams: int) -> None:
    origin = flipping((at, 1), streams=streams)
    bench = Bench(origin, streams=streams)
    assert bench.run(sha256=SHA256, pieces=sums(GOOD)).verified == "sha256"
    assert bench.content == GOOD
    assert origin.served == SIZE + EXTENT


def test_piece_sums_alone_verify_too() -> None:
    origin = flipping((70_000, 1), (900_000, 1))
    bench = Bench(origin)
    assert bench.run(pieces=sums(GOOD, 100_000, "sha256")).verified == "sha256"
    assert bench.content == GOOD
    # Each bad piece of 100,000 bytes lies in two or three extents.
    assert origin.served <= SIZE + 6 * EXTENT


def test_a_piece_that_stays_wrong_ends_it() -> None:
    origin = flipping((500_000, 99))
    bench = Bench(origin)
    with pytest.raises(TransferFailed, match="1 of 16 pieces") as caught:
        bench.run(pieces=sums(GOOD))
    assert caught.value.reason == "digest"
    assert bench.kept == SIZE


@pytest.mark.parametrize("streams", [1, 4])
@pytest.mark.parametrize("at", [0, 300_000, 500_000, SIZE - 1])
def test_with_a_whole_digest_extents_are_read_again_until_it_is_right(
    at: int, streams: int
) -> None:
    origin = flipping((at, 1), streams=streams)
    bench = Bench(origin, streams=streams)
    assert bench.run(sha256=SHA256).verified == "sha256"
    assert bench.content == GOOD
    assert SIZE < origin.served <= 2.02 * SIZE
    assert len(origin.asked) <= 60


def test_two_damaged_extents_are_both_found() -> None:
    origin = flipping((100_000, 1), (700_000, 1))
    bench = Bench(origin)
    assert bench.run(sha256=SHA256).verified == "sha256"
    assert bench.content == GOOD
    assert origin.served <= 2.02 * SIZE


def test_a_second_reading_that_is_damaged_is_outvoted_by_a_third() -> None:
    """Three extents: the first reading of one is wrong, and the second of another."""
    origin = flipping((100_000, 1))
    alter, seen = origin.alter, list[str]()

    def worse(head: Head, body: bytes, request: Request) -> tuple[Head, bytes]:
        assert alter is not None
        head, body = alter(head, body, request)
        if request.headers.get("Range") and not seen:
            seen.append(request.headers["Range"])
            body = bytes([body[0] ^ 1]) + body[1:]  # the first extent that is read again
        return head, body

    origin.alter = worse
    bench = Bench(origin)
    assert bench.run(sha256=SHA256).verified == "sha256"
    assert bench.content == GOOD
    assert len(seen) == 1


def test_a_mistyped_digest_costs_the_size_once_more_and_keeps_the_bytes() -> None:
    origin = flipping()
    bench = Bench(origin)
    with pytest.raises(TransferFailed, match=SHA256):
        bench.run(sha256="0" * 64)
    assert origin.served == 2 * SIZE
    assert bench.kept == SIZE
    assert bench.run(sha256=SHA256).verified == "sha256"
    assert origin.served == 2 * SIZE


def test_an_object_that_changes_during_the_repair_is_taken_whole() -> None:
    new = body_of(2)
    origin = flipping((0, 99))
    origin.before = lambda n: origin.change(new) if n == 5 else None
    bench = Bench(origin)
    with pytest.raises(TransferFailed):  # the digest is that of the old version
        bench.run(sha256=SHA256)
    assert bench.standing.pinned is not None
    assert bench.standing.pinned.etag == '"v2"'


@pytest.mark.parametrize(
    ("size", "algorithm", "hexes", "text"),
    [
        (EXTENT, "crc32", ("00",), "not one of the digests"),
        (10, "sha1", ("0" * 40,), "at least 1024"),
        (EXTENT, "sha1", ("xyz",), "not a sha1 digest"),
        (EXTENT, "sha1", (), "not a sha1 digest"),
    ],
)
def test_sums_that_make_no_sense_are_refused(
    size: int, algorithm: str, hexes: tuple[str, ...], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        Pieces(size, algorithm, hexes)


def test_sums_for_another_size_fail_with_the_size() -> None:
    bench = Bench(flipping())
    with pytest.raises(TransferFailed) as caught:
        bench.run(pieces=sums(GOOD[: 3 * EXTENT]))
    assert caught.value.reason == "size"
