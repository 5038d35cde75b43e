"""A raw client of the gateway, and what it should make of the bytes that it is sent."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field

import uvloop
from gateway_rig import read

from holdfast.wire.requests import Heads, RequestHead, parse_head
from holdfast.wire.strict import BadMessage, Chunks

BODY_MAX = 64 << 20
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
GOOD = b"GET /good HTTP/1.1\r\nHost: a\r\n\r\n"


def run(main, seconds=50, *, loop="asyncio"):
    """Run a coroutine function to its end, on one of `LOOPS`."""
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(asyncio.wait_for(main(), seconds))


@dataclass
class Expected:
    """What the gateway should do.

    passed: heads and bodies that go to an endpoint.  status: of the refusal that ends it; 0: none.
    refused: the method of what is refused, if its head could be read.
    closes: the connection ends after that.  waits: a request has begun and is not whole.
    """

    passed: list[tuple[RequestHead, bytes]] = field(default_factory=list)
    status: int = 0
    refused: str = ""
    closes: bool = False
    waits: bool = False


def expect(data: bytes, head_max: int = 32 * 1024) -> Expected:
    """Read requests as the gateway should."""
    found = Expected()
    heads, ahead = Heads(head_max), bytearray(data)
    try:
        while ahead and not found.closes and not found.waits:
            found.refused = ""
            raw = heads.take(ahead)
            if raw is None:
                found.waits = bool(ahead)
                break
            head = parse_head(raw)
            found.refused = head.method.decode()
            _serve(head)
            body, found.waits = _take_body(head, ahead)
            if not found.waits:
                found.passed.append((head, body))
                found.closes = not head.keeps_alive or bool(head.upgrade)
    except BadMessage as bad:
        found.status, found.closes, found.waits = bad.status, True, False
    return found


def _serve(head: RequestHead) -> None:
    if head.length is not None and head.length > BODY_MAX:
        raise BadMessage(413, "")
    if head.method in {b"CONNECT", b"TRACE"}:
        raise BadMessage(405, "")
    if head.expect == "other":
        raise BadMessage(417, "")
    if head.upgrade and (b"websocket" in head.upgrade or head.length != 0):
        raise BadMessage(501, "")


def _take_body(head: RequestHead, ahead: bytearray) -> tuple[bytes, bool]:
    if head.length is None:
        out: list[bytes] = []
        chunks = Chunks(BODY_MAX)
        del ahead[: chunks.feed(bytes(ahead), out)]
        return b"".join(out), not chunks.done
    body = bytes(ahead[: head.length])
    del ahead[: head.length]
    return body, len(body) < head.length


async def settle(turns: int = 4) -> None:
    """Let the loop take what lies in its sockets: loopback delivers at once."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def send(port, pieces):
    """Send pieces one after the other, each read on its own; return the streams."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in pieces:
        if piece:
            writer.write(piece)
            await settle()
    return reader, writer


async def close(writer):
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def final(reader, method="GET"):
    """Return the next answer that is not an interim one: (status, head, body)."""
    while True:
        found = await read(reader, method)
        if found[0] >= 200:
            return found


async def check(port, pieces, expected: Expected) -> str:
    """Send pieces; return what the gateway did otherwise than expected, or nothing.

    After what was passed on and answered, a connection that should go on has to take a request.
    """
    reader, writer = await send(port, pieces)
    try:
        async with asyncio.timeout(20):
            return await _judge(reader, writer, expected)
    except (TimeoutError, asyncio.IncompleteReadError, ConnectionError) as error:
        return repr(error)
    finally:
        await close(writer)


async def _judge(reader, writer, expected):
    for head, _ in expected.passed:
        status, _, _ = await final(reader, head.method.decode())
        if status != 200:
            return f"{status} for a request that is fine"
    if expected.status:
        status, head, _ = await final(reader, expected.refused)
        if status != expected.status:
            return f"{status} instead of {expected.status}"
        if "connection: close" not in head.lower():
            return "the connection is not said to end"
    if expected.closes:
        rest = await reader.read()
        return f"after the end: {rest[:80]!r}" if rest else ""
    if expected.waits:
        await settle()
        rest = bytes(reader._buffer)
        rest = rest.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
        return f"unasked: {rest[:80]!r}" if rest or reader.at_eof() else ""
    writer.write(GOOD)
    status, _, _ = await final(reader)
    return "" if status == 200 else f"{status} for the request after it"


def seen(up) -> list[tuple[str, str, bytes]]:
    """What an endpoint was asked: method, target and body, but for `GOOD`."""
    asked = [(*line.split(" ")[:2], body) for line, _, body in up.asked]
    return [one for one in asked if one[1] != "/good"]
