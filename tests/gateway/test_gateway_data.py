from __future__ import annotations

import asyncio
import json
import time

import pytest
from gateway_rig import always, answer, ask, connect, each_chunk, gateway, in_turn, read, reset, run

OK = answer()


async def resets(upstream, no, writer):
    reset(writer)
    return False


def test_a_request_goes_through_and_back():
    async def main():
        async with gateway(always(answer(201, b"made", "X-Up: 1"))) as (gw, (up,)):
            status, head, body = await ask(gw.port, "POST", "/v1/x?beta=true", b"abc", "X-Down: 2")
            assert (status, body) == (201, b"made")
            assert "X-Up: 1" in head
            assert up.asked[0][0] == "POST /v1/x?beta=true HTTP/1.1"
            assert "X-Down: 2" in up.asked[0][1]
            assert up.asked[0][2] == b"abc"

    run(main)


def test_both_throttled_once_is_two_hundreds():
    async def main():
        throttled = answer(529, b"{}")
        settings = "max_wait = 10"
        async with gateway(in_turn(throttled, OK), in_turn(throttled, OK), settings=settings) as (
            gw,
            ups,
        ):
            found = await asyncio.gather(ask(gw.port), ask(gw.port))
            assert [status for status, _, _ in found] == [200, 200]
            assert sum(len(up.asked) for up in ups) == 4

    run(main)


def test_a_client_fault_is_passed_on_untouched_and_changes_no_state():
    async def main():
        bad = answer(400, b'{"type":"error"}', "Content-Type: application/json")
        async with gateway(always(bad), always(OK)) as (gw, ups):
            found = [await ask(gw.port) for _ in range(8)]
            assert {status for status, _, _ in found} == {200, 400}
            assert sum(len(up.asked) for up in ups) == 8
            assert all(
                one.health.tier(time.monotonic()) == 0 for one in gw.cluster.balancer.endpoints
            )

    run(main)


def test_one_that_resets_all_is_not_seen_by_clients():
    async def main():
        async with gateway(resets, always(OK)) as (gw, (bad, good)):
            found = [await ask(gw.port) for _ in range(200)]
            assert {status for status, _, _ in found} == {200}
            assert len(good.asked) == 200
            assert len(bad.asked) <= 15

    run(main)


def test_what_may_have_run_is_not_sent_twice():
    async def main():
        async with gateway(resets, resets) as (gw, ups):
            status, _, body = await ask(gw.port, "POST", "/pay")
            error = json.loads(body)
            assert status == 502
            assert error["error"]["code"] == "HF-3106"
            assert error["holdfast"]["sent"] == "maybe"
            assert sum(len(up.asked) for up in ups) == 1

    run(main)


def test_when_all_refuse_the_last_answer_is_passed_on_unchanged():
    async def main():
        refusal = answer(503, b"down for tea", "X-Why: tea")
        async with gateway(always(refusal), always(refusal)) as (gw, ups):
            status, head, body = await ask(gw.port)
            assert (status, body) == (503, b"down for tea")
            assert "X-Why: tea" in head
            assert 2 <= sum(len(up.asked) for up in ups) <= 4

    run(main)


@pytest.mark.parametrize("fault", ["fin", "rst", "garbage"])
def test_an_answer_that_breaks_is_fetched_elsewhere(fault):
    async def breaks(upstream, no, writer):
        writer.write(OK[:-2] if fault != "garbage" else b"HTTP/1.1 2OO\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)
        if fault == "rst":
            reset(writer)
        return False

    async def main():
        async with gateway(breaks, always(OK)) as (gw, _):
            found = [await ask(gw.port) for _ in range(30)]
            assert {(status, body) for status, _, body in found} == {(200, b"fine")}

    run(main)


def test_a_stream_passes_event_by_event():
    events = [b"data: %d\n\n" % n for n in range(6)]

    async def streams(upstream, no, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
        writer.write(b"Transfer-Encoding: chunked\r\n\r\n")
        for event in events:
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
            await writer.drain()
            await asyncio.sleep(0.05)
        writer.write(b"0\r\n\r\n")

    async def main():
        async with gateway(streams) as (gw, _):
            reader, writer = await connect(gw, b"GET /v1/other HTTP/1.1\r\nHost: a\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            times, seen = [], b""
            async for piece in each_chunk(reader):
                seen += piece
                times.append(time.monotonic())
            assert seen == b"".join(events)
            assert len(times) == 6
            writer.close()

    run(main)


def test_a_stream_cut_in_the_middle_says_so_and_is_not_spliced():
    async def cut(upstream, no, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        for n in range(3):
            writer.write(b"data: %d\n\n" % n)
        writer.write(b"data: half")
        await writer.drain()
        await asyncio.sleep(0.05)
        reset(writer)
        return False

    async def main():
        async with gateway(cut, cut) as (gw, ups):
            status, _, body = await ask(gw.port, "GET", "/v1/other")
            assert status == 200
            events = body.decode().split("\n\n")
            assert events[:3] == ["data: 0", "data: 1", "data: 2"]
            assert events[3].startswith("event: error\ndata: ")
            assert json.loads(events[3].partition("data: ")[2])["error"]["code"] == "HF-3108"
            assert sum(len(up.asked) for up in ups) == 1

    run(main)


def test_a_client_that_leaves_ends_its_request_upstream():
    async def hangs(upstream, no, writer):
        await asyncio.sleep(20)

    async def main():
        async with gateway(hangs) as (gw, (up,)):
            _, writer = await connect(gw, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await up.asked_first.wait()
            writer.close()
            for _ in range(100):
                await asyncio.sleep(0.01)
                if gw.cluster.ledger.cancelled:
                    break
            endpoint = gw.cluster.balancer.endpoints[0]
            assert endpoint.health.in_flight == 0
            assert endpoint.health.tier(time.monotonic()) == 0
            assert gw.cluster.upstream_of(endpoint).connections == (0, 0)

    run(main)


def test_pipelined_requests_are_answered_in_order():
    async def main():
        async def by_path(upstream, no, writer):
            path = upstream.asked[-1][0].split(" ")[1].encode()
            await asyncio.sleep(0.03 if path == b"/1" else 0)
            writer.write(answer(200, path))

        async with gateway(by_path, by_path) as (gw, _):
            reader, writer = await connect(
                gw, b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in range(1, 6))
            )
            assert [(await read(reader))[2] for _ in range(5)] == [b"/%d" % n for n in range(1, 6)]
            writer.close()

    run(main)


def test_connections_are_kept_and_a_second_answer_reaches_nobody():
    async def twice(upstream, no, writer):
        writer.write(OK + answer(200, b"smuggled"))

    async def main():
        async with gateway(always(OK)) as (gw, (up,)):
            for _ in range(10):
                await ask(gw.port)
            assert up.connections == 1
        async with gateway(twice) as (gw, (up,)):
            assert {(await ask(gw.port))[2] for _ in range(10)} == {b"fine"}
            assert up.connections == 10

    run(main)


def test_malformed_requests_are_refused_and_nothing_goes_upstream():
    async def main():
        async with gateway(always(OK)) as (gw, (up,)):
            for data, status in (
                (b"GET / HTTP/1.1\r\n\r\n", 400),
                (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", 400),
                (b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
                (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
            ):
                reader, writer = await connect(gw, data)
                found, head, body = await read(reader)
                assert (found, "Connection: close" in head) == (status, True)
                assert json.loads(body)["error"]["type"] == "invalid_request_error"
                assert await reader.read() == b""
                writer.close()
            assert up.asked == []

    run(main)


def test_who_comes_while_the_first_that_waited_is_on_its_way_waits_behind_it():
    async def script(upstream, no, writer):
        if no == 1:
            writer.write(answer(429, b"{}", "Retry-After: 1"))
            return
        await asyncio.sleep(0.3)
        writer.write(OK)

    async def main():
        async with gateway(script) as (gw, (up,)):
            first = asyncio.create_task(ask(gw.port))
            await up.asked_first.wait()
            up.asked_first.clear()
            await up.asked_first.wait()  # it has cooled down, and the first was let go
            found = await asyncio.gather(first, *(ask(gw.port) for _ in range(3)))
            assert [status for status, _, _ in found] == [200] * 4

    run(main)
