from __future__ import annotations

import collections
import itertools
import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from holdfast.core.balance import METHODS, Balancer, Endpoint, Nobody, Pick, Wait
from holdfast.core.breaker import Result, State
from holdfast.core.health import Health, Tier
from holdfast.runtime.random import SeededRandom


def cluster(n: int = 3, method: str = "p2c", **options: object) -> Balancer:
    ends = [Endpoint(f"e{i}", Health(), **options) for i in range(n)]
    return Balancer(ends, method)


def settle(pick: Pick, result: Result, now: float, seconds: float = 0.1) -> None:
    pick.endpoint.health.settle(pick.permit, result, now, 0.5, seconds=seconds)


def picked(balancer: Balancer, now: float = 0.0, u: float = 0.5, **options: object) -> Pick:
    found = balancer.pick(now, u, **options)
    assert isinstance(found, Pick), found
    return found


def break_down(one: Endpoint, now: float = 0.0) -> None:
    while one.health.breaker.state is not State.OPEN:
        permit = one.health.begin(now, 10, 0.5)
        one.health.settle(permit, Result.FAILED, now, 0.5, seconds=0.1)


def degrade(one: Endpoint, now: float = 0.0) -> None:
    for _ in range(2):
        permit = one.health.begin(now, 10, 0.5)
        one.health.settle(permit, Result.FAILED, now, 0.5, seconds=0.1)
    assert one.health.tier(now) is Tier.DEGRADED


# -- the usual case --------------------------------------------------------------------------


def test_one_that_has_answered_nothing_yet_is_not_sent_all_there_is():
    balancer = cluster(3)
    silent = balancer.endpoints[0]
    rng = SeededRandom(1)
    under_way = [picked(balancer, n / 1000, rng.draw()) for n in range(16)]
    for n in range(2000):  # sixteen clients, one request after the other; one endpoint is silent
        now = n / 1000
        answered = next(one for one in under_way if one.endpoint is not silent)
        under_way.remove(answered)
        settle(answered, Result.OK, now, 0.005)
        under_way.append(picked(balancer, now, rng.draw()))
    assert sum(one.endpoint is silent for one in under_way) <= 8


def test_requests_to_an_endpoint_with_which_nothing_is_wrong_are_counted_each():
    balancer = cluster(2)
    picks = [picked(balancer, 0.0, u / 10) for u in range(10)]
    assert sum(one.health.in_flight for one in balancer.endpoints) == 10
    for pick in picks:
        settle(pick, Result.OK, 0.1)
    assert [one.health.in_flight for one in balancer.endpoints] == [0, 0]


def test_a_pick_of_before_the_breaker_opened_says_nothing_of_after():
    balancer = cluster(2)
    before = [picked(balancer, 0.0, 0.0) for _ in range(3)]
    one = before[0].endpoint
    break_down(one)
    gen = one.health.breaker.gen
    settle(before[0], Result.OK, 0.1)
    assert (one.health.breaker.state, one.health.breaker.gen) == (State.OPEN, gen)
    assert one.plain.permit.gen == gen


# -- tiers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [degrade, break_down])
def test_a_request_that_may_not_be_repeated_goes_to_healthy_endpoints_only(how):
    balancer = cluster(3)
    how(balancer.endpoints[0])
    rng = SeededRandom(1)
    for n in range(200):
        pick = picked(balancer, n / 100, rng.draw(), repeatable=False)
        assert pick.endpoint is not balancer.endpoints[0]
        settle(pick, Result.OK, n / 100)


def test_each_tier_is_used_when_there_is_no_better_one():
    balancer = cluster(3)
    a, b, c = balancer.endpoints
    degrade(b)
    break_down(c)
    first = picked(balancer)
    assert (first.endpoint, first.tier) == (a, Tier.HEALTHY)
    second = picked(balancer, tried=[a])
    assert (second.endpoint, second.tier) == (b, Tier.DEGRADED)
    third = picked(balancer, tried=[a, b])
    assert (third.endpoint, third.tier) == (c, Tier.CIRCUIT_OPEN)
    assert balancer.pick(0, 0.5, tried=[a, b, c]) is Nobody.TRIED


def test_with_all_circuits_open_the_soonest_to_reopen_is_tried():
    balancer = cluster(3)
    for now, one in zip((2.0, 0.0, 1.0), balancer.endpoints, strict=True):
        break_down(one, now)
    pick = picked(balancer, 2.5)
    assert (pick.endpoint, pick.tier) == (balancer.endpoints[1], Tier.CIRCUIT_OPEN)
    assert balancer.tier(2.5) is Tier.CIRCUIT_OPEN


def test_disabled_endpoints_are_never_asked():
    balancer = cluster(2)
    balancer.endpoints[0].enabled = False
    for n in range(20):
        assert picked(balancer, u=n / 20).endpoint is balancer.endpoints[1]
    balancer.endpoints[1].enabled = False
    assert balancer.pick(0, 0.5) is Nobody.DISABLED


def test_the_lower_priority_number_is_used_first():
    balancer = cluster(3)
    balancer.endpoints[2].priority = 0
    for n in range(20):
        assert picked(balancer, u=n / 20).endpoint is balancer.endpoints[2]
    assert picked(balancer, tried=[balancer.endpoints[2]]).endpoint is not balancer.endpoints[2]


def test_a_worse_tier_of_a_better_priority_comes_after():
    balancer = cluster(2)
    balancer.endpoints[0].priority = 0
    degrade(balancer.endpoints[0])
    assert picked(balancer, repeatable=False).endpoint is balancer.endpoints[1]


# -- waiting ---------------------------------------------------------------------------------


def test_a_cooling_endpoint_is_left_alone_while_another_is_there():
    balancer = cluster(2)
    balancer.endpoints[0].health.throttled(0, 7)
    for n in range(69):
        pick = picked(balancer, n / 10, (n % 10) / 10)
        assert pick.endpoint is balancer.endpoints[1]
        settle(pick, Result.OK, n / 10)
    assert any(picked(balancer, 7, n / 10).endpoint is balancer.endpoints[0] for n in range(10))


def test_with_all_cooling_the_first_to_be_free_is_waited_for():
    balancer = cluster(3)
    for seconds, one in zip((9, 3, 5), balancer.endpoints, strict=True):
        one.health.throttled(0, seconds)
    assert balancer.pick(0, 0.5) == Wait(3, "cooling")
    assert picked(balancer, 3).endpoint is balancer.endpoints[1]


def test_cooling_is_waited_for_rather_than_asking_a_dead_endpoint_if_there_is_time():
    balancer = cluster(2)
    balancer.endpoints[0].health.throttled(0, 3)
    break_down(balancer.endpoints[1])
    assert balancer.pick(0, 0.5, patience=10) == Wait(3, "cooling")
    assert picked(balancer, 0, patience=1).endpoint is balancer.endpoints[1]


def test_full_endpoints_are_waited_for():
    balancer = cluster(2, max_in_flight=1)
    picks = [picked(balancer), picked(balancer)]
    assert balancer.pick(0, 0.5) == Wait(math.inf, "full")
    settle(picks[0], Result.OK, 0)
    assert picked(balancer).endpoint is picks[0].endpoint


def test_a_full_endpoint_is_waited_for_rather_than_one_that_cools_down():
    balancer = cluster(2, max_in_flight=1)
    pick = picked(balancer)
    other = next(one for one in balancer.endpoints if one is not pick.endpoint)
    other.health.throttled(0, 60)
    assert balancer.pick(0, 0.5, patience=30) == Wait(60, "full")
    settle(pick, Result.OK, 1)
    assert picked(balancer, 1).endpoint is pick.endpoint


def test_a_full_endpoint_is_waited_for_rather_than_asking_a_dead_one():
    balancer = cluster(2, max_in_flight=1)
    break_down(balancer.endpoints[1])
    pick = picked(balancer)
    assert pick.endpoint is balancer.endpoints[0]
    reopens = balancer.endpoints[1].health.breaker.until
    assert balancer.pick(0, 0.5, patience=1) == Wait(reopens, "full")
    forced = balancer.force(0)  # for one that waited in vain
    assert forced.endpoint is balancer.endpoints[1]
    settle(forced, Result.NEUTRAL, 0)
    assert picked(balancer, reopens).endpoint is balancer.endpoints[1]


def test_a_dead_endpoint_is_asked_rather_than_waiting_for_a_dead_one_that_is_full():
    balancer = cluster(2, max_in_flight=1)
    for now, one in zip((0.0, 1.0), balancer.endpoints, strict=True):
        break_down(one, now)
    assert picked(balancer, 1).endpoint is balancer.endpoints[0]
    assert picked(balancer, 1).endpoint is balancer.endpoints[1]
    assert balancer.pick(1, 0.5) == Wait(math.inf, "full")  # nothing else is left


def test_whether_one_has_to_wait_is_told_without_asking_anybody():
    balancer = cluster(3, max_in_flight=1)
    one, other, dead = balancer.endpoints
    assert not balancer.has_to_wait(0)
    break_down(dead)
    one.health.throttled(0, 60)
    assert not balancer.has_to_wait(0)
    assert picked(balancer).endpoint is other
    assert balancer.has_to_wait(0)  # for the one that works
    other.health.throttled(0, 60)
    assert not balancer.has_to_wait(0, patience=30)  # the dead one would be asked
    assert balancer.has_to_wait(0, patience=60)
    assert dead.health.in_flight == 0
    assert not balancer.has_to_wait(dead.health.breaker.until)


def test_nobody_is_forced_on_a_full_endpoint():
    balancer = cluster(1, max_in_flight=1)
    picked(balancer)
    assert balancer.force(0) is None


def test_a_half_open_endpoint_whose_probe_is_out_is_waited_for():
    balancer = cluster(1)
    break_down(balancer.endpoints[0])
    now = balancer.endpoints[0].health.breaker.until
    probe = picked(balancer, now)
    assert probe.permit.probe
    assert balancer.pick(now, 0.5) == Wait(math.inf, "half-open")
    settle(probe, Result.NEUTRAL, now)
    assert picked(balancer, now).permit.probe


# -- coming back -----------------------------------------------------------------------------


@pytest.mark.parametrize("how", [degrade, break_down])
def test_an_endpoint_comes_back_while_the_others_work(how):
    balancer = cluster(3)
    bad = balancer.endpoints[0]
    how(bad)
    rng = SeededRandom(2)
    back = None
    for n in range(60_000):
        now = n / 1000
        pick = picked(balancer, now, rng.draw())
        settle(pick, Result.OK, now)
        if bad.health.tier(now) is Tier.HEALTHY and back is None:
            back = now
    assert back is not None
    assert back < 30


def test_a_half_open_endpoint_comes_back_while_the_others_are_degraded():
    balancer = cluster(2)
    back, other = balancer.endpoints
    break_down(back)
    back.health.probed(1.0, ok=True)
    other.health.is_degraded = True
    rng = SeededRandom(7)
    for n in range(1000):
        now = 1 + n / 100
        pick = picked(balancer, now, rng.draw())
        settle(pick, Result.OK if pick.endpoint is back else Result.NEUTRAL, now)
    assert back.health.breaker.state is State.CLOSED


def test_without_anybody_better_there_are_no_trials():
    balancer = cluster(2)
    for one in balancer.endpoints:
        one.health.probed(0.0, ok=False)
    rng = SeededRandom(8)
    for n in range(200):
        pick = picked(balancer, n / 10, rng.draw())
        assert not pick.trial
        settle(pick, Result.NEUTRAL, n / 10)


def test_trials_are_one_in_twenty_and_one_a_second():
    balancer = cluster(3)
    bad = balancer.endpoints[0]
    degrade(bad)
    rng = SeededRandom(3)
    times = []
    for n in range(2000):
        now = n / 100
        pick = picked(balancer, now, rng.draw())
        if pick.trial:
            times.append(now)
        settle(pick, Result.NEUTRAL if pick.endpoint is bad else Result.OK, now)
    assert 18 <= len(times) <= 20
    assert all(b - a >= 1 for a, b in itertools.pairwise(times))


def test_slow_traffic_gives_trials_by_its_number():
    balancer = cluster(2)
    degrade(balancer.endpoints[0])
    trials = 0
    for n in range(200):
        pick = picked(balancer, n * 10.0)
        trials += pick.trial
        settle(pick, Result.NEUTRAL if pick.trial else Result.OK, n * 10.0)
    assert trials == 10


def test_a_dead_endpoint_gets_its_threshold_and_then_its_trials():
    balancer = cluster(2)
    dead = balancer.endpoints[0]
    rng = SeededRandom(4)
    asked = 0
    for n in range(10_000):
        now = n / 100
        tried: list[Endpoint] = []
        while True:
            pick = picked(balancer, now, rng.draw(), tried=tried)
            bad = pick.endpoint is dead
            asked += bad
            settle(pick, Result.FAILED if bad else Result.OK, now)
            if not bad:
                break
            tried.append(pick.endpoint)
    # 5 open the circuit; it half-opens after 5, 10, 20, 40 and 80 s, and needs 2 failures each.
    assert 5 < asked < 25


# -- outliers --------------------------------------------------------------------------------


def test_an_outlier_is_ejected_and_returns():
    balancer = cluster(5, "round_robin")
    bad = balancer.endpoints[0]
    now = 0.0
    for n in range(5000):
        now = n / 250
        pick = picked(balancer, now, repeatable=False)
        fails = pick.endpoint is bad and n % 100 == 50  # 5 %: too little to be degraded
        settle(pick, Result.FAILED if fails else Result.OK, now)
        if bad.health.ejected:
            break
    else:
        pytest.fail("it was never ejected")
    assert bad.health.tier(now) is Tier.UNHEALTHY
    picked(balancer, now + 40)  # its calls are too old to say anything
    assert not bad.health.ejected


def test_one_failure_more_than_the_others_makes_no_outlier():
    balancer = cluster(5)
    for n, one in enumerate(balancer.endpoints):
        one.health.breaker._window.add(0.0, calls=100, failures=n == 0)
    picked(balancer, 0.5)
    assert not any(one.health.ejected for one in balancer.endpoints)


def test_no_more_than_half_are_ejected():
    balancer = cluster(6)
    for n, one in enumerate(balancer.endpoints):
        one.health.breaker._window.add(0.0, calls=100, failures=90 if n < 4 else 0)
    picked(balancer, 0.5)
    assert sum(one.health.ejected for one in balancer.endpoints) <= 3


def test_where_too_few_would_be_left_no_outlier_is_ejected():
    balancer = cluster(6)
    for n, one in enumerate(balancer.endpoints):
        one.health.breaker._window.add(0.0, calls=1000, failures=900 if n == 0 else 0)
    bad, *others = balancer.endpoints
    for now, one in enumerate(others[:2]):
        picked(balancer, now + 0.5)
        assert bad.health.ejected
        break_down(one, now + 0.6)
    picked(balancer, 2.7)
    assert bad.health.ejected  # three of six are left
    break_down(others[2], 2.8)
    picked(balancer, 3.9)
    assert not bad.health.ejected


# -- methods ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_every_method_uses_every_endpoint_equally_if_they_are_equal(method):
    balancer = cluster(4, method)
    rng = SeededRandom(5)
    counts: collections.Counter[str] = collections.Counter()
    under_way: list[Pick] = []
    for _ in range(4000):
        pick = picked(balancer, 0.0, rng.draw())
        counts[pick.endpoint.id] += 1
        under_way.append(pick)
        if len(under_way) == 20:
            settle(under_way.pop(int(rng.draw() * 20)), Result.OK, 0.0)
    assert all(850 < counts[one.id] < 1150 for one in balancer.endpoints), counts


@pytest.mark.parametrize("method", ["weighted", "random"])
def test_weights_are_shares(method):
    balancer = cluster(3, method)
    for one, weight in zip(balancer.endpoints, (500, 100, 400), strict=True):
        one.weight = weight
    rng = SeededRandom(6)
    counts: collections.Counter[str] = collections.Counter()
    for _ in range(5000):
        pick = picked(balancer, 0.0, rng.draw())
        settle(pick, Result.OK, 0.0)
        counts[pick.endpoint.id] += 1
    assert counts["e0"] == pytest.approx(2500, rel=0.08)
    assert counts["e1"] == pytest.approx(500, rel=0.15)


def test_smooth_turns_never_bunch():
    balancer = cluster(3, "weighted")
    for one, weight in zip(balancer.endpoints, (5, 1, 1), strict=True):
        one.weight = weight
    order = ""
    for _ in range(7):
        pick = picked(balancer)
        settle(pick, Result.OK, 0.0)
        order += pick.endpoint.id[1]
    assert order == "0010200"  # the example of nginx's own description


def test_p2c_prefers_the_faster_of_two():
    balancer = cluster(2)
    slow, fast = balancer.endpoints
    slow.health.mean.add(0, 0.2)
    fast.health.mean.add(0, 0.1)
    for n in range(10):
        pick = picked(balancer, u=n / 10)
        assert pick.endpoint is fast
        settle(pick, Result.NEUTRAL, 0)


@pytest.mark.parametrize("result", [Result.OK, Result.FAILED])
def test_one_bad_sample_keeps_nobody_out_for_ever(result):
    balancer = cluster(2)
    slow = balancer.endpoints[0]
    now = 100.0
    for one in balancer.endpoints:
        one.health.mean.add(0, 0.1)
    permit = slow.health.begin(now, 10, 0.5)
    slow.health.settle(permit, result, now, 0.5, seconds=3.2)
    began = now
    while True:
        now += 0.1
        pick = picked(balancer, now, (now * 7) % 1)
        settle(pick, Result.OK, now)
        if pick.endpoint is slow:
            break
    # 3.2 s are 32 times as much: five half-lives.
    assert 40 < now - began < 60
    assert slow.health.mean.value < 0.4


def test_who_has_a_request_under_way_is_not_forgiven_meanwhile():
    balancer = cluster(2)
    hung, other = balancer.endpoints
    for one in balancer.endpoints:
        one.health.mean.add(0, 0.1)
    hung.health.begin(0, 10, 0.5)
    for n in range(600):
        pick = picked(balancer, n / 2, (n % 10) / 10, repeatable=False)
        assert pick.endpoint is other
        settle(pick, Result.OK, n / 2)


def test_p2c_draws_every_pair_equally_often():
    balancer = cluster(4)
    for cost, one in enumerate(balancer.endpoints, 1):
        one.health.mean.add(0, cost)
    counts: collections.Counter[str] = collections.Counter()
    for n in range(12_000):
        pick = picked(balancer, u=n / 12_000)
        settle(pick, Result.NEUTRAL, 0)
        counts[pick.endpoint.id] += 1
    # The best of two among four: it wins 6 of 12 ordered pairs, the next 4, the next 2.
    assert counts == {"e0": 6000, "e1": 4000, "e2": 2000}


# -- any mix of states -----------------------------------------------------------------------


class AnyMix(RuleBasedStateMachine):
    """Whatever happens, the choice is right and the counts add up."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.balancer = Balancer(
            [
                Endpoint(
                    f"e{n}", Health(keys=n), priority=n % 2, max_in_flight=(math.inf, 2)[n % 2]
                )
                for n in range(4)
            ]
        )
        self.out: list[Pick] = []

    @rule(seconds=st.floats(0, 30))
    def time(self, seconds):
        self.now += seconds

    @rule(u=st.floats(0, 0.999), repeatable=st.booleans(), tried=st.sets(st.integers(0, 3)))
    def pick(self, u, repeatable, tried):
        ends = self.balancer.endpoints
        skip = [ends[n] for n in tried]
        before = {one: (one.health.tier(self.now), one.health.next_key(self.now)) for one in ends}
        room = {one for one in ends if one.health.in_flight < one.max_in_flight}
        found = self.balancer.pick(self.now, u, tried=skip, repeatable=repeatable)
        able = [one for one in ends if one.enabled and one not in skip]
        if isinstance(found, Pick):
            one = found.endpoint
            assert one in able
            assert one in room
            assert before[one][1] is found.key
            if not found.trial:
                best = [o for o in able if before[o][1] is not None and o in room]
                healthy = [o for o in best if before[o][0] is Tier.HEALTHY]
                assert not healthy or one in healthy
            assert repeatable or not found.trial
            self.out.append(found)
        elif found is Nobody.DISABLED:
            assert not any(one.enabled for one in ends)
        elif found is Nobody.TRIED:
            assert not able
        else:
            assert isinstance(found, Wait)
            assert found.until > self.now
            assert not [
                o
                for o in able
                if o in room and before[o][1] is not None and before[o][0] < Tier.UNHEALTHY
            ]

    @rule(which=st.integers(0, 99), result=st.sampled_from(Result), seconds=st.floats(0, 20))
    def end(self, which, result, seconds):
        if self.out:
            pick = self.out.pop(which % len(self.out))
            pick.endpoint.health.settle(
                pick.permit, result, self.now, 0.5, seconds=seconds, median=self.balancer.median
            )

    @rule(n=st.integers(0, 3), seconds=st.none() | st.floats(0, 100))
    def throttle(self, n, seconds):
        health = self.balancer.endpoints[n].health
        health.throttled(self.now, seconds, health.keys[0])

    @rule(n=st.integers(0, 3), ok=st.booleans())
    def probe(self, n, ok):
        self.balancer.endpoints[n].health.probed(self.now, ok=ok)

    @rule(n=st.integers(0, 3))
    def switch(self, n):
        one = self.balancer.endpoints[n]
        one.enabled = not one.enabled

    @invariant()
    def counts_add_up(self):
        for one in self.balancer.endpoints:
            assert one.health.in_flight == sum(pick.endpoint is one for pick in self.out)
            assert one.health.breaker.probes_out <= 1


TestAnyMix = AnyMix.TestCase
TestAnyMix.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
