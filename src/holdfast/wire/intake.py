"""Taking much from a socket with few calls.

A socket with a timeout costs two system calls per `recv`, each `recv` brings what one or two
packets had, and around each call Python gives its lock away and has to get it back. With four
streams that was 22 futex calls per 256 KiB. So a plain socket is read in blocking mode with
MSG_WAITALL: one call waits, inside the system, for the whole buffer. SO_RCVTIMEO bounds the
wait, and what came by then is returned; an end or an error is returned at once. TLS gives one
record of 16 KiB per read at most: there the loop is short, and waits only when nothing is left.

All is in real time, whatever clock is installed, because blocking in a socket is too.
"""

from __future__ import annotations

import select
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from holdfast.runtime.clock import SystemClock

if TYPE_CHECKING:
    import ssl

_now = SystemClock.monotonic


class Intake(Protocol):
    """Takes bytes from one connection, which it sets to its own mode of waiting."""

    def take(self, into: memoryview) -> int | None:
        """Return how many bytes came: all of `into`, or what did until a lull or the end.

        0: the connection has ended; None: nothing came. Raises OSError, when all that came
        before the error was returned.
        """
        ...


def intake(sock: socket.socket, lull: float) -> Intake:
    """Return the quickest way to read `sock`.

    lull: seconds after which what came is returned, also if it does not fill the buffer.
    """
    if type(sock) is socket.socket:
        with suppress(OSError):
            return _Plain(sock, lull)
    if hasattr(sock, "pending"):
        return _Secure(sock, lull)
    return _Any(sock, lull)


class _Any:
    """Whatever has a descriptor: what one read brings."""

    def __init__(self, sock: socket.socket, lull: float) -> None:
        self._receive = sock.recv_into
        self._lull = lull
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def take(self, into: memoryview) -> int | None:
        return self._receive(into) if self._poll.poll(self._lull * 1000) else None


class _Plain:
    """TCP as it is."""

    def __init__(self, sock: socket.socket, lull: float) -> None:
        micros = max(1, round(lull * 1e6))
        limit = struct.pack("@ll", *divmod(micros, 1_000_000))  # struct timeval
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        sock.settimeout(None)
        self._receive = sock.recv_into

    def take(self, into: memoryview) -> int | None:
        try:
            return self._receive(into, len(into), socket.MSG_WAITALL)
        except BlockingIOError:
            return None


class _Secure:
    """TLS, read until it has nothing more."""

    def __init__(self, sock: socket.socket, lull: float) -> None:
        import ssl  # noqa: PLC0415 - it is there if such a socket is

        sock.settimeout(0)
        self._read = sock.recv_into
        self._lull = lull
        self._wants_read, self._wants_write = ssl.SSLWantReadError, ssl.SSLWantWriteError
        self._poll = select.poll()
        self._fd = sock.fileno()
        self._error: OSError | None = None

    def take(self, into: memoryview) -> int | None:
        if self._error is not None:
            raise self._error
        n, size, until = 0, len(into), _now() + self._lull
        while n < size:
            try:
                more = self._read(into[n:])
            except (self._wants_read, self._wants_write) as error:
                if not self._wait(error, until - _now()):
                    return n or None
            except OSError as error:
                if n == 0:
                    raise
                self._error = error
                return n
            else:
                if more == 0:
                    return n
                n += more
        return n

    def _wait(self, error: ssl.SSLError, seconds: float) -> bool:
        wanted = select.POLLIN if isinstance(error, self._wants_read) else select.POLLOUT
        self._poll.register(self._fd, wanted)
        return bool(self._poll.poll(max(0.0, seconds) * 1000))
