"""The surrounding deadline, carried by a context variable across tasks and worker threads."""

from __future__ import annotations

import math
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from holdfast.core.checks import positive
from holdfast.core.deadline import OUTSIDE, Scope
from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    from collections.abc import Iterator

scope: ContextVar[Scope] = ContextVar("holdfast.scope", default=OUTSIDE)


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Bound everything inside by `seconds` from now; within another deadline the tighter wins.

    It acts where a policy is called inside: no attempt and no wait goes past it. It does not
    interrupt code that calls no policy (`asyncio.timeout` does).  seconds: above 0.
    """
    positive("deadline", "seconds", seconds)
    expires, retrying = scope.get()
    token = scope.set((min(expires, clock.monotonic() + seconds), retrying))
    try:
        yield
    finally:
        scope.reset(token)


def remaining() -> float:
    """Return the seconds left of the surrounding deadline; infinite without one, at least 0."""
    expires = scope.get()[0]
    return expires if expires == math.inf else max(0.0, expires - clock.monotonic())
