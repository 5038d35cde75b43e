"""The half of `Downloads` that fills the journal, and says what a run would do.

    add, add_many    files by their addresses
    add_list         a list of them, read to its end before a row is written
    add_s3           the objects of a bucket, listed page by page
    add_catalog      a data set by date and variable
    plan             what a run would fetch, and whether there is room

Adding twice is adding once: the same address and path is the same item, whatever signature the
address carries. It changes what is promised, and starts what failed afresh.
"""

from __future__ import annotations

import math
import posixpath
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from holdfast.downloads import wishes
from holdfast.downloads.adder import Adder, batches
from holdfast.downloads.addresses import Addresses
from holdfast.downloads.attended import attended
from holdfast.downloads.failures import DownloadError, Failure
from holdfast.downloads.globs import Globs, globs
from holdfast.downloads.items import Added
from holdfast.downloads.listfile import opened
from holdfast.downloads.listings import Listings
from holdfast.downloads.lists import BadLine, Entry, checked, lines_of, read_list
from holdfast.downloads.opening import refusing
from holdfast.downloads.room import plan_of
from holdfast.runtime.clock import clock
from holdfast.transfer.failures import Interrupted

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from holdfast.downloads.items import Item, ItemEvent, Plan
    from holdfast.downloads.listfile import Readable
    from holdfast.downloads.listings import Listing
    from holdfast.downloads.s3_auth import Auth
    from holdfast.downloads.sourcing import Sourcing
    from holdfast.downloads.store import Store
    from holdfast.downloads.wishes import Wish
    from holdfast.runtime.policy import Policy
    from holdfast.transfer.access import Access
    from holdfast.transfer.plane import Timeouts


class Planning:
    """Everything of `Downloads` that adds and plans."""

    def __init__(
        self,
        into: str,
        store: Store,
        listing: Callable[[], Policy],
        timeouts: Timeouts,
        *,
        rename: bool = False,
        allow_dot: bool = False,
    ) -> None:
        self.into = into
        self._store = store
        self._heard: Callable[[ItemEvent], None] | None = None
        self._stopped = False
        self._listings = Listings(store)
        self._listing = listing
        self._timeouts = timeouts
        self._addresses = Addresses(self._access)
        self._allow_dot = allow_dot
        self._adder = Adder(store, into, self._addresses, rename=rename, allow_dot=allow_dot)
        self._made: Sourcing | None = None
        self._making = threading.Lock()

    @property
    def _sourcing(self) -> Sourcing:
        """What lists; made when something is to be listed, as it takes 20 ms to import."""
        with self._making:
            if self._made is None:
                from holdfast.downloads.sourcing import Sourcing  # noqa: PLC0415 - see above

                self._made = Sourcing(
                    self._store, policy=self._listing(), timeouts=self._timeouts, told=self._tell
                )
                self._made.adder = self._adder
            return self._made

    def _access(self, item: Item) -> Access | None:
        return self._sourcing.access(item) if item.listing else None

    def _unlisted(self) -> list[Listing]:
        """Return what is not listed to its end."""
        return self._listings.all("open")

    def _tell(self, event: ItemEvent) -> None:
        if self._heard is not None:
            self._heard(event)

    # -- files ---------------------------------------------------------------------------------

    def add(
        self,
        url: str,
        *mirrors: str,
        path: str | None = None,
        size: int | None = None,
        sha256: str | None = None,
        md5: str | None = None,
        sha512: str | None = None,
        pieces: tuple[int, str, Sequence[str]] | None = None,
        headers: Mapping[str, str] | None = None,
        typed: bool = True,
    ) -> str:
        """Put a file into the journal and return its id; nothing is fetched yet.

        mirrors: other addresses of the same file.  path: where, below `into`; default the last
        part of the URL. It is made safe (see `names`).  size, sha256, md5, sha512: what the
        content must be.
        pieces: (bytes of a piece, sha1 | sha256 | sha512 | md5, digests in order): what is
        damaged on the way is then found, and only that is fetched again.  headers: sent along, but
        neither stored nor sent to another origin.  typed: False if somebody else than the user
        of this machine named the URL: then it may not lead to a private address.
        The same URL and path is the same item, whatever signature the URL carries: adding it
        again changes only what is promised, and starts a failed one afresh.
        Raises BadUrl or DownloadError.
        """
        digests = wishes.digests_of(sha256=sha256, md5=md5, sha512=sha512)
        entry = Entry(url, mirrors, path, size, digests, dict(headers or {}), typed=typed)
        sums = wishes.pieces_of(pieces)
        wish = wishes.of_entry(entry, sums, allow_dot=self._allow_dot)
        with refusing():
            self._adder.take([wish])
        return wish.item.id

    def add_many(self, entries: Iterable[Entry | str]) -> list[str]:
        """Put many files into the journal, 500 in one commit, and return their ids in order.

        entries: URLs, or `Entry` with what `add` takes.
        Raises BadUrl or DownloadError at the first one that cannot be; those before it, in
        whole hundreds, may be in the journal then.
        """
        ids: list[str] = []

        def wanted() -> Iterator[Wish]:
            for one in entries:
                entry = Entry(one) if isinstance(one, str) else one
                wish = wishes.of_entry(entry, allow_dot=self._allow_dot)
                ids.append(wish.item.id)
                yield wish

        self._take(wanted())
        return ids

    def add_list(
        self, source: str | os.PathLike[str] | Readable, *, skip_bad: bool = False
    ) -> Added:
        """Put the files of a list into the journal (see `lists` for its form).

        source: a path, `-` for standard input, or a binary file.
        The list is read to its end before a row is written, and its rows are one commit: a line
        that cannot be used refuses all of it, and a process that dies has added nothing, so no
        later run takes a part for the whole. skip_bad: such a line is in the failed list instead.
        Memory does not grow with the list, but for addresses with secrets or headers: these are
        not stored, so they are kept until `close`.
        Raises DownloadError (HF-1009), with all bad lines.
        """
        with opened(source) as (file, name):
            for _ in checked(read_list(lines_of(file)), name, skip=_pass if skip_bad else None):
                pass
            file.seek(0)
            with refusing(), self._store.together():
                return self._take(_wishes_of(read_list(lines_of(file)), name, self._allow_dot))

    def _take(self, wanted: Iterable[Wish]) -> Added:
        count = size = unknown = failed = 0
        for batch in batches(wanted):
            with refusing():
                refused = self._adder.take(batch)
            known = [wish.item.size for wish in batch if wish.item.failure is None]
            count += len(batch) - refused
            failed += refused
            size += sum(n or 0 for n in known)
            unknown += known.count(None)
        return Added(count, size, unknown, failed)

    # -- what is listed ------------------------------------------------------------------------

    def add_s3(
        self,
        url: str,
        *,
        include: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        rules: Globs | None = None,
        auth: Auth = "auto",
        endpoint: str | None = None,
        region: str | None = None,
        requester_pays: bool = False,
    ) -> Added:
        """List `s3://bucket/prefix` and put its objects into the journal.

        include, exclude: globs on the key below the prefix; excludes take away from what the
        includes brought.  rules: both in the order in which they were given, instead.
        auth: `auto`, `anonymous` or `chain` (see `s3_auth`).  endpoint: of another service than
        AWS.  region: of the bucket; by default it is found out.  requester_pays: you agree to
        pay for requests and transfer.

        Each page is committed as it comes; `watch` hears a `ListingPage`. What was interrupted
        goes on at its page, in the same call or in `run`. A listing that fails or brings nothing
        is in the failed list, and so are objects in an archive.
        Raises BadUrl or DownloadError (HF-1001, HF-1003, HF-1010, HF-1011).
        """
        chosen = globs(include, exclude) if rules is None else rules
        from holdfast.downloads.sourcing import How  # noqa: PLC0415 - see `_sourcing`

        how = How(auth, endpoint, region or "", requester_pays)
        with refusing():
            return self._list(self._sourcing.begin_s3(url, chosen, how))

    def add_catalog(
        self,
        name: str,
        *,
        auth: Auth = "anonymous",
        endpoint: str | None = None,
        region: str | None = None,
        **options: str | None,
    ) -> Added:
        """List what a catalog has for `options` and put it into the journal.

        name: `era5`.  options: its own: `date`, `vars`, `product`.
        auth, endpoint, region: as in `add_s3`.
        What was asked for and is not there, an empty month too, is in the failed list.
        Raises DownloadError (HF-1003) for what the catalog cannot have, with what is near.
        """
        from holdfast.downloads.sourcing import How  # noqa: PLC0415 - see `_sourcing`

        how = How(auth, endpoint, region or "")
        with refusing():
            return self._list(self._sourcing.begin_catalog(name, options, how))

    def _list(self, listings: Sequence[Listing], until: float = math.inf) -> Added:
        """List on a thread of its own, so that a stop ends it; what is left stays open.

        until: the moment of the clock at which it stops by itself.
        """
        if listings:
            with suppress(Interrupted):
                attended(
                    lambda cancel: self._sourcing.work(listings, cancel),
                    stopped=lambda: self._stopped or clock.monotonic() >= until,
                )
        return self._listings.added([listing.n for listing in listings])

    # -- the plan --------------------------------------------------------------------------------

    def plan(self) -> Plan:
        """Return what a run would do. Nothing is fetched; listings that are open are ended."""
        with refusing():
            self._list(self._unlisted())
            return plan_of(self._store, self.into)


def _pass(_: BadLine) -> None:
    """Leave a bad line to the second reading."""


def _wishes_of(
    found: Iterable[Entry | BadLine],
    name: str,
    allow_dot: bool,  # noqa: FBT001 - handed on
) -> Iterator[Wish]:
    for one in found:
        if isinstance(one, Entry):
            yield wishes.of_entry(one, allow_dot=allow_dot)
        else:
            failure = Failure("bad-list", f"`{name}`: {one}"[:500])
            path = f"{posixpath.basename(name)} line {one.line}"
            yield wishes.of_failure(f"list:{name}:{one.line}", path, failure)


__all__ = ["DownloadError", "Planning"]
