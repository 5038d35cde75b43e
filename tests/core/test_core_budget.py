"""Retry budgets: how much load a dead backend sees, and how they fill again."""

from __future__ import annotations

import pytest

import holdfast as hf
from holdfast.core.budget import Budget
from holdfast.core.verdict import Kind


class Backend:
    """Counts what reaches it; down until told otherwise."""

    def __init__(self) -> None:
        self.requests = 0
        self.up = False

    def __call__(self) -> str:
        self.requests += 1
        if not self.up:
            raise ConnectionResetError
        return "ok"


@pytest.fixture(autouse=True)
def clock():
    with hf.testing.clock() as clock:
        clock.random(seed=4)
        yield clock


def test_a_dead_backend_sees_five_percent_more_in_a_thousand_calls():  # B1
    backend, policy = Backend(), hf.policy(hf.Retry(3))
    for _ in range(1000):
        policy.outcome(backend)
    assert 1000 < backend.requests <= 1050


def test_three_nested_policies_send_no_more_than_one():  # B1, nested
    backend = Backend()
    inner, middle, outer = (hf.policy(hf.Retry(3), name=name) for name in "abc")
    for _ in range(1000):
        outer.outcome(lambda: middle.call(lambda: inner.call(backend)))
    assert 1000 < backend.requests <= 1050


def test_nested_retries_multiply_only_where_it_was_allowed():
    backend = Backend()
    inner = hf.policy(hf.Retry(3, nested="allow", budget=None))
    outer = hf.policy(hf.Retry(3, budget=None))
    outer.outcome(lambda: inner.call(backend))
    assert backend.requests == 9


def test_after_an_outage_the_load_is_bounded_and_success_is_back_within_a_probe():  # B2
    backend = Backend()
    policy = hf.policy(hf.Retry(3), hf.Breaker(open_for=5, close_after=1))
    with hf.testing.clock() as clock:
        clock.random(seed=9)
        offered = 0
        while clock.now < 600:  # one call per 0.1 s through ten minutes of outage
            policy.outcome(backend)
            offered += 1
            clock.advance(0.1)
        assert backend.requests <= 1.1 * offered
        backend.up = True
        back_at = clock.now
        longest = policy.state()["circuit_until"] - clock.now
        while not policy.outcome(backend).ok:
            clock.advance(0.1)
        assert clock.now - back_at <= longest + 0.2


def test_a_success_gives_back_what_the_last_retry_cost():
    policy = hf.policy(hf.Retry(3, budget=hf.Budget(capacity=100)))
    answers = iter([ConnectionResetError, ConnectionResetError, None, None])

    def flaky() -> None:
        error = next(answers)
        if error:
            raise error

    policy.call(flaky)
    assert policy.state()["budget"] == 100 - 14  # two retries paid, one refunded
    policy.call(flaky)
    assert policy.state()["budget"] == 100 - 14 + 1  # never retried: one token


def test_throttling_costs_less_than_a_transient_failure():
    policy = hf.policy(hf.Retry(2), classify=lambda _: hf.THROTTLED)
    policy.outcome(Backend())
    assert policy.state()["budget"] == 500 - 5


def test_a_shared_budget_is_one_for_all_keys_and_policies():
    budget = hf.Budget(capacity=28, shared=True)
    first, second = (hf.policy(hf.Retry(5, budget=budget)) for _ in range(2))
    backend = Backend()
    first.outcome(backend)
    second.outcome(backend)
    assert backend.requests == 2 + 2  # two retries for both together


def test_budgets_that_are_not_shared_are_per_key():
    policy = hf.policy(hf.Retry(5, budget=hf.Budget(capacity=14)), key=lambda call: call.args[0])

    def down(host: str) -> None:
        raise ConnectionResetError(host)

    assert [policy.outcome(down, host).attempts for host in "aab"] == [2, 1, 2]


def test_the_concurrent_budget_counts_a_call_that_retries_again_once():
    state = Budget.concurrent(share=0.5, floor=1).build()
    for _ in range(2):
        state.started(0)
    assert state.allows(Kind.TRANSIENT, 0, None)
    cost = state.pay(Kind.TRANSIENT, 0, None)
    assert not state.allows(Kind.TRANSIENT, 0, None)  # one of two is the share
    assert state.allows(Kind.TRANSIENT, 0, cost)  # the same call again
    cost = state.pay(Kind.TRANSIENT, 0, cost)
    state.ended(cost, ok=False)
    assert state.allows(Kind.TRANSIENT, 0, None)
    state.ended(None, ok=True)
    assert state.left(0) == 1


def test_the_ratio_budget_gives_a_trickle_to_low_traffic_and_a_share_to_high():
    state = Budget.ratio(share=0.2, per_second=0.5, ttl=10).build()
    assert state.left(0) == 5  # even with no traffic at all
    for _ in range(100):
        state.started(1)
    assert state.left(1) == pytest.approx(25)
    for _ in range(25):
        state.pay(Kind.TRANSIENT, 1, None)
    assert not state.allows(Kind.TRANSIENT, 1, None)
    assert state.left(12) == 5  # all of it has left the window


def test_the_switch_budget_stops_retries_at_half_and_starts_them_again():
    policy = hf.policy(hf.Retry(2, budget=hf.Budget.switch(10, 0.1)))
    backend = Backend()
    attempts = [policy.outcome(backend).attempts for _ in range(6)]
    assert attempts == [2, 2, 1, 1, 1, 1]  # the fifth failure leaves half: no more
    backend.up = True
    for _ in range(51 + 50):
        policy.call(backend)
    backend.up = False
    assert policy.outcome(backend).attempts == 2


def test_without_a_budget_every_retry_is_made():
    backend, policy = Backend(), hf.policy(hf.Retry(3, budget=None))
    for _ in range(100):
        policy.outcome(backend)
    assert backend.requests == 300


def test_an_empty_budget_says_so():
    policy = hf.policy(hf.Retry(3, budget=hf.Budget(capacity=0)))
    outcome = policy.outcome(Backend())
    assert outcome.reason == "budget"
    assert "retry budget empty" in outcome.error.__notes__[0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: hf.Budget(capacity=-1),
        lambda: hf.Budget(transient=0),
        lambda: hf.Budget.concurrent(share=2),
        lambda: hf.Budget.ratio(ttl=0),
        lambda: hf.Budget.switch(tokens=0),
        lambda: hf.Retry(budget=5),
    ],
    ids=["capacity", "transient", "share", "ttl", "tokens", "budget"],
)
def test_a_bad_option_is_refused_when_built(make):
    with pytest.raises(ValueError, match=r"`(Budget|Retry)"):
        make()
