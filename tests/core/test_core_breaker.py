"""The breaker, through policies: what a backend sees, and what the state says."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time

import pytest

import holdfast as hf
from holdfast.core import breaker, events


def fail() -> None:
    raise ConnectionResetError


def quick(**options: object) -> hf.Policy:
    """Return a policy of nothing but a breaker that opens after two failures in a row."""
    settings: dict[str, object] = {"consecutive": 2, "close_after": 1, "open_for": 5}
    return hf.policy(hf.Breaker(**{**settings, **options}))  # type: ignore[arg-type]


def trip(policy: hf.Policy, times: int = 2) -> None:
    for _ in range(times):
        policy.outcome(fail)
    assert policy.state()["circuit"] == "open"


@pytest.fixture
def clock():
    with hf.testing.clock(auto=False) as clock:
        clock.random(0.5)  # open for exactly `open_for`
        yield clock


# -- the table --------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "what"), list(itertools.product(breaker.State, breaker.Input)))
def test_each_cell_of_the_table_moves_or_is_impossible(state, what):
    machine = breaker.BreakerState(breaker.Breaker(), state=state)
    expected = breaker.TRANSITIONS.get((state, what))
    if expected is None:
        with pytest.raises(KeyError):
            machine.by_hand(what, 0.0)
    else:
        machine.by_hand(what, 0.0)
        assert machine.state is expected
        assert machine.gen == 1


# -- admission: P1, P2, P7 ---------------------------------------------------------------


def test_an_open_circuit_sends_nothing(clock):
    policy, calls = quick(), []
    trip(policy)
    with pytest.raises(hf.CircuitOpen) as caught:
        policy.call(calls.append, 1)
    assert calls == []
    assert caught.value.retry_after == pytest.approx(5)
    assert caught.value.policy == policy.name


@pytest.mark.parametrize("probes", [1, 3])
def test_half_open_admits_exactly_its_probes_of_a_hundred_concurrent_calls(probes):
    async def main() -> int:
        policy = quick(half_open=probes, close_after=3)
        for _ in range(2):
            await policy.aoutcome(_afail)
        await clock.asleep(6)
        seen = 0

        async def slow() -> None:
            nonlocal seen
            seen += 1
            await clock.asleep(1)

        await asyncio.gather(*(policy.aoutcome(slow) for _ in range(100)))
        return seen

    with hf.testing.clock() as clock:
        assert asyncio.run(main()) == probes


async def _afail() -> None:
    raise ConnectionResetError


def test_a_closed_breaker_does_not_serialise_threads():
    policy = quick()
    barrier = threading.Barrier(20)

    def work() -> None:
        barrier.wait()
        policy.call(time.sleep, 0.05)

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    # One after the other would be 1 s; side by side 0.05 s and whatever a busy machine adds.
    assert time.perf_counter() - began < 0.5


# -- neutral results: P3, P4 -------------------------------------------------------------


def test_cancellations_change_nothing_while_closed():
    async def main() -> dict[str, object]:
        policy = quick(consecutive=3)
        for _ in range(4):
            task = asyncio.create_task(policy.acall(asyncio.sleep, 10))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        return policy.state()

    state = asyncio.run(main())
    assert (state["circuit"], state["calls"], state["failures"], state["active"]) == (
        "closed",
        0,
        0,
        0,
    )


def test_a_cancelled_probe_gives_its_permit_back_and_proves_nothing():
    async def main() -> int:
        policy = quick()
        for _ in range(2):
            await policy.aoutcome(_afail)
        await clock.asleep(6)
        probe = asyncio.create_task(policy.acall(asyncio.sleep, 10))
        await asyncio.sleep(0)
        probe.cancel()
        await asyncio.wait([probe])
        assert policy.state()["circuit"] == "half-open"
        admitted = 0

        async def failing() -> None:
            nonlocal admitted
            admitted += 1
            raise ConnectionResetError

        for _ in range(3):
            await policy.aoutcome(failing)
        return admitted

    with hf.testing.clock() as clock:
        assert asyncio.run(main()) == 1


@pytest.mark.parametrize(
    "error", [ValueError(), PermissionError(13, "no"), hf.RateLimited("inner")]
)
def test_what_says_nothing_about_the_backend_never_opens_it(error):
    policy = quick()

    def raises() -> None:
        raise error

    for _ in range(10):
        policy.outcome(raises)
    assert policy.state()["circuit"] == "closed"
    assert policy.state()["calls"] == 0


# -- generations: P5, P6 -----------------------------------------------------------------


def test_a_success_from_before_the_outage_closes_nothing(clock):
    policy = quick()
    old = policy.attempts()
    with next(old):
        trip(policy)
        clock.advance(5)
        probe = next(iter(policy.attempts()))  # undecided
        assert policy.state()["circuit"] == "half-open"
    # the old attempt has now succeeded; the probe is still out
    outcomes = [policy.outcome(lambda: 1) for _ in range(20)]
    assert [o.attempts for o in outcomes] == [0] * 20
    with probe:
        pass
    assert policy.state()["circuit"] == "closed"


def test_a_failure_from_before_the_outage_reopens_nothing(clock):
    policy = quick()
    old = policy.attempts()
    with pytest.raises(ConnectionResetError), next(old):
        trip(policy)
        clock.advance(5)
        assert policy.call(lambda: "probe") == "probe"
        assert policy.state()["circuit"] == "closed"
        raise ConnectionResetError
    assert [policy.outcome(lambda: 1).value for _ in range(5)] == [1] * 5


# -- leases, open time, hands ------------------------------------------------------------


def test_a_lost_probe_frees_its_place_when_its_lease_is_over(clock):
    policy = quick()
    trip(policy)
    clock.advance(5)
    lost = next(iter(policy.attempts()))
    refused = policy.outcome(lambda: 1)
    assert isinstance(refused.error, hf.CircuitOpen)
    assert refused.retry_after == pytest.approx(5)  # no limit: leased for the open time
    clock.advance(5)
    assert policy.call(lambda: 1) == 1
    assert policy.state()["circuit"] == "closed"
    with lost:  # its late result belongs to another generation
        pass
    assert policy.state()["calls"] == 0


def test_the_lease_of_a_probe_is_the_limit_of_its_attempt(clock):
    policy = hf.policy(hf.Breaker(consecutive=2), hf.Timeout(2, interrupt=False))
    trip(policy)
    clock.advance(5)
    lost = next(iter(policy.attempts()))
    assert policy.outcome(lambda: 1).retry_after == pytest.approx(2)
    clock.advance(2)
    assert policy.call(lambda: 1) == 1
    del lost


def test_each_reopening_doubles_the_open_time_up_to_the_maximum(clock):
    policy = quick(max_open=30)
    trip(policy)
    waits = []
    for _ in range(5):
        waits.append(policy.outcome(lambda: 1).retry_after)
        clock.advance(waits[-1])
        policy.outcome(fail)  # the probe fails
    assert waits == pytest.approx([5, 10, 20, 30, 30])


def test_two_quiet_windows_forget_the_reopenings(clock):
    policy = quick(window=10)
    trip(policy)
    clock.advance(5)
    policy.call(lambda: 1)
    trip(policy)  # at once again: counts as a reopening
    assert policy.outcome(lambda: 1).retry_after == pytest.approx(10)
    clock.advance(10)
    policy.call(lambda: 1)
    clock.advance(21)
    trip(policy)
    assert policy.outcome(lambda: 1).retry_after == pytest.approx(5)


def test_the_open_time_varies_by_a_fifth_so_that_clients_do_not_return_together():
    with hf.testing.clock() as clock:
        clock.random(seed=3)
        waits = []
        for _ in range(50):
            policy = quick()
            trip(policy)
            waits.append(policy.outcome(lambda: 1).retry_after)
    assert 4 <= min(waits) < 4.3
    assert 5.7 < max(waits) <= 6


def test_isolated_refuses_until_reset_and_disabled_lets_everything_pass(clock):
    policy = quick()
    policy.isolate()
    refused = policy.outcome(lambda: 1)
    assert isinstance(refused.error, hf.CircuitOpen)
    assert refused.retry_after is None
    clock.advance(1e6)
    assert not policy.outcome(lambda: 1).ok
    policy.reset()
    assert policy.call(lambda: 1) == 1
    policy.disable()
    for _ in range(10):
        policy.outcome(fail)
    assert policy.call(lambda: 1) == 1
    assert policy.state()["circuit"] == "disabled"


def test_steering_a_policy_without_a_breaker_is_an_error():
    with pytest.raises(ValueError, match="has no Breaker to isolate"):
        hf.policy(hf.Retry(), name="bare").isolate()


# -- what opens it -----------------------------------------------------------------------


def test_the_ratio_opens_it_with_one_alert_that_is_cleared_later(clock):  # T4
    policy = hf.policy(hf.Breaker(ratio=0.5, min_calls=20, consecutive=None, close_after=1))
    seen: list[events.Event] = []
    stop = hf.subscribe(seen.append)
    try:
        for n in range(19):
            policy.outcome((lambda: 1) if n % 5 == 0 else fail)
        assert policy.state()["circuit"] == "closed"
        policy.outcome(fail)
        assert policy.state()["circuit"] == "open"
        clock.advance(5)
        policy.outcome(fail)  # a failed probe: no second alert
        clock.advance(10)
        policy.call(lambda: 1)
    finally:
        stop()
    alerts = [event for event in seen if isinstance(event, events.Alert)]
    assert [alert.cleared for alert in alerts] == [False, True]
    circuit = [type(e).__name__ for e in seen if type(e).__name__.startswith("Circuit")]
    assert circuit == [
        "CircuitOpened",
        "CircuitHalfOpened",
        "CircuitOpened",
        "CircuitHalfOpened",
        "CircuitClosed",
    ]


def test_failures_leave_the_window_with_time(clock):
    policy = quick(consecutive=None, min_calls=4, window=10)
    for _ in range(3):
        policy.outcome(fail)
    clock.advance(11)
    policy.outcome(fail)
    assert policy.state()["circuit"] == "closed"
    assert policy.state()["failures"] == 1


def test_a_success_ends_a_row_of_failures(clock):
    policy = quick(consecutive=3)
    for _ in range(5):
        policy.outcome(fail)
        policy.outcome(fail)
        policy.call(lambda: 1)
    assert policy.state()["circuit"] == "closed"


def test_slow_successes_open_it_when_asked_to(clock):
    policy = quick(slow_after=1.0, slow_ratio=0.5, min_calls=4)

    def slow() -> None:
        clock.advance(2)

    for work in (slow, lambda: 1, lambda: 1, slow):
        policy.call(work)
    assert policy.state()["circuit"] == "open"
    assert policy.state()["slow"] == 2


def test_reading_the_state_changes_nothing(clock):
    policy = quick()
    trip(policy)
    clock.advance(60)
    assert [policy.state()["circuit"] for _ in range(5)] == ["open"] * 5


def test_closing_needs_the_share_of_good_probes_and_opening_does_not_wait_for_all(clock):
    policy = quick(close_after=3, ratio=0.5)  # two good ones of three
    trip(policy)
    clock.advance(5)
    for work in (fail, lambda: 1, lambda: 1):
        policy.outcome(work)
    assert policy.state()["circuit"] == "closed"
    trip(policy)
    clock.advance(10)
    policy.outcome(fail)
    assert policy.state()["circuit"] == "half-open"
    policy.outcome(fail)
    assert policy.state()["circuit"] == "open"


@pytest.mark.parametrize(
    "options",
    [{"ratio": 0}, {"ratio": 1.5}, {"window": 0}, {"min_calls": 0}, {"half_open": 0},
     {"consecutive": 0}, {"open_for": -1}, {"slow_after": 0}, {"ratio": float("nan")}],
)  # fmt: skip
def test_a_bad_option_is_named_with_its_value(options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=name) as caught:
        hf.Breaker(**options)
    assert repr(value) in str(caught.value)
