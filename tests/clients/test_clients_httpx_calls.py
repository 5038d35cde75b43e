"""What a policy makes of the requests of an httpx client, in both libraries and both ways."""

from __future__ import annotations

import asyncio
import errno
import gc
import json
import socket
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import httpx
import httpx2
import pytest
from httpx_faces import FACES, NOW, Connection, answer, answers, serving

import holdfast as hf

FIRST = FACES[0]
each = pytest.mark.parametrize("face", FACES, ids=repr)
sync_only = pytest.mark.parametrize("face", [face for face in FACES if not face.is_async], ids=repr)
BUSY = answer(b"busy", "503 Service Unavailable")


def retrying(attempts: int = 3, **options) -> hf.Policy:
    return hf.policy(hf.Deadline(10), hf.Retry(attempts, backoff=NOW, budget=None, **options))


# -- attempts ----------------------------------------------------------------------------


@each
def test_failures_of_the_server_and_of_the_connection_are_retried(face):
    with serving(answers(BUSY, "rst", "fin", answer())) as server, face.client(retrying(4)) as c:
        r = c.get(server.url)
        assert (r.status_code, r.content) == (200, b"fine")
        assert len(server.requests) == 4


@each
def test_the_last_answer_is_returned_and_can_be_read(face):
    with serving(answers(BUSY)) as server, face.client(retrying()) as c:
        r = c.get(server.url)
        assert (r.status_code, r.content) == (503, b"busy")
        assert len(server.requests) == 3
        assert isinstance(r, face.lib.Response)
        with pytest.raises(face.lib.HTTPStatusError):
            r.raise_for_status()


@each
def test_the_last_error_is_the_librarys_with_a_note(face):
    with serving(answers("rst")) as server, face.client(retrying()) as c:
        with pytest.raises(face.lib.ReadError) as caught:
            c.get(server.url)
        assert caught.value.request.url == server.url
        assert caught.value.__notes__[0].startswith("3 attempts in ")


@each
def test_an_answer_that_is_no_failure_is_left_alone(face):
    missing = answer(b"nothing here", "404 Not Found")
    with serving(answers(missing)) as server, face.client(retrying()) as c:
        assert c.get(server.url).status_code == 404
        assert len(server.requests) == 1


@each
def test_a_long_or_unstated_error_text_is_returned_whole(face):
    text = b"an error that takes long to explain\n" * 3000
    chunked = (
        b"HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"%x\r\n%s\r\n0\r\n\r\n" % (len(text), text)
    )
    for raw in (answer(text, "500 Oops"), chunked):
        with serving(answers(raw)) as server, face.client(retrying(), buffer=1000) as c:
            r = c.get(server.url)
            assert (r.status_code, r.content) == (500, text)
            assert len(server.requests) == 3
            assert c.transport._policy.state()["active"] == 0


@each
def test_connections_are_reused_between_attempts_and_calls(face):
    with serving(answers(BUSY, BUSY, answer())) as server, face.client(retrying()) as c:
        for _ in range(3):
            assert c.get(server.url).status_code == 200
        assert server.connections == 1


@each
def test_a_refused_connection_is_told_as_never_sent(face):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    seen = []
    stop = hf.subscribe(seen.append)
    try:
        with face.client(retrying()) as c, pytest.raises(face.lib.ConnectError):
            c.post(url, content=b"x")
    finally:
        stop()
    tried = [event for event in seen if type(event).__name__ == "Attempt"]
    assert [(str(e.kind), str(e.sent)) for e in tried] == [("connect", "no")] * 3


@each
def test_a_dead_backend_sees_little_more_than_the_offered_load(face):
    held = hf.policy(hf.Deadline(30), hf.Retry(3, backoff=NOW))
    with serving(answers(BUSY)) as server, face.client(held) as c:
        for _ in range(1000):
            assert c.get(server.url).status_code == 503
        assert len(server.requests) <= 1050


@each
def test_a_policy_around_the_client_does_the_retrying_alone(face):
    outer = hf.policy(hf.Retry(3, backoff=NOW, budget=None, on=hf.TRANSIENT))
    with serving(answers("fin")) as server, face.client(retrying(5)) as c:
        with pytest.raises(face.lib.RemoteProtocolError):
            outer.call(lambda: c.get(server.url))
        assert len(server.requests) == 3


# -- never twice -------------------------------------------------------------------------


@each
def test_a_post_that_may_have_run_is_not_repeated(face):
    with serving(answers("rst")) as server, face.client(retrying()) as c:
        with pytest.raises(face.lib.ReadError) as caught:
            c.post(server.url, json={"a": 1})
        assert "must not be repeated" in caught.value.__notes__[0]
        assert len(server.requests) == 1


@each
def test_a_post_that_was_throttled_is_repeated(face):
    busy = answer(b"", "429 Too Many Requests", "Retry-After: 0")
    held = hf.policy(hf.Deadline(10), hf.Retry(3, backoff=NOW))
    with serving(answers(busy, answer())) as server, face.client(held) as c:
        assert c.post(server.url, json={"a": 1}).status_code == 200
        assert [json.loads(one.body) for one in server.requests] == [{"a": 1}] * 2


@each
def test_with_a_key_of_ours_a_post_is_repeated_under_the_same_key(face):
    held = retrying(idempotency_key=True)
    with serving(answers("rst", BUSY, answer())) as server, face.client(held) as c:
        r = c.post(server.url, content=b"pay")
        assert r.status_code == 200
        keys = [one.headers["idempotency-key"] for one in server.requests]
        assert len(keys) == 3
        assert len(set(keys)) == 1
        c.post(server.url, content=b"pay")
        assert server.requests[-1].headers["idempotency-key"] != keys[0]


@each
def test_with_a_key_of_the_users_a_post_is_repeated(face):
    with serving(answers("rst", answer())) as server, face.client(retrying()) as c:
        c.post(server.url, content=b"pay", headers={"Idempotency-Key": "mine"})
        assert [one.headers["idempotency-key"] for one in server.requests] == ["mine"] * 2


# -- deadlines ---------------------------------------------------------------------------


def dripping(connection: Connection) -> None:
    if connection.request() is not None:
        for byte in answer(b"x" * 50):
            connection.send(bytes([byte]))
            time.sleep(0.3)


def drips_its_body(status: str):
    def script(connection: Connection) -> None:
        if connection.request() is not None:
            connection.send(f"HTTP/1.1 {status}\r\n\r\n".encode())  # until the connection ends
            for _ in range(60):
                connection.send(b"x")
                time.sleep(0.1)

    return script


@each
@pytest.mark.parametrize(
    "script",
    [answers("hole"), dripping, drips_its_body("200 OK"), drips_its_body("500 Oops")],
    ids=["silence", "head", "body", "error-text"],
)
def test_a_deadline_of_a_second_ends_a_call_within_1_05_s(face, script):
    held = hf.policy(hf.Deadline(1), hf.Bulkhead(5))
    with serving(script) as server, face.client(held) as c:
        taken: list[float] = []
        while not taken or (min(taken) > 1.05 and len(taken) < 4):  # the machine may be busy
            began = time.monotonic()
            with pytest.raises(hf.DeadlineExceeded):
                c.get(server.url)
            taken.append(time.monotonic() - began)
        assert 0.99 <= min(taken) <= 1.05
        assert held.state()["active"] == 0
        assert server.quiet()


@each
def test_a_deadline_around_the_client_holds_for_redirects_too(face):
    def script(connection: Connection) -> None:
        while connection.request() is not None:
            time.sleep(0.15)
            connection.send(answer(b"", "302 Found", "Location: /next"))

    with serving(script) as server, face.client(hf.policy(hf.Retry(2))) as c:
        began = time.monotonic()
        with hf.deadline(0.5), pytest.raises(hf.DeadlineExceeded):
            c.get(server.url)
        assert time.monotonic() - began < 0.6
        assert 2 <= len(server.requests) <= 4


@each
def test_an_attempts_own_timeout_leads_to_the_next_attempt(face):
    held = hf.policy(hf.Deadline(5), hf.Retry(2, backoff=NOW), hf.Timeout(0.2))
    with serving(answers("hole", answer())) as server, face.client(held) as c:
        assert c.get(server.url).content == b"fine"
        assert len(server.requests) == 2


@each
def test_the_clients_own_timeout_holds_if_it_is_tighter(face):
    options = {"timeout": 0.1}
    with serving(answers("hole")) as server, face.client(retrying(2), client=options) as c:
        with pytest.raises(face.lib.ReadTimeout):
            c.get(server.url)
        assert len(server.requests) == 2


@each
def test_waiting_for_a_place_in_the_pool_ends_at_the_limit(face):
    inner = face.inner(limits=face.lib.Limits(max_connections=1))
    held = hf.policy(hf.Deadline(0.3))
    with serving(answers("hole")) as server, face.client(held, inner) as c:

        def script(connection: Connection) -> None:
            connection.request()
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n")
            connection.wait()

        server.script = script
        with hf.deadline(60):
            r = c.open("GET", server.url)
        began = time.monotonic()
        with pytest.raises((hf.DeadlineExceeded, face.lib.PoolTimeout)):
            c.get(server.url)
        assert time.monotonic() - began < 0.5
        c.shut(r)


@sync_only
def test_all_addresses_of_a_name_share_what_is_left(face, monkeypatch):
    """Two addresses that never answer: httpx gives each of them the whole timeout."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 1))] * 3
    tried = []

    def never(address, timeout, source_address=None):
        tried.append(address[0])
        time.sleep(timeout)
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: found)
    monkeypatch.setattr(socket, "create_connection", never)
    with face.client(hf.policy(hf.Deadline(0.3))) as c:
        began = time.monotonic()
        with pytest.raises(hf.DeadlineExceeded):
            c.get("http://three.example/")
        assert 0.29 <= time.monotonic() - began < 0.4
    assert tried == ["127.0.0.1"] * 3


@each
def test_nothing_is_sent_once_the_deadline_is_over(face):
    with serving(answers(answer())) as server, face.client(retrying()) as c:
        with hf.deadline(0.001), pytest.raises(hf.DeadlineExceeded):
            time.sleep(0.002)
            c.get(server.url)
        assert server.requests == []


# -- connections -------------------------------------------------------------------------


def hangs_up_on_the_second(first: bytes = b""):
    """Each connection answers one request, and breaks at the second, after `first`."""

    def script(connection: Connection) -> None:
        if connection.request() is not None:
            connection.send(answer())
        if connection.request() is not None:
            connection.send(first)
            connection.reset()

    return script


@each
def test_a_stale_connection_is_replaced_without_counting_an_attempt(face):
    held = hf.policy(hf.Deadline(10), hf.Breaker(consecutive=1))
    events = []
    stop = hf.subscribe(events.append)
    try:
        with serving(hangs_up_on_the_second()) as server, face.client(held) as c:
            for _ in range(20):
                assert c.get(server.url).content == b"fine"
            # Each second request meets a stale connection and goes out again on a new one,
            # which is closed with its answer.
            assert server.connections == 20
            assert held.state()["circuit"] == "closed"
    finally:
        stop()
    assert not [event for event in events if type(event).__name__ == "Attempt" and event.no > 1]


@each
def test_a_stale_connection_costs_a_post_its_attempt_unless_any_may_be_resent(face):
    with serving(hangs_up_on_the_second()) as server, face.client(retrying()) as c:
        c.get(server.url)
        with pytest.raises(face.lib.ReadError):
            c.post(server.url, content=b"x")
        assert len(server.requests) == 2
    for which, requests in (("any", 3), ("never", 2)):
        with (
            serving(hangs_up_on_the_second()) as server,
            face.client(hf.policy(hf.Deadline(5)), replay_reused=which) as c,
        ):
            c.get(server.url)
            try:
                assert c.post(server.url, content=b"x").content == b"fine"
            except face.lib.ReadError:
                assert which == "never"
            assert len(server.requests) == requests


@each
def test_a_connection_that_breaks_after_a_byte_of_the_answer_was_not_stale(face):
    script = hangs_up_on_the_second(b"HTTP/1.1 2")
    with (
        serving(script) as server,
        face.client(hf.policy(hf.Deadline(5)), replay_reused="any") as c,
    ):
        c.get(server.url)
        with pytest.raises(face.lib.ReadError):
            c.get(server.url)
        assert len(server.requests) == 2


@each
def test_what_is_under_a_transport_that_is_no_httptransport_is_not_resent(face):
    class Wrapped(face.lib.AsyncBaseTransport if face.is_async else face.lib.BaseTransport):
        def __init__(self):
            self.inner = face.inner()
            self.handle_async_request = self.inner.handle_async_request if face.is_async else None
            self.handle_request = None if face.is_async else self.inner.handle_request

        def close(self):
            self.inner.close()

        async def aclose(self):
            await self.inner.aclose()

    inner = Wrapped()
    with serving(hangs_up_on_the_second()) as server, face.client(retrying(2), inner) as c:
        c.get(server.url)
        assert c.get(server.url).content == b"fine"  # by a second attempt
        assert len(server.requests) == 3


@each
def test_a_mock_transport_works_under_ours(face):
    calls = []

    def handler(request):
        calls.append(request)
        return face.lib.Response(503 if len(calls) < 3 else 200, text="hello")

    with face.client(retrying(), face.lib.MockTransport(handler)) as c:
        assert c.get("http://mock.example/").text == "hello"
    assert len(calls) == 3
    assert isinstance(calls[0], face.lib.Request)


@each
def test_a_users_own_trace_is_called_as_well(face):
    names = []

    async def atrace(name, info):
        names.append(name)

    def trace(name, info):
        names.append(name)

    with serving(answers(answer())) as server, face.client(retrying()) as c:
        c.get(server.url, extensions={"trace": atrace if face.is_async else trace})
    assert "connection.connect_tcp.started" in names
    assert names[-1] == "http11.response_closed.complete"


@each
def test_too_many_open_files_is_no_failure_of_the_server(face, monkeypatch):
    held = hf.policy(hf.Deadline(5), hf.Breaker(consecutive=1))

    def exhausted(*args, **options):
        raise OSError(errno.EMFILE, "Too many open files")

    with serving(answers(answer())) as server, face.client(held) as c:
        with monkeypatch.context() as patch:
            patch.setattr(socket, "socket", exhausted)
            with pytest.raises((face.lib.ConnectError, OSError)):
                c.run(c.client.get(server.url))
        assert held.state()["circuit"] == "closed"
        assert c.get(server.url).content == b"fine"


# -- open bodies -------------------------------------------------------------------------


BIG = b"0123456789" * 200_000  # above `buffer`, so it is left open


@each
def test_an_open_body_keeps_its_permit_until_it_was_read(face):
    held = hf.policy(hf.Deadline(10), hf.Bulkhead(1))
    with serving(answers(answer(BIG))) as server, face.client(held) as c:
        r = c.open("GET", server.url)
        assert held.state()["active"] == 1
        with pytest.raises(hf.BulkheadFull):
            c.get(server.url)
        assert b"".join(c.pieces(r)) == BIG
        assert held.state()["active"] == 0
        assert c.get(server.url).content == BIG
        assert server.connections == 1


@each
def test_closing_an_open_body_gives_its_permit_back(face):
    held = hf.policy(hf.Deadline(10), hf.Bulkhead(1))
    with serving(answers(answer(BIG))) as server, face.client(held) as c:
        for read in (False, True):
            r = c.open("GET", server.url)
            if read:
                next(c.pieces(r))
            c.shut(r)
            assert held.state()["active"] == 0
        assert server.quiet()


@each
def test_a_cut_in_an_open_body_is_the_readers_with_a_note(face):
    def script(connection: Connection) -> None:
        if connection.request() is not None:
            connection.send(answer(BIG)[:-1])

    held = hf.policy(hf.Deadline(10), hf.Retry(3, backoff=NOW), hf.Bulkhead(1))
    with serving(script) as server, face.client(held) as c:
        with pytest.raises(face.lib.RemoteProtocolError) as caught:
            c.get(server.url)
        assert "the stream had begun" in caught.value.__notes__[0]
        assert held.state()["active"] == 0
        assert len(server.requests) == 1


@each
def test_an_answer_that_is_forgotten_warns_and_gives_its_permit_back(face):
    held = hf.policy(hf.Deadline(10), hf.Bulkhead(1))
    with serving(answers(answer(BIG))) as server, face.client(held) as c:
        r = c.open("GET", server.url)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del r
            gc.collect()
        assert [one.category for one in caught if "neither read" in str(one.message)] == [
            ResourceWarning
        ]
        assert held.state()["active"] == 0
        until = time.monotonic() + 5
        while c.transport._inner._pool._requests and time.monotonic() < until:
            c.settle()
        assert list(c.transport._inner._pool._requests) == []
        assert c.get(server.url).content == BIG


@each
def test_event_streams_are_never_read_ahead(face):
    gate = threading.Event()

    def script(connection: Connection) -> None:
        if connection.request() is not None:
            connection.send(
                answer(b"data: 1\n\ndata: 2\n\n", "200 OK", "Content-Type: text/event-stream")[:-9]
            )
            gate.wait(5)
            connection.send(b"data: 2\n\n")

    with serving(script) as server, face.client(retrying()) as c:
        r = c.open("GET", server.url)
        pieces = c.pieces(r)
        assert next(pieces) == b"data: 1\n\n"
        gate.set()
        assert b"".join(pieces) == b"data: 2\n\n"
        c.shut(r)


# -- what users put around it ------------------------------------------------------------


@each
def test_redirects_to_another_origin_carry_no_credentials(face):
    with (
        serving(answers(answer())) as other,
        serving(answers(answer(b"", "302 Found", f"Location: {other.url}"))) as server,
        face.client(retrying()) as c,
    ):
        r = c.get(server.url, headers={"Authorization": "Bearer secret"})
        assert r.content == b"fine"
        assert server.requests[0].headers["authorization"] == "Bearer secret"
        assert "authorization" not in other.requests[0].headers


@each
def test_digest_authentication_goes_through(face):
    challenge = answer(
        b"", "401 Unauthorized", 'WWW-Authenticate: Digest realm="r", nonce="n", algorithm=MD5'
    )
    with serving(answers(challenge, BUSY, answer())) as server, face.client(retrying()) as c:
        r = c.post(server.url, content=b"body", auth=face.lib.DigestAuth("user", "pass"))
        assert r.status_code == 503  # a POST that reached the server is not repeated
        r = c.get(server.url, auth=face.lib.DigestAuth("user", "pass"))
        assert r.content == b"fine"


@each
def test_codes_of_a_provider_decide(face):
    def says(code: int) -> bytes:
        return answer(json.dumps({"code": code}).encode(), "429 Too Many Requests")

    with hf.testing.clock() as clock:
        held = hf.policy(hf.Retry(6, on=hf.TRANSIENT | hf.THROTTLED), hf.Breaker(consecutive=1))
        with (
            serving(answers(*[says(1303)] * 5, answer())) as server,
            face.client(held, provider="kling", client={"timeout": None}) as c,
        ):
            assert c.post(server.url, json={}).content == b"fine"
            assert len(server.requests) == 6
            assert len(clock.slept) == 5
            assert min(clock.slept) >= 1
            assert held.state()["circuit"] == "closed"
        with serving(answers(says(1102))) as server, face.client(held, provider="kling") as c:
            assert c.post(server.url, json={}).status_code == 429
            assert len(server.requests) == 1


@each
def test_many_calls_at_a_time_leave_nothing(face):
    held = hf.policy(
        hf.Deadline(20), hf.Bulkhead(8, queue=100), hf.Retry(30, backoff=NOW, budget=None)
    )
    replies = [answer(), BUSY, answer(), "rst"] * 50 + [answer()]
    with serving(answers(*replies)) as server, face.client(held) as c:
        if face.is_async:

            async def main():
                return await asyncio.gather(*[c.client.get(server.url) for _ in range(100)])

            results = c.run(main())
        else:
            with ThreadPoolExecutor(20) as pool:
                results = list(pool.map(lambda _: c.get(server.url), range(100)))
        assert {r.content for r in results} == {b"fine"}
        assert held.state()["active"] == 0
    assert server.quiet()


# -- wrong use ---------------------------------------------------------------------------


@each
def test_retries_of_the_inner_transport_are_refused(face):
    with (
        pytest.raises(ValueError, match="retries=2"),
        face.client(retrying(), face.inner(retries=2)),
    ):
        pass


@pytest.mark.parametrize("lib", [httpx, httpx2], ids=lambda lib: lib.__name__)
def test_a_transport_of_the_other_kind_is_refused(lib):
    ours = hf.clients.httpx
    with pytest.raises(TypeError, match="handle_request"):
        ours.Transport(retrying(), lib.AsyncHTTPTransport())
    with pytest.raises(TypeError, match="handle_async_request"):
        ours.AsyncTransport(retrying(), lib.HTTPTransport())


def test_a_transport_of_the_other_library_is_refused():
    transport = hf.clients.httpx.Transport(retrying(), httpx.HTTPTransport())
    with httpx2.Client(transport=transport) as client, pytest.raises(TypeError, match="httpx2"):
        client.get("http://127.0.0.1:1/")


def test_unknown_and_wrong_options_are_refused():
    with pytest.raises(TypeError, match="bufer"):
        hf.clients.httpx.Transport(retrying(), bufer=1)
    with pytest.raises(ValueError, match="replay_reused"):
        hf.clients.httpx.Transport(retrying(), replay_reused="sometimes")


def test_one_transport_serves_clients_of_both_libraries():
    transport = hf.clients.httpx.Transport(retrying())
    with serving(answers(answer())) as server:
        with httpx.Client(transport=transport) as one, httpx2.Client(transport=transport) as two:
            assert isinstance(one.get(server.url), httpx.Response)
            assert isinstance(two.get(server.url), httpx2.Response)
        assert server.quiet()
