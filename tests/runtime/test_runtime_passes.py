"""Passes: attempts of a driver of its own, counted as all others are."""

import holdfast as hf
from holdfast.runtime.passes import BULK, Passes


def test_successes_count_for_the_breaker():
    policy = hf.policy(hf.Retry(3), hf.Breaker(), key=lambda call: call.host, name="p")
    with hf.testing.clock():
        passes = Passes(policy, "h")
        for _ in range(100):
            given = passes.enter()
            assert given is not None
            passes.succeeded(given)
        assert policy.state("h")["calls"] == 100
        assert policy.state("h")["active"] == 0


def test_an_abandoned_attempt_counts_for_nothing():
    policy = hf.policy(hf.Retry(3), hf.Breaker(), hf.Bulkhead(2), key=lambda call: call.host)
    with hf.testing.clock():
        passes = Passes(policy, "h")
        for _ in range(50):
            first, second = passes.enter(), passes.enter()
            assert first is not None
            assert second is not None
            assert passes.enter() is None  # the bulkhead is full
            passes.abandoned(first)
            passes.abandoned(second)
        state = policy.state("h")
        assert (state["active"], state["calls"], state["failures"]) == (0, 0, 0)


def test_an_open_breaker_admits_none():
    policy = hf.policy(hf.Breaker(consecutive=2, open_for=5), key=lambda call: call.host)
    with hf.testing.clock(auto=False) as clock:
        passes = Passes(policy, "h")
        policy.isolate("h")
        assert passes.enter() is None
        policy.reset("h")
        clock.advance(1)
        given = passes.enter()
        assert given is not None
        passes.succeeded(given)


def test_the_budget_is_told_in_bulk():
    budget = hf.Budget.ratio(share=0.5, per_second=1, ttl=10)
    policy = hf.policy(hf.Retry(3, budget=budget), key=lambda call: call.host)
    with hf.testing.clock():
        passes = Passes(policy, "h")
        before = policy.state("h")["budget"]
        for _ in range(BULK // 2):
            given = passes.enter()
            assert given is not None
            passes.succeeded(given)
        passes.flush()
        assert policy.state("h")["budget"] == before + 0.5 * (BULK // 2)


def test_somebody_who_listens_hears_of_each():
    heard = []
    policy = hf.policy(hf.Retry(3), key=lambda call: call.host, name="p")
    stop = hf.subscribe(heard.append)
    try:
        passes = Passes(policy, "h")
        for _ in range(3):
            given = passes.enter()
            assert given is not None
            passes.succeeded(given)
    finally:
        stop()
    attempts = [event for event in heard if type(event).__name__ == "Attempt"]
    assert [(event.policy, event.key) for event in attempts] == [("p", "h")] * 3
