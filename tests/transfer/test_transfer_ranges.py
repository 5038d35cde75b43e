"""Claims on the missing ranges of an object: nothing twice, nothing forgotten, nobody idle."""

from __future__ import annotations

import pytest

from holdfast.runtime.random import SeededRandom
from holdfast.transfer.ranges import LARGEST, STEAL_SECONDS, Claim, Ranges

MIB = 1 << 20
EXTENT = 8 * MIB


def claimed(ranges: Ranges, streams: int = 4, now: float = 0.0) -> Claim:
    claim = ranges.claim(streams, now)
    assert claim is not None
    return claim


def test_one_stream_gets_all_of_the_first_gap() -> None:
    ranges = Ranges([(5, 100), (200, 300)], EXTENT)
    first, second = claimed(ranges, 1), claimed(ranges, 1)
    assert (first.at, first.end) == (5, 100)
    assert (second.at, second.end) == (200, 300)


def test_claims_are_taken_from_the_front_and_become_smaller() -> None:
    ranges = Ranges([(0, 1024 * MIB)], EXTENT)
    lengths = []
    at = 0
    while at < 1024 * MIB:
        claim = claimed(ranges)
        assert claim.at == at
        at = claim.end
        lengths.append(claim.end - claim.at)
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] == 128 * MIB
    assert lengths[-1] == EXTENT
    assert len(lengths) < 40


def test_no_claim_is_larger_than_the_limit() -> None:
    ranges = Ranges([(0, 1 << 40)], EXTENT)
    claim = claimed(ranges, 2)
    assert claim.end - claim.at == LARGEST


def test_claims_end_with_their_extents_also_after_a_broken_place() -> None:
    ranges = Ranges([(3 * MIB, 100 * MIB)], EXTENT)
    claim = claimed(ranges)
    assert (claim.at, claim.end) == (3 * MIB, 8 * MIB)
    assert claimed(ranges).end % EXTENT == 0


def test_what_is_given_back_is_the_next_to_be_claimed() -> None:
    ranges = Ranges([(0, 64 * MIB)], EXTENT)
    first, second = claimed(ranges), claimed(ranges)
    assert ranges.take(first, MIB) == MIB
    ranges.give_back(first, MIB)
    again = claimed(ranges)
    assert (again.at, again.end) == (MIB, first.end)
    assert again.end == second.first


def test_a_claim_takes_on_what_follows_if_it_is_nobodys() -> None:
    ranges = Ranges([(0, 64 * MIB)], EXTENT)
    claim = claimed(ranges)
    end = claim.end
    ranges.take(claim, end)
    assert ranges.extend(claim, 4) > end
    other = claimed(ranges)
    ranges.take(claim, 64 * MIB)
    assert ranges.extend(claim, 4) == claim.end == other.first


def test_an_open_answer_shrinks_to_its_share_when_others_may_come() -> None:
    ranges = Ranges([(0, 64 * MIB)], EXTENT)
    claim = claimed(ranges, 1)
    ranges.share(claim, 4)
    assert claim.end == 16 * MIB
    assert claimed(ranges).at == 16 * MIB


def test_when_all_is_claimed_the_second_half_of_the_largest_rest_is_taken_over() -> None:
    ranges = Ranges([(0, 64 * MIB)], EXTENT)
    large = claimed(ranges, 1)
    ranges.take(large, 10 * MIB)
    assert ranges.has_work(0.0)
    thief = claimed(ranges)
    assert thief.at == large.end == 40 * MIB
    assert thief.end == 64 * MIB
    # What was reserved before is still the victim's, and nothing beyond its new end is.
    assert ranges.take(large, 64 * MIB) == 30 * MIB


def test_a_small_rest_is_taken_over_only_where_it_would_last() -> None:
    ranges = Ranges([(0, 10 * MIB)], EXTENT)
    slow = claimed(ranges, 1)
    assert ranges.claim(4, 0.0) is None
    assert not ranges.has_work(STEAL_SECONDS)
    ranges.take(slow, MIB)  # 1 MiB in 2 s: the rest would last 18 s
    thief = claimed(ranges, 4, 2.0)
    assert MIB < thief.at == slow.end < 10 * MIB


@pytest.mark.parametrize("seed", range(20))
def test_whatever_streams_do_each_byte_is_written_once(seed: int) -> None:
    rng = SeededRandom(seed)
    size = rng.between(1, 400 * MIB)
    ranges = Ranges([(0, size)], EXTENT)
    written: list[tuple[int, int]] = []
    streams: list[tuple[Claim, int]] = []
    for now in range(100_000):
        if len(streams) < 5 and (claim := ranges.claim(5, float(now))) is not None:
            streams.append((claim, claim.at))
        if not streams:
            break
        n = rng.between(0, len(streams) - 1)
        claim, at = streams[n]
        taken = ranges.take(claim, rng.between(1, 3 * MIB))
        if taken:
            written.append((at, at + taken))
        if claim.at >= ranges.extend(claim, 5) or rng.draw() < 0.05:
            ranges.give_back(claim, at + taken)
            del streams[n]
        else:
            streams[n] = (claim, at + taken)
    at = 0
    for start, end in sorted(written):
        assert start == at
        at = end
    assert at == size
