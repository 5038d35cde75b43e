"""What to do with an answer: every row of the table, and the traps between them."""
# ruff: noqa: E501 - a table is read best with one case per line

from __future__ import annotations

import itertools

import pytest

from holdfast.transfer.answers import TABLE, Action, Question, judge
from holdfast.transfer.validators import Rung, Validators
from holdfast.wire.http1 import Framing, Head

DATE, LATER = "Tue, 14 Nov 2023 22:13:20 GMT", "Tue, 14 Nov 2023 22:13:21 GMT"
PINNED = Validators('"a"', DATE, 100, "application/x-netcdf", dated=True)
DATED = Validators("", DATE, 100, "application/x-netcdf", dated=True)
FRESH = Question()


def resumed(rung: Rung = Rung.IF_MATCH, pinned: Validators = PINNED, start: int = 40) -> Question:
    return Question(start, rung, pinned)


def answer(
    status: int,
    *,
    etag: str = '"a"',
    given: str = "",
    length: int | None = None,
    media: str = "application/x-netcdf",
    modified: str = DATE,
    **headers: str,
) -> Head:
    fields = {
        "etag": etag,
        "content-range": given,
        "content-type": media,
        "last-modified": modified,
    }
    fields |= headers
    framing = Framing.CHUNKED if length is None else Framing.LENGTH
    return Head(status, {k: v for k, v in fields.items() if v}, framing, length)


def linked(etag: str) -> Head:
    return Head(302, {"location": "/b", "x-linked-etag": etag})


VERSIONED = Validators('"a"', DATE, 100, "application/x-netcdf", dated=True, version="v1")
BY_VERSION = resumed(Rung.VERSION, VERSIONED)
OF_V1 = {"x-amz-version-id": "v1"}

CASES = [
    # row of the table, question, answer, action
    ("redirect", FRESH, answer(302, location="/b"), Action.REDIRECT),
    ("redirect", resumed(), answer(307, location="/b"), Action.REDIRECT),
    ("redirect to another version", resumed(), linked('"b"'), Action.CHANGED),
    ("redirect", resumed(), linked('"a"'), Action.REDIRECT),
    ("redirect", resumed(), linked("b"), Action.REDIRECT),
    ("redirect", Question(pinned=PINNED), linked('"b"'), Action.REDIRECT),  # it comes whole anyway
    # The ETag of the redirect is the object's; that of the node behind it says nothing.
    ("206 as asked", Question(40, Rung.IF_MATCH, PINNED, linked='"a"'), answer(206, etag='"x"', given="bytes 40-99/100", length=60), Action.APPEND),
    ("206, other version", Question(40, Rung.IF_MATCH, PINNED, linked='"b"'), answer(206, given="bytes 40-99/100", length=60), Action.CHANGED),
    ("206 as asked", BY_VERSION, answer(206, given="bytes 40-99/100", length=60, **OF_V1), Action.APPEND),
    ("206, other range or none, or unvouched", BY_VERSION, answer(206, given="bytes 40-99/100", length=60), Action.NEXT_RUNG),
    ("206, other range or none, or unvouched", BY_VERSION, answer(206, given="bytes 40-99/100", length=60, **{"x-amz-version-id": "v2"}), Action.NEXT_RUNG),
    ("the version is not given", BY_VERSION, answer(404, length=0), Action.NEXT_RUNG),
    ("the version is not given", BY_VERSION, answer(403, length=0), Action.NEXT_RUNG),
    ("any other status", BY_VERSION, answer(503, length=0), Action.FAIL),
    ("page instead of data", resumed(), answer(200, etag="", media="text/html; charset=x", length=9), Action.CAPTIVE),
    ("page instead of data", Question(size=100), answer(200, media="text/html", length=9), Action.CAPTIVE),
    ("page instead of data", Question(cross_site=True, data_suffix=True), answer(200, media="text/html"), Action.CAPTIVE),
    ("size is not the one asked for", Question(size=100), answer(200, length=99), Action.WRONG_SIZE),
    ("another node", Question(40, Rung.IF_MATCH, PINNED, nodes=True), answer(206, etag='"b"', given="bytes 40-99/100", length=60), Action.OTHER_NODE),
    ("another node", Question(40, Rung.IF_RANGE, PINNED, nodes=True), answer(200, etag='"b"', length=100), Action.OTHER_NODE),
    ("206, other version", Question(40, Rung.IF_MATCH, PINNED, nodes=True), answer(206, etag='"b"', modified=LATER, given="bytes 40-99/100", length=60), Action.CHANGED),
    ("206, other version", resumed(), answer(206, etag='"b"', given="bytes 40-99/100", length=60), Action.CHANGED),
    ("206, other version", resumed(), answer(206, given="bytes 40-89/90", length=50), Action.CHANGED),
    ("206, other version", resumed(Rung.DATE, DATED), answer(206, etag="", given="bytes 40-99/100", length=60, modified=LATER), Action.CHANGED),
    ("206 as asked", resumed(), answer(206, given="bytes 40-99/100", length=60), Action.APPEND),
    ("206 as asked", resumed(), answer(206, given="bytes 40-59/100", length=20), Action.APPEND),
    ("206 as asked", resumed(), answer(206, given="bytes 40-99/100"), Action.APPEND),
    ("206 as asked", resumed(Rung.DATE, DATED), answer(206, etag="", given="bytes 40-99/100", length=60), Action.APPEND),
    ("206 as asked", resumed(Rung.OVERLAP, Validators(size=100)), answer(206, etag="", modified="", given="bytes 40-99/100", length=60), Action.APPEND),
    ("206, other range or none, or unvouched", resumed(), answer(206, given="bytes 39-99/100", length=61), Action.NEXT_RUNG),
    ("206, other range or none, or unvouched", resumed(), answer(206, given="bytes 40-99/100", length=59), Action.NEXT_RUNG),
    ("206, other range or none, or unvouched", resumed(), answer(206, length=60), Action.NEXT_RUNG),
    ("206, other range or none, or unvouched", resumed(), answer(206, media="multipart/byteranges", length=60), Action.NEXT_RUNG),
    # The condition was an ETag, and the answer does not say that it is still that one.
    ("206, other range or none, or unvouched", resumed(), answer(206, etag="", given="bytes 40-99/100", length=60), Action.NEXT_RUNG),
    ("206, other range or none, or unvouched", resumed(), answer(206, etag='W/"a"', given="bytes 40-99/100", length=60), Action.NEXT_RUNG),
    ("200 with the range asked", resumed(), answer(200, given="bytes 40-99/100", length=60), Action.APPEND),
    ("200 with a range, other version", resumed(), answer(200, etag='"b"', given="bytes 40-99/100", length=60), Action.CHANGED),
    ("200 with another range", resumed(), answer(200, given="bytes 41-99/100", length=59), Action.NEXT_RUNG),
    ("200 with another range", resumed(), answer(200, given="bytes 40-99/100"), Action.NEXT_RUNG),
    ("200 with another range", FRESH, answer(200, given="bytes 40-99/100", length=60), Action.NEXT_RUNG),
    ("200, other version", resumed(), answer(200, etag='"b"', length=100), Action.NEW_VERSION),
    ("200, other version", resumed(), answer(200, length=101), Action.NEW_VERSION),
    ("200, whole, though If-Range held", resumed(Rung.IF_RANGE), answer(200, length=100), Action.NEXT_RUNG),
    ("200, whole, though If-Range held", resumed(Rung.DATE, DATED), answer(200, etag="", length=100), Action.NEXT_RUNG),
    ("200, whole", resumed(), answer(200, length=100), Action.FROM_ZERO),
    ("200, whole", resumed(Rung.OVERLAP, Validators(size=100)), answer(200, etag="", length=100), Action.FROM_ZERO),
    ("200, whole", FRESH, answer(200, length=100), Action.FROM_ZERO),
    ("200, whole", FRESH, answer(200, media="text/html"), Action.FROM_ZERO),
    ("200, whole", FRESH, answer(203, given="bytes 0-99/100", length=100), Action.FROM_ZERO),
    ("200, whole", Question(size=100, allow_html=True), answer(200, media="text/html", length=100), Action.FROM_ZERO),
    ("416, other version", resumed(), answer(416, given="bytes */40", length=0), Action.CHANGED),
    ("416, other version", resumed(), answer(416, etag='"b"', length=0), Action.CHANGED),
    ("416, size is what we have", resumed(pinned=Validators('"a"')), answer(416, given="bytes */40", length=0), Action.WHOLE),
    ("416, other size", resumed(pinned=Validators('"a"')), answer(416, given="bytes */39", length=0), Action.CHANGED),
    ("416 without a size", resumed(), answer(416, length=0), Action.RESTART),
    ("412 to a condition", resumed(), answer(412, length=0), Action.NEXT_RUNG),
    ("412, replaced since it was listed", Question(pinned=PINNED, listed=True), answer(412, length=0), Action.CHANGED),
    ("412 to none", resumed(Rung.OVERLAP), answer(412, length=0), Action.CHANGED),
    ("any other status", FRESH, answer(404, length=0), Action.FAIL),
    ("any other status", FRESH, answer(416, length=0), Action.FAIL),
    ("any other status", FRESH, answer(412, length=0), Action.FAIL),
    ("any other status", resumed(), answer(503, media="text/html", length=0), Action.FAIL),
    ("any other status", FRESH, answer(302), Action.FAIL),
    ("any other status", FRESH, answer(204, length=0), Action.FAIL),
]  # fmt: skip


@pytest.mark.parametrize(("row", "question", "head", "action"), CASES)
def test_the_row_decides(row: str, question: Question, head: Head, action: Action) -> None:
    decision = judge(question, head)
    assert (decision.row, decision.action) == (row, action)


def test_every_row_is_reached() -> None:
    assert {case[0] for case in CASES} == {row.name for row in TABLE}


def test_bytes_are_joined_only_to_what_was_asked_and_vouched_for() -> None:
    """Of all combinations, APPEND with an offset has the right start and no other version."""
    etags = ["", '"a"', '"b"', 'W/"a"']
    ranges = ["", "bytes 40-99/100", "bytes 39-99/100", "bytes 40-99/101", "bytes */100"]
    appended = 0
    for status, etag, given, length, rung, modified in itertools.product(
        [200, 203, 206, 416], etags, ranges, [None, 60, 61, 100], list(Rung), ["", DATE, LATER]
    ):
        head = answer(status, etag=etag, given=given, length=length, modified=modified)
        decision = judge(resumed(rung), head)
        if decision.action is Action.APPEND:
            appended += 1
            assert given == "bytes 40-99/100"
            assert length in {None, 60}
            assert etag != '"b"'
            assert rung not in {Rung.IF_MATCH, Rung.IF_RANGE} or etag == '"a"'
        if decision.action in {Action.FROM_ZERO, Action.NEW_VERSION}:
            assert status != 206
            assert not given or given.startswith("bytes 0-")
    assert appended > 10


def test_nothing_that_a_server_can_say_raises() -> None:
    odd = ["", "bytes", "bytes 1-0/0", "\xff", "bytes 0-0/" + "9" * 19]
    for status in range(200, 600):
        for value in odd:
            for question in (FRESH, resumed(), resumed(Rung.OVERLAP)):
                head = answer(status, given=value, etag=value, modified=value, date=value)
                assert judge(question, head).action in Action
