"""Work that grows with the bytes, not with their square: counted, not timed."""

from __future__ import annotations

import pytest

from holdfast.wire import requests, responses
from holdfast.wire.requests import Heads
from holdfast.wire.responses import Answer
from holdfast.wire.strict import Chunks


class Work:
    """Counts the bytes that are looked at or moved."""

    def __init__(self):
        self.bytes = 0

    def buffer(self, kind):
        """Return a kind of buffer that counts what is done to it."""
        work = self

        class Counted(kind):
            def find(self, what, start=0, stop=None):
                found = super().find(what, start, len(self) if stop is None else stop)
                end = found + len(what) if found >= 0 else len(self) if stop is None else stop
                work.bytes += max(0, end - start)
                return found

            def __getitem__(self, key):
                found = super().__getitem__(key)
                work.bytes += len(found) if isinstance(key, slice) else 1
                return found

            def __delitem__(self, key):  # from the front, which moves nothing
                work.bytes += len(self) - (len(self) - key.stop)
                super().__delitem__(key)

        return Counted

    def pattern(self, pattern):
        """Return a pattern that counts how much it may have looked at."""
        work = self

        class Counted:
            def _count(self, found, data, start, stop):
                work.bytes += (found.end() if found else min(stop, len(data))) - start
                return found

            def search(self, data, start=0, stop=1 << 40):
                return self._count(pattern.search(data, start, stop), data, start, stop)

            def match(self, data, start=0, stop=1 << 40):
                found = pattern.match(data, start, stop)
                work.bytes += (found.end() - start) if found else 64
                return found

        return Counted()


@pytest.fixture
def work(monkeypatch):
    made = Work()
    for module, names in (
        (requests, ("_LINE", "_BEGINNING", "_LONG_TARGET", "_BARE")),
        (responses, ("_LINE", "_FIELD", "_BARE")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, made.pattern(getattr(module, name)))
    return made


HEADS = {
    "a long target": b"GET /" + b"a" * 16_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "a long field": b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"b" * 30_000 + b"\r\n\r\n",
    "many fields": b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 98 + b"\r\n",
    "a target, then fields": b"GET /"
    + b"a" * 16_000
    + b" HTTP/1.1\r\n"
    + b"A: b\r\n" * 90
    + b"\r\n",
}


@pytest.mark.parametrize("step", [1, 2, 100, 1 << 20])
@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_looked_at_a_few_times_however_it_comes(work, name, step):
    data = HEADS[name]
    heads, ahead = Heads(32 * 1024), work.buffer(bytearray)()
    found = None
    for at in range(0, len(data), step):
        ahead += data[at : at + step]
        found = heads.take(ahead)
    assert found == data
    # Two searches, the first line, bare ends, one copy; and some bytes anew with each piece.
    assert work.bytes <= 6 * len(data) + 80 * len(data) // step


def test_a_head_that_never_ends_is_given_up_at_its_limit(work):
    heads, ahead = Heads(32 * 1024), work.buffer(bytearray)(b"GET / HTTP/1.1\r\nA: ")
    with pytest.raises(requests.BadMessage):
        while True:
            ahead += b"a"
            heads.take(ahead)
    assert len(ahead) == 32 * 1024 + 1
    assert work.bytes <= 86 * len(ahead)


def test_pipelined_heads_are_each_looked_at_alone(work):
    one = b"GET / HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n"
    heads, ahead = Heads(32 * 1024), work.buffer(bytearray)(one * 6000)
    for _ in range(6000):
        assert heads.take(ahead) == one
    assert not ahead
    assert work.bytes <= 4 * 6000 * len(one)


CHUNKED = {
    "large": b"%x\r\n" % 100_000 + b"a" * 100_000 + b"\r\n0\r\n\r\n",
    "small": b"1\r\na\r\n" * 10_000 + b"0\r\n\r\n",
    "with extensions": b"1;a=%b\r\na\r\n" % (b"b" * 900) * 50 + b"0\r\n\r\n",
    "with trailers": b"0\r\n" + b"A: b\r\n" * 1300 + b"\r\n",
    "with a long trailer": b"0\r\nA: " + b"b" * 8000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("step", [1, 7, 1000, 1 << 20])
@pytest.mark.parametrize("name", CHUNKED)
def test_a_chunked_body_is_moved_a_few_times_however_it_comes(work, name, step, raw):
    data, counted = CHUNKED[name], work.buffer(bytes)
    chunks, out = Chunks(raw=raw), []
    for at in range(0, len(data), step):
        piece = counted(data[at : at + step])
        assert chunks.feed(piece, out) == len(piece)
    assert chunks.done
    # Content once; of a short line up to 64 bytes, of a long one twice what it has.
    lines = data.count(b"\r\n")
    assert work.bytes <= 4 * len(data) + 64 * lines
    assert sum(map(len, out)) <= len(data)


@pytest.mark.parametrize("step", [1, 100, 1 << 20])
def test_the_head_of_an_answer_is_looked_at_a_few_times(work, step):
    data = b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 5000 + b"Content-Length: 0\r\n\r\n"
    answer = Answer(b"GET")
    answer._head = work.buffer(bytearray)()
    for at in range(0, len(data), step):
        answer.feed(data[at : at + step], [])
    assert answer.done
    assert work.bytes <= 6 * len(data) + 20 * len(data) // step
