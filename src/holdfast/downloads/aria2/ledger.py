"""The journal of an aria2 client: downloads, batches, failures. It outlives both programs.

What authorises (signatures, tokens, headers, passwords) is not in it: see `item.Source`.
Whoever changes a download commits here before the change is shown or acted upon, so that a
kill at any moment leaves a journal from which the work can go on.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from holdfast.downloads.aria2.item import KEPT_FAILURES, Item, Source, public_options
from holdfast.downloads.aria2.model import Failure
from holdfast.downloads.aria2.states import State
from holdfast.downloads.failures import DownloadError
from holdfast.runtime.clock import clock
from holdfast.storage.journal import MEMORY, Journal, JournalBroken, JournalFull, JournalNewer
from holdfast.storage.lock import Held
from holdfast.transfer.validators import Validators
from holdfast.wire.urls import BadUrl, parse

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# The columns of a key come first in each table WITHOUT ROWID: of others, quick_check of SQLite 3.40
# says "NULL value" although there is none.
MIGRATIONS = (
    """
    CREATE TABLE item (
        n INTEGER PRIMARY KEY,
        service TEXT NOT NULL,
        gid TEXT NOT NULL,
        path TEXT NOT NULL,
        part TEXT NOT NULL,
        urls TEXT NOT NULL,
        options TEXT NOT NULL,
        secret INTEGER NOT NULL,
        overwrite INTEGER NOT NULL,
        state TEXT NOT NULL,
        held INTEGER NOT NULL,
        disk INTEGER NOT NULL,
        tries INTEGER NOT NULL,
        idle INTEGER NOT NULL,
        changes INTEGER NOT NULL,
        best INTEGER NOT NULL,
        pinned TEXT NOT NULL,
        code TEXT NOT NULL,
        message TEXT NOT NULL,
        total INTEGER NOT NULL,
        completed INTEGER NOT NULL,
        mtime REAL NOT NULL,
        added_at REAL NOT NULL,
        UNIQUE (service, gid)
    );
    CREATE TABLE failure (
        item INTEGER NOT NULL REFERENCES item (n) ON DELETE CASCADE,
        no INTEGER NOT NULL,
        at REAL NOT NULL,
        code TEXT NOT NULL,
        message TEXT NOT NULL,
        delay REAL NOT NULL,
        bytes INTEGER NOT NULL,
        PRIMARY KEY (item, no)
    ) WITHOUT ROWID;
    CREATE TABLE batch (
        service TEXT NOT NULL,
        id TEXT NOT NULL,
        created_at REAL NOT NULL,
        PRIMARY KEY (service, id)
    ) WITHOUT ROWID;
    CREATE TABLE member (
        service TEXT NOT NULL,
        batch TEXT NOT NULL,
        gid TEXT NOT NULL,
        no INTEGER NOT NULL,
        PRIMARY KEY (service, batch, gid)
    ) WITHOUT ROWID;
    """,
)
_FIELDS = (
    "gid", "path", "part", "urls", "options", "secret", "overwrite", "state", "held", "disk",
    "tries", "idle", "changes", "best", "pinned", "code", "message", "total",
    "completed", "mtime", "added_at",
)  # fmt: skip
_SELECT = f"SELECT n, {', '.join(_FIELDS)} FROM item WHERE service = ? ORDER BY n"  # noqa: S608 - constants
_UPSERT = (
    f"INSERT INTO item (service, {', '.join(_FIELDS)})"  # noqa: S608 - constants
    f" VALUES ({', '.join('?' * (len(_FIELDS) + 1))}) ON CONFLICT (service, gid) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _FIELDS[1:])
)


class Ledger:
    """The rows of one service (`host:port`) in one journal. For any thread.

    Raises DownloadError (HF-1004 to HF-1007) if the journal cannot be used.
    """

    def __init__(self, path: str, service: str) -> None:
        self.path = path
        self.service = service
        if path != MEMORY:
            _make_directory(path)
        try:
            with _refusing():
                self._journal = Journal(path, MIGRATIONS)
        except Held as error:
            text = f"`{path}`: another client works with this journal (pid: {error.pid})"
            step = "Close that client, or give this one a `journal=` of its own."
            raise DownloadError("journal-busy", text, next_step=step, exit_code=75) from None
        except OSError as error:
            text = f"`{path}`: the journal cannot be written ({error.strerror})"
            raise DownloadError("bad-output", text) from None

    def close(self) -> None:
        """Close it; a second call does nothing."""
        self._journal.close()

    # -- downloads ---------------------------------------------------------------------------

    def items(self) -> list[Item]:
        """Return all downloads, in the order of adding."""
        failures: dict[int, list[Failure]] = {}
        with _refusing():
            for n, *rest in self._journal.read(
                "SELECT item, at, code, message, delay, bytes FROM failure ORDER BY item, no"
            ):
                failures.setdefault(n, []).append(Failure(*rest))
            rows = self._journal.read(_SELECT, (self.service,))
            return [self._item(row, failures.get(row[0], [])) for row in rows]

    def _item(self, row: tuple[Any, ...], failures: list[Failure]) -> Item:
        try:
            return _item_of(dict(zip(_FIELDS, row[1:], strict=True)), failures)
        except (ValueError, KeyError, TypeError, BadUrl) as error:
            raise JournalBroken(self.path, f"a row makes no sense ({error})") from None

    def keep(self, *items: Item) -> None:
        """Commit downloads as they are now, all or none."""
        with _refusing(), self._journal.write() as db:
            db.executemany(_UPSERT, [(self.service, *_row_of(item)) for item in items])

    def failed(self, item: Item, failure: Failure) -> None:
        """Commit a failure and the state that it led to."""
        with _refusing(), self._journal.write() as db:
            self.keep(item)
            mine = "(SELECT n FROM item WHERE service = ?1 AND gid = ?2)"
            db.execute(
                "INSERT INTO failure (item, no, at, code, message, delay, bytes)"  # noqa: S608 - constants
                f" SELECT {mine}, coalesce(max(no), 0) + 1, ?3, ?4, ?5, ?6, ?7"
                f" FROM failure WHERE item = {mine}",
                (
                    self.service,
                    item.gid,
                    failure.at,
                    failure.code,
                    failure.message,
                    failure.delay,
                    failure.bytes,
                ),
            )
            db.execute(
                f"DELETE FROM failure WHERE item = {mine} AND no <="  # noqa: S608 - constants
                f" (SELECT max(no) FROM failure WHERE item = {mine}) - ?3",
                (self.service, item.gid, KEPT_FAILURES),
            )

    def forget(self, gids: Sequence[str]) -> None:
        """Remove downloads, and batches that have none left."""
        keys = [(self.service, gid) for gid in gids]
        with _refusing(), self._journal.write() as db:
            db.executemany("DELETE FROM item WHERE service = ? AND gid = ?", keys)
            db.executemany("DELETE FROM member WHERE service = ? AND gid = ?", keys)
            db.execute(
                "DELETE FROM batch WHERE service = ?1 AND id NOT IN"
                " (SELECT batch FROM member WHERE service = ?1)",
                (self.service,),
            )

    # -- batches -----------------------------------------------------------------------------

    def batches(self) -> dict[str, tuple[float, list[str]]]:
        """Return batch id -> when it was made, and its gids in the order of adding."""
        found: dict[str, tuple[float, list[str]]] = {}
        with _refusing():
            for batch, created_at in self._journal.read(
                "SELECT id, created_at FROM batch WHERE service = ?", (self.service,)
            ):
                found[batch] = (created_at, [])
            for batch, gid in self._journal.read(
                "SELECT batch, gid FROM member WHERE service = ? ORDER BY batch, no",
                (self.service,),
            ):
                found[batch][1].append(gid)
        return found

    def add_batch(self, batch: str, items: Sequence[Item]) -> None:
        """Commit downloads as members of a batch, which is made if it is new."""
        with _refusing(), self._journal.write() as db:
            self.keep(*items)
            db.execute(
                "INSERT OR IGNORE INTO batch (service, id, created_at) VALUES (?, ?, ?)",
                (self.service, batch, clock.wall()),
            )
            db.executemany(
                "INSERT OR IGNORE INTO member (service, batch, gid, no)"
                " SELECT ?1, ?2, ?3, coalesce(max(no), 0) + 1 FROM member"
                " WHERE service = ?1 AND batch = ?2",
                [(self.service, batch, item.gid) for item in items],
            )


def _row_of(item: Item) -> tuple[object, ...]:
    pinned = item.pinned
    described = (
        ""
        if pinned is None
        else json.dumps([pinned.etag, pinned.last_modified, pinned.size, pinned.dated])
    )
    return (
        item.gid, item.path, item.part, json.dumps(item.urls),
        json.dumps(public_options(item.options)), item.secret, item.overwrite, item.state.value,
        item.held, item.disk, item.tries, item.idle, item.changes, item.best,
        described, item.code, item.message, item.total, item.completed, item.mtime, item.added_at,
    )  # fmt: skip


def _item_of(row: dict[str, Any], failures: list[Failure]) -> Item:
    if len(row["gid"]) != 16 or not set(row["gid"]) <= set("0123456789abcdef"):
        raise ValueError(f"gid {row['gid']!r}")
    row["urls"] = tuple(str(url) for url in json.loads(row["urls"]))
    row["options"] = dict(json.loads(row["options"]))
    row["state"] = State(row["state"])
    for name in ("secret", "overwrite", "held", "disk"):
        row[name] = bool(row[name])
    row["pinned"] = _validators_of(row["pinned"])
    parsed = tuple(parse(url) for url in row["urls"])
    source = None if row["secret"] else Source(parsed, row["options"])
    return Item(**row, source=source, failures=tuple(failures))


def _validators_of(text: str) -> Validators | None:
    if not text:
        return None
    etag, last_modified, size, dated = json.loads(text)
    return Validators(etag=etag, last_modified=last_modified, size=size, dated=bool(dated))


def _make_directory(path: str) -> None:
    try:
        os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)  # noqa: PTH103, PTH120 - text paths, as everywhere in downloads
    except OSError as error:
        text = f"`{path}`: its directory cannot be made ({error.strerror})"
        raise DownloadError("bad-output", text) from None


@contextmanager
def _refusing() -> Iterator[None]:
    """Say what the errors of a journal mean here."""
    try:
        yield
    except JournalNewer as error:
        raise DownloadError("journal-newer", str(error)) from None
    except JournalBroken as error:
        raise DownloadError("journal-broken", str(error)) from None
    except JournalFull as error:
        raise DownloadError("disk", str(error), exit_code=3) from None
