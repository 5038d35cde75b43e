"""The limits of a host, by the clock of the test: when they grow, halve, and hold."""

from __future__ import annotations

import pytest

from holdfast.downloads.hosts import START, Bucket, HostLimit, Pace, crawls, laggards

KIB = 1024
MIB = 1 << 20


def grown(limit: HostLimit, rate: float, seconds: float, start: float = 0.0) -> float:
    """Let a busy host deliver `rate` for `seconds`; return the time."""
    now = start
    moved = getattr(limit, "_moved", 0)
    while now < start + seconds:
        now += 0.1
        moved += rate * 0.1
        limit.tick(now, int(moved), limit.limit)
    return now


def test_it_begins_with_four_connections_or_fewer_if_so_told() -> None:
    assert HostLimit(16).limit == START == 4
    assert HostLimit(2).limit == 2


def test_one_more_after_each_five_seconds_in_which_goodput_grew() -> None:
    limit = HostLimit(16)
    now = moved = 0.0
    changes = []
    while now < 21:
        now += 0.1
        moved += limit.limit * MIB * 0.1  # each connection brings as much as any other
        if limit.tick(now, int(moved), limit.limit):
            changes.append(now)
    assert limit.limit == 8
    assert changes == pytest.approx([5.1, 10.2, 15.2, 20.3], abs=0.25)


def test_no_more_where_more_connections_bring_nothing() -> None:
    limit = HostLimit(16)
    grown(limit, 10 * MIB, 50)
    assert limit.limit == 5  # the one that showed that it brings nothing


def test_it_tries_again_after_a_minute() -> None:
    limit = HostLimit(16)
    grown(limit, 10 * MIB, 80)
    assert limit.limit == 6


def test_it_never_grows_beyond_what_is_allowed() -> None:
    limit = HostLimit(5)
    now = moved = 0.0
    while now < 60:
        now += 0.1
        moved += now * MIB
        limit.tick(now, int(moved), limit.limit)
    assert limit.limit == 5


def test_it_does_not_grow_while_connections_are_idle() -> None:
    limit = HostLimit(16)
    for n in range(600):
        limit.tick(n / 10, n * MIB, 3)
    assert limit.limit == 4


def test_throttling_halves_it_once_a_second_down_to_one() -> None:
    limit = HostLimit(16)
    limit.throttled(10.0, None)
    limit.throttled(10.5, None)
    assert limit.limit == 2
    limit.throttled(11.0, None)
    limit.throttled(12.0, None)
    assert limit.limit == 1


def test_after_trouble_the_five_seconds_begin_afresh() -> None:
    limit = HostLimit(16)
    now = grown(limit, MIB, 4.5)
    limit.throttled(now, None)
    now = grown(limit, MIB, 4.5, now)
    assert limit.limit == 2
    grown(limit, MIB, 1, now)
    assert limit.limit == 3


def test_retry_after_holds_the_whole_host() -> None:
    limit = HostLimit(16)
    limit.throttled(100.0, 5.0)
    limit.throttled(101.0, 2.0)  # a shorter one does not shorten it
    assert limit.wait(102.0) == 3.0
    assert limit.wait(106.0) == 0.0


def test_a_refusal_counts_only_beside_other_connections() -> None:
    limit = HostLimit(16)
    limit.refused(1.0, 1)
    assert limit.limit == 4
    limit.refused(2.0, 4)
    assert limit.limit == 2


@pytest.mark.parametrize(("broken", "expected"), [(1, 4), (2, 2)])
def test_more_than_a_fifth_of_resets_halves_it(broken: int, expected: int) -> None:
    limit = HostLimit(16)
    for n in range(5):
        limit.ended(n * 0.1, broken=n >= 5 - broken)
    assert limit.limit == expected


def test_resets_of_long_ago_do_not_count() -> None:
    limit = HostLimit(16)
    for n in range(20):
        limit.ended(n * 11.0, broken=True)
    assert limit.limit == 4


# -- slow connections ----------------------------------------------------------------------------


def paces(rates: list[float], seconds: float = 3.0) -> tuple[list[Pace], float]:
    made = [Pace(began=True) for _ in rates]
    now = 0.0
    while now < seconds:
        for pace, rate in zip(made, rates, strict=True):
            pace.moved = int(rate * now)
            pace.look(now)
        now += 0.1
    return made, now - 0.1


def test_one_of_four_that_stalls_is_found_after_two_seconds() -> None:
    made, now = paces([MIB, 2 * MIB, 0, MIB])
    assert laggards(made, now) == [made[2]]
    made, now = paces([MIB, 2 * MIB, 0, MIB], seconds=1.5)
    assert laggards(made, now) == []


@pytest.mark.parametrize(("rate", "found"), [(0.09, True), (0.11, False)])
def test_a_tenth_of_the_median_is_the_line(rate: float, *, found: bool) -> None:
    made, now = paces([MIB, MIB, rate * MIB, 8 * MIB])
    assert (laggards(made, now) == [made[2]]) is found


def test_with_one_peer_nobody_is_called_slow() -> None:
    made, now = paces([MIB, 0])
    assert laggards(made, now) == []


def test_if_all_are_slow_nothing_is_done() -> None:
    made, now = paces([10.0, 12.0, 9.0, 11.0])
    assert laggards(made, now) == []


def test_an_answer_that_has_not_begun_is_not_slow() -> None:
    made, now = paces([MIB, MIB, 0, MIB])
    made[2] = Pace()
    made[2].look(now)
    assert laggards(made, now) == []


@pytest.mark.parametrize(("rate", "seconds", "found"), [(900, 25, True), (900, 15, False)])
def test_hardly_a_byte_for_twenty_seconds_is_a_crawl(
    rate: float, seconds: float, *, found: bool
) -> None:
    made, now = paces([rate], seconds)
    assert crawls(made[0], now) is found
    made, now = paces([2 * KIB], seconds)
    assert not crawls(made[0], now)


# -- bandwidth -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [10 * KIB, MIB, 100 * MIB])
@pytest.mark.parametrize("streams", [1, 4])
def test_the_rate_is_kept_within_five_percent_over_ten_seconds(rate: int, streams: int) -> None:
    bucket = Bucket(rate)
    due = [0.0] * streams
    moved = 0
    while (now := min(due)) < 10.0:
        moved += bucket.piece
        n = due.index(now)
        due[n] = now + bucket.take(bucket.piece, now)
    assert moved == pytest.approx(10 * rate, rel=0.05)


def test_a_silence_is_not_saved_up() -> None:
    bucket = Bucket(1000)
    assert bucket.take(100, 0.0) == 0.0
    assert bucket.take(1000, 60.0) == pytest.approx(0.9)
