"""What is refused is refused over real sockets, however it is cut, and nobody else hears of it."""

from __future__ import annotations

import asyncio
import json

import pytest
from gateway_raw import GOOD, LOOPS, Expected, check, close, expect, final, run, send
from gateway_rig import answer, gateway

from holdfast.gateway.client import Client
from malformed_cases import CHUNKS, LIMIT, REFUSED, UNSERVED, get

CODES = {
    400: "HF-3001",
    405: "HF-3006",
    413: "HF-3004",
    414: "HF-3002",
    417: "HF-3011",
    431: "HF-3003",
    501: "HF-3007",
    505: "HF-3008",
}
CHUNKED = get(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.1")
CASES = {
    **REFUSED,
    **UNSERVED,
    **{f"chunks {n}": (CHUNKED + data, 400) for n, data in enumerate(CHUNKS)},
}
AT_ONCE = 64


async def fine(upstream, no, writer):
    is_head = upstream.asked[-1][0].startswith("HEAD ")
    made = answer()
    writer.write(made[: made.index(b"\r\n\r\n") + 4] if is_head else made)


async def all_of(jobs):
    """Wait for many, some at a time; return what was wrong."""
    wrong = []
    for at in range(0, len(jobs), AT_ONCE):
        wrong += await asyncio.gather(*jobs[at : at + AT_ONCE])
    return [one for one in wrong if one]


def cuts(data: bytes) -> list[int]:
    """Every place where data can be cut in two; of much, some 60 and the last 40."""
    size = len(data)
    if size <= 400:
        return list(range(size + 1))
    return sorted({*range(0, size, size // 60), *range(size - 40, size + 1)})


@pytest.mark.parametrize("loop", LOOPS)
def test_each_case_is_refused_however_it_is_cut_and_nothing_goes_upstream(loop):
    async def main():
        async with gateway(fine) as (gw, (up,)):
            jobs = [
                check(gw.port, (data[:at], data[at:]), Expected(status=status, closes=True))
                for data, status in CASES.values()
                for at in cuts(data)
            ]
            assert len(jobs) > 4000
            assert await all_of(jobs) == []
            assert up.asked == []

    run(main, loop=loop)


def test_a_cut_is_two_reads(monkeypatch):
    """Or the test above would show nothing."""
    reads = []
    received = Client.data_received
    monkeypatch.setattr(
        Client, "data_received", lambda self, data: (reads.append(data), received(self, data))[1]
    )

    async def main():
        async with gateway(fine) as (gw, _):
            data = REFUSED["a bare LF"][0]
            await check(gw.port, (data[:5], data[5:]), Expected(status=400, closes=True))
            assert reads == [data[:5], data[5:]]

    run(main)


@pytest.mark.parametrize("name", CASES)
def test_nothing_that_follows_a_refused_request_is_read(name):
    data, status = CASES[name]

    async def main():
        async with gateway(fine) as (gw, (up,)):
            for pieces in ((data + GOOD + GOOD,), (data, GOOD, GOOD)):
                assert await check(gw.port, pieces, Expected(status=status, closes=True)) == ""
            assert up.asked == []

    run(main)


@pytest.mark.parametrize("status", CODES)
def test_a_refusal_says_what_is_wrong_in_the_form_of_the_sdks(status):
    data = next(data for data, found in CASES.values() if found == status)

    async def main():
        async with gateway(fine) as (gw, _):
            reader, writer = await send(gw.port, [data])
            found, head, body = await final(reader)
            error = json.loads(body)
            assert found == status
            assert "application/json" in head
            assert error["type"] == "error"
            assert error["error"]["type"] == "invalid_request_error"
            assert error["error"]["code"] == CODES[status]
            assert error["holdfast"]["sent"] == "no"
            await close(writer)

    run(main)


def test_a_client_that_is_still_sending_gets_the_refusal_not_a_reset():
    """Closing while bytes wait unread resets the connection, which can destroy the answer."""

    async def main():
        async with gateway(fine) as (gw, (up,)):
            head = get(b"Content-Length: 99999999999", line=b"POST / HTTP/1.1")
            for _ in range(10):
                reader, writer = await send(gw.port, [head])
                for _ in range(50):
                    writer.write(b"x" * 65536)
                    await writer.drain()
                assert (await final(reader))[0] == 413
                assert await reader.read() == b""
                await close(writer)
            assert up.asked == []

    run(main)


def test_a_client_that_never_stops_sending_is_cut_off(monkeypatch):
    monkeypatch.setattr("holdfast.gateway.talking.LINGER_SECONDS", 0.1)

    async def main():
        async with gateway(fine) as (gw, _):
            reader, writer = await send(gw.port, [b"BREW\r\n"])
            assert (await final(reader))[0] == 400
            began = asyncio.get_running_loop().time()
            with pytest.raises(ConnectionError):
                while True:
                    writer.write(b"x" * 1000)
                    await writer.drain()
                    await asyncio.sleep(0.01)
            assert 0.1 <= asyncio.get_running_loop().time() - began < 5
            writer.close()

    run(main)


# -- at the limits ---------------------------------------------------------------------------------

AT_THE_LIMIT = {
    "100 fields": get(*(b"A%d: b" % n for n in range(99))),
    "a target of 16 KiB": get(line=b"GET /" + b"t" * (16 * 1024 - 1) + b" HTTP/1.1"),
    "a head of 32 KiB": get(b"A: " + b"b" * (LIMIT - len(get(b"A: ")))),
    "a body": get(b"Content-Length: 2000", line=b"PUT / HTTP/1.1") + b"x" * 2000,
    "chunks": CHUNKED + b"3e8\r\n%b\r\n" % (b"x" * 1000) * 2 + b"0\r\n\r\n",
    "an extension of 1 KiB": CHUNKED + b"1;%b\r\nx\r\n0\r\n\r\n" % (b"e" * 1023),
    "trailers of 8 KiB": CHUNKED + b"0\r\nT: %b\r\n\r\n" % (b"t" * (8 * 1024 - 7)),
}
"""And one byte more, or one field: what is put in, and where."""
BEYOND = {
    "100 fields": (b"Host: a\r\n", b"Host: a\r\nB: c\r\n", 431),
    "a target of 16 KiB": (b"/t", b"/tt", 414),
    "a head of 32 KiB": (b"A: b", b"A: bb", 431),
    "a body": (b"Length: 2000", b"Length: 2001", 413),
    "chunks": (b"3e8\r\n", b"3e9\r\nx", 413),
    "an extension of 1 KiB": (b"1;e", b"1;" + b"e" * 30, 400),
    "trailers of 8 KiB": (b"T: t", b"T: tt", 400),
}


@pytest.mark.parametrize("name", AT_THE_LIMIT)
def test_what_is_at_a_limit_passes_and_what_is_beyond_it_does_not(name):
    data = AT_THE_LIMIT[name]
    old, new, status = BEYOND[name]

    async def main():
        async with gateway(fine, settings="body_max = 2000") as (gw, (up,)):
            for step in (len(data) + 1, 1000):
                pieces = [data[at : at + step] for at in range(0, len(data), step)]
                assert await check(gw.port, pieces, expect(data)) == ""
                more = data.replace(old, new, 1)
                pieces = [more[at : at + step] for at in range(0, len(more), step)]
                wanted = Expected(status=status, closes=True)
                assert await check(gw.port, pieces, wanted) == ""
            assert len(up.asked) == 4  # and as many that followed

    run(main)


# -- heads that are known --------------------------------------------------------------------------

KNOWN = b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: %b\r\nA: b\r\n\r\n"
OTHER_LENGTHS = [
    b"5",
    b"05",
    b"4",
    b"6",
    b"0",
    b"+5",
    b"-5",
    b" 5",
    b"5 ",
    b"5,5",
    b"",
    b"0x5",
    b"5\x00",
    b"5\xb2",
    b"5\r\nContent-Length: 5",
    b"5\r\ncontent-length: 6",
    b"5\r\nTransfer-Encoding: chunked",
    b"5\r\nHost: b",
    b"5\r\n folded",
    b"5\nX: y",
    b"9" * 18,
    b"9" * 30,
]


@pytest.mark.parametrize("length", OTHER_LENGTHS)
def test_a_head_that_is_known_lets_none_pass_that_differs_in_its_length(length):
    """Nor is a body read otherwise, or what follows it."""
    rests = [b"hello", b"hell", b"hello" + GOOD, b"0\r\n\r\n" + GOOD, b"GET / HTTP/1.1\r\n\r\n"]

    async def main():
        async with gateway(fine) as (gw, (up,)):
            for _ in range(3):
                data = KNOWN % b"5" + b"hello"
                assert await check(gw.port, [data], expect(data)) == ""
            for rest in rests:
                data = KNOWN % length + rest
                expected = expect(data)
                up.asked.clear()
                for pieces in ([data], [data[:30], data[30:]], [KNOWN % length, rest]):
                    assert await check(gw.port, pieces, expected) == "", data
                bodies = [body for line, _, body in up.asked if "messages" in line]
                wanted = [body for head, body in expected.passed if b"messages" in head.target]
                assert bodies == wanted * 3

    run(main)
