"""Which fields of a head go on to the next connection, and which end with their own.

    of one connection   Connection, Keep-Alive, TE, Trailer, Transfer-Encoding, Upgrade
    its framing         Content-Length: who passes a body on says its length anew
    of a proxy          Proxy-*
    of two readings     names with `_`: a server that turns names into variables cannot tell them
                        from names with `-`

What Connection names belongs to one connection, too: that stands in the head and not here.
Source: RFC 9110, 7.6.1; RFC 9112, 7.
"""

from __future__ import annotations

from typing import Final

HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"content-length",
    }
)
"""The first two rows, in lower case."""


def goes_on(name: bytes, dropped: frozenset[bytes] = HOP) -> bool:
    """Say whether a field goes on. name: in lower case.  dropped: `HOP`, and what else does not."""
    return not (name in dropped or b"_" in name or name.startswith(b"proxy-"))
