"""Strict reading of requests: other people's cases, our own rules, every split, any bytes."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.wire.requests import Heads, RequestHead, parse_head
from holdfast.wire.strict import BadMessage, Chunks
from llhttp_cases import Case, load
from malformed_cases import CHUNKS, LIMIT, REFUSED, get


def read(
    data: bytes, limit: int = LIMIT, body: int = 1 << 26, step: int = 0
) -> list[tuple[RequestHead, bytes]]:
    """Read all whole requests of a connection, as a server would. step: bytes that come at once."""
    found: list[tuple[RequestHead, bytes]] = []
    heads, ahead = Heads(limit), bytearray()
    head, content, chunks = None, b"", Chunks(body)
    step = step or len(data) or 1
    for at in range(0, len(data), step):
        ahead += data[at : at + step]
        while ahead:
            if head is None:
                raw = heads.take(ahead)
                if raw is None:
                    break
                head, content, chunks = parse_head(raw), b"", Chunks(body)
            if head.length is None:
                out: list[bytes] = []
                del ahead[: chunks.feed(bytes(ahead), out)]
                content += b"".join(out)
                if not chunks.done:
                    break
            else:
                need = head.length - len(content)
                content += bytes(ahead[:need])
                del ahead[:need]
                if len(content) < head.length:
                    break
            found.append((head, content))
            if not head.keeps_alive or head.upgrade:
                return found
            head = None
    if head is not None and head.length == 0:
        found.append((head, b""))
    return found


def refused(data: bytes, **options: int) -> BadMessage:
    with pytest.raises(BadMessage) as caught:
        read(data, **options)
    return caught.value


# -- the cases of llhttp ---------------------------------------------------------------------


def difference(case: Case) -> str:
    """Return how we read a case in a more lenient way than llhttp, or otherwise; else nothing."""
    error = case.error
    try:
        found = read(case.data)
    except BadMessage:
        return ""
    if "Upgrade" in error or "Connection: close" in error:
        error = ""  # these are no errors of the request
    if error and len(found) >= len(case.methods):
        return f"accepted in spite of: {error}"
    if found and found[-1][0].method == b"CONNECT":
        found.pop()  # llhttp ends there: what follows is a tunnel, and we give none
    if [head.method.decode() for head, _ in found] != case.methods[: len(found)]:
        return "other methods"
    content = b"".join(body for _, body in found)
    return "" if case.content.startswith(content) else f"another body: {content!r}"


def test_what_llhttp_rejects_is_rejected_and_what_we_accept_is_the_same(vectors):
    strict = [case for case in load(vectors) if case.kind == "request"]
    assert len(strict) >= 130
    wrong = {case.title: difference(case) for case in strict if difference(case)}
    assert not wrong


# -- what llhttp accepts, and we do not ------------------------------------------------------


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused(name):
    data, status = REFUSED[name]
    assert refused(data).status == status


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_however_it_comes(name):
    data, status = REFUSED[name]
    for step in (1, 2, 3, 7) if len(data) < 1000 else (1, 1000):
        assert refused(data, step=step).status == status


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01", 400),  # TLS
        (b"get", 400),
        (b"GET / \r\n", 400),
        (b"GET / HTTP/3.0\r\n", 505),
        (b"GET / HTTP/1.1\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\rb", 400),
        (b"\r\n\r\n", 400),
        (b"\rG", 400),
        (b"A" * 33, 400),
    ],
)
def test_what_can_become_no_head_is_refused_before_it_ends(data, status):
    for step in (0, 1):
        assert refused(data, step=step).status == status


@pytest.mark.parametrize("step", [0, 1])
def test_what_can_become_a_head_is_waited_for(step):
    whole = b"\r\n" + get(b"Accept: */*")
    for at in range(len(whole)):
        assert read(whole[:at], step=step) == []


def test_a_hundred_fields_are_fine():
    found = read(get(*(b"A%d: b" % n for n in range(99))))
    assert len(found[0][0].fields) == 100


def test_a_reason_repeats_nothing_that_the_client_sent():
    assert "secret" not in refused(get(b"secret secret")).reason


# -- what is read ----------------------------------------------------------------------------


def test_fields_keep_their_case_order_and_duplicates():
    head = read(get(b"X-b: 1", b"x-A: 2", b"X-b: 3"))[0][0]
    assert head.fields == [(b"Host", b"a"), (b"X-b", b"1"), (b"x-A", b"2"), (b"X-b", b"3")]


@pytest.mark.parametrize(
    ("line", "fields", "keeps"),
    [
        (b"GET / HTTP/1.1", (), True),
        (b"GET / HTTP/1.1", (b"Connection: close",), False),
        (b"GET / HTTP/1.1", (b"Connection: x", b"Connection: Close"), False),
        (b"GET / HTTP/1.0", (), False),
        (b"GET / HTTP/1.0", (b"Connection: Keep-Alive",), False),
        (b"GET / HTTP/1.0", (b"Connection: keep-alive, close",), False),
    ],
)
def test_who_keeps_the_connection(line, fields, keeps):
    assert read(get(*fields, line=line))[0][0].keeps_alive is keeps


@pytest.mark.parametrize(
    ("line", "target", "host"),
    [
        (b"GET http://a/x?y HTTP/1.1", b"/x?y", b"a"),
        (b"GET HTTP://A HTTP/1.1", b"/", b"A"),
        (b"GET http://a?q HTTP/1.1", b"/?q", b"a"),
        (b"OPTIONS * HTTP/1.1", b"*", b"a"),
        (b"GET /%2e%2e//x?%20 HTTP/1.1", b"/%2e%2e//x?%20", b"a"),
    ],
)
def test_a_target_is_reduced_to_its_path_and_otherwise_untouched(line, target, host):
    head = read(get(line=line))[0][0]
    assert (head.target, head.host) == (target, host)


def test_http_1_0_may_leave_out_the_host():
    assert read(b"GET / HTTP/1.0\r\n\r\n")[0][0].host == b""


def test_expectations_and_upgrades_are_noted():
    assert read(get(b"Expect: 100-Continue"))[0][0].expect == "100-continue"
    assert read(get(b"Expect: tea"))[0][0].expect == "other"
    assert read(get(b"Connection: Upgrade", b"Upgrade: WebSocket"))[0][0].upgrade == b"websocket"
    assert read(get(b"Upgrade: WebSocket"))[0][0].upgrade == b""


def test_pipelined_requests_are_told_apart():
    chunked = (
        get(b"Transfer-Encoding: chunked", line=b"POST /b HTTP/1.1") + b"3\r\nabc\r\n0\r\n\r\n"
    )
    sized = get(b"Content-Length: 5", line=b"POST /c HTTP/1.1") + b"GET /"
    found = read(get() + chunked + sized + b"\r\n" + get(line=b"GET /d HTTP/1.1"))
    assert [(head.target, body) for head, body in found] == [
        (b"/", b""),
        (b"/b", b"abc"),
        (b"/c", b"GET /"),
        (b"/d", b""),
    ]


# -- chunks ----------------------------------------------------------------------------------


def unchunk(data: bytes, limit: int = 1 << 20, step: int = 0) -> tuple[bytes, int, bool]:
    chunks, out, at = Chunks(limit), [], 0
    for start in range(0, len(data), step or len(data) or 1):
        piece = data[start : start + (step or len(data))]
        taken = chunks.feed(piece, out)
        at += taken
        if taken < len(piece):
            break
    return b"".join(out), at, chunks.done


WHOLE = b'4;a;b=c;d="e\\";f"\r\nabcd\r\n00A\r\n0123456789\r\n0;x\r\nT: 1\r\nU:\r\n\r\n'


@pytest.mark.parametrize("step", range(1, len(WHOLE) + 1))
def test_chunks_are_the_same_however_they_come(step):
    assert unchunk(WHOLE, step=step) == (b"abcd0123456789", len(WHOLE), True)


def test_what_follows_a_chunked_body_is_not_taken():
    assert unchunk(WHOLE + b"GET / HTTP/1.1\r\n")[1] == len(WHOLE)


@pytest.mark.parametrize("data", CHUNKS)
def test_a_malformed_chunk_is_refused(data):
    for step in (0, 1):
        with pytest.raises(BadMessage) as caught:
            unchunk(data, step=step)
        assert caught.value.status == 400


def test_a_body_beyond_the_limit_is_refused_before_it_comes():
    with pytest.raises(BadMessage) as caught:
        unchunk(b"6\r\nabcdef\r\n5\r\n", limit=10)
    assert caught.value.status == 413


# -- any bytes -------------------------------------------------------------------------------


class _Seen:
    """What httptools makes of a whole request."""

    def __init__(self):
        self.bodies, self.ended = [b""], 0

    def on_body(self, body):
        self.bodies[-1] += body

    def on_message_complete(self):
        self.ended += 1
        self.bodies.append(b"")


MEAN = st.sampled_from(
    [b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b";", b",", b"0", b"5", b"a", b"chunked", b"\x00",
     b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: b\r\n", b"hello",
     b"GET / HTTP/1.1\r\n", b"POST /x HTTP/1.0\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"X: y\r\n"]
)  # fmt: skip


@settings(max_examples=1500, deadline=None)
@given(pieces=st.lists(MEAN | st.binary(max_size=3), max_size=12), start=st.booleans())
def test_nothing_is_accepted_that_another_strict_parser_reads_otherwise(pieces, start):
    data = (b"POST / HTTP/1.1\r\nHost: a\r\n" if start else b"") + b"".join(pieces)
    try:
        found = read(data)
    except BadMessage:
        return
    seen = _Seen()
    parser = httptools.HttpRequestParser(seen)
    for head, body in found:
        wire = b"".join([head.method, b" ", head.target, b" HTTP/1.%d\r\n" % head.minor])
        wire += b"".join(b"%b: %b\r\n" % one for one in head.fields) + b"\r\n"
        wire += body if head.length is not None else b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        if head.length is None and not body:
            wire = wire[: -len(b"0\r\n\r\n0\r\n\r\n")] + b"0\r\n\r\n"
        with_upgrade = bool(head.upgrade)
        try:
            parser.feed_data(wire)
        except httptools.HttpParserUpgrade:
            assert with_upgrade or head.method == b"CONNECT"
            return
    assert seen.ended == len(found)
    assert seen.bodies[: len(found)] == [body for _, body in found]


@settings(max_examples=600, deadline=None)
@given(pieces=st.lists(MEAN, max_size=10), step=st.integers(1, 7), start=st.booleans())
def test_the_verdict_is_the_same_however_the_bytes_come(pieces, step, start):
    data = (b"POST / HTTP/1.1\r\nHost: a\r\n" if start else b"") + b"".join(pieces)

    def verdict(step):
        try:
            return [(head.method, head.target, body) for head, body in read(data, step=step)]
        except BadMessage as bad:
            return bad.status

    assert verdict(1) == verdict(step) == verdict(0)
