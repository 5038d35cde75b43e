"""Globs: what they match, which rule decides, and that no pattern takes for ever."""

from __future__ import annotations

import functools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import holdfast as hf
from holdfast.downloads.globs import Globs, globs, translate


def matches(pattern: str, path: str) -> bool:
    return translate(pattern).match(path) is not None


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("a.nc", "a.nc", True),
        ("a.nc", "aXnc", False),
        ("a.nc", "x/a.nc", False),
        ("A.nc", "a.nc", False),
        ("*.nc", "a.nc", True),
        ("*.nc", ".nc", True),
        ("*.nc", "d/a.nc", False),
        ("*.nc", "a.nc.md5", False),
        ("*_t.*", "e5.oper.an.pl.128_130_t.ll025sc.2021020100_2021020123.nc", True),
        ("*_t.*", "e5.oper.an.pl.128_130_tx.ll025sc.nc", False),
        ("d/*/x", "d/e/x", True),
        ("d/*/x", "d/e/f/x", False),
        ("d/*/x", "d//x", True),
        ("**.nc", "d/e/a.nc", True),
        ("**/a.nc", "a.nc", True),
        ("**/a.nc", "d/e/a.nc", True),
        ("**/a.nc", "ba.nc", False),
        ("d/**/a", "d/a", True),
        ("d/**/a", "d/e/f/a", True),
        ("d/**/a", "da", False),
        ("d/**", "d/e/f", True),
        ("d/**", "d", False),
        ("a**b", "a/x/b", True),
        ("***", "any/thing", True),
        ("?", "a", True),
        ("?", "/", False),
        ("a?c", "a/c", False),
        ("[abc]", "b", True),
        ("[!abc]", "b", False),
        ("[!a]", "/", False),
        ("a[!b]c", "a/c", False),
        ("[a-c]x", "bx", True),
        ("[a-]", "-", True),
        ("[]]", "]", True),
        ("[*]", "*", True),
        ("[*]", "a", False),
        ("[", "[", True),
        ("a[b", "a[b", True),
        ("[^a]", "^", True),
        ("(a|b)+.$", "(a|b)+.$", True),
        ("a*\n", "axx\n", True),
        ("*", "with\nnewline", True),
        ("a", "a\n", False),
        # The nearest `a` is not the right one: a `**` must look further.
        ("**a*b", "a/ab", True),
        ("**a*b/**c*d", "a/ab/c/cd", True),
    ],
)
def test_a_glob_matches(pattern: str, path: str, *, expected: bool) -> None:
    assert matches(pattern, path) is expected


def naive(pattern: str, path: str) -> bool:  # noqa: C901 - one case per kind of piece
    """Say the same by trying everything, with no regular expression."""

    @functools.cache
    def go(p: int, s: int) -> bool:  # noqa: C901, PLR0911 - one case per kind of piece
        if p == len(pattern):
            return s == len(path)
        if pattern.startswith("**", p):
            end = p
            while end < len(pattern) and pattern[end] == "*":
                end += 1
            if (p == 0 or pattern[p - 1] == "/") and pattern.startswith("/", end):
                return any(
                    go(end + 1, i) for i in range(s, len(path) + 1) if i == s or path[i - 1] == "/"
                )
            return any(go(end, i) for i in range(s, len(path) + 1))
        if pattern[p] == "*":
            for i in range(s, len(path) + 1):
                if go(p + 1, i):
                    return True
                if path[i : i + 1] == "/":
                    return False
            return False
        if s == len(path):
            return False
        if pattern[p] == "?":
            return path[s] != "/" and go(p + 1, s + 1)
        close = pattern.find("]", p + 2 + pattern.startswith("!", p + 1))
        if pattern[p] == "[" and close > 0:
            members = pattern[p + 1 : close]
            wanted = not members.startswith("!")
            inside = path[s] in members.removeprefix("!")
            return path[s] != "/" and inside is wanted and go(close + 1, s + 1)
        return pattern[p] == path[s] and go(p + 1, s + 1)

    return go(0, 0)


PIECES = st.sampled_from(["*", "**", "**/", "?", "a", "b", "ab", "/", "[ab]", "[!a]", "c/", "["])


@settings(max_examples=800, deadline=None)
@given(st.lists(PIECES, min_size=1, max_size=8).map("".join), st.text("ab/c", max_size=14))
def test_the_expression_agrees_with_trying_everything(pattern: str, path: str) -> None:
    assert matches(pattern, path) is naive(pattern, path)


@pytest.mark.parametrize(
    "pattern",
    ["*a" * 40 + "b", "**a" * 40 + "b", "**/a*" * 40 + "b", "*a**a" * 20 + "b", "?*" * 300 + "b"],
)
def test_no_pattern_takes_for_ever(pattern: str) -> None:
    compiled = translate(pattern)
    started = time.process_time()
    for path in ("a" * 1024, "a/" * 512, "ba" * 512):
        compiled.match(path)
    # Without atomic groups the first of these does not end within a day.
    assert time.process_time() - started < 5


def test_the_last_rule_that_matches_decides() -> None:
    rules = Globs((("include", "*.nc"), ("exclude", "a*"), ("include", "abc.nc")))
    assert [p for p in ("x.nc", "a.nc", "abc.nc", "x.txt") if rules.takes(p)] == ["x.nc", "abc.nc"]


def test_without_an_include_all_is_taken_that_is_not_excluded() -> None:
    rules = globs(exclude=["*.md5"])
    assert rules.takes("a.nc")
    assert not rules.takes("a.md5")
    assert globs().takes("anything/at all")


def test_of_two_lists_the_excludes_come_last() -> None:
    rules = globs(include="*.nc", exclude="a*")
    assert [p for p in ("x.nc", "a.nc", "x.txt") if rules.takes(p)] == ["x.nc"]
    assert str(rules) == "--include *.nc --exclude a*"


@pytest.mark.parametrize("pattern", ["", "a" * 1025, "[z-a]"])
def test_a_pattern_that_cannot_be_is_refused(pattern: str) -> None:
    with pytest.raises(hf.downloads.DownloadError) as caught:
        translate(pattern)
    assert (caught.value.code, caught.value.exit_code) == ("HF-1003", 2)
