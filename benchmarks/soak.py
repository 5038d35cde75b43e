"""Many small objects over a bad link for long, in little memory: does anything grow or slow down?

    python benchmarks/soak.py [--objects N] [--share S] [--seed N] [--plane P] [--json FILE]

One process fetches 100,000 objects of 64 to 4,096 bytes from an origin that strikes 5 % of them
at their first request: a reset or a clean end within the body, a head that is cut, 503, silence.
Time is scaled: the limit of silence is 0.2 s in place of 15, backoff begins at 5 ms in place of
500. What is counted is the same as in hours: files, descriptors, memory, pace.

Shown is each tenth of the objects, with its pace, what a file cost of the processor (which a
busy machine changes less), and the most memory, descriptors and threads that were seen in it.
The goals: every file there and right; memory within 150 MB at the peak, and its last tenth not
50 MB above the first; descriptors within workers and a constant; the last tenth at 95 % of the
pace of the first three (their median; the first one also sets up) at least. It exits with 1 if
one is not met.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Self

from about import machine
from processes import Script, memory_of
from soak_origin import FAULTS, content, fault_of, name_of

import holdfast as hf
from holdfast.downloads.lists import Entry
from holdfast.transfer.plane import Timeouts

if TYPE_CHECKING:
    from holdfast.downloads.items import ItemEvent

EVERY = 0.1
MEMORY_LIMIT = 150e6
GROWTH_LIMIT = 50e6
PACE_GOAL = 0.95
WORKERS = 8
SPARE = 24
"""Descriptors beside the connections: the journal, the output, the loop, Python's own."""


@dataclass(frozen=True)
class Sample:
    """One look at the process. seconds: since the start; cpu: seconds of it; done: files."""

    seconds: float
    cpu: float
    done: int
    rss: int
    fds: int
    threads: int


class Watcher:
    """Counts files that end, and looks at memory and descriptors ten times a second."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self._done = 0
        self._began = time.monotonic()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch)

    def heard(self, event: ItemEvent) -> None:
        if getattr(event.event, "state", "") == "done":
            with self._lock:
                self._done += 1

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._over.wait(EVERY):
            self._look()

    def _look(self) -> None:
        found = Sample(
            time.monotonic() - self._began,
            time.process_time(),
            self._done,
            memory_of(os.getpid()),
            len(list(Path("/proc/self/fd").iterdir())),
            threading.active_count(),
        )
        self.samples.append(found)


# -- the process that fetches ----------------------------------------------------------


def policy() -> hf.Policy:
    """Return the policy of downloads with the waits scaled to a hundredth."""
    backoff = hf.Exponential(base=0.005, cap=0.3)
    retry = hf.Retry(8, on=hf.TRANSIENT | hf.THROTTLED, backoff=backoff, budget=None)
    return hf.policy(retry, name="downloads", key=lambda call: call.host)


def peak() -> int:
    """Return the most memory that this process had; `ru_maxrss` begins with its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def fetch(url: str, into: str, objects: int, plane: str) -> dict[str, Any]:
    """Fetch all objects; return what was seen."""
    timeouts = Timeouts(connect=5, first_byte=5, idle=0.2)
    options: dict[str, Any] = {"policy": policy(), "timeouts": timeouts, "plane": plane}
    with hf.Downloads(into, WORKERS, space_check=False, **options) as d:
        names = (name_of(n) for n in range(objects))
        d.add_many(Entry(f"{url}/{name}", path=name) for name in names)
        with Watcher() as watcher:
            d.watch(watcher.heard)
            report = d.run()
    return {
        "report": {**asdict(report), "exit_code": report.exit_code},
        "samples": [asdict(sample) for sample in watcher.samples],
        "peak": peak(),
    }


def soak(objects: int, share: float, seed: int, plane: str, into: str) -> dict[str, Any]:
    """Fetch in a fresh process, look at every file, and return the outcome."""
    with Script("soak_origin.py", [share, seed]) as origin:
        url = f"http://127.0.0.1:{origin.said}"
        words = [sys.executable, __file__, "--fetch", url, "--into", into]
        words += ["--objects", str(objects), "--plane", plane]
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    seen = json.loads(done.stdout)
    faults = [fault for n in range(objects) if (fault := fault_of(seed, n, share))]
    return {
        "objects": objects,
        "faults": {name: faults.count(name) for name in FAULTS},
        "plane": plane,
        "wrong": count_wrong(into, objects, seed),
        "strays": count_strays(into, objects),
        "peak": seen["peak"],
        "report": seen["report"],
        "tenths": tenths(objects, [Sample(**sample) for sample in seen["samples"]]),
    }


def count_wrong(into: str, objects: int, seed: int) -> int:
    """Return how many files are not there, or are not what they should be."""
    paths = ((n, Path(into, name_of(n))) for n in range(objects))
    return sum(not p.is_file() or p.read_bytes() != content(seed, n) for n, p in paths)


def count_strays(into: str, objects: int) -> int:
    """Return how many files there are beside the objects and the journal."""
    found = sum(len(files) for _, _, files in os.walk(into))
    return found - objects - len(list(Path(into).glob(".holdfast.db*")))


def tenths(objects: int, samples: list[Sample]) -> list[dict[str, float]]:
    """Return pace, memory and descriptors for each tenth of the objects."""
    found = []
    for n in range(10):
        low, high = objects * n / 10, objects * (n + 1) / 10
        inside = [sample for sample in samples if low < sample.done <= high]
        if not inside:
            continue
        before = [sample for sample in samples if sample.done <= low]
        start, end = (before or inside)[-1 if before else 0], inside[-1]
        seconds = max(end.seconds - start.seconds, EVERY)
        found.append({
            "tenth": n + 1,
            "per_second": (end.done - start.done) / seconds,
            "cpu_per_file": (end.cpu - start.cpu) / max(1, end.done - start.done),
            "rss": max(sample.rss for sample in inside),
            "fds": max(sample.fds for sample in inside),
            "threads": max(sample.threads for sample in inside),
        })  # fmt: skip
    return found


# -- what is said ------------------------------------------------------------------------


def goals(result: dict[str, Any]) -> dict[str, tuple[bool, str]]:
    """Return for each goal whether it was met, and what was found."""
    first, last = result["tenths"][0], result["tenths"][-1]
    report = result["report"]
    right = report["done"] == result["objects"] and not (result["wrong"] or result["strays"])
    growth = last["rss"] - first["rss"]
    fds = max(tenth["fds"] for tenth in result["tenths"])
    # The first tenth pays for what is set up once, so it is not the fastest one.
    pace = last["per_second"] / median([tenth["per_second"] for tenth in result["tenths"][:3]])
    return {
        "every file there and right": (right, f"{report['done']} done, {result['wrong']} wrong"),
        "peak of memory at most 150 MB": (
            result["peak"] <= MEMORY_LIMIT,
            f"{result['peak'] / 1e6:.0f} MB",
        ),
        "memory grows by less than 50 MB": (growth < GROWTH_LIMIT, f"{growth / 1e6:+.1f} MB"),
        f"descriptors at most {WORKERS} and {SPARE}": (fds <= WORKERS + SPARE, str(fds)),
        "pace of the last tenth 95 % of the first three": (pace >= PACE_GOAL, f"{pace:.0%}"),
    }


def table(result: dict[str, Any]) -> list[str]:
    """Return the tenths and the goals as Markdown."""
    lines = ["| tenth | files/s | CPU per file, ms | memory, MB | descriptors | threads |"]
    lines += ["|---:|---:|---:|---:|---:|---:|"]
    for tenth in result["tenths"]:
        cells = (
            f"{tenth['tenth']}",
            f"{tenth['per_second']:,.0f}",
            f"{tenth['cpu_per_file'] * 1e3:.2f}",
            f"{tenth['rss'] / 1e6:.1f}",
            f"{tenth['fds']}",
            f"{tenth['threads']}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    for goal, (met, found) in goals(result).items():
        lines.append(f"{'met' if met else 'NOT MET'}: {goal}: {found}")
    return lines


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--objects", type=int, default=100_000)
    parser.add_argument("--share", type=float, default=0.05, help="of objects that are struck")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plane", choices=("auto", "threads", "asyncio"), default="auto")
    parser.add_argument("--into", help="directory of the files; default: a temporary one")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--fetch", metavar="URL", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.fetch:
        json.dump(fetch(args.fetch, args.into, args.objects, args.plane), sys.stdout)
        return
    with tempfile.TemporaryDirectory(prefix="holdfast-soak-", dir=args.into) as into:
        result = soak(args.objects, args.share, args.seed, args.plane, into)
    print("\n".join(table(result)))
    if args.json is not None:
        whole = {"about": machine(()), **result}
        args.json.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    sys.exit(not all(met for met, _ in goals(result).values()))


if __name__ == "__main__":
    main()
