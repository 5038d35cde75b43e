"""What lies at the target already, and is not ours: what is it, and what becomes of it.

    exists=      right digest        right size only       another size or digest
    verify       skipped, verified   skipped, unverified   failed, untouched
    skip         skipped, unverified: it is never looked into
    overwrite    replaced when the new file is whole and verified, not before
    fail         failed, untouched

What is no plain file (link, directory, FIFO, device) fails the item in every mode. A file of
ours that is done and unchanged never comes here: it is skipped by its size and time.

The digest is the one that was promised; without any, what the first answer promises. Then the
body of that answer is not read.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Literal

from holdfast.downloads.failures import Failure
from holdfast.runtime.files import files
from holdfast.transfer.failures import Interrupted, permanent
from holdfast.transfer.verify import Hasher, promises_in, to_check

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.runtime.files import FileInfo
    from holdfast.transfer.validators import Validators
    from holdfast.transfer.verify import Digest
    from holdfast.wire.cancel import Cancel
    from holdfast.wire.http1 import Head

Exists = Literal["verify", "skip", "overwrite", "fail"]
EXISTS: tuple[Exists, ...] = ("verify", "skip", "overwrite", "fail")
_READ = 1 << 20


class Skip(Exception):
    """The file is there already. verified, digest, source: as in `Item`."""

    verdict = permanent("there already")

    def __init__(self, found: FileInfo, verified: str, digest: str = "", source: str = "") -> None:
        super().__init__(verified)
        self.columns = {
            "size": found.size,
            "mtime": found.mtime,
            "verified": verified,
            "digest": digest,
            "vouched_by": source,
        }


class Stop(Exception):
    """The item ends with this failure."""

    verdict = permanent("stop")

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.failure = Failure(reason, text)


class Present:
    """A file at `target` that we did not put there. Each method may raise Skip or Stop."""

    def __init__(self, target: str, found: FileInfo, exists: Exists, cancel: Cancel) -> None:
        """Raise what can be said at once."""
        if not found.regular:
            raise Stop("unsafe-target", "something that is no plain file has this name")
        if exists == "skip":
            raise Skip(found, "unverified")
        if exists == "fail":
            raise Stop("exists", f"a file has this name (size: {found.size})")
        self._target = target
        self._found = found
        self._is_judged = exists == "verify"
        self._cancel = cancel

    @property
    def is_replaced(self) -> bool:
        """Whether it makes room for the file that is fetched."""
        return not self._is_judged

    def judge(self, digests: Sequence[Digest], size: int | None) -> None:
        """Judge it by what was promised; return if that says nothing."""
        if not self._is_judged:
            return
        if digests:
            self._compare(digests)
        if size is not None:
            self._compare_size(size)

    def judge_by(self, seen: Validators, head: Head, *, s3: bool) -> None:
        """Judge it by the first answer."""
        if not self._is_judged:
            return
        if seen.size == self._found.size:
            digests = to_check((), promises_in(head, s3=s3).digests)
            if digests:
                self._compare(digests)
        self._compare_size(seen.size)

    def _compare(self, digests: Sequence[Digest]) -> None:
        hasher = Hasher(digest.algorithm for digest in digests)
        with closing(files().open(self._target)) as there:
            while data := there.pread(_READ, hasher.position):
                hasher.update(data)
                if self._cancel.is_set():
                    raise Interrupted
        best = digests[0]
        if all(hasher.hex(digest.algorithm) == digest.hex for digest in digests):
            raise Skip(self._found, best.algorithm, best.hex, best.source)
        raise Stop(
            "exists",
            f"another file has this name ({best.algorithm} expected: {best.hex}, "
            f"found: {hasher.hex(best.algorithm)}, from: {best.source})",
        )

    def _compare_size(self, size: int | None) -> None:
        if size == self._found.size:
            raise Skip(self._found, "unverified")
        told = "unknown" if size is None else size
        text = f"another file has this name (size expected: {told}, found: {self._found.size})"
        raise Stop("exists", text)
