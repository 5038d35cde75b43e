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
        "_began",
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
        "connecting",
        "id",
        "profile",
        "state",
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
        self._sent_at = self._first_byte = math.nan
        self.attempts = 0
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

    def pause(self, *, paused: bool) -> None:
        """Let the endpoint wait while the client takes less than comes."""
        if self._connection is not None:
            transport = self._connection.transport
            (transport.pause_reading if paused else transport.resume_reading)()

    # -- choosing --------------------------------------------------------------------------------

    def begin(self, now: float) -> None:
        """Start. now: monotonic."""
        cluster, head = self._cluster, self._head
        self._began = now
        self.profile = cluster.profile_of(head.target)
        self._stream = self.profile != "generic" and _STREAM.search(self._body) is not None
        self._repeatable = cluster.is_repeatable(head)
        self._deadline = now + cluster.total(head)
        self._choose(now)

    def _choose(self, now: float) -> None:
        """Take the next endpoint, wait for one, or give up."""
        self.state = State.CHOOSING
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
        self._pick = pick
        self._upstream = upstream = self._cluster.upstream_of(pick.endpoint)
        self._sent_at = now
        connection = upstream.take(now, careful=not self._repeatable)
        if connection is not None:
            self.send(connection)
            return
        self.state = State.CONNECTING
        self._limit(now + self._cluster.connect_timeout(upstream))
        upstream.connect(self)

    def _wait(self, wait: Wait, now: float, patience: float) -> None:
        if wait.why == "cooling" and wait.until - now > patience:
            self._give_up("HF-3104")
        elif not self._cluster.enter_line(self):
            self._give_up("HF-3103")
        else:
            self.state = State.WAITING
            self._limit(min(wait.until, now + patience))

    def look_again(self) -> None:
        """Somebody else has ended: there may be an endpoint now."""
        if self.state is State.WAITING:
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
        self.state = State.WAITING
        self._limit(now + seconds)

    # -- connecting and sending ------------------------------------------------------------------

    def not_connected(self, error: OSError) -> None:
        """Take note that no connection came up; nothing was sent."""
        if self.state is State.CONNECTING:
            self.connecting = None
            verdict = classify(error, connecting=True)
            self._failed(verdict.reason, Sent.NO, clock.monotonic())

    def send(self, connection: Connection) -> None:
        """Send the request."""
        now = clock.monotonic()
        pick, upstream = self._pick, self._upstream
        if self.state is State.OVER or pick is None or upstream is None:
            connection.close()
            return
        self.connecting = None
        self.state = State.SENT
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
        """Whether a chunked answer keeps its framing: not where we frame it anew."""
        return bool(self._head.minor) and not _is_sse(head)

    # -- the answer ------------------------------------------------------------------------------

    def received(self, out: list[bytes]) -> None:
        """Take what came of the answer."""
        self._take(out)
        self._client.flush()

    def _take(self, out: list[bytes]) -> None:
        connection = self._connection
        answer = connection.answer if connection is not None else None
        if connection is None or answer is None or answer.head is None:
            return
        if self.state is State.SENT:
            self._begin_answer(answer.head)
        if self._committed:
            self._pass_on(out)
        else:
            self._held += out
            self._held_size += sum(map(len, out))
            if self._watch is not None:
                self._look_at_beginning(b"".join(out))
        if answer.done and self.state is State.ANSWERING:
            self._whole(answer.head)
        elif self.state is State.ANSWERING:
            self._hold_or_commit(answer.head)
            self._limit(clock.monotonic() + self._cluster.config.idle_timeout)

    def _begin_answer(self, head: ResponseHead) -> None:
        self.state = State.ANSWERING
        self._first_byte = clock.monotonic()
        if self._cluster.config.hold_preamble and _is_sse(head) and head.status == 200:
            self._watch = sse.Watch(self.profile)
        self._passing = head.unbuffered or head.media_type in _PASSING

    def _look_at_beginning(self, data: bytes) -> None:
        watch = self._watch
        meaning = watch.begin(data) if watch is not None else None
        if meaning is Meaning.ERROR:
            self._refused_as_event()
        elif meaning is not None:
            self._commit()

    def _hold_or_commit(self, head: ResponseHead) -> None:
        if self._committed or self._is_refusal(head) or self._watch is not None:
            return
        if self._passing or self._held_size > self._cluster.config.buffer_max:
            self._commit()

    def _is_refusal(self, head: ResponseHead) -> bool:
        """Whether another endpoint may do better."""
        own_key = bool(self._upstream and self._upstream.config.keys)
        return head.status in REPEATED or (own_key and head.status in {401, 403})

    def _whole(self, head: ResponseHead) -> None:
        """Pass a whole answer on, or let another endpoint try."""
        if self._is_refusal(head) and not self._committed:
            self._refused(head)
            return
        self._settle(Result.OK)
        self._commit()
        self._end_body()

    def _commit(self) -> None:
        """Give the client the head and what was held: from here on there is no way back."""
        connection = self._connection
        answer = connection.answer if connection is not None else None
        if self._committed or answer is None or answer.head is None:
            return
        self._committed = True
        self._watch_end()
        head, held = answer.head, self._held
        self._held, self._held_size = [], 0
        self._give_head(head, whole=answer.done, size=sum(map(len, held)))
        self._pass_on(held)

    def _give_head(self, head: ResponseHead, *, whole: bool, size: int) -> None:
        framed = self._is_raw(head) and head.chunked
        bodyless = self._head.method == b"HEAD" or head.status in {204, 304}
        length: int | None = None
        if whole and not framed:
            length = size
        elif not head.chunked:
            length = head.length
        if bodyless:
            length = _length_of(head)
        chunked = not bodyless and (framed or (length is None and bool(self._head.minor)))
        close = self._client.closes(
            self._head, ends=length is None and not chunked and not bodyless
        )
        self._client.write(
            response_head(
                head,
                length=None if chunked else length,
                chunked=chunked,
                close=close,
                via=self._cluster.via,
                added=self._cluster.added(self),
            )
        )
        self._client.chunked = chunked and not framed
        self._client.terminator = b"0\r\n\r\n" if chunked else b""

    def _watch_end(self) -> None:
        answer = self._connection.answer if self._connection is not None else None
        if answer is not None and answer.head is not None and _is_sse(answer.head):
            self._cutter = sse.Cutter()
            if self._watch is None:
                self._watch = sse.Watch(self.profile)
                self._watch.passed(b"".join(self._held))

    def _pass_on(self, pieces: list[bytes]) -> None:
        if not pieces:
            return
        if self._cutter is not None:
            data = b"".join(pieces)
            if self._watch is not None:
                self._watch.passed(data)
            data = self._cutter.feed(data)
            pieces = [data] if data else []
        self._client.give(pieces)

    def _end_body(self) -> None:
        if self._cutter is not None and self._cutter.held:
            self._client.give([self._cutter.held])
        self._client.end_body()
        self._over()

    # -- refusals, failures ----------------------------------------------------------------------

    def _refused(self, head: ResponseHead) -> None:
        """Heed an answer that says: not here, or not now."""
        now = clock.monotonic()
        self._last = (head, self._held)
        self._held, self._held_size = [], 0
        pick = self._pick
        if pick is None:
            return
        hint = read_hint(head.fields, now_wall=clock.wall()).retry_after
        result = Result.NEUTRAL
        if head.status == 429:
            pick.endpoint.health.throttled(now, hint, pick.key)
            self._throttled = True
        elif head.status == 529 or (head.status == 503 and hint is not None):
            pick.endpoint.health.throttled(now, hint)
            self._throttled = True
        elif head.status in {401, 403}:
            pick.endpoint.health.key_out(pick.key, now, KEY_OUT_SECONDS)
        else:
            result = Result.FAILED
        self._tell(f"http {head.status}", Sent.YES, now, head.status)
        self._settle(result)
        self._release()
        self._again(now, safe=head.status in {425, 429, 529} or hint is not None)

    def _refused_as_event(self) -> None:
        """Heed a stream whose first telling event is an error."""
        now = clock.monotonic()
        self._tell("error event", Sent.YES, now, 200)
        self._settle(Result.FAILED)
        self._drop_connection()
        self._held, self._held_size, self._watch = [], 0, None
        self._again(now, safe=False)

    def malformed(self, bad: BadMessage) -> None:
        """Take note that the answer cannot be read."""
        self._fail_answer(f"malformed: {bad.reason}")

    def broke(self, error: Exception | None) -> None:
        """Take note that the connection has ended."""
        connection, self._connection = self._connection, None
        answer = connection.answer if connection is not None else None
        if connection is None or answer is None or self.state is State.OVER:
            return
        self._connection = connection
        if error is None and answer.end() and answer.head is not None:
            self._whole(answer.head)
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
        self._cluster.stats.stale += 1
        if not self._repeatable:
            self._failed("stale", Sent.MAYBE, clock.monotonic(), neutral=True)
            return
        self.state = State.CONNECTING
        self._limit(clock.monotonic() + self._cluster.connect_timeout(upstream))
        upstream.connect(self)

    def _fail_answer(self, reason: str) -> None:
        now = clock.monotonic()
        if self._committed:
            self._tell(reason, Sent.YES, now)
            self._settle(Result.FAILED)
            self._cut_short(reason)
            return
        sent = Sent.MAYBE if self.state is State.SENT else Sent.YES
        self._failed(reason, sent, now)

    def _failed(self, reason: str, sent: Sent, now: float, *, neutral: bool = False) -> None:
        """End an attempt that came to nothing before anything was given to the client."""
        self._tell(reason, sent, now)
        self._settle(Result.NEUTRAL if neutral else Result.FAILED)
        self._drop_connection()
        self._held, self._held_size, self._watch = [], 0, None
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

    def _settle(self, result: Result) -> None:
        """Tell the endpoint's health of the attempt, once."""
        pick = self._pick
        if pick is None or self._upstream is None:
            return
        now = clock.monotonic()
        if result is Result.FAILED and pick.endpoint in self._counted:
            result = Result.NEUTRAL  # one request says one thing about an endpoint
        elif result is Result.FAILED:
            self._counted.append(pick.endpoint)
        began = self._first_byte if self._first_byte == self._first_byte else now
        self._cluster.settle(pick, result, now, max(0.0, began - self._sent_at))
        self._first_byte = math.nan
        self._upstream = None if result is not Result.OK else self._upstream

    # -- the end ---------------------------------------------------------------------------------

    def _cut_short(self, reason: str) -> None:
        """Say that the answer broke after a part of it was given; it is never spliced."""
        if self._cutter is not None and self._cutter.at_boundary:
            value = errors.body("HF-3108", self.id, reason=reason, sent="yes", attempts=self.told)
            self._client.give([sse.event("error", value)])
            self._client.end_body()
            self._drop_connection()
            self._over(close=True)
            return
        self._drop_connection()
        self._over(abort=True)

    def _give_up(self, code: str) -> None:
        """Pass the last answer on; only if there is none, one of ours."""
        if self._last is not None and code in {"HF-3101", "HF-3102", "HF-3104", "HF-3106"}:
            head, held = self._last
            self._last = None
            self._committed = True
            self._give_head(head, whole=True, size=sum(map(len, held)))
            self._client.give(held)
            self._client.end_body()
            self._over()
            return
        sent = "no" if all(one.sent == "no" for one in self.told) else "maybe"
        wait = self._cluster.soonest(clock.monotonic()) if code == "HF-3104" else None
        self._client.refuse(code, self, sent=sent, retry_after=wait)
        self._over()

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

    def _over(self, *, close: bool = False, abort: bool = False) -> None:
        self.state = State.OVER
        self._limit(math.inf)
        self._release()
        self._cluster.ended(self)
        self._client.answered(close=close, abort=abort)

    def cut(self, reason: str) -> None:
        """End it now and tell the client so: the gateway is ending, and blames nobody."""
        if self.state is State.OVER:
            return
        if self.state in {State.CONNECTING, State.SENT, State.ANSWERING}:
            sent = Sent.NO if self.state is State.CONNECTING else Sent.MAYBE
            self._tell(reason, sent, clock.monotonic())
            self._settle(Result.NEUTRAL)
        if self._committed:
            self._cut_short(reason)
        else:
            self._drop_connection()
            self._give_up("HF-3107")

    def abandon(self) -> None:
        """End everything, and blame nobody: the client is gone."""
        if self.state is State.OVER:
            return
        if self.state in {State.CONNECTING, State.SENT, State.ANSWERING}:
            self._settle(Result.NEUTRAL)
        self.state = State.OVER
        self._limit(math.inf)
        self._drop_connection()
        self._cluster.ended(self)

    # -- limits ----------------------------------------------------------------------------------

    def _limit(self, due: float) -> None:
        if not self._committed:
            due = min(due, self._deadline)
        self._cluster.wheel.set(self, due)

    def on_due(self, now: float) -> None:
        """Take note that the limit of this state has passed."""
        if self.state is State.WAITING:
            self._choose(now)
        elif self.state is State.CONNECTING:
            self._failed("connect timeout", Sent.NO, now)
        elif self.state in {State.SENT, State.ANSWERING}:
            self._fail_answer("timeout")


def _is_sse(head: ResponseHead) -> bool:
    return head.media_type == _SSE


def _length_of(head: ResponseHead) -> int | None:
    """Return the length that a bodyless answer tells of the body it stands for."""
    for name, value in head.fields:
        if name.lower() == b"content-length" and value.isdigit():
            return int(value)
    return None
