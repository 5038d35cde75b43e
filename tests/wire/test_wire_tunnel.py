"""CONNECT: what a proxy may answer, and that nothing waits for ever."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from holdfast.core.classify import classify
from holdfast.core.verdict import Kind, Sent
from holdfast.wire.addresses import AddressDenied, Reach
from holdfast.wire.cancel import Cancel
from holdfast.wire.connect import connect
from holdfast.wire.http1 import CutShort, ProtocolError
from holdfast.wire.proxy import Proxy, ProxyFailed
from holdfast.wire.urls import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

URL = parse("https://data.example/x")


@contextmanager
def proxying(
    say: Callable[[socket.socket], None], asked: list[bytes] | None = None
) -> Iterator[Proxy]:
    """Accept one connection, read the request, and let `say` go on."""

    def serve() -> None:
        client, _ = server.accept()
        with client:
            data = client.recv(65536)
            if asked is not None:
                asked.append(data)
            say(client)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Proxy("127.0.0.1", server.getsockname()[1], "me:pass")
        finally:
            thread.join()


def answering(data: bytes) -> Callable[[socket.socket], None]:
    return lambda client: client.sendall(data)


def through(proxy: Proxy, **options: object) -> None:
    defaults = {"timeout": 5, "cancel": Cancel(), "proxy": proxy}
    with connect(URL, **(defaults | options)):  # type: ignore[arg-type] # options of `connect`
        pass


def failure(answer: bytes) -> OSError:
    with proxying(answering(answer)) as proxy, pytest.raises(OSError) as caught:  # noqa: PT011 - judged by the caller
        through(proxy)
    return caught.value


def test_what_is_asked_names_host_port_and_credentials() -> None:
    asked: list[bytes] = []
    with (
        proxying(answering(b"HTTP/1.1 403 No\r\n\r\n"), asked) as proxy,
        pytest.raises(ProxyFailed),
    ):
        through(proxy)
    lines = asked[0].decode().split("\r\n")
    assert lines[0] == "CONNECT data.example:443 HTTP/1.1"
    assert "Host: data.example:443" in lines
    assert "Proxy-Authorization: Basic bWU6cGFzcw==" in lines


@pytest.mark.parametrize(
    ("status", "kind"),
    [(302, Kind.PERMANENT), (407, Kind.PERMANENT), (502, Kind.TRANSIENT), (504, Kind.TRANSIENT)],
)
def test_a_refusal_says_who_refused(status: int, kind: Kind) -> None:
    error = failure(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status)
    assert isinstance(error, ProxyFailed)
    assert error.status == status
    assert f"status: {status}" in str(error)
    assert "pass" not in str(error)
    verdict = classify(error)
    assert (verdict.kind, verdict.sent, verdict.reason) == (kind, Sent.NO, "proxy")


def test_a_proxy_may_ask_to_come_back_later() -> None:
    error = failure(b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\n\r\n")
    assert classify(error).retry_after == 7


def test_a_407_says_whether_there_were_credentials() -> None:
    assert "refuses its credentials" in str(failure(b"HTTP/1.1 407 X\r\n\r\n"))
    with proxying(answering(b"HTTP/1.1 407 X\r\n\r\n")) as proxy:
        bare = Proxy(proxy.host, proxy.port)
        with pytest.raises(ProxyFailed, match="wants credentials"):
            through(bare)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", CutShort),
        (b"HTTP/1.1 200 O", CutShort),
        (b"SSH-2.0\r\n\r\n", ProtocolError),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", ProtocolError),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", ProtocolError),
    ],
)
def test_an_answer_that_makes_no_sense_is_an_error(answer: bytes, kind: type[OSError]) -> None:
    def say(client: socket.socket) -> None:
        with suppress(OSError):  # it may have heard enough
            client.sendall(answer)

    with proxying(say) as proxy, pytest.raises(kind):
        through(proxy)


def test_an_interim_answer_is_passed_over() -> None:
    error = failure(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 403 No\r\n\r\n")
    assert isinstance(error, ProxyFailed)
    assert error.status == 403


def test_a_proxy_that_says_nothing_is_left_in_time() -> None:
    over = threading.Event()
    with proxying(lambda _: over.wait(10) and None) as proxy:
        before = time.monotonic()
        with pytest.raises(TimeoutError):
            through(proxy, timeout=0.3)
        assert time.monotonic() - before < 2
        over.set()


def test_a_proxy_that_drips_is_left_in_time() -> None:
    over = threading.Event()

    def drip(client: socket.socket) -> None:
        while not over.wait(0.05):
            client.sendall(b"H")

    with proxying(drip) as proxy:
        before = time.monotonic()
        with pytest.raises((TimeoutError, ProtocolError)):
            through(proxy, timeout=0.4)
        assert time.monotonic() - before < 2
        over.set()


def test_cancel_ends_a_tunnel_that_is_waited_for() -> None:
    over, cancel = threading.Event(), Cancel()
    with proxying(lambda _: over.wait(10) and None) as proxy:
        timer = threading.Timer(0.1, cancel.set)
        timer.start()
        before = time.monotonic()
        with pytest.raises(OSError):  # noqa: PT011 - which one depends on the moment
            through(proxy, timeout=30, cancel=cancel)
        timer.join()
        assert time.monotonic() - before < 2
        over.set()


def test_a_denied_address_is_not_asked_of_a_proxy_either() -> None:
    for host in ("127.0.0.1", "localhost", "169.254.169.254"):
        with pytest.raises(AddressDenied):
            connect(
                parse(f"https://{host}/"),
                timeout=5,
                cancel=Cancel(),
                reach=Reach.PUBLIC,
                proxy=Proxy("127.0.0.1", 9),
            )
