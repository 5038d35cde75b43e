"""The echo scenario: the simulator on trial, over many seeds."""

import pytest

from holdfast.testing.network import KINDS
from holdfast.testing.scenarios import echo
from holdfast.testing.simulation import run_scenario
from seeds import kinds_found, run_seeds


@pytest.mark.parametrize("first", range(0, 120, 20))
def test_no_violation_whatever_the_network_does(first):
    run_seeds(echo.SCENARIO, first, 20)


@pytest.mark.long
@pytest.mark.parametrize("first", range(1000, 4000, 100))
def test_three_thousand_seeds(first):
    run_seeds(echo.SCENARIO, first, 100)


def test_every_kind_of_fault_comes_up():
    kinds = set()
    for seed in range(120):
        kinds |= {fault.kind for fault in run_scenario(echo.SCENARIO, seed).decisions}
    assert kinds == {kind for group in KINDS.values() for kind in group}


def test_a_client_that_trusts_the_network_is_caught(monkeypatch):
    async def no_hash(reader):
        head = await reader.readexactly(20)
        return await reader.readexactly(int.from_bytes(head[:4]))

    monkeypatch.setattr(echo, "_read_frame", no_hash)
    assert "wrong body" in kinds_found(echo.SCENARIO, 60)


def test_a_client_that_forgets_its_connections_is_caught(monkeypatch):
    async def forget(self, *, abort=False):
        self.streams = None

    monkeypatch.setattr(echo._Client, "close", forget)
    assert run_scenario(echo.SCENARIO, 0).violations
