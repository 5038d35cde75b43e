"""The gateway's own pages: where they are, who may read them, and that nothing else is there."""

from __future__ import annotations

import asyncio
import json
import tomllib
from types import SimpleNamespace

import pytest
from gateway_rig import always, answer, ask, gateway, read
from gateway_telling import get, runs
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families as parsed

from holdfast.core.balance import Balancer, Endpoint
from holdfast.core.health import Health
from holdfast.gateway.admin import Pages
from holdfast.gateway.config import read_gateways
from holdfast.gateway.snapshots import snapshot
from holdfast.gateway.tokens import Tokens
from holdfast.wire.requests import parse_head
from holdfast.wire.strict import BadMessage

TOKEN = "a-token-of-a-client"
STATS = "/__holdfast__/stats"
TOKENS = 'client_tokens = ["env:GATEWAY_TOKEN"]'


@pytest.fixture
def token(monkeypatch):
    monkeypatch.setenv("GATEWAY_TOKEN", TOKEN)
    return TOKEN


def code_of(body):
    return json.loads(body)["error"]["code"]


@pytest.mark.parametrize("path", [STATS, "/__qcc__/stats", f"{STATS}?pretty=1"])
@runs
async def test_statistics_are_json_at_both_places(path):
    async with gateway(always(answer())) as (gw, _):
        status, head, body = await get(gw.port, path)
        assert status == 200
        assert "Content-Type: application/json" in head
        assert "Cache-Control: no-store" in head
        assert json.loads(body)["total_endpoints"] == 1


@pytest.mark.parametrize(
    "path",
    ["/__holdfast__", "/__holdfast__/", "/__holdfast__/nope", "/__qcc__/ready", "/__qcc__"],
)
@runs
async def test_what_is_no_page_is_404_and_reaches_no_endpoint(path):
    async with gateway(always(answer())) as (gw, (up,)):
        status, _, body = await get(gw.port, path)
        assert (status, code_of(body)) == (404, "HF-3013")
        assert not up.asked


@runs
async def test_what_only_begins_like_the_prefix_is_for_an_endpoint():
    async with gateway(always(answer())) as (gw, (up,)):
        assert (await get(gw.port, "/__holdfast__x/stats"))[0] == 200
        assert up.asked[0][0] == "GET /__holdfast__x/stats HTTP/1.1"


@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT", "OPTIONS"])
@runs
async def test_pages_are_only_read(method):
    async with gateway(always(answer())) as (gw, (up,)):
        status, head, body = await get(gw.port, STATS, method=method)
        assert (status, code_of(body)) == (405, "HF-3006")
        assert "Allow: GET, HEAD" in head
        assert not up.asked


@runs
async def test_head_gives_the_head_alone_and_the_connection_goes_on():
    async with gateway(always(answer())) as (gw, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", gw.port)
        for method in (b"HEAD", b"GET", b"HEAD"):
            writer.write(method + b" /__holdfast__/ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
            status, _, body = await read(reader, method.decode())
            assert (status, bool(body)) == (200, method == b"GET")
        writer.close()


@runs
async def test_pages_and_requests_may_be_pipelined():
    async with gateway(always(answer(200, b"mine"))) as (gw, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", gw.port)
        page = b"GET /__holdfast__/ready HTTP/1.1\r\nHost: localhost\r\n\r\n"
        other = b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n"
        writer.write((page + other) * 40)
        bodies = [(await read(reader))[2] for _ in range(80)]
        assert bodies[1::2] == [b"mine"] * 40
        assert all(json.loads(one)["ready"] for one in bodies[::2])
        writer.close()


@runs
async def test_the_prefix_can_be_another():
    async with gateway(always(answer()), settings='admin_prefix = "/gw-admin"') as (gw, (up,)):
        assert (await get(gw.port, "/gw-admin/stats"))[0] == 200
        assert (await get(gw.port, "/__qcc__/stats"))[0] == 200
        assert not up.asked
        await get(gw.port, STATS)
        assert len(up.asked) == 1


@runs
async def test_pages_are_no_requests():
    async with gateway(always(answer())) as (gw, _):
        for _ in range(3):
            await get(gw.port, STATS)
        assert snapshot(gw.cluster)["requests"] == 0


# -- ready -------------------------------------------------------------------------------------


@runs
async def test_it_is_ready_until_it_ends():
    async with gateway(always(answer())) as (gw, _):
        status, _, body = await get(gw.port, "/__holdfast__/ready")
        assert (status, json.loads(body)["ready"]) == (200, True)
        gw.draining = True
        status, head, body = await get(gw.port, "/__holdfast__/ready")
        gw.draining = False
        assert (status, json.loads(body)["reason"]) == (503, "draining")
        assert "Connection: close" in head


@runs
async def test_without_an_enabled_endpoint_it_is_not_ready():
    async with gateway(always(answer()), each="enabled = false") as (gw, _):
        status, _, body = await get(gw.port, "/__holdfast__/ready")
        assert (status, json.loads(body)["reason"]) == (503, "no endpoint is enabled")


# -- who may read ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:7860", "127.0.0.1", "127.9.9.9:1", "[::1]:80", "gw.example"],
)
@runs
async def test_hosts_that_are_meant_are_served(host):
    async with gateway(always(answer()), settings='hosts = ["gw.example"]') as (gw, _):
        assert (await get(gw.port, STATS, host=host))[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "10.0.0.1", "[::2]"])
@runs
async def test_another_host_is_refused_whoever_asks(host, token):
    """A name of somebody else that points here: DNS rebinding."""
    async with gateway(always(answer()), settings=TOKENS) as (gw, (up,)):
        for fields in ([], [f"Authorization: Bearer {token}"]):
            status, _, body = await get(gw.port, STATS, *fields, host=host)
            assert (status, code_of(body)) == (403, "HF-3012")
        assert not up.asked


@runs
async def test_without_a_host_nothing_is_shown():
    async with gateway(always(answer())) as (gw, _):
        assert (await get(gw.port, STATS, host="", minor=0))[0] == 403


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:7860", 200),
        ("https://localhost:7860", 200),
        ("http://localhost:3000", 403),
        ("http://evil.example", 403),
        ("null", 403),
        ("", 403),
    ],
)
@runs
async def test_a_page_of_another_origin_reads_nothing(origin, status):
    async with gateway(always(answer())) as (gw, _):
        found = await get(gw.port, STATS, f"Origin: {origin}", host="localhost:7860")
        assert found[0] == status


@pytest.mark.parametrize(
    "field", ["X-Forwarded-For: 1.2.3.4", "Forwarded: for=1.2.3.4", "Via: 1.1 nginx"]
)
@runs
async def test_who_asks_for_others_needs_a_token(field, token):
    async with gateway(always(answer()), settings=TOKENS) as (gw, _):
        status, head, body = await get(gw.port, STATS, field)
        assert (status, code_of(body)) == (401, "HF-3009")
        assert "WWW-Authenticate: Bearer" in head
        assert (await get(gw.port, STATS, field, f"x-api-key: {token}"))[0] == 200
        assert (await get(gw.port, STATS, field, "x-api-key: wrong"))[0] == 401


@runs
async def test_on_loopback_no_token_is_needed_though_there_is_one(token):
    async with gateway(always(answer()), settings=TOKENS) as (gw, _):
        assert (await get(gw.port, STATS))[0] == 200


class End:
    """A client's connection with addresses of choice."""

    draining = False

    def __init__(self, here, peer):
        self.transport = self
        self._names = {"sockname": here, "peername": peer}

    def get_extra_info(self, name):
        return self._names[name]

    def closes(self, head, *, ends):
        return False


def pages_for(listen):
    tree = {"listen": listen, "client_tokens": ["env:X"], "endpoint": [{"url": "http://h"}]}
    config = read_gateways({"gateway": {"g": tree}}).value["g"]
    balancer = Balancer([Endpoint("a", Health())])
    return Pages(SimpleNamespace(config=config, balancer=balancer), Tokens([TOKEN]))


def status_for(listen, here, peer, *fields):
    """Return the status of `/ready` for a connection from `peer` to `here`."""
    pages = pages_for(listen)
    head = parse_head(
        "\r\n".join(
            ["GET /__holdfast__/ready HTTP/1.1", "Host: localhost", *fields, "", ""]
        ).encode()
    )
    return int(pages.answer(head, End(here, peer))[9:12])


LOOPBACK = ("127.0.0.1", 5)


@pytest.mark.parametrize(
    ("listen", "here", "peer", "status"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80), LOOPBACK, 200),
        ("[::1]:80", ("::1", 80, 0, 0), ("::1", 5, 0, 0), 200),
        ("127.0.0.1:80", ("::ffff:127.0.0.1", 80, 0, 0), ("::ffff:127.0.0.1", 5, 0, 0), 200),
        ("unix:/run/gw", "/run/gw", "", 200),
        # A listener at all addresses is none at loopback, from wherever it is reached.
        ("0.0.0.0:80", ("127.0.0.1", 80), LOOPBACK, 401),
        ("0.0.0.0:80", ("10.0.0.1", 80), ("10.0.0.2", 5), 401),
        ("0.0.0.0:0", ("127.0.0.1", 4711), LOOPBACK, 401),
        # Another port of the same gateway that is for this machine alone.
        (["0.0.0.0:80", "127.0.0.1:81"], ("127.0.0.1", 81), LOOPBACK, 200),
        (["0.0.0.0:80", "127.0.0.1:81"], ("127.0.0.1", 80), LOOPBACK, 401),
        ("127.0.0.1:80", ("127.0.0.1", 80), ("10.0.0.2", 5), 401),
        ("127.0.0.1:80", None, None, 401),
    ],
)
def test_without_a_token_both_ends_are_loopback(listen, here, peer, status):
    assert status_for(listen, here, peer) == status
    assert status_for(listen, here, peer, f"Authorization: Bearer {TOKEN}") == 200
    assert status_for(listen, here, peer, f"api-key: {TOKEN}") == 200
    assert status_for(listen, here, peer, f"Authorization: Basic {TOKEN}") == status


TEXT = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)
FIELD = st.tuples(
    st.sampled_from(["Origin", "Authorization", "x-api-key", "Via", "X-Real-IP", "X-Other"]), TEXT
)


@given(
    host=st.one_of(TEXT, st.sampled_from(["localhost", "[::1]:1", "127.1", "[fe80::1%25lo]"])),
    path=TEXT,
    method=st.sampled_from(["GET", "HEAD", "POST"]),
    fields=st.lists(FIELD, max_size=4),
)
def test_whatever_is_asked_has_an_answer_and_shows_nothing_to_strangers(host, path, method, fields):
    pages = pages_for("0.0.0.0:80")
    lines = [f"{method} /__holdfast__/{path} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in fields]
    try:
        head = parse_head("\r\n".join([*lines, "", ""]).encode())
    except BadMessage:
        return  # it never comes so far
    answer = pages.answer(head, End(("10.0.0.1", 80), ("10.0.0.2", 5)))
    assert int(answer[9:12]) in {401, 403}
    assert answer.endswith(b"\r\n\r\n") is (method == "HEAD")


# -- metrics -----------------------------------------------------------------------------------


async def metrics_of(port):
    status, head, body = await get(port, "/__holdfast__/metrics")
    assert status == 200
    assert "Content-Type: text/plain; version=0.0.4" in head
    return {
        (
            sample.name.removeprefix("holdfast_gateway_"),
            *sorted(sample.labels.items()),
        ): sample.value
        for family in parsed(body.decode())
        for sample in family.samples
    }


FAMILIES = {
    "requests", "attempts", "retries", "first_byte_seconds", "duration_seconds", "inflight",
    "streams", "endpoint_state", "connections", "stale_sockets", "midstream_cuts", "rejected",
    "budget_tokens",
}  # fmt: skip


@runs
async def test_metrics_are_read_by_the_official_parser_and_name_all_families():
    async with gateway(always(answer()), always(answer(503))) as (gw, _):
        for _ in range(10):
            await ask(gw.port)
        _, _, body = await get(gw.port, "/__holdfast__/metrics")
        families = {one.name.removeprefix("holdfast_gateway_") for one in parsed(body.decode())}
        assert families >= FAMILIES
        found = await metrics_of(gw.port)
        ok = ("requests_total", ("endpoint", "a"), ("outcome", "ok"))
        assert found[ok] == 10
        assert found["attempts_total", ("endpoint", "b"), ("reason", "http 503")] >= 1
        assert found["retries_total", ("reason", "http 503")] >= 1
        assert found[("inflight",)] == found[("streams",)] == 0
        assert found["endpoint_state", ("endpoint", "a"), ("state", "healthy")] == 1
        assert found["endpoint_state", ("endpoint", "a"), ("state", "circuit_open")] == 0
        assert found["connections", ("endpoint", "a"), ("state", "open")] == 1
        assert found[("budget_tokens",)] <= 100
        for name in ("first_byte_seconds", "duration_seconds"):
            assert found[(f"{name}_count",)] == found[f"{name}_bucket", ("le", "+Inf")] == 10
            assert 0 < found[(f"{name}_sum",)] < 10
            bounds = [value for key, value in found.items() if key[0] == f"{name}_bucket"]
            assert bounds == sorted(bounds)


@runs
async def test_requests_that_no_endpoint_saw_are_rejected_by_reason():
    async with gateway(always(answer()), each="enabled = false") as (gw, _):
        assert (await ask(gw.port))[0] == 503
        found = await metrics_of(gw.port)
        assert found["rejected_total", ("reason", "disabled")] == 1


@runs
async def test_labels_are_bounded_by_what_is_configured():
    async with gateway(always(answer())) as (gw, _):
        for number in range(30):
            await ask(gw.port, "GET", f"/path/{number}?query={number}", b"")
        _, _, body = await get(gw.port, "/__holdfast__/metrics")
        assert b"path" not in body
        assert b"query" not in body
        assert body.count(b"holdfast_gateway_requests_total{") == 6


# -- sites that a browser shows ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://evil.example:7860", 403),
        ("https://evil.example", 403),
        ("https://localhost.evil.example", 403),
        ("null", 403),
        ("", 403),
        ("http://localhost:3000", 200),
        ("https://127.0.0.1", 200),
        ("http://[::1]:80", 200),
        ("https://chat.example", 200),
        ("vscode-webview://1fjhq", 200),
        ("file://", 200),
    ],
)
@pytest.mark.parametrize("path", ["/v1/messages", "/__qcc__x"])
@runs
async def test_without_tokens_no_site_may_ask_with_the_keys_of_the_owner(origin, status, path):
    """Not even one whose name points here: DNS rebinding."""
    async with gateway(always(answer()), settings='hosts = ["chat.example"]') as (gw, (up,)):
        for _ in range(3):  # a head that is known by then, too
            got, _, body = await ask(gw.port, "POST", path, b"{}", f"Origin: {origin}")
            assert got == status
            assert status == 200 or code_of(body) == "HF-3012"
        assert len(up.asked) == (3 if status == 200 else 0)


@runs
async def test_two_origins_are_none_that_is_known():
    async with gateway(always(answer())) as (gw, (up,)):
        two = ["origin: http://localhost", "Origin: http://evil.example"]
        assert (await ask(gw.port, "POST", "/v1/messages", b"{}", *two))[0] == 403
        assert not up.asked


@runs
async def test_with_a_token_any_site_may_ask(token):
    async with gateway(always(answer()), settings=TOKENS) as (gw, _):
        fields = ["Origin: https://evil.example", f"Authorization: Bearer {token}"]
        assert (await ask(gw.port, "POST", "/v1/messages", b"{}", *fields))[0] == 200


def test_no_browser_asks_at_a_unix_socket(tmp_path):
    tree = f'[gateway.g]\nlisten = "unix:{tmp_path}/s"\nendpoint = [{{url = "http://h"}}]'
    config = read_gateways(tomllib.loads(tree)).value["g"]
    assert Pages(SimpleNamespace(config=config), Tokens()).knows(b"https://chat.example")
