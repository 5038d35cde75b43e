"""The blocking data plane: one thread, one socket, one GET.

The body is collected in a buffer of 1 MiB, so that a file gets few large writes however small
the packets are (measured with 4 streams: 0.08 s of Python per GiB, with 256 KiB 0.10 s). A slow
link fills it slowly: what a quarter of a second brought is handed on. Whatever ends the
exchange, what was received by then is handed on first: over a bad link most exchanges end
badly, and each would lose up to a buffer.
"""

from __future__ import annotations

import os
import threading
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from holdfast.core.classify import classify
from holdfast.core.verdict import Kind, Sent, Verdict
from holdfast.transfer.plane import End, Received, Request, Sink, Take
from holdfast.wire.connect import connect, peer_of
from holdfast.wire.http1 import CutShort, Framing, Head, ProtocolError, Response, request_head
from holdfast.wire.proxy import Proxies, proxies_of
from holdfast.wire.resolve import Resolver

if TYPE_CHECKING:
    from holdfast.wire.cancel import Cancel

BUFFER = 1024 * 1024
FAR = 64 * 1024 * 1024
"""Bytes from a body's cut on which no window is as wide as, with the usual settings (32 MiB)."""
NEAR = 256 * 1024
SMALL = 64 * 1024
CANCELLED = Verdict(Kind.CANCELLED, Sent.MAYBE, "cancelled", local=True, evidence="cancel")
_CANCELLED = (End.BROKEN, CANCELLED, "cancelled")
_here = threading.local()


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
        self._buffer = _buffer(self._head.length)
        self._taken = 0
        self._narrowed = False

    def move(self) -> Received:
        take = self._sink.accept(self._head)
        if take is None:
            return Received(End.UNREAD, self._head)
        end, fault, text = self._read(take)
        return Received(end, self._head, self._taken, fault, text)

    def _read(self, take: Take) -> tuple[End, Verdict | None, str]:
        quiet = 0.0
        while (room := self._room(take)) > 0:
            try:
                n = self._response.fill(self._buffer[:room])
                quiet = quiet + self._response.lull if n is None else 0.0
                if quiet >= self._idle:
                    raise TimeoutError(f"no byte came for {self._idle:g} s")
            except OSError as error:
                if self._cancel.is_set():
                    return _CANCELLED
                return End.BROKEN, verdict_of(error, Sent.YES), describe(error)
            if n:
                self._sink.write(self._buffer[:n])
                self._taken += n
            # A close-delimited body ends with its connection, and so does a cancelled one.
            if self._cancel.is_set():
                return _CANCELLED
            if n is None:
                self._sink.lull()
            elif n == 0:
                whole = self._head.framing is not Framing.CLOSE
                return (End.COMPLETE if whole else End.UNFRAMED), None, ""
        return End.LIMIT, None, ""

    def _room(self, take: Take) -> int:
        """Return how much to read at once, and tell the peer if it is to end early."""
        room = min(len(self._buffer), take.piece or BUFFER)
        limit, length = take.now(), self._head.length
        if limit is None:
            return room
        left = limit - self._taken
        if left < FAR and (length is None or limit < length):
            self._response.expect(left)
            self._narrowed = True
            # The system widens the window again while it is read from, so say it more often
            # the nearer the end is: 0.4 MiB came in vain (median), with 1 MiB at a time 3.3.
            room = min(room, max(SMALL, min(NEAR, left // 64)))
        elif self._narrowed:
            self._narrowed = False
            self._response.expect(1 << 30)  # more is wanted than was thought
        return min(room, left)


def _buffer(length: int | None) -> memoryview:
    """Return room for a body of `length` bytes; what is large is used again by its thread."""
    if length is not None and length <= SMALL:
        return memoryview(bytearray(max(1, length)))
    found: memoryview | None = getattr(_here, "buffer", None)
    if found is None:
        found = _here.buffer = memoryview(bytearray(BUFFER))
    return found


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
