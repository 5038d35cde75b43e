"""The simulated gateway: no invariant breaks, seeds repeat, and what they found stays mended."""

from __future__ import annotations

import asyncio
import collections
import json
import os
import subprocess
import sys

import pytest
from gateway_rig import always, answer, ask, gateway, in_turn

from holdfast.gateway.keepalive import Lifetime
from holdfast.gateway.pool import Pool
from holdfast.runtime.wheel import Wheel
from holdfast.testing import gateway_drawn
from holdfast.testing.scenarios.gateway import SCENARIO
from holdfast.testing.simulation import run_scenario, sim_run
from seeds import run_seeds

OK = answer()


@pytest.mark.parametrize("first", range(0, 60, 15))
def test_no_invariant_breaks_whatever_goes_wrong(first):
    assert sum(run_seeds(SCENARIO, first, 15)) >= 400


@pytest.mark.long
@pytest.mark.parametrize("first", range(1000, 3000, 100))
def test_two_thousand_seeds_of_a_gateway(first):
    run_seeds(SCENARIO, first, 100)


def test_every_kind_of_fault_and_outcome_comes_up():
    kinds, outcomes = set(), collections.Counter()
    for seed in range(100, 130):
        result = run_scenario(SCENARIO, seed)
        kinds |= {fault.kind for fault in result.decisions}
        outcomes.update(result.value)
    assert set(gateway_drawn.kinds()) <= kinds
    ours = {"HF-3101", "HF-3102", "HF-3103", "HF-3104", "HF-3106"}
    assert ours | {"200", "400", "429", "503", "cut", "left", "gone"} <= {*outcomes}


def test_the_same_seed_gives_the_same_trace_under_any_hash_seed():
    command = [sys.executable, "-m", "holdfast.testing.sim", "gateway", "--seeds", "3..6", "--json"]
    runs = [
        subprocess.run(
            command,
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    assert [json.loads(line)["seed"] for line in runs[0].splitlines()] == [3, 4, 5, 6]


# -- what the simulation has found -----------------------------------------------------------------


def simulated(main):
    """Run `main` in virtual time on the simulated network."""

    async def run(_):
        await main()
        await asyncio.sleep(1)

    sim_run(run)


async def hangs(upstream, no, writer):
    await asyncio.sleep(3000)


async def breaks(upstream, no, writer):
    writer.transport.abort()
    return False


def test_one_that_waited_in_vain_for_a_connection_gets_none_later():
    async def slow(upstream, no, writer):
        await asyncio.sleep(1)
        writer.write(answer(200, b"slow"))

    async def main():
        one = "max_wait = 0.1\nbalance = 'round_robin'\nfirst_byte_timeout = 5"
        async with gateway(slow, slow, settings=one, each="max_connections = 1") as (gw, ups):
            found = await asyncio.gather(*(ask(gw.port) for _ in range(4)))
            await asyncio.sleep(5)
            assert sorted(status for status, _, _ in found) == [200, 200, 503, 503]
            asked = sum(len(up.asked) for up in ups)
            assert asked == [body for _, _, body in found].count(b"slow")

    simulated(main)


def test_a_request_that_a_dead_connection_may_have_brought_is_not_told_as_unsent():
    async def once(upstream, no, writer):
        if no == 1:
            writer.write(OK)
            return True
        upstream.server.close()
        return await breaks(upstream, no, writer)

    async def main():
        async with gateway(once, settings="attempts = 1") as (gw, (up,)):
            assert (await ask(gw.port))[0] == 200
            status, _, body = await ask(gw.port)
            assert status == 502
            assert len(up.asked) == 2
            assert json.loads(body)["holdfast"]["sent"] == "maybe"

    simulated(main)


def test_an_answer_that_is_passed_on_late_names_the_endpoint_that_gave_it():
    async def main():
        tea = answer(503, b"tea")
        for bad in (0, 1):
            scripts = [breaks, breaks]
            scripts[bad] = in_turn(tea, tea, tea, tea)
            found = []
            async with gateway(*scripts, settings="balance = 'round_robin'") as (gw, _):
                found = [await ask(gw.port) for _ in range(4)]
            for status, head, _ in found:
                if status == 503:
                    assert f"x-holdfast-endpoint: {'ab'[bad]}" in head
            assert 503 in {status for status, _, _ in found}

    simulated(main)


def test_a_cut_is_told_in_a_stream_that_came_with_a_length():
    async def cut(upstream, no, writer):
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 999\r\n\r\n"
        writer.write(head + b"data: 1\n\ndata: 2\n\n")
        await asyncio.sleep(0.1)
        return await breaks(upstream, no, writer)

    async def main():
        async with gateway(cut) as (gw, _):
            status, _, body = await ask(gw.port, "GET", "/events")
            assert status == 200
            kept, _, told = body.partition(b"event: error\ndata: ")
            assert kept == b"data: 1\n\ndata: 2\n\n"
            assert json.loads(told)["error"]["code"] == "HF-3108"

    simulated(main)


def test_a_stream_that_comes_at_once_is_whole_though_its_beginning_is_not_held():
    events = (
        b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
        b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    )

    async def main():
        stream = answer(200, events, "Content-Type: text/event-stream")
        async with gateway(always(stream), settings="hold_preamble = false") as (gw, (up,)):
            body = b'{"stream": true}'
            status, _, body = await ask(gw.port, "POST", "/v1/chat/completions", body)
            assert (status, body) == (200, events)
            assert len(up.asked) == 1

    simulated(main)


class Asker:
    connecting = None
    error = None

    def not_connected(self, error):
        self.error = error

    def send(self, connection):
        raise AssertionError("nobody is there to send to")


class Slammed:
    """A dialer whose connections are reset before anybody listens."""

    async def open(self, factory):
        made = factory()
        made.connection_made(self)
        made.connection_lost(ConnectionResetError())
        return made

    def get_extra_info(self, _):
        return None

    def is_closing(self):
        return True


def test_a_connection_that_is_called_off_before_it_begins_gives_its_place_back():
    async def main():
        loop, asker = asyncio.get_running_loop(), Asker()
        pool = Pool(loop, Wheel(loop), Slammed(), most=1, keepalive=60)
        pool.connect(asker)
        assert pool.is_full
        asker.connecting.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not pool.is_full

    simulated(main)


def test_a_connection_that_breaks_as_it_is_made_takes_no_place():
    async def main():
        loop, asker = asyncio.get_running_loop(), Asker()
        pool = Pool(loop, Wheel(loop), Slammed(), most=1, keepalive=60)
        pool.connect(asker)
        await asyncio.sleep(0.1)
        assert isinstance(asker.error, ConnectionResetError)
        assert pool.connections == (0, 0)
        assert not pool.is_full

    simulated(main)


async def closes(upstream, no, writer):
    await asyncio.sleep(0.01)
    writer.write(OK)
    await asyncio.sleep(0.0004)  # in which the next request is on its way
    return False


def test_who_waits_is_not_given_what_has_been_used_where_that_dies_at_once():
    async def main():
        async with gateway(closes, each="max_connections = 1") as (gw, _):
            found = [(await asyncio.gather(*(ask(gw.port) for _ in range(4)))) for _ in range(5)]
            assert {status for some in found for status, _, _ in some} == {200}
            assert gw.cluster.ledger.stale == 1

    simulated(main)


def test_two_dead_connections_in_a_row_are_nobodys_fault(monkeypatch):
    monkeypatch.setattr(Lifetime, "died", lambda *_: None)  # nothing is learned of the first

    async def main():
        settings = "attempts = 3\nretry_reserve = 100"
        async with gateway(closes, settings=settings, each="max_connections = 1") as (gw, _):
            found = [(await asyncio.gather(*(ask(gw.port) for _ in range(4)))) for _ in range(5)]
            health = gw.cluster.balancer.endpoints[0].health
            assert health.counts(asyncio.get_running_loop().time()).failures == 0
            assert gw.cluster.ledger.stale > 4
            assert {status for some in found for status, _, _ in some} <= {200, 502}

    simulated(main)


def test_nothing_holds_a_request_that_is_over():
    async def main():
        async with gateway(always(OK)) as (gw, _):
            ended = [await ask(gw.port) for _ in range(20)]
            assert {status for status, _, _ in ended} == {200}
            await asyncio.sleep(10)  # the limits of single states; that of the whole is 600 s
            assert gw.cluster.wheel.size < 10

    simulated(main)
