"""Bodies that are read after the call: what the call hears of them, and what they become."""

from __future__ import annotations

import gc
import gzip
import io
import shutil
import time
import warnings
import zlib

import pytest
import requests
import urllib3
from clients_requests_rig import NOW, chunks, mounted
from clients_server import attempts_of, listening, serving

import holdfast as hf
from scripted import FIN, HOLE, RST, answer

CutOff, Damaged = (
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
)
TEXT = b"".join(b"line %d of a body\n" % n for n in range(20_000))
PACKED = gzip.compress(TEXT, mtime=0)
GZIP = "Content-Encoding: gzip"


def policy(*more: object, deadline: float = 20.0) -> hf.Policy:
    return hf.policy(hf.Deadline(deadline), hf.Bulkhead(5), *more)


def cut(data: bytes, size: int = 1000) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


BIG = answer(200, TEXT * 10)  # over `buffer`, so it is open when the call returns
SHAPES = {
    "length": answer(200, TEXT),
    "big": BIG,
    "chunked": chunks(*cut(TEXT)),
    "until the end": b"HTTP/1.1 200 OK\r\n\r\n" + TEXT,
    "gzip": answer(200, PACKED, GZIP),
    "gzip chunked": chunks(*cut(PACKED), fields=(GZIP,)),
    "gzip until the end": f"HTTP/1.1 200 OK\r\n{GZIP}\r\n\r\n".encode() + PACKED,
    "gzip twice": chunks(gzip.compress(PACKED), fields=("Content-Encoding: gzip, gzip",)),
    "two members": answer(200, gzip.compress(TEXT[:1000]) + gzip.compress(TEXT[1000:]), GZIP),
    "deflate": answer(200, zlib.compress(TEXT), "Content-Encoding: deflate"),
    "raw deflate": chunks(*cut(deflate(TEXT)), fields=("Content-Encoding: deflate",)),
}


def buffered(response) -> bytes:
    """Read through io's own classes; urllib3 wants to be told before."""
    response.raw.auto_close = False
    response.raw.decode_content = True
    return b"".join(io.BufferedReader(response.raw))


READERS = {
    "content": lambda r: r.content,
    "pieces": lambda r: b"".join(r.iter_content(777)),
    "as they come": lambda r: b"".join(r.iter_content(None)),
    "lines": lambda r: b"".join(line + b"\n" for line in r.iter_lines()),
    "raw stream": lambda r: b"".join(r.raw.stream(4096, decode_content=True)),
    "raw read": lambda r: r.raw.read(decode_content=True),
    "raw reads": lambda r: b"".join(iter(lambda: r.raw.read(5000, decode_content=True), b"")),
    "raw lines": lambda r: b"".join(r.raw),
    "buffered": buffered,
    "raw read1": lambda r: b"".join(iter(lambda: r.raw.read1(5000, decode_content=True), b"")),
}
if not hasattr(urllib3.HTTPResponse, "read1"):  # urllib3 2.0 and 2.1
    del READERS["raw read1"]


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_way_of_reading_gives_the_whole_body(shape, reader):
    raw = SHAPES[shape]
    expected = TEXT * 10 if shape == "big" else TEXT
    ends = [FIN] if "end" in shape else []
    held = policy()
    with (
        serving(lambda asked: [raw, *ends]) as server,
        mounted(held, server) as session,
        session.get(server.url, stream=True) as response,
    ):
        assert reader(response) == expected
        assert held.state()["active"] == 0  # without waiting for `close`


@pytest.mark.parametrize("shape", ["length", "gzip", "gzip chunked", "big"])
def test_a_file_object_can_be_copied_from(shape):
    with serving(lambda asked: [SHAPES[shape]]) as server, mounted(policy(), server) as session:
        for decode in (False, True):
            target = io.BytesIO()
            with session.get(server.url, stream=True) as response:
                response.raw.decode_content = decode
                shutil.copyfileobj(response.raw, target)
            expected = TEXT * 10 if shape == "big" else TEXT
            expected = expected if decode or "gzip" not in shape else PACKED
            assert target.getvalue() == expected


def test_pieces_come_when_they_arrive():
    def script(asked):
        return [chunks(b"first", end=False), 0.5, b"6\r\nsecond\r\n0\r\n\r\n"]

    with serving(script) as server, mounted(policy(), server) as session:
        began = time.monotonic()
        pieces = session.get(server.url, stream=True).iter_content(1 << 20)
        assert next(pieces) == b"first"
        assert time.monotonic() - began < 0.4
        assert list(pieces) == [b"second"]


def test_an_event_stream_is_open_even_if_it_is_short():
    events = answer(200, b"data: 1\n\n", "Content-Type: text/event-stream; charset=utf-8")
    held = policy()
    with (
        serving(lambda asked: [events]) as server,
        mounted(held, server) as session,
        session.get(server.url, stream=True) as response,
    ):
        assert held.state()["active"] == 1
        assert list(response.iter_lines()) == [b"data: 1", b""]


def test_connections_of_streams_that_were_read_are_used_again():
    with serving(lambda asked: [BIG]) as server, mounted(policy(), server) as session:
        for _ in range(5):
            assert len(session.get(server.url, stream=True).content) == len(TEXT) * 10
        assert server.connections == 1


def test_connections_of_discarded_answers_are_used_again():
    def script(asked):
        if asked.no < 3:
            return [chunks(b"busy").replace(b"200 OK", b"503 No")]
        return [answer(200, b"fine")]

    held = hf.policy(hf.Deadline(20), hf.Retry(3, backoff=NOW))
    with serving(script) as server, mounted(held, server) as session:
        assert session.get(server.url, stream=True).content == b"fine"
        assert server.connections == 1


def test_a_discarded_answer_that_goes_on_holds_nobody_up():
    endless = [chunks(b"busy", end=False).replace(b"200 OK", b"503 No"), HOLE]
    script = lambda asked: endless if asked.no == 1 else [answer(200, b"fine")]  # noqa: E731 - short
    held = hf.policy(hf.Deadline(20), hf.Retry(3, backoff=NOW))
    with serving(script) as server, mounted(held, server) as session:
        began = time.monotonic()
        assert session.get(server.url, stream=True).content == b"fine"
        assert time.monotonic() - began < 2
        assert server.connections == 2


# -- failures ----------------------------------------------------------------------------

CUTS = {
    "length": ([answer(200, b"x" * 9, length=2 << 20), FIN], CutOff),
    "reset": ([answer(200, b"x" * 9, length=2 << 20), 0.1, RST], CutOff),
    "chunked": ([chunks(b"abc", end=False), FIN], CutOff),
    "half a size": ([chunks(b"abc", end=False) + b"0", FIN], CutOff),
    "bad size": ([chunks(b"abc", end=False) + b"zz\r\n"], CutOff),
    "gzip": ([chunks(PACKED[:1000], fields=(GZIP,))], CutOff),
    "gzip until the end": ([f"HTTP/1.1 200 OK\r\n{GZIP}\r\n\r\n".encode() + PACKED[:999], FIN],
                           CutOff),
    "damaged": ([chunks(PACKED[:99] + b"\0" * 50 + PACKED[149:], fields=(GZIP,))],
                Damaged),
    "three codings": ([chunks(b"x", fields=(GZIP + ", gzip, gzip",))],
                      Damaged),
}  # fmt: skip


@pytest.mark.parametrize(("steps", "error"), CUTS.values(), ids=CUTS)
def test_a_body_that_breaks_is_an_error_of_requests_and_counts(steps, error):
    held = policy(hf.Breaker(consecutive=1))
    with (
        serving(lambda asked: steps) as server,
        mounted(held, server) as session,
        listening() as events,
    ):
        response = session.get(server.url, stream=True)
        with pytest.raises(error) as caught:
            response.content  # noqa: B018 - reading is the point
        assert held.state()["active"] == 0
        (attempt,) = attempts_of(events)
        kind = "permanent" if error is Damaged else "transient"
        assert (attempt.kind, str(attempt.sent)) == (kind, "yes")
        assert held.state()["circuit"] == ("closed" if error is Damaged else "open")
        assert isinstance(caught.value.args[0], urllib3.exceptions.HTTPError)


@pytest.mark.parametrize(("steps", "error"), CUTS.values(), ids=CUTS)
def test_read_inside_the_attempt_it_is_an_attempt(steps, error):
    """Damage stays what it is; a cut is worth another attempt."""
    held = hf.policy(hf.Deadline(20), hf.Retry(3, backoff=NOW))
    cut_off = error is CutOff
    with serving(lambda asked: steps) as server, mounted(held, server) as session:
        with pytest.raises(error) as caught:
            session.get(server.url)
        assert len(server.asked) == (3 if cut_off else 1)
        assert len(caught.value.__notes__) == 1


def test_a_gzip_body_whose_stated_length_ends_too_early_is_no_success():
    short = answer(200, PACKED[:-20], GZIP)
    with serving(lambda asked: [short]) as server, mounted(policy(), server) as session:
        with pytest.raises(CutOff):
            session.get(server.url)
        with pytest.raises(CutOff):
            session.get(server.url, stream=True).content  # noqa: B018 - reading is the point


def test_the_deadline_ends_a_body_that_ends_with_the_connection():
    """To its reader the shut down connection looks like the end of the body."""
    steps = [b"HTTP/1.1 200 OK\r\n\r\nsome", HOLE]
    with serving(lambda asked: steps) as server, mounted(policy(deadline=0.3), server) as session:
        for stream in (False, True):
            with pytest.raises(hf.DeadlineExceeded):
                session.get(server.url, stream=stream).content  # noqa: B018 - reading is the point


def test_a_limit_of_the_attempt_does_not_end_the_reading():
    steps = [chunks(b"ab", end=False), *[step for _ in range(4) for step in (0.2, b"1\r\nx\r\n")]]
    held = hf.policy(hf.Deadline(20), hf.Timeout(0.5))
    script = [*steps, b"0\r\n\r\n"]
    with serving(lambda asked: script) as server, mounted(held, server) as session:
        assert session.get(server.url, stream=True).content == b"abxxxx"


# -- closing -----------------------------------------------------------------------------


def test_closing_early_is_success_and_gives_the_permit_back():
    held = policy(hf.Breaker(consecutive=1))
    with serving(lambda asked: [BIG]) as server, mounted(held, server) as session:
        response = session.get(server.url, stream=True)
        assert next(response.iter_content(10)) == TEXT[:10]
        assert held.state()["active"] == 1
        response.close()
        assert held.state()["active"] == 0
        assert held.state()["circuit"] == "closed"
        assert server.quiet()


def test_a_reader_of_chunks_that_stops_gives_the_permit_back():
    held = policy()
    endless = [chunks(b"abc", end=False), HOLE]
    with serving(lambda asked: endless) as server, mounted(held, server) as session:
        pieces = session.get(server.url, stream=True).iter_content(10)
        assert next(pieces) == b"abc"
        pieces.close()
        assert held.state()["active"] == 0
        response = session.get(server.url, stream=True)
        pieces = response.iter_content(10)  # kept: closing alone must do
        assert next(pieces) == b"abc"
        response.close()
        assert held.state()["active"] == 0


def test_an_answer_that_nobody_closed_warns_and_gives_the_permit_back():
    held = policy()
    with serving(lambda asked: [BIG]) as server, mounted(held, server) as session:
        response = session.get(server.url + "/path?api_key=swordfish", stream=True)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del response
            gc.collect()
        assert [str(one.message) for one in caught if one.category is ResourceWarning] == [
            "a streamed answer was neither read to its end nor closed: /path?api_key=***"
        ]
        assert held.state()["active"] == 0
        assert server.quiet()


def test_answers_without_a_body_are_complete():
    for raw, method in (
        (b"HTTP/1.1 204 No Content\r\n\r\n", "GET"),
        (answer(304), "GET"),
        (answer(200, b"", length=5 << 20), "HEAD"),
        (answer(200), "GET"),
    ):
        held = policy()
        with serving(lambda asked, raw=raw: [raw]) as server, mounted(held, server) as session:
            response = session.request(method, server.url, stream=True)
            assert held.state()["active"] == 0
            assert response.content == b""
            session.request(method, server.url)
            assert server.connections == 1


# -- limits ------------------------------------------------------------------------------

ZEROS = gzip.compress(bytes(8 << 20))


@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_bomb_is_an_error_of_decoding(stream, framing):
    raw = answer(200, ZEROS, GZIP) if framing == "length" else chunks(ZEROS, fields=(GZIP,))
    with serving(lambda asked: [raw]) as server:
        with (
            mounted(policy(), server) as session,
            pytest.raises(Damaged, match="max_ratio"),
        ):
            session.get(server.url, stream=stream).content  # noqa: B018 - reading is the point
        with (
            mounted(policy(), max_ratio=2000, max_decoded=100_000) as session,
            pytest.raises(Damaged, match="max_decoded"),
        ):
            session.get(server.url, stream=stream).content  # noqa: B018 - reading is the point
        with mounted(policy(), max_ratio=2000) as session:
            assert len(session.get(server.url, stream=stream).content) == 8 << 20


def test_codings_of_urllib3_s_own_are_within_the_limits(monkeypatch):
    """As for brotli and zstd, which need not be installed for this."""

    class Doubling:
        has_unconsumed_tail = False

        def decompress(self, data, max_length=-1):
            return data * 300

        def flush(self):
            return b""

    monkeypatch.setattr(urllib3.response, "_get_decoder", lambda _: Doubling())
    known = [*urllib3.response.HTTPResponse.CONTENT_DECODERS, "br"]
    monkeypatch.setattr(urllib3.response.BaseHTTPResponse, "CONTENT_DECODERS", known)
    small, large = (answer(200, b"x" * n, "Content-Encoding: br") for n in (10, 10_000))
    script = lambda asked: [small if asked.no == 1 else large]  # noqa: E731 - short
    with serving(script) as server, mounted(policy(), server) as session:
        assert session.get(server.url).content == b"x" * 3000
        with pytest.raises(Damaged):
            session.get(server.url)
