"""Both drivers: what callers get back, in every form of use."""

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
import time
import weakref

import pytest

import holdfast as hf

CONSTANT = hf.Constant(1.0, jitter="none")


@pytest.fixture(autouse=True)
def clock():
    with hf.testing.clock() as clock:
        clock.random(0.5)
        yield clock


class Flaky:
    """Fails the first `failures` times."""

    def __init__(self, failures: int, error: type[BaseException] = ConnectionResetError) -> None:
        self.failures = failures
        self.error = error
        self.calls = 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error(f"failure {self.calls}")
        return args, kwargs

    async def acall(self, *args, **kwargs):
        await asyncio.sleep(0)
        return self(*args, **kwargs)


def both(policy, flaky, *args, **kwargs):
    """Run `flaky` by either driver; return [(value or error), ...]."""
    results = [policy.outcome(flaky, *args, **kwargs)]
    flaky.calls = 0
    results.append(asyncio.run(_aoutcome(policy, flaky, *args, **kwargs)))
    return results


async def _aoutcome(policy, flaky, *args, **kwargs):
    return await policy.aoutcome(flaky.acall, *args, **kwargs)


# -- values and errors -------------------------------------------------------------------


def test_arguments_and_value_pass_through():
    for outcome in both(hf.policy(hf.Retry(3)), Flaky(2), 1, two=2):
        assert outcome.value == ((1,), {"two": 2})
        assert outcome.ok
        assert (outcome.attempts, len(outcome.verdicts), outcome.reason) == (3, 2, "")


def test_the_original_error_is_raised_with_one_note():
    policy = hf.policy(hf.Retry(3, backoff=CONSTANT))
    for outcome in both(policy, Flaky(9)):
        assert str(outcome.error) == "failure 3"
        assert outcome.error.__notes__ == ["3 attempts in 2 s; no attempts left"]
        assert outcome.waited == pytest.approx(2)
        assert outcome.sent == "maybe"


def test_a_programming_error_is_raised_at_once():
    for outcome in both(hf.policy(hf.Retry(5)), Flaky(9, ValueError)):
        assert outcome.attempts == 1
        assert outcome.reason == "permanent"


def test_t2_waits_are_one_two_and_four_seconds(clock):
    backoff = hf.Exponential(base=1, cap=30, jitter="none")
    policy = hf.policy(hf.Retry(4, backoff=backoff))
    policy.outcome(Flaky(9, TimeoutError))
    assert clock.slept == [1, 2, 4]


def test_a_refusal_names_the_failure_that_led_to_it():
    policy = hf.policy(hf.Retry(5, backoff=CONSTANT), hf.Breaker(consecutive=2))
    first = policy.outcome(Flaky(9))
    policy.reset()
    for outcome in (first, asyncio.run(_aoutcome(policy, Flaky(9)))):
        assert isinstance(outcome.error, hf.CircuitOpen)
        assert isinstance(outcome.error.__cause__, ConnectionResetError)


def test_nothing_keeps_the_errors_of_a_call_alive():
    seen = []

    class Marked(ConnectionResetError):
        def __init__(self):
            seen.append(weakref.ref(self))

    def fail():
        raise Marked

    policy = hf.policy(hf.Retry(3))
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(Marked):
            policy.call(fail)
        assert [ref() for ref in seen[:2]] == [None, None]  # without the help of the collector
    finally:
        gc.enable()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_stop_is_never_swallowed_and_gives_permits_back(stop):
    policy = hf.policy(hf.Bulkhead(2), hf.Retry(3), hf.Fallback(0), order="free")
    for _ in range(30):  # through the fast path as well
        policy.call(lambda: 1)
    flaky = Flaky(9, stop)
    with pytest.raises(stop):
        policy.call(flaky)
    with pytest.raises(stop):
        policy.outcome(flaky)
    assert flaky.calls == 2
    assert policy.state()["active"] == 0


# -- fallback ----------------------------------------------------------------------------


def test_a_fallback_replaces_failures_and_refusals():
    policy = hf.policy(hf.Fallback("cached"), hf.Retry(2), hf.Breaker(consecutive=2))
    for outcome in both(policy, Flaky(9)):
        assert (outcome.value, outcome.ok) == ("cached", True)
    assert policy.call(Flaky(0)) == "cached"  # the circuit is open now


def test_a_fallback_function_gets_the_error():
    policy = hf.policy(hf.Fallback(lambda error: f"instead of {error}"))
    for outcome in both(policy, Flaky(9)):
        assert outcome.value == "instead of failure 1"


def test_a_fallback_may_be_a_coroutine_function():
    async def instead(error):
        await asyncio.sleep(0)
        return str(error)

    outcome = asyncio.run(_aoutcome(hf.policy(hf.Fallback(instead)), Flaky(9)))
    assert outcome.value == "failure 1"


def test_a_fallback_replaces_only_what_it_names():
    policy = hf.policy(hf.Fallback(0, on=(hf.TIMEOUT, KeyError)))
    assert policy.call(Flaky(9, TimeoutError)) == 0
    assert policy.call(Flaky(9, KeyError)) == 0
    with pytest.raises(ConnectionResetError):
        policy.call(Flaky(9))


# -- decoration --------------------------------------------------------------------------


def test_functions_of_every_kind_are_told_apart_once():
    policy = hf.policy(hf.Retry(2))

    @policy
    def plain(x):
        """Say what it does."""
        return x

    @policy
    async def coroutine(x):
        return x

    @policy
    def generator(x):
        yield x

    @policy
    async def agenerator(x):
        yield x

    assert plain.__doc__ == "Say what it does."
    assert inspect.iscoroutinefunction(coroutine)
    assert plain(1) == 1
    assert asyncio.run(coroutine(2)) == 2
    assert list(generator(3)) == [3]

    async def collect():
        return [item async for item in agenerator(4)]

    assert asyncio.run(collect()) == [4]


def test_hold_is_the_default_policy_with_state_per_function():
    calls = []

    @hf.hold
    def fail():
        calls.append(1)
        raise ConnectionResetError

    @hf.hold
    def work():
        return "ok"

    for _ in range(3):
        with pytest.raises((ConnectionResetError, hf.CircuitOpen)):
            fail()
    assert len(calls) == 5  # the breaker opened after five in a row
    assert work() == "ok"


# -- block form --------------------------------------------------------------------------


def test_the_block_repeats_until_it_is_left_without_an_error():
    policy, flaky = hf.policy(hf.Retry(5)), Flaky(2)
    numbers = []
    for attempt in policy.attempts():
        with attempt:
            numbers.append(attempt.no)
            value = flaky("x")
    assert numbers == [1, 2, 3]
    assert value == (("x",), {})


def test_the_async_block_is_interrupted_at_its_limit(clock):
    async def main():
        policy = hf.policy(hf.Deadline(30), hf.Retry(2, backoff=CONSTANT), hf.Timeout(5))
        began = clock.now
        numbers = []
        with pytest.raises(TimeoutError) as caught:
            async for attempt in policy.attempts():
                with attempt:
                    numbers.append((attempt.no, attempt.timeout))
                    await clock.asleep(60)
        return numbers, clock.now - began, caught.value.__notes__

    numbers, seconds, notes = asyncio.run(main())
    assert numbers == [(1, 5), (2, 5)]
    assert seconds == pytest.approx(11)
    assert notes == ["2 attempts in 11 s; no attempts left"]


def test_the_block_gives_up_with_the_original_error():
    policy = hf.policy(hf.Retry(2))
    with pytest.raises(ConnectionResetError) as caught:
        for attempt in policy.attempts():
            with attempt:
                raise ConnectionResetError
    assert "2 attempts" in caught.value.__notes__[0]


def test_progress_in_a_block_makes_fifty_drops_bearable():
    policy = hf.policy(hf.Retry(3, budget=None))
    got = 0
    for attempt in policy.attempts():
        with attempt:
            got += 1
            attempt.progress()
            if got < 50:
                raise ConnectionResetError
    assert got == 50


def test_leaving_the_loop_early_gives_permits_back():
    policy = hf.policy(hf.Bulkhead(1), hf.Retry(2))
    for attempt in policy.attempts():
        with attempt:
            break
    assert policy.state()["active"] == 0
    for attempt in policy.attempts():  # noqa: B007 - left without entering on purpose
        break  # given back when the attempt is dropped
    del attempt
    assert policy.state()["active"] == 0
    for attempt in policy.attempts():
        with pytest.raises(KeyboardInterrupt), attempt:
            raise KeyboardInterrupt
        break
    assert policy.state()["active"] == 0


def test_a_block_knows_its_method_and_does_not_repeat_what_may_have_run():  # I1
    requests = []
    with pytest.raises(ConnectionResetError) as caught:
        for attempt in hf.policy(hf.Retry(3)).attempts(method="POST"):
            with attempt:
                requests.append(attempt.idempotency_key)
                raise ConnectionResetError
    assert requests == [None]
    assert "must not be repeated" in caught.value.__notes__[0]


def test_with_a_key_it_is_repeated_under_the_same_key():  # I1
    keys = []
    policy = hf.policy(hf.Retry(3, idempotency_key=True))
    for _ in range(2):
        for attempt in policy.attempts(method="POST"):
            with attempt:
                keys.append(attempt.idempotency_key)
                if len(keys) in (1, 2):
                    raise ConnectionResetError
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert len(keys[0]) == 32


@pytest.mark.parametrize("waits_for", ["backoff", "permit"])
def test_a_wait_in_a_block_ends_at_once_when_asked_to_stop(waits_for):
    policy = hf.policy(hf.Bulkhead(1, queue=1), hf.Retry(3, backoff=hf.Constant(1e6)))
    stop = threading.Event()
    ended = []

    def work():
        try:
            for attempt in policy.attempts(stop=stop):
                with attempt:
                    raise ConnectionResetError
        except hf.Stopped as error:
            ended.append(error)

    holder = policy.attempts()
    if waits_for == "permit":
        next(holder)
    # Without `auto` no backoff ends by itself; waiting for a permit looks again now and then.
    with hf.testing.clock(auto=waits_for == "permit"):
        thread = threading.Thread(target=work)
        thread.start()
        while not policy.state()["queued"] and policy.state()["budget"] == 500:
            time.sleep(0.001)
        stop.set()
        thread.join(30)
    del holder
    assert len(ended) == 1
    assert (policy.state()["active"], policy.state()["queued"]) == (0, 0)


def test_keys_choose_the_state_of_a_block():
    policy = hf.policy(hf.Bulkhead(1), key=lambda call: call.host)
    with next(policy.attempts(key="a")):
        assert policy.state("a")["active"] == 1
        with pytest.raises(hf.BulkheadFull):
            next(policy.attempts(key="a"))
        with next(policy.attempts(key="b")):
            pass


# -- streams -----------------------------------------------------------------------------


def numbers_until(break_at, upto=6):
    """Return a source of 1..upto that breaks after `break_at`, and how often it was begun."""
    begun = []

    def source(first=1):
        begun.append(first)
        for n in range(first, upto + 1):
            yield n
            if n == break_at:
                raise ConnectionResetError

    return source, begun


def test_a_stream_is_not_repeated_once_an_item_came_out():  # S1
    source, begun = numbers_until(2)
    items = []
    with pytest.raises(ConnectionResetError) as caught:
        for item in hf.policy(hf.Retry(3)).stream(source):
            items.append(item)  # noqa: PERF402 - what came before the error counts
    assert (items, begun) == ([1, 2], [1])
    assert "the stream had begun" in caught.value.__notes__[0]


def test_a_stream_is_repeated_while_nothing_came_out():
    begun = []

    def source():
        begun.append(1)
        if len(begun) < 3:
            raise ConnectionResetError
        yield "item"

    assert list(hf.policy(hf.Retry(3)).stream(source)) == ["item"]


def test_a_resumed_stream_gives_each_item_once_through_fifty_drops():  # S1
    def source(first=1):
        if first > 51:
            return
        yield first
        raise ConnectionResetError

    policy = hf.policy(hf.Retry(3, budget=None), hf.Breaker())
    items = list(policy.stream(source, resume=lambda last: source(last + 1)))
    assert items == list(range(1, 52))

    async def asource(first=1):
        for item in source(first):
            yield item

    async def collect():
        resumed = policy.astream(asource, resume=lambda last: asource(last + 1))
        return [item async for item in resumed]

    assert asyncio.run(collect()) == items


def test_closing_a_stream_closes_its_source_and_gives_permits_back():
    closed = []

    def source():
        try:
            yield 1
            yield 2
        finally:
            closed.append(True)

    async def asource():
        try:
            yield 1
            yield 2
        finally:
            closed.append(True)

    policy = hf.policy(hf.Bulkhead(1))
    stream = policy.stream(source)
    assert next(stream) == 1
    assert policy.state()["active"] == 1
    stream.close()
    assert policy.state()["active"] == 0

    async def main():
        stream = policy.astream(asource)
        assert await anext(stream) == 1
        await stream.aclose()

    asyncio.run(main())
    assert closed == [True, True]
    assert policy.state()["active"] == 0


def test_the_scope_of_a_stream_does_not_leak_to_its_consumer():
    seen = []

    def source():
        while True:
            seen.append(hf.remaining())
            yield 1

    stream = hf.policy(hf.Deadline(10, interrupt=False)).stream(source)
    next(stream)
    assert hf.remaining() == float("inf")
    assert seen == [10]
    stream.close()


def test_a_timeout_limits_each_wait_for_an_item_and_not_the_stream(clock):
    async def source():
        for pause in (4, 4, 4, 6):
            await clock.asleep(pause)
            yield pause

    async def main():
        policy = hf.policy(hf.Deadline(60), hf.Timeout(5))
        items = []
        with pytest.raises(TimeoutError, match="longer than 5 s"):
            async for item in policy.astream(source):
                items.append(item)  # noqa: PERF401 - what came before the error counts
        return items

    assert asyncio.run(main()) == [4, 4, 4]


def test_a_deadline_limits_the_whole_stream(clock):
    async def source():
        while True:
            await clock.asleep(4)
            yield 1

    async def main():
        items = 0
        with pytest.raises(hf.DeadlineExceeded):
            async for _ in hf.policy(hf.Deadline(10)).astream(source):
                items += 1
        return items

    assert asyncio.run(main()) == 2
