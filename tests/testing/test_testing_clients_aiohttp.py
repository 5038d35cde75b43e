"""The scenario of aiohttp with the middleware: no violation, and mistakes are caught."""

from __future__ import annotations

import collections

import pytest

from holdfast.clients import _aiohttp, _aiohttp_body
from holdfast.clients.exchange import Exchange
from holdfast.testing.scenarios import clients_aiohttp
from holdfast.testing.simulation import run_scenario
from seeds import assert_repeats, first_found, run_seeds

SCENARIO = clients_aiohttp.SCENARIO


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_no_violation_whatever_the_network_does(first):
    run_seeds(SCENARIO, first, 20)


@pytest.mark.long
@pytest.mark.parametrize("first", range(1000, 3000, 100))
def test_two_thousand_seeds(first):
    run_seeds(SCENARIO, first, 100)


def test_the_same_seed_gives_the_same_trace():
    assert_repeats(SCENARIO, 7)


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


def test_sending_what_may_have_been_executed_again_is_caught(monkeypatch):
    monkeypatch.setattr(Exchange, "may_resend", lambda _, error, this, expires: not this.fresh)
    assert "executed twice" in first_found(SCENARIO, 60)


def test_sending_the_rest_of_a_body_is_caught(monkeypatch):
    monkeypatch.setattr(_aiohttp_body.Content, "replayable", True)
    monkeypatch.setattr(_aiohttp_body.AsyncOnce, "_begin", lambda _: [])
    assert first_found(SCENARIO, 60) & {"short request", "wrong request"}


def test_permits_that_stay_with_a_closed_answer_are_caught(monkeypatch):
    monkeypatch.setattr(_aiohttp, "_released", lambda *_: None)
    assert first_found(SCENARIO, 60)
