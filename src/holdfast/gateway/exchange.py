"""One request: what follows from what comes back, and from what does not come in time.

The states, and what leads from one to another, are in `states`. Nothing here is a task: what
happens next is told by a connection, by the wheel, or by the client who leaves.

    short       the way of most requests, which need nothing else
    ending      how a request ends, and each of its attempts
    asking      whom it asks, and when
    this file   answers, refusals, failures, limits
    answering   what of an answer is held, and how it is passed on
    refusals    what a status and a code mean
"""

from __future__ import annotations

import errno
import math
from typing import TYPE_CHECKING

from holdfast.core.breaker import Result
from holdfast.core.classify import classify
from holdfast.core.verdict import Sent
from holdfast.gateway.answering import Passage
from holdfast.gateway.asking import Asking
from holdfast.gateway.counting import UNABLE, counted
from holdfast.gateway.ledger import outcome_of
from holdfast.gateway.refusals import (
    KEY_OUT_SECONDS,
    QUOTA_SECONDS,
    Cools,
    Refusal,
    codes_of,
    refusal_of,
    status_of,
)
from holdfast.gateway.sse import Meaning
from holdfast.gateway.states import (
    ANSWER,
    ANSWERING,
    CHOOSING,
    COMMIT,
    CONNECTING,
    FAIL,
    OVER,
    PASSING,
    SENDING,
    SENT,
    TRANSITIONS,
    WAITING,
)
from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    from holdfast.gateway.upstream import Connection
    from holdfast.wire.responses import ResponseHead
    from holdfast.wire.strict import BadMessage


LOOK_SECONDS = 1.0
"""How often a request that waits for its answer is compared with what others take by now."""
PATIENT = 0.9
"""An attempt that took so much of the total time has failed when that is over."""
HOLD_SECONDS = 0.25
"""For how long an answer that is no JSON is held from its first byte on."""


class Exchange(Asking):
    """One request and its answer. Made by the client's connection, which calls `begin`.

    body: all of it; or upload: a large one, which is still coming.
    """

    def not_connected(self, error: OSError) -> None:
        """Take note that no connection came up; nothing was sent."""
        if self.state is CONNECTING:
            self.connecting = None
            verdict = classify(error, connecting=True)
            # Files or ports that this machine lacks are no fault of the endpoint.
            local = verdict.local or error.errno == errno.EADDRNOTAVAIL
            self._failed(verdict.reason, Sent.NO, clock.monotonic(), neutral=local)

    # -- the answer --------------------------------------------------------------------------------

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
        elif passage.size > self._cluster.config.buffer_max:
            self._held_enough(passage)
        elif passage.watched:
            content = self._sent_at + self._cluster.config.first_content_timeout
            self._limit(min(content, now + self._idle_timeout))
        elif passage.is_stream and passage.head.status < 400:
            self._commit(passage)
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
        size = self._head.length or self.size
        added = cluster.added(self)
        answer = counted(self._head, self._body, self._client, added, size=size)
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
        if self._pick is not None and self.status < 400:
            cluster.prove(self._pick, now, self._first_byte - self._sent_at)
        if passage.is_stream:
            whole = cluster.config.stream_timeout
            self._deadline = now + whole if whole else math.inf
        cluster.answered(self)
        passage.commit(whole=False, added=cluster.added(self))
        if passage.is_reframed and self._connection is not None:
            self._connection.short = self
        if self._client.paused:
            self.pause(paused=True)

    # -- refusals ----------------------------------------------------------------------------------

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

    # -- failures ----------------------------------------------------------------------------------

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
        if not (self._repeatable and again and self._is_intact):
            self._failed("stale", Sent.MAYBE, clock.monotonic(), neutral=True)
            return
        # Nobody is to blame, but the dead connection may have brought the request there.
        now = clock.monotonic()
        self._tell("stale", Sent.MAYBE, now)
        if self._upload is not None:
            self._upload.stop()
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

    # -- limits ------------------------------------------------------------------------------------

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
            # Nor does one whose body did not come.
            waits_for_client = self.state is SENDING and not self._is_stalled
            fault = patient and not waits_for_client
            self._settle(Result.FAILED if fault else Result.NEUTRAL)
            if not self._repeatable and sent is not Sent.NO:
                self._last = None
        self._drop_connection()
        self._give_up("HF-3102")
