"""One request: which endpoint is asked, what is sent, and what follows from what comes back.

The states, and what leads from one to another, are in `states`. Nothing here is a task: what
happens next is told by a connection, by the wheel, or by the client who leaves. What of an answer
is held back and passed on is in `answering`, what a refusal means in `refusals`.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from holdfast.core.balance import Nobody, Pick, Wait
from holdfast.core.breaker import Result
from holdfast.core.classify import classify
from holdfast.core.retry_after import read_hint
from holdfast.core.verdict import Sent
from holdfast.gateway import errors, sse
from holdfast.gateway.answering import Passage, keeps_framing
from holdfast.gateway.headers import request_head
from holdfast.gateway.ledger import CANCELLED, CUT, REFUSED, UPSTREAM_ERROR, outcome_of
from holdfast.gateway.refusals import KEY_OUT_SECONDS, Cools, Refusal, refusal_of
from holdfast.gateway.sse import Meaning
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
    WAIT,
    WAITING,
    WOKEN,
    State,
)
from holdfast.runtime.clock import clock
from holdfast.runtime.random import rng
from holdfast.runtime.wheel import Due
from holdfast.wire.responses import Answer

if TYPE_CHECKING:
    import asyncio

    from holdfast.core.balance import Endpoint
    from holdfast.core.health import Tier
    from holdfast.gateway.client import Client
    from holdfast.gateway.cluster import Cluster
    from holdfast.gateway.upstream import Connection, Upstream
    from holdfast.wire.requests import RequestHead
    from holdfast.wire.responses import ResponseHead
    from holdfast.wire.strict import BadMessage

BACKOFF, BACKOFF_THROTTLED, BACKOFF_MOST = 0.05, 1.0, 20.0
"""Seconds before the same endpoint is asked again, doubled each time."""

_STREAM = re.compile(rb'"stream"\s*:\s*true')


class Exchange(Due):
    """One request and its answer. Made by the client's connection, which calls `begin`."""

    __slots__ = (
        "_body",
        "_client",
        "_cluster",
        "_connection",
        "_counted",
        "_deadline",
        "_first_byte",
        "_head",
        "_last",
        "_passage",
        "_pick",
        "_repeatable",
        "_row",
        "_sent_at",
        "_stale",
        "_stream",
        "_throttled",
        "_tried",
        "_upstream",
        "attempts",
        "began",
        "connecting",
        "given_at",
        "id",
        "profile",
        "state",
        "status",
        "streaming",
        "told",
    )

    def __init__(self, cluster: Cluster, client: Client, head: RequestHead, body: bytes) -> None:
        super().__init__()
        self._cluster = cluster
        self._client = client
        self._head = head
        self._body = body
        self._connection: Connection | None = None
        self._pick: Pick | None = None
        self._upstream: Upstream | None = None
        self._passage: Passage | None = None
        self._last: Passage | None = None
        self._tried: list[Endpoint] = []
        self._counted: list[Endpoint] = []
        self._stale = self._throttled = False
        self._row = 0
        self._sent_at = self._first_byte = self.given_at = math.nan
        self.attempts = self.status = 0
        self.streaming = False
        self.connecting: asyncio.Task[None] | None = None
        self.told: list[errors.Tried] = []
        self.state: State = CHOOSING
        self.id = ""

    @property
    def head(self) -> RequestHead:
        """The request."""
        return self._head

    @property
    def endpoint_id(self) -> str:
        """The endpoint that is asked, or was asked last."""
        return self._pick.endpoint.id if self._pick is not None else ""

    @property
    def tier(self) -> Tier | None:
        """Where that endpoint stood when it was chosen."""
        return self._pick.tier if self._pick is not None else None

    def pause(self, *, paused: bool) -> None:
        """Let the endpoint wait while the client takes less than comes."""
        if self._connection is not None:
            transport = self._connection.transport
            (transport.pause_reading if paused else transport.resume_reading)()

    # -- choosing --------------------------------------------------------------------------------

    def begin(self, now: float) -> None:
        """Start. now: monotonic."""
        cluster, head = self._cluster, self._head
        self.began = now
        self.profile = cluster.profile_of(head.target)
        self._stream = self.profile != "generic" and _STREAM.search(self._body) is not None
        self._repeatable = cluster.is_repeatable(head)
        self._deadline = now + cluster.total(head)
        self._choose(now)

    def _choose(self, now: float) -> None:
        """Take the next endpoint, wait for one, or give up."""
        if now >= self._deadline:
            self._give_up("HF-3102")
            return
        cluster = self._cluster
        patience = min(cluster.config.max_wait, self._deadline - now)
        found = cluster.balancer.pick(
            now,
            rng.draw(),
            tried=self._tried,
            repeatable=self._repeatable,
            limit=self._deadline - now,
            patience=patience,
        )
        if isinstance(found, Pick):
            self._attempt(found, now)
        elif isinstance(found, Wait):
            self._wait(found, now, patience)
        elif found is Nobody.TRIED:
            self._back_off(now)
        else:
            self._give_up("HF-3109")

    def _attempt(self, pick: Pick, now: float) -> None:
        self.attempts += 1
        if self.attempts > 1 and self.told:
            self._cluster.ledger.retried(self.told[-1].verdict)
        self._pick = pick
        self._upstream = upstream = self._cluster.upstream_of(pick.endpoint)
        self._sent_at = now
        connection = upstream.take(now, careful=not self._repeatable)
        if connection is not None:
            self.send(connection)
        else:
            self._dial(upstream, now)

    def _dial(self, upstream: Upstream, now: float) -> None:
        self.state = TRANSITIONS[self.state, DIAL]
        self._limit(now + self._cluster.connect_timeout(upstream))
        upstream.connect(self)

    def _wait(self, wait: Wait, now: float, patience: float) -> None:
        if wait.why == "cooling" and wait.until - now > patience:
            self._give_up("HF-3104")
        elif not self._cluster.enter_line(self):
            self._give_up("HF-3103")
        else:
            self.state = TRANSITIONS[self.state, WAIT]
            self._limit(min(wait.until, now + patience))

    def look_again(self) -> None:
        """Somebody else has ended: there may be an endpoint now."""
        if self.state is WAITING:
            self.state = TRANSITIONS[self.state, WOKEN]
            self._choose(clock.monotonic())

    def _back_off(self, now: float) -> None:
        """All were tried: wait a little, then begin with all of them again."""
        base = BACKOFF_THROTTLED if self._throttled else BACKOFF
        seconds = min(BACKOFF_MOST, base * 2.0 ** min(self._row, 16)) * (0.5 + rng.draw() / 2)
        self._row += 1
        self._tried.clear()
        if now + seconds >= self._deadline:
            self._give_up("HF-3102" if self._last is None else "HF-3101")
            return
        self.state = TRANSITIONS[self.state, WAIT]
        self._limit(now + seconds)

    # -- connecting and sending ------------------------------------------------------------------

    def not_connected(self, error: OSError) -> None:
        """Take note that no connection came up; nothing was sent."""
        if self.state is CONNECTING:
            self.connecting = None
            verdict = classify(error, connecting=True)
            self._failed(verdict.reason, Sent.NO, clock.monotonic())

    def send(self, connection: Connection) -> None:
        """Send the request."""
        now = clock.monotonic()
        pick, upstream = self._pick, self._upstream
        if self.state is OVER or pick is None or upstream is None:
            connection.close()
            return
        self.connecting = None
        self.state = TRANSITIONS[self.state, SEND]
        self._connection = connection
        head = self._head
        connection.begin(self, Answer(head.method, raw=self._is_raw))
        data = request_head(
            head,
            upstream.routes[pick.key.number],
            self._client.identity,
            length=len(self._body),
            via=self._cluster.via,
            identity=self._stream,
        )
        connection.transport.write(data + self._body if self._body else data)
        self._sent_at = now
        self._limit(now + self._cluster.first_byte_timeout(upstream, stream=self._stream))

    def _is_raw(self, head: ResponseHead) -> bool:
        return keeps_framing(self._head, head)

    # -- the answer ------------------------------------------------------------------------------

    def received(self, out: list[bytes]) -> None:
        """Take what came of the answer."""
        self._take(out)
        self._client.flush()

    def _take(self, out: list[bytes]) -> None:
        connection = self._connection
        answer = connection.answer if connection is not None else None
        if answer is None or answer.head is None:
            return
        now = clock.monotonic()
        passage = self._passage or self._begin_answer(answer.head, now)
        if self.state is PASSING:
            passage.pass_on(out)
        else:
            self._hold(passage, out, whole=answer.done)
        if answer.done and self.state in {ANSWERING, PASSING}:
            self._whole(passage)
        elif self.state in {ANSWERING, PASSING}:
            self._limit(now + self._cluster.config.idle_timeout)

    def _begin_answer(self, head: ResponseHead, now: float) -> Passage:
        self.state = TRANSITIONS[self.state, ANSWER]
        self._first_byte = now
        passage = Passage(self._client, self._head, head, self._cluster.via)
        passage.watch(self.profile, hold=self._cluster.config.hold_preamble)
        self._passage = passage
        return passage

    def _hold(self, passage: Passage, out: list[bytes], *, whole: bool) -> None:
        """Keep what came, unless it is time to pass it on."""
        meaning = passage.hold(out)
        if meaning is Meaning.ERROR:
            self._refused_as_event()
        elif meaning is not None:
            self._commit(passage, whole=whole)
        elif whole or passage.watched or self._refusal_of(passage.head) is not None:
            return
        elif passage.is_stream or passage.size > self._cluster.config.buffer_max:
            self._commit(passage, whole=False)

    def _refusal_of(self, head: ResponseHead) -> Refusal | None:
        """Say whether, and how, an answer refuses."""
        if head.status < 400:
            return None
        own_key = bool(self._upstream and self._upstream.config.keys)
        hint = read_hint(head.fields, now_wall=clock.wall()).retry_after
        return refusal_of(head.status, own_key=own_key, retry_after=hint)

    def _whole(self, passage: Passage) -> None:
        """Pass a whole answer on, or let another endpoint try."""
        if self.state is ANSWERING:
            refusal = self._refusal_of(passage.head)
            if refusal is not None:
                self._refused(passage, refusal)
                return
        self._settle(Result.OK)
        if self.state is ANSWERING:
            passage.commit(whole=True, added=self._cluster.added(self))
        passage.end()
        self.status = passage.head.status
        self._over(outcome_of(self.status))

    def _commit(self, passage: Passage, *, whole: bool) -> None:
        """Pass on what was held: from here on there is no way back."""
        self.state = TRANSITIONS[self.state, COMMIT]
        self.status = passage.head.status
        if not whole:
            self.given_at = clock.monotonic()
            self.streaming = True
            self._cluster.ledger.streams += 1
        passage.commit(whole=whole, added=self._cluster.added(self))

    # -- refusals, failures ----------------------------------------------------------------------

    def _refused(self, passage: Passage, refusal: Refusal) -> None:
        """Heed an answer that says: not here, or not now."""
        now = clock.monotonic()
        self._last, self._passage = passage, None
        pick, head = self._pick, passage.head
        if pick is None:
            return
        hint = read_hint(head.fields, now_wall=clock.wall()).retry_after
        if refusal.cools is Cools.KEY:
            pick.endpoint.health.throttled(now, hint, pick.key)
            self._throttled = True
        elif refusal.cools is Cools.ENDPOINT:
            pick.endpoint.health.throttled(now, hint)
            self._throttled = True
        elif refusal.cools is Cools.KEY_LONG:
            pick.endpoint.health.key_out(pick.key, now, KEY_OUT_SECONDS)
        self._tell(f"http {head.status}", Sent.YES, now, head.status)
        self._settle(refusal.result)
        self._release()
        self.state = TRANSITIONS[self.state, FAIL]
        self._again(now, safe=refusal.safe)

    def _refused_as_event(self) -> None:
        """Heed a stream whose first telling event is an error."""
        now = clock.monotonic()
        self._tell("error event", Sent.YES, now, 200)
        self._settle(Result.FAILED)
        self._drop_connection()
        self._passage = None
        self.state = TRANSITIONS[self.state, FAIL]
        self._again(now, safe=False)

    def malformed(self, bad: BadMessage) -> None:
        """Take note that the answer cannot be read."""
        self._fail_answer(f"malformed: {bad.reason}")

    def broke(self, error: Exception | None) -> None:
        """Take note that the connection has ended."""
        connection = self._connection
        answer = connection.answer if connection is not None else None
        if connection is None or answer is None or self.state is OVER:
            return
        if error is None and answer.end() and self._passage is not None:
            self._whole(self._passage)
            return
        if not answer.started and connection.uses > 1 and not self._stale:
            self._stale_socket(connection)
            return
        reason = "cut" if error is None else classify(error, connecting=False).reason
        self._fail_answer(reason)

    def _stale_socket(self, connection: Connection) -> None:
        """Try once more on a fresh connection: the kept one was dead, which is nobody's fault."""
        upstream = self._upstream
        self._stale = True
        self._connection = None
        if upstream is None:
            return
        upstream.lifetime.died(max(0.0, self._sent_at - connection.idle_since))
        self._cluster.ledger.stale += 1
        if not self._repeatable:
            self._failed("stale", Sent.MAYBE, clock.monotonic(), neutral=True)
            return
        self._dial(upstream, clock.monotonic())

    def _fail_answer(self, reason: str) -> None:
        now = clock.monotonic()
        if self.state is PASSING:
            self._tell(reason, Sent.YES, now)
            self._settle(Result.FAILED)
            self._cut_short(reason)
            return
        sent = Sent.MAYBE if self.state is SENT else Sent.YES
        self._failed(reason, sent, now)

    def _failed(self, reason: str, sent: Sent, now: float, *, neutral: bool = False) -> None:
        """End an attempt that came to nothing before anything was given to the client."""
        self._tell(reason, sent, now)
        self._settle(Result.NEUTRAL if neutral else Result.FAILED)
        self._drop_connection()
        self._passage = None
        self.state = TRANSITIONS[self.state, FAIL]
        self._again(now, safe=sent is Sent.NO)

    def _again(self, now: float, *, safe: bool) -> None:
        """Go on with another endpoint, if the request may be sent again and there is budget."""
        pick = self._pick
        if pick is not None and pick.endpoint not in self._tried:
            self._tried.append(pick.endpoint)
        if not (self._repeatable or safe):
            self._give_up("HF-3106")
        elif self.attempts >= self._cluster.attempts or not self._cluster.may_retry(
            self._tried, now
        ):
            self._give_up("HF-3101")
        else:
            self._choose(now)

    def _tell(self, verdict: str, sent: Sent, now: float, status: int = 0) -> None:
        name = self._pick.endpoint.id if self._pick is not None else ""
        ms = round((now - self._sent_at) * 1000)
        self.told.append(errors.Tried(name, verdict, sent.value, ms, status))

    def _settle(self, result: Result, *, cancelled: bool = False) -> None:
        """Tell the ledger and the endpoint's health of the attempt, once."""
        pick = self._pick
        if pick is None or self._upstream is None:
            return
        now = clock.monotonic()
        began = self._first_byte if self._first_byte == self._first_byte else now
        seconds = max(0.0, began - self._sent_at)
        said = None if cancelled or result is Result.OK else self.told[-1]
        self._cluster.ledger.attempt(pick.endpoint.id, result, said, now, seconds)
        if result is Result.FAILED and pick.endpoint in self._counted:
            result = Result.NEUTRAL  # one request says one thing about an endpoint
        elif result is Result.FAILED:
            self._counted.append(pick.endpoint)
        self._cluster.settle(pick, result, now, seconds)
        self._first_byte = math.nan
        self._upstream = None if result is not Result.OK else self._upstream

    # -- the end ---------------------------------------------------------------------------------

    def _cut_short(self, reason: str) -> None:
        """Say that the answer broke after a part of it was given; it is never spliced."""
        self._drop_connection()
        value = errors.body("HF-3108", self.id, reason=reason, sent="yes", attempts=self.told)
        passage = self._passage
        if passage is not None and passage.end_with(sse.event("error", value)):
            self._over(CUT, close=True)
        else:
            self._over(CUT, abort=True)

    def _give_up(self, code: str) -> None:
        """Pass the last answer on; only if there is none, one of ours."""
        last = self._last
        if last is not None and code in {"HF-3101", "HF-3102", "HF-3104", "HF-3106"}:
            last.commit(whole=True, added=self._cluster.added(self))
            last.end()
            self.status = last.head.status
            self._over(UPSTREAM_ERROR)
            return
        sent = "no" if all(one.sent == "no" for one in self.told) else "maybe"
        wait = self._cluster.soonest(clock.monotonic()) if code == "HF-3104" else None
        self._client.refuse(code, self, sent=sent, retry_after=wait)
        self.status = errors.ERRORS[code].status
        self._cluster.ledger.refused(code)
        self._over(REFUSED)

    def _release(self) -> None:
        """Give the connection back, if it is still good."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        answer, upstream = connection.answer, self._cluster.upstream_of_connection(connection)
        if answer is not None and answer.done and answer.head is not None and answer.head.persists:
            if connection.uses > 1:
                upstream.lifetime.reused()
            upstream.give(connection)
        else:
            connection.close()

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        if self.connecting is not None:
            self.connecting.cancel()
            self.connecting = None

    def _over(self, outcome: str, *, close: bool = False, abort: bool = False) -> None:
        self.state = TRANSITIONS[self.state, END]
        self._limit(math.inf)
        self._release()
        self._cluster.ledger.finished(self, outcome, clock.monotonic())
        self._cluster.ended(self)
        self._client.answered(close=close, abort=abort)

    def cut(self, reason: str) -> None:
        """End it now and tell the client so: the gateway is ending, and blames nobody."""
        if self.state is OVER:
            return
        if self.state not in {CHOOSING, WAITING}:
            sent = Sent.NO if self.state is CONNECTING else Sent.MAYBE
            self._tell(reason, sent, clock.monotonic())
            self._settle(Result.NEUTRAL)
        if self.state is PASSING:
            self._cut_short(reason)
        else:
            self._drop_connection()
            self._give_up("HF-3107")

    def abandon(self) -> None:
        """End everything, and blame nobody: the client is gone."""
        if self.state is OVER:
            return
        if self.state not in {CHOOSING, WAITING}:
            self._settle(Result.NEUTRAL, cancelled=True)
        self.state = TRANSITIONS[self.state, END]
        self._limit(math.inf)
        self._drop_connection()
        self._cluster.ledger.finished(self, CANCELLED, clock.monotonic())
        self._cluster.ended(self)

    # -- limits ----------------------------------------------------------------------------------

    def _limit(self, due: float) -> None:
        if self.state is not PASSING:
            due = min(due, self._deadline)
        self._cluster.wheel.set(self, due)

    def on_due(self, now: float) -> None:
        """Take note that the limit of this state has passed."""
        if self.state is WAITING:
            self.state = TRANSITIONS[self.state, WOKEN]
            self._choose(now)
        elif self.state is CONNECTING:
            self._failed("connect timeout", Sent.NO, now)
        elif self.state is not OVER:
            self._fail_answer("timeout")
