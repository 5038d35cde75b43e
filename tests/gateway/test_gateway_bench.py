"""The rigs of `benchmarks/gateway_*.py` break what they say, and count what they should."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from benchmark_runs import BENCHMARKS, assert_ends_clean

pytest.importorskip("uvloop")

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def upstreams() -> Iterator[Any]:
    """One upstream, whose fault is set by `ask`."""
    import gateway_peers  # noqa: PLC0415 - a script, found only with the line above

    with gateway_peers.Upstreams([""], seed=1) as running:
        yield running


def asked(port: int, requests: int, **options: Any) -> Any:
    import gateway_load  # noqa: PLC0415 - see `upstreams`

    return asyncio.run(gateway_load.Load(port, requests, **options).run())


# -- upstreams ---------------------------------------------------------------------------------


def test_an_upstream_in_good_health_answers_each_request_with_its_own_id(upstreams: Any) -> None:
    seen = asked(upstreams.ports[0], 200)
    assert (seen.good, seen.failures) == (200, {})
    assert len(seen.seconds) == 200
    assert upstreams.total("answered") == 200


@pytest.mark.parametrize(
    ("fault", "kind", "low", "high"),
    [
        ("rst", "cut", 0.22, 0.38),
        ("cut", "cut", 0.22, 0.38),
        ("503", "503", 1, 1),
        ("429", "429", 1, 1),  # the first upstream throttles in the first second
        ("refuse", "cut", 1, 1),
        ("hang", "timeout", 1, 1),
    ],
)
def test_each_fault_strikes_as_often_as_it_says(
    upstreams: Any, fault: str, kind: str, low: float, high: float
) -> None:
    upstreams.ask(f'["{fault}"]')
    many = 16 if fault == "hang" else 400
    seen = asked(upstreams.ports[0], many, timeout=0.2 if fault == "hang" else 5)
    assert low <= sum(seen.failures.values()) / many <= high
    assert set(seen.failures) <= {kind, "connect"}
    if fault != "refuse":
        assert upstreams.total("struck") == sum(seen.failures.values())


def test_an_idle_connection_is_closed_after_its_answer_and_never_within(upstreams: Any) -> None:
    upstreams.ask('["idle"]')
    seen = asked(upstreams.ports[0], 300, connections=4, rate=600, timeout=30)
    counts = upstreams.ask()[0]
    assert counts["connections"] > 50
    # A request that is on its way when the connection closes is lost, and only such a one.
    assert counts["answered"] == seen.good
    assert sum(seen.failures.values()) < 150


def test_tokens_come_at_their_rate_and_say_when_they_were_written(upstreams: Any) -> None:
    import gateway_load  # noqa: PLC0415 - see `upstreams`

    async def listen() -> tuple[int, list[int]]:
        into: list[int] = []
        opened = await gateway_load.open_streams(upstreams.ports[0], 10, into)
        await asyncio.sleep(1)
        running = upstreams.total("streams")
        for stream in opened:
            stream.transport.abort()
        await asyncio.sleep(0.1)
        return running, into

    running, into = asyncio.run(listen())
    assert running == 10
    assert 100 <= len(into) <= 260  # 20 a second, of ten streams
    assert 0 < sorted(into)[len(into) // 2] < 50e6
    assert upstreams.total("streams") == 0


# -- verdicts ------------------------------------------------------------------------------------


def test_an_answer_to_another_request_is_a_failure() -> None:
    import gateway_load  # noqa: PLC0415 - see `upstreams`
    from gateway_upstream import HEAD  # noqa: PLC0415

    answer = HEAD + gateway_load.body_of(7)
    assert gateway_load.verdict(answer, 7) == ""
    assert gateway_load.verdict(answer, 8) == "wrong"
    assert gateway_load.verdict(answer[:-1] + b"?", 7) == "wrong"
    assert gateway_load.verdict(answer.replace(b"200", b"502", 1), 7) == "502"
    assert gateway_load.verdict(b"", 7) == "cut"


def test_a_quantile_is_a_value_that_was_there() -> None:
    import gateway_load  # noqa: PLC0415 - see `upstreams`

    values = [float(n) for n in range(1, 101)]
    assert [gateway_load.quantile(values, q) for q in (0.5, 0.99, 1.0)] == [50, 99, 100]
    assert gateway_load.quantile([], 0.5) == 0


# -- a whole cell --------------------------------------------------------------------------------


@LINUX
@pytest.mark.parametrize("fault", ["rst", "503", "cut"])
def test_holdfast_hides_the_fault_of_one_upstream(fault: str) -> None:
    import gateway_faults  # noqa: PLC0415 - see `upstreams`
    import gateway_peers  # noqa: PLC0415

    (ours,) = gateway_peers.there(["holdfast"])
    cell = gateway_faults.Trial(ours, fault, 300, 1).run()
    assert (cell.asked, cell.failed) == (300, {})
    assert cell.struck > 0


@LINUX
def test_the_cpu_of_a_process_and_its_children_is_counted() -> None:
    import processes  # noqa: PLC0415 - see `upstreams`

    burn = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"
    child = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {burn!r}])\n{burn}"
    wait = "import time; print(1, flush=True); time.sleep(60)"
    with processes.Running(
        [sys.executable, "-c", f"{child}\n{wait}"], stdout=subprocess.PIPE
    ) as running:
        assert running.process.stdout is not None
        running.process.stdout.readline()
        assert len(running.pids()) == 2
        assert 0.3 < running.cpu() < 5
        assert running.memory() > 1 << 20


@LINUX
def test_a_signal_ends_all_that_was_started(tmp_path: Path) -> None:
    words = ["gateway_faults.py", "--only", "holdfast", "--fault", "429"]
    assert_ends_clean(words, "gateway_upstream.py", signal.SIGTERM, tmp_path)


# -- tables, goals -------------------------------------------------------------------------------


def test_the_middle_round_is_shown_and_the_worst_is_judged() -> None:
    from gateway_faults import Cell, goals, table  # noqa: PLC0415 - see `upstreams`

    def cell(failed: int, settled: float = 0.0, load: float = 1.0) -> Any:
        return Cell(1000, {"502": failed} if failed else {}, 1, 0.001, settled, 5, load)

    results = {
        "holdfast": {
            "none": [cell(0, 0.002)],
            "rst": [cell(0), cell(0), cell(2)],
            "hang": [cell(1, 0.005)],
            "out-503": [cell(1000, load=1.1)],
        }
    }
    lines = table(results, list(results["holdfast"]))
    assert lines[3].endswith("| 0 |")
    assert lines[4].endswith("| 0.10 % 502, p99 x 2.5 |")
    assert lines[5].endswith("| load 1.10 |")
    judged = {(goal["fault"], goal["what"]): goal for goal in goals(results)}
    assert judged["rst", "share that fails"]["measured"] == 0.002
    assert not judged["rst", "share that fails"]["met"]
    assert judged["hang", "share that fails"]["met"]
    assert not judged["hang", "p99 by that in good health, after 10 s"]["met"]
    assert judged["out-503", "load of upstreams"]["met"]


def test_ratios_are_taken_within_a_round() -> None:
    from gateway_speed_results import judged, tables  # noqa: PLC0415 - see `upstreams`

    def sample(us: float) -> dict[str, float]:
        return {"us": us, "per_core": 1e6 / us, "per_second": 1.0, "rss": 1.0}

    samples = {
        "requests": {
            "holdfast": [sample(20), sample(90), sample(26)],
            "nginx": [sample(10), sample(50), sample(10)],
            "granian+aiohttp": [sample(80), sample(400), sample(80)],
        }
    }
    assert tables(samples)["requests"][2].endswith("| 2.00 |")
    goals = {(goal["what"], goal["peer"]): goal for goal in judged(samples)}
    assert goals["us", "nginx"]["measured"] == 2.0
    assert goals["us", "nginx"]["met"]
    assert goals["per_core", "granian+aiohttp"]["measured"] == 4.0
    assert goals["per_core", "granian+aiohttp"]["met"]
    assert ("us", "Envoy") not in goals
