"""Content-Disposition: the name that a server proposes, and what it may not do with it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.downloads.disposition import filename_in


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ('attachment; filename="a.nc"', "a.nc"),
        ("attachment; filename=a.nc", "a.nc"),
        ('attachment;filename="a b;c.nc" ; size=3', "a b;c.nc"),
        (r'attachment; filename="a\"b\\c.nc"', "c.nc"),
        ("inline; FileName=a.nc", "a.nc"),
        ("attachment; filename*=UTF-8''na%C3%AFve.nc", "naïve.nc"),
        ("attachment; filename*=utf-8'en'%e2%82%ac.nc", "€.nc"),
        ("attachment; filename*=ISO-8859-1''%E9.nc", "é.nc"),
        ("attachment; filename=\"plain.nc\"; filename*=UTF-8''%C3%A9.nc", "é.nc"),
        ("attachment; filename=\"plain.nc\"; filename*=UTF-16''x", "plain.nc"),
        ("attachment; filename=\"plain.nc\"; filename*=UTF-8''%zz", "plain.nc"),
        ("attachment; filename*=UTF-8''%FF%FE", "\ufffd\ufffd"),
        ('attachment; filename="naïve.nc"', "naïve.nc"),
        ('attachment; filename="na\xc3\xafve.nc"', "naïve.nc"),  # UTF-8, as it is read
        ('attachment; filename="../../etc/passwd"', "passwd"),
        ('attachment; filename="/abs/x"', "x"),
        (r'attachment; filename="C:\\dir\\x.nc"', "x.nc"),
        ("attachment; filename*=UTF-8''..%2F..%2Fx", "x"),
        ('attachment; filename="a.nc"; filename="b.nc"', "a.nc"),
        ("attachment; filename*0=a; filename*1=b", ""),
        ('attachment; filename=""', ""),
        ("attachment", ""),
        ("", ""),
        ("filename=a.nc", ""),
        ('attachment; filename="unended', ""),
        ("attachment; filename=dir/", ""),
    ],
)
def test_a_name_is_read(value: str, name: str) -> None:
    assert filename_in(value) == name


@given(st.text(max_size=200))
def test_no_field_is_too_odd(value: str) -> None:
    for prefix in ("", "attachment; filename=", "attachment; filename*=UTF-8''"):
        name = filename_in(prefix + value)
        assert "/" not in name
        assert "\\" not in name


def test_a_long_field_costs_little() -> None:
    assert filename_in('a; filename="' + "\\" * 1_000_000) == ""
