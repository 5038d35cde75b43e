"""The adapter for aiohttp: a client middleware that makes requests as a policy says.

    http = aiohttp.ClientSession(middlewares=[hf.clients.aiohttp.Middleware(policy)])

aiohttp calls its middlewares once per hop, so each redirect is a logical call of its own; the
surrounding `hf.deadline()` and aiohttp's own `ClientTimeout(total=...)` bound them together.

aiohttp tells a middleware nothing of connections. What is needed is learnt at two places that
every request passes: `ClientRequest.send`, called once a connection is up, and the parser,
which sees the first byte. So the session's class of requests is replaced by a subclass.
"""

from __future__ import annotations

import math
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any

try:
    import aiohttp
except ImportError as missing:
    raise ImportError(
        "`holdfast.clients.aiohttp` needs aiohttp: pip install 'aiohttp>=3.14'"
    ) from missing

if not hasattr(aiohttp.StreamReader, "set_read_chunk_size"):
    raise ImportError(
        f"`holdfast.clients.aiohttp` needs aiohttp 3.14 or newer, and found "
        f"{aiohttp.__version__}: pip install 'aiohttp>=3.14'"
    )


from holdfast.clients._aiohttp import is_whole
from holdfast.clients._aiohttp_sender import HopExchange, Sender
from holdfast.clients._aiohttp_sending import Sending, telling
from holdfast.clients.aio import arun
from holdfast.clients.decoding import Limit
from holdfast.clients.exchange import KEY_HEADER
from holdfast.clients.options import Options
from holdfast.core.rate_headers import mentions_limits
from holdfast.core.retry import IDEMPOTENT_METHODS, Request
from holdfast.runtime.clock import clock
from holdfast.runtime.hub import hub
from holdfast.runtime.scope import around
from holdfast.runtime.timers import arm_this

if TYPE_CHECKING:
    from aiohttp import ClientHandlerType, ClientRequest, ClientResponse
    from multidict import CIMultiDictProxy

    from holdfast.clients.exchange import Entered
    from holdfast.runtime.policy import Policy


__all__ = ["Middleware"]

# The last failure of a call that aiohttp may be about to repeat, and the timer of that call.
_failed: ContextVar[tuple[object, BaseException] | None] = ContextVar(
    "holdfast.clients.aiohttp", default=None
)


class Middleware:
    """A client middleware: `aiohttp.ClientSession(middlewares=[Middleware(policy)])`.

    policy: says how requests are made.  options: see `holdfast.clients.options.Options`.

    aiohttp's own repetition of idempotent requests is switched off for the session.
    Raises what aiohttp raises, with a note of what was tried; or Rejected or DeadlineExceeded
    if the policy decided so. The last answer is returned, whatever its status.
    """

    __slots__ = ("_limit", "_options", "_plain", "_policy", "_simple")

    def __init__(self, policy: Policy, **options: Any) -> None:
        self._policy = policy
        self._options = Options(**options)
        self._limit = Limit(self._options.max_decoded, self._options.max_ratio)
        # The names in a head that said nothing of limits: mostly the next head has them too, and
        # to compare them costs 2 us less than to search them.
        self._plain = ""
        # Whether an answer below 400 is good, whatever else it says.
        self._simple = policy._fast and policy._hook is None and self._options.provider is None

    # This makes a request of an undisturbed policy itself, as long as all is well: it does what
    # `arun` does with a good first attempt, and costs a third of it. All else is handed over,
    # with what the attempt has come to. It is one function because between two answers little
    # stays in the processor's caches: a coroutine of its own cost 2 us here, and `Lane.enter`
    # and `Lane.leave`, which are written out, 1 us each.
    async def __call__(self, req: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        """Make one hop of a request; called by aiohttp."""
        policy = self._policy
        session: Any = req._session
        if not (
            self._simple
            and req._body is None
            and req._continue is None
            and req.method in IDEMPOTENT_METHODS
            and around.get() is None
            and _failed.get() is None
            and not session._retry_connection
            and not session._trust_env
            and hasattr(req, "_holdfast")
        ):
            return await self._fully(req, handler)
        lane = policy._lane
        if lane is None:
            lane = policy._lane_for(_bodiless(req.method, req.url.host or ""))
        breaker, bulkhead, rate = lane.breaker, lane.bulkhead, lane.rate
        now = clock.monotonic()
        # Straight line, see `runtime.lock`: `Lane.enter`.
        calm, gen, tat = breaker.calm_until, breaker.gen, rate.tat
        if tat < now:  # noqa: PLR1730 - `max` would be a call
            tat = now
        tat += rate.interval
        if now >= calm or bulkhead.active >= bulkhead.limit or tat - now > rate.slack:
            return await self._fully(req, handler)
        rate.tat = tat
        bulkhead.active += 1
        span = policy._span
        expires = now + span
        response: ClientResponse | None = None
        failure: BaseException | None = None
        req._holdfast = sending = Sending()
        token = around.set(expires if policy._retrying else (expires, False))
        if span < math.inf:
            arm_this(sending, req.loop, now, expires, span)
        try:
            response = await handler(req)
        except BaseException as error:  # noqa: BLE001 - the exchange decides about all of them
            failure = error
        finally:
            around.reset(token)
        late = span < math.inf and sending.caused(failure)
        if (
            response is not None
            and response.status < 400
            and (response.content is sending.body or is_whole(response.content))
            and hub.ring is None
            and not hub.watched
            and not (
                rate.learns
                and "\n".join(response.headers) != self._plain
                and self._mentions_limits(response.headers)
            )
            # Straight line again: `Lane.leave`.
            and calm is breaker.calm_until
            and not bulkhead.waiting
            and lane.budget.idle
        ):
            bulkhead.active -= 1
            breaker.tally += 1
            return response
        req._holdfast = None
        entered = (lane, now, gen, calm)
        try:
            return await self._go_on(req, handler, entered, sending, response, failure, late=late)
        finally:
            failure = None  # no cycle through the traceback

    def _mentions_limits(self, headers: CIMultiDictProxy[str]) -> bool:
        if mentions_limits(headers):
            return True
        self._plain = "\n".join(headers)
        return False

    async def _go_on(
        self,
        req: ClientRequest,
        handler: ClientHandlerType,
        entered: Entered,
        sending: Sending,
        response: ClientResponse | None,
        failure: BaseException | None,
        *,
        late: bool,
    ) -> ClientResponse:
        """Go on with a call whose first attempt was made at once."""
        request = _bodiless(req.method, req.url.host or "")
        exchange = HopExchange(self._policy, self._options, request, entered=entered)
        exchange.timer = req._timer
        sender = Sender(req, handler, self._options, self._limit)
        sender.first = (sending, response, exchange.late if late else None, failure)
        failure = None  # no cycle through the traceback
        return await arun(exchange, sender, entered[1])

    async def _fully(self, req: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        risky = _take_over(req, req._session)
        headers = req.headers
        sender = Sender(req, handler, self._options, self._limit)
        body = sender.body
        host = req.url.host or ""
        exchange = HopExchange(
            self._policy,
            self._options,
            _bodiless(req.method, host)
            if body is None
            else Request(method=req.method, host=host, replayable=body.replayable),
            body=body,
            fast=True,
            keyed=KEY_HEADER in headers,
        )
        exchange.timer = req._timer
        if exchange.key is not None:
            headers[KEY_HEADER] = exchange.key
        try:
            return await arun(exchange, sender)
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
            if risky:
                _failed.set((req._timer, error))
            raise

    def __repr__(self) -> str:
        return f"<Middleware {self._policy!r}>"


@lru_cache(1024)
def _bodiless(method: str, host: str) -> Request:
    # Making one costs 1.6 us, and there are few.
    return Request(method=method, host=host)


def _take_over(req: ClientRequest, session: aiohttp.ClientSession) -> bool:
    """Switch aiohttp's own repetition off; return whether this call may yet be repeated.

    The call at hand has looked at the switch already, and with `trust_env` others may have.
    When such a call comes back, with the same timer, it is given its failure again.
    """
    before = _failed.get()
    if before is not None:
        _failed.set(None)
        if before[0] is req._timer:
            raise before[1]
    risky = session._retry_connection or session._trust_env
    session._retry_connection = False
    if not hasattr(req, "_holdfast"):
        risky = True  # it was made before the switch was off
        session._request_class = telling(session._request_class)  # type: ignore[arg-type]  # a class is hashable
        req.__class__ = telling(type(req))  # type: ignore[arg-type]  # the same
    return risky
