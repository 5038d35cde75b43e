"""What a policy costs, beside peers, in one run and one table.

    python benchmarks/core.py [--rounds N] [--json FILE]

Rounds are interleaved (every subject once per round) with the garbage collector off; shown is
the best round, and the median in brackets. Absolute times belong to the machine; only the
ratios to the hand-written loop of the same run are worth comparing. Nothing fails here: the
goals are printed with what was measured, met or not.

`subjects` says what each peer has and lacks.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import subprocess
import sys
import time
import tracemalloc
from contextlib import contextmanager, nullcontext
from itertools import repeat
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from about import machine, show
from subjects import PACKAGES, Subject, full_policy, subjects

import holdfast as hf

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from contextlib import AbstractContextManager

TASKS = 10_000
SUSPENSIONS = 3
PEER_ROUNDS = 2
"""Rounds of the peers where one of theirs takes seconds."""

KEYS = 2_000


def good() -> int:
    return 1


async def agood() -> int:
    return 1


async def suspending() -> int:
    await asyncio.sleep(0)
    return 1


class Times(dict[str, list[float]]):
    """Seconds per call and round, by subject."""

    def took(self, name: str, seconds: float) -> None:
        self.setdefault(name, []).append(seconds)

    def best(self, name: str) -> float:
        return min(self[name])

    def ratio(self, name: str, to: str = "loop") -> float:
        return self.best(name) / self.best(to)

    def as_dict(self) -> dict[str, dict[str, float]]:
        return {
            name: {"best": min(rounds), "median": median(rounds), "rounds": len(rounds)}
            for name, rounds in self.items()
        }


# -- one call --------------------------------------------------------------------------


def calls_for(call: Callable[[], Any], seconds: float = 0.02) -> int:
    """Return how many calls take about `seconds`."""
    began = time.perf_counter()
    for _ in repeat(None, 200):
        call()
    return max(200, int(200 * seconds / (time.perf_counter() - began)))


def sync_calls(found: list[Subject], rounds: int) -> Times:
    """Time a synchronous good call of each subject."""
    times = Times()
    counts = {one.name: calls_for(lambda call=one.call: call(good)) for one in found}
    for _ in range(rounds):
        for one in found:
            call, count = one.call, counts[one.name]
            began = time.perf_counter()
            for _ in repeat(None, count):
                call(good)
            times.took(one.name, (time.perf_counter() - began) / count)
    return times


async def async_calls(found: list[Subject], rounds: int) -> Times:
    """Time an asynchronous good call that never suspends."""
    times = Times()
    counts = {}
    for one in found:
        began = time.perf_counter()
        for _ in repeat(None, 200):
            await one.acall(agood)
        counts[one.name] = max(200, int(200 * 0.02 / (time.perf_counter() - began)))
    for _ in range(rounds):
        for one in found:
            acall, count = one.acall, counts[one.name]
            began = time.perf_counter()
            for _ in repeat(None, count):
                await acall(agood)
            times.took(one.name, (time.perf_counter() - began) / count)
    return times


# -- many tasks ------------------------------------------------------------------------


async def bare(fn: Callable[[], Awaitable[int]]) -> int:
    return await fn()


async def crowd(acall: Callable[[Any], Any]) -> float:
    """Return the seconds that `TASKS` tasks need for `SUSPENSIONS` suspending calls each."""

    async def one() -> None:
        for _ in range(SUSPENSIONS):
            await acall(suspending)

    gc.collect()
    await acall(agood)  # a steady stream is meant, not the first burst after a quiet time
    began = time.perf_counter()
    await asyncio.gather(*[one() for _ in range(TASKS)])
    return time.perf_counter() - began


async def crowds(found: list[Subject], rounds: int) -> Times:
    """Time the crowd through each subject, and bare."""
    times = Times()
    measured = {"bare": bare} | {one.name: one.acall for one in found}
    for acall in measured.values():
        await crowd(acall)  # not counted: the process grows to its size
    for number in range(rounds):
        for name, acall in measured.items():
            if number < PEER_ROUNDS or name in ("bare", "loop", "holdfast"):
                times.took(name, await crowd(acall))
    return times


# -- memory ----------------------------------------------------------------------------


async def in_flight(acall: Callable[[Any], Any]) -> float:
    """Return the bytes that one suspended call holds, its task included."""
    gate = asyncio.Event()

    async def waiting() -> None:
        await gate.wait()

    async def crowd_of(size: int) -> float:
        gate.clear()
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        tasks = [asyncio.create_task(acall(waiting)) for _ in range(size)]
        await asyncio.sleep(0)
        held = tracemalloc.get_traced_memory()[0] - before
        gate.set()
        await asyncio.gather(*tasks)
        return held / size

    tracemalloc.start()
    try:
        await crowd_of(100)  # what is built once is not a call's
        return min([await crowd_of(TASKS) for _ in range(3)])
    finally:
        tracemalloc.stop()


async def bytes_in_flight(found: list[Subject]) -> dict[str, float]:
    """Return the bytes per call in flight beyond those of a bare task."""
    plain = await in_flight(bare)
    return {one.name: await in_flight(one.acall) - plain for one in found}


def bytes_per_key() -> float:
    """Return the bytes that one more key of the full policy holds; its name is the caller's."""
    policy = full_policy(key=lambda call: call.args[0], max_keys=2 * KEYS)
    names = [f"host-{number}.example" for number in range(KEYS)]
    policy.call(len, "first")
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for name in names:
            policy.call(len, name)
        gc.collect()
        return (tracemalloc.get_traced_memory()[0] - before) / KEYS
    finally:
        tracemalloc.stop()


# -- events ----------------------------------------------------------------------------


def watched_calls(one: Subject, rounds: int) -> Times:
    """Time a synchronous good call of ours: alone, under a recording, with a subscriber."""
    times = Times()
    ways: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "unwatched": nullcontext,
        "recorded": hf.record,
        "subscribed": subscribed,
    }
    count = calls_for(lambda: one.call(good))
    for _ in range(rounds):
        for name, way in ways.items():
            with way():
                began = time.perf_counter()
                for _ in repeat(None, count):
                    one.call(good)
                times.took(name, (time.perf_counter() - began) / count)
    return times


@contextmanager
def subscribed() -> Iterator[None]:
    stop = hf.subscribe(lambda _: None)
    try:
        yield
    finally:
        stop()


# -- starting --------------------------------------------------------------------------

STARTS = {
    "bare Python": ["-c", "pass"],
    "import holdfast": ["-c", "import holdfast"],
    "holdfast --help": ["-m", "holdfast", "--help"],
}


def starts(runs: int = 9) -> dict[str, float]:
    """Return the median seconds of starting Python for each of `STARTS`, interleaved."""
    times: dict[str, list[float]] = {name: [] for name in STARTS}
    for number in range(runs + 1):
        for name, words in STARTS.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
            if number:  # the first one fills the disk cache
                times[name].append(time.perf_counter() - began)
    return {name: median(taken) for name, taken in times.items()}


# -- the table -------------------------------------------------------------------------


def measure(rounds: int) -> dict[str, Any]:
    """Run everything."""
    found = subjects()
    ours = next(one for one in found if one.name == "holdfast")
    gc.collect()
    gc.disable()
    try:
        return {
            "sync": sync_calls(found, rounds),
            "async": asyncio.run(async_calls(found, rounds)),
            "tasks": asyncio.run(crowds(found, rounds)),
            "events": watched_calls(ours, rounds),
            "in_flight": asyncio.run(bytes_in_flight(found)),
            "per_key": bytes_per_key(),
            "starts": starts(),
        }
    finally:
        gc.enable()


def table(results: dict[str, Any], found: list[str]) -> list[str]:
    """Return the comparison, one line per subject."""
    sync, asynchronous, tasks = results["sync"], results["async"], results["tasks"]
    head = (
        f"| | sync call, ns | x loop | async call, ns | x loop | {TASKS:,d} tasks, % of bare "
        "| bytes per call in flight |"
    )
    lines = [head, "|---|---:|---:|---:|---:|---:|---:|"]
    for name in found:
        cells = [name]
        for times in (sync, asynchronous):
            cells.append(f"{times.best(name) * 1e9:,.0f} ({median(times[name]) * 1e9:,.0f})")
            cells.append(f"{times.ratio(name):.1f}")
        cells.append(f"{100 / tasks.ratio(name, 'bare'):.0f}")
        cells.append(f"{results['in_flight'][name]:,.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def goals(results: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """Return (what, measured, goal, met) for each goal."""
    sync, asynchronous, tasks = results["sync"], results["async"], results["tasks"]
    events, started = results["events"], results["starts"]
    alone, loop = events.best("unwatched"), sync.best("loop")
    begun = {name: (seconds - started["bare Python"]) * 1000 for name, seconds in started.items()}
    rows = [
        ("sync call / loop", sync.ratio("holdfast"), "<=", 4.0),
        ("sync call / stamina", sync.ratio("holdfast", "stamina"), "<=", 1 / 10),
        ("sync call, us", sync.best("holdfast") * 1e6, "<=", 3.0),
        ("async call / loop", asynchronous.ratio("holdfast"), "<=", 5.0),
        ("async call / interlock-cb", asynchronous.ratio("holdfast", "interlock-cb"), "<=", 1 / 20),
        ("tasks, % of bare", 100 / tasks.ratio("holdfast", "bare"), ">=", 45.0),
        ("bytes per call in flight", results["in_flight"]["holdfast"], "<=", 500.0),
        ("bytes per key", results["per_key"], "<=", 1200.0),
        ("a recording costs, in loops", (events.best("recorded") - alone) / loop, "<=", 1.0),
        ("import holdfast, ms over bare", begun["import holdfast"], "<=", 40.0),
        ("holdfast --help, ms over bare", begun["holdfast --help"], "<=", 60.0),
    ]
    return [
        (what, f"{value:.3g}" if value < 1000 else f"{value:,.0f}", f"{sign} {limit:g}", met)
        for what, value, sign, limit in rows
        for met in [value <= limit if sign == "<=" else value >= limit]
    ]


def main() -> None:
    """Measure, print, and write the file that was asked for."""
    parser = argparse.ArgumentParser(description="What a policy costs, beside peers.")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: 5")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results there")
    args = parser.parse_args()
    about = machine(PACKAGES)
    show(about)
    results = measure(max(1, args.rounds))
    print(f"rounds:    {args.rounds}; best (median)\n")
    lines = table(results, list(results["sync"]))
    print("\n".join(lines))
    print("\n| goal | measured | limit | |\n|---|---:|---:|---|")
    verdicts = goals(results)
    for what, value, limit, met in verdicts:
        print(f"| {what} | {value} | {limit} | {'met' if met else 'not met'} |")
    events, loop = results["events"], results["sync"].best("loop")
    dear = (events.best("subscribed") - events.best("unwatched")) / loop
    print(f"\nA subscriber, which gets each event at once, costs {dear:.0f} loops per call.")
    if args.json is not None:
        plain = {
            name: value.as_dict() if isinstance(value, Times) else value
            for name, value in results.items()
        }
        listed = [
            dict(zip(("what", "measured", "limit", "met"), row, strict=True)) for row in verdicts
        ]
        text = json.dumps(
            {**about, "rounds": args.rounds, "table": lines, **plain, "goals": listed}, indent=2
        )
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
