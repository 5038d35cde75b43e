"""`holdfast demo` on a small scale: real servers, real faults, figures that are true."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import pytest

from holdfast.cli import demo, demo_files, demo_gateway
from holdfast.cli import main as cli
from holdfast.cli.output import Exit

if TYPE_CHECKING:
    from holdfast import chaos

# Everything ten times as fast; Retry-After knows whole seconds only.
Quicker = partial(demo.Scenario, timeout=0.5, pause=0.1, outage=(0.05, 0.6), retry_after=1)
ARIA2 = 0 if demo_files.lacks_for_aria2() else 2
Quick = partial(
    Quicker, calls=12, size=1 << 20, files=8, aria2_files=ARIA2, questions=60, streams=12
)
OF_SERVER = ["calls", "file", "files", *(["aria2"] if ARIA2 else [])]
JOBS = [*OF_SERVER, "gateway", "streams"]


@dataclass
class Ran:
    """One real run, which several tests look at: it takes seconds."""

    results: dict[str, dict[str, demo.Result]]
    servers: list[chaos.Server]
    told: list[tuple[str, str]]


@pytest.fixture(scope="module")
def ran() -> Ran:
    # With seed 2 the first answer for the file ends early with FIN.
    told: list[tuple[str, str]] = []
    servers: list[chaos.Server] = []
    start = demo.Scenario.server

    def remembered(self: demo.Scenario) -> chaos.Server:
        servers.append(start(self))
        return servers[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo.Scenario, "server", remembered)
        results = demo.run(Quick(seed=2), lambda side, job, _: told.append((side, job)))
    return Ran(results, servers, told)


def test_with_holdfast_everything_is_finished_and_right(ran: Ran) -> None:
    for result in ran.results["with holdfast"].values():
        assert result.right
        assert not result.reasons


def test_hand_written_loop_loses_calls_to_the_outage_and_says_why(ran: Ran) -> None:
    calls = ran.results["without"]["calls"]
    assert calls.asked == 12
    assert 0 < calls.finished < 12
    assert sum(calls.reasons.values()) == 12 - calls.finished


def test_silent_end_of_the_file_is_counted_as_wrong_bytes(ran: Ran) -> None:
    file = ran.results["without"]["file"]
    assert (file.finished, file.wrong, file.right) == (1, 1, False)


def test_a_batch_is_fetched_by_both_sides_and_compared_file_by_file(ran: Ran) -> None:
    for jobs in ran.results.values():
        assert list(jobs) == JOBS
        assert [jobs[job].asked for job in OF_SERVER[2:]] == [8, *([ARIA2] if ARIA2 else [])]
        assert all(jobs[job].requests >= jobs[job].asked for job in OF_SERVER[2:])


def test_questions_and_streams_are_answered_rightly_through_the_gateway(ran: Ran) -> None:
    held, without = ran.results["with holdfast"], ran.results["without"]
    assert [held[job].asked for job in ("gateway", "streams")] == [60, 12]
    assert [held[job].finished for job in ("gateway", "streams")] == [60, 12]
    assert held["gateway"].requests > 60  # the providers failed, and nobody saw it
    lost = [without[job].asked - without[job].finished for job in ("gateway", "streams")]
    wrong = [without[job].wrong for job in ("gateway", "streams")]
    assert sum(lost) + sum(wrong) > 0


def test_figures_are_those_of_the_servers(ran: Ran) -> None:
    for server, jobs in zip(ran.servers, ran.results.values(), strict=True):
        own = [jobs[job] for job in OF_SERVER]
        assert sum(job.requests for job in own) == server.stats.requests
        assert sum(job.sent for job in own) == server.stats.bytes_down


def test_every_end_is_told_once(ran: Ran) -> None:
    expected = [(side, job) for side in ran.results for job in JOBS]
    assert sorted(ran.told) == sorted(expected)


def test_json_has_one_object_per_side(
    ran: Ran, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "run", lambda *_: ran.results)
    assert cli.main(["demo", "--json"]) == Exit.DONE
    captured = capsys.readouterr()
    objects = [json.loads(line) for line in captured.out.splitlines()]
    assert [one["side"] for one in objects] == ["without", "with holdfast"]
    assert {one["event"] for one in objects} == {"Demo"}
    assert objects[1]["calls"] == ran.results["with holdfast"]["calls"].data()
    assert captured.err == ""


def test_command_prints_the_table_and_the_way_to_repeat_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "Scenario", Quicker)
    assert cli.main(["demo", "--seed", "3", "--calls", "5", "--mib", "1"]) == Exit.DONE
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].split() == ["without", "with", "holdfast"]
    assert lines[1].startswith("5 calls")
    assert lines[1].endswith("5 of 5")
    assert lines[6].startswith("1.0 MiB file")
    assert lines[6].endswith("1 of 1")
    assert lines[-1] == "the same faults again: holdfast demo --seed 3 --calls 5 --mib 1"
    assert captured.err.startswith("seed 3: 5 calls")
    assert lines[11].startswith("40 files")
    assert lines[11].endswith("40 of 40")
    assert ("without the rows of aria2" in captured.err) == (not ARIA2)
    (questions,) = (line for line in lines if line.startswith("300 questions"))
    assert questions.endswith("300 of 300")


def test_without_its_extra_the_row_of_the_gateway_says_so(
    ran: Ran, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = {side: {job: one[job] for job in OF_SERVER} for side, one in ran.results.items()}
    monkeypatch.setattr(demo_gateway, "find_spec", lambda _: None)
    monkeypatch.setattr(demo, "run", lambda *_: jobs)
    assert cli.main(["demo"]) == Exit.DONE
    captured = capsys.readouterr()
    missing = "httptools is not installed (pip install 'holdfast[gateway]')"
    assert f"300 questions  not run: {missing}" in captured.out.splitlines()
    assert "questions, streams" not in captured.out
    assert f"{missing}: without the rows of the gateway" in captured.err


@pytest.mark.parametrize(
    ("which", "spec", "said"),
    [
        (None, object(), "aria2c is not"),
        ("/x/aria2c", None, "holdfast[aria2]"),
        ("/x", object(), ""),
    ],
)
def test_the_rows_of_aria2_need_the_program_and_the_extra(
    which: str | None, spec: object, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: which)
    monkeypatch.setattr(demo_files, "find_spec", lambda _: spec)
    found = demo_files.lacks_for_aria2()
    assert (said in found) if said else not found


@pytest.mark.parametrize(
    ("finished", "wrong", "code"), [(1, 0, Exit.DONE), (0, 0, Exit.FAILED), (1, 1, Exit.FAILED)]
)
def test_exit_code_is_that_of_the_side_with_holdfast(
    finished: int, wrong: int, code: Exit, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = demo.Result(asked=1, finished=1, wrong=0, requests=1, sent=1, seconds=0.1)
    bad = demo.Result(asked=1, finished=0, wrong=0, requests=1, sent=1, seconds=0.1)
    held = demo.Result(1, finished, wrong, 1, 1, 0.1)
    results = {
        "without": {"calls": bad, "file": bad},
        "with holdfast": {"calls": good, "file": held},
    }
    monkeypatch.setattr(demo, "run", lambda *_: results)
    assert cli.main(["demo"]) == code


@pytest.mark.parametrize("option", ["--calls", "--mib"])
def test_nothing_to_do_is_a_usage_error(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", option, "0"]) == Exit.USAGE
    assert f"`{option}`: 0: it must be at least 1" in capsys.readouterr().err


def test_interrupt_ends_it_soon() -> None:
    # A shell starts background jobs with SIGINT ignored, and children inherit that.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from holdfast.cli.main import main; raise SystemExit(main(['demo']))"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stderr is not None
        assert child.stderr.readline().startswith("seed 1: 200 calls")
        time.sleep(0.5)
        began = time.monotonic()
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=30)
        assert time.monotonic() - began < 10
    assert child.returncode == Exit.INTERRUPTED
