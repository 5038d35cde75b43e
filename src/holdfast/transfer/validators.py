"""Is it still the same object? What one answer says of an object, compared with another.

The rungs, best first (a transfer starts on the best one its object offers, and steps down
when a server does not honour a rung):

    IF_MATCH   strong ETag; a changed object answers 412, without a body
    IF_RANGE   strong ETag; a changed object answers 200, with the new body
    VERSION    S3's version id, by `?versionId=`: that version, though there may be a newer one
    DATE       Last-Modified, by If-Range; weaker, as two changes may share one second
    OVERLAP    no condition: the last 64 KiB are fetched again and compared
    RESTART    nothing vouches for what is on disk: from zero

An object that changed is taken in its new version, so the ETag comes before the version id. But
one that changed under our hands once is held by its version id from then on, where it has one:
else an object that is replaced faster than it can be fetched would never come to an end.

412 on IF_MATCH is not taken at its word: the same question on IF_RANGE costs no request
more, since a changed object sends its new body there, and it tells a server whose If-Match
is broken from an object that changed.

Sources: RFC 9110, sections 8.8 (validators), 13.1 (If-Match, If-Range), 14 (ranges).
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.core.retry_after import parse_http_date

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.wire.http1 import Head

OVERLAP_BYTES = 64 * 1024
_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)\Z", re.IGNORECASE)


class Rung(enum.StrEnum):
    """How a resumed request makes sure of its object. Ordered: see `below`."""

    IF_MATCH = "if-match"
    IF_RANGE = "if-range"
    VERSION = "version-id"
    DATE = "last-modified"
    OVERLAP = "overlap"
    RESTART = "restart"

    @property
    def below(self) -> Rung:
        """The next weaker rung; RESTART is its own."""
        rungs = list(Rung)
        return rungs[min(rungs.index(self) + 1, len(rungs) - 1)]

    @property
    def is_weak(self) -> bool:
        """Whether what was resumed by it is only probably of one version."""
        return self in {Rung.DATE, Rung.OVERLAP}


class Match(enum.StrEnum):
    """How an answer compares with what is pinned."""

    STRONG = "strong"
    WEAK = "weak"
    UNKNOWN = "unknown"
    DIFFERENT = "different"


@dataclass(frozen=True, slots=True)
class ContentRange:
    """`bytes start-end/size`, end included; start None for `bytes */size`, size None for `*`."""

    start: int | None
    end: int | None
    size: int | None


def parse_content_range(text: str | None) -> ContentRange | None:
    """Read a Content-Range; None if it is absent or makes no sense."""
    found = _CONTENT_RANGE.match(text.strip()) if text else None
    if found is None:
        return None
    start, end, size = (int(g) if g and g != "*" else None for g in found.groups())
    if start is not None and end is not None and (end < start or (size or end + 1) <= end):
        return None
    return ContentRange(start, end, size)


@dataclass(frozen=True, slots=True)
class Validators:
    """What an answer says of its object; empty or None where it says nothing.

    etag: as sent, `W/` included.  last_modified: as sent.  size: of the whole object.
    dated: whether Last-Modified is strong by RFC 9110, 8.8.2.2: older than Date by a second,
    so that no second change can hide in it.  version: S3's id of this version.
    """

    etag: str = ""
    last_modified: str = ""
    size: int | None = None
    media_type: str = ""
    coding: str = ""
    dated: bool = False
    version: str = ""

    @property
    def has_strong_etag(self) -> bool:
        """Whether equal ETags mean equal bytes."""
        return self.etag.startswith('"')

    def rung(self, limit: Rung = Rung.IF_MATCH) -> Rung:
        """Return the best rung that these validators carry, not above `limit`."""
        if self.coding:
            # Coded on the fly: two codings of one object need not be byte-equal.
            return Rung.RESTART
        offered = [Rung.OVERLAP, Rung.RESTART]
        if self.last_modified and self.dated:
            offered.insert(0, Rung.DATE)
        if self.version:
            offered.insert(0, Rung.VERSION)
        if self.has_strong_etag:
            offered[:0] = [Rung.IF_MATCH, Rung.IF_RANGE]
        rungs = list(Rung)
        return next(rung for rung in offered if rungs.index(rung) >= rungs.index(limit))

    def compare(self, new: Validators) -> Match:
        """Say whether `new` describes the object that these are of.

        Equal strong ETags settle it, different ones too; then any difference in size, weak
        ETag or date means another version. Equal weak ones only make the same one likely.
        """
        if self.size is not None and new.size is not None and self.size != new.size:
            return Match.DIFFERENT
        if self.has_strong_etag and new.has_strong_etag:
            return Match.STRONG if self.etag == new.etag else Match.DIFFERENT
        if self.version and new.version:
            return Match.STRONG if self.version == new.version else Match.DIFFERENT
        pairs = [
            (self.etag.removeprefix("W/"), new.etag.removeprefix("W/")),
            (self.last_modified, new.last_modified),
        ]
        known = [(a, b) for a, b in pairs if a and b]
        if any(a != b for a, b in known):
            return Match.DIFFERENT
        return Match.WEAK if known else Match.UNKNOWN


def validators_of(head: Head, linked: str = "") -> Validators:
    """Read the validators of an answer (200, 206 or 416).

    linked: the ETag that a redirect gave to what it leads to; it goes before the answer's own.
    """
    headers = head.headers
    given = parse_content_range(headers.get("content-range"))
    if head.status in {206, 416} or given is not None:
        size = given.size if given else None
    else:
        size = head.length
    return Validators(
        etag=linked or _etag(headers.get("etag", "")),
        last_modified=headers.get("last-modified", ""),
        size=size,
        media_type=headers.get("content-type", "").partition(";")[0].strip().lower(),
        coding=_coding(headers),
        dated=_is_dated(headers),
        version=_version(headers),
    )


def linked_etag(head: Head) -> str:
    """Return the strong ETag that a redirect gives to the object it leads to, or empty.

    Behind such a redirect (Hugging Face) lie servers whose own ETags differ from each other.
    """
    etag = _etag(head.headers.get("x-linked-etag", ""))
    return etag if etag.startswith('"') else ""


def is_version_id(text: str) -> bool:
    """Whether `text` can be asked for as a version (S3: up to 1,024 bytes, URL-ready)."""
    return re.fullmatch(r"[A-Za-z0-9._~-]{1,1024}", text) is not None and text != "null"


def conditions(
    pinned: Validators, rung: Rung, offset: int, end: int | None = None
) -> dict[str, str]:
    """Return the request headers that resume at `offset` on this rung; none for RESTART.

    end: of the bytes asked; None for all that follow.
    """
    if rung is Rung.RESTART or (offset <= 0 and end is None):
        return {}
    start = overlap_start(rung, offset)
    headers = {}
    if start or end is not None:
        headers["Range"] = f"bytes={start}-" + ("" if end is None else str(end - 1))
    if rung is Rung.IF_MATCH:
        headers["If-Match"] = pinned.etag
    elif rung is Rung.IF_RANGE:
        headers["If-Range"] = pinned.etag
    elif rung is Rung.DATE:
        headers["If-Range"] = pinned.last_modified
    return headers


def overlap_start(rung: Rung, offset: int) -> int:
    """Return where a request on this rung starts; 0 means that no range is asked."""
    if rung is Rung.RESTART:
        return 0
    return max(0, offset - OVERLAP_BYTES) if rung is Rung.OVERLAP else offset


def _etag(text: str) -> str:
    # Some servers send it bare. Such a one is not trusted as strong, nor can it be asked for.
    text = text.strip()
    if re.fullmatch(r'(W/)?"[^"\x00-\x20\x7f]*"', text):
        return text
    return f'W/"{text}"' if text and '"' not in text else ""


def _version(headers: Mapping[str, str]) -> str:
    text = headers.get("x-amz-version-id", "").strip()
    return text if is_version_id(text) else ""


def _coding(headers: Mapping[str, str]) -> str:
    coding = headers.get("content-encoding", "").strip().lower()
    return "" if coding == "identity" else coding


def _is_dated(headers: Mapping[str, str]) -> bool:
    modified = parse_http_date(headers.get("last-modified", ""))
    date = parse_http_date(headers.get("date", ""))
    return modified is not None and date is not None and date - modified >= 1
