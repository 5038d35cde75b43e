"""`holdfast get`: download files so that a final name means a whole file."""

from __future__ import annotations

import argparse
import os
import re
import signal
import threading
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from holdfast.cli.output import Console, Exit, size_text, time_text
from holdfast.cli.progress import Display
from holdfast.downloads.downloads import Downloads, read_status
from holdfast.downloads.failures import CODES, DownloadError
from holdfast.downloads.states import State
from holdfast.transfer.plane import Timeouts
from holdfast.wire.urls import parse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from holdfast.downloads.items import Item, Report

EXAMPLES = """\
examples:
  holdfast get https://example.org/data.nc
  holdfast get https://example.org/a.nc https://example.org/b.nc -o data
  holdfast get https://example.org/data.nc --sha256 9f86d081884c7d65...
  holdfast get -o data              go on with what is unfinished in data
  holdfast get status -o data       what is there, what is missing and why

After an interruption, a crash or a power cut the same command goes on where it stopped.
exit codes: 0 all done or there already, 1 some failed, 2 usage, 3 stopped with work left
(disk full, a signed address is needed), 75 try again later, 130 interrupted.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `holdfast get`."""
    default = Timeouts()
    parser.usage = "holdfast get URL... [-o DIR] [options]\n       holdfast get status [-o DIR]"
    parser.description = (
        "Download files. A file gets its name when it is whole, of one version, and verified "
        "as far as its source permits; until then it is a hidden part file."
    )
    parser.epilog = EXAMPLES
    add = parser.add_argument
    add("urls", nargs="*", metavar="URL", help="http(s) address; or the word `status`")
    add("-o", "--output", default=".", metavar="DIR", help="directory for the files (default: .)")
    add("--sha256", metavar="HEX", help="what the file must be; for one URL")
    add("--md5", metavar="HEX", help="the same with MD5")
    add("--journal", metavar="FILE", help="where to remember (default: DIR/.holdfast.db)")
    add("--workers", type=int, default=8, metavar="N", help="connections at a time (default: 8)")
    add("--per-host", type=int, default=16, metavar="N", help=_PER_HOST)
    add("--limit-rate", type=_size, metavar="RATE", help="bytes per second, all together: 20M")
    add("--attempts", type=int, default=8, metavar="N", help=_ATTEMPTS)
    for name, what in (
        ("connect", "for a connection"),
        ("first-byte", "for the head of an answer"),
        ("stall", "of silence within a file"),
    ):
        seconds = default.idle if name == "stall" else getattr(default, name.replace("-", "_"))
        text = f"most seconds {what} (default: {seconds:g})"
        add(f"--{name}-timeout", type=float, default=seconds, metavar="SECONDS", help=text)
    add("--max-size", type=_size, default="1T", metavar="SIZE", help="largest file (default: 1T)")
    add("--allow-html", action="store_true", help="an HTML or JSON page is what is wanted")
    add("--on-full", choices=("wait", "fail"), default="wait", help=_ON_FULL)
    add("--durability", choices=("power", "process"), default="power", help=_DURABILITY)
    add("--rebuild-journal", action="store_true", help=_REBUILD)


_ATTEMPTS = "tries without progress (default: 8); each byte kept starts the count afresh"
_PER_HOST = "connections to one host at most (default: 16); it begins with 4"
_ON_FULL = "wait for room on a full disk (default), or leave the file and end with 3"
_REBUILD = "make a damaged journal anew from what can be trusted of it; the old one is kept aside"
_DURABILITY = "survive a power cut (default), or only a crash of the process, which is faster"


def run(args: argparse.Namespace) -> int:
    """Download, or show the status."""
    console: Console = args.console
    if args.urls == ["status"]:
        return _status(args.output, args.journal, console)
    _check(args)
    with _downloads(args) as downloads:
        if downloads.rebuilt is not None:
            made = downloads.rebuilt
            amount = f"{made.items} items, {made.done} done, {size_text(made.kept)} of others"
            console.note(f"the journal was rebuilt: {amount}; the old one: `{made.broken}`")
        for url in args.urls:
            downloads.add(url, sha256=args.sha256, md5=args.md5)
        with Display(console) as display, _interruptible(downloads):
            downloads.watch(display.heard)
            display.expect(sum(downloads.status().counts.values()), None)
            report = downloads.run()
        _conclude(report, display, console, args)
        return report.exit_code


def _check(args: argparse.Namespace) -> None:
    """Refuse the whole list before anything is fetched or written."""
    if not args.urls and not os.path.exists(args.journal or f"{args.output}/.holdfast.db"):  # noqa: PTH110 - a plain question
        raise DownloadError("bad-option", "there is no URL, and nothing unfinished to go on with")
    for url in args.urls:
        parse(url)
    if len(args.urls) > 1 and (args.sha256 or args.md5):
        raise DownloadError(
            "bad-option",
            "`--sha256` and `--md5` are for one URL",
            next_step="Use one command per file.",
        )


def _downloads(args: argparse.Namespace) -> Downloads:
    try:
        timeouts = Timeouts(args.connect_timeout, args.first_byte_timeout, args.stall_timeout)
    except ValueError as error:
        raise DownloadError("bad-option", str(error)) from None
    return Downloads(
        args.output,
        args.workers,
        journal=args.journal,
        per_host=args.per_host,
        limit_rate=args.limit_rate,
        on_full=args.on_full,
        attempts=args.attempts,
        durability=args.durability,
        timeouts=timeouts,
        allow_html=args.allow_html,
        max_size=args.max_size,
        rebuild=args.rebuild_journal,
    )


@contextmanager
def _interruptible(downloads: Downloads) -> Iterator[None]:
    """End well at the first Ctrl-C or SIGTERM, and at once at the second.

    A signal that was ignored when we began stays so: a script's background job is not meant
    by a Ctrl-C for the foreground.
    """
    asked = False

    def stop(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the asked signature
        nonlocal asked
        if asked:
            os._exit(Exit.INTERRUPTED)
        asked = True
        downloads.stop()

    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's; a caller elsewhere has its own ways
        return
    heeded = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _conclude(report: Report, display: Display, console: Console, args: argparse.Namespace) -> None:
    """Say what came of it: the last JSON object, or one line and what nobody said yet."""
    console.event("Report", {**asdict(report), "exit_code": report.exit_code})
    for item in report.failed:
        if item.id not in display.failed:
            row = CODES[item.reason]
            console.error(f"`{item.path}`: {item.text}", next_step=row.next, code=row.code)
    parts = [f"{report.done} done", f"{report.skipped} skipped", f"{len(report.failed)} failed"]
    if report.left:
        parts.append(f"{report.left} left ({', '.join(report.left_why)})")
    # What this run received: the size of what is done says nothing of a run that was stopped.
    amount = f"{size_text(report.fetched)} received in {time_text(report.seconds)}"
    if report.waste:
        amount += f", {size_text(report.waste)} of it in vain"
    console.note(f"{', '.join(parts)}: {amount}")
    if report.left:
        console.note(f"  Go on with `holdfast get -o {args.output}`.")


def _status(output: str, journal: str | None, console: Console) -> int:
    """Print what the journal says: what is open or failed by name, what is done by number."""
    found = read_status(output, journal)
    for item in found.items:
        console.event("Item", _item_fields(item))
        if item.state not in {State.DONE, State.SKIPPED}:
            console.line(_item_line(item))
    console.event("Status", {"counts": dict(found.counts)})
    counts = ", ".join(f"{n} {state}" for state, n in sorted(found.counts.items()))
    console.line(counts or "nothing in the journal")
    return Exit.DONE


def _item_fields(item: Item) -> dict[str, object]:
    why = item.failure
    return {
        "id": item.id,
        "path": item.path,
        "url": item.url,
        "state": item.state.value,
        "kept": item.kept,
        "size": item.known_size,
        "verified": item.verified,
        "attempts": item.attempts,
        **({"code": why.code, "reason": why.reason, "text": why.text} if why else {}),
    }


def _item_line(item: Item) -> str:
    size = item.known_size
    amount = size_text(item.kept) + (f" of {size_text(size)}" if size is not None else "")
    why = f": {item.failure.text} [{item.failure.code}]" if item.failure else ""
    return f"{item.state.value}: `{item.path}` ({amount}){why}"


_SIZE = re.compile(r"([0-9]{1,18})([KMGT]?)\Z", re.IGNORECASE)


def _size(text: str) -> int:
    """Read `20M`: K, M, G and T are powers of 1024."""
    found = _SIZE.match(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"`{text}`: write it as `500M` or `2G`")
    return int(found[1]) << 10 * " KMGT".index(found[2].upper() or " ")
