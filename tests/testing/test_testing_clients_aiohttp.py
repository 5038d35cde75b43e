"""The scenario of aiohttp with the middleware: no violation, and mistakes are caught."""

from __future__ import annotations

import collections

import pytest

from holdfast.clients import _aiohttp, _aiohttp_body
from holdfast.clients.exchange import Exchange
from holdfast.testing.scenarios import clients_aiohttp
from holdfast.testing.simulation import run_scenario

SCENARIO = clients_aiohttp.SCENARIO


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_no_violation_whatever_the_network_does(first):
    for seed in range(first, first + 20):
        assert run_scenario(SCENARIO, seed).violations == [], f"seed {seed}"


@pytest.mark.long
@pytest.mark.parametrize("first", range(1000, 3000, 100))
def test_two_thousand_seeds(first):
    for seed in range(first, first + 100):
        assert run_scenario(SCENARIO, seed).violations == [], f"seed {seed}"


def test_the_same_seed_gives_the_same_trace():
    assert run_scenario(SCENARIO, 7).trace == run_scenario(SCENARIO, 7).trace


def test_every_kind_of_trouble_and_outcome_comes_up():
    kinds, outcomes = set(), collections.Counter()
    for seed in range(30):
        result = run_scenario(SCENARIO, seed)
        kinds |= {fault.kind for fault in result.decisions}
        outcomes.update(result.value)
    assert set(clients_aiohttp.TROUBLES) | set(clients_aiohttp.STREAM_KINDS) <= kinds
    assert {"ok", "cancelled", "429", "500", "503", "CircuitOpen", "DeadlineExceeded"} <= {
        *outcomes
    }
    assert {"ClientPayloadError", "ClientOSError", "ServerDisconnectedError"} <= {*outcomes}


def found(seeds=60):
    kinds = set()
    for seed in range(seeds):
        kinds |= {text.partition(":")[0] for text in run_scenario(SCENARIO, seed).violations}
        if kinds:
            break
    return kinds


def test_sending_what_may_have_been_executed_again_is_caught(monkeypatch):
    monkeypatch.setattr(Exchange, "may_resend", lambda _, error, this, expires: not this.fresh)
    assert "executed twice" in found()


def test_sending_the_rest_of_a_body_is_caught(monkeypatch):
    monkeypatch.setattr(_aiohttp_body.Content, "replayable", True)
    monkeypatch.setattr(_aiohttp_body.AsyncOnce, "_begin", lambda _: [])
    assert found() & {"short request", "wrong request"}


def test_permits_that_stay_with_a_closed_answer_are_caught(monkeypatch):
    monkeypatch.setattr(_aiohttp, "_released", lambda *_: None)
    assert found()
