"""Heads that are served, refused and rewritten: versions, upgrades, forwarding, tokens."""

from __future__ import annotations

import asyncio
import gzip
import json
import tomllib

import pytest
from gateway_rig import always, answer, ask, code, connect, gateway, read, run

from holdfast.gateway.config import read_gateways

OK = answer()


async def raw(gw, data):
    """Return (status, head, body, whether the connection ends then)."""
    reader, writer = await connect(gw, data)
    status, head, body = await read(reader)
    try:
        ends = await asyncio.wait_for(reader.read(1), 0.1) == b""
    except TimeoutError:
        ends = False
    writer.close()
    return status, head, body, ends


# -- versions, methods, upgrades -------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "status", "error"),
    [
        (b"GET / HTTP/2.0", 505, "HF-3008"),
        (b"GET / HTTP/0.9", 505, "HF-3008"),
        (b"TRACE / HTTP/1.1", 405, "HF-3006"),
        (b"CONNECT a:1 HTTP/1.1", 405, "HF-3006"),
        (b"GET /" + b"x" * 16_500 + b" HTTP/1.1", 414, "HF-3002"),
    ],
)
def test_what_is_not_served_says_so_and_ends_the_connection(line, status, error):
    async def main():
        async with gateway(always(OK)) as (gw, (up,)):
            found, head, body, ends = await raw(gw, line + b"\r\nHost: a:1\r\n\r\n")
            assert (found, code(body), ends) == (status, error, True)
            assert "Connection: close" in head
            assert ("Allow: " in head) == (status == 405)
            assert not up.connections

    run(main)


@pytest.mark.parametrize(
    ("count", "size", "status"),
    [(99, 10, 200), (100, 10, 431), (3, 12_000, 431)],
)
def test_a_head_has_a_limit_of_fields_and_of_bytes(count, size, status):
    async def main():
        async with gateway(always(OK)) as (gw, _):
            fields = b"".join(b"X-%d: %b\r\n" % (n, b"y" * size) for n in range(count))
            found, _, body, _ = await raw(gw, b"GET / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n")
            assert found == status
            assert status == 200 or code(body) == "HF-3003"

    run(main)


@pytest.mark.parametrize("alive", [b"", b"Connection: keep-alive\r\n"])
def test_http_1_0_is_served_without_chunks_and_then_closed(alive):
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n"

    async def main():
        async with gateway(always(chunked)) as (gw, (up,)):
            status, head, body, ends = await raw(gw, b"GET / HTTP/1.0\r\n" + alive + b"\r\n")
            assert (status, body, ends) == (200, b"fine", True)
            assert "chunked" not in head
            assert up.asked[0][0].endswith("HTTP/1.1")

    run(main)


@pytest.mark.parametrize(
    ("fields", "body", "status", "ends"),
    [
        (b"Connection: Upgrade\r\nUpgrade: websocket\r\n", b"", 501, True),
        (b"Connection: Upgrade\r\nUpgrade: h2c\r\n", b"", 200, True),
        (b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 1\r\n", b"x", 501, True),
        (b"Upgrade: websocket\r\n", b"", 200, False),
        (b"Expect: a-miracle\r\nContent-Length: 0\r\n", b"", 417, True),
    ],
)
def test_a_switch_of_protocols_is_not_made(fields, body, status, ends):
    async def main():
        async with gateway(always(OK)) as (gw, (up,)):
            data = b"POST /v1/messages HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n" + body
            found = await raw(gw, data)
            assert (found[0], found[3]) == (status, ends)
            assert all("upgrade" not in head.lower() for _, head, _ in up.asked)

    run(main)


def test_an_absolute_target_is_reduced_and_another_host_is_never_asked():
    async def main():
        async with gateway(always(OK)) as (gw, (up,)):
            found = await raw(gw, b"GET http://gw/a?b HTTP/1.1\r\nHost: gw\r\n\r\n")
            assert found[0] == 200
            assert up.asked[0][0] == "GET /a?b HTTP/1.1"
            found = await raw(gw, b"GET http://other/a HTTP/1.1\r\nHost: gw\r\n\r\n")
            assert (found[0], len(up.asked)) == (400, 1)

    run(main)


# -- what goes on ----------------------------------------------------------------------------


def test_query_coding_duplicates_and_case_are_kept_and_named_fields_are_not():
    packed = gzip.compress(b"hello")

    async def main():
        reply = answer(200, packed, "Content-Encoding: gzip", "Set-Cookie: a", "Set-Cookie: b")
        async with gateway(always(reply)) as (gw, (up,)):
            status, head, body = await ask(
                gw.port,
                "POST",
                "/v1/messages?beta=true&x=%2f",
                packed,
                "Content-Encoding: gzip",
                "X-Twice: 1",
                "x-tWiCe: 2",
                "Connection: keep-alive, X-Named",
                "X-Named: secret",
                "x_under: 1",
                "Proxy-Authorization: p",
                "TE: trailers",
            )
            assert (status, body) == (200, packed)
            assert head.index("Set-Cookie: a") < head.index("Set-Cookie: b")
            line, sent, got = up.asked[0]
            assert line == "POST /v1/messages?beta=true&x=%2f HTTP/1.1"
            assert got == packed
            assert sent.index("X-Twice: 1") < sent.index("x-tWiCe: 2")
            for gone in ("Named", "x_under", "Proxy-", "TE:", "Connection"):
                assert gone not in sent

    run(main)


def test_who_asks_is_not_told_unless_that_is_wished():
    fields = ["X-Forwarded-For: 9.9.9.9", "Forwarded: for=9.9.9.9", "X-Forwarded-Host: evil"]

    async def main():
        async with gateway(always(OK)) as (gw, (up,)):
            await ask(gw.port, "GET", "/", b"", *fields)
            assert "orwarded" not in up.asked[0][1]
        async with gateway(always(OK), settings="forwarded = true") as (gw, (up,)):
            await ask(gw.port, "GET", "/", b"", *fields)
            sent = up.asked[0][1]
            assert "9.9.9.9" not in sent
            assert "evil" not in sent
            assert "X-Forwarded-For: 127.0.0.1\r\n" in sent
            assert "X-Forwarded-Proto: http\r\n" in sent
            assert "X-Forwarded-Host: gw\r\n" in sent
            assert 'Forwarded: for=127.0.0.1;proto=http;host="gw"\r\n' in sent

    run(main)


def test_what_a_trusted_proxy_says_goes_on():
    async def main():
        settings = 'forwarded = true\ntrusted_proxies = ["127.0.0.0/8"]'
        async with gateway(always(OK), settings=settings) as (gw, (up,)):
            await ask(
                gw.port, "GET", "/", b"", "X-Forwarded-For: 9.9.9.9", "X-Forwarded-Proto: https"
            )
            sent = up.asked[0][1]
            assert sent.index("X-Forwarded-For: 9.9.9.9") < sent.index("X-Forwarded-For: 127.0.0.1")
            assert sent.count("X-Forwarded-Proto") == 1

    run(main)


def test_a_request_that_comes_back_is_a_loop():
    async def main():
        async with gateway(always(OK)) as (gw, (up,)):
            await ask(gw.port)
            via = up.asked[0][1].split("Via: ")[1].split("\r\n")[0]
            status, _, body = await ask(gw.port, "POST", "/v1/messages", b"", f"Via: {via}")
            assert (status, code(body)) == (508, "HF-3010")
            assert len(up.asked) == 1

    run(main)


# -- credentials -----------------------------------------------------------------------------


@pytest.fixture
def secrets(monkeypatch):
    monkeypatch.setenv("HF_TEST_TOKEN", "sesame")
    monkeypatch.setenv("HF_TEST_OTHER", "open")
    monkeypatch.setenv("HF_TEST_KEY", "sk-real")


TOKENS = 'client_tokens = ["env:HF_TEST_TOKEN", "env:HF_TEST_OTHER"]'


@pytest.mark.parametrize(
    ("field", "status"),
    [
        ("Authorization: Bearer sesame", 200),
        ("authorization: bearer open", 200),
        ("x-api-key: sesame", 200),
        ("api-key: open", 200),
        ("Authorization: Bearer sesam", 401),
        ("Authorization: Basic sesame", 401),
        ("x-api-key: sesame2", 401),
        ("X-Other: sesame", 401),
    ],
)
def test_a_client_shows_one_of_the_tokens_and_no_endpoint_sees_it(secrets, field, status):
    async def main():
        async with gateway(always(OK), settings=TOKENS) as (gw, (up,)):
            found, head, body = await ask(gw.port, "POST", "/v1/messages", b"{}", field)
            assert found == status
            if status == 401:
                assert code(body) == "HF-3009"
                assert json.loads(body)["error"]["type"] == "authentication_error"
                assert "WWW-Authenticate: Bearer" in head
                assert not up.connections
            else:
                value = field.split()[-1]
                assert value not in up.asked[0][1]

    run(main)


@pytest.mark.parametrize("path", ["/__other", "/__holdfast__x/stats", "/v1/../__holdfast__/stats"])
def test_no_path_goes_round_the_tokens(secrets, path):
    async def main():
        async with gateway(always(OK), settings=TOKENS) as (gw, (up,)):
            assert (await ask(gw.port, "GET", path, b""))[0] == 401
            assert not up.connections

    run(main)


def test_a_key_of_ours_takes_the_place_of_the_clients(secrets):
    async def main():
        async with gateway(always(OK), each='keys = "env:HF_TEST_KEY"') as (gw, (up,)):
            fields = ["Authorization: Bearer mine", "x-api-key: mine", "api-key: mine"]
            await ask(gw.port, "POST", "/v1/messages", b"{}", *fields)
            sent = up.asked[0][1].lower()
            assert "authorization: bearer sk-real" in sent
            assert "mine" not in sent
            assert "api-key" not in sent

    run(main)


def test_without_keys_and_tokens_the_clients_own_go_on():
    async def main():
        async with gateway(always(OK)) as (gw, (up,)):
            await ask(gw.port, "POST", "/v1/messages", b"{}", "x-api-key: mine")
            assert "x-api-key: mine" in up.asked[0][1]

    run(main)


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:80"])
def test_others_can_reach_it_only_with_tokens(listen):
    text = f'[gateway.g]\nlisten = "{listen}"\n[[gateway.g.endpoint]]\nurl = "http://a"\n'
    (problem,) = read_gateways(tomllib.loads(text)).problems
    assert "client_tokens" in str(problem)
    text = text.replace("[[", 'client_tokens = "env:HF_TEST_TOKEN"\n[[', 1)
    assert not read_gateways(tomllib.loads(text)).problems
