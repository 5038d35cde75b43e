"""The values of downloads: an item, what happened to it, and the report of a run."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from holdfast.core.events import Event
from holdfast.downloads.names import part_path
from holdfast.downloads.states import State
from holdfast.transfer.wanted import Standing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.downloads.failures import Failure
    from holdfast.transfer.verify import Digest


_S3_REGION = re.compile(
    r"\A(https?://(?:[^/]+\.)?s3)\.[a-z]{2}(?:-[a-z]+)+-[0-9](\.amazonaws\.com(?:\.cn)?/)"
)


def item_id(canonical: str, path: str) -> str:
    """Return the id of a source and a destination: 16 hexadecimal digits.

    canonical: the URL without signature or credentials (see `wire.urls`), so that a fresh
    presigned URL is the same item. Of S3 the region is left out: a bucket has only one, and
    whether it stands in the address depends on what was known when it was made.
    """
    if "amazonaws.com" in canonical:
        canonical = _S3_REGION.sub(r"\1\2", canonical)
    return hashlib.sha256(f"{canonical}\0{path}".encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Item:
    """One file to be fetched, as the journal has it.

    path: of the final file, relative to the output directory.  url: without its secrets.
    mirrors: other addresses of the same file, without their secrets.
    secret: the stored URL is not enough to ask for it.  size, digests: what was promised.
    kept: bytes on disk.  fetched: bytes received so far, all runs together.
    verified: the algorithm checked, `size-only` or `unverified`; empty until done.
    vouched_by: where the digest came from; ignored: sources of others that could not be used.
    mtime: of the final file when it was published.  session: in which it was last asked for.
    listing: that brought it (see `listings`), 0 for none.
    typed: the user of this machine named the URL; so it may lead to a private address.
    asked: the path that was asked for and makes the id, if the file has another one.
    """

    id: str
    path: str
    url: str
    state: State = State.QUEUED
    secret: bool = False
    size: int | None = None
    digests: tuple[Digest, ...] = ()
    standing: Standing = field(default_factory=Standing)
    failure: Failure | None = None
    kept: int = 0
    fetched: int = 0
    attempts: int = 0
    verified: str = ""
    digest: str = ""
    mtime: float = 0.0
    ended_at: float = 0.0
    session: int = 0
    mirrors: tuple[str, ...] = ()
    listing: int = 0
    typed: bool = True
    asked: str = ""
    vouched_by: str = ""
    ignored: tuple[str, ...] = ()

    @property
    def part(self) -> str:
        """Where its part lies, relative to the output directory; it keeps its name for life."""
        return part_path(self.asked or self.path, self.id)

    @property
    def is_held(self) -> bool:
        """Whether somebody paused it: no run takes it up until it is resumed."""
        return (
            self.state is State.PAUSED
            and self.failure is not None
            and (self.failure.reason == "paused")
        )

    @property
    def is_file(self) -> bool:
        """Whether it is a file, not a bad line of a list, or a source that brought nothing."""
        return self.url.startswith(("http://", "https://"))

    @property
    def known_size(self) -> int | None:
        """The size, once a server or the user told it."""
        pinned = self.standing.pinned
        return pinned.size if pinned is not None and pinned.size is not None else self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class FileState(Event):
    """An item came into a new state.

    reason, code, text: why, for the states that have a reason.
    size, verified: of the file, when it is done.  source: where its digest came from; ignored:
    other sources that were there, and why they could not be used.
    """

    state: str
    reason: str = ""
    code: str = ""
    text: str = ""
    size: int | None = None
    verified: str = ""
    source: str = ""
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ListingPage(Event):
    """A page of a listing was journaled. The event's path is what is listed.

    objects, bytes: wanted of it so far.  seen: objects listed so far.  ended: the last page.
    """

    objects: int
    bytes: int
    seen: int
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Added:
    """What a call put into the journal.

    count: files, those that were known already included.  bytes: of those whose size is known;
    unknown_sizes: how many have none.  failed: entries that are in the failed list at once.
    """

    count: int = 0
    bytes: int = 0
    unknown_sizes: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would do.

    files: to be fetched.  bytes: their sizes, so far as known; unknown_sizes: files without one.
    collisions: items that failed because another one has their name.
    free: bytes that this user may write there; needed: what the files lack.
    requests: GETs at least, one for each file.
    """

    files: int
    bytes: int
    unknown_sizes: int
    collisions: int
    free: int
    needed: int
    requests: int

    @property
    def fits(self) -> bool:
        """Whether there is room for all whose size is known."""
        return self.needed <= self.free


@dataclass(frozen=True, slots=True)
class ItemEvent:
    """An event and the item that it is about; id and path are empty if it is about a host."""

    id: str
    path: str
    event: Event


@dataclass(frozen=True, slots=True)
class FailedItem:
    """One line of the failed list. at: seconds since the epoch."""

    id: str
    path: str
    url: str
    code: str
    reason: str
    text: str
    attempts: int
    at: float


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did.

    done, skipped: files.  failed: those that ended without their file.  left: items with
    work left, `left_why` with the reasons.  unverified: done, but nothing vouches for the
    content beyond its size or a weak validator.  checked: files done, by what they were checked.
    bytes: of the files done.  fetched: received in this run; waste: what of it is in no file
    and no part.  seconds: wall time.  exit_code: as of the command.
    """

    done: int = 0
    skipped: int = 0
    failed: tuple[FailedItem, ...] = ()
    left: int = 0
    left_why: tuple[str, ...] = ()
    unverified: int = 0
    bytes: int = 0
    fetched: int = 0
    waste: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    checked: Mapping[str, int] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 done, 1 failures, 3 work left, 75 only hosts are waited for, 130 interrupted."""
        if self.interrupted:
            return 130
        if self.left and not set(self.left_why) <= {"throttled", "no-aria2"}:
            return 3
        if self.failed:
            return 1
        return 75 if self.left else 0
