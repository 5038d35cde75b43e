"""Right bytes over bad links: holdfast beside its peers, every client against every fault.

    python benchmarks/faults.py [--only CLIENT] [--fault FAULT] [--size MIB] [--rounds N]
                                [--seed N] [--ceiling S] [--json FILE] [--page FILE]

One object (256 MiB) is fetched by each client (`faults_clients`: the rows, with their commands)
from an origin that is broken in one way (`faults_origin`: the columns). The faults follow from
the seed and from the number of the connection, so that all clients meet the same ones. A cell:

    1.02, 3 s       the right file came; bytes that the origin sent / size of the object, seconds
    F 4.49, 9 s     failed: the exit code was not 0; `60 s` is the ceiling, where it was killed
    **S** 1.00, 2 s exit code 0, and the file is wrong or absent

What the origin sent includes what a client left unread in its sockets, but not what still waited
in the kernel of the origin when the client hung up (Linux tells): that was never on the line.
With several rounds (other seeds) the worst outcome is shown, and of the rounds that ended so the
median.

In the column "replaced" the right file is the new version, and the clients that are given a
digest are given that of the new version. The last column is another story: the client is killed
(SIGKILL, with its children) when 10 to 40 % of the object have come, and run again; counted is what
the origin sent to both, and "+n" says how many files it left beside the finished one (our
journal apart, which is kept on purpose). The origin gives 16 MiB/s per connection there, else it
would be over too soon.

`--page` puts the table, and with what it was measured, between the two marks of a document.
The machine may be busy, so only the ratios are worth comparing, not the seconds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from about import machine, put_into, show
from faults_clients import CLIENTS, Asked, Client, piece_sums, version_of
from faults_origin import PATH, md5_of
from faults_programs import TARGET
from faults_results import (
    FAILED,
    FAULTS,
    MARKS,
    RIGHT,
    SILENT,
    Cell,
    Results,
    goals,
    page,
    table,
)
from processes import Running, Script, note_missing

from holdfast.chaos import Content

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MIB = 1 << 20
SIZE = 256 * MIB
CEILING = 60.0
KILL_BETWEEN = (0.1, 0.375)
"""Of the object, 24 to 96 of 256 MiB."""
LOOK_EVERY = 0.005


# -- the object ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Versions:
    """What is right: of version 1 and 2 the digests and piece sums."""

    size: int
    seed: int
    sha256: dict[int, str]
    md5: dict[int, str]
    pieces: dict[int, tuple[str, ...]]


@cache
def versions(size: int, seed: int) -> Versions:
    contents = {n: Content(size, n, name=PATH, seed=seed) for n in (1, 2)}
    return Versions(
        size,
        seed,
        {n: content.sha256() for n, content in contents.items()},
        {n: md5_of(content) for n, content in contents.items()},
        {n: piece_sums(content.pieces, size) for n, content in contents.items()},
    )


# -- processes -------------------------------------------------------------------------------


class Origin(Script):
    """`faults_origin` in its own process."""

    def __init__(self, right: Versions, fault: str, *, s3: bool) -> None:
        asked = {
            "size": right.size,
            "seed": right.seed,
            "fault": "slow" if fault == "kill" else fault,
            "s3": s3,
            "etags": right.md5 if s3 else {},
        }
        super().__init__("faults_origin.py", asked)
        self.url = f"http://127.0.0.1:{self.said}{PATH}"

    def stats(self) -> dict[str, int]:
        """Return what it has counted."""
        told: dict[str, int] = self.ask()
        return told


def environment(home: Path) -> dict[str, str]:
    """Return ours without what could lead a client elsewhere: proxies, keys, settings."""
    names = ("proxy", "aws_", "s3_", "rclone_", "holdfast_")
    kept = {k: v for k, v in os.environ.items() if not any(n in k.lower() for n in names)}
    nowhere = {"AWS_EC2_METADATA_DISABLED": "true", "PYTHONWARNINGS": "ignore"}
    return kept | nowhere | {"HOME": str(home), "XDG_CONFIG_HOME": str(home)}


# -- one cell --------------------------------------------------------------------------------


class Trial:
    """One client against one fault, in a directory of its own."""

    def __init__(self, client: Client, fault: str, right: Versions, ceiling: float) -> None:
        self._client = client
        self._fault = fault
        self._right = right
        self._ceiling = ceiling
        self._wanted = 2 if fault == "replaced" else 1

    def run(self) -> Cell:
        with tempfile.TemporaryDirectory(prefix="holdfast-faults-") as directory:
            home, work = Path(directory, "home"), Path(directory, "work")
            home.mkdir()
            work.mkdir()
            with Origin(self._right, self._fault, s3=self._client.s3) as origin:
                return self._against(origin, home, work)

    def _against(self, origin: Origin, home: Path, work: Path) -> Cell:
        sums = self._right
        asked = Asked(origin.url, sums.sha256[self._wanted], sums.pieces[self._wanted])
        command = self._client.command(asked)
        began = time.monotonic()
        with (home / "log").open("wb") as log:
            options = {"cwd": work, "env": environment(home), "stdin": subprocess.DEVNULL}
            if self._fault == "kill":
                with Running(command, stdout=log, stderr=log, **options) as first:
                    self._await_bytes(origin, first)
            with Running(command, stdout=log, stderr=log, **options) as client:
                code = self._await_end(client, began)
        seconds = time.monotonic() - began
        stats = origin.stats()
        said((home / "log").read_bytes())
        return Cell(
            self._judged(work / TARGET, code),
            stats["served"] / sums.size,
            seconds,
            stats["struck"] + (self._fault == "kill"),
            code,
            sum(not is_expected(file.name) for file in work.iterdir()),
        )

    def _await_bytes(self, origin: Origin, client: Running) -> None:
        """Return when the client is to be killed."""
        low, high = KILL_BETWEEN
        share = random.Random(self._right.seed).uniform(low, high)
        limit = time.monotonic() + self._ceiling
        while origin.stats()["served"] < share * self._right.size and time.monotonic() < limit:
            if client.process.poll() is not None:
                return
            time.sleep(LOOK_EVERY)

    def _await_end(self, client: Running, began: float) -> int | None:
        left = max(0.1, began + self._ceiling - time.monotonic())
        try:
            return client.process.wait(left)
        except subprocess.TimeoutExpired:
            return None

    def _judged(self, target: Path, code: int | None) -> str:
        if code != 0:
            return FAILED
        if not target.exists():
            return SILENT
        with target.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        return RIGHT if found == self._right.sha256[self._wanted] else SILENT


def is_expected(name: str) -> bool:
    """Whether a file may be there at the end: the object, and our journal."""
    return name == TARGET.name or name.startswith(".holdfast.db")


def said(log: bytes) -> None:
    """Show what a client wrote, if somebody looks for the reason of a failure."""
    if os.environ.get("FAULTS_LOGS"):
        print(log.decode("utf-8", "replace")[-2000:], file=sys.stderr)


# -- the command -----------------------------------------------------------------------------


def there(clients: Iterable[Client]) -> tuple[list[Client], dict[str, str]]:
    """Return the clients that can run, and the versions of their tools; name the others."""
    here, tools = [], {}
    for client in clients:
        number = version_of(client.tool)
        if number is None:
            note_missing(client.tool, client.name, client.install)
        else:
            here.append(client)
            tools[client.tool] = number
    return here, tools


def measure(clients: Sequence[Client], args: argparse.Namespace) -> Results:
    """Run all cells; say each on stderr."""
    size = int(args.size * MIB)
    results: Results = {client.name: {fault: [] for fault in args.fault} for client in clients}
    for number in range(args.rounds):
        right = versions(size, args.seed + number)
        for fault in args.fault:
            for client in clients:
                cell = Trial(client, fault, right, args.ceiling).run()
                results[client.name][fault].append(cell)
                print(
                    f"round {number + 1}, {FAULTS[fault]}: {client.name}: {cell} "
                    f"(exit {cell.exit}, {cell.struck} struck)",
                    file=sys.stderr,
                )
    return results


def arguments() -> argparse.Namespace:
    names = [client.name for client in CLIENTS]
    parser = argparse.ArgumentParser(description="Right bytes over bad links, beside peers.")
    parser.add_argument("--only", choices=names, action="append", metavar="CLIENT",
                        help=f"may be repeated: {', '.join(names)}")  # fmt: skip
    parser.add_argument("--fault", choices=FAULTS, action="append", help="may be repeated")
    parser.add_argument("--size", type=float, default=SIZE / MIB, metavar="MIB",
                        help=f"of the object; default: {SIZE // MIB}")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="default: 1")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="default: 1")
    parser.add_argument("--ceiling", type=float, default=CEILING, metavar="S",
                        help=f"seconds for one cell; default: {CEILING:.0f}")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results there")
    parser.add_argument("--page", type=Path, metavar="FILE", help="put the table in there")
    args = parser.parse_args()
    args.fault = args.fault or list(FAULTS)
    return args


def main() -> None:
    """Measure, print, and write the file that was asked for."""
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what runs is ended
    clients, tools = there(c for c in CLIENTS if args.only is None or c.name in args.only)
    about = {**machine(()), "tools": ", ".join(f"{name} {n}" for name, n in tools.items())}
    show(about)
    print(f"object:    {args.size:g} MiB; rounds: {args.rounds}; seed: {args.seed}\n")
    results = measure(clients, args)
    lines = table(results, args.fault)
    print("\n".join(lines))
    aims = list(goals(results))
    print("\n| client | fault | goal | |\n|---|---|---|---|")
    for client, fault, text, met in aims:
        print(f"| {client} | {fault} | {text} | {'met' if met else 'not met'} |")
    if args.page is not None:
        put_into(args.page, MARKS, page(about, lines))
    if args.json is not None:
        told = {
            name: {fault: [asdict(cell) for cell in cells] for fault, cells in row.items()}
            for name, row in results.items()
        }
        text = json.dumps(
            {**about, "size": int(args.size * MIB), "rounds": args.rounds, "seed": args.seed,
             "ceiling": args.ceiling, "table": lines, "results": told, "goals": aims},
            indent=2,
        )  # fmt: skip
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
