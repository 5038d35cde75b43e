"""One logical call of a botocore client, from `make_request` to the response or the error.

A `Flight` is what the hooks of `botocore` (the module beside this one) work on. It is known by
the thread that makes the call: see `_botocore_single`.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from holdfast.clients._botocore_body import Held, Resume, StreamExchange
from holdfast.clients._botocore_operations import is_safe_to_repeat
from holdfast.clients._botocore_reading import check_crc32, content, whole
from holdfast.clients._botocore_requests import Upload
from holdfast.clients._botocore_single import Single, around
from holdfast.clients._urllib3 import current as connections
from holdfast.clients.exchange import Answer, Try
from holdfast.core.call import Attempt, GiveUp, Wait
from holdfast.core.deadline import OUTSIDE
from holdfast.core.retry import Request, Retry
from holdfast.runtime.clock import clock
from holdfast.runtime.scope import scope
from holdfast.runtime.sync import pause

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.clients.options import Options
    from holdfast.runtime.policy import Policy

PARAMS = "holdfast.params"
"""Where, in the context of a request, the parameters are kept that the user gave."""

_MOST_REQUESTS = 1000


class Attached:
    """A policy at a client: what all its flights share."""

    def __init__(
        self, client: Any, policy: Policy, options: Options, named: frozenset[str]
    ) -> None:
        self.client = weakref.ref(client)  # the client holds us
        self.policy = policy
        self.options = options
        self._named = named
        self._requests: dict[tuple[str, str], Request] = {}  # by operation and host
        self.service: str = client.meta.service_model.service_id.hyphenize()
        retry = policy._shape.part(Retry)
        self.attempts = 1 if retry is None else retry.attempts

    def request(self, operation: Any, host: str) -> Request:
        """Return a call as the policy sees it. Making one costs 3 us, and there are few."""
        known = self._requests
        request = known.get((operation.name, host))
        if request is None:
            if len(known) >= _MOST_REQUESTS:
                known.clear()  # hosts that are buckets, for instance
            request = known[operation.name, host] = Request(
                kwargs={"service": self.service, "operation": operation.name},
                method=operation.http["method"],
                host=host,
                idempotent=is_safe_to_repeat(operation, self._named),
            )
        return request

    def around(self, make_request: Any) -> Any:
        """Return `make_request` with a flight around it."""

        def made(operation_model: Any, request_dict: dict[str, Any]) -> Any:
            outer = around.get()
            flight: Flight | Single
            if isinstance(outer, Single) and outer.attached is self and not outer.used:
                flight = outer
            elif isinstance(outer, Flight) and outer.attached is self and outer.holds:
                # S3's redirector asks for a bucket's region, between two attempts. The call
                # that is going on has its permits, and might wait for itself.
                flight = Single(self, Try(1, outer.left()), outer.until)
            else:
                flight = Flight(self, operation_model, request_dict)
            request_dict["context"].setdefault("retries", {})["max"] = self.attempts
            return flight.fly(make_request, operation_model, request_dict)

        return made

    def ask(
        self, client: Any, params: dict[str, Any], this: Try, expires: float
    ) -> tuple[int, Mapping[str, str], Any]:
        """Send GetObject once, as `Resume` wants it."""
        single = Single(self, this, expires)
        token = around.set(single)
        try:
            client.get_object(**params)
        finally:
            around.reset(token)
        response = single.response
        return response.status_code, _lower(response.headers), response.raw


def _lower(headers: Any) -> dict[str, str]:
    return {str(name).lower(): str(value) for name, value in headers.items()}


class _Instead(BaseException):
    """A result that is not the answer to an attempt, on its way past botocore."""

    def __init__(self, response: tuple[Any, Any]) -> None:
        super().__init__()
        self.response = response


class _Nothing:
    """The HTTP response that belongs to the value of a fallback."""

    status_code = 200
    headers: Mapping[str, str] = {}
    content = b""
    raw = None


class Flight:
    """One logical call: what its attempts know of one another."""

    __slots__ = (
        "_began", "_complete", "_exchange", "_expires", "_held", "_last", "_operation", "_outer",
        "_request", "_this", "_upload", "attached", "until",
    )  # fmt: skip

    def __init__(self, attached: Attached, operation: Any, request: dict[str, Any]) -> None:
        self.attached = attached
        self._operation = operation
        self._request = request
        self._upload: Upload | None = None
        if hasattr(request.get("body"), "read"):
            self._upload = Upload(request)
            self._upload.keep(attached.options.replay_buffer)
        self._this: Try | None = None
        self._expires = 0.0
        self._last: tuple[Any, Any] | None = None  # the last response, and what it says
        self._complete = True
        self._held: Held | None = None
        self._outer = scope.get()
        self._began = clock.monotonic()
        self.until = min(self._outer[0], self._began + attached.policy._shape.seconds)
        # Most calls take the fast path and their permits when they are admitted: signing, which
        # comes before, may make calls of its own (for credentials) under the same policy.
        self._exchange: StreamExchange | None = None
        if self._outer is not OUTSIDE or not attached.policy._fast:
            self._exchange = self._fully()

    @property
    def exchange(self) -> StreamExchange:
        """The call that is going on, or was; there is one once an attempt was admitted."""
        assert self._exchange is not None
        return self._exchange

    def _fully(self) -> StreamExchange:
        attached = self.attached
        request = attached.request(self._operation, self._request["url"].split("/", 3)[2])
        return StreamExchange(attached.policy, attached.options, request, body=self._upload)

    def _at_once(self) -> StreamExchange | None:
        """Enter the lane of an undisturbed policy, which needs no machine; None if it is not."""
        attached = self.attached
        policy = attached.policy
        first = policy._first
        request = attached.request(self._operation, self._request["url"].split("/", 3)[2])
        lane = policy._lane_for(request)
        now = clock.monotonic()
        if now >= self.until or (now + first.timeout > self.until and not first.final):
            return None
        gen = lane.breaker.gen
        calm = lane.enter(now)
        if calm is None:
            return None
        return StreamExchange(
            policy,
            attached.options,
            request,
            body=self._upload,
            entered=(lane, self._began, gen, calm),
        )

    @property
    def holds(self) -> bool:
        """Whether permits are out."""
        return self._exchange is not None and self._exchange.holds

    def left(self) -> float:
        """Return the seconds until the deadline."""
        return max(0.001, self.until - clock.monotonic())

    def fly(self, make_request: Any, operation: Any, request: dict[str, Any]) -> Any:
        """Make the logical call."""
        # Whatever botocore asks meanwhile (credentials, a region) is under this deadline.
        inside = scope.set((self.until, self._outer[1]))
        token = around.set(self)
        try:
            return make_request(operation, request)
        except _Instead as instead:
            return instead.response
        finally:
            around.reset(token)
            scope.reset(inside)
            self._land()

    def _land(self) -> None:
        exchange, held = self._exchange, self._held
        if exchange is not None:
            exchange.release()
            if held is not None and not exchange.open:
                held.close()  # opened, and then something went wrong
        # Errors hold frames, frames hold this, and this may hold them: no cycle may keep a
        # connection until the garbage collector comes.
        self._held = self._this = self._last = None
        self._request = {}

    # -- the hooks ---------------------------------------------------------------------------

    def admit(self, request: Any) -> None:
        """Wait for the permits of the next attempt, or raise what the policy decides."""
        if self._held is not None:
            self._held.close()  # a handler of the user's wants another answer than this good one
            self._held = None
        exchange = self._exchange
        if exchange is None:
            exchange = self._exchange = self._at_once() or self._fully()
        elif exchange.over:
            exchange = self._exchange = self._fully()  # it was redirected: one more logical call
        if self._upload is not None:
            request.reset_stream = self._upload.rewind
        step = exchange.next()
        while type(step) is Wait:
            pause(step)
            step = exchange.next()
        if type(step) is GiveUp:
            self._end(step)
            assert self._last is not None
            raise _Instead(self._last)  # after a wait that was the last thing to do
        assert type(step) is Attempt
        now = clock.monotonic()
        limit = min(step.timeout, self.until - now)  # some of a call's time may be over already
        self._expires = now + limit
        self._this = Try(step.no, limit, exchange.guard(limit))

    def send(self, inner: Any, request: Any) -> Any:
        """Send; and once more, on a fresh connection, if the one that was kept alive was stale."""
        exchange, this = self.exchange, self._this
        assert this is not None
        guard = this.guard
        token = exchange.enter(self._expires)
        try:
            while True:
                try:
                    # What `sending` does, without a generator: this is on every call's way.
                    mark = connections.set(this)
                    try:
                        response = inner.send(request)
                        self._take(response, request)
                    finally:
                        connections.reset(mark)
                    if guard is None or not guard.fired:
                        return response
                except Exception as error:
                    # `over`: a timeout of the library's own, set to the same moment, may be faster.
                    if guard is not None and guard.over:
                        raise exchange.late(error) from error
                    if not exchange.may_resend(error, this, self._expires):
                        raise
                else:
                    # Where the end of the connection ends the body, it was our own doing.
                    response.raw.close()
                    raise exchange.late(None)
                left = self._expires - clock.monotonic()
                self._this = this = Try(this.no, left, this.guard, fresh=True)
                if self._upload is not None:
                    self._upload.rewind()
        finally:
            scope.reset(token)
            del this

    def decide(self, response: tuple[Any, Any] | None, error: Exception | None) -> int | None:
        """Take how the attempt went, and wait for the next: 0; or None if there is none."""
        exchange, this = self._exchange, self._this
        if exchange is None or this is None or not exchange.attempting:
            return None  # it was not admitted; or a handler of the user's was in the way
        if response is None:
            assert error is not None
            step = exchange.failed(error, this)
            this.error = error
        else:
            following = self._answered(response, this)
            if following is None:
                return None
            step = following
        if type(step) is Wait:
            if self._held is not None:
                self._held.close()  # the policy's `classify` wants another
                self._held = None
            pause(step)
            return 0
        assert type(step) is GiveUp
        try:
            self._end(step)
        except BaseException as final:
            if final is not error:
                raise
        return None

    def _answered(self, response: tuple[Any, Any], this: Try) -> Any:
        http, parsed = response
        about = parsed.get("ResponseMetadata", {})
        answer: Answer[Any] = Answer(
            parsed,
            about.get("HTTPStatusCode", http.status_code),
            about.get("HTTPHeaders", http.headers),
            complete=self._complete,
            code=parsed.get("Error", {}).get("Code"),
        )
        this.answer = answer
        self._last = response
        step = self.exchange.answered(answer, this)
        if type(step) is GiveUp and step.reason == "attempts":
            about["MaxAttemptsReached"] = True  # as botocore says it
        if step is None and self._held is not None and self._held.resumes:
            self.exchange.resumable()
        return step

    def _end(self, step: GiveUp) -> None:
        """Raise what giving up means; return if that is the last response."""
        value = self.exchange.ended(step, self._this)
        if self._last is None or value is not self._last[1]:
            raise _Instead((_Nothing(), value))

    # -- answers -----------------------------------------------------------------------------

    def _take(self, response: Any, request: Any) -> None:
        """Read at once what can be: then a cut is a failed attempt, not the reader's problem."""
        self._complete, self._held = True, None
        if not request.stream_output:  # the session has read it
            if self.attached.service == "dynamodb":
                check_crc32(response)
            return
        raw, url = response.raw, request.url
        if response.status_code >= 300:
            response._content = content(raw, url)
            return
        text = raw.headers.get("content-length", "")
        length = int(text) if text.isascii() and text.isdigit() else None
        if response.status_code == 204:
            length = 0  # RFC 9110, 15.3.5
        if (
            length is not None
            and length <= self.attached.options.buffer
            and not self._operation.has_event_stream_output
        ):
            response.raw = whole(raw, length, url)
            return
        self._complete = False
        resume = self._resume(response.status_code, _lower(response.headers), length)
        response.raw = self._held = Held(raw, self.exchange, length, resume)

    def _resume(self, status: int, headers: Mapping[str, str], length: int | None) -> Resume | None:
        params = self._request["context"].get(PARAMS)
        etag = headers.get("etag", "")
        place = Resume.place(status, headers)
        client: Any = self.attached.client()
        # RFC 9110, 13.1.1: If-Match compares strongly, so a weak ETag never matches.
        if params is None or client is None or place is None or not etag.startswith('"'):
            return None
        if place[1] - place[0] + 1 != length:
            return None
        attached = self.attached

        def ask(params: dict[str, Any], this: Try, expires: float) -> Any:
            return attached.ask(client, params, this, expires)

        return Resume(ask, params, etag, *place)
