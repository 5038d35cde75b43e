"""How a request of httpx or httpx2 goes out, again and again; and what its answer becomes."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, TypeAlias

from holdfast.clients._httpcore import Sending, sending
from holdfast.clients._httpx import Asked, Plan, body_of, code_in, stated_length, undress
from holdfast.clients._httpx_streams import Undisturbed
from holdfast.clients.decoding import DecodingFault
from holdfast.clients.exchange import DRAIN, Answer, Exchange
from holdfast.core.retry import Request
from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    from holdfast.clients._httpx import Line
    from holdfast.clients.exchange import Entered, Try
    from holdfast.clients.options import Options
    from holdfast.runtime.policy import Policy

First: TypeAlias = "tuple[Sending, Any, bool, BaseException | None]"
"""A first try: what its connection told, the response, whether it was read, or the error."""

_DRAIN_SECONDS = 1.0
_NO_TIMEOUT = dict.fromkeys(("connect", "read", "write", "pool"))


def dressed(request: Any, headers: Any, stream: Any, limit: float) -> Any:
    """Return `request` with these fields, this body, and no timeout above `limit` seconds.

    It is `request` itself if it is like that already: a copy costs 3 us.
    """
    extensions = request.extensions
    if limit != math.inf:
        own = extensions.get("timeout") or _NO_TIMEOUT
        values = own.values()
        if None in values or max(values) > limit:
            tighter = {
                name: limit if value is None or value > limit else value
                for name, value in own.items()
            }
            extensions = {**extensions, "timeout": tighter}
    if extensions is request.extensions and headers is request.headers and stream is request.stream:
        return request
    # Not through its constructor, which would parse and encode everything again.
    copied = object.__new__(type(request))
    copied.__dict__.update(request.__dict__, headers=headers, stream=stream, extensions=extensions)
    return copied


class Call:
    """One logical call: the request, and how it goes out each time."""

    __slots__ = ("_body", "_headers", "_stream", "line", "options", "request")

    def __init__(self, line: Line, request: Any, options: Options) -> None:
        self.line = line
        self.request = request
        self.options = options
        self._stream, self._body = body_of(line.lib, request, options, is_async=line.is_async)
        self._headers = request.headers

    def exchange(self, policy: Policy, entered: Entered | None = None) -> Exchange:
        """Begin the call; entered: see `Exchange`."""
        request = self.request
        fields = Asked(request.headers)
        exchange = Exchange(
            policy,
            self.options,
            Request(
                method=request.method,
                host=request.url.host,
                replayable=self._body is None or self._body.replayable,
            ),
            body=self._body,
            fast=True,
            keyed=fields.keyed,
            entered=entered,
        )
        self._headers = fields.with_key(exchange.key)
        return exchange

    def attempt(self, this: Try) -> Any:
        """Return the request for one try, a copy only if there is a difference."""
        limit = math.inf if self.line.is_async else this.limit  # the loop cancels those
        return dressed(self.request, self._headers, self._stream, limit)

    def _fault(self, fault: DecodingFault) -> Exception:
        return self.line.lib.fault(fault, self.request)

    def planned(self, response: Any) -> Plan:
        """Return what to do with the body."""
        try:
            return Plan(self.request.method, response, self.options)
        except DecodingFault as fault:
            raise self._fault(fault) from fault

    def whole(self, response: Any, plan: Plan, raw: bytes) -> Answer[Any]:
        """Return the answer whose body has arrived as `raw`."""
        lib = self.line.lib
        content = raw
        if plan.decoder is not None:
            try:
                content, size = plan.decoded(raw)
            except DecodingFault as fault:
                raise self._fault(fault) from fault
            undress(response)
            if size > len(content):  # too large to hold unasked: again, when it is read
                decoder = plan.new_decoder()
                assert decoder is not None
                response.stream = lib.decoding(
                    lib.byte_stream(raw), decoder, self._fault, stated=plan.stated
                )
                return Answer(response, response.status_code, response.headers.raw, complete=True)
        response.stream = lib.byte_stream(content)
        code = code_in(content, self.options.provider)
        return Answer(
            response, response.status_code, response.headers.raw, complete=True, code=code
        )

    def opened(self, response: Any, plan: Plan, stream: Any) -> Answer[Any]:
        """Return the answer whose body is still to be read, from `stream`."""
        if plan.decoder is not None:
            lib = self.line.lib
            stream = lib.decoding(stream, plan.decoder, self._fault, stated=plan.stated)
            undress(response)
        response.stream = stream
        return Answer(response, response.status_code, response.headers.raw, complete=False)

    @property
    def concurrent(self) -> bool:
        """Whether its body can be sent twice at a time: a file has one position."""
        return isinstance(self._stream, self.line.lib.byte_stream)


def _may_drain(answer: Answer[Any]) -> bool:
    """Say whether the rest of a discarded answer is known to be short."""
    length = stated_length(answer.response.headers)
    return length is not None and length <= DRAIN


class Sender:
    """Sends one logical call's requests.

    first: what the first try has come to, if it was made already.
    """

    __slots__ = ("_call", "_first")

    def __init__(self, call: Call, first: First | None = None) -> None:
        self._call = call
        self._first = first

    def send(self, this: Try) -> Answer[Any]:
        """See `sync.Sender`."""
        if self._first is not None:
            return self._go_on(this)
        line = self._call.line
        request = self._call.attempt(this)
        if line.fresh is None:  # another transport, which may not tell anything
            response = line.inner.handle_request(request)
            stream = response.extensions.get("network_stream")
            if stream is not None and this.guard is not None:
                this.guard.watch(stream.get_extra_info("socket"))
            return self._read(response, this)
        told = Sending(this.guard, clock.monotonic() + this.limit, request.method)
        token = sending.set(told)
        try:
            response = (line.fresh if this.fresh else line.inner.handle_request)(request)
            told.answered = True
            return self._read(response, this)
        finally:
            sending.reset(token)
            told.tell(this)
            told.over()

    def _go_on(self, this: Try) -> Answer[Any]:
        """Go on with the try that was made already."""
        assert self._first is not None
        told, response, whole, error = self._first
        self._first = None
        told.tell(this)
        told.over()
        if error is not None:
            try:
                raise error
            finally:
                del error  # no cycle through the traceback
        if whole:
            return Answer(response, response.status_code, response.headers.raw, complete=True)
        return self._read(response, this)

    def _read(self, response: Any, this: Try) -> Answer[Any]:
        call, stream = self._call, response.stream
        try:
            plan = call.planned(response)
            if not plan.take:
                return call.opened(response, plan, stream)
            pieces, size, rest = [], 0, iter(stream)
            for piece in rest:
                pieces.append(piece)
                size += len(piece)
                if size > plan.take:
                    begun = call.line.lib.begun(pieces, rest, stream)
                    return call.opened(response, plan, begun)
        except BaseException:
            stream.close()
            raise
        guard = this.guard
        if guard is not None:
            guard.watch(None)  # the next user of the connection has a guard of its own
        stream.close()
        if guard is not None and guard.fired and not plan.stated:
            # The end of the connection was the end of the body, and it was our doing.
            raise call.line.lib.module.ReadTimeout("no end of the body", request=call.request)
        return call.whole(response, plan, b"".join(pieces))

    def discard(self, answer: Answer[Any]) -> None:
        """See `sync.Sender`."""
        stream = answer.response.stream
        try:
            if _may_drain(answer):
                for _ in stream:
                    pass
        except Exception:  # noqa: BLE001, S110 - nobody wants this answer
            pass
        finally:
            stream.close()

    def hold(self, answer: Answer[Any], exchange: Exchange) -> Any:
        """See `sync.Sender`."""
        response = answer.response
        response.stream = self._call.line.lib.held(exchange, response.stream)
        return response


class AsyncSender:
    """Sends one logical call's requests."""

    __slots__ = ("_call",)

    def __init__(self, call: Call) -> None:
        self._call = call

    @property
    def concurrent(self) -> bool:
        """See `aio.AsyncSender`."""
        return self._call.concurrent

    async def send(self, this: Try) -> Answer[Any]:
        """See `aio.AsyncSender`."""
        line = self._call.line
        request = self._call.attempt(this)
        if line.fresh is None:
            return await self._read(await line.inner.handle_async_request(request))
        told = Sending(None, clock.monotonic() + this.limit, request.method)
        token = sending.set(told)
        try:
            handle = line.fresh if this.fresh else line.inner.handle_async_request
            response = await handle(request)
            told.answered = True
            return await self._read(response)
        finally:
            sending.reset(token)
            told.tell(this)
            told.over()

    async def _read(self, response: Any) -> Answer[Any]:
        call, stream = self._call, response.stream
        try:
            plan = call.planned(response)
            if not plan.take:
                return call.opened(response, plan, stream)
            pieces, size, rest = [], 0, aiter(stream)
            async for piece in rest:
                pieces.append(piece)
                size += len(piece)
                if size > plan.take:
                    begun = call.line.lib.async_begun(pieces, rest, stream)
                    return call.opened(response, plan, begun)
        except BaseException:
            await Undisturbed(stream.aclose())
            raise
        await Undisturbed(stream.aclose())
        return call.whole(response, plan, b"".join(pieces))

    async def discard(self, answer: Answer[Any]) -> None:
        """See `aio.AsyncSender`."""
        stream = answer.response.stream
        try:
            if _may_drain(answer):
                async with asyncio.timeout(_DRAIN_SECONDS):
                    async for _ in stream:
                        pass
        except Exception:  # noqa: BLE001, S110 - nobody wants this answer
            pass
        finally:
            await Undisturbed(stream.aclose())

    def hold(self, answer: Answer[Any], exchange: Exchange) -> Any:
        """See `aio.AsyncSender`."""
        response = answer.response
        response.stream = self._call.line.lib.async_held(exchange, response.stream)
        return response
