from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core.settings import (
    Choice,
    Either,
    Flag,
    Group,
    Groups,
    Many,
    Number,
    Seconds,
    SecretRef,
    Size,
    Text,
    Texts,
    Wrong,
    read,
    setting,
)


@dataclass(frozen=True)
class Inner:
    name: str = setting(Text("[a-z]+", "a word of small letters"), doc="who")
    share: float = setting(Number(0, 1), 0.5)


@dataclass(frozen=True)
class Outer:
    wait: float = setting(Seconds(0, 60), "250ms")
    most: int = setting(Size(1), "1KiB")
    inner: Inner = setting(Group(Inner), {"name": "x"})
    many: list[Inner] = setting(Groups(Inner), [])
    on: bool = setting(Flag(), True)

    def __post_init__(self):
        if self.wait > 30 and not self.on:
            raise ValueError("`wait` above 30 s needs `on`")


def problems(data):
    return [str(problem) for problem in read(Outer, data, "x").problems]


def test_defaults_are_written_as_in_a_file():
    value = read(Outer, {}).value
    assert (value.wait, value.most, value.inner.name, value.many, value.on) == (
        0.25,
        1024,
        "x",
        [],
        True,
    )


def test_values_are_read():
    data = {"wait": 3, "most": "2M", "inner": {"name": "y"}, "many": [{"name": "z", "share": 1}]}
    value = read(Outer, data).value
    assert (value.wait, value.most, value.inner.name, value.many[0].share) == (3, 2 << 20, "y", 1)


def test_every_error_is_told_with_its_path():
    data = {
        "wiat": 1,
        "most": "much",
        "inner": {"nme": "y"},
        "many": [{"name": "a"}, {"name": "B", "share": 2}],
        "on": 1,
    }
    assert problems(data) == [
        "`x.wiat`: not known; did you mean `wait`?",
        '`x.most`: bytes of at least 1 (65536, "64KiB") is wanted, not a text of this form',
        "`x.inner.nme`: not known; did you mean `name`?",
        "`x.inner.name`: missing",
        "`x.many[2].name`: a word of small letters is wanted",
        "`x.many[2].share`: 2: a number from 0 to 1 is wanted",
        "`x.on`: true or false is wanted, not a number",
    ]


def test_what_fields_mean_together_is_checked_last():
    assert problems({"wait": 40, "on": False}) == ["`x`: `wait` above 30 s needs `on`"]


def test_a_table_is_wanted():
    assert problems([1]) == ["`x`: a table is wanted, not a list"]
    assert problems({"inner": 3}) == ["`x.inner`: a table is wanted, not a number"]
    assert problems({"many": {}}) == [
        "`x.many`: a list of tables is wanted, `[[x.many]]`, not a table"
    ]


@pytest.mark.parametrize(
    ("kind", "value", "read_as"),
    [
        (Seconds(), "1.5h", 5400),
        (Seconds(), "250 ms", 0.25),
        (Seconds(), 7, 7),
        (Seconds(words=("auto",)), "auto", "auto"),
        (Size(), "64KiB", 65536),
        (Size(), "64kb", 65536),
        (Size(), "1G", 1 << 30),
        (Size(), "512B", 512),
        (Size(), 0, 0),
        (Number(), -1.5, -1.5),
        (Choice(("a", "b")), "b", "b"),
        (SecretRef(), "env:KEY_1", "env:KEY_1"),
        (SecretRef(), "file:/run/key", "file:/run/key"),
        (Many(Number()), [1, 2], (1, 2)),
        (Many(Text(), single=True), "a", ("a",)),
        (Texts(), {"a": "b"}, {"a": "b"}),
        (Either((Number(), Choice(("auto",)))), "auto", "auto"),
    ],
)
def test_what_a_kind_takes(kind, value, read_as):
    assert kind.read(value) == read_as


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Seconds(), "soon"),
        (Seconds(), True),
        (Seconds(0, 1), 2),
        (Seconds(), "-1s"),
        (Size(), 1.5),
        (Size(0, 10), "1K"),
        (Size(), "1X"),
        (Number(), float("nan")),
        (Number(), "3"),
        (Number(), True),
        (Number(whole=True), 1.5),
        (Choice(("a",)), 1),
        (Flag(), "yes"),
        (SecretRef(), "sk-abcdef"),
        (SecretRef(), "env:"),
        (Many(Number()), 3),
        (Many(Number(), most=2), [1, 2, 3]),
        (Texts(), {"a": 1}),
        (Either((Number(), Choice(("auto",)))), "atuo"),
    ],
)
def test_what_a_kind_does_not_take(kind, value):
    with pytest.raises(Wrong) as caught:
        kind.read(value)
    assert "is wanted" in str(caught.value) or "at most" in str(caught.value)


def test_a_secret_that_was_written_down_is_not_repeated():
    with pytest.raises(Wrong) as caught:
        SecretRef().read("sk-live-1234")
    assert "1234" not in str(caught.value)


def test_a_near_word_is_offered():
    with pytest.raises(Wrong, match="did you mean `weighted`"):
        Choice(("p2c", "weighted")).read("wieghted")


WORDS = st.sampled_from(["name", "share", "a"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=2),
    max_leaves=5,
)


@settings(deadline=None)  # it bounds no time; the machine may be busy
@given(data=st.dictionaries(st.sampled_from(["wait", "most", "inner", "many", "on", "x"]), values))
def test_anything_is_either_read_or_told(data):
    result = read(Outer, data)
    assert (result.value is None) is bool(result.problems)


def test_ranges_are_told_as_they_would_be_written():
    assert str(Size(1024, 1 << 30)) == 'bytes from 1024 to 1073741824 (65536, "64KiB")'
    assert str(Number(0, 1_000_000, whole=True)) == "a whole number from 0 to 1000000"
    assert str(Number(0.5, 10)) == "a number from 0.5 to 10"
