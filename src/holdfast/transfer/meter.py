"""Tells the event hub how one transfer goes."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, TypedDict

from holdfast.core import events
from holdfast.runtime.clock import clock
from holdfast.runtime.hub import hub

if TYPE_CHECKING:
    from holdfast.transfer.validators import Rung

EVERY = 0.5
"""Seconds between two `Progress` events of one object at least."""

WINDOW = 10.0
"""Seconds over which a rate is measured."""


class _Labels(TypedDict):
    time: float
    policy: str
    key: str


class Meter:
    """Measures a rate and publishes `Progress`, `ResumeAccepted` and `ResumeDeclined`.

    host: the bounded label of the events.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._points: deque[tuple[float, int]] = deque()
        self._total = 0
        self._told_at = 0.0

    def moved(self, n: int, at: int, size: int | None) -> None:
        """Count `n` more bytes; the object is at `at` of `size`."""
        self._total += n
        now = clock.monotonic()
        if now - self._told_at < EVERY:
            return
        self._told_at = now
        self._points.append((now, self._total))
        while now - self._points[0][0] > WINDOW:
            self._points.popleft()
        if hub.listening:
            rate = self._rate()
            eta = (size - at) / rate if size is not None and rate else None
            told = events.Progress(**self._labels(), bytes=at, size=size, rate=rate, eta=eta)
            hub.publish(told)

    def _rate(self) -> float:
        (t0, b0), (t1, b1) = self._points[0], self._points[-1]
        return (b1 - b0) / (t1 - t0) if t1 > t0 else 0.0

    def resumed(self, rung: Rung, offset: int) -> None:
        """Say that a transfer goes on."""
        if hub.listening:
            hub.publish(events.ResumeAccepted(**self._labels(), rung=rung.value, offset=offset))

    def declined(self, reason: str, offset: int) -> None:
        """Say that bytes on disk cannot be used, or not in this way."""
        if hub.listening:
            hub.publish(events.ResumeDeclined(**self._labels(), reason=reason, offset=offset))

    def turned(self, host: str, no: int, how: str) -> None:
        """Say that another mirror is asked."""
        if hub.listening:
            labels: _Labels = {**self._labels(), "key": host}
            hub.publish(events.MirrorChosen(**labels, no=no, how=how))

    def _labels(self) -> _Labels:
        return {"time": clock.monotonic(), "policy": "downloads", "key": self._host}
