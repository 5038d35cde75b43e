"""Transports for httpx2 and httpx: the client stays as it is, its requests are held.

    client = httpx.Client(transport=hf.clients.httpx.Transport(policy))
    client = httpx2.AsyncClient(transport=hf.clients.httpx.AsyncTransport(policy))

One pair of classes serves both libraries: a transport finds out with its first request whose
client it is in. Nothing is imported before, and neither library has to be there for the other.

A transport makes a logical call of each request, redirects and authentication being requests
of their own. Under it is a transport of the library that opens the connections:
`HTTPTransport()` unless `inner=` is given. As always with `transport=`, the client's own
`verify`, `cert`, `http2`, `limits` and `proxy` do not apply: give them to `inner`.

Options: see `holdfast.clients.options.Options`.
"""

from __future__ import annotations

import asyncio
import math
import sys
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Self

from holdfast.clients import aio, sync
from holdfast.clients._httpcore import Sending, sending
from holdfast.clients._httpx import (
    NAMES,
    Asked,
    Library,
    Line,
    Plan,
    body_of,
    by_name,
    check_inner,
    code_in,
    library,
    stated_length,
    undress,
)
from holdfast.clients.decoding import DecodingFault
from holdfast.clients.exchange import DRAIN, Answer, Exchange
from holdfast.clients.options import Options
from holdfast.core.retry import Request

if TYPE_CHECKING:
    from types import TracebackType

    import httpx
    import httpx2

    from holdfast.clients.exchange import Try
    from holdfast.runtime.policy import Policy

    class _SyncBase(httpx.BaseTransport, httpx2.BaseTransport):  # type: ignore[misc]  # either
        """For type checkers a transport is one of either library."""

    class _AsyncBase(httpx.AsyncBaseTransport, httpx2.AsyncBaseTransport):  # type: ignore[misc]
        """For type checkers a transport is one of either library."""

else:
    _SyncBase = _AsyncBase = object

__all__ = ["AsyncTransport", "Transport"]

_DRAIN_SECONDS = 1.0
_NO_TIMEOUT = dict.fromkeys(("connect", "read", "write", "pool"))


class _Common:
    """What both transports do alike."""

    _is_async: bool

    def __init__(self, policy: Policy, inner: Any = None, **options: Any) -> None:
        self._policy = policy
        self._options = Options(**options)
        self._inner = inner
        self._lines: dict[type, Line] = {}  # by the class of requests
        self._by_library: dict[Library, Line] = {}
        if inner is not None:
            check_inner(inner, is_async=self._is_async)
            cls: type = type(inner)
            with suppress(TypeError):  # of neither library, and perhaps good for both
                self._line_for(library(cls))
            return
        if not any(find_spec(name) for name in NAMES):
            raise ModuleNotFoundError(
                "hf.clients.httpx needs httpx2 or httpx: `pip install httpx2`", name="httpx2"
            )
        imported = [name for name in NAMES if name in sys.modules]
        if len(imported) == 1:
            # It will be this one. To load the certificates takes 50 ms, which now, as with
            # the client's own transport, are not taken from the first request.
            self._line_for(by_name(imported[0]))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of policy {self._policy.name!r}>"

    def _line(self, cls: type) -> Line:
        """Return the line for requests of class `cls`; made with the first of each library."""
        line = self._lines.get(cls)
        return self._new_line(cls) if line is None else line

    def _new_line(self, cls: type) -> Line:
        return self._lines.setdefault(cls, self._line_for(library(cls)))

    def _line_for(self, lib: Library) -> Line:
        # Two threads with the first request each: whoever is late takes the other's line.
        line = self._by_library.get(lib)
        if line is None:
            inner = self._inner
            if inner is not None and self._by_library:
                raise TypeError(f"the client is of {lib.module.__name__}, its `inner` is not")
            if inner is None:
                module = lib.module
                inner = (module.AsyncHTTPTransport if self._is_async else module.HTTPTransport)()
            line = self._by_library.setdefault(lib, Line(lib, inner, is_async=self._is_async))
        return line

    def _inners(self) -> list[Any]:
        """Return the transports to close."""
        made = [line.inner for line in self._by_library.values()]
        return made if self._inner is None else [self._inner]


class Transport(_Common, _SyncBase):
    """A transport for `httpx2.Client` and `httpx.Client` that holds to a policy.

    policy: a `hf.policy(...)`; its `key=` functions get `method` and `host`.
    inner: the transport that opens connections, of the client's library; with `retries=` above
    0 ValueError. Default: the library's `HTTPTransport()`. It is closed with this one.
    options: as of `Options`; ValueError if one is wrong.
    """

    _is_async = False

    def handle_request(self, request: Any) -> Any:
        """Make the logical call; called by the client."""
        call = _Call(self._line(type(request)), request, self._options)
        exchange = call.exchange(self._policy)
        return sync.run(exchange, _Sender(call))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        for inner in self._inners():
            inner.close()


class AsyncTransport(_Common, _AsyncBase):
    """A transport for `httpx2.AsyncClient` and `httpx.AsyncClient` that holds to a policy.

    As `Transport`, on asyncio (not on trio).
    """

    _is_async = True

    async def handle_async_request(self, request: Any) -> Any:
        """Make the logical call; called by the client."""
        call = _Call(self._line(type(request)), request, self._options)
        exchange = call.exchange(self._policy)
        return await aio.arun(exchange, _AsyncSender(call))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        for inner in self._inners():
            await inner.aclose()


class _Call:
    """One logical call: the request, and how it goes out each time."""

    __slots__ = ("_body", "_headers", "_stream", "line", "options", "request")

    def __init__(self, line: Line, request: Any, options: Options) -> None:
        self.line = line
        self.request = request
        self.options = options
        self._stream, self._body = body_of(line.lib, request, options, is_async=line.is_async)
        self._headers = request.headers

    def exchange(self, policy: Policy) -> Exchange:
        """Begin the call."""
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
            keyed=fields.keyed,
        )
        self._headers = fields.with_key(exchange.key)
        return exchange

    def attempt(self, this: Try) -> Any:
        """Return a copy of the request for one try."""
        request = self.request
        extensions = dict(request.extensions)
        limit = this.limit
        if limit != math.inf and not self.line.is_async:  # the loop cancels asynchronous ones
            own = extensions.get("timeout") or _NO_TIMEOUT
            extensions["timeout"] = {
                name: limit if value is None or value > limit else value
                for name, value in own.items()
            }
        # Not through its constructor, which would parse and encode everything again.
        copied = object.__new__(type(request))
        copied.__dict__.update(
            request.__dict__, headers=self._headers, stream=self._stream, extensions=extensions
        )
        return copied

    def planned(self, response: Any) -> Plan:
        """Return what to do with the body."""
        try:
            return Plan(self.request.method, response, self.options)
        except DecodingFault as fault:
            raise self.line.lib.fault(fault, self.request) from fault

    def whole(self, response: Any, plan: Plan, raw: bytes) -> Answer[Any]:
        """Return the answer whose body has arrived as `raw`."""
        lib = self.line.lib
        content = raw
        if plan.decoder is not None:
            try:
                content, size = plan.decoded(raw)
            except DecodingFault as fault:
                raise lib.fault(fault, self.request) from fault
            undress(response)
            if size > len(content):  # too large to hold unasked: again, when it is read
                decoder = plan.new_decoder()
                assert decoder is not None
                response.stream = lib.decoding(
                    lib, lib.byte_stream(raw), decoder, plan, self.request
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
            stream = lib.decoding(lib, stream, plan.decoder, plan, self.request)
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


class _Sender:
    """Sends one logical call's requests."""

    __slots__ = ("_call",)

    def __init__(self, call: _Call) -> None:
        self._call = call

    def send(self, this: Try) -> Answer[Any]:
        """See `sync.Sender`."""
        line = self._call.line
        request = self._call.attempt(this)
        if line.fresh is None:  # another transport, which may not tell anything
            response = line.handle(request)
            stream = response.extensions.get("network_stream")
            if stream is not None and this.guard is not None:
                this.guard.watch(stream.get_extra_info("socket"))
            return self._read(response, this)
        told = Sending(this, request.method)
        token = sending.set(told)
        try:
            response = (line.fresh if this.fresh else line.handle)(request)
            this.answered = True
            return self._read(response, this)
        finally:
            sending.reset(token)
            told.over()

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


class _AsyncSender:
    """Sends one logical call's requests."""

    __slots__ = ("_call",)

    def __init__(self, call: _Call) -> None:
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
            return await self._read(await line.handle(request))
        told = Sending(this, request.method)
        token = sending.set(told)
        try:
            response = await (line.fresh if this.fresh else line.handle)(request)
            this.answered = True
            return await self._read(response)
        finally:
            sending.reset(token)
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
            await stream.aclose()
            raise
        await stream.aclose()
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
            await stream.aclose()

    def hold(self, answer: Answer[Any], exchange: Exchange) -> Any:
        """See `aio.AsyncSender`."""
        response = answer.response
        response.stream = self._call.line.lib.async_held(exchange, response.stream)
        return response
