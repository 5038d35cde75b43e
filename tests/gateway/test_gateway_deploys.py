"""Reloads, restarts and ends under load, with real processes: nobody may notice."""

from __future__ import annotations

import asyncio
import functools
import signal

import pytest
from gateway_process import (
    EVENT,
    Streams,
    end_of,
    gate,
    hang_up,
    listen,
    quick,
    serving,
    until,
)
from gateway_rig import ask

__all__ = ["gate"]  # a fixture

STREAMS = 500
WIDE = "max_connections = 600"


def on_loop(test):
    """Run a test on a loop of its own, for 55 s at most; its commands run beside it."""

    @functools.wraps(test)
    def run(**fixtures):
        asyncio.run(asyncio.wait_for(test(**fixtures), 55))

    return run


class Traffic:
    """Clients that ask without a pause: half of them on one connection, half on new ones."""

    def __init__(self, port, clients=4):
        self.statuses, self.failed, self._over = [], [], False
        self._tasks = [asyncio.create_task(self._ask(port, n % 2)) for n in range(clients)]

    async def _ask(self, port, keeps):
        keep = await asyncio.open_connection("127.0.0.1", port) if keeps else None
        while not self._over:
            try:
                status, head, _ = await ask(port, keep=keep)
                self.statuses.append(status)
                if keep and "connection: close" in head.lower():
                    keep[1].close()
                    keep = await asyncio.open_connection("127.0.0.1", port)
            except (OSError, asyncio.IncompleteReadError) as error:
                self.failed.append(error)
                break
        if keep:
            keep[1].close()

    async def end(self):
        self._over = True
        await asyncio.gather(*self._tasks)


@pytest.mark.parametrize("workers", [1, 2])
@on_loop
async def test_a_thousand_hangups_under_traffic_fail_no_request(gate, workers):
    async with serving(quick) as one, serving(quick) as two:
        settings = f"workers = {workers}"
        gate.configure(one, two, settings=settings)
        process, port = await asyncio.to_thread(gate.run)
        traffic = Traffic(port)
        reloads = 0
        # A signal that comes while another one is pending is one with it, so they are counted.
        while reloads < 1000:
            gate.configure(*([one, two], [two], [two, one])[reloads % 3], settings=settings)
            hang_up(process)
            line = await asyncio.to_thread(process.stdout.readline)
            assert "the configuration was changed" in line
            reloads += 1
        await traffic.end()
        assert traffic.failed == []
        assert set(traffic.statuses) == {200}
        assert len(traffic.statuses) > 300


@on_loop
async def test_a_reload_cuts_none_of_500_streams(gate):
    streams = Streams()
    async with serving(streams) as one, serving(quick) as two:
        gate.configure(one, each=WIDE)
        _, port = await asyncio.to_thread(gate.run)
        listening = [asyncio.create_task(listen(port)) for _ in range(STREAMS)]
        await until(lambda: streams.open == STREAMS, 30)
        gate.configure(two)  # their endpoint is even taken out
        assert (await asyncio.to_thread(gate, "reload")).returncode == 0
        assert (await ask(port))[2] == b"fine"
        assert not any(one.done() for one in listening)
        streams.go.set()
        got = await asyncio.gather(*listening)
        assert [one.count(EVENT) for one in got] == [2] * STREAMS
        assert not any(b"error" in one for one in got)


@pytest.mark.parametrize(("workers", "loop"), [(1, "uvloop"), (2, "uvloop"), (1, "asyncio")])
@on_loop
async def test_sigterm_cuts_none_of_500_streams_that_end_in_time(gate, workers, loop):
    streams = Streams()
    if loop == "asyncio":
        gate.hide("uvloop")
    async with serving(streams) as one:
        gate.configure(one, settings=f"workers = {workers}", each=WIDE)
        process, port = await asyncio.to_thread(gate.run)
        listening = [asyncio.create_task(listen(port)) for _ in range(STREAMS)]
        await until(lambda: streams.open == STREAMS, 30)
        process.send_signal(signal.SIGTERM)
        await asyncio.sleep(1.5)
        assert not any(one.done() for one in listening)
        streams.go.set()
        got = await asyncio.gather(*listening)
        assert [one.count(EVENT) for one in got] == [2] * STREAMS
        assert not any(b"error" in one for one in got)
        code, said = await asyncio.to_thread(end_of, process)
        assert code == 0
        assert "every request was answered" in said


@on_loop
async def test_sigterm_under_traffic_fails_no_request_that_was_sent(gate):
    async with serving(quick) as one:
        gate.configure(one)
        process, port = await asyncio.to_thread(gate.run)
        traffic = Traffic(port, 8)
        await asyncio.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert (await asyncio.to_thread(end_of, process))[0] == 0
        await traffic.end()
        # The only thing that may happen to a client is that it cannot connect any more.
        assert set(traffic.statuses) == {200}
        assert len(traffic.failed) == 8
        assert {type(one) for one in traffic.failed} == {ConnectionRefusedError}
