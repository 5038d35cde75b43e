"""The listings of a journal: what was asked, how far it is, and what it brought.

A listing is known again by its key, which says what was asked. Each page is committed together
with the token of the next one, so whoever comes after a crash goes on there.

    open       not listed to its end: the next call with the same words, or the next run, goes on
    done       listed to its end; the same words list it anew
    failed     ended without its end, or brought nothing: it is in the failed list
    cancelled  given up
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.downloads.items import Added
from holdfast.downloads.states import State
from holdfast.downloads.store import KNOWN_SIZE
from holdfast.storage.journal import JournalBroken

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from holdfast.downloads.items import Item
    from holdfast.downloads.store import Store

_COLUMNS = "n, key, source, options, state, token, seen, taken, bytes"


@dataclass(frozen=True, slots=True)
class Listing:
    """A listing in the journal.

    key: what was asked.  source: `s3://bucket/prefix`.  options: how it is asked; no credential
    is among them.  token: of the page that comes next.  seen, taken, bytes: objects listed, and
    wanted.
    """

    n: int
    key: str
    source: str
    options: Mapping[str, object]
    state: str
    token: str
    seen: int
    taken: int
    bytes: int


class Listings:
    """The listings of one journal. Thread-safe."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def begin(self, key: str, source: str, options: Mapping[str, object]) -> Listing:
        """Return the listing of this key: a new one, one to go on with, or one to do again."""
        text = json.dumps(options, sort_keys=True)
        with self._store.writing() as db:
            db.execute(
                "INSERT INTO listing (key, source, options, state) VALUES (?1, ?2, ?3, 'open')"
                " ON CONFLICT (key) DO UPDATE SET options = ?3",
                (key, source, text),
            )
            db.execute("UPDATE listing SET token = '' WHERE key = ? AND state = 'done'", (key,))
            db.execute(
                "UPDATE listing SET seen = 0, taken = 0, bytes = 0 WHERE key = ? AND token = ''",
                (key,),
            )
            db.execute("UPDATE listing SET state = 'open' WHERE key = ?", (key,))
            # What its earlier pages brought is asked for by this call, too.
            db.execute(
                "UPDATE item SET session = ? WHERE listing ="
                " (SELECT n FROM listing WHERE key = ? AND seen > 0)",
                (self._store.session, key),
            )
        return next(listing for listing in self.all() if listing.key == key)

    def turn_page(self, n: int, *, token: str, seen: int, taken: int, size: int) -> None:
        """Commit that a page is journaled. token: of the next one; the rest: of this one."""
        with self._store.writing() as db:
            db.execute(
                "UPDATE listing SET token = ?, seen = seen + ?, taken = taken + ?,"
                " bytes = bytes + ? WHERE n = ?",
                (token, seen, taken, size, n),
            )

    def learn(self, n: int, options: Mapping[str, object]) -> None:
        """Commit how a source is asked."""
        with self._store.writing() as db:
            values = (json.dumps(options, sort_keys=True), n)
            db.execute("UPDATE listing SET options = ? WHERE n = ?", values)

    def end(self, n: int, state: str) -> None:
        """Commit how a listing ended: `done` or `failed`."""
        with self._store.writing() as db:
            db.execute("UPDATE listing SET state = ? WHERE n = ?", (state, n))

    def reopen(self, item: Item) -> None:
        """Have a source listed again, that was in the failed list as `item`."""
        with self._store.writing() as db:
            db.execute("DELETE FROM item WHERE id = ?", (item.id,))
            db.execute("UPDATE listing SET state = 'open' WHERE n = ?", (item.listing,))

    def cancel(self) -> int:
        """Give up what is not listed to its end; return how many that were."""
        with self._store.writing() as db:
            sql = "UPDATE listing SET state = 'cancelled', token = '' WHERE state = 'open'"
            return db.execute(sql).rowcount

    def drop_failures(self, n: int) -> None:
        """Forget what an earlier try of a listing could not find; files stay."""
        with self._store.writing() as db:
            db.execute(
                "DELETE FROM item WHERE listing = ? AND state = ? AND"
                " (SELECT url FROM source WHERE source.item = item.id AND no = 0) LIKE 's3://%'",
                (n, State.FAILED.value),
            )

    def one(self, n: int) -> Listing | None:
        """Return one listing."""
        return next((listing for listing in self.all() if listing.n == n), None)

    def all(self, state: str = "") -> list[Listing]:
        """Return all listings, or those in one state; there are as many as calls, not files."""
        rows = self._store.read(
            f"SELECT {_COLUMNS} FROM listing WHERE ?1 IN ('', state) ORDER BY n",  # noqa: S608 - constants
            (state,),
        )
        try:
            return [
                Listing(n, key, source, _options_of(options), *rest)
                for n, key, source, options, *rest in rows
            ]
        except (ValueError, TypeError) as error:
            text = f"a listing makes no sense ({error})"
            raise JournalBroken(self._store.path, text) from None

    def added(self, numbers: Sequence[int]) -> Added:
        """Return what listings brought."""
        total = Added()
        for n in numbers:
            ((count, size, unknown, failed),) = self._store.read(
                f"SELECT count(*), total({KNOWN_SIZE}), count(*) - count({KNOWN_SIZE}),"  # noqa: S608 - constants
                " (SELECT count(*) FROM item WHERE listing = ?1 AND state = ?2)"
                " FROM item WHERE listing = ?1 AND state <> ?2",
                (n, State.FAILED.value),
            )
            total = Added(
                total.count + count,
                total.bytes + int(size),
                total.unknown_sizes + unknown,
                total.failed + failed,
            )
        return total


def _options_of(text: str) -> dict[str, object]:
    options = json.loads(text)
    if not isinstance(options, dict):
        raise TypeError("its options are no object")
    return options
