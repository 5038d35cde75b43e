"""Clients that are slow, and clients that are many."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from gateway_rig import always, answer, ask, code, connect, gateway, hangs, read, run, until

OK = answer()
HEAD = b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n"


async def refused(reader):
    """Return (status, code) of an answer of ours after which the connection ends."""
    status, head, body = await read(reader)
    assert "Connection: close" in head
    assert await reader.read() == b""
    return status, code(body)


# -- time ------------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [b"", b"G", b"GET / HTTP/1.1\r\nHost: a\r\n"])
def test_a_head_that_does_not_come_has_a_limit(begun):
    async def main():
        async with gateway(always(OK), settings="head_timeout = 0.15") as (gw, (up,)):
            began = time.monotonic()
            reader, writer = await connect(gw, begun)
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
            reader, writer = await connect(gw)

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
            keep = reader, writer = await connect(gw)
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
            keep = reader, writer = await connect(gw)
            assert (await ask(gw.port, keep=keep))[0] == 200
            assert await asyncio.wait_for(reader.read(), 0.5) == b""
            writer.close()

    run(main)


def test_a_body_may_not_stop_for_long():
    async def main():
        async with gateway(always(OK), settings="body_timeout = 0.15") as (gw, (up,)):
            reader, writer = await connect(gw, HEAD + b"x" * 50)
            assert await refused(reader) == (408, "HF-3005")
            assert not up.connections
            writer.close()

    run(main)


def test_a_body_may_not_come_too_slowly():
    async def main():
        settings = 'body_timeout = 0.3\nbody_min_rate = "1KiB"'
        async with gateway(always(OK), settings=settings) as (gw, (up,)):
            reader, writer = await connect(gw)
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
            reader, writer = await connect(gw, HEAD)
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
    reader, writer = await connect(gw, b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
    await until(lambda: len(up.asked) > before)
    return reader, writer


@pytest.mark.parametrize("limit", ["max_connections = 3", "max_per_ip = 3"])
def test_when_there_are_too_many_the_one_goes_that_asked_for_nothing_for_longest(limit):
    async def main():
        async with gateway(hangs, settings=limit) as (gw, (up,)):
            busy = await served(gw, up)
            old = await connect(gw)
            await until(lambda: len(gw.clients) == 2)
            young = await connect(gw)
            young[1].write(b"GET /")
            await until(lambda: len(gw.clients) == 3)
            new = await served(gw, up)
            assert await asyncio.wait_for(old[0].read(), 1) == b""
            newer = await served(gw, up)
            assert await asyncio.wait_for(young[0].read(), 1) == b""
            # All three are being served now.
            reader, writer = await connect(gw)
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
            keep = reader, writer = await connect(gw)
            assert (await ask(gw.port, keep=keep))[0] == 200
            assert (await ask(gw.port))[0] == 200
            assert await reader.read() == b""
            writer.close()

    run(main)


def test_many_slow_heads_hold_nobody_up():
    async def main():
        settings = "head_timeout = 0.3\nmax_connections = 50"
        async with gateway(always(OK), settings=settings) as (gw, _):
            slow = await asyncio.gather(*(connect(gw) for _ in range(100)))
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
            reader, writer = await connect(gw, b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n" * 150)
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
            _, writer = await connect(gw, b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n" * 20)
            await until(lambda: up.asked)
            writer.close()
            await until(lambda: not up.open, 0.5)
            assert len(up.asked) == 1

    run(main)


# -- clients that do not take what they are given --------------------------------------------


BIG = answer(200, b"x" * 200_000, "Content-Type: application/json")
GET = b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"


async def deaf(gw):
    """Return a connection that takes no more than it has room for."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(0)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", gw.port))
    reader, writer = await asyncio.open_connection(sock=sock)
    writer.transport.pause_reading()
    await until(lambda: gw.clients)
    return reader, writer, next(iter(gw.clients))


async def let(client, gw):
    """Let it be asked until it takes no more."""
    await until(lambda: client.paused)
    before = -1
    while before != (before := gw.cluster.ledger.requests):  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.03)


@pytest.mark.parametrize("request_", [GET, POST], ids=["long way", "short way"])
@pytest.mark.parametrize("at_once", [True, False])
def test_no_request_begins_while_its_client_takes_nothing(request_, at_once):
    async def main():
        async with gateway(always(BIG)) as (gw, (up,)):
            reader, writer, client = await deaf(gw)
            for _ in range(60):
                writer.write(request_)
                if not at_once:
                    await asyncio.sleep(0.002)
            await let(client, gw)
            assert client.unwritten < 600_000
            assert len(up.asked) < 60
            writer.transport.resume_reading()
            found = [await read(reader) for _ in range(60)]
            assert {(status, len(body)) for status, _, body in found} == {(200, 200_000)}
            assert len(up.asked) == 60
            assert (await ask(gw.port, keep=(reader, writer)))[0] == 200
            writer.close()

    run(main)


def test_what_is_asked_meanwhile_is_read_up_to_a_limit():
    async def main():
        async with gateway(always(BIG)) as (gw, _):
            reader, writer, client = await deaf(gw)
            writer.write(GET * 40)
            await let(client, gw)
            large = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 16777216\r\n\r\n"
            writer.write(large + b"x" * (16 << 20))
            await asyncio.sleep(0.1)
            held = writer.transport.get_write_buffer_size()
            assert held > 4 << 20
            assert gw.cluster.room.used == 0
            writer.transport.resume_reading()
            for _ in range(41):
                assert (await read(reader))[0] == 200
            writer.close()

    run(main)


def test_who_takes_nothing_is_left_after_the_limit_however_much_it_asks():
    async def main():
        async with gateway(always(BIG), settings="write_timeout = 0.1") as (gw, _):
            _, writer, client = await deaf(gw)
            writer.write(GET * 40)
            await let(client, gw)
            began = time.monotonic()
            while gw.clients and time.monotonic() - began < 2:
                if not writer.transport.is_closing():
                    writer.write(GET)
                await asyncio.sleep(0.02)
            assert not gw.clients
            writer.transport.abort()

    run(main)


def test_who_has_not_taken_its_answer_makes_no_room():
    async def main():
        async with gateway(always(BIG), settings="max_connections = 1") as (gw, _):
            reader, writer, client = await deaf(gw)
            writer.write(GET * 40)
            await let(client, gw)
            other, its = await connect(gw)
            assert await refused(other) == (503, "HF-3103")
            its.close()
            writer.transport.resume_reading()
            for _ in range(40):
                assert len((await read(reader))[2]) == 200_000
            writer.close()

    run(main)


def test_a_body_for_a_page_of_ours_leaves_the_room_as_it_was():
    async def main():
        async with gateway(always(OK)) as (gw, _):
            reader, writer = await connect(gw)
            head = f"POST /__holdfast__/stats HTTP/1.1\r\nHost: 127.0.0.1:{gw.port}\r\n"
            writer.write(head.encode() + b"Content-Length: 2000000\r\n\r\n" + b"x" * 100_000)
            status, said, _ = await read(reader)
            assert status >= 400
            assert "Connection: close" in said
            assert gw.cluster.room.used == 0
            writer.close()

    run(main)


def test_a_refusal_of_a_head_has_no_body():
    async def main():
        async with gateway(always(OK)) as (gw, _):
            reader, writer = await connect(
                gw, b"HEAD / HTTP/1.1\r\nHost: a\r\nExpect: what\r\n\r\n"
            )
            said = await reader.read()
            assert said.startswith(b"HTTP/1.1 417 ")
            assert said.endswith(b"\r\n\r\n")
            assert b"Content-Length: " in said
            writer.close()

    run(main)
