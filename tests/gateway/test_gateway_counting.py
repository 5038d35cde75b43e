"""Counts of tokens (Q13): asked where somebody counts, estimated where nobody does."""

from __future__ import annotations

import asyncio
import json

import pytest
from gateway_rig import always, answer, ask, gateway, read
from gateway_telling import runs, stats_of

from holdfast.gateway.counting import READ_MAX, UNABLE_SECONDS, Counting, estimate
from holdfast.runtime.clock import clock
from holdfast.wire.requests import parse_head

PATH = "/v1/messages/count_tokens"
BODY = json.dumps(
    {
        "model": "m",
        "system": "You are terse.",
        "messages": [
            {"role": "user", "content": "Hello there"},
            {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]},
        ],
        "tools": [{"name": "look", "description": "Looks.", "input_schema": {"type": "object"}}],
    }
).encode()
CHARACTERS = len('You are terse.Hello thereHilookLooks.{"type":"object"}')
TOKENS = int(CHARACTERS * 0.35) + 10
REAL = answer(200, b'{"input_tokens":7}', "Content-Type: application/json")


async def count(port, body=BODY, path=PATH, **options):
    status, head, found = await ask(port, "POST", path, body, **options)
    return status, "x-holdfast-estimate: true" in head, json.loads(found)


@pytest.mark.parametrize("status", [404, 405, 501])
@runs
async def test_an_endpoint_that_cannot_count_is_asked_once_and_stays_healthy(status):
    async with gateway(always(answer(status, b"{}"))) as (gw, (up,)):
        for path in (PATH, f"{PATH}?beta=true", PATH):
            assert await count(gw.port, path=path) == (200, True, {"input_tokens": TOKENS})
        assert len(up.asked) == 1
        found = await stats_of(gw.port)
        one = found["endpoints"][0]
        assert (one["state"], one["health_status"]["failed_requests"]) == ("healthy", 0)
        assert (found["successful_requests"], found["failed_requests"]) == (3, 0)
        assert found["total_requests"] == 3


@runs
async def test_an_endpoint_that_counts_is_asked_each_time():
    async with gateway(always(REAL)) as (gw, (up,)):
        for _ in range(3):
            assert await count(gw.port) == (200, False, {"input_tokens": 7})
        assert len(up.asked) == 3


@runs
async def test_one_that_counts_is_preferred_to_an_estimate():
    async with gateway(always(answer(404)), always(REAL)) as (gw, (unable, able)):
        found = [await count(gw.port) for _ in range(12)]
        assert len(unable.asked) <= 1
        assert found.count((200, False, {"input_tokens": 7})) == 12 - len(unable.asked)
        assert len(able.asked) == 12 - len(unable.asked)


@runs
async def test_what_was_learned_is_forgotten_after_an_hour():
    async with gateway(always(answer(404))) as (gw, (up,)):
        await count(gw.port)
        counting, endpoints = gw.cluster.counting, gw.cluster.balancer.endpoints
        now = clock.monotonic()
        assert counting.is_ours(endpoints, now)
        assert not counting.is_ours(endpoints, now + UNABLE_SECONDS)
        assert len(up.asked) == 1


@runs
async def test_local_asks_nobody():
    async with gateway(always(REAL), settings='count_tokens = "local"') as (gw, (up,)):
        assert await count(gw.port) == (200, True, {"input_tokens": TOKENS})
        assert not up.asked


@runs
async def test_pass_changes_nothing():
    refusal = answer(404, b'{"error":"no"}')
    async with gateway(always(refusal), settings='count_tokens = "pass"') as (gw, (up,)):
        for _ in range(2):
            assert await count(gw.port) == (404, False, {"error": "no"})
        assert len(up.asked) == 2


@pytest.mark.parametrize("method", ["GET", "PUT"])
@runs
async def test_only_a_post_is_a_count(method):
    async with gateway(always(answer(404, b"none"))) as (gw, (up,)):
        for _ in range(2):
            status, _, body = await ask(gw.port, method, PATH, b"")
            assert (status, body) == (404, b"none")
        assert len(up.asked) == 2


@runs
async def test_another_404_is_passed_on():
    async with gateway(always(answer(404, b"none"))) as (gw, _):
        assert (await ask(gw.port, "POST", "/v1/messages"))[::2] == (404, b"none")


@runs
async def test_a_body_that_is_no_object_is_the_clients_fault():
    async with gateway(always(answer(404)), settings='count_tokens = "local"') as (gw, _):
        for body in (b"", b"nonsense", b"[1]"):
            status, _, found = await count(gw.port, body)
            assert (status, found["error"]["code"]) == (400, "HF-3001")
        found = await stats_of(gw.port)
        assert (found["successful_requests"], found["total_requests"]) == (3, 3)


@runs
async def test_a_large_body_in_pieces_is_counted_whole():
    text = "x" * 3_000_000
    body = json.dumps({"messages": [{"role": "user", "content": text}]}).encode()
    async with gateway(always(answer(404)), settings='count_tokens = "local"') as (gw, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", gw.port)
        writer.write(b"POST %b HTTP/1.1\r\nHost: gw\r\n" % PATH.encode())
        writer.write(b"Content-Length: %d\r\n\r\n" % len(body))
        for at in range(0, len(body), 100_000):
            writer.write(body[at : at + 100_000])
            await writer.drain()
        status, _, found = await read(reader)
        writer.close()
        assert (status, json.loads(found)) == (200, {"input_tokens": int(len(text) * 0.35) + 10})


@runs
async def test_the_connection_goes_on_after_an_estimate():
    async with gateway(always(answer(404))) as (gw, _):
        keep = await asyncio.open_connection("127.0.0.1", gw.port)
        for _ in range(4):
            assert (await count(gw.port, keep=keep))[0] == 200
        keep[1].close()


@pytest.mark.parametrize(
    ("value", "characters"),
    [
        ({}, 0),
        ({"system": "abcd"}, 4),
        ({"system": [{"type": "text", "text": "abcd", "cache_control": {"type": "e"}}]}, 4),
        ({"messages": [{"role": "user", "content": "déjà vu"}]}, 7),
        ({"messages": [{"content": [{"type": "image", "source": {"data": "x" * 99}}]}]}, 0),
        ({"messages": [{"content": [{"type": "tool_use", "name": "t", "input": {"a": 1}}]}]}, 7),
        ({"messages": [{"content": [{"type": "tool_result", "content": [{"text": "abc"}]}]}]}, 3),
        ({"messages": [{"content": [{"type": "thinking", "thinking": "abcde"}]}]}, 5),
        ({"tools": [{"name": "ab", "description": "cd"}]}, 4),
        ({"messages": "no list", "tools": 3, "system": None}, 0),
        ({"messages": [None, 1, {"content": None}, {"content": [1, "x"]}]}, 0),
    ],
)  # fmt: skip
def test_all_text_is_counted_and_nothing_else(value, characters):
    assert estimate(json.dumps(value).encode()) == int(characters * 0.35) + 10


def test_hostile_bodies_cost_little():
    assert estimate(b'{"messages":' + b"[" * 100_000) is None
    assert estimate(b"x" * (READ_MAX + 1)) == int((READ_MAX + 1) * 0.35) + 10
    assert estimate(b"\xff\xfe") is None


@pytest.mark.parametrize("depth", [300, 500, 900, 50_000])
def test_a_body_that_is_nested_too_deeply_is_none(depth):
    content = b'[{"content":' * depth + b'"x"' + b"}]" * depth
    nested = b'{"messages":[{"content":%b}]}' % content
    assert estimate(nested) in {None, 10}


@runs
async def test_a_body_too_large_to_be_read_is_not_held_but_sent_on():
    size = READ_MAX + 1
    unable = always(answer(404, b"{}"))
    came = asyncio.Event()

    async def early(upstream, no, writer):
        came.set()

    unable.early = early
    async with gateway(unable) as (gw, (up,)):
        for _ in range(2):  # the second is not asked any more
            reader, writer = await asyncio.open_connection("127.0.0.1", gw.port)
            writer.write(b"POST %b HTTP/1.1\r\nHost: gw\r\n" % PATH.encode())
            writer.write(b"Content-Length: %d\r\n\r\n" % size + b"x" * (size // 2))
            await asyncio.wait_for(came.wait(), 5)  # before the body is there
            writer.write(b"x" * (size - size // 2))
            status, _, found = await read(reader)
            assert (status, json.loads(found)) == (200, {"input_tokens": int(size * 0.35) + 10})
            writer.close()
            assert gw.cluster.room.used == 0
        assert len(up.asked) == 1


def test_what_was_learned_goes_over_to_another_configuration():
    class Named:
        def __init__(self, name):
            self.id, self.enabled = name, True

    head = parse_head(f"POST {PATH} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    before, after = Counting("auto"), Counting("auto")
    for name in ("kept", "gone"):
        assert before.learned(head, name, 404, 0.0)
    after.succeed(before, [Named("kept"), Named("new")])
    assert [one.id for one in after.unable(head, map(Named, ("kept", "gone", "new")), 1.0)] == [
        "kept"
    ]
