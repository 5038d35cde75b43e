"""The event hub: where drivers and surfaces put events, and all telemetry gets them.

Nothing is built or kept while nobody listens: producers look at `hub.listening` first.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

from holdfast.core.events import Attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from holdfast.core.events import Event

    Subscriber = Callable[[Event], object]

RING = 1000
"""How many of the latest events a recording keeps."""

PATIENCE = 10
"""After so many errors in a row a subscriber is detached."""


class Hub:
    """Subscribers and the ring of the latest events. Thread-safe.

    watched: somebody wants each event as an object.  ring: where a recording collects, or None;
    besides events it holds `(policy, key, began, ended)` of successes on the drivers' fast
    path, which cost a tenth of an event and become one when they are read.
    """

    __slots__ = ("_errors", "_lock", "_recordings", "_subscribers", "ring", "watched")

    def __init__(self) -> None:
        self.watched = False
        self.ring: deque[Event | tuple[str, str, float, float]] | None = None
        self._lock = threading.Lock()
        self._subscribers: tuple[Subscriber, ...] = ()
        self._errors: dict[Subscriber, int] = {}
        self._recordings = 0

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

    @contextmanager
    def record(self) -> Iterator[Recording]:
        """Remember the latest thousand events inside the block; see `Recording.events`.

        A recording disturbs the calls less than a subscriber: about 0.1 us per good call.
        """
        with self._lock:
            self._recordings += 1
            if self.ring is None:
                self.ring = deque(maxlen=RING)
            ring = self.ring
        try:
            yield Recording(ring)
        finally:
            with self._lock:
                self._recordings -= 1
                if not self._recordings:
                    self.ring = None

    @property
    def listening(self) -> bool:
        """Whether events are worth building."""
        return self.watched or self.ring is not None

    def publish(self, event: Event) -> None:
        """Hand `event` to everyone; their errors stay theirs."""
        ring = self.ring
        if ring is not None:
            ring.append(event)
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


class Recording:
    """The latest events, at most `RING`; what `hf.record()` gives."""

    def __init__(self, ring: deque[Event | tuple[str, str, float, float]]) -> None:
        self._ring = ring

    def events(self) -> list[Event]:
        """Return them, oldest first. The success of an undisturbed call has call_id 0."""
        return [_event(item) for item in list(self._ring)]


def _event(item: Event | tuple[str, str, float, float]) -> Event:
    if not isinstance(item, tuple):
        return item
    policy, key, began, ended = item
    return Attempt(time=ended, policy=policy, key=key, no=1, kind="ok", seconds=ended - began)


hub = Hub()
subscribe = hub.subscribe
record = hub.record
