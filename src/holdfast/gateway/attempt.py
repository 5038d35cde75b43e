"""One try at one endpoint: its connection, what goes out on it, what comes back, how it ends.

    take_kept, dial      a connection that rests, or a new one
    send                 the request, or the beginning of its large body
    take, broke          what came of the answer, and the end of the connection
    settle               the ledger and the endpoint's health are told, once
    release, drop        the connection goes back, or is closed; that is the end of the attempt

What follows from any of it is for its owner to say. It is told of nothing once the attempt has
ended.
"""

from __future__ import annotations

import errno
import math
from functools import partial
from typing import TYPE_CHECKING, Protocol

from holdfast.core.breaker import Result
from holdfast.core.classify import classify
from holdfast.core.verdict import Sent
from holdfast.gateway.answering import Passage, keeps_framing
from holdfast.gateway.headers import request_head
from holdfast.gateway.judging import Failure
from holdfast.gateway.refusals import heed
from holdfast.gateway.relay import Relay
from holdfast.runtime.clock import clock
from holdfast.wire.responses import Answer
from holdfast.wire.strict import BadMessage

if TYPE_CHECKING:
    from holdfast.core.balance import Pick
    from holdfast.gateway.refusals import Refusal
    from holdfast.gateway.request import Request
    from holdfast.gateway.upstream import Connection, Dial
    from holdfast.wire.responses import ResponseHead


class Owner(Protocol):
    """For whom an attempt is made."""

    def sent(self, attempt: Attempt, *, whole: bool) -> None:
        """Take note that the request was written. whole: its large body, too."""

    def dial(self, attempt: Attempt, now: float) -> None:
        """Take note that the kept connection was dead, and let it `dial`."""

    def received(self, attempt: Attempt, passage: Passage, out: list[bytes], now: float) -> None:
        """Take what came of the answer, whose head is there."""

    def whole(self, attempt: Attempt, passage: Passage) -> None:
        """Take note that the end of the connection was the end of the answer."""

    def failed(self, attempt: Attempt, failure: Failure) -> None:
        """Take note that it has come to nothing."""


class Attempt:
    """One attempt of a request; what pools call an asker.

    connecting: a connection is wished for.  connection: there is one, until the attempt ends.
    passage: the answer, once its head is there.  first_byte: since when, monotonic; else NaN.
    """

    __slots__ = (
        "_is_settled",
        "_owner",
        "_relay",
        "connecting",
        "connection",
        "first_byte",
        "passage",
        "pick",
        "request",
        "upstream",
    )

    def __init__(self, owner: Owner, request: Request, pick: Pick) -> None:
        self._owner: Owner | None = owner
        self._is_settled = False
        self._relay: Relay | None = None
        self.request = request
        self.pick = pick
        self.upstream = request.cluster.upstream_of(pick.endpoint)
        self.connecting: Dial | None = None
        self.connection: Connection | None = None
        self.passage: Passage | None = None
        self.first_byte = math.nan

    # -- to the endpoint -------------------------------------------------------------------------

    def take_kept(self, now: float) -> bool:
        """Send on a connection that rests; False if there is none that is good."""
        connection = self.upstream.take(now, careful=not self.request.repeatable)
        if connection is not None:
            self.send(connection)
        return connection is not None

    def dial(self) -> None:
        """Wish for a connection; `send` or `not_connected` follows."""
        self.upstream.connect(self)

    def take_over(self, connection: Connection) -> None:
        """Go on with a connection on which all of the request was sent."""
        self.connection = connection
        connection.exchange = self
        connection.answer = self._answer()

    def send(self, connection: Connection) -> None:
        """Send the request."""
        self.connecting = None
        request, owner = self.request, self._owner
        if owner is None:
            connection.close()
            return
        if not request.is_intact:
            # More of the body has come meanwhile than can be kept, and some of it is sent and gone.
            connection.close()
            owner.failed(self, Failure("body not kept", Sent.NO, neutral=True))
            return
        self.connection = connection
        connection.begin(self, self._answer())
        head, body, upload = request.head, request.body, request.upload
        data = request_head(
            head,
            self.upstream.routes[self.pick.key.number],
            request.client.identity,
            length=len(body) if upload is None else upload.length,
            via=request.cluster.via,
            identity=request.stream,
        )
        request.sent_at = clock.monotonic()
        connection.transport.write(data + body if body else data)
        owner.sent(self, whole=upload is None)
        if upload is not None:
            connection.upload = upload
            upload.begin(connection.transport, self)

    def _answer(self) -> Answer:
        head = self.request.head
        return Answer(head.method, raw=partial(keeps_framing, head))

    def uploaded(self) -> None:
        """Take note that all of a large body was written."""
        if self._owner is not None and self.passage is None:  # else it answered before that
            self.request.sent_at = clock.monotonic()
            self._owner.sent(self, whole=True)

    # -- and back --------------------------------------------------------------------------------

    def not_connected(self, error: OSError) -> None:
        """Take note that no connection came up; nothing was sent."""
        self.connecting = None
        if self._owner is not None:
            verdict = classify(error, connecting=True)
            # Files or ports that this machine lacks are no fault of the endpoint.
            local = verdict.local or error.errno == errno.EADDRNOTAVAIL
            self._owner.failed(self, Failure(verdict.reason, Sent.NO, neutral=local))

    def take(self, data: bytes) -> None:
        """Read what came of the answer."""
        connection, owner = self.connection, self._owner
        if connection is None or owner is None:
            return
        out: list[bytes] = []
        try:
            head = connection.read(data, out)
        except BadMessage as bad:
            owner.failed(self, Failure(f"malformed: {bad.reason}"))
            return
        if head is not None:
            now = clock.monotonic()
            owner.received(self, self.passage or self._begin_answer(head, now), out, now)

    def _begin_answer(self, head: ResponseHead, now: float) -> Passage:
        request, cluster = self.request, self.request.cluster
        self.first_byte = now
        if head.status < 400:
            cluster.answered_first(now - request.sent_at, stream=request.stream)
        self.passage = passage = Passage(request.client, request.head, head, cluster.via)
        passage.watch(request.profile, hold=cluster.config.hold_preamble)
        return passage

    def broke(self, error: Exception | None) -> None:
        """Take note that the connection has ended."""
        connection, owner = self.connection, self._owner
        answer = connection.answer if connection is not None else None
        if connection is None or owner is None or answer is None:
            return
        if error is None and answer.end() and self.passage is not None:
            owner.whole(self, self.passage)
        elif not answer.started and connection.uses > 1:
            self._died(connection, owner)
        else:
            reason = "cut" if error is None else classify(error, connecting=False).reason
            owner.failed(self, Failure(reason))

    def _died(self, connection: Connection, owner: Owner) -> None:
        """Try once more on a fresh connection: the kept one was dead, which is nobody's fault.

        Who waits in line for a connection may get one that is dead as well: then it goes on
        with the next attempt, and still nobody is to blame.
        """
        request, now = self.request, clock.monotonic()
        again, request.was_stale = not request.was_stale, True
        self.connection = None
        self.upstream.lifetime.died(connection.rested, now)
        request.cluster.ledger.stale += 1
        if not (request.repeatable and again and request.is_intact):
            owner.failed(self, Failure("stale", Sent.MAYBE, neutral=True))
            return
        # Nobody is to blame, but the dead connection may have brought the request there.
        request.tell("stale", Sent.MAYBE, now)
        if request.upload is not None:
            request.upload.stop()
        owner.dial(self, now)

    # -- reading ---------------------------------------------------------------------------------

    @property
    def heard_at(self) -> float:
        """When a piece of a stream was passed on last, monotonic; -inf if none was."""
        return self._relay.heard_at if self._relay is not None else -math.inf

    @property
    def is_whole(self) -> bool:
        """Whether all of the answer has come."""
        answer = self.connection.answer if self.connection is not None else None
        return answer is not None and answer.done

    @property
    def is_queued(self) -> bool:
        """Whether it waits for a place in the pool, so that nobody has tried to connect."""
        return self.connecting is not None and self.connecting.queued

    @property
    def is_stalled(self) -> bool:
        """Whether the endpoint takes nothing of a large body."""
        upload = self.request.upload
        return upload is not None and upload.stalled

    @property
    def idle_timeout(self) -> float:
        """Seconds of silence that are allowed within its answer."""
        return self.request.cluster.idle_timeout(self.upstream)

    # -- the pace --------------------------------------------------------------------------------

    def pause(self, *, paused: bool) -> None:
        """Let the endpoint wait, or go on."""
        if self.connection is not None and paused:
            self.connection.transport.pause_reading()
        elif self.connection is not None:
            self.connection.transport.resume_reading()

    def commit(self) -> None:
        """Pass on what was held of the answer, and from now on what follows, as it comes."""
        connection, passage, request = self.connection, self.passage, self.request
        if connection is None or connection.answer is None or passage is None:
            return
        cluster, now = request.cluster, clock.monotonic()
        request.status, request.given_at = passage.head.status, now
        cluster.ledger.streams += 1
        if request.status < 400:
            cluster.prove(self.pick, now, self.first_byte - request.sent_at)
        if passage.is_stream:
            most = cluster.config.stream_timeout
            request.deadline = now + most if most else math.inf
        passage.commit(whole=False, added=cluster.added(request))
        parts = passage.parts
        if parts is not None:
            connection.exchange = self._relay = Relay(self, connection.answer, *parts)

    # -- the end ---------------------------------------------------------------------------------

    def refused(self, refusal: Refusal, status: int, now: float, *, whole: bool) -> None:
        """End with an answer that says: not here, or not now. whole: all of it has come."""
        heed(refusal, self.pick, now)
        self.request.tell(
            f"http {status}" if status >= 400 else "error in a 200", Sent.YES, now, status
        )
        self.settle(refusal.result)
        if whole:
            self.release()
        else:
            self.drop()

    def settle(self, result: Result, *, cancelled: bool = False) -> None:
        """Tell the ledger and the endpoint's health what came of it; the first time counts.

        What is not good was told to the request before, unless it was cancelled.
        """
        if self._is_settled:
            return
        self._is_settled = True
        pick, request, now = self.pick, self.request, clock.monotonic()
        began = now if math.isnan(self.first_byte) else self.first_byte
        seconds = max(0.0, began - request.sent_at)
        said = None if cancelled or result is Result.OK else request.told[-1]
        request.cluster.ledger.attempt(pick.endpoint.id, result, said, now, seconds)
        if result is Result.FAILED and not request.blame(pick.endpoint):
            result = Result.NEUTRAL
        request.cluster.settle(pick, result, now, seconds)

    def release(self) -> None:
        """Give the connection back, if it is still good."""
        connection = self._leave()
        if connection is None:
            return
        answer, upload = connection.answer, self.request.upload
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

    def drop(self) -> None:
        """Close the connection, or wish for none any more."""
        connection = self._leave()
        if self.request.upload is not None:
            self.request.upload.stop()
        if connection is not None:
            connection.close()
        if self.connecting is not None:
            self.connecting.cancel()
            self.connecting = None

    def _leave(self) -> Connection | None:
        """Have no owner and no connection any more; return the one there was."""
        self._owner = None
        if self._relay is not None:
            self._relay.tell()
        connection, self.connection = self.connection, None
        return connection
