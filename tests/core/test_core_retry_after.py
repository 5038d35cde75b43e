from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast.core.retry_after import (
    CAP,
    NO_HINT,
    ServerHint,
    combine,
    parse_http_date,
    parse_retry_after,
    read_hint,
)
from holdfast.core.verdict import Hint

NOW = 784_111_777.0  # Sun, 06 Nov 1994 08:49:37 GMT, the example of RFC 9110
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"

THE_19_SHAPES = [
    ("whole seconds", "120", 120),
    ("zero", "0", 0),
    ("decimal fraction", "1.5", 1.5),
    ("spaces around", "  120\t", 120),
    ("eleven digits", "99999999999", CAP),
    ("IMF date", "Sun, 06 Nov 1994 08:50:07 GMT", 30),
    ("RFC 850 date", "Sunday, 06-Nov-94 08:50:07 GMT", 30),
    ("asctime date", "Sun Nov  6 08:50:07 1994", 30),
    ("numeric zone", "Sun, 06 Nov 1994 10:50:07 +0200", 30),
    ("past date", "Sun, 06 Nov 1994 08:49:36 GMT", 0),
    ("negative", "-5", None),
    ("unit text", "1m0s", None),
    ("digit outside ASCII", "\u0661\u0662", None),
    ("ISO 8601", "1994-11-06T08:50:07Z", None),
    ("date, comma, number", "Sun, 06 Nov 1994 08:50:07 GMT, 120", None),
    ("empty", "", None),
    ("NaN", "NaN", None),
    ("Infinity", "Infinity", None),
    ("overflowing exponent", "1e999", None),
]


@pytest.mark.parametrize(("value", "seconds"), [row[1:] for row in THE_19_SHAPES])
def test_the_19_shapes(value: str, seconds: float | None) -> None:
    assert parse_retry_after(value, now_wall=NOW) == seconds
    assert parse_retry_after(value, date=DATE, now_wall=1e9) == seconds
    assert read_hint({"Retry-After": value}, now_wall=NOW).retry_after == seconds


@pytest.mark.parametrize(
    "value", ["+5", "1e3", ".5", "5.", "1.2.3", "0x10", "1_0", "\u00b2", "5 s"]
)
def test_what_only_looks_like_a_number_is_ignored(value: str) -> None:
    assert parse_retry_after(value, now_wall=NOW) is None


@pytest.mark.parametrize("value", ["9" * 400, "9" * 100_000, "1" + "0" * 30 + ".5"])
def test_a_number_beyond_floats_is_the_cap(value: str) -> None:
    assert parse_retry_after(value) == CAP


def test_bytes_are_read_like_text() -> None:
    assert parse_retry_after(b" 7 ", now_wall=NOW) == 7
    assert parse_retry_after(b"Sun, 06 Nov 1994 08:50:07 GMT", date=DATE.encode()) == 30
    assert parse_retry_after(b"\xb2\xff", now_wall=NOW) is None


def test_a_wrong_local_clock_does_not_matter_when_the_response_has_a_date() -> None:
    later = "Sun, 06 Nov 1994 08:50:07 GMT"
    for wrong_by in (-86400.0, 86400.0):
        assert parse_retry_after(later, date=DATE, now_wall=NOW + wrong_by) == 30


def test_a_date_field_that_is_no_date_falls_back_to_the_wall_clock() -> None:
    assert parse_retry_after("Sun, 06 Nov 1994 08:50:07 GMT", date="today", now_wall=NOW) == 30


@pytest.mark.parametrize("now", [None, math.nan, math.inf, -math.inf])
def test_a_date_without_any_clock_is_ignored(now: float | None) -> None:
    assert parse_retry_after("Sun, 06 Nov 1994 08:50:07 GMT", now_wall=now) is None
    assert parse_retry_after("12", now_wall=now) == 12


@pytest.mark.parametrize("now", [1e12, -1e12, 1.7e308, -1.7e308])
def test_an_absurd_clock_breaks_nothing(now: float) -> None:
    assert parse_retry_after("Sunday, 06-Nov-94 08:50:07 GMT", now_wall=now) in (0, CAP)


def test_a_far_date_is_the_cap() -> None:
    assert parse_retry_after("Tue, 06 Nov 2035 08:50:07 GMT", now_wall=NOW) == CAP


@pytest.mark.parametrize(
    "value",
    [
        "Sun, 31 Nov 1994 08:49:37 GMT",
        "Sun, 29 Feb 1900 08:49:37 GMT",
        "Sun, 00 Nov 1994 08:49:37 GMT",
        "Sun, 06 Now 1994 08:49:37 GMT",
        "Sol, 06 Nov 1994 08:49:37 GMT",
        "Sun 06 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 24:49:37 GMT",
        "Sun, 06 Nov 1994 08:60:37 GMT",
        "Sun, 06 Nov 1994 08:49:61 GMT",
        "Sun, 06 Nov 1994 08:49 GMT",
        "Sun, 06 Nov 1994 08:49:37 PST",
        "Sun, 06 Nov 1994 08:49:37 +0260",
        "Sun, 06 Nov 1994 08:49:37 +02:00",
        "Sun, 06 Nov 1994 08:49:37 *0200",
        "Sun, 06 Nov 199 08:49:37 GMT",
        "Sun, 6th Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94-1 08:49:37 GMT",
        "Sunday, 06/Nov/94 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 GMT" + " " * 64 + "GMT",
        "Sun, 06 N\u00f6v 1994 08:49:37 GMT",
    ],
)
def test_what_is_no_date_is_ignored(value: str) -> None:
    assert parse_http_date(value, near=NOW) is None


@pytest.mark.parametrize(
    ("near", "year"),
    [(None, 2030), (NOW, 2030), (0.0, 1930), (1.9e9, 2030), (2.6e9, 2030), (3.0e9, 2030)],
)
def test_a_year_of_two_digits_is_the_one_near_now(near: float | None, year: int) -> None:
    seconds = parse_http_date("Sunday, 06-Jan-30 00:00:00 GMT", near=near)
    assert seconds == datetime(year, 1, 6, tzinfo=UTC).timestamp()


def test_a_leap_second_is_a_second() -> None:
    assert parse_http_date("Sat, 31 Dec 2016 23:59:60 GMT") == 1483228800


MOMENTS = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).map(  # noqa: DTZ001 - zoned next
    lambda moment: moment.replace(microsecond=0, tzinfo=UTC)
)


@given(MOMENTS)
@example(datetime(2000, 2, 29, 23, 59, 59, tzinfo=UTC))
@example(datetime(1900, 3, 1, tzinfo=UTC))
@example(datetime(1, 3, 1, tzinfo=UTC))
def test_every_moment_in_every_form_agrees_with_the_standard_library(moment: datetime) -> None:
    seconds = moment.timestamp()
    assert parse_http_date(format_datetime(moment, usegmt=True)) == seconds
    assert parse_http_date(
        f"{moment:%a %b} {moment.day:2d} {moment:%H:%M:%S} {moment.year:04d}"
    ) == (seconds)
    east = moment.astimezone(timezone(timedelta(hours=-9, minutes=-30)))
    if east.year == moment.year:
        assert parse_http_date(format_datetime(east)) == seconds


@given(st.datetimes(datetime(1972, 1, 1), datetime(2069, 12, 30)))  # noqa: DTZ001 - zoned below
def test_every_moment_in_rfc_850_form(moment: datetime) -> None:
    moment = moment.replace(microsecond=0, tzinfo=UTC)
    assert parse_http_date(f"{moment:%A, %d-%b-%y %H:%M:%S GMT}") == moment.timestamp()


ANYTHING = st.one_of(
    st.text(),
    st.binary(),
    st.text(alphabet="0123456789 .:,-+eEGMTSunNovinfa\u0661\u00b2", max_size=40),
    st.from_regex(r"[A-Z][a-z]{2,8}, ?\d\d[ -][A-Z][a-z]{2}[ -]\d{2,4} \d\d:\d\d:\d\d ?\S{0,5}"),
)
CLOCKS = st.none() | st.floats()


@given(ANYTHING, st.none() | ANYTHING, CLOCKS)
def test_no_field_raises_or_exceeds_the_cap(
    value: str | bytes, date: str | bytes | None, now: float | None
) -> None:
    seconds = parse_retry_after(value, date=date, now_wall=now)
    assert seconds is None or 0 <= seconds <= CAP


@given(
    st.dictionaries(
        st.sampled_from(
            ["Retry-After", "retry-after-ms", "x-amz-retry-after", "X-Should-Retry", "date"]
        )
        | st.text()
        | st.binary(),
        ANYTHING | st.none() | st.integers() | st.floats(),
    ),
    CLOCKS,
)
def test_no_headers_raise_or_exceed_the_cap(headers: dict[object, object], now: float) -> None:
    hint = read_hint(headers.items(), now_wall=now)
    assert hint == read_hint(headers, now_wall=now)  # type: ignore[arg-type] # mixed on purpose
    assert hint.retry_after is None or 0 <= hint.retry_after <= CAP


@pytest.mark.parametrize("headers", [None, {}, (), [("a",)], [1, 2], 5, "retry-after: 5"])
def test_what_is_no_headers_says_nothing(headers: object) -> None:
    assert read_hint(headers, now_wall=NOW) == NO_HINT  # type: ignore[arg-type] # on purpose


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After": "5"},
        {"retry-after": "5"},
        {"RETRY-AFTER": 5},
        {b"Retry-After": b"5"},
        [("content-length", "0"), ("Retry-After", "5"), ("Retry-After", "600")],
        [(b"retry-after", b"5")],
    ],
)
def test_headers_may_be_any_mapping_or_pairs(headers: dict[str, str]) -> None:
    assert read_hint(headers, now_wall=NOW) == ServerHint(5)


def test_the_responses_own_date_is_used() -> None:
    headers = {"Date": DATE, "Retry-After": "Sun, 06 Nov 1994 08:50:07 GMT"}
    assert read_hint(headers, now_wall=0.0).retry_after == 30
    assert read_hint(headers, now_wall=None).retry_after == 30


def test_milliseconds_win_over_seconds_if_they_are_valid() -> None:
    assert read_hint({"retry-after-ms": "250", "retry-after": "1"}, now_wall=NOW) == (
        ServerHint(0.25)
    )
    assert read_hint({"retry-after-ms": "soon", "retry-after": "1"}, now_wall=NOW) == ServerHint(1)
    assert read_hint({"retry-after-ms": "9" * 400}, now_wall=NOW) == ServerHint(CAP)


def test_the_aws_header_brings_its_own_rule() -> None:
    assert read_hint({"x-amz-retry-after": "1500"}, now_wall=NOW) == ServerHint(1.5, Hint.AWS)
    assert read_hint({"x-amz-retry-after": "invalid"}, now_wall=NOW) == NO_HINT


@pytest.mark.parametrize(
    ("value", "may"), [("false", False), (" False ", False), ("true", True), ("", True)]
)
def test_a_server_may_forbid_a_retry(value: str, may: bool) -> None:  # noqa: FBT001 - a table
    assert read_hint({"x-should-retry": value}, now_wall=NOW).may_retry is may


@pytest.mark.parametrize(
    ("backoff", "retry_after", "u", "wait"),
    [(1, None, 0.5, 1), (1, 10, 0, 10), (1, 10, 0.5, 10.5), (30, 10, 0.5, 30), (0, 0, 0.9, 0)],
)
def test_http_waits_at_least_the_hint(
    backoff: float, retry_after: float | None, u: float, wait: float
) -> None:
    assert combine(backoff, retry_after, u) == wait


@pytest.mark.parametrize(
    ("backoff", "retry_after", "wait"),
    [(0.05, 1.5, 1.5), (0.05, 0, 0.05), (0.05, 10, 5.05), (0.05, None, 0.05)],
)
def test_aws_waits_between_the_backoff_and_five_seconds_more(
    backoff: float, retry_after: float | None, wait: float
) -> None:
    assert combine(backoff, retry_after, 0.9, Hint.AWS) == wait


@given(st.floats(0, 20), st.none() | st.floats(), st.floats(0, 1), st.sampled_from(list(Hint)))
def test_a_hint_never_shortens_nor_outlasts_the_cap(
    backoff: float, retry_after: float | None, u: float, rule: Hint
) -> None:
    assert backoff <= combine(backoff, retry_after, u, rule) <= CAP
