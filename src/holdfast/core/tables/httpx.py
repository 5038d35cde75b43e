"""httpx 0.28, httpx2 2.16 and what they stand on (httpcore, httpcore2).

The two families have the same names and unrelated classes. A read that failed may have
failed before the head or in the body; the type does not say, so `sent` stays maybe here,
and an adapter that saw the head says more.
"""

from __future__ import annotations

from holdfast.core.tables.row import Row, rows
from holdfast.core.verdict import (
    CONCURRENCY,
    CONNECT,
    PERMANENT,
    TIMEOUT,
    TRANSIENT,
    UNKNOWN,
    Sent,
)

_TRANSPORT = {
    # Inside are an OSError, a gaierror or an SSLError, which tell more.
    "ConnectError": Row(CONNECT, Sent.NO, inside=True, connecting=True),
    "ConnectTimeout": Row(CONNECT, Sent.NO),
    "PoolTimeout": Row(CONCURRENCY, Sent.NO, local=True),
    "ProxyError": Row(CONNECT, Sent.NO),  # CONNECT or SOCKS was refused: the origin saw nothing
    **rows(Row(TIMEOUT), "ReadTimeout WriteTimeout"),
    **rows(Row(TRANSIENT), "ReadError WriteError RemoteProtocolError"),
    "LocalProtocolError": Row(PERMANENT),
    "UnsupportedProtocol": Row(PERMANENT, Sent.NO),
}

_CLIENT = {
    "CloseError": Row(TRANSIENT),
    "HTTPStatusError": Row(UNKNOWN, Sent.YES, by="status"),
    "DecodingError": Row(PERMANENT, Sent.YES),
    "TooManyRedirects": Row(PERMANENT, Sent.YES),
    "InvalidURL": Row(PERMANENT, Sent.NO),
    "CookieConflict": Row(PERMANENT),
    "StreamError": Row(PERMANENT),  # read twice, read after close: the caller's order is wrong
    "SSEError": Row(PERMANENT, Sent.YES),  # httpx2: not an event stream, or an event too long
}

TYPES: dict[str, Row] = {
    f"{module}.{name}": row
    for module, table in (
        ("httpx", _TRANSPORT | _CLIENT),
        ("httpx2", _TRANSPORT | _CLIENT),
        ("httpcore", _TRANSPORT),
        ("httpcore2", _TRANSPORT),
    )
    for name, row in table.items()
}
