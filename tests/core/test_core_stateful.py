"""Random walks of the stateful parts beside models that are too simple to be wrong."""

from __future__ import annotations

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

import holdfast as hf
from holdfast.core.breaker import BreakerState, Permit, Result, State
from holdfast.core.budget import Budget
from holdfast.core.bulkhead import BulkheadState, Ticket
from holdfast.core.verdict import Kind

settings.register_profile("push", max_examples=60, stateful_step_count=50, deadline=None)
PUSH = settings.get_profile("push")


class BulkheadWalk(RuleBasedStateMachine):
    """Permits are never lost, never doubled, and never go to a newcomer past the queue."""

    held = Bundle("held")

    def __init__(self):
        super().__init__()
        self.state = BulkheadState(hf.Bulkhead(3, queue=4))
        self.holders = 0
        self.queue: list[Ticket] = []

    @rule(target=held)
    def enter(self):
        before = self.holders, len(self.queue)
        answer = self.state.acquire()
        if answer is True:
            assert before[0] < 3
            assert not self.queue
            self.holders += 1
            return True
        assert before[0] == 3
        if answer is False:
            assert before[1] == 4
        else:
            self.queue.append(answer)
        return None

    @rule(permit=consumes(held))
    def leave(self, permit):
        if not permit:
            return
        served = self.state.release()
        self.holders -= 1
        if self.queue:
            assert served is self.queue.pop(0)
            self.holders += 1  # it holds now; below it leaves at once or keeps it
            self.granted = served
        else:
            assert served is None

    @rule(index=st.integers(0, 3))
    def give_up(self, index):
        if index < len(self.queue):
            assert self.state.leave(self.queue.pop(index)) is None

    @rule()
    def served_one_gives_up(self):
        ticket = getattr(self, "granted", None)
        if ticket is not None:
            self.granted = None
            served = self.state.leave(ticket)
            self.holders -= 1
            if self.queue:
                assert served is self.queue.pop(0)
                self.holders += 1
                self.granted = served

    @invariant()
    def counts_are_true(self):
        assert self.state.active == self.holders
        assert self.state.queued == len(self.queue)
        assert self.state.waiting == len(self.queue)


class BreakerWalk(RuleBasedStateMachine):
    """Half-open never has more probes out than allowed; old results never move it."""

    out = Bundle("out")

    def __init__(self):
        super().__init__()
        self.options = hf.Breaker(consecutive=3, min_calls=6, window=10, half_open=2)
        self.state = BreakerState(self.options)
        self.now = 0.0

    @rule(seconds=st.floats(0, 8))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(target=out, limit=st.sampled_from([1.0, math.inf]))
    def ask(self, limit):
        before, until = self.state.state, self.state.until
        answer = self.state.acquire(self.now, limit, 0.5)
        if before is State.OPEN and self.now < until:
            assert answer == until - self.now
        if before is State.CLOSED:
            assert isinstance(answer, Permit)
        return answer if isinstance(answer, Permit) else None

    @rule(permit=consumes(out), result=st.sampled_from(Result))
    def tell(self, permit, result):
        if permit is None:
            return
        gen, state = self.state.gen, self.state.state
        self.state.settle(permit, result, 0.1, self.now, 0.5)
        if permit.gen != gen or result is Result.NEUTRAL:
            assert (self.state.gen, self.state.state) == (gen, state)
        if result is Result.OK:
            assert self.state.state in (state, State.CLOSED)

    @invariant()
    def probes_are_bounded(self):
        live = [probe for probe in self.state._probes if probe.lease > self.now]
        assert len(live) <= self.options.half_open
        assert not live or self.state.state is State.HALF_OPEN

    @invariant()
    def each_transition_is_told_once(self):
        assert len(self.state.changes) == self.state.gen

    @invariant()
    def the_fast_path_is_open_only_when_undisturbed(self):
        if self.state.calm_until > self.now:
            assert self.state.state is State.CLOSED


class BudgetWalk(RuleBasedStateMachine):
    """Tokens stay within the bucket, and what is paid was allowed."""

    calls = Bundle("calls")

    def __init__(self):
        super().__init__()
        self.state = Budget(capacity=40).build()
        self.model = 40.0

    @rule(target=calls)
    def begin(self):
        self.state.started(0.0)
        return [None]

    @rule(call=calls, kind=st.sampled_from([Kind.TRANSIENT, Kind.THROTTLED]))
    def retry(self, call, kind):
        cost = 14 if kind is Kind.TRANSIENT else 5
        assert self.state.allows(kind, 0.0, call[0]) == (self.model >= cost)
        if self.model >= cost:
            call[0] = self.state.pay(kind, 0.0, call[0])
            self.model -= cost

    @rule(call=consumes(calls), ok=st.booleans())
    def end(self, call, ok):
        self.state.ended(call[0], ok=ok)
        if ok:
            self.model = min(40.0, self.model + (1 if call[0] is None else call[0]))

    @invariant()
    def tokens_are_those_of_the_model(self):
        assert self.state.left(0.0) == self.model
        assert self.state.idle == (self.model == 40.0)


TestBulkheadWalk = BulkheadWalk.TestCase
TestBreakerWalk = BreakerWalk.TestCase
TestBudgetWalk = BudgetWalk.TestCase
for case in (TestBulkheadWalk, TestBreakerWalk, TestBudgetWalk):
    case.settings = PUSH
