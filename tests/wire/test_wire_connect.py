"""Connections: what fails how, and that a cancel wakes whoever waits."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from holdfast.wire.addresses import AddressDenied, Reach
from holdfast.wire.cancel import Cancel
from holdfast.wire.connect import connect, peer_of
from holdfast.wire.resolve import Resolver
from holdfast.wire.urls import parse

if TYPE_CHECKING:
    from holdfast.wire.urls import Url


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


# -- several addresses ---------------------------------------------------------------------------


def resolving(*addresses: str) -> Resolver:
    def find(host: str, port: int):
        return [
            (
                socket.AF_INET6 if ":" in one else socket.AF_INET,
                socket.SOCK_STREAM,
                socket.IPPROTO_TCP,
                "",
                (one, port, 0, 0) if ":" in one else (one, port),
            )
            for one in addresses
        ]

    return Resolver(find)


def named(server: socket.socket) -> Url:
    return parse(f"http://name.example:{server.getsockname()[1]}/")


@contextmanager
def full():
    """Yield an address whose connections stay half open: its queue is full."""
    with socket.create_server(("127.0.0.2", 0), backlog=0) as server:
        port = server.getsockname()[1]
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.settimeout(0)
            filler.connect_ex(("127.0.0.2", port))
            fillers.append(filler)
        time.sleep(0.05)
        try:
            yield port
        finally:
            for filler in fillers:
                filler.close()


def test_a_dead_address_costs_a_quarter_of_a_second() -> None:
    with full() as port, socket.create_server(("127.0.0.1", port)):
        url = parse(f"http://name.example:{port}/")
        before = time.monotonic()
        resolver = resolving("127.0.0.2", "127.0.0.1")
        with closing(connect(url, timeout=10, cancel=Cancel(), resolver=resolver)) as sock:
            assert sock.getpeername()[0] == "127.0.0.1"
        assert 0.2 < time.monotonic() - before < 2


def test_an_address_that_refuses_costs_nothing() -> None:
    with listening() as server:
        before = time.monotonic()
        resolver = resolving("127.0.0.3", "127.0.0.4", "127.0.0.1")
        with closing(
            connect(named(server), timeout=10, cancel=Cancel(), resolver=resolver)
        ) as sock:
            assert peer_of(sock) == "127.0.0.1"
        assert time.monotonic() - before < 0.2


def test_when_all_refuse_that_is_said() -> None:
    with listening() as server:
        url = named(server)
    with pytest.raises(ConnectionRefusedError):
        connect(url, timeout=5, cancel=Cancel(), resolver=resolving("127.0.0.1", "127.0.0.2"))


def test_the_limit_holds_for_all_addresses_together() -> None:
    with full() as port:
        url = parse(f"http://name.example:{port}/")
        before = time.monotonic()
        with pytest.raises(TimeoutError):
            connect(url, timeout=0.5, cancel=Cancel(), resolver=resolving(*["127.0.0.2"] * 5))
        assert 0.4 < time.monotonic() - before < 2


def test_cancel_ends_a_connect_at_once() -> None:
    cancel = Cancel()
    with full() as port:
        url = parse(f"http://name.example:{port}/")
        timer = threading.Timer(0.1, cancel.set)
        timer.start()
        before = time.monotonic()
        with pytest.raises(OSError, match="cancel"):
            connect(url, timeout=30, cancel=cancel, resolver=resolving("127.0.0.2"))
        timer.join()
        assert time.monotonic() - before < 2


def test_a_name_without_addresses_is_an_error() -> None:
    with pytest.raises(OSError, match="no address"):
        connect(parse("http://x/"), timeout=5, cancel=Cancel(), resolver=resolving())


# -- which of them may be asked --------------------------------------------------------------------


def test_only_what_was_checked_is_connected_to() -> None:
    """The first answer passes the check; a second look-up would have found another address."""
    answers = iter([["127.0.0.1"], ["127.0.0.9"]])

    def find(host: str, port: int):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in next(answers)]

    with listening() as server:
        resolver = Resolver(find)
        with closing(connect(named(server), timeout=5, cancel=Cancel(), resolver=resolver)) as sock:
            assert peer_of(sock) == "127.0.0.1"
    assert next(answers) == ["127.0.0.9"]


def test_what_is_denied_is_not_connected_to() -> None:
    with listening() as server:
        server.settimeout(0.05)
        with pytest.raises(AddressDenied) as caught:
            connect(
                named(server),
                timeout=5,
                cancel=Cancel(),
                reach=Reach.PUBLIC,
                resolver=resolving("127.0.0.1"),
            )
        assert caught.value.host == "name.example"
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize("reach", Reach)
def test_a_metadata_service_is_never_connected_to(reach: Reach) -> None:
    with pytest.raises(AddressDenied):
        connect(parse("http://169.254.169.254/latest/"), timeout=5, cancel=Cancel(), reach=reach)


def test_numbers_in_any_form_are_judged() -> None:
    for host in ("2130706433", "0x7f.1", "0177.0.0.1", "[::ffff:127.0.0.1]"):
        with pytest.raises(AddressDenied):
            connect(parse(f"http://{host}/"), timeout=5, cancel=Cancel(), reach=Reach.PUBLIC)
