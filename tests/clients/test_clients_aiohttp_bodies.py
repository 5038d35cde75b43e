"""Request bodies that are sent whole or not at all, and answers that are read while they come."""

from __future__ import annotations

import asyncio
import gc
import gzip
import io
import subprocess
import sys
import threading
import time
import warnings
import zlib
from pathlib import Path

import aiohttp
import pytest
from aiohttp.payload import Payload
from clients_aiohttp_rig import (
    HOST,
    Scripted,
    answer,
    chunked,
    fetch,
    request_head,
    sessions,
    simulate,
)

import holdfast as hf
from holdfast.clients._aiohttp_body import fence
from holdfast.core.events import Attempt

URL = f"http://{HOST}/"
GOOD = answer(200, b"good")
DATA = bytes(range(256)) * 2000


def rule_of(*parts, attempts=3):
    return hf.policy(*parts, hf.Retry(attempts, backoff=hf.Constant(0.1), budget=None))


def run(server, main, policy=None, **options):
    rule = policy or rule_of(hf.Bulkhead(5))

    async def program(sim):
        async with sessions(sim, rule, server, **options) as (session, _):
            await main(session, rule)
        assert rule.state()["active"] == 0

    simulate(program)


class HalfDeaf(Scripted):
    """Resets the first `times` requests after `at` bytes of their body."""

    def __init__(self, at, times=1, step=GOOD):
        super().__init__(step)
        self.at = at
        self.times = times

    async def one(self, reader, writer, connection):
        if self.times == 0:
            return await super().one(reader, writer, connection)
        self.times -= 1
        await request_head(reader)
        if self.at:
            await reader.readexactly(self.at)
        writer.transport.abort()
        return False


class Plain(Payload):
    """A payload as users write them: nothing says whether it can be written twice."""

    def __init__(self):
        super().__init__(iter([b"one", b"two"]))

    def decode(self, encoding="utf-8", errors="strict"):
        raise TypeError("not here")

    async def write(self, writer):
        for piece in self._value:
            await writer.write(piece)


def file_at(position):
    file = io.BytesIO(b"----" + DATA)
    file.seek(position)
    return file


def on_disk(tmp_path):
    path = tmp_path / "body"
    path.write_bytes(DATA)
    return path.open("rb")


async def generated():
    for at in range(0, len(DATA), 50_000):
        yield DATA[at : at + 50_000]


def form(file):
    data = aiohttp.FormData()
    data.add_field("name", "value")
    data.add_field("file", file, filename="f")
    return data


BODIES = {
    "bytes": lambda tmp_path: b"a" * 1000 + DATA[:9000],
    "text": lambda tmp_path: "text" * 3000,
    "memory": lambda tmp_path: file_at(4),
    "disk": on_disk,
    "form": lambda tmp_path: form(file_at(4)),
    "form_disk": lambda tmp_path: form(on_disk(tmp_path)),
}


@pytest.mark.parametrize("what", BODIES)
@pytest.mark.parametrize("at", [0, 1, 5000])
def test_a_body_that_was_cut_is_sent_again_from_its_start(what, at, tmp_path):
    server = HalfDeaf(at)
    bare = Scripted(GOOD)

    async def main(session, rule):
        assert await fetch(session, URL, "PUT", data=BODIES[what](tmp_path)) == (200, b"good")

    run(server, main)
    run(bare, main)
    assert len(server.bodies) == 1
    assert len(server.bodies[0]) == len(bare.bodies[0]) > 4999


@pytest.mark.parametrize("at", [0, 1, 60_000])
def test_a_generator_is_not_sent_again(at):
    server = HalfDeaf(at)

    async def main(session, rule):
        with pytest.raises(aiohttp.ClientOSError) as caught:
            await fetch(session, URL, "PUT", data=generated())
        assert "body cannot be sent again" in caught.value.__notes__[0]

    run(server, main)
    assert server.bodies == []


@pytest.mark.parametrize("at", [0, 1, 60_000])
@pytest.mark.parametrize("keep", [len(DATA), len(DATA) - 1])
def test_a_generator_is_sent_again_as_far_as_it_was_kept(at, keep):
    server = HalfDeaf(at, times=2)

    async def main(session, rule):
        try:
            assert await fetch(session, URL, "PUT", data=generated()) == (200, b"good")
        except aiohttp.ClientOSError:
            assert keep < len(DATA)

    run(server, main, replay_buffer=keep)
    assert server.bodies in ([DATA], [])
    assert bool(server.bodies) or keep < len(DATA)


def test_a_generator_whose_connection_never_came_up_is_sent():
    server = Scripted(GOOD)

    async def main(sim):
        sim.break_things({"connect": {"refuse": 1.0}}, until=0.15)
        async with sessions(sim, rule_of(attempts=5), server) as (session, _):
            assert await fetch(session, URL, "PUT", data=generated()) == (200, b"good")

    simulate(main)
    assert server.bodies == [DATA]


def test_a_payload_that_nobody_knows_is_sent_once():
    server = HalfDeaf(0)

    async def main(session, rule):
        with pytest.raises(aiohttp.ClientOSError):
            await fetch(session, URL, "PUT", data=Plain())

    run(server, main)
    assert server.bodies == []


def test_a_generator_inside_a_form_is_sent_once():
    server = HalfDeaf(10)

    async def main(session, rule):
        with pytest.raises(aiohttp.ClientOSError):
            await fetch(session, URL, "PUT", data=form(generated()))

    run(server, main)
    assert server.bodies == []


def test_a_body_that_waits_to_be_invited_is_sent_again():
    server = HalfDeaf(0)

    async def main(session, rule):
        got = await fetch(session, URL, "PUT", data=DATA, expect100=True)
        assert got == (200, b"good")

    run(server, main)
    assert server.bodies == [DATA]


@pytest.mark.parametrize("keep", [0, len(DATA)])
def test_a_redirect_gets_the_body_whole_or_not_at_all(keep):
    server = Scripted(answer(307, b"", "Location: /two"), GOOD)

    async def main(session, rule):
        assert await fetch(session, URL, "PUT", data=file_at(4)) == (200, b"good")

    async def once(session, rule):
        try:
            assert await fetch(session, URL, "PUT", data=generated()) == (200, b"good")
        except aiohttp.ClientPayloadError:
            assert not keep

    run(server, main, replay_buffer=keep)
    assert server.bodies == [DATA, DATA]
    again = Scripted(answer(307, b"", "Location: /two"), GOOD)
    run(again, once, replay_buffer=keep)
    assert again.bodies == ([DATA, DATA] if keep else [DATA])


def test_an_answer_that_comes_before_the_body_was_sent_is_used_and_the_body_is_not_cut():
    early = Scripted(answer(503), GOOD)

    class Early(HalfDeaf):
        async def one(self, reader, writer, connection):
            if self.times == 0:
                return await Scripted.one(self, reader, writer, connection)
            self.times -= 1
            await request_head(reader)
            writer.write(answer(503))
            await asyncio.sleep(1)
            return False

    server = Early(0)

    async def main(session, rule):
        assert await fetch(session, URL, "PUT", data=file_at(4)) == (200, b"good")

    run(server, main)
    run(early, main)
    assert server.bodies == [DATA]


def test_a_read_of_the_attempt_before_does_not_disturb_the_next():
    class Slow(io.BytesIO):
        def read(self, size=-1):
            time.sleep(0.05)
            return super().read(size)

    payload = aiohttp.payload.IOBasePayload(Slow(DATA))
    payload._start_position = 0
    fence(payload)
    before = threading.Thread(target=payload._read, args=(1000,))
    before.start()
    fence(payload)
    got = payload._read_and_available_len(1000)[1]
    before.join()
    assert got == DATA[:1000]
    assert payload._read(1000) == DATA[1000:2000]


# -- answers that are read while they come -----------------------------------------------------


def test_permits_are_held_until_the_body_has_ended():
    server = Scripted(("drip", chunked(b"abc")))

    async def main(session, rule):
        async with session.get(URL) as response:
            assert rule.state()["active"] == 1
            assert await response.content.readany() == b"a"
            assert rule.state()["active"] == 1
            assert await response.read() == b"bc"
            assert rule.state()["active"] == 0

    run(server, main)


@pytest.mark.parametrize("how", ["close", "release", "leave"])
def test_closing_an_answer_early_is_a_success(how):
    server = Scripted(("hang", chunked(b"abc", end=False)))
    rule = hf.policy(hf.Bulkhead(1), hf.Breaker(consecutive=1))

    async def main(session, rule):
        for _ in range(3):
            async with session.get(URL) as response:
                assert await response.content.readany() == b"abc"
                if how != "leave":
                    getattr(response, how)()
                    assert rule.state()["active"] == 0
            assert rule.state()["active"] == 0

    run(server, main, rule)
    assert rule.state()["circuit"] == "closed"


def test_an_answer_that_is_dropped_gives_its_permit_back_and_warns():
    server = Scripted(("hang", chunked(b"abc", end=False)))

    async def main(session, rule):
        response = await session.get(URL)
        assert rule.state()["active"] == 1
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            del response
        assert rule.state()["active"] == 0
        assert [one.category for one in heard] == [ResourceWarning]
        assert "neither read nor closed" in str(heard[0].message)

    run(server, main)


@pytest.mark.parametrize("what", ["rst", "fin"])
def test_a_body_that_breaks_while_it_is_read_is_the_readers(what):
    server = Scripted((what, chunked(b"abc", end=False)))

    async def main(session, rule):
        async with session.get(URL) as response:
            await asyncio.sleep(1)
            # The failure is known before anybody reads.
            assert rule.state()["active"] == 0
            assert rule.state()["failures"] == 1
            with pytest.raises(aiohttp.ClientPayloadError) as caught:
                await response.read()
            assert len(caught.value.__notes__) == 1
            assert "the stream had begun" in caught.value.__notes__[0]

    run(server, main, hf.policy(hf.Bulkhead(1), hf.Retry(3), hf.Breaker()))
    assert len(server.requests) == 1


def test_a_body_that_falls_silent_ends_at_the_timeout():
    server = Scripted(("hang", chunked(b"abc", end=False)))

    async def main(session, rule):
        async with session.get(URL) as response:
            began = asyncio.get_running_loop().time()
            with pytest.raises(TimeoutError, match="longer than 1 s"):
                await response.read()
            assert asyncio.get_running_loop().time() - began <= 1.05
            with pytest.raises(TimeoutError):
                await response.content.read(1)
        assert rule.state()["failures"] == 1

    run(server, main, hf.policy(hf.Retry(3), hf.Breaker(), hf.Timeout(1)))


def test_a_body_that_comes_in_time_may_take_longer_than_the_timeout():
    server = Scripted(("drip", chunked(b"abcdefghij")))

    async def main(session, rule):
        async with session.get(URL) as response:
            got = b"".join([piece async for piece in response.content.iter_any()])
        assert got == b"abcdefghij"

    # The head alone takes 18 s to come.
    run(server, main, hf.policy(hf.Deadline(60), hf.Timeout(20)))


def test_a_cancelled_reader_leaves_nothing():
    server = Scripted(("hang", chunked(b"abc", end=False)))

    async def main(session, rule):
        async def read():
            async with session.get(URL) as response:
                await response.read()

        task = asyncio.ensure_future(read())
        await asyncio.sleep(1)
        assert rule.state()["active"] == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert rule.state()["active"] == 0
        assert rule.state()["failures"] == 0

    run(server, main, hf.policy(hf.Bulkhead(1), hf.Breaker()))


def test_an_event_stream_is_never_buffered():
    events = b"data: 1\n\ndata: 2\n\n"
    raw = answer(200, events, "Content-Type: text/event-stream")
    server = Scripted(("fin", raw[:-9]))

    async def main(session, rule):
        async with session.get(URL) as response:
            assert await response.content.read(9) == b"data: 1\n\n"
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.content.read(9)

    run(server, main)
    assert len(server.requests) == 1


@pytest.mark.parametrize(("buffer", "requests"), [(1000, 2), (999, 1), (0, 1)])
def test_a_cut_in_a_buffered_body_is_retried(buffer, requests):
    server = Scripted(("fin", answer(200, b"x" * 1000)[:-1]), answer(200, b"x" * 1000))

    async def main(session, rule):
        try:
            assert await fetch(session, URL) == (200, b"x" * 1000)
        except aiohttp.ClientPayloadError:
            assert requests == 1

    run(server, main, buffer=buffer)
    assert len(server.requests) == requests


def test_a_large_body_that_is_buffered_comes_whole():
    body = DATA * 2
    server = Scripted(answer(200, body))

    async def main(session, rule):
        assert await fetch(session, URL) == (200, body)
        async with session.get(URL) as response:
            assert rule.state()["active"] == 0
            assert await response.content.readexactly(len(body)) == body

    run(server, main)


# -- compressed answers ------------------------------------------------------------------------

BOMB = gzip.compress(bytes(8 << 20), mtime=0)


@pytest.mark.parametrize("form", ["length", "chunked", "close"])
@pytest.mark.parametrize("buffer", [0, 1 << 20])
@pytest.mark.parametrize("read", ["read", "iter_any", "iter_chunked", "readline"])
def test_a_bomb_is_an_error_and_is_not_asked_for_again(form, buffer, read):
    coded = "Content-Encoding: gzip"
    raw = {
        "length": answer(200, BOMB, coded),
        "chunked": chunked(BOMB, fields=(coded,)),
        "close": (
            "fin",
            b"HTTP/1.1 200 X\r\nConnection: close\r\n" + coded.encode() + b"\r\n\r\n" + BOMB,
        ),
    }[form]
    server = Scripted(raw)

    async def main(session, rule):
        with pytest.raises(aiohttp.ClientPayloadError, match="max_ratio") as caught:
            async with session.get(URL) as response:
                if read == "read":
                    await response.read()
                elif read == "readline":
                    await response.content.readline(max_line_length=100 << 20)
                elif read == "iter_any":
                    async for piece in response.content.iter_any():
                        assert len(piece) <= 4 << 20
                else:
                    async for piece in response.content.iter_chunked(1000):
                        assert len(piece) <= 1000
        assert isinstance(caught.value.__cause__, aiohttp.http_exceptions.ContentEncodingError)
        assert rule.state()["active"] == 0

    run(server, main, buffer=buffer)
    assert len(server.requests) == 1


@pytest.mark.parametrize("size", [1, 1000, 100_000])
def test_a_body_may_not_be_larger_than_max_decoded(size):
    body = zlib.compress(DATA)
    server = Scripted(answer(200, body, "Content-Encoding: deflate"))

    async def main(session, rule):
        with pytest.raises(aiohttp.ClientPayloadError, match="max_decoded"):
            await fetch(session, URL)

    run(server, main, max_decoded=size)
    assert len(server.requests) == 1


def test_a_body_of_many_times_its_compressed_size_may_be_allowed():
    server = Scripted(answer(200, BOMB, "Content-Encoding: gzip"))

    async def main(session, rule):
        status, body = await fetch(session, URL)
        assert (status, len(body)) == (200, 8 << 20)

    run(server, main, max_ratio=2000)


def test_compressed_bodies_come_as_they_are_if_the_session_says_so():
    server = Scripted(answer(200, BOMB, "Content-Encoding: gzip"))

    async def main(session, rule):
        assert await fetch(session, URL, auto_decompress=False) == (200, BOMB)

    run(server, main)


@pytest.mark.parametrize("form", ["length", "chunked"])
@pytest.mark.parametrize("how", ["read", "stream", pytest.param("all", marks=pytest.mark.long)])
def test_a_bomb_of_a_gibibyte_costs_at_most_32_mebibytes(how, form):
    script = Path(__file__).with_name("clients_aiohttp_bomb.py")
    done = subprocess.run(
        [sys.executable, str(script), how, form], capture_output=True, text=True, check=True
    )
    grown, got, *failure = done.stdout.split()
    assert int(grown) <= 32 << 20
    if how == "all":  # the ratio was allowed: it comes, piece by piece
        assert (int(got), failure) == (1 << 30, [])
    else:
        assert failure == ["ClientPayloadError"]


# -- the rest ----------------------------------------------------------------------------------


def test_events_tell_what_was_sent_and_what_was_reused():
    server = Scripted(GOOD, answer(503), GOOD)
    heard = []

    async def main(session, rule):
        stop = hf.subscribe(heard.append)
        await fetch(session, URL)
        await fetch(session, URL)
        stop()

    run(server, main)
    attempts = [event for event in heard if isinstance(event, Attempt)]
    assert [event.reused for event in attempts] == [False, True, True]
    assert [event.sent for event in attempts] == ["yes", "yes", "yes"]


def test_without_aiohttp_one_line_says_what_to_install():
    code = (
        "import sys; sys.modules['aiohttp'] = None\n"
        "import holdfast as hf\n"
        "try: hf.clients.aiohttp\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install" in done.stdout
    assert len(done.stdout.splitlines()) == 1


def test_holdfast_does_not_import_aiohttp():
    code = "import sys, holdfast, holdfast.clients; print('aiohttp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_good_requests_leave_nothing_for_the_collector():
    server = Scripted(GOOD)

    async def main(session, rule):
        await fetch(session, URL)
        gc.collect()
        before = len(gc.get_objects())
        for _ in range(50):
            await fetch(session, URL)
        assert len(gc.get_objects()) - before < 50 * 30

    run(server, main)
