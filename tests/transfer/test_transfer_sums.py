"""Sums beside a file: where they are looked for, and what of what lies there is a digest."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.transfer.sums import Place, choose, places, read
from holdfast.transfer.verify import Digest
from holdfast.wire.urls import parse

A, B = (hashlib.sha256(x).hexdigest() for x in (b"a", b"b"))
MD5 = hashlib.md5(b"a", usedforsecurity=False).hexdigest()
SINGLE = Place(parse("http://x/d/a.nc.sha256"), "sha256")
WHOLE = Place(parse("http://x/d/SHA256SUMS"), "sha256", whole=True)


def test_they_are_looked_for_beside_the_file_and_then_in_its_directory() -> None:
    found = [(p.url.full(), p.algorithm, p.limit) for p in places(parse("https://x/d/a%20b.nc"))]
    assert found == [
        ("https://x/d/a%20b.nc.sha256", "sha256", 1 << 20),
        ("https://x/d/a%20b.nc.sha512", "sha512", 1 << 20),
        ("https://x/d/a%20b.nc.md5", "md5", 1 << 20),
        ("https://x/d/SHA512SUMS", "sha512", 16 << 20),
        ("https://x/d/SHA256SUMS", "sha256", 16 << 20),
        ("https://x/d/MD5SUMS", "md5", 16 << 20),
    ]
    assert places(parse("https://x/d/a%20b.nc"))[0].name == "a b.nc.sha256"


def test_what_a_query_grants_is_asked_along() -> None:
    first = places(parse("https://u:p@x/d/a.nc?sv=1&sig=s"))[0]
    assert first.url.full() == "https://x/d/a.nc.sha256?sv=1&sig=s"
    assert first.url.credentials == "u:p"


def test_a_directory_has_no_sum_of_its_own() -> None:
    assert [p.name for p in places(parse("https://x/d/"))] == [
        "SHA512SUMS",
        "SHA256SUMS",
        "MD5SUMS",
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (A, {"": A}),
        (A.upper() + "\n", {"": A}),
        (f"{A}  a.nc", {"a.nc": A}),
        (f"{A} *a.nc\r\n{B} *b.nc\r\n", {"a.nc": A, "b.nc": B}),
        (f"{A}  ./a.nc", {"a.nc": A}),
        (f"{A}  dir/a b.nc", {"dir/a b.nc": A}),
        (f"SHA256 (a.nc) = {A}", {"a.nc": A}),
        (f"SHA256(a.nc)= {A}", {"a.nc": A}),
        (f"SHA2-256 (a) = {A}", {}),
        (f"SHA-256 (a) = {A}", {"a": A}),
        (f"MD5 (a.nc) = {MD5}", {}),
        (f"\\{A}  a\\nb\\\\c", {"a\nb\\c": A}),
        (f"\ufeff{A}  a.nc", {"a.nc": A}),
        (f"# made today\n{A}  a.nc\n-----BEGIN PGP SIGNATURE-----\niQ==\n", {"a.nc": A}),
        (f"{A}  a.nc\n{A}  a.nc\n", {"a.nc": A}),
        (f"{A}  a.nc\n{B}  a.nc\n{B}  b.nc", {"b.nc": B}),
        (MD5, {}),
        (f"{A}0  a.nc", {}),
        (f"<html><body>{A}</body></html>", {}),
        ("", {}),
        (f"{A}\ta.nc", {}),
    ],
)
def test_only_what_is_a_sum_of_this_algorithm_is_read(text: str, found: dict[str, str]) -> None:
    assert read(text.encode(), "sha256") == found


@given(st.binary(max_size=400))
def test_no_bytes_are_too_odd(data: bytes) -> None:
    assert all(len(digest) == 32 for digest in read(data, "md5").values())


@pytest.mark.parametrize(
    ("sums", "place", "chosen"),
    [
        ({"a.nc": A, "b.nc": B}, SINGLE, A),
        ({"": A}, SINGLE, A),
        ({"-": A}, SINGLE, A),
        ({"app-1.2.nc": A}, SINGLE, A),  # in a file of its own whose else would it be
        ({"b.nc": A, "c.nc": B}, SINGLE, None),
        ({}, SINGLE, None),
        ({"a.nc": A, "b.nc": B}, WHOLE, A),
        ({"b.nc": B}, WHOLE, None),
        ({"": A}, WHOLE, None),
    ],
)
def test_the_digest_that_is_meant(sums: dict[str, str], place: Place, chosen: str | None) -> None:
    expected = None if chosen is None else Digest("sha256", chosen, place.name)
    assert choose(sums, ["a.nc"], place) == expected
