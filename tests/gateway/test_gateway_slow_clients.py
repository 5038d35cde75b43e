"""Clients that are slow, and clients that are many."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from gateway_rig import always, answer, ask, gateway, hangs, read, until

OK = answer()
HEAD = b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n"


def run(main):
    asyncio.run(asyncio.wait_for(main(), 30))


async def refused(reader):
    """Return (status, code) of an answer of ours after which the connection ends."""
    status, head, body = await read(reader)
    assert "Connection: close" in head
    assert await reader.read() == b""
    return status, json.loads(body)["error"]["code"]


# -- time ------------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [b"", b"G", b"GET / HTTP/1.1\r\nHost: a\r\n"])
def test_a_head_that_does_not_come_has_a_limit(begun):
    async def main():
        async with gateway(always(OK), settings="head_timeout = 0.15") as (gw, (up,)):
            began = time.monotonic()
            reader, writer = await asyncio.open_connection("127.0.0.1", gw.port)
            writer.write(begun)
            if begun:
                assert await refused(reader) == (408, "HF-3005")
            else:
                assert await reader.read() == b""
            assert 0.1 < time.monotonic() - began < 0.4
            assert not up.connections
            writer.close()

    run(main)


def test_a_head_that_comes_in_drops_has_the_same_limit():
    async def main():
        async with gateway(always(OK), settings="head_timeout = 0.2") as (gw, (up,)):
            began = time.monotonic()
            reader, writer = await asyncio.open_connection("127.0.0.1", gw.port)

            async def drip():
                for one in HEAD:
                    writer.write(bytes([one]))
                    await asyncio.sleep(0.02)

            drops = asyncio.create_task(drip())
            assert (await read(reader))[0] == 408
            assert time.monotonic() - began < 0.5
            drops.cancel()
            assert not up.connections
            writer.close()

    run(main)


def test_the_next_head_has_its_own_limit_from_its_first_byte():
    async def main():
        settings = "head_timeout = 0.15\nclient_idle = 10"
        async with gateway(always(OK), settings=settings) as (gw, _):
            keep = reader, writer = await asyncio.open_connection("127.0.0.1", gw.port)
            assert (await ask(gw.port, keep=keep))[0] == 200
            await asyncio.sleep(0.25)
            assert (await ask(gw.port, keep=keep))[0] == 200
            began = time.monotonic()
            writer.write(b"GET")
            assert await refused(reader) == (408, "HF-3005")
            assert 0.1 < time.monotonic() - began < 0.4
            writer.close()

    run(main)


def test_an_idle_connection_is_closed_without_a_word():
    async def main():
        async with gateway(always(OK), settings="client_idle = 0.1") as (gw, _):
            keep = reader, writer = await asyncio.open_connection("127.0.0.1", gw.port)
            assert (await ask(gw.port, keep=keep))[0] == 200
            assert await asyncio.wait_for(reader.read(), 0.5) == b""
            writer.close()

    run(main)


def test_a_body_may_not_stop_for_long():
    async def main():
        async with gateway(always(OK), settings="body_timeout = 0.15") as (gw, (up,)):
            reader, writer = await asyncio.open_connection("127.0.0.1", gw.port)
            writer.write(HEAD + b"x" * 50)
            assert await refused(reader) == (408, "HF-3005")
            assert not up.connections
            writer.close()

    run(main)


def test_a_body_may_not_come_too_slowly():
    async def main():
        settings = 'body_timeout = 0.3\nbody_min_rate = "1KiB"'
        async with gateway(always(OK), settings=settings) as (gw, (up,)):
            reader, writer = await asyncio.open_connection("127.0.0.1", gw.port)
            began = time.monotonic()
            writer.write(HEAD)

            async def drip():
                for _ in range(100):
                    writer.write(b"x")
                    await asyncio.sleep(0.02)

            drops = asyncio.create_task(drip())
            assert (await read(reader))[0] == 408
            assert 0.08 < time.monotonic() - began < 0.3
            drops.cancel()
            assert not up.connections
            writer.close()

    run(main)


def test_a_body_that_is_slow_but_fast_enough_arrives():
    async def main():
        settings = "body_timeout = 0.3\nbody_min_rate = 10"
        async with gateway(always(OK), settings=settings) as (gw, (up,)):
            reader, writer = await asyncio.open_connection("127.0.0.1", gw.port)
            writer.write(HEAD)
            for _ in range(10):
                writer.write(b"x" * 10)
                await asyncio.sleep(0.04)
            assert (await read(reader))[0] == 200
            assert len(up.asked[0][2]) == 100
            writer.close()

    run(main)


def test_while_an_answer_is_waited_for_a_client_has_no_limit():
    async def slow(upstream, no, writer):
        await asyncio.sleep(0.3)
        writer.write(OK)

    async def main():
        settings = "head_timeout = 0.05\nclient_idle = 0.05\nbody_timeout = 0.05"
        async with gateway(slow, settings=settings) as (gw, _):
            assert (await ask(gw.port))[0] == 200

    run(main)


# -- number ----------------------------------------------------------------------------------


async def served(gw, up):
    """Return a connection whose request is being served."""
    before = len(up.asked)
    reader, writer = await asyncio.open_connection("127.0.0.1", gw.port)
    writer.write(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
    await until(lambda: len(up.asked) > before)
    return reader, writer


@pytest.mark.parametrize("limit", ["max_connections = 3", "max_per_ip = 3"])
def test_when_there_are_too_many_the_one_goes_that_asked_for_nothing_for_longest(limit):
    async def main():
        async with gateway(hangs, settings=limit) as (gw, (up,)):
            busy = await served(gw, up)
            old = await asyncio.open_connection("127.0.0.1", gw.port)
            await until(lambda: len(gw.clients) == 2)
            young = await asyncio.open_connection("127.0.0.1", gw.port)
            young[1].write(b"GET /")
            await until(lambda: len(gw.clients) == 3)
            new = await served(gw, up)
            assert await asyncio.wait_for(old[0].read(), 1) == b""
            newer = await served(gw, up)
            assert await asyncio.wait_for(young[0].read(), 1) == b""
            # All three are being served now.
            reader, writer = await asyncio.open_connection("127.0.0.1", gw.port)
            assert await refused(reader) == (503, "HF-3103")
            writer.close()
            busy[1].close()
            await until(lambda: len(gw.clients) == 2)
            last = await served(gw, up)
            assert len(up.asked) == 4
            for _, one in (old, young, new, newer, last):
                one.close()
            await until(lambda: not gw.clients)
            assert gw.lobby.count == 0
            assert not gw.lobby.waiting

    run(main)


def test_a_connection_kept_for_its_next_request_makes_room():
    async def main():
        async with gateway(always(OK), settings="max_connections = 1") as (gw, _):
            keep = reader, writer = await asyncio.open_connection("127.0.0.1", gw.port)
            assert (await ask(gw.port, keep=keep))[0] == 200
            assert (await ask(gw.port))[0] == 200
            assert await reader.read() == b""
            writer.close()

    run(main)


def test_many_slow_heads_hold_nobody_up():
    async def main():
        settings = "head_timeout = 0.3\nmax_connections = 50"
        async with gateway(always(OK), settings=settings) as (gw, _):
            slow = await asyncio.gather(
                *(asyncio.open_connection("127.0.0.1", gw.port) for _ in range(100))
            )
            for _, writer in slow:
                writer.write(b"GET / HTTP/1.1\r\nX")
            found = [(await ask(gw.port))[0] for _ in range(20)]
            assert set(found) == {200}
            await until(lambda: not gw.clients)
            for _, writer in slow:
                writer.close()

    run(main)


# -- requests one after the other ------------------------------------------------------------


def test_a_hundred_requests_may_wait_and_the_connection_ends_after_them():
    async def main():
        async with gateway(always(OK)) as (gw, (up,)):
            reader, writer = await asyncio.open_connection("127.0.0.1", gw.port)
            writer.write(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n" * 150)
            found = []
            while True:
                status, head, _ = await read(reader)
                found.append(status)
                if "Connection: close" in head:
                    break
            assert await reader.read() == b""
            assert set(found) == {200}
            assert 100 <= len(found) <= 102
            assert len(up.asked) == len(found)
            writer.close()

    run(main)


def test_a_client_that_leaves_is_seen_while_others_of_its_requests_wait():
    async def main():
        async with gateway(hangs) as (gw, (up,)):
            _, writer = await asyncio.open_connection("127.0.0.1", gw.port)
            writer.write(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n" * 20)
            await until(lambda: up.asked)
            writer.close()
            await until(lambda: not up.open, 0.5)
            assert len(up.asked) == 1

    run(main)
