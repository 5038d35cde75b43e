"""One gateway's endpoints and rules, shared by all its requests."""

from __future__ import annotations

import fnmatch
import math
from typing import TYPE_CHECKING

from holdfast.core.balance import Balancer, Endpoint, Pick
from holdfast.core.breaker import Result
from holdfast.core.health import Health
from holdfast.core.window import Durations
from holdfast.gateway.access_log import continued, log_of
from holdfast.gateway.admin import Pages
from holdfast.gateway.counting import SUFFIX as _COUNTED
from holdfast.gateway.counting import UNABLE, Counting, counted
from holdfast.gateway.forms import Forms
from holdfast.gateway.ledger import Ledger
from holdfast.gateway.names import Names
from holdfast.gateway.probes import Probes
from holdfast.gateway.search import Bounds, Budget, soonest
from holdfast.gateway.tokens import Tokens
from holdfast.gateway.turns import Turns
from holdfast.gateway.upload import Room
from holdfast.gateway.upstream import Upstream
from holdfast.gateway.watching import Watch
from holdfast.runtime.clock import clock
from holdfast.runtime.random import rng
from holdfast.telemetry.redact import is_secret, visible
from holdfast.telemetry.secret import Secret
from holdfast.wire.glance import Glance

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Collection

    from holdfast.gateway.client import Client
    from holdfast.gateway.config import EndpointConfig, GatewayConfig
    from holdfast.gateway.exchange import Exchange
    from holdfast.gateway.request import Request
    from holdfast.runtime.wheel import Wheel
    from holdfast.wire.requests import RequestHead

IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"})
_ADDED = b"x-holdfast-request: %b-%x\r\nx-holdfast-endpoint: %b\r\nx-holdfast-attempts: 1\r\n"
SHOWN = 5
"""Endpoints that an error names at most."""
FIRST_BYTE_FACTOR = 8.0
FIRST_BYTE_LEAST = 2.0
FIRST_BYTE_STREAM_MOST = 30.0
FIRST_BYTE_SAMPLES = 100
"""The wait for a first byte: so many times what 99 % take, seconds at least, seconds at most for
a stream; the most until there are so many samples."""


class Cluster:
    """Endpoints, balancer, budget and rules. For the loop's thread.

    secret: what finds the text of a credential that the configuration refers to.
    via: our token in Via fields; unique for this process.
    """

    def __init__(
        self,
        config: GatewayConfig,
        loop: asyncio.AbstractEventLoop,
        wheel: Wheel,
        *,
        secret: Callable[[str], str],
        via: str = "",
    ) -> None:
        self.config = config
        self.wheel = wheel
        self.via = via.encode() if config.via else b""
        self.turns = Turns(self)
        self.line = self.turns.line
        self.room = Room(config.replay_total)
        self._firsts = {False: Durations(256), True: Durations(256)}
        self.retries = Budget(config.retry_budget, config.retry_reserve)
        self.bounds = Bounds(config.attempts_max, config.attempts == "auto", config.max_wait)
        has_keys = any(one.keys for one in config.endpoint)
        credentials = not (has_keys or config.client_tokens)
        self._upstreams: dict[Endpoint, Upstream] = {}
        self._names = Names(loop)
        for number, one in enumerate(config.endpoint, 1):
            endpoint = self._endpoint(one, number)
            keys = [secret(key) for key in one.keys]
            self._upstreams[endpoint] = upstream = Upstream(
                one, endpoint, keys, loop, wheel, self._names, credentials=credentials
            )
            wait = one.first_byte_timeout or config.first_byte_timeout
            upstream.first_look = FIRST_BYTE_LEAST if isinstance(wait, str) else wait
        self._probes = Probes(wheel, self._upstreams.values(), self.connect_timeout, self._found)
        self.balancer = Balancer(
            list(self._upstreams),
            config.balance,  # type: ignore[arg-type]  # checked when it was read
            max_ejected=config.max_ejected,
            panic=config.panic,
        )
        self.counting = Counting(config.count_tokens)
        tokens = [secret(one) for one in config.client_tokens]
        self.tokens = Tokens(tokens)
        # While these live, redaction hides their very text in whatever is said by whomever.
        keys_of_all = [key for one in self._upstreams.values() for key in one.keys]
        fields = [pair for one in config.endpoint for pair in one.headers.items()]
        values = [value for name, value in fields if is_secret(name)]
        self._hidden = tuple(map(Secret, (*keys_of_all, *tokens, *values)))
        self._pages = Pages(self, self.tokens)
        self._prefixes = self._pages.prefixes
        self.ledger = Ledger()
        self.ledger.log = log_of(config, loop, self.ledger)
        self.ledger.know(one.id for one in self.balancer.endpoints)
        self.watch = Watch(self)
        self.forms = Forms(self)
        self.glance = Glance()
        passed = b"Via: 1.1 %b\r\n" % self.via if self.via else b""
        self._added_short = passed + (_ADDED if config.expose else b"") + b"Content-Length: "

    def _endpoint(self, one: EndpointConfig, number: int) -> Endpoint:
        host = one.url.partition("://")[2].partition("/")[0]
        return Endpoint(
            one.id or f"{host}-{number}",
            Health(self.config.breaker.options(), keys=len(one.keys)),
            weight=one.weight,
            priority=one.priority,
            # One connection carries one request: who found that out only after the choice would
            # wait for a place here while another endpoint has some.
            max_in_flight=min(one.max_inflight or math.inf, one.max_connections),
            enabled=one.enabled,
        )

    # -- rules -----------------------------------------------------------------------------------

    def profile_of(self, target: bytes) -> str:
        """Return which API a request speaks."""
        if self.config.profile != "auto":
            return self.config.profile
        path = target.partition(b"?")[0]
        if path.startswith(b"/v1/messages"):
            return "anthropic"
        known = (b"/v1/chat/completions", b"/v1/completions", b"/v1/responses")
        return "openai" if path in known else "generic"

    def is_repeatable(self, head: RequestHead) -> bool:
        """Say whether a request may be sent twice."""
        if head.method in IDEMPOTENT or self.config.repeat == "all":
            return True
        if any(name.lower() == b"idempotency-key" for name, _ in head.fields):
            return True
        return self.config.repeat == "paths" and self.is_repeated_path(head)

    def is_repeated_path(self, head: RequestHead) -> bool:
        """Say whether a request's path is one of `repeat_paths`, which clients retry by custom."""
        path = head.target.partition(b"?")[0].decode("latin-1")
        return any(fnmatch.fnmatchcase(path, one) for one in self.config.repeat_paths)

    def total(self, head: RequestHead) -> float:
        """Return the seconds that a request has; the client may shorten them."""
        for name, value in head.fields:
            if name.lower() == b"x-request-timeout-ms" and value.isdigit():
                return min(self.config.total_timeout, max(0.001, int(value[:9]) / 1000))
        return self.config.total_timeout

    def connect_timeout(self, upstream: Upstream) -> float:
        """Return the seconds for a connection."""
        return upstream.config.connect_timeout or self.config.connect_timeout

    def idle_timeout(self, upstream: Upstream) -> float:
        """Return the seconds of silence within an answer."""
        return upstream.config.idle_timeout or self.config.idle_timeout

    def first_byte_timeout(self, upstream: Upstream, *, stream: bool) -> float:
        """Return the seconds for the first byte: 8 times what 99 % of late took."""
        own = upstream.config.first_byte_timeout or self.config.first_byte_timeout
        if not isinstance(own, str):
            return own
        cap = FIRST_BYTE_STREAM_MOST if stream else self.config.total_timeout
        p99 = self._firsts[stream].quantile(0.99, FIRST_BYTE_SAMPLES)
        return cap if p99 is None else min(cap, max(FIRST_BYTE_LEAST, FIRST_BYTE_FACTOR * p99))

    def added(self, request: Request) -> bytes:
        """Return the lines that tell the client of the work done."""
        if not self.config.expose:
            return b""
        endpoint = request.endpoint_id
        return (
            f"x-holdfast-request: {request.id}\r\nx-holdfast-endpoint: {endpoint}\r\n"
            f"x-holdfast-attempts: {request.attempts}\r\n"
        ).encode("latin-1")

    def added_short(self, serial: bytes, number: int, endpoint: Endpoint) -> bytes:
        """Return the lines for an answer to the first attempt: Via, these, and a length's name.

        serial, number: of the request.
        """
        if not self.config.expose:
            return self._added_short
        return self._added_short % (serial, number, self._upstreams[endpoint].name)

    def is_local(self, head: RequestHead) -> bool:
        """Say whether a request may be one that is answered here."""
        return head.target.startswith(self._prefixes) or _COUNTED in head.target

    # -- endpoints -------------------------------------------------------------------------------

    def upstream_of(self, endpoint: Endpoint) -> Upstream:
        """Return the connections of an endpoint."""
        return self._upstreams[endpoint]

    @property
    def waiting(self) -> int:
        """How many requests wait for an endpoint."""
        return len(self.line)

    @property
    def budget(self) -> float:
        """How many retries are left."""
        return self.retries.left

    def is_page(self, head: RequestHead) -> bool:
        """Say whether a request is for one of our own pages, which have rules of their own."""
        return head.target.startswith(self._prefixes) and self._pages.covers(head)

    def knows(self, origin: bytes) -> bool:
        """Say whether a site that a browser shows may ask without a token."""
        return self._pages.knows(origin)

    def local(self, head: RequestHead, body: bytes, client: Client, size: int) -> bytes | None:
        """Return the answer to what is answered here: our pages, and counts of tokens.

        size: of the body in bytes, of which a large one is not here.
        None: the request is for an endpoint.
        """
        if head.target.startswith(self._prefixes):
            return self._pages.answer(head, client)
        if _COUNTED in head.target and self.counting.asks(head):
            return self._count_here(head, body, client, size)
        return None

    def _count_here(
        self, head: RequestHead, body: bytes, client: Client, size: int
    ) -> bytes | None:
        now = clock.monotonic()
        if not self.counting.is_ours(self.balancer.endpoints, now):
            return None
        answer = counted(head, body, client, size=size)
        self.ledger.answered(head, int(answer[9:12]), now, client.host, len(answer))
        return answer

    def counted_for(self, request: Request, status: int, added: bytes) -> bytes | None:
        """Return an answer of ours where an endpoint said that it cannot count; else None.

        status: of its answer.  added: lines of ours.
        """
        if status not in UNABLE:
            return None
        head, now = request.head, clock.monotonic()
        if not self.counting.learned(head, request.endpoint_id, status, now):
            return None
        size = head.length or request.size
        return counted(head, request.body, request.client, added, size=size)

    def _found(self, now: float) -> None:
        self.turns.look(now)  # which are others after a reload

    def started(self) -> None:
        """Count a request."""
        self.ledger.began()
        retries = self.retries
        if retries.left < retries.most:
            retries.earn()

    def settle(self, pick: Pick, result: Result, now: float, seconds: float) -> None:
        """Tell an endpoint's health of an attempt; once for each."""
        health, permit, median = pick.endpoint.health, pick.permit, self.balancer.median
        if result is not Result.OK or not health.settle_calm(permit, now, seconds, median):
            u = rng.draw()
            health.settle(permit, result, now, u, seconds=seconds, median=median, key=pick.key)
        if result is Result.FAILED:
            self._probes.look(health)
        if self.watch.is_busy or not health.calm:
            self.watch.look(pick.endpoint, now)

    def prove(self, pick: Pick, now: float, seconds: float) -> None:
        """Tell an endpoint's health that the answer to a probe has begun well; `settle` follows.

        Not a success yet: see `Health.prove`.
        """
        if pick.permit.probe:
            pick.endpoint.health.prove(pick.permit, now, rng.draw(), seconds=seconds)
            self.watch.look(pick.endpoint, now)

    def answered_first(self, seconds: float, *, stream: bool) -> None:
        """Learn how long a first byte takes."""
        self._firsts[stream].add(seconds)

    def soonest(self, now: float) -> float:
        """Return in how many seconds the first endpoint will have cooled down."""
        return soonest(self.balancer.endpoints, now)

    def why_cooling(self) -> str:
        """Return what the endpoints said last, for people: `a: http 429, b: http 401`."""
        names = [one.id for one in self.balancer.endpoints if one.enabled][:SHOWN]
        last = [(name, self.ledger.account(name).last_error) for name in names]
        return ", ".join(f"{name}: {visible(said[1].verdict)}" for name, said in last if said)

    # -- the line --------------------------------------------------------------------------------

    def answered(self, exchange: Exchange) -> None:
        """Take note that a request has its answer, which is no refusal."""
        if not self.line.calm:
            self.line.answered(exchange)

    def ended(self, exchange: Exchange) -> None:
        """Let the next in line look again."""
        if not self.line.calm:
            self.turns.ended(exchange)

    # -- another configuration -------------------------------------------------------------------

    @property
    def upstreams(self) -> Collection[Upstream]:
        """The endpoints, with their connections."""
        return self._upstreams.values()

    def succeed(self, before: Cluster) -> None:
        """Go on with what another configuration of the same gateway has counted and learned."""
        self.counting.succeed(before.counting, self.balancer.endpoints)
        log, self.ledger = self.ledger.log, before.ledger
        self.ledger.log = continued(before.ledger.log, log, self.ledger)
        self.ledger.know(one.id for one in self.balancer.endpoints)
        self.turns, self.line = before.turns, before.line
        self.turns.cluster = self
        self.line.most = self.config.queue
        self.room = before.room
        self.room.most = self.config.replay_total
        self._firsts = before._firsts
        self.retries.succeed(before.retries)
        self.balancer.median = before.balancer.median
        self._probes.succeed(before._probes)
        dialers = [one.pool.dialer for one in self._upstreams.values()]
        self._names.succeed(before._names, {(one.host, one.port) for one in dialers})
        self.watch.succeed(before.watch)
        before.watch = self.watch  # for requests that go on there

    def close(self) -> None:
        """End all connections."""
        self._probes.close()
        for upstream in self._upstreams.values():
            upstream.close()
        self._names.close()
        if self.ledger.log is not None:
            self.ledger.log.close()
