"""The statistics (Q11): every field, from nothing on; read without a trace; summed over workers."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import json
import pickle
import re
from datetime import datetime
from pathlib import Path

import pytest
from gateway_rig import always, answer, ask, gateway, in_turn, reset
from gateway_telling import get, runs, stats_of, until

from holdfast.core.balance import Endpoint
from holdfast.core.breaker import Breaker, Result
from holdfast.core.health import Health
from holdfast.gateway import metrics
from holdfast.gateway.ledger import OUTCOMES
from holdfast.gateway.snapshots import snapshot, state_of
from holdfast.gateway.stats import shown
from holdfast.runtime.clock import clock, install
from holdfast.testing import clock as fake_clock

TOTALS = {
    "total_requests", "successful_requests", "failed_requests", "cancelled_requests",
    "success_rate", "avg_response_time", "window_seconds", "p50_ms", "p99_ms", "start_time",
    "uptime", "tier", "inflight", "waiting", "streams", "retries", "last_used_endpoint_id",
    "total_endpoints", "healthy_endpoints", "failed_endpoints", "workers", "draining", "endpoints",
}  # fmt: skip
ENDPOINT = {
    "id", "base_url", "priority", "weight", "enabled", "state", "is_healthy", "inflight",
    "connections", "keepalive_learned_s", "ewma_ms", "cooling_until", "breaker", "keys",
    "health_status",
}  # fmt: skip
HEALTH = {
    "status", "last_check", "consecutive_failures", "total_requests", "failed_requests",
    "success_rate", "avg_response_time", "last_error",
}  # fmt: skip
KEYS = 'keys = ["env:GATEWAY_KEY_A", "env:GATEWAY_KEY_B"]'
SECRET = "sk-canary-000111222333"


@pytest.fixture
def keys(monkeypatch):
    monkeypatch.setenv("GATEWAY_KEY_A", SECRET + "A")
    monkeypatch.setenv("GATEWAY_KEY_B", SECRET + "B")


def check_shape(found):
    assert set(found) >= TOTALS
    for one in found["endpoints"]:
        assert set(one) == ENDPOINT
        assert set(one["connections"]) == {"open", "idle", "reused"}
        assert set(one["breaker"]) == {"state", "generation", "reopens_at"}
        assert set(one["health_status"]) == HEALTH
        assert all(set(key) == {"id", "state", "cooling_until"} for key in one["keys"])


@runs
async def test_before_any_request_all_fields_are_there_and_rates_are_null(keys):
    async with gateway(always(answer()), always(answer()), each=KEYS) as (gw, _):
        found = await stats_of(gw.port)
        check_shape(found)
        for name in ("total_requests", "successful_requests", "failed_requests", "inflight"):
            assert found[name] == 0
        for name in ("success_rate", "avg_response_time", "p50_ms", "p99_ms"):
            assert found[name] is None
        assert found["last_used_endpoint_id"] is None
        assert (found["window_seconds"], found["workers"], found["draining"]) == (300, 1, False)
        assert (found["total_endpoints"], found["healthy_endpoints"]) == (2, 2)
        assert found["failed_endpoints"] == []
        datetime.fromisoformat(found["start_time"])
        first = found["endpoints"][0]
        assert [key["id"] for key in first["keys"]] == [0, 1]
        assert first["health_status"]["success_rate"] is None
        assert first["health_status"]["last_error"] is None
        assert SECRET not in json.dumps(found)


@runs
async def test_under_traffic_the_numbers_follow(keys):
    scripts = (always(answer()), in_turn(answer(503), answer(), answer(404)))
    async with gateway(*scripts, settings='balance = "round_robin"', each=KEYS) as (gw, _):
        for _ in range(6):
            await ask(gw.port)
        found = await stats_of(gw.port)
        check_shape(found)
        assert (found["total_requests"], found["successful_requests"]) == (6, 6)
        assert (found["success_rate"], found["retries"]) == (100, 1)
        assert 0 < found["p50_ms"] <= found["p99_ms"]
        assert found["avg_response_time"] > 0
        assert found["last_used_endpoint_id"] in {"a", "b"}
        status = found["endpoints"][1]["health_status"]
        assert status["failed_requests"] == 1
        assert status["success_rate"] < 100
        error = status["last_error"]
        assert (error["verdict"], error["status"], error["sent"]) == ("http 503", 503, "yes")
        assert found["endpoints"][0]["connections"]["open"] == 1
        assert found["endpoints"][0]["ewma_ms"] > 0
        assert SECRET not in json.dumps(found)


@runs
async def test_a_request_under_way_is_in_flight_in_total_and_at_its_endpoint():
    go = asyncio.Event()

    async def script(upstream, no, writer):
        await go.wait()
        writer.write(answer())

    async with gateway(script) as (gw, (up,)):
        asking = asyncio.create_task(ask(gw.port))
        await up.asked_first.wait()
        found = await stats_of(gw.port)
        assert (found["inflight"], found["endpoints"][0]["inflight"]) == (1, 1)
        assert (found["total_requests"], found["successful_requests"]) == (1, 0)
        go.set()
        await asking


@runs
async def test_a_throttled_endpoint_cools_and_has_not_failed():
    throttled = answer(429, b"{}", "Retry-After: 7")
    async with gateway(always(throttled), always(answer())) as (gw, _):
        for _ in range(3):
            await ask(gw.port)
        found = await stats_of(gw.port)
        one = found["endpoints"][0]
        if one["health_status"]["total_requests"] == 0:
            pytest.fail("the throttled endpoint was never asked")
        assert (one["state"], one["is_healthy"]) == ("cooling", True)
        assert one["health_status"]["failed_requests"] == 0
        assert datetime.fromisoformat(one["cooling_until"]) > datetime.fromisoformat(
            found["start_time"]
        )


async def resets(upstream, no, writer):
    reset(writer)
    return False


@runs
async def test_an_open_circuit_is_a_failed_endpoint_and_says_when_it_reopens():
    async with gateway(resets, settings="attempts = 1") as (gw, _):
        for _ in range(6):
            await ask(gw.port)
        found = await stats_of(gw.port)
        one = found["endpoints"][0]
        assert one["breaker"]["state"] == "open"
        assert one["breaker"]["generation"] >= 1
        assert one["breaker"]["reopens_at"] is not None
        assert (one["state"], one["is_healthy"]) == ("circuit_open", False)
        assert one["health_status"]["consecutive_failures"] >= 5
        assert (found["failed_endpoints"], found["healthy_endpoints"]) == (["a"], 0)
        assert (found["tier"], found["success_rate"]) == ("circuit_open", 0)


def frozen(gw):
    """Return all that decides about the next request, as it is now."""
    found = []
    for one in gw.cluster.balancer.endpoints:
        health = one.health
        found.append(
            pickle.dumps(
                {
                    "breaker": (health.breaker.state, health.breaker.gen, health.breaker.until),
                    "health": {
                        name: copy.deepcopy(value)
                        for name, value in vars(health).items()
                        if isinstance(value, int | float | bool | str)
                    },
                    "mean": health.mean.value,
                    "keys": [(key.cooldown.until, key.used_at) for key in health.keys],
                }
            )
        )
    return found, gw.cluster.budget, gw.cluster.ledger.requests, gw.cluster.ledger.in_flight


@pytest.mark.parametrize("page", ["/__holdfast__/stats", "/__qcc__/stats", "/__holdfast__/metrics"])
@runs
async def test_reading_changes_no_state_and_counts_nothing(page):
    async with gateway(resets, always(answer())) as (gw, ups):
        for _ in range(8):
            await ask(gw.port)
        before, asked = frozen(gw), [len(up.asked) for up in ups]
        for _ in range(20):
            assert (await get(gw.port, page))[0] == 200
        assert frozen(gw) == before
        assert [len(up.asked) for up in ups] == asked


def test_reading_does_not_let_an_open_circuit_try():
    """Its open time is over: only a request may find out."""
    with fake_clock(auto=False) as fake:
        health = Health(Breaker(consecutive=1, open_for=5))
        endpoint = Endpoint("a", health)
        permit = health.begin(fake.monotonic(), 1, 0.5)
        health.settle(permit, Result.FAILED, fake.monotonic(), 0.5, seconds=0.1)
        assert state_of(endpoint, fake.monotonic()) == "circuit_open"
        fake.advance(60)
        for _ in range(3):
            assert state_of(endpoint, fake.monotonic()) == "unhealthy"
        assert (health.breaker.state.value, health.breaker.gen) == ("open", 1)


class Later:
    """The machine's clock, some seconds on."""

    def __init__(self, clock, seconds):
        self._clock, self.seconds = clock, seconds

    def __getattr__(self, name):
        return getattr(self._clock, name)

    def monotonic(self):
        return self._clock.monotonic() + self.seconds

    def wall(self):
        return self._clock.wall() + self.seconds


@runs
async def test_without_a_request_lately_rates_are_those_of_all_times():
    async with gateway(in_turn(answer(), answer(500)), settings="attempts = 1") as (gw, _):
        for _ in range(2):
            await ask(gw.port)
        now = shown([snapshot(gw.cluster)])
        with install(Later(clock.installed, 3600)):
            later = shown([snapshot(gw.cluster)])
        assert now["success_rate"] == later["success_rate"] == 50
        assert (now["p99_ms"], now["avg_response_time"]) == (
            later["p99_ms"],
            later["avg_response_time"],
        )
        assert gw.cluster.ledger.recent.window(clock.monotonic() + 3600).timed == 0


@runs
async def test_snapshots_of_workers_are_summed_and_percentiles_are_of_all():
    async with (
        gateway(always(answer())) as (quick, _),
        gateway(in_turn(answer(503), answer())) as (troubled, _),
    ):
        for _ in range(4):
            await ask(quick.port)
        for _ in range(2):
            await ask(troubled.port)
        parts = [json.loads(json.dumps(snapshot(one.cluster))) for one in (quick, troubled)]
        parts[1]["pid"] += 1
        found = shown(parts)
        check_shape(found)
        assert (found["workers"], found["total_requests"], found["retries"]) == (2, 6, 1)
        assert [one["total_requests"] for one in found["per_worker"]] == [4, 2]
        endpoint = found["endpoints"][0]
        assert endpoint["health_status"]["total_requests"] == 7
        assert endpoint["health_status"]["failed_requests"] == 1
        assert endpoint["health_status"]["success_rate"] == pytest.approx(600 / 7, abs=0.01)
        assert endpoint["connections"]["open"] == 2
        both = [shown([part])["p99_ms"] for part in parts]
        assert min(both) <= found["p99_ms"] <= max(both)


@runs
async def test_where_workers_disagree_the_worse_is_shown():
    async with (
        gateway(always(answer())) as (well, _),
        gateway(resets, settings="attempts = 1") as (ill, _),
    ):
        await ask(well.port)
        for _ in range(6):
            await ask(ill.port)
        found = shown([snapshot(well.cluster), snapshot(ill.cluster, draining=True)])
        one = found["endpoints"][0]
        assert (one["state"], one["is_healthy"], one["breaker"]["state"]) == (
            "circuit_open",
            False,
            "open",
        )
        assert (found["tier"], found["draining"]) == ("circuit_open", True)


def total(text, name):
    lines = [line for line in text.splitlines() if line.startswith(f"holdfast_gateway_{name}{{")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


@runs
async def test_no_counter_goes_back_while_workers_reload_one_after_the_other():
    async with (
        gateway(always(answer()), always(answer())) as (one, _),
        gateway(always(answer()), always(answer())) as (two, _),
    ):
        for _ in range(6):
            await ask(one.port)
            await ask(two.port)
        seen = []

        def look():
            for parts in ((one, two), (two, one)):
                found = [snapshot(gw.cluster) for gw in parts]
                seen.append(total(metrics.text(found), "requests_total"))
                assert shown(found)["total_requests"] == 12

        look()
        for gw in (one, two):
            gw.use(dataclasses.replace(gw.config, endpoint=gw.config.endpoint[:1]))
            look()
        assert set(seen) == {12}
        text = metrics.text([snapshot(one.cluster), snapshot(two.cluster)])
        assert 'requests_total{endpoint="b",outcome="ok"}' in text
        assert 'endpoint_state{endpoint="b"' not in text


@runs
async def test_requests_that_no_endpoint_saw_are_in_the_numbers():
    async with gateway(always(answer()), each="enabled = false") as (gw, _):
        assert (await ask(gw.port))[0] == 503
        found = await stats_of(gw.port)
        assert (found["total_requests"], found["failed_requests"]) == (1, 1)
        assert (found["success_rate"], found["avg_response_time"]) == (0, None)
        assert found["refused"] == {"HF-3109": 1}
        assert (await get(gw.port, "/__holdfast__/metrics"))[0] == 200


@runs
async def test_a_reload_resets_no_count_and_the_window_goes_on():
    async with gateway(always(answer())) as (gw, _):
        for _ in range(3):
            await ask(gw.port)
        before = await stats_of(gw.port)
        gw.use(dataclasses.replace(gw.config, retry_budget=0.5))
        after = await stats_of(gw.port)
        for name in ("total_requests", "success_rate", "p99_ms", "start_time"):
            assert after[name] == before[name]
        await ask(gw.port)
        assert (await stats_of(gw.port))["total_requests"] == 4


@runs
async def test_snapshots_of_other_workers_are_in_what_a_page_shows():
    async with gateway(always(answer())) as (gw, _), gateway(always(answer())) as (other, _):
        await ask(other.port)
        gw.cluster.ledger.others = lambda: [{**snapshot(other.cluster), "pid": 1}]
        found = await stats_of(gw.port)
        assert (found["workers"], found["total_requests"]) == (2, 1)


@runs
async def test_a_client_that_leaves_is_neither_success_nor_failure():
    async def never(upstream, no, writer):
        await asyncio.sleep(20)
        return False

    async with gateway(never) as (gw, (up,)):
        _, writer = await asyncio.open_connection("127.0.0.1", gw.port)
        writer.write(b"POST /v1/messages HTTP/1.1\r\nHost: gw\r\nContent-Length: 2\r\n\r\n{}")
        await up.asked_first.wait()
        writer.transport.abort()
        await until(lambda: gw.cluster.ledger.cancelled)
        found = await stats_of(gw.port)
        assert (found["cancelled_requests"], found["failed_requests"]) == (1, 0)
        assert found["success_rate"] is None
        assert found["endpoints"][0]["health_status"]["failed_requests"] == 0
        assert found["endpoints"][0]["is_healthy"]


@runs
async def test_the_page_of_the_documents_names_every_field_metric_outcome_and_state():
    page = Path(__file__).parents[2] / "docs" / "gateway-stats.md"
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    named = set(re.findall(r"`([^`]+)`", text))
    async with gateway(always(answer())) as (gw, _):
        await ask(gw.port)
        found = await stats_of(gw.port)
    endpoint = found["endpoints"][0]
    wanted = {*found, *endpoint, *endpoint["connections"], *endpoint["breaker"]}
    wanted |= {*endpoint["health_status"], *metrics.COUNTERS, *metrics.GAUGES, *metrics.HISTOGRAMS}
    assert wanted | set(OUTCOMES) <= named, sorted((wanted | set(OUTCOMES)) - named)
