"""One HTTP/1.1 exchange: heads, framings, and every byte at which a connection can end."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import pytest

from holdfast.wire.http1 import (
    MAX_HEAD,
    CutShort,
    Framing,
    Head,
    ProtocolError,
    Response,
    head_end,
    parse_head,
    request_head,
)
from holdfast.wire.urls import parse

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def received(answer: bytes, pair: tuple[socket.socket, socket.socket]) -> tuple[Head, bytes]:
    """Read one whole answer that ends with its connection; raise what ends it early."""
    ours, theirs = pair
    theirs.sendall(answer)
    theirs.shutdown(socket.SHUT_WR)
    return drained(Response(ours, first_byte=5, idle=5))


def drained(response: Response) -> tuple[Head, bytes]:
    body = bytearray()
    buffer = memoryview(bytearray(1000))
    while n := response.read_into(buffer):
        body += buffer[:n]
    return response.head, bytes(body)


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("answer", "framing", "body"),
    [
        (OK + b"Content-Length: 5\r\n\r\nhello", Framing.LENGTH, b"hello"),
        (OK + b"Content-Length: 0\r\n\r\n", Framing.LENGTH, b""),
        (OK + b"Content-Length: 5, 5\r\n\r\nhello surplus", Framing.LENGTH, b"hello"),
        (OK + b"\r\nhello", Framing.CLOSE, b"hello"),
        (
            OK + b"Transfer-Encoding: chunked\r\n\r\n3;x=1\r\nhel\r\n2\r\nlo\r\n0\r\nT: 1\r\n\r\n",
            Framing.CHUNKED,
            b"hello",
        ),
        (
            OK + b"Transfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            Framing.CHUNKED,
            b"hello",
        ),
        (b"HTTP/1.0 200\n\nhello", Framing.CLOSE, b"hello"),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", Framing.LENGTH, b""),
        (
            b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK + b"Content-Length: 1\r\n\r\na",
            Framing.LENGTH,
            b"a",
        ),
        (
            b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 1\r\n\r\na",
            Framing.LENGTH,
            b"a",
        ),
    ],
)
def test_each_framing_gives_its_body(
    answer: bytes, framing: Framing, body: bytes, pair: tuple[socket.socket, socket.socket]
) -> None:
    head, got = received(answer, pair)
    assert (head.framing, got) == (framing, body)


WHOLE = [
    OK + b'Content-Length: 20\r\nETag: "x"\r\n\r\n' + b"0123456789" * 2,
    OK + b"Transfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n",
]


@pytest.mark.parametrize("answer", WHOLE)
def test_an_end_before_the_end_is_never_a_whole_answer(answer: bytes) -> None:
    for cut in range(len(answer)):
        ours, theirs = socket.socketpair()
        with ours, theirs, pytest.raises(CutShort):
            received(answer[:cut], (ours, theirs))


@pytest.mark.parametrize("answer", WHOLE)
def test_the_size_of_the_pieces_changes_nothing(answer: bytes) -> None:
    for size in (1, 2, 3, 7):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(answer)
            theirs.shutdown(socket.SHUT_WR)
            head, got = drained(Response(_Slow(ours, size), first_byte=5, idle=5))  # type: ignore[arg-type]
        assert got == b"0123456789" * 2
        assert head.status == 200


class _Slow:
    """A socket that gives at most `size` bytes per call, as a network may."""

    def __init__(self, sock: socket.socket, size: int) -> None:
        self._sock = sock
        self._size = size

    def recv(self, n: int) -> bytes:
        return self._sock.recv(min(n, self._size))

    def recv_into(self, buffer: memoryview) -> int:
        return self._sock.recv_into(buffer[: self._size])

    def settimeout(self, seconds: float) -> None:
        self._sock.settimeout(seconds)


def test_what_came_before_a_cut_was_given(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(OK + b"Content-Length: 100\r\n\r\n" + b"x" * 60)
    theirs.close()
    response = Response(ours, first_byte=5, idle=5)
    buffer = memoryview(bytearray(1000))
    got = 0
    with pytest.raises(CutShort, match="40 bytes early"):
        while n := response.read_into(buffer):
            got += n
    assert got == 60


@pytest.mark.parametrize(
    "head",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1_0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n",
    ],
)
def test_a_head_that_could_mean_two_lengths_is_refused(head: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_head(head)


def test_odd_but_harmless_lines_are_passed_over() -> None:
    head = parse_head(b"HTTP/1.1 200 OK\r\nno colon\r\nBad Name: 1\r\nX: a\r\n  b\r\nX: c\r\n\r\n")
    assert head.headers == {"x": "a b, c"}


@pytest.mark.parametrize(
    "chunks",
    [
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n",
        b"\r\nhello",
        b"-1\r\n",
        b"5" * 20 + b"\r\n",
        b"5\nhello\n0\n\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\r\nno trailer\r\n\r\n",
    ],
)
def test_a_broken_chunk_is_an_error(
    chunks: bytes, pair: tuple[socket.socket, socket.socket]
) -> None:
    with pytest.raises(ProtocolError):
        received(OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunks, pair)


def test_a_head_without_end_is_refused(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(ProtocolError, match="more than"):
        received(OK + b"X: y\r\n" * (MAX_HEAD // 4), pair)


@pytest.mark.parametrize("beyond", [0, 1])
def test_the_limit_of_a_head_does_not_depend_on_how_it_comes(beyond: int) -> None:
    head = bytearray(OK.ljust(MAX_HEAD + beyond - 4, b"x") + b"\r\n\r\n")
    for seen in (MAX_HEAD, len(head)):
        if beyond and seen > MAX_HEAD:
            with pytest.raises(ProtocolError, match="more than"):
                head_end(head, seen)
        else:
            assert head_end(head, seen) == (-1 if seen < len(head) else len(head))


def test_a_head_that_drips_is_over_in_time(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(b"HTTP/1.1 200 OK\r\nX")
    before = time.monotonic()
    with pytest.raises(TimeoutError):
        Response(ours, first_byte=0.1, idle=60)
    assert time.monotonic() - before < 1


def test_silence_in_the_body_ends_it(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(OK + b"Content-Length: 9\r\n\r\nhalf")
    response = Response(ours, first_byte=5, idle=0.1)
    buffer = memoryview(bytearray(100))
    assert response.read_into(buffer) == 4
    with pytest.raises(TimeoutError):
        response.read_into(buffer)


def test_a_request_asks_for_the_bytes_as_they_are() -> None:
    url = parse("https://u:p@example.org:8443/a?b")
    lines = request_head(url, {"Range": "bytes=5-"}).decode().split("\r\n")
    assert lines[0] == "GET /a?b HTTP/1.1"
    assert "Host: example.org:8443" in lines
    assert "Accept-Encoding: identity" in lines
    assert "Authorization: Basic dTpw" in lines
    assert "Range: bytes=5-" in lines
    assert lines[-2:] == ["", ""]


def test_a_header_of_the_caller_replaces_ours() -> None:
    lines = request_head(parse("http://x/"), {"User-Agent": "mine", "Accept": ""}).decode()
    assert "User-Agent: mine\r\n" in lines
    assert "Accept:" not in lines


@pytest.mark.parametrize(("name", "value"), [("X\r\nY", "1"), ("X", "1\r\nY: 2"), ("X Y", "1")])
def test_a_header_cannot_split_the_request(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="may not stand in a header"):
        request_head(parse("http://x/"), {name: value})
