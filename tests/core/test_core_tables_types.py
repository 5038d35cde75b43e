"""The tables of the client libraries, on look-alikes: no library has to be installed.

A look-alike has the module, the qualified name and the bases of the real type; matching goes
by these. That the real types have them is checked in test_core_classify_clients.py.
"""

from __future__ import annotations

import errno
import http.client
import socket
import ssl
import subprocess
import sys
from typing import Any

import pytest

from holdfast.core.classify import classify
from holdfast.core.verdict import (
    AUTH,
    CONCURRENCY,
    CONNECT,
    PERMANENT,
    THROTTLED,
    TIMEOUT,
    TRANSIENT,
    UNKNOWN,
    Kind,
    Sent,
)

NO, MAYBE, YES = Sent.NO, Sent.MAYBE, Sent.YES
RESET = ConnectionResetError(errno.ECONNRESET, "text")
REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "text")
NO_SUCH_NAME = socket.gaierror(socket.EAI_NONAME, "text")


def alike(name: str, *bases: type[BaseException], **attributes: Any) -> type[Any]:
    """Make a type with the qualified name of a foreign one."""
    module, _, short = name.rpartition(".")
    return type(short, bases or (Exception,), {"__module__": module, **attributes})


def error(name: str, *args: object, cause: BaseException | None = None, **attributes: Any) -> Any:
    """Make an error of a look-alike type; attributes are set on the error."""
    made = alike(name)(*args)
    vars(made).update(attributes)
    if cause is not None:  # setting even None would suppress the context
        made.__cause__ = cause
    return made


def max_retry(reason: BaseException) -> Any:
    return error("urllib3.exceptions.MaxRetryError", "text", reason=reason)


BY_TYPE: list[tuple[str, Kind, Sent, bool]] = [
    *[
        (f"{module}.{name}", kind, sent, local)
        for module in ("httpx", "httpx2", "httpcore", "httpcore2")
        for name, kind, sent, local in (
            ("ConnectError", CONNECT, NO, False),
            ("ConnectTimeout", CONNECT, NO, False),
            ("PoolTimeout", CONCURRENCY, NO, True),
            ("ProxyError", CONNECT, NO, False),
            ("ReadTimeout", TIMEOUT, MAYBE, False),
            ("WriteTimeout", TIMEOUT, MAYBE, False),
            ("ReadError", TRANSIENT, MAYBE, False),
            ("WriteError", TRANSIENT, MAYBE, False),
            ("RemoteProtocolError", TRANSIENT, MAYBE, False),
            ("LocalProtocolError", PERMANENT, MAYBE, False),
            ("UnsupportedProtocol", PERMANENT, NO, False),
        )
    ],
    *[
        (f"{module}.{name}", kind, sent, False)
        for module in ("httpx", "httpx2")
        for name, kind, sent in (
            ("CloseError", TRANSIENT, MAYBE),
            ("DecodingError", PERMANENT, YES),
            ("TooManyRedirects", PERMANENT, YES),
            ("InvalidURL", PERMANENT, NO),
        )
    ],
    ("requests.exceptions.ConnectionError", TRANSIENT, MAYBE, False),
    ("requests.exceptions.ConnectTimeout", CONNECT, NO, False),
    ("requests.exceptions.ReadTimeout", TIMEOUT, MAYBE, False),
    ("requests.exceptions.ChunkedEncodingError", TRANSIENT, YES, False),
    ("requests.exceptions.ContentDecodingError", PERMANENT, YES, False),
    ("requests.exceptions.ProxyError", CONNECT, NO, False),
    ("requests.exceptions.SSLError", PERMANENT, MAYBE, False),
    ("requests.exceptions.TooManyRedirects", PERMANENT, YES, False),
    ("requests.exceptions.InvalidSchema", PERMANENT, NO, False),
    ("requests.exceptions.InvalidHeader", PERMANENT, NO, False),
    ("requests.exceptions.UnrewindableBodyError", PERMANENT, NO, False),
    ("urllib3.exceptions.NewConnectionError", CONNECT, NO, False),
    ("urllib3.exceptions.ConnectTimeoutError", CONNECT, NO, False),
    ("urllib3.exceptions.ReadTimeoutError", TIMEOUT, MAYBE, False),
    ("urllib3.exceptions.EmptyPoolError", CONCURRENCY, NO, True),
    ("urllib3.exceptions.FullPoolError", CONCURRENCY, NO, True),
    ("urllib3.exceptions.IncompleteRead", TRANSIENT, YES, False),
    ("aiohttp.client_exceptions.ClientConnectorError", CONNECT, NO, False),
    ("aiohttp.client_exceptions.ClientConnectorDNSError", CONNECT, NO, False),
    ("aiohttp.client_exceptions.ClientConnectorCertificateError", PERMANENT, NO, False),
    ("aiohttp.client_exceptions.ServerFingerprintMismatch", PERMANENT, NO, False),
    ("aiohttp.client_exceptions.ClientOSError", TRANSIENT, MAYBE, False),
    ("aiohttp.client_exceptions.ServerDisconnectedError", TRANSIENT, MAYBE, False),
    ("aiohttp.client_exceptions.ServerTimeoutError", TIMEOUT, MAYBE, False),
    ("aiohttp.client_exceptions.SocketTimeoutError", TIMEOUT, MAYBE, False),
    ("aiohttp.client_exceptions.ConnectionTimeoutError", CONNECT, NO, False),
    ("aiohttp.client_exceptions.ClientPayloadError", TRANSIENT, YES, False),
    ("aiohttp.client_exceptions.InvalidURL", PERMANENT, NO, False),
    ("botocore.exceptions.EndpointConnectionError", CONNECT, NO, False),
    ("botocore.exceptions.ConnectTimeoutError", CONNECT, NO, False),
    ("botocore.exceptions.ProxyConnectionError", CONNECT, NO, False),
    ("botocore.exceptions.ConnectionClosedError", TRANSIENT, MAYBE, False),
    ("botocore.exceptions.ReadTimeoutError", TIMEOUT, MAYBE, False),
    ("botocore.exceptions.ResponseStreamingError", TRANSIENT, YES, False),
    ("botocore.exceptions.IncompleteReadError", TRANSIENT, YES, False),
    ("botocore.exceptions.ChecksumError", TRANSIENT, YES, False),
    ("botocore.exceptions.FlexibleChecksumError", TRANSIENT, YES, False),
    ("botocore.exceptions.NoCredentialsError", AUTH, NO, False),
    ("botocore.exceptions.TokenRetrievalError", AUTH, NO, False),
    ("botocore.exceptions.ParamValidationError", PERMANENT, NO, False),
    ("botocore.exceptions.UnseekableStreamError", PERMANENT, NO, False),
    ("botocore.exceptions.HTTPClientError", UNKNOWN, MAYBE, False),
]


@pytest.mark.parametrize(("name", "kind", "sent", "local"), BY_TYPE, ids=str)
def test_a_type_of_a_client_says_what_happened(
    name: str,
    kind: Kind,
    sent: Sent,
    local: bool,  # noqa: FBT001 - a table's column
) -> None:
    verdict = classify(error(name))
    assert (verdict.kind, verdict.sent, verdict.local) == (kind, sent, local)
    if kind is not UNKNOWN:
        assert verdict.evidence == f"type {name}"
        assert classify(alike("app.Mine", alike(name))()).kind is kind


@pytest.mark.parametrize("module", ["httpx3", "myhttpx", "app.httpx", "httpx.contrib"])
def test_a_type_of_the_same_name_elsewhere_is_another_type(module: str) -> None:
    assert classify(error(f"{module}.ReadError")).kind is UNKNOWN


@pytest.mark.parametrize("module", ["httpx", "httpx2"])
@pytest.mark.parametrize(
    ("inside", "kind", "local", "repeats"),
    [
        (REFUSED, CONNECT, False, None),
        (RESET, CONNECT, False, None),
        (TimeoutError(), CONNECT, False, None),
        (OSError("all addresses failed"), CONNECT, False, None),
        (NO_SUCH_NAME, CONNECT, False, 1),
        (ssl.SSLEOFError(8, "text"), CONNECT, False, None),
        (ssl.SSLCertVerificationError(1, "text"), PERMANENT, False, None),
        (OSError(errno.EMFILE, "text"), CONCURRENCY, True, None),
        (OSError(errno.EEXIST, "text"), CONNECT, False, None),
    ],
)
def test_what_is_inside_a_connect_error_decides(
    module: str,
    inside: Exception,
    kind: Kind,
    local: bool,  # noqa: FBT001 - a table's column
    repeats: int | None,
) -> None:
    core = error(f"{module.replace('httpx', 'httpcore')}.ConnectError", cause=inside)
    verdict = classify(error(f"{module}.ConnectError", cause=core))
    assert (verdict.kind, verdict.local, verdict.sent) == (kind, local, NO)
    assert verdict.max_retries == repeats


@pytest.mark.parametrize(
    ("inside", "kind", "sent"),
    [
        (max_retry(error("urllib3.exceptions.NewConnectionError", cause=REFUSED)), CONNECT, NO),
        (
            max_retry(error("urllib3.exceptions.NameResolutionError", cause=NO_SUCH_NAME)),
            CONNECT,
            NO,
        ),
        (
            max_retry(
                error("urllib3.exceptions.NewConnectionError", cause=OSError(errno.EMFILE, ""))
            ),
            CONCURRENCY,
            NO,
        ),
        (
            error("urllib3.exceptions.ProtocolError", "Connection aborted.", cause=RESET),
            TRANSIENT,
            MAYBE,
        ),
        (
            error("urllib3.exceptions.ProtocolError", "", cause=http.client.RemoteDisconnected("")),
            TRANSIENT,
            MAYBE,
        ),
        (error("urllib3.exceptions.ReadTimeoutError"), TIMEOUT, MAYBE),
        (error("urllib3.exceptions.ClosedPoolError"), PERMANENT, NO),
    ],
)
def test_what_is_inside_a_connection_error_of_requests_decides(
    inside: Exception, kind: Kind, sent: Sent
) -> None:
    verdict = classify(error("requests.exceptions.ConnectionError", inside))
    assert (verdict.kind, verdict.sent) == (kind, sent)


@pytest.mark.parametrize(
    ("inside", "kind", "sent"),
    [
        (ssl.SSLCertVerificationError(1, "text"), PERMANENT, NO),
        (ssl.SSLEOFError(8, "text"), CONNECT, MAYBE),
        (ssl.SSLError(1, "text"), PERMANENT, MAYBE),
    ],
)
@pytest.mark.parametrize("outer", ["requests.exceptions.SSLError", "botocore.exceptions.SSLError"])
def test_what_is_inside_a_tls_error_decides(
    outer: str, inside: Exception, kind: Kind, sent: Sent
) -> None:
    wrapped = max_retry(error("urllib3.exceptions.SSLError", inside))
    verdict = classify(error(outer, wrapped))
    assert (verdict.kind, verdict.sent) == (kind, sent)


def test_botocore_hides_the_cause_in_the_context() -> None:
    outer = error("botocore.exceptions.EndpointConnectionError", "text")
    outer.__context__ = error("urllib3.exceptions.NewConnectionError", cause=NO_SUCH_NAME)
    assert classify(outer).max_retries == 1


def connector_error(number: int | None, cause: BaseException | None = None) -> Any:
    connector = alike("aiohttp.client_exceptions.ClientConnectorError", OSError)
    made = connector(number, "text") if number is not None else connector()
    if cause is not None:
        made.__cause__ = cause
    return made


@pytest.mark.parametrize(
    ("made", "kind", "repeats"),
    [
        (connector_error(errno.ECONNREFUSED, REFUSED), CONNECT, None),
        (connector_error(None), CONNECT, None),
        (connector_error(socket.EAI_NONAME, NO_SUCH_NAME), CONNECT, 1),
        (connector_error(socket.EAI_NONAME), CONNECT, None),
        (connector_error(errno.EMFILE), CONCURRENCY, None),
        (connector_error(None, ssl.SSLCertVerificationError(1, "text")), PERMANENT, None),
    ],
)
def test_aiohttps_connector_errors_go_by_what_is_inside(
    made: Exception, kind: Kind, repeats: int | None
) -> None:
    verdict = classify(made)
    assert (verdict.kind, verdict.sent, verdict.max_retries) == (kind, NO, repeats)


def test_aiohttps_made_up_status_400_is_told_from_a_real_one() -> None:
    name = "aiohttp.client_exceptions.ClientResponseError"
    status_line = error("aiohttp.http_exceptions.BadStatusLine")
    made_up = classify(error(name, status=400, cause=status_line))
    assert (made_up.kind, made_up.sent) == (TRANSIENT, MAYBE)
    chunk = error("aiohttp.http_exceptions.TransferEncodingError")
    bad_chunk = alike(
        "aiohttp.http_exceptions.TransferEncodingError",
        type(error("aiohttp.http_exceptions.BadHttpMessage")),
    )
    assert classify(error(name, status=400, cause=chunk)).kind is PERMANENT  # not a subclass
    assert classify(error(name, status=400, cause=bad_chunk())).sent is YES
    assert classify(error(name, status=400)).kind is PERMANENT
    handled = error(name, status=404)
    handled.__context__ = status_line  # an earlier request's failure, being handled
    assert classify(handled).kind is PERMANENT


def test_a_body_that_cannot_be_decoded_is_not_worth_a_repeat() -> None:
    name = "aiohttp.client_exceptions.ClientPayloadError"
    coding = error("aiohttp.http_exceptions.ContentEncodingError")
    verdict = classify(error(name, cause=coding))
    assert (verdict.kind, verdict.sent) == (PERMANENT, YES)
    assert (classify(error(name, cause=RESET)).kind, classify(error(name, cause=RESET)).sent) == (
        TRANSIENT,
        YES,
    )


@pytest.mark.parametrize(
    ("status", "kind"), [(407, AUTH), (403, PERMANENT), (502, CONNECT), (504, CONNECT)]
)
def test_a_proxy_that_refuses_to_connect_has_sent_nothing(status: int, kind: Kind) -> None:
    verdict = classify(error("aiohttp.client_exceptions.ClientHttpProxyError", status=status))
    assert (verdict.kind, verdict.sent) == (kind, NO)


def test_a_page_of_the_wrong_type_goes_by_its_status() -> None:
    name = "aiohttp.client_exceptions.ContentTypeError"
    assert classify(error(name, status=502)).kind is TRANSIENT
    assert classify(error(name, status=200)).kind is PERMANENT


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("SlowDown", 503, THROTTLED),
        ("ThrottlingException", 400, THROTTLED),
        ("ExpiredToken", 400, AUTH),
        ("NoSuchKey", 404, PERMANENT),
        ("InternalError", 200, TRANSIENT),
        ("SomethingNew", 500, TRANSIENT),
        ("SomethingNew", 200, UNKNOWN),
    ],
)
def test_botocores_client_error_goes_by_code_then_status(
    code: str, status: int, kind: Kind
) -> None:
    made = error(
        "botocore.exceptions.ClientError",
        response={
            "Error": {"Code": code, "Message": "text"},
            "ResponseMetadata": {
                "HTTPStatusCode": status,
                "HTTPHeaders": {"x-amz-retry-after": "1500"},
            },
        },
    )
    verdict = classify(made)
    assert verdict.kind is kind
    if kind is not UNKNOWN:
        assert (verdict.retry_after, verdict.hint) == (1.5, "aws")


def test_the_sdk_of_anthropic_goes_by_detail_type_and_status() -> None:
    def status_error(status: int, kind: str, detail: str | None = None) -> Any:
        body: dict[str, Any] = {"error": {"type": kind}}
        if detail:
            body["error"]["details"] = {"error_code": detail}
        return error("anthropic.APIStatusError", status_code=status, body=body)

    assert classify(status_error(429, "rate_limit_error")).kind is THROTTLED
    spent = status_error(429, "rate_limit_error", "enforced_spend_limit_reached")
    assert classify(spent).kind is PERMANENT
    assert classify(status_error(529, "overloaded_error")).kind is THROTTLED
    assert classify(status_error(401, "authentication_error")).kind is AUTH
    assert classify(status_error(200, "overloaded_error")).kind is THROTTLED


def test_a_family_is_loaded_when_a_type_of_it_is_seen() -> None:
    program = (
        "import sys; from holdfast.core.classify import classify;"
        "loaded = lambda: [n for n in sys.modules if n.startswith('holdfast.core.tables.')];"
        "classify(RuntimeError()); before = set(loaded());"
        "made = type('ReadError', (Exception,), {'__module__': 'httpx'})();"
        "assert classify(made).kind.name == 'TRANSIENT';"
        "print(*sorted(set(loaded()) - before), 'httpx' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.decode().split() == ["holdfast.core.tables.httpx", "False"]
