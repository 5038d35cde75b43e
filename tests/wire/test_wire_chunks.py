"""Chunked bodies in pieces of any size."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.wire.chunks import Chunks
from holdfast.wire.http1 import ProtocolError

WHOLE = b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nTrailer: z\r\n\r\nNEXT"


@given(st.lists(st.integers(0, len(WHOLE)), max_size=6))
def test_the_pieces_do_not_matter(cuts):
    chunks = Chunks()
    places = [0, *sorted(cuts), len(WHOLE)]
    left = 0
    for start, stop in itertools.pairwise(places):
        if not chunks.is_over:
            left = len(WHOLE) - stop + chunks.feed(memoryview(WHOLE)[start:stop])
    assert chunks.is_over
    assert bytes(chunks.body) == b"hello world"
    assert left == len(b"NEXT")


@pytest.mark.parametrize("size", range(1, 8))
def test_small_steps_give_the_same(size):
    chunks = Chunks()
    for at in range(0, len(WHOLE), size):
        if not chunks.is_over:
            chunks.feed(memoryview(WHOLE)[at : at + size])
    assert bytes(chunks.body) == b"hello world"


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
    ],
)
def test_what_is_no_chunk_is_refused(data):
    with pytest.raises(ProtocolError):
        Chunks().feed(memoryview(data))


def test_what_came_before_the_rubbish_is_kept():
    chunks = Chunks()
    with pytest.raises(ProtocolError):
        chunks.feed(memoryview(b"5\r\nhello\r\nzz\r\n"))
    assert bytes(chunks.body) == b"hello"
    assert not chunks.is_over
