"""Calls through requests: what is repeated, what comes back, and what stays as it was."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest
import requests
import urllib3
from clients_requests_rig import NOW, chunks, mounted
from clients_server import attempts_of, listening, serving
from urllib3.util import Retry as InnerRetry
from urllib3.util import Timeout as InnerTimeout

import holdfast as hf
from scripted import FIN, HOLE, RST, Listening, answer

OK = answer(200, b"fine")
BUSY = answer(503, b"busy")


def policy(*more: object, deadline: float = 20.0) -> hf.Policy:
    return hf.policy(hf.Deadline(deadline), hf.Bulkhead(100), *more)


def three() -> hf.Policy:
    return policy(hf.Retry(3, backoff=NOW))


# -- attempts ----------------------------------------------------------------------------


def test_a_call_is_repeated_until_it_succeeds():
    with (
        serving(lambda asked: [BUSY if asked.no < 3 else OK]) as server,
        mounted(three(), server) as session,
        listening() as events,
    ):
        response = session.get(server.url)
    assert (response.status_code, response.content, response.text) == (200, b"fine", "fine")
    assert [event.no for event in attempts_of(events)] == [1, 2, 3]
    assert [event.reused for event in attempts_of(events)] == [False, True, True]
    assert server.connections == 1


def test_the_last_answer_comes_back_and_is_no_exception():
    with serving(lambda asked: [BUSY]) as server, mounted(three(), server) as session:
        response = session.get(server.url)
        assert (response.status_code, response.content) == (503, b"busy")
        assert len(server.asked) == 3
        with pytest.raises(requests.HTTPError):
            response.raise_for_status()


def test_the_last_answer_can_be_streamed():
    big = b"x" * (2 << 20)

    def script(asked):
        return [answer(503, big)]

    with serving(script) as server, mounted(three(), server) as session:
        with session.get(server.url, stream=True) as response:
            assert sum(map(len, response.iter_content(65536))) == len(big)
        assert len(server.asked) == 3


def test_a_transport_error_is_the_library_s_own_with_one_note():
    with serving(lambda asked: [RST]) as server, mounted(three(), server) as session:
        with pytest.raises(requests.ConnectionError) as caught:
            session.get(server.url)
        assert len(caught.value.__notes__) == 1
        assert "3 attempts" in caught.value.__notes__[0]
        assert isinstance(caught.value.request, requests.PreparedRequest)


def test_nobody_listens_was_never_sent_and_a_post_is_repeated():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    refused = pytest.raises(requests.ConnectionError)
    with mounted(three()) as session, listening() as events, refused:
        session.post(f"http://127.0.0.1:{port}/", data=b"x")
    assert [(event.kind, str(event.sent)) for event in attempts_of(events)] == [
        ("connect", "no")
    ] * 3


def test_a_post_that_may_have_run_is_not_repeated():
    with (
        serving(lambda asked: [RST]) as server,
        mounted(three(), server) as session,
        listening() as events,
        pytest.raises(requests.ConnectionError) as caught,
    ):
        session.post(server.url, data=b"order")
    assert [str(event.sent) for event in attempts_of(events)] == ["maybe"]
    assert len(server.asked) == 1
    assert "must not be repeated" in caught.value.__notes__[0]


def test_a_post_with_a_key_is_repeated_with_the_same_key():
    def script(asked):
        return [RST] if asked.no < 3 else [OK]

    keyed = policy(hf.Retry(3, backoff=NOW, idempotency_key=True))
    with serving(script) as server, mounted(keyed, server) as session:
        response = session.post(server.url, data=b"order")
        assert response.status_code == 200
        session.post(server.url, data=b"order")
        keys = [asked.headers["idempotency-key"] for asked in server.asked]
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert response.request.headers["Idempotency-Key"] == keys[0]
    assert response.request.body == b"order"


def test_a_request_that_is_sent_twice_by_the_user_is_two_calls():
    keyed = policy(hf.Retry(3, backoff=NOW, idempotency_key=True))
    with serving(lambda asked: [OK]) as server, mounted(keyed, server) as session:
        prepared = session.prepare_request(requests.Request("POST", server.url, data=b"x"))
        session.send(prepared)
        session.send(prepared)
        assert "Idempotency-Key" not in prepared.headers
        first, second = [asked.headers["idempotency-key"] for asked in server.asked]
    assert first != second


def test_a_key_of_the_user_s_own_is_kept_and_makes_the_post_repeatable():
    def script(asked):
        return [RST] if asked.no == 1 else [OK]

    with serving(script) as server, mounted(three(), server) as session:
        session.post(server.url, data=b"x", headers={"idempotency-key": "mine"})
        assert [asked.headers["idempotency-key"] for asked in server.asked] == ["mine"] * 2


def test_a_server_s_wait_is_heeded():
    def script(asked):
        return [answer(429, b"", "Retry-After: 7")] if asked.no == 1 else [OK]

    with (
        hf.testing.clock() as clock,
        serving(script) as server,
        mounted(hf.policy(hf.Retry(2)), server) as session,
    ):
        assert session.get(server.url).status_code == 200
        assert len(clock.slept) == 1
        assert 7 <= clock.slept[0] <= 7.7


def test_a_dead_backend_sees_hardly_more_than_was_asked():
    calls = 1000
    with hf.testing.clock(), serving(lambda asked: [BUSY]) as server:
        with mounted(hf.policy(hf.Retry(3)), server) as session:
            for _ in range(calls):
                assert session.get(server.url).status_code == 503
        assert len(server.asked) <= 1.05 * calls


def test_no_file_descriptors_left_is_no_fault_of_the_backend(monkeypatch):
    def refuse(*_):
        raise OSError(24, "Too many open files")

    limited = policy(hf.Retry(2, backoff=NOW), hf.Breaker(consecutive=1))
    with mounted(limited) as session, listening() as events:
        monkeypatch.setattr(socket, "socket", refuse)
        with pytest.raises(requests.ConnectionError):
            session.get("http://127.0.0.1:9/")
        monkeypatch.undo()
    assert {event.kind for event in attempts_of(events)} == {"concurrency"}
    assert limited.state()["circuit"] == "closed"


@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
def test_the_provider_s_code_decides(stream):
    def script(asked):
        code = 1303 if asked.no <= 5 else 0
        return [answer(429 if code else 200, json.dumps({"code": code}).encode())]

    with hf.testing.clock() as clock, serving(script) as server:
        held = hf.policy(hf.Retry(6))
        with mounted(held, server, provider="kling") as session:
            assert session.get(server.url, stream=stream).json() == {"code": 0}
        assert len(clock.slept) == 5
        assert min(clock.slept) >= 1


def test_a_code_for_no_money_is_not_repeated():
    body = gzip.compress(b'{"code": 1102}')

    def script(asked):
        return [answer(429, body, "Content-Encoding: gzip")]

    with serving(script) as server:
        for stream in (False, True):
            with mounted(three(), server, provider="kling") as session:
                assert session.get(server.url, stream=stream).json()["code"] == 1102
    assert len(server.asked) == 2


# -- time --------------------------------------------------------------------------------


def drip(*pieces: bytes) -> list[bytes | float]:
    return [step for piece in pieces for step in (piece, 0.3)]


SLOW = {
    "silent": [HOLE],
    "head": drip(*(bytes([byte]) for byte in OK)),
    "chunks": drip(chunks(b"ab", end=False), *[b"1\r\nx\r\n"] * 20),
    "until the end": drip(b"HTTP/1.1 200 OK\r\n\r\n", *[b"x"] * 20),
    "interim": drip(*[b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hint\r\n\r\n"] * 10),
}


@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
@pytest.mark.parametrize("steps", SLOW.values(), ids=SLOW)
def test_a_deadline_of_a_second_ends_a_call_in_a_second(steps, stream):
    with serving(lambda asked: steps) as server, mounted(policy(deadline=1), server) as session:
        began = time.monotonic()
        with pytest.raises(hf.DeadlineExceeded):
            session.get(server.url, stream=stream).content  # noqa: B018 - reading is the point
        assert 0.9 < time.monotonic() - began < 1.3  # 1.05 on a machine that is not shared


def test_each_attempt_has_its_own_limit():
    def script(asked):
        return [HOLE] if asked.no < 3 else [OK]

    held = policy(hf.Retry(3, backoff=NOW), hf.Timeout(0.1))
    with serving(script) as server, mounted(held, server) as session:
        began = time.monotonic()
        assert session.get(server.url).content == b"fine"
        assert 0.2 <= time.monotonic() - began < 2


@pytest.mark.parametrize(
    "timeout",
    [0.1, (5, 0.1), InnerTimeout(total=0.1), InnerTimeout(connect=5, read=0.1)],
    ids=["both", "pair", "total", "urllib3"],
)
@pytest.mark.parametrize("limited", [True, False], ids=["deadline", "no deadline"])
def test_the_library_s_own_timeout_stays(timeout, limited):
    held = policy() if limited else hf.policy(hf.Retry(1))
    with serving(lambda asked: [HOLE]) as server, mounted(held, server) as session:
        began = time.monotonic()
        with pytest.raises(requests.ReadTimeout):
            session.get(server.url, timeout=timeout)
        assert time.monotonic() - began < 2


def test_a_wrong_timeout_is_explained_by_requests():
    with mounted(policy()) as session, pytest.raises(ValueError, match="Invalid timeout"):
        session.get("http://127.0.0.1:9/", timeout=(1, 2, 3))


@contextmanager
def full():
    """Give the address of a listener that accepts no more connections, and answers none."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as stack:
        for _ in range(3):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)  # noqa: FBT003 - its only form
            sock.connect_ex(listener.getsockname())
        yield listener.getsockname()


def test_a_connection_that_nobody_accepts_ends_with_the_deadline():
    with full() as (_, port), mounted(policy(deadline=0.3)) as session, listening() as events:
        began = time.monotonic()
        with pytest.raises(hf.DeadlineExceeded):
            session.post(f"http://127.0.0.1:{port}/", data=b"x")
        assert time.monotonic() - began < 1
    assert [str(event.sent) for event in attempts_of(events)] == ["no"]


def test_all_addresses_of_a_name_share_the_limit(monkeypatch):
    """Each of four silent addresses would take the whole limit for itself otherwise."""
    real = socket.getaddrinfo

    def four(host, *rest, **more):
        found = real("127.0.0.1", *rest, **more)
        return found * 4 if host == "four.test" else found

    monkeypatch.setattr(socket, "getaddrinfo", four)
    held = hf.policy(hf.Timeout(0.4), order="free")
    with full() as (_, port), mounted(held) as session:
        began = time.monotonic()
        with pytest.raises((requests.ConnectionError, TimeoutError)):
            session.get(f"http://four.test:{port}/")
        assert time.monotonic() - began < 0.8


def test_waiting_for_a_connection_ends_with_the_deadline():
    with serving(lambda asked: [0.6, OK]) as server:
        session = requests.Session()
        held = hf.policy(hf.Deadline(0.3))
        adapter = hf.clients.requests.Adapter(held, pool_maxsize=1, pool_block=True)
        session.mount("http://", adapter)

        def first():
            with pytest.raises(hf.DeadlineExceeded):
                session.get(server.url)

        slow = threading.Thread(target=first)
        with session:
            slow.start()
            time.sleep(0.05)
            began = time.monotonic()
            with pytest.raises(hf.DeadlineExceeded):
                session.get(server.url)
            assert time.monotonic() - began < 0.6
            slow.join(5)


def test_redirects_share_the_deadline():
    def script(asked):
        return [0.25, answer(302, b"", f"Location: /{asked.no}")]

    with serving(script) as server, mounted(policy(), server) as session:
        began = time.monotonic()
        with hf.deadline(0.6), pytest.raises(hf.DeadlineExceeded):
            session.get(server.url)
        assert time.monotonic() - began < 1.2
        assert len(server.asked) == 3


# -- connections -------------------------------------------------------------------------


def stale(asked):
    """Answer once per connection, and hang up when the second request arrives."""
    return [OK] if asked.turn == 1 else [FIN]


def test_a_stale_connection_is_replaced_without_an_attempt():
    with serving(stale) as server, mounted(policy(hf.Breaker(consecutive=1))) as session:
        with listening() as events:
            for _ in range(50):
                assert session.get(server.url).content == b"fine"
        assert [event.no for event in attempts_of(events)] == [1] * 50
        assert server.connections == 50


def test_a_stale_post_is_sent_again_only_if_asked_for():
    with serving(stale) as server:
        with mounted(policy()) as session:
            session.get(server.url)
            with pytest.raises(requests.ConnectionError):
                session.post(server.url, data=b"x")
        with mounted(policy(), replay_reused="any") as session:
            session.get(server.url)
            assert session.post(server.url, data=b"x").content == b"fine"
        with mounted(policy(), replay_reused="never") as session:
            session.get(server.url)
            with pytest.raises(requests.ConnectionError):
                session.get(server.url)


def test_after_a_kept_connection_was_silent_the_next_attempt_has_a_new_one():
    def script(asked):
        return [OK] if asked.turn == 1 else [HOLE]

    held = policy(hf.Retry(2, backoff=NOW), hf.Timeout(0.2))
    with serving(script) as server, mounted(held, server) as session:
        urls = [server.url] * 6
        with ThreadPoolExecutor(6) as pool:  # six connections that are silent from now on
            assert all(pool.map(session.get, urls))
        assert session.get(server.url).content == b"fine"


def test_after_a_misdirected_request_the_next_attempt_has_a_new_connection():
    def script(asked):
        return [answer(421) if asked.turn == 2 else OK]

    with serving(script) as server, mounted(three(), server) as session:
        session.get(server.url)
        assert session.get(server.url).content == b"fine"
        assert [asked.turn for asked in server.asked] == [1, 2, 1]


def test_an_interrupt_closes_the_connection():
    class Interrupt(BaseException):
        pass

    def pieces():
        yield b"some"
        while not server.asked:
            time.sleep(0.001)
        raise Interrupt

    with serving(lambda asked: [OK]) as server, mounted(three(), server) as session:
        with pytest.raises(Interrupt):
            session.post(server.url, data=pieces())
        assert server.quiet()
        assert server.asked[0].body == b""


def test_twenty_threads_share_a_session():
    def script(asked):
        if asked.no % 7 == 0:
            return [RST]
        return [answer(200, asked.target.encode() * 100)]

    with serving(script) as server, mounted(policy(hf.Retry(9, backoff=NOW)), server) as session:

        def fetch(n):
            return session.get(f"{server.url}/{n}").content == b"/%d" % n * 100

        with ThreadPoolExecutor(20) as pool:
            assert all(pool.map(fetch, range(600)))


# -- bodies ------------------------------------------------------------------------------


class Uploader:
    """As requests_toolbelt's MultipartEncoder: `read` and `len`, neither seek nor iteration."""

    def __init__(self, data: bytes) -> None:
        self._rest = data
        self.len = len(data)

    def read(self, size: int = -1) -> bytes:
        size = len(self._rest) if size < 0 else size
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece


DATA = bytes(range(256)) * 1000


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (lambda: DATA, DATA),
        (lambda: bytearray(DATA), DATA),
        (lambda: memoryview(DATA), DATA),
        (lambda: "grüße", "grüße".encode()),
        (lambda: {"a": "1", "b": ["2", "3"]}, b"a=1&b=2&b=3"),
        (lambda: io.BytesIO(DATA), DATA),
    ],
    ids=["bytes", "bytearray", "memoryview", "str", "form", "file"],
)
def test_bodies_are_sent_again_as_they_were(body, sent):
    def script(asked):
        return [BUSY] if asked.no < 3 else [OK]

    with serving(script) as server, mounted(three(), server) as session:
        assert session.put(server.url, data=body()).status_code == 200
        assert [asked.body for asked in server.asked] == [sent] * 3


def test_a_file_is_sent_again_from_where_it_stood():
    file = io.BytesIO(b"head" + DATA)
    file.seek(4)

    def script(asked):
        return [BUSY] if asked.no < 3 else [OK]

    with serving(script) as server, mounted(three(), server) as session:
        assert session.put(server.url, data=file).status_code == 200
        assert [asked.body for asked in server.asked] == [DATA] * 3


def test_multipart_files_are_sent_again():
    def script(asked):
        return [BUSY] if asked.no < 2 else [OK]

    with serving(script) as server, mounted(three(), server) as session:
        session.put(server.url, files={"f": ("name", io.BytesIO(DATA))})
        first, second = [asked.body for asked in server.asked]
    assert first == second
    assert DATA in first


@pytest.mark.parametrize(
    "body", [lambda: iter([b"ab", b"cd"]), lambda: Uploader(b"abcd")], ids=["generator", "reader"]
)
def test_an_iterator_is_sent_once_unless_it_was_kept(body):
    def script(asked):
        return [BUSY] if asked.no % 2 else [OK]

    with serving(script) as server:
        with mounted(three(), server) as session, listening() as events:
            response = session.put(server.url, data=body())
            assert response.status_code == 503
            assert len(server.asked) == 1
        assert [event.reason for event in events if hasattr(event, "attempts")] == [
            "body_not_replayable"
        ]
        with mounted(three(), replay_buffer=1000) as session:
            session.get(server.url)  # an even number of requests before
            assert session.put(server.url, data=body()).status_code == 200
    assert [asked.body for asked in server.asked if asked.method == "PUT"] == [b"abcd"] * 3


@pytest.mark.parametrize("framing", ["file", "generator"])
def test_a_body_that_breaks_off_is_never_sent_short(framing):
    """The server never sees a complete request with a part of the body."""

    class Broken(io.BytesIO):
        def read(self, size=-1):
            if self.tell() > 100_000:
                raise OSError(5, "Input/output error")
            return super().read(size)

    def pieces():
        yield DATA[:100_000]
        raise RuntimeError("the source failed")

    body = Broken(DATA) if framing == "file" else pieces()
    with serving(lambda asked: [OK]) as server, mounted(three(), server) as session:
        with pytest.raises((requests.ConnectionError, RuntimeError)):
            session.put(server.url, data=body)
        assert server.quiet()
        assert all(asked.body == b"" for asked in server.asked)


def test_what_a_server_answers_before_the_body_is_sent_arrives():
    big = b"x" * (4 << 20)

    class Early(Listening):
        def serve(self, sock):
            sock.recv(65536)
            sock.sendall(answer(413, b"too much", "Connection: close"))
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(1 << 20):
                pass

    server = Early()
    with mounted(three(), server) as session:
        response = session.put(f"http://127.0.0.1:{server.port}/", data=big)
        assert (response.status_code, response.content) == (413, b"too much")
    server.close()


# -- what requests does, it still does ---------------------------------------------------


def test_redirects_are_followed_each_by_its_own_attempts():
    def script(asked):
        if asked.no in {1, 3}:
            return [BUSY]
        return [answer(302, b"", "Location: /b")] if asked.target == "/" else [OK]

    with serving(script) as server, mounted(three(), server) as session:
        response = session.get(server.url)
        assert response.content == b"fine"
        assert [one.status_code for one in response.history] == [302]
        assert [asked.target for asked in server.asked] == ["/", "/", "/b", "/b"]


def test_too_many_redirects_are_requests_own_error():
    def script(asked):
        return [answer(302, b"", "Location: /")]

    with serving(script) as server, mounted(three(), server) as session:
        session.max_redirects = 4
        with pytest.raises(requests.TooManyRedirects):
            session.get(server.url)
        assert len(server.asked) == 5


def test_credentials_do_not_go_to_another_origin():
    keyed = policy(hf.Retry(3, idempotency_key=True))
    with serving(lambda asked: [OK]) as other:

        def script(asked):
            return [answer(307, b"", f"Location: {other.url}")]

        with serving(script) as server, mounted(keyed) as session:
            session.get(server.url, auth=("user", "secret"), cookies={"a": "b"})
        assert "authorization" in server.asked[0].headers
        assert "authorization" not in other.asked[0].headers


def test_cookies_are_kept():
    def script(asked):
        return [answer(200, b"", "Set-Cookie: a=b")]

    with serving(script) as server, mounted(three(), server) as session:
        assert session.get(server.url).cookies["a"] == "b"
        session.get(server.url, stream=True).close()
        session.get(server.url)
        assert [asked.headers.get("cookie") for asked in server.asked] == [None, "a=b", "a=b"]


def test_hooks_and_digest_authentication_work():
    challenge = 'WWW-Authenticate: Digest realm="r", nonce="n", qop="auth"'
    seen = []

    def script(asked):
        return [OK if "authorization" in asked.headers else answer(401, b"", challenge)]

    with serving(script) as server, mounted(three(), server) as session:
        session.hooks["response"].append(lambda response, **_: seen.append(response.status_code))
        auth = requests.auth.HTTPDigestAuth("user", "secret")
        assert session.post(server.url, data=b"body", auth=auth).content == b"fine"
        assert [asked.body for asked in server.asked] == [b"body"] * 2
    assert seen == [200]  # the hook of the authentication comes first and replaces the answer


def test_a_fallback_takes_the_place_of_the_response():
    held = hf.policy(hf.Fallback("instead", on=hf.TRANSIENT), hf.Retry(2, backoff=NOW))
    with serving(lambda asked: [RST]) as server, mounted(held, server) as session:
        adapter = session.get_adapter(server.url)
        prepared = session.prepare_request(requests.Request("GET", server.url))
        assert adapter.send(prepared) == "instead"


@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
@pytest.mark.parametrize("kind", ["urllib3", "derived", "file"])
def test_answers_that_a_test_s_fake_made_up_are_taken(monkeypatch, kind, stream):
    """As libraries do that replace `HTTPAdapter.send` in tests."""

    class Derived(urllib3.HTTPResponse):
        pass

    made = iter([503, 200])

    def send(self, request, **_):
        kinds = {"urllib3": urllib3.HTTPResponse, "derived": Derived}
        response = requests.Response()
        response.status_code, response.url = next(made), request.url
        body = io.BytesIO(b"made up")
        response.raw = (
            body if kind == "file" else kinds[kind](body, preload_content=False, status=200)
        )
        return response

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)
    with mounted(three()) as session:
        response = session.get("http://127.0.0.1:9/", stream=stream)
        assert (response.status_code, response.content) == (200, b"made up")


# -- mounting ----------------------------------------------------------------------------


def test_mount_returns_the_session_and_keeps_the_sizes_of_its_pools():
    session = requests.Session()
    session.mount(
        "http://",
        requests.adapters.HTTPAdapter(
            pool_connections=3, pool_maxsize=77, pool_block=True, max_retries=InnerRetry(3)
        ),
    )
    assert hf.clients.requests.mount(session, policy()) is session
    adapter = session.get_adapter("http://x/")
    assert isinstance(adapter, hf.clients.requests.Adapter)
    assert (adapter._pool_connections, adapter._pool_maxsize, adapter._pool_block) == (3, 77, True)
    assert adapter.max_retries.total == 0
    assert session.get_adapter("https://x/")._pool_maxsize == 10


def test_mount_changes_only_what_begins_with_its_prefixes():
    session = requests.Session()
    hf.clients.requests.mount(session, policy(), prefixes=["http://api.test/"])
    assert isinstance(session.get_adapter("http://api.test/x"), hf.clients.requests.Adapter)
    assert type(session.get_adapter("http://other.test/")) is requests.adapters.HTTPAdapter
    assert type(session.get_adapter("https://api.test/")) is requests.adapters.HTTPAdapter


def test_an_adapter_of_another_kind_is_not_thrown_away():
    class Mine(requests.adapters.HTTPAdapter):
        pass

    session = requests.Session()
    session.mount("https://", Mine())
    before = dict(session.adapters)
    with pytest.raises(TypeError, match="Mine"):
        hf.clients.requests.mount(session, policy())
    assert session.adapters == before


def test_a_derived_adapter_can_be_mounted():
    class Mine(hf.clients.requests.Adapter):
        def init_poolmanager(self, *args, **kwargs):
            super().init_poolmanager(*args, source_address=("127.0.0.1", 0), **kwargs)

    script = lambda asked: [BUSY if asked.no == 1 else OK]  # noqa: E731 - as short as elsewhere
    with serving(script) as server, requests.Session() as session:
        session.mount("http://", Mine(three(), pool_maxsize=2))
        assert session.get(server.url).content == b"fine"


def test_retries_of_urllib3_under_the_policy_are_refused():
    with pytest.raises(ValueError, match="max_retries"):
        hf.clients.requests.Adapter(policy(), max_retries=InnerRetry(3))


def test_options_are_checked():
    with pytest.raises(ValueError, match="replay_reused"):
        hf.clients.requests.mount(requests.Session(), policy(), replay_reused="some")
    with pytest.raises(TypeError):
        hf.clients.requests.mount(requests.Session(), policy(), unknown=1)


def test_only_codings_that_are_decoded_here_are_asked_for(monkeypatch):
    session = requests.Session()
    session.headers["Accept-Encoding"] = requests.utils.default_headers()["Accept-Encoding"]
    hf.clients.requests.mount(session, policy())
    assert session.headers["Accept-Encoding"] == "gzip, deflate"
    session.headers["Accept-Encoding"] = "br"
    hf.clients.requests.mount(session, policy())
    assert session.headers["Accept-Encoding"] == "br"


def test_a_session_can_be_pickled():
    with serving(lambda asked: [BUSY if asked.no == 1 else OK]) as server:
        session = hf.clients.requests.mount(requests.Session(), three(), buffer=5)
        with pickle.loads(pickle.dumps(session)) as copied:
            assert copied.get(server.url).content == b"fine"
            assert copied.get_adapter(server.url)._options.buffer == 5


def test_holdfast_does_not_import_requests():
    code = "import sys, holdfast as hf; hf.clients; assert 'requests' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("sys.modules['requests'] = None", "needs requests: `pip install"),
        ("import urllib3.exceptions as e; del e.NameResolutionError", "urllib3 2.0 or newer"),
    ],
    ids=["missing", "old"],
)
def test_what_is_missing_is_said_in_a_line(broken, said):
    code = f"import sys, holdfast as hf; {broken}; hf.clients.requests"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert said in done.stderr.splitlines()[-1]
