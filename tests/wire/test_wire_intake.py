"""Reading much with few calls: what came is returned, whatever ends it, on TCP and over TLS."""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from certificates import Pair, make
from holdfast.wire.http1 import CutShort, Response
from holdfast.wire.intake import intake

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Pair = tuple[socket.socket, socket.socket]

BODY = bytes(range(256)) * 400
LULL = 0.1


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make(tmp_path_factory.mktemp("tls"), "localhost", "DNS:localhost")


@contextmanager
def plain_pair() -> Iterator[Pair]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    with ours, theirs:
        yield ours, theirs


@contextmanager
def secure_pair(certificate: Pair) -> Iterator[Pair]:
    serving, asking = certificate.server(), certificate.client()
    made: list[socket.socket] = []
    with plain_pair() as (ours, theirs):
        thread = threading.Thread(
            target=lambda: made.append(serving.wrap_socket(theirs, server_side=True))
        )
        thread.start()
        with asking.wrap_socket(ours, server_hostname="localhost") as secure:
            thread.join()
            with made[0]:
                yield secure, made[0]


@pytest.fixture(params=["tcp", "tls"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    if request.param == "tcp":
        with plain_pair() as made:
            yield made
    else:
        with secure_pair(request.getfixturevalue("certificate")) as made:
            yield made


@contextmanager
def meanwhile(work: Callable[[], object]) -> Iterator[None]:
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def room(size: int) -> memoryview:
    return memoryview(bytearray(size))


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    socket.socket.close(sock)


def test_one_call_brings_what_comes_in_many_pieces(pair: Pair) -> None:
    ours, theirs = pair

    def drip() -> None:
        for at in range(0, len(BODY), 10_000):
            theirs.sendall(BODY[at : at + 10_000])
            time.sleep(0.002)

    buffer = room(len(BODY))
    with meanwhile(drip):
        assert intake(ours, 5).take(buffer) == len(BODY)
    assert buffer == BODY


def test_it_takes_no_more_than_was_asked_for(pair: Pair) -> None:
    ours, theirs = pair
    source, buffer = intake(ours, LULL), room(70_000)
    with meanwhile(lambda: theirs.sendall(BODY)):
        assert source.take(buffer) == 70_000
        assert buffer == BODY[:70_000]
        assert source.take(buffer) == len(BODY) - 70_000
    assert buffer[: len(BODY) - 70_000] == BODY[70_000:]


def test_silence_is_told_apart_from_the_end(pair: Pair) -> None:
    ours, theirs = pair
    source, buffer = intake(ours, LULL), room(100)
    assert source.take(buffer) is None
    theirs.sendall(b"half")
    assert source.take(buffer) == 4  # and not held back until the rest comes
    assert source.take(buffer) is None
    socket.socket.shutdown(theirs, socket.SHUT_WR)
    assert source.take(buffer) == 0
    assert source.take(buffer) == 0


def test_a_trickle_is_handed_on_in_time(pair: Pair) -> None:
    ours, theirs = pair
    over = threading.Event()

    def drip() -> None:
        while not over.wait(0.01):
            theirs.sendall(b"x")

    with meanwhile(drip):
        try:
            before = time.monotonic()
            assert intake(ours, LULL).take(room(1 << 20))
            assert time.monotonic() - before < 20 * LULL
        finally:
            over.set()


def test_what_came_before_a_reset_comes_before_its_error(pair: Pair) -> None:
    ours, theirs = pair
    source, buffer = intake(ours, 5), room(len(BODY))

    def send() -> None:
        theirs.sendall(BODY[:50_000])
        time.sleep(0.05)
        reset(theirs)

    with meanwhile(send):
        assert source.take(buffer) == 50_000
    assert buffer[:50_000] == BODY[:50_000]
    for _ in range(2):
        with suppress(ConnectionResetError):
            assert source.take(buffer) == 0  # OpenSSL may take it for an end


def test_a_shut_down_wakes_it(pair: Pair) -> None:
    ours, _ = pair
    timer = threading.Timer(0.05, socket.socket.shutdown, (ours, socket.SHUT_RDWR))
    timer.start()
    before = time.monotonic()
    assert intake(ours, 30).take(room(100)) == 0
    assert time.monotonic() - before < 10
    timer.join()


# -- bodies --------------------------------------------------------------------------------------


def filled(response: Response, size: int) -> bytes:
    got, buffer = bytearray(), room(size)
    while (n := response.fill(buffer)) != 0:
        got += buffer[: n or 0]
    return bytes(got)


HEADS = {
    "length": f"HTTP/1.1 200 OK\r\nContent-Length: {len(BODY)}\r\n\r\n".encode(),
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "close": b"HTTP/1.1 200 OK\r\n\r\n",
}


def message(framing: str) -> bytes:
    if framing != "chunked":
        return HEADS[framing] + BODY
    pieces = (BODY[at : at + 4321] for at in range(0, len(BODY), 4321))
    chunks = (b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return HEADS[framing] + b"".join(chunks) + b"0\r\n\r\n"


@pytest.mark.parametrize("framing", HEADS)
@pytest.mark.parametrize("size", [1000, 30_000, 1 << 20])
def test_bodies_of_each_framing_come_whole(pair: Pair, framing: str, size: int) -> None:
    ours, theirs = pair

    def send() -> None:
        theirs.sendall(message(framing))
        socket.socket.shutdown(theirs, socket.SHUT_WR)

    with meanwhile(send):
        assert filled(Response(ours, first_byte=5, idle=5), size) == BODY


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_a_body_that_is_cut_gives_all_it_had(pair: Pair, framing: str, share: float) -> None:
    ours, theirs = pair
    told = message(framing)
    cut = int(len(told) * share)

    def send() -> None:
        theirs.sendall(told[:cut])
        socket.socket.shutdown(theirs, socket.SHUT_WR)

    got, buffer = bytearray(), room(30_000)
    with meanwhile(send):
        response = Response(ours, first_byte=5, idle=5)
        with pytest.raises(CutShort):
            while (n := response.fill(buffer)) != 0:
                got += buffer[: n or 0]
    assert bytes(got) == BODY[: len(got)]
    # Of a chunk, all that came; what frames it is not part of the body.
    least = cut - len(HEADS["length"]) if framing == "length" else int(len(BODY) * (share - 0.01))
    assert len(got) >= least


def test_a_pause_in_a_body_is_no_end(pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(HEADS["length"] + BODY[:1000])
    response, buffer = Response(ours, first_byte=5, idle=0.2), room(len(BODY))
    assert response.fill(buffer) == 1000
    assert response.fill(buffer) is None
    with meanwhile(lambda: theirs.sendall(BODY[1000:])):
        assert filled(response, len(BODY)) == BODY[1000:]


def test_an_empty_body_ends_at_once(pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert Response(ours, first_byte=5, idle=5).fill(room(10)) == 0
