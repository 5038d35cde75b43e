"""One item, from queued to its end.

The order at the end is what makes the final name trustworthy at any moment:

    all bytes synced -> verified -> commit `finishing` -> rename -> sync the directory
    -> commit `done`

After a crash an item that is `finishing` has either still its part (the rename is done now)
or has it no more (the rename had happened).
"""

from __future__ import annotations

import posixpath
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from holdfast.core.verdict import Kind
from holdfast.downloads.addresses import reach_of
from holdfast.downloads.disposition import filename_in
from holdfast.downloads.failures import Failure, failure_of
from holdfast.downloads.names import collision_key, has_data_suffix, name_from_url, safe_path
from holdfast.downloads.present import Exists, Present, Skip, Stop
from holdfast.downloads.sidecars import Sidecars
from holdfast.downloads.sidecars import fetch as sidecars_fetch
from holdfast.downloads.states import Input, State, after
from holdfast.downloads.store import Retired
from holdfast.runtime.files import beneath, files
from holdfast.storage.journal import JournalBroken, JournalFull
from holdfast.storage.publish import publish
from holdfast.transfer.extents import Extents
from holdfast.transfer.failures import LONGEST_WAIT, Reason, TransferFailed, permanent
from holdfast.transfer.object import ObjectTransfer
from holdfast.transfer.part import Part, UnsafePart
from holdfast.transfer.plane import Plane, Timeouts
from holdfast.transfer.verify import ASK_CHECKSUMS, Hasher, is_s3
from holdfast.transfer.wanted import MAX_SIZE, Wanted, Whole
from holdfast.wire.urls import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from holdfast.downloads.addresses import Address
    from holdfast.downloads.items import Item
    from holdfast.downloads.store import Store
    from holdfast.runtime.files import FileInfo
    from holdfast.transfer.scores import Ledger
    from holdfast.transfer.sums import Place
    from holdfast.transfer.traffic import Traffic
    from holdfast.transfer.validators import Validators
    from holdfast.transfer.verify import Digest
    from holdfast.transfer.wanted import Attempt
    from holdfast.wire.cancel import Cancel
    from holdfast.wire.http1 import Head


@dataclass(frozen=True, slots=True)
class Options:
    """How files are fetched.

    durable: False omits the syncs: safe for a kill, not a power cut.
    wait_for_room: a full disk is waited for; else the file is left.
    allow_private: whether private addresses may be asked; None: it depends on who named them.
    exists: what becomes of a file that is there already (see `present`).
    sidecars: where digests beside the files are looked for; None: they are not.
    allow_dot: names may begin with a dot.  rename: a second file of one name gets a number.
    content_disposition: the server may say what a file is called.
    """

    timeouts: Timeouts = field(default_factory=Timeouts)
    durable: bool = True
    allow_html: bool = False
    max_size: int = MAX_SIZE
    wait_for_room: bool = False
    allow_private: bool | None = None
    exists: Exists = "verify"
    sidecars: Sidecars | None = None
    allow_dot: bool = False
    rename: bool = False
    content_disposition: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended.

    size: of the file if done; received: bytes that came in this run; wasted: those of them
    that are in no file and no part.  source: what vouched for it, and ignored: what could not.
    path: of the file, where the server gave it another one.
    """

    state: State
    failure: Failure | None = None
    size: int = 0
    received: int = 0
    wasted: int = 0
    verified: str = ""
    source: str = ""
    ignored: tuple[str, ...] = ()
    path: str = ""


WISHED = {
    Input.PAUSE: Failure("paused", "somebody paused it"),
    Input.CANCEL: Failure("cancelled", "somebody cancelled it"),
}
"""What is said of items that ended because somebody wanted it."""


class Fetch:
    """Brings one item to an end, and says each step to `told`.

    into: the output directory.  address: with its secrets; None if only the stored form is known.
    ledger: how well the hosts of this run do.
    wish: what somebody wants to become of it (PAUSE, CANCEL), asked when `cancel` was set.
    """

    def __init__(
        self,
        item: Item,
        address: Address | None,
        *,
        into: str,
        store: Store,
        options: Options,
        plane: Plane,
        cancel: Cancel,
        traffic: Traffic,
        ledger: Ledger | None = None,
        wish: Callable[[], Input | None] = lambda: None,
        told: Callable[[Outcome], None],
    ) -> None:
        self.item = item
        self._address = address
        self._into = into
        self._store = store
        self._options = options
        self._plane = plane
        self._cancel = cancel
        self._traffic = traffic
        self._ledger = ledger
        self._wish = wish
        self._told = told
        self._state = after(item.state, Input.QUEUE)
        self._target = beneath(into, item.path)
        self._part_path = beneath(into, item.part)
        self._digests = item.digests
        self._present: Present | None = None
        self._source, self._ignored = item.vouched_by, item.ignored
        self._transfer: ObjectTransfer | None = None
        self._part: Part | None = None
        self._began = 0

    def run(self, attempts: Callable[[str], Iterable[Attempt]]) -> Outcome:
        """Do it. attempts: host -> the policy's block of attempts.

        Whatever the work raises becomes an outcome. Two things pass through: a broken
        journal, since nothing may go on without one, and what is no `Exception`.
        """
        try:
            return self._run(attempts)
        except Skip as skip:
            return self._skip(skip)
        except (JournalBroken, Retired):
            raise
        except Exception as error:  # noqa: BLE001 - one odd item must not end the others
            host = self._address.url.netloc if self._address else ""
            happened, failure = _judged(error, host)
            if self._state is State.FINISHING and isinstance(error, OSError):
                # Whether the rename happened, and reached the disk, the next run will see.
                happened = Input.PAUSE
            wish = self._wish()
            if failure.reason == "interrupted" and wish is not None:
                happened, failure = wish, WISHED[wish]
            return self._end(happened, failure)

    def _run(self, attempts: Callable[[str], Iterable[Attempt]]) -> Outcome:
        item = self.item
        check_way(self._into, posixpath.dirname(self.item.path))
        if self._state is State.FINISHING and self._is_published():
            return self._done(self._finished_size, item.verified, item.digest)
        self._refuse_ours()
        found = files().stat(self._target)
        if self._state is State.FINISHING:
            if files().stat(self._part_path) is not None:
                if found is not None:
                    self._meet(found)
                return self._publish(self._finished_size, item.verified, item.digest)
            self._move(Input.LOST)
        if found is not None and (not found.regular or self._options.exists in {"skip", "fail"}):
            self._meet(found)  # no question is needed
        self._digests = self._find_sidecar(attempts)
        if found is not None and not self._is_nameless:
            self._meet(found)
        self._move(Input.START)
        whole = self._fetch(attempts)
        self._store.update(
            item.id,
            state=self._move(Input.PROVEN).state.value,
            verified=whole.verified,
            digest=whole.digest,
            vouched_by=whole.source,
            ignored="\n".join(whole.ignored),
            fetched=item.fetched + self._received,
        )
        self._source, self._ignored = whole.source, whole.ignored
        return self._publish(whole.size, whole.verified, whole.digest)

    # -- before ------------------------------------------------------------------------------

    @property
    def _finished_size(self) -> int:
        """The size of what a run before this one had proven; small files have no extents."""
        return self.item.kept or self.item.known_size or 0

    def _is_published(self) -> bool:
        """Whether the crash came after the rename: then the part is gone and the file there."""
        part, target = files().stat(self._part_path), files().stat(self._target)
        return part is None and target is not None and target.regular

    def _meet(self, found: FileInfo) -> None:
        """Decide about a file that we did not put there, as far as can be said without asking."""
        self._present = Present(self._target, found, self._options.exists, self._cancel)
        self._present.judge(self._digests, self.item.size)

    def _find_sidecar(self, attempts: Callable[[str], Iterable[Attempt]]) -> tuple[Digest, ...]:
        """Return the digest that lies beside the file, if one is looked for."""
        sidecars, address, item = self._options.sidecars, self._address, self.item
        if sidecars is None or address is None or item.digests:
            return item.digests

        def ask(place: Place) -> bytes | None:
            wanted = replace(
                self._wanted(address),
                url=place.url,
                size=None,
                digests=(),
                pieces=None,
                data_suffix=False,
                max_size=place.limit,
                mirrors=(),
            )
            return sidecars_fetch(
                wanted,
                place.name,
                plane=self._plane,
                cancel=self._cancel,
                traffic=self._traffic,
                attempts=attempts(place.url.host),
            )

        asked = item.asked or item.path
        last = posixpath.basename(unquote(address.url.path, errors="replace"))
        names = dict.fromkeys([last, asked, posixpath.basename(asked)])
        found = sidecars.find(address.url, list(names), ask, self._cancel)
        return (found,) if found is not None else ()

    def _look(self, seen: Validators, head: Head) -> None:
        """Judge what is in the way by the first answer; it may also bring another name."""
        if self._is_nameless:
            self._take_name(head)
        if self._present is not None:
            self._present.judge_by(seen, head, s3=self._s3)

    @property
    def _is_nameless(self) -> bool:
        """Whether the server may still say how the file is called: its name is the URL's."""
        item = self.item
        if not self._options.content_disposition or item.listing or item.standing.pinned:
            return False
        ours = name_from_url(parse(item.url), allow_dot=self._options.allow_dot)
        return (item.asked or item.path) == ours

    def _take_name(self, head: Head) -> None:
        """Take the name that the server proposes, before the first byte is journaled."""
        proposed = filename_in(head.headers.get("content-disposition", ""))
        name = safe_path(proposed, allow_dot=self._options.allow_dot) if proposed else ""
        if name and name != self.item.path:
            path = self._store.claim(self.item, name, rename=self._options.rename)
            if path is None:
                text = f"another item has the name that the server gives (`{name}`)"
                raise Stop("name-collision", text)
            self.item = replace(self.item, path=path, asked=self.item.asked or self.item.path)
            self._target = beneath(self._into, path)
        self._refuse_ours()
        found = files().stat(self._target)
        if found is not None:
            self._meet(found)

    def _refuse_ours(self) -> None:
        """Leave the journal alone, whatever the file is called."""
        journal = collision_key(posixpath.abspath(self._store.path))
        mine = collision_key(posixpath.abspath(posixpath.join(self._into, self.item.path)))
        if mine in {journal, f"{journal}-wal", f"{journal}-shm"}:
            raise Stop("unsafe-target", "the journal has this name")

    # -- the transfer ---------------------------------------------------------------------------

    def _fetch(self, attempts: Callable[[str], Iterable[Attempt]]) -> Whole:
        address = self._address
        if address is None:
            text = "its address is signed or had headers, and these are not stored"
            raise TransferFailed(Reason.NEEDS_URL, text, permanent("needs-url"))
        item, store = self.item, self._store
        part = Part(
            self._part_path,
            Extents.of(store.extents(item.id)),
            lambda extents: store.keep(item.id, extents),
            drop=lambda extents: store.forget(item.id, extents),
            durable=self._options.durable,
        )
        with self._used(part):
            self._open(part)
            self._part, self._began = part, part.held
            self._transfer = ObjectTransfer(
                self._wanted(address),
                part,
                item.standing,
                note=lambda standing, drop: store.note(item.id, standing, drop=drop),
                plane=self._plane,
                cancel=self._cancel,
                look=self._look if self._present or self._is_nameless else None,
                phase=lambda verifying: self._say_phase(verifying=verifying),
                failed=lambda error, n: store.attempt_failed(item.id, error.verdict, n, error.host),
                traffic=self._traffic,
                ledger=self._ledger,
            )
            return self._transfer.run(attempts(address.url.host))

    @staticmethod
    @contextmanager
    def _used(part: Part) -> Iterator[None]:
        """Close the part at the end; one that is empty after a failure is removed."""
        try:
            yield
        except Exception:
            part.close()
            if part.saved == 0:
                with suppress(OSError):
                    files().unlink(part.path)
            raise
        finally:
            part.close()

    def _open(self, part: Part) -> None:
        algorithms = [digest.algorithm for digest in self._digests]
        try:
            part.open(Hasher(algorithms) if algorithms else None)
        except UnsafePart as error:
            raise Stop("unsafe-target", str(error)) from None

    def _wanted(self, address: Address) -> Wanted:
        return Wanted(
            url=address.url,
            headers=self._headers(address),
            access=address.access,
            size=self.item.size,
            digests=self._digests,
            pieces=self._store.pieces(self.item.id),
            allow_html=self._options.allow_html,
            data_suffix=has_data_suffix(self.item.path),
            max_size=self._options.max_size,
            timeouts=self._options.timeouts,
            reach=reach_of(self.item, self._options.allow_private),
            mirrors=address.mirrors,
            s3=self._s3,
        )

    @property
    def _s3(self) -> bool:
        address = self._address
        known = address is not None and is_s3(address.url, address.headers)
        return known or self.item.listing > 0

    def _headers(self, address: Address) -> Mapping[str, str]:
        # S3 refuses it where it is not signed along, so whoever signs has to add it.
        alone = not (address.headers or address.access or address.url.is_signed)
        return {ASK_CHECKSUMS: "ENABLED"} if alone and self._s3 else address.headers

    def _say_phase(self, *, verifying: bool) -> None:
        self._move(Input.WHOLE if verifying else Input.AGAIN)

    @property
    def _wasted(self) -> int:
        # What is in the part but not in the journal is fetched again by the next run.
        gained = self._part.saved - self._began if self._part else 0
        return max(0, self._received - max(0, gained))

    @property
    def _received(self) -> int:
        return self._transfer.received if self._transfer else 0

    # -- the end ---------------------------------------------------------------------------------

    def _publish(self, size: int, verified: str, digest: str) -> Outcome:
        # Once more: somebody else may have put a file there while this one came in.
        found = files().stat(self._target)
        if found is not None and not found.regular:
            raise Stop("unsafe-target", "something that is no plain file has this name")
        if found is not None and self._options.exists != "overwrite":
            raise Stop("exists", "another file got this name while this one was fetched")
        publish(self._part_path, self._target, durable=self._options.durable)
        return self._done(size, verified, digest)

    def _done(self, size: int, verified: str, digest: str) -> Outcome:
        info = files().stat(self._target)
        self._store.ended(
            self.item.id,
            State.DONE,
            size=size,
            verified=verified,
            digest=digest,
            mtime=info.mtime if info else 0.0,
        )
        return self._move(Input.PUBLISHED, size=size, verified=verified)

    def _skip(self, skip: Skip) -> Outcome:
        if files().stat(self._part_path) is not None:
            files().unlink(self._part_path)
        self._store.ended(self.item.id, State.SKIPPED, None, **skip.columns)
        self._source = str(skip.columns["vouched_by"])
        return self._move(Input.SKIP, verified=str(skip))

    def _end(self, happened: Input, failure: Failure) -> Outcome:
        fetched = self.item.fetched + self._received
        state = after(self._state, happened)
        with suppress(JournalFull):  # whatever its state says, the next run takes it up
            self._store.ended(self.item.id, state, failure, fetched=fetched)
        if state is State.CANCELLED and files().stat(self._part_path) is not None:
            files().unlink(self._part_path)
        return self._move(happened, failure)

    def _move(
        self,
        happened: Input,
        failure: Failure | None = None,
        *,
        size: int = 0,
        verified: str = "",
    ) -> Outcome:
        """Take a step in the table of states and say it."""
        self._state = after(self._state, happened)
        done = self._state in {State.DONE, State.SKIPPED}
        outcome = Outcome(
            self._state,
            failure,
            size,
            self._received,
            self._wasted,
            verified,
            self._source if done else "",
            self._ignored if done else (),
            self.item.path if self.item.asked else "",
        )
        self._told(outcome)
        return outcome


def check_way(into: str, parent: str) -> None:
    """Refuse a way below `into` that leads through a link; make the directories."""
    way = into
    for name in parent.split("/") if parent else ():
        way = posixpath.join(way, name)
        # Looked at beside the seam: only the real file system has links in the way.
        if Path(way).is_symlink():
            raise Stop("unsafe-target", f"`{way}` is a link, and is not followed")
    files().makedirs(way)


def _judged(error: Exception, host: str) -> tuple[Input, Failure]:
    """Return what an error does to an item, and its record."""
    if isinstance(error, Stop):
        return Input.FAIL, error.failure
    if isinstance(error, JournalFull):
        return Input.PAUSE, Failure("disk", "the disk is full: the journal could not be written")
    failure = failure_of(error, host)
    if isinstance(error, TransferFailed):
        waits = (error.verdict.retry_after or 0) > LONGEST_WAIT
        if error.verdict.kind is Kind.CANCELLED or waits:
            return Input.PAUSE, failure
        expired = error.reason in {Reason.NEEDS_URL, Reason.CREDENTIALS}
        return (Input.EXPIRE if expired else Input.FAIL), failure
    return (Input.PAUSE if failure.reason in {"disk", "policy"} else Input.FAIL), failure
