"""Answers before the answer: 1xx."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.chaos.fault import HttpFault, check
from holdfast.chaos.message import reason

if TYPE_CHECKING:
    from holdfast.chaos.fault import HttpTarget


@dataclass(frozen=True, slots=True)
class Interim(HttpFault):
    """Send `count` interim answers first. Legal for any client (RFC 9110, 15.2).

    status: 100 to 199 but not 101. Python's `http.client` skips 100 only and takes 103
    (Early Hints) for the answer.
    """

    status: int = 103
    count: int = 1
    link: str = "</style.css>; rel=preload"

    def __post_init__(self) -> None:
        """Check the ranges."""
        HttpFault.__post_init__(self)
        check(self, "status", low=100, high=199)
        check(self, "count", low=1)
        if self.status == 101:
            raise ValueError("Interim: status: 101 would switch protocols")

    def alter(self, on: HttpTarget) -> None:
        """Put them in front."""
        head = f"HTTP/1.1 {self.status} {reason(self.status)}\r\n"
        if self.status == 103:
            head += f"Link: {self.link}\r\n"
        on.answer.interim += [f"{head}\r\n".encode("latin-1")] * self.count
