"""Simulated runs: what is left behind is found, failures replay and shrink, the command line."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import warnings

import pytest

import holdfast as hf
from holdfast.runtime.clock import SystemClock
from holdfast.runtime.clock import clock as seam
from holdfast.runtime.files import files
from holdfast.runtime.random import rng
from holdfast.testing import Scenario, SimDeadlock, sim_run
from holdfast.testing.faults import from_json
from holdfast.testing.invariants import Ledger
from holdfast.testing.sim import find, main, names, shrunk
from holdfast.testing.simulation import SimFailure, run_scenario

# -- runs ------------------------------------------------


def test_the_seams_are_the_simulated_ones_inside_only():
    async def program(sim):
        await asyncio.sleep(5)
        assert seam.monotonic() == sim.clock.now == asyncio.get_running_loop().time() == 5
        assert files() is sim.files
        return rng.draw(), sim.random("workload").draw()

    product, workload = sim_run(program, seed=3).value
    assert product != workload
    assert sim_run(program, seed=3).value == (product, workload)
    assert sim_run(program, seed=4).value != (product, workload)
    assert isinstance(seam.installed, SystemClock)


def test_a_synchronous_program_needs_no_loop():
    def program(sim):
        seam.sleep(100)
        return sim.clock.now

    assert sim_run(program).value == 100


def test_rare_paths_are_taken_in_simulations_only():
    assert not any(rng.buggify("short read", 1.0) for _ in range(10))

    def program(sim):
        return [rng.buggify("short read", 0.5) for _ in range(100)]

    assert 30 < sum(sim_run(program).value) < 70


def test_worker_threads_have_no_place_in_a_simulation():
    def program(sim):
        hf.policy(hf.Timeout(5)).call(threading.Event().wait, 0.05)

    with pytest.raises(RuntimeError, match="interrupt=False"):
        sim_run(program)


def test_what_main_raises_is_raised():
    async def program(sim):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sim_run(program)
    result = run_scenario(Scenario("x", "", program), 0)
    assert result.violations == ["error: ZeroDivisionError"]


def violations(program):
    return run_scenario(Scenario("x", "", program), 0).violations


def test_a_task_left_behind_is_found_with_its_stack():
    async def forgotten():
        await asyncio.Event().wait()

    async def program(sim):
        sim.kept = asyncio.create_task(forgotten(), name="forgotten")
        await asyncio.sleep(0)

    (text,) = violations(program)
    assert text.startswith("task left: task forgotten:")
    assert "in forgotten" in text or "forgotten" in text.splitlines()[1]


def test_a_timer_that_rearms_itself_is_found():
    async def program(sim):
        def tick():
            sim.loop.call_later(15, tick)

        tick()

    assert violations(program) == ["timer left: armed 3600 s after the end"]


def test_a_timer_that_runs_out_is_no_leak():
    async def program(sim):
        sim.loop.call_later(600, lambda: None)

    assert violations(program) == []


def test_a_connection_and_a_server_left_behind_are_found():
    async def program(sim):
        sim.kept = await asyncio.start_server(lambda r, w: None, "localhost", 7)
        sim.kept_too = await asyncio.open_connection("localhost", 7)

    found = violations(program)
    assert "transport left: <SimTransport 1 up open>" in found
    assert "transport left: <SimServer 127.0.0.1:7>" in found


def test_a_file_left_open_is_found():
    async def program(sim):
        files().create("/left.part")

    assert violations(program) == ["file left: /left.part"]


def test_unhandled_errors_and_warnings_are_found():
    async def program(sim):
        sim.loop.call_soon(lambda: 1 // 0)
        warnings.warn("odd", UserWarning, stacklevel=1)
        asyncio.sleep(1)  # never awaited

    found = violations(program)
    assert any("ZeroDivisionError" in text for text in found)
    assert "warning: UserWarning: odd" in found
    assert any("was never awaited" in text for text in found)


def test_a_deadlock_is_a_violation_with_stacks():
    async def program(sim):
        await asyncio.Event().wait()

    (text,) = violations(program)
    assert text.startswith("deadlock: ")
    assert "Event.wait" in text
    with pytest.raises(SimDeadlock):
        sim_run(program)


def test_a_broken_invariant_fails_the_run():
    async def program(sim):
        sim.check(1 + 1 == 2, "fine")
        sim.check(1 + 1 == 3, "arithmetic", "1 + 1")

    with pytest.raises(SimFailure, match=r"seed 5: arithmetic: 1 \+ 1") as caught:
        sim_run(program, seed=5)
    assert caught.value.result.violations == ["arithmetic: 1 + 1"]


def test_the_ledger_finds_each_wrong_outcome():
    async def program(sim):
        ledger = Ledger(sim, recovery=1)
        sim.break_things({}, until=0)
        for name in ("none", "two", "late", "failed"):
            ledger.started(name, limit=10)
        ledger.ended("two", "ok")
        ledger.ended("two", "ok")
        await asyncio.sleep(11)
        ledger.ended("late", "ok")
        ledger.started("bad", limit=10)
        ledger.ended("bad", "ValueError")
        ledger.ended("failed", "cancelled")
        return ledger.finish()

    found = violations(program)
    assert "two outcomes: call two: ok, ok" in found
    assert "late: call late: 1.000000 s" in found
    assert "no outcome: call none" in found
    assert "no recovery: call bad: ValueError, 11.000 s after the faults" in found


def test_traces_differ_when_events_differ():
    async def program(sim):
        sim.trace.add("x", sim.seed % 2)

    assert sim_run(program, 1).trace == sim_run(program, 3).trace != sim_run(program, 2).trace


# -- failures shrink ------------------------------------------------


async def leaky(sim):
    """Handle connections, but forget to close after a refused one and a reset (planted)."""
    sim.network.host("api.test", "10.0.0.1")
    sim.break_things(
        {"connect": {"refuse": 0.2, "slow_connect": 0.1}, "stream": {"rst": 0.2, "flip": 0.2}},
        until=1e9,
    )

    async def serve(reader, writer):
        try:
            writer.write(await reader.readexactly(100))
            await writer.drain()
        except (OSError, EOFError):
            pass
        writer.close()

    server = await asyncio.start_server(serve, "api.test", 80)
    refused = False
    sim.kept = []
    for _ in range(60):
        sim.calls += 1
        try:
            reader, writer = await asyncio.open_connection("api.test", 80)
        except OSError:
            refused = True
            continue
        writer.write(b"x" * 100)
        try:
            async with asyncio.timeout(1000):
                await reader.readexactly(100)
        except (OSError, EOFError):
            if refused:
                # The planted defect: this reset after that refusal, and the task stays.
                sim.kept.append(asyncio.create_task(asyncio.Event().wait()))
            refused = False
        writer.close()
    server.close()
    await server.wait_closed()


LEAKY = Scenario("leaky", "a planted leak", leaky)


def test_a_planted_leak_is_found_and_shrunk_to_few_decisions():
    failed = next(result for seed in range(100) if (result := run_scenario(LEAKY, seed)).violations)
    assert failed.faults > 10
    best = shrunk(LEAKY, failed)
    assert best.faults == 2
    assert [fault.kind for fault in best.decisions] == ["refuse", "rst"]
    again = run_scenario(LEAKY, failed.seed, decisions=best.decisions)
    assert again.violations == best.violations != []
    assert again.trace == best.trace


# -- the command line ------------------------------------------------


def test_list_names_the_scenarios(capsys):
    assert main(["--list"]) == 0
    shown = capsys.readouterr().out.split()
    assert set(names()) <= set(shown)
    assert "echo" in names()


def test_one_line_of_json_per_run(capsys):
    assert main(["echo", "--seeds", "0..3", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["seed"] for line in lines] == [0, 1, 2, 3]
    for line in lines:
        assert set(line) == {"scenario", "seed", "calls", "faults", "violations", "trace"}
        assert line["scenario"] == "echo"
        assert line["violations"] == []
        assert line["calls"] > 0


def test_a_failure_prints_one_replay_command_that_fails_too(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "leaky_module", sys.modules[__name__])
    arguments = ["leaky_module:LEAKY", "--seeds", "0..5", "--out", str(tmp_path)]
    assert main(arguments) == 1
    captured = capsys.readouterr()
    shown = [json.loads(line) for line in captured.out.splitlines()]
    failed = next(line for line in shown if line["violations"])
    command = failed["replay"]
    assert command in captured.err
    assert failed["decisions_left"] == 2
    prefix = "python -m holdfast.testing.sim "
    assert command.startswith(prefix + f"leaky_module:LEAKY --seed {failed['seed']} --decisions ")
    assert main(command.removeprefix(prefix).split()) == 1
    replayed = json.loads(capsys.readouterr().out)
    assert replayed["faults"] == 2
    path = tmp_path / f"holdfast-sim-leaky-{failed['seed']}.jsonl"
    assert len(from_json(path.read_text())) == 2


def test_json_only_prints_nothing_else(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "leaky_module", sys.modules[__name__])
    assert main(
        ["leaky_module:LEAKY", "--seeds", "0..3", "--out", str(tmp_path), "--json", "--no-shrink"]
    )
    captured = capsys.readouterr()
    assert captured.err == ""
    assert all(json.loads(line) for line in captured.out.splitlines())


@pytest.mark.parametrize(
    "arguments",
    [
        ["nobody", "--seed", "1"],
        ["echo"],
        ["echo", "--seed", "1", "--seeds", "1..2"],
        ["echo", "--seeds", "3..1"],
        ["echo", "--seed", "1", "--decisions", "/nonexistent/file"],
        ["json:loads", "--seed", "1"],
        [],
    ],
)
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_several_processes_give_the_same_as_one(capsys):
    assert main(["echo", "--seeds", "0..19", "--jobs", "2"]) == 0
    several = capsys.readouterr().out
    assert main(["echo", "--seeds", "0..19"]) == 0
    assert capsys.readouterr().out == several


def test_the_trace_can_be_read(capsys):
    assert main(["echo", "--seed", "5", "--trace"]) == 0
    assert "('net', " in capsys.readouterr().err


@pytest.mark.parametrize("scenario", names())
def test_one_hash_under_every_hash_seed(scenario):
    hashes = set()
    for hash_seed in ("0", "1", "2", "random"):
        done = subprocess.run(
            [sys.executable, "-m", "holdfast.testing.sim", scenario, "--seed", "5", "--json"],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        shown = json.loads(done.stdout)
        assert shown["faults"] > 0, "seed 5 has no fault: another seed would prove more"
        hashes.add(shown["trace"])
    assert len(hashes) == 1


def test_scenarios_are_found_by_name():
    assert find("echo").name == "echo"
    with pytest.raises(ValueError, match="holds no Scenario"):
        find("json:loads")
