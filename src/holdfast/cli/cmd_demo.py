"""`holdfast demo`: the same work with and without Holdfast, measured here and now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.cli import demo, demo_files, demo_gateway
from holdfast.cli.output import CliError, Console, Exit, size_text

if TYPE_CHECKING:
    import argparse

    from holdfast.cli.demo_result import Result

_SIDES = (demo.Without.name, demo.With.name)
_CALLS = 200
_MIB = 64
_ARIA2_FILES = 6
_QUESTIONS = 300
_STREAMS = 20
_WIDTHS = (15, 12, 12, 16)


_ABOUT_GATEWAY = (
    "questions, streams: three providers of one API; a client that goes on to the next one;",
    f"  hf.Gateway before them with `attempts = {demo_gateway.ATTEMPTS}`, a client that asks once",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Start a flaky server on this machine, do the same work twice against it, once\n"
        "with a hand-written retry loop and once with holdfast, and print what came of\n"
        "it. Needs no network; takes about half a minute."
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="of the faults: same seed, same faults (default: 1)"
    )
    parser.add_argument("--calls", type=int, default=_CALLS, help=f"how many (default: {_CALLS})")
    parser.add_argument("--mib", type=int, default=_MIB, help=f"size of the file (default: {_MIB})")


def run(args: argparse.Namespace) -> int:
    """Do it. 1 if the side with holdfast left anything undone or wrong."""
    console: Console = args.console
    for name, value in (("--calls", args.calls), ("--mib", args.mib)):
        if value < 1:
            raise CliError(f"`{name}`: {value}: it must be at least 1")
    lacks, lacks_gateway = demo_files.lacks_for_aria2(), demo_gateway.lacks()
    scenario = demo.Scenario(
        seed=args.seed,
        calls=args.calls,
        size=args.mib << 20,
        aria2_files=0 if lacks else _ARIA2_FILES,
        questions=0 if lacks_gateway else _QUESTIONS,
        streams=0 if lacks_gateway else _STREAMS,
    )
    console.note(f"seed {scenario.seed}: {_work(scenario)}, twice, at the same time, on 127.0.0.1")
    if lacks:
        console.note(f"{lacks}: without the rows of aria2")
    if lacks_gateway:
        console.note(f"{lacks_gateway}: without the rows of the gateway")

    def done(side: str, job: str, result: Result) -> None:
        console.note(f"  {side}: {job} ended after {result.seconds:.1f} s")

    results = demo.run(scenario, done)
    for line in table(scenario, results):
        console.line(line)
    for side in _SIDES:
        jobs = {job: result.data() for job, result in results[side].items()}
        console.event("Demo", {"seed": scenario.seed, "side": side, **jobs})
    good = all(result.right for result in results[demo.With.name].values())
    return Exit.DONE if good else Exit.FAILED


def _work(scenario: demo.Scenario) -> str:
    work = [
        f"{scenario.calls} calls",
        f"a file of {size_text(scenario.size)}",
        f"{scenario.files} small files",
    ]
    if scenario.aria2_files:
        work.append(f"{scenario.aria2_files} by aria2")
    if scenario.questions:
        work.append(f"{scenario.questions} questions and {scenario.streams} streams")
    return ", ".join(work)


def table(scenario: demo.Scenario, results: dict[str, dict[str, Result]]) -> list[str]:
    """Return the lines of the comparison."""
    without, held = (results[side] for side in _SIDES)
    lines = [_row("", "", *_SIDES)]
    titles = {
        "calls": f"{scenario.calls} calls",
        "file": f"{size_text(scenario.size)} file",
        "files": f"{scenario.files} files",
        "aria2": f"{scenario.aria2_files} by aria2",
        "gateway": f"{scenario.questions} questions",
        "streams": f"{scenario.streams} streams",
    }
    for job, title in titles.items():
        if job not in held:
            continue
        pair = (without[job], held[job])
        lines += [
            _row(title, "finished", *(f"{one.finished} of {one.asked}" for one in pair)),
            _row("", "wrong bytes", *(str(one.wrong) for one in pair)),
            _row("", "requests", *(str(one.requests) for one in pair)),
            _row("", "sent", *(size_text(one.sent) for one in pair)),
            _row("", "seconds", *(f"{one.seconds:.1f}" for one in pair)),
        ]
    if "gateway" not in held:
        lines.append(_row(f"{_QUESTIONS} questions", f"not run: {demo_gateway.lacks()}", "", ""))
    loop = f"{demo.TRIES} tries, {scenario.pause:g} s between them"
    for side in _SIDES:
        for job, result in results[side].items():
            for reason, count in result.reasons.items():
                lines.append(f"not finished {side}, {job}: {count} x {reason}")
    return [
        *lines,
        "",
        f"both: urllib.request with a timeout of {scenario.timeout:g} s for the calls",
        f"without: a hand-written loop, {loop}, downloads from the start",
        f"with: hf.policy, at most {demo.ATTEMPTS} tries, Retry-After heeded; hf.Downloads",
        *(["by aria2: aria2c with its defaults; hf.Downloads(via=)"] if "aria2" in held else []),
        *(_ABOUT_GATEWAY if "gateway" in held else []),
        "faults: resets, early ends, stalls, 503 with Retry-After, a file replaced on the way",
        f"the same faults again: {_command(scenario)}",
    ]


def _command(scenario: demo.Scenario) -> str:
    words = ["holdfast demo --seed", str(scenario.seed)]
    if scenario.calls != _CALLS:
        words += ["--calls", str(scenario.calls)]
    if scenario.size != _MIB << 20:
        words += ["--mib", str(scenario.size >> 20)]
    return " ".join(words)


def _row(*cells: str) -> str:
    return "".join(cell.ljust(width) for cell, width in zip(cells, _WIDTHS, strict=True)).rstrip()
