"""Hedged attempts: who wins, what fails, what limits them, and what they may be used for."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref

import pytest
from runtime_backend import Backend, run

import holdfast as hf
from holdfast.runtime import hedging
from holdfast.runtime.clock import clock as seam
from holdfast.runtime.random import SeededRandom
from holdfast.testing import sim_run

ALWAYS = hf.Hedge(after=1, budget=1)


@pytest.fixture(autouse=True)
def clock():
    with hf.testing.clock() as clock:
        clock.random(0.5)
        yield clock
    assert not hedging._left


# -- who wins --------------------------------------------------------------------------------


def test_the_first_answer_wins_and_the_other_copy_is_cancelled():
    backend = Backend((5, "slow"), (0.25, "quick"))
    assert run(hf.policy(hf.Retry(3), ALWAYS, hf.Bulkhead(2)), backend) == ("quick", 1.25)
    assert backend.began == [0, 1]
    assert backend.ended == [(1, "done"), (0, "cancelled")]


def test_the_first_copy_may_still_win():
    backend = Backend((1.5, "first"), (5, "second"))
    assert run(hf.policy(ALWAYS, hf.Bulkhead(2)), backend) == ("first", 1.5)
    assert backend.ended == [(0, "done"), (1, "cancelled")]


def test_what_is_quick_is_sent_once():
    backend = Backend((0.5, "quick"))
    assert run(hf.policy(ALWAYS), backend) == ("quick", 0.5)
    assert len(backend.began) == 1


def test_what_does_not_suspend_is_answered_at_once():
    async def at_once():
        return "value"

    assert run(hf.policy(ALWAYS, hf.Deadline(5), order="free"), at_once) == ("value", 0)


def test_several_hedges_follow_each_other():
    backend = Backend((9, 0), (9, 1), (9, 2), (0.5, 3))
    policy = hf.policy(hf.Hedge(after=1, max=3, budget=1), hf.Bulkhead(4))
    for _ in range(4):
        run(policy, Backend((0, None)))  # a hedge each is earned
    assert run(policy, backend) == (3, 3.5)
    assert [at - backend.began[0] for at in backend.began] == [0, 1, 2, 3]
    assert [what for _, what in backend.ended] == ["done", *["cancelled"] * 3]


def test_the_percentile_is_learnt_from_what_succeeds():
    policy = hf.policy(hf.Hedge("p95", budget=1))
    for n in range(1, 21):
        run(policy, Backend((n / 10, None)))
    backend = Backend((9, "slow"), (0.1, "quick"))
    assert run(policy, backend) == ("quick", 2.0)  # the 19th of 20 took 1.9 s
    assert len(backend.began) == 2


def test_the_outcome_counts_attempts_and_not_copies():
    async def main():
        return await hf.policy(hf.Retry(3), ALWAYS).aoutcome(Backend((5, "slow"), (0.25, "quick")))

    outcome = asyncio.run(main())
    assert (outcome.value, outcome.attempts, outcome.verdicts) == ("quick", 1, ())


def test_a_decorated_coroutine_function_is_hedged():
    backend = Backend((5, "slow"), (0.25, "quick"))

    @hf.policy(ALWAYS)
    async def ask():
        return await backend()

    assert asyncio.run(ask()) == "quick"


def test_a_full_bulkhead_inside_prevents_the_hedge():
    backend = Backend((5, "slow"), (0.25, "quick"))
    assert run(hf.policy(ALWAYS, hf.Bulkhead(1, queue=9)), backend) == ("slow", 5)
    assert len(backend.began) == 1


def test_the_tail_becomes_short_within_the_budget():
    # Three requests in a hundred meet a node that takes a second.
    def durations(policy):
        source, sent, taken = SeededRandom(5), [], []

        async def ask():
            sent.append(1)
            await asyncio.sleep(1.0 if source.draw() < 0.03 else 0.04 + 0.02 * source.draw())

        async def main():
            for _ in range(2000):
                began = seam.monotonic()
                await policy.acall(ask)
                taken.append(seam.monotonic() - began)

        asyncio.run(main())
        return sorted(taken)[1980], len(sent)  # the 99th percentile

    assert durations(hf.policy(hf.Retry(3))) == (pytest.approx(1.0), 2000)
    p99, sent = durations(hf.policy(hf.Retry(3), hf.Hedge()))
    assert p99 < 0.13
    assert 2040 < sent <= 2100


# -- failures --------------------------------------------------------------------------------


def test_a_failure_waits_for_the_copy_that_is_still_out():
    backend = Backend((1.5, ConnectionResetError()), (2, "fine"))
    assert run(hf.policy(ALWAYS, hf.Bulkhead(2)), backend) == ("fine", 3)


def test_a_failure_before_the_hedge_is_a_failed_attempt():
    backend = Backend((0.5, ConnectionResetError()), (0.25, "fine"))
    backoff = hf.Constant(1, jitter="none")
    assert run(hf.policy(hf.Retry(2, backoff=backoff), ALWAYS), backend) == ("fine", 1.75)


def test_what_fails_in_every_copy_is_retried_as_one_attempt():
    backend = Backend((2, ConnectionResetError()), (2, ConnectionRefusedError()), (0.5, "fine"))
    policy = hf.policy(hf.Retry(2, backoff=hf.Constant(1, jitter="none")), ALWAYS, hf.Bulkhead(2))
    assert run(policy, backend) == ("fine", 4.5)


def test_the_failure_that_says_most_is_raised():
    reset = ConnectionResetError("gone")
    backend = Backend((2, reset), (2, ConnectionRefusedError()))
    error, _ = run(hf.policy(hf.Retry(1), ALWAYS), backend)
    assert error is reset
    assert error.__notes__ == ["1 attempt in 3 s; no attempts left"]


def test_a_programming_error_is_raised_at_once():
    backend = Backend((5, "slow"), (0.25, ValueError("wrong")))
    error, seconds = run(hf.policy(hf.Retry(3), ALWAYS, hf.Bulkhead(2)), backend)
    assert (type(error), seconds) == (ValueError, 1.25)
    assert backend.ended == [(1, "done"), (0, "cancelled")]


def test_nothing_keeps_the_errors_of_hedged_attempts_alive():
    seen = []

    class Marked(ConnectionResetError):
        def __init__(self):
            seen.append(weakref.ref(self))

    async def fail():
        await asyncio.sleep(1.5)
        raise Marked

    policy = hf.policy(hf.Retry(2), ALWAYS)
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(Marked):
            asyncio.run(policy.acall(fail))
        assert len(seen) == 4
        assert [ref() for ref in seen[:3]] == [None] * 3  # without the help of the collector
    finally:
        gc.enable()


def test_a_copy_that_is_cancelled_from_within_cancels_the_call():
    async def main():
        async def gives_up():
            raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            await hf.policy(hf.Retry(3), ALWAYS).acall(gives_up)
        return asyncio.current_task().cancelling()

    assert asyncio.run(main()) == 0


def test_a_copy_that_somebody_cancels_before_it_began_cancels_the_call():
    async def main():
        call = asyncio.create_task(hf.policy(hf.Retry(3), ALWAYS).acall(Backend((0.5, "never"))))
        await asyncio.sleep(0)
        (copy,) = asyncio.all_tasks() - {call, asyncio.current_task()}
        copy.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(main())


# -- limits ----------------------------------------------------------------------------------


def test_a_deadline_ends_every_copy():
    backend = Backend((60, None))
    policy = hf.policy(hf.Deadline(4), hf.Retry(3), hf.Hedge(1, max=2, budget=1), hf.Bulkhead(3))
    run(policy, Backend((0, None)))
    backend_error, seconds = run(policy, backend)
    assert type(backend_error) is hf.DeadlineExceeded
    assert str(backend_error) == "the deadline passed after 4 s, during an attempt"
    assert seconds == 4
    assert [what for _, what in backend.ended] == ["cancelled"] * 3


def test_a_timeout_is_for_all_copies_of_an_attempt():
    backend = Backend((60, None), (60, None), (0.5, "fine"))
    policy = hf.policy(
        hf.Retry(2, backoff=hf.Constant(1, jitter="none")), ALWAYS, hf.Timeout(3), hf.Bulkhead(2),
        order="free",
    )  # fmt: skip
    assert run(policy, backend) == ("fine", 4.5)


def test_an_answer_in_the_tick_of_the_limit_counts():
    assert run(hf.policy(hf.Deadline(3), ALWAYS), Backend((60, None), (2, "just"))) == ("just", 3)


def test_a_value_that_is_saved_from_the_cancellation_at_the_limit_is_kept():
    async def survives():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "saved"

    for after in (1, 5):  # with a hedge and without
        policy = hf.policy(hf.Deadline(3), hf.Hedge(after, budget=1), hf.Bulkhead(2))
        assert run(policy, survives) == ("saved", 3)


def test_inside_a_copy_the_limit_of_the_attempt_is_known():
    seen = []

    async def look():
        seen.append((hf.remaining(), await nested.aoutcome(fail)))
        await asyncio.sleep(5 if len(seen) == 1 else 0)

    async def fail():
        raise ConnectionResetError

    nested = hf.policy(hf.Retry(4))
    run(hf.policy(hf.Deadline(10), hf.Retry(2), ALWAYS, hf.Timeout(8)), look)
    assert [left for left, _ in seen] == [8, 7]
    assert [outcome.reason for _, outcome in seen] == ["nested"] * 2


# -- context ---------------------------------------------------------------------------------


def test_copies_see_the_callers_context_and_change_only_their_own():
    place = contextvars.ContextVar("place", default="nowhere")
    seen = []

    async def look():
        seen.append(place.get())
        place.set("changed")
        await asyncio.sleep(5 if len(seen) == 1 else 0)

    async def main():
        place.set("caller")
        await hf.policy(ALWAYS).acall(look)
        return place.get()

    assert asyncio.run(main()) == "caller"
    assert seen == ["caller", "caller"]


def test_copies_run_in_tasks_of_their_own():
    tasks = []

    async def look():
        tasks.append(asyncio.current_task())
        async with asyncio.timeout(20):  # bound to its task: it must not be interrupted by another
            await asyncio.sleep(5 if len(tasks) == 2 else 0.5)
        return "fine"

    async def main():
        tasks.append(asyncio.current_task())
        return await hf.policy(hf.Deadline(30), ALWAYS).acall(look)

    assert asyncio.run(main()) == "fine"
    assert len(set(tasks)) == 3


# -- the forms of a call ----------------------------------------------------------------------


SYNCHRONOUS = {
    "call": lambda policy: policy.call(int),
    "outcome": lambda policy: policy.outcome(int),
    "stream": lambda policy: policy.stream(iter, ()),
    "decorator of a class": lambda policy: policy(int),
    "decorator of a function": lambda policy: policy(lambda: None),
    "block": lambda policy: list(policy.attempts()),
}


@pytest.mark.parametrize("use", SYNCHRONOUS.values(), ids=SYNCHRONOUS)
def test_a_synchronous_use_is_refused_in_words(use):
    policy = hf.policy(hf.Retry(2, budget=hf.Budget.concurrent()), ALWAYS, name="api")
    with pytest.raises(TypeError, match="`api` has a Hedge"):
        use(policy)
    assert policy.state()["budget"] == 3


def test_a_decorated_generator_is_refused():
    def numbers():
        yield 1

    with pytest.raises(TypeError, match="asynchronous calls only"):
        hf.policy(ALWAYS)(numbers)


def test_blocks_and_streams_are_accepted_and_not_hedged():
    async def main():
        policy = hf.policy(hf.Deadline(60), hf.Retry(2), ALWAYS)
        begun = []
        async for attempt in policy.attempts():
            with attempt:
                begun.append(attempt.no)
                await asyncio.sleep(5)

        async def items():
            begun.append("stream")
            await asyncio.sleep(5)
            yield 1

        assert [item async for item in policy.astream(items)] == [1]
        return begun

    assert asyncio.run(main()) == [1, "stream"]


def test_a_derived_policy_without_the_hedge_is_synchronous_again():
    plain = hf.policy(hf.Retry(2))
    with pytest.raises(TypeError):
        plain.but(ALWAYS).call(int)
    assert plain.call(int) == 0


# -- what cancelling the loser must not hurt ------------------------------------------------------


def test_the_body_of_the_winner_survives_the_end_of_the_loser():
    # failsafe-go #65: cancelling the loser closed the winner's body, which is read later.
    async def main(sim):
        requests = []

        async def serve(reader, writer):
            requests.append(await reader.readline())
            if len(requests) == 1:
                await reader.read()  # says nothing until the client goes away
            else:
                writer.write(b"head\n")
                for _ in range(20):
                    await asyncio.sleep(1)
                    writer.write(b"x" * 1000)
            writer.close()

        async def fetch():
            reader, writer = await asyncio.open_connection("api.test", 80)
            try:
                writer.write(b"GET\n")
                assert await reader.readline() == b"head\n"
            except BaseException:
                writer.close()
                raise
            return reader, writer

        sim.network.host("api.test", "10.0.0.1")
        server = await asyncio.start_server(serve, "api.test", 80)
        reader, writer = await hf.policy(hf.Deadline(5), ALWAYS).acall(fetch)
        body = await reader.read()
        writer.close()
        server.close()
        await server.wait_closed()
        return len(requests), len(body)

    assert sim_run(main).value == (2, 20_000)
