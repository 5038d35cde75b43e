"""The bulkhead: at most n attempts at once, and a bounded queue of those who wait.

A released permit is handed to the first waiter, never put back for whoever comes first:
a newcomer cannot overtake the queue, and a waiter that gave up cannot swallow a permit.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.core.checks import one_of, whole

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Bulkhead:
    """At most `limit` at once per key; `queue` more may wait, until their deadline.

    order: "fifo" serves the longest waiting first; "lifo" the newest, which under overload
    serves those whose deadline is still far (the oldest are lost either way).
    """

    limit: int
    queue: int = 0
    order: str = "fifo"

    def __post_init__(self) -> None:
        whole("Bulkhead", "limit", self.limit, 1)
        whole("Bulkhead", "queue", self.queue, 0)
        one_of("Bulkhead", "order", self.order, ("fifo", "lifo"))


NO_LIMIT = (1 << 30) - 1
"""More than can be in flight. One digit of an `int`: CPython compares such ones the fastest."""


class Ticket:
    """A place in the queue. The driver sets `wake`, which is called without the lock."""

    __slots__ = ("granted", "wake")

    def __init__(self) -> None:
        self.granted = False
        self.wake: Callable[[], object] | None = None


# Most keys never have a waiter, and an empty deque takes 600 bytes.
_NOBODY: deque[Ticket] = deque()


class BulkheadState:
    """The permits of one key. Not thread-safe but for the fast path's `active += 1`.

    `waiting` is set before a waiter looks at `active` again: a fast leave either sees it and
    takes the full path, or has already made the permit free.
    """

    __slots__ = ("_lifo", "_queue", "_room", "active", "limit", "waiting")

    def __init__(self, options: Bulkhead | None) -> None:
        # An integer without a limit, too: comparing with infinity costs five times as much.
        self.limit = NO_LIMIT if options is None else options.limit
        self._room = 0 if options is None else options.queue
        self._lifo = options is not None and options.order == "lifo"
        self._queue = _NOBODY
        self.active = 0
        self.waiting = 0

    def acquire(self) -> bool | Ticket:
        """Return True (held), a ticket to wait with, or False (the queue is full)."""
        self.waiting += 1
        if self.active < self.limit and not self._queue:
            self.active += 1
            self.waiting -= 1
            return True
        if len(self._queue) >= self._room:
            self.waiting -= 1
            return False
        if self._queue is _NOBODY:
            self._queue = deque()
        ticket = Ticket()
        self._queue.append(ticket)
        return ticket

    def release(self) -> Ticket | None:
        """Give a permit back; return the ticket that got it, to be woken without the lock."""
        if self._queue:
            return self._serve()
        self.active -= 1
        return None

    def _serve(self) -> Ticket:
        """Hand a permit, which counts as active already, to the next one who waits."""
        ticket = self._queue.pop() if self._lifo else self._queue.popleft()
        ticket.granted = True
        self.waiting -= 1
        return ticket

    def leave(self, ticket: Ticket) -> Ticket | None:
        """Stop waiting; a permit that was granted meanwhile goes on to the next."""
        if ticket.granted:
            return self.release()
        self._queue.remove(ticket)
        self.waiting -= 1
        return None

    @property
    def queued(self) -> int:
        """How many wait."""
        return len(self._queue)
