from __future__ import annotations

import pytest

from holdfast.gateway.keepalive import GROWTH_OF, Lifetime, hint_of


def reuses(lifetime: Lifetime, idle: float, now: float = 0.0, *, careful: bool = False) -> bool:
    return lifetime.may_reuse(idle, now, careful=careful)


def test_at_first_the_configured_time_holds():
    lifetime = Lifetime(60)
    assert reuses(lifetime, 59)
    assert not reuses(lifetime, 61)
    assert lifetime.learned is None


def test_a_connection_that_died_shortens_it_to_four_fifths_of_its_age():
    lifetime = Lifetime(60)
    lifetime.died(5)
    assert lifetime.limit() == 4
    lifetime.died(10)  # a longer one says nothing
    assert lifetime.limit() == 4
    lifetime.died(2)
    assert lifetime.limit() == pytest.approx(1.6)


def test_what_must_not_be_sent_twice_takes_young_connections_only():
    lifetime = Lifetime(60)
    lifetime.died(5)
    assert reuses(lifetime, 0.9, careful=True)
    assert not reuses(lifetime, 1.1, careful=True)
    assert reuses(lifetime, 1.1)


def test_it_grows_back_by_a_tenth_per_hundred_reuses():
    lifetime = Lifetime(60)
    lifetime.died(5)
    for _ in range(GROWTH_OF):
        lifetime.reused()
    assert lifetime.limit() == pytest.approx(4.4)
    for _ in range(100 * GROWTH_OF):
        lifetime.reused()
    assert lifetime.limit() == 60


def test_a_death_starts_the_count_afresh():
    lifetime = Lifetime(60)
    lifetime.died(5)
    for _ in range(GROWTH_OF - 1):
        lifetime.reused()
    lifetime.died(50)
    lifetime.reused()
    assert lifetime.limit() == 4


def test_a_server_that_closes_at_once_is_tried_once_a_minute():
    lifetime = Lifetime(60)
    lifetime.died(0.001)
    assert lifetime.limit() == 0
    assert lifetime.keeps(100)
    assert reuses(lifetime, 0.001, 100)
    assert not lifetime.keeps(101)
    assert not reuses(lifetime, 0.001, 101)
    assert not reuses(lifetime, 0.001, 200, careful=True)
    assert reuses(lifetime, 0.001, 200)


def test_trials_that_go_well_bring_it_back():
    lifetime = Lifetime(60)
    lifetime.died(0.001)
    for _ in range(GROWTH_OF):
        lifetime.reused()
    assert lifetime.limit() == pytest.approx(0.055)


def test_a_hint_of_the_server_is_a_ceiling():
    lifetime = Lifetime(60)
    lifetime.hinted(5)
    assert lifetime.limit() == 4
    lifetime.hinted(100)
    assert lifetime.limit() == 60
    lifetime.hinted(0.5)
    assert lifetime.limit() == 0


def test_no_time_at_all_means_no_reuse_at_all():
    lifetime = Lifetime(0)
    assert not lifetime.keeps(1000)
    assert not reuses(lifetime, 0, 1000)


# -- a restart is no lesson ----------------------------------------------------------------------


def test_connections_that_end_together_at_unlike_ages_teach_nothing():
    for ages in ([0.01, 3, 20], [20, 3, 0.01], [3, 0.01, 20]):
        lifetime = Lifetime(60)
        lifetime.died(40, 10.0)
        for age in ages:
            lifetime.died(age, 100.0)
        assert lifetime.limit() == 32


def test_connections_that_end_together_at_one_age_teach_it():
    lifetime = Lifetime(60)
    for age in (5.0, 5.01, 5.2):
        lifetime.died(age, 100.0)
    assert lifetime.limit() == 4


def test_a_server_that_closes_within_milliseconds_is_learned_from_many_at_once():
    lifetime = Lifetime(60)
    for age in (0.009, 0.001, 0.004):
        lifetime.died(age, 100.0)
    assert lifetime.limit() == 0


def test_after_a_restart_the_next_end_counts_again():
    lifetime = Lifetime(60)
    lifetime.died(0.01, 100.0)
    lifetime.died(20, 100.0)
    lifetime.died(5, 101.0)
    assert lifetime.limit() == 4


def test_a_reused_connection_that_was_dead_counts_whenever_it_is():
    lifetime = Lifetime(60)
    lifetime.died(5, 100.0)
    lifetime.died(20, 100.0)
    lifetime.died(2)
    assert lifetime.limit() == pytest.approx(1.6)


# -- where reuse is off --------------------------------------------------------------------------


def test_a_trial_that_rested_long_enough_switches_reuse_on_again():
    lifetime = Lifetime(60)
    lifetime.died(0.001)
    lifetime.reused(0.03)
    assert lifetime.limit() == 0
    lifetime.reused(0.5)
    assert lifetime.limit() == 0.5


def test_where_reuse_is_off_one_may_rest_for_a_trial_within_the_configured_time():
    lifetime = Lifetime(10)
    lifetime.died(0.001)
    assert lifetime.limit() == 0
    assert lifetime.shelf() == 10
    assert Lifetime(600).shelf() == 600
    lifetime.died(0.5)
    lifetime = Lifetime(600)
    lifetime.died(0.001)
    assert lifetime.shelf() == 60


def test_another_configured_time_leaves_what_was_learned():
    lifetime = Lifetime(60)
    lifetime.died(10)
    lifetime.retune(5)
    assert lifetime.limit() == 5
    lifetime.retune(600)
    assert lifetime.limit() == 8


# -- what the server says ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"timeout=5", 5),
        (b"timeout=5, max=100", 5),
        (b"max=100,TimeOut = 15", 15),
        (b'timeout="30"', 30),
        (b"max=100", None),
        (b"notimeout=5", None),
        (b"timeout=-5", None),
        (b"timeout=5s", None),
        (b"timeout=99999999999", None),
        (b"", None),
    ],
)
def test_the_hint_is_read_where_it_is_one(value, seconds):
    fields = [(b"Date", b"timeout=1"), (b"keep-Alive", value)]
    assert hint_of(fields) == seconds


def test_without_the_field_there_is_no_hint():
    assert hint_of([(b"Connection", b"keep-alive")]) is None
