"""What to do with an answer: one table, read from the top; the first row that fits decides.

The rows are the whole policy of resuming. Nothing else in the package looks at a status to
decide whether bytes may be joined to others; a test walks every row, and the page
`docs/get.md` shows the same table.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from holdfast.transfer.validators import (
    ContentRange,
    Match,
    Rung,
    Validators,
    linked_etag,
    parse_content_range,
    validators_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.wire.http1 import Head

REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PAGE_TYPES = frozenset({"text/html", "application/xhtml+xml", "application/json"})


class Action(enum.Enum):
    """What follows.

    APPEND       the body continues what we have: write it from the offset asked
    FROM_ZERO    the body is the whole object, of the version we know: write it from zero
    NEW_VERSION  the body is the whole object, of another version: drop all, write it from zero
    CHANGED      there is another version, but this is not its body: drop all, ask again
    NEXT_RUNG    the answer cannot be used: ask again one rung down
    WHOLE        416 names as size what we have: nothing is missing
    RESTART      416 without a size: drop all and ask again, once
    REDIRECT     go where Location says
    CAPTIVE      a page that stands in for the object (login, captive portal): try later
    OTHER_NODE   the same object from a server that gives it another ETag: try for ours
    WRONG_SIZE   not the object that was asked for: its size is known and another one
    FAIL         the status decides (see core/tables)
    """

    APPEND = enum.auto()
    FROM_ZERO = enum.auto()
    NEW_VERSION = enum.auto()
    CHANGED = enum.auto()
    NEXT_RUNG = enum.auto()
    WHOLE = enum.auto()
    RESTART = enum.auto()
    REDIRECT = enum.auto()
    CAPTIVE = enum.auto()
    OTHER_NODE = enum.auto()
    WRONG_SIZE = enum.auto()
    FAIL = enum.auto()


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked, and what was known then.

    start: first byte asked; 0 means that no range was asked, unless `ranged`.
    rung: how it was made sure.
    pinned: the version that the bytes on disk are of; None if nothing was pinned.
    size: what the caller says that the size is.  allow_html: pages are what is wanted.
    cross_site: redirects led to another site.  data_suffix: the name ends like data.
    nodes: it is known that several servers give this object each an ETag of its own.
    ranged: a range was asked although it starts at 0.
    linked: the ETag that the last redirect gave to the object.
    listed: the whole of the version that a listing told was asked for.
    """

    start: int = 0
    rung: Rung = Rung.RESTART
    pinned: Validators | None = None
    size: int | None = None
    allow_html: bool = False
    cross_site: bool = False
    data_suffix: bool = False
    nodes: bool = False
    ranged: bool = False
    linked: str = ""
    listed: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """An answer beside its question, with what the rows look at."""

    question: Question
    head: Head
    seen: Validators = field(init=False)
    given: ContentRange | None = field(init=False)
    match: Match = field(init=False)

    def __post_init__(self) -> None:
        pinned = self.question.pinned
        seen = validators_of(self.head, self.question.linked)
        object.__setattr__(self, "seen", seen)
        given = parse_content_range(self.head.headers.get("content-range"))
        object.__setattr__(self, "given", given)
        object.__setattr__(self, "match", pinned.compare(seen) if pinned else Match.UNKNOWN)

    @property
    def status(self) -> int:
        """The status code."""
        return self.head.status

    @property
    def resuming(self) -> bool:
        """A range was asked, so the body may only be appended."""
        return self.question.start > 0 or self.question.ranged

    @property
    def changed(self) -> bool:
        """The answer is of another version than the bytes on disk."""
        return self.match is Match.DIFFERENT

    @property
    def sibling(self) -> bool:
        """Only the strong ETag differs; size and date are known, and equal."""
        pinned, seen = self.question.pinned, self.seen
        return (
            pinned is not None
            and pinned.has_strong_etag
            and seen.has_strong_etag
            and pinned.etag != seen.etag
            and (pinned.size, pinned.last_modified) == (seen.size, seen.last_modified)
            and None not in {pinned.size, pinned.last_modified or None}
        )

    @property
    def as_asked(self) -> bool:
        """Content-Range starts where we asked, and the length is that of the range."""
        given, length = self.given, self.head.length
        if given is None or given.start is None or given.end is None:
            return False
        fits = length is None or length == given.end - given.start + 1
        return given.start == self.question.start and fits

    @property
    def until(self) -> int | None:
        """Where the bytes end by Content-Range; a body without a length may go on behind it."""
        return None if self.given is None or self.given.end is None else self.given.end + 1

    @property
    def vouched(self) -> bool:
        """The answer carries what its rung relies on."""
        if self.question.rung in {Rung.IF_MATCH, Rung.IF_RANGE}:
            return self.match is Match.STRONG
        if self.question.rung is Rung.VERSION and self.question.pinned is not None:
            version = self.question.pinned.version
            return bool(version) and version == self.seen.version and not self.changed
        if self.question.rung is Rung.DATE:
            return self.match in {Match.WEAK, Match.STRONG}
        return not self.changed

    @property
    def wrong_size(self) -> bool:
        """The caller knows the size, and this is not it."""
        wanted = self.question.size
        return wanted is not None and self.seen.size is not None and wanted != self.seen.size

    @property
    def captive(self) -> bool:
        """A page where data was expected.

        Judged only where something contradicts it: the known size or type of the object, or
        a redirect to another site for a name that ends like data. Plain pages pass.
        """
        question = self.question
        if question.allow_html or self.seen.media_type not in _PAGE_TYPES:
            return False
        if self.wrong_size or (question.cross_site and question.data_suffix):
            return True
        pinned = question.pinned
        if pinned is None or pinned.media_type == self.seen.media_type:
            return False
        return bool(pinned.media_type) or self.changed


class Row(NamedTuple):
    """One line of the table."""

    name: str
    fits: Callable[[Facts], bool]
    action: Action


def _links_elsewhere(facts: Facts) -> bool:
    # The redirect tells what it leads to: no need to go there with a range of something else.
    pinned, linked = facts.question.pinned, linked_etag(facts.head)
    known = pinned is not None and pinned.has_strong_etag and pinned.etag != linked
    return bool(linked) and known and facts.resuming


def _is(*statuses: int) -> Callable[[Facts], bool]:
    return lambda facts: facts.status in statuses


def _ok(facts: Facts) -> bool:
    return facts.status in {200, 203}


def _part(facts: Facts) -> bool:
    return facts.status == 206


def _middle(facts: Facts) -> bool:
    # Whatever the status says, a body that does not start at zero is not the whole object.
    return facts.given is not None and facts.given.start != 0


def _size_is_kept(facts: Facts) -> bool:
    # Only an answer to a range that starts at our end can say this.
    given, question = facts.given, facts.question
    return given is not None and facts.resuming and given.size == question.start


TABLE = (
    Row(
        "redirect to another version",
        lambda f: f.status in REDIRECTS and "location" in f.head.headers and _links_elsewhere(f),
        Action.CHANGED,
    ),
    Row(
        "redirect",
        lambda f: f.status in REDIRECTS and "location" in f.head.headers,
        Action.REDIRECT,
    ),
    Row("page instead of data", lambda f: (_ok(f) or _part(f)) and f.captive, Action.CAPTIVE),
    Row(
        "size is not the one asked for",
        lambda f: (_ok(f) or _part(f)) and f.wrong_size,
        Action.WRONG_SIZE,
    ),
    Row(
        "another node",
        lambda f: (_ok(f) or _part(f)) and f.question.nodes and f.sibling,
        Action.OTHER_NODE,
    ),
    Row("206, other version", lambda f: _part(f) and f.changed, Action.CHANGED),
    Row("206 as asked", lambda f: _part(f) and f.as_asked and f.vouched, Action.APPEND),
    Row("206, other range or none, or unvouched", _part, Action.NEXT_RUNG),
    Row(
        "200 with the range asked",
        lambda f: _ok(f) and f.resuming and f.as_asked and f.vouched and f.head.length is not None,
        Action.APPEND,
    ),
    Row(
        "200 with a range, other version",
        lambda f: _ok(f) and _middle(f) and f.changed,
        Action.CHANGED,
    ),
    Row("200 with another range", lambda f: _ok(f) and _middle(f), Action.NEXT_RUNG),
    Row("200, other version", lambda f: _ok(f) and f.changed, Action.NEW_VERSION),
    Row(
        "200, whole, though If-Range held",
        # The ETag or date is the one we sent, so the condition was true and the range was
        # still refused: this server wants another rung, or knows no ranges.
        lambda f: _ok(f) and f.resuming and f.question.rung in {Rung.IF_RANGE, Rung.DATE},
        Action.NEXT_RUNG,
    ),
    Row("200, whole", _ok, Action.FROM_ZERO),
    Row(
        "the version is not given",
        # It is gone, or not everybody may ask for versions; the object itself is still there.
        lambda f: f.question.rung is Rung.VERSION and f.status in {400, 403, 404, 405, 412},
        Action.NEXT_RUNG,
    ),
    Row("416, other version", lambda f: f.status == 416 and f.changed, Action.CHANGED),
    Row("416, size is what we have", lambda f: f.status == 416 and _size_is_kept(f), Action.WHOLE),
    Row(
        "416, other size",
        lambda f: f.status == 416 and f.resuming and f.seen.size is not None,
        Action.CHANGED,
    ),
    Row("416 without a size", lambda f: f.status == 416 and f.resuming, Action.RESTART),
    Row(
        "412 to a condition",
        lambda f: f.status == 412 and f.resuming and f.question.rung is Rung.IF_MATCH,
        Action.NEXT_RUNG,
    ),
    Row(
        # Nothing is on disk, so its word is enough: what is there now is asked for, whole.
        "412, replaced since it was listed",
        lambda f: f.status == 412 and f.question.listed,
        Action.CHANGED,
    ),
    Row("412 to none", lambda f: f.status == 412 and f.resuming, Action.CHANGED),
    Row("any other status", lambda _: True, Action.FAIL),
)


class Decision(NamedTuple):
    """An action, and the name of the row that chose it (for events and tests)."""

    action: Action
    row: str
    facts: Facts


def judge(question: Question, head: Head) -> Decision:
    """Say what to do with an answer. Pure; never raises: the last row fits all."""
    facts = Facts(question, head)
    row = next(row for row in TABLE if row.fits(facts))
    return Decision(row.action, row.name, facts)
