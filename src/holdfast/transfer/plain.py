"""The plain good answer: the one of many thousands that needs none of the machinery.

`is_plain` says less often yes than the table in `answers`, and never otherwise than it: to a
first question about an object an answer that is plain is one that the table writes from zero.
Whatever is not plain goes to the machinery, with all that was received.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.transfer.verify import STRENGTH, Hasher, contradiction, promises_in, to_check
from holdfast.transfer.wanted import Whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.transfer.verify import Digest
    from holdfast.wire.http1 import Head


_PROMISING = frozenset(
    ["repr-digest", "content-md5", *(f"x-amz-checksum-{name}" for name in STRENGTH)]
)


def is_plain(head: Head, size: int | None) -> bool:
    """Whether an answer is the whole object, as it is, and of the right size.

    size: that was promised, if one was.
    """
    headers = head.headers
    return (
        head.status == 200
        and (size is None or head.length is None or head.length == size)
        and "content-range" not in headers
        and "content-encoding" not in headers
    )


def _may_promise(head: Head) -> bool:
    return not _PROMISING.isdisjoint(head.headers)


def checked(
    body: memoryview, head: Head, size: int | None, given: Sequence[Digest], *, s3: bool = False
) -> Whole | None:
    """Check a whole body against all that was promised; None if anything is not as it should.

    size, given: what the caller said.  s3: the answer is of S3.
    """
    if size is not None and len(body) != size:
        return None
    if not (given or s3 or _may_promise(head)):
        return Whole(len(body), "size-only")
    sent = promises_in(head, s3=s3)
    if contradiction(given, sent.digests) is not None:
        return None
    checks = to_check(given, sent.digests)
    if not checks:
        return Whole(len(body), "size-only", ignored=sent.ignored)
    hasher = Hasher(digest.algorithm for digest in checks)
    hasher.update(body)
    if any(hasher.hex(digest.algorithm) != digest.hex for digest in checks):
        return None
    best = checks[0]
    return Whole(len(body), best.algorithm, best.hex, best.source, sent.ignored)
