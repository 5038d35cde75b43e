"""Decompression in bounded pieces: every form, every cut, and bombs."""

from __future__ import annotations

import asyncio
import gzip
import pickle
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.clients.decoding import (
    PIECE,
    RATIO_FROM,
    DecodingFault,
    Limit,
    adecoded,
    decoded,
    decoder_for,
)

TEXT = b"".join(b"line %d of a text that is not too regular\n" % (i * i) for i in range(9000))
NO_RATIO = Limit(max_ratio=10_000)


def raw(data: bytes) -> bytes:
    engine = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return engine.compress(data) + engine.flush()


ENCODE = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress}
FORMS = [("gzip", gzip.compress), ("deflate", zlib.compress), ("deflate", raw)]
FORM_IDS = ["gzip", "zlib", "raw"]


def decode(coding: str, data: bytes, limit: Limit = NO_RATIO, *, step: int = 0) -> bytes:
    decoder = decoder_for(coding, limit=limit)
    assert decoder is not None
    step = step or max(len(data), 1)
    parts = [data[i : i + step] for i in range(0, len(data), step)]
    return b"".join(decoded(parts, decoder))


@pytest.mark.parametrize(("coding", "encode"), FORMS, ids=FORM_IDS)
@pytest.mark.parametrize("text", [b"", b"a", b"hello", TEXT], ids=["0", "1", "5", "long"])
def test_each_form_gives_its_text(coding, encode, text):
    assert decode(coding, encode(text)) == text


@pytest.mark.parametrize(
    ("value", "encodings"),
    [
        ("GZip", ["gzip"]),
        (" x-gzip ", ["gzip"]),
        ("identity, gzip", ["gzip"]),
        ("gzip,,", ["gzip"]),
        ("deflate, gzip", ["deflate", "gzip"]),
        ("gzip, gzip", ["gzip", "gzip"]),
    ],
)
def test_a_field_names_codings_in_the_order_in_which_they_were_applied(value, encodings):
    data = TEXT
    for name in encodings:
        data = ENCODE[name](data)
    assert decode(value, data) == TEXT


@pytest.mark.parametrize("value", ["", "identity", "br", "zstd", "gzip, br", "compress", "*", ","])
def test_what_is_not_ours_is_left_to_the_library(value):
    assert decoder_for(value) is None


def test_three_codings_are_refused():
    with pytest.raises(DecodingFault) as caught:
        decoder_for("gzip, gzip, gzip")
    assert caught.value.reason == "codings"


def test_all_members_of_a_gzip_body_are_given():
    members = [b"first,", b"", b"second,", TEXT]
    data = b"".join(map(gzip.compress, members))
    for step in (0, 1, 7):
        assert decode("gzip", data, step=step) == b"".join(members)


@pytest.mark.parametrize(
    "tail", [b"\0" * 100, b"\r\n", b"\0\0garbage", b"\x1fnot a member", b"\x8b\x1f"]
)
def test_what_follows_the_last_member_and_begins_none_is_ignored(tail):
    for step in (0, 1):
        assert decode("gzip", gzip.compress(TEXT) + tail, step=step) == TEXT


def test_padding_between_members_is_skipped():
    data = gzip.compress(b"a") + b"\0" * 512 + gzip.compress(b"b")
    for step in (0, 1):
        assert decode("gzip", data, step=step) == b"ab"


@pytest.mark.parametrize("encode", [zlib.compress, raw], ids=["zlib", "raw"])
def test_what_follows_a_deflate_stream_is_ignored(encode):
    for step in (0, 1):
        assert decode("deflate", encode(TEXT) + b"\r\nmore" + TEXT, step=step) == TEXT


@pytest.mark.parametrize(("coding", "encode"), FORMS, ids=FORM_IDS)
def test_a_cut_at_any_byte_is_a_fault(coding, encode):
    data = encode(b"hello, this is a text of some length " * 3)
    for cut in range(1, len(data)):
        for step in (0, 1):
            with pytest.raises(DecodingFault) as caught:
                decode(coding, data[:cut], step=step)
            assert caught.value.truncated, cut


def test_a_cut_anywhere_in_the_second_member_is_a_fault():
    first, second = gzip.compress(b"one"), gzip.compress(b"two")
    assert decode("gzip", first) == b"one"
    for cut in range(1, len(second)):
        with pytest.raises(DecodingFault) as caught:
            decode("gzip", first + second[:cut])
        assert caught.value.truncated, cut


def test_a_cut_in_the_inner_of_two_codings_is_a_fault():
    inner = gzip.compress(TEXT)
    with pytest.raises(DecodingFault) as caught:
        decode("gzip, gzip", gzip.compress(inner[:-1]))
    assert caught.value.truncated


def test_no_byte_at_all_is_a_body_only_if_the_answer_said_so():
    for value in ("gzip", "deflate", "gzip, gzip"):
        decoder = decoder_for(value)
        assert decoder is not None
        assert decoder.whole(b"") == b""
        decoder = decoder_for(value)
        assert decoder is not None
        with pytest.raises(DecodingFault) as caught:
            decoder.end(empty=False)
        assert caught.value.truncated


def test_nothing_inside_an_outer_coding_that_has_a_body_is_empty():
    assert decode("gzip, gzip", gzip.compress(b"")) == b""


@pytest.mark.parametrize(("coding", "encode"), FORMS[:2], ids=FORM_IDS[:2])
def test_a_flipped_bit_never_gives_another_text(coding, encode):
    text = b"a checksum covers all of these bytes"
    data = encode(text)
    for bit in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            assert decode(coding, bytes(damaged)) == text  # in the time stamp, for instance
        except DecodingFault as fault:
            assert fault.reason in {"corrupt", "truncated"}  # noqa: PT017 - some bits may be free


@pytest.mark.parametrize("data", [b"plain text", b"\x1f\x8b\x07 no such method"])
def test_what_is_no_gzip_is_corrupt(data):
    with pytest.raises(DecodingFault) as caught:
        decode("gzip", data)
    assert caught.value.reason == "corrupt"
    assert isinstance(caught.value.__cause__, zlib.error)


def test_a_zlib_stream_that_needs_a_dictionary_is_corrupt():
    engine = zlib.compressobj(zdict=b"hello")
    data = engine.compress(b"hello hello") + engine.flush()
    with pytest.raises(DecodingFault) as caught:
        decode("deflate", data)
    assert caught.value.reason == "corrupt"


PIECES = st.lists(st.binary(max_size=300) | st.just(b"\0" * 5000), max_size=5)
TAIL = st.sampled_from([b"", b"\0", b"\0\0\x1f", b"\x1f", b"\x1f\x8b", b"x", b"\x1f\x8b\x08\0"])


@given(PIECES, TAIL, st.sampled_from(["gzip", "deflate", "gzip, deflate"]), st.data())
def test_bytes_one_at_a_time_give_what_all_at_once_give(pieces, tail, value, data):
    """Chunking changes neither the text nor the fault."""
    body = b"".join(map(gzip.compress, pieces)) or b"\x1f"
    if value == "deflate":
        body = data.draw(st.sampled_from([zlib.compress, raw]))(b"".join(pieces))
    elif value == "gzip, deflate":
        body = zlib.compress(body)
    body += tail
    body = body[: data.draw(st.integers(0, len(body)), label="cut")]

    def outcome(step: int) -> tuple[bytes, str]:
        decoder = decoder_for(value, limit=NO_RATIO)
        assert decoder is not None
        got = bytearray()
        try:
            for i in range(0, len(body), step):
                for piece in decoder.feed(body[i : i + step]):
                    got += piece
            decoder.end()
        except DecodingFault as fault:
            return bytes(got), fault.reason
        return bytes(got), ""

    text, reason = outcome(max(len(body), 1))
    assert outcome(1) == (text, reason)
    assert outcome(data.draw(st.integers(1, 50), label="step")) == (text, reason)


def test_pieces_are_at_most_64_kib_however_much_comes_at_once():
    text = bytes(3 * PIECE) + TEXT + bytes(PIECE)
    for coding, encode in FORMS:
        decoder = decoder_for(coding, limit=NO_RATIO)
        assert decoder is not None
        pieces = list(decoder.feed(encode(text)))
        assert b"".join(pieces) == text
        assert max(map(len, pieces)) <= PIECE
        decoder.end()


@pytest.mark.parametrize("size", [PIECE - 1, PIECE, PIECE + 1, 2 * PIECE])
def test_a_text_that_fills_its_pieces_exactly_is_whole(size):
    for coding, encode in FORMS:
        assert decode(coding, encode(bytes(size))) == bytes(size)


def bomb(mib: int) -> bytes:
    engine = zlib.compressobj(9, wbits=31)
    parts = [engine.compress(bytes(1 << 20)) for _ in range(mib)]
    return b"".join(parts) + engine.flush()


def test_a_bomb_is_stopped_by_its_ratio_with_little_memory_used():
    data = bomb(256)
    decoder = decoder_for("gzip", limit=Limit())
    assert decoder is not None
    tracemalloc.start()
    given = 0
    with pytest.raises(DecodingFault) as caught:
        for piece in decoder.feed(data):
            given += len(piece)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.reason == "max_ratio"
    assert given <= RATIO_FROM
    assert peak < 1 << 20


def test_a_bomb_that_is_wanted_streams_with_little_memory_used():
    data = bomb(64)
    decoder = decoder_for("gzip", limit=Limit(max_ratio=2000))
    assert decoder is not None
    tracemalloc.start()
    given = sum(map(len, decoder.feed(data)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    decoder.end()
    assert given == 64 << 20
    assert peak < 1 << 20


def test_a_bomb_in_a_bomb_is_measured_by_what_came_from_the_wire():
    data = gzip.compress(bomb(64))
    with pytest.raises(DecodingFault) as caught:
        decode("gzip, gzip", data, Limit(max_ratio=1000))
    assert caught.value.reason == "max_ratio"


def test_many_members_do_not_hide_a_bomb():
    data = gzip.compress(bytes(60_000), 9) * 50  # each is below all limits
    with pytest.raises(DecodingFault) as caught:
        decode("gzip", data, Limit())
    assert caught.value.reason == "max_ratio"


def test_below_1_mib_no_ratio_is_too_large():
    assert decode("gzip", gzip.compress(bytes(RATIO_FROM)), Limit()) == bytes(RATIO_FROM)


def test_max_decoded_is_the_last_size_that_passes():
    data = gzip.compress(TEXT)
    assert decode("gzip", data, Limit(max_decoded=len(TEXT))) == TEXT
    with pytest.raises(DecodingFault) as caught:
        decode("gzip", data, Limit(max_decoded=len(TEXT) - 1))
    assert caught.value.reason == "max_decoded"
    assert str(len(TEXT) - 1) in str(caught.value)


def test_async_bodies_decode_alike():
    async def parts(data: bytes):
        for i in range(0, len(data), 1000):
            yield data[i : i + 1000]

    async def collect(data: bytes) -> bytes:
        decoder = decoder_for("gzip", limit=NO_RATIO)
        assert decoder is not None
        return b"".join([piece async for piece in adecoded(parts(data), decoder)])

    data = gzip.compress(TEXT)
    assert asyncio.run(collect(data)) == TEXT
    with pytest.raises(DecodingFault) as caught:
        asyncio.run(collect(data[:-1]))
    assert caught.value.truncated


def test_a_fault_pickles():
    fault = pickle.loads(pickle.dumps(DecodingFault("text", "truncated")))
    assert (str(fault), fault.truncated) == ("text", True)
