"""A rate limit that heeds the server's: it can only become rarer, and only for a while."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

import holdfast as hf
from holdfast.core.events import LimitChanged
from holdfast.core.rate_headers import ServerLimits
from holdfast.core.ratelimit import LearningRate, RateLimitState
from holdfast.core.retry_after import CAP


def answer(policy: hf.Policy, clock, headers: dict[str, str], key: str | None = None) -> None:
    """Make a call whose answer has these headers, as an adapter does."""
    for attempt in (attempts := policy.attempts(key=key)):
        with attempt:
            attempts.call.answered(clock.now, headers, clock.wall())


def starts(policy: hf.Policy, clock, count: int) -> list[float]:
    """Return when each of so many calls goes out, in seconds from now."""
    begin = clock.now
    return [round(policy.call(lambda: clock.now) - begin, 6) for _ in range(count)]


def test_nothing_left_delays_the_next_call_to_the_reset():
    with hf.testing.clock() as clock:
        policy = hf.policy(hf.RateLimit(10, burst=1))
        answer(policy, clock, {"RateLimit": '"default";r=0;t=30'})
        assert starts(policy, clock, 3) == [30, 30.1, 30.2]  # and no burst at the reset


def test_a_reset_far_beyond_the_deadline_refuses_and_says_when():
    with hf.testing.clock() as clock:
        policy = hf.policy(hf.Deadline(5, interrupt=False), hf.RateLimit(10))
        answer(policy, clock, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "30"})
        outcome = policy.outcome(int)
        assert isinstance(outcome.error, hf.RateLimited)
        assert outcome.retry_after == pytest.approx(30)
        clock.advance(30)
        assert policy.call(int) == 0


def test_a_smaller_limit_of_the_server_holds_until_its_window_ends():
    with hf.testing.clock() as clock:
        policy = hf.policy(hf.RateLimit(100))
        answer(policy, clock, {"RateLimit-Policy": '"a";q=10;w=10', "RateLimit": '"a";r=9;t=5'})
        assert policy.state()["rate"] == pytest.approx(1)
        times = starts(policy, clock, 60)
        assert times[:6] == [1, 2, 3, 4, 5, 5]  # from 5 s on only the own limit counts
        assert times[-1] == pytest.approx(5, abs=1)
        assert policy.state()["rate"] == pytest.approx(100)


def test_a_larger_limit_of_the_server_changes_nothing():
    with hf.testing.clock() as clock:
        policy = hf.policy(hf.RateLimit(2, burst=1))
        answer(policy, clock, {"RateLimit-Policy": '"a";q=1000;w=10'})
        assert starts(policy, clock, 3) == [0.5, 1.0, 1.5]


def test_a_later_answer_may_loosen_what_an_earlier_one_tightened():
    with hf.testing.clock() as clock:
        policy = hf.policy(hf.RateLimit(10, burst=1))
        answer(policy, clock, {"RateLimit-Policy": '"a";q=1;w=20'})
        assert policy.state()["rate"] == pytest.approx(0.05)
        answer(policy, clock, {"RateLimit-Policy": '"a";q=100;w=10'})
        assert starts(policy, clock, 3)[2] == pytest.approx(0.3)


def test_what_waited_for_the_server_does_not_go_all_at_once_afterwards():
    async def main(clock) -> list[float]:
        policy = hf.policy(hf.RateLimit(10, burst=2))
        answer(policy, clock, {"RateLimit-Policy": '"a";q=5;w=10', "RateLimit": '"a";r=4;t=7'})

        async def work() -> float:
            return clock.now

        begin = clock.now
        times = await asyncio.gather(*(policy.acall(work) for _ in range(60)))
        return sorted(round(time - begin, 6) for time in times)

    with hf.testing.clock() as clock:
        times = asyncio.run(main(clock))
    assert times[:3] == [2, 4, 6]
    for first in times:
        assert sum(first <= time < first + 1 - 1e-6 for time in times) <= 2 + 10


@pytest.mark.parametrize("headers", [{"Retry-After": "7"}, {b"retry-after": b"7"}])
def test_retry_after_holds_all_calls_of_the_key_and_no_others(headers):
    with hf.testing.clock() as clock:
        policy = hf.policy(hf.RateLimit(10), key=lambda call: call.args[0] if call.args else "a")
        answer(policy, clock, headers, key="a")
        assert policy.state("a")["rate_wait"] == pytest.approx(7)
        assert policy.state("b")["rate_wait"] == 0


def test_a_throttled_verdict_teaches_as_well():
    class Throttled(Exception):
        verdict = hf.Verdict(hf.THROTTLED, retry_after=9.0)

    def refused() -> None:
        raise Throttled

    with hf.testing.clock():
        policy = hf.policy(hf.RateLimit(10), classify=lambda error: getattr(error, "verdict", None))
        policy.outcome(refused)
        assert policy.state()["rate_wait"] == pytest.approx(9)
        deaf = policy.but(hf.RateLimit(10, learn=False))
        deaf.outcome(refused)
        assert deaf.state()["rate_wait"] == 0


def test_it_can_be_turned_off():
    with hf.testing.clock() as clock:
        policy = hf.policy(hf.RateLimit(10, learn=False))
        answer(policy, clock, {"RateLimit": '"default";r=0;t=30', "Retry-After": "30"})
        assert starts(policy, clock, 2) == [0, 0]


def test_a_policy_without_a_rate_limit_does_not_care():
    with hf.testing.clock() as clock:
        policy = hf.policy(hf.Retry(2))
        answer(policy, clock, {"RateLimit": '"default";r=0;t=30'})
        assert starts(policy, clock, 2) == [0, 0]


def test_a_limit_that_is_news_is_told_once():
    heard: list[object] = []
    stop = hf.subscribe(heard.append)
    try:
        with hf.testing.clock() as clock:
            policy = hf.policy(hf.RateLimit(10), name="api")
            for _ in range(3):
                answer(policy, clock, {"RateLimit-Policy": '"a";q=10;w=20'})
    finally:
        stop()
    news = [event for event in heard if isinstance(event, LimitChanged)]
    assert [(e.policy, e.what, e.before, e.limit, e.why) for e in news] == [
        ("api", "rate", 10.0, 0.5, "the server's limit")
    ]


def test_the_fast_path_is_closed_while_the_server_is_stricter_and_open_again_after():
    state = LearningRate(hf.RateLimit(100))
    assert state.take(0.0) == 0
    state.learn(0.0, ServerLimits(interval=2.0, lasts=5.0))
    # What the drivers' fast path looks at: see `Lane.enter`.
    assert max(0.0, state.tat) + state.interval - 0.0 > state.slack
    assert [state.take(0.0), state.take(0.0)] == [2, 4]
    assert state.take(6.0) == 0
    assert max(6.0, state.tat) + state.interval - 6.0 <= state.slack


def test_a_slot_that_is_given_back_was_never_taken():
    state = LearningRate(hf.RateLimit(10, burst=1))
    state.learn(0.0, ServerLimits(interval=2.0, lasts=60.0))
    state.take(0.0)
    before = state.wait_time(0.0)
    for _ in range(5):
        state.take(0.0)
        state.give_back()
    assert state.wait_time(0.0) == before == 4


LIMITS = st.builds(
    ServerLimits,
    wait=st.one_of(st.just(0.0), st.floats(0, 50), st.just(CAP)),
    interval=st.one_of(st.just(0.0), st.floats(0, 20)),
    lasts=st.one_of(st.just(0.0), st.floats(0, 50)),
)


@given(
    st.integers(1, 20),
    st.integers(1, 5),
    st.lists(st.tuples(st.floats(0, 5), st.none() | LIMITS), min_size=1, max_size=60),
)
def test_whatever_the_server_says_the_own_limit_holds(limit, burst, script):
    state, own = LearningRate(hf.RateLimit(limit, burst=burst)), []
    now = 0.0
    for pause, limits in script:
        now += pause
        if limits is not None:
            state.learn(now, limits)
        ahead = state.wait_time(now)
        own.append(now + state.take(now))
        assert own[-1] - now == pytest.approx(ahead)
    own.sort()  # what came after the server loosened its limit may overtake what waits
    for i, first in enumerate(own):
        for j, last in enumerate(own[i:], 1):
            assert j <= burst + (last - first) * limit + 1e-6


@given(
    st.integers(1, 20),
    st.lists(st.tuples(st.floats(0, 3), st.booleans()), min_size=1, max_size=40),
)
def test_without_news_it_is_the_plain_limit(limit, script):
    plain, learning = RateLimitState(hf.RateLimit(limit)), LearningRate(hf.RateLimit(limit))
    now = 0.0
    for pause, back in script:
        now += pause
        assert learning.wait_time(now) == plain.wait_time(now)
        assert learning.take(now) == plain.take(now)
        if back:
            learning.give_back()
            plain.give_back()
        assert learning.tat == plain.tat


@given(st.lists(st.tuples(st.floats(0, 2), st.none() | LIMITS), min_size=1, max_size=60))
def test_no_answer_holds_longer_than_the_cap(script):
    state = LearningRate(hf.RateLimit(10))
    now = 0.0
    for pause, limits in script:
        now += pause
        if limits is not None:
            state.learn(now, limits)
        # One slot per interval and call may have been given out already.
        assert state.wait_time(now) <= CAP + 20 * len(script)
