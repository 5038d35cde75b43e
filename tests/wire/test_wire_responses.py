"""Answers of upstreams: whose bytes are whose, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.wire.responses import Answer
from holdfast.wire.strict import BadMessage

BODY = b"The quick brown fox."


def head(*fields: bytes, line: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"\r\n".join((line, *fields, b"", b""))


def read(data: bytes, method: bytes = b"GET", *, step: int = 0, raw: bool = True):
    """Feed in steps; return (answer, what it gave out, how many bytes were its own)."""
    answer, out, taken = Answer(method, raw=lambda _: raw), [], 0
    for at in range(0, len(data), step or len(data) or 1):
        piece = data[at : at + step] if step else data
        n = answer.feed(piece, out)
        taken += n
        if n < len(piece):
            break
    return answer, b"".join(out), taken


CHUNKED = b"6\r\nThe qu\r\nE;x=y\r\nick brown fox.\r\n0\r\nSum: 1\r\n\r\n"
FRAMED = CHUNKED[: CHUNKED.index(b"0\r\nSum")]
SHAPES = {
    "length": (head(b"Content-Length: 20") + BODY, b"GET", BODY),
    "equal lengths": (head(b"Content-Length: 20, 20", b"content-length: 20") + BODY, b"GET", BODY),
    "nothing": (head(b"Content-Length: 0"), b"GET", b""),
    "chunked": (head(b"Transfer-Encoding: Chunked") + CHUNKED, b"GET", FRAMED),
    "head": (head(b"Content-Length: 20"), b"HEAD", b""),
    "head of a chunked one": (head(b"Transfer-Encoding: chunked"), b"HEAD", b""),
    "no content": (head(line=b"HTTP/1.1 204 No Content"), b"GET", b""),
    "not modified": (head(b"Content-Length: 20", line=b"HTTP/1.1 304 Not"), b"GET", b""),
    "interim": (
        head(line=b"HTTP/1.1 100 Continue")
        + head(b"Link: x", line=b"HTTP/1.1 103 Early Hints")
        + head(b"Content-Length: 20")
        + BODY,
        b"GET",
        BODY,
    ),
    "no reason": (head(b"Content-Length: 20", line=b"HTTP/1.1 200") + BODY, b"GET", BODY),
}


@pytest.mark.parametrize("name", SHAPES)
def test_an_answer_is_the_same_however_it_comes_and_takes_only_its_own(name):
    data, method, body = SHAPES[name]
    for step in range(len(data) + 1):
        answer, given, taken = read(data + b"HTTP/1.1 200 OK\r\n", method, step=step)
        assert answer.done
        assert given == body
        assert taken == len(data)
        assert answer.head.persists


@pytest.mark.parametrize("name", SHAPES)
def test_a_cut_anywhere_is_no_whole_answer(name):
    data, method, _ = SHAPES[name]
    for cut in range(len(data)):
        answer, _, _ = read(data[:cut], method)
        assert not answer.end(), cut
        assert answer.started is (cut > 0)


def test_content_is_given_without_framing_if_that_is_wanted():
    data = SHAPES["chunked"][0]
    for step in range(len(data)):
        assert read(data, step=step, raw=False)[1] == BODY


def test_a_body_without_framing_ends_with_the_connection():
    answer, given, _ = read(head(b"Server: old", line=b"HTTP/1.0 200 OK") + BODY)
    assert (given, answer.done, answer.head.persists) == (BODY, False, False)
    assert answer.end()


@pytest.mark.parametrize(
    ("line", "field", "persists"),
    [
        (b"HTTP/1.1 200 OK", b"Connection: close", False),
        (b"HTTP/1.1 200 OK", b"Connection: x, Close", False),
        (b"HTTP/1.0 200 OK", b"X: y", False),
        (b"HTTP/1.0 200 OK", b"Connection: keep-alive", True),
    ],
)
def test_whether_the_connection_can_be_used_again(line, field, persists):
    answer, _, _ = read(head(field, b"Content-Length: 20", line=line) + BODY)
    assert answer.head.persists is persists


def test_fields_are_as_they_were_sent():
    answer, _, _ = read(head(b"X-b:1 ", b"x-A: \t2", b"X-b: 3", b"E:", b"Content-Length: 0"))
    assert answer.head.fields[:4] == [(b"X-b", b"1"), (b"x-A", b"2"), (b"X-b", b"3"), (b"E", b"")]


@pytest.mark.parametrize(
    "data",
    {
        "length and coding": head(b"Content-Length: 3", b"Transfer-Encoding: chunked"),
        "lengths that differ": head(b"Content-Length: 3", b"Content-Length: 4"),
        "a list of them": head(b"Content-Length: 3, 4"),
        "a signed length": head(b"Content-Length: +3"),
        "an empty length": head(b"Content-Length:"),
        "a huge length": head(b"Content-Length: " + b"9" * 30),
        "another coding": head(b"Transfer-Encoding: gzip, chunked"),
        "identity": head(b"Transfer-Encoding: identity"),
        "chunked twice": head(b"Transfer-Encoding: chunked, chunked"),
        "a coding in 1.0": head(b"Transfer-Encoding: chunked", line=b"HTTP/1.0 200 OK"),
        "a switch": head(b"Upgrade: x", line=b"HTTP/1.1 101 Switching"),
        "too many interim": head(line=b"HTTP/1.1 100 C") * 17,
        "no status": head(line=b"HTTP/1.1 OK"),
        "a status of two digits": head(line=b"HTTP/1.1 20 OK"),
        "HTTP/2": head(line=b"HTTP/2 200"),
        "not HTTP": b"SSH-2.0-OpenSSH\r\n\r\n",
        "a folded line": head(b"A: b", b" c"),
        "a space before a colon": head(b"A : b"),
        "no colon": head(b"A"),
        "a bare LF": b"HTTP/1.1 200 OK\r\nA: b\nC: d\r\n\r\n",
        "a bare CR": b"HTTP/1.1 200 OK\r\nA: b\rC: d\r\n\r\n",
        "a NUL": head(b"A: \x00"),
        "a head without end": b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000,
        "a long head": head(b"A: " + b"b" * 70_000),
        "a bad chunk": head(b"Transfer-Encoding: chunked") + b"x\r\n",
        "a chunk too long": head(b"Transfer-Encoding: chunked") + b"2\r\nabc\r\n",
    }.values(),
)
def test_it_is_refused(data):
    for step in (0, 1):
        with pytest.raises(BadMessage):
            read(data, step=step)


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",  # an alert of TLS
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\n",
        b"HTTP/2 200\r\n",
        b"\r\nHTTP/1.1 200 OK\r\n",
        b"<html>",
    ],
)
def test_what_can_become_no_head_is_refused_before_it_ends(data):
    for step in (0, 1):
        with pytest.raises(BadMessage):
            read(data, step=step)


@settings(max_examples=500, deadline=None)
@given(data=st.binary(max_size=60), name=st.sampled_from(sorted(SHAPES)), step=st.integers(0, 9))
def test_whatever_follows_an_answer_never_becomes_part_of_it(data, name, step):
    whole, method, body = SHAPES[name]
    answer, given, taken = read(whole + data, method, step=step)
    assert (given, taken, answer.done) == (body, len(whole), True)
