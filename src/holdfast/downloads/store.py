"""What the journal holds of downloads: items, their sources, extents and attempts.

Every method that changes something is one transaction and durable when it returns. Rows are
checked when they are read: a journal is a file, and files come from anywhere.
"""

from __future__ import annotations

import zlib
from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.downloads.failures import CODES, Failure
from holdfast.downloads.items import FailedItem, Item
from holdfast.downloads.items import item_id as made_id
from holdfast.downloads.names import collision_key, numbered, part_path, safe_path
from holdfast.downloads.states import State, is_open
from holdfast.runtime.clock import clock
from holdfast.storage.journal import Journal, JournalBroken
from holdfast.transfer.extents import Extent
from holdfast.transfer.repair import Pieces
from holdfast.transfer.validators import Rung, Validators, is_version_id
from holdfast.transfer.verify import Digest
from holdfast.transfer.wanted import Standing

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Sequence

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
    # A listing is continued with its token, so each page is committed together with the token
    # of the next one. `key` says what was asked; no credential is in it or in `options`.
    """
    ALTER TABLE item ADD COLUMN listing INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE item ADD COLUMN listed INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE item ADD COLUMN retried INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE item ADD COLUMN promised TEXT NOT NULL DEFAULT '';
    ALTER TABLE item ADD COLUMN typed INTEGER NOT NULL DEFAULT 1;
    ALTER TABLE attempt ADD COLUMN host TEXT NOT NULL DEFAULT '';
    CREATE TABLE listing (
        n INTEGER PRIMARY KEY,
        key TEXT NOT NULL UNIQUE,
        source TEXT NOT NULL,
        options TEXT NOT NULL,
        state TEXT NOT NULL,
        token TEXT NOT NULL DEFAULT '',
        seen INTEGER NOT NULL DEFAULT 0,
        taken INTEGER NOT NULL DEFAULT 0,
        bytes INTEGER NOT NULL DEFAULT 0
    )
    """,
    # `asked`: the path that makes the id and the part's name, where the file got another one.
    """
    ALTER TABLE item ADD COLUMN version TEXT NOT NULL DEFAULT '';
    ALTER TABLE item ADD COLUMN asked TEXT NOT NULL DEFAULT '';
    ALTER TABLE item ADD COLUMN vouched_by TEXT NOT NULL DEFAULT '';
    ALTER TABLE item ADD COLUMN ignored TEXT NOT NULL DEFAULT ''
    """,
)

_COLUMNS = (
    "id, path, state, secret, want_size, digests, pinned, etag, last_modified, dated, size,"
    " media_type, coding, rung, weak, changes, mismatches, nodes, reason, text, fetched,"
    " attempts, verified, digest, mtime, ended_at, session, listing, listed, promised, typed,"
    " version, asked, vouched_by, ignored,"
    " (SELECT url FROM source WHERE source.item = item.id AND no = 0),"
    " (SELECT group_concat(url, char(10)) FROM"
    " (SELECT url FROM source WHERE source.item = item.id AND no > 0 ORDER BY no)),"
    " (SELECT coalesce(sum(len), 0) FROM extent WHERE extent.item = item.id)"
)
KNOWN_SIZE = "CASE WHEN pinned AND size IS NOT NULL THEN size ELSE want_size END"
MOST_AT_ONCE = 500
"""Rows of one transaction or one question; SQLite takes 32,766 values in one statement."""
MOST_OF_A_NAME = 10_000
"""Files of one name that get a number each."""
_OPEN_STATES = tuple(state for state in State if is_open(state))


class Holder(NamedTuple):
    """Who has a name. session: in which it was last asked for; kept: whether it has a byte.

    asked: the path that names its part.
    """

    id: str
    asked: str
    state: str
    session: int
    url: str
    kept: bool = False

    @property
    def part(self) -> str:
        """Where its part lies, relative to the output directory."""
        return part_path(self.asked, self.id)


class Totals(NamedTuple):
    """Items to be fetched, their bytes, how many have no size, and names that are taken."""

    files: int
    bytes: int
    unknown_sizes: int
    collisions: int


class Retired(RuntimeError):
    """A worker that was left behind woke up and wants to change the journal."""


class Store:
    """The journal of one output directory. Thread-safe.

    shown: of items, only those put back in this session or later; 0 for all (see `retried`).
    """

    def __init__(self, path: str, *, read_only: bool = False) -> None:
        """Open or create it; raises as `storage.Journal` does."""
        self._journal = Journal(path, MIGRATIONS, read_only=read_only)
        self._retired = False
        self.shown = 0
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

    def retried(self) -> Store:
        """Return a face that shows only the items that were put back by `retry` since opening."""
        other = self.view()
        other.shown = self.session
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

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Run the block as one commit; for statements on many rows (see `rows`)."""
        with self._write() as db:
            yield db

    def read(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a question; for those of many rows (see `rows`)."""
        return self._journal.read(sql, values)

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

    @contextmanager
    def together(self) -> Iterator[None]:
        """Make one commit of all changes of the block."""
        with self._write():
            yield

    def insert(self, items: Iterable[Item]) -> None:
        """Add new items and their sources; what failed already, with its reason."""
        now = clock.wall()
        rows, sources = [], []
        for item in items:
            why, seen = item.failure, item.standing.pinned or Validators()
            rows.append((
                item.id, item.path, collision_key(item.path), item.state.value, item.secret,
                item.size, _digests_text(item.digests), self.session, now, item.listing,
                item.standing.listed, item.standing.pinned is not None, seen.etag, seen.size,
                why.reason if why else "", why.text if why else "", now if why else 0.0,
                item.typed, item.asked,
            ))  # fmt: skip
            sources.append((item.id, 0, item.url))
            sources += [(item.id, no, url) for no, url in enumerate(item.mirrors, 1)]
        with self._write() as db:
            db.executemany(
                "INSERT INTO item (id, path, name_key, state, secret, want_size, digests, session,"
                " added_at, listing, listed, pinned, etag, size, reason, text, ended_at, typed,"
                " asked) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                rows,
            )
            db.executemany("INSERT INTO source (item, no, url) VALUES (?, ?, ?)", sources)

    def update(self, item_id: str, **columns: object) -> None:
        """Set columns of one item. Names are the program's own, never input."""
        sets = ", ".join(f"{name} = ?" for name in columns)
        with self._write() as db:
            db.execute(f"UPDATE item SET {sets} WHERE id = ?", (*columns.values(), item_id))  # noqa: S608 - see above

    def rename(self, item_id: str, path: str, asked: str) -> None:
        """Give an item another name than the one that it was asked for by; its part keeps that."""
        self.update(
            item_id,
            path=path,
            name_key=collision_key(path),
            asked=asked if asked != path else "",
        )

    def claim(self, item: Item, path: str, *, rename: bool) -> str | None:
        """Give an item the name `path`; return the name that it got, None if another has it.

        rename: then it gets a number. One transaction: no two items can be given one name.
        """
        with self._write():
            name, n = path, 0
            while (holder := self.holders([collision_key(name)])) and (
                holder[collision_key(name)].id != item.id
            ):
                n += 1
                if not rename or n > MOST_OF_A_NAME:
                    return None
                name = numbered(path, n)
            self.rename(item.id, name, item.asked or item.path)
        return name

    def ask_again(self, known: Item, item: Item) -> None:
        """Commit that a known item was asked for again: what was promised, and its state.

        The version that a listing tells counts while there is no byte of another one.
        """
        columns: dict[str, object] = {"session": self.session}
        if item.typed and not known.typed:
            columns["typed"] = 1  # whoever asked first, now it is the user of this machine
        if (known.state, known.size, known.digests, known.secret, known.listing) != (
            item.state, item.size, item.digests, item.secret, item.listing,
        ):  # fmt: skip
            columns |= {
                "state": item.state.value,
                "want_size": item.size,
                "digests": _digests_text(item.digests),
                "secret": item.secret,
                "listing": item.listing,
            }
        if is_open(item.state) and not known.kept and item.standing != known.standing:
            pinned = item.standing.pinned
            if pinned is not None and item.standing.listed:
                # Nothing else that an answer once said is of this version.
                columns |= dict.fromkeys(("last_modified", "media_type", "coding", "version"), "")
                columns |= {"listed": 1, "pinned": 1, "dated": 0}
                columns |= {"etag": pinned.etag, "size": pinned.size}
        with self._write() as db:
            self.update(item.id, **columns)
            if (item.url, item.mirrors) != (known.url, known.mirrors):
                db.execute("DELETE FROM source WHERE item = ?", (item.id,))
                rows = [(item.id, no, url) for no, url in enumerate((item.url, *item.mirrors))]
                db.executemany("INSERT INTO source (item, no, url) VALUES (?, ?, ?)", rows)

    def renew(self, item_id: str) -> None:
        """Start the counters afresh; extents are kept."""
        self.update(
            item_id, changes=0, mismatches=0, attempts=0, reason="", text="", rung="if-match"
        )

    def drop(self, item_id: str) -> None:
        """Forget an item altogether."""
        with self._write() as db:
            db.execute("DELETE FROM item WHERE id = ?", (item_id,))

    def mark_retried(self, ids: Iterable[str]) -> None:
        """Commit that failed items were put back (see `retried`)."""
        with self._write() as db:
            rows = [(self.session, item_id) for item_id in ids]
            db.executemany("UPDATE item SET retried = ? WHERE id = ?", rows)

    def item(self, item_id: str) -> Item | None:
        """Return one item."""
        found = self._journal.read(f"SELECT {_COLUMNS} FROM item WHERE id = ?", (item_id,))  # noqa: S608 - constant
        return self._item(found[0]) if found else None

    def find(self, ids: Sequence[str]) -> dict[str, Item]:
        """Return the items of these ids that are known, at most `MOST_AT_ONCE`."""
        marks = ", ".join("?" * len(ids))
        rows = self._journal.read(f"SELECT {_COLUMNS} FROM item WHERE id IN ({marks})", ids)  # noqa: S608 - constants
        return {row[0]: self._item(row) for row in rows}

    def holders(self, keys: Sequence[str]) -> dict[str, Holder]:
        """Return, by `collision_key`, who has these names and keeps them.

        keys: at most `MOST_AT_ONCE`. What failed or was cancelled has given its name up.
        """
        marks = ", ".join("?" * len(keys))
        rows = self._journal.read(
            "SELECT name_key, id, coalesce(nullif(asked, ''), path), state, session,"  # noqa: S608 - constants
            " (SELECT url FROM source WHERE source.item = item.id AND no = 0),"
            " EXISTS (SELECT 1 FROM extent WHERE extent.item = item.id) FROM item"
            f" WHERE name_key IN ({marks}) AND state NOT IN (?, ?) ORDER BY n DESC",
            (*keys, State.FAILED.value, State.CANCELLED.value),
        )
        return {row[0]: Holder(*row[1:]) for row in rows}

    def asked_again(self, ids: Iterable[str]) -> None:
        """Commit that known items were asked for again, and nothing else about them."""
        with self._write() as db:
            rows = [(self.session, item_id) for item_id in ids]
            db.executemany("UPDATE item SET session = ? WHERE id = ?", rows)

    def items(self, *states: State, session: int = 0) -> Iterator[Item]:
        """Yield the items in these states (none: all), in the order of adding.

        session: only those asked for in it; 0 for all.

        They are read in pages, so that a list of a million costs no memory and rows may be
        changed while this goes on.
        """
        marks = ", ".join("?" * len(states))
        chosen = f"state IN ({marks}) AND" if states else ""
        chosen += " session >= ? AND retried >= ? AND"
        after = 0
        while True:
            page = self._journal.read(
                f"SELECT n, {_COLUMNS} FROM item WHERE {chosen} n > ? ORDER BY n LIMIT 500",  # noqa: S608 - constants
                (*(state.value for state in states), session, self.shown, after),
            )
            if not page:
                return
            for row in page:
                yield self._item(row[1:])
            after = int(page[-1][0])

    def counts(self) -> dict[str, int]:
        """Return how many items are in each state."""
        sql = "SELECT state, count(*) FROM item WHERE retried >= ? GROUP BY state"
        return dict(self._journal.read(sql, (self.shown,)))

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
                listed=standing.listed,
                version=pinned.version,
                promised="\n".join(f"{d.algorithm}={d.hex}={d.source}" for d in standing.promised),
            )

    def attempt_failed(self, item_id: str, verdict: Verdict, received: int, host: str = "") -> None:
        """Remember a failed attempt; received: bytes that it brought.  host: that was asked."""
        with self._write() as db:
            db.execute(
                "INSERT INTO attempt (item, no, at, kind, sent, reason, bytes, host)"
                " SELECT ?1, coalesce(max(no), 0) + 1, ?2, ?3, ?4, ?5, ?6, ?7"
                " FROM attempt WHERE item = ?1",
                (
                    item_id,
                    clock.wall(),
                    (verdict.kind.name or "").lower(),
                    verdict.sent.value,
                    verdict.reason[:100],
                    received,
                    host[:254],
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

    # -- a journal that is rebuilt ---------------------------------------------------------------

    def check_rows(self) -> None:
        """Read all there is. Raises JournalBroken for a row that makes no sense."""
        for item in self.items():
            self.extents(item.id)
            self.pieces(item.id)

    def ids(self) -> list[str]:
        """Return the ids of all items, whatever else their rows say."""
        return [str(row[0]) for row in self._journal.read("SELECT id FROM item ORDER BY n")]

    def forget_all(self, item_id: str) -> None:
        """Forget what is on disk of an item."""
        with self._write() as db:
            db.execute("DELETE FROM extent WHERE item = ?", (item_id,))

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

    def totals(self) -> Totals:
        """Return what a run would fetch: what is open and not held."""
        marks = ", ".join("?" * len(_OPEN_STATES))
        ((count, size, unknown),) = self._journal.read(
            f"SELECT count(*), total({KNOWN_SIZE}), count(*) - count({KNOWN_SIZE})"  # noqa: S608 - constants
            f" FROM item WHERE state IN ({marks}) AND NOT (state = ? AND reason = 'paused')"
            " AND retried >= ?",
            (*(state.value for state in _OPEN_STATES), State.PAUSED.value, self.shown),
        )
        ((collisions,),) = self._journal.read(
            "SELECT count(*) FROM item WHERE state = ? AND reason = 'name-collision'",
            (State.FAILED.value,),
        )
        return Totals(count, int(size), unknown, collisions)

    def finished_bytes(self) -> int:
        """Return the sizes of all files that are there and were asked for in this session."""
        states = (State.DONE.value, State.SKIPPED.value)
        sql = f"SELECT total({KNOWN_SIZE}) FROM item WHERE state IN (?, ?) AND session >= ?"  # noqa: S608 - constants
        return int(self._journal.read(sql, (*states, self.session))[0][0])

    def begun_items(self) -> Iterator[Item]:
        """Yield open items that may have a part: they have a byte, or were under way."""
        marks = ", ".join("?" * len(_OPEN_STATES))
        rows = self._journal.read(
            f"SELECT id FROM item WHERE state IN ({marks}) AND retried >= ?"  # noqa: S608 - constants
            " AND (state <> ? OR id IN (SELECT item FROM extent))",
            (*(state.value for state in _OPEN_STATES), self.shown, State.QUEUED.value),
        )
        found = (self.item(row[0]) for row in rows)
        return (item for item in found if item is not None and not item.is_held)

    def open_items(self) -> Iterator[Item]:
        """Yield the items that have work left and are not held (see `Item.is_held`)."""
        return (item for item in self.items(*_OPEN_STATES) if not item.is_held)

    def held_count(self) -> int:
        """Return how many items somebody paused."""
        found = self._journal.read(
            "SELECT count(*) FROM item WHERE state = ? AND reason = 'paused' AND retried >= ?",
            (State.PAUSED.value, self.shown),
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


def _check_types(
    texts: Sequence[object], counts: Sequence[object], sizes: Sequence[object]
) -> None:
    """Refuse values of another type: a column of SQLite takes any."""
    if not (
        all(isinstance(value, str) for value in texts)
        and all(isinstance(value, int | float) for value in counts)
        and all(value is None or isinstance(value, int) for value in sizes)
    ):
        raise ValueError("a value of another type")


_FINE: set[tuple[type, ...]] = set()
"""The types of whole rows that were checked; few differ, and a check costs 5 us."""


def _promised_of(text: str) -> tuple[Digest, ...]:
    return tuple(Digest(*part.split("=", 2)) for part in text.splitlines())


def _check_texts(item_id: str, url: str, path: str, asked: str, reason: str, version: str) -> None:
    if len(item_id) != 16 or not set(item_id) <= set("0123456789abcdef"):
        raise ValueError(f"id {item_id!r}")
    for name in (path, asked or path):
        if safe_path(name, allow_dot=True) != name:
            raise ValueError(f"path {name!r}")
    if reason and reason not in CODES:
        raise ValueError(f"reason {reason!r}")
    if version and not is_version_id(version):
        raise ValueError(f"version {version[:40]!r}")
    if item_id != made_id(url, asked or path):
        raise ValueError(f"id {item_id!r} is not that of its address and path")


def _item_of(row: tuple[Any, ...]) -> Item:
    (
        item_id, path, state, secret, want_size, digests, pinned, etag, last_modified, dated, size,
        media_type, coding, rung, weak, changes, mismatches, nodes, reason, text, fetched,
        attempts, verified, digest, mtime, ended_at, session, listing, listed, promised, typed,
        version, asked, vouched_by, ignored, url, mirrors, kept,
    ) = row  # fmt: skip
    kinds = tuple(map(type, row))
    if kinds not in _FINE:
        _check_types(
            (path, url, digests, etag, last_modified, media_type, coding, text, verified, digest,
             version, asked, vouched_by, ignored),
            (secret, pinned, dated, weak, changes, mismatches, nodes, fetched, attempts, session,
             kept, mtime, ended_at, listing, listed, typed),
            (want_size, size),
        )  # fmt: skip
        _FINE.add(kinds)
    _check_texts(item_id, url, path, asked, reason, version)
    validators = Validators(etag, last_modified, size, media_type, coding, bool(dated), version)
    return Item(
        id=item_id,
        path=path,
        url=url,
        state=State(state),
        secret=bool(secret),
        size=want_size,
        digests=_digests_of(digests),
        standing=Standing(
            validators if pinned else None,
            Rung(rung),
            bool(weak),
            changes,
            mismatches,
            bool(nodes),
            _promised_of(promised),
            bool(listed),
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
        mirrors=tuple(mirrors.split("\n")) if mirrors else (),
        listing=listing,
        typed=bool(typed),
        asked=asked,
        vouched_by=vouched_by,
        ignored=tuple(ignored.splitlines()),
    )
