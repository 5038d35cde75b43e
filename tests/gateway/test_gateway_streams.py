"""Streams of events: passed on as they come, held while they are empty, never spliced."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from gateway_rig import (
    always,
    answer,
    ask,
    connect,
    each_chunk,
    event,
    events,
    gateway,
    hangs,
    health,
    reset,
    run,
    tiers,
    until,
)

START = {"type": "message_start", "message": {"content": [], "stop_reason": None}}
PING = {"type": "ping"}
BLOCK = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
STOP = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
END = {"type": "message_stop"}
ROLE = {"choices": [{"delta": {"role": "assistant", "content": ""}}]}
DONE = "[DONE]"
STREAM = b'{"stream": true}'
CHAT = "/v1/chat/completions"


def text(said):
    return {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "text_delta", "text": said},
    }


def token(said):
    return {"choices": [{"delta": {"content": said}}]}


ANTHROPIC = (START, PING, BLOCK, text("Hi"), text("!"), STOP, END)
OPENAI = (ROLE, token("Hi"), token("!"), DONE)


def stream(*values, then="close", every=0.0, head=()):
    """Answer with a stream of events, and then: close, reset, or hang."""

    async def script(upstream, no, writer):
        writer.write(events(head=head))
        for value in values:
            writer.write(value if isinstance(value, bytes) else event(value))
            await writer.drain()
            await asyncio.sleep(every)
        if then == "hang":
            return await hangs(upstream, no, writer)
        if then == "reset":
            await asyncio.sleep(0.02)
            reset(writer)
        return False

    return script


def chunked(*pieces, every=0.0):
    async def script(upstream, no, writer):
        writer.write(events(head=["Transfer-Encoding: chunked"]))
        for piece in pieces:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
            await asyncio.sleep(every)
        writer.write(b"0\r\n\r\n")

    return script


def said_in(body):
    """Return what the events of a body say; of an error, its JSON."""
    found = []
    for one in body.decode().split("\n\n")[:-1]:
        data = one.partition("data: ")[2]
        found.append(json.loads(data) if data.startswith("{") else data)
    return found


# -- as they come ----------------------------------------------------------------------------


def test_each_event_is_there_before_the_next_is_sent():
    pieces = [event(START), *(event(text(str(n))) for n in range(9)), event(STOP) + event(END)]
    sent = []

    async def script(upstream, no, writer):
        writer.write(events(head=["Transfer-Encoding: chunked"]))
        for piece in pieces:
            sent.append(time.monotonic())
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
            await asyncio.sleep(0.03)
        writer.write(b"0\r\n\r\n")

    async def main():
        async with gateway(script) as (gw, _):
            reader, writer = await connect(gw)
            writer.write(
                b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b"
                % (len(STREAM), STREAM)
            )
            await reader.readuntil(b"\r\n\r\n")
            seen, times = b"", []
            async for piece in each_chunk(reader):
                seen += piece
                times.append(time.monotonic())
            assert seen == b"".join(pieces)
            assert len(times) == len(pieces) - 1  # the preamble comes with the first content
            late = [got - was for got, was in zip(times, sent[1:], strict=True)]
            assert sorted(late)[len(late) // 2] < 0.02
            writer.close()

    run(main)


def test_a_read_that_ends_within_an_event_passes_the_whole_ones_before_it():
    whole = event("one") + event("two")
    pieces = [whole + b"data: th", b"ree\n\n"]

    async def main():
        async with gateway(chunked(*pieces, every=0.05)) as (gw, _):
            reader, writer = await connect(gw, b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            first = await reader.readexactly(int((await reader.readline()).strip(), 16))
            assert first == whole
            writer.close()

    run(main)


def test_an_event_that_is_too_large_to_be_held_passes_raw():
    huge = b"data: " + b"x" * 200_000 + b"\n\n"
    pieces = [huge[n : n + 30_000] for n in range(0, len(huge), 30_000)]

    async def main():
        async with gateway(chunked(*pieces, event("after"))) as (gw, _):
            assert (await ask(gw.port, "GET", "/x"))[2] == huge + event("after")

    run(main)


def test_only_streams_are_asked_for_without_a_coding():
    async def main():
        settings = 'profile = "anthropic"'
        async with gateway(always(answer()), settings=settings) as (gw, (up,)):
            await ask(gw.port, "POST", "/v1/messages", STREAM, "Accept-Encoding: gzip")
            await ask(gw.port, "POST", "/v1/messages", b"{}", "Accept-Encoding: gzip")
            assert "Accept-Encoding: identity" in up.asked[0][1]
            assert "gzip" not in up.asked[0][1]
            assert "Accept-Encoding: gzip" in up.asked[1][1]

    run(main)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_who_accepts_only_events_asks_for_a_stream_whatever_the_api(method):
    async def main():
        async with gateway(always(answer())) as (gw, (up,)):
            kinds = ["text/event-stream"] * 2 + ["application/json, text/event-stream"]
            for kind in kinds:
                fields = ["Accept-Encoding: gzip", f"Accept: {kind}"]
                await ask(gw.port, method, "/x", b"{}", *fields)
            identity = ["Accept-Encoding: identity" in head for _, head, _ in up.asked]
            assert identity == [True, True, False]
            sent = [head for _, head, _ in up.asked]
            assert all(kind in head for kind, head in zip(kinds, sent, strict=True))

    run(main)


def test_a_stream_with_a_coding_passes_as_bytes():
    packed = bytes(range(256)) * 40

    async def main():
        script = stream(packed, head=["Content-Encoding: gzip"])
        async with gateway(script) as (gw, _):
            assert (await ask(gw.port, "POST", "/v1/messages", STREAM))[2] == packed

    run(main)


@pytest.mark.parametrize(
    "kind",
    [
        "Content-Type: application/x-ndjson",
        "Content-Type: application/jsonl; charset=utf-8",
        "Content-Type: application/json-seq",
        "Content-Type: application/vnd.amazon.eventstream",
        "X-Accel-Buffering: no",
    ],
)
def test_streams_of_other_kinds_are_never_held(kind):
    async def script(upstream, no, writer):
        writer.write(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n1\n" % kind.encode())
        return await hangs(upstream, no, writer)

    async def main():
        async with gateway(script) as (gw, _):
            reader, writer = await connect(gw, b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
            async with asyncio.timeout(0.2):
                await reader.readuntil(b"1\n")
            writer.close()

    run(main)


# -- the empty beginning ---------------------------------------------------------------------


@pytest.mark.parametrize("then", ["hang", "reset", "close"])
@pytest.mark.parametrize(
    ("path", "preamble", "whole"),
    [
        ("/v1/messages", (START, PING, BLOCK), ANTHROPIC),
        (CHAT, (ROLE,), OPENAI),
    ],
    ids=["anthropic", "openai"],
)
def test_a_stream_without_content_is_fetched_elsewhere_and_given_whole(path, preamble, whole, then):
    async def main():
        settings = "first_content_timeout = 0.1"
        async with gateway(stream(*preamble, then=then), stream(*whole), settings=settings) as (
            gw,
            (bad, _),
        ):
            found = [await ask(gw.port, "POST", path, STREAM) for _ in range(8)]
            expected = b"".join(map(event, whole))
            assert {(status, body) for status, _, body in found} == {(200, expected)}
            assert bad.asked
            assert health(gw).counts(time.monotonic()).failures >= 1

    run(main)


def test_a_preamble_is_not_held_where_that_is_not_wished():
    async def main():
        async with gateway(stream(START, then="hang"), settings="hold_preamble = false") as (gw, _):
            reader, writer = await connect(
                gw, b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
            )
            async with asyncio.timeout(0.3):
                await reader.readuntil(b"message_start")
            writer.close()

    run(main)


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        ({"type": "error", "error": {"type": "overloaded_error"}}, False),
        ({"type": "error", "error": {"type": "rate_limit_error"}}, False),
        ({"type": "error", "error": {"type": "api_error"}}, True),
    ],
)
@pytest.mark.parametrize("before", [(), (START, PING)], ids=["first", "after preamble"])
def test_an_error_in_place_of_content_means_what_its_status_would(error, counts, before):
    async def main():
        async with gateway(stream(*before, error), stream(*ANTHROPIC)) as (gw, (bad, _)):
            expected = b"".join(map(event, ANTHROPIC))
            found = [await ask(gw.port, "POST", "/v1/messages", STREAM) for _ in range(8)]
            assert {body for _, _, body in found} == {expected}
            assert bad.asked
            assert (health(gw).counts(time.monotonic()).failures > 0) == counts
            assert (health(gw).free_at(0.0) > 0) == (not counts)

    run(main)


def test_an_error_of_the_clients_in_a_stream_is_passed_on():
    error = {"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}

    async def main():
        async with gateway(stream(error), stream(error)) as (gw, ups):
            status, _, body = await ask(gw.port, "POST", "/v1/messages", STREAM)
            assert (status, body) == (200, event(error))
            assert sum(len(up.asked) for up in ups) == 1

    run(main)


def test_if_all_answer_with_an_error_the_last_one_is_given():
    error = {"type": "error", "error": {"type": "api_error", "message": "no"}}

    async def main():
        async with gateway(stream(START, error)) as (gw, (up,)):
            status, head, body = await ask(gw.port, "POST", "/v1/messages", STREAM)
            assert (status, body) == (200, event(START) + event(error))
            assert len(up.asked) == 4
            assert "x-should-retry: false" in head

    run(main)


# -- cuts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("then", ["reset", "close", "hang"])
@pytest.mark.parametrize("half", [b"", b'data: {"type":"content_b'], ids=["between", "within"])
@pytest.mark.parametrize(
    ("path", "begun"),
    [("/v1/messages", (START, BLOCK, text("one"))), (CHAT, (ROLE, token("one"), token("two")))],
    ids=["anthropic", "openai"],
)
def test_a_stream_that_breaks_ends_with_one_error_and_is_not_spliced(path, begun, half, then):
    async def main():
        settings = "idle_timeout = 0.1"
        async with gateway(*[stream(*begun, half, then=then)] * 2, settings=settings) as (gw, ups):
            status, _, body = await ask(gw.port, "POST", path, STREAM)
            assert status == 200
            *whole, last = said_in(body)
            assert tuple(whole) == begun
            assert body.count(b"event: error\n") == 1
            assert (last["type"], last["error"]["code"]) == ("error", "HF-3108")
            assert last["holdfast"]["sent"] == "yes"
            assert sum(len(up.asked) for up in ups) == 1
            assert gw.cluster.ledger.cuts == 1

    run(main)


@pytest.mark.parametrize(
    ("path", "whole"),
    [
        ("/v1/messages", (START, text("one"), STOP)),
        ("/v1/messages", (START, text("one"), END)),
        (CHAT, (token("one"), {"choices": [{"delta": {}, "finish_reason": "stop"}]})),
        (CHAT, (token("one"), DONE)),
        (
            "/v1/responses",
            (
                {"type": "response.output_text.delta", "delta": "x"},
                {"type": "response.completed", "response": {}},
            ),
        ),
        ("/x", ("anything",)),
    ],
)
def test_a_stream_that_says_it_is_over_may_end_however_it_likes(path, whole):
    async def main():
        async with gateway(stream(*whole)) as (gw, _):
            _, _, body = await ask(gw.port, "POST", path, STREAM)
            assert body == b"".join(map(event, whole))
            assert tiers(gw) == ["healthy"]

    run(main)


def test_an_error_that_the_server_sends_itself_is_the_end():
    error = {"type": "error", "error": {"type": "overloaded_error"}}

    async def main():
        async with gateway(stream(START, text("one"), b"event: error\n" + event(error))) as (gw, _):
            _, _, body = await ask(gw.port, "POST", "/v1/messages", STREAM)
            assert b"HF-3108" not in body
            assert body.endswith(b"event: error\n" + event(error))

    run(main)


def test_another_answer_that_breaks_is_seen_to_be_cut():
    async def script(upstream, no, writer):
        writer.write(answer(200, b"x" * 600_000)[:-1000])
        await writer.drain()
        await asyncio.sleep(0.05)
        reset(writer)
        return False

    async def main():
        async with gateway(script, script) as (gw, ups):
            with pytest.raises(asyncio.IncompleteReadError) as cut:
                await ask(gw.port)
            assert set(cut.value.partial) == {ord("x")}
            assert sum(len(up.asked) for up in ups) == 1

    run(main)


def test_a_stream_may_last_no_longer_than_configured():
    async def main():
        settings = "stream_timeout = 0.2\ntotal_timeout = 0.1"
        script = stream(START, *[text(str(n)) for n in range(100)], every=0.02)
        async with gateway(script, settings=settings) as (gw, _):
            began = time.monotonic()
            _, _, body = await ask(gw.port, "POST", "/v1/messages", STREAM)
            assert 0.15 < time.monotonic() - began < 0.6
            assert said_in(body)[-1]["holdfast"]["reason"] == "total timeout"
            assert tiers(gw) == ["healthy"]

    run(main)


# -- slow clients, and such that leave -------------------------------------------------------


def test_a_client_that_takes_little_makes_the_endpoint_wait():
    sent = [0]

    async def script(upstream, no, writer):
        writer.write(events(head=["Transfer-Encoding: chunked"]))
        piece = event("x" * 8000)
        for _ in range(4000):
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            sent[0] += len(piece)
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    async def main():
        async with gateway(script) as (gw, _):
            reader, writer = await connect(gw, limit=4096)
            writer.write(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            before = -1
            while before != sent[0]:
                before = sent[0]
                await asyncio.sleep(0.1)
            (client,) = gw.clients
            assert client.paused
            # What was there when it was full, and one read of the loop more.
            assert client.transport.get_write_buffer_size() <= (64 + 256 + 1) * 1024
            assert sent[0] < 4000 * 8000
            got = 0
            while data := await reader.read(1 << 20):
                got += len(data)
                if data.endswith(b"\r\n0\r\n\r\n"):
                    break
            assert sent[0] > 4000 * 8000
            assert got > sent[0]
            writer.close()

    run(main)


def test_a_client_that_takes_nothing_is_left():
    async def main():
        async def script(upstream, no, writer):
            writer.write(events(head=["Transfer-Encoding: chunked"]))
            piece = event("x" * 60_000)
            while True:
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                await writer.drain()

        async with gateway(script, settings="write_timeout = 0.15") as (gw, (up,)):
            reader, writer = await connect(gw, limit=1024)
            writer.write(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            await until(lambda: not gw.clients)
            await until(lambda: not up.open)
            assert tiers(gw) == ["healthy"]
            writer.close()

    run(main)


def test_200_clients_that_leave_their_streams_leave_nothing_behind():
    async def main():
        async with gateway(stream("one", then="hang"), stream("one", then="hang")) as (gw, ups):

            async def user():
                reader, writer = await connect(gw, b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
                await reader.readuntil(b"one")
                return writer

            writers = await asyncio.gather(*(user() for _ in range(200)))
            assert sum(up.open for up in ups) == 200
            for writer in writers:
                writer.transport.abort()
            await until(lambda: not sum(up.open for up in ups), 1.0)
            assert [health(gw, n).in_flight for n in (0, 1)] == [0, 0]
            assert tiers(gw) == ["healthy", "healthy"]
            assert not gw.clients

    run(main)
