"""Every answer, cut at every byte, in every way: the whole body, or an error, and in time."""

from __future__ import annotations

import asyncio
import gzip

import aiohttp
import pytest
from clients_aiohttp_rig import HOST, Scripted, answer, chunked, fetch, sessions, simulate
from clients_shapes import FAULTS, SHAPES, cases

import holdfast as hf
from holdfast.testing import cancel_sweep, simulated_aiohttp

LIMIT = 0.2
ZIPPED = answer(200, gzip.compress(b"good", mtime=0), "Content-Encoding: gzip")


def policy(attempts=1):
    return hf.policy(
        hf.Deadline(LIMIT),
        hf.Bulkhead(1000),
        hf.Retry(attempts, backoff=hf.Constant(0.001), budget=None),
        hf.Timeout(LIMIT / 4),
    )


async def run(sim, session, server, case, rule, method=None, **options):
    url, seen = server.url(case.shape, case.fault, case.at, case.times)
    began = sim.clock.monotonic()
    try:
        outcome = await fetch(session, url, method or case.shape.method, **options)
    except (aiohttp.ClientError, TimeoutError) as error:
        outcome = error
    assert sim.clock.monotonic() - began <= LIMIT + 0.001, case
    assert rule.state()["active"] == 0, case
    return outcome, seen


@pytest.mark.parametrize("fault", FAULTS)
def test_a_cut_answer_is_an_error_and_never_a_short_success(fault):
    async def main(sim):
        rule = policy()
        async with sessions(sim, rule) as (session, server):
            for case in cases(faults=(fault,)):
                outcome, _ = await run(sim, session, server, case, rule)
                if case.whole and case.shape.name != "redirect":  # its text varies in length
                    assert outcome == (case.shape.status, case.shape.body), case
                elif isinstance(outcome, tuple):
                    # Only what ends with its head may be whole without its last byte.
                    assert outcome == (case.shape.status, case.shape.body), case

    simulate(main)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_cut_answer_is_asked_for_again_and_comes_whole(fault):
    failed = []

    async def main(sim):
        rule = policy(3)
        async with sessions(sim, rule) as (session, server):
            for case in cases(faults=(fault,), times=1):
                outcome, seen = await run(sim, session, server, case, rule)
                if isinstance(outcome, tuple):
                    assert outcome == (case.shape.status, case.shape.body), case
                    assert seen.requests <= 2
                else:
                    failed.append((case.shape.name, type(outcome).__name__))

    simulate(main)
    # What had begun to be read is the reader's: a body without a length is not repeated.
    names = {name for name, _ in failed}
    assert names <= {"chunked", "trailers", "gzip_chunked", "deflate_chunked", "gzip_close"}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_post_that_went_out_is_not_sent_again(fault):
    async def main(sim):
        rule = policy(3)
        async with sessions(sim, rule) as (session, server):
            for case in cases(faults=(fault,)):
                if case.shape.name == "redirect":
                    continue
                method = None if case.shape.method == "HEAD" else "POST"
                if method is None:
                    continue
                _, seen = await run(sim, session, server, case, rule, method, data=b"once")
                assert seen.bodies == [b"once"], case

    simulate(main)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 40])
def test_answers_in_many_small_segments_are_whole(size):
    async def main(sim):
        rule = hf.policy(hf.Deadline(60), hf.Bulkhead(1))
        async with sessions(sim, rule) as (session, server):
            for shape in SHAPES:
                url, _ = server.url(shape, "none", f"0,{size}")
                got = await fetch(session, url, shape.method)
                assert got == (shape.status, shape.body), shape.name
                assert rule.state()["active"] == 0

    simulate(main)


async def chunks(content):
    return b"".join([piece async for piece, _ in content.iter_chunks()])


async def pieces(content):
    return b"".join([piece async for piece in content.iter_chunked(7)])


async def anything(content):
    return b"".join([piece async for piece in content.iter_any()])


async def lines(content):
    return b"".join([piece async for piece in content])


async def some(content):
    got = []
    while piece := await content.read(11):
        got.append(piece)
    return b"".join(got)


@pytest.mark.parametrize("read", [chunks, pieces, anything, lines, some])
@pytest.mark.parametrize("size", [0, 5])
def test_each_way_of_reading_a_body_gets_it_whole(read, size):
    async def main(sim):
        rule = hf.policy(hf.Deadline(60), hf.Bulkhead(1))
        async with sessions(sim, rule) as (session, server):
            for shape in SHAPES:
                if read is chunks and not shape.body:
                    continue  # aiohttp's own empty stream never ends there
                url, _ = server.url(shape, "none", f"0,{size}")
                async with session.request(shape.method, url) as response:
                    assert await read(response.content) == shape.body, shape.name
                assert rule.state()["active"] == 0

    simulate(main)


SCRIPTS = {
    "new": ("GET", {}, [answer(200, b"good")]),
    "stale": ("GET", {}, [answer(200, b"good"), ("rst", b""), answer(200, b"good")]),
    "retry": ("GET", {}, [answer(503), ("fin", b"HTTP"), answer(200, b"good")]),
    "drained": ("GET", {}, [("drip", chunked(b"busy", status=503)), answer(200, b"good")]),
    "redirect": ("GET", {}, [answer(302, b"", "Location: /two"), answer(200, b"good")]),
    "stream": ("GET", {}, [("drip", chunked(b"go", b"od"))]),
    "buffered": ("GET", {}, [("drip", answer(200, b"good"))]),
    "gzip": ("GET", {}, [("drip", ZIPPED)]),
    "body": ("PUT", {"data": b"x" * 200_000}, [("rst", b""), answer(200, b"good")]),
    "hedged": ("GET", {}, [("hang", b""), answer(200, b"good")]),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_request_that_is_cancelled_at_any_step_leaves_nothing(name):
    method, options, script = SCRIPTS[name]
    parts = [hf.Hedge(after=0.01, budget=1.0)] if name == "hedged" else []
    world = {}

    async def main(sim):
        session = world["session"]
        if name == "stale":
            assert await fetch(session, f"http://{HOST}/") == (200, b"good")
        got = await fetch(session, f"http://{HOST}/", method, **options)
        assert got == (200, b"good")

    async def around(sim, start):
        rule = hf.policy(
            hf.Deadline(300),
            hf.Bulkhead(2),
            hf.Retry(4, backoff=hf.Constant(0.01), budget=None),
            *parts,
            hf.Timeout(100),
        )
        async with sessions(sim, rule, Scripted(*script)) as (session, _):
            world["session"] = session
            await asyncio.wait([start()])
            sim.loop.on_step = None
            assert rule.state()["active"] == 0

    with simulated_aiohttp():
        assert cancel_sweep(main, around=around) > 5
