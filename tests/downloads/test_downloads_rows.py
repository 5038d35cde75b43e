"""Rows of small files: what is taken at a glance is what the careful look would take."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unittest.mock import patch

from downloads_rig import downloads
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.downloads import names
from holdfast.downloads.names import is_plain_path, safe_path
from holdfast.downloads.rows import MOST, Rows, Small
from holdfast.wire.urls import parse

if TYPE_CHECKING:
    from pathlib import Path

NAMES = st.text(st.sampled_from("abcCNX019._-/ \\:%~\u00e9"), max_size=12)
PATHS = st.one_of(NAMES, st.sampled_from(["con", "CON.txt", "a/nul", "com1", "lpt9.x", "console"]))


@settings(max_examples=2000)
@given(PATHS)
def test_a_plain_path_is_one_that_is_safe_as_it_is(path: str) -> None:
    if is_plain_path(path):
        with patch.object(names, "is_plain_path", lambda _: False):
            assert safe_path(path) == path


def test_devices_and_long_names_are_not_plain() -> None:
    for path in ("con", "CON.txt", "a/nul", "Com1", "a/lpt9.x", "a" * 201, "", "/a", "a//b", ".a"):
        assert not is_plain_path(path)
    for path in ("console", "a.b-c_d/e", "x" * 200, "0"):
        assert is_plain_path(path)


URLS = [
    "/a/b.nc",
    "/a%20b",
    "/x?y=1",
    "/a b",
    "/~u/v",
    "/a;b",
    "/\u00e9",
    "/a//b/../c",
    "/",
    "/a'b",
]


def test_a_row_asks_what_the_url_says(tmp_path: Path) -> None:
    with downloads(tmp_path) as d:
        ids = [d.add(f"http://h.example:8080{url}", path=f"f{n}") for n, url in enumerate(URLS)]
        items = {item.id: item for item in d.status().items}
        page, ended = Rows(d._store, MOST).page()
    assert ended
    assert len(page) == len(URLS)
    small = {row.id: row for row in page if isinstance(row, Small)}
    assert {URLS[ids.index(one)] for one in small} >= {"/a/b.nc", "/a%20b", "/~u/v", "/"}
    for one, row in small.items():
        url = parse(items[one].url)
        assert (row.origin, row.target) == (f"http://{url.netloc}", url.target)
        assert (row.path, row.size, row.digests) == (items[one].path, None, ())


def test_what_needs_more_than_a_plain_get_is_no_small_file(tmp_path: Path) -> None:
    with downloads(tmp_path) as d:
        d.add("http://h/a", path="plain", size=10)
        d.add("http://h/b", path="large", size=MOST + 1)
        d.add("http://h/c", "http://m/c", path="mirrored")
        d.add("http://h/d", path="signed", headers={"X-Key": "secret"})
        d.add("http://u:p@h/e", path="credentials")
        d.add("http://h/f", path="pieces", pieces=(1024, "sha1", ["0" * 40]))
        d.add("http://h/g", path="strange name")
        d.pause(d.add("http://h/i", path="paused"))
        d.cancel(d.add("http://h/j", path="cancelled"))
        page, _ = Rows(d._store, MOST).page()
        paths = {item.id: item.path for item in d.status().items}
        small = [row.path for row in page if isinstance(row, Small)]
        others = {paths[row] for row in page if isinstance(row, str)}
    assert small == ["plain"]
    assert others == {"large", "mirrored", "signed", "credentials", "pieces", "strange name"}


def test_a_list_is_read_in_pages(tmp_path: Path) -> None:
    with downloads(tmp_path) as d:
        d.add_many([f"http://h/{n}" for n in range(1203)])
        rows = Rows(d._store, MOST)
        assert rows.count(32) == 32
        assert rows.count(5000) == 1203
        sizes = []
        ended = False
        while not ended:
            page, ended = rows.page()
            sizes.append(len(page))
    assert sizes == [500, 500, 203]
