"""Mirrors take turns: within one attempt each is asked, until one does it or all have failed.

To the policy that is one attempt: it decides about repeats, and its waits are for when nobody is
left. So an attempt is bounded by the number of mirrors, and a dead one costs no wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.core.verdict import Kind, Sent, Verdict
from holdfast.runtime.clock import clock
from holdfast.transfer.failures import Interrupted, Reason, TransferFailed, permanent

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.transfer.mirrors import Pick
    from holdfast.transfer.object import ObjectTransfer
    from holdfast.transfer.sink import Stream


NOBODY = Verdict(Kind.TRANSIENT, Sent.NO, "mirrors", max_retries=0, evidence="transfer")


class Turns:
    """One attempt of a stream. helping: it only fetches what continues the bytes at hand."""

    def __init__(self, transfer: ObjectTransfer, stream: Stream, *, helping: bool = False) -> None:
        self._transfer = transfer
        self._stream = stream
        self._helping = helping
        self._tried: set[int] = set()
        self._told = stream.received
        self._raised: TransferFailed | None = None

    def tell(self, error: TransferFailed) -> None:
        """Tell of a failure, with the bytes since the last one; once."""
        if error is not self._raised:
            self._transfer.failed(error, self._stream.received - self._told)
            self._told = self._stream.received

    def ask(self, exchange: Callable[[], None]) -> None:
        """Do an exchange at the mirror that is best now. A failure is passed to the next one.

        Raises TransferFailed when nobody is left: how the whole attempt failed.
        """
        transfer, stream, mirrors = self._transfer, self._stream, self._transfer.mirrors
        pick = self._next()
        if pick is None:
            transfer.release(stream)
            # A helper gives up its place for a while: the first stream may find another way.
            again = NOBODY if self._helping else permanent("mirrors")
            error = TransferFailed(Reason.NETWORK, "no address is left to ask", again)
            self._raised = error if self._helping else mirrors.outcome(error)
            raise self._raised
        if pick.no != stream.pick.no:
            transfer.turned(pick, helping=self._helping)
        stream.pick = pick
        began, before = clock.monotonic(), stream.received
        try:
            exchange()
        except TransferFailed as error:
            now, n = clock.monotonic(), stream.received - before
            error.host = pick.url.host
            mirrors.failed(pick, error, now, n, now - began)
            self._tried.add(pick.no)
            if isinstance(error, Interrupted):
                raise
            self.tell(error)
            if self._next() is None:
                self._raised = final = mirrors.outcome(error)
                if final is error:
                    raise
                raise final from None
        else:
            seconds = clock.monotonic() - began
            n = stream.received - before
            mirrors.moved(pick, n, seconds, whole=not stream.was_cut_off)

    def _next(self) -> Pick | None:
        if not self._transfer.mirrors.several:
            return None if self._tried else self._stream.pick
        return self._transfer.mirrors.pick(
            self._transfer.need,
            clock.monotonic(),
            tried=self._tried,
            last=self._stream.pick.no,
            helping=self._helping,
        )
