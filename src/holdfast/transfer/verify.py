"""Is it right? Digests: where they come from, which one counts, and running ones.

Sources, in the order of trust: what the user gave, then what the server sent along
(`Repr-Digest`, RFC 9530; `Content-MD5`, only of a whole answer). Two that contradict each
other fail before a byte is fetched.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    from collections.abc import Iterable

    from holdfast.transfer.part import Part
    from holdfast.wire.http1 import Head

# Strongest first, with the length of the digest in bytes.
ALGORITHMS = {"sha512": 64, "sha256": 32, "md5": 16}
_REPR_DIGEST = re.compile(r"sha-(256|512)\s*=\s*:([A-Za-z0-9+/=]{1,100}):")


@dataclass(frozen=True, slots=True)
class Digest:
    """A digest that the whole object must have. hex: lower case.

    source: "user", or the header that it came in.
    """

    algorithm: str
    hex: str
    source: str = "user"

    def __post_init__(self) -> None:
        size = ALGORITHMS.get(self.algorithm)
        if size is None:
            known = ", ".join(ALGORITHMS)
            raise ValueError(f"`{self.algorithm}`: not one of the digests {known}")
        if not re.fullmatch(rf"[0-9a-f]{{{size * 2}}}", self.hex):
            raise ValueError(
                f"`{self.hex[:140]}`: not a {self.algorithm} digest, which has "
                f"{size * 2} hexadecimal digits"
            )

    def __str__(self) -> str:
        return f"{self.algorithm} {self.hex}"


def digests_in(head: Head) -> list[Digest]:
    """Return the digests of the whole object that an answer carries, strongest first."""
    found = []
    for bits, value in _REPR_DIGEST.findall(head.headers.get("repr-digest", "")):
        found += _decoded(f"sha{bits}", value, "Repr-Digest")
    if head.status == 200:
        # Of a 206 it would be the digest of the part, or of the whole: senders differ.
        found += _decoded("md5", head.headers.get("content-md5", ""), "Content-MD5")
    return sorted(found, key=lambda digest: list(ALGORITHMS).index(digest.algorithm))


def _decoded(algorithm: str, text: str, source: str) -> list[Digest]:
    try:
        raw = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        return []
    return [Digest(algorithm, raw.hex(), source)] if len(raw) == ALGORITHMS[algorithm] else []


def contradiction(given: Iterable[Digest], sent: Iterable[Digest]) -> tuple[Digest, Digest] | None:
    """Return two digests of one algorithm that differ, one of each side; None if there are none."""
    mine = {digest.algorithm: digest for digest in given}
    for other in sent:
        own = mine.get(other.algorithm)
        if own is not None and own.hex != other.hex:
            return own, other
    return None


def to_check(given: Iterable[Digest], sent: Iterable[Digest]) -> list[Digest]:
    """Return what to verify: all that the user gave; without any, the strongest one sent."""
    return list(given) or list(sent)[:1]


class Hasher:
    """Running digests over the bytes from zero, in order."""

    def __init__(self, algorithms: Iterable[str]) -> None:
        self.position = 0
        self._running = {
            name: hashlib.new(name, usedforsecurity=False) for name in sorted(set(algorithms))
        }

    @property
    def algorithms(self) -> list[str]:
        """What is computed."""
        return list(self._running)

    def update(self, data: memoryview | bytes) -> None:
        """Take the next bytes."""
        self.position += len(data)
        for running in self._running.values():
            running.update(data)

    def restart(self) -> None:
        """Begin at zero again."""
        self.__init__(self._running)  # type: ignore[misc] # the same algorithms, afresh

    def hex(self, algorithm: str) -> str:
        """Return the digest of what was taken so far."""
        return self._running[algorithm].hexdigest()


class Follower:
    """Hashes what is there without a gap while the rest comes, on a thread of its own.

    The streams bring bytes in any order, and a digest takes them in one. What has come to
    the front is read again, from the page cache as a rule: that costs a copy, and keeps the
    digest (a second per GiB or two) off the threads that move bytes.
    """

    def __init__(self, part: Part, hasher: Hasher) -> None:
        self._part = part
        self._hasher = hasher
        self._news = threading.Event()
        self._ending = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="holdfast-hash", daemon=True)
        part.grown = self._news.set
        self._thread.start()

    def _run(self) -> None:
        while not self._ending:
            clock.wait(self._news, None)
            self._news.clear()
            try:
                self._part.digest_all(self._hasher, enough=lambda: self._ending)
            except OSError:
                return  # who needs the digest reads on from there, and meets the error
            except BaseException as error:  # noqa: BLE001 - raised again by `close`
                self._error = error
                return

    def close(self) -> None:
        """End it; the hasher stays where it is. Raises what ended it before, if not an OSError."""
        self._ending = True
        self._news.set()
        self._thread.join()
        self._part.grown = None
        if self._error is not None:
            raise self._error
