"""Streamed answers of botocore: a body that goes on after a cut.

`StreamingBody` reads from a urllib3 response. `Held` stands in its place: it has the same
methods, tells the exchange how the reading goes, and when a read fails asks `Resume` for the
rest of the same object. What was handed out is not asked for again, and the bytes on both
sides of the cut are of one version: the request carries If-Match, and the answer's ETag and
Content-Range are compared. So botocore's own checks above, length and checksum, see one body.
"""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from botocore.exceptions import (  # type: ignore[import-untyped]  # it has no types
    ClientError,
    ResponseStreamingError,
)

from holdfast.clients._botocore_reading import PIECE, of_reading
from holdfast.clients.exchange import Exchange, Try
from holdfast.core.call import Attempt, GiveUp, Step, Wait
from holdfast.core.verdict import Kind, Sent
from holdfast.runtime.clock import clock
from holdfast.runtime.ending import final_error
from holdfast.runtime.lock import deciding
from holdfast.runtime.scope import scope
from holdfast.runtime.sync import pause

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class StreamExchange(Exchange):
    """An exchange whose opened body may be gone on with."""

    __slots__ = ()

    def resumable(self) -> None:
        """Note that the body which was opened can be gone on with after a failure."""
        now = clock.monotonic()
        with deciding:
            self.call.committed(now, resumable=True)

    def resumed(self) -> None:
        """Take the good answer of an attempt to go on."""
        self.resumable()
        if self._guard is not None:
            self._guard.move(self.call.expires - clock.monotonic())

    def interrupted(self, error: BaseException, *, advanced: bool) -> tuple[BaseException, Step]:
        """Take the failure of a read; return it (it may have been ours) and what follows.

        advanced: bytes came since the last failure, which starts the attempts afresh.
        """
        guard = self._guard
        if guard is not None and guard.over:
            error = self.body_late(error)
        self._unguard()
        verdict = self._policy._verdict(error, self.call, connecting=False)
        if verdict.kind is Kind.CANCELLED:
            self.abandon()
            raise error
        if advanced:
            with deciding:
                self.call.progressed()
        return error, self._told(replace(verdict, sent=Sent.YES), error)

    def final(self, step: GiveUp, error: BaseException) -> BaseException:
        """Return what to raise after `step`: our decision, or `error` with its note."""
        return final_error(self.call, step, error, clock.monotonic())


class Resume:
    """Asks for the rest of an object, by the parameters that the user gave.

    ask: sends GetObject with the given parameters once, within the limits of a `Try`, and
    returns the status, the headers and the opened urllib3 response; raises what botocore
    raises.
    """

    __slots__ = ("_ask", "_etag", "_first", "_last", "_params")

    def __init__(
        self,
        ask: Callable[[dict[str, Any], Try, float], tuple[int, Mapping[str, str], Any]],
        params: Mapping[str, Any],
        etag: str,
        first: int,
        last: int,
    ) -> None:
        """first, last: the offsets in the object of the body's first and last byte."""
        self._ask = ask
        self._etag = etag
        self._first = first
        self._last = last
        # What decided whether to answer at all was decided; a part's number is a range now.
        dropped = ("PartNumber", "IfNoneMatch", "IfModifiedSince")
        self._params = {name: value for name, value in params.items() if name not in dropped}

    @staticmethod
    def place(status: int, headers: Mapping[str, str]) -> tuple[int, int] | None:
        """Return the offsets of the first and last byte of an answer, None if it has no such."""
        if status == 206:
            found = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
            return None if found is None else (int(found[1]), int(found[2]))
        length = headers.get("content-length", "")
        return (0, int(length) - 1) if status == 200 and length.isdigit() else None

    def open(self, at: int, this: Try, expires: float) -> Any:
        """Return an opened response that stands at byte `at` of the body."""
        first = self._first + at
        params = {**self._params, "IfMatch": self._etag, "Range": f"bytes={first}-{self._last}"}
        try:
            status, headers, raw = self._ask(params, this, expires)
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 412:
                error.add_note("the object was changed while it was read")
            raise
        try:
            self._stand_at(first, status, headers, raw)
        except BaseException:
            raw.close()
            raise
        return raw

    def _stand_at(self, first: int, status: int, headers: Mapping[str, str], raw: Any) -> None:
        etag = headers.get("etag", self._etag)
        if etag != self._etag:
            raise _changed(etag, self._etag)
        place = self.place(status, headers)
        if place == (first, self._last):
            return
        # RFC 9110, 14.2: a server may ignore Range. What we have had is skipped then.
        if status != 200 or place is None or place[1] < self._last:
            text = f"asked for bytes {first}-{self._last}, got {place}"
            raise ResponseStreamingError(error=text)
        while first:
            piece = raw.read(min(PIECE, first))
            if not piece:
                raise ResponseStreamingError(error="the connection ended before the place to go on")
            first -= len(piece)


def _changed(now: str, before: str) -> ClientError:
    """Return the error of a server that takes no notice of If-Match."""
    text = f"the object was changed while it was read: its ETag was {before} and is {now}"
    return ClientError(
        {
            "Error": {"Code": "PreconditionFailed", "Message": text},
            "ResponseMetadata": {"HTTPStatusCode": 412, "HTTPHeaders": {}, "RetryAttempts": 0},
        },
        "GetObject",
    )


class Held(io.IOBase):
    """An opened body, in the place of the urllib3 response that it reads.

    Errors are botocore's: ReadTimeoutError, ResponseStreamingError; after the policy's
    deadline DeadlineExceeded; for a changed object ClientError with PreconditionFailed.
    """

    def __init__(
        self, raw: Any, exchange: StreamExchange, length: int | None, resume: Resume | None
    ) -> None:
        """length: of the body, None if unknown.  resume: None if it cannot be gone on with."""
        self._raw = raw
        self._exchange = exchange
        self._left = length
        self._resume = resume
        self._at = 0
        self._since = 0  # where `_at` was after the last failure
        self._ended = False
        self._error: BaseException | None = None

    def __getattr__(self, name: str) -> Any:
        """Return what else a urllib3 response has: headers, status, ..."""
        if name == "_raw":  # not yet made, or never
            raise AttributeError(name)
        return getattr(self._raw, name)

    @property
    def resumes(self) -> bool:
        """Whether it can be gone on with after a failure."""
        return self._resume is not None

    def readable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return how many bytes were handed out."""
        return self._at

    def read(self, amt: int | None = None) -> bytes:
        """Return `amt` bytes, or fewer at the end; without `amt` all that is left."""
        pieces: list[bytes] = []
        left = -1 if amt is None or amt < 0 else amt
        while left:
            piece = self._piece(PIECE if left < 0 else min(left, PIECE))
            if not piece:
                break
            pieces.append(piece)
            if left > 0:
                left -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read1(self, amt: int | None = None) -> bytes:
        """Return at most `amt` bytes, and at most a piece."""
        return (
            self._piece(PIECE if amt is None or amt < 0 else min(amt, PIECE)) if amt != 0 else b""
        )

    def readinto(self, into: Any) -> int:
        """Fill `into` and return how many bytes that were."""
        data = self.read(len(into))
        into[: len(data)] = data
        return len(data)

    def stream(self, amt: int = PIECE, decode_content: Any = None) -> Iterator[bytes]:
        """Give the body in pieces as they come: events of a stream are not held back."""
        if self._resume is not None:
            while piece := self.read(amt):
                yield piece
            return
        pieces = iter(self._raw.stream(amt, decode_content))
        while (piece := self._one(lambda _: next(pieces, b""), amt)) != b"":
            yield piece

    def close(self) -> None:
        """Give the connection and the permits back. Closing early is no failure."""
        if not self.closed:
            self._exchange.body_closed()
            self._raw.close()
            super().close()

    def __del__(self) -> None:
        """Give back what a reader forgot to."""
        exchange: StreamExchange | None = self.__dict__.get("_exchange")
        forgotten = exchange is not None and exchange.open
        if exchange is not None and forgotten:
            exchange.abandon()
        self.close()
        if forgotten:
            text = "a streamed body was neither read to its end nor closed"
            warnings.warn(text, ResourceWarning, 2, self)

    def _piece(self, amt: int) -> bytes:
        return self._one(lambda n: self._raw.read(n), amt)  # noqa: PLW0108 - `_raw` is replaced

    def _one(self, read: Callable[[int], bytes], amt: int) -> bytes:
        if self._ended:
            return b""
        if self._error is not None:
            raise self._error
        while True:
            try:
                data = read(amt)
                if not data:
                    self._really_ended()
            except BaseException as error:  # noqa: BLE001 - what it means is decided there
                self._go_on(error)
                continue
            self._at += len(data)
            if self._left is not None:
                self._left -= len(data)
            if not data or self._left == 0:
                self._ended = True
                self._exchange.body_closed()
            return data

    def _really_ended(self) -> None:
        """Raise if the end of the connection, which ends the body, was our own doing."""
        if self._exchange.cut:
            raise ResponseStreamingError(error="the connection was ended at the limit")

    def _go_on(self, error: BaseException) -> None:
        """Reopen after `error`, or raise it."""
        try:
            self._reopened(error)
        except BaseException as final:
            self._error = final
            self._raw.close()
            self._exchange.release()
            if final is error:
                raise
            raise final from error

    def _reopened(self, error: BaseException) -> None:
        if not isinstance(error, Exception) or not self._exchange.open:
            self._exchange.abandon()  # a cancellation; or it was closed under the reader
            raise error
        self._raw.close()
        exchange = self._exchange
        advanced, self._since = self._at > self._since, self._at
        failure, step = exchange.interrupted(of_reading(error), advanced=advanced)
        while True:
            if type(step) is Wait:
                pause(step)
                step = exchange.next()
            elif type(step) is Attempt:
                outcome = self._attempt(step)
                if not isinstance(outcome, tuple):
                    return
                failure, step = outcome
            else:
                assert type(step) is GiveUp
                raise exchange.final(step, failure)

    def _attempt(self, step: Attempt) -> tuple[BaseException, Step] | None:
        """Make one attempt to go on; return None if it does, else why not and what follows."""
        assert self._resume is not None
        exchange = self._exchange
        guard = exchange.guard(step.timeout)
        expires = clock.monotonic() + step.timeout
        this = Try(step.no, step.timeout, guard)
        token = exchange.enter(expires)
        try:
            self._raw = self._resume.open(self._at, this, expires)
        except Exception as error:  # noqa: BLE001 - the machine decides about all of them
            failure = exchange.late(error) if guard is not None and guard.over else error
            return failure, exchange.failed(failure, this)
        finally:
            scope.reset(token)
        exchange.resumed()
        return None
