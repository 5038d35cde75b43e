"""A new journal in place of a broken one, with all that can still be trusted of the old.

    copy X and its WAL to X.broken -> read the copy into X.rebuilding -> check every row,
    and the bytes of unfinished files -> rename to X.rebuilt -> remove the WAL of X
    -> rename X.rebuilt to X

A process that dies before `X.rebuilt` is there has changed nothing. After that the new
journal is whole, and whoever opens X next takes the last two steps (`finish`). The order of
these matters: beside a WAL that is not its own SQLite would change the new journal.

What is not found again costs no file either. Added anew, an item whose file is there is
skipped by its digest or size, and one whose part is there begins anew.
"""

from __future__ import annotations

import os
import posixpath
import shutil
import zlib
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast.downloads.names import collision_key
from holdfast.downloads.salvage import Salvage, is_other_program, put
from holdfast.downloads.states import State, is_open
from holdfast.downloads.store import MIGRATIONS, Store
from holdfast.runtime.files import files
from holdfast.storage.journal import MEMORY, Journal, JournalBroken
from holdfast.storage.lock import ProcessLock
from holdfast.storage.publish import publish

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from holdfast.downloads.items import Item
    from holdfast.transfer.extents import Extent

_READ = 1 << 20


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What came of it.

    broken: where the old journal lies now.  items: found again; done: those of them whose
    file is there.  kept: bytes of unfinished files that need not be fetched again.
    """

    broken: str
    items: int
    done: int
    kept: int


def rebuild_if_broken(into: str, journal: str) -> Rebuilt | None:
    """Make a new journal if the one at `journal` cannot be trusted; None if it can.

    into: the output directory.  Raises JournalNewer, JournalBroken for a database of another
    program, Held if a process works on it, OSError.
    """
    if journal == MEMORY or not os.path.exists(journal):  # noqa: PTH110 - a plain question
        return None
    try:
        with closing(Store(journal)) as store:
            store.check_rows()
    except JournalBroken:
        lock = ProcessLock(f"{journal}.lock")
        lock.acquire()
        try:
            if is_other_program(journal):
                raise
            return _rebuild(into, journal)
        finally:
            lock.release()
    return None


def finish(journal: str) -> None:
    """Put a rebuilt journal in its place, if a process died before it could."""
    if os.path.exists(f"{journal}.rebuilt"):  # noqa: PTH110 - a plain question
        lock = ProcessLock(f"{journal}.lock")
        lock.acquire()
        try:
            _put_in_place(journal)
        finally:
            lock.release()


def _put_in_place(journal: str) -> None:
    made = f"{journal}.rebuilt"
    if os.path.exists(made):  # noqa: PTH110 - a plain question
        _remove(f"{journal}-wal", f"{journal}-shm")
        publish(made, journal)


def _rebuild(into: str, journal: str) -> Rebuilt:
    broken = _copy(journal)
    making = f"{journal}.rebuilding"
    _remove(*(making + suffix for suffix in ("", "-wal", "-shm", ".lock")))
    with closing(Journal(making, MIGRATIONS)) as new, Salvage(broken) as old:
        _take_over(old, new)
    with closing(Store(making)) as store:
        for item_id in store.ids():
            _judge(store, item_id, into)
        items = list(store.counts().values())
        done = store.counts().get(State.DONE, 0) + store.counts().get(State.SKIPPED, 0)
        kept = sum(item.kept for item in store.items() if is_open(item.state))
    _remove(*(broken + suffix for suffix in ("-wal", "-shm")))  # they are in it by now
    publish(making, f"{journal}.rebuilt")
    _put_in_place(journal)
    return Rebuilt(broken, sum(items), done, kept)


def _copy(journal: str) -> str:
    """Copy the journal and its WAL aside, and return where to."""
    number, broken = 1, f"{journal}.broken"
    while os.path.lexists(broken):
        number += 1
        broken = f"{journal}.broken-{number}"
    with suppress(FileNotFoundError):
        shutil.copyfile(f"{journal}-wal", f"{broken}-wal")
    shutil.copyfile(journal, broken)
    return broken


def _remove(*paths: str) -> None:
    # Beside the file seam, as all of SQLite is.
    for path in paths:
        with suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108 - beside the other calls


# -- rows ------------------------------------------------------------------------------------------


def _take_over(old: Salvage, new: Journal) -> None:
    """Copy the rows that can be read, whatever they say."""
    tables = _columns_of(old, new)
    columns = tables.pop("item", [])
    rows = old.items(columns) if {"id", "path"} <= set(columns) else iter(())
    more = True
    while more:
        more = False
        with new.write() as db:
            for row in _at_most(500, rows):
                more = True
                if not isinstance(row["id"], str):
                    continue  # it could not be asked for again
                row |= {"name_key": collision_key(str(row["path"])), "session": 0, "listing": 0}
                if put(db, "item", row):
                    _take_over_rest(old, db, tables, row["id"])
    place = old.meta("into")
    if place is not None:
        with new.write() as db:
            put(db, "meta", {"key": "into", "value": place})


def _columns_of(old: Salvage, new: Journal) -> dict[str, list[str]]:
    """Return the tables about items, with the columns that both journals have."""
    found = {}
    for (table,) in new.read("SELECT name FROM sqlite_schema WHERE type = 'table'"):
        mine = [row[1] for row in new.read(f"PRAGMA table_info({table})")]
        if table == "item" or ("item" in mine and table != "attempt"):
            theirs = set(old.columns(table))
            found[table] = [name for name in mine if name in theirs and name != "n"]
    return found


def _take_over_rest(
    old: Salvage, db: sqlite3.Connection, tables: dict[str, list[str]], item_id: str
) -> None:
    for table, columns in tables.items():
        if "item" in columns:
            for row in old.of_item(table, columns, item_id):
                put(db, table, row)


def _at_most(n: int, rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for _ in range(n):
        try:
            yield next(rows)
        except StopIteration:
            return


def _judge(store: Store, item_id: str, into: str) -> None:
    """Keep of an item what makes sense and is true; remove it if it makes none."""
    try:
        item = store.item(item_id)
        store.pieces(item_id)
    except JournalBroken:
        item = None
    if item is None:
        store.drop(item_id)
        return
    target = posixpath.join(into, item.path)
    if item.state in {State.DONE, State.SKIPPED} and not _is_there(target, item):
        store.update(item_id, state=State.QUEUED.value)
    elif is_open(item.state) and not item.is_held:
        store.update(item_id, state=State.QUEUED.value, reason="", text="")
    try:
        extents = store.extents(item_id)
    except JournalBroken:
        store.forget_all(item_id)
    else:
        wrong = _wrong_of(extents, posixpath.join(into, item.part))
        if wrong:
            store.forget(item_id, wrong)


def _is_there(target: str, item: Item) -> bool:
    info = files().stat(target)
    same = info is not None and (info.size, info.mtime) == (item.known_size, item.mtime)
    return same and info is not None and info.regular


def _wrong_of(extents: list[Extent], part: str) -> list[Extent]:
    """Return those whose bytes are not in the part."""
    if not extents:
        return []
    info = files().stat(part)
    if info is None or not info.regular:
        return extents
    with closing(files().open(part)) as file:

        def crc_of(extent: Extent) -> int:
            crc, at = 0, extent.off
            while at < extent.end and (data := file.pread(min(_READ, extent.end - at), at)):
                crc, at = zlib.crc32(data, crc), at + len(data)
            return crc if at == extent.end else -1

        return [extent for extent in extents if crc_of(extent) != extent.crc32]
