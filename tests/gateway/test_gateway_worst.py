"""The worst case that is printed beforehand, and that a gateway does not do worse."""

from __future__ import annotations

import asyncio
import tomllib
from dataclasses import replace

import pytest
from gateway_rig import always, answer, ask, gateway

from holdfast.gateway.config import read_gateways
from holdfast.gateway.worst import plan_of
from holdfast.testing.simulation import sim_run

OK = answer()
SOON = answer(429, b"{}", "Content-Type: application/json", "Retry-After-Ms: 1")


def configured(settings="", endpoints=3, each=""):
    one = f'[[gateway.g.endpoint]]\nurl = "http://127.0.0.1:9"\n{each}\n'
    result = read_gateways(tomllib.loads(f"[gateway.g]\n{settings}\n{one * endpoints}"))
    assert not result.problems
    return result.value["g"]


def planned(settings="", endpoints=3, each=""):
    return plan_of(configured(settings, endpoints, each))


def simulated(main):
    async def run(_):
        await main()
        await asyncio.sleep(1)

    sim_run(run)


def test_three_endpoints_have_four_attempts_and_one_pause():
    plan = planned()
    assert (plan.endpoints, plan.attempts_max, plan.requests_max) == (3, 4, 5)
    assert [delay.nominal for delay in plan.delays] == [0, 0, 0.05]
    assert plan.wait_total == 0.05
    assert plan.seconds_max == 600
    assert (plan.wait_max, plan.queue) == (30, 1000)
    assert (plan.retry_reserve, plan.retry_budget, plan.dead_backend_factor) == (100, 0.1, 1.2)


def test_an_endpoint_that_is_off_is_none_and_the_pause_comes_sooner():
    config = configured(endpoints=2)
    off = replace(config.endpoint[1], enabled=False)
    plan = plan_of(replace(config, endpoint=[config.endpoint[0], off]))
    assert plan.endpoints == 1
    assert [delay.nominal for delay in plan.delays] == [0.05, 0.1, 0.2]
    none = plan_of(replace(config, endpoint=[off]))
    assert none.endpoints == 0
    assert "no endpoint is enabled" in none.warnings[0]


def test_waiting_is_bounded_by_the_whole_time():
    assert planned("total_timeout = 5").wait_max == 5
    assert planned("max_wait = 0").wait_max == 0


@pytest.mark.parametrize(
    ("settings", "each", "seconds", "stream"),
    [
        ("", "", 600, 33),
        ("first_byte_timeout = 10", "", 13, 13),
        ("first_byte_timeout = 10\nconnect_timeout = 1", "", 11, 11),
        ("first_byte_timeout = 10", "first_byte_timeout = 20", 23, 23),
        ("first_content_timeout = 7", "connect_timeout = 2", 600, 9),
        ("total_timeout = 4", "", 4, 4),
    ],
)
def test_silence_costs_the_time_to_connect_and_to_the_first_byte(settings, each, seconds, stream):
    plan = planned(settings, each=each)
    assert (plan.silent_max, plan.silent_stream_max) == (seconds, stream)


def test_a_silent_endpoint_that_costs_all_of_the_time_is_warned_of():
    (text,) = planned().warnings
    assert "until 100 answers are known" in text
    assert "first_byte_timeout" in text
    assert planned("first_byte_timeout = 30").warnings == ()
    (text,) = planned("first_byte_timeout = 30\ntotal_timeout = 20").warnings
    assert "100" not in text


def test_a_stream_ends_after_its_limit_or_never():
    assert planned().stream_max is None
    assert planned().as_dict()["stream_max"] == "unbounded"
    assert planned("stream_timeout = 900").stream_max == 900
    assert planned(each="idle_timeout = 300").idle_timeout == 300
    assert planned(each="idle_timeout = 3").idle_timeout == 3


def test_refusals_are_bounded_by_every_key_and_none_besides_under_a_number():
    one, two_keys = planned(endpoints=1), planned(endpoints=1, each='keys = ["env:A", "env:B"]')
    assert planned(endpoints=3).throttled_max == 3 * one.throttled_max
    assert two_keys.throttled_max == 2 * one.throttled_max
    assert planned("attempts = 4").throttled_max == 0
    assert planned("total_timeout = 0.001", endpoints=1).throttled_max == 1
    least = planned("max_wait = 0", endpoints=1).throttled_max
    assert least < one.throttled_max < planned("max_wait = 60", endpoints=1).throttled_max


@pytest.mark.parametrize("count", [1, 2, 3])
def test_where_every_endpoint_fails_it_is_asked_as_often_as_planned(count):
    async def main():
        scripts = [always(answer(500, b"{}"))] * count
        async with gateway(*scripts) as (gw, ups):
            plan = plan_of(gw.config)
            status, _, _ = await ask(gw.port)
            assert status == 500
            assert sum(len(up.asked) for up in ups) == plan.attempts_max < plan.requests_max

    simulated(main)


def test_a_kept_connection_that_was_dead_brings_one_request_more_and_no_other():
    async def once(upstream, no, writer):
        if no == 1:
            writer.write(OK)
            return True
        writer.transport.abort()
        return False

    async def main():
        async with gateway(once) as (gw, (up,)):
            plan = plan_of(gw.config)
            assert (await ask(gw.port))[0] == 200
            assert (await ask(gw.port))[0] == 502
            assert len(up.asked) - 1 == plan.requests_max

    simulated(main)


def refuses(seconds):
    async def script(upstream, no, writer):
        await asyncio.sleep(seconds)
        writer.write(SOON)

    return script


@pytest.mark.parametrize("seconds", [0, 0.3, 1.1, 9])
@pytest.mark.parametrize(("count", "keys"), [(1, 1), (2, 1), (3, 1), (1, 2), (2, 2)])
def test_where_every_key_refuses_it_is_asked_no_more_than_planned(
    count, keys, seconds, monkeypatch
):
    monkeypatch.setenv("HF_TEST_A", "sk-a")
    monkeypatch.setenv("HF_TEST_B", "sk-b")
    each = 'keys = ["env:HF_TEST_A", "env:HF_TEST_B"]' if keys == 2 else ""

    async def main():
        scripts, settings = [refuses(seconds)] * count, "max_wait = 5\ntotal_timeout = 60"
        async with gateway(*scripts, settings=settings, each=each) as (gw, ups):
            plan = plan_of(gw.config)
            status, _, _ = await ask(gw.port)
            assert status == 429
            asked = sum(len(up.asked) for up in ups)
            assert asked <= plan.throttled_max
            if seconds == 0:
                assert asked >= 7 * count * keys  # in line, 5 s
                assert asked >= 0.4 * plan.throttled_max

    simulated(main)


def test_under_a_number_of_attempts_refusals_are_among_them():
    async def main():
        async with gateway(always(SOON), always(SOON), settings="attempts = 3") as (gw, ups):
            assert (await ask(gw.port))[0] == 429
            assert sum(len(up.asked) for up in ups) == plan_of(gw.config).attempts_max == 3

    simulated(main)


def test_what_is_printed_is_data_for_json():
    found = planned("stream_timeout = 60\nworkers = 'auto'").as_dict()
    assert found["attempts_max"] == 4
    assert found["workers"] == "auto"
    assert set(found) == set(type(planned()).__dataclass_fields__)
