"""Reading what can be read of a damaged journal, row by row.

SQLite stops at the first page that makes no sense. So rows are read from both ends until
there, and those between are asked for one by one; what belongs to an item is asked for by
its id. Whether a row is true is not decided here: see `rebuild`.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Row = dict[str, Any]

ERRORS = (sqlite3.Error, UnicodeDecodeError)
MOST_PROBES = 100_000
"""Rows of a gap that are asked for one by one; beyond it they are given up."""


def is_other_program(path: str) -> bool:
    """Whether a file is a database that can be read and has no items: not ours to move."""
    try:
        with closing(_opened(path)) as db:
            names = {row[0] for row in db.execute("SELECT name FROM sqlite_schema")}
    except ERRORS:
        return False
    return bool(names) and "item" not in names


class Salvage:
    """Reads one damaged journal. Used as a context; it raises no error of SQLite."""

    def __init__(self, path: str) -> None:
        self._db = _opened(path)
        # Letters that are no UTF-8 make one value wrong, not the whole row unreadable.
        self._db.text_factory = lambda raw: raw.decode("utf-8", "replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._db.close()

    def columns(self, table: str) -> list[str]:
        """Return the names of a table's columns; none if there is no such table."""
        try:
            return [row[1] for row in self._db.execute(f"PRAGMA table_info({table})")]
        except ERRORS:
            return []

    def meta(self, key: str) -> str | None:
        """Return a fact about the whole journal."""
        found = list(self._some("SELECT value FROM meta WHERE key = ?", (key,)))
        return str(found[0][0]) if found else None

    def items(self, columns: Sequence[str]) -> Iterator[Row]:
        """Yield the items in the order of adding, each once, so far as they can be read."""
        names = ", ".join(columns)
        first, last = 0, 0
        for row in self._some(f"SELECT n, {names} FROM item NOT INDEXED ORDER BY n"):  # noqa: S608 - names of the schema
            if not isinstance(row[0], int) or row[0] <= first:
                break  # pages that lead back to where we were
            first = row[0]
            yield dict(zip(columns, row[1:], strict=True))
        behind: list[Row] = []
        for row in self._some(f"SELECT n, {names} FROM item NOT INDEXED ORDER BY n DESC"):  # noqa: S608 - names of the schema
            if not isinstance(row[0], int) or row[0] <= first or (behind and row[0] >= last):
                break
            last = row[0]
            behind.append(dict(zip(columns, row[1:], strict=True)))
        for n in range(first + 1, min(last, first + MOST_PROBES)):
            for row in self._some(f"SELECT {names} FROM item WHERE n = ?", (n,)):  # noqa: S608 - names of the schema
                yield dict(zip(columns, row, strict=True))
        yield from reversed(behind)

    def of_item(self, table: str, columns: Sequence[str], item_id: str) -> Iterator[Row]:
        """Yield the rows of a table that belong to an item."""
        names = ", ".join(columns)
        for row in self._some(f"SELECT {names} FROM {table} WHERE item = ?", (item_id,)):  # noqa: S608 - names of the schema
            yield dict(zip(columns, row, strict=True))

    def _some(self, sql: str, values: Sequence[object] = ()) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query until SQLite gives up."""
        try:
            yield from self._db.execute(sql, values)
        except ERRORS:
            return


def _opened(path: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(path)}?mode=rw", uri=True, isolation_level=None)


def put(db: sqlite3.Connection, table: str, row: Mapping[str, object]) -> bool:
    """Insert a row that was read from another journal; False if this one does not take it."""
    names, marks = ", ".join(row), ", ".join("?" * len(row))
    try:
        db.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(row.values()))  # noqa: S608 - names of the schema
    except (sqlite3.IntegrityError, sqlite3.InterfaceError, OverflowError):
        return False
    return True
