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

import math
import sys
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Self

from holdfast.clients import aio, sync
from holdfast.clients._httpcore import Sending, sending
from holdfast.clients._httpx import (
    AUTOMATIC,
    NAMES,
    Asked,
    Library,
    Line,
    by_name,
    check_inner,
    library,
)
from holdfast.clients._httpx_calls import AsyncSender, Call, Sender, dressed
from holdfast.clients.options import Options
from holdfast.core.rate_headers import mentions_limits
from holdfast.core.retry import IDEMPOTENT_METHODS, Request
from holdfast.runtime.clock import clock
from holdfast.runtime.hub import hub
from holdfast.runtime.scope import around
from holdfast.wire.watchdog import watchdog

if TYPE_CHECKING:
    from types import TracebackType

    import httpx
    import httpx2

    from holdfast.clients._httpx_calls import First
    from holdfast.clients.exchange import Entered
    from holdfast.runtime.policy import Policy
    from holdfast.wire.watchdog import Guard

    class _SyncBase(httpx.BaseTransport, httpx2.BaseTransport):  # type: ignore[misc]  # either
        """For type checkers a transport is one of either library."""

    class _AsyncBase(httpx.AsyncBaseTransport, httpx2.AsyncBaseTransport):  # type: ignore[misc]
        """For type checkers a transport is one of either library."""

else:
    _SyncBase = _AsyncBase = object

__all__ = ["AsyncTransport", "Transport"]


class _Common:
    """What both transports do alike."""

    _is_async: bool

    def __init__(self, policy: Policy, inner: Any = None, **options: Any) -> None:
        if not self._is_async:
            sync.refuse_hedge(policy, "httpx.Client")
        self._policy = policy
        self._options = Options(**options)
        self._inner = inner
        # Whether an answer below 400 is good, whatever else it says.
        self._simple = policy._fast and policy._hook is None and self._options.provider is None
        # The names in a head that said nothing of limits: mostly the next head has them too, and
        # to compare them costs less than to search them.
        self._unlimited = b""
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

    # A request of an undisturbed policy is made by `_at_once`, as long as all is well: it does
    # what `sync.run` does with a good first attempt, without an exchange, and costs half of it.
    # All else is handed over, with what the attempt has come to. Between two answers little
    # stays in the processor's caches, so each function that is called costs several times what
    # a benchmark of it alone says: hence few and long ones.
    def handle_request(self, request: Any) -> Any:
        """Make the logical call; called by the client."""
        policy, method = self._policy, request.method
        line = self._line(type(request))
        if not (
            self._simple
            and line.fresh is not None
            and method in IDEMPOTENT_METHODS
            and isinstance(request.stream, line.lib.byte_stream)
            and around.get() is None
        ):
            return self._fully(line, request)
        lane = policy._lane
        if lane is None:
            lane = policy._lane_for(Request(method=method, host=request.url.host))
        now = clock.monotonic()
        gen = lane.breaker.gen
        calm = lane.enter(now)
        if calm is None:
            return self._fully(line, request)
        return self._at_once(line, request, (lane, now, gen, calm))

    def _at_once(self, line: Line, request: Any, entered: Entered) -> Any:
        policy, span = self._policy, self._policy._span
        lane, now, _, calm = entered
        expires = now + span
        guard = watchdog.asleep(span) if span < math.inf else None
        told = Sending(guard, expires, request.method)
        response: Any = None
        failure: BaseException | None = None
        fields: dict[bytes, bytes] | None = None  # of a response that has been read
        outer = around.set(expires if policy._retrying else (expires, False))
        token = sending.set(told)
        try:
            headers = request.headers
            if not AUTOMATIC.isdisjoint([value for _, value in headers.raw]):
                headers = Asked(headers).with_key(None)
            response = line.inner.handle_request(dressed(request, headers, request.stream, span))
            told.answered = True
            fields = self._took(line, response, guard)
        except BaseException as error:  # noqa: BLE001 - the exchange decides about all of them
            failure = error
        finally:
            sending.reset(token)
            around.reset(outer)
        if (
            fields is not None
            and failure is None
            and (guard is None or not guard.fired)
            and hub.ring is None
            and not hub.watched
            and not (lane.rate.learns and self._mentions_limits(fields))
            and lane.leave(calm)
        ):
            told.over()
            return response
        first = (told, response, fields is not None, failure)
        try:
            return self._go_on(line, request, entered, guard, first)
        finally:
            del first, failure  # no cycle through the traceback

    def _took(self, line: Line, response: Any, guard: Guard | None) -> dict[bytes, bytes] | None:
        """Read a plain good answer, and return its fields; None: it is not one, and not read.

        Plain: of a stated length that is to be read at once, not coded, no stream of events.
        """
        fields: dict[bytes, bytes] = {name.lower(): value for name, value in response.headers.raw}
        length = fields.get(b"content-length", b"")
        if (
            not 200 <= response.status_code < 400
            or not length.isdigit()
            or int(length) > self._options.buffer
            or b"content-encoding" in fields
            or b"transfer-encoding" in fields
            or fields.get(b"content-type", b"").lower().startswith(b"text/event-stream")
        ):
            return None
        body = response.stream
        try:
            content = b"".join(body)
        except BaseException:
            body.close()
            raise
        if guard is not None:
            guard.close()  # the next user of the connection has a guard of its own
        body.close()
        response.stream = line.lib.byte_stream(content)
        return fields

    def _mentions_limits(self, fields: dict[bytes, bytes]) -> bool:
        names = b"\n".join(fields)
        if names == self._unlimited:
            return False
        if mentions_limits(fields):
            return True
        self._unlimited = names
        return False

    def _go_on(
        self,
        line: Line,
        request: Any,
        entered: Entered,
        guard: Guard | None,
        first: First,
    ) -> Any:
        """Go on with a call whose first attempt was made at once."""
        call = Call(line, request, self._options)
        exchange = call.exchange(self._policy, entered)
        sender = Sender(call, first)
        del first  # no cycle through the traceback
        return sync.run(exchange, sender, (entered[1], guard))

    def _fully(self, line: Line, request: Any) -> Any:
        call = Call(line, request, self._options)
        return sync.run(call.exchange(self._policy), Sender(call))

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
        call = Call(self._line(type(request)), request, self._options)
        exchange = call.exchange(self._policy)
        return await aio.arun(exchange, AsyncSender(call))

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
