"""Ending blocking socket calls at a moment: one thread for all of them.

A socket timeout bounds one `recv`, not the sum of many: a server that sends a byte every
0.3 s keeps a client with a timeout of 1 s for hours. So whoever has a time limit takes a
`Guard` and names the socket that it uses; when the moment comes the thread shuts that socket
down, the blocked call returns at once, and the caller finds `guard.fired`.

All is in real time, whatever clock is installed, because blocking in a socket is too.
"""

from __future__ import annotations

import math
import os
import socket
import threading
from contextlib import suppress

from holdfast.runtime.clock import SystemClock

_now = SystemClock.monotonic

IDLE_SECONDS = 10.0
"""The thread ends after so long without a guard."""


class Guard:
    """One time limit on whichever socket is in use. Close it when the work is over.

    expires: monotonic time of the machine.  fired: the limit passed, and the socket, if any,
    was shut down.  asleep: nobody looks after it before it has a socket.
    """

    __slots__ = ("_dog", "_sock", "asleep", "expires", "fired")

    def __init__(self, dog: Watchdog, expires: float) -> None:
        self._dog = dog
        self._sock: socket.socket | None = None
        self.expires = expires
        self.fired = self.asleep = False

    @property
    def over(self) -> bool:
        """Whether the limit passed, fired or about to be: a socket's own timeout may be faster."""
        return self.fired or _now() >= self.expires

    def watch(self, sock: socket.socket | None) -> None:
        """Have `sock` shut down when the time is over; at once if it is over already."""
        dog = self._dog
        with dog.lock:
            self._sock = sock
            if self.asleep:
                self.asleep = False
                dog.add(self)
            if self.fired:
                self._shut()

    def move(self, seconds: float) -> None:
        """Let the limit be `seconds` from now; ignored once it has fired."""
        self._dog.move(self, _now() + seconds)

    def close(self) -> None:
        """Forget it. What fired before this stays in `fired`."""
        self._dog.forget(self)

    def fire(self) -> None:
        """Shut the socket down; called with the lock held."""
        self.fired = True
        self._shut()

    def forget_socket(self) -> None:
        """Keep no socket alive; called with the lock held."""
        self._sock = None

    def _shut(self) -> None:
        if self._sock is not None:
            # Not sock.shutdown(): on a TLS socket that also drops the state which the reading
            # thread is using. Not close(): its number could be reused under the reader.
            with suppress(OSError, AttributeError, TypeError):
                socket.socket.shutdown(self._sock, socket.SHUT_RDWR)


class Watchdog:
    """The guards of a process and the thread that looks after them."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        # Re-entrant, and `_guards` is copied before it is walked: a garbage collection while the
        # lock is held may find a forgotten answer, whose guard is closed then and there.
        self.lock = threading.RLock()
        self._guards: dict[Guard, None] = {}
        self._due = math.inf  # when the thread looks next, if nothing wakes it
        self._wake = threading.Condition(self.lock)
        self._running = False

    def guard(self, seconds: float) -> Guard:
        """Return a guard that fires `seconds` from now; infinite: never."""
        guard = Guard(self, _now() + seconds)
        if seconds < math.inf:
            with self.lock:
                self.add(guard)
        return guard

    def asleep(self, seconds: float) -> Guard:
        """Return one that begins to be looked after when it is given a socket to watch.

        Until then it cannot fire, and only `over` tells the time; it takes the lock once less.
        """
        guard = Guard(self, _now() + seconds)
        guard.asleep = True
        return guard

    def move(self, guard: Guard, expires: float) -> None:
        """Give `guard` another time of the machine."""
        with self.lock:
            if guard.fired:
                return
            guard.expires = expires
            if expires < math.inf:
                self.add(guard)
            else:
                self._guards.pop(guard, None)

    def forget(self, guard: Guard) -> None:
        """Look after `guard` no longer."""
        with self.lock:
            self._guards.pop(guard, None)
            guard.forget_socket()

    def add(self, guard: Guard) -> None:
        """Look after `guard`; called with the lock held."""
        self._guards[guard] = None
        if not self._running:
            self._running = True
            self._due = guard.expires
            threading.Thread(target=self._run, name="holdfast-watchdog", daemon=True).start()
        elif guard.expires < self._due:
            # Guards of one limit come in the order of their time, so this is rare: the
            # thread is woken for the first of a row, not for each.
            self._due = guard.expires
            self._wake.notify()

    def _run(self) -> None:
        with self.lock:
            while True:
                now = _now()
                for guard in list(self._guards):
                    if guard.expires <= now and guard in self._guards:
                        del self._guards[guard]
                        guard.fire()
                self._due = min((one.expires for one in list(self._guards)), default=math.inf)
                idle = not self._guards
                seconds = IDLE_SECONDS if idle else self._due - now
                woken = self._wake.wait(min(seconds, threading.TIMEOUT_MAX))
                if idle and not woken and not self._guards:
                    self._running = False
                    return


watchdog = Watchdog()

# The thread does not live in a child process, and its lock may be held there for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=watchdog._reset)  # noqa: SLF001 - its own module
