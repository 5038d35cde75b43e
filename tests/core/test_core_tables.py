from __future__ import annotations

import asyncio
import builtins
import concurrent.futures
import errno
import gzip
import http.client
import json
import socket
import ssl
import sys
import urllib.error
import zlib
from pathlib import Path
from typing import Any

import pytest

from holdfast.core import errors
from holdfast.core.classify import (
    classify,
    provider_code,
    verdict_for_code,
    verdict_for_status,
)
from holdfast.core.tables.errnos import GETADDRINFO
from holdfast.core.tables.python import TYPES
from holdfast.core.tables.row import Provider, Row
from holdfast.core.tables.types import PROVIDERS, provider_for
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

GOLDEN = Path(__file__).with_name("golden")
WORTH_REPEATING = TRANSIENT | TIMEOUT | CONNECT | THROTTLED | CONCURRENCY


def golden(name: str) -> list[list[str]]:
    lines = (GOLDEN / f"{name}.txt").read_text().splitlines()
    return [line.split() for line in lines if not line.startswith("#")]


def test_every_errno_of_this_platform_in_every_phase() -> None:
    table = {row[0]: row[1:] for row in golden("errnos")}
    if sys.platform == "linux":
        assert set(errno.errorcode.values()) <= set(table)
    for number, name in errno.errorcode.items():
        expected = table.get(name, ["UNKNOWN"] * 3)
        for connecting, kind in zip((True, False, None), expected, strict=True):
            verdict = classify(OSError(number, "text"), connecting=connecting)
            star = "*" if verdict.local else ""
            assert f"{verdict.kind.name}{star}" == kind, (name, connecting)
            assert verdict.reason == name
            assert verdict.max_retries == (1 if kind == "UNKNOWN" else None)
            sent_no = connecting or verdict.kind is CONNECT
            assert verdict.sent is (Sent.NO if sent_no else Sent.MAYBE), (name, connecting)


def test_every_status_from_400_to_599() -> None:
    table = golden("statuses")
    assert [int(row[0]) for row in table] == list(range(400, 600))
    for status, kind, with_hint, not_executed in table:
        plain = verdict_for_status(int(status), {}, now_wall=0)
        assert (plain.kind.name, plain.sent, plain.reason) == (kind, Sent.YES, f"http {status}")
        assert plain.not_executed is (not_executed == "yes"), status
        hinted = verdict_for_status(int(status), {"Retry-After": "7"}, now_wall=0)
        assert (hinted.kind.name, hinted.retry_after) == (with_hint, 7)


@pytest.mark.parametrize("status", [-1, 0, 100, 200, 304, 399, 600, 999, 10**9])
def test_a_status_that_is_no_error_is_not_classified(status: int) -> None:
    verdict = verdict_for_status(status, None, now_wall=0)
    assert (verdict.kind, verdict.evidence, verdict.max_retries) == (UNKNOWN, "unknown", 1)


MADE: dict[str, BaseException] = {
    "http.client.IncompleteRead": http.client.IncompleteRead(b"x", 3),
    "http.client.BadStatusLine": http.client.BadStatusLine("x"),
    "http.client.LineTooLong": http.client.LineTooLong("header line"),
    "http.client.UnknownProtocol": http.client.UnknownProtocol("HTTP/7"),
    "urllib.error.URLError": urllib.error.URLError("text"),
    "urllib.error.HTTPError": urllib.error.HTTPError("http://a", 500, "text", {}, None),  # type: ignore[arg-type] # a mapping will do
    "urllib.error.ContentTooShortError": urllib.error.ContentTooShortError("text", None),  # type: ignore[arg-type] # not looked at
}
MODULES = {
    "builtins": builtins,
    "asyncio.exceptions": asyncio,
    "concurrent.futures._base": concurrent.futures,
    "gzip": gzip,
    "holdfast.core.errors": errors,
    "http.client": http.client,
    "socket": socket,
    "ssl": ssl,
    "urllib.error": urllib.error,
    "zlib": zlib,
}


def made(name: str) -> BaseException:
    if name in MADE:
        return MADE[name]
    module, _, short = name.rpartition(".")
    found = getattr(MODULES[module], short)()
    assert isinstance(found, BaseException)
    return found


@pytest.mark.parametrize("row", golden("python"), ids=lambda row: row[0])
def test_every_exception_of_python(row: list[str]) -> None:
    name, kind, sent, local, repeats = row
    verdict = classify(made(name))
    assert verdict.kind.name == kind
    assert verdict.sent == sent
    assert verdict.local is (local == "yes")
    assert verdict.max_retries == (None if repeats == "-" else int(repeats))


def test_the_golden_table_of_python_is_complete() -> None:
    assert {row[0] for row in golden("python")} == set(TYPES) - {"trio.Cancelled"}


@pytest.mark.parametrize(
    ("name", "kind", "repeats"),
    [
        ("EAI_AGAIN", CONNECT, None),
        ("EAI_FAIL", CONNECT, None),
        ("EAI_NONAME", CONNECT, 1),
        ("EAI_NODATA", CONNECT, 1),
        ("EAI_SERVICE", PERMANENT, None),
        ("EAI_FAMILY", PERMANENT, None),
        ("EAI_MEMORY", CONCURRENCY, None),
    ],
)
def test_names_that_cannot_be_resolved(name: str, kind: Kind, repeats: int | None) -> None:
    number = getattr(socket, name)
    verdict = classify(socket.gaierror(number, "text"))
    assert (verdict.kind, verdict.sent, verdict.max_retries) == (kind, Sent.NO, repeats)
    if kind is not PERMANENT:
        assert GETADDRINFO[number][0] == name


def test_a_code_of_getaddrinfo_is_never_read_as_an_errno() -> None:
    # On macOS EAI_NONAME is 8, which is ENOEXEC as an errno.
    assert classify(socket.gaierror(8, "text")).kind is CONNECT
    # OpenSSL's 1 is EPERM as an errno, and its 5 is EIO.
    assert classify(ssl.SSLEOFError(5, "text")).kind is CONNECT


AWS_KINDS = {
    THROTTLED: "Throttling ThrottlingException ThrottledException RequestThrottled"
    " RequestThrottledException TooManyRequestsException"
    " ProvisionedThroughputExceededException TransactionInProgressException"
    " RequestLimitExceeded BandwidthLimitExceeded LimitExceededException SlowDown"
    " PriorRequestNotComplete EC2ThrottledException",
    TRANSIENT: "RequestTimeout RequestTimeoutException InternalError IDPCommunicationError"
    " BadDigest",
    CONCURRENCY: "ReplicatedWriteConflictException OperationAborted ConditionalRequestConflict",
    AUTH: "ExpiredToken RequestTimeTooSkewed SignatureDoesNotMatch",
}
KLING_KINDS = {
    AUTH: "1000 1001 1002 1003 1004",
    PERMANENT: "1100 1101 1102 1103 1200 1201 1202 1203 1300 1301 1304",
    THROTTLED: "1302",
    CONCURRENCY: "1303",
    TRANSIENT: "5000 5001 5002",
}
ARIA2_KINDS = {
    TRANSIENT: "1 2 5 6 7 8 29 32",
    CONNECT: "19",
    AUTH: "24",
    CONCURRENCY: "11 12",
    PERMANENT: "3 4 9 10 13 14 15 16 17 18 20 21 22 23 25 26 27 28 30 31 999",
}
ANTHROPIC_KINDS = {
    THROTTLED: "rate_limit_error overloaded_error",
    TRANSIENT: "api_error timeout_error",
    AUTH: "authentication_error",
    PERMANENT: "enforced_spend_limit_reached invalid_request_error billing_error"
    " permission_error not_found_error request_too_large",
}
ALL_CODES = [
    (provider, code, kind)
    for provider, kinds in (
        ("aws", AWS_KINDS),
        ("kling", KLING_KINDS),
        ("aria2", ARIA2_KINDS),
        ("anthropic", ANTHROPIC_KINDS),
    )
    for kind, codes in kinds.items()
    for code in codes.split()
]


@pytest.mark.parametrize(("provider", "code", "kind"), ALL_CODES)
def test_every_code_of_every_provider(provider: str, code: str, kind: Kind) -> None:
    verdict = verdict_for_code(provider, code)
    assert (verdict.kind, verdict.reason) == (kind, f"{provider} {code}")
    assert verdict.evidence == provider


def test_the_lists_above_have_every_code() -> None:
    for provider in PROVIDERS:
        table = provider_for(provider)
        listed = {code for name, code, _ in ALL_CODES if name == provider}
        extra = {"ExpiredTokenException", "contract_spend_limit_reached", "conflict_error"}
        assert set(table.codes) | set(table.weak) <= listed | extra


@pytest.mark.parametrize(
    ("code", "repeats", "retry_after"),
    [("1002", 0, None), ("1003", 1, None), ("1303", None, 1.0), ("1302", None, None)],
)
def test_kling_says_how_often_and_when(
    code: str, repeats: int | None, retry_after: float | None
) -> None:
    verdict = verdict_for_status(429, {}, now_wall=0, provider="kling", code=int(code))
    assert (verdict.max_retries, verdict.retry_after) == (repeats, retry_after)
    assert (verdict.sent, verdict.not_executed) == (Sent.YES, True)


def test_a_failure_inside_kling_may_have_been_executed() -> None:
    assert not verdict_for_status(500, {}, now_wall=0, provider="kling", code=5000).not_executed


@pytest.mark.parametrize(("code", "repeats"), [("19", 1), ("32", 1), ("1", None)])
def test_aria2_says_how_often(code: str, repeats: int | None) -> None:
    assert verdict_for_code("aria2", code).max_retries == repeats


@pytest.mark.parametrize("code", ["9", "10", "13", "14", "15", "16", "17", "18"])
def test_aria2_faults_of_this_machine_are_local(code: str) -> None:
    assert verdict_for_code("aria2", code).local


def test_a_code_wins_over_the_status_and_keeps_the_servers_hint() -> None:
    verdict = verdict_for_status(429, {"Retry-After": "9"}, provider="kling", code=1303)
    assert (verdict.kind, verdict.retry_after) == (CONCURRENCY, 9)
    spent = verdict_for_status(429, {}, provider="anthropic", code="enforced_spend_limit_reached")
    assert spent.kind is PERMANENT
    assert verdict_for_status(429, {}, provider="anthropic", code="rate_limit_error").kind is (
        THROTTLED
    )


def test_a_code_that_no_table_knows_leaves_it_to_the_status() -> None:
    assert verdict_for_status(503, {}, provider="aws", code="NewCode").reason == "http 503"
    assert verdict_for_status(404, {}, provider="kling", code=4242).kind is PERMANENT
    unknown = verdict_for_code("kling", 4242)
    assert (unknown.kind, unknown.evidence, unknown.max_retries) == (UNKNOWN, "unknown", 1)


def test_an_error_type_of_anthropic_alone_decides_only_inside_a_stream() -> None:
    # "May also be used for other 4XX status codes": then the status tells more.
    code = "invalid_request_error"
    assert verdict_for_status(408, {}, provider="anthropic", code=code).kind is TIMEOUT
    assert verdict_for_status(200, {}, provider="anthropic", code=code).kind is PERMANENT
    assert verdict_for_status(200, {}, provider="anthropic", code="overloaded_error").kind is (
        THROTTLED
    )


@pytest.mark.parametrize(
    ("provider", "body", "code"),
    [
        ("kling", {"code": 1303, "message": "text"}, "1303"),
        ("aws", {"Error": {"Code": "SlowDown"}}, "SlowDown"),
        (
            "aws",
            {"Error": {"Code": "com.amazon#ThrottlingException:http://x"}},
            "ThrottlingException",
        ),
        ("aria2", {"errorCode": "19"}, "19"),
        ("anthropic", {"error": {"type": "api_error"}}, "api_error"),
        (
            "anthropic",
            {
                "error": {
                    "type": "rate_limit_error",
                    "details": {"error_code": "enforced_spend_limit_reached"},
                }
            },
            "enforced_spend_limit_reached",
        ),
        (
            "anthropic",
            {"error": {"type": "rate_limit_error", "details": {"error_code": "something_new"}}},
            "rate_limit_error",
        ),
        ("kling", {"code": True}, None),
        ("kling", {"error": 5}, None),
        ("kling", "text", None),
        ("kling", None, None),
        ("kling", [1], None),
    ],
)
def test_the_code_is_found_in_the_body(provider: str, body: object, code: str | None) -> None:
    assert provider_code(provider, body) == code


def test_a_provider_may_be_a_table_of_ones_own() -> None:
    mine = Provider("mine", {"busy": Row(THROTTLED, retry_after=3)}, paths=(("why",),))
    assert provider_code(mine, {"why": "busy"}) == "busy"
    verdict = verdict_for_status(400, {}, provider=mine, code="busy")
    assert (verdict.kind, verdict.retry_after, verdict.reason) == (THROTTLED, 3, "mine busy")


def test_an_unknown_provider_is_named() -> None:
    with pytest.raises(ValueError, match=r"provider: 'klingon' is not one of .*kling"):
        verdict_for_code("klingon", 1)


def test_a_server_may_forbid_a_retry() -> None:
    verdict = verdict_for_status(503, {"x-should-retry": "false"}, now_wall=0)
    assert (verdict.kind, verdict.max_retries) == (TRANSIENT, 0)
    assert verdict_for_status(503, {}, now_wall=0).max_retries is None


def botocore_policies(table: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    known = {name: entry["applies_when"] for name, entry in table["definitions"].items()}
    found = []
    for service, operations in table["retry"].items():
        policies = operations.get("policies") or operations["__default__"].get("policies", {})
        for name, policy in policies.items():
            when = known[policy["$ref"]] if "$ref" in policy else policy["applies_when"]
            found.append((f"{service}.{name}", when))
    return found


def test_what_botocore_repeats_is_worth_repeating(vectors: Path) -> None:
    policies = botocore_policies(json.loads((vectors / "botocore_retry_table.json").read_text()))
    excepted = set()
    for name, when in policies:
        response = when.get("response", {})
        if "http_status_code" not in response:
            # Not an answer's status and code: socket errors, and a CRC32 that differs. Both
            # come as exceptions (ConnectionError, ChecksumError; see the tables of clients).
            assert (
                when == {"socket_errors": ["GENERAL_CONNECTION_ERROR"]} or "crc32body" in response
            )
            excepted.add(name)
            continue
        status, code = response["http_status_code"], response.get("service_error_code")
        verdict = verdict_for_status(status, {}, now_wall=0, provider="aws", code=code)
        assert verdict.kind in WORTH_REPEATING, name
        assert verdict.max_retries is None, name
    assert excepted == {"__default__.general_socket_errors", "dynamodb.crc32"}
    assert len(policies) == 27
