"""aiohttp 3.14.

Two traps: what is not HTTP arrives as a `ClientResponseError` with the made-up status 400
(a `BadHttpMessage` inside tells it from a real 400), and `ClientConnectorError` has the
errno of the OSError inside, which for names is getaddrinfo's code.
"""

from __future__ import annotations

from holdfast.core.tables.row import Row, rows
from holdfast.core.verdict import CONNECT, PERMANENT, TIMEOUT, TRANSIENT, UNKNOWN, Sent

_NOT_SENT = Row(PERMANENT, Sent.NO)

_CLIENT = {
    "ClientConnectionError": Row(TRANSIENT, inside=True),
    "ClientConnectionResetError": Row(TRANSIENT),
    "ClientOSError": Row(TRANSIENT, inside=True, by="errno"),
    # Without an errno it is an end of file inside the TLS handshake.
    "ClientConnectorError": Row(CONNECT, Sent.NO, inside=True, connecting=True, by="errno"),
    "ClientConnectorDNSError": Row(CONNECT, Sent.NO, inside=True, connecting=True),
    "ClientConnectorSSLError": Row(PERMANENT, Sent.NO, inside=True, connecting=True),
    "ClientConnectorCertificateError": _NOT_SENT,
    "ClientHttpProxyError": Row(CONNECT, Sent.NO, by="status", connecting=True),
    "ServerConnectionError": Row(TRANSIENT),
    "ServerDisconnectedError": Row(TRANSIENT),
    "ServerFingerprintMismatch": _NOT_SENT,
    "ServerTimeoutError": Row(TIMEOUT),
    "SocketTimeoutError": Row(TIMEOUT),
    "ConnectionTimeoutError": Row(CONNECT, Sent.NO),
    "ClientPayloadError": Row(TRANSIENT, Sent.YES, inside=True),
    "ClientResponseError": Row(UNKNOWN, inside=True, by="status"),
    # A page of the wrong type may be a proxy's 502; with status 200 it is the server's way.
    "ContentTypeError": Row(PERMANENT, Sent.YES, by="status"),
    "TooManyRedirects": Row(PERMANENT, Sent.YES),
    "WSMessageTypeError": Row(PERMANENT, Sent.YES),
    **rows(_NOT_SENT, "InvalidURL NonHttpUrlClientError RedirectClientError"),
}

_HTTP = {
    "BadHttpMessage": Row(TRANSIENT, Sent.YES),
    "BadStatusLine": Row(TRANSIENT),
    **rows(Row(PERMANENT, Sent.YES), "ContentEncodingError DecompressSizeError"),
}

TYPES: dict[str, Row] = {
    **{f"aiohttp.client_exceptions.{name}": row for name, row in _CLIENT.items()},
    **{f"aiohttp.http_exceptions.{name}": row for name, row in _HTTP.items()},
}
