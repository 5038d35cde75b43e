"""`hf.Downloads`: the public face."""

from __future__ import annotations

import os
import posixpath
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self

from holdfast.core.backoff import Exponential
from holdfast.core.budget import Budget
from holdfast.core.retry import Retry
from holdfast.core.verdict import THROTTLED, TRANSIENT
from holdfast.downloads.addresses import Address, Addresses
from holdfast.downloads.engine import Engine
from holdfast.downloads.failures import DownloadError, Failure
from holdfast.downloads.fetch import WISHED, Options
from holdfast.downloads.items import FailedItem, Item, ItemEvent, Report, item_id
from holdfast.downloads.names import name_from_url, part_path, safe_path
from holdfast.downloads.opening import journal_path, open_store, refusing
from holdfast.downloads.states import TRANSITIONS, Input, State, after, is_open
from holdfast.downloads.store import Store
from holdfast.runtime.files import files
from holdfast.runtime.policy import Policy, policy
from holdfast.transfer.object import MAX_SIZE
from holdfast.transfer.plane import Timeouts
from holdfast.transfer.repair import Pieces
from holdfast.transfer.verify import Digest
from holdfast.wire.http1 import request_head
from holdfast.wire.urls import BadUrl, Url, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Status:
    """What a journal says. counts: items per state."""

    counts: Mapping[str, int]
    items: tuple[Item, ...]


class Downloads:
    """Files to be fetched into one directory, remembered in a journal beside them.

        with hf.Downloads(into="data", workers=8) as d:
            d.add("https://example.org/a.nc", sha256="9f86...")
            report = d.run()            # again after any death: it goes on

    A file has its final name only when it is complete, of one version, and verified as far
    as the source permits.

    into: the output directory; made if absent.  workers: connections at a time, 1 to 256: a
    small file has one, a file of 16 MiB or more as many as are free.
    journal: its path, default `.holdfast.db` in `into`.  per_host: connections to one host at
    most; it begins with 4 and finds out what the host bears.
    limit_rate: bytes per second, all together; None for no limit.
    attempts: tries without progress; any byte that is kept starts the count afresh.
    durability: "power" survives a power cut; "process" omits the syncs and survives a kill.
    timeouts: see `Timeouts`.  allow_html: a page is what is wanted (see HF-1307).
    max_size: bytes, the limit for one file.  on_full: what a full disk means: "wait" looks
    every 5 s and goes on when there is room, "fail" leaves the file.
    policy: in place of the one made of `attempts`; its state is per host.

    Raises DownloadError (HF-1003 to HF-1007) if directory or journal cannot be used.
    Not for several threads at once, but for `stop`, `pause`, `resume` and `cancel`.
    """

    def __init__(
        self,
        into: str | os.PathLike[str] = ".",
        workers: int = 8,
        *,
        journal: str | os.PathLike[str] | None = None,
        per_host: int = 16,
        attempts: int = 8,
        limit_rate: float | None = None,
        durability: Literal["power", "process"] = "power",
        timeouts: Timeouts | None = None,
        allow_html: bool = False,
        max_size: int = MAX_SIZE,
        on_full: Literal["wait", "fail"] = "wait",
        policy: Policy | None = None,
    ) -> None:
        _check("workers", workers, 1, 256)
        _check("per_host", per_host, 1, 256)
        if limit_rate is not None:
            _check("limit_rate", limit_rate, 1024, 1 << 50)
        _check("attempts", attempts, 1, 1_000_000)
        _check("max_size", max_size, 1, 1 << 62)
        if durability not in {"power", "process"}:
            raise DownloadError("bad-option", f"`durability`: {durability!r}: power or process")
        if on_full not in {"wait", "fail"}:
            raise DownloadError("bad-option", f"`on_full`: {on_full!r}: wait or fail")
        self.into = posixpath.normpath(os.fspath(into))
        self.journal = journal_path(self.into, journal)
        self._workers = workers
        self._per_host = per_host
        self._limit_rate = limit_rate
        self._options = Options(
            timeouts or Timeouts(), durability == "power", allow_html, max_size, on_full == "wait"
        )
        self._policy = policy or default_policy(attempts)
        self._addresses = Addresses()
        self._heard: Callable[[ItemEvent], None] | None = None
        self._engine: Engine | None = None
        self._stopped = False
        self._store = open_store(self.into, self.journal)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the journal; a second call does nothing."""
        self._store.close()

    # -- the plan -----------------------------------------------------------------------------

    def add(
        self,
        url: str,
        *,
        path: str | None = None,
        size: int | None = None,
        sha256: str | None = None,
        md5: str | None = None,
        pieces: tuple[int, str, Sequence[str]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """Put a file into the journal and return its id; nothing is fetched yet.

        path: where, below `into`; default the last part of the URL. It is made safe (see
        `names`).  size, sha256, md5: what the content must be.
        pieces: (bytes of a piece, sha1 | sha256 | sha512 | md5, digests in order): what is
        damaged on the way is then found, and only that is fetched again.  headers: sent along, but
        neither stored nor sent to another origin.
        The same URL and path is the same item, whatever signature the URL carries: adding it
        again changes only what is promised, and starts a failed one afresh.
        Raises BadUrl or DownloadError.
        """
        source = parse(url)
        name = name_from_url(source) if path is None else safe_path(path)
        if size is not None and size < 0:
            raise DownloadError("bad-option", f"`size`: {size}: it must not be negative")
        sums = _pieces(pieces)
        _check_headers(source, headers or {})
        item = Item(
            item_id(source.canonical(), name),
            name,
            source.canonical(),
            secret=source.is_signed or bool(headers),
            size=size,
            digests=_digests(sha256, md5),
        )
        with refusing():
            known = self._store.item(item.id)
            if known is None:
                self._store.insert(item)
            else:
                self._add_again(known, item)
            if sums is not None:
                self._store.promise_pieces(item.id, sums)
            self._check_name(item)
        if item.secret:
            self._addresses.keep(item.id, Address(source, dict(headers or {})))
        return item.id

    def _add_again(self, known: Item, item: Item) -> None:
        state = after(known.state, Input.ADD)
        if known.state in {State.FAILED, State.CANCELLED}:
            self._store.renew(item.id)
        self._store.ask_again(
            replace(
                item,
                state=state,
                size=known.size if item.size is None else item.size,
                digests=item.digests or known.digests,
            )
        )

    def _check_name(self, item: Item) -> None:
        """Give the name to one item. What has failed, or holds no byte, does not keep it.

        So a URL that was mistyped does not block the right one, which often has its name.
        """
        other = self._store.holder_of(item)
        if other is None:
            return
        if other.kept == 0 and is_open(other.state) and other.session < self._store.session:
            self._sweep(other)
            cancelled = after(other.state, Input.CANCEL)
            text = f"`{item.url}` took its place"
            self._store.ended(other.id, cancelled, Failure("cancelled", text))
            return
        text = f"another item has the same name (`{other.url}`)"
        self._store.ended(item.id, State.FAILED, Failure("name-collision", text))

    def _sweep(self, item: Item) -> None:
        part = part_path(posixpath.join(self.into, item.path), item.id)
        if files().stat(part) is not None:
            files().unlink(part)

    # -- the work ------------------------------------------------------------------------------

    def run(self) -> Report:
        """Fetch all that is open in the journal, and report.

        Failures of files are in the report, not raised. Raises DownloadError if the journal
        breaks on the way. KeyboardInterrupt is raised again when what was received is safe.
        """
        self._engine = engine = Engine(
            self._store,
            self.into,
            self._policy,
            workers=self._workers,
            per_host=self._per_host,
            limit_rate=self._limit_rate,
            options=self._options,
            addresses=self._addresses,
            heard=self._heard,
        )
        if self._stopped:
            engine.stop()
        try:
            with refusing():
                return engine.run()
        finally:
            self._engine = None
            self._stopped = False

    def stop(self) -> None:
        """End `run` within two seconds; what was received is kept. For any thread or handler."""
        self._stopped = True
        if self._engine is not None:
            self._engine.stop()

    # -- steering: for any thread, also while `run` works ---------------------------------------

    def pause(self, item_id: str | None = None) -> int:
        """Stop an item, or all, until `resume`; return how many. What was received is kept."""
        return self._steer(item_id, Input.PAUSE)

    def cancel(self, item_id: str | None = None) -> int:
        """Give an item up, or all, with what was received of it; return how many.

        Files that are done stay.
        """
        return self._steer(item_id, Input.CANCEL)

    def resume(self, item_id: str | None = None) -> int:
        """Take up an item that was paused, or all of them; return how many.

        A run that works takes them up at once; one that has ended has to be started again.
        """
        with refusing():
            held = [item for item in self._chosen(item_id, State.PAUSED) if item.is_held]
            for item in held:
                self._store.update(item.id, state=State.QUEUED.value, reason="", text="")
                engine, queued = self._engine, self._store.item(item.id)
                if engine is not None and queued is not None:
                    engine.resume(queued)
            return len(held)

    def retry_failed(self) -> int:
        """Put all that failed into the plan again, counters afresh; return how many.

        What was kept of their bytes is used by the next run.
        """
        with refusing():
            failed = list(self._store.items(State.FAILED))
            for item in failed:
                self._add_again(item, item)
                self._check_name(item)
            return len(failed)

    def failed(self) -> tuple[FailedItem, ...]:
        """Return all that ended without its file, with the reasons."""
        with refusing():
            return tuple(self._store.failed_list())

    def _chosen(self, item_id: str | None, *states: State) -> list[Item]:
        if item_id is None:
            return list(self._store.items(*states))
        item = self._store.item(item_id)
        return [item] if item is not None and item.state in states else []

    def _steer(self, item_id: str | None, wish: Input) -> int:
        states = [state for state in State if (state, wish) in TRANSITIONS]
        count = 0
        with refusing():
            for item in self._chosen(item_id, *states):
                if item.is_held and wish is Input.PAUSE:
                    continue
                count += 1
                engine = self._engine
                if engine is not None and engine.steer(item.id, wish):
                    continue  # the thread that has it sees to the rest
                self._store.ended(item.id, after(item.state, wish), WISHED[wish])
                if wish is Input.CANCEL:
                    self._sweep(item)
                if engine is not None:
                    engine.steer(item.id, wish)  # a thread may have taken it just now
        return count

    def watch(self, heard: Callable[[ItemEvent], None]) -> None:
        """Call `heard` with every event of the next run, on the threads where they happen."""
        self._heard = heard

    def status(self) -> Status:
        """Return what the journal says now; reading changes nothing."""
        with refusing():
            return Status(self._store.counts(), tuple(self._store.items()))


def read_status(into: str, journal: str | None = None) -> Status:
    """Return what the journal of a directory says, also while another process works on it."""
    path = journal_path(into, journal)
    if not os.path.isfile(path):  # noqa: PTH113 - a plain question
        raise DownloadError("no-journal", f"`{path}`: there is no journal")
    with refusing(), closing(Store(path, read_only=True)) as store:
        return Status(store.counts(), tuple(store.items()))


def default_policy(attempts: int) -> Policy:
    """Return what decides about repeats: `attempts` without progress, full jitter to 30 s.

    The budget bounds what all files together may repeat on one host, ten per second and a
    fifth of the load. It is not one that only success refills: a single large file over a
    bad link makes hundreds of retries, each with progress, before its first success.
    """
    backoff = Exponential(base=0.5, cap=30)
    budget = Budget.ratio(share=0.2, per_second=10)
    retry = Retry(attempts, on=TRANSIENT | THROTTLED, backoff=backoff, budget=budget)
    return policy(retry, name="downloads", key=lambda call: call.host)


def _digests(sha256: str | None, md5: str | None) -> tuple[Digest, ...]:
    try:
        given = (("sha256", sha256), ("md5", md5))
        return tuple(Digest(name, text.strip().lower()) for name, text in given if text is not None)
    except ValueError as error:
        raise DownloadError("bad-digest", str(error)) from None


def _pieces(given: tuple[int, str, Sequence[str]] | None) -> Pieces | None:
    if given is None:
        return None
    size, algorithm, hexes = given
    try:
        return Pieces(size, algorithm, tuple(text.strip().lower() for text in hexes))
    except ValueError as error:
        raise DownloadError("bad-digest", str(error)) from None


def _check_headers(url: Url, headers: Mapping[str, str]) -> None:
    try:
        request_head(url, headers)
    except ValueError as error:
        raise DownloadError("bad-option", str(error)) from None


def _check(name: str, value: float, low: int, high: int) -> None:
    if not low <= value <= high:
        raise DownloadError("bad-option", f"`{name}`: {value}: it must be from {low} to {high}")


__all__ = ["BadUrl", "DownloadError", "Downloads", "Report", "Status", "read_status"]
