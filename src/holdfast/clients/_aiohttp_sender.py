"""How the aiohttp adapter sends one hop's request, as often as the exchange says."""

from __future__ import annotations

from contextlib import suppress
from copy import copy
from typing import TYPE_CHECKING, Any

from aiohttp.helpers import TimerContext

from holdfast.clients._aiohttp import Stream, code_of, is_whole, opened, watch
from holdfast.clients._aiohttp_body import content_of
from holdfast.clients._aiohttp_sending import NotFreshError, Sending
from holdfast.clients.aio import limited
from holdfast.clients.exchange import DRAIN, Answer, Exchange, Try
from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

    from aiohttp import ClientHandlerType, ClientRequest, ClientResponse
    from aiohttp.client_proto import ResponseHandler

    from holdfast.clients._aiohttp_body import Content
    from holdfast.clients.decoding import Limit
    from holdfast.clients.options import Options
    from holdfast.core.call import Step

    # A sending, what it gave (or None), what makes its failure a late one (or None), its failure.
    First = tuple[
        Sending, ClientResponse | None, Callable[[BaseException], BaseException] | None,
        BaseException | None,
    ]  # fmt: skip

DRAIN_SECONDS = 0.25
"""How long the rest of a discarded answer may take to come before its connection is closed."""

_EVENTS = "text/event-stream"


class HopExchange(Exchange):
    """An exchange that knows aiohttp's total time."""

    __slots__ = ("timer",)

    timer: object

    def failed(self, error: BaseException, this: Try) -> Step:
        """As always; but once aiohttp's total time is over, there is none for another attempt."""
        timer = self.timer
        if isinstance(timer, TimerContext) and timer._cancelled:
            self.call.expires = min(self.call.expires, clock.monotonic())
        return super().failed(error, this)


class Sender:
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
        before.tell(this)
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
        req: Any = copy(self._req) if self._out else self._req
        self._out += 1
        req._holdfast = sending = Sending()
        sending.fresh = this.fresh
        try:
            response = await (self._fresh(req) if this.fresh else self._handler(req))
        finally:
            self._out -= 1
            req._holdfast = None
            sending.tell(this)
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
                except NotFreshError:
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


def _slow(error: BaseException) -> BaseException:
    return TimeoutError().with_traceback(error.__traceback__)
