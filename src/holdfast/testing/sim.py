"""The simulator's command line.

    python -m holdfast.testing.sim --list
    python -m holdfast.testing.sim SCENARIO --seed N | --seeds A..B
           [--decisions FILE] [--json] [--jobs N] [--out DIR] [--no-shrink] [--trace]

SCENARIO is a name from `--list`, or `package.module:NAME` for a `Scenario` of your own. One JSON
line per run goes to standard output; exit code 1 if any run had a violation. A failure is
replayed with fewer and fewer faults, and one command that repeats the rest is printed.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import pkgutil
import shlex
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.testing import scenarios
from holdfast.testing.faults import Decision, from_json, shrink, to_json
from holdfast.testing.simulation import Scenario, SimResult, run_scenario

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SHOWN = 20
"""Faults that are listed for a person; all are in the file."""

_CHUNK = 10
"""Seeds that a worker process runs before it reports."""


def names() -> list[str]:
    """Return the names of the scenarios that come with Holdfast."""
    return sorted(module.name for module in pkgutil.iter_modules(scenarios.__path__))


def find(name: str) -> Scenario:
    """Return a scenario by name, or by `package.module:NAME`. Raises ValueError."""
    if ":" in name:
        module, _, attribute = name.partition(":")
        found = getattr(import_module(module), attribute, None)
    elif name in names():
        found = import_module(f"{scenarios.__name__}.{name}").SCENARIO
    else:
        raise ValueError(f"scenario: {name!r}: not one of {', '.join(names())}, nor MODULE:NAME")
    if not isinstance(found, Scenario):
        raise ValueError(f"scenario: {name!r}: holds no Scenario")  # noqa: TRY004 - a wrong name
    return found


def shrunk(scenario: Scenario, failed: SimResult) -> SimResult:
    """Return the run with the fewest faults that still fails in a way this one failed."""
    kinds = {_kind(text) for text in failed.violations}
    best = failed

    def fails(decisions: list[Decision]) -> bool:
        nonlocal best
        result = run_scenario(scenario, failed.seed, decisions=decisions)
        again = any(_kind(text) in kinds for text in result.violations)
        if again:
            best = result
        return again

    kept = shrink(failed.decisions, fails)
    # Faults that never came up in the shorter run are no part of it.
    return best if best.faults <= len(kept) else failed


def _kind(violation: str) -> str:
    return violation.partition(":")[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code: 0, 1 with a violation, 2 for a wrong usage."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.list:
        for name in names():
            print(f"{name:12} {find(name).about}")  # noqa: T201 - the command's output
        return 0
    try:
        scenario, seeds = find(options.scenario or ""), _seeds(options)
        decisions = None
        if options.decisions:
            decisions = from_json(Path(options.decisions).read_text(encoding="utf-8"))
    except (ValueError, OSError, ImportError) as error:
        parser.error(str(error))
    failures = 0
    for result in _runs(options, scenario, seeds, decisions):
        shown = result.as_json()
        if result.violations:
            failures += 1
            shown |= _explain(options, scenario, result)
        print(json.dumps(shown), flush=True)  # noqa: T201 - the command's output
        if result.lines is not None:
            print("\n".join(result.lines), file=sys.stderr)  # noqa: T201 - asked for
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m holdfast.testing.sim",
        description="Run simulated systems; the same seed always does the same.",
    )
    add = parser.add_argument
    add("scenario", nargs="?", help="a name from --list, or MODULE:NAME")
    add("--list", action="store_true", help="name the scenarios")
    add("--seed", type=int, metavar="N", help="run this seed")
    add("--seeds", metavar="A..B", help="run these seeds, both ends included")
    add("--decisions", metavar="FILE", help="use exactly the faults in this file")
    add("--json", action="store_true", help="nothing but JSON, also for failures")
    add("--jobs", type=int, default=1, metavar="N", help="processes (default: 1)")
    add("--out", metavar="DIR", help="where decisions of failures go (default: temporary files)")
    add("--no-shrink", action="store_true", help="do not look for fewer faults")
    add("--trace", action="store_true", help="print every event to standard error")
    return parser


def _seeds(options: argparse.Namespace) -> range:
    if (options.seed is None) == (options.seeds is None):
        raise ValueError("give --seed N or --seeds A..B")
    if options.seed is not None:
        return range(options.seed, options.seed + 1)
    first, dots, last = options.seeds.partition("..")
    if not (dots and first.isdigit() and last.isdigit() and int(first) <= int(last)):
        raise ValueError(f"--seeds: {options.seeds!r}: must be A..B with A <= B")
    return range(int(first), int(last) + 1)


def _runs(
    options: argparse.Namespace,
    scenario: Scenario,
    seeds: range,
    decisions: list[Decision] | None,
) -> Iterator[SimResult]:
    if options.jobs <= 1 or len(seeds) <= _CHUNK:
        # What exists by now lives for ever: the collections of the runs need not look at it.
        gc.freeze()
        for seed in seeds:
            yield run_scenario(scenario, seed, decisions=decisions, keep=options.trace)
        return
    chunks = [seeds[i : i + _CHUNK] for i in range(0, len(seeds), _CHUNK)]
    with ProcessPoolExecutor(options.jobs, get_context("spawn"), gc.freeze) as pool:
        jobs = [pool.submit(_chunk, options.scenario, chunk, decisions) for chunk in chunks]
        for job in jobs:
            yield from job.result()


def _chunk(name: str, seeds: range, decisions: list[Decision] | None) -> list[SimResult]:
    """Run some seeds in a worker process."""
    scenario = find(name)
    results = [run_scenario(scenario, seed, decisions=decisions) for seed in seeds]
    for result in results:
        result.error = result.value = None  # they need not pickle
    return results


def _explain(
    options: argparse.Namespace, scenario: Scenario, result: SimResult
) -> dict[str, object]:
    """Shrink a failure, keep its decisions in a file, and say how to repeat it."""
    best = result if options.no_shrink else shrunk(scenario, result)
    folder = Path(options.out or tempfile.gettempdir())
    folder.mkdir(parents=True, exist_ok=True)
    label = scenario.name.replace(os.sep, "_")
    path = folder / f"holdfast-sim-{label}-{result.seed}.jsonl"
    path.write_text(to_json(best.decisions), encoding="utf-8")
    replay = (
        f"python -m holdfast.testing.sim {shlex.quote(options.scenario)} "
        f"--seed {result.seed} --decisions {shlex.quote(str(path))}"
    )
    if not options.json:
        _tell(result, best, replay)
    return {"replay": replay, "decisions_left": best.faults}


def _tell(result: SimResult, best: SimResult, replay: str) -> None:
    lines: list[Any] = [f"seed {result.seed}: failed with {result.faults} faults"]
    lines += [f"  {text}" for text in result.violations]
    lines.append(f"still fails with {best.faults} of them:")
    lines += [f"  {fault.point} {fault.no}: {fault.kind}" for fault in best.decisions[:_SHOWN]]
    if best.faults > _SHOWN:
        lines.append(f"  and {best.faults - _SHOWN} more")
    lines.append(f"replay: {replay}")
    print("\n".join(lines), file=sys.stderr)  # noqa: T201 - the command's output


if __name__ == "__main__":
    sys.exit(main())
