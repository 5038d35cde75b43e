"""Public test tools: a fake clock, a simulator, fake providers, a pytest plugin.

    with hf.testing.clock() as clock: ...              # time moves when everything waits
    result = hf.testing.sim_run(main, seed=7)          # a whole system in one simulated process
    with hf.testing.provider(keys=["k"]) as llm: ...   # an API of language models, on a socket

Nothing here is imported before it is used: the pytest plugin is loaded in every test run of
every project that has Holdfast installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.testing.aiohttp_sim import simulated_aiohttp
    from holdfast.testing.fakeclock import ClockStuck, FakeClock, RealSleep
    from holdfast.testing.faults import Decision, Faults, Swarm
    from holdfast.testing.files import PowerCut, SimFiles
    from holdfast.testing.loop import SimDeadlock, SimLoop, SimTimeout
    from holdfast.testing.network import SimNetwork
    from holdfast.testing.providers.api import Asked
    from holdfast.testing.providers.content import reply
    from holdfast.testing.providers.faults import ApiError, ErrorEvent
    from holdfast.testing.providers.server import Provider, provider
    from holdfast.testing.simulation import Scenario, Sim, SimFailure, SimResult, sim_run
    from holdfast.testing.sweep import cancel_sweep
    from holdfast.testing.virtual import VirtualClock

__all__ = [
    "ApiError",
    "Asked",
    "ClockStuck",
    "Decision",
    "ErrorEvent",
    "FakeClock",
    "Faults",
    "PowerCut",
    "Provider",
    "RealSleep",
    "Scenario",
    "Sim",
    "SimDeadlock",
    "SimFailure",
    "SimFiles",
    "SimLoop",
    "SimNetwork",
    "SimResult",
    "SimTimeout",
    "Swarm",
    "VirtualClock",
    "cancel_sweep",
    "clock",
    "provider",
    "reply",
    "sim_run",
    "simulated_aiohttp",
]

_HOMES = {
    "ApiError": "providers.faults",
    "Asked": "providers.api",
    "ClockStuck": "fakeclock",
    "Decision": "faults",
    "ErrorEvent": "providers.faults",
    "FakeClock": "fakeclock",
    "Faults": "faults",
    "PowerCut": "files",
    "Provider": "providers.server",
    "RealSleep": "fakeclock",
    "Scenario": "simulation",
    "Sim": "simulation",
    "SimDeadlock": "loop",
    "SimFailure": "simulation",
    "SimFiles": "files",
    "SimLoop": "loop",
    "SimNetwork": "network",
    "SimResult": "simulation",
    "SimTimeout": "loop",
    "Swarm": "faults",
    "VirtualClock": "virtual",
    "cancel_sweep": "sweep",
    "provider": "providers.server",
    "reply": "providers.content",
    "sim_run": "simulation",
    "simulated_aiohttp": "aiohttp_sim",
}


def clock(*, auto: bool = True, grace: float = 0.05) -> FakeClock:
    """Return a fake clock to use in a `with` block; see `FakeClock`.

    auto: time jumps to the next wake-up when everything waits; else only `advance` moves it.
    grace: real seconds without any activity after which threads and sockets that the clock
    cannot see into count as waiting.
    """
    from holdfast.testing.fakeclock import FakeClock  # noqa: PLC0415 - imports asyncio

    return FakeClock(auto=auto, grace=grace)


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value
