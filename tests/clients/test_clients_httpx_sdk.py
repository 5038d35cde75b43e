"""Software that has httpx inside: the SDKs of providers, TLS, proxies, HTTP/2."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from contextlib import contextmanager, suppress

import anthropic
import httpx
import pytest
from anthropic import _base_client
from httpx_faces import FACES, NOW, Connection, answer, answers, serving
from httpx_http2 import h2_script

import holdfast as hf
from certificates import make

INSIDE = vars(_base_client).get("httpx2", httpx)
"""What the SDK is built on: httpx2 since its version 1, httpx before."""
each = pytest.mark.parametrize("face", FACES, ids=repr)
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-test",
    "content": [{"type": "text", "text": "Hello"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 1},
}
ASK = {
    "model": "claude-test",
    "max_tokens": 10,
    "messages": [{"role": "user", "content": "Hi"}],
}


def says(kind: str, status: str) -> bytes:
    body = {"type": "error", "error": {"type": kind, "message": "text for people"}}
    return answer(json.dumps(body).encode(), status, "Content-Type: application/json")


GOOD = answer(json.dumps(MESSAGE).encode(), "200 OK", "Content-Type: application/json")
OVERLOADED = says("overloaded_error", "529 Overloaded")
POOR = says("billing_error", "402 Payment Required")


def policy(**options) -> hf.Policy:
    retry = hf.Retry(4, backoff=NOW, budget=None, **options)
    return hf.policy(hf.Deadline(20), retry, name="anthropic")


def sdk(server, held: hf.Policy) -> anthropic.Anthropic:
    transport = hf.clients.httpx.Transport(held, provider="anthropic")
    return anthropic.Anthropic(
        api_key="key",
        base_url=server.url,
        http_client=INSIDE.Client(transport=transport),
        max_retries=0,
    )


def test_the_policy_retries_for_the_anthropic_sdk():
    with serving(answers(OVERLOADED, OVERLOADED, GOOD)) as server, sdk(server, policy()) as client:
        assert client.messages.create(**ASK).content[0].text == "Hello"
        assert len(server.requests) == 3  # a POST that was not executed is safe to repeat


def test_the_sdk_raises_its_own_error_for_the_last_answer():
    for reply, error, times in (
        (OVERLOADED, anthropic.APIStatusError, 4),
        (POOR, anthropic.APIStatusError, 1),
    ):
        with serving(answers(reply)) as server, sdk(server, policy()) as client:
            with pytest.raises(error) as caught:
                client.messages.create(**ASK)
            assert caught.value.body["error"]["message"] == "text for people"
            assert len(server.requests) == times


def test_a_post_that_may_have_been_paid_for_is_repeated_only_with_a_key():
    for options, times in (({}, 1), ({"idempotency_key": True}, 2)):
        replies = answers("rst", GOOD)
        with serving(replies) as server, sdk(server, policy(**options)) as client:
            try:
                client.messages.create(**ASK)
            except anthropic.APIConnectionError:
                assert not options
            assert len(server.requests) == times


def test_the_asynchronous_sdk_streams_through_the_transport():
    events = [
        ("message_start", {"type": "message_start", "message": {**MESSAGE, "content": []}}),
        (
            "content_block_start",
            {
                "type": "content_block_start",
                "index": 0,
                "content_block": {"type": "text", "text": ""},
            },
        ),
        (
            "content_block_delta",
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": "Hello"},
            },
        ),
        ("content_block_stop", {"type": "content_block_stop", "index": 0}),
        (
            "message_delta",
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn", "stop_sequence": None},
                "usage": {"output_tokens": 1},
            },
        ),
        ("message_stop", {"type": "message_stop"}),
    ]
    stream = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events)
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    left = [OVERLOADED]

    def script(connection: Connection) -> None:
        while connection.request() is not None:
            if not left:
                connection.send((head + stream).encode())
                return
            connection.send(left.pop())

    async def main(url: str) -> str:
        transport = hf.clients.httpx.AsyncTransport(policy(), provider="anthropic")
        async with (
            anthropic.AsyncAnthropic(
                api_key="key",
                base_url=url,
                http_client=INSIDE.AsyncClient(transport=transport),
                max_retries=0,
            ) as client,
            client.messages.stream(**ASK) as messages,
        ):
            return "".join([text async for text in messages.text_stream])

    with serving(script) as server:
        assert asyncio.run(main(server.url)) == "Hello"
        assert len(server.requests) == 2
        assert server.quiet()


# -- TLS and proxies ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """Return (the server's context, a client's context that trusts it)."""
    pair = make(tmp_path_factory.mktemp("tls"), "127.0.0.1", "IP:127.0.0.1")
    return pair.server(), pair.client()


def secured(script, tls, **options):
    return serving(
        script,
        wrap=lambda sock: tls[0].wrap_socket(sock, server_side=True),
        scheme="https",
        **options,
    )


@each
def test_retries_and_reuse_over_tls(face, tls):
    busy = answer(b"", "503 Service Unavailable")
    held = hf.policy(hf.Deadline(10), hf.Retry(3, backoff=NOW, budget=None))
    with (
        secured(answers(busy, "fin", answer()), tls) as server,
        face.client(held, face.inner(verify=tls[1])) as c,
    ):
        assert c.get(server.url).content == b"fine"
        assert c.get(server.url).content == b"fine"
        # "fin" met a reused connection: the resend has one of its own, closed with the answer.
        assert server.connections == 3


@each
@pytest.mark.parametrize("second", [False, True], ids=["first", "reused"])
def test_a_dripping_answer_over_tls_is_ended_by_the_deadline(face, tls, second):
    def script(connection: Connection) -> None:
        if second and connection.request() is not None:
            connection.send(answer())
        if connection.request() is not None:
            for byte in answer(b"x" * 50):
                connection.send(bytes([byte]))
                time.sleep(0.1)

    with (
        secured(script, tls) as server,
        face.client(hf.policy(hf.Deadline(0.5)), face.inner(verify=tls[1])) as c,
    ):
        if second:
            with hf.deadline(5):
                c.get(server.url)
        began = time.monotonic()
        with pytest.raises(hf.DeadlineExceeded):
            c.get(server.url)
        assert 0.45 <= time.monotonic() - began <= 0.6
        assert server.quiet()


@each
def test_a_silent_tls_handshake_is_ended_by_the_deadline(face, tls):
    with (
        serving(lambda connection: connection.wait(), scheme="https") as server,
        face.client(hf.policy(hf.Deadline(0.3)), face.inner(verify=tls[1])) as c,
    ):
        began = time.monotonic()
        with pytest.raises(hf.DeadlineExceeded):
            c.get(server.url)
        assert 0.25 <= time.monotonic() - began <= 0.4


@each
def test_an_untrusted_certificate_is_not_worth_repeating(face, tls):
    held = hf.policy(hf.Deadline(10), hf.Retry(3, backoff=NOW, budget=None))
    with (
        secured(answers(answer()), tls) as server,
        face.client(held, face.inner()) as c,
        pytest.raises(face.lib.ConnectError, match="CERTIFICATE_VERIFY_FAILED") as caught,
    ):
        c.get(server.url)
    assert "not worth repeating" in caught.value.__notes__[0]
    assert server.requests == []


def proxy(upstream_port: int, *, broken: list[str]):
    """Return the script of a proxy for CONNECT; `broken`: what it does instead, in order."""

    def script(connection: Connection) -> None:
        head = connection.head()
        assert head is not None
        assert head.method == "CONNECT"
        if broken:
            fault = broken.pop(0)
            if fault == "rst":
                connection.reset()
            elif fault != "fin":
                connection.send(fault.encode())
            return
        connection.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with socket.create_connection(("127.0.0.1", upstream_port)) as upstream:

            def back() -> None:
                with suppress(OSError):
                    while data := upstream.recv(65536):
                        connection.sock.sendall(data)

            thread = threading.Thread(target=back, daemon=True)
            thread.start()
            while data := connection.sock.recv(65536):
                upstream.sendall(data)
            upstream.shutdown(socket.SHUT_RDWR)
            thread.join(5)

    return script


@each
@pytest.mark.parametrize("fault", ["rst", "fin", "HTTP/1.1 502 Bad Gateway\r\n\r\n"])
def test_what_fails_inside_a_proxy_was_never_sent(face, tls, fault):
    """A POST is repeated, because the request itself had not begun to go out."""
    held = hf.policy(hf.Deadline(10), hf.Retry(3, backoff=NOW, budget=None))
    events = []
    stop = hf.subscribe(events.append)
    try:
        with (
            secured(answers(answer()), tls) as server,
            serving(proxy(server.port, broken=[fault])) as between,
            face.client(held, face.inner(verify=tls[1], proxy=between.url)) as c,
        ):
            assert c.post(server.url, content=b"pay").content == b"fine"
            assert c.post(server.url, content=b"pay").content == b"fine"
            assert [one.body for one in server.requests] == [b"pay"] * 2
            assert between.connections == 2
    finally:
        stop()
    tried = [event for event in events if type(event).__name__ == "Attempt"]
    assert str(tried[0].sent) == "no"
    assert tried[-1].reused


# -- HTTP/2 ------------------------------------------------------------------------------


@contextmanager
def http2(tls, seen: list[str], *steps: object):
    tls[0].set_alpn_protocols(["h2"])
    with secured(h2_script(seen, list(steps)), tls) as server:
        yield server


@each
def test_retries_over_http_2(face, tls):
    seen: list[str] = []
    held = hf.policy(hf.Deadline(10), hf.Retry(3, backoff=NOW, budget=None))
    with (
        http2(tls, seen, 503, 200, 200, "rst", 200) as server,
        face.client(held, face.inner(verify=tls[1], http2=True)) as c,
    ):
        r = c.get(server.url)
        assert (r.http_version, r.content) == ("HTTP/2", b"fine")
        assert c.get(server.url).content == b"fine"
        assert server.connections == 1
        assert c.get(server.url).content == b"fine"
        assert len(seen) == 5
    assert server.quiet()


@each
def test_a_stale_connection_over_http_2_is_no_attempt(face, tls):
    seen: list[str] = []
    with (
        http2(tls, seen, 200, "goaway", 200) as server,
        face.client(hf.policy(hf.Deadline(10)), face.inner(verify=tls[1], http2=True)) as c,
    ):
        assert c.get(server.url).content == b"fine"
        assert c.get(server.url).content == b"fine"  # without a Retry
        assert seen == ["GET"] * 3


@each
def test_a_deadline_interrupts_http_2(face, tls):
    seen: list[str] = []
    held = hf.policy(hf.Deadline(0.4), hf.Bulkhead(5))
    with (
        http2(tls, seen, "hole") as server,
        face.client(held, face.inner(verify=tls[1], http2=True)) as c,
    ):
        began = time.monotonic()
        with pytest.raises(hf.DeadlineExceeded):
            c.get(server.url)
        assert 0.35 <= time.monotonic() - began <= 0.55
        assert held.state()["active"] == 0
    assert server.quiet()
