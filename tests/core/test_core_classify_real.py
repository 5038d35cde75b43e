"""Exceptions as Python's own network code really raises them, on loopback sockets."""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from core_failing_server import failing_server

from holdfast.core.classify import classify
from holdfast.core.verdict import (
    CANCELLED,
    CONCURRENCY,
    CONNECT,
    PERMANENT,
    THROTTLED,
    TIMEOUT,
    TRANSIENT,
    Kind,
    Sent,
    Verdict,
)

if TYPE_CHECKING:
    from collections.abc import Callable

FULL = Path("/dev/full")
NO, MAYBE, YES = Sent.NO, Sent.MAYBE, Sent.YES


def by_http_client(what: str) -> Verdict:
    with failing_server(what) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=0.2)
        try:
            connection.request("GET", "/")
            connection.getresponse().read()
        except Exception as error:
            return classify(error)
        finally:
            connection.close()
    raise AssertionError(what)


def by_urllib(what: str) -> Verdict:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with failing_server(what) as port:
        try:
            with opener.open(f"http://127.0.0.1:{port}/", timeout=0.2) as response:
                response.read()
        except urllib.error.HTTPError as error:
            with error:
                return classify(error)
        except Exception as error:
            return classify(error)
    raise AssertionError(what)


def by_asyncio(what: str) -> Verdict:
    async def main(port: int) -> None:
        async with asyncio.timeout(0.2):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b"GET / HTTP/1.1\r\n\r\n")
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(1000)
            finally:
                writer.transport.abort()

    with failing_server(what) as port:
        try:
            asyncio.run(main(port))
        except Exception as error:
            return classify(error)
    raise AssertionError(what)


@pytest.mark.parametrize(
    ("what", "kind", "sent"),
    [
        ("refused", CONNECT, NO),
        ("rst_head", TRANSIENT, MAYBE),
        ("fin_head", TRANSIENT, MAYBE),
        ("garbage", TRANSIENT, MAYBE),
        ("rst_body", TRANSIENT, MAYBE),
        ("fin_body", TRANSIENT, YES),
        ("cut_chunk", TRANSIENT, YES),
        ("bad_chunk", TRANSIENT, YES),
        ("silent_head", TIMEOUT, MAYBE),
        ("silent_body", TIMEOUT, MAYBE),
    ],
)
@pytest.mark.parametrize("client", [by_http_client, by_urllib])
def test_what_http_client_and_urllib_raise(
    client: Callable[[str], Verdict], what: str, kind: Kind, sent: Sent
) -> None:
    verdict = client(what)
    assert (verdict.kind, verdict.sent) == (kind, sent), verdict


@pytest.mark.parametrize(
    ("what", "kind", "sent"),
    [
        ("refused", CONNECT, NO),
        ("rst_head", TRANSIENT, MAYBE),
        ("fin_head", TRANSIENT, MAYBE),
        ("fin_body", TRANSIENT, MAYBE),
        ("silent_head", TIMEOUT, MAYBE),
    ],
)
def test_what_asyncio_raises(what: str, kind: Kind, sent: Sent) -> None:
    verdict = by_asyncio(what)
    assert (verdict.kind, verdict.sent) == (kind, sent), verdict


def test_an_answer_of_urllib_goes_by_its_status_and_headers() -> None:
    assert by_urllib("missing").kind is PERMANENT
    verdict = by_urllib("throttled")
    assert (verdict.kind, verdict.retry_after, verdict.sent) == (THROTTLED, 7, YES)


def test_an_end_of_file_in_the_tls_handshake() -> None:
    context = ssl.create_default_context()
    with (
        failing_server("tls_eof") as port,
        socket.create_connection(("127.0.0.1", port), timeout=1) as plain,
        pytest.raises(OSError, match=r"EOF|reset") as caught,
    ):
        context.wrap_socket(plain, server_hostname="localhost")
    verdict = classify(caught.value, connecting=True)
    assert (verdict.kind, verdict.sent) == (CONNECT, NO), caught.value


def test_a_server_that_speaks_no_tls_is_not_worth_a_repeat() -> None:
    context = ssl.create_default_context()
    with (
        failing_server("garbage") as port,
        socket.create_connection(("127.0.0.1", port), timeout=1) as plain,
        pytest.raises(ssl.SSLError) as caught,
    ):
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        context.wrap_socket(plain, server_hostname="localhost")
    assert classify(caught.value).kind is PERMANENT


def test_a_broken_pipe_by_writing_after_a_reset() -> None:
    with (
        failing_server("rst_head") as port,
        socket.create_connection(("127.0.0.1", port), timeout=1) as client,
    ):
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(ConnectionResetError) as reset:
            client.recv(1)
        with pytest.raises(BrokenPipeError) as broken:
            client.sendall(b"more")
    for caught in (reset.value, broken.value):
        assert (classify(caught).kind, classify(caught).sent) == (TRANSIENT, MAYBE)


def test_a_unix_socket_that_nobody_has_made() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX) as client,
        pytest.raises(FileNotFoundError) as caught,
    ):
        client.connect(str(Path(folder) / "absent"))
    assert classify(caught.value, connecting=True).kind is CONNECT


def test_an_address_that_is_no_address() -> None:
    with pytest.raises(socket.gaierror) as caught:
        socket.getaddrinfo("127.0.0.1", 1, family=socket.AF_INET6, flags=socket.AI_NUMERICHOST)
    verdict = classify(caught.value)
    assert (verdict.kind, verdict.sent) == (PERMANENT, NO)


def test_a_process_without_free_descriptors_is_at_its_own_limit() -> None:
    program = """
import resource, socket
from holdfast.core.classify import classify, verdict_for_status
resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8))
held = []
try:
    while True:
        held.append(socket.socket())
except OSError as error:
    verdict = classify(error)
    print(verdict.kind.name, verdict.local, verdict.reason)
for each in held:
    each.close()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.decode().split() == [CONCURRENCY.name, "True", "EMFILE"], done.stderr


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full on this platform")
def test_a_full_disk_is_this_machines() -> None:
    with FULL.open("wb", buffering=0) as full, pytest.raises(OSError, match="space") as caught:
        full.write(b"x")
    verdict = classify(caught.value)
    assert (verdict.kind, verdict.local, verdict.reason) == (PERMANENT, True, "ENOSPC")


def test_a_cancelled_task_is_cancelled_and_a_timeout_over_it_is_a_timeout() -> None:
    async def main() -> tuple[Verdict, Verdict]:
        task = asyncio.ensure_future(asyncio.sleep(60))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as cancelled:
            await task
        with pytest.raises(TimeoutError) as timed_out:
            async with asyncio.timeout(0):
                await asyncio.sleep(60)
        return classify(cancelled.value), classify(timed_out.value)

    cancelled, timed_out = asyncio.run(main())
    assert (cancelled.kind, timed_out.kind) == (CANCELLED, TIMEOUT)
