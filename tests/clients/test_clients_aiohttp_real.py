"""Cuts over real sockets: what a simulated network cannot be wrong about."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from clients_aiohttp_rig import fetch
from clients_shapes import Result, cases, cutter, wrong

import holdfast as hf

LIMIT = 0.4
AT_ONCE = 16


async def sweep(server, todo, rule):
    wrapped = hf.clients.aiohttp.Middleware(rule)
    room = asyncio.Semaphore(AT_ONCE)
    loop = asyncio.get_running_loop()

    async def run(session, case):
        url, token = server.url(case.shape, case.fault, case.at, case.times)
        async with room:
            began = loop.time()
            try:
                outcome = await fetch(session, url, case.shape.method)
            except (aiohttp.ClientError, TimeoutError) as error:
                outcome = error
            return Result(case, outcome, loop.time() - began, server.seen[token].requests)

    async with aiohttp.ClientSession(middlewares=[wrapped]) as session:
        results = await asyncio.gather(*(run(session, case) for case in todo))
    await asyncio.sleep(0.05)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    return results, left


def swept(every):
    rule = hf.policy(hf.Deadline(LIMIT), hf.Bulkhead(1000))
    with cutter() as server:
        results, left = asyncio.run(sweep(server, cases(every=every), rule))
        assert server.quiet()
    assert not left
    assert rule.state()["active"] == 0
    assert wrong(results) == []
    # A busy machine is late by more than the policy: nothing may hang, that is the point.
    assert max(one.seconds for one in results) < LIMIT + 1
    return results


def test_a_cut_answer_is_never_a_short_success():
    results = swept(17)
    good = {one.case.shape.name for one in results if isinstance(one.outcome, tuple)}
    assert "length" in good
    assert len([one for one in results if not isinstance(one.outcome, tuple)]) > len(results) / 2


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_cut_at_every_byte_is_never_a_short_success():
    swept(1)
