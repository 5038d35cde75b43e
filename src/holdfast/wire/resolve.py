"""Looking names up without waiting for the resolver longer than one wants to.

`getaddrinfo` cannot be interrupted: with a dead name server it blocks for half a minute. So it
runs on a daemon thread, and who asked waits for the answer, a limit or a cancel, whichever comes
first. Several who ask for one name share one look-up, and what was found is good for 30 seconds:
eight connections to one host then are one question, while a name that moves is soon followed.
Errors are not kept.

Waiting here is in real time, whatever clock is installed, because `getaddrinfo` is too.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections import deque
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING

from holdfast.runtime.clock import SystemClock, clock
from holdfast.wire.addresses import literal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.wire.addresses import AddrInfo
    from holdfast.wire.cancel import Cancel

    Asked = tuple[str, int]

KEPT_SECONDS = 30.0
MOST_KEPT = 1000
MOST_THREADS = 32
"""Look-ups under way at a time; more wait for their turn."""
_LOOK_EVERY = 0.05


class Resolver:
    """Looks up and remembers. Thread-safe; one for a run.

    find: (host, port) -> what `getaddrinfo` returns; called on the resolver's own threads.
    """

    def __init__(self, find: Callable[[str, int], Sequence[AddrInfo]] | None = None) -> None:
        self._find = find or _getaddrinfo
        self._lock = threading.Lock()
        self._known: dict[Asked, tuple[float, list[AddrInfo]]] = {}
        self._under_way: dict[Asked, Future[list[AddrInfo]]] = {}
        self._line: deque[Asked] = deque()
        self._threads = 0

    def ask(self, host: str, port: int) -> Future[list[AddrInfo]]:
        """Return the answer to come. Never blocks; for an event loop, `asyncio.wrap_future`.

        The future ends with the resolver's error (`socket.gaierror`), if there is one. It is
        shared, so cancelling it does nothing: who does not want the answer leaves.
        """
        asked = (host, port)
        with self._lock:
            known = self._known.get(asked)
            if known is not None and clock.monotonic() < known[0]:
                done: Future[list[AddrInfo]] = Future()
                done.set_result(known[1])
                return done
            future = self._under_way.get(asked)
            if future is None:
                future = self._under_way[asked] = Future()
                future.set_running_or_notify_cancel()  # from now on it cannot be cancelled
                self._line.append(asked)
                self._hire()
            return future

    def look_up(self, host: str, port: int, *, timeout: float, cancel: Cancel) -> list[AddrInfo]:
        """Return the addresses of a host, in the resolver's order.

        timeout: seconds. Raises socket.gaierror, TimeoutError, or an OSError (ECANCELED) once
        `cancel` is set. An address in numbers is no question, and is answered at once.
        """
        if literal(host) is not None:
            return list(self._find(host, port))
        future = self.ask(host, port)
        until = SystemClock.monotonic() + timeout
        while True:
            left = until - SystemClock.monotonic()
            if wait((future,), max(0.0, min(left, _LOOK_EVERY))).done:
                break
            if cancel.is_set():
                raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
            if left <= 0:
                raise TimeoutError(f"the name was not looked up within {timeout:g} s")
        return future.result()

    def _hire(self) -> None:
        """Start one more thread, if there may be one; called with the lock held."""
        if self._threads < MOST_THREADS:
            self._threads += 1
            threading.Thread(target=self._work, name="holdfast-resolve", daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._line:
                    self._threads -= 1
                    return
                asked = self._line.popleft()
            self._answer(asked)

    def _answer(self, asked: Asked) -> None:
        found: list[AddrInfo] = []
        error: BaseException | None = None
        try:
            found = list(self._find(*asked))
        except BaseException as raised:  # noqa: BLE001 - handed to those who asked
            error = raised
        with self._lock:
            future = self._under_way.pop(asked)
            if error is None:
                self._keep(asked, found)
        if error is None:
            future.set_result(found)
        else:
            future.set_exception(error)

    def _keep(self, asked: Asked, found: list[AddrInfo]) -> None:
        self._known.pop(asked, None)
        while len(self._known) >= MOST_KEPT:
            del self._known[next(iter(self._known))]  # the oldest
        self._known[asked] = (clock.monotonic() + KEPT_SECONDS, found)


def _getaddrinfo(host: str, port: int) -> Sequence[AddrInfo]:
    address = literal(host)
    if address is not None and address.version == 4:
        host = str(address)  # `0x7f.1` and the like: not every resolver reads them
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
