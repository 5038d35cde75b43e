"""Hedging decided by hand: when a copy may be sent, what it holds, and who gets it back."""

from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import holdfast as hf
from holdfast.core.call import Attempt, Call, GiveUp, Wait
from holdfast.core.deadline import OUTSIDE
from holdfast.core.events import Attempt as AttemptEvent
from holdfast.core.events import Hedged
from holdfast.core.hedge import HedgeState, most_telling, percentile
from holdfast.core.policy import Lane, compile_shape
from holdfast.core.verdict import Sent, Verdict
from holdfast.core.window import Durations

DROP = Verdict(hf.TRANSIENT, Sent.MAYBE, "ECONNRESET")
REFUSED = Verdict(hf.CONNECT, Sent.NO, "ECONNREFUSED")
BUSY = Verdict(hf.TRANSIENT, Sent.YES, "http 500")
WRONG = Verdict(hf.PERMANENT, Sent.YES, "http 404")
LATE = Verdict(hf.TIMEOUT, Sent.MAYBE, "timeout")
ALWAYS = hf.Hedge(after=1, budget=1)


class Bench:
    """One key of a policy, and calls on it."""

    def __init__(self, *parts):
        self.shape = compile_shape(parts)
        self.lane = Lane(self.shape, "")

    def call(self, now=0.0, request=None):
        return Call(
            self.shape, self.lane, now, OUTSIDE, request=request, draw=lambda: 0.5, watched=True
        )

    def attempt(self, now=0.0, request=None):
        call = self.call(now, request)
        step = call.next(now)
        assert type(step) is Attempt
        return call, step

    def succeed(self, *durations):
        for seconds in durations:
            call, _ = self.attempt()
            call.succeeded(seconds)

    @property
    def active(self):
        return self.lane.bulkhead.active


def said(call, kind):
    return [event for event in call.outbox if type(event) is kind]


# -- options -----------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "share"), [("p50", 0.5), ("p95", 0.95), ("p99.9", 0.999)])
def test_percentiles_are_read(text, share):
    assert percentile(text) == pytest.approx(share)


WRONG_PERCENTILES = ["p49.9", "p100", "95", "P95", "p9", "p95%", "p99.99", "", "p\u0669\u0665"]


@pytest.mark.parametrize("wrong", [*WRONG_PERCENTILES, 0, -1, math.inf, math.nan, None])
def test_after_is_a_percentile_or_seconds(wrong):
    with pytest.raises(ValueError, match=r"Hedge\(after=\.\.\.\)"):
        hf.Hedge(after=wrong)


@pytest.mark.parametrize("options", [{"max": 0}, {"max": 1.5}, {"budget": 0}, {"budget": 1.1}])
def test_the_other_options_are_checked(options):
    with pytest.raises(ValueError, match=r"`Hedge\("):
        hf.Hedge(**options)


def test_describe_has_its_options_as_json():
    described = hf.policy(hf.Retry(2), hf.Hedge(after=0.5, max=2)).describe()
    assert json.loads(json.dumps(described))["strategies"][1] == {
        "type": "Hedge",
        "after": 0.5,
        "max": 2,
        "budget": 0.05,
    }


def test_the_plan_counts_every_copy():
    plan = hf.policy(hf.Deadline(60), hf.Retry(3), hf.Hedge(max=2, budget=0.1)).plan()
    assert (plan.attempts_max, plan.requests_max) == (3, 9)
    assert plan.dead_backend_factor == pytest.approx(1.035 * 1.1)


def test_retry_inside_hedge_is_warned_of():
    with pytest.warns(hf.PolicyWarning, match="put Hedge after Retry"):
        hf.policy(hf.Hedge(), hf.Retry(3))


def test_but_puts_a_hedge_right_after_retry_and_keeps_its_state():
    policy = hf.policy(hf.Retry(3), hf.Breaker(), hf.Timeout(5))
    hedged = policy.but(hf.Hedge())
    kinds = [part["type"] for part in hedged.describe()["strategies"]]
    assert kinds == ["Retry", "Hedge", "Breaker", "Timeout"]
    longer = hedged.but(hf.Timeout(9))
    assert longer._lane_of("").hedge is hedged._lane_of("").hedge
    assert hedged.but(hf.Hedge())._lane_of("").hedge is not hedged._lane_of("").hedge


# -- when ----------------------------------------------------------------------------------


def test_the_percentile_is_the_nearest_rank():
    durations = Durations(1000)
    for value in random.Random(1).sample(range(1, 101), 100):
        durations.add(float(value))
    assert [durations.quantile(share) for share in (0.5, 0.95, 0.999, 1.0)] == [50, 95, 100, 100]
    assert Durations(5).quantile(0.5) is None


def test_nothing_is_hedged_before_twenty_successes():
    bench = Bench(hf.Hedge(budget=1))
    bench.succeed(*(n / 10 for n in range(1, 20)))
    assert bench.attempt()[1].hedge_after == math.inf
    bench.succeed(2.0)
    assert bench.attempt()[1].hedge_after == 1.9  # the 19th of 20


def test_the_percentile_follows_what_happens_lately():
    bench = Bench(hf.Hedge("p50"))
    bench.succeed(*[1.0] * 300)
    assert bench.attempt()[1].hedge_after == 1.0
    bench.succeed(*[3.0] * 256)
    assert bench.attempt()[1].hedge_after == 3.0


def test_seconds_need_no_successes():
    assert Bench(hf.Hedge(0.25)).attempt()[1].hedge_after == 0.25


def test_an_attempt_that_would_be_over_by_then_is_not_hedged():
    assert Bench(hf.Hedge(2), hf.Timeout(2)).attempt()[1].hedge_after == math.inf
    assert Bench(hf.Deadline(2.5), hf.Hedge(2)).attempt()[1].hedge_after == 2


def test_without_a_hedge_there_is_no_time_for_it():
    assert Bench(hf.Retry(2)).attempt()[1].hedge_after is None
    assert Bench(hf.Retry(2)).attempt()[0].hedge(1) is None


@pytest.mark.parametrize(
    ("request_", "may"),
    [
        (hf.Request(method="GET"), True),
        (hf.Request(method="PUT"), True),
        (hf.Request(method="POST"), False),
        (hf.Request(method="POST", idempotent=True), True),
        (hf.Request(method="GET", idempotent=False), False),
        (hf.Request(method="PUT", replayable=False), False),
        (hf.Request(), True),
        (None, True),
    ],
)
def test_only_what_may_run_twice_is_hedged(request_, may):
    keyed = hf.Retry(3, idempotency_key=True)  # a key in use is refused by servers
    call, step = Bench(keyed, ALWAYS).attempt(request=request_)
    assert step.hedge_after == (1 if may else None)
    assert call.hedge(1) == (1 if may else None)


def test_no_more_copies_than_the_maximum():
    bench = Bench(hf.Hedge(1, max=2, budget=1))
    bench.succeed(1, 1)
    call, _ = bench.attempt()
    assert [call.hedge(1), call.hedge(2), call.hedge(3)] == [1, 2, None]


def test_none_is_sent_once_it_is_decided_or_too_late():
    bench = Bench(hf.Deadline(5), hf.Hedge(1, max=2, budget=1))
    bench.succeed(1, 1, 1)
    call, _ = bench.attempt()
    assert call.hedge(1) == 1
    call.won(2, 0)
    assert call.hedge(2) is None
    call.succeeded(2)
    call, _ = bench.attempt()
    assert call.hedge(5) is None


def test_a_hedge_outside_an_attempt_is_a_drivers_mistake():
    call = Bench(ALWAYS).call()
    with pytest.raises(RuntimeError, match="`hedge` in phase NEW"):
        call.hedge(0)


# -- budget --------------------------------------------------------------------------------


@given(st.floats(0.001, 1), st.lists(st.booleans(), max_size=400))
def test_hedges_are_at_most_their_share_of_the_attempts(budget, wanted):
    bench = Bench(hf.Hedge(1, budget=budget))
    hedges = 0
    for attempts, wants in enumerate(wanted, 1):
        call, _ = bench.attempt()
        if wants:
            hedges += call.hedge(1) is not None
        call.succeeded(2)
        assert hedges <= budget * attempts + 1e-6


@pytest.mark.parametrize(("options", "every"), [({}, 20), ({"budget": 0.1}, 10)])
def test_of_so_many_attempts_one_may_be_hedged(options, every):
    bench = Bench(hf.Hedge(1, **options))
    hedged = []
    for no in range(1, 101):
        call, _ = bench.attempt()
        if call.hedge(1):
            hedged.append(no)
        call.succeeded(2)
    assert hedged == list(range(every, 101, every))  # ten times 0.1 is not quite 1


def test_quiet_times_save_up_ten_hedges():
    bench = Bench(hf.Hedge(1, budget=0.5))
    bench.succeed(*[1] * 1000)
    hedges = 0
    for _ in range(20):  # all of them slow: they earn ten more
        call, _ = bench.attempt()
        hedges += call.hedge(1) is not None
        call.succeeded(2)
    assert hedges == 19


# -- what a copy holds -------------------------------------------------------------------


def test_a_hedge_takes_permits_of_the_layers_inside_only():
    bench = Bench(hf.Bulkhead(8), hf.Retry(2), ALWAYS)
    call, _ = bench.attempt()
    assert call.hedge(1) == 1
    assert bench.active == 1
    bench = Bench(hf.Retry(2), ALWAYS, hf.Bulkhead(8))
    call, _ = bench.attempt()
    assert call.hedge(1) == 1
    assert bench.active == 2
    bench = Bench(hf.Retry(2), hf.Bulkhead(8), ALWAYS)
    call, _ = bench.attempt()
    assert call.hedge(1) == 1
    assert bench.active == 1
    bench = Bench(ALWAYS, hf.Bulkhead(8), hf.Retry(2))  # a copy has no retries of its own
    call, _ = bench.attempt()
    assert call.hedge(1) == 1
    assert bench.active == 1


def test_a_hedge_never_queues():
    bench = Bench(ALWAYS, hf.Bulkhead(1, queue=5))
    call, _ = bench.attempt()
    assert call.hedge(1) is None
    assert (bench.active, bench.lane.bulkhead.queued, bench.lane.bulkhead.waiting) == (1, 0, 0)
    assert bench.lane.hedge.allows  # nothing was paid


def test_a_hedge_waits_for_no_slot_and_takes_none():
    bench = Bench(ALWAYS, hf.RateLimit(1, per=10))
    call, _ = bench.attempt()
    before = bench.lane.rate.tat
    assert call.hedge(1) is None
    assert bench.lane.rate.tat == before
    assert call.hedge(10) == 1


def test_what_a_refused_hedge_took_is_given_back():
    bench = Bench(ALWAYS, hf.Bulkhead(2), hf.RateLimit(1, per=10))
    call, _ = bench.attempt()
    assert call.hedge(1) is None
    assert bench.active == 1
    bench = Bench(ALWAYS, hf.RateLimit(2, per=10), hf.Bulkhead(1))
    call, _ = bench.attempt()
    before = bench.lane.rate.tat
    assert call.hedge(1) is None
    assert bench.lane.rate.tat == before


def test_only_a_closed_circuit_lets_a_hedge_pass():
    breaker = hf.Breaker(consecutive=1, open_for=1, half_open=2)
    bench = Bench(ALWAYS, breaker)
    before, _ = bench.attempt()
    failing, _ = bench.attempt()
    failing.failed(0, DROP)  # opens
    assert before.hedge(0.5) is None
    probe, _ = bench.attempt(now=5)
    assert probe.hedge(6) is None
    assert bench.lane.breaker.probes_out == 1


def test_a_throttled_client_sends_no_hedges():
    bench = Bench(ALWAYS, hf.ClientThrottle(k=1))
    call, _ = bench.attempt()
    assert call.hedge(1) == 1
    call.abandoned(2)
    for _ in range(3):
        call, _ = bench.attempt()
        call.failed(1, DROP)
    call = next(call for call, step in iter(lambda: _begun(bench), None) if type(step) is Attempt)
    assert bench.lane.throttle.chance(1) > 0
    assert call.hedge(1) is None


def _begun(bench):
    call = bench.call(1)
    return call, call.next(1)


# -- who gets it back ----------------------------------------------------------------------


def hedged(*inner):
    """Return a bench and a call with two copies out, each with a permit of a bulkhead."""
    breaker = hf.Breaker(consecutive=1)
    bench = Bench(hf.Retry(2, backoff=hf.Constant(1)), ALWAYS, breaker, hf.Bulkhead(2), *inner)
    call, _ = bench.attempt()
    assert call.hedge(1) == 1
    assert bench.active == 2
    call.outbox.clear()
    return bench, call


@pytest.mark.parametrize("winner", [0, 1])
def test_the_winner_counts_and_the_loser_is_neutral(winner):
    bench, call = hedged()
    call.won(1.5, winner)
    call.succeeded(2.0)
    assert bench.active == 0
    assert bench.lane.breaker.counts(2)[:2] == (1, 0)
    told = {event.hedge: (event.kind, event.seconds) for event in said(call, AttemptEvent)}
    assert told == ({0: ("ok", 1.5), 1: ("cancelled", 1.0)} if winner == 0 else
                    {0: ("cancelled", 2.0), 1: ("ok", 0.5)})  # fmt: skip


def test_hedging_does_not_move_the_percentile_that_it_goes_by():
    # Who cancels what is slow never sees how slow it was; five in a hundred stay five.
    bench = Bench(hf.Hedge("p95", budget=1))
    source = random.Random(7)
    hedges = 0
    for _ in range(4000):
        call, step = bench.attempt()
        seconds = source.expovariate(1)
        if seconds > step.hedge_after and call.hedge(step.hedge_after):
            hedges += 1
            seconds = min(seconds, step.hedge_after + source.expovariate(1))
            call.won(seconds, 1)
        call.succeeded(seconds)
    assert 0.035 < hedges / 4000 < 0.065


def test_the_first_failure_waits_for_the_other_copy():
    bench, call = hedged()
    assert call.copy_failed(1.5, 0, DROP) is True
    assert bench.active == 1
    assert bench.lane.breaker.state.value == "open"  # a copy that failed did fail
    call.won(1.7, 1)
    call.succeeded(1.7)
    assert bench.active == 0
    assert [(event.hedge, event.kind) for event in said(call, AttemptEvent)] == [
        (0, "transient"),
        (1, "ok"),
    ]


def test_an_attempt_fails_when_all_its_copies_have():
    bench, call = hedged()
    assert call.copy_failed(1.5, 1, DROP) is True
    assert call.copy_failed(2, 0, REFUSED) is False
    assert bench.active == 0
    step = call.failed(2, DROP)
    assert step == Wait(1.0, "backoff")  # as after any failed attempt
    assert call.verdicts == [DROP]
    assert len(said(call, AttemptEvent)) == 2
    again = call.next(10)
    assert (again.no, again.hedge_after) == (2, 1)


def test_each_copy_that_is_throttled_slows_an_adaptive_rate_down_once():
    busy = Verdict(hf.THROTTLED, Sent.YES, "http 429")
    bench = Bench(hf.Retry(2), ALWAYS, hf.RateLimit.adaptive())
    bench.succeed(*[0.1] * 9)
    call, _ = bench.attempt()
    call.hedge(1)
    rates = [math.inf]
    for copy in (0, 1):
        assert call.copy_failed(2, copy, busy) == (copy == 0)
        rates.append(bench.lane.rate.rate)
    assert rates[0] > rates[1] > rates[2]
    call.failed(2, busy)
    assert bench.lane.rate.rate == rates[2]


@pytest.mark.parametrize("copy", [0, 1])
def test_what_all_copies_would_be_told_ends_the_attempt_at_once(copy):
    bench, call = hedged()
    assert call.copy_failed(1.5, copy, WRONG) is False
    assert type(call.failed(1.5, WRONG)) is GiveUp
    assert bench.active == 0
    assert bench.lane.breaker.counts(2)[:2] == (0, 0)
    kinds = {event.hedge: event.kind for event in said(call, AttemptEvent)}
    assert kinds == {copy: "permanent", 1 - copy: "cancelled"}


def test_at_the_limit_the_attempt_has_failed_once():
    bench, call = hedged()
    call.failed(5, LATE)
    assert bench.active == 0
    assert bench.lane.breaker.state.value == "open"  # by the first copy
    kinds = {event.hedge: event.kind for event in said(call, AttemptEvent)}
    assert kinds == {0: "timeout", 1: "cancelled"}


def test_at_the_limit_a_hedge_alone_had_less_than_its_time():
    bench = Bench(hf.Retry(2), ALWAYS, hf.Breaker(consecutive=2), hf.Bulkhead(2))
    call, _ = bench.attempt()
    call.hedge(1)
    call.copy_failed(1.5, 0, DROP)
    call.failed(5, LATE)
    assert bench.lane.breaker.counts(5)[:2] == (1, 1)
    assert bench.active == 0


@pytest.mark.parametrize("before", ["nothing", "won", "first failed", "hedge failed"])
def test_an_abandoned_call_gives_everything_back_and_learns_nothing(before):
    bench, call = hedged()
    if before == "won":
        call.won(1.5, 1)
    elif before != "nothing":
        call.copy_failed(1.5, int(before == "hedge failed"), REFUSED)
    counts = bench.lane.breaker.counts(2)
    call.outbox.clear()
    call.abandoned(2)
    call.abandoned(3)
    assert bench.active == 0
    assert bench.lane.breaker.counts(2) == counts
    assert said(call, AttemptEvent) == []


def test_a_layer_between_retry_and_hedge_hears_of_the_attempt_once():
    bench = Bench(hf.Retry(2), hf.Breaker(), ALWAYS, hf.Bulkhead(4))
    call, _ = bench.attempt()
    call.hedge(1)
    call.copy_failed(2, 0, DROP)
    call.copy_failed(2, 1, DROP)
    call.failed(2, DROP)
    assert bench.lane.breaker.counts(2)[:2] == (1, 1)
    call.next(9)
    call.hedge(10)
    call.won(10, 1)
    call.succeeded(10)
    assert bench.lane.breaker.counts(10)[:2] == (2, 1)


def test_a_waiter_gets_the_permit_of_a_copy_that_failed():
    bench = Bench(ALWAYS, hf.Bulkhead(2, queue=1))
    call, _ = bench.attempt()
    call.hedge(1)
    waiting = bench.call(1)
    ticket = waiting.next(1).ticket
    call.copy_failed(2, 1, DROP)
    assert ticket.granted
    assert ticket in call.outbox  # the driver wakes it


def test_a_hedge_is_told():
    bench = Bench(hf.Hedge(1, budget=0.5))
    bench.succeed(1, 1, 1)
    call, _ = bench.attempt()
    call.hedge(1.25)
    (event,) = said(call, Hedged)
    assert (event.no, event.hedge, event.after, event.budget_left) == (1, 1, 1.25, 1.0)


ENDS = ("won", "late", "left")
STEPS = st.lists(st.sampled_from(("hedge", "drop", "refused", "wrong", *ENDS)), max_size=12)


@given(STEPS, st.randoms(use_true_random=False))
def test_permits_come_back_exactly_once_whatever_happens(steps, source):
    verdicts = {"drop": DROP, "refused": REFUSED, "wrong": WRONG}
    bench = Bench(hf.Retry(9, budget=None), hf.Hedge(1, max=2, budget=1), hf.Bulkhead(9))
    bench.succeed(*[1] * 10)
    call, _ = bench.attempt()
    copies, now = {0}, 0.0
    for step in steps:
        now += 1
        copy = source.choice(sorted(copies))
        answer = None
        if step == "hedge":
            copies |= {call.hedge(now)} - {None}
        elif step == "won":
            call.won(now, copy)
            call.succeeded(now)
        elif step == "late":
            answer = call.failed(now, LATE)
        elif step == "left":
            call.abandoned(now)
        elif call.copy_failed(now, copy, verdicts[step]):
            copies.discard(copy)
            assert copies
        else:
            answer = call.failed(now, verdicts[step])
        if step in ENDS[::2] or type(answer) is GiveUp:
            break
        if type(answer) is Wait:
            assert bench.active == 0
            now += answer.seconds
            call.next(now)
            copies = {0}
        assert bench.active == len(copies)
    call.abandoned(now)
    assert bench.active == 0


# -- which failure tells ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdicts", "chosen"),
    [
        ([DROP], 0),
        ([DROP, REFUSED], 0),
        ([REFUSED, DROP], 1),
        ([BUSY, DROP], 0),
        ([DROP, DROP], 1),
        ([Verdict(hf.THROTTLED, Sent.YES, "http 429", retry_after=5.0), BUSY], 0),
        ([BUSY, REFUSED, WRONG], 2),
        ([Verdict(hf.PERMANENT, Sent.NO, "ValueError"), BUSY], 0),
    ],
)
def test_the_failure_that_says_most_stands_for_the_attempt(verdicts, chosen):
    assert most_telling(verdicts) == chosen


def test_the_state_without_samples_knows_no_time():
    assert HedgeState(hf.Hedge()).after is None
