"""Hedging policies before a flaky backend: every invariant, and which defects would be found."""

import pytest

from holdfast.core.breaker import Result
from holdfast.core.call import Call
from holdfast.core.hedge import HedgeState, enter_at_once
from holdfast.runtime import hedging
from holdfast.testing.scenarios import hedges
from holdfast.testing.simulation import run_scenario
from seeds import assert_repeats, kinds_in, run_seeds


@pytest.mark.parametrize("first", range(0, 500, 50))
def test_hedged_calls_keep_every_promise(first):
    seen = run_seeds(hedges.SCENARIO, first, 50, lambda one: (one.calls, one.value["hedges"]))
    made, hedged = map(sum, zip(*seen, strict=True))
    assert made >= 50 * 110
    assert hedged >= 50 * 5


@pytest.mark.long
@pytest.mark.parametrize("first", range(1000, 6000, 250))
def test_five_thousand_seeds_of_hedged_calls(first):
    run_seeds(hedges.SCENARIO, first, 250)


def test_the_same_seed_gives_the_same_trace():
    assert_repeats(hedges.SCENARIO, *range(5))


# -- planted defects ---------------------------------------------------------------------


def finds(*kinds, seeds=60):
    """Say whether one of the seeds has a violation of one of these kinds."""
    return any(kinds_in(run_scenario(hedges.SCENARIO, seed)) & {*kinds} for seed in range(seeds))


def test_a_loser_that_is_not_cancelled_is_found(monkeypatch):
    async def leaves(self, chosen):
        return False, chosen

    monkeypatch.setattr(hedging._Race, "_stop", leaves)
    assert finds("copy left")


def test_a_caller_that_waits_for_every_loser_is_found(monkeypatch):
    monkeypatch.setattr(hedging, "MOST_LEFT", 0)
    assert finds("held up", "late")


def test_a_hedge_that_costs_nothing_is_found(monkeypatch):
    monkeypatch.setattr(HedgeState, "pay", lambda self: None)
    assert finds("budget exceeded")


def test_a_hedge_that_pushes_into_a_full_bulkhead_is_found(monkeypatch):
    def pushes(lane, layer, now):
        entered = enter_at_once(lane, layer, now)
        if entered is None and layer == "bulkhead":
            lane.bulkhead.active += 1
            return (None,)
        return entered

    monkeypatch.setattr("holdfast.core.call.enter_at_once", pushes)
    assert finds("bulkhead exceeded")


def test_permits_of_losers_that_are_lost_are_found(monkeypatch):
    monkeypatch.setattr(Call, "_lose", lambda self, copies, now, **how: None)
    assert finds("permits left")


def test_permits_that_come_back_twice_are_found(monkeypatch):
    lose = Call._lose

    def twice(self, copies, now, **how):
        hedges = [held[:] for _, held in copies.out.values()]
        lose(self, copies, now, **how)
        for held in hedges:
            self._settle(0, Result.NEUTRAL, 0.0, now, None, held)

    monkeypatch.setattr(Call, "_lose", twice)
    assert finds("permits left", "bulkhead exceeded")


def test_a_hedge_whose_end_is_not_told_is_found(monkeypatch):
    say = Call._say_attempt

    def only_first(self, now, kind, verdict=None, copy=0, began=None):
        if not copy:
            say(self, now, kind, verdict, copy, began)

    monkeypatch.setattr(Call, "_say_attempt", only_first)
    assert finds("counters")


def test_a_copy_that_fails_and_is_not_told_is_found(monkeypatch):
    monkeypatch.setattr(hedging._Race, "_look", lambda self, task: task)
    assert finds("counters")
