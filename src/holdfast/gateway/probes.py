"""Looking whether a failing endpoint is back, at no cost: a connection, or a GET that is free.

    healthy endpoints       never
    open circuit, or the
    last probe failed       after 1 s, then ever rarer up to `probe_max`, until it is well

What was found good lets requests try (half-open), one at a time; only their success closes the
circuit. No key is charged: without `probe_path` nothing is sent but the TLS handshake.

One entry of the wheel is enough for all endpoints, and it is taken out while all is well.
"""

from __future__ import annotations

import errno
import math
from typing import TYPE_CHECKING

from holdfast.core.classify import classify
from holdfast.gateway.headers import Client, request_head
from holdfast.runtime.clock import clock
from holdfast.runtime.wheel import Due
from holdfast.wire.requests import parse_head
from holdfast.wire.responses import Answer
from holdfast.wire.strict import BadMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from holdfast.core.health import Health
    from holdfast.gateway.connection import Connection, Dial
    from holdfast.gateway.upstream import Upstream
    from holdfast.runtime.wheel import Wheel

ANSWER_SECONDS = 5.0
"""For the head of the answer to a GET."""
FAILS = 500
"""A status from here on says that the service does not work; below it somebody answered."""


class Probes(Due):
    """The probes of one cluster. For the loop's thread.

    upstreams: its endpoints.  connect_timeout: seconds that an endpoint has for a connection.
    found: called with the time when one is back, so that requests may try it.
    """

    def __init__(
        self,
        wheel: Wheel,
        upstreams: Collection[Upstream],
        connect_timeout: Callable[[Upstream], float],
        found: Callable[[float], object],
    ) -> None:
        super().__init__()
        self._found = found
        self._wheel = wheel
        self._upstreams = upstreams
        self._connect_timeout = connect_timeout
        self._under_way: dict[Upstream, Probe] = {}
        self._closed = False

    def look(self, health: Health) -> None:
        """Take note that an endpoint failed: it may want a probe."""
        if health.probe_at < self.due and not self._closed:
            self._wheel.set(self, health.probe_at)

    def on_due(self, now: float) -> None:
        """Begin the probes whose time has come."""
        for upstream in self._upstreams:
            one = upstream.endpoint
            due = one.enabled and one.health.probe_at <= now
            if due and upstream not in self._under_way:
                probe = self._under_way[upstream] = Probe(self, self._wheel, upstream)
                probe.begin(now, self._connect_timeout(upstream))
        self._set()

    def _set(self) -> None:
        times = [
            upstream.endpoint.health.probe_at
            for upstream in self._upstreams
            if upstream.endpoint.enabled and upstream not in self._under_way
        ]
        self._wheel.set(self, min(times, default=math.inf))

    def ended(self, upstream: Upstream, now: float, *, found: bool) -> None:
        """Take note that a probe is over. found: the endpoint may be tried."""
        self._under_way.pop(upstream, None)
        if not self._closed:
            self._set()
            if found:
                self._found(now)

    def succeed(self, before: Probes) -> None:
        """Go on where those of another configuration stop: what fails there still fails."""
        before.close()
        self._set()

    def close(self) -> None:
        """End all of them; nothing is learned."""
        self._closed = True
        self._wheel.set(self, math.inf)
        for probe in list(self._under_way.values()):
            probe.give_up()


class Probe(Due):
    """One look at one endpoint: what a pool calls an asker.

    Its result belongs to the state that it was begun in: if the circuit has moved meanwhile, it
    says nothing.
    """

    connecting: Dial | None

    def __init__(self, probes: Probes, wheel: Wheel, upstream: Upstream) -> None:
        super().__init__()
        self.connecting = None
        self._probes = probes
        self._wheel = wheel
        self._upstream = upstream
        self._health = upstream.endpoint.health
        self._gen = self._health.breaker.gen
        self._connection: Connection | None = None
        self._over = False

    def begin(self, now: float, seconds: float) -> None:
        """Connect. seconds: that this may take."""
        self._wheel.set(self, now + seconds)
        self._upstream.pool.dial(self)

    def send(self, connection: Connection) -> None:
        """Take the connection: enough to know, or what the GET goes over."""
        self.connecting = None
        self._connection = connection
        path = self._upstream.config.probe_path
        if not path:
            self._end(ok=True)
            return
        head = parse_head(b"GET %b HTTP/1.1\r\nHost: probe\r\n\r\n" % path.encode())
        connection.begin(self, Answer(b"GET"))
        connection.transport.write(request_head(head, self._upstream.routes[0], Client(), length=0))
        self._wheel.set(self, clock.monotonic() + ANSWER_SECONDS)

    def not_connected(self, error: OSError) -> None:
        """Take note that there is nobody, unless the reason is on this machine."""
        self.connecting = None
        local = classify(error, connecting=True).local or error.errno == errno.EADDRNOTAVAIL
        self._end(ok=None if local else False)

    def take(self, data: bytes) -> None:
        """Take the answer; its head is enough. What is no HTTP is none."""
        if self._connection is None:
            return
        try:
            head = self._connection.read(data, [])
        except BadMessage:
            self._end(ok=False)
            return
        if head is not None:
            self._end(ok=head.status < FAILS)

    def broke(self, error: Exception | None) -> None:
        """Take note that the connection ended without an answer."""
        del error
        self._end(ok=False)

    def on_due(self, now: float) -> None:
        """Take note that it took too long."""
        del now
        self._end(ok=False)

    def give_up(self) -> None:
        """End it without a result."""
        self._end(ok=None)

    def _end(self, *, ok: bool | None) -> None:
        if self._over:
            return
        self._over = True
        self._wheel.set(self, math.inf)
        if self.connecting is not None:
            self.connecting.cancel()
        if self._connection is not None:
            self._connection.close()
        health, now = self._health, clock.monotonic()
        if ok is None or health.breaker.gen != self._gen:
            health.put_off_probe(now)
        else:
            health.probed(now, ok=ok, most=self._upstream.config.probe_max)
        self._probes.ended(self._upstream, now, found=bool(ok))
