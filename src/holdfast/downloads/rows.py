"""The journal in bulk: rows of small files as they are read, and groups of them as they end.

What the journal holds is checked here as everywhere (see `store`), only cheaper: a row that the
quick look does not know as good is handed on by its id, and read again with all checks.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.downloads.items import item_id as identity
from holdfast.downloads.names import is_plain_path
from holdfast.downloads.states import State, is_open
from holdfast.runtime.clock import clock
from holdfast.transfer.verify import Digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.downloads.store import Store
    from holdfast.transfer.wanted import Whole

PAGE = 500
MOST = 4 << 20
"""Bytes of a file that is small; a larger one is asked for by the threads, in extents."""
MANY = 32
"""From so many small files on the lane is worth its while."""
_ID = re.compile(r"[0-9a-f]{16}\Z")
# What `urls.parse` would leave as it is, but for what could be a secret: that is not stored.
_URL = re.compile(r"(https?://[a-z0-9.-]+(?::[1-9][0-9]{0,4})?)(/[A-Za-z0-9/_.~%=+,@:!-]*)\Z")
_OPEN = ", ".join(f"'{state.value}'" for state in State if is_open(state))
_FRESH_STATES = ", ".join(
    f"'{state.value}'" for state in (State.PLANNED, State.QUEUED, State.ACTIVE, State.PAUSED)
)
# Nothing is known of it but its URL and what was promised: a plain GET is what it needs.
_FRESH = (
    f"(state IN ({_FRESH_STATES}) AND pinned = 0 AND secret = 0 AND listing = 0"  # noqa: S608 - constants
    " AND asked = '' AND promised = '' AND rung = 'if-match' AND changes = 0 AND mismatches = 0"
    " AND coalesce(want_size, 0) <= ?1"
    " AND NOT EXISTS (SELECT 1 FROM extent WHERE extent.item = item.id)"
    " AND NOT EXISTS (SELECT 1 FROM pieces WHERE pieces.item = item.id)"
    " AND NOT EXISTS (SELECT 1 FROM source WHERE source.item = item.id AND no > 0))"
)
# NOT INDEXED: by the index of states each page would sort all rows that are left.
_PAGE = (
    "SELECT n, id, path, typed, (SELECT url FROM source WHERE source.item = item.id AND no = 0),"  # noqa: S608 - constants
    f" want_size, digests, {_FRESH} FROM item NOT INDEXED"
    f" WHERE state IN ({_OPEN}) AND NOT (state = 'paused' AND reason = 'paused')"
    " AND retried >= ?4 AND n > ?2 ORDER BY n LIMIT ?3"
)
_COUNT = (
    "SELECT count(*) FROM (SELECT 1 FROM item NOT INDEXED"  # noqa: S608 - constants
    f" WHERE {_FRESH} AND retried >= ?3 LIMIT ?2)"
)


class Small(NamedTuple):
    """A file that may be small, and of which nothing is known yet.

    origin, target: its URL, `https://host:port` and what is asked there.  typed: as of `Item`.
    """

    id: str
    path: str
    origin: str
    target: str
    size: int | None
    digests: tuple[Digest, ...]
    typed: bool


class Done(NamedTuple):
    """A file whose part is written and right. part, target: where; path: of the item.

    etag, last_modified, media_type: of the version that it is.
    """

    id: str
    path: str
    part: str
    target: str
    whole: Whole
    etag: str
    last_modified: str
    media_type: str


class Rows:
    """The rows of one run. Used from one thread at a time."""

    def __init__(self, store: Store, most: int) -> None:
        """most: bytes; what was promised to be larger is not small."""
        self._store = store
        self._most = most
        self._after = 0

    def count(self, most: int) -> int:
        """Return how many small files there are to be fetched; `most` if there are more."""
        return int(self._store.read(_COUNT, (self._most, most, self._store.shown))[0][0])

    def page(self) -> tuple[list[Small | str], bool]:
        """Return the next rows, others than small ones as their id, and whether it is the end."""
        values = (self._most, self._after, PAGE, self._store.shown)
        rows = self._store.read(_PAGE, values)
        if rows:
            self._after = int(rows[-1][0])
        return [_small(row) or str(row[1]) for row in rows], len(rows) < PAGE


def _small(row: tuple[Any, ...]) -> Small | None:
    """Return a row that looks right in every way, or None."""
    _, item_id, path, typed, url, size, digests, fresh = row
    if not (fresh and isinstance(url, str) and isinstance(path, str) and _ID.match(str(item_id))):
        return None
    parts = _URL.match(url)
    # The id is that of address and path: so no flipped bit gives a file another's name.
    if parts is None or not is_plain_path(path) or identity(url, path) != item_id:
        return None
    given: tuple[Digest, ...] = ()
    if digests:
        try:
            pairs = (text.partition("=") for text in digests.split())
            given = tuple(Digest(algorithm, value) for algorithm, _, value in pairs)
        except (ValueError, AttributeError):
            return None
    return Small(item_id, path, parts[1], parts[2], size, given, bool(typed))


# One statement for a whole group: SQLite works through it without the interpreter, which a
# statement for each row would take and give back each time, while another thread wants it.
_FINISHING = (
    "UPDATE item SET state = 'finishing', pinned = 1, etag = j.value->>1,"
    " last_modified = j.value->>2, media_type = j.value->>3, size = j.value->>4,"
    " verified = j.value->>5, digest = j.value->>6, vouched_by = j.value->>7,"
    " ignored = j.value->>8, fetched = fetched + (j.value->>4)"
    " FROM json_each(?) AS j WHERE item.id = j.value->>0"
)
_FINISHED = (
    "UPDATE item SET state = 'done', reason = '', text = '', mtime = j.value->>1, ended_at = ?2"
    " FROM json_each(?1) AS j WHERE item.id = j.value->>0"
)


def finishing(store: Store, group: Sequence[Done]) -> None:
    """Commit that these are whole and checked, and their parts are on stable storage."""
    rows = [
        (
            done.id,
            done.etag,
            done.last_modified,
            done.media_type,
            whole.size,
            whole.verified,
            whole.digest,
            whole.source,
            "\n".join(whole.ignored),
        )
        for done in group
        for whole in (done.whole,)
    ]
    with store.writing() as db:
        db.execute(_FINISHING, (json.dumps(rows),))


def finished(store: Store, group: Sequence[tuple[Done, float]]) -> None:
    """Commit that these have their names. With each comes the time of its last change."""
    rows = [(done.id, mtime) for done, mtime in group]
    with store.writing() as db:
        db.execute(_FINISHED, (json.dumps(rows), clock.wall()))
