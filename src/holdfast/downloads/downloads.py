"""`hf.Downloads`: the public face."""

from __future__ import annotations

import math
import os
import posixpath
import threading
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self

from holdfast.core.backoff import Exponential
from holdfast.core.budget import Budget
from holdfast.core.retry import Retry
from holdfast.core.verdict import THROTTLED, TRANSIENT
from holdfast.downloads.engine import Engine
from holdfast.downloads.failures import DownloadError
from holdfast.downloads.fetch import Options
from holdfast.downloads.items import Item, ItemEvent, Report
from holdfast.downloads.listings import Listing, Listings
from holdfast.downloads.opening import journal_path, open_store, rebuild_journal, refusing
from holdfast.downloads.present import EXISTS, Exists
from holdfast.downloads.room import check_room
from holdfast.downloads.sidecars import Sidecars
from holdfast.downloads.steering import Steering
from holdfast.downloads.store import Store
from holdfast.downloads.through import Through, Way
from holdfast.runtime.clock import clock
from holdfast.runtime.policy import Policy, policy
from holdfast.transfer.plane import Timeouts
from holdfast.transfer.wanted import MAX_SIZE
from holdfast.wire.urls import BadUrl

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from holdfast.telemetry.secret import Secret


@dataclass(frozen=True, slots=True)
class Status:
    """What a journal says. counts: items per state.  unlisted: what is not listed to its end."""

    counts: Mapping[str, int]
    items: tuple[Item, ...]
    unlisted: tuple[Listing, ...] = ()


class Downloads(Steering):
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
    max_time: seconds after which a run stops, with what is left; None for no limit.
    space_check: refuse a run whose files, so far as their sizes are known, do not fit.
    allow_private: True: loopback and private addresses may be asked whoever names them, False:
    never; None: if the user of this machine typed the URL, and no public address redirects there.
    rebuild: let a journal that cannot be trusted be made anew from what can (`rebuilt` then
    says what was found); without it such a journal is refused.
    plane: how small files are fetched: "asyncio" on one event loop (uvloop if it is installed),
    "threads" on the workers; "auto" takes the loop for 32 and more.
    exists: what becomes of a file that is there and not ours: "verify" skips it if it is right
    and fails else, "skip" never looks into it, "overwrite" replaces it once the new one is whole
    and verified, "fail" fails.
    sidecar: look for a digest beside each file (`URL.sha256`, `SHA256SUMS` and their like).
    allow_dot: names may begin with a dot.  rename: a second file of one name gets a number.
    content_disposition: a server may say what a file is called that was given no `path`.
    via: an aria2 service that fetches in our place, `aria2://HOST:PORT` or `aria2://local`.
    aria2_secret: its secret, a `Secret`, `env:NAME` or `file:PATH`.

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
        max_time: float | None = None,
        space_check: bool = True,
        allow_private: bool | None = None,
        rebuild: bool = False,
        plane: Literal["auto", "threads", "asyncio"] = "auto",
        via: str | None = None,
        aria2_secret: Secret | str | None = None,
        exists: Exists = "verify",
        sidecar: bool = False,
        allow_dot: bool = False,
        rename: bool = False,
        content_disposition: bool = False,
    ) -> None:
        _check_numbers(
            workers=workers,
            per_host=per_host,
            attempts=attempts,
            limit_rate=limit_rate,
            max_size=max_size,
            max_time=max_time,
        )
        _check_words(durability=durability, on_full=on_full, plane=plane, exists=exists)
        self.into = posixpath.normpath(os.fspath(into))
        self.journal = journal_path(self.into, journal)
        self._plane = plane
        self._workers = workers
        self._per_host = per_host
        self._limit_rate = limit_rate
        self._options = Options(
            timeouts or Timeouts(),
            durability == "power",
            allow_html,
            max_size,
            on_full == "wait",
            allow_private,
            exists,
            Sidecars() if sidecar else None,
            allow_dot,
            rename,
            content_disposition,
        )
        self._policy = policy or default_policy(attempts)
        self._max_time = max_time
        self._space_check = space_check
        self.rebuilt = rebuild_journal(self.into, self.journal) if rebuild else None
        _check_beside_via(
            via,
            aria2_secret,
            {
                "limit_rate": limit_rate,
                "plane": None if plane == "auto" else plane,
                "timeouts": timeouts,
                "allow_html": allow_html or None,
                "allow_private": allow_private,
                "content_disposition": content_disposition or None,
            },
        )
        self._through = None
        if via is not None:
            self._through = Through.of(
                via, self.into, aria2_secret, attempts=attempts, most=workers
            )
        super().__init__(
            self.into,
            open_store(self.into, self.journal),
            lambda: policy or _listing_policy(attempts),
            self._options.timeouts,
            rename=rename,
            allow_dot=allow_dot,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the journal; a second call does nothing."""
        self._store.close()

    # -- the work ------------------------------------------------------------------------------

    def run(self, *, only_failed: bool = False) -> Report:
        """Fetch all that is open in the journal, and report.

        only_failed: only what `retry_failed` has put back since this object was made.
        A listing that was interrupted is ended first. Failures of files are in the report, not
        raised. Raises DownloadError if there is no room (HF-1012), or the journal breaks on the
        way. KeyboardInterrupt is raised again when what was received is safe.
        """
        store = self._store.retried() if only_failed else self._store
        try:
            with refusing():
                began = clock.monotonic()
                until = math.inf if self._max_time is None else began + self._max_time
                self._list(self._unlisted(), until)
                if self._through is None:
                    return self._checked(store, began, None)
                with self._through.opened(lambda: self._stopped) as way:
                    return self._checked(store, began, way)
        finally:
            self._engine = None
            self._stopped = False

    def _checked(self, store: Store, began: float, way: Way | None) -> Report:
        if self._space_check and (way is None or way.seen):
            check_room(store, self.into)
        return self._work(store, began, way)

    def _work(self, store: Store, began: float, way: Way | None) -> Report:
        self._engine = engine = Engine(
            store,
            self.into,
            self._policy,
            workers=self._workers,
            per_host=self._per_host,
            limit_rate=self._limit_rate,
            options=self._options,
            addresses=self._addresses,
            heard=self._heard,
            until=None if self._max_time is None else began + self._max_time,
            lane=self._plane,
            way=way,
        )
        if self._stopped:
            engine.stop()
        report = engine.run()
        unlisted = len(self._unlisted())
        if not unlisted:
            return report
        why = tuple(sorted({*report.left_why, "listing"}))
        left = report.left + unlisted
        return replace(report, left=left, left_why=why, interrupted=self._stopped)

    async def arun(self, *, only_failed: bool = False) -> Report:
        """Do the same as `run`, on a thread of its own.

        A cancelled task stops the run, which takes at most two seconds, and keeps what came.
        """
        import asyncio  # noqa: PLC0415 - only for who has it loaded already

        loop = asyncio.get_running_loop()
        over: asyncio.Future[Report] = loop.create_future()

        def work() -> None:
            try:
                report = self.run(only_failed=only_failed)
            except BaseException as error:  # noqa: BLE001 - raised again, in the task that waits
                loop.call_soon_threadsafe(_settle, over, None, error)
            else:
                loop.call_soon_threadsafe(_settle, over, report, None)

        threading.Thread(target=work, name="holdfast-run", daemon=True).start()
        try:
            return await asyncio.shield(over)
        except asyncio.CancelledError:
            self.stop()
            with suppress(BaseException):
                await asyncio.shield(over)
            raise

    def stop(self) -> None:
        """End `run` within two seconds; what was received is kept. For any thread or handler."""
        self._stopped = True
        if self._engine is not None:
            self._engine.stop()

    def watch(self, heard: Callable[[ItemEvent], None]) -> None:
        """Call `heard` with every event of the next run, on the threads where they happen."""
        self._heard = heard

    def status(self) -> Status:
        """Return what the journal says now; reading changes nothing."""
        with refusing():
            return _status_of(self._store)


def read_status(into: str, journal: str | None = None) -> Status:
    """Return what the journal of a directory says, also while another process works on it."""
    path = journal_path(into, journal)
    if not os.path.isfile(path):  # noqa: PTH113 - a plain question
        raise DownloadError("no-journal", f"`{path}`: there is no journal")
    with refusing(), closing(Store(path, read_only=True)) as store:
        return _status_of(store)


def _status_of(store: Store) -> Status:
    return Status(store.counts(), tuple(store.items()), tuple(Listings(store).all("open")))


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


def _listing_policy(attempts: int) -> Policy:
    from holdfast.downloads.s3 import default_policy as made  # noqa: PLC0415 - only who lists

    return made(attempts)


def _check_beside_via(
    via: str | None, secret: Secret | str | None, given: Mapping[str, object]
) -> None:
    if via is None and secret is not None:
        raise DownloadError("bad-option", "`aria2_secret` has no effect without `via`")
    for name, value in given.items():
        if via is not None and value is not None:
            text = f"`{name}` has no effect with `via`: aria2 moves the bytes, with its own options"
            raise DownloadError("bad-option", text)


def _settle(
    over: asyncio.Future[Report], report: Report | None, error: BaseException | None
) -> None:
    if over.done():
        return
    if report is not None:
        over.set_result(report)
    elif error is not None:
        over.set_exception(error)


_RANGES = {
    "workers": (1, 256),
    "per_host": (1, 256),
    "attempts": (1, 1_000_000),
    "limit_rate": (1024, 1 << 50),
    "max_size": (1, 1 << 62),
    "max_time": (0, 1 << 40),
}
_WORDS = {
    "durability": ("power", "process"),
    "on_full": ("wait", "fail"),
    "plane": ("auto", "threads", "asyncio"),
    "exists": EXISTS,
}


def _check_numbers(**given: float | None) -> None:
    for name, value in given.items():
        low, high = _RANGES[name]
        if value is not None and not low <= value <= high:
            text = f"`{name}`: {value}: it must be from {low} to {high}"
            raise DownloadError("bad-option", text)


def _check_words(**given: str) -> None:
    for name, value in given.items():
        if value not in _WORDS[name]:
            text = f"`{name}`: {value!r}: not one of {', '.join(_WORDS[name])}"
            raise DownloadError("bad-option", text)


__all__ = ["BadUrl", "DownloadError", "Downloads", "Report", "Status", "read_status"]
