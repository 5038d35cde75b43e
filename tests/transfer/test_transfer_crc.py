"""CRCs of a whole from those of its parts, and CRCs of modules that may be there or not."""

from __future__ import annotations

import itertools
import sys
import types
import zlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.runtime.random import SeededRandom
from holdfast.transfer.crc import Crc, combine, crc32_of, fast, quickest
from holdfast.transfer.extents import Extent

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _forget_modules() -> Iterator[None]:
    fast.cache_clear()
    yield
    fast.cache_clear()


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_the_crc_of_a_whole_comes_from_those_of_two_parts(one: bytes, two: bytes) -> None:
    assert combine(zlib.crc32(one), zlib.crc32(two), len(two)) == zlib.crc32(one + two)


def test_the_crc_of_many_extents_is_that_of_all_their_bytes() -> None:
    body = SeededRandom("crc").bytes(100_003)
    cuts = [0, 1, 4096, 8192, 8193, 65_536, len(body)]
    extents = [Extent(a, b - a, zlib.crc32(body[a:b])) for a, b in itertools.pairwise(cuts)]
    assert crc32_of(extents) == zlib.crc32(body)
    assert crc32_of([]) == 0


def test_a_length_beyond_all_files_is_combined_as_well() -> None:
    # The CRC of zeros can be had by doubling: 2^46 of them are two times 2^45.
    crc = zlib.crc32(bytes(1 << 10))
    for power in range(10, 46):
        crc = combine(crc, crc, 1 << power)
    assert combine(0, crc, 1 << 46) == crc
    assert 0 <= crc < 1 << 32


def test_crc32_is_always_there() -> None:
    running = Crc("crc32")
    running.update(b"1234")
    running.update(memoryview(b"56789"))
    assert running.hexdigest() == "cbf43926"


def without(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("awscrt", "awscrt.checksums", "google_crc32c", "crc32c"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize("algorithm", ["crc32c", "crc64nvme"])
def test_what_nothing_computes_fast_is_not_computed(
    algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch)
    assert fast(algorithm) is None
    with pytest.raises(LookupError, match=algorithm):
        Crc(algorithm)


def test_a_fast_module_is_used_with_its_own_order_of_arguments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without(monkeypatch)
    asked: list[tuple[object, object]] = []

    def extend(crc: int, data: bytes) -> int:
        asked.append((crc, data))
        return crc + len(data)

    module = types.SimpleNamespace(extend=extend, implementation="c")
    monkeypatch.setitem(sys.modules, "google_crc32c", module)  # type: ignore[misc] # looks like one
    running = Crc("crc32c")
    running.update(b"abc")
    running.update(b"de")
    assert asked == [(0, b"abc"), (3, b"de")]
    assert running.hexdigest() == "00000005"


def test_a_module_that_is_plain_python_is_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch)
    slow = types.SimpleNamespace(extend=lambda crc, _: crc, implementation="python")
    monkeypatch.setitem(sys.modules, "google_crc32c", slow)  # type: ignore[misc] # looks like one
    assert fast("crc32c") is None


def test_a_quicker_crc32_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("isal.isal_zlib")
    module.crc32 = lambda data, crc=0: zlib.crc32(data, crc)
    monkeypatch.setitem(sys.modules, "isal", types.ModuleType("isal"))
    monkeypatch.setitem(sys.modules, "isal.isal_zlib", module)
    assert quickest() is module.crc32


def test_a_crc32_that_is_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("isal.isal_zlib", "zlib_ng.zlib_ng"):
        module = types.ModuleType(name)
        module.crc32 = lambda data, crc=0: 0
        monkeypatch.setitem(sys.modules, name.partition(".")[0], types.ModuleType(name))
        monkeypatch.setitem(sys.modules, name, module)
    assert quickest() is zlib.crc32


def test_without_one_the_standard_library_computes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("isal.isal_zlib", "zlib_ng.zlib_ng"):
        monkeypatch.setitem(sys.modules, name, None)  # its import fails
    assert quickest() is zlib.crc32
