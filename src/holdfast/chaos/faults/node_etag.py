"""Several servers behind one name, each with an ETag of its own for the same bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.chaos.fault import HttpFault, check

if TYPE_CHECKING:
    from holdfast.chaos.fault import HttpTarget


@dataclass(frozen=True, slots=True)
class NodeEtag(HttpFault):
    """Let requests reach one of `nodes` servers at random; ETags differ, bytes do not.

    Size and Last-Modified are equal. A server accepts only its own ETag in If-Range and
    If-Match, so a resume that meets another node starts from zero.
    """

    nodes: int = 2

    def __post_init__(self) -> None:
        """Check the ranges."""
        HttpFault.__post_init__(self)
        check(self, "nodes", low=2)

    def prepare(self, on: HttpTarget) -> None:
        """Choose the node."""
        on.request.node = on.rng.between(1, self.nodes)
