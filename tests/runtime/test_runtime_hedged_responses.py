"""`hedged` as a client adapter uses it: responses that are failures, and responses to close."""

from __future__ import annotations

import asyncio

import pytest
from runtime_backend import Backend

import holdfast as hf
from holdfast.core.call import Attempt
from holdfast.core.deadline import OUTSIDE
from holdfast.core.verdict import Sent, Verdict
from holdfast.runtime import hedging
from holdfast.runtime.base import next_step, succeeded
from holdfast.runtime.clock import clock as seam
from holdfast.runtime.hedging import GRACE, hedged
from holdfast.testing import cancel_sweep

ALWAYS = hf.Hedge(after=1, budget=1)
BUSY = Verdict(hf.TRANSIENT, Sent.YES, "http 503")


@pytest.fixture(autouse=True)
def clock():
    with hf.testing.clock() as clock:
        clock.random(0.5)
        yield clock
    assert not hedging._left


class Response:
    """What a client library returns: to be closed by somebody."""

    def __init__(self, status):
        self.status = status
        self.closed = 0

    async def aclose(self):
        await asyncio.sleep(0)
        self.closed += 1


def begin(policy):
    request = hf.Request(method="GET")
    return policy._begin(policy._lane_for(request), seam.monotonic(), OUTSIDE, request)


def judge(response, error):
    if error is not None:
        return Verdict(hf.TRANSIENT, Sent.MAYBE, "error")
    return BUSY if response.status == 503 else None


def drive(*behaviours, discard=Response.aclose, after=0.0):
    """Make one attempt as an adapter does; return how it ended and all responses."""
    responses = [end for _, end, *_ in behaviours if isinstance(end, Response)]
    policy = hf.policy(hf.Retry(2), hf.Hedge(1, max=2, budget=1), hf.Bulkhead(3))

    async def main():
        for _ in range(2):
            await policy.acall(Backend((0, None)))
        call = begin(policy)
        step = next_step(call)
        assert type(step) is Attempt
        try:
            end = await hedged(call, step, Backend(*behaviours), judge=judge, discard=discard)
        except Exception as error:
            end = error
            policy._failed(call, error)
        else:
            if judge(end, None) is None:
                succeeded(call)
            else:
                call.failed(seam.monotonic(), BUSY)
        assert policy.state()["active"] == 0
        await asyncio.sleep(after)
        assert len(asyncio.all_tasks()) == 1
        return end

    return asyncio.run(main()), responses


def test_a_response_that_is_a_failure_waits_for_the_others_and_is_closed():
    end, (busy, fine) = drive((1.5, Response(503)), (2, Response(200)))
    assert end is fine
    assert (busy.closed, fine.closed) == (1, 0)


def test_of_several_failed_responses_one_is_returned_open():
    end, responses = drive((4, Response(503)), (3.5, Response(503)), (3, Response(503)))
    assert end is responses[2]  # the last: they came at 4, 4.5 and 5 s
    assert [response.closed for response in responses] == [1, 1, 0]


def test_an_answer_says_more_than_an_error():
    end, (busy,) = drive((1.5, Response(503)), (2, ConnectionResetError()), (1.5, OSError()))
    assert end is busy
    assert busy.closed == 0


def test_both_answers_in_one_tick_leave_one_open():
    responses = []

    async def main():
        policy = hf.policy(ALWAYS)
        call = begin(policy)
        both = asyncio.Event()

        async def send():
            await both.wait()
            responses.append(Response(200))
            return responses[-1]

        asyncio.get_running_loop().call_later(2, both.set)
        won = await hedged(call, next_step(call), send, judge=judge, discard=Response.aclose)
        succeeded(call)
        return won

    won = asyncio.run(main())
    assert won is responses[0]
    assert [response.closed for response in responses] == [0, 1]


def test_an_answer_that_comes_after_its_cancellation_is_closed():
    late = Response(200)

    async def shielded():
        return await asyncio.shield(asyncio.ensure_future(Backend((5, late))()))

    async def holds_on():
        task = asyncio.ensure_future(Backend((5, late))())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            return await task

    async def main():
        policy = hf.policy(ALWAYS)
        call = begin(policy)
        step = next_step(call)
        began = []

        async def send():
            began.append(1)
            return await (holds_on() if len(began) == 1 else Backend((0.5, Response(200)))())

        await hedged(call, step, send, judge=judge, discard=Response.aclose)
        succeeded(call)
        assert late.closed == 0
        await asyncio.sleep(10)
        return len(asyncio.all_tasks())

    assert asyncio.run(main()) == 1
    assert late.closed == 1


def test_discard_may_be_a_plain_function_and_may_fail():
    closed = []

    def close(response):
        closed.append(response)
        raise OSError

    end, (busy, fine) = drive((1.5, Response(503)), (2, Response(200)), discard=close)
    assert (end, closed) == (fine, [busy])


def test_a_discard_that_hangs_holds_nobody_up(clock):
    async def hangs(response):
        await asyncio.sleep(4)
        response.closed += 1

    end, (busy, fine) = drive((1.5, Response(503)), (1.5, Response(200)), discard=hangs, after=5)
    assert end is fine
    assert busy.closed == 1
    assert clock.now == pytest.approx(2.5 + GRACE + 5)


def test_cancelled_at_every_step_every_response_is_closed():
    async def around(sim, start):
        sim.policy = hf.policy(hf.Hedge(1, budget=1), hf.Bulkhead(2))
        sim.open = []
        sim.task = start()

    class Opened(Response):
        def __init__(self, sim, status):
            super().__init__(status)
            sim.open.append(self)

    async def main(sim):
        call = begin(sim.policy)
        began = []

        async def send():
            began.append(1)
            await asyncio.sleep((2, 1)[len(began) - 1])
            return Opened(sim, 200)

        response = await hedged(call, next_step(call), send, judge=judge, discard=Response.aclose)
        succeeded(call)
        sim.open.remove(response)

    def all_closed(sim):
        assert [response.closed for response in sim.open] == [1] * len(sim.open)

    assert cancel_sweep(main, all_closed, around=around) >= 5
