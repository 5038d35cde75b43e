from __future__ import annotations

import pytest

from holdfast.gateway.headers import Client, is_loop, request_head, response_head, route
from holdfast.wire.requests import parse_head
from holdfast.wire.responses import parse_head as parse_response

PLAIN = route(host="api.test", headers={}, credentials=True)


def asked(*fields: str, line: str = "GET /x?beta=true HTTP/1.1") -> bytes:
    return "\r\n".join((line, "Host: gateway", *fields, "", "")).encode()


def passed(data: bytes, to=PLAIN, client=Client(), **options) -> list[str]:  # noqa: B008 - immutable
    options.setdefault("length", 0)
    made = request_head(parse_head(data), to, client, **options)
    assert made.endswith(b"\r\n\r\n")
    parse_head(made)  # what we send is what we would take
    return made.decode("latin-1").split("\r\n")[:-2]


def answered(*fields: str, line: str = "HTTP/1.1 200 OK", **options) -> list[str]:
    data = "\r\n".join((line, *fields, "", "")).encode("latin-1")
    made = response_head(parse_response(data, b"GET"), **options)
    assert made.endswith(b"\r\n\r\n")
    parse_response(made, b"GET")
    return made.decode("latin-1").split("\r\n")[:-2]


def test_path_query_case_order_and_duplicates_are_kept():
    found = passed(asked("X-b: 1", "accept-ENCODING: gzip", "X-b: 2"))
    assert found == [
        "GET /x?beta=true HTTP/1.1",
        "Host: api.test",
        "X-b: 1",
        "accept-ENCODING: gzip",
        "X-b: 2",
    ]


@pytest.mark.parametrize(
    "field",
    [
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "Proxy-Authorization: Basic eA==",
        "TE: trailers",
        "Trailer: X",
        "Upgrade: h2c",
        "X_Forwarded_For: 1.2.3.4",
        "Expect: 100-continue",
        "X-Forwarded-For: 1.2.3.4",
        "X-Forwarded-Proto: https",
        "Forwarded: for=1.2.3.4",
        "X-Request-Timeout-Ms: 100",
    ],
)
def test_what_is_of_this_connection_only_goes_no_further(field):
    assert passed(asked(field)) == ["GET /x?beta=true HTTP/1.1", "Host: api.test"]


def test_a_field_that_connection_names_goes_no_further():
    found = passed(asked("Connection: close, X-Secret", "x-secret: 1", "Other: 2"))
    assert found[2:] == ["Other: 2"]


@pytest.mark.parametrize("name", ["Host", "Content-Length", "Transfer-Encoding"])
def test_connection_cannot_take_away_the_framing_or_the_host(name):
    line = "POST /x HTTP/1.1"
    found = passed(asked(f"Connection: {name}", "Content-Length: 3", line=line), length=3)
    assert found[1:] == ["Host: api.test", "Content-Length: 3"]


@pytest.mark.parametrize("name", ["Authorization", "X-Api-Key", "API-Key"])
def test_the_clients_credentials_give_way_to_the_endpoints_key(name):
    to = route(host="a", key=("x-api-key", "sk-1"), headers={}, credentials=False)
    assert passed(asked(f"{name}: theirs"), to)[1:] == ["Host: a", "x-api-key: sk-1"]


def test_credentials_go_along_only_if_that_is_wished():
    assert "Authorization: x" in passed(asked("Authorization: x"))
    dropping = route(host="a", headers={}, credentials=False)
    assert passed(asked("Authorization: x"), dropping)[1:] == ["Host: a"]


def test_configured_fields_replace_the_clients():
    to = route(host="a", headers={"Anthropic-Version": "2"}, credentials=True)
    assert passed(asked("anthropic-version: 1"), to)[1:] == ["Host: a", "Anthropic-Version: 2"]


def test_the_base_path_goes_before_the_target():
    to = route(host="a", base="/openai/", headers={}, credentials=True)
    assert passed(asked(), to)[0] == "GET /openai/x?beta=true HTTP/1.1"


def test_a_trusted_proxy_is_believed():
    found = passed(asked("X-Forwarded-For: 1.2.3.4"), client=Client(trusted=True))
    assert "X-Forwarded-For: 1.2.3.4" in found


def test_the_endpoint_is_told_of_the_client_if_that_is_wished():
    found = passed(
        asked("X-Forwarded-For: 9.9.9.9"), client=Client(told=b"X-Forwarded-For: 1.1.1.1\r\n")
    )
    assert found[2:] == ["X-Forwarded-For: 1.1.1.1"]


@pytest.mark.parametrize(
    ("line", "length", "last"),
    [
        ("GET / HTTP/1.1", 0, None),
        ("POST / HTTP/1.1", 0, "Content-Length: 0"),
        ("GET / HTTP/1.1", 5, "Content-Length: 5"),
        ("POST / HTTP/1.1", None, "Transfer-Encoding: chunked"),
    ],
)
def test_the_framing_is_ours(line, length, last):
    found = passed(asked(line=line), length=length)
    assert found[-1] == (last or "Host: api.test")


def test_via_is_added_and_finds_loops():
    found = passed(asked("Via: 1.0 fred"), via=b"holdfast-1a2b")
    assert found[-1] == "Via: 1.0 fred, 1.1 holdfast-1a2b"
    assert is_loop(parse_head(asked("Via: 1.1 a, 1.1 holdfast-1a2b")), b"holdfast-1a2b")
    assert not is_loop(parse_head(asked("Via: 1.1 a")), b"holdfast-1a2b")


def test_without_a_via_of_ours_the_clients_is_kept():
    assert passed(asked("Via: 1.0 fred"))[2:] == ["Via: 1.0 fred"]


def test_a_stream_is_asked_for_without_coding():
    found = passed(asked("Accept-Encoding: gzip"), identity=True)
    assert found[2:] == ["Accept-Encoding: identity"]


def test_an_answer_keeps_its_status_fields_and_cookies():
    found = answered("Set-Cookie: a", "X: 1", "set-cookie: b", "Content-Length: 3", length=3)
    assert found == [
        "HTTP/1.1 200 OK",
        "Set-Cookie: a",
        "X: 1",
        "set-cookie: b",
        "Content-Length: 3",
    ]


def test_an_answer_loses_what_was_of_its_connection():
    found = answered(
        "Connection: X-Hop", "X-Hop: 1", "Keep-Alive: timeout=5", "Transfer-Encoding: chunked",
        "Proxy-Authenticate: Basic", "Trailer: Sum", chunked=True,
    )  # fmt: skip
    assert found == ["HTTP/1.1 200 OK", "Transfer-Encoding: chunked"]


def test_an_answer_says_what_is_ours():
    found = answered(
        "Via: 1.1 a", "Via: 1.0 b", via=b"hf", added=b"x-holdfast-request: 7\r\n", close=True
    )
    assert found[1:] == ["Via: 1.1 a, 1.0 b, 1.1 hf", "x-holdfast-request: 7", "Connection: close"]


def test_an_unknown_reason_is_kept_as_it_is():
    assert (
        answered(line="HTTP/1.1 529 Sit\xe9 Overloaded", length=0)[0]
        == "HTTP/1.1 529 Sit\xe9 Overloaded"
    )
