"""Downloads through a real proxy, named by the environment."""

from __future__ import annotations

import hashlib
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from downloads_proxy import TestingProxy
from downloads_rig import downloads, names_in, sha256_of

import holdfast as hf
from certificates import Pair, make
from holdfast.wire import connect as connecting

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, *(name.upper() for name in VARIABLES)):
        monkeypatch.delenv(name, raising=False)


def run(into: Path, url: str, **options: object) -> hf.DownloadReport:
    with downloads(into) as d:
        d.add(url, **options)
        return d.run()


def test_http_goes_through_a_proxy_and_its_host_is_not_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_names = []
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *a, **k: asked_names.append(host) or real(host, *a, **k)
    )
    with hf.chaos.server(hf.chaos.Object("/a/x.bin", 300_000)) as server:
        address = ("127.0.0.1", server.port)
        with TestingProxy({"data.example": address}, credentials="me:pass") as proxy:
            monkeypatch.setenv("http_proxy", proxy.url("me:pass"))
            report = run(tmp_path, "http://data.example/a/x.bin?v=1")
        assert report.exit_code == 0, report.failed
        assert (tmp_path / "x.bin").read_bytes() == server.expected_bytes("/a/x.bin")
    (asked,) = proxy.asked
    assert (asked.method, asked.target) == ("GET", "http://data.example/a/x.bin?v=1")
    assert asked.headers["host"] == "data.example"
    assert set(asked_names) == {"127.0.0.1"}


def test_a_large_file_comes_through_a_proxy_in_several_streams_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 24 << 20
    faults = [hf.chaos.Reset(after_bytes=3 << 20, share=0.5)]
    with hf.chaos.server(hf.chaos.Object("/x.bin", size), faults=faults, seed=3) as server:
        with TestingProxy({"data.example": ("127.0.0.1", server.port)}) as proxy:
            monkeypatch.setenv("ALL_PROXY", proxy.url())
            report = run(tmp_path, "http://data.example/x.bin")
        assert report.exit_code == 0, report.failed
        expected = hashlib.sha256(server.expected_bytes("/x.bin")).hexdigest()
    assert sha256_of(tmp_path / "x.bin") == expected
    assert len(proxy.asked) > 2


def test_no_proxy_is_asked_directly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hf.chaos.server(hf.chaos.Object("/x.bin", 1000)) as server, TestingProxy() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url())
        monkeypatch.setenv("no_proxy", "example.org,127.0.0.0/8")
        assert run(tmp_path, server.url("/x.bin")).exit_code == 0
    assert proxy.asked == []


@pytest.mark.parametrize("credentials", ["", "me:wrong"])
def test_wrong_credentials_are_told_once_and_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, credentials: str
) -> None:
    with TestingProxy(credentials="me:right") as proxy:
        monkeypatch.setenv("http_proxy", proxy.url(credentials))
        report = run(tmp_path, "http://data.example/x.bin")
    (failed,) = report.failed
    assert (failed.code, failed.reason) == ("HF-1112", "proxy")
    assert "407" in failed.text
    assert len(proxy.asked) == 1
    for file in tmp_path.iterdir():
        assert b"wrong" not in file.read_bytes()


def test_a_page_of_the_proxy_is_not_taken_for_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TestingProxy(page=b"<html>accept the terms</html>") as proxy:
        monkeypatch.setenv("http_proxy", proxy.url())
        report = run(tmp_path, "http://data.example/x.bin", size=5000)
    assert [failed.code for failed in report.failed] == ["HF-1307"]
    assert names_in(tmp_path) == []


def test_a_proxy_that_cannot_be_used_is_not_gone_around(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hf.chaos.server(hf.chaos.Object("/x.bin", 1000)) as server:
        monkeypatch.setenv("all_proxy", "socks5://me:secret@127.0.0.1:1080")
        report = run(tmp_path, server.url("/x.bin"))
        assert server.stats.requests == 0
    (failed,) = report.failed
    assert failed.code == "HF-1112"
    assert "socks5" in failed.text
    assert "secret" not in failed.text


def test_a_dead_proxy_is_not_gone_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with hf.chaos.server(hf.chaos.Object("/x.bin", 1000)) as server:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        report = run(tmp_path, server.url("/x.bin"))
        assert server.stats.requests == 0
    assert [failed.code for failed in report.failed] == ["HF-1102"]


# -- https -----------------------------------------------------------------------------------------

BODY = bytes(range(256)) * 2000


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make(tmp_path_factory.mktemp("tls"), "data.example", "DNS:data.example")


@contextmanager
def tls_server(files: Pair) -> Iterator[tuple[str, int]]:
    context = files.server()

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(client, server_side=True) as secure:
                    secure.recv(65536)
                    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY)
                    secure.sendall(head + BODY)
            except OSError:
                client.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.fixture
def trusted(certificate: Pair, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SSL_CERT_FILE", certificate[0])
    connecting.tls_context.cache_clear()
    yield
    connecting.tls_context.cache_clear()


@pytest.mark.usefixtures("trusted")
def test_https_goes_through_a_tunnel_and_is_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, certificate: Pair
) -> None:
    with (
        tls_server(certificate) as address,
        TestingProxy({"data.example": address}, credentials="me:pass") as proxy,
    ):
        monkeypatch.setenv("https_proxy", proxy.url("me:pass"))
        report = run(tmp_path, "https://user:word@data.example/x.bin")
    assert report.exit_code == 0, report.failed
    assert (tmp_path / "x.bin").read_bytes() == BODY
    (asked,) = proxy.asked
    assert (asked.method, asked.target) == ("CONNECT", "data.example:443")
    assert "authorization" not in asked.headers  # the server's credentials are not the proxy's


def test_the_certificate_behind_a_proxy_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, certificate: Pair
) -> None:
    connecting.tls_context.cache_clear()
    with (
        tls_server(certificate) as address,
        TestingProxy({"data.example": address}) as proxy,
    ):
        monkeypatch.setenv("https_proxy", proxy.url())
        report = run(tmp_path, "https://data.example/x.bin")
    assert [failed.code for failed in report.failed] == ["HF-1107"]


def test_a_proxy_that_refuses_to_connect_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TestingProxy(status=403) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url())
        report = run(tmp_path, "https://data.example/x.bin")
    (failed,) = report.failed
    assert failed.code == "HF-1112"
    assert "the proxy `127.0.0.1:" in failed.text
    assert "status: 403" in failed.text
    assert len(proxy.asked) == 1
