"""A gateway before three flaky endpoints, and clients that ask it in all ways.

The gateway is the real one; endpoints and clients are scripted and speak plain HTTP/1.1 in the
shapes of the two large APIs. Configuration, faults and load are drawn. Each request must end in
one way and in time: with one endpoint's answer, byte for byte, with an error of the gateway's
own, or with a cut that is told. What must not run twice does not, and nothing is left.
Needs httptools.
"""

from __future__ import annotations

import asyncio

from holdfast.testing.gateway_clients import Caller
from holdfast.testing.gateway_world import World
from holdfast.testing.simulation import Scenario, Sim

CALM_SECONDS = 130.0
"""After the storm: circuits reopen, names are looked up again, keys have cooled down."""
KEYS_SECONDS = 630.0
"""After so long, keys that were refused are tried again, too."""


async def main(sim: Sim) -> dict[str, int]:
    """Run one seed; return how many requests ended how."""
    world = World(sim)
    await world.start()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(world.operate())
            group.create_task(world.watch())
            for number in range(world.callers):
                caller = Caller(world, str(number))
                group.create_task(caller.run(world.calls, world.storm))
        world.check_neutral()
        world.check_load()
        world.check_forgotten()
        await recover(world)
        await asyncio.sleep(1)
        world.check_at_rest()
        await end(world)
    finally:
        await world.stop()
    world.check_at_rest()
    return world.ledger.finish()


async def recover(world: World) -> None:
    """Check that after the storm all is well again."""
    left = world.storm - world.sim.clock.monotonic()
    refused = any(fault.kind.startswith("key_") for fault in world.sim.faults.taken)
    calm = KEYS_SECONDS if refused else CALM_SECONDS
    await asyncio.sleep(max(0.0, left) + calm)
    caller = Caller(world, "recovery")
    outcome = ""
    for _ in range(6):
        await asyncio.sleep(1.5)
        (outcome,) = await caller.some(1, None, "messages")
    caller.close()
    world.sim.check(outcome == "200", "no recovery", outcome)


async def end(world: World) -> None:
    """Drain while requests come and go: none of those that are under way is dropped."""
    source = world.sim.random("end")
    if source.draw() < 0.5:
        return
    world.bad = [up.name for up in world.ups]  # slow ones, from now on
    for up in world.ups:
        up.answers.spread = 300 * source.draw()
    seconds = 0.01 * 3000 ** source.draw()
    async with asyncio.TaskGroup() as group:
        for number in range(4):
            caller = Caller(world, f"end/{number}")
            group.create_task(caller.run(5, 1.0))
        await asyncio.sleep(source.draw())
        await world.drain(seconds)


SCENARIO = Scenario("gateway", "a gateway before three flaky endpoints", main)
