"""Durations in a fixed number of buckets: near the truth, lately and ever, and summed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.histogram import BUCKETS, Recent, Tally, bounds_of, bucket_of

NAN = math.nan
DURATIONS = st.floats(min_value=1e-4, max_value=1000, allow_nan=False)


def test_buckets_follow_one_another_without_a_gap():
    for bucket in range(BUCKETS):
        low, high = bounds_of(bucket)
        assert bucket_of(low) == bucket
        assert bucket_of(math.nextafter(high, 0)) == bucket
    assert all(bounds_of(n)[1] == bounds_of(n + 1)[0] for n in range(BUCKETS - 1))


@pytest.mark.parametrize(("seconds", "bucket"), [(0.0, 0), (1e-9, 0), (1e9, BUCKETS - 1)])
def test_what_is_beyond_the_buckets_is_in_the_first_or_the_last(seconds, bucket):
    assert bucket_of(seconds) == bucket


@given(st.lists(DURATIONS, min_size=1, max_size=50), st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_quantiles_are_off_by_a_sixteenth_at_most(durations, share):
    recent = Recent(300)
    for seconds in durations:
        recent.add(10.0, seconds, ok=True)
    rank = math.ceil(share * len(durations) - 1e-9)
    exact = sorted(durations)[rank - 1]
    found = recent.window(10.0).quantile(share)
    assert found is not None
    assert abs(found - exact) <= exact / 16 + 1e-9


@given(st.lists(st.tuples(st.floats(0, 400), DURATIONS, st.booleans()), min_size=1, max_size=60))
def test_nothing_is_lost_or_counted_twice_when_slots_grow_old(steps):
    recent, now = Recent(300), 0.0
    for wait, seconds, ok in steps:
        now += wait
        recent.add(now, seconds, ok=ok)
    whole = recent.whole()
    assert whole.ok + whole.failed == whole.timed == len(steps)
    assert whole.sum == pytest.approx(math.fsum(seconds for _, seconds, _ in steps))
    assert recent.window(now).timed <= len(steps)


def test_the_window_forgets_and_the_whole_does_not():
    recent = Recent(300)
    recent.add(0.0, 0.1, ok=True)
    recent.add(10.0, NAN, ok=False)
    assert recent.window(269.0).success_rate == 50
    assert recent.window(301.0).success_rate is None
    assert (recent.whole().success_rate, recent.whole().timed) == (50, 1)


def test_reading_changes_nothing():
    recent = Recent(300)
    recent.add(0.0, 0.1, ok=True)
    for now in (0.0, 100.0, 10_000.0):
        recent.window(now)
        recent.whole()
    assert recent.window(0.0).timed == 1


def test_a_tally_survives_being_sent_as_data():
    one, two = Recent(300), Recent(300)
    one.add(0.0, 0.1, ok=True)
    two.add(0.0, 2.0, ok=False)
    summed = Tally.of(one.whole().plain(), two.whole().plain())
    assert (summed.ok, summed.failed, summed.timed) == (1, 1, 2)
    assert summed.mean == pytest.approx(1.05)
    assert Tally.of(summed.plain()).plain() == summed.plain()


def test_counts_below_powers_of_two_are_cumulated():
    recent = Recent(300)
    for seconds in (0.1, 0.3, 0.6, 3.0):
        recent.add(0.0, seconds, ok=True)
    assert recent.whole().up_to([-2, -1, 0, 1]) == [1, 2, 3, 3, 4]
