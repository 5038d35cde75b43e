"""Bodies and pipelined requests of clients: what they cost, and in which order they are served."""

from __future__ import annotations

import tracemalloc

import pytest
from gateway_raw import close, final, run, send, settle
from gateway_rig import answer, gateway

from holdfast.gateway import reading
from holdfast.gateway.reading import GATHERED, gather

OK = answer()
ONE = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"


async def fine(upstream, no, writer):
    writer.write(OK)


@pytest.mark.parametrize("size", [1, 2, 3, 1000, 5000])
def test_small_pieces_are_put_together_and_each_byte_is_moved_few_times(size):
    pieces, moved = [], 0
    data = bytes(range(256)) * 400
    for at in range(0, len(data), size):
        pieces.append(data[at : at + size])
        before = len(pieces)
        assert gather(pieces, before) == len(pieces)
        moved += len(pieces[-1]) if len(pieces) < before else 0
    assert b"".join(pieces) == data
    assert len(pieces) <= len(data) // min(max(size, GATHERED // 2), len(data)) + 13
    assert moved <= 13 * len(data)


def test_pieces_outside_of_the_bounds_are_left_alone():
    pieces = [b"a", b"b", b"c", b"d"]
    assert gather(pieces, 3, 1) == 2
    assert pieces == [b"a", b"bc", b"d"]
    assert gather(pieces, 0) == 0


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_comes_in_crumbs_takes_its_own_size(chunked):
    """Each piece of two bytes is 35 for Python, and 8 in a list."""
    size = 200_000
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
    part = b"2\r\nab\r\n" if chunked else b"ab"

    async def main():
        async with gateway(fine) as (gw, (up,)):
            _, writer = await send(
                gw.port, [b"POST / HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n\r\n"]
            )
            await settle()
            client = next(iter(gw.clients))
            tracemalloc.start()
            for _ in range(size // 2 - 1):
                client.data_received(part)
            used, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert used < 1.5 * size
            assert most < 2 * size
            client.data_received(part + b"0\r\n\r\n" if chunked else part)
            await up.asked_first.wait()
            assert up.asked[0][2] == b"ab" * (size // 2)
            await close(writer)

    run(main)


def test_a_hundred_requests_in_one_read_are_read_once_each(monkeypatch):
    parsed = []
    parse = reading.parse_head
    monkeypatch.setattr(reading, "parse_head", lambda raw: (parsed.append(len(raw)), parse(raw))[1])

    async def main():
        async with gateway(fine) as (gw, (up,)):
            data = b"".join(ONE % n for n in range(100))
            reader, writer = await send(gw.port, [data])
            for _ in range(100):
                assert (await final(reader))[0] == 200
            assert [line.split(" ")[1] for line, _, _ in up.asked] == [f"/{n}" for n in range(100)]
            assert len(parsed) == 100
            assert sum(parsed) == len(data)
            await close(writer)

    run(main)


@pytest.mark.parametrize("settings", ["", "disabled"])
def test_after_a_hundred_that_wait_the_connection_ends(settings):
    """Also if each is answered at once, by us: that does not nest."""

    async def main():
        async with gateway(fine) as (gw, (up,)):
            if settings:
                for one in gw.cluster.balancer.endpoints:
                    one.enabled = False
            reader, writer = await send(gw.port, [b"".join(ONE % n for n in range(2000))])
            wanted = 503 if settings else 200
            for n in range(101):
                status, head, _ = await final(reader)
                assert status == wanted
                assert ("connection: close" in head.lower()) == (n == 100)
            assert await reader.read() == b""
            assert len(up.asked) == (0 if settings else 101)
            await close(writer)

    run(main)


def test_more_than_a_hundred_are_fine_if_they_do_not_wait():
    async def main():
        async with gateway(fine) as (gw, (up,)):
            reader, writer = await send(gw.port, [])
            for n in range(150):
                writer.write(ONE % n)
                assert (await final(reader))[0] == 200
            assert len(up.asked) == 150
            await close(writer)

    run(main)
