"""What the journal holds of downloads: items, their sources, extents and attempts.

Every method that changes something is one transaction and durable when it returns. Rows are
checked when they are read: a journal is a file, and files come from anywhere.
"""

from __future__ import annotations

import zlib
from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING, Any

from holdfast.downloads.failures import CODES, Failure
from holdfast.downloads.items import FailedItem, Item
from holdfast.downloads.items import item_id as made_id
from holdfast.downloads.names import collision_key, safe_path
from holdfast.downloads.states import State, is_open
from holdfast.runtime.clock import clock
from holdfast.storage.journal import Journal, JournalBroken
from holdfast.transfer.extents import Extent
from holdfast.transfer.object import Standing
from holdfast.transfer.repair import Pieces
from holdfast.transfer.validators import Rung, Validators
from holdfast.transfer.verify import Digest

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

    from holdfast.core.verdict import Verdict

KEPT_ATTEMPTS = 100
"""Failed attempts remembered per item, the newest."""

MIGRATIONS = (
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE item (
        n INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        path TEXT NOT NULL,
        name_key TEXT NOT NULL,
        state TEXT NOT NULL,
        session INTEGER NOT NULL DEFAULT 0,
        secret INTEGER NOT NULL DEFAULT 0,
        want_size INTEGER,
        digests TEXT NOT NULL DEFAULT '',
        pinned INTEGER NOT NULL DEFAULT 0,
        etag TEXT NOT NULL DEFAULT '',
        last_modified TEXT NOT NULL DEFAULT '',
        dated INTEGER NOT NULL DEFAULT 0,
        size INTEGER,
        media_type TEXT NOT NULL DEFAULT '',
        coding TEXT NOT NULL DEFAULT '',
        rung TEXT NOT NULL DEFAULT 'if-match',
        weak INTEGER NOT NULL DEFAULT 0,
        changes INTEGER NOT NULL DEFAULT 0,
        mismatches INTEGER NOT NULL DEFAULT 0,
        nodes INTEGER NOT NULL DEFAULT 0,
        reason TEXT NOT NULL DEFAULT '',
        text TEXT NOT NULL DEFAULT '',
        fetched INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0,
        verified TEXT NOT NULL DEFAULT '',
        digest TEXT NOT NULL DEFAULT '',
        mtime REAL NOT NULL DEFAULT 0,
        added_at REAL NOT NULL,
        ended_at REAL NOT NULL DEFAULT 0
    );
    CREATE INDEX item_by_state ON item (state, n);
    CREATE INDEX item_by_name ON item (name_key);
    CREATE TABLE source (
        item TEXT NOT NULL REFERENCES item (id) ON DELETE CASCADE,
        no INTEGER NOT NULL,
        url TEXT NOT NULL,
        PRIMARY KEY (item, no)
    ) WITHOUT ROWID;
    CREATE TABLE extent (
        item TEXT NOT NULL REFERENCES item (id) ON DELETE CASCADE,
        off INTEGER NOT NULL,
        len INTEGER NOT NULL,
        crc32 INTEGER NOT NULL,
        PRIMARY KEY (item, off)
    ) WITHOUT ROWID;
    CREATE TABLE attempt (
        item TEXT NOT NULL REFERENCES item (id) ON DELETE CASCADE,
        no INTEGER NOT NULL,
        at REAL NOT NULL,
        kind TEXT NOT NULL,
        sent TEXT NOT NULL,
        reason TEXT NOT NULL,
        bytes INTEGER NOT NULL,
        PRIMARY KEY (item, no)
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE pieces (
        item TEXT PRIMARY KEY REFERENCES item (id) ON DELETE CASCADE,
        size INTEGER NOT NULL,
        algorithm TEXT NOT NULL,
        hexes TEXT NOT NULL
    ) WITHOUT ROWID
    """,
)

_COLUMNS = (
    "id, path, state, secret, want_size, digests, pinned, etag, last_modified, dated, size,"
    " media_type, coding, rung, weak, changes, mismatches, nodes, reason, text, fetched,"
    " attempts, verified, digest, mtime, ended_at, session,"
    " (SELECT url FROM source WHERE source.item = item.id AND no = 0),"
    " (SELECT coalesce(sum(len), 0) FROM extent WHERE extent.item = item.id)"
)
_OPEN_STATES = tuple(state for state in State if is_open(state))


class Retired(RuntimeError):
    """A worker that was left behind woke up and wants to change the journal."""


class Store:
    """The journal of one output directory. Thread-safe."""

    def __init__(self, path: str, *, read_only: bool = False) -> None:
        """Open or create it; raises as `storage.Journal` does."""
        self._journal = Journal(path, MIGRATIONS, read_only=read_only)
        self._retired = False
        self.path = path
        self.session = 0
        if not read_only:
            self._begin_session()

    def _begin_session(self) -> None:
        # Items that were asked for since the journal was opened carry its number.
        with self._write() as db:
            db.execute(
                "INSERT INTO meta (key, value) VALUES ('session', '1')"
                " ON CONFLICT (key) DO UPDATE SET value = CAST(value AS INTEGER) + 1"
            )
            found = db.execute("SELECT value FROM meta WHERE key = 'session'").fetchone()
        self.session = int(found[0])

    def view(self) -> Store:
        """Return a second face of the same journal, which can be retired by itself."""
        other = copy(self)
        other._retired = False  # noqa: SLF001 - of this class
        return other

    def retire(self) -> None:
        """Refuse all further changes through this face: its user was left behind."""
        self._retired = True

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._journal.write() as db:
            if self._retired:
                raise Retired("this run has ended")
            yield db

    def meta(self, key: str) -> str | None:
        """Return a fact about the whole journal."""
        found = self._journal.read("SELECT value FROM meta WHERE key = ?", (key,))
        return str(found[0][0]) if found else None

    def set_meta(self, key: str, value: str) -> None:
        """Commit a fact about the whole journal."""
        with self._write() as db:
            db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, value))

    def close(self) -> None:
        """Close it; a second call does nothing."""
        self._journal.close()

    # -- items -----------------------------------------------------------------------------

    def insert(self, item: Item) -> None:
        """Add a new item and its source."""
        with self._write() as db:
            db.execute(
                "INSERT INTO item (id, path, name_key, state, secret, want_size, digests,"
                " session, added_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    item.id,
                    item.path,
                    collision_key(item.path),
                    item.state.value,
                    item.secret,
                    item.size,
                    _digests_text(item.digests),
                    self.session,
                    clock.wall(),
                ),
            )
            db.execute("INSERT INTO source (item, no, url) VALUES (?, 0, ?)", (item.id, item.url))

    def update(self, item_id: str, **columns: object) -> None:
        """Set columns of one item. Names are the program's own, never input."""
        sets = ", ".join(f"{name} = ?" for name in columns)
        with self._write() as db:
            db.execute(f"UPDATE item SET {sets} WHERE id = ?", (*columns.values(), item_id))  # noqa: S608 - see above

    def ask_again(self, item: Item) -> None:
        """Commit that a known item was asked for again: what was promised, and its state."""
        self.update(
            item.id,
            state=item.state.value,
            want_size=item.size,
            digests=_digests_text(item.digests),
            secret=item.secret,
            session=self.session,
        )

    def renew(self, item_id: str) -> None:
        """Start the counters afresh; extents are kept."""
        self.update(
            item_id, changes=0, mismatches=0, attempts=0, reason="", text="", rung="if-match"
        )

    def item(self, item_id: str) -> Item | None:
        """Return one item."""
        found = self._journal.read(f"SELECT {_COLUMNS} FROM item WHERE id = ?", (item_id,))  # noqa: S608 - constant
        return self._item(found[0]) if found else None

    def holder_of(self, item: Item) -> Item | None:
        """Return another item that has this name, or one like it, and has not given it up."""
        found = self._journal.read(
            f"SELECT {_COLUMNS} FROM item"  # noqa: S608 - constants
            " WHERE name_key = ? AND id <> ? AND state NOT IN (?, ?) ORDER BY n",
            (collision_key(item.path), item.id, State.FAILED.value, State.CANCELLED.value),
        )
        return self._item(found[0]) if found else None

    def items(self, *states: State, session: int = 0) -> Iterator[Item]:
        """Yield the items in these states (none: all), in the order of adding.

        session: only those asked for in it; 0 for all.

        They are read in pages, so that a list of a million costs no memory and rows may be
        changed while this goes on.
        """
        marks = ", ".join("?" * len(states))
        chosen = f"state IN ({marks}) AND" if states else ""
        chosen += " session >= ? AND"
        after = 0
        while True:
            page = self._journal.read(
                f"SELECT n, {_COLUMNS} FROM item WHERE {chosen} n > ? ORDER BY n LIMIT 500",  # noqa: S608 - constants
                (*(state.value for state in states), session, after),
            )
            if not page:
                return
            for row in page:
                yield self._item(row[1:])
            after = int(page[-1][0])

    def counts(self) -> dict[str, int]:
        """Return how many items are in each state."""
        return dict(self._journal.read("SELECT state, count(*) FROM item GROUP BY state"))

    def _item(self, row: tuple[Any, ...]) -> Item:
        try:
            return _item_of(row)
        except (ValueError, KeyError, TypeError) as error:
            raise JournalBroken(self.path, f"a row makes no sense ({error})") from None

    # -- progress of one item ----------------------------------------------------------------

    def extents(self, item_id: str) -> list[Extent]:
        """Return what is on disk of an item."""
        rows = self._journal.read(
            "SELECT off, len, crc32 FROM extent WHERE item = ? ORDER BY off", (item_id,)
        )
        try:
            return [_extent_of(item_id, *row) for row in rows]
        except (ValueError, TypeError) as error:
            raise JournalBroken(self.path, f"an extent makes no sense ({error})") from None

    def keep(self, item_id: str, extents: Sequence[Extent]) -> None:
        """Commit extents that are on stable storage."""
        with self._write() as db:
            db.executemany(
                "INSERT INTO extent (item, off, len, crc32) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (item, off) DO UPDATE SET len = excluded.len, crc32 = excluded.crc32",
                [(item_id, e.off, e.len, _guarded(item_id, e)) for e in extents],
            )

    def forget(self, item_id: str, extents: Sequence[Extent]) -> None:
        """Take extents back: their bytes will be overwritten."""
        with self._write() as db:
            rows = [(item_id, extent.off) for extent in extents]
            db.executemany("DELETE FROM extent WHERE item = ? AND off = ?", rows)

    def promise_pieces(self, item_id: str, pieces: Pieces) -> None:
        """Commit the digests of an item's pieces."""
        with self._write() as db:
            db.execute(
                "INSERT OR REPLACE INTO pieces (item, size, algorithm, hexes) VALUES (?, ?, ?, ?)",
                (item_id, pieces.size, pieces.algorithm, " ".join(pieces.hexes)),
            )

    def pieces(self, item_id: str) -> Pieces | None:
        """Return the digests of an item's pieces, if they are known."""
        found = self._journal.read(
            "SELECT size, algorithm, hexes FROM pieces WHERE item = ?", (item_id,)
        )
        try:
            return Pieces(found[0][0], found[0][1], tuple(found[0][2].split())) if found else None
        except (ValueError, TypeError, AttributeError) as error:
            raise JournalBroken(self.path, f"piece sums make no sense ({error})") from None

    def note(self, item_id: str, standing: Standing, *, drop: bool) -> None:
        """Commit what is known of the object; drop: forget its bytes in the same commit.

        One commit, because extents of one version beside the validators of another would
        later be joined to bytes of the other.
        """
        pinned = standing.pinned or Validators()
        with self._write() as db:
            if drop:
                db.execute("DELETE FROM extent WHERE item = ?", (item_id,))
            self.update(
                item_id,
                state=State.ACTIVE.value,
                pinned=standing.pinned is not None,
                etag=pinned.etag,
                last_modified=pinned.last_modified,
                dated=pinned.dated,
                size=pinned.size,
                media_type=pinned.media_type,
                coding=pinned.coding,
                rung=standing.limit.value,
                weak=standing.weak,
                changes=standing.changes,
                mismatches=standing.mismatches,
                nodes=standing.nodes,
            )

    def attempt_failed(self, item_id: str, verdict: Verdict, received: int) -> None:
        """Remember a failed attempt; received: bytes that it brought."""
        with self._write() as db:
            db.execute(
                "INSERT INTO attempt (item, no, at, kind, sent, reason, bytes)"
                " SELECT ?1, coalesce(max(no), 0) + 1, ?2, ?3, ?4, ?5, ?6"
                " FROM attempt WHERE item = ?1",
                (
                    item_id,
                    clock.wall(),
                    (verdict.kind.name or "").lower(),
                    verdict.sent.value,
                    verdict.reason[:100],
                    received,
                ),
            )
            db.execute(
                "DELETE FROM attempt WHERE item = ?1 AND no <="
                " (SELECT max(no) FROM attempt WHERE item = ?1) - ?2",
                (item_id, KEPT_ATTEMPTS),
            )
            db.execute("UPDATE item SET attempts = attempts + 1 WHERE id = ?", (item_id,))

    def ended(
        self, item_id: str, state: State, failure: Failure | None = None, **columns: object
    ) -> None:
        """Commit a state, and with a failure its reason. Without a part its extents go."""
        with self._write() as db:
            if state in {State.DONE, State.SKIPPED, State.CANCELLED}:
                db.execute("DELETE FROM extent WHERE item = ?", (item_id,))
            self.update(
                item_id,
                state=state.value,
                reason=failure.reason if failure else "",
                text=failure.text if failure else "",
                ended_at=clock.wall(),
                **columns,
            )

    # -- the whole --------------------------------------------------------------------------------

    def failed_list(self, *, session: int = 0) -> list[FailedItem]:
        """Return all that ended without its file. session: as in `items`."""
        return [
            FailedItem(
                item.id,
                item.path,
                item.url,
                item.failure.code,
                item.failure.reason,
                item.failure.text,
                item.attempts,
                item.ended_at,
            )
            for item in self.items(State.FAILED, session=session)
            if item.failure is not None
        ]

    def open_items(self) -> Iterator[Item]:
        """Yield the items that have work left and are not held (see `Item.is_held`)."""
        return (item for item in self.items(*_OPEN_STATES) if not item.is_held)

    def held_count(self) -> int:
        """Return how many items somebody paused."""
        found = self._journal.read(
            "SELECT count(*) FROM item WHERE state = ? AND reason = 'paused'",
            (State.PAUSED.value,),
        )
        return int(found[0][0])

    def open_count(self) -> int:
        """Return how many items have work left."""
        counts = self.counts()
        return sum(counts.get(state, 0) for state in _OPEN_STATES)


def _guarded(item_id: str, extent: Extent) -> int:
    """Return an extent's CRC with a guard of the row itself in the bits above.

    SQLite's own check finds damaged pages, not a flipped bit in a number. An extent that
    moved by such a bit would vouch for bytes that were never fetched, and unlike a wrong
    length or CRC this is not found when the bytes are read again: only some are.
    """
    told = f"{item_id} {extent.off} {extent.len} {extent.crc32}"
    return zlib.crc32(told.encode()) >> 1 << 32 | extent.crc32


def _extent_of(item_id: str, off: int, length: int, stored: int) -> Extent:
    extent = Extent(off, length, stored & 0xFFFFFFFF)
    # Rows of before there were guards have none.
    if stored >> 32 and stored != _guarded(item_id, extent):
        raise ValueError(f"offset {off}, length {length}: altered")
    return extent


def _digests_text(digests: Sequence[Digest]) -> str:
    return " ".join(f"{digest.algorithm}={digest.hex}" for digest in digests)


def _digests_of(text: str) -> tuple[Digest, ...]:
    pairs = (part.partition("=") for part in text.split())
    return tuple(Digest(algorithm, value) for algorithm, _, value in pairs)


def _item_of(row: tuple[Any, ...]) -> Item:
    (
        item_id, path, state, secret, want_size, digests, pinned, etag, last_modified, dated, size,
        media_type, coding, rung, weak, changes, mismatches, nodes, reason, text, fetched,
        attempts, verified, digest, mtime, ended_at, session, url, kept,
    ) = row  # fmt: skip
    if len(item_id) != 16 or not set(item_id) <= set("0123456789abcdef"):
        raise ValueError(f"id {item_id!r}")
    if safe_path(path, allow_dot=True) != path:
        raise ValueError(f"path {path!r}")
    if reason and reason not in CODES:
        raise ValueError(f"reason {reason!r}")
    if item_id != made_id(url, path):
        raise ValueError(f"id {item_id!r} is not that of its address and path")
    validators = Validators(etag, last_modified, size, media_type, coding, bool(dated))
    return Item(
        id=item_id,
        path=path,
        url=url,
        state=State(state),
        secret=bool(secret),
        size=want_size,
        digests=_digests_of(digests),
        standing=Standing(
            validators if pinned else None, Rung(rung), bool(weak), changes, mismatches, bool(nodes)
        ),
        failure=Failure(reason, text) if reason else None,
        kept=kept,
        fetched=fetched,
        attempts=attempts,
        verified=verified,
        digest=digest,
        mtime=mtime,
        ended_at=ended_at,
        session=session,
    )
