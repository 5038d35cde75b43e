"""What changes at the endpoints is said once, with a reason, to whoever listens (Q2)."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import logging
from contextlib import contextmanager

import pytest
from gateway_rig import always, answer, ask, gateway, in_turn, reset
from gateway_telling import runs, stats_of, until

import holdfast as hf
from holdfast.core import events
from holdfast.core.breaker import Result
from holdfast.gateway.watching import LOOK_SECONDS, Watch
from holdfast.runtime.clock import clock


async def resets(upstream, no, writer):
    reset(writer)
    return False


@contextmanager
def listening():
    heard = []
    stop = hf.subscribe(heard.append)
    try:
        yield heard
    finally:
        stop()


def states(heard, key="a"):
    return [
        (one.state, one.reason)
        for one in heard
        if isinstance(one, events.EndpointState) and one.key == key
    ]


def tiers(heard):
    return [(one.before, one.tier) for one in heard if isinstance(one, events.TierChanged)]


@runs
async def test_a_calm_gateway_says_nothing_and_has_no_timer_for_it():
    with listening() as heard:
        async with gateway(always(answer()), always(answer())) as (gw, _):
            for _ in range(20):
                await ask(gw.port)
            assert not gw.cluster.watch.is_busy
            assert gw.cluster.watch.due == float("inf")
    assert heard == []


@runs
async def test_a_circuit_that_opens_is_said_once_with_its_reason_and_until_when():
    with listening() as heard:
        async with gateway(resets, settings="attempts = 1") as (gw, _):
            for _ in range(12):
                await ask(gw.port)
            found = await stats_of(gw.port)
            assert found["tier"] == "circuit_open"
    names = [state for state, _ in states(heard)]
    assert names == ["degraded", "circuit_open"]
    assert states(heard)[1][1] == "ECONNRESET"
    opened = [one for one in heard if isinstance(one, events.EndpointState)][-1]
    assert opened.policy == "gateway"
    assert opened.until > opened.time
    assert [one.why for one in heard if isinstance(one, events.CircuitOpened)] == [
        "5 failures in a row"
    ]
    assert len([one for one in heard if isinstance(one, events.Alert)]) == 1


async def only(tier, gw):
    """Let the only endpoint be in a tier."""
    health = gw.cluster.balancer.endpoints[0].health
    now = clock.monotonic()
    if tier == "degraded":
        health.is_degraded = True
    elif tier == "unhealthy":
        health.probed(now, ok=False)
    else:
        for _ in range(5):
            permit = health.begin(now, 1.0, 0.5)
            health.settle(permit, Result.FAILED, now, 0.5, seconds=0.1)
    health.calm = False


@pytest.mark.parametrize("tier", ["degraded", "unhealthy", "circuit_open"])
@runs
async def test_the_only_endpoint_is_tried_in_any_tier_and_that_is_logged_once(tier):
    """Q2: tried, `tier` says which, logged once."""
    stream = io.StringIO()
    logger = logging.Logger("q2", logging.INFO)  # noqa: LOG001 - of its own
    logger.addHandler(logging.StreamHandler(stream))
    stop = hf.telemetry.log_to(logger, level=logging.INFO)
    try:
        with listening() as heard:
            async with gateway(in_turn(answer(404), answer(404), answer(404))) as (gw, (up,)):
                await only(tier, gw)
                assert (await stats_of(gw.port))["tier"] == tier
                gw.cluster.watch.on_due(clock.monotonic())
                for no in range(1, 3):
                    assert (await ask(gw.port))[0] == 404
                    assert len(up.asked) == no
                    gw.cluster.watch.on_due(clock.monotonic())
    finally:
        stop()
    assert tiers(heard)[0] == ("healthy", tier)
    assert [one for _, one in tiers(heard)].count(tier) == 1
    assert stream.getvalue().count(f"requests go to {tier} endpoints, before to healthy ones") == 1


@runs
async def test_recovery_is_said_once_too():
    with listening() as heard:
        async with gateway(
            in_turn(answer(500), answer(500), answer()), settings="attempts = 1"
        ) as (
            gw,
            _,
        ):
            for _ in range(16):
                await ask(gw.port)
            assert (await stats_of(gw.port))["tier"] == "healthy"
            assert not gw.cluster.watch.is_busy
    assert states(heard) == [("degraded", "http 500"), ("healthy", "recovered")]
    assert tiers(heard) == [("healthy", "degraded"), ("degraded", "healthy")]


@runs
async def test_cooling_down_is_said_and_its_end_without_a_request():
    throttled = answer(429, b"{}", "Retry-After: 1")
    with listening() as heard:
        async with gateway(always(throttled), settings="max_wait = 0.1") as (gw, _):
            for _ in range(3):
                await ask(gw.port)
            await until(lambda: len(states(heard)) == 2, 1 + 2 * LOOK_SECONDS)
            assert not gw.cluster.watch.is_busy
    assert states(heard) == [("cooling", "http 429"), ("healthy", "recovered")]
    assert tiers(heard) == []


@runs
async def test_a_key_that_is_refused_is_said_once_and_by_its_number(monkeypatch):
    monkeypatch.setenv("KEY_A", "secret-a-0001")
    monkeypatch.setenv("KEY_B", "secret-b-0002")

    async def script(upstream, no, writer):
        refused = "secret-a-0001" in upstream.asked[-1][1]
        writer.write(answer(401 if refused else 200))

    keys = 'keys = ["env:KEY_A", "env:KEY_B"]'
    with listening() as heard:
        async with gateway(script, each=keys) as (gw, _):
            for _ in range(6):
                assert (await ask(gw.port))[0] == 200
            found = (await stats_of(gw.port))["endpoints"][0]
            assert [key["state"] for key in found["keys"]] == ["cooling", "ready"]
    assert states(heard) == [("key_out", "http 401, key 0")]
    until_when = next(one for one in heard if isinstance(one, events.EndpointState))
    assert 590 < until_when.until - until_when.time <= 600
    assert "secret" not in repr(heard)


@runs
async def test_nothing_is_kept_for_who_does_not_listen():
    async with gateway(resets, settings="attempts = 1") as (gw, _):
        for _ in range(8):
            await ask(gw.port)
        health = gw.cluster.balancer.endpoints[0].health
        assert health.breaker.gen > 0
        assert health.breaker.changes == []
        assert gw.cluster.watch.is_busy


@runs
async def test_listening_changes_nothing_of_what_is_decided():
    async def one():
        async with gateway(in_turn(answer(500), answer(500), answer())) as (gw, (up,)):
            for _ in range(8):
                await ask(gw.port)
            health = gw.cluster.balancer.endpoints[0].health
            return len(up.asked), health.is_degraded, health.breaker.gen

    alone = await one()
    with listening():
        assert await one() == alone


@runs
async def test_a_reload_says_no_change_twice_and_what_it_disables():
    go = asyncio.Event()

    async def script(upstream, no, writer):
        if no > 3:
            await go.wait()
        writer.write(answer(500))

    with listening() as heard:
        async with gateway(script, always(answer()), settings="attempts = 1") as (gw, (up, _)):
            for one in gw.cluster.balancer.endpoints[1:]:
                one.enabled = False
            for _ in range(3):
                await ask(gw.port)
            asking = asyncio.create_task(ask(gw.port))
            await until(lambda: len(up.asked) == 4)
            first, second = gw.config.endpoint
            old, new = gw.cluster, dataclasses.replace(second, enabled=False)
            gw.use(dataclasses.replace(gw.config, endpoint=[first, new]))
            assert gw.cluster is not old
            go.set()
            await asking
            await asyncio.sleep(0.05)
            assert gw.cluster.watch.is_busy
            assert old.watch is gw.cluster.watch
    assert [state for state, _ in states(heard)] == ["degraded"]
    assert states(heard, "b") == [("disabled", "configuration")]


@runs
async def test_a_disabled_endpoint_is_no_news_at_the_start():
    async with gateway(always(answer()), each="enabled = false") as (gw, _):
        with listening() as heard:
            Watch(gw.cluster).on_due(clock.monotonic())
            await asyncio.sleep(0)
    assert states(heard) == []
