"""How a request ends, and each of its attempts: who is told, and what the client gets.

A request ends in one of four ways, and exactly once:

    answered    an endpoint's answer was given, whole
    given up    the last answer of an endpoint, or one of ours where there is none
    cut short   an answer that broke after a part of it was given; it is never spliced
    abandoned   the client is gone, and nobody is blamed
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from holdfast.core.breaker import Result
from holdfast.core.verdict import Sent
from holdfast.gateway import errors, sse
from holdfast.gateway.ledger import CANCELLED, CUT, REFUSED, UPSTREAM_ERROR
from holdfast.gateway.short import Short
from holdfast.gateway.states import (
    CHOOSING,
    CONNECTING,
    END,
    OVER,
    PASSING,
    TRANSITIONS,
    WAITING,
)
from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    from holdfast.core.health import Tier
    from holdfast.gateway.client import Client
    from holdfast.wire.requests import RequestHead


_PASSES_LAST = frozenset({"HF-3101", "HF-3102", "HF-3104", "HF-3105", "HF-3106"})
"""Reasons to give up for which the last answer of an endpoint says more than one of ours."""


class Ending(Short):
    """What a request has of itself, and its ends. What comes before them is in the subclasses."""

    # -- reading -----------------------------------------------------------------------------------

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

    # -- limits ------------------------------------------------------------------------------------

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

    def _limit(self, due: float) -> None:
        """Set when this state has lasted too long; the whole request has its own limit."""
        self._due = due
        self._cluster.wheel.set(self, min(due, self._deadline))

    # -- an attempt --------------------------------------------------------------------------------

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
        self._upstream = None  # so that nothing settles it twice

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

    # -- the request -------------------------------------------------------------------------------

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

    def abandon(self, status: int = 0) -> None:
        """End everything, and blame nobody: the client is gone, or is no good.

        status: of the answer that it gets all the same.
        """
        if self.state is OVER:
            return
        self.status = status or self.status
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

    def look_again(self) -> None:
        """Somebody else has ended, or an endpoint is cool: there may be one now."""
        raise NotImplementedError
