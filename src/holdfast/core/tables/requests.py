"""requests 2.34 and urllib3 2.

requests puts urllib3's error into its own as `args[0]`, urllib3 puts the cause of a
`MaxRetryError` into `.reason`: most rows of requests therefore look inside first.
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

_NOT_SENT = Row(PERMANENT, Sent.NO)
_IN_BODY = Row(TRANSIENT, Sent.YES)

_REQUESTS = {
    # From refused connections to a silent body: everything without a class of its own.
    "ConnectionError": Row(TRANSIENT, inside=True),
    "ConnectTimeout": Row(CONNECT, Sent.NO),
    "ReadTimeout": Row(TIMEOUT),
    "Timeout": Row(TIMEOUT),
    "SSLError": Row(PERMANENT, inside=True),
    "ProxyError": Row(CONNECT, Sent.NO),
    "HTTPError": Row(UNKNOWN, Sent.YES, by="status"),
    "RetryError": Row(UNKNOWN, inside=True),
    # RST and FIN in a body, with Content-Length as well as chunked.
    "ChunkedEncodingError": _IN_BODY,
    "ContentDecodingError": Row(PERMANENT, Sent.YES),
    "TooManyRedirects": Row(PERMANENT, Sent.YES),
    "InvalidJSONError": Row(PERMANENT),  # JSONDecodeError (ours to read) is one of these
    "StreamConsumedError": Row(PERMANENT),
    **rows(
        _NOT_SENT,
        "InvalidHeader InvalidURL InvalidSchema MissingSchema URLRequired UnrewindableBodyError",
    ),
}

_URLLIB3 = {
    "MaxRetryError": Row(UNKNOWN, inside=True),
    "NewConnectionError": Row(CONNECT, Sent.NO, inside=True, connecting=True),
    "NameResolutionError": Row(CONNECT, Sent.NO, inside=True, connecting=True),
    "ConnectTimeoutError": Row(CONNECT, Sent.NO),
    "ReadTimeoutError": Row(TIMEOUT),
    "TimeoutError": Row(TIMEOUT),
    "ProtocolError": Row(TRANSIENT, inside=True),
    "ProxyError": Row(CONNECT, Sent.NO),
    "SSLError": Row(PERMANENT, inside=True),
    **rows(_IN_BODY, "IncompleteRead InvalidChunkLength"),
    **rows(Row(CONCURRENCY, Sent.NO, local=True), "EmptyPoolError FullPoolError"),
    "ClosedPoolError": _NOT_SENT,
    "DecodeError": Row(PERMANENT, Sent.YES),
    **rows(
        Row(PERMANENT, Sent.YES), "ResponseNotChunked BodyNotHttplibCompatible HeaderParsingError"
    ),
    **rows(
        _NOT_SENT,
        "LocationValueError HostChangedError InvalidHeader TimeoutStateError UnrewindableBodyError"
        " ProxySchemeUnknown ProxySchemeUnsupported",
    ),
}

TYPES: dict[str, Row] = {
    **{f"requests.exceptions.{name}": row for name, row in _REQUESTS.items()},
    **{f"urllib3.exceptions.{name}": row for name, row in _URLLIB3.items()},
}
