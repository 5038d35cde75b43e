"""What is to be fetched, what is remembered of it meanwhile, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, Self

from holdfast.transfer.plane import Timeouts
from holdfast.transfer.validators import Rung, Validators
from holdfast.wire.addresses import Reach

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from holdfast.transfer.access import Access
    from holdfast.transfer.repair import Pieces
    from holdfast.transfer.verify import Digest
    from holdfast.wire.urls import Url

MAX_SIZE = 1 << 40


class Attempt(Protocol):
    """What the block form of a policy yields."""

    def progress(self) -> None:
        """Start the count of attempts afresh."""

    def __enter__(self) -> Self:
        """Begin it."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """End it; True: the failure is taken, another attempt follows."""
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be fetched.

    access: makes further headers, anew for each request.
    size, digests, pieces: what the caller says that they are.
    data_suffix: the name ends like data, so that a page in its place is suspicious.
    max_size: bytes; bounds what has no size.
    s3: it is S3, whose ETag may be an MD5 and whose versions have ids (see `verify.is_s3`).
    reach: which addresses may be asked; less after a redirect.
    mirrors: other addresses of the same object, the better ones first.
    """

    url: Url
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    size: int | None = None
    digests: tuple[Digest, ...] = ()
    pieces: Pieces | None = None
    allow_html: bool = False
    data_suffix: bool = False
    max_size: int = MAX_SIZE
    timeouts: Timeouts = field(default_factory=Timeouts)
    s3: bool = False
    access: Access | None = field(default=None, repr=False)
    reach: Reach = Reach.TYPED
    mirrors: tuple[Url, ...] = ()


@dataclass(frozen=True, slots=True)
class Standing:
    """What is remembered of an object between attempts and processes, beside its extents.

    pinned: the version that the extents are of.  limit: the best rung that this server
    honours.  weak: a resume relied on a weak rung.  changes, mismatches: counted to their
    ends, 3 and 2.  nodes: several servers give the object each its own ETag.
    promised: the digests that came with this version. They are kept, because a server that
    sends one with the whole object may send none with the rest of it.
    listed: what is pinned was told by a listing, and no answer has confirmed it yet.
    """

    pinned: Validators | None = None
    limit: Rung = Rung.IF_MATCH
    weak: bool = False
    changes: int = 0
    mismatches: int = 0
    nodes: bool = False
    promised: tuple[Digest, ...] = ()
    listed: bool = False


@dataclass(frozen=True, slots=True)
class Whole:
    """A finished object. verified: the algorithm that was checked, `size-only` or `unverified`.

    source: where the digest came from.  ignored: other sources that were there, and why they
    could not be used.
    """

    size: int
    verified: str
    digest: str = ""
    source: str = ""
    ignored: tuple[str, ...] = ()
