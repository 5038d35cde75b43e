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

import sys
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Self

from holdfast.clients import aio, sync
from holdfast.clients._httpx import NAMES, Library, Line, by_name, check_inner, library
from holdfast.clients._httpx_calls import AsyncSender, Call, Sender
from holdfast.clients.options import Options

if TYPE_CHECKING:
    from types import TracebackType

    import httpx
    import httpx2

    from holdfast.runtime.policy import Policy

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
        call = Call(self._line(type(request)), request, self._options)
        exchange = call.exchange(self._policy)
        return sync.run(exchange, Sender(call))

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
