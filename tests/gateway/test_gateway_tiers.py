"""Whatever the endpoints have gone through, a request finds one that answers."""

from __future__ import annotations

import asyncio
import itertools
import math
import time

import pytest
from gateway_rig import always, answer, ask, gateway, health, run, tiers

from holdfast.core.breaker import Permit, Result

OK = answer()


def healthy(one, now):
    pass


def degraded(one, now):
    one.is_degraded = True
    one.calm = False


def unhealthy(one, now):
    one.probed(now, ok=False)


def circuit_open(one, now):
    for _ in range(5):
        permit = one.begin(now, math.inf, 0.5)
        assert isinstance(permit, Permit)
        one.settle(permit, Result.FAILED, now, 0.5, seconds=0.01)


def cooling(one, now):
    one.throttled(now, 0.2)


STATES = (healthy, degraded, unhealthy, circuit_open, cooling)


@pytest.mark.parametrize(
    "mix",
    [*((one,) for one in STATES), *itertools.combinations_with_replacement(STATES, 2)],
    ids=lambda mix: "+".join(one.__name__ for one in mix),
)
@pytest.mark.parametrize("path", ["/v1/messages", "/pay"])
def test_in_any_mix_of_states_a_request_is_answered(mix, path):
    async def main():
        async with gateway(*[always(OK)] * len(mix)) as (gw, ups):
            await ask(gw.port)
            now = time.monotonic()
            for number, make in enumerate(mix):
                make(health(gw, number), now)
            found = await asyncio.gather(*(ask(gw.port, "POST", path) for _ in range(5)))
            assert {(status, body) for status, _, body in found} == {(200, b"fine")}
            assert sum(len(up.asked) for up in ups) == 6

    run(main)


@pytest.mark.parametrize("make", [degraded, unhealthy, circuit_open])
def test_if_that_is_all_there_is_it_is_used_and_the_last_word_is_the_endpoints(make):
    async def main():
        refusal = answer(500, b"not me", "X-From: upstream")
        async with gateway(always(refusal), always(refusal), settings="attempts = 2") as (gw, ups):
            now = time.monotonic()
            for number in (0, 1):
                make(health(gw, number), now)
            assert set(tiers(gw)) == {make.__name__}
            status, head, body = await ask(gw.port)
            assert (status, body) == (500, b"not me")
            assert "X-From: upstream" in head
            assert sum(len(up.asked) for up in ups) >= 1

    run(main)


def test_two_that_are_overloaded_for_a_moment_answer_both_requests():
    async def script(upstream, no, writer):
        writer.write(answer(529, b"{}", "Retry-After: 0.2") if no == 1 else OK)

    async def main():
        async with gateway(script, script) as (gw, ups):
            found = await asyncio.gather(ask(gw.port), ask(gw.port))
            assert [status for status, _, _ in found] == [200, 200]
            assert sum(len(up.asked) for up in ups) == 4
            assert tiers(gw) == ["healthy", "healthy"]

    run(main)


def test_a_better_tier_is_used_before_a_worse_one():
    async def main():
        async with gateway(always(OK), always(OK), always(OK)) as (gw, ups):
            now = time.monotonic()
            unhealthy(health(gw, 0), now)
            degraded(health(gw, 1), now)
            for _ in range(15):
                await ask(gw.port, "POST", "/pay")
            assert [len(up.asked) for up in ups] == [0, 0, 15]

    run(main)
