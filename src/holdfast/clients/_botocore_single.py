"""Which call of botocore this thread makes, and the smallest of them.

A `Single` is one sending for the sake of a flight that is going on already: the rest of a body,
or S3's question for a bucket's region.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from holdfast.clients._botocore_reading import content
from holdfast.clients._urllib3 import sending
from holdfast.wire.watchdog import watchdog

if TYPE_CHECKING:
    from holdfast.clients._botocore_flight import Attached, Flight
    from holdfast.clients.exchange import Try

# Not in the request: botocore tells its sessions the context of a request only in newer
# versions (1.36 does not).
around: ContextVar[Flight | Single | None] = ContextVar("holdfast.clients.botocore", default=None)


def current() -> Flight | Single | None:
    """Return the call that is made in this thread."""
    return around.get()


class Single:
    """One sending inside a logical call that is going on elsewhere: no permits, no repetition."""

    __slots__ = ("_expires", "_this", "attached", "response", "used")

    def __init__(self, attached: Attached, this: Try, expires: float) -> None:
        self.attached = attached
        self._this = this
        self._expires = expires
        self.used = False
        self.response: Any = None

    def fly(self, make_request: Any, operation: Any, request: dict[str, Any]) -> Any:
        """Send it."""
        self.used = True
        own = None
        if self._this.guard is None and self._this.limit < float("inf"):
            own = self._this.guard = watchdog.guard(self._this.limit)
        token = around.set(self)
        try:
            return make_request(operation, request)
        finally:
            around.reset(token)
            if own is not None:
                own.close()

    def admit(self, request: Any) -> None:
        """Nothing to wait for."""

    def send(self, inner: Any, request: Any) -> Any:
        """Send once."""
        with sending(self._this):
            response = inner.send(request)
            if request.stream_output and response.status_code >= 300:
                response._content = content(response.raw, request.url)
        self.response = response
        return response

    def decide(self, response: Any, error: Exception | None) -> None:
        """Who asked for it decides."""
