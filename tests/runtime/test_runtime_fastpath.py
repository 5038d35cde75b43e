"""The fast paths take no lock: here is why that is right, and that it holds under threads."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import dis
import math
import pickle
import sys
import threading
import types

import pytest

import holdfast as hf
from holdfast.core.bulkhead import BulkheadState
from holdfast.core.policy import Lane
from holdfast.core.ratelimit import RateLimitState
from holdfast.runtime.base import HAS_GIL

# Where CPython with a GIL may switch threads: calls, backward jumps, resumption points.
SWITCHES = ("CALL", "JUMP_BACKWARD", "RESUME", "SEND", "YIELD", "FOR_ITER")


def between(function, after, before):
    """Return the instructions of `function` between storing `after` and loading `before`."""
    instructions = list(dis.get_instructions(function))
    start = next(
        i for i, op in enumerate(instructions) if op.opname == "STORE_FAST" and op.argval == after
    )
    names = [op.argval for op in instructions[start:]]
    return instructions[start + 1 : start + names.index(before)]


def refusal(instructions):
    """Leave out the branch that returns early: it is another path, taken before any change."""
    kept, skipping = [], False
    for op in instructions:
        if op.argval in ("_call_fully", "_acall_fully"):
            skipping = True
            while kept and kept[-1].argval != "hub" and not kept[-1].opname.startswith("POP_JUMP"):
                kept.pop()
        if not skipping:
            kept.append(op)
        elif op.opname == "RETURN_VALUE":
            skipping = False
    return kept


def changes_and_switches(section):
    changes = [op.argval for op in section if op.opname == "STORE_ATTR"]
    return changes, [op.opname for op in section if op.opname.startswith(SWITCHES)]


needs_gil = pytest.mark.skipif(not HAS_GIL, reason="there are no fast paths without a GIL")


@needs_gil
@pytest.mark.parametrize("name", ["call", "acall"])
def test_the_fast_path_cannot_be_interrupted_where_it_counts(name):
    function = getattr(hf.policy(), name)
    section = refusal(between(function, "now", "_around_set"))
    assert changes_and_switches(section) == (["tat", "active"], [])
    # From the reset of the scope, in the last line of `try`, to the look at the recordings.
    instructions = list(dis.get_instructions(function))
    names = [op.argval for op in instructions]
    done = names.index("idle")
    section = instructions[done : done + names[done:].index("ring")]
    assert changes_and_switches(section) == (["active", "tally"], [])


@pytest.mark.parametrize(
    ("function", "expected"),
    [(Lane.enter, ["tat", "active"]), (Lane.leave, ["active", "tally"])],
    ids=["enter", "leave"],
)
def test_nor_can_its_form_for_policies_with_a_key(function, expected):
    section = [op for op in dis.get_instructions(function) if op.opname != "RESUME"]
    assert changes_and_switches(section) == (expected, [])


@pytest.mark.parametrize(
    ("function", "after", "before"),
    [
        (RateLimitState.take, "tat", "max"),
        (BulkheadState.acquire, "self", "Ticket"),
    ],
    ids=["take", "acquire"],
)
def test_the_full_path_changes_shared_counts_without_interruption(function, after, before):
    instructions = list(dis.get_instructions(function))
    first_change = next(i for i, op in enumerate(instructions) if op.opname == "STORE_ATTR")
    last_change = max(
        i
        for i, op in enumerate(instructions)
        if op.opname == "STORE_ATTR" and op.argval in ("tat", "active")
    )
    section = instructions[first_change:last_change]
    # `len` of the queue comes after the permit was taken or refused.
    calls = [op.opname for op in section if op.opname.startswith(SWITCHES)]
    assert calls == []


def test_the_fast_path_is_used_only_with_a_gil():
    policy = hf.policy(hf.Retry(2))
    for name in ("call", "acall"):
        by_the_machine = getattr(policy, name) == getattr(policy, f"_{name}_fully")
        assert by_the_machine != HAS_GIL


def test_counts_stay_true_while_threads_are_switched_as_often_as_possible():
    policy = hf.policy(
        hf.Bulkhead(1000), hf.RateLimit(1e9), hf.Retry(2, budget=None), hf.Breaker(window=1e6)
    )
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    each, workers = 4000, 4

    def work(number):
        for n in range(each):
            if n % 100 == number:
                policy.outcome(_raise_value_error)  # neutral: not counted
            else:
                policy.call(int)

    try:
        threads = [threading.Thread(target=work, args=(n,)) for n in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    state = policy.state()
    assert state["active"] == 0
    assert state["calls"] == workers * (each - each // 100)
    assert state["failures"] == 0


def _raise_value_error():
    raise ValueError


def test_a_fast_call_that_fails_goes_on_like_any_other():
    async def main():
        policy = hf.policy(hf.Retry(3, backoff=hf.Constant(0.0)), hf.Breaker())
        for _ in range(40):
            await policy.acall(asyncio.sleep, 0)
            policy.call(int)
        left = [2]

        def flaky():
            if left[0]:
                left[0] -= 1
                raise ConnectionResetError
            return "ok"

        async def aflaky():
            return flaky()

        assert policy.call(flaky) == "ok"
        left[0] = 2
        assert await policy.acall(aflaky) == "ok"
        return policy.state()

    state = asyncio.run(main())
    assert (state["calls"], state["failures"], state["active"]) == (86, 4, 0)


def test_a_waiter_is_served_by_a_fast_call_that_leaves():
    async def main():
        policy = hf.policy(hf.Bulkhead(1, queue=5))
        for _ in range(40):
            await policy.acall(asyncio.sleep, 0)
        order = []

        async def work(name):
            await asyncio.sleep(0)
            order.append(name)

        await asyncio.gather(*(policy.acall(work, n) for n in range(5)))
        assert policy.state()["active"] == 0
        return order

    assert asyncio.run(main()) == [0, 1, 2, 3, 4]


def test_a_success_that_outlived_its_generation_is_not_counted():
    policy = hf.policy(hf.Breaker())
    for _ in range(30):
        policy.call(int)
    policy.call(policy.reset)  # the breaker moves on while the call is on its way
    assert policy.state()["calls"] == 0
    assert policy.state()["active"] == 0


def test_a_nested_call_inherits_the_scope():
    policy = hf.policy(hf.Deadline(60, interrupt=False), hf.Retry(3, budget=None))
    attempts = []

    def fail():
        attempts.append(hf.remaining())
        raise ConnectionResetError

    for _ in range(30):
        policy.call(int)
    outer = policy.but(hf.Deadline(5, interrupt=False), hf.Retry(1))
    outer.outcome(lambda: policy.call(fail))
    assert len(attempts) == 1  # nested: the policy outside does the retrying
    assert attempts[0] <= 5


@pytest.mark.parametrize("twin", [copy.copy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copied_policy_makes_its_own_calls(twin):
    policy = hf.policy(hf.Retry(2, budget=None), hf.Breaker(), name="first")
    other = twin(policy)
    other.name = "second"
    for _ in range(30):
        policy.call(int)
    with hf.record() as recording:
        for _ in range(30):
            other.call(int)
    assert {event.policy for event in recording.events()} == {"second"}


@pytest.mark.parametrize("key", [None, lambda _: "k"], ids=["one state", "keyed"])
def test_a_closed_call_leaves_its_own_scope_and_no_other(key):
    policy = hf.policy(hf.Retry(2), key=key)
    for _ in range(30):
        policy.call(int)

    @types.coroutine
    def suspended():
        yield

    async def waiting():
        await suspended()

    here, elsewhere = policy.acall(waiting), policy.acall(waiting)
    contextvars.copy_context().run(elsewhere.send, None)
    here.send(None)
    here.close()
    assert hf.remaining() == math.inf
    with hf.deadline(5):
        elsewhere.close()  # as a garbage collection may do
        assert hf.remaining() <= 5
    assert policy.state("k" if key else "")["active"] == 0


@needs_gil
@pytest.mark.parametrize("parts", [(hf.Breaker(window=30),), ()], ids=["breaker", "none"])
@pytest.mark.parametrize("key", [None, lambda _: "k"], ids=["one state", "keyed"])
def test_one_call_per_bucket_is_measured_once_there_are_twenty(parts, key):
    policy = hf.policy(hf.Retry(2), *parts, key=key)
    full = []
    begin = policy._begin
    policy._begin = lambda *args: full.append(clock.now) or begin(*args)
    with hf.testing.clock() as clock:
        for _ in range(15):
            policy.outcome(_raise_value_error)  # no success: no duration
        for _ in range(100):
            policy.call(int)
        first = len(full)
        for _ in range(1000):
            clock.advance(0.03)  # ten buckets of 3 s in all
            policy.call(int)
    later = len(full) - first
    # Fifteen of the first twenty gave no duration, so the next bucket asks for that many more.
    assert (first, later) == (20, 15 + 9)


@needs_gil
def test_a_crowd_keeps_to_the_fast_path():
    """Calls in flight must not disturb one another, nor wait for the first to succeed."""

    async def main():
        policy = hf.policy(hf.Deadline(60), hf.Bulkhead(1000), hf.Retry(3), hf.Breaker())
        full = []
        begin = policy._begin
        policy._begin = lambda *args: full.append(1) or begin(*args)

        async def client():
            for _ in range(16):
                await policy.acall(clock.asleep, 0.5)

        for _ in range(30):
            await policy.acall(asyncio.sleep, 0)
        full.clear()
        await clock.asleep(10)  # a bucket is over
        await asyncio.gather(*(client() for _ in range(50)))
        return len(full)

    with hf.testing.clock() as clock:
        assert asyncio.run(main()) < 250  # of 800: at most a crowd per bucket of 3 s
