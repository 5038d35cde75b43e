"""Whom a request asks, and when: choosing, waiting, connecting, sending, and all of it again.

Another endpoint is asked at once, one that was not tried before those that were; when all were,
after a backoff. While all cool down, are full or try a request to prove themselves, it waits in
line, see `core.line`.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from holdfast.core.balance import Nobody, Pick, Wait
from holdfast.core.breaker import Result
from holdfast.core.line import Phase
from holdfast.core.verdict import Sent
from holdfast.gateway.ending import Ending
from holdfast.gateway.headers import request_head, wants_events
from holdfast.gateway.states import (
    DIAL,
    OVER,
    SEND,
    SENDING,
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
    from holdfast.gateway.upstream import Connection, Upstream
    from holdfast.wire.strict import BadMessage


BACKOFF, BACKOFF_THROTTLED, BACKOFF_MOST = 0.05, 1.0, 20.0
"""Seconds before the same endpoint is asked again, doubled each time."""
_STREAM = re.compile(rb'"stream"\s*:\s*true')


class Asking(Ending):
    """A request on its way to an endpoint."""

    def begin(self, now: float) -> None:
        """Start. now: monotonic."""
        cluster, head = self._cluster, self._head
        self.began = now
        if self._upload is not None:
            self._upload.exchange = self
        self.profile = cluster.profile_of(head.target)
        asks = self.profile != "generic" and _STREAM.search(self._body) is not None
        self._stream = asks or wants_events(head)
        self._repeatable = cluster.is_repeatable(head)
        self._deadline = now + cluster.total(head)
        if cluster.counting.is_known:
            unable = cluster.counting.unable(head, cluster.balancer.endpoints, now)
            self._tried = (*self._tried, *unable)
        if cluster.line.calm or cluster.line.admits(self):
            self._choose(now)
        else:
            self._enter_line(cluster.turn, now)

    # -- choosing ----------------------------------------------------------------------------------

    def _choose(self, now: float) -> None:
        """Take the next endpoint, wait for one, or give up."""
        if now >= self._deadline:
            self._give_up("HF-3102")
            return
        if not self._is_intact:
            self._give_up("HF-3106")
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

    # -- waiting -----------------------------------------------------------------------------------

    def _wait(self, wait: Wait, now: float) -> None:
        if self._tried:
            # Those that were tried may be asked again before that; and the line is for who would
            # take any endpoint, or one that wants a certain one would hold up all behind it.
            self._begin_anew(now)
        else:
            self._enter_line(wait, now)

    def _enter_line(self, wait: Wait, now: float) -> None:
        """Wait for an endpoint, behind those who wait already. wait: what for."""
        cluster = self._cluster
        if self._patience == math.inf:
            self._patience = now + cluster.config.max_wait
        if wait.why == "cooling" and wait.until >= min(self._patience, self._deadline):
            self._give_up("HF-3104")
        elif not cluster.enter_line(self, wait):
            self._give_up("HF-3103")
        else:
            self.state = TRANSITIONS[self.state, WAIT]
            self._lines_up = True
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
        self._lines_up = False
        self._limit(now + seconds)

    def _waited(self, now: float) -> None:
        """Take note that a backoff is over, or the patience of one in line."""
        self.state = TRANSITIONS[self.state, WOKEN]
        if not self._lines_up:
            self._choose(now)
            return
        cluster = self._cluster
        throttled = cluster.line.phase is not Phase.OPEN
        cluster.leave_line(self)
        forced = None if throttled else cluster.balancer.force(now)
        if forced is not None:
            self._attempt(forced, now)
        else:
            self._give_up("HF-3104" if throttled else "HF-3103")

    # -- sending -----------------------------------------------------------------------------------

    def send(self, connection: Connection) -> None:
        """Send the request."""
        now = clock.monotonic()
        pick, upstream = self._pick, self._upstream
        if self.state is OVER or pick is None or upstream is None:
            connection.close()
            return
        self.connecting = None
        if not self._is_intact:
            # More of the body has come meanwhile than can be kept, and some of it is sent and gone.
            connection.close()
            self._tell("body not kept", Sent.NO, now)
            self._settle(Result.NEUTRAL)
            self._give_up("HF-3106")
            return
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

    @property
    def _is_stalled(self) -> bool:
        """Whether the endpoint takes nothing of a large body."""
        return self._upload is not None and self._upload.stalled

    # -- again -------------------------------------------------------------------------------------

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
    def _is_intact(self) -> bool:
        """Whether all of the body is there to be sent, again or for the first time."""
        return self._upload is None or self._upload.intact

    @property
    def _has_attempts(self) -> bool:
        """Whether one attempt more may be made. Those that were throttled are bounded by time."""
        cluster = self._cluster
        free = self._throttles if cluster.config.attempts == "auto" else 0
        return self.attempts - free < cluster.attempts

    # -- what comes back: see `exchange` ---------------------------------------------------------

    def not_connected(self, error: OSError) -> None:
        """Take note that no connection came up; nothing was sent."""
        raise NotImplementedError

    def received(self, out: list[bytes]) -> None:
        """Take what came of the answer."""
        raise NotImplementedError

    def malformed(self, bad: BadMessage) -> None:
        """Take note that the answer cannot be read."""
        raise NotImplementedError

    def broke(self, error: Exception | None) -> None:
        """Take note that the connection has ended."""
        raise NotImplementedError
