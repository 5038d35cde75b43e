"""Unmodified aiohttp, client and server, in a simulated loop."""

import asyncio

import aiohttp
import pytest
from aiohttp import web

import holdfast as hf
from holdfast.testing import sim_run
from holdfast.testing.aiohttp_sim import simulated_aiohttp

RATES = {
    "dns": {"dns_fail": 0.1},
    "connect": {"refuse": 0.15, "slow_connect": 0.1},
    "stream": {"rst": 0.15, "fin": 0.1, "hole": 0.1, "idle_close": 0.1, "trickle": 0.1},
}
BODY = bytes(range(256)) * 40


async def serving(sim):
    async def answer(request):
        await asyncio.sleep(0.01)
        return web.Response(body=BODY, headers={"X-Number": request.match_info["number"]})

    app = web.Application()
    app.router.add_get("/{number}", answer)
    runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=5)
    await runner.setup()
    sim.network.host("api.test", "10.0.0.1")
    await web.TCPSite(runner, "api.test", 80).start()
    return runner


async def ask(session, number):
    async with session.get(f"http://api.test/{number}") as response:
        return response.headers["X-Number"], await response.read()


def test_requests_reuse_their_connection_and_take_no_real_time():
    async def main(sim):
        runner = await serving(sim)
        async with aiohttp.ClientSession() as session:
            for number in range(20):
                assert await ask(session, number) == (str(number), BODY)
                await asyncio.sleep(5)
            reused = sim.network.connections
            await asyncio.sleep(100)  # longer than either side keeps a connection
            await ask(session, 0)
        await runner.cleanup()
        return reused, sim.network.connections

    with simulated_aiohttp():
        assert sim_run(main).value == (1, 2)


@pytest.mark.parametrize("seed", range(10))
def test_a_policy_gets_every_answer_through_a_bad_network(seed):
    async def main(sim):
        sim.break_things(RATES, until=120)
        runner = await serving(sim)
        policy = hf.policy(
            hf.Deadline(300),
            hf.Retry(20, budget=None, on=hf.TRANSIENT, backoff=hf.Constant(0.5)),
            hf.Timeout(5),
        )
        async with aiohttp.ClientSession() as session:
            for number in range(40):
                sim.calls += 1
                got = await policy.acall(ask, session, number)
                assert got == (str(number), BODY)
                await asyncio.sleep(2)
        await runner.cleanup()

    with simulated_aiohttp():
        first = sim_run(main, seed)
        assert first.calls == 40
        assert sim_run(main, seed).trace == first.trace


def test_outside_a_simulation_aiohttp_is_itself():
    async def main():
        async def answer(request):
            return web.Response(text="real")

        app = web.Application()
        app.router.add_get("/", answer)
        runner = web.AppRunner(app, handle_signals=False)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}/"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            text = await response.text()
        await runner.cleanup()
        return text

    with simulated_aiohttp():
        assert asyncio.run(main()) == "real"
