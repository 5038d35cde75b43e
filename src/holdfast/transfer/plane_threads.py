"""The blocking data plane: one thread, one socket, one GET.

The body is collected in a buffer of 256 KiB, so that a file gets few large writes however
small the packets are. Whatever ends the exchange, what was received by then is handed on
first: over a bad link most exchanges end badly, and each would lose up to a buffer.
"""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from holdfast.core.classify import classify
from holdfast.core.verdict import Kind, Sent, Verdict
from holdfast.runtime.clock import clock
from holdfast.transfer.plane import End, Received, Request, Sink, Take
from holdfast.wire.connect import connect, peer_of
from holdfast.wire.http1 import CutShort, Framing, Head, ProtocolError, Response, request_head
from holdfast.wire.proxy import Proxies, proxies_of
from holdfast.wire.resolve import Resolver

if TYPE_CHECKING:
    from holdfast.wire.cancel import Cancel

BUFFER = 256 * 1024
# A slow link fills the buffer slowly. What is older than this goes to the sink anyway, so
# that its checkpoints can keep their second.
MAX_AGE = 0.5
CANCELLED = Verdict(Kind.CANCELLED, Sent.MAYBE, "cancelled", local=True, evidence="cancel")
_CANCELLED = (End.BROKEN, CANCELLED, "cancelled")


class ThreadPlane:
    """Does exchanges on the calling thread; one serves all threads.

    resolver: what looks names up, and remembers them for a while.  proxies: to go through; by
    default those that the environment names now.
    """

    def __init__(self, resolver: Resolver | None = None, proxies: Proxies | None = None) -> None:
        self._resolver = resolver or Resolver()
        self._proxies = proxies_of(os.environ) if proxies is None else proxies

    def fetch(self, request: Request, sink: Sink, cancel: Cancel) -> Received:
        """Do one exchange (see `Plane.fetch`)."""
        timeouts = request.timeouts
        try:
            proxy = self._proxies.choose(request.url)
            sock = connect(
                request.url,
                timeout=timeouts.connect,
                cancel=cancel,
                reach=request.reach,
                resolver=self._resolver,
                proxy=proxy,
            )
        except OSError as error:
            return _broken(error, Sent.NO, cancel)
        with closing(sock), cancel.watching(sock):
            peer = "" if proxy else peer_of(sock)
            asked = proxy if request.url.scheme == "http" else None  # https has a tunnel
            try:
                sock.settimeout(timeouts.first_byte)
                sock.sendall(request_head(request.url, request.headers, proxy=asked))
                response = Response(sock, first_byte=timeouts.first_byte, idle=timeouts.idle)
            except OSError as error:
                return _broken(error, Sent.MAYBE, cancel)
            return replace(_Body(response, sink, cancel, timeouts.idle).move(), peer=peer)


class _Body:
    """Moves one body from a response to a sink."""

    def __init__(self, response: Response, sink: Sink, cancel: Cancel, idle: float) -> None:
        self._response = response
        self._head: Head = response.head
        self._sink = sink
        self._cancel = cancel
        self._idle = idle
        self._buffer = memoryview(bytearray(BUFFER))
        self._filled = 0
        self._taken = 0

    def move(self) -> Received:
        take = self._sink.accept(self._head)
        if take is None:
            return Received(End.UNREAD, self._head)
        try:
            end, fault, text = self._read(take)
        finally:
            self._flush()
        return Received(end, self._head, self._taken, fault, text)

    def _read(self, take: Take) -> tuple[End, Verdict | None, str]:
        oldest = clock.monotonic()
        self._announce(take)
        while self._has_room(take):
            try:
                self._await()  # may empty the buffer, so that only now is there a place in it
                at, room = self._filled, self._room(take)
                if room <= 0:
                    continue  # what was handed on has changed the sink's mind
                n = self._response.read_into(self._buffer[at : at + room])
            except OSError as error:
                if self._cancel.is_set():
                    return _CANCELLED
                return End.BROKEN, verdict_of(error, Sent.YES), describe(error)
            # A close-delimited body ends with its connection, and so does a cancelled one.
            if self._cancel.is_set():
                self._filled = at + n
                return _CANCELLED
            if n == 0:
                whole = self._head.framing is not Framing.CLOSE
                return (End.COMPLETE if whole else End.UNFRAMED), None, ""
            now = clock.monotonic()
            if at == 0:
                oldest = now
            self._filled = at + n
            if self._filled >= (take.piece or BUFFER) or now - oldest >= MAX_AGE:
                self._flush()
                self._announce(take)
        return End.LIMIT, None, ""

    def _has_room(self, take: Take) -> bool:
        """Whether more is wanted, when the sink has seen all that is here."""
        if self._room(take) > 0:
            return True
        self._flush()
        return self._room(take) > 0

    def _await(self) -> None:
        """Return when something has come; in a lull the sink gets what is here.

        Raises TimeoutError after the idle limit.
        """
        quiet = 0.0
        while not self._response.wait(min(MAX_AGE, self._idle - quiet)):
            quiet += MAX_AGE
            if quiet >= self._idle:
                raise TimeoutError(f"no byte came for {self._idle:g} s")
            self._flush()
            self._sink.lull()

    def _room(self, take: Take) -> int:
        room = min(BUFFER, take.piece or BUFFER) - self._filled
        limit = take.now()
        if limit is None:
            return room
        return min(room, limit - self._taken - self._filled)

    def _flush(self) -> None:
        n, self._filled = self._filled, 0
        if n:
            self._sink.write(self._buffer[:n])
            self._taken += n

    def _announce(self, take: Take) -> None:
        """Tell the peer of a body that will be cut off how much of it is wanted."""
        limit, length = take.now(), self._head.length
        if limit is not None and (length is None or limit < length):
            self._response.expect(limit - self._taken)


def _broken(error: OSError, sent: Sent, cancel: Cancel) -> Received:
    if cancel.is_set():
        return Received(End.BROKEN, fault=CANCELLED, text="cancelled")
    return Received(End.BROKEN, fault=verdict_of(error, sent), text=describe(error))


def verdict_of(error: OSError, sent: Sent) -> Verdict:
    """Classify by type and errno (never by text); what is ours is said here."""
    if isinstance(error, CutShort):
        return Verdict(Kind.TRANSIENT, sent, "cut short", evidence="framing")
    if isinstance(error, ProtocolError):
        return Verdict(Kind.TRANSIENT, sent, "not http", evidence="framing")
    found = classify(error, connecting=sent is Sent.NO)
    if type(error).__name__ == "SSLCertVerificationError":
        # Named, because `ssl` is imported for https only. Once more: behind a captive portal
        # the first certificate is the portal's.
        return replace(found, kind=Kind.CONNECT, sent=sent, reason="certificate", max_retries=1)
    return replace(found, sent=sent)


def describe(error: OSError) -> str:
    """Return what an error says, for people, at most 500 bytes; never a path or a URL."""
    text = error.strerror or str(error) or type(error).__name__
    return text.encode("utf-8", "replace")[:500].decode("utf-8", "ignore")
