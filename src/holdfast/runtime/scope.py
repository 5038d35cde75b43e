"""The surrounding deadline, carried by a context variable across tasks and worker threads."""

from __future__ import annotations

import math
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeAlias

from holdfast.core.checks import positive
from holdfast.core.deadline import OUTSIDE, Scope
from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextvars import Token

Around: TypeAlias = float | Scope | None
"""A scope as the variable holds it: None outside, else a `Scope`, or only its `expires`.

A bare float means that the policy outside retries, as most do: the fast paths set the variable
on each call, and building the tuple as well would cost them 25 ns and 56 bytes.
"""

around: ContextVar[Around] = ContextVar("holdfast.scope", default=None)


class _Scope:
    """The variable, read as a `Scope`: what everything but the fast paths uses."""

    __slots__ = ("reset", "set")

    def __init__(self) -> None:
        self.set: Callable[[Scope], Token[Any]] = around.set
        self.reset: Callable[[Token[Any]], None] = around.reset

    def get(self) -> Scope:
        """Return what surrounds the caller; `OUTSIDE` itself if nothing does."""
        found = around.get()
        if found is None:
            return OUTSIDE
        return (found, True) if isinstance(found, float) else found


scope = _Scope()


def leave(token: Token[Any]) -> None:
    """Reset the scope, unless this is another context than that in which it was set.

    So it is when a garbage collection closes a coroutine: that context's scope stays.
    """
    with suppress(ValueError):
        around.reset(token)


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
