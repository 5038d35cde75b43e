"""Is it right? Digests: where they come from, which one counts, and running ones.

    source                      digest                    of which answers
    the user, a list            any of the first four     before the first request
    a sidecar (see `sidecar`)   sha512, sha256, md5       before the first request
    Repr-Digest (RFC 9530)      sha512, sha256            200 and 206: it is always the whole's
    Content-MD5                 md5                       200 only: of a 206 it may be the part's
    x-amz-checksum-ALGORITHM    sha256, sha1, CRCs        200 only, and not composite ones
    ETag                        md5                       S3, 32 digits, not encrypted with a key

What the user gave is always checked, all of it. Without that the strongest of the others is,
by the one order of `STRENGTH`. Two of one algorithm that differ contradict each other: that
fails before a byte is fetched, with both named. With none there is only the size.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import threading
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Protocol

from holdfast.runtime.clock import clock
from holdfast.transfer.crc import CRC_BYTES, Crc, fast

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from holdfast.transfer.part import Part
    from holdfast.wire.http1 import Head
    from holdfast.wire.urls import Url

# Strongest first, with the length of the digest in bytes.
STRENGTH = {"sha512": 64, "sha256": 32, "sha1": 20, "md5": 16, **CRC_BYTES}
ALGORITHMS = tuple(name for name in STRENGTH if name not in CRC_BYTES)
"""What a user may give. A CRC finds damage on the way; it does not prove whose file it is."""
_OF_THE_USER = frozenset({"user", "list"})
_REPR_DIGEST = re.compile(r"sha-(256|512)\s*=\s*:([A-Za-z0-9+/=]{1,100}):")
_S3_CHECKSUM = "x-amz-checksum-"
_S3_ALGORITHMS = ("sha256", "sha1", "crc64nvme", "crc32c", "crc32")
_COMPOSITE = re.compile(r"[A-Za-z0-9+/=]+-[0-9]+\Z")
_S3_HOST = re.compile(
    r"(?:.+\.)?s3(?:[.-](?:dualstack\.|accesspoint\.|fips[.-])?[a-z0-9-]+)?\.amazonaws\.com(?:\.cn)?\Z"
)
ASK_CHECKSUMS = "x-amz-checksum-mode"
"""The header, with the value ENABLED, without which S3 sends no checksum."""


@dataclass(frozen=True, slots=True)
class Digest:
    """A digest that the whole object must have. hex: lower case; a CRC is big-endian.

    source: "user", "list", the header that it came in, or the name of the sidecar.
    """

    algorithm: str
    hex: str
    source: str = "user"

    def __post_init__(self) -> None:
        size = STRENGTH.get(self.algorithm)
        if size is None or (self.source in _OF_THE_USER and self.algorithm not in ALGORITHMS):
            known = ", ".join(ALGORITHMS)
            raise ValueError(f"`{self.algorithm}`: not one of the digests {known}")
        if not re.fullmatch(rf"[0-9a-f]{{{size * 2}}}", self.hex):
            raise ValueError(
                f"`{self.hex[:140]}`: not a {self.algorithm} digest, which has "
                f"{size * 2} hexadecimal digits"
            )

    def __str__(self) -> str:
        return f"{self.algorithm} {self.hex}"


@dataclass(frozen=True, slots=True)
class Promises:
    """What an answer says that the whole object must be.

    digests: strongest first.  ignored: sources that are there and cannot be used, with why.
    """

    digests: tuple[Digest, ...] = ()
    ignored: tuple[str, ...] = ()


def promises_in(head: Head, *, s3: bool = False) -> Promises:
    """Read what an answer promises of the whole object. s3: it is an answer of S3."""
    found: list[Digest] = []
    ignored: list[str] = []
    for bits, value in _REPR_DIGEST.findall(head.headers.get("repr-digest", "")):
        found += _decoded(f"sha{bits}", value, "Repr-Digest")
    if head.status == 200:
        # Of a 206 it would be the digest of the part, or of the whole: senders differ.
        found += _decoded("md5", head.headers.get("content-md5", ""), "Content-MD5")
        for algorithm in _S3_ALGORITHMS:
            _read_checksum(algorithm, head.headers, found, ignored)
    if s3:
        _read_s3_etag(head.headers, found, ignored)
    order = list(STRENGTH)
    return Promises(tuple(sorted(found, key=lambda d: order.index(d.algorithm))), tuple(ignored))


def digests_in(head: Head, *, s3: bool = False) -> list[Digest]:
    """Return the digests of the whole object that an answer carries, strongest first."""
    return list(promises_in(head, s3=s3).digests)


def _read_checksum(
    algorithm: str, headers: Mapping[str, str], found: list[Digest], ignored: list[str]
) -> None:
    name = _S3_CHECKSUM + algorithm
    value = headers.get(name, "").strip()
    if not value:
        return
    kind = headers.get(_S3_CHECKSUM + "type", "").strip().upper()
    if kind == "COMPOSITE" or _COMPOSITE.match(value):
        ignored.append(f"{name} (of parts, not of the whole)")
    elif algorithm in CRC_BYTES and fast(algorithm) is None:
        ignored.append(f"{name} (nothing here computes it fast)")
    else:
        found += _decoded(algorithm, value, name)


def _read_s3_etag(headers: Mapping[str, str], found: list[Digest], ignored: list[str]) -> None:
    etag = re.fullmatch(r'"([0-9a-f]{32})(-[0-9]+)?"', headers.get("etag", "").strip())
    if etag is None:
        return
    encrypted = headers.get("x-amz-server-side-encryption", "AES256").strip() != "AES256"
    if etag[2]:
        ignored.append("ETag (of parts, not of the whole)")
    elif encrypted or "x-amz-server-side-encryption-customer-algorithm" in headers:
        ignored.append("ETag (no MD5: the object is encrypted with a key)")
    elif headers.get("x-amz-storage-class", "") == "EXPRESS_ONEZONE":
        ignored.append("ETag (no MD5 in a directory bucket)")
    else:
        found.append(Digest("md5", etag[1], "ETag"))


def _decoded(algorithm: str, text: str, source: str) -> list[Digest]:
    try:
        raw = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        return []
    return [Digest(algorithm, raw.hex(), source)] if len(raw) == STRENGTH[algorithm] else []


def is_s3(url: Url, headers: Mapping[str, str]) -> bool:
    """Whether `url` is S3: by its name, or because its checksums are asked for."""
    asked = any(name.lower() == ASK_CHECKSUMS for name in headers)
    return asked or _S3_HOST.match(url.host) is not None


def contradiction(given: Iterable[Digest], sent: Iterable[Digest]) -> tuple[Digest, Digest] | None:
    """Return the first two digests of one algorithm that differ; None if there are none."""
    seen: dict[str, Digest] = {}
    for other in chain(given, sent):
        own = seen.setdefault(other.algorithm, other)
        if own.hex != other.hex:
            return own, other
    return None


def to_check(given: Iterable[Digest], sent: Iterable[Digest]) -> list[Digest]:
    """Return what to verify: all that the user gave; without any, the strongest one sent."""
    order = list(STRENGTH)
    strongest = sorted(sent, key=lambda digest: order.index(digest.algorithm))
    return list(given) or strongest[:1]


class _Running(Protocol):
    """A digest that takes bytes."""

    def update(self, data: memoryview | bytes, /) -> None:
        """Take the next bytes."""

    def hexdigest(self) -> str:
        """Return the digest so far."""
        ...


def _running(algorithm: str) -> _Running:
    if algorithm in CRC_BYTES:
        return Crc(algorithm)
    return hashlib.new(algorithm, usedforsecurity=False)


class Hasher:
    """Running digests over the bytes from zero, in order."""

    def __init__(self, algorithms: Iterable[str]) -> None:
        self.position = 0
        self._running = {name: _running(name) for name in sorted(set(algorithms))}

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
