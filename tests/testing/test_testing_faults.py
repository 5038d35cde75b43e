"""Decisions: drawn from the seed, stable under omission, replayed, shrunk."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.runtime.random import SeededRandom
from holdfast.testing import Decision, Faults, Swarm
from holdfast.testing.faults import from_json, shrink, to_json

RATES = {"connect": {"refuse": 0.3, "slow": 0.2}, "stream": {"rst": 0.5}}


def drawn(faults, point, n):
    return [faults.at(point, 0.0) for _ in range(n)]


def test_the_same_seed_draws_the_same_faults():
    first, second = (drawn(Faults(SeededRandom(7), RATES), "connect", 200) for _ in range(2))
    assert first == second
    assert first != drawn(Faults(SeededRandom(8), RATES), "connect", 200)


def test_rates_are_kept():
    kinds = [d.kind for d in drawn(Faults(SeededRandom(1), RATES), "connect", 5000) if d]
    assert kinds.count("refuse") / 5000 == pytest.approx(0.3, abs=0.03)
    assert kinds.count("slow") / 5000 == pytest.approx(0.2, abs=0.03)


def test_the_nth_opportunity_does_not_depend_on_other_points():
    alone = drawn(Faults(SeededRandom(3), RATES), "stream", 50)
    mixed = Faults(SeededRandom(3), RATES)
    interleaved = []
    for i in range(50):
        drawn(mixed, "connect", i % 4)
        interleaved.append(mixed.at("stream", 0.0))
    assert interleaved == alone


def test_rates_beyond_one_are_refused():
    with pytest.raises(ValueError, match="exceed 1"):
        Faults(SeededRandom(0), {"connect": {"a": 0.7, "b": 0.4}})


def test_nothing_fails_after_the_end():
    faults = Faults(SeededRandom(0), {"stream": {"rst": 1.0}}, until=10)
    assert faults.at("stream", 9.9) is not None
    assert faults.at("stream", 10) is None
    assert len(faults.taken) == 1


def test_replay_gives_exactly_what_it_was_given():
    recorded = Faults(SeededRandom(5), RATES)
    seen = drawn(recorded, "connect", 30)
    kept = [d for d in recorded.taken if d.no % 2]
    replay = Faults(SeededRandom(99), RATES, replay=kept)
    assert drawn(replay, "connect", 30) == [d if d and d.no % 2 else None for d in seen]


def test_json_round_trip():
    recorded = Faults(SeededRandom(5), RATES)
    drawn(recorded, "connect", 30)
    assert from_json(to_json(recorded.taken)) == recorded.taken
    assert from_json("") == []


def test_swarm_leaves_kinds_out():
    kinds = ("a", "b", "c", "d")
    present = [set(Swarm(SeededRandom(seed)).rates(kinds)) for seed in range(200)]
    assert set() in present
    assert set(kinds) in present
    assert 0.4 < sum(map(len, present)) / 800 < 0.6
    for seed in range(200):
        assert sum(Swarm(SeededRandom(seed)).rates(kinds, low=0.2, high=0.9).values()) < 0.900001


@given(needed=st.sets(st.integers(0, 99), max_size=4))
def test_shrinking_leaves_what_is_needed(needed):
    decisions = [Decision("p", i, "k", 0.0, 0.0) for i in range(100)]
    runs = []

    def fails(candidate):
        runs.append(len(candidate))
        return needed <= {d.no for d in candidate}

    assert {d.no for d in shrink(decisions, fails)} == needed
    assert len(runs) <= 400


def test_shrinking_stops_at_its_limit():
    decisions = [Decision("p", i, "k", 0.0, 0.0) for i in range(1000)]
    runs = []

    def fails(candidate):
        runs.append(1)
        return len(candidate) >= 900

    kept = shrink(decisions, fails, max_runs=50)
    assert len(kept) >= 900
    assert len(runs) <= 50
