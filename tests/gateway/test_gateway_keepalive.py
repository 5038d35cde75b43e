from __future__ import annotations

import pytest

from holdfast.gateway.keepalive import GROWTH_OF, Lifetime


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
