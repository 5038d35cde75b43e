"""Who vouches for us: headers that are made for each request, and what a refusal of them means.

A signature is good for minutes and a transfer lasts for hours, so what proves that we may ask
is made when we ask. What refuses it says why in its body; whoever made the proof reads that,
and may do it better, once per exchange.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.wire.http1 import Head
    from holdfast.wire.urls import Url

REFUSALS = frozenset({400, 401, 403})
"""S3 says with 400 that a token has expired, and with 403 that a clock is wrong."""
MAX_REFUSAL = 64 * 1024


class Access(Protocol):
    """Makes the headers that prove who asks. For any thread.

    What it raises, a `TransferFailed`, ends the attempt as its verdict says.
    """

    def headers(self, url: Url) -> Mapping[str, str]:
        """Return headers for one GET of `url`, made now."""
        ...

    def refused(self, head: Head, body: bytes) -> bool:
        """Read a refusal (400, 401, 403), its body up to 64 KiB; True: ask once more."""
        ...
