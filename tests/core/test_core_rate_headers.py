"""What servers say about their rate limits: read exactly, bounded, and never with an error."""

from __future__ import annotations

import timeit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.rate_headers import (
    NO_LIMITS,
    ServerLimits,
    mentions_limits,
    parse_reset,
    read_limits,
)
from holdfast.core.retry_after import CAP

NOW = 1_763_798_400.0  # 2025-11-22T08:00:00Z

READ = [
    # The IETF draft, from -08 on.
    ({"RateLimit": '"default";r=50;t=30'}, (0, 0.6, 30)),
    ({"RateLimit": '"default";r=0;t=30'}, (30, 0, 0)),
    ({"RateLimit-Policy": '"default";q=100;w=60'}, (0, 0.6, 60)),
    ({"RateLimit-Policy": '"a";q=10;w=10', "RateLimit": '"a";r=4;t=7'}, (0, 1, 7)),
    ({"RateLimit": '"a";r=0;t=5, "b";r=0;t=9, "c";r=3;t=100'}, (9, 0, 0)),
    ({"RateLimit": '"x;r=9;t=9,y";r=0;t=5;pk=:YQ==:'}, (5, 0, 0)),  # quotes hide , ; =
    ({"RateLimit-Policy": '"b";q=9;w=1;qu="content-bytes"', "RateLimit": '"b";r=0;t=3'}, (3, 0, 0)),
    ({"RateLimit-Policy": '"b";q=9;w=9;qu="content-bytes"', "RateLimit": '"b";r=5;t=3'}, (0, 0, 0)),
    ([("RateLimit", '"a";r=0;t=5'), ("ratelimit", '"b";r=0;t=6')], (6, 0, 0)),  # two lines
    # Draft -07.
    ({"RateLimit": "limit=100, remaining=50, reset=30"}, (0, 0.6, 30)),
    ({"RateLimit": "limit=100, remaining=0, reset=30"}, (30, 0, 0)),
    # Drafts -00 to -06.
    ({"RateLimit-Limit": "10", "RateLimit-Remaining": "5", "RateLimit-Reset": "10"}, (0, 2, 10)),
    ({"RateLimit-Limit": "10", "RateLimit-Remaining": "0", "RateLimit-Reset": "8"}, (8, 0, 0)),
    ({"RateLimit-Limit": "10, 10;w=20", "RateLimit-Reset": "8"}, (0, 2, 8)),
    (
        {
            "RateLimit-Limit": "100",
            "RateLimit-Remaining": "50",
            "RateLimit-Reset": "30",
            "RateLimit-Policy": "100;w=60, 1000;w=3600",
        },
        (0, 0.6, 30),
    ),
    # Habit.
    ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "20"}, (20, 0, 0)),
    ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": f"{NOW + 20:.0f}"}, (20, 0, 0)),
    ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": f"{NOW * 1000 + 1500:.0f}"}, (1.5, 0, 0)),
    ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": f"{NOW - 20:.0f}"}, (0, 0, 0)),
    ({"X-Rate-Limit-Remaining": "0", "X-Rate-Limit-Reset": f"{NOW + 9:.0f}"}, (9, 0, 0)),
    ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset-After": "1.25"}, (1.25, 0, 0)),
    ({"X-RateLimit-Limit-Minute": "60", "X-RateLimit-Remaining-Minute": "7"}, (0, 1, 60)),
    ({"X-RateLimit-Remaining-Second": "0"}, (1, 0, 0)),
    ({b"x-ratelimit-remaining": b"0", b"x-ratelimit-reset": b"20"}, (20, 0, 0)),
    # Providers.
    ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1s"}, (1, 0, 0)),
    ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, (360, 0, 0)),
    ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "350ms"}, (0.35, 0, 0)),
    ({"x-ratelimit-remaining-tokens": "9", "x-ratelimit-reset-tokens": "6s"}, (0, 0, 0)),
    (
        {
            "anthropic-ratelimit-requests-limit": "50",
            "anthropic-ratelimit-requests-remaining": "0",
            "anthropic-ratelimit-requests-reset": "2025-11-22T08:00:12Z",
        },
        (12, 0, 0),
    ),
    (
        {
            "anthropic-ratelimit-input-tokens-remaining": "0",
            "anthropic-ratelimit-input-tokens-reset": "2025-11-22T10:00:30+02:00",
        },
        (30, 0, 0),
    ),
    # Retry-After has the last word.
    ({"Retry-After": "7"}, (7, 0, 0)),
    ({"Retry-After": "7", "RateLimit": '"a";r=0;t=3600'}, (7, 0, 0)),
    ({"Retry-After": "nonsense", "RateLimit": '"a";r=0;t=36'}, (36, 0, 0)),
    # A long window is not spread, but for its last tenth.
    ({"RateLimit-Policy": '"d";q=1000;w=86400', "RateLimit": '"d";r=900;t=80000'}, (0, 0, 0)),
    ({"RateLimit-Policy": '"h";q=1000;w=3600', "RateLimit": '"h";r=50;t=600'}, (0, 12, 600)),
    ({"RateLimit": '"d";r=900;t=80000'}, (0, 0, 0)),
    # Hostile.
    ({"RateLimit": '"a";r=0;t=999999999999999999999999'}, (0, 0, 0)),  # a date, far beyond any
    ({"RateLimit": '"a";r=0;t=99999999'}, (CAP, 0, 0)),
    ({"Retry-After": "99999999999"}, (CAP, 0, 0)),
    ({"RateLimit-Policy": '"a";q=0.001;w=60'}, (0, CAP, 60)),
    ({"RateLimit-Policy": '"a";q=0;w=60'}, (60, 0, 0)),
    ({"RateLimit-Policy": f'"a";q={"9" * 400};w=60'}, (0, 0, 60)),
    # Nothing, or nothing that can be understood.
    ({}, (0, 0, 0)),
    ({"Content-Type": "text/plain", "Date": "x"}, (0, 0, 0)),
    ({"RateLimit": ""}, (0, 0, 0)),
    ({"RateLimit": '"a";r=-1;t=5'}, (0, 0, 0)),
    ({"RateLimit": '"a";r=0'}, (0, 0, 0)),
    ({"X-RateLimit-Remaining": "none", "X-RateLimit-Reset": "soon"}, (0, 0, 0)),
    ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "nan"}, (0, 0, 0)),
]


@pytest.mark.parametrize(("headers", "expected"), READ)
def test_headers_are_read(headers, expected):
    assert read_limits(headers, now_wall=NOW) == pytest.approx(ServerLimits(*expected))


@pytest.mark.parametrize("headers", [headers for headers, expected in READ if any(expected)])
def test_the_quick_look_misses_nothing(headers):
    assert mentions_limits(headers)


def test_a_time_is_read_against_the_date_of_the_answer():
    headers = {
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": f"{NOW + 20:.0f}",
        "Date": "Sat, 22 Nov 2025 08:00:05 GMT",
    }
    assert read_limits(headers, now_wall=NOW + 1e6).wait == 15
    assert read_limits(headers, now_wall=None).wait == 15
    del headers["Date"]
    assert read_limits(headers, now_wall=None).wait == 0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30), (" 1.5 ", 1.5), ("0", 0), ("1h2m3.5s", 3723.5), ("1d", 21600), ("20ms", 0.02),
        ("15us", 15e-6), ("2025-11-22T08:01:00.250Z", 60), ("2025-11-22 08:01:00Z", 60),
        ("2025-11-22T03:31:00-04:30", 60), ("Sat, 22 Nov 2025 08:01:00 GMT", 60),
        ("2025-11-22T07:00:00Z", 0), (b"5", 5),
        ("", None), ("-1", None), ("1e3", None), ("inf", None), ("5 s", None), ("s5", None),
        ("6m0", None), ("2025-02-30T00:00:00Z", None), ("2025-11-22T08:01:00", None),
        ("2025-11-22T25:01:00Z", None), ("\u0661s", None), ("2025-11-22T08:01:00+0x:00", None),
    ],
)  # fmt: skip
def test_a_reset_is_read_in_all_its_forms(text, seconds):
    assert parse_reset(text, now_wall=NOW) == (None if seconds is None else pytest.approx(seconds))


NAMES = st.sampled_from(
    [
        "RateLimit", "RateLimit-Policy", "RateLimit-Limit", "RateLimit-Remaining",
        "RateLimit-Reset", "X-RateLimit-Reset", "X-RateLimit-Remaining", "X-RateLimit-Limit",
        "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests", "X-RateLimit-Reset-After",
        "anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset", "Retry-After",
        "retry-after-ms", "Date", "x-ratelimit-limit-minute",
    ]
)  # fmt: skip
GRAMMAR = st.text(alphabet='0123456789.;,="rtqwu\\:-+TZms dlimt', max_size=60)
VALUES = st.one_of(st.text(max_size=80), st.binary(max_size=80), GRAMMAR, st.none(), st.integers())


@given(
    st.lists(st.tuples(st.one_of(NAMES, st.text(), st.binary()), VALUES), max_size=12),
    st.one_of(st.none(), st.floats()),
)
def test_whatever_arrives_gives_bounded_numbers(pairs, wall):
    for headers in (pairs, dict(pairs)):
        mentions_limits(headers)
        for number in read_limits(headers, now_wall=wall):
            assert isinstance(number, (int, float))
            assert 0 <= number <= CAP


@pytest.mark.parametrize("headers", [None, 5, "text", b"bytes", [1, 2], [("a",)], object()])
def test_what_is_no_headers_at_all_says_nothing(headers):
    assert read_limits(headers, now_wall=NOW) == NO_LIMITS
    mentions_limits(headers)


def test_a_value_of_any_length_is_read_in_bounded_time():
    for piece in ('"a";r=0;t=5,', '"', "\\", '"\\', "1h", ";", "="):
        headers = {"RateLimit": piece * 1_000_000, "X-RateLimit-Reset": piece * 1_000_000}
        took = timeit.repeat(lambda h=headers: read_limits(h, now_wall=NOW), number=1, repeat=5)
        assert min(took) < 2  # some 3 ms; reading all of it would take ten seconds
