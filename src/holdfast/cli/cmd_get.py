"""`holdfast get`: download files so that a final name means a whole file."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from holdfast.cli import get_options, get_plan, get_sources, get_status
from holdfast.cli.output import Exit, size_text, time_text
from holdfast.cli.progress import Display
from holdfast.downloads.downloads import Downloads
from holdfast.downloads.failures import CODES, DownloadError
from holdfast.transfer.plane import Timeouts

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator
    from types import FrameType

    from holdfast.cli.get_sources import Sources
    from holdfast.cli.output import Console
    from holdfast.downloads.items import Report

configure = get_options.configure


def run(args: argparse.Namespace) -> int:
    """Download, plan, or show the status."""
    word = _word(args)
    if word == "status":
        get_options.check_status(args)
        return get_status.run(args)
    get_options.check_together(args)
    sources = get_sources.of(args)
    if not sources:
        _check_journal(args, word)
    if args.dry_run:
        return get_plan.run(args, sources, _options(args), _interruptible)
    with Downloads(args.output, **_options(args)) as downloads:
        return _download(downloads, sources, word, args)


def _word(args: argparse.Namespace) -> str:
    """Return `status` or `retry-failed` if that is what is wanted. Raises DownloadError."""
    words = [str(one) for one in args.sources if one in get_options.WORDS]
    if not words:
        return ""
    if len(args.sources) > 1 or args.input or args.catalog or args.globs:
        raise DownloadError("bad-option", f"`{words[0]}` goes without a source")
    if args.dry_run:
        raise DownloadError("bad-option", f"`--dry-run` has no effect with `{words[0]}`")
    return words[0]


def _check_journal(args: argparse.Namespace, word: str) -> None:
    path = args.journal or f"{args.output}/.holdfast.db"
    if os.path.exists(path):  # noqa: PTH110 - a plain question
        return
    if word:
        raise DownloadError("no-journal", f"`{path}`: there is no journal")
    raise DownloadError("bad-option", "there is no URL, and nothing unfinished to go on with")


def _download(downloads: Downloads, sources: Sources, word: str, args: argparse.Namespace) -> int:
    console: Console = args.console
    _tell_rebuilt(downloads, console)
    retrying = word == "retry-failed"
    with Display(console) as display, _interruptible(downloads) as stopped:
        downloads.watch(display.heard)
        get_sources.gather(downloads, sources, display, args, stopped)
        if retrying:
            display.expect(downloads.retry_failed(), None)
        else:
            plan = downloads.plan()
            display.expect(plan.files, None if plan.unknown_sizes else plan.bytes)
        report = downloads.run(only_failed=retrying)
    _conclude(report, display, console, args)
    return report.exit_code


def _tell_rebuilt(downloads: Downloads, console: Console) -> None:
    if downloads.rebuilt is not None:
        made = downloads.rebuilt
        amount = f"{made.items} items, {made.done} done, {size_text(made.kept)} of others"
        console.note(f"the journal was rebuilt: {amount}; the old one: `{made.broken}`")


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of `Downloads`."""
    given = {
        "connect": args.connect_timeout,
        "first_byte": args.first_byte_timeout,
        "idle": args.stall_timeout,
    }
    given = {name: value for name, value in given.items() if value is not None}
    try:
        timeouts = Timeouts(**given) if given else None
    except ValueError as error:
        raise DownloadError("bad-option", str(error)) from None
    return {
        "timeouts": timeouts,
        "space_check": not args.no_space_check,
        "allow_private": args.allow_private,
        "rebuild": args.rebuild_journal,
        **{name: getattr(args, name) for name in _PASSED},
    }


_PASSED = (
    "workers",
    "journal",
    "per_host",
    "limit_rate",
    "attempts",
    "exists",
    "rename",
    "content_disposition",
    "allow_dot",
    "sidecar",
    "durability",
    "allow_html",
    "max_size",
    "on_full",
    "plane",
    "via",
    "aria2_secret",
    "max_time",
)
"""Options of the command that `Downloads` has by the same name."""


@contextmanager
def _interruptible(downloads: Downloads) -> Iterator[Callable[[], bool]]:
    """End well at the first Ctrl-C or SIGTERM, and at once at the second.

    Yields whether there was one. A signal that was ignored when we began stays so: a script's
    background job is not meant by a Ctrl-C for the foreground.
    """
    asked = False

    def stop(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the asked signature
        nonlocal asked
        if asked:
            os._exit(Exit.INTERRUPTED)
        asked = True
        downloads.stop()

    if threading.current_thread() is not threading.main_thread():
        yield lambda: asked  # signals are the main thread's; a caller elsewhere has its own ways
        return
    heeded = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heeded}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _conclude(report: Report, display: Display, console: Console, args: argparse.Namespace) -> None:
    """Say what came of it: the last JSON object, or one line and what nobody said yet."""
    console.event("Report", {**asdict(report), "exit_code": report.exit_code})
    for item in report.failed:
        if item.id not in display.failed and not console.json:
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
    if report.unverified:
        noun = "file is" if report.unverified == 1 else "files are"
        console.note(f"  {report.unverified} {noun} unverified: nothing vouches for the content.")
    if report.left:
        console.note(f"  Go on with `holdfast get -o {args.output}`.")
    if report.failed:
        console.note(f"  Repeat what failed with `holdfast get retry-failed -o {args.output}`.")
