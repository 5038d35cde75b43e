"""The journal: one SQLite file that remembers work across any death of the process.

WAL mode, `synchronous=FULL`: what `write` committed is on stable storage when it returns,
so callers may order their own syncs around it. One process writes (see `lock`), with one
connection behind a lock; others may read, also while it runs.

A journal that is damaged, newer than this program or something else altogether is refused:
guessing what it meant could mix bytes of two versions.
"""

from __future__ import annotations

import functools
import os
import sqlite3
import threading
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from holdfast.core.errors import HoldfastError
from holdfast.storage.lock import ProcessLock

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

APPLICATION_ID = 0x486F6C64  # "Hold": `file` and SQLite tools show whose file it is
BUSY_SECONDS = 5.0
THOROUGH_BYTES = 256 << 20
"""Journals up to this size, about a million items, are compared with their indexes when they
are opened to be written (0.15 s per 100,000 items); larger ones get the quick check only."""
RESERVE = 256 << 10
RESERVE_ALL = 4352 << 10
"""Bytes of the WAL that are taken from the disk when a journal is opened, so that on a disk that
fills up it can still be said what is there. All that it grows to, 1,000 pages, where there is
room in plenty; else 60 pages, which is some dozens of commits."""
MEMORY = ":memory:"
ERRORS = (sqlite3.DatabaseError, UnicodeDecodeError)
"""What a damaged file makes SQLite raise: its messages quote names, and these may be no text."""


class JournalError(HoldfastError):
    """The journal cannot be used. path: of the file; reason: why, for people."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"`{path}`: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.path, self.reason))


class JournalBroken(JournalError):
    """It is damaged, or no journal at all."""


class JournalNewer(JournalError):
    """A newer version of the program wrote it."""


class JournalFull(JournalError):
    """The disk has no room for a commit. Nothing of the transaction was kept."""


class Journal:
    """A journal of one kind, brought to its newest form when it is opened.

    path: of the file, or `:memory:`.  migrations: SQL scripts; number n brings version n to
    n + 1. Only ever append to them.  read_only: look on while another process works.
    Raises JournalBroken, JournalNewer, lock.Held, or OSError if the file cannot be made.
    """

    def __init__(self, path: str, migrations: Sequence[str], *, read_only: bool = False) -> None:
        self.path = path
        self._mutex = threading.RLock()
        self._depth = 0
        self._lock: ProcessLock | None = None
        if path != MEMORY and not read_only:
            self._lock = ProcessLock(path + ".lock")
            self._lock.acquire()
        try:
            self._db = self._open(read_only=read_only)
            try:
                self._prepare(migrations, read_only=read_only)
            except BaseException:
                self._db.close()
                raise
        except BaseException:
            self._unlock()
            raise

    def _open(self, *, read_only: bool) -> sqlite3.Connection:
        if self.path != MEMORY and not read_only:
            Path(self.path).touch()  # the error of an unwritable place is then an OSError
        name = self.path
        if read_only:
            name = f"file:{quote(self.path)}?mode=ro"
        try:
            return sqlite3.connect(
                name,
                uri=read_only,
                timeout=BUSY_SECONDS,
                isolation_level=None,  # transactions begin and end where we say
                check_same_thread=False,  # the mutex keeps threads apart
            )
        except sqlite3.Error as error:
            raise JournalBroken(self.path, f"it cannot be opened ({error})") from None

    def _prepare(self, migrations: Sequence[str], *, read_only: bool) -> None:
        try:
            found = self._value(f"PRAGMA {self._check_for(read_only=read_only)}(1)")
            if found != "ok":
                raise JournalBroken(self.path, f"it is damaged ({found})")
            version = int(self._value("PRAGMA user_version"))
            kind = int(self._value("PRAGMA application_id"))
            tables = int(self._value("SELECT count(*) FROM sqlite_schema"))
            if tables and kind != APPLICATION_ID:
                raise JournalBroken(self.path, "it is a database of another program")
            if version > len(migrations):
                raise JournalNewer(self.path, f"it has form {version}, known: {len(migrations)}")
            if read_only:
                if version < len(migrations):
                    raise JournalBroken(self.path, "it is empty or of an older form")
                self._check_tables(migrations)
                return
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA foreign_keys = ON")
            self._migrate(migrations, version)
            self._check_tables(migrations)
            self._reserve()
        except ERRORS as error:
            raise self._translated(error) from None

    def _check_for(self, *, read_only: bool) -> str:
        # An index that has lost a row hides an item from those who ask for its state.
        pages = int(self._value("PRAGMA page_count")) * int(self._value("PRAGMA page_size"))
        return "quick_check" if read_only or pages > THOROUGH_BYTES else "integrity_check"

    def _check_tables(self, migrations: Sequence[str]) -> None:
        # SQLite's own checks look at rows and pages: a letter that changed in the name of a
        # table is met only by the statement that needs it, in the middle of a run.
        if _tables(self._db) != _tables_of(tuple(migrations)):
            raise JournalBroken(self.path, "its tables are not those of a journal")

    def _migrate(self, migrations: Sequence[str], version: int) -> None:
        for number, script in enumerate(migrations[version:], version + 1):
            with self.write() as db:
                _run(db, script)
                db.execute(f"PRAGMA user_version = {number}")
                db.execute(f"PRAGMA application_id = {APPLICATION_ID}")

    def _reserve(self) -> None:
        """Take room for commits to come. SQLite does not look at what lies beyond its frames.

        Closing a descriptor ends all locks of the process on that file; those of SQLite are on
        the journal and its index, not on the WAL.
        """
        if self.path == MEMORY or not hasattr(os, "posix_fallocate"):
            return
        with suppress(OSError), Path(f"{self.path}-wal").open("r+b") as wal:
            room = os.fstatvfs(wal.fileno())
            much = room.f_bavail * room.f_frsize > 16 * RESERVE_ALL
            os.posix_fallocate(wal.fileno(), 0, RESERVE_ALL if much else RESERVE)

    def _value(self, sql: str) -> Any:  # noqa: ANN401 - whatever SQLite holds
        return self._db.execute(sql).fetchone()[0]

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Run the block as one transaction; it is durable when the block has ended.

        Inside another `write` of the same thread the block joins that one. Whatever the
        block raises undoes all of it. Raises JournalFull or JournalBroken.
        """
        with self._mutex:
            if self._depth:
                yield self._db
                return
            self._depth = 1
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if isinstance(error, ERRORS):
                    raise self._translated(error) from None
                raise
            finally:
                self._depth = 0

    def read(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with self._mutex:
            try:
                return self._db.execute(sql, values).fetchall()
            except ERRORS as error:
                raise self._translated(error) from None

    def _translated(self, error: Exception) -> JournalError:
        code = getattr(error, "sqlite_errorcode", None)
        if code is not None and code & 0xFF == sqlite3.SQLITE_FULL:
            return JournalFull(self.path, "the disk is full")
        return JournalBroken(self.path, f"SQLite: {error}")

    def close(self) -> None:
        """Close it; a second call does nothing.

        If another thread sits in a commit that does not return (a dying disk), it is left
        to the end of the process.
        """
        if not self._mutex.acquire(timeout=1.0):
            return
        try:
            self._db.close()
            self._unlock()
        finally:
            self._mutex.release()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def _run(db: sqlite3.Connection, script: str) -> None:
    for statement in script.split(";"):
        if statement.strip():
            db.execute(statement)


def _tables(db: sqlite3.Connection) -> list[tuple[str, ...]]:
    """Return what a database says of its tables and indexes, without regard to blanks."""
    rows = db.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql NOT NULL")
    return sorted((*map(str, row[:3]), " ".join(str(row[3]).split())) for row in rows)


@functools.cache
def _tables_of(migrations: tuple[str, ...]) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(MEMORY)) as db:
        for script in migrations:
            _run(db, script)
        return _tables(db)
