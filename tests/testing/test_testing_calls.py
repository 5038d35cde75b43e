"""Policies before a flaky backend, thousands of calls: every invariant, and who would find what."""

import asyncio
from operator import attrgetter

import pytest

from holdfast.core.breaker import BreakerState, Permit, State
from holdfast.core.bulkhead import BulkheadState
from holdfast.core.ratelimit import RateLimitState
from holdfast.runtime import aio
from holdfast.runtime.timers import Alarm
from holdfast.testing.scenarios import calls, calls_sync, scripts
from holdfast.testing.sim import shrunk
from holdfast.testing.simulation import run_scenario
from seeds import kinds_in as found
from seeds import run_seeds


def run(scenario, first, count):
    """Run seeds; return how many calls and faults there were."""
    seen = run_seeds(scenario, first, count, attrgetter("calls", "faults"))
    return map(sum, zip(*seen, strict=True))


@pytest.mark.parametrize("first", range(0, 500, 50))
def test_asynchronous_calls_keep_every_promise(first):
    made, faults = run(calls.SCENARIO, first, 50)
    assert made >= 50 * 180
    assert faults >= 50 * 30


@pytest.mark.parametrize("first", range(0, 500, 100))
def test_synchronous_calls_keep_every_promise(first):
    made, faults = run(calls_sync.SCENARIO, first, 100)
    assert made >= 100 * 200
    assert faults >= 100 * 20


@pytest.mark.parametrize("first", range(0, 1500, 300))
def test_both_drivers_give_one_trace(first):
    made, _ = run(scripts.SCENARIO, first, 300)
    assert made >= 300 * 6


# 10,000 seeds in chunks, so that several processes share them. Each chunk has its part of the
# 1,000,000 calls and 100,000 faults; 1.8 and 0.3 million are usual.
@pytest.mark.long
@pytest.mark.parametrize("first", range(1000, 11_000, 250))
def test_ten_thousand_seeds(first):
    made, faults = run(calls.SCENARIO, first, 250)
    assert made >= 1_000_000 / 40
    assert faults >= 100_000 / 40
    run_seeds(calls_sync.SCENARIO, first, 250)
    run_seeds(scripts.SCENARIO, first + 1000, 250)


# -- planted defects ------------------------------------------------


def first_failure(wanted="", seeds=300):
    """Return the first run with a violation, of the kind `wanted` if that is given."""
    for seed in range(seeds):
        result = run_scenario(calls.SCENARIO, seed)
        if any(wanted in text for text in result.violations):
            return result
    raise AssertionError(f"not found in {seeds} seeds")


def test_a_cancelled_call_that_keeps_its_permit_is_found_and_shrunk(monkeypatch):
    monkeypatch.setattr("holdfast.runtime.aio.abandon", lambda call: None)
    failed = first_failure("permits left")
    best = shrunk(calls.SCENARIO, failed)
    assert best.faults <= 5 < failed.faults
    assert run_scenario(calls.SCENARIO, failed.seed, decisions=best.decisions).violations


def test_a_permit_granted_to_a_leaving_waiter_and_lost_is_found(monkeypatch):
    leave = BulkheadState.leave
    monkeypatch.setattr(
        BulkheadState, "leave", lambda self, t: None if t.granted else leave(self, t)
    )
    assert found(first_failure()) & {"permits left", "no recovery", "deadlock"}


def test_too_many_in_a_bulkhead_are_found(monkeypatch):
    acquire = BulkheadState.acquire

    def one_more(self):
        if self.active == self.limit and not self.queued:
            self.active += 1
            return True
        return acquire(self)

    monkeypatch.setattr(BulkheadState, "acquire", one_more)
    assert "bulkhead exceeded" in found(first_failure())


def test_a_limit_that_does_not_interrupt_is_found(monkeypatch):
    monkeypatch.setattr("holdfast.runtime.timers.Alarm.fire", lambda self: None)
    assert found(first_failure()) & {"late", "deadlock"}


def test_a_swallowed_cancellation_is_found(monkeypatch):
    caused = Alarm.caused

    def every(self, error):
        return caused(self, error) or isinstance(error, asyncio.CancelledError)

    monkeypatch.setattr(Alarm, "caused", every)
    assert "cancellation swallowed" in found(first_failure())


def test_a_second_sending_is_found(monkeypatch):
    monkeypatch.setattr("holdfast.core.call.gate", lambda *args, **options: None)
    assert "sent twice" in found(first_failure())


def test_an_attempt_too_many_is_found(monkeypatch):
    monkeypatch.setattr("holdfast.core.call.most_retries", lambda rule, *_: rule.options.attempts)
    assert "too many attempts" in found(first_failure())


def test_an_attempt_while_the_circuit_is_open_is_found(monkeypatch):
    acquire = BreakerState.acquire

    def always(self, *args):
        answer = acquire(self, *args)
        return Permit(self.gen) if self.state is State.OPEN else answer

    monkeypatch.setattr(BreakerState, "acquire", always)
    assert "sent while open" in found(first_failure())


def test_a_rate_limit_that_is_too_fast_is_found(monkeypatch):
    take = RateLimitState.take
    monkeypatch.setattr(RateLimitState, "take", lambda self, now: take(self, now) / 2)
    assert "rate exceeded" in found(first_failure())


def test_a_breaker_that_forgets_successes_is_found(monkeypatch):
    count = BreakerState._count

    def only_failures(self, *, failed, **rest):
        if failed:
            count(self, failed=failed, **rest)

    monkeypatch.setattr(BreakerState, "_count", only_failures)
    assert "opened without reason" in found(first_failure())


def test_a_stream_that_starts_over_is_found(monkeypatch):
    monkeypatch.setattr("holdfast.core.call.Call.committed", lambda self, now, *, resumable: None)
    assert "items" in found(first_failure())


def test_an_event_that_is_not_sent_is_found(monkeypatch):
    monkeypatch.setattr("holdfast.core.call.Call._say_attempt", lambda self, *args: None)
    assert "counters" in found(first_failure())


def test_drivers_that_differ_are_found(monkeypatch):
    apause = aio.apause

    async def longer(step):
        await apause(step)
        await asyncio.sleep(1e-3)

    monkeypatch.setattr(aio, "apause", longer)
    results = (run_scenario(scripts.SCENARIO, seed) for seed in range(50))
    assert any("drivers differ" in found(result) for result in results)


# -- reading changes nothing ------------------------------------------------


def test_reading_a_policy_changes_no_trace(monkeypatch):
    without = [run_scenario(calls.SCENARIO, seed).trace for seed in range(10)]
    entered = calls.Program.attempt

    async def reading(self, call, guard):
        for other in self.guards:
            other.policy.state(call.key)
            other.policy.state("unknown")
            other.policy.plan()
            other.policy.describe()
        return await entered(self, call, guard)

    monkeypatch.setattr(calls.Program, "attempt", reading)
    assert [run_scenario(calls.SCENARIO, seed).trace for seed in range(10)] == without
