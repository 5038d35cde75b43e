"""Losers of hedged attempts that hold on, and cancelled callers: nobody is held up or left."""

from __future__ import annotations

import asyncio
import gc

import pytest
from runtime_backend import Backend, run

import holdfast as hf
from holdfast.runtime import hedging
from holdfast.runtime.clock import clock as seam
from holdfast.runtime.hedging import GRACE
from holdfast.testing import cancel_sweep

ALWAYS = hf.Hedge(after=1, budget=1)


@pytest.fixture(autouse=True)
def clock():
    with hf.testing.clock() as clock:
        clock.random(0.5)
        yield clock
    assert not hedging._left


# -- losers that hold on -----------------------------------------------------------------------


@pytest.mark.parametrize("winner", [0, 1])
def test_a_loser_that_ignores_its_cancellation_holds_nobody_up(winner):
    slow, quick = (30, "slow", 7), (1.5 - winner, "quick")
    backend = Backend(*((slow, quick) if winner else (quick, slow)))
    end = run(hf.policy(hf.Deadline(60), ALWAYS, hf.Bulkhead(2)), backend, after=8)
    assert end == ("quick", 1.5 + GRACE)
    assert backend.ended[-1] == (1 - winner, "let go")


def test_a_loser_that_takes_a_moment_is_waited_for():
    backend = Backend((30, "slow", 0.02), (0.5, "quick"))
    assert run(hf.policy(ALWAYS), backend) == ("quick", 1.52)
    assert backend.ended[-1] == (0, "let go")


def test_at_the_deadline_nobody_is_held_up():
    backend = Backend((30, "slow", 7), (30, "slow", 9))
    error, seconds = run(hf.policy(hf.Deadline(3), ALWAYS, hf.Bulkhead(2)), backend, after=10)
    assert (type(error), seconds) == (hf.DeadlineExceeded, 3 + GRACE)
    assert [what for _, what in backend.ended].count("let go") == 2


def test_what_a_loser_raises_or_returns_later_is_dropped():
    async def main():
        async def holds_on(end):
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                await asyncio.sleep(2)
                if isinstance(end, Exception):
                    raise end from None
                return end

        for end in (ValueError("nobody hears this"), "nobody gets this"):
            began = []

            async def ask(end=end, began=began):
                began.append(1)
                return await holds_on(end) if len(began) == 1 else "quick"

            assert await hf.policy(ALWAYS).acall(ask) == "quick"
            await asyncio.sleep(5)

    heard = []
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _, context: heard.append(context))
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main())
    gc.collect()
    assert heard == []


def test_beyond_a_bound_callers_wait_for_their_losers(monkeypatch):
    monkeypatch.setattr(hedging, "MOST_LEFT", 2)

    async def main():
        policy, seconds = hf.policy(hf.Hedge(after=1, budget=1)), []
        for _ in range(3):
            began = seam.monotonic()
            await policy.acall(Backend((30, "slow", 7), (0.5, "quick")))
            seconds.append(round(seam.monotonic() - began, 9))
        left = len(hedging._left)
        await asyncio.sleep(10)
        return seconds, left

    seconds, left = asyncio.run(main())
    assert seconds == [1.5 + GRACE, 1.5 + GRACE, pytest.approx(8.5 - 2 * (1.5 + GRACE), abs=4)]
    assert left <= 2


def test_losers_of_a_closed_loop_do_not_count(monkeypatch):
    monkeypatch.setattr(hedging, "MOST_LEFT", 1)

    async def call():
        began = seam.monotonic()
        await hf.policy(ALWAYS).acall(Backend((30, "slow", 7), (0.5, "quick")))
        return round(seam.monotonic() - began, 9)

    async def later():
        seconds = await call()
        await asyncio.sleep(10)
        return seconds

    abandoned = asyncio.new_event_loop()
    assert abandoned.run_until_complete(call()) == 1.5 + GRACE
    (left,) = hedging._left
    left._log_destroy_pending = False  # this is what the test is about
    abandoned.close()
    del left
    assert asyncio.run(later()) == 1.5 + GRACE
    gc.collect()


def test_a_loser_ends_at_the_latest_with_its_loop():
    backend = Backend((30, "slow", 7), (0.5, "quick"))
    assert asyncio.run(hf.policy(ALWAYS).acall(backend)) == "quick"
    assert backend.ended == [(1, "done"), (0, "cancelled")]
    assert not hedging._left


def test_a_loser_that_is_left_is_kept_alive():
    backend = Backend((30, "slow", 7), (0.5, "quick"))

    async def main():
        await hf.policy(ALWAYS).acall(backend)
        gc.collect()
        assert len(asyncio.all_tasks()) == 2
        await asyncio.sleep(10)
        return len(asyncio.all_tasks())

    assert asyncio.run(main()) == 1
    assert backend.ended[-1] == (0, "let go")


# -- cancellation --------------------------------------------------------------------------------


def cancelled_at(seconds, backend, *, again=None):
    """Cancel a hedged call; return how long it took to end, and how often it was cancelled."""

    async def main():
        policy = hf.policy(hf.Retry(3), ALWAYS, hf.Breaker(), hf.Bulkhead(2))
        task = asyncio.create_task(policy.acall(backend))
        await asyncio.sleep(seconds)
        task.cancel()
        if again is not None:
            await asyncio.sleep(again)
            task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        state = policy.state()
        assert (state["active"], state["calls"], state["failures"]) == (0, 0, 0)
        ended = round(seam.monotonic(), 9)
        await asyncio.sleep(20)
        assert len(asyncio.all_tasks()) == 1
        return ended

    return asyncio.run(main())


@pytest.mark.parametrize("seconds", [0, 0.5, 1, 1.25])
def test_a_cancelled_caller_cancels_every_copy(seconds):
    backend = Backend((30, "slow"), (30, "slow"))
    assert cancelled_at(seconds, backend) == seconds
    assert len(backend.ended) == len(backend.began)


def test_a_cancelled_caller_is_not_held_up():
    backend = Backend((30, "slow", 7), (30, "slow", 9))
    assert cancelled_at(2, backend) == 2 + GRACE
    assert [what for _, what in backend.ended].count("let go") == 2


def test_a_caller_that_is_cancelled_while_the_loser_ends_is_cancelled():
    backend = Backend((30, "slow", 7), (1, "quick"))
    assert cancelled_at(2.02, backend) == 2.02  # it hears of it once more, and obeys


def test_a_second_cancellation_reaches_the_copies():
    async def once_more():
        try:
            await asyncio.sleep(30)
        finally:
            await asyncio.sleep(7)

    assert cancelled_at(0.5, once_more, again=0.02) == 0.52


def sweep(behaviours, **options):
    """Cancel a hedged call at every step of the loop; return how many there were."""

    async def around(sim, start):
        sim.policy = hf.policy(
            hf.Deadline(20),
            hf.Retry(2, budget=hf.Budget.concurrent()),
            hf.Hedge(1, budget=1, **options),
            hf.Breaker(),
            hf.Bulkhead(3),
        )
        for _ in range(3):
            await sim.policy.acall(Backend((0, None)))
        start()

    async def main(sim):
        assert await sim.policy.acall(Backend(*behaviours)) == "ok"

    def nothing_is_out(sim):
        state = sim.policy.state()
        assert (state["active"], state["probes"], state["budget"]) == (0, 0, 3)

    return cancel_sweep(main, nothing_is_out, around=around)


@pytest.mark.parametrize(
    "behaviours",
    [
        [(5, "no"), (0.5, "ok")],
        [(1.5, "ok"), (5, "no")],
        [(1.5, ConnectionResetError()), (2, ConnectionResetError()), (0, "ok")],
        [(5, "no", 3), (0.5, "ok")],
        [(1.5, ConnectionResetError()), (0.1, ConnectionResetError()), (5, "no", 9), (0.5, "ok")],
    ],
)
def test_cancelled_at_every_step_nothing_is_left(behaviours):
    assert sweep(behaviours) >= 5
    assert sweep(behaviours, max=2) >= 5
