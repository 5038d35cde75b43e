"""Deadlines interrupt: in threads, in tasks, within one another, and against outer cancels."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import time

import pytest

import holdfast as hf
from holdfast.runtime import timers
from holdfast.runtime.clock import SystemClock, install
from holdfast.runtime.workers import Workers


@pytest.fixture
def clock():
    with hf.testing.clock() as clock:
        yield clock


# -- D1: a call that hangs ---------------------------------------------------------------


def test_a_hanging_function_is_left_behind_at_the_deadline():
    release = threading.Event()
    policy = hf.policy(hf.Deadline(0.2))
    began = time.perf_counter()
    with pytest.raises(hf.DeadlineExceeded):
        policy.call(release.wait, 30)
    assert time.perf_counter() - began < 2  # 0.2 s, and what a busy machine adds
    release.set()


def test_a_hanging_coroutine_is_cancelled_at_the_deadline(clock):
    async def main():
        policy = hf.policy(hf.Deadline(1))
        ended = []

        async def hang():
            try:
                await clock.asleep(3)
            finally:
                ended.append(clock.now)

        began = clock.now
        with pytest.raises(hf.DeadlineExceeded):
            await policy.acall(hang)
        assert ended == [clock.now]
        return clock.now - began

    assert asyncio.run(main()) == pytest.approx(1)


def test_an_answer_that_drips_does_not_stretch_the_deadline(clock):
    async def main():
        async def drip():
            while True:  # one byte of the head per 0.3 s
                await clock.asleep(0.3)

        began = clock.now
        outcome = await hf.policy(hf.Deadline(1)).aoutcome(drip)
        assert outcome.reason == "deadline"
        return clock.now - began

    assert asyncio.run(main()) == pytest.approx(1)


def test_a_deadline_holds_across_many_attempts(clock):  # D2
    async def main():
        async def fails_late():
            await clock.asleep(0.8)
            raise ConnectionResetError

        backoff = hf.Constant(0.01, jitter="none")
        policy = hf.policy(hf.Deadline(1), hf.Retry(5, backoff=backoff))
        began = clock.now
        outcome = await policy.aoutcome(fails_late)
        return outcome, clock.now - began

    outcome, seconds = asyncio.run(main())
    assert (outcome.attempts, outcome.reason) == (2, "deadline")
    assert isinstance(outcome.error, hf.DeadlineExceeded)
    assert seconds == pytest.approx(1)


def test_a_timeout_ends_the_attempt_and_the_next_one_follows(clock):
    async def main():
        starts = []

        async def hang_once():
            starts.append(clock.now)
            if len(starts) == 1:
                await clock.asleep(100)
            return "ok"

        retry = hf.Retry(3, backoff=hf.Constant(0.5, jitter="none"))
        return await hf.policy(hf.Deadline(60), retry, hf.Timeout(10)).acall(hang_once), starts

    value, starts = asyncio.run(main())
    assert value == "ok"
    assert starts[1] - starts[0] == pytest.approx(10.5)


def test_the_error_of_a_timeout_says_what_took_too_long(clock):
    async def main():
        return await hf.policy(hf.Timeout(2), order="free").aoutcome(clock.asleep, 9)

    outcome = asyncio.run(main())
    assert type(outcome.error) is TimeoutError
    assert str(outcome.error) == "the attempt took longer than 2 s"
    assert outcome.error.__notes__ == ["1 attempt in 2 s; no attempts left"]


# -- D3: nesting, and outer cancellation -------------------------------------------------


def test_the_tighter_of_two_deadlines_wins(clock):
    async def main():
        inner, outer = hf.policy(hf.Deadline(5)), hf.policy(hf.Deadline(1))
        began = clock.now
        with pytest.raises(hf.DeadlineExceeded):
            await outer.acall(inner.acall, clock.asleep, 9)
        return clock.now - began

    assert asyncio.run(main()) == pytest.approx(1)


def test_a_block_bounds_every_policy_inside_it(clock):
    async def main():
        policy = hf.policy(hf.Retry(3))
        with hf.deadline(2):
            assert hf.remaining() == pytest.approx(2)
            with hf.deadline(50):
                assert hf.remaining() == pytest.approx(2)
            outcome = await policy.aoutcome(clock.asleep, 9)
            assert hf.remaining() == 0
        assert hf.remaining() == math.inf
        return outcome

    assert isinstance(asyncio.run(main()).error, hf.DeadlineExceeded)


def test_a_call_after_the_deadline_does_no_io(clock):
    calls = []
    with hf.deadline(1):
        clock.advance(1)
        outcome = hf.policy(hf.Retry(3)).outcome(calls.append, 1)
    assert isinstance(outcome.error, hf.DeadlineExceeded)
    assert calls == []


def test_an_outer_cancellation_in_the_same_tick_wins():
    async def main():
        policy = hf.policy(hf.Deadline(0.01))
        task = asyncio.create_task(policy.acall(asyncio.sleep, 9))
        await asyncio.sleep(0)
        time.sleep(0.02)  # noqa: ASYNC251 - both the alarm and the cancellation become due
        asyncio.get_running_loop().call_soon(task.cancel)
        await asyncio.wait([task])
        return task

    task = asyncio.run(main())
    assert task.cancelled()


def test_a_cancellation_from_outside_is_passed_on_and_counts_as_nothing():
    async def main():
        policy = hf.policy(hf.Deadline(9), hf.Bulkhead(3), hf.Retry(3), hf.Breaker())
        task = asyncio.create_task(policy.acall(asyncio.sleep, 9))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        return policy.state()

    state = asyncio.run(main())
    assert (state["active"], state["calls"], state["failures"]) == (0, 0, 0)


def test_a_coroutine_that_cleans_up_slowly_is_waited_for(clock):
    async def main():
        cleaned = []

        async def stubborn():
            try:
                await clock.asleep(9)
            finally:
                await clock.asleep(1)
                cleaned.append(True)

        with pytest.raises(hf.DeadlineExceeded):
            await hf.policy(hf.Deadline(2)).acall(stubborn)
        return cleaned, asyncio.current_task().cancelling()

    assert asyncio.run(main()) == ([True], 0)


def test_a_value_that_comes_although_the_alarm_went_off_is_kept(clock):
    async def main():
        async def survives():
            try:
                await clock.asleep(9)
            except asyncio.CancelledError:
                return "saved"

        value = await hf.policy(hf.Deadline(1)).acall(survives)
        return value, asyncio.current_task().cancelling()

    assert asyncio.run(main()) == ("saved", 0)


def test_alarms_leave_nothing_behind():
    async def main():
        policy = hf.policy(hf.Deadline(60))
        await asyncio.gather(*(policy.acall(asyncio.sleep, 0.001) for _ in range(100)))
        loop = asyncio.get_running_loop()
        return [len(queue.alarms) for queue in timers._queues[loop].values()]

    assert asyncio.run(main()) == [0]
    gc.collect()
    assert not any(loop.is_closed() is False for loop in timers._queues)


class Still(SystemClock):
    """A clock that stands: no call is measured because the last measurement was long ago."""

    monotonic = staticmethod(lambda: 1000.0)


def test_thousands_of_calls_share_one_timer_of_the_loop():
    async def main():
        armed = 0
        loop = asyncio.get_running_loop()
        call_later = loop.call_later

        def counted(*args, **kwargs):
            nonlocal armed
            armed += 1
            return call_later(*args, **kwargs)

        loop.call_later = counted
        event = asyncio.Event()
        policy = hf.policy(hf.Deadline(60))
        for _ in range(20):
            await policy.acall(asyncio.sleep, 0)
        calls = [asyncio.create_task(policy.acall(event.wait)) for _ in range(1000)]
        await asyncio.sleep(0)
        event.set()
        await asyncio.gather(*calls)
        return armed

    with install(Still()):
        assert asyncio.run(main()) == 1


def test_alarms_go_off_in_turn_each_at_its_own_time(clock):
    async def main():
        policy = hf.policy(hf.Deadline(5))

        async def one(after):
            await clock.asleep(after)
            began = clock.now
            await policy.aoutcome(clock.asleep, 99)
            return clock.now - began

        return await asyncio.gather(*(one(n * 0.5) for n in range(8)))

    assert asyncio.run(main()) == pytest.approx([5] * 8)


def test_acall_outside_a_task_says_what_is_missing():
    coroutine = hf.policy(hf.Deadline(1)).acall(asyncio.sleep, 1)
    with pytest.raises(RuntimeError):
        coroutine.send(None)


def test_acall_of_a_plain_function_says_what_it_needs():
    async def main():
        await hf.policy(hf.Deadline(1)).acall(lambda: 5)

    with pytest.raises(TypeError, match="returns an awaitable: int"):
        asyncio.run(main())


def test_a_future_is_awaited_like_a_coroutine(clock):
    async def main():
        future = asyncio.get_running_loop().create_future()
        return await hf.policy(hf.Deadline(1)).aoutcome(lambda: future)

    assert isinstance(asyncio.run(main()).error, hf.DeadlineExceeded)


# -- worker threads ----------------------------------------------------------------------


def test_limited_functions_run_on_a_thread_that_sees_the_callers_context():
    policy = hf.policy(hf.Deadline(20))
    with hf.deadline(10):
        rest, thread = policy.call(lambda: (hf.remaining(), threading.current_thread()))
    assert 5 < rest <= 10
    assert thread is not threading.main_thread()


def test_without_interrupt_functions_run_inline():
    policy = hf.policy(hf.Deadline(20, interrupt=False))
    assert policy.call(threading.current_thread) is threading.current_thread()


def test_an_error_on_a_worker_thread_reaches_the_caller_as_it_is():
    error = KeyError("gone")

    def fail():
        raise error

    outcome = hf.policy(hf.Deadline(20)).outcome(fail)
    assert outcome.error is error


def test_threads_are_reused_and_bounded():
    pool = Workers(most=2)
    names = {pool.run(lambda: threading.current_thread().name, 5)[1] for _ in range(20)}
    assert len(names) == 1
    release = threading.Event()
    for _ in range(2):
        assert pool.run(release.wait, 0.01) == (False, None)  # left behind
    assert pool.busy == 2
    with pytest.raises(hf.BulkheadFull, match="all 2 worker threads"):
        pool.run(lambda: 1, 1)
    release.set()
    deadline = time.perf_counter() + 5
    while pool.busy and time.perf_counter() < deadline:
        time.sleep(0.001)
    assert pool.run(lambda: "again", 5) == (True, "again")


def test_an_idle_thread_ends(monkeypatch):
    monkeypatch.setattr("holdfast.runtime.workers.IDLE_SECONDS", 0.01)
    pool = Workers(most=1)
    _, thread = pool.run(threading.current_thread, 5)
    thread.join(5)
    assert not thread.is_alive()
    assert pool.run(lambda: 1, 5) == (True, 1)
