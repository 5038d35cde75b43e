"""Bulkhead, rate limit and client throttling: who gets in, who waits, who is refused."""

from __future__ import annotations

import asyncio
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

import holdfast as hf
from holdfast.core.ratelimit import RateLimitState


def afinish(*, after: float = 0.0):
    async def work() -> float:
        await asyncio.sleep(after)
        return asyncio.get_running_loop().time()

    return work


# -- bulkhead ----------------------------------------------------------------------------


def test_no_more_than_the_limit_run_at_once():
    async def main() -> int:
        policy = hf.policy(hf.Bulkhead(3, queue=100))
        most = now = 0

        async def work() -> None:
            nonlocal most, now
            now += 1
            most = max(most, now)
            await asyncio.sleep(0)
            now -= 1

        await asyncio.gather(*(policy.acall(work) for _ in range(50)))
        assert policy.state()["active"] == 0
        return most

    assert asyncio.run(main()) == 3


def test_a_full_queue_refuses_at_once():
    async def main() -> list[str]:
        policy = hf.policy(hf.Bulkhead(1, queue=1))
        calls = [asyncio.create_task(policy.aoutcome(afinish(after=0.01))) for _ in range(4)]
        return [type((await call).error).__name__ for call in calls]

    assert asyncio.run(main()) == ["NoneType", "NoneType", "BulkheadFull", "BulkheadFull"]


@pytest.mark.parametrize(("order", "expected"), [("fifo", [0, 1, 2, 3]), ("lifo", [0, 3, 2, 1])])
def test_waiters_are_served_in_the_order_that_was_asked_for(order, expected):
    async def main() -> list[int]:
        policy = hf.policy(hf.Bulkhead(1, queue=9, order=order))
        served: list[int] = []

        async def work(n: int) -> None:
            served.append(n)
            await asyncio.sleep(0.001)

        await asyncio.gather(*(policy.acall(work, n) for n in range(4)))
        return served

    assert asyncio.run(main()) == expected


def test_a_waiter_leaves_at_its_deadline_and_loses_no_permit():
    async def main() -> tuple[object, dict[str, object]]:
        policy = hf.policy(hf.Deadline(5), hf.Bulkhead(1, queue=9))
        holder = asyncio.create_task(policy.but(hf.Deadline(99)).acall(clock.asleep, 10))
        await asyncio.sleep(0)
        late = await policy.aoutcome(afinish())
        await holder
        assert await policy.acall(afinish())
        return late, policy.state()

    with hf.testing.clock() as clock:
        late, state = asyncio.run(main())
    assert isinstance(late.error, hf.DeadlineExceeded)
    assert late.attempts == 0
    assert (state["active"], state["queued"]) == (0, 0)


def test_a_cancelled_waiter_leaks_no_slot_even_if_it_was_just_served():
    async def main() -> dict[str, object]:
        policy = hf.policy(hf.Bulkhead(1, queue=9))
        gate = asyncio.Event()
        holder = asyncio.create_task(policy.acall(gate.wait))
        await asyncio.sleep(0)
        waiters = [asyncio.create_task(policy.acall(afinish())) for _ in range(3)]
        await asyncio.sleep(0)
        waiters[1].cancel()  # while it waits
        gate.set()
        await holder  # the permit goes to the first waiter ...
        waiters[0].cancel()  # ... which is cancelled before it can run
        results = await asyncio.gather(*waiters, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert isinstance(results[2], float)
        return policy.state()

    state = asyncio.run(main())
    assert (state["active"], state["queued"]) == (0, 0)


def test_threads_and_a_loop_share_one_bulkhead():
    policy = hf.policy(hf.Bulkhead(1, queue=9))
    entered, release = threading.Event(), threading.Event()

    def hold_it() -> None:
        entered.set()
        release.wait(10)

    thread = threading.Thread(target=policy.call, args=(hold_it,))
    thread.start()
    entered.wait(10)

    async def main() -> bool:
        waiting = asyncio.create_task(policy.acall(afinish()))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        release.set()
        return bool(await waiting)

    assert asyncio.run(main())
    thread.join()
    assert policy.state()["active"] == 0


# -- rate limit --------------------------------------------------------------------------


def test_a_burst_goes_at_once_and_the_rest_evenly():
    with hf.testing.clock() as clock:
        policy = hf.policy(hf.RateLimit(10, per=1.0, burst=3))
        times = [policy.call(lambda: clock.now) for _ in range(6)]
    assert [round(t - times[0], 6) for t in times] == [0, 0, 0, 0.1, 0.2, 0.3]


def test_hours_of_suspension_earn_one_burst_only():
    with hf.testing.clock() as clock:
        policy = hf.policy(hf.RateLimit(10, per=1.0))
        policy.call(lambda: 1)
        clock.suspend(8 * 3600)
        before = clock.now
        for _ in range(20):
            policy.call(lambda: 1)
    assert clock.now - before == pytest.approx(1.0)


def test_a_slot_beyond_the_deadline_is_refused_and_not_reserved():
    with hf.testing.clock(auto=False) as clock:
        policy = hf.policy(hf.Deadline(2, interrupt=False), hf.RateLimit(1, per=5.0, burst=1))
        policy.call(lambda: 1)
        refused = policy.outcome(lambda: 1)
        assert isinstance(refused.error, hf.RateLimited)
        assert refused.error.retry_after == pytest.approx(5)
        clock.advance(5)
        assert policy.call(lambda: 1) == 1  # the refused one took nothing


@given(
    st.integers(1, 50),
    st.floats(0.1, 10),
    st.lists(st.floats(0, 3), min_size=1, max_size=60),
)
def test_no_window_ever_sees_more_than_rate_and_burst(limit, per, pauses):
    state = RateLimitState(hf.RateLimit(limit, per=per))
    now, starts = 0.0, []
    for pause in pauses:
        now += pause
        starts.append(now + state.take(now))
    for first in starts:
        within = sum(1 for start in starts if first <= start < first + per)
        assert within <= 2 * limit + 1e-6  # a burst, and what the rate allows in `per`


# -- client throttling -------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [
        (hf.ClientThrottle(),),
        (hf.ClientThrottle(), hf.Retry(1)),
        (hf.Retry(1), hf.ClientThrottle()),
    ],
    ids=["alone", "outside", "inside"],
)
def test_a_backend_that_accepts_nothing_is_soon_asked_a_tenth_as_often(parts):
    sent = 0

    def refuse() -> None:
        nonlocal sent
        sent += 1
        raise ConnectionRefusedError(111, "no")

    with hf.testing.clock() as clock:
        clock.random(seed=1)
        policy = hf.policy(*parts)
        outcomes = [policy.outcome(refuse) for _ in range(1000)]
    refused = [o for o in outcomes if isinstance(o.error, hf.BudgetEmpty)]
    assert 50 < sent < 200
    assert sent + len(refused) == 1000


def test_a_backend_that_answers_is_never_throttled():
    def answer() -> None:
        raise ValueError  # its answer: the request is wrong

    with hf.testing.clock() as clock:
        clock.random(0.0)
        policy = hf.policy(hf.ClientThrottle())
        assert all(policy.outcome(answer).attempts for _ in range(200))
