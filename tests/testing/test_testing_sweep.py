"""Cancelled at every step, a policy leaves no permit, task, timer or socket."""

import asyncio
from contextlib import suppress

import pytest

import holdfast as hf
from holdfast.testing import cancel_sweep
from holdfast.testing.simulation import SimFailure


def strategies():
    return (
        hf.Deadline(60),
        hf.Bulkhead(1, queue=4),
        hf.RateLimit(2),
        hf.Retry(4, backoff=hf.Constant(0.5), budget=hf.Budget.concurrent()),
        hf.Breaker(consecutive=5, open_for=5),
        hf.Timeout(2),
    )


def nothing_is_out(sim):
    state = sim.policy.state()
    assert (state["active"], state["queued"], state["probes"]) == (0, 0, 0)
    assert state["budget"] == 3  # the floor: no call and no retry is in flight


def flaky():
    """Return a function that is slow, breaks, hangs, then works."""
    script = iter(("reset", "hang", "reset", "ok"))

    async def call():
        what = next(script)
        await asyncio.sleep(100 if what == "hang" else 0.1)
        if what == "reset":
            raise ConnectionResetError
        return what

    return call


def forms():
    async def acall(sim):
        return await sim.policy.acall(flaky())

    async def outcome(sim):
        return (await sim.policy.aoutcome(flaky())).value

    async def block(sim):
        call, value = flaky(), None
        async for attempt in sim.policy.attempts():
            with attempt:
                value = await call()
        return value

    async def stream(sim):
        async def items(first=0):
            for item in range(first, 6):
                await asyncio.sleep(0.1)
                yield item
                if item in (1, 3):
                    raise ConnectionResetError

        source = sim.policy.astream(items, resume=lambda last: items(last + 1))
        assert [item async for item in source] == list(range(6))
        return "ok"

    async def nested(sim):
        inner = hf.policy(hf.Deadline(30), hf.Retry(2), hf.Bulkhead(3))
        try:
            return await sim.policy.acall(inner.acall, flaky())
        finally:
            assert inner.state()["active"] == 0

    return {form.__name__: form for form in (acall, outcome, block, stream, nested)}


@pytest.mark.parametrize("form", forms())
def test_every_form_of_a_call(form):
    run = forms()[form]

    async def around(sim, start):
        sim.policy = hf.policy(*strategies())
        start()

    async def main(sim):
        assert await run(sim) == "ok"

    assert cancel_sweep(main, nothing_is_out, around=around) >= 8


def test_a_waiter_in_the_queue_of_a_bulkhead():
    async def others(sim, start):
        sim.policy = hf.policy(*strategies())
        sim.served = 0

        async def one():
            await sim.policy.acall(asyncio.sleep, 0.7)
            sim.served += 1

        first = [asyncio.create_task(one()) for _ in range(2)]
        await asyncio.sleep(0.1)
        start()
        await asyncio.sleep(0)
        last = asyncio.create_task(one())
        await asyncio.gather(*first, last)
        assert sim.served == 3

    async def victim(sim):
        await sim.policy.acall(asyncio.sleep, 0.7)

    assert cancel_sweep(victim, nothing_is_out, around=others) >= 8


def test_a_probe_of_a_half_open_breaker():
    async def break_it(sim, start):
        sim.policy = hf.policy(hf.Retry(1, budget=hf.Budget.concurrent()), *strategies()[4:])
        for _ in range(5):
            with suppress(ConnectionResetError):
                await sim.policy.acall(fail)
        assert sim.policy.state()["circuit"] == "open"
        await asyncio.sleep(7)
        start()

    async def fail():
        raise ConnectionResetError

    async def probe(sim):
        for _ in range(3):
            await sim.policy.acall(asyncio.sleep, 0.5)
        assert sim.policy.state()["circuit"] == "closed"

    def probe_is_back(sim):
        nothing_is_out(sim)
        assert sim.policy.state()["circuit"] in ("open", "half-open", "closed")

    assert cancel_sweep(probe, probe_is_back, around=break_it) >= 6


def test_connections_inside_a_policy():
    async def server(sim, start):
        sim.network.host("echo.test", "10.0.0.1")
        sim.policy = hf.policy(*strategies())

        async def echo(reader, writer):
            with suppress(OSError, EOFError):
                writer.write(await reader.readexactly(5))
            writer.close()

        listening = await asyncio.start_server(echo, "echo.test", 7)
        with suppress(asyncio.CancelledError):
            await start()
        await asyncio.sleep(1)
        assert sim.network.left_by_clients() == []
        listening.close()
        sim.network.close_servers_ends()
        await listening.wait_closed()

    async def exchange():
        reader, writer = await asyncio.open_connection("echo.test", 7)
        try:
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
        finally:
            writer.close()

    async def main(sim):
        await sim.policy.acall(exchange)

    assert cancel_sweep(main, nothing_is_out, around=server) >= 8


# -- the sweep itself ------------------------------------------------


def test_a_leak_on_cancellation_names_its_step():
    async def main(sim):
        await asyncio.sleep(1)
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            sim.left = asyncio.create_task(asyncio.Event().wait())
            raise

    with pytest.raises(SimFailure, match="task left") as caught:
        cancel_sweep(main)
    assert caught.value.__notes__ == ["cancelled at loop step 4"]


def test_a_swallowed_cancellation_is_found():
    async def main(sim):
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(1)

    with pytest.raises(SimFailure, match="cancellation swallowed"):
        cancel_sweep(main)


def test_around_must_start_the_task():
    async def forgets(sim, start):
        pass

    async def main(sim):
        pass

    with pytest.raises(RuntimeError, match="must call"):
        cancel_sweep(main, around=forgets)
