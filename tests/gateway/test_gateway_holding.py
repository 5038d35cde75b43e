"""How long an answer is held, so that one that breaks can be fetched elsewhere."""

from __future__ import annotations

import asyncio
import time

import pytest
from gateway_rig import answer, ask, connect, events, gateway, hangs, reset, run

JSON = "Content-Type: application/json"
TEXT = "Content-Type: text/plain"


def slowly(data, at, wait, then="rest"):
    """Answer with a part, wait, and then give the rest, or reset."""

    async def script(upstream, no, writer):
        writer.write(data[:at])
        await writer.drain()
        await asyncio.sleep(wait)
        if then == "reset":
            reset(writer)
            return False
        writer.write(data[at:])
        return True

    return script


async def first_bytes(gw):
    """Return the seconds until anything of an answer was there."""
    reader, writer = await connect(gw)
    began = time.monotonic()
    writer.write(b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
    await reader.readexactly(1)
    writer.close()
    return time.monotonic() - began


def test_json_is_held_for_as_long_as_it_takes():
    async def main():
        data = answer(200, b"1234567890", JSON)
        async with gateway(slowly(data, len(data) - 2, 0.4)) as (gw, _):
            assert await first_bytes(gw) > 0.35

    run(main)


def test_anything_else_is_held_for_a_quarter_of_a_second():
    async def main():
        data = answer(200, b"1234567890", TEXT)
        async with gateway(slowly(data, len(data) - 2, 0.6)) as (gw, _):
            assert 0.2 < await first_bytes(gw) < 0.45
            assert (await ask(gw.port))[2] == b"1234567890"

    run(main)


@pytest.mark.parametrize(("size", "held"), [(200_000, True), (300_000, False)])
@pytest.mark.parametrize("kind", [JSON, TEXT])
def test_what_is_small_is_fetched_elsewhere_if_it_breaks(size, held, kind):
    async def main():
        data = answer(200, b"x" * size, kind)
        good = answer(200, b"good", kind)
        breaks = slowly(data, len(data) - 10, 0.05, then="reset")
        async with gateway(breaks, slowly(good, 5, 0)) as (gw, (bad, _)):
            while not bad.asked:
                (found,) = await asyncio.gather(ask(gw.port), return_exceptions=True)
            if held:
                assert found[::2] == (200, b"good")
            else:
                assert isinstance(found, asyncio.IncompleteReadError)
                assert len(found.partial) >= 256 * 1024

    run(main)


def test_how_much_is_held_is_a_setting():
    async def main():
        data = answer(200, b"x" * 3000, JSON)
        settings = 'buffer_max = "1KiB"'
        async with gateway(slowly(data, len(data) - 10, 0.3), settings=settings) as (gw, _):
            assert await first_bytes(gw) < 0.2

    run(main)


def test_the_beginning_of_a_stream_is_held_no_longer_than_that():
    empty = {"choices": [{"delta": {"role": "assistant"}}]}

    async def script(upstream, no, writer):
        writer.write(events(*[empty] * 100))
        await hangs(upstream, no, writer)

    async def main():
        async with gateway(script, settings='buffer_max = "4KiB"') as (gw, _):
            reader, writer = await connect(gw)
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
            )
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 1)
            assert head.startswith(b"HTTP/1.1 200 ")
            writer.close()

    run(main)


def test_an_answer_that_ends_with_its_connection_is_held_until_then():
    async def script(upstream, no, writer):
        writer.write(f"HTTP/1.1 200 OK\r\n{JSON}\r\n\r\nfine".encode())
        await writer.drain()
        await asyncio.sleep(0.05)
        return False

    async def main():
        async with gateway(script) as (gw, _):
            status, head, body = await ask(gw.port)
            assert (status, body) == (200, b"fine")
            assert "Content-Length: 4" in head
            assert "Connection: close" not in head

    run(main)


def test_a_refusal_that_does_not_end_is_left_for_another_endpoint():
    async def refuses(upstream, no, writer):
        writer.write(answer(503, b"x" * 100, TEXT)[:-50])
        return await hangs(upstream, no, writer)

    async def main():
        async with gateway(refuses, slowly(answer(), 5, 0)) as (gw, (bad, _)):
            for _ in range(4):
                began = time.monotonic()
                assert (await ask(gw.port))[2] == b"fine"
                assert time.monotonic() - began < 0.6
            assert bad.asked

    run(main)


def test_a_refusal_larger_than_what_is_held_is_passed_on_if_nobody_else_can_be_asked():
    async def refuses(upstream, no, writer):
        writer.write(answer(500, b"x" * 400_000, TEXT))

    async def main():
        async with gateway(refuses, settings="attempts = 1") as (gw, _):
            status, _, body = await ask(gw.port)
            assert (status, len(body)) == (500, 400_000)

    run(main)
