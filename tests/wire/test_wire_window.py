"""A body that will be cut off: how much of it its sender may put on the way."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from holdfast.wire.http1 import Response

if TYPE_CHECKING:
    from collections.abc import Iterator

KIB, MIB = 1 << 10, 1 << 20
LENGTH = 64 * MIB
HERE = 40 * KIB  # fits into the window that a connection begins with
HEAD = f"HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n".encode()

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can be told")


@contextlib.contextmanager
def connected(*, flood: bool = False) -> Iterator[socket.socket]:
    """Give a client whose server has sent `HERE` bytes of the body; flood: it sends on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), timeout=5)
        server = listener.accept()[0]
    server.sendall(HEAD + bytes(HERE))
    thread = threading.Thread(target=send_on, args=(server,))
    with server:
        if flood:
            thread.start()
        with client:
            time.sleep(0.02)  # until all of it is here
            yield client
        if flood:
            thread.join()


def send_on(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            sock.sendall(bytes(MIB))


def window(sock: socket.socket) -> int:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP)


@pytest.mark.parametrize("beyond", [0, 1, 10 * KIB, HERE - 1])
def test_nothing_more_is_let_in_when_all_that_is_wanted_is_here(beyond: int) -> None:
    with connected() as client:
        response = Response(client, first_byte=5, idle=5)
        response.expect(HERE - beyond)
        assert window(client) < 2 * KIB


@pytest.mark.parametrize("more", [1, 1000, 100 * KIB, 10 * MIB])
def test_what_is_wanted_and_not_here_is_let_in(more: int) -> None:
    with connected() as client:
        response = Response(client, first_byte=5, idle=5)
        response.expect(HERE + more)
        # Not below 64 KiB: the system offers nothing if it is less than a segment.
        assert window(client) == max(more, 64 * KIB)


def test_the_last_bytes_are_not_waited_for() -> None:
    buffer = memoryview(bytearray(64 * KIB))
    with connected(flood=True) as client:
        response = Response(client, first_byte=5, idle=5)
        began = time.monotonic()
        for wanted in (1, 1000, 70_001, 65_537, 10, 8 * MIB + 1):
            left = wanted
            while left:
                response.expect(left)
                left -= response.read_into(buffer[: min(len(buffer), left)])
        assert time.monotonic() - began < 2
