"""Lists buckets and catalogs into the journal, page by page, and goes on where it stopped.

Each page is committed with its files and the token of the next one. So a listing that was
killed goes on at its page, in the next call with the same words or in the next run; a run never
takes a half listed source for a whole one.

Credentials are found anew by each process, and are nowhere in the journal. It has only how the
source is asked: where, by which kind of authorisation, and whether it was signed.
"""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from holdfast.downloads import catalogs, wishes
from holdfast.downloads.failures import DownloadError, Failure
from holdfast.downloads.globs import Globs
from holdfast.downloads.items import ItemEvent, ListingPage
from holdfast.downloads.listings import Listing, Listings
from holdfast.downloads.s3 import Bucket, ListFailed
from holdfast.downloads.s3_address import endpoint_of, parse_source
from holdfast.downloads.s3_auth import AUTHS, Auth, Found, find
from holdfast.downloads.signing import S3Access
from holdfast.runtime.clock import clock
from holdfast.storage.journal import JournalBroken
from holdfast.wire.urls import BadUrl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from holdfast.downloads.adder import Adder
    from holdfast.downloads.items import Item
    from holdfast.downloads.s3 import Chosen
    from holdfast.downloads.store import Store
    from holdfast.runtime.policy import Policy
    from holdfast.transfer.access import Access
    from holdfast.transfer.plane import Timeouts
    from holdfast.wire.cancel import Cancel


@dataclass(frozen=True, slots=True)
class How:
    """How a bucket is asked (see `s3.Bucket`). signed: its listing was."""

    auth: Auth = "auto"
    endpoint: str | None = None
    region: str = ""
    requester_pays: bool = False
    signed: bool = False

    @classmethod
    def of(cls, listing: Listing) -> How:
        """Return it as it is in the journal. Raises what nonsense raises (see `_NONSENSE`)."""
        how = cls(**cast("dict[str, Any]", listing.options["how"]))
        if how.auth not in AUTHS:
            raise ValueError(f"auth {how.auth!r}")
        if how.endpoint is not None:
            endpoint_of(how.endpoint)
        parse_source(listing.source)
        return how


_NONSENSE = (TypeError, ValueError, KeyError, AttributeError, DownloadError, BadUrl)


class Sourcing:
    """The listings of one journal.

    adder: what puts rows into it; set before the first use.
    told: called with an event for each page.  policy, timeouts: of the requests for pages.
    """

    adder: Adder

    def __init__(
        self,
        store: Store,
        *,
        policy: Policy,
        timeouts: Timeouts,
        told: Callable[[ItemEvent], None],
    ) -> None:
        self._store = store
        self._listings = Listings(store)
        self._policy = policy
        self._timeouts = timeouts
        self._told = told
        self._lock = threading.Lock()
        self._found: dict[Auth, Found] = {}
        self._access: dict[int, Access | None] = {}

    # -- what is to be listed ------------------------------------------------------------------

    def begin_s3(self, url: str, rules: Globs, how: How) -> list[Listing]:
        """Journal that a bucket is to be listed. Raises BadUrl or DownloadError."""
        source = parse_source(url)
        self._check(how)
        asked = {"source": str(source), "rules": [list(rule) for rule in rules.rules]}
        with self._store.together():
            return [self._begin(asked, str(source), how)]

    def begin_catalog(self, name: str, given: Mapping[str, str | None], how: How) -> list[Listing]:
        """Journal that the places of a catalog are to be listed."""
        plan = catalogs.plan(name, **given)
        self._check(how)
        words = {key: value for key, value in given.items() if value is not None}
        with self._store.together():
            return [
                self._begin(
                    {"catalog": name, "given": words, "source": str(part.source)},
                    str(part.source),
                    replace(how, region=how.region or part.region),
                )
                for part in plan.parts
            ]

    def _check(self, how: How) -> None:
        if how.endpoint is not None:
            endpoint_of(how.endpoint)
        self._credentials(how.auth)

    def _begin(self, asked: Mapping[str, object], source: str, how: How) -> Listing:
        key = json.dumps({**asked, "endpoint": how.endpoint}, sort_keys=True)
        listing = self._listings.begin(key, source, {**asked, "how": asdict(how)})
        with self._lock:
            self._access.pop(listing.n, None)
        return listing

    # -- listing ---------------------------------------------------------------------------------

    def work(self, listings: Iterable[Listing], cancel: Cancel) -> None:
        """List, each to its end. What fails is in the failed list.

        Raises Interrupted once cancelled: what was not listed yet goes on next time.
        """
        for listing in listings:
            self._one(listing, cancel)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Say of a row that makes no sense that the journal cannot be trusted."""
        try:
            yield
        except _NONSENSE as error:
            text = f"a listing makes no sense ({error})"
            raise JournalBroken(self._store.path, text) from None

    def _one(self, listing: Listing, cancel: Cancel) -> None:
        with self._reading():
            how = How.of(listing)
        failures: Sequence[Failure] = ()
        state = "failed"
        try:
            bucket = self._bucket(listing, how, cancel)
            # Known before the first page is: a process that comes after a crash must sign, too.
            how = replace(how, signed=bucket.is_signed)
            self._learn(listing, how)
            try:
                if "catalog" in listing.options:
                    failures = self._part(listing, bucket)
                else:
                    self._pages(listing, bucket)
                state = "done"
            finally:
                how = replace(how, region=bucket.place.region)
        except ListFailed as error:
            failures = [error.failure]
        except DownloadError as error:  # no credentials, in this process
            failures = [Failure(error.reason, str(error)[:500])]
        with self._store.together():
            self._listings.drop_failures(listing.n)
            self.adder.take(
                [
                    wishes.of_failure(listing.source, self._name(listing, no), failure, listing.n)
                    for no, failure in enumerate(failures, 1)
                ]
            )
            self._learn(listing, how)
            self._listings.end(listing.n, state)
        self._tell(listing, ended=True)

    def _learn(self, listing: Listing, how: How) -> None:
        """Journal how a source is asked, by what was found out."""
        self._listings.learn(listing.n, {**listing.options, "how": asdict(how)})
        with self._lock:
            self._access.pop(listing.n, None)

    def _take(self, chosen: Iterable[Chosen], listing: Listing) -> None:
        dot = self.adder.allow_dot
        self.adder.take([wishes.of_object(one, listing.n, allow_dot=dot) for one in chosen])

    def _pages(self, listing: Listing, bucket: Bucket) -> None:
        with self._reading():
            rules = _rules_of(listing)
        seen, taken, sample = listing.seen, listing.taken, ""
        for page in bucket.pages(listing.token or None):
            chosen = bucket.chosen(page, rules)
            with self._store.together():
                self._take(chosen, listing)
                self._listings.turn_page(
                    listing.n,
                    token=page.next_token or "",
                    seen=len(page.objects),
                    taken=len(chosen),
                    size=sum(one.size for one in chosen),
                )
            seen, taken = seen + len(page.objects), taken + len(chosen)
            if not sample and page.objects:
                sample = page.objects[0].key[len(bucket.source.base) :]
            self._tell(listing)
        if not taken:
            raise bucket.no_match(rules, seen, sample)

    def _part(self, listing: Listing, bucket: Bucket) -> Sequence[Failure]:
        with self._reading():
            given = cast("dict[str, str]", listing.options["given"])
            plan = catalogs.plan(str(listing.options["catalog"]), **given)
            (part,) = [part for part in plan.parts if str(part.source) == listing.source]
        gathered = catalogs.gather(part, bucket)
        with self._store.together():
            self._take(gathered.chosen, listing)
            self._listings.turn_page(
                listing.n,
                token="",
                seen=len(gathered.chosen),
                taken=len(gathered.chosen),
                size=sum(one.size for one in gathered.chosen),
            )
        return gathered.failures

    @staticmethod
    def _name(listing: Listing, no: int) -> str:
        """Return what the failed list calls a source; no file ever has this name."""
        words = [listing.source.removeprefix("s3://"), str(_rules_of(listing))]
        return " ".join([*filter(None, words), *([str(no)] if no > 1 else [])])

    def _tell(self, listing: Listing, *, ended: bool = False) -> None:
        now = self._listings.one(listing.n) or listing
        event = ListingPage(
            time=clock.monotonic(),
            policy="downloads",
            objects=now.taken,
            bytes=now.bytes,
            seen=now.seen,
            ended=ended,
        )
        self._told(ItemEvent("", listing.source, event))

    # -- credentials -------------------------------------------------------------------------------

    def access(self, item: Item) -> Access | None:
        """Return who vouches for the requests of an item; None if nobody has to."""
        if not item.listing:
            return None
        with self._lock:
            if item.listing not in self._access:
                listing = self._listings.one(item.listing)
                with self._reading():
                    self._access[item.listing] = None if listing is None else self._made(listing)
            return self._access[item.listing]

    def _made(self, listing: Listing) -> Access | None:
        how = How.of(listing)
        if not (how.signed or how.requester_pays):
            return None
        return S3Access(lambda: self._bucket(listing, how))

    def _bucket(self, listing: Listing, how: How, cancel: Cancel | None = None) -> Bucket:
        """Return the bucket.

        Raises DownloadError if it was listed with credentials and there are none now.
        """
        found = self._credentials(how.auth)
        if how.signed and found.signer is None:
            text = f"`{listing.source}` was listed with credentials, and now {found.note}"
            raise DownloadError("no-credentials", text)
        return Bucket(
            parse_source(listing.source),
            auth=how.auth,
            found=found,
            endpoint=how.endpoint,
            region=how.region,
            requester_pays=how.requester_pays,
            policy=self._policy,
            timeouts=self._timeouts,
            cancel=cancel,
        )

    def _credentials(self, auth: Auth) -> Found:
        """Look for credentials, once for each kind."""
        found = self._found.get(auth)
        if found is None:
            found = self._found[auth] = find(auth)
        return found


def _rules_of(listing: Listing) -> Globs:
    rules = cast("list[list[Any]]", listing.options.get("rules", []))
    return Globs(tuple((kind, glob) for kind, glob in rules))
