"""Redaction: secrets go, everything else stays, in bounded time, twice gives the same."""

from __future__ import annotations

import base64
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import holdfast as hf
from holdfast.wire.urls import parse

redact = hf.telemetry.redact

KEY = "CANARY-q7Zx-4410-value"
"""A secret of no known shape."""

HEADERS = [
    "Authorization", "Proxy-Authorization", "Cookie", "Set-Cookie", "X-Api-Key", "api-key",
    "x-goog-api-key", "X-Amz-Security-Token", "x-auth-token", "X-Hub-Signature-256",
    "X-Amz-Server-Side-Encryption-Customer-Key", "Ocp-Apim-Subscription-Key", "X-CSRF-Token",
    "Holdfast-Signature",
]  # fmt: skip

PARAMETERS = [
    "X-Amz-Signature", "X-Amz-Credential", "X-Amz-Security-Token", "sig", "token", "key",
    "api_key", "apikey", "access_token", "refresh_token", "signature", "password",
    "client_secret", "AWSAccessKeyId", "X-Goog-Signature", "x%2Damz%2Dsignature", "Key-Pair-Id",
]  # fmt: skip

HARMLESS = [
    "3 attempts in 4.2 s; no attempts left",
    "the circuit of `api` for `api.example.org` is open: come back in 5 s",
    "the token bucket is empty, the secret is out, a basic question",
    "max_tokens=100 budget_tokens: 40, key=api.example.org",
    "GET https://api.example.org:8443/v1/models?limit=20&page_token=abc&versionId=7#part HTTP/1.1",
    'WWW-Authenticate: Bearer realm="api", error="invalid_token"',
    "Bearer authentication required",
    "task-0123456789abcdef0123 risk-adjusted-returns-2024 desk-top-0000000000000000",
    "user@example.org wrote to holdfast@example.org",
    "content-type: application/json; charset=utf-8",
    '{"model": "m-1", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}',
    '["password", "email", "name"]',
    "password=None, secret=True, token=",
    "sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "5c6ffbdd-40d9-4bd6-91ab-1e9b3a6f0f1c",
    "",
]


@pytest.mark.parametrize("line", HARMLESS)
def test_harmless_text_stays_as_it_is(line):
    assert redact.text(line) == line
    assert redact.visible(line) == line


@pytest.mark.parametrize("name", HEADERS)
def test_the_value_of_a_header_that_authorises_is_masked(name):
    assert redact.headers({name: KEY}) == [(name, "***")]
    assert redact.headers([(name.lower().encode(), KEY.encode())]) == [(name.lower(), "***")]
    lines = [
        f"{name}: Scheme {KEY}, more={KEY}" if name in HEADERS[:4] else f"{name}: {KEY}",
        f"> {name.lower()}:{KEY}",
        repr({"accept": "a/b", name: KEY}),
        repr({name.encode(): KEY.encode()}),
        repr([(name, KEY), ("accept", "a/b")]),
        f'{{"{name}": "{KEY}"}}',
        f'{{\\"{name}\\": \\"{KEY}\\"}}',
        repr(f"GET / HTTP/1.1\r\n{name}: {KEY}\r\nHost: h\r\n"),
    ]
    for line in lines:
        shown = redact.text(line)
        assert KEY not in shown, line
        assert "***" in shown
        assert name.lower() in shown.lower()


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (
            f"map[Authorization:[Bearer {KEY}] Accept:[a/b]]",
            "map[Authorization:[***] Accept:[a/b]]",
        ),
        (f'{{"cookie": ["a={KEY}", "b={KEY}"], "n": 1}}', '{"cookie": [***], "n": 1}'),
        (f"get(url, auth=('user', '{KEY}'), timeout=3)", "get(url, auth=(***), timeout=3)"),
        (f"--header=authorization:({KEY}", "--header=authorization:(***"),
        ("cookies=[], auth=()", "cookies=[], auth=()"),
    ],
)
def test_a_list_of_values_is_masked_as_a_whole(line, shown):
    assert redact.text(line) == shown
    assert redact.text(shown) == shown


def test_other_headers_stay_and_their_urls_lose_secrets():
    given_pairs = [("Accept", "a/b"), ("Location", f"https://u:{KEY}@h/p?sig={KEY}&v=1")]
    assert redact.headers(given_pairs) == [
        ("Accept", "a/b"),
        ("Location", "https://***@h/p?sig=***&v=1"),
    ]


def test_repeated_headers_keep_their_number_and_order():
    pairs = [("Set-Cookie", "a=1"), ("X", "1"), ("Set-Cookie", "b=2")]
    assert redact.headers(pairs) == [("Set-Cookie", "***"), ("X", "1"), ("Set-Cookie", "***")]


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_value_of_a_parameter_that_signs_is_masked(name):
    address = f"https://h.example/p?a=1&{name}={KEY}&b=2"
    shown = f"https://h.example/p?a=1&{name}=***&b=2"
    assert redact.url(address) == shown
    assert redact.text(f"cannot read {address} (reset)") == f"cannot read {shown} (reset)"
    assert redact.text(f"GET /p?{name}={KEY} HTTP/1.1") == f"GET /p?{name}=*** HTTP/1.1"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (f"https://user:{KEY}@h/p", "https://***@h/p"),
        (f"https://{KEY}@h", "https://***@h"),
        (f"https://us er:{KEY}@h/p", "https://***@h/p"),
        (f"//user:{KEY}@h/p", "//***@h/p"),
        (f"user:{KEY}@h:3128", "***@h:3128"),
        (f"postgresql+psycopg://u:p^s|{KEY}@h/db", "postgresql+psycopg://***@h/db"),
        (f"https://h/#access_token={KEY}&x=1", "https://h/#access_token=***&x=1"),
        (f"http://127.0.0.1:8765/#t={KEY}", "http://127.0.0.1:8765/#t=***"),
        ("https://h/watch?t=42", "https://h/watch?t=42"),
        (f"https://h/r?next=https://u:{KEY}@i/", "https://h/r?next=https://***@i/"),
        (
            f"https://h/r?next=https%3A%2F%2Fu%3A{KEY}%40i%2F%3Ftoken%3D{KEY}%26x%3D1",
            "https://h/r?next=https%3A%2F%2F***%40i%2F%3Ftoken%3D***%26x%3D1",
        ),
        ("https://h/a@b/c", "https://h/a@b/c"),
        ("s3://bucket/key", "s3://bucket/key"),
        ("https://[::1]:80/?X-Amz-Date=1", "https://[::1]:80/?X-Amz-Date=1"),
        ("http://[broken", "http://[broken"),
    ],
)
def test_an_address_keeps_its_form(address, shown):
    assert redact.url(address) == shown
    assert redact.url(shown) == shown


@pytest.mark.parametrize("name", PARAMETERS)
def test_what_wire_calls_signed_is_never_shown_in_full(name):
    address = parse(f"https://h.example/p?{name}={KEY}")
    assert KEY not in redact.url(address.full())


@pytest.mark.parametrize(
    "secret",
    [
        "sk-" + "a1B2" * 8,
        "sk-ant-api03-" + "a1B2" * 8,
        "sk_live_" + "a1B2" * 6,
        "AKIAIOSFODNN7EXAMPLE",
        "ASIAIOSFODNN7EXAMPLE",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
        "ghp_" + "a1B2" * 9,
        "github_pat_" + "a1B2" * 9,
        "glpat-" + "a1B2" * 5,
        "hf_" + "a1B2" * 8,
        "AIza" + "a1B2c" * 7,
        "xoxb-1234567890-abcdef",
        "Bearer " + "a1B2" * 5,
        "Basic " + base64.b64encode(b"user:hunter2").decode(),
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAK\n-----END RSA PRIVATE KEY-----",
    ],
)
@pytest.mark.parametrize("around", ["{}", "invalid key: {}", "({})", "a={},", "%3D{}", '"{}"'])
def test_known_shapes_are_masked_anywhere(secret, around):
    shown = redact.text(around.format(secret))
    assert secret.removeprefix("Bearer ").removeprefix("Basic ") not in shown
    assert "MIIEow" not in shown
    assert "***" in shown


def test_a_body_loses_what_stands_under_secret_names():
    body = {
        "model": "m",
        "apiKey": KEY,
        "auth": {"user": "u", "password": KEY},
        "nested": [{"client_secret": KEY, "n": 1, "ok": True}, (KEY and "text", None)],
        "token": None,
        "has_cookie": False,
        "pin": 1234,
        "url": f"https://h/?sig={KEY}",
        b"access_token": KEY,
    }
    assert redact.data(body) == {
        "model": "m",
        "apiKey": "***",
        "auth": "***",
        "nested": [{"client_secret": "***", "n": 1, "ok": True}, ("text", None)],
        "token": None,
        "has_cookie": False,
        "pin": "***",
        "url": "https://h/?sig=***",
        "access_token": "***",
    }


def test_deep_and_endless_bodies_end():
    circle: list[object] = []
    circle += [circle, circle]
    deep: object = "leaf"
    for _ in range(1000):
        deep = {"in": deep}
    began = time.perf_counter()
    assert "***" in repr(redact.data(circle))
    assert "leaf" not in repr(redact.data(deep))
    assert redact.data([0] * 20_000)[-1] == "***"
    assert time.perf_counter() - began < 2


class _Broken:
    def __str__(self):
        raise RuntimeError

    __repr__ = __str__


class _BrokenMapping(dict):
    def items(self):
        raise RuntimeError


@pytest.mark.parametrize(
    "value", [None, 5, b"\xff\x00", _Broken(), _BrokenMapping(), object, "\ud800", [_Broken()], {1}]
)
def test_nothing_is_too_strange(value):
    assert isinstance(redact.text(value), str)
    assert isinstance(redact.visible(value), str)
    assert isinstance(redact.url(value), str)
    assert isinstance(redact.headers(value), list)
    redact.data(value)


def test_an_error_is_one_line_with_its_notes():
    error = ValueError(f"bad answer from https://h/?sig={KEY}\nsecond line")
    error.add_note(f"asked with Authorization: Bearer {KEY}")
    shown = redact.error(error)
    assert KEY not in shown
    assert shown.startswith("ValueError: bad answer from https://h/?sig=***\\x0asecond line (asked")
    assert redact.error(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert redact.error(ValueError(_Broken())).startswith("ValueError")


def test_control_characters_are_written_out():
    assert redact.visible("a\r\n\x00\x1b[31m\x85\u2028\ud800z") == (
        "a\\x0d\\x0a\\x00\\x1b[31m\\x85\\u2028\\ud800z"
    )


# -- properties ----------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        *HEADERS, *PARAMETERS, *"=:;,&?#/@%\"'\\()[]{}*+- \n\r\tabZ09", "://", "https://",
        "Bearer ", "Basic ", "token ", "***", "%3A%2F%2F", "%40", "%3D", "%3F", "%26", "sk-",
        "eyJ", ".",
        "AKIAIOSFODNN7EXAMPLE", "a1b2c3d4e5f6a7b8c9d0", "-----BEGIN PRIVATE KEY-----", "u:p@h",
        '\\"', "\\n", "None", "password", "b'",
    ]
)  # fmt: skip
NOISE = st.one_of(st.lists(PIECES, max_size=25).map("".join), st.text(max_size=40))


@given(NOISE)
@settings(max_examples=400, deadline=None)
def test_twice_is_once(noise):
    for function in (redact.text, redact.url, redact.visible):
        once = function(noise)
        assert function(once) == once
    pairs = redact.headers([("Location", noise), (noise, "x")])
    assert redact.headers(pairs) == pairs
    body = redact.data({"a": noise, noise: [noise, 1]})
    assert redact.data(body) == body


@given(NOISE, st.sampled_from(HEADERS[4:]), NOISE)
@settings(max_examples=200, deadline=None)
def test_a_secret_in_a_body_never_comes_out(before, name, after):
    shown = redact.data({"x": before, name: KEY, "y": [{name: [KEY, after]}]})
    assert KEY not in repr(shown)


LONG = [
    "a", "=", "://", "://a@", "?a=", "token", "token=", "eyJ", "eyJa.", "sk-", "sk-a1", "bearer ",
    "Basic a1b2c3d4", "-----BEGIN PRIVATE KEY-----", "%3A%2F%2F", "%3Ftoken%3D", "cookie:", "'",
    '"', "\\", '\\"', "cookie: a\\", "a:", "('cookie', 'b", "\n", " ", "&key=1", "%", "@", "(",
    "AKIA", "xoxb-", "password: '", "token : ", "a, 'b",
]  # fmt: skip


@pytest.mark.parametrize("piece", LONG)
def test_time_is_proportional_to_length(piece):
    def cost(size):
        noise = (piece * size)[:size]
        began = time.thread_time()
        redact.text(noise + "!")
        redact.url(noise + "!")
        return time.thread_time() - began

    cost(1000)
    # Ten times the length: a quadratic pattern would take a hundred times as long.
    short, long = min(cost(10_000) for _ in range(3)), min(cost(100_000) for _ in range(2))
    assert long < 30 * short + 0.05
