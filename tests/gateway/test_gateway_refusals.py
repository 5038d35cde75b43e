"""What statuses and codes mean, beside what they say."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest

from holdfast.core.breaker import Result
from holdfast.gateway.refusals import (
    Cools,
    codes_in,
    codes_of,
    looks_like_error,
    refusal_of,
    status_of,
)
from holdfast.wire.responses import parse_head

JSON = b"Content-Type: application/json\r\n"


def head(status=429, fields=JSON):
    return parse_head(b"HTTP/1.1 %d X\r\n%b\r\n" % (status, fields), b"POST")


def refusal(status, *codes, own_key=False, fields=()):
    return refusal_of(status, frozenset(codes), fields, own_key=own_key, now_wall=0.0)


@pytest.mark.parametrize("status", [200, 204, 302, 400, 404, 409, 413, 422, 501, 505, 525])
def test_what_says_something_of_the_request_is_for_the_client(status):
    assert refusal(status) is None
    assert refusal(status, own_key=True) is None


@pytest.mark.parametrize("status", [500, 502, 503, 504, 520, 521, 522, 523, 524])
def test_a_failure_of_the_endpoint_counts_and_may_have_run(status):
    assert refusal(status) == (Result.FAILED, Cools.NOBODY, False, None)


@pytest.mark.parametrize(
    ("status", "cools", "safe"),
    [
        (408, Cools.NOBODY, False),
        (421, Cools.NOBODY, True),
        (425, Cools.NOBODY, True),
        (429, Cools.KEY, True),
        (529, Cools.ENDPOINT, True),
    ],
)
def test_what_says_not_now_counts_against_nobody(status, cools, safe):
    assert refusal(status) == (Result.NEUTRAL, cools, safe, None)


def test_a_503_that_says_when_is_a_cool_down_and_no_failure():
    found = refusal(503, fields=[(b"Retry-After", b"7")])
    assert found == (Result.NEUTRAL, Cools.ENDPOINT, True, 7.0)


@pytest.mark.parametrize(
    ("status", "cools"), [(401, Cools.KEY_OUT), (403, Cools.KEY_OUT), (402, Cools.KEY_SPENT)]
)
def test_a_key_of_ours_that_is_refused_rests_and_one_of_the_clients_is_its_own_affair(
    status, cools
):
    assert refusal(status) is None
    found = refusal(status, own_key=True)
    assert found is not None
    assert (found.cools, found.result) == (cools, Result.NEUTRAL)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (429, "insufficient_quota"),
        (429, "enforced_spend_limit_reached"),
        (400, "billing_hard_limit_reached"),
        (403, "billing_error"),
    ],
)
def test_spent_money_is_seen_behind_any_status(status, code):
    found = refusal(status, code, own_key=True)
    assert found is not None
    assert found.cools is Cools.KEY_SPENT


@pytest.mark.parametrize("status", [400, 429, 500])
def test_content_that_is_not_wanted_is_not_asked_for_elsewhere(status):
    assert refusal(status, "content_policy_violation", own_key=True) is None


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"type": "error", "error": {"type": "overloaded_error"}}, 529),
        ({"type": "error", "error": {"type": "rate_limit_error"}}, 429),
        ({"type": "error", "error": {"type": "api_error"}}, 500),
        ({"type": "error", "error": {"type": "invalid_request_error"}}, 400),
        ({"error": {"type": "tokens", "code": "rate_limit_exceeded"}}, 429),
        ({"error": {"type": "server_error", "code": None}}, 500),
        ({"error": {"type": "new_kind_of_error"}}, 500),
    ],
)
def test_an_error_in_a_200_stands_for_a_status(error, status):
    assert status_of(codes_of(error)) == status
    assert looks_like_error(json.dumps(error).encode())


def test_an_answer_is_not_taken_for_an_error():
    assert not looks_like_error(b'{"id": "m", "error": null, "type": "message"}')
    assert not looks_like_error(b'{"type":"message","error":{}}')
    assert not looks_like_error(b'{"error": null}')


@pytest.mark.parametrize("framed", [False, True])
@pytest.mark.parametrize(
    ("coding", "packed"),
    [(b"", bytes), (b"gzip", gzip.compress), (b"deflate", zlib.compress)],
    ids=["plain", "gzip", "deflate"],
)
def test_codes_are_read_however_the_body_comes(framed, coding, packed):
    body = packed(json.dumps({"error": {"code": "insufficient_quota"}}).encode())
    fields = JSON + (b"Content-Encoding: %b\r\n" % coding if coding else b"")
    if framed:
        body = b"%x\r\n%b\r\n" % (len(body), body)
    assert "insufficient_quota" in codes_in(head(fields=fields), body, framed=framed)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b'"x"', b"\xff\xfe", b"{" * 5000, b'{"a":' + b"1" * 70_000 + b"}"]
)
def test_a_body_that_says_nothing_has_no_codes(body):
    assert codes_in(head(), body, framed=False) == frozenset()


def test_only_json_is_read():
    body = b'{"error":{"code":"insufficient_quota"}}'
    assert codes_in(head(fields=b"Content-Type: text/html\r\n"), body, framed=False) == frozenset()
