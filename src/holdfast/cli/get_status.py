"""`holdfast get status`: what the journal of a directory says. It changes nothing."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.cli.output import Exit, size_text
from holdfast.downloads.failures import DownloadError
from holdfast.downloads.opening import journal_path, refusing
from holdfast.downloads.states import State, is_open
from holdfast.downloads.store import Store

if TYPE_CHECKING:
    import argparse

    from holdfast.cli.output import Console
    from holdfast.downloads.items import Item

MOST_QUEUED = 10
"""Items that wait for their turn are named up to so many; there may be a million."""
_UNTOUCHED = {State.PLANNED, State.QUEUED}


@dataclass(slots=True)
class _Total:
    """Items of one state. kept: bytes on disk; size: bytes in all, of those that are known."""

    count: int = 0
    kept: int = 0
    size: int = 0
    unknown_sizes: int = 0

    def add(self, item: Item) -> None:
        size = item.known_size
        self.count += 1
        self.kept += (size or 0) if item.state in {State.DONE, State.SKIPPED} else item.kept
        self.size += size or 0
        self.unknown_sizes += size is None


def run(args: argparse.Namespace) -> int:
    """Print it: what is open or failed by name, and each state by count and bytes."""
    console: Console = args.console
    path = journal_path(args.output, args.journal)
    if not os.path.isfile(path):  # noqa: PTH113 - a plain question
        raise DownloadError("no-journal", f"`{path}`: there is no journal")
    totals: dict[State, _Total] = {}
    with refusing(), closing(Store(path, read_only=True)) as store:
        for item in store.items():
            total = totals.setdefault(item.state, _Total())
            total.add(item)
            console.event("Item", _item_fields(item))
            if _is_named(item, total.count):
                console.line(_item_line(item))
    queued = sum(totals[state].count for state in _UNTOUCHED & totals.keys())
    if queued > MOST_QUEUED:
        console.line(f"and {queued - MOST_QUEUED} more wait for their turn")
    _sum_up(totals, console, args.output)
    return Exit.DONE


def _is_named(item: Item, number: int) -> bool:
    if item.state in _UNTOUCHED and not item.kept:
        return number <= MOST_QUEUED
    return is_open(item.state) or item.state is State.FAILED


def _sum_up(totals: dict[State, _Total], console: Console, output: str) -> None:
    ordered = {state: totals[state] for state in State if state in totals}
    console.event(
        "Status",
        {
            "counts": {state.value: total.count for state, total in ordered.items()},
            "bytes": {
                state.value: {
                    "kept": total.kept,
                    "size": total.size,
                    "unknown_sizes": total.unknown_sizes,
                }
                for state, total in ordered.items()
            },
        },
    )
    for state, total in ordered.items():
        amount = size_text(total.kept)
        if total.size > total.kept:
            amount += f" of {size_text(total.size)}"
        if total.unknown_sizes:
            amount += f", {total.unknown_sizes} of unknown size"
        console.line(f"{total.count} {state.value} ({amount})")
    if not ordered:
        console.line("nothing in the journal")
    if any(is_open(state) for state in ordered):
        console.note(f"  Go on with `holdfast get -o {output}`.")
    if State.FAILED in ordered:
        console.note(f"  Repeat what failed with `holdfast get retry-failed -o {output}`.")


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
