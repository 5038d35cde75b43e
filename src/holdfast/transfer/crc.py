"""CRCs: that of a whole from those of its parts, and which ones this machine computes fast.

CRC-32 is in the standard library; it takes 0.16 to 0.2 s per GiB there, most of what a large
file costs in CPU, and 0.02 where `isal` or `zlib-ng` is installed: these use instructions that
the plain zlib does not. CRC-32C and CRC-64/NVME, which S3 also keeps, are not, and
in plain Python they run at 5 MB/s; so they are only used where a module of somebody's that is
written in C is installed. Where none is, they cannot be checked here, and that is said.
"""

from __future__ import annotations

import zlib
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from _typeshed import ReadableBuffer as Buffer

    from holdfast.transfer.extents import Extent

    Step = Callable[[bytes, int], int]
    """(next bytes, CRC so far) -> CRC."""

_QUICKER = ("isal.isal_zlib", "zlib_ng.zlib_ng")
_CHECK = (b"123456789", 0xCBF43926)  # of the catalogue of CRCs

CRC_BYTES = {"crc64nvme": 8, "crc32c": 4, "crc32": 4}
_POLYNOMIAL = 0xEDB88320  # of CRC-32 (ISO-HDLC), the lowest bit the highest power
_BITS = 32


def combine(first: int, second: int, length: int) -> int:
    """Return the CRC-32 of two blocks from that of each. length: bytes of the second.

    A CRC is linear over GF(2): the first block's, driven on through `length` bytes of zeros,
    XOR the second's. Driving on through n zeros is a 32 x 32 matrix, and that of 2n its
    square, so it takes some 30 products for any length. Source: `crc32_combine` of zlib.
    """
    return _times(_zeros(length), first) ^ second


def crc32_of(extents: Iterable[Extent]) -> int:
    """Return the CRC-32 of what lies in `extents`, in order and without gaps; reads nothing."""
    crc = 0
    for extent in extents:
        crc = combine(crc, extent.crc32, extent.len)
    return crc


@lru_cache(maxsize=64)  # all extents of an object but the last are of one length
def _zeros(length: int) -> tuple[int, ...]:
    # A matrix is its columns: what becomes of each bit of the register.
    step = (_POLYNOMIAL, *(1 << n for n in range(_BITS - 1)))  # one bit of zero
    for _ in range(3):
        step = _squared(step)  # a byte
    whole = tuple(1 << n for n in range(_BITS))
    while length:
        if length & 1:
            whole = tuple(_times(step, column) for column in whole)
        step = _squared(step)
        length >>= 1
    return whole


def _times(matrix: tuple[int, ...], vector: int) -> int:
    total = 0
    for column in matrix:
        if not vector:
            break
        if vector & 1:
            total ^= column
        vector >>= 1
    return total


def _squared(matrix: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(_times(matrix, column) for column in matrix)


def quickest() -> Callable[[Buffer, int], int]:
    """Return the quickest `crc32(bytes, so far)` that is installed. They let other threads run."""
    for name in _QUICKER:
        with suppress(ImportError, AttributeError):
            found: Callable[[Buffer, int], int] = import_module(name).crc32
            if found(_CHECK[0], 0) == _CHECK[1]:
                return found
    return zlib.crc32


crc32 = quickest()


# Module, function, and whether it takes the CRC so far before the bytes.
_MODULES = {
    "crc32c": (
        ("awscrt.checksums", "crc32c", False),
        ("google_crc32c", "extend", True),
        ("crc32c", "crc32c", False),
    ),
    "crc64nvme": (("awscrt.checksums", "crc64nvme", False),),
}


@lru_cache(maxsize=len(CRC_BYTES))
def fast(algorithm: str) -> Step | None:
    """Return how to compute a CRC at the speed of a disk; None if nothing here can."""
    if algorithm == "crc32":
        return crc32
    for name, function, crc_first in _MODULES.get(algorithm, ()):
        try:
            module = import_module(name)
        except ImportError:
            continue
        if getattr(module, "implementation", "c") == "python":
            continue  # google_crc32c without its extension
        found = getattr(module, function, None)
        if found is not None:
            return _crc_first(found) if crc_first else _bytes_first(found)
    return None


def _bytes_first(function: Step) -> Step:
    return lambda data, crc: function(bytes(data), crc)


def _crc_first(function: Callable[[int, bytes], int]) -> Step:
    return lambda data, crc: function(crc, bytes(data))


class Crc:
    """A running CRC, with the face of the digests of `hashlib`. Raises LookupError if slow."""

    def __init__(self, algorithm: str) -> None:
        step = fast(algorithm)
        if step is None:
            raise LookupError(f"nothing here computes {algorithm} fast")
        self._step = step
        self._digits = 2 * CRC_BYTES[algorithm]
        self._crc = 0

    def update(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        self._crc = self._step(data, self._crc)  # type: ignore[arg-type] # each takes a buffer

    def hexdigest(self) -> str:
        """Return the CRC of what was taken so far, big-endian."""
        return f"{self._crc:0{self._digits}x}"
