"""Events: who gets them, what they tell, and what a broken subscriber can do (nothing)."""

from __future__ import annotations

import dataclasses

import pytest

import holdfast as hf
from holdfast.core import events
from holdfast.runtime.hub import PATIENCE, RING, Hub


@pytest.fixture
def seen():
    found: list[events.Event] = []
    stop = hf.subscribe(found.append)
    yield found
    stop()


def fail():
    raise ConnectionResetError


def event(n=0):
    return events.Alert(time=float(n), name="a", text="b")


def test_each_step_of_a_call_is_told_in_order(seen):
    with hf.testing.clock():
        policy = hf.policy(hf.Retry(2, backoff=hf.Constant(1.0, jitter="none")), name="p")
        policy.outcome(fail)
    assert [type(e).__name__ for e in seen] == ["Attempt", "Waited", "Attempt", "GaveUp"]
    first, waited, second, gave_up = seen
    assert (first.kind, first.sent, first.no, first.reason) == (
        "transient",
        "maybe",
        1,
        "ECONNRESET",
    )
    assert (waited.why, waited.seconds, waited.budget_left) == ("backoff", 1.0, 486)
    assert (second.no, gave_up.reason, gave_up.attempts) == (2, "attempts", 2)
    assert gave_up.seconds == pytest.approx(1)
    assert {e.policy for e in seen} == {"p"}
    assert len({e.call_id for e in seen}) == 1


def test_a_success_and_a_refusal_are_told(seen):
    policy = hf.policy(hf.Breaker(consecutive=1))
    policy.call(int)
    policy.outcome(fail)
    policy.outcome(fail)
    told = [type(e).__name__ for e in seen]
    assert told == ["Attempt", "Attempt", "CircuitOpened", "Alert", "GaveUp", "Refused", "GaveUp"]
    assert seen[0].kind == "ok"
    assert seen[5].kind == "CircuitOpen"


def test_steering_by_hand_is_told(seen):
    policy = hf.policy(hf.Breaker(), name="p")
    policy.isolate()
    policy.reset()
    assert [(type(e).__name__, e.why) for e in seen] == [
        ("CircuitOpened", "isolate by hand"),
        ("CircuitClosed", "reset by hand"),
    ]


def test_an_unclassified_type_is_told_once(seen):
    class NeverSeenBefore(Exception):
        pass

    def strange():
        raise NeverSeenBefore

    policy = hf.policy(hf.Retry(2))
    policy.outcome(strange)
    policy.outcome(strange)
    told = [e.type for e in seen if isinstance(e, events.Unclassified)]
    assert len(told) == 1
    assert told[0].endswith("NeverSeenBefore")


def test_events_are_frozen_and_documented():
    for name, kind in vars(events).items():
        if isinstance(kind, type) and issubclass(kind, events.Event):
            assert kind.__doc__, name
            fields = {field.name for field in dataclasses.fields(kind)}
            assert fields >= {"time", "policy", "key", "call_id"}, name
    with pytest.raises(dataclasses.FrozenInstanceError):
        event().name = "other"


def test_without_a_subscriber_nothing_is_built_or_kept():
    hub = Hub()
    assert not hub.watched
    stop = hub.subscribe(lambda _: None)
    assert hub.watched
    stop()
    stop()  # twice is harmless
    assert not hub.watched


def test_a_recording_remembers_the_latest_thousand():
    hub = Hub()
    with hub.record() as recording:
        assert hub.listening
        for n in range(RING + 5):
            hub.publish(event(n))
    hub.publish(event(9999))
    assert len(recording.events()) == RING
    assert recording.events()[0].time == 5
    assert not hub.listening


def test_recordings_overlap():
    hub = Hub()
    with hub.record() as first:
        with hub.record() as second:
            hub.publish(event(1))
        hub.publish(event(2))
    assert [e.time for e in first.events()] == [1, 2]
    assert second.events()[0].time == 1


def test_a_recording_tells_fast_and_full_calls_alike():
    with hf.testing.clock() as clock:
        policy = hf.policy(hf.Retry(2, backoff=hf.Constant(1.0, jitter="none")), name="p")
        for _ in range(20):
            policy.call(int)
        with hf.record() as recording:
            policy.call(clock.advance, 2)  # by the fast path
            policy.outcome(fail)
        told = recording.events()
    assert [type(e).__name__ for e in told] == ["Attempt", "Attempt", "Waited", "Attempt", "GaveUp"]
    fast = told[0]
    assert (fast.kind, fast.no, fast.policy, fast.call_id) == ("ok", 1, "p", 0)
    assert fast.seconds == pytest.approx(2)


def test_a_failing_subscriber_is_detached_and_the_others_go_on():
    hub, got = Hub(), []

    def broken(_):
        raise RuntimeError

    hub.subscribe(broken)
    hub.subscribe(got.append)
    for n in range(PATIENCE + 5):
        hub.publish(event(n))
    assert len(got) == PATIENCE + 5
    hub.unsubscribe(got.append)
    assert not hub.watched or broken not in hub._subscribers


def test_errors_must_be_in_a_row_to_detach():
    hub, calls = Hub(), []

    def sometimes(told):
        calls.append(told)
        if told.time % 5:
            raise RuntimeError

    hub.subscribe(sometimes)
    for n in range(50):
        hub.publish(event(n))
    assert len(calls) == 50


def test_a_failing_subscriber_does_not_disturb_the_call():
    def broken(_):
        raise RuntimeError

    stop = hf.subscribe(broken)
    try:
        assert hf.policy(hf.Retry(2)).call(lambda: "value") == "value"
    finally:
        stop()


def test_no_user_code_runs_under_the_lock():
    from holdfast.runtime.lock import deciding  # noqa: PLC0415 - white box

    owned = []

    def look(_):
        owned.append(deciding._is_owned())

    stop = hf.subscribe(look)
    try:
        policy = hf.policy(hf.Bulkhead(2), hf.Retry(2), hf.Breaker(consecutive=1))
        policy.outcome(fail)
        policy.outcome(fail)
    finally:
        stop()
    assert owned
    assert not any(owned)


def warm(policy):
    """Call it often enough for the fast path, which needs a median first."""
    for _ in range(50):
        policy.call(int)
    return policy


def test_who_takes_successes_apart_leaves_the_fast_path_open():
    told, good = [], []
    with hf.testing.clock() as clock:
        policy = warm(hf.policy(hf.Retry(2, backoff=hf.Constant(1.0, jitter="none")), name="p"))
        began = clock.monotonic()
        stop = hf.subscribe(told.append, success=lambda *call: good.append(call))
        try:
            policy.call(clock.advance, 2)
            assert good == [("p", "", began, began + 2)]
            assert told == []
            policy.outcome(fail)
        finally:
            stop()
        policy.call(int)
    assert len(good) == 1
    assert [type(e).__name__ for e in told] == ["Attempt", "Waited", "Attempt", "GaveUp"]


def test_beside_a_subscriber_of_events_a_success_is_an_event_for_all():
    told, good, others = [], [], []
    policy = warm(hf.policy(hf.Retry(2)))
    stops = [hf.subscribe(told.append, success=good.append), hf.subscribe(others.append)]
    try:
        policy.call(int)
    finally:
        for stop in stops:
            stop()
    assert good == []
    assert told == others
    assert [e.kind for e in told] == ["ok"]


def test_a_recording_and_a_taker_of_successes_hear_the_same():
    good = []
    policy = warm(hf.policy(hf.Retry(2), name="p"))
    stop = hf.subscribe(lambda _: None, success=lambda *call: good.append(call))
    try:
        with hf.record() as recording:
            policy.call(int)
            hf.policy(hf.Retry(1), name="p").outcome(fail)
        policy.call(int)
    finally:
        stop()
    assert len(good) == 2
    assert [type(e).__name__ for e in recording.events()] == ["Attempt", "Attempt", "GaveUp"]


def test_a_failing_taker_of_successes_is_detached():
    calls = []

    def broken(*call):
        calls.append(call)
        raise RuntimeError

    policy = warm(hf.policy(hf.Retry(2)))
    stop = hf.subscribe(lambda _: None, success=broken)
    try:
        for _ in range(PATIENCE + 5):
            assert policy.call(lambda: "value") == "value"
    finally:
        stop()
    assert len(calls) == PATIENCE
