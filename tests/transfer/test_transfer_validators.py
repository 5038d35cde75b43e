"""Validators: what an answer says of its object, and what a resume may rely on."""

from __future__ import annotations

import pytest

from holdfast.transfer.validators import (
    OVERLAP_BYTES,
    ContentRange,
    Match,
    Rung,
    Validators,
    conditions,
    overlap_start,
    parse_content_range,
    validators_of,
)
from holdfast.wire.http1 import Framing, Head

DATE = "Tue, 14 Nov 2023 22:13:20 GMT"
LATER = "Tue, 14 Nov 2023 22:13:21 GMT"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes 0-9/100", ContentRange(0, 9, 100)),
        ("bytes 5-9/*", ContentRange(5, 9, None)),
        ("Bytes */100", ContentRange(None, None, 100)),
        (None, None),
        ("", None),
        ("bytes 9-5/100", None),
        ("bytes 0-100/100", None),
        ("bytes 0-9", None),
        ("bytes -9/100", None),
        ("items 0-9/100", None),
        ("bytes 0-9/100, bytes 20-29/100", None),
        ("bytes 0-" + "9" * 30 + "/*", None),
    ],
)
def test_content_range_is_read_or_ignored(text: str | None, expected: ContentRange | None) -> None:
    assert parse_content_range(text) == expected


@pytest.mark.parametrize(
    ("sent", "read", "strong"),
    [
        ('"abc"', '"abc"', True),
        ('W/"abc"', 'W/"abc"', False),
        ("abc", 'W/"abc"', False),
        ('"a b"', "", False),
        ('"a"b"', "", False),
        ("", "", False),
    ],
)
def test_only_a_well_formed_etag_is_strong(sent: str, read: str, *, strong: bool) -> None:
    seen = validators_of(Head(200, {"etag": sent}))
    assert seen.etag == read
    assert seen.has_strong_etag == strong


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        (Validators('"a"', DATE, 9), Validators('"a"', LATER, 9), Match.STRONG),
        (Validators('"a"', DATE, 9), Validators('"b"', DATE, 9), Match.DIFFERENT),
        (Validators('"a"', DATE, 9), Validators('"a"', DATE, 8), Match.DIFFERENT),
        (Validators('"a"', DATE, 9), Validators('W/"a"', DATE, 9), Match.WEAK),
        (Validators('W/"a"', DATE, 9), Validators('W/"b"', DATE, 9), Match.DIFFERENT),
        (Validators("", DATE, 9), Validators("", DATE, 9), Match.WEAK),
        (Validators("", DATE, 9), Validators("", LATER, 9), Match.DIFFERENT),
        (Validators('"a"', "", 9), Validators("", DATE, 9), Match.UNKNOWN),
        (Validators(size=9), Validators(size=9), Match.UNKNOWN),
        (Validators(size=9), Validators(size=10), Match.DIFFERENT),
        (Validators(), Validators(size=10), Match.UNKNOWN),
    ],
)
def test_two_answers_are_compared(old: Validators, new: Validators, match: Match) -> None:
    assert old.compare(new) is match


def test_the_best_rung_is_what_the_validators_carry() -> None:
    dated = Validators("", DATE, 9, dated=True)
    assert Validators('"a"', DATE, 9).rung() is Rung.IF_MATCH
    assert dated.rung() is Rung.DATE
    assert Validators("", DATE, 9, dated=False).rung() is Rung.OVERLAP
    assert Validators('W/"a"', size=9).rung() is Rung.OVERLAP
    assert Validators('"a"', coding="gzip").rung() is Rung.RESTART


def test_a_limit_steps_down_and_passes_over_what_is_not_there() -> None:
    etag_only = Validators('"a"', size=9)
    assert etag_only.rung(Rung.IF_RANGE) is Rung.IF_RANGE
    assert etag_only.rung(Rung.DATE) is Rung.OVERLAP
    assert etag_only.rung(Rung.RESTART) is Rung.RESTART
    assert Validators('"a"', DATE, dated=True).rung(Rung.DATE) is Rung.DATE


def test_the_ladder_ends_at_restart() -> None:
    rungs = [Rung.IF_MATCH]
    while rungs[-1].below is not rungs[-1]:
        rungs.append(rungs[-1].below)
    assert rungs == list(Rung)


def test_a_date_is_strong_only_if_no_second_change_can_hide_in_it() -> None:
    def dated(modified: str, date: str) -> bool:
        return validators_of(Head(200, {"last-modified": modified, "date": date})).dated

    assert dated(DATE, LATER)
    assert not dated(DATE, DATE)
    assert not dated(DATE, "rubbish")
    assert not validators_of(Head(200, {"last-modified": DATE})).dated


def test_the_size_of_the_whole_comes_from_where_the_status_puts_it() -> None:
    def size(status: int, given: str, length: int) -> int | None:
        headers = {"content-range": given} if given else {}
        return validators_of(Head(status, headers, Framing.LENGTH, length)).size

    assert size(200, "", 7) == 7
    assert size(206, "bytes 3-9/10", 7) == 10
    assert size(206, "", 7) is None
    assert size(200, "bytes 3-9/10", 7) == 10
    assert size(416, "bytes */10", 99) == 10


def test_each_rung_sends_its_condition() -> None:
    pinned = Validators('"a"', DATE, 1 << 20, dated=True)
    at = 1 << 19
    assert conditions(pinned, Rung.IF_MATCH, at) == {"Range": f"bytes={at}-", "If-Match": '"a"'}
    assert conditions(pinned, Rung.IF_RANGE, at) == {"Range": f"bytes={at}-", "If-Range": '"a"'}
    assert conditions(pinned, Rung.DATE, at) == {"Range": f"bytes={at}-", "If-Range": DATE}
    assert conditions(pinned, Rung.OVERLAP, at) == {"Range": f"bytes={at - OVERLAP_BYTES}-"}
    assert conditions(pinned, Rung.RESTART, at) == {}
    assert conditions(pinned, Rung.IF_MATCH, 0) == {}


def test_an_overlap_that_is_the_whole_is_no_range() -> None:
    assert overlap_start(Rung.OVERLAP, OVERLAP_BYTES) == 0
    assert conditions(Validators(size=9), Rung.OVERLAP, OVERLAP_BYTES) == {}
