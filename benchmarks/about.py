"""Where and with what a benchmark ran: stored with every result."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


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
