"""Counters, gauges and histograms with bounded labels; what the text formats are written from.

A family has a name, a help text and label names; a series of it is one set of label values.
Bounds: a label keeps its first values and calls the rest `other`, and a family keeps its
first series and puts the rest into one whose labels are all `other`. So sums stay right
whatever comes, and memory is limited. Values are redacted before they are kept.

All families of a registry share one re-entrant lock: counts are exact under threads, and a
garbage collection inside an update may publish an event that updates again.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from typing import TYPE_CHECKING, TypeVar

from holdfast.core.checks import whole
from holdfast.telemetry.redact import visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

OTHER = "other"
"""The value of a label, and of all labels of a series, for what is beyond the bound."""

MAX_VALUES = 200
"""Distinct values that one label keeps."""

MAX_SERIES = 2000
"""Series that one family keeps."""

MAX_LENGTH = 120
"""Characters of a label's value."""

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Upper bounds of the buckets of durations; those of Prometheus' clients, and four more."""


class Values:
    """The values of one label, bounded; shared by all families that have this label."""

    __slots__ = ("_most", "_shown")

    def __init__(self, most: int = MAX_VALUES) -> None:
        self._most = most
        self._shown: dict[str, str] = {}

    def __call__(self, value: str) -> str:
        """Return how `value` is shown: redacted, on one line, cut, or `other`."""
        shown = self._shown.get(value)
        if shown is None:
            if len(self._shown) >= self._most:
                return OTHER
            shown = self._shown[value] = visible(value)[:MAX_LENGTH]
        return shown


class Series:
    """One number (counter, gauge), or the buckets and the sum of a histogram.

    Whoever changes it holds the lock of its family.
    """

    __slots__ = ("buckets", "labels", "value")

    def __init__(self, labels: tuple[str, ...], buckets: int) -> None:
        self.labels = labels
        self.value = 0.0
        self.buckets = [0] * buckets  # observations per bucket, not cumulated


class Family:
    """Series of one name. kind: "counter", "gauge" or "histogram"."""

    kind = ""

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str],
        *,
        values: Sequence[Values],
        lock: threading.RLock,
        bounds: tuple[float, ...] = (),
    ) -> None:
        self.name = name
        self.text = text
        self.labels = tuple(labels)
        self.bounds = bounds
        self._values = tuple(values)
        self._lock = lock
        self._series: dict[tuple[str, ...], Series] = {}

    def series(self, *values: str) -> Series:
        """Return the series of these label values, in the order of `labels`; made if new."""
        with self._lock:
            shown = tuple(of(value) for of, value in zip(self._values, values, strict=True))
            found = self._series.get(shown)
            if found is None:
                if len(self._series) >= MAX_SERIES:
                    shown = (OTHER,) * len(shown)
                buckets = len(self.bounds) + 1 if self.bounds else 0
                found = self._series.setdefault(shown, Series(shown, buckets))
            return found

    def __iter__(self) -> Iterator[Series]:
        """Iterate over the series; hold the registry's lock meanwhile."""
        return iter(self._series.values())

    def value(self, **labels: str) -> float:
        """Return the sum of all series that have these labels (of a histogram: the count)."""
        unknown = labels.keys() - set(self.labels)
        if unknown:
            raise ValueError(f"`{self.name}` has no label {', '.join(sorted(unknown))}")
        wanted = [(self.labels.index(name), value) for name, value in labels.items()]
        with self._lock:
            found = [s for s in self if all(s.labels[at] == value for at, value in wanted)]
            return sum(sum(s.buckets) if self.bounds else s.value for s in found)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {len(self._series)} series>"


F = TypeVar("F", bound=Family)


class Counter(Family):
    """What only grows. Its name ends in `_total`."""

    kind = "counter"

    def add(self, n: float = 1.0, *values: str) -> None:
        """Add `n`, at least 0."""
        with self._lock:
            self.series(*values).value += n


class Gauge(Family):
    """What goes up and down."""

    kind = "gauge"

    def set(self, n: float, *values: str) -> None:
        """Set the value."""
        with self._lock:
            self.series(*values).value = n


class Histogram(Family):
    """How often a value lay in which range; NaN is left out."""

    kind = "histogram"

    def observe(self, n: float, *values: str) -> None:
        """Count `n` in its bucket."""
        if not math.isnan(n):
            with self._lock:
                series = self.series(*values)
                series.buckets[bisect_left(self.bounds, n)] += 1
                series.value += n


class Registry:
    """Families under one lock. most: distinct values that a label keeps.

    A label of the same name has the same bounded values in all families.
    """

    def __init__(self, most: int = MAX_VALUES) -> None:
        whole("Registry", "most", most, 1)
        self.lock = threading.RLock()
        self._most = most
        self._values: dict[str, Values] = {}
        self._families: dict[str, Family] = {}

    def counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        """Return the counter of this name; made if it is new."""
        if not name.endswith("_total"):
            raise ValueError(f"the name of a counter ends in `_total`: {name!r}")
        return self._family(Counter, name, text, labels)

    def gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
        """Return the gauge of this name; made if it is new."""
        return self._family(Gauge, name, text, labels)

    def histogram(
        self, name: str, text: str, labels: Sequence[str] = (), bounds: Sequence[float] = SECONDS
    ) -> Histogram:
        """Return the histogram of this name; made if it is new. bounds: finite, ascending."""
        found = tuple(float(bound) for bound in bounds)
        if not found or list(found) != sorted(set(found)) or not math.isfinite(sum(found)):
            raise ValueError(f"the bounds of `{name}` must be finite and ascending: {bounds!r}")
        return self._family(Histogram, name, text, labels, found)

    def _family(
        self,
        kind: type[F],
        name: str,
        text: str,
        labels: Sequence[str],
        bounds: tuple[float, ...] = (),
    ) -> F:
        with self.lock:
            found = self._families.get(name)
            if found is None:
                values = [self._values.setdefault(label, Values(self._most)) for label in labels]
                found = kind(name, text, labels, values=values, lock=self.lock, bounds=bounds)
                self._families[name] = found
            if not isinstance(found, kind) or found.labels != tuple(labels):
                raise ValueError(f"`{name}` exists with another kind or other labels: {found!r}")
            return found

    def family(self, name: str) -> Family:
        """Return the family of this name. Raises KeyError if there is none."""
        return self._families[name]

    def __iter__(self) -> Iterator[Family]:
        """Iterate over all families in the order in which they were made."""
        return iter(list(self._families.values()))
