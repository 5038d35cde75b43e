from __future__ import annotations

import itertools

import pytest

from holdfast.core.breaker import Breaker, Permit, Result, State
from holdfast.core.health import CLEAN, Cooldown, Health, Tier, median_of
from holdfast.core.mean import Mean

OK, FAILED, NEUTRAL = Result.OK, Result.FAILED, Result.NEUTRAL


def answer(
    health: Health,
    now: float,
    result: Result = OK,
    seconds: float = 0.1,
    median: float | None = None,
) -> None:
    """One request, from its permit to its result."""
    permit = health.begin(now, 10, 0.5)
    if not isinstance(permit, Permit):
        permit = health.force()
    health.settle(permit, result, now, 0.5, seconds=seconds, median=median)


def opened(now: float = 0.0) -> Health:
    health = Health()
    for _ in range(5):
        answer(health, now, FAILED)
    assert health.tier(now) is Tier.CIRCUIT_OPEN
    return health


def test_a_new_endpoint_is_healthy():
    assert Health().tier(0) is Tier.HEALTHY


def test_two_failures_in_a_row_degrade_and_ten_good_answers_bring_it_back():
    health = Health()
    answer(health, 0, FAILED)
    assert health.tier(0) is Tier.HEALTHY
    answer(health, 0, FAILED)
    assert health.tier(0) is Tier.DEGRADED
    for n in range(CLEAN):
        assert health.tier(n) is Tier.DEGRADED
        answer(health, n)
    assert health.tier(CLEAN) is Tier.HEALTHY


def test_a_tenth_of_failures_degrades_even_when_none_follows_another():
    health = Health()
    for n in range(30):
        answer(health, n / 10, FAILED if n % 10 == 9 else OK)
    assert health.tier(3) is Tier.DEGRADED


def test_the_successes_of_calm_times_count_in_the_share():
    health, now, degraded = Health(), 0.0, 0
    for n in range(10_000):
        now = n / 10
        if n % 10 == 0:
            health.look(now)
        answer(health, now, FAILED if n > 300 and n % 33 == 0 else OK)
        degraded += health.tier(now) is not Tier.HEALTHY
    assert degraded == 0


def test_two_failures_with_a_success_of_calm_times_between_are_no_row():
    health = Health()
    for n in range(30):
        answer(health, n / 10)
    answer(health, 3, FAILED)
    for n in range(100):
        health.look(4 + n)
        answer(health, 4 + n)
    for n in range(20):
        answer(health, 104 + n / 10)
    answer(health, 106, FAILED)
    assert health.tier(106) is Tier.HEALTHY


def test_one_failure_of_four_is_too_little_to_judge():
    health = Health()
    for result in (OK, FAILED, OK, OK):
        answer(health, 0, result)
    assert health.tier(0) is Tier.HEALTHY


def test_three_times_the_median_is_slow():
    health = Health()
    answer(health, 0, seconds=0.29, median=0.1)
    assert health.tier(0) is Tier.HEALTHY
    health = Health()
    answer(health, 0, seconds=0.31, median=0.1)
    assert health.tier(0) is Tier.DEGRADED


def test_a_few_milliseconds_are_not_slow_whatever_the_others_take():
    health = Health()
    for n in range(20):
        answer(health, n, seconds=0.045, median=0.001)
    assert health.tier(20) is Tier.HEALTHY
    answer(health, 100, seconds=0.06, median=0.001)
    assert health.tier(100) is Tier.DEGRADED


def test_a_slow_endpoint_stays_degraded_until_it_is_fast_again():
    health = Health()
    answer(health, 0, seconds=1.0, median=0.1)
    for n in range(1, 30):
        answer(health, n, seconds=1.0, median=0.1)
    assert health.tier(30) is Tier.DEGRADED
    for n in range(30, 200):
        answer(health, n, seconds=0.1, median=0.1)
    assert health.tier(200) is Tier.HEALTHY


def test_five_failures_in_a_row_open_the_circuit_and_time_half_opens_it():
    health = opened()
    assert health.tier(health.breaker.until - 0.01) is Tier.CIRCUIT_OPEN
    assert health.tier(health.breaker.until) is Tier.UNHEALTHY


def test_neutral_results_change_nothing():
    health = Health()
    for n in range(100):
        answer(health, n, NEUTRAL, seconds=50)
    assert health.tier(100) is Tier.HEALTHY
    assert health.mean.value is None
    assert health.counts(100).calls == 0
    assert health.in_flight == 0


def test_half_open_admits_one_at_a_time():
    health = opened()
    now = health.breaker.until
    first = health.begin(now, 10, 0.5)
    assert isinstance(first, Permit)
    assert not isinstance(health.begin(now, 10, 0.5), Permit)
    health.settle(first, NEUTRAL, now, 0.5, seconds=0)  # cancelled: the place is free again
    assert isinstance(health.begin(now, 10, 0.5), Permit)


def test_a_good_probe_lets_requests_try_and_closes_nothing():
    health = opened()
    health.probed(1.0, ok=True)
    assert health.breaker.state is State.HALF_OPEN
    assert health.tier(1.0) is Tier.UNHEALTHY


def test_a_failed_probe_makes_unhealthy_until_something_answers():
    health = Health()
    health.probed(0, ok=False)
    assert health.tier(0) is Tier.UNHEALTHY
    answer(health, 1)
    assert health.tier(1) is Tier.HEALTHY


def test_probes_begin_with_a_failing_endpoint_and_grow_rarer():
    health = Health()
    assert health.probe_at == float("inf")
    health = opened(now=100.0)
    times = [health.probe_at]
    for _ in range(9):
        health.probed(times[-1], ok=False)
        times.append(health.probe_at)
    gaps = [round(b - a) for a, b in zip([100.0, *times], times, strict=False)]
    assert gaps == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    health.probed(times[-1], ok=True)
    assert health.probe_at == float("inf")


def test_probes_of_a_port_that_accepts_and_does_not_serve_grow_rarer_as_well():
    health = opened()
    times, now = [], 0.0
    for _ in range(8):
        now = health.probe_at
        times.append(now)
        health.probed(now, ok=True)
        assert health.breaker.state is State.HALF_OPEN
        assert health.probe_at == float("inf")
        answer(health, now, FAILED)
        assert health.breaker.state is State.OPEN
    assert [round(b - a) for a, b in itertools.pairwise(times)] == [2, 4, 8, 16, 32, 60, 60]


def test_probes_begin_afresh_once_it_was_well():
    health = opened()
    for _ in range(4):
        health.probed(health.probe_at, ok=False)
    now = health.probe_at
    health.probed(now, ok=True)
    for _ in range(3):
        answer(health, now)
    assert health.breaker.state is State.CLOSED
    for _ in range(5):
        answer(health, now, FAILED)
    assert health.probe_at == now + 1


def test_probes_are_never_further_apart_than_configured():
    health = opened()
    for _ in range(6):
        now = health.probe_at
        health.probed(now, ok=False, most=7)
    assert health.probe_at - now == 7
    health.probed(health.probe_at, ok=True, most=7)
    answer(health, 1000, FAILED)
    assert health.probe_at == 1007


def test_an_answer_that_has_begun_makes_place_for_the_next_and_counts_once():
    health = opened()
    now = health.breaker.until
    begun = []
    for _ in range(3):
        assert health.breaker.state is not State.CLOSED
        permit = health.begin(now, 600, 0.5)
        assert isinstance(permit, Permit)
        assert health.begin(now, 600, 0.5) == 600
        health.prove(permit, now, 0.5, seconds=0.1)
        begun.append(permit)
        if len(begun) == 1:
            extra = health.begin(now, 600, 0.5)
            assert isinstance(extra, Permit)
            health.settle(begun[0], OK, now, 0.5, seconds=0.1)
            health.settle(extra, NEUTRAL, now, 0.5, seconds=0.1)
            assert health.breaker.state is State.HALF_OPEN
    assert health.breaker.state is State.CLOSED
    assert health.in_flight == 2
    for permit in begun[1:]:
        health.settle(permit, OK, now, 0.5, seconds=0.1)
    assert (health.in_flight, health.breaker.state) == (0, State.CLOSED)


def test_a_probe_whose_answer_begins_after_the_circuit_has_opened_again_says_nothing():
    health = opened()
    now = health.breaker.until
    first = health.begin(now, 600, 0.5)
    health.prove(first, now, 0.5, seconds=0.1)
    second = health.begin(now, 600, 0.5)
    health.settle(first, FAILED, now, 0.5, seconds=0.1)  # its answer was cut
    assert health.breaker.state is State.OPEN
    gen, until = health.breaker.gen, health.breaker.until
    counts = health.counts(now + 1)
    health.prove(second, now + 1, 0.5, seconds=0.1)
    health.settle(second, FAILED, now + 1, 0.5, seconds=0.1)
    assert (health.breaker.state, health.breaker.gen) == (State.OPEN, gen)
    assert (health.breaker.until, health.counts(now + 1)) == (until, counts)
    assert health.in_flight == 0


def test_what_is_asked_with_the_keys_of_before_takes_room_of_those_with_the_new_ones():
    before, after, last = Health(keys=1), Health(keys=2), Health(keys=1)
    first = before.begin(0, 10, 0.5)
    after.succeed(before, {0: 0})
    before.look(0)
    assert not before.calm  # or it would be asked by the short way, which counts in one place
    assert after.in_flight == 1
    second = before.force()
    assert (before.in_flight, after.in_flight) == (2, 2)
    third = after.begin(0, 10, 0.5)
    last.succeed(after, {})
    assert (before.in_flight, after.in_flight, last.in_flight) == (2, 3, 3)
    before.settle(first, OK, 1, 0.5, seconds=0.1)
    before.settle(second, NEUTRAL, 1, 0.5, seconds=0.1)
    assert (before.in_flight, after.in_flight, last.in_flight) == (0, 1, 1)
    after.settle(third, OK, 1, 0.5, seconds=0.1)
    assert (after.in_flight, last.in_flight) == (0, 0)


def test_an_answer_that_has_begun_and_is_cut_counts_as_a_bad_probe():
    health = opened()
    now = health.breaker.until
    permit = health.begin(now, 600, 0.5)
    assert isinstance(permit, Permit)
    health.prove(permit, now, 0.5, seconds=0.1)
    assert health.breaker.state is State.HALF_OPEN
    health.settle(permit, FAILED, now, 0.5, seconds=0.1)
    assert health.breaker.state is State.OPEN


def test_an_answer_that_begins_after_another_probe_has_failed_says_nothing_any_more():
    health = Health(Breaker(min_calls=5))
    for _ in range(5):
        answer(health, 0, FAILED)
    now = health.breaker.until
    slow = health.begin(now, 1, 0.5)
    later = now + 2  # its lease is over, and its place is given to another
    other = health.begin(later, 1, 0.5)
    assert isinstance(slow, Permit)
    assert isinstance(other, Permit)
    health.settle(other, FAILED, later, 0.5, seconds=0.1)
    gen = health.breaker.gen
    health.prove(slow, later, 0.5, seconds=2)
    health.settle(slow, FAILED, later, 0.5, seconds=2)
    assert (health.breaker.state, health.breaker.gen) == (State.OPEN, gen)
    assert health.in_flight == 0


def test_when_fewer_successes_are_to_close_than_came_already_one_more_closes():
    health = opened()
    now = health.breaker.until
    for _ in range(2):
        answer(health, now)
    health.breaker.retune(Breaker(consecutive=5, close_after=1))
    permit = health.begin(now, 10, 0.5)
    assert isinstance(permit, Permit)
    assert health.begin(now, 10, 0.5) == 10  # one at a time, as before
    health.settle(permit, OK, now, 0.5, seconds=0.1)
    assert health.breaker.state is State.CLOSED


def test_three_successes_close_and_any_failure_before_opens_again():
    for results, state in (
        ((OK, OK), State.HALF_OPEN),
        ((OK, OK, OK), State.CLOSED),
        ((OK, OK, FAILED), State.OPEN),
        ((FAILED,), State.OPEN),
    ):
        health = opened()
        now = health.breaker.until
        for result in results:
            answer(health, now, result)
        assert health.breaker.state is state


def test_half_of_twenty_calls_open_the_circuit_though_none_follows_another():
    health = Health()
    for n in range(19):
        answer(health, n / 10, FAILED if n % 2 else OK)
    assert health.breaker.state is State.CLOSED
    answer(health, 1.9, FAILED)
    assert health.breaker.state is State.OPEN


def test_the_open_time_doubles_to_five_minutes_give_or_take_a_fifth():
    for u, factor in ((0.0, 0.8), (0.5, 1.0), (0.999, 1.2)):
        health, now, seen = Health(), 0.0, []
        for _ in range(9):
            # Closed it takes five failures, half-open one.
            while isinstance(permit := health.begin(now, 10, u), Permit):
                health.settle(permit, FAILED, now, u, seconds=0.1)
            seen.append((health.breaker.until - now) / factor)
            now = health.breaker.until
        assert seen == pytest.approx([5, 10, 20, 40, 80, 160, 300, 300, 300], rel=1e-3)


def test_a_forced_success_half_opens():
    health = opened()
    health.settle(health.force(), OK, 1.0, 0.5, seconds=0.1)
    assert health.breaker.state is State.HALF_OPEN
    assert health.in_flight == 0


def test_a_forced_failure_leaves_the_circuit_as_it_is():
    health = opened()
    until = health.breaker.until
    health.settle(health.force(), FAILED, 1.0, 0.5, seconds=0.1)
    assert health.breaker.state is State.OPEN
    assert health.breaker.until == until


def test_results_of_another_generation_do_not_touch_the_circuit():
    health = Health(Breaker(open_for=1))
    early = [health.begin(0, 10, 0.5) for _ in range(3)]
    for _ in range(5):
        answer(health, 0, FAILED)
    now = health.breaker.until
    probe = health.begin(now, 10, 0.5)
    for permit in early:
        assert isinstance(permit, Permit)
        health.settle(permit, FAILED, now, 0.5, seconds=0.1)
    assert health.breaker.state is State.HALF_OPEN
    assert isinstance(probe, Permit)


# -- latency -------------------------------------------------------------------------------


def test_a_sample_loses_half_its_weight_in_ten_seconds():
    mean = Mean()
    mean.add(0, 1.0)
    mean.add(10, 3.0)
    assert mean.value == pytest.approx(2.0)


def test_fast_failures_attract_no_traffic():
    mean = Mean()
    mean.add(0, 1.0)
    mean.failed(100, 0.001)
    assert mean.value is not None
    assert mean.value > 1.9


def test_means_stay_finite_however_much_fails():
    mean = Mean()
    mean.add(0, 1.0)
    for n in range(5000):
        mean.failed(n * 60.0, 0.001)
    assert mean.value == 600


def test_the_median_needs_two_endpoints():
    healths = [Health() for _ in range(3)]
    answer(healths[0], 0, seconds=5)
    assert median_of(healths) is None
    answer(healths[1], 0, seconds=1)
    assert median_of(healths) == 1
    answer(healths[2], 0, seconds=2)
    assert median_of(healths) == 2


def test_an_endpoint_that_fails_at_once_makes_no_other_one_slow():
    healths = [Health() for _ in range(2)]
    answer(healths[0], 0, FAILED, seconds=0.0)
    answer(healths[1], 0, seconds=0.1)
    assert median_of(healths) is None
    answer(healths[0], 1, seconds=0.1)
    assert median_of(healths) == pytest.approx(0.1)


# -- cool-downs ----------------------------------------------------------------------------


def test_a_cooldown_lasts_as_long_as_was_asked():
    cooldown = Cooldown()
    cooldown.throttled(100, 7)
    assert cooldown.until == 107
    cooldown.throttled(101, 2)  # a shorter one does not end the longer one
    assert cooldown.until == 107


def test_without_a_hint_a_cooldown_doubles_to_a_minute_and_an_answer_ends_the_row():
    cooldown = Cooldown()
    now, seen = 0.0, []
    for _ in range(9):
        cooldown.throttled(now, None)
        seen.append(cooldown.until - now)
        now = cooldown.until
    assert seen == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    cooldown.answered()
    cooldown.throttled(now, None)
    assert cooldown.until - now == 1


@pytest.mark.parametrize("hint", [0, -3600.0], ids=["none at all", "a date that is over"])
def test_a_hint_that_is_over_is_none(hint):
    cooldown = Cooldown()
    now, seen = 0.0, []
    for _ in range(4):
        cooldown.throttled(now, hint)
        seen.append(cooldown.until - now)
        now = cooldown.until
    assert seen == [1, 2, 4, 8]


def test_a_short_hint_is_heeded_but_in_a_row_it_grows_to_a_second():
    cooldown = Cooldown()
    now, seen = 0.0, []
    for _ in range(6):
        cooldown.throttled(now, 0.25)
        seen.append(round(cooldown.until - now, 6))
        now = cooldown.until
    assert seen == [0.25, 0.25, 0.4, 0.8, 1, 1]


def test_many_that_are_refused_together_are_one_refusal():
    cooldown = Cooldown()
    for n in range(100):
        cooldown.throttled(n / 1000, None)
    assert cooldown.until == 1
    cooldown.throttled(1.0, None)
    assert cooldown.until == 3


def test_an_answer_ends_the_row_of_its_key_and_of_its_endpoint():
    health = Health(keys=2)
    key, other = health.keys
    for one in (key, other, None):
        health.throttled(0, None, one)
    now = 1.0
    permit = health.begin(now, 10, 0.5)
    assert isinstance(permit, Permit)
    health.settle(permit, OK, now + 0.5, 0.5, seconds=0.5, key=key)
    for one in (key, other, None):
        health.throttled(now, None, one)
    assert (key.cooldown.until, health.cooldown.until) == (2, 2)
    assert other.cooldown.until == 3  # it has not answered since


def test_an_answer_to_what_was_asked_before_the_refusal_ends_no_row():
    health = Health()
    permit = health.begin(0, 10, 0.5)
    assert isinstance(permit, Permit)
    health.throttled(0.1, None, health.keys[0])
    health.settle(permit, OK, 2.0, 0.5, seconds=2.0, key=health.keys[0])
    health.throttled(2.0, None, health.keys[0])
    assert health.keys[0].cooldown.until == 4


def test_a_row_of_refusals_is_looked_at_until_an_answer_ends_it():
    health = Health()
    health.throttled(0, None, health.keys[0])
    health.look(5)
    assert not health.calm
    permit = health.begin(5, 10, 0.5)
    assert isinstance(permit, Permit)
    health.settle(permit, OK, 5, 0.5, seconds=0.0, key=health.keys[0])
    health.look(6)
    assert health.calm


def test_a_key_that_cools_leaves_the_others_in_use():
    health = Health(keys=2)
    first = health.next_key(0)
    assert first is not None
    first.cooldown.throttled(0, 60)
    second = health.next_key(0)
    assert second is not None
    assert second is not first
    second.cooldown.throttled(0, 30)
    assert health.next_key(0) is None
    assert health.free_at(0) == 30
    assert health.tier(0) is Tier.HEALTHY  # throttling is no fault


def test_the_cooldown_of_an_endpoint_is_that_of_all_its_keys():
    health = Health(keys=3)
    health.throttled(0, 5)
    assert health.next_key(4.9) is None
    assert health.free_at(1) == 5
    assert health.next_key(5) is not None


def test_keys_are_used_in_turn():
    health = Health(keys=3)
    used = []
    for now in range(6):
        key = health.next_key(now)
        assert key is not None
        key.used_at = now
        used.append(key.number)
    assert used == [0, 1, 2, 0, 1, 2]
