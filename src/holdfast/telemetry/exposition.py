"""The text formats of metrics: Prometheus 0.0.4 and OpenMetrics 1.0.0.

Sources: prometheus.io "Exposition formats"; the OpenMetrics specification 1.0.0. They differ
in the name of a counter's family (with or without `_total`), in what is escaped in a help
text, and in the last line.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from holdfast.telemetry.families import Family, Registry, Series

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
"""The values of Content-Type."""

_IN_LABELS = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
_IN_HELP = str.maketrans({"\\": "\\\\", "\n": "\\n"})


def prometheus(registry: Registry) -> str:
    """Return all series as Prometheus text, format 0.0.4."""
    with registry.lock:
        lines = [
            line
            for family in registry
            for line in (
                f"# HELP {family.name} {family.text.translate(_IN_HELP)}",
                f"# TYPE {family.name} {family.kind}",
                *_samples(family),
            )
        ]
    return "\n".join([*lines, ""])


def openmetrics(registry: Registry) -> str:
    """Return all series as OpenMetrics text 1.0.0; without exemplars and `_created`."""
    with registry.lock:
        lines = [
            line
            for family in registry
            for line in (
                f"# TYPE {family.name.removesuffix('_total')} {family.kind}",
                f"# HELP {family.name.removesuffix('_total')} {family.text.translate(_IN_LABELS)}",
                *_samples(family),
            )
        ]
    return "\n".join([*lines, "# EOF", ""])


def _samples(family: Family) -> Iterator[str]:
    for series in family:
        labels = _labels(family.labels, series.labels)
        if family.bounds:
            yield from _histogram(family, series, labels)
        else:
            shown = f"{{{labels}}}" if labels else ""
            yield f"{family.name}{shown} {number(series.value)}"


def _histogram(family: Family, series: Series, labels: str) -> Iterator[str]:
    before, shown = (f"{labels},", f"{{{labels}}}") if labels else ("", "")
    count = 0
    for bound, found in zip((*family.bounds, math.inf), series.buckets, strict=True):
        count += found
        yield f'{family.name}_bucket{{{before}le="{number(bound)}"}} {count}'
    yield f"{family.name}_sum{shown} {number(series.value)}"
    yield f"{family.name}_count{shown} {count}"


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    pairs = zip(names, values, strict=True)
    return ",".join(f'{name}="{value.translate(_IN_LABELS)}"' for name, value in pairs)


def number(value: float) -> str:
    """Return a number as both formats write it."""
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return "NaN" if math.isnan(value) else repr(float(value))
