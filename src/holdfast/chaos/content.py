"""Objects of any size that cost nothing: bytes computed from their position.

A pool of 1 MiB is drawn once. Block i (64 KiB) of an object is a 16-byte stamp (the object's
key and i) followed by a window into the pool, whose place depends on the key and on i. So a
block in the wrong place, of another object or of another version shows, any range can be
handed out as views without copying, and two runs serve the same bytes.
"""

from __future__ import annotations

import functools
import hashlib
import struct
from typing import Final

from holdfast.runtime.random import SeededRandom

BLOCK: Final = 64 * 1024
_POOL: Final = 1 << 20
_STAMP: Final = struct.Struct(">8sQ")
_STRIDE: Final = 0x9E3779B1  # a prime near 2**32 / golden ratio: neighbours lie far apart


@functools.cache
def _pool() -> memoryview:
    return memoryview(SeededRandom("holdfast.chaos.content").bytes(_POOL))


class Content:
    """The bytes of one version of one object.

    size: bytes.  version: from 1.  name: objects of different names differ.
    seed: objects of different seeds differ.
    """

    __slots__ = ("_base", "key", "name", "seed", "size", "version")

    def __init__(self, size: int, version: int = 1, *, name: str = "", seed: int | str = 0) -> None:
        if size < 0:
            raise ValueError(f"Content: size: {size} must be at least 0")
        self.size = size
        self.version = version
        self.name = name
        self.seed = seed
        text = f"{seed}\0{name}\0{version}"
        self.key = hashlib.blake2b(text.encode(), digest_size=8).digest()
        self._base = int.from_bytes(self.key, "big")

    def __len__(self) -> int:
        return self.size

    def pieces(self, start: int, stop: int) -> list[bytes | memoryview]:
        """Return buffers which together are the bytes [start, stop)."""
        pool = _pool()
        found: list[bytes | memoryview] = []
        while start < stop:
            index, inside = divmod(start, BLOCK)
            end = min(BLOCK, inside + stop - start)
            if inside < _STAMP.size:
                found.append(_STAMP.pack(self.key, index)[inside:end])
            if end > _STAMP.size:
                window = (self._base + index * _STRIDE) % (_POOL - BLOCK)
                found.append(pool[window + max(inside, _STAMP.size) : window + end])
            start += end - inside
        return found

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """Return the bytes [start, stop); the whole object by default."""
        return b"".join(self.pieces(start, self.size if stop is None else min(stop, self.size)))

    def sha256(self) -> str:
        """Return the digest in hexadecimal. Takes a second per GiB, once."""
        return expected_sha256(self.size, self.version, name=self.name, seed=self.seed)


@functools.lru_cache(maxsize=4096)
def expected_sha256(size: int, version: int = 1, *, name: str = "", seed: int | str = 0) -> str:
    """Return the SHA-256, in hexadecimal, of the object that the fault server would serve.

    name: the path of the route; seed: the server's. `Server.expected_sha256` fills them in.
    """
    content = Content(size, version, name=name, seed=seed)
    digest = hashlib.sha256()
    for start in range(0, size, _POOL):
        for piece in content.pieces(start, min(size, start + _POOL)):
            digest.update(piece)
    return digest.hexdigest()
