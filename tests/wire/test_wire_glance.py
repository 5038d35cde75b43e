"""What is seen at a glance is what the reader of answers reads; all else is left to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.gateway.headers import response_head
from holdfast.wire.glance import KNOWN_MOST, Glance
from holdfast.wire.onward import HOP
from holdfast.wire.responses import READ, Answer
from holdfast.wire.strict import BadMessage

START = b"HTTP/1.1 200 OK\r\n"


def whole(*fields: bytes, body: bytes = b"fine", start: bytes = START, size: int = -1) -> bytes:
    length = b"Content-Length: %d" % (len(body) if size < 0 else size)
    return start + b"".join(field + b"\r\n" for field in (*fields, length)) + b"\r\n" + body


def test_a_whole_answer_is_seen_with_the_lines_that_go_on():
    data = whole(b"Server: x", b"connection: Keep-Alive", b"Content-Type: application/json")
    seen = Glance().look(data)
    assert seen is not None
    assert seen.status == 200
    assert b"".join(seen.lines) == START + b"Server: x\r\nContent-Type: application/json\r\n"
    assert data[seen.at :] == b"fine"
    assert seen.is_json


@pytest.mark.parametrize(
    "data",
    [
        whole(size=3),
        whole(size=5),
        whole()[:-1],
        whole()[:20],
        b"",
        whole(b"Content-Length: 4"),
        whole(b"Content-Length: +4"),
        whole(b"content-length: 4, 4"),
        whole(b"Transfer-Encoding: chunked"),
        whole(b"Connection: close"),
        whole(b"Connection: keep-alive, x-more"),
        whole(b"Via: 1.1 other"),
        whole(b"Content-Type: text/event-stream"),
        whole(b"Content-Type: application/x-ndjson; charset=utf-8"),
        whole(b"X-Accel-Buffering: no"),
        whole(b"Bad Name: 1"),
        whole(b" folded: 1"),
        whole(b"A: x\ny"),
        whole(b"A: x\ry"),
        whole(b"A: \x00"),
        whole(b"no colon"),
        whole(start=b"HTTP/1.0 200 OK\r\n"),
        whole(start=b"HTTP/1.1 404 Not Found\r\n"),
        whole(start=b"HTTP/1.1 204 No Content\r\n", body=b""),
        whole(start=b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"),
        whole(start=b"HTTP/2.0 200 OK\r\n"),
        START + b"\r\nbody to the end",
        whole() + whole(),
    ],
)
def test_anything_else_is_left_to_the_reader(data: bytes):
    glance = Glance()
    assert glance.look(data) is None
    assert glance.look(data) is None  # and what was remembered of it changes nothing


FIELDS = st.sampled_from(
    [
        b"Server: upstream",
        b"server:upstream  ",
        b"Date: Thu, 01 Jan 2026 00:00:00 GMT",
        b"X-Long: " + b"x" * 700,
        b"Keep-Alive: timeout=5",
        b"Proxy-Authenticate: x",
        b"under_score: x",
        b"Set-Cookie: a=1",
        b"Set-Cookie: b=2",
        b"Content-Type: application/json; charset=utf-8",
        b"Content-Type: text/plain",
        b"Content-Encoding: gzip",
        b"Connection: keep-alive",
        b"Empty:",
        b"Content-Length: 4",
        b"Transfer-Encoding: chunked",
        b"Bad Name: x",
        b"Trailer: x",
    ]
)


@given(
    st.lists(FIELDS, max_size=8),
    st.sampled_from([START, b"HTTP/1.1 201\r\n", b"HTTP/1.1 299 Odd \xe9\r\n"]),
    st.binary(max_size=20),
)
def test_what_is_seen_is_what_the_reader_reads(fields: list[bytes], start: bytes, body: bytes):
    data = whole(*fields, start=start, body=body)
    seen = GLANCE.look(data)
    if seen is None:
        return
    answer, out = Answer(b"POST"), []
    assert answer.feed(data, out) == len(data)
    head = answer.head
    assert head is not None
    assert answer.done
    assert head.persists
    assert b"".join(out) == data[seen.at :] == body
    made = response_head(head, length=len(body))
    assert b"".join(seen.lines) + b"Content-Length: %d\r\n\r\n" % len(body) == made
    assert seen.is_json == (head.media_type == b"application/json")


GLANCE = Glance()
"""One for all examples, so that lines recur in it."""


# -- names of fields ---------------------------------------------------------------------------

VIA = b"Via: 1.1 gw\r\n"
SPECIAL = sorted(HOP | READ | {b"via"})
OTHERS = [
    b"Server", b"Set-Cookie", b"Date", b"x-request-id", b"Proxy-Authenticate", b"Proxy", b"proxy-",
    b"under_score", b"_", b"keep_alive", b"Content_Length", b"Connections", b"x-te", b"Trailers",
]  # fmt: skip
VALUES = [b"x", b"", b"4", b"no", b"close", b"keep-alive", b"chunked", b"text/plain", b"1.1 other"]


def cased(name: bytes) -> st.SearchStrategy[bytes]:
    """Draw a name in one of its cases."""
    masks = st.lists(st.booleans(), min_size=len(name), max_size=len(name))
    return masks.map(
        lambda mask: b"".join(
            bytes([one]).upper() if up else bytes([one]).lower()
            for one, up in zip(name, mask, strict=True)
        )
    )


NAMES = st.one_of(
    st.sampled_from(SPECIAL + OTHERS).flatmap(cased),
    st.from_regex(rb"(?i)\A(?:proxy-|x-|te|via|_)?[!#$%&'*+.^_`|~0-9a-z-]{1,8}\Z"),
)


def both_ways(name: bytes, value: bytes) -> bool:
    """Say whether a field is seen at a glance; if so, it goes on as it does the long way."""
    data = whole(name + b": " + value)
    seen = Glance().look(data)
    if seen is None:
        return False
    answer, out = Answer(b"POST"), []
    answer.feed(data, out)
    assert answer.head is not None
    made = response_head(answer.head, length=4, via=b"gw")
    assert b"".join([*seen.lines, VIA, b"Content-Length: 4\r\n\r\n"]) == made
    return True


@given(NAMES, st.sampled_from(VALUES))
def test_every_name_goes_on_or_not_both_ways_alike(name: bytes, value: bytes):
    # Only what is read, dropped or written anew may be left to the long way.
    assert both_ways(name, value) or name.lower() in SPECIAL


@pytest.mark.parametrize("name", SPECIAL + OTHERS)
@pytest.mark.parametrize("value", VALUES)
def test_each_special_name_is_the_same_in_all_cases(name: bytes, value: bytes):
    ways = {both_ways(one, value) for one in (name.lower(), name.upper(), name.title())}
    assert len(ways) == 1
    assert ways == {True} or name in SPECIAL


@given(st.lists(FIELDS, max_size=8), st.binary(max_size=12), st.integers(0, 200))
def test_what_the_reader_refuses_is_not_seen(fields: list[bytes], junk: bytes, at: int):
    data = whole(*fields)
    data = data[:at] + junk + data[at:]
    try:
        answer, out = Answer(b"POST"), []
        ok = answer.feed(data, out) == len(data) and answer.done
    except BadMessage:
        ok = False
    if not ok:
        assert GLANCE.look(data) is None


def test_what_is_remembered_is_bounded():
    glance = Glance()
    for number in range(3 * KNOWN_MOST):
        seen = glance.look(whole(b"Request-Id: %d" % number))
        assert seen is not None
        assert seen.lines[1] == b"Request-Id: %d\r\n" % number
    assert glance.known <= KNOWN_MOST
