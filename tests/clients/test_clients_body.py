"""A request body is sent again whole, or not at all."""

from __future__ import annotations

import asyncio
import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.clients.body import AsyncOnce, File, Once, is_seekable_file

PIECES = [b"one", b"", b"two", b"three"]


def broken(after: int):
    yield from PIECES[:after]
    raise OSError("the source broke")


async def aiterate(pieces):
    for piece in pieces:
        await asyncio.sleep(0)
        yield piece


def test_a_file_starts_again_where_it_stood_at_first():
    file = io.BytesIO(b"0123456789")
    file.seek(4)
    body = File(file)
    assert b"".join(body) == b"456789"
    assert b"".join(body) == b"456789"
    assert body.rewind().read() == b"456789"


def test_an_iterator_goes_out_once():
    body = Once(PIECES)
    assert body.replayable
    assert b"".join(body) == b"onetwothree"
    assert not body.replayable
    with pytest.raises(RuntimeError, match="cannot be sent again"):
        next(iter(body))


def test_an_iterator_that_nobody_asked_can_still_be_sent():
    body = Once(PIECES)
    iter(body)
    assert body.replayable
    assert b"".join(body) == b"onetwothree"


@given(st.lists(st.binary(max_size=8), max_size=8), st.integers(0, 64), st.integers(0, 8))
def test_with_a_buffer_a_second_sending_is_whole_or_refused(pieces, limit, read):
    body = Once(iter(pieces), limit)
    first = iter(body)
    for _ in range(min(read, len(pieces))):
        next(first)
    if body.replayable:
        assert b"".join(body) == b"".join(pieces)
        if sum(map(len, pieces)) <= limit:
            assert b"".join(body) == b"".join(pieces)
    else:
        assert sum(map(len, pieces[:read])) > limit


def test_a_source_that_broke_is_not_taken_for_one_that_ended():
    body = Once(broken(2), 1000)
    with pytest.raises(OSError, match="the source broke"):
        list(body)
    assert not body.replayable


def test_an_asynchronous_iterator_keeps_what_fits():
    async def run():
        body = AsyncOnce(aiterate(PIECES), 1000)
        first = [piece async for piece in body]
        again = [piece async for piece in body]
        return first, again, body.replayable

    first, again, replayable = asyncio.run(run())
    assert b"".join(first) == b"".join(again) == b"onetwothree"
    assert replayable


def test_a_cancelled_asynchronous_source_is_not_taken_for_one_that_ended():
    async def hang():
        yield b"one"
        await asyncio.Event().wait()

    async def run():
        body = AsyncOnce(hang(), 1000)

        async def read():
            return [piece async for piece in body]

        task = asyncio.create_task(read())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return body.replayable

    assert not asyncio.run(run())


def test_what_counts_as_a_seekable_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x")
    reader, writer = os.pipe()
    with path.open("rb") as file, os.fdopen(reader, "rb") as pipe, os.fdopen(writer, "wb"):
        assert is_seekable_file(file)
        assert not is_seekable_file(pipe)
    assert not is_seekable_file(file)  # closed
    assert not is_seekable_file([b"x"])
