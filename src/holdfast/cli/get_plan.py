"""`holdfast get --dry-run`: what a run would fetch, and whether there is room for it.

The journal of the directory is neither made nor changed: the plan is made in a copy of it. Only
listing is done, and a directory that is not there is not made.
"""

from __future__ import annotations

import os
import posixpath
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from holdfast.cli import get_sources
from holdfast.cli.output import Exit, size_text
from holdfast.cli.progress import Display
from holdfast.downloads.downloads import Downloads
from holdfast.downloads.failures import CODES, DownloadError
from holdfast.downloads.opening import journal_path
from holdfast.downloads.room import no_room

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from holdfast.cli.get_sources import Sources
    from holdfast.cli.output import Console
    from holdfast.downloads.items import FailedItem, Plan

    Watched = Callable[[Downloads], AbstractContextManager[Callable[[], bool]]]


def run(
    args: argparse.Namespace, sources: Sources, options: dict[str, Any], watched: Watched
) -> int:
    """Print the plan; 2 if it does not fit, 1 if something of it has failed already.

    watched: ends the listing at a Ctrl-C, and tells whether there was one.
    """
    console: Console = args.console
    with tempfile.TemporaryDirectory(prefix="holdfast-plan-") as room:
        journal = f"{room}/plan.db"
        _copy(journal_path(args.output, args.journal), journal)
        into = _nearest(args.output)
        with Downloads(into, **{**options, "journal": journal}) as downloads:
            with Display(console) as display, watched(downloads) as stopped:
                downloads.watch(display.heard)
                get_sources.gather(downloads, sources, display, args, stopped)
                plan = downloads.plan()
            if stopped():
                return Exit.INTERRUPTED
            code = _show(plan, downloads.failed(), console)
    if not plan.fits and not args.no_space_check:
        raise no_room(plan, args.output, plan.needed)
    return code


def _copy(path: str, to: str) -> None:
    """Copy a journal as it is at this moment, also while another process writes to it."""
    if not os.path.isfile(path):  # noqa: PTH113 - a plain question
        return
    try:
        with (
            closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as one,
            closing(sqlite3.connect(to)) as other,
        ):
            one.backup(other)
            other.execute("DELETE FROM meta WHERE key = 'into'")  # the copy lies elsewhere
            other.commit()
    except sqlite3.Error as error:
        raise DownloadError("journal-broken", f"`{path}`: {error}") from None


def _nearest(path: str) -> str:
    """Return a directory, or what is nearest above it: there is the room that counts."""
    path = posixpath.abspath(path)
    while not os.path.isdir(path) and path != "/":  # noqa: PTH112 - a plain question
        path = posixpath.dirname(path)
    return path


def _show(plan: Plan, failed: tuple[FailedItem, ...], console: Console) -> int:
    told = {**asdict(plan), "fits": plan.fits, "failed": [asdict(item) for item in failed]}
    console.event("Plan", told)
    amount = size_text(plan.bytes)
    if plan.unknown_sizes:
        amount += f", and {plan.unknown_sizes} of unknown size"
    console.line(f"files:      {plan.files} ({amount})")
    console.line(f"requests:   {plan.requests} at least")
    console.line(f"space:      {size_text(plan.needed)} needed, {size_text(plan.free)} free")
    console.line(f"collisions: {plan.collisions}")
    if not console.json:
        for item in failed:
            row = CODES[item.reason]
            console.error(f"`{item.path}`: {item.text}", next_step=row.next, code=row.code)
    return Exit.FAILED if failed else Exit.DONE
