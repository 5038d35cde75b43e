"""One request: which endpoint is asked, what is sent, and what follows from what comes back.

The states, and what leads from one to another, are in `states`. Nothing here is a task: what
happens next is told by a connection, by the wheel, or by the client who leaves. What of an answer
is held back and passed on is in `answering`, what a refusal means in `refusals`.
"""

from __future__ import annotations

import errno
import math
import re
from typing import TYPE_CHECKING

from holdfast.core.balance import Nobody, Pick, Wait
from holdfast.core.breaker import Result
from holdfast.core.classify import classify
from holdfast.core.verdict import Sent
from holdfast.gateway import errors, sse
from holdfast.gateway.answering import Passage
from holdfast.gateway.counting import UNABLE, counted
from holdfast.gateway.headers import request_head
from holdfast.gateway.ledger import CANCELLED, CUT, REFUSED, UPSTREAM_ERROR, outcome_of
from holdfast.gateway.refusals import (
    KEY_OUT_SECONDS,
    QUOTA_SECONDS,
    Cools,
    Refusal,
    codes_of,
    refusal_of,
    status_of,
)
from holdfast.gateway.short import Short
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
    SENDING,
    SENT,
    TRANSITIONS,
    UPLOAD,
    WAIT,
    WAITING,
    WOKEN,
)
from holdfast.runtime.clock import clock
from holdfast.runtime.random import rng
from holdfast.wire.responses import Answer

if TYPE_CHECKING:
    from holdfast.core.health import Tier
    from holdfast.gateway.client import Client
    from holdfast.gateway.cluster import Cluster
    from holdfast.gateway.upload import Upload
    from holdfast.gateway.upstream import Connection, Upstream
    from holdfast.wire.requests import RequestHead
    from holdfast.wire.responses import ResponseHead
    from holdfast.wire.strict import BadMessage

BACKOFF, BACKOFF_THROTTLED, BACKOFF_MOST = 0.05, 1.0, 20.0
"""Seconds before the same endpoint is asked again, doubled each time."""
LOOK_SECONDS = 1.0
"""How often a request that waits for its answer is compared with what others take by now."""
PATIENT = 0.9
"""An attempt that took so much of the total time has failed when that is over."""
HOLD_SECONDS = 0.25
"""For how long an answer that is no JSON is held from its first byte on."""

_STREAM = re.compile(rb'"stream"\s*:\s*true')


_PASSES_LAST = frozenset({"HF-3101", "HF-3102", "HF-3104", "HF-3105", "HF-3106"})
"""Reasons to give up for which the last answer of an endpoint says more than one of ours."""


class Exchange(Short):
    """One request and its answer. Made by the client's connection, which calls `begin`.

    body: all of it; or upload: a large one, which is still coming.
    """

    def __init__(
        self,
        cluster: Cluster,
        client: Client,
        head: RequestHead,
        body: bytes,
        upload: Upload | None = None,
    ) -> None:
        super().__init__(cluster, client, head, body)
        if upload is not None:
            self._upload = upload

    @property
    def head(self) -> RequestHead:
        """The request."""
        return self._head

    @property
    def is_given(self) -> bool:
        """Whether something of an answer was given to the client."""
        return self.state is PASSING

    @property
    def endpoint_id(self) -> str:
        """The endpoint that is asked, or was asked last."""
        return self._pick.endpoint.id if self._pick is not None else ""

    @property
    def client(self) -> Client:
        """Who asks."""
        return self._client

    @property
    def size(self) -> int:
        """Bytes of the request's body, as far as it has come."""
        return len(self._body) if self._upload is None else self._upload.size

    @property
    def sent_at(self) -> float:
        """When the latest attempt began, monotonic."""
        return self._sent_at

    @property
    def tier(self) -> Tier | None:
        """Where that endpoint stood when it was chosen."""
        return self._pick.tier if self._pick is not None else None

    def pause(self, *, paused: bool) -> None:
        """Let the endpoint wait while the client takes less than comes."""
        if self._connection is None or self.state is not PASSING:
            return
        transport = self._connection.transport
        if paused:
            transport.pause_reading()
            self._limit(math.inf)  # its silence is our wish
        else:
            transport.resume_reading()
            self._limit(clock.monotonic() + self._idle_timeout)

    # -- choosing --------------------------------------------------------------------------------

    def begin(self, now: float) -> None:
        """Start. now: monotonic."""
        cluster, head = self._cluster, self._head
        self.began = now
        if self._upload is not None:
            self._upload.exchange = self
        self.profile = cluster.profile_of(head.target)
        self._stream = self.profile != "generic" and _STREAM.search(self._body) is not None
        self._repeatable = cluster.is_repeatable(head)
        self._deadline = now + cluster.total(head)
        if cluster.counting.is_known:
            unable = cluster.counting.unable(head, cluster.balancer.endpoints, now)
            self._tried = (*self._tried, *unable)
        if cluster.line.calm or cluster.line.admits(self):
            self._choose(now)
        else:
            self._enter_line("cooling", cluster.cool_at, now)

    def _choose(self, now: float) -> None:
        """Take the next endpoint, wait for one, or give up."""
        if now >= self._deadline:
            self._give_up("HF-3102")
            return
        cluster = self._cluster
        found = cluster.balancer.pick(
            now,
            rng.draw(),
            tried=self._tried,
            repeatable=self._repeatable,
            limit=self._deadline - now,
            patience=min(cluster.config.max_wait, self._patience - now),
        )
        if isinstance(found, Pick):
            self._attempt(found, now)
        elif isinstance(found, Wait):
            self._wait(found, now)
        elif found is Nobody.TRIED:
            self._begin_anew(now)
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

    def _wait(self, wait: Wait, now: float) -> None:
        if wait.why == "cooling" and self._tried:
            self._begin_anew(now)  # those that were tried may be asked again before it is cool
        else:
            self._enter_line(wait.why, wait.until, now)

    def _enter_line(self, why: str, until: float, now: float) -> None:
        """Wait for an endpoint, behind those who wait already. until: when one will be cool."""
        cluster, cooling = self._cluster, why == "cooling"
        if self._patience == math.inf:
            self._patience = now + cluster.config.max_wait
        if cooling and until >= min(self._patience, self._deadline):
            self._give_up("HF-3104")
        elif not cluster.enter_line(self, until if cooling else None):
            self._give_up("HF-3103")
        else:
            self.state = TRANSITIONS[self.state, WAIT]
            self._waits = why
            self._limit(self._patience)

    def look_again(self) -> None:
        """Somebody else has ended, or an endpoint is cool: there may be one now."""
        if self.state is WAITING:
            self.state = TRANSITIONS[self.state, WOKEN]
            self._choose(clock.monotonic())

    def _begin_anew(self, now: float) -> None:
        """All were tried: wait a little, then begin with all of them again."""
        self._tried = ()
        if self._cluster.soonest(now) > 0:
            self._choose(now)  # all cool down, which takes its own time
            return
        base = BACKOFF_THROTTLED if self._throttled else BACKOFF
        seconds = min(BACKOFF_MOST, base * 2.0 ** min(self._row, 16)) * (0.5 + rng.draw() / 2)
        self._row += 1
        if now + seconds >= self._deadline:
            self._give_up("HF-3102" if self._last is None else "HF-3101")
            return
        self.state = TRANSITIONS[self.state, WAIT]
        self._waits = ""
        self._limit(now + seconds)

    def _waited(self, now: float) -> None:
        """Take note that a backoff is over, or the patience of one in line."""
        self.state = TRANSITIONS[self.state, WOKEN]
        if not self._waits:
            self._choose(now)
            return
        self._cluster.leave_line(self)
        forced = self._cluster.balancer.force(now) if self._waits == "half-open" else None
        if forced is not None:
            self._attempt(forced, now)
        else:
            self._give_up("HF-3104" if self._waits == "cooling" else "HF-3103")

    # -- connecting and sending ------------------------------------------------------------------

    def not_connected(self, error: OSError) -> None:
        """Take note that no connection came up; nothing was sent."""
        if self.state is CONNECTING:
            self.connecting = None
            verdict = classify(error, connecting=True)
            # Files or ports that this machine lacks are no fault of the endpoint.
            local = verdict.local or error.errno == errno.EADDRNOTAVAIL
            self._failed(verdict.reason, Sent.NO, clock.monotonic(), neutral=local)

    def send(self, connection: Connection) -> None:
        """Send the request."""
        now = clock.monotonic()
        pick, upstream = self._pick, self._upstream
        if self.state is OVER or pick is None or upstream is None:
            connection.close()
            return
        self.connecting = None
        upload = self._upload
        self.state = TRANSITIONS[self.state, SEND if upload is None else UPLOAD]
        self._connection = connection
        head = self._head
        connection.begin(self, Answer(head.method, raw=self._is_raw))
        data = request_head(
            head,
            upstream.routes[pick.key.number],
            self._client.identity,
            length=len(self._body) if upload is None else upload.length,
            via=self._cluster.via,
            identity=self._stream,
        )
        connection.transport.write(data + self._body if self._body else data)
        self._sent_at = now
        if upload is None:
            self._limit(now + self._cluster.first_look(upstream))
        else:
            self._limit(now + self._idle_timeout)
            connection.upload = upload
            upload.begin(connection.transport)

    def uploaded(self) -> None:
        """Take note that all of a large body was written."""
        upstream = self._upstream
        if self.state is SENDING and upstream is not None:
            self.state = TRANSITIONS[self.state, SEND]
            self._sent_at = now = clock.monotonic()
            self._limit(now + self._cluster.first_look(upstream))

    # -- the answer ------------------------------------------------------------------------------

    def received(self, out: list[bytes]) -> None:
        """Take what came of the answer."""
        connection = self._connection
        answer = connection.answer if connection is not None else None
        if answer is None or answer.head is None:
            return
        now = clock.monotonic()
        passage = self._passage or self._begin_answer(answer.head, now)
        if self.state is PASSING:
            passage.pass_on(out)
            if answer.done:
                self._whole(passage)
        else:
            self._hold(passage, out, now, whole=answer.done)
        if self.state is PASSING and not self._client.paused:
            self._limit(now + self._idle_timeout)
        self._client.flush()

    def _begin_answer(self, head: ResponseHead, now: float) -> Passage:
        self.state = TRANSITIONS[self.state, ANSWER]
        self._first_byte = now
        if head.status < 400:
            self._cluster.answered_first(now - self._sent_at, stream=self._stream)
        passage = Passage(self._client, self._head, head, self._cluster.via)
        passage.watch(self.profile, hold=self._cluster.config.hold_preamble)
        self._passage = passage
        return passage

    def _hold(self, passage: Passage, out: list[bytes], now: float, *, whole: bool) -> None:
        """Keep what came, unless it is time to pass it on."""
        meaning = passage.hold(out)
        if meaning is Meaning.ERROR and self._refused_as_event(passage):
            return
        if whole:
            self._whole(passage)
        elif meaning is not None:
            self._commit(passage)
        elif passage.watched:
            content = self._sent_at + self._cluster.config.first_content_timeout
            self._limit(min(content, now + self._idle_timeout))
        elif passage.is_stream and passage.head.status < 400:
            self._commit(passage)
        elif passage.size > self._cluster.config.buffer_max:
            self._held_enough(passage)
        elif passage.is_json:
            self._limit(now + self._idle_timeout)
        else:
            self._limit(self._first_byte + HOLD_SECONDS)

    def _held_enough(self, passage: Passage) -> None:
        """Pass on what cannot be held any longer; a refusal, only if nobody else can be asked."""
        refusal = self._refusal_of(passage, frozenset())
        may = self._is_intact and self._has_attempts
        if refusal is not None and (self._repeatable or refusal.safe) and may:
            self._refused(passage, refusal, whole=False)
        else:
            self._commit(passage)

    @property
    def _idle_timeout(self) -> float:
        upstream = self._upstream
        own = upstream.config.idle_timeout if upstream is not None else 0
        return own or self._cluster.config.idle_timeout

    def _refusal_of(self, passage: Passage, codes: frozenset[str]) -> Refusal | None:
        """Say whether, and how, an answer refuses. codes: of the error that it carries."""
        status = passage.head.status
        if status < 400:
            if not codes:
                return None
            status = status_of(codes)
        return refusal_of(
            status,
            codes,
            passage.head.fields,
            own_key=bool(self._upstream and self._upstream.config.keys),
            now_wall=clock.wall(),
        )

    def _whole(self, passage: Passage) -> None:
        """Pass a whole answer on, or let another endpoint try."""
        status = passage.head.status
        if self.state is ANSWERING:
            if status >= 400 or passage.may_be_error(self.profile):
                refusal = self._refusal_of(passage, passage.codes())
                if refusal is not None:
                    self._refused(passage, refusal, whole=True)
                    return
            if not passage.has_ended:
                self._fail_answer("cut")
                return
            self._settle(Result.OK)
            self._cluster.answered(self)
            if status in UNABLE and self._counted_here(status):
                return
            passage.commit(whole=True, added=self._cluster.added(self))
        elif passage.has_ended:
            self._settle(Result.OK)
        else:
            self._fail_answer("cut")
            return
        passage.end()
        self.status = status
        self._over(outcome_of(status))

    def _counted_here(self, status: int) -> bool:
        """Give a count of tokens of ours, if that was asked for and the endpoint has none."""
        cluster, now = self._cluster, clock.monotonic()
        if not cluster.counting.learned(self._head, self.endpoint_id, status, now):
            return False
        answer = counted(self._head, self._body, self._client, cluster.added(self))
        self._client.write(answer)
        self.status = int(answer[9:12])
        self._over(outcome_of(self.status))
        return True

    def _commit(self, passage: Passage) -> None:
        """Pass on what was held: from here on there is no way back."""
        self.state = TRANSITIONS[self.state, COMMIT]
        self.status = passage.head.status
        cluster, now = self._cluster, clock.monotonic()
        self.given_at = now
        self.streaming = True
        cluster.ledger.streams += 1
        if passage.is_stream:
            whole = cluster.config.stream_timeout
            self._deadline = now + whole if whole else math.inf
        cluster.answered(self)
        passage.commit(whole=False, added=cluster.added(self))
        if self._client.paused:
            self.pause(paused=True)

    # -- refusals, failures ----------------------------------------------------------------------

    def _refused(self, passage: Passage, refusal: Refusal, *, whole: bool) -> None:
        """Heed an answer that says: not here, or not now. whole: all of it has come."""
        now = clock.monotonic()
        self._passage = None
        self._last = passage if whole else None
        self._last_pick = self._pick
        pick, status = self._pick, passage.head.status
        if pick is None:
            return
        health, key = pick.endpoint.health, pick.key
        if refusal.cools is Cools.KEY:
            health.throttled(now, refusal.retry_after, key)
        elif refusal.cools is Cools.ENDPOINT:
            health.throttled(now, refusal.retry_after)
        elif refusal.cools is Cools.KEY_OUT:
            health.key_out(key, now, KEY_OUT_SECONDS)
        elif refusal.cools is Cools.KEY_SPENT:
            health.key_out(key, now, QUOTA_SECONDS)
        if refusal.cools in {Cools.KEY, Cools.ENDPOINT}:
            self._throttled = True
            self._throttles += 1
        self._tell(f"http {status}" if status >= 400 else "error in a 200", Sent.YES, now, status)
        self._settle(refusal.result)
        if whole:
            self._release()
        else:
            self._drop_connection()
        self.state = TRANSITIONS[self.state, FAIL]
        # With another key the same endpoint is as good as another one.
        again = refusal.cools is not Cools.NOBODY and health.next_key(now) is not None
        self._again(now, safe=refusal.safe, here=again)

    def _refused_as_event(self, passage: Passage) -> bool:
        """Heed a stream whose first telling event is an error, as if it had come as a status."""
        codes = codes_of(passage.error)
        refusal = self._refusal_of(passage, codes or frozenset({"api_error"}))
        if refusal is None:
            return False
        self._refused(passage, refusal, whole=True)
        return True

    def malformed(self, bad: BadMessage) -> None:
        """Take note that the answer cannot be read."""
        self._fail_answer(f"malformed: {bad.reason}")

    def broke(self, error: Exception | None) -> None:
        """Take note that the connection has ended."""
        connection = self._connection
        if connection is None or self.state is OVER:
            return
        self.leave_short()
        answer = connection.answer
        if answer is None:
            return
        if error is None and answer.end() and self._passage is not None:
            self._whole(self._passage)
            return
        if not answer.started and connection.uses > 1:
            self._stale_socket(connection)
            return
        reason = "cut" if error is None else classify(error, connecting=False).reason
        self._fail_answer(reason)

    def _stale_socket(self, connection: Connection) -> None:
        """Try once more on a fresh connection: the kept one was dead, which is nobody's fault.

        Who waits in line for a connection may get one that is dead as well: then it goes on
        with the next attempt, and still nobody is to blame.
        """
        upstream = self._upstream
        again, self._stale = not self._stale, True
        self._connection = None
        if upstream is None:
            return
        upstream.lifetime.died(connection.rested, clock.monotonic())
        self._cluster.ledger.stale += 1
        if not (self._repeatable and again):
            self._failed("stale", Sent.MAYBE, clock.monotonic(), neutral=True)
            return
        # Nobody is to blame, but the dead connection may have brought the request there.
        now = clock.monotonic()
        self._tell("stale", Sent.MAYBE, now)
        self._dial(upstream, now)

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
        if sent is not Sent.NO and not self._repeatable:
            self._last = None  # an earlier refusal would say that nothing has been done
        self._tell(reason, sent, now)
        self._settle(Result.NEUTRAL if neutral else Result.FAILED)
        self._drop_connection()
        self._passage = None
        self.state = TRANSITIONS[self.state, FAIL]
        self._again(now, safe=sent is Sent.NO)

    def _again(self, now: float, *, safe: bool, here: bool = False) -> None:
        """Go on with another endpoint, if the request may be sent again and there is budget.

        safe: it was not executed.  here: the same endpoint may be asked at once.
        """
        pick = self._pick
        if pick is not None and not here and pick.endpoint not in self._tried:
            self._tried = (*self._tried, pick.endpoint)
        malformed = bool(self.told) and self.told[-1].verdict.startswith("malformed")
        if not (self._repeatable or safe) or not self._is_intact:
            self._give_up("HF-3105" if malformed else "HF-3106")
        elif not self._has_attempts or not self._cluster.may_retry(self._tried, now):
            self._give_up("HF-3105" if malformed else "HF-3101")
        else:
            self._choose(now)

    @property
    def _is_stalled(self) -> bool:
        """Whether the endpoint takes nothing of a large body."""
        return self._upload is not None and self._upload.stalled

    @property
    def _is_intact(self) -> bool:
        """Whether all of the body is there to be sent, again or for the first time."""
        return self._upload is None or self._upload.intact

    @property
    def _has_attempts(self) -> bool:
        """Whether one attempt more may be made. Those that were throttled are bounded by time."""
        cluster = self._cluster
        free = self._throttles if cluster.config.attempts == "auto" else 0
        return self.attempts - free < cluster.attempts

    def _tell(self, verdict: str, sent: Sent, now: float, status: int = 0) -> None:
        name = self._pick.endpoint.id if self._pick is not None else ""
        ms = round((now - self._sent_at) * 1000)
        self.told = (*self.told, errors.Tried(name, verdict, sent.value, ms, status))

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
            self._counted = (*self._counted, pick.endpoint)
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
        cluster, now, last = self._cluster, clock.monotonic(), self._last
        wait = cluster.soonest(now)
        if last is not None and code in _PASSES_LAST:
            last.refuse(
                come_back=max(1, math.ceil(wait)) if wait or code == "HF-3104" else None,
                final=cluster.is_repeated_path(self._head),
            )
            self._pick = self._last_pick  # whose answer it is, whoever was asked since
            last.commit(whole=True, added=cluster.added(self))
            last.end()
            self.status = last.head.status
            self._over(UPSTREAM_ERROR)
            return
        sent = "no" if all(one.sent == "no" for one in self.told) else "maybe"
        self._client.refuse(
            code,
            self,
            sent=sent,
            retry_after=max(1.0, wait) if errors.ERRORS[code].status in {429, 503} else None,
            final=cluster.is_repeated_path(self._head),
        )
        self.status = errors.ERRORS[code].status
        cluster.ledger.refused(code)
        self._over(REFUSED)

    def _release(self) -> None:
        """Give the connection back, if it is still good."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        answer, upload = connection.answer, self._upload
        # An answer may come before the request has gone out: then no other can follow it there.
        is_sent = not connection.transport.get_write_buffer_size()
        if upload is not None:
            is_sent, connection.upload = is_sent and upload.done, None
            upload.stop()
        head = answer.head if answer is not None and answer.done else None
        if head is not None and head.persists and is_sent:
            connection.pool.give(connection)
        else:
            connection.close()

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if self._upload is not None:
            self._upload.stop()
        if connection is not None:
            connection.close()
        if self.connecting is not None:
            self.connecting.cancel()
            self.connecting = None

    def _over(self, outcome: str, *, close: bool = False, abort: bool = False) -> None:
        self.state = TRANSITIONS[self.state, END]
        self._cluster.wheel.set(self, math.inf)  # not `_limit`: nothing may keep it until then
        self._release()
        if self._upload is not None:
            self._upload.close()
        self._cluster.ledger.finished(self, outcome, clock.monotonic())
        self._cluster.ended(self)
        self._client.answered(close=close, abort=abort)

    def cut(self, reason: str) -> None:
        """End it now and tell the client so: the gateway is ending, and blames nobody."""
        if self.state is OVER:
            return
        self.leave_short()
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
        self.leave_short()
        if self.state not in {CHOOSING, WAITING}:
            self._settle(Result.NEUTRAL, cancelled=True)
        self.state = TRANSITIONS[self.state, END]
        self._cluster.wheel.set(self, math.inf)  # not `_limit`: nothing may keep it until then
        self._drop_connection()
        if self._upload is not None:
            self._upload.close()
        self._cluster.ledger.finished(self, CANCELLED, clock.monotonic())
        self._cluster.ended(self)

    # -- limits ----------------------------------------------------------------------------------

    def _limit(self, due: float) -> None:
        """Set when this state has lasted too long; the whole request has its own limit."""
        self._due = due
        self._cluster.wheel.set(self, min(due, self._deadline))

    def on_due(self, now: float) -> None:
        """Take note that a limit has passed."""
        state = self.state
        if state is OVER:
            return
        self.leave_short()
        if now >= self._deadline:
            self._out_of_time(now)
        elif state is WAITING:
            self._waited(now)
        elif state is CONNECTING:
            self._not_in_time(now)
        elif state is SENT:
            self._look_at_clock(now)
        elif state is SENDING and not self._is_stalled:
            self._limit(now + self._idle_timeout)
        elif state is ANSWERING and self._passage is not None and not self._passage.watched:
            self._held_too_long(self._passage, now)
        else:
            self._fail_answer("no content" if state is ANSWERING else "timeout")

    def _not_in_time(self, now: float) -> None:
        """End an attempt for which no connection came up in time."""
        dial = self.connecting
        full = dial is not None and dial.queued  # then nobody has tried to make one
        self._failed("no place" if full else "connect timeout", Sent.NO, now, neutral=full)

    def _look_at_clock(self, now: float) -> None:
        """Compare the wait for the first byte with what it takes by now."""
        upstream = self._upstream
        if upstream is None:
            return
        seconds = self._cluster.first_byte_timeout(upstream, stream=self._stream)
        if now >= self._sent_at + seconds:
            self._fail_answer("timeout")
        else:
            self._limit(min(self._sent_at + seconds, now + LOOK_SECONDS))

    def _held_too_long(self, passage: Passage, now: float) -> None:
        if passage.is_json or now < self._first_byte + HOLD_SECONDS:
            self._fail_answer("timeout")
            return
        self._held_enough(passage)
        if self.state is PASSING:
            self._limit(now + self._idle_timeout)
        self._client.flush()

    def _out_of_time(self, now: float) -> None:
        """End it: its whole time is over."""
        if self.state is PASSING:
            self._tell("total timeout", Sent.YES, now)
            self._settle(Result.NEUTRAL)
            self._cut_short("total timeout")
            return
        if self.state not in {CHOOSING, WAITING}:
            sent = Sent.NO if self.state is CONNECTING else Sent.MAYBE
            self._tell("total timeout", sent, now)
            # A client in a hurry proves nothing; one that had all the time there is, does.
            patient = now - self._sent_at >= PATIENT * self._cluster.config.total_timeout
            self._settle(Result.FAILED if patient else Result.NEUTRAL)
            if not self._repeatable and sent is not Sent.NO:
                self._last = None
        self._drop_connection()
        self._give_up("HF-3102")
