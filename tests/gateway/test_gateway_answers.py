"""What endpoints answer: what is refused, what is swallowed, and where an answer ends."""

from __future__ import annotations

import asyncio
import json

import pytest
from gateway_raw import close, final, run, send, settle
from gateway_rig import always, answer, ask, gateway, in_turn, read

import holdfast as hf

OK = answer()
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def said(*fields: bytes, line: bytes = b"HTTP/1.1 200 OK", body: bytes = b"") -> bytes:
    return b"\r\n".join((line, *fields, b"", b"")) + body


VIOLATIONS = {
    "length and coding": said(b"Content-Length: 3", b"Transfer-Encoding: chunked", body=b"abc"),
    "lengths that differ": said(b"Content-Length: 3", b"Content-Length: 4", body=b"abcd"),
    "a list of lengths": said(b"Content-Length: 3, 4", body=b"abcd"),
    "a signed length": said(b"Content-Length: +3", body=b"abc"),
    "an empty length": said(b"Content-Length:", body=b"abc"),
    "a huge length": said(b"Content-Length: " + b"9" * 30),
    "a coding before chunked": said(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
    "another coding": said(b"Transfer-Encoding: gzip", body=b"abc"),
    "chunked twice": said(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"),
    "a coding in HTTP/1.0": said(
        b"Transfer-Encoding: chunked", line=b"HTTP/1.0 200 OK", body=b"0\r\n\r\n"
    ),
    "a switch of protocols": said(b"Upgrade: x", line=b"HTTP/1.1 101 Switching Protocols"),
    "17 interim answers": said(line=b"HTTP/1.1 103 Early Hints") * 17 + OK,
    "another version": said(line=b"HTTP/2.0 200 OK"),
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a status of two digits": said(line=b"HTTP/1.1 20 OK"),
    "a status of letters": said(line=b"HTTP/1.1 2OO OK"),
    "a bare LF": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "a bare CR": said(b"A: b\rC: d", b"Content-Length: 0"),
    "a folded line": said(b"A: b", b" c", b"Content-Length: 0"),
    "a space before a colon": said(b"A : b", b"Content-Length: 0"),
    "a line without a colon": said(b"A", b"Content-Length: 0"),
    "NUL": said(b"A: \x00", b"Content-Length: 0"),
    "a head that is too long": said(b"A: " + b"b" * 70_000),
    "a bad chunk length": CHUNKED + b"x\r\n",
    "a chunk that is longer": CHUNKED + b"2\r\nabc\r\n0\r\n\r\n",
    "a chunk with a bare LF": CHUNKED + b"2\nab\n0\n\n",
    "a long extension": CHUNKED + b"2;" + b"x" * 1100 + b"\r\nab\r\n0\r\n\r\n",
    "long trailers": CHUNKED + b"0\r\nA: " + b"b" * 9000 + b"\r\n\r\n",
}


def malformed(gw) -> int:
    return sum(
        gw.cluster.ledger.account(one.id).reasons.get("malformed", 0)
        for one in gw.cluster.balancer.endpoints
    )


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_violation_is_malformed_is_counted_and_is_asked_for_elsewhere(name):
    async def main():
        async with gateway(always(VIOLATIONS[name]), settings="attempts = 2") as (gw, (up,)):
            status, _, body = await ask(gw.port)
            error = json.loads(body)
            assert (status, error["error"]["code"]) == (502, "HF-3105")
            assert error["error"]["type"] == "api_error"
            assert len(error["holdfast"]["attempts"]) == len(up.asked) == malformed(gw) == 2
            status, _, body = await ask(gw.port, "POST", "/pay")
            error = json.loads(body)
            assert (status, error["error"]["code"]) == (502, "HF-3105")
            assert error["holdfast"]["sent"] != "no"
            assert len(up.asked) == malformed(gw) == 3
        async with gateway(always(VIOLATIONS[name]), always(OK)) as (gw, _):
            found = [await ask(gw.port) for _ in range(10)]
            assert {(status, body) for status, _, body in found} == {(200, b"fine")}

    run(main)


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_violation_is_seen_when_all_went_well_before(name):
    """The connection is kept, the head of the request is known: everything takes the short way."""

    async def main():
        script = in_turn(OK, OK, OK, VIOLATIONS[name])
        async with gateway(script, settings="attempts = 1") as (gw, (up,)):
            for _ in range(3):
                assert (await ask(gw.port))[0] == 200
            status, _, body = await ask(gw.port)
            assert (status, json.loads(body)["error"]["code"]) == (502, "HF-3105")
            assert up.connections == malformed(gw) == 1

    run(main)


async def whole(port, request):
    """Send a request on a connection of its own; return all that comes until it ends."""
    reader, writer = await send(port, [request])
    try:
        return await reader.read()
    finally:
        await close(writer)


GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def test_interim_answers_are_swallowed():
    interim = said(line=b"HTTP/1.1 100 Continue") + said(b"Link: </a>", line=b"HTTP/1.1 103 Early")

    async def main():
        async with gateway(always(interim + OK)) as (gw, (up,)):
            given = await whole(gw.port, GET)
            assert given.startswith(b"HTTP/1.1 200 ")
            assert b"Link" not in given
            await ask(gw.port)
            assert up.connections == 1

    run(main)


@pytest.mark.parametrize(
    ("method", "data", "length"),
    [
        (b"HEAD", said(b"Content-Length: 7"), b"Content-Length: 7"),
        (b"HEAD", said(b"Transfer-Encoding: chunked"), b""),
        (b"HEAD", said(), b""),
        (b"GET", said(line=b"HTTP/1.1 204 No Content"), b""),
        (
            b"GET",
            said(b"Content-Length: 7", line=b"HTTP/1.1 304 Not Modified"),
            b"Content-Length: 7",
        ),
        (b"GET", said(b"Transfer-Encoding: chunked", line=b"HTTP/1.1 304 Not Modified"), b""),
        (b"GET", said(b"Content-Length: 0"), b"Content-Length: 0"),
    ],
)
def test_an_answer_without_a_body_has_none_and_the_next_one_follows(method, data, length):
    async def main():
        async with gateway(always(data)) as (gw, (up,)):
            reader, writer = await send(gw.port, [GET.replace(b"GET", method, 1)])
            given = await reader.read()
            assert given.endswith(b"\r\n\r\n")
            assert given.count(b"\r\n\r\n") == 1
            assert length in given
            assert b"Transfer-Encoding" not in given
            await close(writer)
            reader, writer = await send(gw.port, [method + GET[3:].replace(b"close", b"x", 1)] * 2)
            for _ in range(2):
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 ")
            await settle()
            assert not reader._buffer
            await close(writer)
            assert up.connections == 1

    run(main)


def test_a_chunked_answer_keeps_its_framing_but_for_the_end():
    async def main():
        data = CHUNKED + b"5;x=y\r\nhello\r\n6\r\n world\r\n0;z\r\nSum: 1\r\n\r\n"
        async with gateway(always(data)) as (gw, (up,)):
            for _ in range(2):
                given = (await whole(gw.port, GET)).partition(b"\r\n\r\n")[2]
                assert given == b"5;x=y\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
            assert up.connections == 1

    run(main)


def test_a_client_of_http_1_0_gets_content_without_chunks():
    async def main():
        data = CHUNKED + b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
        async with gateway(always(data)) as (gw, _):
            given = await whole(gw.port, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            head, _, body = given.partition(b"\r\n\r\n")
            assert body == b"hello world"
            assert b"chunked" not in head
            assert b"Connection: close" in head

    run(main)


@pytest.mark.parametrize("minor", [0, 1])
def test_events_reach_a_client_of_either_version_as_they_are(minor):
    events = [b"data: %d\n\n" % n for n in range(5)]

    async def streams(upstream, no, writer):
        head = said(b"Content-Type: text/event-stream", b"Transfer-Encoding: chunked")
        writer.write(head)
        for event in events:
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
            await writer.drain()
            await asyncio.sleep(0.01)
        writer.write(b"0\r\n\r\n")

    async def main():
        async with gateway(streams) as (gw, _):
            request = b"POST / HTTP/1.%d\r\nHost: a\r\nConnection: close\r\n" % minor
            for _ in range(2):
                given = await whole(gw.port, request + b"Content-Length: 2\r\n\r\n{}")
                body = given.partition(b"\r\n\r\n")[2]
                if minor:
                    assert body.endswith(b"0\r\n\r\n")
                    assert all(b"\r\n%b\r\n" % event in body for event in events)
                else:
                    assert body == b"".join(events)

    run(main)


def test_a_body_that_ends_with_the_connection_is_framed_for_the_client():
    async def old(upstream, no, writer):
        writer.write(b"HTTP/1.0 200 OK\r\nServer: old\r\n\r\nhello world")
        return False

    async def main():
        async with gateway(old) as (gw, (up,)):
            reader, writer = await send(gw.port, [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"] * 2)
            for _ in range(2):
                assert (await read(reader))[2] == b"hello world"
            await close(writer)
            assert up.connections == 2

    run(main)


def test_an_encoded_body_is_passed_on_as_it_is():
    async def main():
        body = bytes(range(256))
        data = said(b"Content-Encoding: gzip", b"Content-Length: 256", body=body)
        async with gateway(always(data)) as (gw, _):
            assert (await whole(gw.port, GET)).endswith(body)

    run(main)


@pytest.mark.parametrize("delay", [None, 0.01])
@pytest.mark.parametrize(
    "first", [OK, CHUNKED + b"4\r\nfine\r\n0\r\n\r\n", said(b"Content-Length: 0")]
)
def test_bytes_after_the_end_reach_nobody(first, delay):
    """A second answer, at once or later: the next client is not affected."""

    async def twice(upstream, no, writer):
        writer.write(first)
        if delay is not None:
            await writer.drain()
            await asyncio.sleep(delay)
        writer.write(answer(200, b"smuggled"))

    async def main():
        async with gateway(twice) as (gw, (up,)):
            for _ in range(5):
                assert b"smuggled" not in await whole(gw.port, GET)
                await asyncio.sleep((delay and 2 * delay) or 0)
            assert up.connections == 5

    run(main)


def test_bytes_on_an_idle_connection_end_it():
    async def late(upstream, no, writer):
        writer.write(OK)
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.write(b"\r\n")

    async def main():
        async with gateway(late) as (gw, (up,)):
            await ask(gw.port)
            await asyncio.sleep(0.05)
            endpoint = gw.cluster.balancer.endpoints[0]
            assert gw.cluster.upstream_of(endpoint).connections == (0, 0)
            assert (await ask(gw.port))[0] == 200
            assert up.connections == 2

    run(main)


# -- answers that come before the request is all there ---------------------------------------------


class Early(asyncio.Protocol):
    """Answers when the head is there, and reads no further. gone: it ends its side, too."""

    def __init__(self, *, gone):
        self.gone = gone
        self.data = b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.data += data
        if b"\r\n\r\n" in self.data and not self.transport.is_closing():
            self.transport.write(answer(413, b"too much"))
            self.transport.pause_reading()
            if self.gone:
                self.transport.write_eof()


@pytest.mark.parametrize(("gone", "size"), [(True, 900_000), (True, 9_000_000), (False, 9_000_000)])
def test_an_answer_before_the_body_is_sent_is_given_and_its_connection_not_used_again(gone, size):
    made = []

    def serve():
        made.append(Early(gone=gone))
        return made[-1]

    async def main():
        served = await asyncio.get_running_loop().create_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{served.sockets[0].getsockname()[1]}"
        async with hf.Gateway(endpoints=[hf.Endpoint(url)], listen="127.0.0.1:0") as gw:
            for _ in range(3):
                status, _, body = await ask(gw.port, "POST", "/v1/messages", b"x" * size)
                assert (status, body) == (413, b"too much")
        for one in made:
            assert one.data.count(b"POST ") == 1
            one.transport.abort()
        served.close()
        await settle()

    run(main)


def test_an_answer_may_overtake_the_body_of_a_request_in_both_directions():
    """The client gets the answer while it is still sending, and no reset."""

    async def quick(upstream, no, writer):
        writer.write(OK)

    async def main():
        async with gateway(quick) as (gw, _):
            head = b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n"
            reader, writer = await send(gw.port, [head])
            for _ in range(30):
                writer.write(b"x" * 100_000)
                await writer.drain()
            assert (await final(reader))[0] == 200
            await close(writer)

    run(main)
