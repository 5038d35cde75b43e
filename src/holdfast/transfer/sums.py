r"""Sums beside a file: where they may lie, and how they are written.

    URL.sha256   URL.sha512   URL.md5                 of this file alone, up to 1 MiB
    SHA512SUMS   SHA256SUMS   MD5SUMS                 of all files of the directory, up to 16 MiB

    GNU    HEX  name      HEX *name      \HEX  name   (a name with escapes)
    BSD    SHA256 (name) = HEX
    bare   HEX                                        in a file of its own only

What is neither is passed over: a signature around it, a comment, a page that a server sends in
its place. So whatever comes instead of sums is no digest, and never a wrong one by accident:
a line counts only with as many digits as its algorithm has.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import unquote

from holdfast.transfer.verify import STRENGTH, Digest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from holdfast.wire.urls import Url

MAX_SINGLE = 1 << 20
MAX_SUMS = 16 << 20
SINGLES = ("sha256", "sha512", "md5")
SUMS = {"SHA512SUMS": "sha512", "SHA256SUMS": "sha256", "MD5SUMS": "md5"}
_GNU = re.compile(r"(\\?)([0-9A-Fa-f]{32,128}) [ *](.+)\Z")
_BSD = re.compile(r"([A-Za-z0-9-]{3,8}) ?\((.+)\) ?= ?([0-9A-Fa-f]{32,128})\Z")
_BARE = re.compile(r"[0-9A-Fa-f]{32,128}\Z")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sum of a file may lie. whole: the sums of a directory.  limit: bytes."""

    url: Url
    algorithm: str
    whole: bool = False

    @property
    def limit(self) -> int:
        """How large it may be."""
        return MAX_SUMS if self.whole else MAX_SINGLE

    @property
    def name(self) -> str:
        """What it is called in a report."""
        return posixpath.basename(unquote(self.url.path, errors="replace"))


def places(url: Url) -> list[Place]:
    """Return where sums of what `url` leads to may lie, in the order in which to look."""
    path, mark, query = url.target.partition("?")
    directory = path.rpartition("/")[0]
    beside = [
        Place(replace(url, target=f"{path}.{algorithm}{mark}{query}"), algorithm)
        for algorithm in SINGLES
        if not path.endswith("/")
    ]
    return beside + [
        Place(replace(url, target=f"{directory}/{name}{mark}{query}"), algorithm, whole=True)
        for name, algorithm in SUMS.items()
    ]


def read(data: bytes, algorithm: str) -> dict[str, str]:
    """Return name -> digest of all lines that hold one; "" for a bare one. Never raises.

    Of two lines with one name and different digests neither counts.
    """
    found: dict[str, str] = {}
    doubtful = set()
    for line in data.decode("utf-8", "replace").splitlines():
        name, digest = _line(line.strip("\ufeff\r\n "), algorithm)
        if digest and found.setdefault(name, digest) != digest:
            doubtful.add(name)
    return {name: digest for name, digest in found.items() if name not in doubtful}


def _line(line: str, algorithm: str) -> tuple[str, str]:
    name, digest = "", ""
    if _BARE.match(line):
        digest = line
    elif gnu := _GNU.match(line):
        digest, name = gnu[2], _unescaped(gnu[3]) if gnu[1] else gnu[3]
    elif (bsd := _BSD.match(line)) and bsd[1].lower().replace("-", "") == algorithm:
        digest, name = bsd[3], bsd[2]
    if len(digest) != 2 * STRENGTH[algorithm]:
        return "", ""
    return name.removeprefix("./"), digest.lower()


def _unescaped(name: str) -> str:
    return re.sub(r"\\([\\nr])", lambda m: {"n": "\n", "r": "\r"}.get(m[1], m[1]), name)


def choose(sums: dict[str, str], names: Iterable[str], place: Place) -> Digest | None:
    """Return the digest that is meant for a file.

    names: what it may be called.  In a file of its own the only digest is meant, whatever name
    stands beside it: files are renamed. Among those of a directory the name must be there.
    """
    for name in names:
        if name in sums:
            return Digest(place.algorithm, sums[name], place.name)
    if place.whole:
        return None
    only = set(sums.values())
    return Digest(place.algorithm, only.pop(), place.name) if len(only) == 1 else None
