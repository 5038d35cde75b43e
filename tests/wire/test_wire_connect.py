"""Connections: what fails how, and that a cancel wakes whoever waits."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import closing

import pytest

from holdfast.wire.cancel import Cancel
from holdfast.wire.connect import connect
from holdfast.wire.urls import parse


def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def url_of(server: socket.socket, scheme: str = "http") -> str:
    return f"{scheme}://127.0.0.1:{server.getsockname()[1]}/"


def test_a_connection_notices_a_dead_peer_by_itself() -> None:
    with (
        listening() as server,
        closing(connect(parse(url_of(server)), timeout=5, cancel=Cancel())) as s,
    ):
        assert s.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert s.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert s.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30


def test_a_closed_port_refuses() -> None:
    with listening() as server:
        url = url_of(server)
    with pytest.raises(ConnectionRefusedError):
        connect(parse(url), timeout=5, cancel=Cancel())


def test_an_unknown_name_is_the_resolvers_error() -> None:
    with pytest.raises(socket.gaierror):
        connect(parse("http://no-such-name.invalid/"), timeout=5, cancel=Cancel())


def test_a_handshake_that_never_ends_is_over_in_time() -> None:
    with listening() as server:
        before = time.monotonic()
        with pytest.raises(TimeoutError):
            connect(parse(url_of(server, "https")), timeout=0.3, cancel=Cancel())
        assert time.monotonic() - before < 2


def test_cancel_ends_a_handshake_at_once() -> None:
    cancel = Cancel()
    with listening() as server:
        timer = threading.Timer(0.1, cancel.set)
        timer.start()
        before = time.monotonic()
        with pytest.raises(OSError):  # noqa: PT011 - which one depends on the moment
            connect(parse(url_of(server, "https")), timeout=30, cancel=cancel)
        timer.join()
        assert time.monotonic() - before < 2


def test_cancel_wakes_a_reader() -> None:
    cancel = Cancel()
    ours, theirs = socket.socketpair()
    with ours, theirs, cancel.watching(ours):
        timer = threading.Timer(0.1, cancel.set)
        timer.start()
        assert ours.recv(1) == b""
        timer.join()
        assert cancel.is_set()


def test_a_socket_that_comes_too_late_is_shut_down_too() -> None:
    cancel = Cancel()
    cancel.set()
    ours, theirs = socket.socketpair()
    with ours, theirs, cancel.watching(ours):
        assert theirs.recv(1) == b""


def test_a_socket_that_is_no_longer_watched_is_left_alone() -> None:
    cancel = Cancel()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with cancel.watching(ours):
            pass
        cancel.set()
        theirs.sendall(b"x")
        assert ours.recv(1) == b"x"
