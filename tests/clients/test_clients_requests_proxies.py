"""Requests over TLS and through proxies: noted, guarded and repeated like all others."""

from __future__ import annotations

import socket
import time

import pytest
import requests
from clients_requests_rig import NOW, mounted, proxying
from clients_server import attempts_of, listening, serving

import holdfast as hf
from certificates import make
from scripted import FIN, HOLE, Listening, answer

OK = answer(200, b"fine")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return make(tmp_path_factory.mktemp("tls"), "127.0.0.1", "IP:127.0.0.1")


@pytest.fixture(scope="module")
def context(files):
    return files.server()


def policy(seconds: float = 20.0, attempts: int = 3) -> hf.Policy:
    return hf.policy(hf.Deadline(seconds), hf.Bulkhead(9), hf.Retry(attempts, backoff=NOW))


def busy_once(asked):
    return [answer(503) if asked.no == 1 else OK]


def stale(asked):
    return [OK] if asked.turn == 1 else [FIN]


def test_tls_works_and_is_verified(files, context):
    with serving(busy_once, context) as server, mounted(policy(), server) as session:
        session.verify = files[0]
        assert session.get(server.url).content == b"fine"
        assert session.get(server.url, stream=True).content == b"fine"
        assert server.connections == 1
        session.verify = True
        with pytest.raises(requests.exceptions.SSLError):
            session.get(server.url)
    assert len(server.asked) == 3


def test_a_stale_connection_of_tls_is_replaced(files, context):
    with serving(stale, context) as server, mounted(policy(attempts=1), server) as session:
        session.verify = files[0]
        for _ in range(5):
            assert session.get(server.url).content == b"fine"
        assert server.connections == 5


@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
def test_the_deadline_ends_a_dripping_answer_over_tls(files, context, stream):
    steps = [step for byte in OK for step in (bytes([byte]), 0.2)]
    with serving(lambda asked: steps, context) as server, mounted(policy(0.7), server) as session:
        session.verify = files[0]
        began = time.monotonic()
        with pytest.raises(hf.DeadlineExceeded):
            session.get(server.url, stream=stream)
        assert time.monotonic() - began < 1.2


class Dripping(Listening):
    """The first byte of a TLS record a second, or rather five in that time."""

    def serve(self, sock):
        sock.recv(65536)
        for byte in b"\x16\x03\x03\x40\x00" + bytes(100):
            sock.sendall(bytes([byte]))
            time.sleep(0.2)


def test_the_deadline_ends_a_dripping_handshake():
    server = Dripping()
    with mounted(policy(0.7)) as session, listening() as events:
        began = time.monotonic()
        with pytest.raises(hf.DeadlineExceeded):
            session.post(f"https://127.0.0.1:{server.port}/", data=b"x")
        assert time.monotonic() - began < 1.2
    assert server.quiet()
    server.close()
    assert [str(event.sent) for event in attempts_of(events)] == ["no"]


def test_a_server_that_hangs_up_in_the_handshake_was_sent_nothing():
    class Rude(Listening):
        def serve(self, sock):
            sock.recv(65536)

    server = Rude()
    broken = pytest.raises(requests.ConnectionError)
    with mounted(policy()) as session, listening() as events, broken:
        session.post(f"https://127.0.0.1:{server.port}/", data=b"x")
    server.close()
    assert [(event.kind, str(event.sent)) for event in attempts_of(events)] == [
        ("connect", "no")
    ] * 3


def test_a_tunnel_is_connecting_and_its_answers_are_not_the_server_s(files, context):
    with (
        serving(busy_once, context) as server,
        proxying() as proxy,
        mounted(policy(), server) as session,
        listening() as events,
    ):
        session.verify = files[0]
        session.proxies = {"https": proxy.url.replace("//", "//user:secret@")}
        assert session.get(server.url).content == b"fine"
        assert session.get(server.url).content == b"fine"
        assert [line for line, _ in proxy.asked] == [f"CONNECT 127.0.0.1:{server.port} HTTP/1.0"]
        assert "proxy-authorization" in proxy.asked[0][1]
        assert all("proxy-authorization" not in asked.headers for asked in server.asked)
        assert [event.reused for event in attempts_of(events)] == [False, True, True]


def test_a_stale_tunnel_is_replaced(files, context):
    with (
        serving(stale, context) as server,
        proxying() as proxy,
        mounted(policy(attempts=1), server) as session,
    ):
        session.verify = files[0]
        session.proxies = {"https": proxy.url}
        for _ in range(3):
            assert session.get(server.url).content == b"fine"
        assert len(proxy.asked) == 3


def test_a_proxy_that_is_not_there_was_sent_nothing():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    refused = pytest.raises(requests.exceptions.ProxyError)
    with mounted(policy()) as session, listening() as events, refused:
        session.proxies = {"https": f"http://127.0.0.1:{port}"}
        session.post("https://127.0.0.1:1/", data=b"x")
    assert [str(event.sent) for event in attempts_of(events)] == ["no"] * 3


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_what_went_through_a_proxy_may_have_run(files, context, scheme):
    """urllib3 calls it a ProxyError if the connection ends then, as if it had never been up."""
    tls = context if scheme == "https" else None
    broken = pytest.raises(requests.ConnectionError)
    with serving(lambda asked: [FIN], tls) as server, proxying() as tunnel:
        with mounted(policy(), server) as session, listening() as events, broken:
            session.verify = files[0]
            proxy = tunnel.url if tls else server.url
            session.proxies = {scheme: proxy}
            session.post(server.url, data=b"order")
        assert [asked.body for asked in server.asked] == [b"order"]
    assert [str(event.sent) for event in attempts_of(events)] == ["maybe"]


def test_a_silent_proxy_is_left_at_the_deadline():
    with serving(lambda asked: [HOLE]) as silent, mounted(policy(0.4), silent) as session:
        session.proxies = {"https": silent.url}
        began = time.monotonic()
        with pytest.raises(hf.DeadlineExceeded):
            session.post("https://127.0.0.1:1/", data=b"x")
        assert time.monotonic() - began < 1


def test_a_forwarding_proxy_gets_the_whole_address():
    with serving(busy_once) as proxy, mounted(policy(), proxy) as session:
        session.proxies = {"http": proxy.url}
        assert session.get("http://api.test/x?y=1").content == b"fine"
        assert [asked.target for asked in proxy.asked] == ["http://api.test/x?y=1"] * 2
        assert proxy.asked[0].headers["host"] == "api.test"
