"""Several processes on one port: one that dies takes little with it, and the parent all of them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import re
import signal
import socket
import subprocess
import urllib.request

import pytest
from gateway_process import (
    Streams,
    end_of,
    gate,
    gone,
    is_there,
    listen,
    quick,
    serving,
    until,
    with_socket,
)
from gateway_rig import ask

from holdfast.gateway import workers
from holdfast.gateway.control import Refused
from holdfast.gateway.source import Source

__all__ = ["gate"]  # a fixture

TWO = "workers = 2"


def on_loop(test):
    """Run a test on a loop of its own, for 50 s at most; its commands run beside it."""

    @functools.wraps(test)
    def run(gate):
        asyncio.run(asyncio.wait_for(test(gate), 50))

    return run


async def run(gate, *ports, settings=TWO, each=""):
    gate.configure(*ports, settings=settings, each=each)
    return await asyncio.to_thread(gate.run)


async def workers_of(gate):
    return (await asyncio.to_thread(gate.status))["pids"]


def page(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/__holdfast__/stats", timeout=5) as said:
        return json.load(said)


@on_loop
async def test_the_statistics_are_the_sum_of_all_from_wherever_they_are_asked(gate):
    async with serving(quick) as up:
        _, port = await run(gate, up)
        answers = await asyncio.gather(*(ask(port) for _ in range(60)))
        assert [status for status, _, _ in answers] == [200] * 60
        stats = (await asyncio.to_thread(gate.status))["stats"]
        assert stats["workers"] == 2
        shares = [one["total_requests"] for one in stats["per_worker"]]
        assert sum(shares) == stats["total_requests"] == stats["successful_requests"] == 60
        assert min(shares) > 5  # both of them served
        await asyncio.sleep(1.2)  # what a worker knows of the other one is a second old at most
        for n in range(6):
            # A page is a request too, of the worker that was asked.
            assert 60 <= (await asyncio.to_thread(page, port))["total_requests"] <= 61 + n


@on_loop
async def test_a_worker_that_is_killed_is_replaced_and_its_neighbour_serves_meanwhile(gate):
    async with serving(quick) as up:
        process, port = await run(gate, up)
        before = await workers_of(gate)
        await asyncio.gather(*(ask(port) for _ in range(20)))
        await asyncio.sleep(1.2)
        os.kill(before[0], signal.SIGKILL)
        await gone(before[0])
        answers = await asyncio.gather(*(ask(port) for _ in range(40)))
        assert [status for status, _, _ in answers] == [200] * 40

        def replaced():
            now = gate.status()
            return now["stats"]["workers"] == 2 and before[0] not in now["pids"] and now

        now = await until(replaced)
        assert before[1] in now["pids"]
        assert now["stats"]["total_requests"] == 60  # what the dead one counted is kept
        assert now["stats"]["workers"] == 2
        process.terminate()
        code, said = await asyncio.to_thread(end_of, process)
        assert code == 0
        assert "worker 1 died (SIGKILL); it is started again" in said


@on_loop
async def test_connections_in_the_queue_of_a_worker_that_dies_are_served(gate):
    async with serving(quick) as up:
        _, port = await run(gate, up)
        victim, other = await workers_of(gate)
        # Neither of them accepts while it is stopped, so both queues fill.
        for pid in (victim, other):
            os.kill(pid, signal.SIGSTOP)
        asked = [asyncio.create_task(ask(port)) for _ in range(40)]
        await asyncio.sleep(0.3)
        os.kill(victim, signal.SIGKILL)
        os.kill(other, signal.SIGCONT)
        assert [status for status, _, _ in await asyncio.gather(*asked)] == [200] * 40


@on_loop
async def test_without_any_worker_who_comes_waits_for_the_next(gate):
    async with serving(quick) as up:
        _, port = await run(gate, up)
        for pid in await workers_of(gate):
            os.kill(pid, signal.SIGKILL)
        answers = await asyncio.gather(*(ask(port) for _ in range(20)))
        assert [status for status, _, _ in answers] == [200] * 20


@on_loop
async def test_all_workers_reload_and_a_bad_file_changes_none_of_them(gate):
    async with serving(quick) as up:
        _, port = await run(gate, up)
        gate.configure(up, settings=f"{TWO}\nexpose = false")
        assert (await asyncio.to_thread(gate, "reload")).returncode == 0
        heads = [head for _, head, _ in await asyncio.gather(*(ask(port) for _ in range(20)))]
        assert not any("x-holdfast" in head for head in heads)
        gate.configure(up, settings=f"{TWO}\nexpose = 3")
        assert (await asyncio.to_thread(gate, "reload")).returncode == 2
        heads = [head for _, head, _ in await asyncio.gather(*(ask(port) for _ in range(20)))]
        assert not any("x-holdfast" in head for head in heads)


@on_loop
async def test_a_worker_that_is_started_again_has_the_configuration_of_now(gate):
    async with serving(quick) as up:
        _, port = await run(gate, up)
        gate.configure(up, settings=f"{TWO}\nexpose = false")
        await asyncio.to_thread(gate, "reload")
        for pid in await workers_of(gate):
            os.kill(pid, signal.SIGKILL)
        _, head, _ = await ask(port)
        assert "x-holdfast" not in head


async def one_that_serves(crew, count=2):
    """Wait until so many workers answer."""
    async with asyncio.timeout(20):
        while (await crew.stats()).get("workers") != count:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def crew_of(gate, *ports):
    """Workers of this process, and what is said of them."""
    gate.configure(*ports, settings=TWO)
    said = []
    crew = workers.Workers(Source(gate.file).load(), said.append)
    await crew.start()
    try:
        yield crew, crew.sockets[0].getsockname()[1], said
    finally:
        await crew.stop()


async def all_hide(port):
    heads = [head for _, head, _ in await asyncio.gather(*(ask(port) for _ in range(20)))]
    return not any("x-holdfast" in head for head in heads)


@on_loop
async def test_a_worker_that_starts_during_a_reload_has_the_configuration_of_now(gate):
    async with serving(quick) as up, crew_of(gate, up) as (crew, port, _):
        before = crew.pids
        os.kill(before[0], signal.SIGKILL)
        await gone(before[0])
        async with asyncio.timeout(20):
            while len(crew.pids) < 2 or crew.pids[0] == before[0]:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        gate.configure(up, settings=f"{TWO}\nexpose = false")
        await crew.reload(Source(gate.file).load())
        assert await all_hide(port)
        await one_that_serves(crew)
        assert await all_hide(port)


@on_loop
async def test_a_worker_that_does_not_take_a_reload_is_replaced_by_one_that_has_it(gate):
    async with serving(quick) as up, crew_of(gate, up) as (crew, port, said):
        victim = crew.pids[1]
        os.kill(victim, signal.SIGSTOP)
        gate.configure(up, settings=f"{TWO}\nexpose = false")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(workers, "RELOAD_SECONDS", 0.2)
            await crew.reload(Source(gate.file).load())
        await gone(victim)
        assert await all_hide(port)
        await one_that_serves(crew)
        assert await all_hide(port)
    assert said == [
        "worker 2 has not taken the configuration; it is ended",
        "worker 2 died (SIGKILL); it is started again",
    ]


@on_loop
async def test_a_refusal_by_all_changes_nothing_and_ends_nobody(gate):
    async with serving(quick) as up, crew_of(gate, up) as (crew, port, said):
        before = crew.pids
        gate.configure(up, settings=f"{TWO}\nexpose = false", each='keys = "env:HOLDFAST_NO_KEY"')
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HOLDFAST_NO_KEY", "secret")  # the workers began without it
            with pytest.raises(Refused, match="HOLDFAST_NO_KEY"):
                await crew.reload(Source(gate.file).load())
        assert crew.pids == before
        assert not await all_hide(port)
    assert said == []


@on_loop
async def test_statistics_are_empty_while_no_worker_has_answered(gate):
    async with serving(quick) as up:
        gate.configure(up, settings=TWO)
        crew = workers.Workers(Source(gate.file).load(), [].append)
        assert await crew.stats() == {}


@on_loop
async def test_a_signal_to_one_worker_ends_it_well_and_another_one_is_started(gate):
    streams, fast = Streams(), False

    async def upstream(reader, writer):
        await (quick if fast else streams)(reader, writer)

    async with serving(upstream) as up, crew_of(gate, up) as (crew, port, said):
        before = crew.pids
        listening = [asyncio.create_task(listen(port)) for _ in range(20)]
        await until(lambda: streams.open == 20)
        fast = True
        os.kill(before[0], signal.SIGTERM)
        await asyncio.sleep(0.3)
        assert is_there(before[0])
        answers = await asyncio.gather(*(ask(port) for _ in range(40)))
        assert [status for status, _, _ in answers] == [200] * 40
        streams.go.set()
        assert all(one.count(b"data: ") == 2 for one in await asyncio.gather(*listening))
        await gone(before[0])
        for _ in range(6):  # nobody waits in the queue of the one that is gone
            await asyncio.to_thread(page, port)
        await one_that_serves(crew)
        assert crew.pids[1] == before[1]
    assert said == ["worker 1 has ended; it is started again"]


@on_loop
async def test_the_death_of_the_parent_shortens_a_drain(gate):
    streams = Streams()
    async with serving(streams) as up:
        process, port = await run(gate, up, settings=f"{TWO}\ndrain_timeout = 0.2")
        pids = await workers_of(gate)
        listening = [asyncio.create_task(listen(port)) for _ in range(4)]
        await until(lambda: streams.open == 4)
        await asyncio.to_thread(gate, "drain", "--timeout", "600")
        process.kill()
        await gone(*pids, seconds=8)
        assert all(b'"HF-3108"' in one for one in await asyncio.gather(*listening))


@pytest.mark.parametrize("how", ["idle", "streams"])
def test_the_death_of_the_parent_ends_the_workers(gate, how):
    async def main():
        streams = Streams()
        async with serving(quick if how == "idle" else streams) as up:
            process, port = await run(gate, up)
            pids = await workers_of(gate)
            listening = []
            if how == "streams":
                listening = [asyncio.create_task(listen(port)) for _ in range(8)]
                await until(lambda: streams.open == 8)
            process.kill()
            if listening:
                await asyncio.sleep(0.5)  # what is under way goes on
                assert not any(one.done() for one in listening)
                with pytest.raises(OSError, match=r"refused|failed"):
                    await asyncio.open_connection("127.0.0.1", port)
                streams.go.set()
                got = await asyncio.gather(*listening)
                assert all(one.count(b"data: ") == 2 for one in got)
            await gone(*pids)

    asyncio.run(asyncio.wait_for(main(), 50))


@on_loop
async def test_the_end_is_gentle_in_all_of_them_and_a_second_signal_cuts(gate):
    streams = Streams()
    async with serving(streams) as up:
        process, port = await run(gate, up)
        pids = await workers_of(gate)
        listening = [asyncio.create_task(listen(port)) for _ in range(20)]
        await until(lambda: streams.open == 20)
        process.terminate()
        await asyncio.sleep(0.7)
        assert not any(one.done() for one in listening)
        assert is_there(process.pid)
        process.terminate()
        got = await asyncio.gather(*listening)
        assert all(b"event: error\n" in one and b'"HF-3108"' in one for one in got)
        code, said = await asyncio.to_thread(end_of, process)
        assert code == 0
        assert "ended; requests cut: 20" in said
        await gone(*pids)


@on_loop
async def test_a_worker_that_hangs_is_ended_and_replaced(gate):
    # In this process, so that it need not hang for half a minute.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "HUNG", 1)
        async with crew_of(gate, 9) as (crew, _, said):
            before = crew.pids
            os.kill(before[0], signal.SIGSTOP)
            await gone(before[0])
            await one_that_serves(crew)
            assert crew.pids[1] == before[1]
    assert said == [
        "worker 1 does not answer any more; it is ended",
        "worker 1 died (SIGKILL); it is started again",
    ]
    assert crew.pids == []


def test_sockets_of_a_service_manager_are_shared_by_all_workers(gate):
    gate.configure(9, settings=TWO)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        process = subprocess.Popen(
            with_socket(sock, gate.argv("run")),
            cwd=gate.path,
            env=gate.env,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=(sock.fileno(),),
        )
        gate.foreground.append(process)
        assert f"http://127.0.0.1:{port}" in process.stdout.readline()
        # Whoever is asked; they know of one another a moment after the start.
        assert asyncio.run(until(lambda: [page(port)["workers"] for _ in range(6)] == [2] * 6))
        process.terminate()
        assert end_of(process)[0] == 0
        socket.create_connection(("127.0.0.1", port)).close()  # the next one will have it


@on_loop
async def test_at_the_end_the_path_of_its_socket_is_gone(gate):
    gate.configure(9, settings=TWO)
    path = gate.path / "s"
    source = Source(gate.file, flags={"listen": f"unix:{path}"})
    crew = workers.Workers(source.load(), print)
    await crew.start()
    assert path.is_socket()
    await crew.stop()
    assert not path.exists()


def test_a_worker_that_cannot_start_is_told_by_start(gate):
    gate.configure(9, settings=TWO, each='keys = "file:key"')
    (gate.path / "key").write_text("secret")
    assert gate("start").returncode == 0
    gate("stop")
    (gate.path / "key").unlink()
    done = gate("start")
    assert done.returncode == 2
    assert "file:key" in done.stderr
    assert gate("status").returncode == 1


def test_a_worker_that_dies_while_it_starts_is_named(gate):
    hook = "import os, sys\nif 'holdfast.gateway.worker' in sys.orig_argv:\n    os._exit(3)\n"
    (gate.path / "sitecustomize.py").write_text(hook)
    gate.env["PYTHONPATH"] = os.pathsep.join([str(gate.path), gate.env.get("PYTHONPATH", "")])
    gate.configure(9, settings=TWO)
    done = gate("run")
    assert done.returncode == 1
    assert re.search(r"worker [12] ended while it was starting\n  \[HF-3206\]\n", done.stderr)


def test_a_signal_to_the_whole_group_ends_all_of_them(gate):
    gate.configure(9, settings=TWO)
    assert gate("start").returncode == 0
    pid, workers = gate.pid_file()["pid"], gate.status()["pids"]
    os.killpg(pid, signal.SIGTERM)
    asyncio.run(gone(pid, *workers))
    assert "died" not in gate.log()
