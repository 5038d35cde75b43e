"""List files: what a line says, what is refused and how, and that memory stays bounded."""

from __future__ import annotations

import io
import itertools
import json
import pickle
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import holdfast as hf
from holdfast.downloads.lists import MAX_LINE, BadLine, Entry, checked, lines_of, read_list
from holdfast.transfer.verify import Digest
from holdfast.wire.urls import parse

SHA = "ab" * 32
MD5 = "cd" * 16


def read(text: str | bytes) -> list[Entry | BadLine]:
    data = text.encode() if isinstance(text, str) else text
    return list(read_list(lines_of(io.BytesIO(data))))


def only(text: str | bytes) -> Entry:
    (entry,) = read(text)
    assert isinstance(entry, Entry), entry
    return entry


def reasons(text: str | bytes) -> list[str]:
    found = read(text)
    return [f"{one.line}: {one.reason}" for one in found if isinstance(one, BadLine)]


# -- what a line says ----------------------------------------------------------------------


def test_a_url_per_line_with_comments_and_empty_lines() -> None:
    found = read("# first\n\nhttps://h/a\n   \nhttps://h/b\n  # indented comment\n\t\n")
    assert [(e.url, e.line) for e in found] == [("https://h/a", 3), ("https://h/b", 5)]


def test_mirrors_stand_after_a_tab() -> None:
    entry = only("https://a/x\thttps://b/x\t\thttps://c/x\t\n")
    assert entry.mirrors == ("https://b/x", "https://c/x")


def test_indented_lines_are_options_of_the_url_above() -> None:
    entry = only(
        "https://h/x.nc\n"
        "  out=2021/x.nc\n"
        f"\tchecksum=sha-256={SHA.upper()}\n"
        f"  checksum=md5={MD5}\n"
        "  header=Accept-Language: en\n"
        "  header=accept-language: zh\n"
        "  header=X-Empty:\n"
    )
    assert entry.path == "2021/x.nc"
    assert entry.digests == (Digest("sha256", SHA, "list"), Digest("md5", MD5, "list"))
    assert entry.headers == {"Accept-Language": "en, zh", "X-Empty": ""}


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ("", None),
        (" out=a.nc\n", "a.nc"),
        (" dir=data/\n", "data/x y.nc"),
        (" dir=data\n out=a.nc\n", "data/a.nc"),
        (" out=a=b.nc\n", "a=b.nc"),
    ],
)
def test_out_and_dir_make_the_path(options: str, path: str | None) -> None:
    assert only("https://h/d/x%20y.nc?q=1\n" + options).path == path


def test_a_line_that_begins_with_a_brace_is_json() -> None:
    entry = only(
        '{"url": "https://h/x", "mirrors": ["https://m/x"], "path": "d/x", "size": 7, '
        f'"sha256": "{SHA}", "md5": "{MD5}", "headers": {{"A": "b"}}}}\n'
    )
    assert (entry.url, entry.mirrors, entry.path) == ("https://h/x", ("https://m/x",), "d/x")
    assert (entry.size, entry.headers, entry.line) == (7, {"A": "b"}, 1)
    assert [d.algorithm for d in entry.digests] == ["sha256", "md5"]


def test_a_byte_order_mark_and_crlf_are_tolerated() -> None:
    found = read(b'\xef\xbb\xbfhttps://h/\xc3\xa9\r\n  out=a\r\n\r\n{"url": "https://h/b"}\r\n')
    assert [(e.url, e.path) for e in found] == [("https://h/é", "a"), ("https://h/b", None)]


def test_the_last_line_needs_no_end() -> None:
    assert only("https://h/a\n out=b").path == "b"


# -- what is refused ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ftp://h/a\n", "1: `ftp://h/a`: the scheme `ftp` is not supported"),
        ("https://a/x\tnonsense\n", "1: `nonsense`: it has no `scheme://`"),
        (" out=a\n", "1: an option without a URL above it; options are indented, URLs are not"),
        ("https://h/a\n ouy=b\n", "2: the option `ouy` is not known; did you mean `out`?"),
        (
            "https://h/a\n split=4\n",
            "2: the option `split` is not known; known: `out`, `dir`, `checksum`, `header`",
        ),
        ("https://h/a\n nothing\n", "2: not an option; write it as `name=value`"),
        ("https://h/a\n out=\n", "2: the option `out` is empty"),
        ("https://h/a\n out=a\n out=b\n", "3: the option `out` is there twice"),
        ("https://h/a\n checksum=abc\n", "2: a checksum is written as `checksum=sha-256=HEX`"),
        (
            "https://h/a\n checksum=sha-3=00\n",
            "2: `sha3`: not one of the digests sha512, sha256, sha1, md5",
        ),
        (
            "https://h/a\n checksum=md5=00\n",
            "2: `00`: not a md5 digest, which has 32 hexadecimal digits",
        ),
        (
            f"https://h/a\n checksum=md5={MD5}\n checksum=md5={'0' * 32}\n",
            "1: two different md5 digests",
        ),
        ("https://h/a\n header=x\n", "2: a header is written as `header=Name: value`"),
        (
            "https://h/a\n header=A b: c\n",
            "2: a header has a character that may not stand in a header",
        ),
        (
            '{"url": "https://h/a"}\n out=b\n',
            "2: an option below a JSON line; write it inside the braces",
        ),
        (
            '{"url": "https://h/a", "sice": 1}',
            "1: the key `sice` is not known; did you mean `size`?",
        ),
        ('{"url": "https://h/a", "url": "https://h/b"}', "1: a key is there twice"),
        ('{"path": "a"}', "1: the key `url` is missing"),
        ('{"url": 1}', "1: `url` must be a text"),
        ('{"url": "https://h/\\ud800"}', "1: `url` must be a text"),
        ('{"url": "https://h/a", "size": -1}', "1: `size` must be a number of bytes"),
        ('{"url": "https://h/a", "size": true}', "1: `size` must be a number of bytes"),
        ('{"url": "https://h/a", "mirrors": "b"}', "1: `mirrors` must be a list of texts"),
        ('{"url": "https://h/a", "headers": {"a": 1}}', "1: `headers` must be an object of texts"),
        ('{"url": ', "1: not JSON: Expecting value (column 9)"),
        ('{"a": ' + "[" * 60_000, "1: not JSON that is meant for a list"),
        ('{"size": ' + "9" * 5_000 + "}", "1: not JSON that is meant for a list"),
        (b"https://h/\xff\n", "1: byte 11 is not UTF-8; save the list as UTF-8"),
        ("https://h/a\n".encode("utf-16"), "1: the list is UTF-16; save it as UTF-8"),
    ],
)
def test_a_bad_line_is_named_with_its_reason(text: str | bytes, expected: str) -> None:
    assert reasons(text)[0] == expected


def test_options_below_a_bad_url_are_checked_but_bring_no_second_complaint() -> None:
    assert reasons("nonsense\n out=a\n ouy=b\nhttps://h/b\n") == [
        "1: `nonsense`: it has no `scheme://`",
        "3: the option `ouy` is not known; did you mean `out`?",
    ]


def test_an_entry_with_a_bad_option_is_not_used() -> None:
    found = read("https://h/a\n ouy=b\n out=c\nhttps://h/b\n")
    assert [type(one).__name__ for one in found] == ["BadLine", "Entry"]
    assert found[1].url == "https://h/b"


def test_a_line_that_is_too_long_is_refused_and_the_next_one_read() -> None:
    long = "https://h/" + "a" * 300_000
    assert reasons(f"{long}\nhttps://h/b\n") == [f"1: the line is longer than {MAX_LINE} bytes"]
    assert read(f"{long}\nhttps://h/b\n")[1].url == "https://h/b"


def test_too_many_options_are_refused() -> None:
    text = "https://h/a\n" + "".join(f" header=A{n}: b\n" for n in range(101))
    assert reasons(text) == ["102: more than 100 options for one URL"]


def test_what_a_line_holds_is_not_repeated() -> None:
    text = (
        "https://u:hunter2@h/a?token=hunter2\n"
        " header=Authorization: Bearer hunter2\x01\n"
        " Authorization: Basic hunter2==\n"
        "ftp://u:hunter2@h/a?token=hunter2\n"
        '{"url": "https://h/a", "hunter2 x": 1}\n'
        '{"url": "https://h/a", "headers": {"hunter2": 1}}\n'
    )
    assert len(reasons(text)) == 5
    assert "hunter2" not in repr(read(text))
    assert "hunter2" not in repr(read("https://u:hunter2@h/a?token=hunter2\n header=A: hunter2\n"))


def test_all_bad_lines_are_reported_together_and_twenty_are_shown() -> None:
    text = "https://h/ok\n" + "nonsense\n" * 25
    with pytest.raises(hf.downloads.DownloadError) as caught:
        list(checked(read(text), "list.txt"))
    error = caught.value
    assert (error.code, error.exit_code) == ("HF-1009", 2)
    lines = str(error).splitlines()
    assert lines[0] == "`list.txt`: 25 lines cannot be used"
    assert lines[1] == "  line 2: `nonsense`: it has no `scheme://`"
    assert (len(lines), lines[-1]) == (22, "  and 5 more")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_bad_lines_can_be_passed_over() -> None:
    skipped: list[BadLine] = []
    found = list(checked(read("nonsense\nhttps://h/b\n"), "list.txt", skip=skipped.append))
    assert [e.url for e in found] == ["https://h/b"]
    assert [b.line for b in skipped] == [1]


# -- bounds ------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_number_of_lines() -> None:
    def entries(count: int) -> int:
        lines = (b"https://h/%d.nc\n" % n for n in range(count))
        tracemalloc.reset_peak()
        assert sum(1 for _ in checked(read_list(lines), "-")) == count
        return tracemalloc.get_traced_memory()[1]

    tracemalloc.start()
    try:
        entries(100)
        few, many = entries(1_000), entries(10_000)
    finally:
        tracemalloc.stop()
    assert many - few < 64 * 1024


def test_a_list_of_bad_lines_keeps_twenty_of_them() -> None:
    bad = (BadLine(n, "x" * 100) for n in itertools.count(1))
    with pytest.raises(hf.downloads.DownloadError, match="100000 lines") as caught:
        list(checked(itertools.islice(bad, 100_000), "-"))
    assert len(str(caught.value)) < 5_000


WORDS = st.sampled_from(
    [
        b"https://h/a",
        b"{",
        b"}",
        b'"url"',
        b":",
        b'"https://h/b"',
        b",",
        b"[",
        b"]",
        b"\n",
        b" ",
        b"\t",
        b"out=",
        b"header=",
        b"checksum=",
        b"md5=",
        b"#",
        b"\r\n",
        b"\x00",
        b"\xff",
        b"\\ud800",
        b"http://[",
        b"@",
        b"1e999",
        b"null",
        b'"headers"',
        b'"mirrors"',
        b"\xef\xbb\xbf",
        b"=",
        b"x",
    ]
)


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.lists(WORDS, max_size=25).map(b"".join)))
def test_any_bytes_give_entries_that_can_be_fetched_or_reasons(data: bytes) -> None:
    for one in read(data):
        if isinstance(one, BadLine):
            assert one.reason
            assert 1 <= one.line <= data.count(b"\n") + 1
        else:
            for url in (one.url, *one.mirrors):
                parse(url)


PARTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1).filter(
    str.strip
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(PARTS, st.booleans()), max_size=10))
def test_what_was_written_is_read_back(paths: list[tuple[str, bool]]) -> None:
    lines = []
    for path, as_json in paths:
        if as_json:
            lines.append(json.dumps({"url": "https://h/a", "path": path}) + "\n")
        else:
            lines.append(f"https://h/a\n out={path}\n")
    found = read("".join(lines))
    assert [e.path if j else e.path.strip() for e, (_, j) in zip(found, paths, strict=True)] == [
        p if j else p.strip() for p, j in paths
    ]
