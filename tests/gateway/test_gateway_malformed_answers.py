"""Generated answers of endpoints, most of them malformed: refused, or read by clients as by us."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import h11
import pytest
from gateway_raw import close, run, send
from gateway_rig import gateway, reset
from malformed_generator import answers

from holdfast.wire.responses import Answer
from holdfast.wire.strict import BadMessage

SEED = 9112
COUNTS = [1000, pytest.param(10_000, marks=[pytest.mark.long, pytest.mark.timeout(900)])]
HOP_BY_HOP = {b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
HOP_BY_HOP |= {b"content-length"}
OURS = (b"via", b"x-holdfast-", b"content-length", b"transfer-encoding", b"connection")


def read(data: bytes, method: bytes, *, ends: bool) -> tuple[str, Answer, bytes]:
    """Read an answer as the gateway should: how it is, its head, its content.

    ends: the connection ends after it, properly.
    """
    answer, out = Answer(method, raw=lambda _: False), []
    try:
        answer.feed(data, out)
    except BadMessage:
        return "malformed", answer, b""
    whole = answer.done or (ends and answer.end())
    return "whole" if whole else "cut", answer, b"".join(out)


def understood(given: bytes, method: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Read what a client got as h11 does; it must be one whole answer and nothing else."""
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(given)
    client.receive_data(b"")
    head, body = client.next_event(), b""
    assert isinstance(head, h11.Response), head
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        assert isinstance(event, h11.Data), event
        body += bytes(event.data)
    assert client.trailing_data[0] == b""
    return head.status_code, head.headers.raw_items(), body


def told(answer: Answer) -> list[tuple[bytes, bytes]]:
    """The fields that a client should get."""
    head = answer.head
    dropped = HOP_BY_HOP | ({*head.options} - {b"host", b"via", b"forwarded"})
    dropped = {one for one in dropped if not one.startswith(b"x-forwarded-")}
    return [
        (name, value)
        for name, value in head.fields
        if name.lower() not in dropped
        and b"_" not in name
        and not name.lower().startswith(b"proxy-")
    ]


@pytest.mark.parametrize("fault", ["fin", "rst"])
@pytest.mark.parametrize("count", COUNTS)
def test_each_answer_is_refused_or_given_as_it_is(count, fault):
    """The one who asks gets a whole answer in any case; a malformed one is HF-3105."""
    kinds = Counter()
    saying = [b""]

    async def says(upstream, no, writer):
        writer.write(saying[0])
        await writer.drain()
        if fault == "rst":
            await asyncio.sleep(0.002)
            reset(writer)
        return False

    async def one(gw, case):
        method = b"HEAD" if case.number % 7 == 0 else b"GET"
        saying[0] = case.data
        reader, writer = await send(
            gw.port, [method + b" / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"]
        )
        given = await asyncio.wait_for(reader.read(), 10)
        await close(writer)
        kind, answer, body = read(case.data, method, ends=fault == "fin")
        kinds[kind] += 1
        status, fields, got = understood(given, method)
        if kind != "whole":
            assert status == 502
            if method == b"GET":
                wanted = "HF-3105" if kind == "malformed" else "HF-3101"
                assert json.loads(got)["error"]["code"] == wanted
            return
        assert (status, got) == (answer.head.status, body)
        if status < 400:
            kept = [(n, v) for n, v in fields if not n.lower().startswith(OURS)]
            assert kept == [(n, v) for n, v in told(answer) if not n.lower().startswith(OURS)]

    async def main():
        settings = "attempts = 1\nbreaker = {consecutive = 10000, min_calls = 100000}"
        async with gateway(says, settings=settings) as (gw, _):
            for case in answers(SEED, count):
                try:
                    await one(gw, case)
                except (AssertionError, h11.RemoteProtocolError, TimeoutError) as error:
                    pytest.fail(f"{case}: {error!r}")

    run(main, 800)
    assert kinds["whole"] > count * 0.2
    assert kinds["malformed"] > count * 0.2
    assert kinds["cut"] > count * 0.02
    print(dict(kinds))  # noqa: T201 - shown with -s
