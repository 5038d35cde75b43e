"""The adapter for aiohttp: a client middleware that makes requests as a policy says.

    http = aiohttp.ClientSession(middlewares=[hf.clients.aiohttp.Middleware(policy)])

aiohttp calls its middlewares once per hop, so each redirect is a logical call of its own; the
surrounding `hf.deadline()` and aiohttp's own `ClientTimeout(total=...)` bound them together.

aiohttp tells a middleware nothing of connections. What is needed is learnt at two places that
every request passes: `ClientRequest.send`, called once a connection is up, and the parser,
which sees the first byte.
"""

from __future__ import annotations

import math
from contextlib import suppress
from contextvars import ContextVar
from copy import copy
from functools import lru_cache, partial
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

from aiohttp.helpers import TimerContext

from holdfast.clients._aiohttp import Head, Stream, code_of, is_whole, opened, watch
from holdfast.clients._aiohttp_body import content_of
from holdfast.clients.aio import arun, limited
from holdfast.clients.decoding import Limit
from holdfast.clients.exchange import DRAIN, KEY_HEADER, Answer, Exchange, Try
from holdfast.clients.options import Options
from holdfast.core.rate_headers import mentions_limits
from holdfast.core.retry import IDEMPOTENT_METHODS, Request
from holdfast.runtime.clock import clock
from holdfast.runtime.hub import hub
from holdfast.runtime.scope import around
from holdfast.runtime.timers import arm

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Coroutine

    from aiohttp import ClientHandlerType, ClientRequest, ClientResponse
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection

    from holdfast.clients._aiohttp_body import Content
    from holdfast.clients.exchange import Entered
    from holdfast.core.call import Step
    from holdfast.runtime.policy import Policy

    # A try, what it gave (or None), what makes its failure a late one (or None), its failure.
    First = tuple[
        Try, ClientResponse | None, Callable[[BaseException], BaseException] | None,
        BaseException | None,
    ]  # fmt: skip

__all__ = ["Middleware"]

DRAIN_SECONDS = 0.25
"""How long the rest of a discarded answer may take to come before its connection is closed."""

_EVENTS = "text/event-stream"

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

    __slots__ = ("_limit", "_options", "_policy")

    def __init__(self, policy: Policy, **options: Any) -> None:
        self._policy = policy
        self._options = Options(**options)
        self._limit = Limit(self._options.max_decoded, self._options.max_ratio)

    async def __call__(self, req: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        """Make one hop of a request; called by aiohttp."""
        risky = _take_over(req, req._session)
        policy = self._policy
        if (
            not risky
            and policy._fast
            and req._body is None
            and req._continue is None
            and req.method in IDEMPOTENT_METHODS
            and around.get() is None
        ):
            request = _bodiless(req.method, req.url.host or "")
            lane = policy._lane_for(request)
            now = clock.monotonic()
            gen = lane.breaker.gen
            calm = lane.enter(now)
            if calm is not None:
                return await self._at_once(req, handler, request, (lane, now, gen, calm))
        return await self._fully(req, handler, risky=risky)

    async def _at_once(
        self, req: ClientRequest, handler: ClientHandlerType, request: Request, entered: Entered
    ) -> ClientResponse:
        """Make a request of an undisturbed policy, as long as all is well.

        It does what `arun` does with a good first attempt, and costs a third of it. All else
        is handed over, with what the attempt has come to.
        """
        policy = self._policy
        lane, now, _, calm = entered
        span = policy._span
        expires = now + span
        this = Try(1, span)
        this.connecting = True
        response: ClientResponse | None = None
        failure: BaseException | None = None
        token = around.set(expires if policy._retrying else (expires, False))
        alarm = None if span == math.inf else arm(now, expires, span)
        req.send = partial(_connected, req, this)  # type: ignore[method-assign]  # see there
        try:
            response = await handler(req)
        except BaseException as error:  # noqa: BLE001 - the exchange decides about all of them
            failure = error
        finally:
            del req.send
            around.reset(token)
        late = alarm is not None and alarm.caused(failure)
        if (
            response is not None
            and response.status < 400
            and is_whole(response.content)
            and policy._hook is None
            and self._options.provider is None
            and not hub.listening
            and not (lane.rate.learns and mentions_limits(response.headers))
            and lane.leave(calm)
        ):
            return response
        try:
            exchange = _Exchange(policy, self._options, request, entered=entered)
            exchange.timer = req._timer
            sender = _Sender(req, handler, self._options, self._limit)
            sender.first = (this, response, exchange.late if late else None, failure)
            return await arun(exchange, sender, now)
        finally:
            failure = None  # no cycle through the traceback

    async def _fully(
        self, req: ClientRequest, handler: ClientHandlerType, *, risky: bool
    ) -> ClientResponse:
        headers = req.headers
        sender = _Sender(req, handler, self._options, self._limit)
        body = sender.body
        host = req.url.host or ""
        exchange = _Exchange(
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
    return risky


class _Exchange(Exchange):
    """An exchange that knows aiohttp's total time."""

    __slots__ = ("timer",)

    timer: object

    def failed(self, error: BaseException, this: Try) -> Step:
        """As always; but once aiohttp's total time is over, there is none for another attempt."""
        timer = self.timer
        if isinstance(timer, TimerContext) and timer._cancelled:
            self.call.expires = min(self.call.expires, clock.monotonic())
        return super().failed(error, this)


class _Sender:
    """Sends one hop's request, as often as it is told to."""

    __slots__ = ("_begun", "_handler", "_limit", "_options", "_out", "_req", "body", "first")

    def __init__(
        self, req: ClientRequest, handler: ClientHandlerType, options: Options, limit: Limit
    ) -> None:
        self._req = req
        self._handler = handler
        self._options = options
        self._limit = limit
        self._begun = False
        self._out = 0  # sendings at this moment: more than one in a race only
        self.body: Content | None = content_of(req, options)
        self.first: First | None = None  # the attempt that was made at once, if it was

    @property
    def concurrent(self) -> bool:
        """Without a body, a request is nothing but values."""
        return self.body is None and self._req._continue is None

    async def send(self, this: Try) -> Answer[ClientResponse]:
        """Send, and read the answer's body if it is to be buffered."""
        first, self.first = self.first, None
        response = await self._send(this) if first is None else self._taken(first, this)
        complete = is_whole(response.content) or await self._buffered(response)
        answer = Answer(response, response.status, response.headers, complete)
        if self._options.provider is not None and complete:
            answer.code = code_of(response, self._options.provider)
        return answer

    def _taken(self, first: First, this: Try) -> ClientResponse:
        """Go on with an attempt that was made at once."""
        self._begun = True
        before, response, late, failure = first
        this.connecting, this.reused = before.connecting, before.reused
        this.answered = before.answered
        if response is None:
            assert failure is not None
            raise failure if late is None else late(failure)
        return response

    async def _send(self, this: Try) -> ClientResponse:
        this.connecting = True
        if self._begun:
            await self._again()
        self._begun = True
        if self.body is not None:
            self.body.begin()
        req = copy(self._req) if self._out else self._req
        self._out += 1
        req.send = partial(_connected, req, this)  # type: ignore[method-assign]  # see there
        try:
            response = await (self._fresh(req) if this.fresh else self._handler(req))
        finally:
            self._out -= 1
            del req.send  # it refers to `req`
        if self.body is not None:
            self.body.settle()
        return response

    async def _again(self) -> None:
        """Get the request ready to be sent once more."""
        req = self._req
        with suppress(Exception):  # what became of the body before was the last failure
            await req.close()
        if req._continue is not None:
            req.update_expect_continue(expect=True)

    async def _fresh(self, req: ClientRequest) -> ClientResponse:
        """Send on a connection that was made for it, past those that wait in the pool."""
        connector: Any = req._session._connector
        key = req.connection_key
        pooled: deque[tuple[ResponseHandler, float]] | None = connector._conns.pop(key, None)
        try:
            while True:
                try:
                    return await self._handler(req)
                except _NotFreshError:
                    # The pool was full and somebody gave a connection back: that one is
                    # closed now, so its place is free.
                    continue
        finally:
            if pooled is not None:
                if connector._closed:
                    for protocol, _ in pooled:
                        protocol.close()
                else:
                    connector._conns[key].extendleft(reversed(pooled))

    async def _buffered(self, response: ClientResponse) -> bool:
        """Wait for a body that is to be buffered; return whether it is there as a whole."""
        if response.status == 101:
            return True  # from here on it is a conversation, and not ours
        stream = watch(response, self._limit)
        options = self._options
        length = response.content_length
        try:
            if stream.is_eof():
                stream.check()
                return True
            if length is None:
                if options.provider is None:
                    return False
            elif length > options.buffer:
                return False
            if not options.buffer or response.content_type == _EVENTS:
                return False
            return await stream.whole(options.buffer)
        except BaseException:
            response.close()
            raise

    async def discard(self, answer: Answer[ClientResponse]) -> None:
        """Read the rest if it is short and soon there, so that its connection stays; or close."""
        response = answer.response
        stream = response.content
        now = clock.monotonic()
        try:
            if isinstance(stream, Stream):
                whole = stream.whole(DRAIN)
                await limited(whole, now, now + DRAIN_SECONDS, DRAIN_SECONDS, _slow)
        except Exception:  # noqa: BLE001, S110 - nobody wants this answer
            pass
        finally:
            response.close()  # at its end this does nothing to the connection

    def hold(self, answer: Answer[ClientResponse], exchange: Exchange) -> ClientResponse:
        """Return the response; its body tells `exchange` how the reading goes."""
        response = answer.response
        stream = response.content
        conn = response.connection
        if not isinstance(stream, Stream) or conn is None:
            exchange.body_closed()
            return response
        opened(stream, response, conn, exchange)
        return response


def _connected(
    req: ClientRequest, this: Try, conn: Connection
) -> Coroutine[Any, Any, ClientResponse]:
    """Stand in for `ClientRequest.send`: aiohttp calls it once a connection is up."""
    protocol = conn.protocol
    assert protocol is not None
    this.connecting = False
    # A protocol that has had no answer yet is a connection that was just made.
    this.reused = protocol._payload is not None
    if this.fresh and this.reused:
        raise _NotFreshError
    Head(protocol, this)
    return type(req).send(req, conn)


class _NotFreshError(Exception):
    """A kept-alive connection came where a new one is needed; never leaves this module."""


def _slow(error: BaseException) -> BaseException:
    return TimeoutError().with_traceback(error.__traceback__)
