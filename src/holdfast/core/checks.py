"""Options are checked when a value is built; the message names field, value and range."""

from __future__ import annotations

import math


def number(owner: str, field: str, value: object) -> float:
    """Return `value` as a float; ValueError unless it is a number other than NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise ValueError(f"`{owner}({field}=...)` must be a number: {value!r}")
    return float(value)


def positive(owner: str, field: str, value: object) -> None:
    """Raise ValueError unless `value` is a finite number above 0."""
    if not 0 < number(owner, field, value) < math.inf:
        raise ValueError(f"`{owner}({field}=...)` must be finite and above 0: {value!r}")


def at_least(owner: str, field: str, value: object, low: float) -> None:
    """Raise ValueError unless `value` is a number of at least `low`."""
    if not number(owner, field, value) >= low:
        raise ValueError(f"`{owner}({field}=...)` must be at least {low:g}: {value!r}")


def between(owner: str, field: str, value: object, low: float, high: float) -> None:
    """Raise ValueError unless `value` is a number in [low, high]."""
    if not low <= number(owner, field, value) <= high:
        raise ValueError(f"`{owner}({field}=...)` must be in [{low:g}, {high:g}]: {value!r}")


def whole(owner: str, field: str, value: object, low: int) -> None:
    """Raise ValueError unless `value` is an integer of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"`{owner}({field}=...)` must be a whole number >= {low}: {value!r}")


def one_of(owner: str, field: str, value: object, options: tuple[str, ...]) -> None:
    """Raise ValueError unless `value` is one of `options`."""
    if value not in options:
        raise ValueError(f"`{owner}({field}=...)` must be one of {', '.join(options)}: {value!r}")
