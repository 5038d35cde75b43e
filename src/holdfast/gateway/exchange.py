"""One request on the long way: what follows from what comes back, and from what does not in time.

The states, and what leads from one to another, are in `states`. Nothing here is a task: what
happens next is told by an attempt, by the wheel, by the line, or by the client who leaves.

    request     what is known of it, and what has been done
    search      whom it asks next, and when
    attempt     one try at one endpoint, with its connection
    judging     what is made of an answer before it is given, and `refusals` what it means
    answering   what of it is held, and how it is given; `relay` passes tokens on
    ending      what the client gets if there is no answer, or no whole one
    short       the way of most requests, which come here only if something is odd
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from holdfast.core.balance import Pick, Wait
from holdfast.core.breaker import Result
from holdfast.core.line import Phase
from holdfast.core.verdict import Sent
from holdfast.gateway.attempt import Attempt
from holdfast.gateway.ending import cut_short, end, give, give_up
from holdfast.gateway.judging import (
    Failure,
    Judgement,
    judge,
    judge_late,
    judge_whole,
    refusal_in,
    result_of_timeout,
)
from holdfast.gateway.ledger import CANCELLED, CUT
from holdfast.gateway.refusals import Cools, Refusal
from holdfast.gateway.search import NOBODY, GiveUp
from holdfast.gateway.states import (
    ANSWER,
    ANSWERING,
    CHOOSING,
    COMMIT,
    CONNECTING,
    DIAL,
    END,
    FAIL,
    OVER,
    PASSING,
    SEND,
    SENT,
    TRANSITIONS,
    UPLOAD,
    WAIT,
    WAITING,
    WOKEN,
)
from holdfast.runtime.clock import clock
from holdfast.runtime.random import rng
from holdfast.runtime.wheel import Due

if TYPE_CHECKING:
    from holdfast.gateway.answering import Passage
    from holdfast.gateway.judging import Judged
    from holdfast.gateway.request import Request
    from holdfast.gateway.search import Search, Step
    from holdfast.gateway.states import State
    from holdfast.gateway.upstream import Connection


class Exchange(Due):
    """The work for one request, whose limits are its own.

    Its maker calls `begin`, or `take_over` for one that was sent on the short way.
    """

    __slots__ = ("_attempt", "_begun", "_last", "request", "state")

    def __init__(self, request: Request) -> None:
        self.due = self._slot = math.inf  # as `Due` has it
        self.request = request
        self.state: State = CHOOSING
        self._begun: Search | None = None
        self._attempt: Attempt | None = None  # that under way, or the latest
        self._last: Attempt | None = None  # whose answer is given if nothing better comes

    def begin(self, now: float) -> None:
        """Start. now: monotonic."""
        request, search = self.request, self._search
        cluster = request.cluster
        if cluster.counting.is_known:
            endpoints = cluster.balancer.endpoints
            search.tried = tuple(cluster.counting.unable(request.head, endpoints, now))
        if cluster.line.calm or cluster.line.admits(self):
            self._choose(now)
        else:
            self._go(search.queue(cluster.turns.next, now), now)

    def take_over(self, pick: Pick, connection: Connection, due: float) -> Attempt:
        """Go on with what was sent on the short way. due: when that has lasted too long."""
        self.request.ask(pick, self.request.began)
        self._attempt = attempt = Attempt(self, self.request, pick)
        attempt.take_over(connection)
        self.state = TRANSITIONS[self.state, SEND]
        self._limit(due)
        return attempt

    @property
    def _search(self) -> Search:
        """Whom to ask next; not made for an answer that was merely odd, which asks nobody."""
        if self._begun is None:
            self._begun = self.request.search()
        return self._begun

    def _limit(self, due: float) -> None:
        """Set when this state has lasted too long; the whole request has its own limit."""
        self.request.cluster.wheel.set(self, min(due, self.request.deadline))

    # -- whom to ask -----------------------------------------------------------------------------

    def _choose(self, now: float) -> None:
        self._go(self._search.next(now, rng.draw(), intact=self.request.is_intact), now)

    def _use_latest(self) -> bool:
        latest = self.request.use_latest()
        if latest is not None:
            self._search.use(latest.balancer, latest.retries, latest.bounds)
        return latest is not None

    def _go(self, step: Step, now: float) -> None:
        """Do what the search has found out; where it found nobody, by the configuration of now."""
        if (isinstance(step, Wait) or step in NOBODY) and self._use_latest():
            step = self._search.next(now, rng.draw(), intact=self.request.is_intact)
        if isinstance(step, Pick):
            self._ask(step, now)
        elif isinstance(step, GiveUp):
            self._give_up(step.code)
        elif isinstance(step, Wait) and not self.request.cluster.turns.enter(self, step):
            self._give_up("HF-3103")
        else:
            self.state = TRANSITIONS[self.state, WAIT]
            self._limit(self._search.patience if isinstance(step, Wait) else step.until)

    def _ask(self, pick: Pick, now: float) -> None:
        request = self.request
        if request.told:
            request.cluster.ledger.retried(request.told[-1].verdict)
        request.ask(pick, now)
        self._attempt = attempt = Attempt(self, request, pick)
        if not attempt.take_kept(now):
            self.dial(attempt, now)

    def look_again(self) -> None:
        """Somebody else has ended, or an endpoint is cool: there may be one now."""
        if self.state is WAITING:
            self.state = TRANSITIONS[self.state, WOKEN]
            self._use_latest()
            self._choose(clock.monotonic())

    def _waited(self, now: float) -> None:
        """Take note that a backoff is over, or the patience of one in line."""
        self.state = TRANSITIONS[self.state, WOKEN]
        line = self.request.cluster.line
        if self not in line:
            self._choose(now)
            return
        self._use_latest()
        held = line.phase is not Phase.OPEN
        line.leave(self)
        self._go(self._search.force(now, held=held, intact=self.request.is_intact), now)

    # -- an attempt: see its `Owner` -------------------------------------------------------------

    def dial(self, attempt: Attempt, now: float) -> None:
        """Let an attempt make a connection, and wait for that."""
        self.state = TRANSITIONS[self.state, DIAL]
        self._limit(now + self.request.cluster.connect_timeout(attempt.upstream))
        attempt.dial()

    def sent(self, attempt: Attempt, *, whole: bool) -> None:
        """Wait for the answer, or for the rest of a large body."""
        self.state = TRANSITIONS[self.state, SEND if whole else UPLOAD]
        seconds = attempt.upstream.first_look if whole else attempt.idle_timeout
        self._limit(self.request.sent_at + seconds)

    def received(self, attempt: Attempt, passage: Passage, out: list[bytes], now: float) -> None:
        """Hold what came of the answer, or pass it on."""
        if self.state is PASSING:
            passage.pass_on(out)
            if attempt.is_whole:
                self.whole(attempt, passage)
        else:
            if self.state is not ANSWERING:
                self.state = TRANSITIONS[self.state, ANSWER]
            self._do(judge(attempt, passage, out, now), attempt)
        self._go_on_passing(attempt, now)

    def whole(self, attempt: Attempt, passage: Passage) -> None:
        """End with an answer that has come to its end, or let another endpoint try."""
        if self.state is ANSWERING:
            self._do(judge_whole(attempt, passage), attempt)
        elif passage.has_ended:
            attempt.settle(Result.OK)
            self._over(end(self.request, passage))
        else:
            self.failed(attempt, Failure("cut"))

    def failed(self, attempt: Attempt, failure: Failure) -> None:
        """Go on after an attempt that came to nothing; what was given cannot be taken back."""
        request, now = self.request, clock.monotonic()
        reason, sent, neutral = failure
        if self.state is PASSING:
            request.tell(reason, Sent.YES, now)
            attempt.settle(Result.FAILED)
            self._cut_short(attempt, reason)
            return
        if sent is None:
            sent = Sent.MAYBE if self.state is SENT else Sent.YES
        if sent is not Sent.NO and not request.repeatable:
            self._last = None  # an earlier refusal would say that nothing has been done
        request.tell(reason, sent, now)
        attempt.settle(Result.NEUTRAL if neutral else Result.FAILED)
        attempt.drop()
        self._again(attempt, now, safe=sent is Sent.NO)

    def _again(self, attempt: Attempt, now: float, *, safe: bool, here: bool = False) -> None:
        """Go on after an attempt, if the request may be sent again and there is budget."""
        self.state = TRANSITIONS[self.state, FAIL]
        request = self.request
        step = self._search.again(
            attempt.pick.endpoint,
            now,
            rng.draw(),
            safe=safe,
            intact=request.is_intact,
            here=here,
            malformed=request.told[-1].verdict.startswith("malformed"),
        )
        self._go(step, now)
        request.cluster.turns.left()

    # -- the answer ------------------------------------------------------------------------------

    def _do(self, judged: Judged, attempt: Attempt) -> None:
        """Do what was found right for an attempt, of whose answer nothing was given."""
        passage = attempt.passage
        if isinstance(judged, float):
            self._limit(judged)
        elif isinstance(judged, Failure):
            self.failed(attempt, judged)
        elif passage is None:
            pass  # all else is said of an answer
        elif isinstance(judged, Refusal):
            self._refused(attempt, passage, judged, whole=True)
        elif judged is Judgement.WHOLE:
            attempt.settle(Result.OK)
            self.request.cluster.answered(self)
            self._over(give(self.request, passage))
        elif judged is Judgement.GO_ON:
            self._commit(attempt)
        else:
            self._held_enough(attempt, passage)

    def _held_enough(self, attempt: Attempt, passage: Passage) -> None:
        """Pass on what cannot be held any longer; a refusal, only if nobody else can be asked."""
        refusal = refusal_in(attempt, passage)
        if refusal is not None and self._may_go_on(refusal):
            self._refused(attempt, passage, refusal, whole=False)
        else:
            self._commit(attempt)

    def _may_go_on(self, refusal: Refusal) -> bool:
        search = self._search
        may_repeat = search.left > 0 and search.may_repeat(safe=refusal.safe)
        return may_repeat and self.request.is_intact

    def _refused(
        self, attempt: Attempt, passage: Passage, refusal: Refusal, *, whole: bool
    ) -> None:
        """Heed an answer that says: not here, or not now. whole: all of it has come."""
        now = clock.monotonic()
        self._last = attempt if whole else None
        if refusal.cools in {Cools.KEY, Cools.ENDPOINT}:
            self._search.throttled()
        attempt.refused(refusal, passage.head.status, now, whole=whole)
        # With another key the same endpoint is as good as another one.
        has_key = attempt.pick.endpoint.health.next_key(now) is not None
        here = refusal.cools is not Cools.NOBODY and has_key
        self._again(attempt, now, safe=refusal.safe, here=here)

    def _commit(self, attempt: Attempt) -> None:
        """Pass on what was held: from here on there is no way back."""
        self.state = TRANSITIONS[self.state, COMMIT]
        attempt.commit()
        self.request.cluster.answered(self)
        if self.request.client.paused:
            self.pause(paused=True)

    def _go_on_passing(self, attempt: Attempt, now: float) -> None:
        """Write what was made, and wait for more."""
        client = self.request.client
        if self.state is PASSING and not client.paused:
            self._limit(now + attempt.idle_timeout)
        client.flush()

    # -- limits ----------------------------------------------------------------------------------

    def on_due(self, now: float) -> None:
        """Take note that a limit has passed."""
        attempt = self._attempt
        if self.state is OVER:
            return
        if now >= self.request.deadline:
            self._stop("total timeout", "HF-3102", result_of_timeout(attempt, self.state, now))
        elif self.state is WAITING:
            self._waited(now)
        elif attempt is not None:
            judged = judge_late(attempt, self.state, now)
            self._do(judged, attempt)
            if not isinstance(judged, float):
                self._go_on_passing(attempt, now)

    # -- the client: see `talking.Work` ----------------------------------------------------------

    @property
    def is_given(self) -> bool:
        """Whether something of an answer was given to the client."""
        return self.state is PASSING

    def late(self, now: float) -> bool:
        """Say that a limit of its client is no limit of it."""
        del now
        return False

    def pause(self, *, paused: bool) -> None:
        """Let the endpoint wait while the client takes less than comes."""
        attempt = self._attempt
        if attempt is None or attempt.connection is None or self.state is not PASSING:
            return
        attempt.pause(paused=paused)
        # While it is paused, its silence is our wish.
        self._limit(math.inf if paused else clock.monotonic() + attempt.idle_timeout)

    # -- the end: see `ending` -------------------------------------------------------------------

    def _give_up(self, code: str) -> None:
        self._over(give_up(self.request, code, self._last))

    def _stop(self, reason: str, code: str, result: Result) -> None:
        """End it in the middle of whatever is under way. result: what that says of an endpoint."""
        request, attempt, state = self.request, self._attempt, self.state
        if attempt is not None and state not in {CHOOSING, WAITING}:
            sent = Sent.NO if state is CONNECTING else Sent.MAYBE
            request.tell(reason, Sent.YES if state is PASSING else sent, clock.monotonic())
            attempt.settle(result)
            if state is PASSING:
                self._cut_short(attempt, reason)
                return
            if sent is Sent.MAYBE and not request.repeatable:
                self._last = None
            attempt.drop()
        self._give_up(code)

    def _cut_short(self, attempt: Attempt, reason: str) -> None:
        attempt.drop()
        said = cut_short(self.request, attempt.passage, reason)
        self._over(CUT, close=said, abort=not said)

    def _over(self, outcome: str, *, close: bool = False, abort: bool = False) -> None:
        if self._attempt is not None:
            self._attempt.release()
        self._leave(outcome)
        self.request.client.answered(close=close, abort=abort)

    def _leave(self, outcome: str) -> None:
        request, cluster = self.request, self.request.cluster
        self.state = TRANSITIONS[self.state, END]
        cluster.wheel.set(self, math.inf)  # not `_limit`: nothing may keep it until then
        if request.upload is not None:
            request.upload.close()
        cluster.ledger.finished(request, outcome, clock.monotonic())
        cluster.ended(self)

    def cut(self, reason: str) -> None:
        """End it now and tell the client so: the gateway is ending, and blames nobody."""
        if self.state is not OVER:
            self._stop(reason, "HF-3107", Result.NEUTRAL)

    def abandon(self, status: int = 0) -> None:
        """End everything, and blame nobody: the client is gone, or is no good.

        status: of the answer that it gets all the same.
        """
        if self.state is OVER:
            return
        self.request.status = status or self.request.status
        attempt = self._attempt
        if attempt is not None and self.state not in {CHOOSING, WAITING}:
            attempt.settle(Result.NEUTRAL, cancelled=True)
            attempt.drop()
        self._leave(CANCELLED)
