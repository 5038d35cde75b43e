"""The short way of a request does what the long way does, to each byte and each count."""

from __future__ import annotations

import asyncio
import json
import re

import pytest
from gateway_rig import (
    always,
    answer,
    ask,
    connect,
    gateway,
    hangs,
    in_turn,
    read,
    reset,
    run,
    tiers,
    until,
)

from holdfast.gateway.forms import MOST
from holdfast.gateway.relay import Relay
from holdfast.gateway.short import Short
from holdfast.gateway.talking import Talking
from holdfast.runtime.clock import clock
from holdfast.testing import sim_run

JSON = "Content-Type: application/json"
OK = answer(200, b'{"a": 1}', JSON, "Date: now", "Keep-Alive: timeout=9", "X_Y: 1")


@pytest.fixture
def ways(monkeypatch):
    """Counts what went the short way, to the endpoint and back."""
    counts = {"there": 0, "back": 0}
    begin, pass_on = Short.begin, Talking.pass_on

    def counted_begin(*args):
        begun = begin(*args)
        counts["there"] += begun is not None
        return begun

    def counted_pass_on(self, data):
        counts["back"] += 1  # of what is written as it is, an answer is all at once
        pass_on(self, data)

    monkeypatch.setattr(Short, "begin", counted_begin)
    monkeypatch.setattr(Talking, "pass_on", counted_pass_on)
    return counts


async def several(gw, n, *fields, path="/v1/messages", body=b'{"b": 2}', split=False):
    """Ask on one connection; split: in two pieces, which is what the long way is for."""
    reader, writer = await connect(gw)
    found = []
    for _ in range(n):
        lines = [f"POST {path} HTTP/1.1", "Host: gw", *fields, f"Content-Length: {len(body)}"]
        data = "\r\n".join([*lines, "", ""]).encode() + body
        if split:
            writer.write(data[:-1])
            await asyncio.sleep(0.03)
            data = data[-1:]
        writer.write(data)
        found.append(await read(reader))
    writer.close()
    return found


def plain(text):
    """Take out what differs between any two requests."""
    return re.sub(r"x-holdfast-request: \S+|holdfast-[0-9a-f]{8}", "", text)


@pytest.mark.parametrize(
    ("settings", "each"),
    [
        ("", ""),
        ('profile = "generic"\nvia = false', ""),
        ("expose = false", 'headers = {X-Own = "1%d"}'),
        ("", 'host = "api.example"'),
    ],
)
def test_both_ways_send_and_give_the_same_bytes_and_count_the_same(ways, settings, each):
    fields = ("X-Down: 1", "Authorization: Bearer c", "Accept: */*", "accept: x", "Connection: TE")

    async def main(*, split):
        async with gateway(always(OK), settings=settings, each=each) as (gw, (up,)):
            given = await several(gw, 4, *fields, path="/v1/messages?beta=true", split=split)
            stats = gw.stats()
            ledger = gw.cluster.ledger
            account = next(iter(ledger.accounts.values()))
            counts = (
                ledger.requests,
                ledger.in_flight,
                ledger.succeeded,
                ledger.failed,
                ledger.durations.timed,
                ledger.recent.whole().ok,
                ledger.recent.whole().timed,
                account.recent.whole().ok,
                account.recent.whole().timed,
                account.reasons,
                account.outcomes,
                account.row,
                ledger.last_endpoint,
                [one.health.in_flight for one in gw.cluster.balancer.endpoints],
                stats["total_requests"],
                stats["successful_requests"],
                [one["health_status"]["total_requests"] for one in stats["endpoints"]],
            )
            sent = [plain(head).replace(str(gw.port), "") for _, head, _ in up.asked]
            port = str(up.server.sockets[0].getsockname()[1])
            return (
                [(status, plain(head), body) for status, head, body in given],
                [head.replace(port, "") for head in sent],
                [body for _, _, body in up.asked],
                counts,
            )

    asked = {}
    for split in (True, False):
        asked[split] = asyncio.run(asyncio.wait_for(main(split=split), 30))
        if split:
            assert ways == {"there": 0, "back": 0}
    assert asked[True] == asked[False]
    assert ways == {"there": 3, "back": 3}  # the first one had no connection yet


def test_lengths_may_differ_and_bodies_are_not_mixed_up(ways):
    async def echo(upstream, no, writer):
        writer.write(answer(200, upstream.asked[-1][2]))

    async def main():
        async with gateway(echo) as (gw, _):
            keep = await connect(gw)
            for size in (5, 50, 0, 1, 5000, 7):
                body = bytes([65 + size % 26]) * size
                status, _, given = await ask(gw.port, body=body, keep=keep)
                assert (status, given) == (200, body)
            keep[1].close()

    run(main)
    assert ways["back"] == 5


@pytest.mark.parametrize(
    ("broken", "status"),
    [
        (answer(503, b"no"), 200),
        (answer(529, b"no"), 200),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nContent-Length: 8\r\n\r\nabcdefgh", 200),
        (answer(200, b'{"type":"error","error":{"type":"overloaded_error"}}', JSON), 200),
        (answer(404, b"gone"), 404),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", 200),
    ],
)
def test_an_answer_that_is_no_good_goes_the_long_way(ways, broken, status):
    async def breaks(upstream, no, writer):
        writer.write(broken)
        if broken.endswith(b"half"):
            await writer.drain()
            reset(writer)
            return False
        return True

    found = first_short(ways, breaks)
    assert found[0] == status
    if status == 200:
        assert found[2] == b'{"a": 1}'
    assert ways["there"] > ways["back"]


def first_short(ways, script, settings=""):
    """Return the answer to the first request that went the short way, which meets `script`."""

    async def either(upstream, no, writer):
        if ways["there"] == 1 and not met:
            met.append(upstream)
            return await script(upstream, no, writer)
        writer.write(OK)
        return True

    async def main():
        async with gateway(either, either, settings=settings) as (gw, _):
            while not met:
                (found,) = await several(gw, 1)
            return found

    met = []
    return run(main)


def test_a_kept_connection_that_had_died_costs_nothing(ways):
    async def closes_after_second(upstream, no, writer):
        if no == 3:
            reset(writer)
            return False
        writer.write(OK)
        return True

    async def main():
        async with gateway(closes_after_second) as (gw, (up,)):
            found = await several(gw, 4)
            assert [status for status, _, _ in found] == [200] * 4
            assert len(up.asked) == 5
            assert gw.cluster.ledger.stale == 1
            assert tiers(gw) == ["healthy"]
            assert gw.cluster.balancer.endpoints[0].health.in_flight == 0

    run(main)
    assert ways == {"there": 2, "back": 1}  # and the fourth took no kept one, having learned


def test_one_that_hangs_is_given_up_when_its_time_is_over(ways):
    found = first_short(ways, hangs, "first_byte_timeout = 0.2")
    assert found[0] == 200
    assert found[2] == b'{"a": 1}'
    assert ways["there"] > ways["back"]


async def then_hangs(upstream, no, writer):
    """Answer the first request, and no other."""
    if no > 1:
        return await hangs(upstream, no, writer)
    writer.write(OK)
    return True


def test_a_client_that_leaves_takes_its_request_along(ways):
    async def main():
        async with gateway(then_hangs) as (gw, (up,)):
            await several(gw, 1)
            _, writer = await connect(
                gw, b"POST /v1/messages HTTP/1.1\r\nHost: gw\r\nContent-Length: 2\r\n\r\n{}"
            )
            await until(lambda: len(up.asked) == 2)
            assert ways["there"] == 1
            writer.transport.abort()
            await until(lambda: up.open == 0)
            ledger = gw.cluster.ledger
            assert (ledger.cancelled, ledger.in_flight) == (1, 0)
            assert gw.cluster.balancer.endpoints[0].health.in_flight == 0
            assert tiers(gw) == ["healthy"]

    run(main)


def test_one_that_runs_is_cut_when_the_gateway_ends(ways):
    async def main():
        async with gateway(then_hangs) as (gw, (up,)):
            await several(gw, 1)
            asking = asyncio.create_task(several(gw, 1))
            await until(lambda: len(up.asked) == 2)
            assert ways["there"] == 1
            await gw.drain(0.1)
            ((status, _, body),) = await asking
            assert status == 503
            assert b"HF-3107" in body

    run(main)


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /v1/x HTTP/1.1\r\nHost: a\r\nHost: b\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: +2\r\n\r\n{}",
        b"POST /v1/x HTTP/1.1\r\nHost: a\r\nA: b\nContent-Length: 2\r\n\r\n{}",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length : 2\r\n\r\n{}",
    ],
)
def test_what_is_refused_is_refused_each_time(ways, request_):
    async def main():
        async with gateway(always(OK)) as (gw, (up,)):
            await several(gw, 2)
            for _ in range(3):
                reader, writer = await connect(gw, request_)
                status, _, _ = await read(reader)
                assert status == 400
                writer.close()
            assert len(up.asked) == 2

    run(main)


def test_a_head_that_never_comes_again_is_not_kept_for_long(ways):
    async def main():
        async with gateway(always(OK)) as (gw, (up,)):
            keep = await connect(gw)
            for number in range(2 * MOST):
                status, _, _ = await ask(
                    gw.port, "POST", "/v1/messages", b"{}", f"X-Trace: {number}", keep=keep
                )
                assert status == 200
            assert f"X-Trace: {2 * MOST - 1}" in up.asked[-1][1]
            assert gw.cluster.forms.known <= MOST
            keep[1].close()

    run(main)
    assert MOST - 5 <= ways["back"] <= MOST + 5


@pytest.mark.parametrize(
    ("settings", "short"),
    [
        ("forwarded = true", False),
        ('trusted_proxies = ["127.0.0.1/32"]', False),
        ('trusted_proxies = ["10.0.0.0/8"]', True),
    ],
)
def test_what_is_told_of_clients_is_told_each_time(ways, settings, short):
    async def main():
        async with gateway(always(OK), settings=settings) as (gw, (up,)):
            await several(gw, 3, "X-Forwarded-For: 1.2.3.4")
            told = [re.findall("X-Forwarded-For: (.*)\r", head) for _, head, _ in up.asked]
            given = [["1.2.3.4"]] if "127.0" in settings else [[]]
            assert told == ([["127.0.0.1"]] if "forwarded" in settings else given) * 3

    run(main)
    assert bool(ways["there"]) is short


def test_a_get_without_a_body_says_nothing_of_one_however_often_it_comes(ways):
    async def main():
        async with gateway(always(OK)) as (gw, (up,)):
            reader, writer = await connect(gw)
            for _ in range(3):
                writer.write(b"GET /v1/models HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
                assert (await read(reader))[0] == 200
            writer.close()
            assert not any("content-length" in head.lower() for _, head, _ in up.asked)

    run(main)


def test_a_log_is_no_reason_for_the_long_way(ways, tmp_path):
    async def main():
        settings = f'access_log = "{tmp_path}/log"'
        async with gateway(always(OK), settings=settings) as (gw, _):
            await several(gw, 3)

    run(main)
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 3
    for line in lines:
        assert '"status":200' in line
        assert '"bytes_in":8,' in line
        assert '"bytes_out":0,' not in line
    assert ways["back"] == 2


# -- streams ---------------------------------------------------------------------------------------

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENTS = [
    b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"%d"}}\n\n'
    % n
    for n in range(12)
]
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


def chunk(data, line=b"%x"):
    return line % len(data) + b"\r\n" + data + b"\r\n"


@pytest.fixture
def passed(monkeypatch):
    """Which pieces of streams went as they came."""
    found = []
    make = Relay.__init__

    def begin(self, *args):
        make(self, *args)
        write = self._write

        def counted(data):
            found.append(data)
            write(data)

        self._write = counted

    monkeypatch.setattr(Relay, "__init__", begin)
    return found


def streamed(*pieces, ends=b"0\r\n\r\n", minor=1):
    """Return what a client gets, raw, of a stream that comes in these pieces."""

    async def script(upstream, no, writer):
        writer.write(HEAD + chunk(EVENTS[0]))
        for piece in (*pieces, ends):
            await writer.drain()
            await asyncio.sleep(0.02)
            if piece is None:
                reset(writer)
                return False
            writer.write(piece)
        return True

    async def main():
        async with gateway(script) as (gw, _):
            reader, writer = await connect(gw)
            body = b'{"stream": true}'
            writer.write(
                b"POST /v1/messages HTTP/1.%d\r\nHost: gw\r\nConnection: close\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (minor, len(body), body)
            )
            given = await reader.read()
            writer.close()
            return given.partition(b"\r\n\r\n")[2]

    return run(main)


def test_events_that_come_one_by_one_pass_as_they_come(passed):
    own = [chunk(event) for event in (*EVENTS[1:], STOP)]
    given = streamed(*own)
    assert given == chunk(EVENTS[0]) + b"".join(own) + b"0\r\n\r\n"
    assert passed == own


@pytest.mark.parametrize(
    "odd",
    [
        [chunk(EVENTS[1])[:9], chunk(EVENTS[1])[9:]],
        [chunk(EVENTS[1])[:-1], chunk(EVENTS[1])[-1:]],
        [chunk(EVENTS[1])[:-2], b"\r\n"],
        [chunk(EVENTS[1]) + chunk(EVENTS[2])],
        [chunk(EVENTS[1][:20]), chunk(EVENTS[1][20:])],
        [chunk(EVENTS[1], b"%X;ext=1")],
        [chunk(EVENTS[1], b"000%x")],
        [chunk(EVENTS[1].replace(b"\n", b"\r\n"))],
    ],
)
def test_what_comes_otherwise_is_read_and_the_rest_passes_again(passed, odd):
    after = [chunk(event) for event in (*EVENTS[4:], STOP)]
    given = streamed(*odd, *after)
    content = b""
    while given:
        line, _, rest = given.partition(b"\r\n")
        content, given = content + rest[: int(line, 16)], rest[int(line, 16) + 2 :]
    events = content.replace(b"\r\n", b"\n")
    assert events.startswith(EVENTS[0] + EVENTS[1])
    assert events.endswith(b"".join(EVENTS[4:]) + STOP)
    assert events.count(b"event: content") == 10 + (EVENTS[2] in events)
    assert passed == after


@pytest.mark.parametrize("ends", [None, b"0\r\n\r\n"])
def test_a_stream_that_breaks_after_such_events_says_so(passed, ends):
    own = [chunk(event) for event in EVENTS[1:5]]
    given = streamed(*own, ends=ends)
    assert passed == own
    assert given.startswith(chunk(EVENTS[0]) + b"".join(own))
    assert b"event: error\n" in given
    assert b"HF-3108" in given


def test_events_that_pass_put_off_the_limit_of_silence_from_the_last_one_on(passed):
    async def script(upstream, no, writer):
        writer.write(HEAD + chunk(EVENTS[0]))
        for _ in range(8):
            await asyncio.sleep(4)
            writer.write(chunk(EVENTS[1]))
        await asyncio.sleep(100)

    async def main(_):
        async with gateway(script, settings="idle_timeout = 5") as (gw, _):
            began = clock.monotonic()
            _, _, body = await ask(gw.port, body=b'{"stream": true}')
            assert clock.monotonic() - began == pytest.approx(8 * 4 + 5, abs=0.1)
            assert b"HF-3108" in body

    sim_run(main)
    assert len(passed) == 8


@pytest.mark.parametrize("leaves", [False, True])
def test_the_log_counts_what_has_passed(passed, tmp_path, leaves):
    own = [chunk(event) for event in (*EVENTS[1:5], STOP)]

    async def script(upstream, no, writer):
        writer.write(HEAD + chunk(EVENTS[0]))
        for piece in own:
            await asyncio.sleep(0.02)
            writer.write(piece)
        await asyncio.sleep(30 if leaves else 0.02)
        writer.write(b"0\r\n\r\n")

    async def main():
        settings = f'access_log = "{tmp_path}/log"'
        async with gateway(script, settings=settings) as (gw, _):
            body = b'{"stream": true}'
            head = b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b"
            reader, writer = await connect(gw, head % (len(body), body))
            given = await reader.readuntil(STOP + b"\r\n" if leaves else b"0\r\n\r\n")
            writer.close()
            await until(lambda: not gw.cluster.ledger.in_flight)
            return len(given)

    given = run(main)
    assert passed
    (line,) = (json.loads(line) for line in (tmp_path / "log").read_text().splitlines())
    assert line["bytes_out"] == given
    assert line["outcome"] == ("cancelled" if leaves else "ok")


def test_a_client_of_http_1_0_gets_no_chunks(passed):
    own = [chunk(event) for event in (*EVENTS[1:5], STOP)]
    given = streamed(*own, minor=0)
    assert given == b"".join((*EVENTS[:5], STOP))
    assert passed == []


def test_our_own_pages_are_no_business_of_endpoints(ways):
    async def main():
        async with gateway(always(OK)) as (gw, (up,)):
            for _ in range(3):
                status, _, _ = await ask(gw.port, "POST", "/__holdfast__/stats", b"{}")
                assert status != 200
            assert up.asked == []

    run(main)
    assert ways == {"there": 0, "back": 0}


def test_in_turn_answers_stay_in_turn(ways):
    async def main():
        script = in_turn(*(answer(200, b"%d" % n) for n in range(30)))
        async with gateway(script) as (gw, _):
            found = await several(gw, 30)
            assert [int(body) for _, _, body in found] == list(range(30))

    run(main)
    assert ways["back"] == 29
