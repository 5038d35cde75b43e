"""The adaptive bulkhead in closed loops, in simulated time: see `core_queue_model`.

1,000 calls per second (ten times what a capacity of 10 serves) in one run, two minutes per
capacity; mean limit over the second minute, and the share of the capacity used (seed 1):

    capacity               10           5          10          20          40
    vegas               11  96 %    6  94 %   11  96 %   21  96 %   41  95 %
    gradient            12  95 %    7  88 %   12  95 %   22  97 %   42  98 %
    aimd, patience 0.5  45  98 %   23  91 %   45  98 %   90  99 %  180 100 %
    aimd, room for 10   19 100 %   15 100 %   19 100 %   29 100 %   48 100 %
    Bulkhead(20)        20 100 %   20 100 %   20 100 %   20  99 %   20  49 %
    vegas, no trend     20 100 %   12 100 %   17 100 %   22  98 %   41  96 %
    gradient, no trend  37 100 %   25 100 %   56 100 %  121 100 %  194 100 %

A limit above the capacity serves no more, only later: at 20 for a capacity of 5 answers take
four times as long as they need to, and at 20 for 40 half of the capacity is wasted. AIMD knows
no latency: it goes up to where callers lose patience, or to where the backend refuses.
"""

from __future__ import annotations

import asyncio
import math

import pytest
from core_queue_model import Model

import holdfast as hf
from holdfast.core.adaptive import AdaptiveState, LimitChange
from holdfast.core.events import LimitChanged
from holdfast.core.samples import Sample


def model(kind: str = "vegas", *, start: int = 20, most: int = 200, **options: float) -> Model:
    state = AdaptiveState(hf.AdaptiveBulkhead(max=most, start=start, kind=kind))
    return Model(state, **options)  # type: ignore[arg-type]  # options by name


def settled(found: Model, capacity: int) -> tuple[float, float]:
    """Give it a minute, then return the mean limit and the share of the capacity used."""
    found.capacity = capacity
    found.run(60)
    done = found.done
    limit = found.mean_limit(60)
    return limit, (found.done - done) / 60 * found.service / capacity


# -- convergence -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "capacity", "low", "high", "used", "seed"),
    [
        ("vegas", 10, 0.9, 1.4, 0.9, 1),
        ("vegas", 10, 0.9, 1.4, 0.9, 2),
        ("vegas", 10, 0.9, 1.4, 0.9, 3),
        ("vegas", 40, 0.9, 1.25, 0.93, 1),
        ("gradient", 10, 0.85, 1.6, 0.85, 1),
        ("gradient", 10, 0.85, 1.6, 0.85, 2),
        ("gradient", 10, 0.85, 1.6, 0.85, 3),
        ("gradient", 40, 0.9, 1.25, 0.93, 1),
    ],
)
def test_at_ten_times_the_load_the_limit_settles_near_the_capacity(
    kind, capacity, low, high, used, seed
):
    found = model(kind, capacity=capacity, rate=capacity * 100, seed=seed)
    limit, share = settled(found, capacity)
    assert low * capacity <= limit <= high * capacity
    assert share > used


@pytest.mark.parametrize("kind", ["vegas", "gradient"])
def test_it_follows_the_capacity_down_and_up(kind):
    found = model(kind, capacity=20, rate=1000)
    for capacity in (20, 10, 20, 40):
        limit, share = settled(found, capacity)
        assert 0.8 * capacity <= limit <= 1.5 * capacity, capacity
        assert share > 0.85, capacity


@pytest.mark.parametrize("kind", ["vegas", "gradient"])
def test_it_does_not_run_away_in_the_long_run(kind):
    found = model(kind, capacity=5, rate=500)
    found.run(900)
    assert max(limit for at, limit in found.limits if at > 120) <= 15


def test_aimd_settles_where_callers_lose_patience():
    found = model("aimd", capacity=10, rate=1000, patience=0.5)
    limit, share = settled(found, 10)
    assert 35 <= limit <= 55  # at 50 the wait is as long as their patience
    assert share > 0.9
    limit, share = settled(found, 20)
    assert 70 <= limit <= 110
    assert share > 0.9
    limit, _ = settled(found, 10)
    assert 35 <= limit <= 55


def test_aimd_settles_where_a_bounded_queue_refuses():
    found = model("aimd", capacity=10, rate=1000, room=10)
    limit, share = settled(found, 10)
    assert 14 <= limit <= 22
    assert share > 0.95


def test_a_load_below_the_capacity_is_never_refused_for_long():
    for kind in ("vegas", "gradient", "aimd"):
        found = model(kind, start=20, capacity=10, rate=50)
        found.run(60)
        found.refused = 0
        done = found.done
        found.run(60)
        assert found.refused < 0.02 * (found.done - done), kind


# -- the guard ---------------------------------------------------------------------------


def test_latency_that_is_constant_because_everything_times_out_does_not_raise_the_limit():
    # From the first answer on there are no short ones: by latency alone nothing ever waits.
    found = model("vegas", start=40, capacity=10, rate=2000, patience=0.15, jitter=0.0)
    found.run(120)
    assert found.state.limit <= 20


def test_a_base_that_was_measured_under_load_is_found_out():
    found = model("vegas", start=60, capacity=5, rate=2000)
    limit, share = settled(found, 5)
    assert limit <= 10
    assert share > 0.85


def test_a_backend_that_keeps_up_is_given_more():
    # Constant latency with throughput that follows: the limit is what holds it back.
    found = model("vegas", start=10, capacity=100, rate=900)
    found.run(150)
    assert found.state.limit >= 80


def test_constant_latency_at_little_load_keeps_the_limit_within_five_times_of_what_is_used():
    found = model("vegas", start=4, capacity=1000, rate=40, service=0.1)  # about 4 at once
    found.run(600)
    peak = 15  # of what is in flight at once: Poisson with mean 4
    assert found.state.limit <= 5 * peak


def test_callers_who_never_fill_the_limit_do_not_keep_an_overloaded_backend_so():
    # Twenty callers in turn: what is in flight never varies by itself, and nothing is short.
    found = model("vegas", start=20, capacity=4, callers=20)
    found.run(60)
    limit, share = settled(found, 4)
    assert limit <= 8
    assert share > 0.85


def test_without_the_trend_a_limit_by_latency_runs_away(monkeypatch):
    monkeypatch.setattr("holdfast.core.samples.Trend.is_flat", lambda _: False)
    found = model("gradient", capacity=5, rate=500)
    found.run(600)
    assert found.state.limit > 40


def sample(now: float, seconds: float = 0.1, in_flight: int = 20, **flags: bool) -> Sample:
    return Sample(now, seconds, in_flight, flags.get("failed", False), flags.get("timed", True))


@pytest.mark.parametrize("kind", ["vegas", "gradient"])
def test_few_samples_change_nothing(kind):
    state = AdaptiveState(hf.AdaptiveBulkhead(kind=kind))
    now = 100.0
    for _ in range(200):  # 45 answers in each 30 s, ever slower ones
        now += 30 / 45
        assert state.heard(sample(now, 0.001 * now), lambda: 0.5) is None
    assert state.limit == 20


@pytest.mark.parametrize("kind", ["vegas", "gradient"])
def test_a_burst_within_a_second_is_no_window(kind):
    state = AdaptiveState(hf.AdaptiveBulkhead(kind=kind))
    for n in range(10_000):
        assert state.heard(sample(5.0 + n * 1e-5, 1e-4 * (1 + n)), lambda: 0.5) is None


def test_one_outlier_in_a_window_changes_nothing():
    calm, disturbed = (AdaptiveState(hf.AdaptiveBulkhead()) for _ in range(2))
    for n in range(3000):
        late = 0.9 if n % 100 == 95 else 0.1
        calm.heard(sample(n * 0.01), lambda: 0.5)
        disturbed.heard(sample(n * 0.01, late), lambda: 0.5)
        assert calm.limit == disturbed.limit


def test_aimd_cuts_once_per_round_however_many_fail_in_it():
    state = AdaptiveState(hf.AdaptiveBulkhead(kind="aimd"))
    for n in range(20):  # twenty that began together fail together
        state.heard(sample(10.0 + n * 1e-3, 1.0, failed=True), lambda: 0.5)
    assert state.limit == 18
    state.heard(sample(12.0, 1.0, failed=True), lambda: 0.5)
    assert state.limit == 16


def test_aimd_takes_a_slow_answer_for_a_failure():
    state = AdaptiveState(hf.AdaptiveBulkhead(kind="aimd", slow_after=2.0))
    change = state.heard(sample(10.0, 2.5), lambda: 0.5)
    assert change == LimitChange("concurrency", 20, 18, "failure")


def test_aimd_adds_one_per_round_while_the_limit_is_used():
    state = AdaptiveState(hf.AdaptiveBulkhead(kind="aimd"))
    for n in range(21):
        state.heard(sample(10.0 + n), lambda: 0.5)
    assert state.limit == 21
    for n in range(100):
        state.heard(sample(50.0 + n, in_flight=5), lambda: 0.5)
    assert state.limit == 21


# -- permits -----------------------------------------------------------------------------


def shrunk(state: AdaptiveState, now: float) -> None:
    state.heard(sample(now, 9.0), lambda: 0.5)


def test_when_the_limit_falls_permits_drain_and_nobody_is_served_too_soon():
    state = AdaptiveState(hf.AdaptiveBulkhead(kind="aimd", start=10, queue=5))
    for _ in range(10):
        assert state.acquire() is True
    waiting = [state.acquire() for _ in range(3)]
    shrunk(state, 100.0)
    shrunk(state, 200.0)
    assert (state.limit, state.active, state.queued) == (8, 10, 3)
    assert state.release() is None
    assert state.release() is None
    assert (state.active, state.queued) == (8, 3)
    assert state.release() is waiting[0]
    assert (state.active, state.queued) == (8, 2)


def test_when_the_limit_rises_those_who_wait_are_served_in_order():
    state = AdaptiveState(hf.AdaptiveBulkhead(kind="aimd", start=1, queue=5))
    assert state.acquire() is True
    waiting = [state.acquire() for _ in range(3)]
    state.heard(sample(1.0, in_flight=1), lambda: 0.5)
    assert state.limit == 2
    assert state.grant() == waiting[:1]
    assert state.grant() == []
    assert (state.active, state.queued, state.waiting) == (2, 2, 2)


@pytest.mark.parametrize("kind", ["vegas", "gradient", "aimd"])
def test_the_limit_stays_within_its_bounds(kind):
    state = AdaptiveState(hf.AdaptiveBulkhead(kind=kind, max=12, start=99, min=3))
    assert state.limit == 12
    now = 0.0
    for n in range(6000):
        now += 0.02
        slow = 6.0 if (n // 2000) % 2 else 0.01
        state.heard(sample(now, slow, in_flight=50), lambda: 0.5)
        assert 3 <= state.limit <= 12


# -- in a policy -------------------------------------------------------------------------


def test_a_policy_takes_one_bulkhead_of_either_kind():
    with pytest.raises(ValueError, match="either Bulkhead or AdaptiveBulkhead, not both"):
        hf.policy(hf.Bulkhead(3), hf.AdaptiveBulkhead())
    with pytest.raises(ValueError, match="at most one AdaptiveBulkhead"):
        hf.policy(hf.AdaptiveBulkhead(), hf.AdaptiveBulkhead(max=3))


def test_one_kind_of_bulkhead_replaces_the_other():
    policy = hf.policy(hf.Deadline(5), hf.Bulkhead(3), hf.Retry(2))
    adaptive = policy.but(hf.AdaptiveBulkhead(start=7))
    assert [type(part).__name__ for part in adaptive._shape.parts] == [
        "Deadline", "AdaptiveBulkhead", "Retry",
    ]  # fmt: skip
    assert (policy.state()["limit"], adaptive.state()["limit"]) == (3, 7)
    assert hf.policy(hf.Retry(2)).state()["limit"] is None
    placed = hf.policy(hf.Retry(2)).but(hf.AdaptiveBulkhead()).describe()["strategies"]
    assert [part["type"] for part in placed] == ["AdaptiveBulkhead", "Retry"]


def test_a_derived_policy_shares_the_limit():
    with hf.testing.clock() as clock:
        policy = hf.policy(hf.AdaptiveBulkhead(kind="aimd"), hf.Retry(2))
        derived = policy.but(hf.Retry(1))
        derived.call(clock.sleep, 6)
        assert policy.state()["limit"] == derived.state()["limit"] == 18


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"max": 0}, "max"),
        ({"min": 0}, "min"),
        ({"min": 5, "max": 4}, "max"),
        ({"start": 0}, "start"),
        ({"kind": "magic"}, "kind"),
        ({"queue": -1}, "queue"),
        ({"order": "random"}, "order"),
        ({"slow_after": math.inf}, "slow_after"),
    ],
)
def test_options_are_checked(options, name):
    with pytest.raises(ValueError, match=rf"AdaptiveBulkhead\({name}="):
        hf.AdaptiveBulkhead(**options)


@pytest.mark.parametrize(
    ("failure", "changes"),
    [
        (ConnectionResetError(104, "reset"), True),
        (TimeoutError(), True),
        (ValueError(), False),
        (OSError(24, "too many open files"), False),
        (hf.Verdict(hf.THROTTLED), False),
        (hf.Verdict(hf.CONCURRENCY), False),
        (hf.Verdict(hf.AUTH), False),
    ],
    ids=str,
)
def test_only_failures_of_the_backend_count(failure, changes):
    class Failed(Exception):
        """Carries a verdict."""

    def fail() -> None:
        raise Failed if isinstance(failure, hf.Verdict) else failure

    with hf.testing.clock():
        policy = hf.policy(
            hf.AdaptiveBulkhead(kind="aimd"),
            classify=lambda error: failure if isinstance(error, Failed) else None,
        )
        policy.outcome(fail)
        assert policy.state()["limit"] == (18 if changes else 20)


def test_sync_and_async_calls_and_blocks_are_heard():
    with hf.testing.clock() as clock:
        for use in ("call", "acall", "block", "ablock"):
            policy = hf.policy(hf.AdaptiveBulkhead(kind="aimd"))

            async def aslow() -> None:
                await asyncio.sleep(6)

            async def ablock(policy: hf.Policy = policy) -> None:
                async for attempt in policy.attempts():
                    with attempt:
                        await asyncio.sleep(6)

            if use == "call":
                policy.call(clock.sleep, 6)
            elif use == "acall":
                asyncio.run(policy.acall(aslow))
            elif use == "block":
                for attempt in policy.attempts():
                    with attempt:
                        clock.sleep(6)
            else:
                asyncio.run(ablock())
            assert policy.state()["limit"] == 18, use


@pytest.mark.parametrize(("before", "between", "limit"), [(6, 0, 18), (0, 6, 20)])
def test_a_stream_is_as_slow_as_its_first_item(before, between, limit):
    def items():
        clock.sleep(before)
        yield 1
        yield 2

    with hf.testing.clock() as clock:
        policy = hf.policy(hf.AdaptiveBulkhead(kind="aimd"))
        for _ in policy.stream(items):
            clock.sleep(between)
        assert policy.state()["limit"] == limit


def test_changes_are_told_and_only_changes():
    heard: list[LimitChanged] = []
    stop = hf.subscribe(lambda event: heard.append(event) if isinstance(event, LimitChanged) else 0)
    try:
        with hf.testing.clock() as clock:
            policy = hf.policy(hf.AdaptiveBulkhead(kind="aimd", start=10), name="api")
            for seconds in (6, 0.1, 0.1, 7):
                policy.call(clock.sleep, seconds)
    finally:
        stop()
    assert [(e.policy, e.what, e.before, e.limit, e.why) for e in heard] == [
        ("api", "concurrency", 10, 9, "failure"),
        ("api", "concurrency", 9, 8, "failure"),
    ]


def test_through_a_policy_in_simulated_time_the_limit_finds_the_capacity_and_serves_the_queue():
    capacity, service = 5, 0.1

    async def main(clock) -> tuple[float, dict[str, object], int]:
        policy = hf.policy(hf.AdaptiveBulkhead(queue=40), hf.Deadline(60))
        places = asyncio.Semaphore(capacity)
        done = 0

        async def backend() -> None:
            async with places:
                await asyncio.sleep(service)

        async def caller() -> None:
            nonlocal done
            while clock.now < end:
                await policy.acall(backend)
                done += 1

        end = clock.now + 60
        limits: list[int] = []

        async def watch() -> None:
            while clock.now < end:
                await asyncio.sleep(0.25)
                if clock.now > end - 30:
                    limits.append(policy.state()["limit"])

        await asyncio.gather(watch(), *(caller() for _ in range(40)))
        return sum(limits) / len(limits), policy.state(), done

    with hf.testing.clock() as clock:
        mean, state, done = asyncio.run(main(clock))
    assert (state["active"], state["queued"]) == (0, 0)
    assert capacity * 0.8 <= mean <= capacity * 2
    assert done > 0.9 * 60 * capacity / service
