"""The two batches of `holdfast demo`: many small files, and a few through aria2.

`without` is what people write or type: a loop of urllib with three tries per file on four
threads, and `aria2c` with its own defaults. `with` is `hf.Downloads`, for aria2 with `via=`.
Both meet the same faults, drawn from the same seed.
"""

from __future__ import annotations

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

import holdfast as hf
from holdfast import chaos
from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from threading import Event

    from holdfast.downloads import Report

WORKERS: Final = 4
BATCH: Final = "/batch"
ARIA2: Final = "/aria2"
SIZES: Final = {BATCH: 1 << 18, ARIA2: 1 << 20}
LOOK_EVERY: Final = 0.1


def lacks_for_aria2() -> str:
    """Return what is missing for files through aria2, and how to get it; empty if nothing is."""
    if shutil.which("aria2c") is None:
        return "aria2c is not installed (Debian: apt-get install aria2)"
    if find_spec("aiohttp") is None:
        return "aiohttp is not installed (pip install 'holdfast[aria2]')"
    return ""


def paths(group: str, count: int) -> list[str]:
    """Return the paths of a batch on its server."""
    return [f"{group}/{n}.bin" for n in range(count)]


def objects(files: int, aria2_files: int) -> Iterator[chaos.Object]:
    """Yield what the server has of both batches, with its faults.

    Every fourth file is replaced while it is fetched; every third answer is cut somewhere.
    """
    for group, count in ((BATCH, files), (ARIA2, aria2_files)):
        size = SIZES[group]
        for n, path in enumerate(paths(group, count)):
            faults: list[Any] = [
                chaos.Status(503, retry_after=1, share=0.05),
                chaos.Reset(mean_bytes=size * 3),
                chaos.Fin(mean_bytes=size * 3, share=0.3),
                chaos.Slow(4 << 20),
            ]
            if n % 4 == 3:
                faults.append(chaos.Replace(after_bytes=size // 2))
            yield chaos.Object(path, size, faults=faults)


def by_loop(
    urls: dict[str, str], into: Path, download: Callable[[str, Path], Path]
) -> dict[str, str]:
    """Fetch each file by `download`, four at a time; return path -> why it is not there."""

    def one(path: str) -> str:
        target = into / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            download(urls[path], target)
        except Exception as error:  # noqa: BLE001 - whatever it is, this file is not there
            return f"{type(error).__name__}: {error}"[:200]
        return ""

    with ThreadPoolExecutor(WORKERS) as pool:
        return dict(zip(urls, pool.map(one, urls), strict=True))


def by_aria2c(urls: dict[str, str], into: Path, stopped: Event, timeout: float) -> dict[str, str]:
    """Let aria2c fetch a list as it does by itself; a file with a control file is not there."""
    listed = "".join(f"{url}\n  out={path.lstrip('/')}\n" for path, url in urls.items())
    command = ["aria2c", "--no-conf", "--quiet", f"-j{WORKERS}", f"-d{into}", "-i-"]
    command.append(f"--timeout={max(1, round(timeout))}")
    with subprocess.Popen(  # noqa: S603 - a fixed command, and URLs of our own server
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None  # noqa: S101 - it was asked for
        process.stdin.write(listed.encode())
        process.stdin.close()
        while process.poll() is None:
            if clock.wait(stopped, LOOK_EVERY):
                process.terminate()
    ends = {}
    for path in urls:
        target = into / path.lstrip("/")
        is_there = target.exists() and not target.with_name(f"{target.name}.aria2").exists()
        ends[path] = "" if is_there else f"aria2c ended with {process.returncode}"
    return ends


def by_downloads(
    urls: dict[str, str],
    into: Path,
    began: Callable[[hf.Downloads], object],
    **options: Any,
) -> dict[str, str]:
    """Let `hf.Downloads` fetch them; began: told who does it, for a stop."""
    with hf.Downloads(into, workers=WORKERS, **options) as downloads:
        began(downloads)
        ids = {downloads.add(url, path=path.lstrip("/")): path for path, url in urls.items()}
        report = downloads.run()
    return dict.fromkeys(urls, "") | _not_done(report, ids, into)


def _not_done(report: Report, ids: dict[str, str], into: Path) -> dict[str, str]:
    failed = {ids[item.id]: f"{item.code}: {item.text}"[:200] for item in report.failed}
    why = f"left: {', '.join(report.left_why)}"
    left = {path: why for path in ids.values() if not (into / path.lstrip("/")).exists()}
    return left | failed
