"""Chunked bodies in pieces of any size, as content, as views, and with their framing."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.wire.strict import MAX_TRAILERS, BadMessage, Chunks, check_trailer, chunk_size

FRAMED = b"5\r\nhello\r\n6;x=y\r\n world\r\n"
WHOLE = FRAMED + b"0\r\nTrailer: z\r\n\r\nNEXT"


def read(pieces, *, raw=False):
    """Feed pieces until the body is over; return (content, bytes that were its own)."""
    chunks, out, taken = Chunks(raw=raw), [], 0
    for piece in pieces:
        if not chunks.done:
            taken += chunks.feed(piece, out)
    assert chunks.done
    return b"".join(map(bytes, out)), taken


def cut(places):
    return [WHOLE[a:b] for a, b in itertools.pairwise([0, *sorted(places), len(WHOLE)])]


PLACES = st.lists(st.integers(0, len(WHOLE)), max_size=6)
ENDS = len(WHOLE) - len(b"NEXT")


@given(PLACES)
def test_the_pieces_do_not_matter(places):
    assert read(cut(places)) == (b"hello world", ENDS)


@given(PLACES)
def test_views_are_taken_like_bytes(places):
    assert read([memoryview(piece) for piece in cut(places)]) == (b"hello world", ENDS)


@given(PLACES)
def test_the_framing_can_be_kept_but_for_the_end(places):
    assert read(cut(places), raw=True) == (FRAMED, ENDS)


@pytest.mark.parametrize("size", range(1, 8))
def test_small_steps_give_the_same(size):
    pieces = [WHOLE[at : at + size] for at in range(0, len(WHOLE), size)]
    assert read(pieces)[0] == b"hello world"


def test_content_of_a_view_is_not_copied():
    buffer = bytearray(b"5\r\nhello\r\n")
    out = []
    Chunks().feed(memoryview(buffer), out)
    buffer[3:8] = b"HELLO"
    assert bytes(out[0]) == b"HELLO"


def test_framing_that_comes_whole_is_given_out_in_one_piece():
    chunks, out = Chunks(raw=True), []
    chunks.feed(FRAMED, out)
    assert out == [FRAMED]
    chunks.feed(b"1\r", out)
    assert out == [FRAMED]
    chunks.feed(b"\na\r\n0\r\n\r\n", out)
    assert out == [FRAMED, b"1\r", b"\na\r\n"]


def test_a_line_is_given_out_whole_or_not_at_all():
    chunks, out = Chunks(raw=True), []
    chunks.feed(b"1\r\na\r\n5;x", out)
    assert b"".join(out) == b"1\r\na\r\n"
    with pytest.raises(BadMessage):
        chunks.feed(b" y\r\n", out)
    assert b"".join(out) == b"1\r\na\r\n"


@pytest.mark.parametrize(
    "data",
    [
        b"zz\r\n",
        b"5\r\nhellooo\r\n",
        b"\r\n",
        b"-1\r\n",
        b"1" * 5000,
        b"1;" + b"x" * 5000 + b"\r\n",
        b"0\r\n" + b"X: " + b"y" * 70_000 + b"\r\n\r\n",
        b"0\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        b"5\nhello\n0\n\n",
        b"5 \r\nhello\r\n",
        b"5\r\nhello\r\n0\r\n\n",
    ],
)
@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_what_is_no_chunk_is_refused(data, kind):
    with pytest.raises(BadMessage):
        Chunks().feed(kind(data), [])


@pytest.mark.parametrize("extra", [0, 1])
def test_trailers_may_have_so_many_bytes(extra):
    end = b"\r\n"
    trailers = b"X: " + b"y" * (MAX_TRAILERS - 3 - 2 - len(end) + extra) + b"\r\n" + end
    chunks = Chunks()
    if extra:
        with pytest.raises(BadMessage, match="too long"):
            chunks.feed(b"0\r\n" + trailers, [])
    else:
        chunks.feed(b"0\r\n" + trailers, [])
        assert chunks.done


@pytest.mark.parametrize("extra", [0, 1])
def test_an_extension_may_have_a_kibibyte(extra):
    line = b"f" * 15 + b";" + b"x" * (1024 + extra) + b"\r\n"
    if extra:
        with pytest.raises(BadMessage, match="too long"):
            Chunks().feed(line, [])
    else:
        Chunks().feed(line, [])


def test_what_came_before_the_rubbish_is_kept():
    chunks, out = Chunks(), []
    with pytest.raises(BadMessage):
        chunks.feed(b"5\r\nhello\r\nzz\r\n", out)
    assert out == [b"hello"]
    assert not chunks.done


def test_a_line_alone_is_read_by_the_same_rules():
    assert chunk_size(b'1F;a="b c"\r\n') == 31
    assert check_trailer(b"A: b\r\n") is False
    assert check_trailer(b"\r\n") is True
    for read_line, line in ((chunk_size, b"1F\n"), (chunk_size, b"\r\n"), (check_trailer, b"\n")):
        with pytest.raises(BadMessage):
            read_line(line)
