"""Adding many files: lists read whole before a row is written, in bounded memory and time."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from downloads_rig import downloads
from hypothesis import given, settings
from hypothesis import strategies as st

import holdfast as hf
from holdfast.downloads import Entry
from holdfast.wire import urls

BASE = "http://127.0.0.1:9/"


def paths(d: hf.Downloads) -> list[str]:
    return [item.path for item in d.status().items]


def states(d: hf.Downloads) -> list[str]:
    return [str(item.state) for item in d.status().items]


# -- many at once ----------------------------------------------------------------------------


def test_many_are_added_in_their_order_and_adding_twice_is_adding_once(tmp_path):
    wanted = [f"{BASE}{n:04d}" for n in range(1200)]
    with downloads(tmp_path) as d:
        ids = d.add_many(wanted)
        assert ids == d.add_many(wanted) == [d.add(url) for url in wanted]
        assert paths(d) == [f"{n:04d}" for n in range(1200)]
        assert len(set(ids)) == 1200


def test_one_batch_is_as_many_calls(tmp_path):
    """Whatever meets in a batch comes out as if each had come alone."""
    entries = [
        Entry(f"{BASE}a/x"),
        Entry(f"{BASE}b/x"),  # its name is taken
        Entry(f"{BASE}a/x", size=5),  # a promise more
        Entry(f"{BASE}b/X"),  # one name on some systems
        Entry(f"{BASE}a/x"),
        Entry(f"{BASE}c", path="d/../e"),
        Entry(f"{BASE}f", headers={"X-Token": "t"}),
        Entry(f"{BASE}g?sig=abc", mirrors=(f"{BASE}2/g", f"{BASE}3/g?sig=x")),
    ]
    with downloads(tmp_path / "1") as one, downloads(tmp_path / "2") as other:
        one.add_many(entries)
        for entry in entries:
            other.add_many([entry])
        assert [replace(item, ended_at=0.0) for item in one.status().items] == [
            replace(item, ended_at=0.0) for item in other.status().items
        ]
        assert states(one) == ["queued", "failed", "failed", "queued", "queued", "queued"]
        assert one.status().items[0].size == 5
        assert one.status().items[-1].mirrors == (f"{BASE}2/g", f"{BASE}3/g")
        assert [item.secret for item in one.status().items[-2:]] == [True, True]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyX"), st.booleans()), max_size=12)
)
def test_a_batch_is_as_many_calls_whatever_is_in_it(tmp_path_factory, found):
    entries = [
        Entry(f"{BASE}{host}/{n}", path=n, size=7 if size else None) for host, n, size in found
    ]
    tmp = tmp_path_factory.mktemp("d")
    with downloads(tmp / "1") as one, downloads(tmp / "2") as other:
        # What an earlier session left without a byte gives its name up.
        for d in (one, other):
            d.add(f"{BASE}c/x", path="x")
    with downloads(tmp / "1") as one, downloads(tmp / "2") as other:
        one.add_many(entries)
        for entry in entries:
            other.add_many([entry])
        assert [(i.path, i.url, i.state, i.size, i.failure) for i in one.status().items] == [
            (i.path, i.url, i.state, i.size, i.failure) for i in other.status().items
        ]


def test_one_that_cannot_be_is_raised_at_its_place(tmp_path):
    with downloads(tmp_path) as d, pytest.raises(urls.BadUrl, match="ftp"):
        d.add_many([f"{BASE}a", "ftp://x/y"])


def test_all_digests_that_are_given_are_promised(tmp_path):
    with downloads(tmp_path) as d:
        d.add(f"{BASE}a", sha512="A" * 128, md5="b" * 32)
        (item,) = d.status().items
        assert {digest.algorithm: digest.hex for digest in item.digests} == {
            "sha512": "a" * 128,
            "md5": "b" * 32,
        }
        with pytest.raises(hf.downloads.DownloadError, match="sha512"):
            d.add(f"{BASE}a", sha512="abc")


USUAL = st.from_regex(
    r"(?i)https?://[a-z0-9._-]{1,12}(:[0-9]{0,6})?(/[ -~é]{0,12})?", fullmatch=True
)


@settings(max_examples=500, deadline=None)
@given(USUAL)
def test_an_address_that_is_read_fast_is_read_the_same(text):
    found = outcome(urls.parse, text)
    assert found == outcome(urls._read, text)
    if isinstance(found, urls.Url):
        assert found.is_signed == (bool(found.credentials) or found.canonical() != found.full())


def outcome(read, text):
    try:
        return read(text)
    except urls.BadUrl as error:
        return str(error)


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("https://b.s3.us-west-2.amazonaws.com/k", "https://b.s3.amazonaws.com/k"),
        ("https://s3.us-west-2.amazonaws.com/b/k", "https://s3.amazonaws.com/b/k"),
        ("https://b.s3.cn-north-1.amazonaws.com.cn/k", "https://b.s3.amazonaws.com.cn/k"),
    ],
)
def test_the_region_of_a_bucket_is_no_part_of_an_id(tmp_path, url, same):
    with downloads(tmp_path) as d:
        assert d.add(url) == d.add(same)
        (item,) = d.status().items
        assert item.url == same  # as it was told last
        assert d.add(url.replace("b", "c", 1)) != item.id


# -- lists -------------------------------------------------------------------------------------

GOOD = (
    f"{BASE}a\n  out=x/a\n  checksum=md5={'0' * 32}\n{BASE}b\t{BASE}2/b\n{BASE}c\n  header=A: b\n"
)


def test_a_list_is_added_with_all_that_it_says(tmp_path):
    (tmp_path / "list").write_text(GOOD)
    with downloads(tmp_path / "d") as d:
        added = d.add_list(tmp_path / "list")
        assert (added.count, added.failed, added.unknown_sizes, added.bytes) == (3, 0, 3, 0)
        a, b, c = d.status().items
        assert (a.path, a.digests[0].algorithm) == ("x/a", "md5")
        assert (b.mirrors, c.secret) == ((f"{BASE}2/b",), True)


@pytest.mark.parametrize("form", ["path", "file", "pipe", "stdin"])
def test_a_list_comes_from_wherever_it_comes(tmp_path, monkeypatch, form):
    (tmp_path / "list").write_text(GOOD)
    with downloads(tmp_path / "d") as d:
        if form == "path":
            assert d.add_list(os.fspath(tmp_path / "list")).count == 3
        elif form == "file":
            with (tmp_path / "list").open("rb") as file:
                assert d.add_list(file).count == 3
            assert d.add_list(io.BytesIO(GOOD.encode())).count == 3
        elif form == "pipe":  # `<(program)` of a shell: it can be read once
            os.mkfifo(tmp_path / "fifo")
            writer = threading.Thread(target=(tmp_path / "fifo").write_text, args=(GOOD,))
            writer.start()
            assert d.add_list(tmp_path / "fifo").count == 3
            writer.join()
        else:
            program = (
                "import sys, holdfast as hf\n"
                f"with hf.Downloads({str(tmp_path / 'e')!r}) as d: print(d.add_list('-').count)"
            )
            words = [sys.executable, "-c", program]
            ran = subprocess.run(words, input=GOOD.encode(), capture_output=True, check=True)
            assert ran.stdout == b"3\n"


BAD = f"{BASE}a\nnot/a/url?token=hunter2\n{BASE}b\n  ouy=b\n{BASE}c\n"


def test_a_bad_line_refuses_the_list_before_a_row_is_written(tmp_path):
    with downloads(tmp_path) as d:
        with pytest.raises(hf.downloads.DownloadError) as caught:
            d.add_list(io.BytesIO(BAD.encode()))
        assert (caught.value.code, caught.value.exit_code) == ("HF-1009", 2)
        assert "line 2" in str(caught.value)
        assert "line 4" in str(caught.value)
        assert d.status().items == ()


def test_bad_lines_that_are_skipped_are_in_the_failed_list(tmp_path):
    (tmp_path / "files.txt").write_text(BAD)
    with downloads(tmp_path / "d") as d:
        added = d.add_list(tmp_path / "files.txt", skip_bad=True)
        assert (added.count, added.failed) == (2, 2)
        assert [item.path for item in d.failed()] == [
            "files.txt line 2",
            "files.txt line 4",
        ]
        assert all(item.code == "HF-1009" for item in d.failed())
        assert "hunter2" not in repr(d.failed())
        assert d.retry_failed() == 0  # there is nothing to ask
        assert d.add_list(tmp_path / "files.txt", skip_bad=True) == added
        assert len(d.failed()) == 2


def test_a_list_that_is_not_there_is_told(tmp_path):
    with downloads(tmp_path) as d, pytest.raises(hf.downloads.DownloadError) as caught:
        d.add_list(tmp_path / "no such list")
    assert caught.value.code == "HF-1009"
    assert "No such file" in str(caught.value)


GROWTH = """
import sys
import holdfast as hf
with hf.Downloads(sys.argv[2]) as d:
    assert d.add_list(sys.argv[1]).count == int(sys.argv[3])
    # Not ru_maxrss: that begins with what the process had that started this one.
    lines = open("/proc/self/status").read().splitlines()
    print(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))
"""


def test_a_list_of_100_000_lines_costs_no_memory(tmp_path):
    peaks = []
    for count in (1000, 100_000):
        with (tmp_path / "list").open("w") as file:
            for n in range(count):
                file.write(f"{BASE}d{n % 100}/{n:06d}.nc\t{BASE}mirror/{n}\n  out=d/{n:06d}.nc\n")
        words = [sys.executable, "-c", GROWTH, tmp_path / "list", tmp_path / f"{count}", f"{count}"]
        ran = subprocess.run(words, capture_output=True, check=True, text=True)
        peaks.append(int(ran.stdout))
    assert (tmp_path / "list").stat().st_size > 6_000_000
    assert peaks[1] - peaks[0] < 8 * 1024  # KiB


DYING = """
import os, signal, sys
import holdfast as hf

class Deadly:
    lines = 0

    def __init__(self, file):
        self.file = file

    def __getattr__(self, name):
        return getattr(self.file, name)

    def readline(self, limit):
        Deadly.lines += 1
        if Deadly.lines == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        return self.file.readline(limit)

with hf.Downloads(sys.argv[2]) as d, open(sys.argv[1], "rb") as file:
    print(d.add_list(Deadly(file)).count)
"""


@pytest.mark.parametrize("line", [1500, 2001, 2002, 3400, 4002])
def test_kill_9_while_a_list_is_added_has_added_nothing(tmp_path, line):
    (tmp_path / "list").write_text("".join(f"{BASE}{n}\n" for n in range(2000)))
    words = [sys.executable, "-c", DYING, tmp_path / "list", tmp_path / "d", str(line)]
    ran = subprocess.run(words, capture_output=True, check=False)
    assert ran.returncode == -9
    with downloads(tmp_path / "d") as d:
        assert d.status().items == ()
        assert d.add_list(tmp_path / "list").count == 2000
