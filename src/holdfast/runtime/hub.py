"""The event hub: where drivers and surfaces put events, and all telemetry gets them.

Nothing is built or kept while nobody listens: producers look at `hub.watched` first.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.core.events import Event

    Subscriber = Callable[[Event], object]

RING = 1000
"""How many of the latest events `recent()` remembers."""

PATIENCE = 10
"""After so many errors in a row a subscriber is detached."""


class Hub:
    """Subscribers and the ring of the latest events. Thread-safe."""

    __slots__ = ("_errors", "_lock", "_ring", "_subscribers", "watched")

    def __init__(self) -> None:
        self.watched = False
        self._lock = threading.Lock()
        self._subscribers: tuple[Subscriber, ...] = ()
        self._errors: dict[Subscriber, int] = {}
        self._ring: deque[Event] = deque(maxlen=RING)

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call `subscriber(event)` for each event from now on; return how to stop that.

        It is called on the thread, and in the task, where the event happened, never under a
        lock. One that raises ten times in a row is detached.
        """
        with self._lock:
            self._subscribers = (*self._subscribers, subscriber)
            self.watched = True
        return lambda: self.unsubscribe(subscriber)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Stop calling `subscriber`; unknown ones are ignored."""
        with self._lock:
            kept = list(self._subscribers)
            if subscriber in kept:
                kept.remove(subscriber)
            self._subscribers = tuple(kept)
            self._errors.pop(subscriber, None)
            self.watched = bool(kept)

    def publish(self, event: Event) -> None:
        """Hand `event` to everyone; their errors stay theirs."""
        self._ring.append(event)
        for subscriber in self._subscribers:
            try:
                subscriber(event)
            except Exception:
                errors = self._errors[subscriber] = self._errors.get(subscriber, 0) + 1
                if errors >= PATIENCE:
                    self.unsubscribe(subscriber)
            else:
                if self._errors:
                    self._errors.pop(subscriber, None)

    def recent(self) -> list[Event]:
        """Return the latest events, oldest first, at most `RING`."""
        return list(self._ring)


hub = Hub()
subscribe = hub.subscribe
