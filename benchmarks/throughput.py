"""How fast downloads are, beside the peers, in one run.

    python benchmarks/throughput.py [--rounds N] [--load LOAD] [--only SUBJECT]
                                    [--size-scale SHARE] [--json FILE] [--page FILE]

| load    | what                                                      |
|---------|-----------------------------------------------------------|
| large   | one file of 2 GiB, 4 connections                          |
| large16 | the same with 16: what it does to memory                  |
| tls     | the same with 4, over TLS                                 |
| medium  | 2,000 files of 1 MiB, 8 connections                       |
| small   | 20,000 files of 20 KiB, 8 connections                     |
| start   | one file of 4 KiB: how long a command takes to begin      |

nginx serves from memory, all write to memory, journal and syncs of ours are on. Rounds are
interleaved, the order changes from round to round, shown are medians; a ratio is the median of
the ratios within a round. What came is compared with what was served (size and SHA-256) after
each run, outside the clock. See `throughput_peers` for who is asked what.

Commands are timed as processes, from their start to their end. For libraries (holdfast, boto3,
obstore) the clock runs inside, without interpreter and imports; `holdfast get` shows what these
add. User and system CPU and the peak of resident memory are of the whole process, for all of
them; memory below that of this program (about 25 MiB) cannot be told from it.
Nothing fails here: a goal is printed with what was measured, met or not.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from about import facts, machine, put_into, show
from processes import found, kill_session, version
from throughput_peers import LOADS, SUBJECTS, Job, Load, Subject
from throughput_site import Site, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

LONGEST = 900.0
"""Seconds after which a run is ended and counts as failed."""

MARKS = ("<!-- speed -->", "<!-- end of speed -->")
GIB = 1 << 30
MIB = 1 << 20


@dataclass(frozen=True)
class Sample:
    """One run. wall: seconds; process: from start to end of the process.

    user, system: seconds of CPU.  rss: bytes.
    """

    wall: float
    process: float
    user: float
    system: float
    rss: int


@dataclass(frozen=True)
class Goal:
    """`subject` needs at most `most` of what `peer` needs; without a peer: in its unit."""

    load: str
    subject: str
    peer: str
    most: float
    what: str = "wall"


def _against(load: str, subject: str, **peers: float) -> list[Goal]:
    return [Goal(load, subject, name, most) for name, most in peers.items()]


GOALS = (
    *_against("large", "holdfast", aria2c=1.0, curl=1.1, boto3=0.5),
    Goal("large", "holdfast", "", 0.25, "user s/GiB"),
    Goal("large", "holdfast", "", 64, "RSS MiB"),
    Goal("large16", "holdfast", "", 64, "RSS MiB"),
    *_against("tls", "holdfast", curl=1.4),
    *_against(
        "medium", "holdfast threads",
        aria2c=0.45, curl=0.75, rclone=0.9, obstore=0.9, s5cmd=0.6, boto3=0.2,
    ),
    *_against("small", "holdfast asyncio", aria2c=0.15, curl=0.8, rclone=0.5),
    *_against("small", "holdfast threads", aria2c=0.5, curl=2.5),
    Goal("start", "holdfast get", "", 0.12, "wall s"),
)  # fmt: skip


class Failed(Exception):
    """A run that did not bring what was asked for."""


# -- one run -------------------------------------------------------------------------------


def run(subject: Subject, job: Job) -> Sample:
    """Let one subject do the load once. Raises Failed."""
    job.site.empty()
    command = subject.command(job)
    environment = _environment(job)
    log = job.scratch / "log"
    with log.open("wb") as said:
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # so that it and all its children can be ended by its id
        )
        usage = _waited(process)
        seconds = time.perf_counter() - began
    text = log.read_text(errors="replace")
    if process.returncode:
        raise Failed(f"exit code {process.returncode}: {text[-400:].strip()}")
    wrong = job.site.differences(job.load.name) if subject.name != "python -c pass" else []
    if wrong:
        raise Failed(f"{len(wrong)} files absent or wrong, the first: {wrong[0]}")
    return Sample(
        wall=_own_seconds(text) if subject.library else seconds,
        process=seconds,
        user=usage.ru_utime,
        system=usage.ru_stime,
        rss=usage.ru_maxrss * 1024,
    )


def _environment(job: Job) -> dict[str, str]:
    added = {
        "SSL_CERT_FILE": str(job.site.certificate),
        "NO_COLOR": "1",
        # As installed programs have it: the round that does not count compiles the modules.
        "PYTHONPYCACHEPREFIX": str(job.site.home / "pycache"),
    }
    left_out = {"PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}
    return {**{name: v for name, v in os.environ.items() if name not in left_out}, **added}


def _waited(process: subprocess.Popen[bytes]) -> os.struct_rusage:  # type: ignore[name-defined]
    """Wait for the end of a process, and return what it used."""
    timer = threading.Timer(LONGEST, kill_session, [process.pid])
    timer.start()
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        kill_session(process.pid)
        process.wait()
        raise
    finally:
        timer.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage


def _own_seconds(text: str) -> float:
    return float(json.loads(text.strip().splitlines()[-1])["seconds"])


# -- rounds --------------------------------------------------------------------------------


def measure(job: Job, subjects: Sequence[Subject], rounds: int) -> dict[str, list[Sample]]:
    """Run all subjects in turn, `rounds` times after one that does not count."""
    taken: dict[str, list[Sample]] = {subject.name: [] for subject in subjects}
    left = list(subjects)
    for number in range(rounds + 1):
        at = number % max(1, len(left))
        for subject in left[at:] + left[:at]:
            try:
                sample = run(subject, job)
            except Failed as error:
                print(f"failed: {job.load.name}: {subject.name}: {error}")
                left.remove(subject)
                del taken[subject.name]
                continue
            if number:
                taken[subject.name].append(sample)
    return taken


def ratio(ours: Sequence[Sample], theirs: Sequence[Sample]) -> float:
    """Return the median over rounds of our time by theirs."""
    return median(a.wall / b.wall for a, b in zip(ours, theirs, strict=True))


def middle(samples: Sequence[Sample], of: Callable[[Sample], float]) -> float:
    """Return the median of one figure."""
    return median(of(sample) for sample in samples)


# -- tables ----------------------------------------------------------------------------------


def table(load: Load, taken: dict[str, list[Sample]]) -> list[str]:
    """Return what was measured, a line per subject, with ratios to each of ours."""
    ours = [name for name in taken if name.startswith("holdfast")]
    head = ["subject", "wall s", "MiB/s", "user s", "system s", "RSS MiB"]
    head += [f"{name} / it" for name in ours]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for name, samples in taken.items():
        wall = middle(samples, lambda s: s.wall)
        cells = [
            name,
            f"{wall:.3f}",
            f"{load.count * load.size / MIB / wall:,.0f}",
            f"{middle(samples, lambda s: s.user):.2f}",
            f"{middle(samples, lambda s: s.system):.2f}",
            f"{middle(samples, lambda s: s.rss) / MIB:.0f}",
        ]
        cells += [f"{ratio(taken[our], samples):.2f}" for our in ours]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def reached(goal: Goal, load: Load, taken: dict[str, list[Sample]]) -> float | None:
    """Return what a goal is about, as measured; None if somebody was not measured."""
    ours = taken.get(goal.subject)
    if not ours:
        return None
    if goal.what == "user s/GiB":
        return middle(ours, lambda s: s.user) / (load.count * load.size / GIB)
    if goal.what == "RSS MiB":
        return middle(ours, lambda s: s.rss) / MIB
    if goal.what == "wall s":
        return middle(ours, lambda s: s.wall)
    theirs = taken.get(goal.peer)
    return ratio(ours, theirs) if theirs else None


def judged(load: Load, taken: dict[str, list[Sample]]) -> Iterator[dict[str, object]]:
    """Yield each goal of a load with what was measured."""
    for goal in GOALS:
        if goal.load != load.name:
            continue
        value = reached(goal, load, taken)
        if value is not None:
            yield {**asdict(goal), "measured": round(value, 3), "met": value <= goal.most}


def goal_table(goals: Sequence[dict[str, object]]) -> list[str]:
    """Return the goals, a line each."""
    lines = ["| load | subject | by | measured | goal | |", "|---|---|---|---:|---:|---|"]
    for goal in goals:
        peer = goal["peer"] or goal["what"]
        met = "met" if goal["met"] else "not met"
        cells = (goal["load"], goal["subject"], peer, goal["measured"], goal["most"], met)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def titled(load: Load) -> str:
    """Say what a load is."""
    return f"{load.count:,} x {load.size:,} bytes, {load.workers} connections"


# -- the program -----------------------------------------------------------------------------


def present(wanted: Sequence[str] | None) -> dict[str, Subject]:
    """Return the subjects that can run, and say of the others how to get them."""
    here = {}
    for name, subject in SUBJECTS.items():
        if wanted and name not in wanted:
            continue
        if subject.program() is None:
            print(f"absent: {name}: not measured (install: {subject.install})")
        else:
            here[name] = subject
    return here


def versions(subjects: dict[str, Subject], *others: tuple[str, ...]) -> str:
    """Return the version that each program says it has."""
    asked = [one.version for one in subjects.values() if one.version]
    said = [f"{Path(one[0]).name} {version(*one)}" for one in [*asked, *others]]
    return ", ".join(said)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="How fast downloads are, beside the peers.")
    add = parser.add_argument
    add("--rounds", type=int, default=5, metavar="N", help="that count (default: 5)")
    add("--load", choices=LOADS, action="append", help="may be repeated; default: all")
    add("--only", choices=SUBJECTS, action="append", help="may be repeated; default: all")
    text = "share of the size or of the number of files (default: 1)"
    add("--size-scale", type=float, default=1.0, metavar="SHARE", help=text)
    add("--json", type=Path, metavar="FILE", help="write all results there")
    add("--page", type=Path, metavar="FILE", help="put the tables into this document")
    return parser.parse_args()


def scaled(load: Load, share: float) -> Load:
    """Return a smaller (or larger) load of the same kind."""
    if load.name == "start":
        return load
    if load.count == 1:
        return replace(load, size=max(1, int(load.size * share)))
    return replace(load, count=max(2, int(load.count * share)))


def program(name: str, install: str) -> str:
    """Return where a program is that nothing works without."""
    path = found(name)
    if path is None:
        raise SystemExit(f"error: `{name}` is not installed\n  {install}")
    return path


def main() -> None:
    """Measure, print, and write the file that was asked for."""
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    nginx = program("nginx", "apt-get install nginx-light")
    openssl = program("openssl", "apt-get install openssl")
    subjects = present(args.only)
    about = machine(("boto3", "obstore"))
    about["programs"] = versions(subjects, (nginx, "-v"), (openssl, "version"))
    show(about)
    print(f"rounds:    {args.rounds}, interleaved; medians", flush=True)
    results: dict[str, dict[str, list[Sample]]] = {}
    goals: list[dict[str, object]] = []
    tables: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}
    titles: dict[str, str] = {}
    with serving(nginx, openssl) as site:
        for name in args.load or LOADS:
            load = scaled(LOADS[name], args.size_scale)
            chosen = [subjects[one] for one in load.subjects if one in subjects]
            results[name] = taken = _measured(site, load, chosen, args.rounds)
            tables[name] = table(load, taken)
            titles[name], sizes[name] = titled(load), load.count * load.size
            goals += judged(load, taken)
            print(f"\n{name}: {titles[name]}\n" + "\n".join(tables[name]), flush=True)
    lines = goal_table(goals)
    print("\n" + "\n".join(lines))
    if args.json is not None:
        samples = {
            load: {name: [asdict(one) for one in taken] for name, taken in by_name.items()}
            for load, by_name in results.items()
        }
        text = json.dumps(
            {**about, "rounds": args.rounds, "bytes": sizes, "tables": tables,
             "goal_table": lines, "goals": goals, "samples": samples},
            indent=2,
        )  # fmt: skip
        args.json.write_text(text + "\n")
    if args.page is not None:
        about["rounds"] = f"{args.rounds}, interleaved; medians"
        shown = [[f"**{name}**: {titles[name]}", "", *rows] for name, rows in tables.items()]
        aims = ["The goals, and what was reached:", "", *lines]
        put_into(args.page, MARKS, [facts(about), *shown, aims])


def _measured(
    site: Site, load: Load, subjects: Sequence[Subject], rounds: int
) -> dict[str, list[Sample]]:
    scratch = site.home / "scratch"
    scratch.mkdir(exist_ok=True)
    site.publish(load.name, load.count, load.size)
    try:
        return measure(Job(load, site, scratch), subjects, rounds)
    finally:
        site.withdraw(load.name)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # nginx and what ran are ended by now, and their files removed
        raise SystemExit(130) from None
