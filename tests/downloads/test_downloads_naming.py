"""What a file is called in the end: numbers, names of servers, dots, and names that are taken."""

from __future__ import annotations

import os
import sqlite3
import unicodedata
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from downloads_rig import Heard, downloads, names_in, quick_policy, sha256_of

import holdfast as hf
from holdfast.chaos.line import Plain
from holdfast.downloads.names import collision_key, safe_path
from holdfast.runtime.random import SeededRandom

if TYPE_CHECKING:
    from pathlib import Path

KIB = 1024


# -- two of one name ------------------------------------------------------------------------------


def two(into: Path, server: hf.chaos.Server, *paths: str, **options: Any) -> Any:
    with downloads(into, **options) as d:
        for path in paths:
            d.add(server.url(path))
        return d.run()


def test_a_second_file_of_one_name_gets_a_number_and_keeps_it(tmp_path: Path) -> None:
    objects = [hf.chaos.Object(f"/{n}/a.tar.gz", 10 * KIB + int(n)) for n in "123"]
    objects.append(hf.chaos.Object("/4/A.TAR.GZ", 20 * KIB))
    with hf.chaos.server(*objects) as server:
        paths = [obj.path for obj in objects]
        assert two(tmp_path, server, *paths, rename=True).done == 4
        names = ["A (3).TAR.GZ", "a (1).tar.gz", "a (2).tar.gz", "a.tar.gz"]
        assert names_in(tmp_path) == names
        for name, path in (("a.tar.gz", paths[0]), ("a (2).tar.gz", paths[2])):
            assert sha256_of(tmp_path / name) == server.expected_sha256(path)
        before = server.stats.requests
        # In another order, and without the option: the same item has the same name.
        assert two(tmp_path, server, *reversed(paths), rename=True).skipped == 4
        assert two(tmp_path, server, *paths).skipped == 4
        assert server.stats.requests == before
        assert names_in(tmp_path) == names


def test_without_the_option_the_second_of_a_name_fails_and_can_have_it_later(
    tmp_path: Path,
) -> None:
    objects = [hf.chaos.Object(f"/{n}/a", 10 * KIB) for n in "12"]
    with hf.chaos.server(*objects) as server:
        report = two(tmp_path, server, "/1/a", "/2/a")
        assert (report.done, [f.reason for f in report.failed]) == (1, ["name-collision"])
        assert two(tmp_path, server, "/2/a", rename=True).done == 1
        assert names_in(tmp_path) == ["a", "a (1)"]
        assert sha256_of(tmp_path / "a (1)") == server.expected_sha256("/2/a")


def test_a_numbered_file_goes_on_with_its_part(tmp_path: Path) -> None:
    cut = hf.chaos.Reset(after_bytes=60 * KIB, limit=1)
    objects = [hf.chaos.Object("/1/a", KIB), hf.chaos.Object("/2/a", 100 * KIB, faults=[cut])]
    with hf.chaos.server(*objects) as server:
        report = two(tmp_path, server, "/1/a", "/2/a", rename=True, policy=hf.policy(hf.Retry(1)))
        assert report.done == 1
        assert two(tmp_path, server, "/2/a", rename=True).done == 1
        assert server.stats.bytes_down == 101 * KIB
        assert names_in(tmp_path) == ["a", "a (1)"]


# -- names of servers -----------------------------------------------------------------------------


def disposed(value: str, body: bytes = b"x" * KIB, **headers: str) -> hf.chaos.Handler:
    def answer(_: hf.chaos.Request) -> hf.chaos.Answer:
        fields = {"Content-Disposition": value, "ETag": '"v"', **headers}
        return hf.chaos.Answer(200, fields, Plain(body))

    return hf.chaos.Handler("/download", answer)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ('attachment; filename="era5.nc"', "era5.nc"),
        ("attachment; filename*=UTF-8''%E8%BF%9E%E5%BE%97%E4%BD%8F.nc", "连得住.nc"),
        ('attachment; filename="../../etc/passwd"', "passwd"),
        (r'attachment; filename="C:\\x\\CON"', "_CON"),
        ('attachment; filename=".bashrc"', "_bashrc"),
        ('attachment; filename=".holdfast.db"', "_holdfast.db"),
        ('attachment; filename="a\x7fb"', "a_b"),
        ("attachment", "download"),
        ('attachment; filename=".."', "index"),
    ],
)
def test_a_server_may_say_what_a_file_is_called(value: str, name: str, tmp_path: Path) -> None:
    with hf.chaos.server(disposed(value)) as server:
        report = two(tmp_path, server, "/download?id=7", content_disposition=True)
        assert report.done == 1
        assert names_in(tmp_path) == [name]
        before = server.stats.requests
        assert two(tmp_path, server, "/download?id=7", content_disposition=True).skipped == 1
        assert server.stats.requests == before


def test_it_may_not_where_nobody_asked_it_to_or_the_path_was_given(tmp_path: Path) -> None:
    with hf.chaos.server(disposed('attachment; filename="b"')) as server:
        assert two(tmp_path, server, "/download").done == 1
        with downloads(tmp_path, content_disposition=True) as d:
            d.add(server.url("/download?n=2"), path="mine")
            assert d.run().done == 1
    assert names_in(tmp_path) == ["download", "mine"]


def test_events_tell_the_name_that_it_got(tmp_path: Path) -> None:
    heard = Heard()
    with (
        hf.chaos.server(disposed('attachment; filename="b"')) as server,
        downloads(tmp_path, content_disposition=True) as d,
    ):
        d.watch(heard)
        d.add(server.url("/download"))
        d.run()
    assert [event.path for event in heard.events][-1] == "b"


@pytest.mark.parametrize(
    ("options", "names", "reasons"),
    [
        ({}, ["same"], ["name-collision"]),
        ({"rename": True}, ["same", "same (1)"], []),
    ],
)
def test_two_files_that_a_server_gives_one_name(
    options: dict[str, Any], names: list[str], reasons: list[str], tmp_path: Path
) -> None:
    with hf.chaos.server(disposed('attachment; filename="same"')) as server:
        urls = ("/download?n=1", "/download?n=2")
        with downloads(tmp_path, content_disposition=True, workers=1, **options) as d:
            for path in urls:
                d.add(server.url(path))
            report = d.run()
    # Without numbers the second one has no name already when it is added: that of the URL.
    assert [f.reason for f in report.failed] == reasons
    assert names_in(tmp_path) == names


def test_a_file_that_is_there_under_the_name_of_the_server_is_judged(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"mine")
    (tmp_path / "download").write_bytes(b"of no concern")
    with hf.chaos.server(disposed('attachment; filename="b"')) as server:
        report = two(tmp_path, server, "/download", content_disposition=True)
        assert [f.reason for f in report.failed] == ["exists"]
        report = two(tmp_path, server, "/download", content_disposition=True, exists="overwrite")
        assert report.done == 1
    assert (tmp_path / "b").read_bytes() == b"x" * KIB
    assert (tmp_path / "download").read_bytes() == b"of no concern"


def test_the_part_keeps_its_name_over_a_death(tmp_path: Path) -> None:
    """The name is known after the first answer; the next run finds the part by the first name."""
    cut = hf.chaos.Reset(after_bytes=60 * KIB, limit=1)
    named = {"Content-Disposition": 'attachment; filename="b.nc"'}
    obj = hf.chaos.Object("/download", 100 * KIB, headers=named, faults=[cut])
    with hf.chaos.server(obj) as server:
        once = hf.policy(hf.Retry(1))
        report = two(tmp_path, server, "/download", content_disposition=True, policy=once)
        assert report.done == 0
        (part,) = names_in(tmp_path)
        assert part.startswith(".download.")
        with closing(sqlite3.connect(tmp_path / ".holdfast.db")) as db:
            assert db.execute("SELECT path, asked FROM item").fetchall() == [("b.nc", "download")]
        assert two(tmp_path, server, "/download").done == 1
        assert names_in(tmp_path) == ["b.nc"]
        assert server.stats.bytes_down == 100 * KIB


# -- dots, links and the journal -----------------------------------------------------------------


def test_names_may_begin_with_a_dot_if_that_is_wanted(tmp_path: Path) -> None:
    with hf.chaos.server(hf.chaos.Object("/.x/.bashrc", KIB)) as server:
        for option, name in ((False, "_bashrc"), (True, ".bashrc")):
            assert two(tmp_path, server, "/.x/.bashrc", allow_dot=option).done == 1
            assert name in names_in(tmp_path)


@pytest.mark.parametrize("name", [".holdfast.db", ".holdfast.db-wal", ".x.01234567.part"])
def test_no_file_takes_a_name_of_ours(name: str, tmp_path: Path) -> None:
    with hf.chaos.server(hf.chaos.Object("/*", KIB)) as server:
        report = two(tmp_path, server, f"/{name}", allow_dot=True, exists="overwrite")
        assert report.done == 1
    assert "_" + name[1:] in names_in(tmp_path)


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
def test_a_journal_of_another_name_is_not_overwritten_either(suffix: str, tmp_path: Path) -> None:
    journal = tmp_path / "mine.db"
    with hf.chaos.server(hf.chaos.Object("/*", KIB)) as server:
        with downloads(tmp_path, journal=journal, exists="overwrite") as d:
            d.add(server.url(f"/mine.db{suffix}"))
            d.add(server.url(f"/MINE.DB{suffix}"), path=f"MINE.DB{suffix}.x")
            report = d.run()
        assert [f.reason for f in report.failed] == ["unsafe-target"]
    with closing(sqlite3.connect(journal)) as db:
        assert db.execute("SELECT count(*) FROM item").fetchone() == (2,)


@pytest.mark.parametrize("deep", ["link/x", "a/link/x", "link/a/x"])
def test_a_link_in_the_way_is_not_followed(deep: str, tmp_path: Path) -> None:
    into, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (into / "a").mkdir(parents=True)
    for place in (into, into / "a"):
        (place / "link").symlink_to(elsewhere)
    with hf.chaos.server(hf.chaos.Object("/x", KIB)) as server, downloads(into) as d:
        d.add(server.url("/x"), path=deep)
        report = d.run()
    assert [f.reason for f in report.failed] == ["unsafe-target"]
    assert list(elsewhere.iterdir()) == []


def test_a_directory_that_becomes_a_link_meanwhile_lets_nothing_out(tmp_path: Path) -> None:
    into, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    slow = hf.chaos.Slow(bytes_per_second=400 * KIB)

    def swap(event: Any) -> None:
        if type(event.event).__name__ == "FileState" and event.event.state == "verifying":
            (into / "sub").rename(into / "aside")
            (into / "sub").symlink_to(elsewhere)

    with (
        hf.chaos.server(hf.chaos.Object("/x", 200 * KIB, faults=[slow])) as server,
        downloads(into, policy=quick_policy(2)) as d,
    ):
        d.add(server.url("/x"), path="sub/x")
        d.watch(swap)
        report = d.run()
    assert report.done == 0
    assert list(elsewhere.iterdir()) == []
    (part,) = (into / "aside").iterdir()
    assert part.name.endswith(".part")


# -- E16: a great many hostile names ---------------------------------------------------------------

PIECES = [
    "..", ".", "/", "\\", "%2e", "%2f", "%5c", "%00", "\x00", ":", "~", " ", "CON", "nul", ".txt",
    "\u202e", "\ud800", "\u2028", "a", "é", "e\u0301", "ﬁ", "İ", "x" * 100, "C:", "$x", "|", "`",
    "\n", "\r", "\t", "\x7f", "\x9b", "-", "'", '"', "*", "?", "LPT1", "com\u00b9", "A", "ß", "SS",
    ".holdfast.db", ".part", "连得住", "\U0001f600", "../" * 8, "....", "\ufeff", "\u200b",
]  # fmt: skip


def hostile(rng: SeededRandom) -> str:
    return "".join(rng.choice(PIECES) for _ in range(rng.between(0, 7)))


def check_names(count: int) -> None:
    """Of so many texts none leads outside, and two that collide are seen to."""
    rng = SeededRandom("E16")
    keys: dict[str, str] = {}
    for n in range(count):
        path = safe_path(hostile(rng), allow_dot=n % 2 == 0)
        joined = os.path.normpath(f"/d/{path}")
        assert joined == f"/d/{path}", ascii(path)
        assert not {"", ".", ".."} & set(path.split("/")), ascii(path)
        # Two that a disk takes for one, folding case as NTFS and marks as HFS+, have one key.
        folded, key = unicodedata.normalize("NFD", path.lower()), collision_key(path)
        assert keys.setdefault(folded, key) == key, ascii(path)
        assert "\x00" not in path
        assert all(len(name.encode()) <= 240 for name in path.split("/"))


def test_fifty_thousand_hostile_names() -> None:
    check_names(50_000)


@pytest.mark.long
def test_a_million_hostile_names() -> None:
    check_names(1_000_000)


def test_hostile_names_in_a_journal_are_unique_or_refused_aloud(tmp_path: Path) -> None:
    """Five thousand items: each has a name of its own below the directory, or is in the list."""
    rng = SeededRandom("journal")
    into = tmp_path / "out"
    with downloads(into) as d:
        entries = [
            hf.downloads.lists.Entry(f"https://h.example/{n}", path=hostile(rng))
            for n in range(5000)
        ]
        d.add_many(entries)
        status = d.status()
        failed = {item.id for item in d.failed()}
    kept = [item for item in status.items if item.id not in failed]
    assert len(status.items) == 5000
    assert len({collision_key(item.path) for item in kept}) == len(kept)
    assert all(f"{into}/{item.path}" == os.path.normpath(into / item.path) for item in kept)
    assert 0 < len(failed) < 5000
