"""Answers of endpoints that break at every byte: a short body is never passed on as a whole one."""

from __future__ import annotations

import asyncio

import pytest
from gateway_raw import LOOPS, close, run, send
from gateway_rig import gateway, reset

BODY = b"The quick brown fox jumps over the lazy dog. " * 4
PIECES = [BODY[at : at + 25] for at in range(0, len(BODY), 25)]
CHUNKS = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in PIECES)
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
SHAPES = {
    "length": b"HTTP/1.1 200 OK\r\nX: y\r\n" + LENGTH + b"\r\n" + BODY,
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    + CHUNKS
    + b"0\r\nSum: 1\r\n\r\n",
    "json": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + LENGTH + b"\r\n" + BODY,
    "length in HTTP/1.0": b"HTTP/1.0 200 OK\r\n" + LENGTH + b"\r\n" + BODY,
    "the connection": b"HTTP/1.1 200 OK\r\nServer: old\r\n\r\n" + BODY,
    "the connection of HTTP/1.0": b"HTTP/1.0 200 OK\r\nServer: old\r\n\r\n" + BODY,
}
AT_ONCE = 32
NO_LIMITS = "retry_reserve = 10000\nbreaker = {consecutive = 10000, min_calls = 100000}"


def is_whole(given: bytes) -> bool:
    """Whether a client takes what it got before the end for a whole answer."""
    head, end, body = given.partition(b"\r\n\r\n")
    if not end:
        return False
    low = head.lower()
    if b"transfer-encoding: chunked" in low:
        return body.endswith(b"0\r\n\r\n")
    if b"content-length: " in low:
        return len(body) == int(low.split(b"content-length: ")[1].split(b"\r\n")[0])
    return True


def content(given: bytes) -> bytes:
    head, _, body = given.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" not in head.lower():
        return body
    out = b""
    while size := int(body.partition(b"\r\n")[0], 16):
        start = body.index(b"\r\n") + 2
        out, body = out + body[start : start + size], body[start + size + 2 :]
    return out


async def ask(port, request):
    """Return what a client gets until the end, and whether that end is clean."""
    reader, writer = await send(port, [request])
    given = bytearray()
    try:
        while data := await reader.read(65536):
            given += data
        return bytes(given), True
    except ConnectionError:
        return bytes(given) + bytes(reader._buffer), False
    finally:
        await close(writer)


def cutting(data, fault, *, slow=False):
    """Answer with the part that the path asks for; a second request for it gets all of it."""
    asked = set()

    async def script(upstream, no, writer):
        path = upstream.asked[-1][0].split(" ")[1]
        cut = int(path.rpartition("/")[2])
        again, _ = path in asked, asked.add(path)
        part = data if again and not path.startswith("/once") else data[:cut]
        head = data.index(b"\r\n\r\n") + 4
        for piece in (part[:head], part[head : (head + cut) // 2], part[(head + cut) // 2 :]):
            if piece and slow:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.002)
        if not slow:
            writer.write(part)
            await writer.drain()
        if fault == "rst" and part != data:
            await asyncio.sleep(0.002)
            reset(writer)
        return False

    return script


async def sweep(shape, fault, step, request, check, *, slow=False):
    data = SHAPES[shape]
    if slow:
        data = data.replace(b"\r\n", b"\r\nX-Accel-Buffering: no\r\n", 1)
    wrong = []
    async with gateway(cutting(data, fault, slow=slow), settings=NO_LIMITS) as (gw, _):
        places = range(step // 2 % step, len(data), step)
        for at in range(0, len(places), AT_ONCE):
            some = places[at : at + AT_ONCE]
            found = await asyncio.gather(*(ask(gw.port, request(cut)) for cut in some))
            wrong += [
                (cut, given[-80:], clean)
                for cut, (given, clean) in zip(some, found, strict=True)
                if not check(cut, given, clean)
            ]
    return wrong


def has_head(shape, cut):
    """Whether the head is there before a cut."""
    return SHAPES[shape].index(b"\r\n\r\n") + 4 <= cut


def told(shape, fault):
    """Whether a cut can be told from the end: an end is all there is of a body without framing."""
    return fault == "rst" or not shape.startswith("the connection")


EVERY = [(shape, fault) for shape in SHAPES for fault in ("fin", "rst")]
STEPS = [7, pytest.param(1, marks=pytest.mark.long)]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("shape", "fault"), EVERY)
def test_a_small_answer_that_is_cut_is_fetched_again_and_given_whole(shape, fault, step):
    def request(cut):
        return b"GET /%d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % cut

    def check(cut, given, clean):
        as_far = not told(shape, fault) and has_head(shape, cut) and BODY.startswith(content(given))
        return clean and is_whole(given) and (content(given) == BODY or as_far)

    async def main():
        assert await sweep(shape, fault, step, request, check) == []

    run(main)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("shape", "fault"), EVERY)
def test_what_may_have_run_is_an_error_when_its_answer_is_cut(shape, fault, step):
    def request(cut):
        return (
            b"POST /once/%d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
            b"Content-Length: 2\r\n\r\n{}" % cut
        )

    def check(cut, given, clean):
        if not told(shape, fault) and has_head(shape, cut):
            return clean and is_whole(given)
        return given.startswith(b"HTTP/1.1 502 ") and b"HF-3106" in given

    async def main():
        assert await sweep(shape, fault, step, request, check) == []

    run(main)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("minor", [0, 1])
@pytest.mark.parametrize(("shape", "fault"), [one for one in EVERY if told(*one)])
def test_a_large_answer_that_is_cut_is_seen_to_be_cut(shape, fault, minor, step, loop):
    """What is passed on while it comes cannot be fetched again; its end must not look like one."""

    def request(cut):
        return b"POST /once/%d HTTP/1.%d\r\nHost: a\r\nConnection: close\r\n\r\n" % (cut, minor)

    def check(cut, given, clean):
        if given.startswith(b"HTTP/1.1 502 "):
            return is_whole(given)
        return BODY.startswith(content_so_far(given)) and not (clean and is_whole(given))

    async def main():
        assert await sweep(shape, fault, step, request, check, slow=True) == []

    run(main, loop=loop)


def content_so_far(given: bytes) -> bytes:
    head, _, body = given.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" not in head.lower():
        return body
    out = b""
    while b"\r\n" in body:
        line, _, body = body.partition(b"\r\n")
        size = int(line, 16)
        out, body = out + body[:size], body[size + 2 :]
    return out
