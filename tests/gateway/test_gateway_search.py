"""Whom a request asks next, and when: decisions, without a socket and without a clock."""

from __future__ import annotations

import math

import pytest

from holdfast.core.balance import Balancer, Endpoint, Pick, Wait
from holdfast.core.breaker import Result
from holdfast.core.health import Health
from holdfast.gateway.search import (
    BACKOFF,
    BACKOFF_MOST,
    BACKOFF_THROTTLED,
    Bounds,
    Budget,
    GiveUp,
    Pause,
    Search,
    soonest,
)


def endpoints(*names, **options):
    return [Endpoint(name, Health(), **options) for name in names]


def search(ends, budget=None, *, repeatable=True, deadline=100.0, begun=0, **bounds):
    options = {"attempts": 5, "free": False, "max_wait": 30.0, **bounds}
    budget = budget or Budget(0.1, 100)
    return Search(
        Balancer(ends),
        budget,
        Bounds(**options),
        repeatable=repeatable,
        deadline=deadline,
        begun=begun,
    )


def failed(asking, pick, now=0.0, **how):
    """Settle a pick as a failure, and ask what is done then."""
    pick.endpoint.health.settle(pick.permit, Result.FAILED, now, 0.5, seconds=0.1)
    return asking.again(pick.endpoint, now, 0.5, **{"safe": False, "intact": True, **how})


def neutral(asking, pick, now=0.0, **how):
    """Do the same with one that says nothing of the endpoint."""
    pick.endpoint.health.settle(pick.permit, Result.NEUTRAL, now, 0.5, seconds=0.1)
    return asking.again(pick.endpoint, now, 0.5, **{"safe": True, "intact": True, **how})


def test_each_endpoint_is_asked_once_before_there_is_a_pause():
    ends = endpoints("a", "b", "c")
    asking, asked = search(ends), []
    step = asking.next(0, 0.5, intact=True)
    while isinstance(step, Pick):
        asked.append(step.endpoint.id)
        step = neutral(asking, step)
    assert sorted(asked) == ["a", "b", "c"]
    assert step == Pause(BACKOFF * 0.75)
    assert isinstance(asking.next(1, 0.5, intact=True), Pick)


@pytest.mark.parametrize(("u", "share"), [(0.0, 0.5), (0.5, 0.75), (0.999, 0.9995)])
def test_pauses_double_with_jitter_up_to_the_longest(u, share):
    (end,) = ends = endpoints("a")
    asking, pauses, now = search(ends, attempts=30, deadline=math.inf), [], 0.0
    for _ in range(14):
        pick = asking.next(now, u, intact=True)
        pick.endpoint.health.settle(pick.permit, Result.NEUTRAL, now, 0.5, seconds=0)
        step = asking.again(end, now, u, safe=True, intact=True)
        pauses.append(step.until - now)
        now = step.until
    wanted = [min(BACKOFF_MOST, BACKOFF * 2**row) * share for row in range(14)]
    assert pauses == pytest.approx(wanted)


def test_after_a_refusal_for_too_much_the_pause_is_longer():
    ends = endpoints("a")
    asking = search(ends)
    pick = asking.next(0, 0.5, intact=True)
    asking.throttled()
    assert neutral(asking, pick) == Pause(BACKOFF_THROTTLED * 0.75)


def test_no_pause_goes_beyond_the_deadline():
    ends = endpoints("a")
    asking = search(ends, deadline=0.01)
    pick = asking.next(0, 0.5, intact=True)
    assert neutral(asking, pick) == GiveUp("HF-3102")


@pytest.mark.parametrize(("free", "more"), [(False, 0), (True, 2)])
def test_attempts_are_counted_and_throttled_ones_may_be_free(free, more):
    ends = endpoints(*"abcdefgh")
    asking, count = search(ends, attempts=3, free=free), 0
    step = asking.next(0, 0.5, intact=True)
    while isinstance(step, Pick):
        count += 1
        if count <= 2:
            asking.throttled()
        step = neutral(asking, step)
    assert (count, step) == (3 + more, GiveUp("HF-3101"))


def test_one_that_was_begun_elsewhere_counts():
    asking = search(endpoints("a", "b"), attempts=2, begun=1)
    pick = asking.next(0, 0.5, intact=True)
    assert asking.left == 0
    assert neutral(asking, pick) == GiveUp("HF-3101")


@pytest.mark.parametrize(
    ("repeatable", "how", "code"),
    [
        (False, {"safe": False}, "HF-3106"),
        (False, {"safe": False, "malformed": True}, "HF-3105"),
        (True, {"intact": False}, "HF-3106"),
        (True, {"intact": False, "malformed": True}, "HF-3105"),
    ],
)
def test_what_cannot_be_sent_again_is_given_up(repeatable, how, code):
    asking = search(endpoints("a", "b"), repeatable=repeatable)
    pick = asking.next(0, 0.5, intact=True)
    assert failed(asking, pick, **how) == GiveUp(code)


def test_what_was_not_executed_goes_on_even_if_it_may_not_run_twice():
    asking = search(endpoints("a", "b"), repeatable=False)
    first = asking.next(0, 0.5, intact=True)
    second = neutral(asking, first, safe=True)
    assert {first.endpoint.id, second.endpoint.id} == {"a", "b"}


def test_with_another_key_the_same_endpoint_is_asked_again_at_once():
    asking = search([Endpoint("a", Health(keys=2))])
    pick = asking.next(0, 0.5, intact=True)
    again = neutral(asking, pick, here=True)
    assert isinstance(again, Pick)
    assert again.endpoint is pick.endpoint


def test_when_each_key_was_refused_once_there_is_a_pause():
    asking = search([Endpoint("a", Health(keys=2))], attempts=4, free=True)
    asked = []
    for _ in range(2):
        step = asking.next(0, 0.5, intact=True)
        while isinstance(step, Pick):
            asked.append(step.key.number)
            asking.throttled()
            step = neutral(asking, step, here=True)  # the keys are cool again by then
        assert isinstance(step, Pause)
    assert len(asked) == 4


def test_a_retry_is_free_while_a_healthy_endpoint_was_not_tried_and_costs_after_that():
    ends, budget = endpoints("a", "b"), Budget(0.1, 1)
    asking = search(ends, budget, attempts=9)
    second = neutral(asking, asking.next(0, 0.5, intact=True))
    assert budget.left == 1
    assert isinstance(neutral(asking, second), Pause)
    assert budget.left == 0
    third = asking.next(1, 0.5, intact=True)
    fourth = neutral(asking, third, 1)  # the other one again, after the backoff
    assert isinstance(fourth, Pick)
    assert neutral(asking, fourth, 1) == GiveUp("HF-3101")


def test_the_budget_saves_up_to_its_most_and_goes_over_to_the_next_configuration():
    budget = Budget(0.5, 2)
    assert [budget.take() for _ in range(3)] == [True, True, False]
    for _ in range(3):
        budget.earn()
    assert budget.left == 1.5
    small, large = Budget(0.5, 1), Budget(0.5, 9)
    small.succeed(budget)
    large.succeed(budget)
    assert (small.left, large.left) == (1, 1.5)
    for _ in range(5):
        small.earn()
    assert small.left == 1


def test_while_all_cool_down_it_waits_in_line_if_that_is_worth_it():
    ends = endpoints("a", "b")
    for end, seconds in zip(ends, (5, 7), strict=True):
        end.health.throttled(0, seconds)
    asking = search(ends)
    assert asking.next(0, 0.5, intact=True) == Wait(5, "cooling")
    assert asking.patience == 30
    assert soonest(ends, 1) == 4
    assert search(ends, max_wait=4).next(0, 0.5, intact=True) == GiveUp("HF-3104")
    assert search(ends, deadline=4).next(0, 0.5, intact=True) == GiveUp("HF-3104")


def test_a_cool_down_of_all_is_waited_for_by_who_has_tried_them_too():
    (end,) = ends = endpoints("a")
    asking = search(ends)
    pick = asking.next(0, 0.5, intact=True)
    end.health.throttled(0, 5, pick.key)
    asking.throttled()
    assert neutral(asking, pick) == Wait(5, "cooling")
    assert asking.tried == ()


def test_while_one_is_full_it_waits_in_line_unless_it_has_tried_another():
    ends = endpoints("a", "b", max_in_flight=1)
    asking, other = search(ends), search(ends)
    first = asking.next(0, 0.5, intact=True)
    assert isinstance(other.next(0, 0.5, intact=True), Pick)
    assert search(ends).next(0, 0.5, intact=True) == Wait(math.inf, "full")
    # Who has tried one may ask it again before the other has a place: that needs a pause only.
    assert isinstance(neutral(asking, first), Pause)


def test_patience_begins_with_the_first_wait_and_is_not_renewed():
    ends = endpoints("a", max_in_flight=1)
    search(ends).next(0, 0.5, intact=True)
    asking = search(ends)
    assert asking.patience == math.inf
    for now in (1, 5):
        assert isinstance(asking.next(now, 0.5, intact=True), Wait)
        assert asking.patience == 31


def test_who_waited_in_vain_is_sent_whatever_the_breakers_say():
    (end,) = ends = endpoints("a")
    while end.health.tier(0).name != "CIRCUIT_OPEN":
        end.health.settle(end.health.begin(0, 9, 0.5), Result.FAILED, 0, 0.5, seconds=0)
    found = search(ends).force(0, held=False, intact=True)
    assert isinstance(found, Pick)


@pytest.mark.parametrize(
    ("held", "intact", "code"),
    [(True, True, "HF-3104"), (False, True, "HF-3103"), (False, False, "HF-3106")],
)
def test_who_waited_in_vain_is_told_why(held, intact, code):
    ends = endpoints("a", max_in_flight=1)
    search(ends).next(0, 0.5, intact=True)  # takes the only place
    assert search(ends).force(0, held=held, intact=intact) == GiveUp(code)


@pytest.mark.parametrize(("now", "intact", "code"), [(100, True, "HF-3102"), (0, False, "HF-3106")])
def test_nobody_is_asked_once_it_is_too_late_or_the_body_is_not_whole(now, intact, code):
    assert search(endpoints("a")).next(now, 0.5, intact=intact) == GiveUp(code)


def test_with_all_switched_off_there_is_nobody():
    assert search(endpoints("a", enabled=False)).next(0, 0.5, intact=True) == GiveUp("HF-3109")


def test_those_that_need_not_be_asked_are_asked_last():
    ends = endpoints("a", "b")
    asking = search(ends)
    asking.tried = (ends[0],)
    first = asking.next(0, 0.5, intact=True)
    assert first.endpoint is ends[1]
    assert isinstance(neutral(asking, first), Pause)
