"""Preconditions and ranges, row by row (RFC 9110, sections 13 and 14)."""

from __future__ import annotations

import pytest

from holdfast.chaos.ranges import Selected, select

ETAG = '"abc"'
DATE = "Tue, 14 Nov 2023 23:13:20 GMT"
OTHER_DATE = "Tue, 14 Nov 2023 22:13:20 GMT"
WHOLE = Selected(200, 0, 1000)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("bytes=0-0", Selected(206, 0, 1)),
        ("bytes=0-999", Selected(206, 0, 1000)),
        ("bytes=10-19", Selected(206, 10, 20)),
        ("bytes=990-", Selected(206, 990, 1000)),
        ("bytes=990-5000", Selected(206, 990, 1000)),
        ("bytes=-10", Selected(206, 990, 1000)),
        ("bytes=-5000", Selected(206, 0, 1000)),
        ("bytes=1000-", Selected(416)),
        ("bytes=1000-1000", Selected(416)),
        ("bytes=-0", Selected(416)),
        ("bytes=20-10", WHOLE),
        ("bytes=-", WHOLE),
        ("bytes=0-1,5-6", WHOLE),
        ("bytes=a-b", WHOLE),
        ("lines=1-2", WHOLE),
    ],
)
def test_range(wanted: str, expected: Selected) -> None:
    assert select({"range": wanted}, 1000, etag=ETAG, modified=DATE) == expected


@pytest.mark.parametrize(
    ("if_range", "etag", "partial"),
    [
        (ETAG, ETAG, True),
        ('"old"', ETAG, False),
        (DATE, ETAG, True),
        (OTHER_DATE, ETAG, False),
        ('W/"abc"', 'W/"abc"', False),
        ('"abc"', 'W/"abc"', False),
        ("", ETAG, False),
    ],
)
def test_if_range_decides_between_part_and_whole(
    if_range: str, etag: str, *, partial: bool
) -> None:
    fields = {"range": "bytes=5-", "if-range": if_range}
    found = select(fields, 1000, etag=etag, modified=DATE)
    assert found == (Selected(206, 5, 1000) if partial else WHOLE)


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("if-match", ETAG, 200),
        ("if-match", '"x", "abc"', 200),
        ("if-match", "*", 200),
        ("if-match", '"x"', 412),
        ("if-match", 'W/"abc"', 412),
        ("if-unmodified-since", DATE, 200),
        ("if-unmodified-since", OTHER_DATE, 412),
        ("if-none-match", ETAG, 304),
        ("if-none-match", 'W/"abc"', 304),
        ("if-none-match", "*", 304),
        ("if-none-match", '"x"', 200),
        ("if-modified-since", DATE, 304),
        ("if-modified-since", OTHER_DATE, 200),
    ],
)
def test_preconditions(name: str, value: str, status: int) -> None:
    assert select({name: value}, 1000, etag=ETAG, modified=DATE).status == status


def test_if_match_goes_before_range_and_dates() -> None:
    fields = {"if-match": '"x"', "if-unmodified-since": DATE, "range": "bytes=0-1"}
    assert select(fields, 1000, etag=ETAG, modified=DATE) == Selected(412)


def test_without_validators_nothing_matches() -> None:
    fields = {"range": "bytes=5-", "if-range": DATE}
    assert select(fields, 1000, etag="", modified="") == WHOLE
    assert select({"if-match": ETAG}, 1000, etag="", modified="").status == 412


def test_ranges_can_be_switched_off() -> None:
    found = select({"range": "bytes=5-"}, 1000, etag=ETAG, modified=DATE, ranges=False)
    assert found == WHOLE


def test_empty_object() -> None:
    assert select({}, 0, etag=ETAG, modified=DATE) == Selected(200, 0, 0)
    assert select({"range": "bytes=0-"}, 0, etag=ETAG, modified=DATE) == Selected(416)
