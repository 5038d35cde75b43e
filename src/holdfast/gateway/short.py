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

from holdfast.core.breaker import Result
from holdfast.gateway.exchange import Exchange
from holdfast.gateway.ledger import OK
from holdfast.gateway.refusals import looks_like_error
from holdfast.gateway.request import Request, name_of
from holdfast.runtime.clock import clock
from holdfast.runtime.random import rng

if TYPE_CHECKING:
    from holdfast.core.balance import Pick
    from holdfast.gateway.attempt import Attempt
    from holdfast.gateway.client import Client
    from holdfast.gateway.cluster import Cluster
    from holdfast.gateway.errors import Tried
    from holdfast.gateway.forms import Form
    from holdfast.gateway.upstream import Connection
    from holdfast.wire.requests import RequestHead


class Short:
    """A request whose only attempt was sent when it came, and whose answer is awaited.

    It is what its client has in work (`talking.Work`), whose answer comes on the connection
    (`connection.Hearer`), and what the log is told of (`request.Record`).
    """

    __slots__ = (
        "_body",
        "_cluster",
        "_connection",
        "_form",
        "began",
        "client",
        "number",
        "pick",
        "status",
    )

    attempts = 1
    given_at = math.nan
    is_given = False
    told: tuple[Tried, ...] = ()

    def __init__(
        self,
        cluster: Cluster,
        client: Client,
        form: Form,
        body: bytes,
        now: float,
        pick: Pick,
        connection: Connection,
    ) -> None:
        self._cluster = cluster
        self._form = form
        self._body = body
        self._connection = connection
        self.client = client
        self.pick = pick
        self.began = now
        self.number = cluster.ledger.requests
        self.status = 0

    # -- to the endpoint -------------------------------------------------------------------------

    @classmethod
    def begin(
        cls, cluster: Cluster, client: Client, form: Form, body: bytes, now: float
    ) -> Short | None:
        """Send a request, if that is all there is to do; None: nothing was done."""
        if form.profile != "generic" and b'"stream"' in body:
            return None
        pick = cluster.balancer.pick_plain(now, rng.draw())
        if pick is None:
            return None
        upstream = cluster.upstream_of(pick.endpoint)
        connection = upstream.pool.take(now, careful=not form.repeatable)
        if connection is None:
            pick.endpoint.health.in_flight -= 1  # as if it had not been picked
            return None
        connection.exchange = short = cls(cluster, client, form, body, now, pick, connection)
        connection.uses += 1
        head = form.head_for(upstream.routes[pick.key.number], cluster.via)
        connection.transport.write(b"%b%d\r\n\r\n%b" % (head, len(body), body))
        cluster.wheel.set(client, now + min(form.total, upstream.first_look))
        return short

    # -- and back --------------------------------------------------------------------------------

    def take(self, data: bytes) -> None:
        """Give the client its answer, if `data` is all of it; else go the long way with it."""
        cluster, client, form = self._cluster, self.client, self._form
        connection = self._connection
        whole = cluster.glance.look(data)
        if (
            whole is None
            or connection.transport.get_write_buffer_size()
            or (whole.is_json and form.profile != "generic" and looks_like_error(data, whole.at))
        ):
            _, attempt = self._leave()
            attempt.take(data)
            return
        status, lines, at, _ = whole
        now, endpoint = clock.monotonic(), self.pick.endpoint
        seconds = now - self.began
        cluster.answered_first(seconds, stream=False)
        cluster.settle(self.pick, Result.OK, now, seconds)
        cluster.ledger.succeeded_at_once(endpoint.id, now, seconds)
        connection.pool.give(connection)
        close = client.closes(form.head, ends=False)
        lines.append(cluster.added_short(client.serial, self.number, endpoint))
        lines.append(b"%d\r\n" % (len(data) - at))
        lines.append(b"Connection: close\r\n\r\n" if close else b"\r\n")
        lines.append(data[at:])
        client.pass_on(b"".join(lines))
        if cluster.ledger.log is not None:
            self.status = status
            cluster.ledger.log.take(self, OK, now)
        if not cluster.line.calm:
            cluster.turns.left()
        client.answered(close=False, abort=False)

    # -- the long way ----------------------------------------------------------------------------

    def _leave(self) -> tuple[Exchange, Attempt]:
        """Go on the long way from here: what there is changes hands, and this one is over."""
        cluster, client = self._cluster, self.client
        due = client.due
        cluster.wheel.set(client, math.inf)
        request = Request(cluster, client, self._form, self._body, self.began, number=self.number)
        exchange = Exchange(request)
        client.go_on_with(exchange)
        return exchange, exchange.take_over(self.pick, self._connection, due)

    def broke(self, error: Exception | None) -> None:
        """Take note that the connection has ended."""
        _, attempt = self._leave()
        attempt.broke(error)

    def late(self, now: float) -> bool:
        """Take note that the limit which stands in its client's place has passed."""
        exchange, _ = self._leave()
        exchange.on_due(now)
        return True

    def pause(self, *, paused: bool) -> None:
        """Do nothing: its client has been given nothing that it could take."""

    def cut(self, reason: str) -> None:
        """End it now and tell the client so."""
        exchange, _ = self._leave()
        exchange.cut(reason)

    def abandon(self, status: int = 0) -> None:
        """End it, and blame nobody. status: of the answer that the client gets all the same."""
        exchange, _ = self._leave()
        exchange.abandon(status)

    # -- reading, for the log --------------------------------------------------------------------

    @property
    def id(self) -> str:
        """Its name, in answers, errors and the log."""
        return name_of(self.client, self.number)

    @property
    def head(self) -> RequestHead:
        """What is asked."""
        return self._form.head

    @property
    def size(self) -> int:
        """Bytes of its body."""
        return len(self._body)

    @property
    def sent_at(self) -> float:
        """When it was sent: at once."""
        return self.began
