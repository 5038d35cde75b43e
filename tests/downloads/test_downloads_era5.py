"""The catalog ERA5: what a date and a variable mean, and which files of a real-looking bucket."""

from __future__ import annotations

import calendar
import datetime as dt

import pytest
from downloads_rig import QUICK, quick_policy
from hypothesis import given, settings
from hypothesis import strategies as st

import holdfast as hf
from holdfast.downloads import catalogs
from holdfast.downloads.catalogs import era5
from holdfast.downloads.s3 import Bucket
from holdfast.downloads.s3_auth import Found

CODES = {"t": "128_130", "u": "128_131", "v": "128_132", "q": "128_133", "vo": "128_138"}


def pl(variable: str, day: str, grid: str | None = None, month: str | None = None) -> str:
    grid = grid or ("ll025uv" if variable in {"u", "v"} else "ll025sc")
    name = f"e5.oper.an.pl.{CODES.get(variable, '128_200')}_{variable}.{grid}.{day}00_{day}23.nc"
    return f"e5.oper.an.pl/{month or day[:6]}/{name}"


def sfc(code: str, variable: str, month: str) -> str:
    last = calendar.monthrange(int(month[:4]), int(month[4:]))[1]
    name = f"e5.oper.an.sfc.{code}_{variable}.ll025sc.{month}0100_{month}{last:02}23.nc"
    return f"e5.oper.an.sfc/{month}/{name}"


def refused(**options: str) -> str:
    with pytest.raises(hf.downloads.DownloadError) as caught:
        catalogs.plan("era5", **options)
    assert (caught.value.code, caught.value.exit_code) == ("HF-1003", 2)
    return str(caught.value)


# -- what is asked for ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "months", "days"),
    [
        ("202102", ["202102"], 28),
        ("202002", ["202002"], 29),
        ("20210203", ["202102"], 1),
        ("202012..202102", ["202012", "202101", "202102"], 31 + 31 + 28),
        ("20210130..20210202", ["202101", "202102"], 4),
        ("202101..20210203", ["202101", "202102"], 34),
        ("20210131..202102", ["202101", "202102"], 29),
        ("202102, 20200101 ,20200101", ["202001", "202102"], 29),
        ("202101..202102,20210115", ["202101", "202102"], 59),
    ],
)
def test_a_date_means_months_and_their_days(text: str, months: list[str], days: int) -> None:
    plan = era5.plan(date=text)
    assert [part.month for part in plan.parts] == months
    assert sum(len(part.days) for part in plan.parts) == days
    assert plan.parts[0].region == "us-west-2"
    assert str(plan.parts[0].source) == f"s3://nsf-ncar-era5/e5.oper.an.pl/{months[0]}/"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("202113", "nearest: `202112`"),
        ("202100", "nearest: `202101`"),
        ("20210231", "nearest: `20210228`"),
        ("20210200", "nearest: `20210201`"),
        ("193912", "nearest: `194001`"),
        ("999901", "nearest: `210012`"),
        ("2021-02", "write `202102`"),
        ("2021/02/03", "write `20210203`"),
        ("2021", "`202101..202112`"),
        ("202102..202101", "write `202101..202102`"),
        ("202102..", "write a month"),
        ("", "write a month"),
        ("202102,,202103", "write a month"),
        ("٢٠٢١٠٢", "write a month"),
        ("february", "write a month"),
    ],
)
def test_a_date_that_cannot_be_is_refused_with_what_is_near(text: str, said: str) -> None:
    assert said in refused(date=text)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"vars": "t,temprature"}, "did you mean `t` (temperature)?"),
        ({"vars": "T"}, "did you mean `t` (temperature)?"),
        ({"vars": "u component of wind"}, "did you mean `u` (u_component_of_wind)?"),
        ({"vars": "clcw"}, "did you mean `clwc`"),
        ({"vars": "12345"}, "known: t, u, v"),
        ({"vars": "t,"}, "known: t, u, v"),
        ({"vars": "2t"}, "did you mean `t`"),
        ({"vars": "2t;x", "product": "an.sfc"}, "no name of a variable"),
        ({"product": "an.ml"}, "`an.pl` or `an.sfc`"),
        ({"var": "t"}, "did you mean `vars`?"),
    ],
)
def test_what_the_catalog_does_not_have_is_refused_with_what_is_near(options, said: str) -> None:
    assert said in refused(date="202102", **options)


def test_a_catalog_that_is_not_known_is_refused() -> None:
    with pytest.raises(hf.downloads.DownloadError, match="did you mean `era5`"):
        catalogs.plan("era", date="202102")
    with pytest.raises(hf.downloads.DownloadError, match="--date"):
        catalogs.plan("era5", vars="t")


# -- which keys are meant ------------------------------------------------------------------


def test_a_key_is_read_into_its_fields() -> None:
    fields = era5.fields_of(pl("t", "20210203"))
    assert fields is not None
    assert (fields.product, fields.month, fields.variable) == ("an.pl", "202102", "t")
    assert (fields.code, fields.grid) == ("128_130", "ll025sc")
    assert fields.span == era5.Span(dt.date(2021, 2, 3), dt.date(2021, 2, 3))
    assert era5.fields_of(pl("t", "20210303", month="202102")) is None
    surface = era5.fields_of(sfc("228_246", "100u", "202102"))
    assert surface is not None
    assert (surface.variable, surface.span.last) == ("100u", dt.date(2021, 2, 28))


DISTRACTORS = [
    pl("q_t", "20210203"),
    pl("t_q", "20210203"),
    pl("vo", "20210203").replace("128_138_vo", "128_138_t_vo"),
    pl("t", "20210203") + ".md5",
    pl("t", "20210203", grid="ll025uv"),
    pl("u", "20210203", grid="ll025sc"),
    pl("t", "20210203", grid="regn320sc"),
    pl("t", "20210303", month="202102"),
    pl("t", "20210231"),
    "e5.oper.an.pl/202102/readme_t.ll025sc.txt",
    "e5.oper.an.pl/202102/old/" + pl("t", "20210203").rpartition("/")[2],
    pl("t", "20210203").replace("an.pl.128", "an.sfc.128"),
    pl("t", "20210203").replace(".nc", ".NC"),
    "x" + pl("t", "20210203"),
]


@pytest.mark.parametrize("key", DISTRACTORS)
def test_a_key_that_only_looks_like_it_is_not_taken(key: str) -> None:
    (month,) = era5.plan(date="202102", vars="t,u").parts
    assert month.target(key) is None


def test_the_target_is_the_month_and_the_name() -> None:
    (month,) = era5.plan(date="202102", vars="u").parts
    key = pl("u", "20210203")
    assert month.target(key) == key.removeprefix("e5.oper.an.pl/")


def test_a_day_takes_the_surface_file_of_its_month() -> None:
    (month,) = era5.plan(date="20210203", vars="2t", product="an.sfc").parts
    key = sfc("128_167", "2t", "202102")
    assert month.target(key) == key.removeprefix("e5.oper.an.sfc/")
    assert month.target(sfc("128_168", "2d", "202102")) is None
    assert month.missing([key]) == []


@settings(max_examples=100, deadline=None)
@given(
    st.dates(dt.date(2020, 1, 1), dt.date(2021, 12, 31)),
    st.dates(dt.date(2020, 1, 1), dt.date(2021, 12, 31)),
    st.dates(dt.date(2020, 1, 1), dt.date(2021, 12, 31)),
)
def test_a_file_is_taken_if_and_only_if_its_day_was_asked_for(one, other, day) -> None:
    first, last = sorted([one, other])
    plan = era5.plan(date=f"{first:%Y%m%d}..{last:%Y%m%d}", vars="t")
    taken = [part for part in plan.parts if part.target(pl("t", f"{day:%Y%m%d}")) is not None]
    assert len(taken) == (first <= day <= last)


# -- what is missing -----------------------------------------------------------------------


def test_an_empty_month_is_a_failure() -> None:
    (month,) = era5.plan(date="202102", vars="t").parts
    assert month.missing([]) == ["`s3://nsf-ncar-era5/e5.oper.an.pl/202102/`: the month is empty"]
    assert month.missing(["e5.oper.an.pl/202102/readme.txt"]) == month.missing([])


def test_days_that_are_missing_are_named() -> None:
    (month,) = era5.plan(date="20210201..20210210", vars="t,u").parts
    keys = [pl("t", f"202102{d:02}") for d in range(1, 29) if d not in {3, 7}]
    keys += [pl("u", f"202102{d:02}") for d in range(1, 4)]
    prefix = "`s3://nsf-ncar-era5/e5.oper.an.pl/202102/`"
    assert month.missing(keys) == [
        f"{prefix}: `t`: 2 of 10 days are not there: 20210203, 20210207",
        (
            f"{prefix}: `u`: 7 of 10 days are not there: "
            "20210204, 20210205, 20210206, 20210207, 20210208, ..."
        ),
    ]


def test_a_surface_variable_that_is_not_there_names_what_is_near() -> None:
    (month,) = era5.plan(date="202102", vars="t2,sp", product="an.sfc").parts
    keys = [sfc("128_167", "2t", "202102"), sfc("128_134", "sp", "202102")]
    (text,) = month.missing(keys)
    assert "no file of `t2`" in text
    assert "`2t`" in text


def test_without_variables_a_day_that_nobody_has_is_told() -> None:
    (month,) = era5.plan(date="20210228").parts
    (text,) = month.missing([pl("t", "20210201"), pl("q", "20210201")])
    assert "1 of 1 days are not there: 20210228" in text
    (month,) = era5.plan(date="20210201..20210202").parts
    keys = [pl("t", "20210201"), pl("q", "20210201"), pl("q", "20210202")]
    (text,) = month.missing(keys)
    assert "`t`: 1 of 2 days are not there: 20210202" in text


# -- with a bucket -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ncar(moto, moto_store):
    """A bucket as NCAR's: two months of all variables, and what must not be taken."""
    store = moto_store
    store.create_bucket(era5.BUCKET, "us-west-2")
    keys = list(DISTRACTORS)
    for month, length in (("202101", 31), ("202102", 28)):
        keys += [pl(v, f"{month}{d:02}") for v in era5.LEVELS for d in range(1, length + 1)]
        keys += [sfc("128_167", "2t", month), sfc("128_134", "sp", month)]
    for key in keys:
        store.put_object(era5.BUCKET, key, b"CDF")
    yield moto
    store.buckets.pop(era5.BUCKET)


def gathered(endpoint: str, **options: str):
    found = []
    for part in catalogs.plan("era5", **options).parts:
        bucket = Bucket(
            part.source,
            endpoint=endpoint,
            region=part.region,
            found=Found(),
            policy=quick_policy(3),
            timeouts=QUICK,
        )
        found.append(catalogs.gather(part, bucket))
    return found


def test_only_the_two_variables_of_the_month_are_taken(ncar) -> None:
    (found,) = gathered(ncar, date="202102", vars="t,u")
    days = [f"202102{d:02}" for d in range(1, 29)]
    wanted = {pl(v, d).removeprefix("e5.oper.an.pl/") for v in "tu" for d in days}
    assert {one.path for one in found.chosen} == wanted
    assert all("_t.ll025sc." in p or "_u.ll025uv." in p for p in wanted)
    assert {one.size for one in found.chosen} == {3}
    assert found.failures == ()


def test_without_variables_all_that_belongs_to_the_month_is_taken(ncar) -> None:
    (found,) = gathered(ncar, date="202101")
    assert len(found.chosen) == 16 * 31
    assert found.failures == ()


def test_surface_files_of_several_months(ncar) -> None:
    found = gathered(ncar, date="202101..202103", vars="2t", product="an.sfc")
    assert [[one.path.partition("/")[0] for one in part.chosen] for part in found] == [
        ["202101"],
        ["202102"],
        [],
    ]
    assert [failure.code for failure in found[2].failures] == ["HF-1309"]
    assert "the month is empty" in found[2].failures[0].text
