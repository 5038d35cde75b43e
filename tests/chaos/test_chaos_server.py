"""The fault server without faults: proper HTTP, as plain clients see it."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import urllib.error
import urllib.request
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from chaos_clients import drain

from holdfast import chaos

if TYPE_CHECKING:
    from chaos_clients import Get, Raw, Served

SIZE = 3 * 65536 + 17


def test_whole_object_with_validators(served: Served) -> None:
    with served(SIZE) as (server, _, _):
        with urllib.request.urlopen(server.url("/o"), timeout=5) as response:
            body = response.read()
            fields = response.headers
        assert hashlib.sha256(body).hexdigest() == server.expected_sha256("/o")
        assert fields["Content-Length"] == str(SIZE)
        assert fields["Accept-Ranges"] == "bytes"
        assert fields["ETag"].startswith('"')
        assert fields["Last-Modified"].endswith("GMT")


def test_ranges_and_conditions_over_the_wire(served: Served, get: Get) -> None:
    with served(SIZE) as (server, address, _):
        etag = get(address, "/o").headers["ETag"]
        part = get(address, "/o", Range="bytes=65000-70000")
        assert (part.status, part.headers["Content-Range"]) == (206, f"bytes 65000-70000/{SIZE}")
        assert part.body == server.expected_bytes("/o", 65000, 70001)
        beyond = get(address, "/o", Range=f"bytes={SIZE}-")
        assert (beyond.status, beyond.headers["Content-Range"]) == (416, f"bytes */{SIZE}")
        assert get(address, "/o", If_None_Match=etag).status == 304
        assert get(address, "/o", If_Match='"other"').status == 412
        assert get(address, "/o", Range="bytes=5-", If_Range=etag).status == 206
        server.replace("/o")
        changed = get(address, "/o", Range="bytes=5-", If_Range=etag)
        assert (changed.status, len(changed.body)) == (200, SIZE)
        assert get(address, "/o", Range="bytes=5-", If_Match=etag).status == 412


def test_log_and_counters_tell_what_was_asked_and_sent(served: Served, get: Get) -> None:
    with served(1000) as (server, address, _):
        etag = get(address, "/o").headers["ETag"]
        get(address, "/o", Range="bytes=990-", If_Range=etag)
        get(address, "/missing")
        get(address, "/o", method="HEAD")
        seen = [(e.method, e.path, e.range, e.if_range, e.status, e.sent) for e in server.log]
        assert seen == [
            ("GET", "/o", "", "", 200, 1000),
            ("GET", "/o", "bytes=990-", etag, 206, 10),
            ("GET", "/missing", "", "", 404, 13),
            ("HEAD", "/o", "", "", 200, 0),
        ]
        stats = server.stats
        assert (stats.connections, stats.requests, stats.bytes_down) == (4, 4, 1023)
        assert stats.statuses == {200: 2, 206: 1, 404: 1}


def test_head_has_the_fields_and_no_body(served: Served, get: Get) -> None:
    with served(SIZE) as (_, address, _):
        got = get(address, "/o", method="HEAD")
        assert (got.status, got.headers["Content-Length"], got.body) == (200, str(SIZE), b"")
        # Range means something only for GET.
        assert get(address, "/o", method="HEAD", Range="bytes=0-1").status == 200
        assert get(address, "/o", method="DELETE").status == 405


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_every_framing_carries_the_object(framing: chaos.Framing, get: Get) -> None:
    with chaos.server(chaos.Object("/o", SIZE * 5, framing=framing)) as server:
        got = get(server.address, "/o")
        assert got.body == server.expected_bytes("/o")
        assert got.error is None
        assert ("Content-Length" in got.headers) == (framing == "length")


@pytest.mark.parametrize(
    ("validators", "etag", "date"),
    [
        ("all", '"', True),
        ("etag", '"', False),
        ("weak", 'W/"', True),
        ("date", None, True),
        ("none", None, False),
    ],
)
def test_validators_can_be_left_out(
    validators: chaos.Validators, etag: str | None, get: Get, *, date: bool
) -> None:
    with chaos.server(chaos.Object("/o", 10, validators=validators)) as server:
        got = get(server.address, "/o")
        found = got.headers.get("ETag")
        assert found is None if etag is None else str(found).startswith(etag)
        assert ("Last-Modified" in got.headers) == date


def test_server_without_ranges_sends_the_whole(get: Get) -> None:
    with chaos.server(chaos.Object("/o", 100, ranges=False)) as server:
        got = get(server.address, "/o", Range="bytes=5-")
        assert (got.status, len(got.body), got.headers["Accept-Ranges"]) == (200, 100, "none")


def test_connection_is_kept_alive_and_requests_may_be_pipelined(served: Served) -> None:
    request = b"GET /o HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /o HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with (
        served(100) as (server, _, _),
        socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock,
    ):
        sock.sendall(request * 2 + last[:20])
        sock.sendall(last[20:])
        received = drain(sock)
        assert received.count(b"HTTP/1.1 200 OK") == 3
        assert received.count(server.expected_bytes("/o")) == 3
        assert server.stats.connections == 1


def test_wildcard_serves_another_object_under_each_name(get: Get) -> None:
    with chaos.server(chaos.Object("/files/*", 5000)) as server:
        one, two = get(server.address, "/files/1"), get(server.address, "/files/2")
        assert one.body == server.expected_bytes("/files/1")
        assert two.body == server.expected_bytes("/files/2")
        assert one.body != two.body
        assert one.headers["ETag"] != two.headers["ETag"]


def test_call_gives_the_right_value_and_counts_its_runs(get: Get) -> None:
    call = chaos.Call("/call")
    with chaos.server(call, seed=5) as server:
        answers = [json.loads(get(server.address, "/call?id=k7").body) for _ in range(2)]
        right = chaos.Call.value(5, "k7")
        assert answers == [{"id": "k7", "value": right, "run": n} for n in (1, 2)]
        assert call.executed == {"k7": 2}


def test_idempotency_key_can_make_a_repeat_harmless(get: Get) -> None:
    call = chaos.Call("/call", once=True)
    with chaos.server(call) as server:
        first = get(server.address, "/call", method="POST", Idempotency_Key="a")
        again = get(server.address, "/call", method="POST", Idempotency_Key="a")
        assert first.body == again.body
        assert call.executed == {"a": 1}


def test_redirect_and_function_routes(get: Get) -> None:
    async def echo(request: chaos.Request) -> dict[str, object]:
        return {"path": request.path, "body": request.body.decode(), **request.query}

    routes = (
        chaos.Redirect("/old", "/echo", status=307),
        chaos.Handler("/echo", echo),
        chaos.Handler("/text", lambda _: "words"),
        chaos.Handler("/bytes", lambda _: b"\0\1"),
        chaos.Handler("/teapot", lambda _: chaos.Answer(418)),
    )
    with chaos.server(*routes) as server:
        moved = get(server.address, "/old?a=1")
        assert (moved.status, moved.headers["Location"]) == (307, "/echo?a=1")
        with urllib.request.urlopen(server.url("/old?a=1"), timeout=5) as response:
            assert json.load(response) == {"path": "/echo", "body": "", "a": "1"}
        assert get(server.address, "/text").body == b"words"
        assert get(server.address, "/bytes").body == b"\0\1"
        assert get(server.address, "/teapot").status == 418
        server.add(chaos.Handler("/late", lambda _: "late"))
        assert get(server.address, "/late").body == b"late"


def test_request_bodies_are_read_in_both_framings(raw: Raw) -> None:
    route = chaos.Handler("/e", lambda request: request.body)
    end = b"Connection: close\r\n\r\n"
    with chaos.server(route) as server:
        sized = b"POST /e HTTP/1.1\r\nContent-Length: 5\r\n" + end + b"hello"
        chunks = b"5;x=y\r\nhello\r\n6\r\n world\r\n0\r\nTrailer: t\r\n\r\n"
        chunked = b"POST /e HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + end + chunks
        expecting = b"POST /e HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n" + end
        assert raw(server.port, sized).endswith(b"\r\n\r\nhello")
        assert raw(server.port, chunked).endswith(b"\r\n\r\nhello world")
        assert raw(server.port, expecting + b"ok").startswith(b"HTTP/1.1 100 Continue\r\n\r\n")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET\r\n\r\n", b"400"),
        (b"GET / HTTP/2.0\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nbad field\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", b"501"),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", b"413"),
        (b"GET /" + b"a" * 70_000, b"431"),
    ],
)
def test_unreadable_requests_get_a_status_and_the_end(
    request_: bytes, status: bytes, raw: Raw
) -> None:
    with chaos.server() as server:
        assert raw(server.port, request_).split()[1] == status
        assert server.stats.requests == 0


def test_failing_function_is_a_500_and_is_told_at_the_end(get: Get) -> None:
    def broken(_: chaos.Request) -> str:
        raise LookupError("the route is broken")

    with (
        pytest.raises(LookupError, match="the route is broken"),
        chaos.server(chaos.Handler("/b", broken)) as server,
    ):
        assert get(server.address, "/b").status == 500


def test_route_faults_count_only_their_own_requests(get: Get) -> None:
    routes = (
        chaos.Call("/a", faults=[chaos.Status(503, skip=1, first=1)]),
        chaos.Call("/b"),
    )
    with chaos.server(*routes) as server:
        found = [get(server.address, path).status for path in ("/a", "/b", "/b", "/a", "/a")]
        assert found == [200, 200, 200, 503, 200]


def test_faults_can_be_changed_while_it_runs(served: Served, get: Get) -> None:
    with served(100, chaos.Status(503)) as (server, address, _):
        assert get(address, "/o").status == 503
        server.use()
        assert get(address, "/o").status == 200
        server.use(chaos.Status(429, limit=1))
        assert [get(address, "/o").status for _ in range(2)] == [429, 200]


def test_what_a_server_cannot_do_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="Slow: direction: the server hurts what it sends"):
        chaos.server(faults=[chaos.Slow(5, direction="up")])
    with pytest.raises(ValueError, match="Status: per: it is about a request"):
        chaos.server(faults=[chaos.Status(503, per="connection")])
    with pytest.raises(ValueError, match="Refuse: per: a route sees requests"):
        chaos.server(chaos.Call("/", faults=[chaos.Refuse()]))
    with pytest.raises(ValueError, match="Call: path: 'no-slash' must start with a slash"):
        chaos.Call("no-slash")


def test_wrong_types_and_unknown_paths_are_named() -> None:
    with pytest.raises(TypeError, match="is not a fault"):
        chaos.server(faults=["reset"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="is not a route"):
        chaos.server("/o")  # type: ignore[arg-type]
    with chaos.server(chaos.Call("/call")) as server:
        with pytest.raises(KeyError, match="/missing"):
            server.replace("/missing")
        with pytest.raises(TypeError, match="Call is not an object"):
            server.expected_sha256("/call")


def test_many_connections_share_one_loop_fairly(served: Served) -> None:
    # One reader that never stops must not keep the others waiting.
    with served(512 << 20) as (server, address, _):
        greedy = [http.client.HTTPConnection(address, timeout=5) for _ in range(3)]
        for connection in greedy:
            connection.request("GET", "/o")
        small = http.client.HTTPConnection(address, timeout=5)
        with closing(small):
            for _ in range(5):
                small.request("GET", "/o", headers={"Range": "bytes=0-99"})
                assert small.getresponse().read() == server.expected_bytes("/o", 0, 100)
        for connection in greedy:
            connection.close()
