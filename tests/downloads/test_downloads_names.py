"""Names: whatever comes in, a file lands below the output directory, under a plain name."""

from __future__ import annotations

import posixpath
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.downloads.names import (
    MAX_NAME,
    collision_key,
    has_data_suffix,
    name_from_url,
    numbered,
    part_path,
    safe_path,
)
from holdfast.runtime.random import SeededRandom
from holdfast.wire.urls import parse


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain.nc", "plain.nc"),
        ("a//b", "a/b"),
        ("a/./b/../c", "a/b/c"),
        ("../x", "x"),
        ("../../etc/passwd", "etc/passwd"),
        (r"..\..\x", "_._.._x"),
        ("/etc/passwd", "etc/passwd"),
        ("C:/x", "x"),
        (r"C:\x", "_x"),
        ("C:x", "C_x"),
        (".bashrc", "_bashrc"),
        ("a/.ssh/key", "a/_ssh/key"),
        ("...", "_._"),
        ("a\x00b\nc\x1bd", "a_b_c_d"),
        ("cod\u202egnp.exe", "cod_gnp.exe"),
        ("bad\udcff", "bad_"),
        ("line\u2028end", "line_end"),
        ("CON", "_CON"),
        ("com1.txt", "_com1.txt"),
        ("aux .txt", "_aux .txt"),
        ("console", "console"),
        ("LPT\u00b9", "_LPT\u00b9"),
        ("a:b", "a_b"),
        ("end.", "end_"),
        ("end ", "end_"),
        ("", "index"),
        ("/", "index"),
        ("..", "index"),
        ("a/", "a"),
        ("naïve 连得住.nc", "naïve 连得住.nc"),
    ],
)
def test_a_name_is_made_safe(text: str, safe: str) -> None:
    assert safe_path(text) == safe


def test_dots_may_be_allowed_but_not_the_way_up() -> None:
    assert safe_path(".bashrc", allow_dot=True) == ".bashrc"
    assert safe_path("../.x/..", allow_dot=True) == ".x"
    assert safe_path("...", allow_dot=True) == "_._"


@pytest.mark.parametrize(
    "name",
    [
        ".holdfast.db",
        ".holdfast.db-wal",
        ".HOLDFAST.DB",
        ".holdfa\u017ft.db",  # on a disk that folds it, the long s is an s
        ".data.nc.0123abcd.part",
        ".DATA.NC.0123ABCD.PART",
    ],
)
def test_our_own_names_are_nobody_elses(name: str) -> None:
    assert safe_path(name, allow_dot=True) == "_" + name[1:]
    assert safe_path(f"sub/{name}", allow_dot=True) == "sub/_" + name[1:]
    assert safe_path(".data.nc.0123abcg.part", allow_dot=True).startswith(".")


@pytest.mark.parametrize(
    ("path", "called"),
    [
        ("a.nc", "a (2).nc"),
        ("dir.d/a", "dir.d/a (2)"),
        ("a.tar.gz", "a (2).tar.gz"),
        (".bashrc", ".bashrc (2)"),
    ],
)
def test_the_second_of_a_name_has_a_number(path: str, called: str) -> None:
    assert numbered(path, 2) == called


def test_a_numbered_name_is_not_too_long_and_stays_its_own() -> None:
    long = "x" * 236 + ".nc"
    names = {numbered(long, n) for n in range(1, 50)}
    assert len(names) == 49
    assert all(len(name) <= MAX_NAME and name.endswith(".nc") for name in names)


def test_a_long_name_is_cut_keeps_its_suffix_and_stays_its_own() -> None:
    one, two = (safe_path("ä" * 200 + end + ".grib2") for end in "ab")
    assert one != two
    for name in (one, two):
        assert len(name.encode()) <= MAX_NAME
        assert name.endswith(".grib2")
    assert len(part_path(one, "0123456789abcdef").encode()) <= 255


def test_a_suffix_that_is_no_suffix_is_not_kept() -> None:
    name = safe_path("a." + "b" * 300)
    assert len(name.encode()) <= MAX_NAME


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://x/dir/file%20name.nc?v=1", "file name.nc"),
        ("http://x/a%2Fb", "b"),
        ("http://x/..%2f", "index"),
        ("http://x/..%2f..%2fetc%2fpasswd", "passwd"),
        ("http://x/%2e%2e", "index"),
        ("http://x/%252e%252e%252fx", "%2e%2e%2fx"),
        ("http://x/", "index"),
        ("http://x", "index"),
        ("http://x/dir/", "index"),
        ("http://x/%ff%fe", "__"),
        ("http://x/%00", "_"),
        ("http://x/.htaccess", "_htaccess"),
        ("http://x/%E2%80%AEgnp.exe", "_gnp.exe"),
    ],
)
def test_the_name_is_the_end_of_the_url_decoded_once(url: str, name: str) -> None:
    assert name_from_url(parse(url)) == name


def is_safe(path: str) -> bool:
    inside = posixpath.normpath(posixpath.join("/d", path)).startswith("/d/")
    parts = path.split("/")
    return inside and all(
        part
        and part not in {".", ".."}
        and not part.startswith(".")
        and not part.endswith((".", " "))
        and len(part.encode()) <= MAX_NAME
        and not any(unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} for c in part)
        and not set(part) & set("\\:\u202e\u2066")
        for part in parts
    )


@settings(max_examples=500, deadline=None)
@given(st.text(st.characters(), max_size=300))
def test_no_text_leads_outside(text: str) -> None:
    assert is_safe(safe_path(text))


NASTY = [
    "..", ".", "/", "\\", "%2e", "%2f", "%5c", "%00", "\x00", ":", "~", " ", "CON", "nul", ".txt",
    "\u202e", "\ud800", "\u2028", "a", "é", "e\u0301", "ﬁ", "İ", "x" * 100, "C:", "$x", "|", "`",
]  # fmt: skip


def test_no_mixture_of_nasty_pieces_leads_outside() -> None:
    rng = SeededRandom("names")
    for _ in range(20_000):
        text = "".join(rng.choice(NASTY) for _ in range(rng.between(0, 8)))
        assert is_safe(safe_path(text)), ascii(text)


def test_making_it_safe_again_changes_nothing() -> None:
    rng = SeededRandom("again")
    for _ in range(5_000):
        text = "".join(rng.choice(NASTY) for _ in range(rng.between(0, 8)))
        once = safe_path(text)
        assert safe_path(once) == once, ascii(text)


@pytest.mark.parametrize(
    ("one", "two"),
    [("A.nc", "a.NC"), ("é.nc", "e\u0301.nc"), ("straße", "STRASSE"), ("a/B", "A/b")],
)
def test_names_that_some_file_system_takes_for_one_collide(one: str, two: str) -> None:
    assert collision_key(one) == collision_key(two)
    assert collision_key(one) != collision_key(one + "x")


def test_data_suffixes_are_known_in_any_case() -> None:
    assert has_data_suffix("dir/x.NC")
    assert has_data_suffix("x.tar.gz")
    assert not has_data_suffix("x.html")
    assert not has_data_suffix("nc")
