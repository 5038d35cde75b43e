"""Whom small files are asked from, and what is common to all requests there."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from holdfast.transfer.verify import is_s3
from holdfast.wire.http1 import request_head
from holdfast.wire.urls import parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.downloads.crew import Crew
    from holdfast.downloads.flows import Host
    from holdfast.downloads.rows import Small
    from holdfast.runtime.passes import Passes
    from holdfast.wire.addresses import Reach
    from holdfast.wire.http1 import Head
    from holdfast.wire.urls import Url

TOO_LARGE = 8
"""After so many files in a row that were not small a host's files are left to the threads."""


def wants(head: Head) -> bool:
    """Whether a body is to be read: it may be the file, or the machinery may want it."""
    return head.status in {200, 203}


class Origin:
    """What is asked of one scheme, host and port."""

    def __init__(self, url: Url, host: Host, passes: Passes, reach: Reach) -> None:
        self.url = url
        self.host = host
        self.passes = passes
        self.reach = reach
        self.waiting: deque[Small] = deque()
        self.too_large = 0
        self.count = self.moved = 0  # not told to the crew yet
        # All requests of one origin differ only by what they ask for.
        before, after = request_head(self.url, {"connection": ""}).split(b" / ", 1)
        self._before, self._after = before + b" ", b" " + after

    def question(self, target: str) -> bytes:
        """Return the request for one file."""
        return self._before + target.encode("ascii") + self._after


def origin_of(
    row: Small,
    crew: Crew,
    passes: Callable[[str], Passes],
    reach: Callable[[bool], Reach],
    proxied: Callable[[Url], bool],
) -> Origin | None:
    """Return whom a file is asked from; None if more than a plain GET is needed there."""
    url = parse(row.origin + "/")
    if proxied(url) or is_s3(url, {}):
        return None
    return Origin(url, crew.host(url.host), passes(url.host), reach(row.typed))
