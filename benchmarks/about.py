"""Where and with what a benchmark ran, stored with every result, and how that gets into a page."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def machine(packages: Iterable[str]) -> dict[str, str]:
    """Return the machine, the Python, the versions of `packages`, the date and the command."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    versions = {name: importlib.metadata.version(name) for name in ("holdfast", *packages)}
    script = f"benchmarks/{Path(sys.argv[0]).name}"
    return {
        "machine": f"{model}, {os.cpu_count()} CPUs, {platform.system()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": " ".join(["python", script, *sys.argv[1:]]),
    }


def show(about: dict[str, str]) -> None:
    """Print the facts of a run, a line each."""
    for what, text in about.items():
        print(f"{what + ':':10} {text}")


def facts(about: dict[str, str]) -> list[str]:
    """Return the facts of a run as the lines of a table."""
    return ["| run | |", "|---|---|", *(f"| {what} | {text} |" for what, text in about.items())]


def put_into(document: Path, marks: tuple[str, str], parts: Iterable[Sequence[str]]) -> None:
    """Put paragraphs and tables between two marks of a document, in place of what is there.

    parts: the lines of each; a blank one is put between them.
    """
    before, begin, rest = document.read_text("utf-8").partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not (begin and end):
        raise SystemExit(f"error: `{document}`: it has no `{marks[0]}` with `{marks[1]}`")
    text = "\n\n".join("\n".join(part) for part in parts)
    document.write_text(f"{before}{begin}\n{text}\n{end}{after}", "utf-8")
