"""Bodies of requests: small ones whole, large ones as they come, kept as far as there is room."""

from __future__ import annotations

import asyncio
import hashlib
import time

import pytest
from gateway_rig import always, answer, ask, code, connect, gateway, health, read, reset, run, until

OK = answer()
LARGE = bytes(range(256)) * (12 << 10)  # 3 MiB


def digest(body):
    return hashlib.sha256(body).hexdigest()


def in_chunks(body, size=100_000):
    pieces = [body[n : n + size] for n in range(0, len(body), size)]
    return b"".join(b"%x;a=b\r\n%b\r\n" % (len(one), one) for one in pieces) + b"0\r\nT: x\r\n\r\n"


def head(*fields, method="POST", path="/v1/messages"):
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: a", *fields, "", ""]).encode()


def chunked_head(**more):
    return head("Transfer-Encoding: chunked", **more)


def long_head(body, **more):
    return head(f"Content-Length: {len(body)}", **more)


FRAMED = {
    "length": long_head(LARGE) + LARGE,
    "chunks": chunked_head() + in_chunks(LARGE),
}


def does(early, then=OK):
    """Do something when the head has come; answer when the body has."""

    async def script(upstream, no, writer):
        writer.write(then)

    script.early = early
    return script


async def send(gw, *pieces, every=0.0):
    """Send a request in pieces; return (status, head, body) and the connection."""
    reader, writer = await connect(gw)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        if every:
            await asyncio.sleep(every)
    found = await read(reader)
    writer.close()
    return found


# -- whole -----------------------------------------------------------------------------------


def test_a_small_body_in_chunks_goes_on_with_its_length():
    async def main():
        async with gateway(always(OK)) as (gw, (up,)):
            body = b"x" * 5000
            data = chunked_head() + in_chunks(body, 7)
            await send(gw, *[data[n : n + 3000] for n in range(0, len(data), 3000)])
            ((_, sent, got),) = up.asked
            assert got == body
            assert "Content-Length: 5000" in sent
            assert "chunked" not in sent

    run(main)


def test_nobody_is_asked_before_a_small_body_is_whole():
    async def main():
        async with gateway(always(OK)) as (gw, (up,)):
            body = b"x" * 1000
            reader, writer = await connect(gw, long_head(body) + body[:-1])
            await asyncio.sleep(0.05)
            assert up.connections == 0
            writer.write(body[-1:])
            assert (await read(reader))[0] == 200
            writer.close()

    run(main)


def test_the_client_is_told_to_go_on_and_nobody_else_is():
    async def main():
        async with gateway(always(OK)) as (gw, (up,)):
            reader, writer = await connect(gw, head("Content-Length: 3", "Expect: 100-continue"))
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"abc")
            assert (await read(reader))[0] == 200
            assert "expect" not in up.asked[0][1].lower()
            writer.close()

    run(main)


# -- as they come ----------------------------------------------------------------------------


@pytest.mark.parametrize("framing", FRAMED)
def test_a_large_body_goes_on_while_it_comes(framing):
    async def main():
        seen = asyncio.Event()

        async def early(upstream, no, writer):
            seen.set()

        async with gateway(does(early)) as (gw, (up,)):
            reader, writer = await connect(gw)
            data = FRAMED[framing]
            writer.write(data[: 2 << 20])
            await asyncio.wait_for(seen.wait(), 5)
            writer.write(data[2 << 20 :])
            assert (await read(reader))[0] == 200
            ((_, sent, got),) = up.asked
            assert digest(got) == digest(LARGE)
            assert ("chunked" in sent) == (framing == "chunks")
            assert gw.cluster.room.used == 0
            assert (await ask(gw.port, keep=(reader, writer)))[0] == 200
            writer.close()

    run(main)


@pytest.mark.parametrize("framing", FRAMED)
def test_a_large_body_that_was_kept_is_sent_again(framing):
    async def breaks(upstream, no, writer):
        await writer.reader.read(200_000)
        reset(writer)
        return False

    async def main():
        async with gateway(does(breaks), always(OK)) as (gw, (_, up)):
            data = FRAMED[framing]
            for _ in range(6):
                status, _, _ = await send(gw, data)
                assert status == 200
            assert {digest(body) for _, _, body in up.asked} == {digest(LARGE)}
            assert health(gw).counts(time.monotonic()).failures > 0
            assert gw.cluster.room.used == 0

    run(main)


@pytest.mark.parametrize("setting", ['replay_max = "1MiB"', 'replay_total = "1MiB"'])
def test_one_that_could_not_be_kept_is_sent_once(setting):
    async def breaks(upstream, no, writer):
        await writer.reader.readexactly(2_000_000)
        reset(writer)
        return False

    async def main():
        async with gateway(does(breaks), does(breaks), settings=setting) as (gw, ups):
            status, _, body = await send(gw, long_head(LARGE), LARGE)
            assert (status, code(body)) == (502, "HF-3106")
            assert sum(up.heads for up in ups) == 1
            assert gw.cluster.room.used == 0

    run(main)


def test_one_that_was_not_sent_yet_can_be_sent_though_it_is_not_kept():
    async def main():
        settings = 'replay_max = "1KiB"'
        async with gateway(always(OK), always(OK), settings=settings) as (gw, (gone, up)):
            gone.server.close()
            for _ in range(4):
                assert (await send(gw, long_head(LARGE), LARGE))[0] == 200
            assert {digest(body) for _, _, body in up.asked} == {digest(LARGE)}

    run(main)


def test_an_endpoint_that_takes_nothing_makes_the_client_wait():
    go = asyncio.Event()

    async def waits(upstream, no, writer):
        writer.reader._transport.pause_reading()
        await go.wait()
        writer.reader._transport.resume_reading()

    async def main():
        body = b"x" * (24 << 20)
        async with gateway(does(waits), settings='replay_max = "1MiB"') as (gw, (up,)):
            reader, writer = await connect(gw, long_head(body) + body)
            before = -1
            while before != writer.transport.get_write_buffer_size():
                before = writer.transport.get_write_buffer_size()
                await asyncio.sleep(0.1)
            assert before > 4 << 20
            go.set()
            assert (await read(reader))[0] == 200
            assert len(up.asked[0][2]) == len(body)
            writer.close()

    run(main)


def test_a_client_that_leaves_in_the_middle_is_nobodys_fault():
    async def main():
        async with gateway(always(OK)) as (gw, (up,)):
            _, writer = await connect(gw, long_head(LARGE) + LARGE[: 2 << 20])
            await until(lambda: up.heads)
            writer.close()
            await until(lambda: not up.open, 0.5)
            assert not up.asked
            assert health(gw).in_flight == 0
            assert health(gw).counts(time.monotonic()).failures == 0
            assert gw.cluster.room.used == 0

    run(main)


@pytest.mark.parametrize("status", [413, 200])
def test_an_answer_before_the_body_is_whole_is_given_and_ends_the_connection(status):
    async def early(upstream, no, writer):
        writer.write(answer(status, b"enough"))
        await writer.reader.read(-1)
        return False

    async def main():
        async with gateway(does(early)) as (gw, (up,)):
            reader, writer = await connect(gw, long_head(LARGE) + LARGE[: 2 << 20])
            found, said, body = await read(reader)
            assert (found, body) == (status, b"enough")
            assert "Connection: close" in said
            assert await reader.read() == b""
            writer.close()
            await until(lambda: not up.open)
            assert up.heads == 1

    run(main)


def test_an_answer_that_begins_before_the_body_is_whole_took_the_time_until_then():
    whole = answer(200, b'{"a": 1}', "Content-Type: application/json")

    async def early(upstream, no, writer):
        await asyncio.sleep(0.2)
        writer.write(whole[:-4])

    async def main():
        async with gateway(does(early, whole[-4:])) as (gw, (up,)):
            reader, writer = await asyncio.open_connection("127.0.0.1", gw.port)
            writer.write(long_head(LARGE) + LARGE[: 2 << 20])
            await asyncio.sleep(0.4)
            writer.write(LARGE[2 << 20 :])
            assert (await read(reader))[0] == 200
            assert len(up.asked) == 1
            writer.close()
            assert 0.15 < health(gw).mean.value < 0.35

    run(main)


# -- limits ----------------------------------------------------------------------------------


def test_a_body_that_is_announced_too_large_is_refused_before_it_comes():
    async def main():
        async with gateway(always(OK), settings='body_max = "2MiB"') as (gw, (up,)):
            status, _, body = await send(gw, head("Content-Length: 2097153"))
            assert (status, code(body)) == (413, "HF-3004")
            assert not up.connections

    run(main)


@pytest.mark.parametrize("size", [3 << 20, 5000])
def test_a_body_in_chunks_that_grows_too_large_is_refused(size):
    async def main():
        async with gateway(always(OK), settings=f"body_max = {size - 1}") as (gw, (up,)):
            status, said, body = await send(gw, chunked_head(), in_chunks(b"x" * size))
            assert (status, code(body)) == (413, "HF-3004")
            assert "Connection: close" in said
            await until(lambda: not up.open)
            assert not up.asked
            assert health(gw).in_flight == 0
            assert health(gw).counts(time.monotonic()).failures == 0

    run(main)


def test_a_malformed_chunk_in_the_middle_of_a_large_body_is_refused():
    async def main():
        async with gateway(always(OK)) as (gw, (up,)):
            data = in_chunks(LARGE)[:2_500_000]
            status, _, body = await send(gw, chunked_head() + data + b"x" * 200_000)
            assert (status, code(body)) == (400, "HF-3001")
            await until(lambda: not up.open)
            assert not up.asked

    run(main)


def test_a_large_body_that_stalls_until_its_whole_time_is_over_is_nobodys_fault():
    async def main():
        async with gateway(does(None), settings='total_timeout = "400ms"') as (gw, (up,)):
            status, _, body = await send(gw, long_head(LARGE), LARGE[: 2 << 20])
            assert (status, code(body)) == (504, "HF-3102")
            assert up.connections == 1
            assert health(gw).counts(time.monotonic()).failures == 0

    run(main)


def test_a_large_body_that_stalls_is_a_408_and_nobodys_fault():
    async def main():
        async with gateway(always(OK), settings="body_timeout = 0.15") as (gw, (up,)):
            status, _, body = await send(gw, long_head(LARGE) + LARGE[: 2 << 20])
            assert (status, code(body)) == (408, "HF-3005")
            await until(lambda: not up.open)
            assert health(gw).counts(time.monotonic()).failures == 0
            assert health(gw).in_flight == 0

    run(main)


# -- never a part of it ----------------------------------------------------------------------


def kept_connection_that_ends(ends):
    """Answer a GET, then break the connection in the middle of the next request's body."""

    async def script(upstream, no, writer):
        writer.write(OK)

    async def early(upstream, no, writer):
        if no == 2:
            await ends.wait()
            reset(writer)
            return False
        return True

    script.early = early
    return script


@pytest.mark.parametrize("setting", ['replay_max = "1MiB"', 'replay_total = "1MiB"'])
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "more to come"])
def test_what_was_sent_and_not_kept_is_not_sent_again_when_a_kept_connection_ends(setting, whole):
    async def main():
        ends = asyncio.Event()
        async with gateway(kept_connection_that_ends(ends), settings=setting) as (gw, (up,)):
            keep = reader, writer = await connect(gw)
            assert (await ask(gw.port, "GET", "/x", keep=keep))[0] == 200
            data = in_chunks(LARGE[: 9 << 17], 1 << 16)
            writer.write(chunked_head(method="PUT", path="/f"))
            writer.write(data[: 17 << 16])
            await until(lambda: up.heads == 2)
            writer.write(data[17 << 16 :] if whole else data[17 << 16 : -12])
            await until(lambda: gw.cluster.room.used == 0)
            await asyncio.sleep(0.05)
            ends.set()
            status, _, body = await read(reader)
            assert (status, code(body)) == (502, "HF-3106")
            assert len(up.asked) == 1
            assert health(gw).in_flight == 0
            writer.close()

    run(main)


def test_a_body_that_outgrows_its_room_between_two_attempts_is_not_sent_in_part():
    """The second attempt waits for its turn when that happens."""

    async def breaks(upstream, no, writer):
        reset(writer)
        return False

    async def main():
        settings = 'replay_max = "2MiB"'
        async with gateway(does(breaks), settings=settings) as (gw, (up,)):
            reader, writer = await connect(
                gw, long_head(LARGE, method="PUT", path="/f") + LARGE[: 3 << 19]
            )
            # The same endpoint is asked again after a backoff of 25 ms or more.
            await until(lambda: health(gw).counts(time.monotonic()).failures == 1)
            writer.write(LARGE[3 << 19 :])
            status, _, body = await read(reader)
            assert (status, code(body)) == (502, "HF-3106")
            assert up.heads < 3
            assert not up.asked
            assert health(gw).in_flight == 0
            writer.close()

    run(main)
