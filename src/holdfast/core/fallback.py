"""The fallback: an answer for when everything else has failed."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.core.matching import On, compile_on
from holdfast.core.verdict import Kind

_ALL = ~Kind.CANCELLED


@dataclass(frozen=True, slots=True)
class Fallback:
    """Give `value` instead of raising, for failures that match `on`.

    value: any value, or a function that gets the error and returns the value (a coroutine
    function for asynchronous calls).  on: kinds and exception types as for `Retry`; default
    every failure. Cancellation is never replaced.
    """

    value: object
    on: On = _ALL

    def __post_init__(self) -> None:
        compile_on("Fallback", self.on)
