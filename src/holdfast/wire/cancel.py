"""Ending blocking work from another thread: an event, and the sockets to wake."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Cancel:
    """Set once, seen everywhere.

    A thread that blocks on a socket sees no event, so `set()` also shuts down every socket
    that was put under `watching`: the blocked call returns at once, and the thread then
    finds `is_set`. Closing the socket instead would race with its number being reused.
    """

    def __init__(self) -> None:
        self.event = threading.Event()
        self._lock = threading.Lock()
        self._sockets: dict[int, socket.socket] = {}
        self._children: set[Cancel] = set()

    def is_set(self) -> bool:
        """Whether the work should end."""
        return self.event.is_set()

    def set(self) -> None:
        """Ask the work to end. Calling it again does nothing more."""
        with self._lock:
            self.event.set()
            for sock in self._sockets.values():
                # Not sock.shutdown(): on a TLS socket that also drops the state which the
                # reading thread is using.
                with suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)
            children = list(self._children)
        for child in children:
            child.set()

    @contextmanager
    def child(self) -> Iterator[Cancel]:
        """Yield one that is set together with this one, and can be set alone."""
        made = Cancel()
        self.adopt(made)
        try:
            yield made
        finally:
            self.disown(made)

    def adopt(self, child: Cancel) -> None:
        """Set `child` together with this one; at once if this one is set."""
        with self._lock:
            self._children.add(child)
            over = self.event.is_set()
        if over:
            child.set()

    def disown(self, child: Cancel) -> None:
        """Forget `child`; it stays as it is."""
        with self._lock:
            self._children.discard(child)

    @contextmanager
    def watching(self, sock: socket.socket) -> Iterator[None]:
        """Have `sock` shut down if `set` is called inside the block, or was called before."""
        key = id(sock)
        with self._lock:
            self._sockets[key] = sock
            if self.event.is_set():
                with suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)
        try:
            yield
        finally:
            with self._lock:
                del self._sockets[key]
