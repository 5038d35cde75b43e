"""The short way of a request: nearly all requests need nothing else.

    a head whose form is known, its body with it      -> `forms`
    an endpoint with which nothing is wrong           -> `Balancer.pick_plain`
    a connection to it that rests                     -> `Pool.take`
    an answer in one piece, 2xx, with a length        -> `glance`

Each step does what the long way does (see `exchange`), only without asking what is known already:
the same bytes go out, the same things are counted. Where a step does not fit, the request goes on
the long way from there; it has only written its request by then, and nothing to the client.

A request on this way has its limit in the place of its client's, so that it costs the wheel none.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from holdfast.gateway.answering import keeps_framing
from holdfast.gateway.ledger import OK
from holdfast.gateway.refusals import looks_like_error
from holdfast.gateway.states import ANSWER, CHOOSING, END, SEND, TRANSITIONS
from holdfast.runtime.clock import clock
from holdfast.runtime.random import rng
from holdfast.runtime.wheel import Due
from holdfast.wire.responses import Answer

if TYPE_CHECKING:
    from holdfast.core.balance import Endpoint, Pick
    from holdfast.gateway.answering import Passage
    from holdfast.gateway.client import Client
    from holdfast.gateway.cluster import Cluster
    from holdfast.gateway.errors import Tried
    from holdfast.gateway.forms import Form
    from holdfast.gateway.states import State
    from holdfast.gateway.upload import Upload
    from holdfast.gateway.upstream import Connection, Dial, Upstream
    from holdfast.wire.requests import RequestHead
    from holdfast.wire.responses import ResponseHead


_BEGUN = TRANSITIONS[CHOOSING, SEND]
_ANSWERED = TRANSITIONS[TRANSITIONS[_BEGUN, ANSWER], END]


class Short(Due):
    """What is known of a request, and its short way.

    Defaults stand in the class, so that what most requests never need costs them nothing.
    """

    _connection: Connection | None = None
    _counted: tuple[Endpoint, ...] = ()
    _deadline = math.inf
    _due = math.inf
    _first_byte = math.nan
    _form: Form | None = None
    _last: Passage | None = None
    _last_pick: Pick | None = None
    _lines_up = False
    _passage: Passage | None = None
    _patience = math.inf
    _pick: Pick | None = None
    _repeatable = False
    _row = 0
    _sent_at = math.nan
    _stale = False
    _stream = False
    _throttled = False
    _throttles = 0
    _tried: tuple[Endpoint, ...] = ()
    _upload: Upload | None = None
    _upstream: Upstream | None = None
    attempts = 0
    began = math.nan
    connecting: Dial | None = None
    given_at = math.nan
    number = 0
    profile = ""
    state: State = CHOOSING
    status = 0
    streaming = False
    told: tuple[Tried, ...] = ()

    def __init__(
        self,
        cluster: Cluster,
        client: Client,
        head: RequestHead,
        body: bytes,
        upload: Upload | None = None,
    ) -> None:
        self.due = self._slot = math.inf  # as `Due` has it
        if upload is not None:
            self._upload = upload
        self._cluster = cluster
        self._client = client
        self._head = head
        self._body = body

    @property
    def id(self) -> str:
        """Its name, in answers, errors and the log."""
        return f"{self._client.serial.decode()}-{self.number:x}"

    # -- to the endpoint -------------------------------------------------------------------------

    def begin_short(self, form: Form, now: float) -> bool:
        """Send the request, if that is all there is to do; False: nothing was done."""
        cluster, body = self._cluster, self._body
        if form.profile != "generic" and b'"stream"' in body:
            return False
        pick = cluster.balancer.pick_plain(now, rng.draw())
        if pick is None:
            return False
        upstream = cluster.upstream_of(pick.endpoint)
        connection = upstream.pool.take(now, careful=not form.repeatable)
        if connection is None:
            pick.endpoint.health.in_flight -= 1  # as if it had not been picked
            return False
        self._form = form
        self.began = self._sent_at = now
        self.profile = form.profile
        self._repeatable = form.repeatable
        self._deadline = deadline = now + form.total
        self.attempts = 1
        self._pick = pick
        self._upstream = upstream
        self.state = _BEGUN
        self._connection = connection
        connection.exchange = self  # type: ignore[assignment]  # what there is is an Exchange
        connection.short = self
        connection.uses += 1
        head = form.head_for(upstream.routes[pick.key.number], cluster.via)
        connection.transport.write(b"%b%d\r\n\r\n%b" % (head, len(body), body))
        self._due = due = now + cluster.first_look(upstream)
        cluster.wheel.set(self._client, min(deadline, due))
        return True

    # -- and back --------------------------------------------------------------------------------

    def take_short(self, data: bytes) -> bool:
        """Take what came, if there is nothing to decide about it; False: it is to be read."""
        passage, connection = self._passage, self._connection
        if passage is None:
            if self.take_whole(data):
                return True
            self.leave_short()
            return False
        answer = connection.answer if connection is not None else None
        if answer is None or not answer.is_between_chunks or not passage.pass_chunk(data):
            return False
        if not self._client.paused:
            self._due = due = clock.monotonic() + self._idle_timeout
            self._cluster.wheel.set(self, min(due, self._deadline))
        return True

    def take_whole(self, data: bytes) -> bool:
        """Give the client its answer, if `data` is all of it; False: nothing was done."""
        form, connection, pick = self._form, self._connection, self._pick
        if form is None or connection is None or pick is None:
            return False
        cluster, client = self._cluster, self._client
        whole = cluster.glance.look(data)
        if whole is None or connection.transport.get_write_buffer_size():
            return False
        status, lines, at, is_json = whole
        if is_json and form.profile != "generic" and looks_like_error(data, at):
            return False
        now = clock.monotonic()
        self.state = _ANSWERED
        self.status = status
        self._settle_short(pick, now)
        self._connection = None
        connection.pool.give(connection)
        close = client.closes(self._head, ends=False)
        lines.append(cluster.added_short(client.serial, self.number, pick.endpoint))
        lines.append(b"%d\r\n" % (len(data) - at))
        lines.append(b"Connection: close\r\n\r\n" if close else b"\r\n")
        lines.append(data[at:])
        client.pass_on(b"".join(lines))
        if cluster.ledger.log is not None:
            cluster.ledger.log.take(self, OK, now)  # type: ignore[arg-type]  # the same
        if not cluster.line.calm:
            cluster.answered(self)  # type: ignore[arg-type]  # the same
            cluster.ended(self)  # type: ignore[arg-type]  # the same
        client.answered(close=False, abort=False)
        return True

    def _settle_short(self, pick: Pick, now: float) -> None:
        """Tell everybody who counts and learns that the answer is there."""
        cluster, endpoint = self._cluster, pick.endpoint
        seconds = now - self._sent_at
        cluster.answered_first(seconds, stream=False)
        cluster.settle_well(pick, now, seconds)
        cluster.ledger.succeeded_at_once(endpoint.id, now, seconds)

    @property
    def is_short(self) -> bool:
        """Whether it is on its short way, where its limit stands in its client's place."""
        return self._form is not None

    @property
    def _idle_timeout(self) -> float:
        upstream = self._upstream
        own = upstream.config.idle_timeout if upstream is not None else 0
        return own or self._cluster.config.idle_timeout

    # -- the long way ----------------------------------------------------------------------------

    def leave_short(self) -> None:
        """Go on the long way from here, if it is on the short one."""
        if self._form is None:
            return
        self._form = None
        connection, wheel = self._connection, self._cluster.wheel
        wheel.set(self._client, math.inf)
        wheel.set(self, min(self._due, self._deadline))
        if connection is not None:
            connection.short = None
            connection.answer = Answer(self._head.method, raw=self._is_raw)

    def _is_raw(self, head: ResponseHead) -> bool:
        return keeps_framing(self._head, head)
