"""What somebody wants fetched, read and checked: an item, and what the journal may not hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from holdfast.downloads.addresses import Address
from holdfast.downloads.failures import DownloadError, Failure
from holdfast.downloads.items import Item, item_id
from holdfast.downloads.names import name_from_url, safe_path
from holdfast.downloads.states import State, is_open
from holdfast.transfer.repair import Pieces
from holdfast.transfer.validators import Validators
from holdfast.transfer.verify import Digest
from holdfast.transfer.wanted import Standing
from holdfast.wire.http1 import request_head
from holdfast.wire.urls import Url, parse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from holdfast.downloads.lists import Entry
    from holdfast.downloads.s3 import Chosen


@dataclass(frozen=True, slots=True)
class Wish:
    """One file that is wanted.

    address: what the journal may not hold, None if it holds all.  pieces: promised sums.
    """

    item: Item
    address: Address | None = None
    pieces: Pieces | None = None


def of_entry(entry: Entry, pieces: Pieces | None = None, *, allow_dot: bool = False) -> Wish:
    """Return the wish that an entry is. Raises BadUrl, or DownloadError (HF-1003).

    allow_dot: its name may begin with a dot.
    """
    source = parse(entry.url)
    mirrors = tuple(parse(text) for text in entry.mirrors)
    if entry.size is not None and entry.size < 0:
        raise DownloadError("bad-option", f"`size`: {entry.size}: it must not be negative")
    headers = dict(entry.headers)
    if headers:
        _check_headers(source, headers)
    url = source.canonical()
    if entry.path is None:
        path = name_from_url(source, allow_dot=allow_dot)
    else:
        path = safe_path(entry.path, allow_dot=allow_dot)
    item = Item(
        item_id(url, path),
        path,
        url,
        secret=source.is_signed or bool(headers),
        size=entry.size,
        digests=entry.digests,
        mirrors=tuple(mirror.canonical() for mirror in mirrors),
        typed=entry.typed,
    )
    told = item.secret or any(mirror.is_signed for mirror in mirrors)
    return Wish(item, Address(source, headers, mirrors) if told else None, pieces)


def of_object(chosen: Chosen, listing: int, *, allow_dot: bool = False) -> Wish:
    """Return the wish for an object that was listed; what cannot be fetched has failed.

    Its size and ETag are those of the version that is asked for first. They are no promise: an
    object that is replaced after it was listed is taken as it is then.
    """
    path = safe_path(chosen.path, allow_dot=allow_dot)
    failure = chosen.failure
    item = Item(
        item_id(chosen.url, path),
        path,
        chosen.url,
        state=State.QUEUED if failure is None else State.FAILED,
        standing=Standing(Validators(etag=chosen.etag, size=chosen.size), listed=True),
        failure=failure,
        listing=listing,
    )
    return Wish(item)


def of_failure(source: str, path: str, failure: Failure, listing: int = 0) -> Wish:
    """Return what stands in the failed list for a source that brought nothing."""
    name = safe_path(path)
    item = Item(
        item_id(source, name), name, source, state=State.FAILED, failure=failure, listing=listing
    )
    return Wish(item)


def adds_nothing(known: Item, item: Item) -> bool:
    """Whether asking again for a known item says nothing new of it."""
    if (item.url, item.secret) != (known.url, known.secret) or item.typed > known.typed:
        return False
    if item.size not in {None, known.size} or item.digests not in {(), known.digests}:
        return False
    if item.mirrors not in {(), known.mirrors} or item.listing not in {0, known.listing}:
        return False
    pinned = item.standing.pinned
    settled = known.kept > 0 or not is_open(known.state)
    return settled or pinned is None or pinned == known.standing.pinned


def again(known: Item, item: Item) -> Item:
    """Return a known item after it was asked for again: new promises count, old ones stay."""
    return replace(
        item,
        path=known.path,
        asked=known.asked,
        size=known.size if item.size is None else item.size,
        digests=item.digests or known.digests,
        mirrors=item.mirrors or known.mirrors,
        listing=item.listing or known.listing,
        typed=item.typed or known.typed,
    )


def digests_of(**given: str | None) -> tuple[Digest, ...]:
    """Return the digests that were given as hexadecimal texts. Raises DownloadError (HF-1002)."""
    try:
        return tuple(
            Digest(name, text.strip().lower()) for name, text in given.items() if text is not None
        )
    except ValueError as error:
        raise DownloadError("bad-digest", str(error)) from None


def pieces_of(given: tuple[int, str, Sequence[str]] | None) -> Pieces | None:
    """Return the sums of pieces that were given. Raises DownloadError (HF-1002)."""
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
