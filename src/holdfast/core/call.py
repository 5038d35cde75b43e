"""The state machine of one logical call: `next` says what to do, results are told to it.

A driver asks `next(now)` and obeys: make an `Attempt`, `Wait`, or raise what `GiveUp` says.
It tells how the attempt ended with `succeeded`, `failed` (which answers like `next`) or
`abandoned`. The machine has no clock, lock or I/O: times and draws come as arguments, events
and the tickets to wake are left in `outbox` for the driver to deliver without its lock.

Phases and inputs are the table below; anything else is a driver's mistake (RuntimeError).

Admission runs through the layers from outside to inside. Outer layers (before `Retry`) are
held for the whole call, inner ones per attempt: a wait between attempts holds no inner
permit. Whatever ends the call gives everything back exactly once.

An attempt may be hedged: `hedge` admits one more copy of it, which passes the layers inside
`Hedge` with permits of its own. The driver reports each copy that ends (`copy_failed`) or wins
(`won`), then the end of the attempt as ever; copies that are still out then are the losers,
whose permits go back, neutral.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypedDict

from holdfast.core import events
from holdfast.core.adaptive import LimitChange
from holdfast.core.breaker import Change, Permit, Result, State
from holdfast.core.deadline import TICK
from holdfast.core.errors import (
    BudgetEmpty,
    BulkheadFull,
    CircuitOpen,
    DeadlineExceeded,
    RateLimited,
    Rejected,
)
from holdfast.core.feedback import heard_answer, heard_failure, heard_success, limit_event
from holdfast.core.hedge import Copies, enter_at_once, hedge_after, is_final
from holdfast.core.rate_headers import mentions_limits
from holdfast.core.retry import Request, Rule, gate, most_retries
from holdfast.core.retry_after import combine
from holdfast.core.verdict import Kind, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.core.bulkhead import Ticket
    from holdfast.core.deadline import Scope
    from holdfast.core.policy import Lane, Shape
    from holdfast.core.retry_after import Headers


class Labels(TypedDict):
    """What every event carries."""

    time: float
    policy: str
    key: str
    call_id: int


class Phase(enum.Enum):
    """Where a logical call is."""

    NEW = enum.auto()
    WAITING = enum.auto()  # between attempts, or for admission
    ATTEMPT = enum.auto()
    COMMITTED = enum.auto()  # a stream whose first item went out
    DONE = enum.auto()
    GAVE_UP = enum.auto()
    ABANDONED = enum.auto()


class Input(enum.Enum):
    """What moves it."""

    MUST_WAIT = enum.auto()
    ADMITTED = enum.auto()
    COMMIT = enum.auto()
    SUCCEEDED = enum.auto()
    STOP = enum.auto()
    ABANDON = enum.auto()


_LIVE = (Phase.NEW, Phase.WAITING, Phase.ATTEMPT, Phase.COMMITTED)
TRANSITIONS: dict[tuple[Phase, Input], Phase] = {
    (Phase.NEW, Input.MUST_WAIT): Phase.WAITING,
    (Phase.NEW, Input.ADMITTED): Phase.ATTEMPT,
    (Phase.WAITING, Input.MUST_WAIT): Phase.WAITING,
    (Phase.WAITING, Input.ADMITTED): Phase.ATTEMPT,
    (Phase.ATTEMPT, Input.SUCCEEDED): Phase.DONE,
    (Phase.ATTEMPT, Input.MUST_WAIT): Phase.WAITING,
    (Phase.ATTEMPT, Input.COMMIT): Phase.COMMITTED,
    (Phase.COMMITTED, Input.COMMIT): Phase.COMMITTED,
    (Phase.COMMITTED, Input.SUCCEEDED): Phase.DONE,
    (Phase.COMMITTED, Input.MUST_WAIT): Phase.WAITING,
    **{(phase, Input.STOP): Phase.GAVE_UP for phase in _LIVE},
    **{(phase, Input.ABANDON): Phase.ABANDONED for phase in _LIVE},
}
"""Every cell that exists."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """Make attempt `no` (from 1). timeout: seconds it may take; infinite without a limit.

    final: the limit is the deadline of the whole call, not the timeout of this attempt.
    hedge_after: seconds after which to ask `hedge` for one more copy; infinite if it is too early
    for that; None if the attempt may not be hedged at all.
    """

    no: int
    timeout: float
    final: bool
    hedge_after: float | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait up to `seconds`, or until `ticket` is granted; then ask `next` again.

    why: "backoff", "retry_after", "bulkhead" or "rate_limit".
    """

    seconds: float
    why: str
    ticket: Ticket | None = None


@dataclass(frozen=True, slots=True)
class GiveUp:
    """End with `error`, or with the failure of the last attempt if that is None."""

    reason: str
    error: Rejected | DeadlineExceeded | None
    retry_after: float | None = None


Step: TypeAlias = Attempt | Wait | GiveUp

_FAILURES = Kind.CONNECT | Kind.TRANSIENT | Kind.TIMEOUT | Kind.UNKNOWN
_OVERLOAD = Kind.CONNECT | Kind.TRANSIENT | Kind.TIMEOUT | Kind.THROTTLED | Kind.CONCURRENCY
_EARLY = 1e-8  # seconds that a loop may wake a task early: its clock's resolution, and rounding
_KEPT_VERDICTS = 100  # a download may make thousands of attempts with progress between them
_CIRCUIT_EVENTS = {
    State.OPEN: events.CircuitOpened,
    State.ISOLATED: events.CircuitOpened,
    State.HALF_OPEN: events.CircuitHalfOpened,
    State.CLOSED: events.CircuitClosed,
    State.DISABLED: events.CircuitClosed,
}


def result_of(verdict: Verdict) -> Result:
    """Return what this failure says about the health of the backend."""
    return Result.FAILED if verdict.kind & _FAILURES and not verdict.local else Result.NEUTRAL


def _is_overload(verdict: Verdict | None) -> bool:
    return verdict is not None and bool(verdict.kind & _OVERLOAD) and not verdict.local


class Call:
    """One logical call. See the module's text."""

    __slots__ = (
        "_advanced", "_attempt_at", "_budget_ends", "_copies", "_cost", "_due", "_first_item_at",
        "_held", "_lane", "_last_u", "_layers", "_name", "_retries", "_shape", "_ticket", "_u",
        "_wait_why",
        "attempts", "call_id", "expires", "nested", "outbox", "phase", "reason", "request",
        "resumable", "retry_after", "reused", "started", "verdicts", "waited", "watched",
    )  # fmt: skip

    def __init__(
        self,
        shape: Shape,
        lane: Lane,
        now: float,
        scope: Scope,
        *,
        name: str = "",
        call_id: int = 0,
        watched: bool = False,
        request: Request | None = None,
        draw: Callable[[], float],
    ) -> None:
        """Begin at `now` inside `scope`. draw: uniform in [0, 1); watched: collect events."""
        self._shape = shape
        self._lane = lane
        self._name = name
        self._u = draw
        self.call_id = call_id
        self.watched = watched
        self.request = request
        self.started = now
        self.expires = min(scope[0], now + shape.seconds)
        rule = shape.rule
        self.nested = scope[1] and rule is not None and rule.options.nested == "suppress"
        self.phase = Phase.NEW
        self.attempts = 0  # in all
        self.waited = 0.0
        self.verdicts: list[Verdict] = []
        self.outbox: list[events.Event | Ticket] = []
        self.resumable = False
        self.reused = False  # adapters: the attempt went out on a kept-alive connection
        self.reason = ""  # why it gave up
        self.retry_after: float | None = None
        self._layers = shape.outer + shape.inner
        self._held: list[object] = []  # one permit per layer, outermost first
        self._retries = 0  # since the last progress
        self._last_u = 0.5  # the draw of the backoff before, for the decorrelated one
        self._cost: float | None = None  # what the last retry cost
        self._budget_ends = False  # `long_poll`: the wait that is left before giving up
        self._due = now
        self._wait_why = ""
        self._ticket: Ticket | None = None
        self._attempt_at = now
        self._first_item_at: float | None = None  # of the attempt at hand, if it is a stream
        self._advanced = False  # the attempt at hand made progress
        self._copies: Copies | None = None  # of the attempt at hand, once it is hedged
        lane.budget.started(now)

    def adopt(self, gen: int) -> None:
        """Take over an attempt that the driver's fast path admitted under generation `gen`."""
        self._held = [Permit(gen) if layer == "breaker" else None for layer in self._layers]
        if "bulkhead" not in self._layers:
            self._lane.bulkhead.active -= 1  # it counts there whether or not there is a limit
        self._go(Input.ADMITTED)
        self.attempts = 1

    # -- what to do --------------------------------------------------------------------

    def next(self, now: float) -> Step:
        """Say what to do now. Asking too early only says how long is left."""
        if self.phase is not Phase.NEW and self.phase is not Phase.WAITING:
            raise RuntimeError(f"`next` in phase {self.phase.name}")
        if now >= self.expires:
            return self._give_up("deadline", now, self._too_late())
        ticket = self._ticket
        if ticket is not None:
            if not ticket.granted:
                return Wait(self.expires - now, "bulkhead", ticket)
            self._ticket = None
            self._held.append(None)
        elif now < self._due - _EARLY:
            return Wait(self._due - now, self._wait_why)
        if self._budget_ends:
            return self._give_up("budget", now)
        return self._admit(now)

    def _admit(self, now: float) -> Step:
        while len(self._held) < len(self._layers):
            step = _ENTER[self._layers[len(self._held)]](self, now)
            if isinstance(step, Rejected):
                return self._reject(step, now)
            if step is not None:
                self._go(Input.MUST_WAIT)
                self._say_wait(now, step)
                return step
        self._go(Input.ADMITTED)
        self.attempts += 1
        self._attempt_at = now
        self._first_item_at = None
        self._advanced = False
        left = self.expires - now
        limit = self._shape.limit
        timeout = min(limit, left)
        hedge = self._lane.hedge
        after = None
        if hedge is not None:
            hedge.started()
            after = hedge_after(hedge, timeout) if self._may_run_twice() else None
        return Attempt(self.attempts, timeout, left <= limit, after)

    def _enter_bulkhead(self, now: float) -> Wait | Rejected | None:
        answer = self._lane.bulkhead.acquire()
        if answer is True:
            self._held.append(None)
            return None
        if answer is False:
            return BulkheadFull(
                f"all {self._lane.bulkhead.limit:g} permits of {self._label()} are taken "
                f"and its queue is full: {self._lane.bulkhead.queued}"
            )
        self._ticket = answer
        return Wait(self.expires - now, "bulkhead", answer)

    def _enter_rate(self, now: float) -> Wait | Rejected | None:
        wait = self._lane.rate.take(now)
        if now + wait >= self.expires:
            self._lane.rate.give_back()
            return RateLimited(
                f"the next slot of {self._label()} is in {wait:.3g} s, after the deadline",
                retry_after=wait,
            )
        self._held.append(None)
        if not wait:
            return None
        self._due = now + wait
        self._wait_why = "rate_limit"
        return Wait(wait, "rate_limit")

    def _enter_throttle(self, now: float) -> Wait | Rejected | None:
        throttle = self._lane.throttle
        assert throttle is not None
        if not throttle.acquire(now, self._u()):
            return BudgetEmpty(f"{self._label()} refuses most calls: this one was not sent")
        self._held.append(None)
        return None

    def _enter_breaker(self, now: float) -> Wait | Rejected | None:
        breaker = self._lane.breaker
        limit = min(self._shape.limit, self.expires - now)
        answer = breaker.acquire(now, limit, self._u())
        self._say_changes(now)
        if isinstance(answer, Permit):
            self._held.append(answer)
            return None
        after = answer if answer < math.inf else None
        text = f"the circuit of {self._label()} is {breaker.state.value}"
        return CircuitOpen(
            text if after is None else f"{text}: come back in {after:.3g} s", retry_after=after
        )

    # -- copies of one attempt -----------------------------------------------------------

    def _may_run_twice(self) -> bool:
        # An idempotency key is not enough: servers answer 409 to a key that is in use.
        request = self.request
        return request is None or (request.is_safe_to_repeat and request.replayable)

    def hedge(self, now: float) -> int | None:
        """Admit one more copy of the attempt; return its number, from 1, or None.

        None is for good: there were enough, no budget is left, or it would have to wait in a
        layer inside `Hedge` or is refused there. Whatever it took meanwhile was given back.
        """
        if self.phase is not Phase.ATTEMPT:
            raise RuntimeError(f"`hedge` in phase {self.phase.name}")
        state = self._lane.hedge
        copies = self._copies or Copies()
        if (
            state is None
            or copies.sent >= state.options.max
            or copies.decided_at is not None
            or now >= self.expires
            or not self._may_run_twice()
            or not state.allows
        ):
            return None
        held = self._enter_all_at_once(now)
        if held is None:
            return None
        state.pay()
        copies.sent += 1
        copies.out[copies.sent] = (now, held)
        self._copies = copies
        if self.watched:
            self.outbox.append(
                events.Hedged(
                    **self._labels(now),
                    no=self.attempts,
                    hedge=copies.sent,
                    after=now - self._attempt_at,
                    budget_left=state.tokens,
                )
            )
        return copies.sent

    def _enter_all_at_once(self, now: float) -> list[object] | None:
        held: list[object] = []
        layers = self._layers[self._shape.hedge_from :]
        for layer in layers:
            entered = enter_at_once(self._lane, layer, now)
            if entered is None:
                if "rate" in layers[: len(held)]:
                    self._lane.rate.give_back()
                self._settle(0, Result.NEUTRAL, 0.0, now, None, held)
                return None
            held.append(entered[0])
        return held

    def won(self, now: float, copy: int) -> None:
        """Note that this copy has the answer; `succeeded` follows once the losers are gone."""
        copies = self._copies
        if copies is not None and copies.decided_at is None:
            copies.winner, copies.decided_at = copy, now

    def copy_failed(self, now: float, copy: int, verdict: Verdict) -> bool:
        """Take the failure of one copy of a hedged attempt; return whether to wait for others.

        If not, `failed` follows. Without a hedge there is nothing to tell here.
        """
        copies = self._copies
        if copies is None:
            return False
        result = Result.NEUTRAL if self._advanced else result_of(verdict)
        began = copies.out[copy][0] if copy else self._attempt_at
        self._hear_failure(now, now - began, verdict, result)
        self._leave_copy(copies, copy, result, now, verdict)
        if self.watched:
            self._say_attempt(now, verdict.kind.name or "", verdict, copy, began)
        if is_final(verdict) or not (copies.first or copies.out):
            copies.decided_at = now
        return copies.decided_at is None

    def _leave_copy(
        self, copies: Copies, copy: int, result: Result, now: float, verdict: Verdict | None = None
    ) -> float:
        """Give back the permits that a copy has of its own; return when it was sent."""
        if copy:
            began, held = copies.out.pop(copy)
            self._settle(0, result, now - began, now, verdict, held)
            return began
        copies.first = False
        began = self._attempt_at
        self._settle(self._shape.hedge_from, result, now - began, now, verdict)
        return began

    def _lose(self, copies: Copies, now: float, *, first: bool, said: bool = True) -> None:
        """Let go of hedges that are still out, and of the `first` copy if that lost as well."""
        lost = [*([0] if first and copies.first else []), *copies.out]
        for copy in lost:
            began = self._leave_copy(copies, copy, Result.NEUTRAL, now)
            if self.watched and said:
                self._say_attempt(now, "cancelled", None, copy, began)

    # -- what happened -----------------------------------------------------------------

    def succeeded(self, now: float) -> None:
        """Take the success of the attempt: the call is done."""
        self._go(Input.SUCCEEDED)
        copies, self._copies = self._copies, None
        ended = now if self._first_item_at is None else self._first_item_at
        copy = 0
        began = self._attempt_at
        lane = self._lane
        if copies is not None and copies.winner is not None:
            copy = copies.winner
            assert copies.decided_at is not None
            ended = copies.decided_at  # before the losers were waited for
            if copy:
                began, held = copies.out.pop(copy)
                self._settle(0, Result.OK, ended - began, now, None, held)
            self._lose(copies, now, first=copy > 0)
        seconds = ended - self._attempt_at
        lane.measured(seconds)
        if self._shape.learns:
            self._say_limits(now, heard_success(lane, now, seconds, self._u))
        self._settle(0, Result.OK, seconds, now)
        lane.budget.ended(self._cost, ok=True)
        if self.watched:
            self._say_attempt(ended, "ok", None, copy, began)

    def failed(self, now: float, verdict: Verdict, error: BaseException | None = None) -> Step:
        """Take the failure of the attempt and say what follows: `Wait` or `GiveUp`.

        error: looked at for `on=` types only, never kept.
        """
        committed = self.phase is Phase.COMMITTED
        if self.phase is not Phase.ATTEMPT and not committed:
            raise RuntimeError(f"`failed` in phase {self.phase.name}")
        self.verdicts.append(verdict)
        del self.verdicts[:-_KEPT_VERDICTS]
        lane = self._lane
        seconds = now - self._attempt_at
        copies, self._copies = self._copies, None
        if copies is not None:
            # Out of time, the first copy has failed; those sent later had less than their time.
            self._lose(copies, now, first=copies.decided_at is not None)
        if self.watched and (copies is None or copies.first):
            self._say_attempt(now, verdict.kind.name or "", verdict)
        # What gave something before it broke is not down: a download of fifty drops that
        # advances each time must not open its own breaker.
        result = Result.NEUTRAL if self._advanced else result_of(verdict)
        if copies is None or copies.first:  # else each copy was heard as it failed
            self._hear_failure(now, seconds, verdict, result)
        self._settle(len(self._shape.outer), result, seconds, now, verdict)
        lane.budget.failed()
        if committed and not self.resumable:
            return self._give_up("committed", now)
        return self._repeat(now, verdict, error)

    def _hear_failure(self, now: float, seconds: float, verdict: Verdict, result: Result) -> None:
        lane = self._lane
        if self._shape.learns or lane.rate.learns:
            unwell = result is Result.FAILED
            heard = heard_failure(lane, now, seconds, self._u, verdict=verdict, failed=unwell)
            self._say_limits(now, heard)

    def _repeat(self, now: float, verdict: Verdict, error: BaseException | None) -> Step:
        """Decide in this order: gate, `on`, attempts, budget, deadline; the first no ends it."""
        rule = self._shape.rule
        reason: str | None = None
        if now >= self.expires:
            reason = "deadline"
        elif rule is None:
            reason = "attempts"
        else:
            reason = gate(self.request, verdict, keyed=rule.options.idempotency_key)
            if reason is None and not rule.matcher.matches(verdict, error):
                reason = "permanent"
            elif reason is None and self._retries >= most_retries(rule, verdict, error):
                reason = "attempts"
            elif reason is None and self.nested:
                reason = "nested"
        if rule is None or reason is not None:
            return self._give_up(reason or "attempts", now)
        return self._schedule(rule, now, verdict)

    def _schedule(self, rule: Rule, now: float, verdict: Verdict) -> Step:
        budget = self._lane.budget
        paid = budget.allows(verdict.kind, now, self._cost)
        if not paid and not rule.options.long_poll:
            return self._give_up("budget", now)
        u = self._u()
        backoff = rule.backoff.delay(self._retries + 1, verdict, u, self._last_u)
        self._last_u = u
        hint = verdict.retry_after
        seconds = combine(backoff, hint, self._u(), verdict.hint) if hint is not None else backoff
        remaining = self.expires - now
        if hint is not None and hint > remaining:
            return self._give_up("retry_after_too_long", now, retry_after=hint)
        usual = self._lane.durations.median()
        if seconds >= remaining - TICK or (usual is not None and remaining - seconds < usual):
            return self._give_up("deadline", now)
        if paid:
            self._cost = budget.pay(verdict.kind, now, self._cost)
            self._retries += 1
        else:
            self._budget_ends = True
        self._due = now + seconds
        self._wait_why = "retry_after" if seconds > backoff else "backoff"
        self._go(Input.MUST_WAIT)
        step = Wait(seconds, self._wait_why)
        self._say_wait(now, step)
        return step

    @property
    def learns(self) -> bool:
        """Whether `answered` is of any use."""
        return self._lane.rate.learns

    def answered(self, now: float, headers: Headers | None, now_wall: float | None = None) -> None:
        """Take the headers of an answer, good or bad: the rate limit learns from them.

        To be told as soon as they are there, once per answer, in any phase. headers: a mapping
        or pairs, names in any case, text or bytes; an iterator is not rewound.  now_wall:
        seconds since the epoch, for a reset that is a time of day.
        """
        # Most answers say nothing: then this is all, and takes less than a microsecond.
        if self._lane.rate.learns and mentions_limits(headers):
            news = heard_answer(self._lane, now, headers, now_wall)
            if news is not None:
                self._say_limits(now, [news])

    def progressed(self) -> None:
        """Start the attempts and the backoff afresh; deadline and budget go on."""
        self._retries = 0
        self._advanced = True

    def committed(self, now: float, *, resumable: bool) -> None:
        """Note that an item of a stream went out: no repetition from the start.

        The attempt took until its first item; how long the rest is read is up to the reader.
        """
        if self.phase is Phase.ATTEMPT:
            self._first_item_at = now
        self._go(Input.COMMIT)
        self.resumable = resumable

    def abandoned(self, now: float) -> None:
        """End without a result: cancelled, closed or dropped. Everything goes back, neutral."""
        if self.phase in _LIVE:
            self._go(Input.ABANDON)
            self._end_early(now)

    # -- ends --------------------------------------------------------------------------

    def _give_up(
        self,
        reason: str,
        now: float,
        error: Rejected | DeadlineExceeded | None = None,
        *,
        retry_after: float | None = None,
    ) -> GiveUp:
        self._go(Input.STOP)
        self.reason, self.retry_after = reason, retry_after
        self._end_early(now)
        if self.watched:
            self.outbox.append(
                events.GaveUp(
                    **self._labels(now),
                    reason=reason,
                    attempts=self.attempts,
                    seconds=now - self.started,
                )
            )
        return GiveUp(reason, error, retry_after)

    def _reject(self, error: Rejected, now: float) -> GiveUp:
        error.policy, error.key = self._name, self._lane.key
        if self.watched:
            self.outbox.append(
                events.Refused(
                    **self._labels(now), kind=type(error).__name__, retry_after=error.retry_after
                )
            )
        return self._give_up("rejected", now, error, retry_after=error.retry_after)

    def _end_early(self, now: float) -> None:
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            self._wake(self._lane.bulkhead.leave(ticket))
        copies, self._copies = self._copies, None
        if copies is not None:
            self._lose(copies, now, first=True, said=False)
        # Attempts have settled their own layers. Inner layers that are still held were admitted
        # for an attempt that never began; the outer ones hear how the last attempt ended.
        self._settle(len(self._shape.outer), Result.NEUTRAL, 0.0, now)
        last = self.verdicts[-1] if self.verdicts and self.phase is Phase.GAVE_UP else None
        result = Result.NEUTRAL if last is None else result_of(last)
        self._settle(0, result, now - self.started, now, last)
        self._lane.budget.ended(self._cost, ok=False)

    def _settle(
        self, down_to: int, result: Result, seconds: float, now: float,
        verdict: Verdict | None = None, hedge: list[object] | None = None,
    ) -> None:  # fmt: skip
        """Give permits back from the innermost outwards, leaving the first `down_to`.

        hedge: those of a hedge, which has permits of the layers inside `Hedge` only.
        """
        lane = self._lane
        held, outside = (self._held, 0) if hedge is None else (hedge, self._shape.hedge_from)
        while len(held) > down_to:
            permit = held.pop()
            layer = self._layers[outside + len(held)]
            if layer == "bulkhead":
                self._wake(lane.bulkhead.release())
            elif layer == "breaker":
                assert isinstance(permit, Permit)
                lane.breaker.settle(permit, result, seconds, now, self._u())
                self._say_changes(now)
            elif layer == "throttle" and lane.throttle is not None and _is_overload(verdict):
                lane.throttle.refused(now)

    def _too_late(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"the deadline of {self._label()} passed after "
            f"{max(0.0, self.expires - self.started):.3g} s",
            policy=self._name,
            key=self._lane.key,
        )

    def _go(self, what: Input) -> None:
        try:
            self.phase = TRANSITIONS[self.phase, what]
        except KeyError:
            raise RuntimeError(f"{what.name} in phase {self.phase.name}") from None

    # -- what is said ------------------------------------------------------------------

    def _wake(self, ticket: Ticket | None) -> None:
        if ticket is not None:
            self.outbox.append(ticket)

    def _label(self) -> str:
        name, key = self._name or "this policy", self._lane.key
        return f"`{name}` for `{key}`" if key else f"`{name}`"

    def _labels(self, now: float) -> Labels:
        return {
            "time": now,
            "policy": self._name,
            "key": self._lane.key,
            "call_id": self.call_id,
        }

    def _say_attempt(
        self, now: float, kind: str, verdict: Verdict | None = None, copy: int = 0,
        began: float | None = None,
    ) -> None:  # fmt: skip
        self.outbox.append(
            events.Attempt(
                **self._labels(now),
                no=self.attempts,
                kind=kind.lower(),
                sent=_sent(kind, verdict),
                seconds=now - (self._attempt_at if began is None else began),
                reused=self.reused,
                reason="" if verdict is None else verdict.reason,
                hedge=copy,
            )
        )

    def _say_wait(self, now: float, step: Wait) -> None:
        if step.ticket is None:
            self.waited += step.seconds
        if self.watched:
            left = self._lane.budget.left(now)
            self.outbox.append(
                events.Waited(
                    **self._labels(now),
                    seconds=step.seconds,
                    why=step.why,
                    next_at=now + step.seconds,
                    budget_left=left if left < math.inf else None,
                )
            )

    def _say_limits(self, now: float, heard: list[LimitChange | Ticket]) -> None:
        for item in heard:
            if not isinstance(item, LimitChange):
                self._wake(item)
            elif self.watched:
                self.outbox.append(limit_event(item, self._labels(now)))

    def _say_changes(self, now: float) -> None:
        changes = self._lane.breaker.changes
        if changes and self.watched:
            self.outbox.extend(circuit_events(changes, self._labels(now)))
        changes.clear()


def _sent(kind: str, verdict: Verdict | None) -> str:
    if verdict is None:
        return "maybe" if kind == "cancelled" else "yes"
    return verdict.sent.value


def circuit_events(changes: list[Change], labels: Labels) -> list[events.Event]:
    """Return the events that tell of a breaker's transitions, alerts included."""
    found: list[events.Event] = []
    for change in changes:
        kind = _CIRCUIT_EVENTS[change.state]
        found.append(kind(**labels, gen=change.gen, why=change.why, until=change.until))
        if change.alert is not None:
            text = f"circuit {change.state.value}: {change.why}"
            cleared = not change.alert
            found.append(events.Alert(**labels, name="circuit", text=text, cleared=cleared))
    return found


_ENTER: dict[str, Callable[[Call, float], Wait | Rejected | None]] = {
    "bulkhead": Call._enter_bulkhead,
    "rate": Call._enter_rate,
    "throttle": Call._enter_throttle,
    "breaker": Call._enter_breaker,
}
