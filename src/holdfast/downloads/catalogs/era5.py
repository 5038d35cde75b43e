r"""ERA5, as NSF NCAR keeps it in a public bucket (us-west-2, no credentials).

    e5.oper.an.pl/202102/e5.oper.an.pl.128_130_t.ll025sc.2021020100_2021020123.nc
    \-- product --/ month               code  var  grid    first      last hour

On pressure levels (`an.pl`) there is a file per variable and day, u and v on their own grid
`ll025uv`; on the surface (`an.sfc`) one per variable and month. The preliminary files of the
last months are replaced by final ones, so an object may change between two runs.

A date is a month (YYYYMM), a day (YYYYMMDD), a range of either with both ends (A..B), or
several of these with commas. A file is taken if it holds a day that was asked for.
"""

from __future__ import annotations

import calendar
import datetime as dt
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.downloads.failures import DownloadError
from holdfast.downloads.nearest import nearest
from holdfast.downloads.s3_address import Source

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BUCKET = "nsf-ncar-era5"
REGION = "us-west-2"
OPTIONS = ("date", "vars", "product")
PRODUCTS = ("an.pl", "an.sfc")
FIRST, LAST = dt.date(1940, 1, 1), dt.date(2100, 12, 31)
MAX_MISSING = 5
"""Days that are named of those which are missing."""

# The variables on pressure levels, with ECMWF's long names for who writes these.
LEVELS = {
    "t": "temperature",
    "u": "u_component_of_wind",
    "v": "v_component_of_wind",
    "w": "vertical_velocity",
    "z": "geopotential",
    "d": "divergence",
    "vo": "vorticity",
    "pv": "potential_vorticity",
    "q": "specific_humidity",
    "r": "relative_humidity",
    "cc": "fraction_of_cloud_cover",
    "ciwc": "specific_cloud_ice_water_content",
    "clwc": "specific_cloud_liquid_water_content",
    "crwc": "specific_rain_water_content",
    "cswc": "specific_snow_water_content",
    "o3": "ozone_mass_mixing_ratio",
}
# On the surface the list is longer and grows, so there a name is judged by what is listed.
_TOKEN = re.compile(r"[a-z0-9][a-z0-9_]{0,30}\Z")
_KEY = re.compile(
    r"e5\.oper\.(?P<product>an\.pl|an\.sfc)/(?P<month>[0-9]{6})/"
    r"(?P<name>e5\.oper\.(?P=product)\.(?P<code>[0-9]{3}_[0-9]{3})_(?P<variable>[a-z0-9_]+)"
    r"\.(?P<grid>[a-z0-9]+)\.(?P<first>[0-9]{8})00_(?P<last>[0-9]{8})23\.nc)\Z"
)


@dataclass(frozen=True, slots=True)
class Span:
    """Days, both ends included."""

    first: dt.date
    last: dt.date

    def days(self) -> Iterator[dt.date]:
        """Yield them."""
        for n in range((self.last - self.first).days + 1):
            yield self.first + dt.timedelta(n)


@dataclass(frozen=True, slots=True)
class Fields:
    """What a key says. month: as its folder; span: the days that the file holds."""

    product: str
    month: str
    code: str
    variable: str
    grid: str
    span: Span
    name: str


def fields_of(key: str) -> Fields | None:
    """Read a key; None if it is not one of this form."""
    found = _KEY.match(key)
    if found is None:
        return None
    first, last = _day(found["first"]), _day(found["last"])
    if first is None or last is None or last < first or found["first"][:6] != found["month"]:
        return None
    return Fields(
        found["product"],
        found["month"],
        found["code"],
        found["variable"],
        found["grid"],
        Span(first, last),
        found["name"],
    )


def _day(digits: str) -> dt.date | None:
    try:
        return dt.date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class Month:
    """One month of a plan. variables: None for all that are there.  days: those wanted."""

    product: str
    month: str
    variables: tuple[str, ...] | None
    days: frozenset[dt.date]

    @property
    def source(self) -> Source:
        """What is listed."""
        return Source(BUCKET, f"e5.oper.{self.product}/{self.month}/")

    @property
    def region(self) -> str:
        """Where the bucket is."""
        return REGION

    def target(self, key: str) -> str | None:
        """Return `YYYYMM/NAME` for a key that is wanted, else None."""
        fields = self._wanted(key)
        return None if fields is None else f"{self.month}/{fields.name}"

    def _wanted(self, key: str) -> Fields | None:
        fields = fields_of(key)
        if fields is None or (fields.product, fields.month) != (self.product, self.month):
            return None
        if fields.grid != _grid(fields.product, fields.variable):
            return None
        if self.variables is not None and fields.variable not in self.variables:
            return None
        return None if self.days.isdisjoint(fields.span.days()) else fields

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Return a text for the month if nothing of it is there, else for each variable.

        Of a month that is under way the later days are missing; they are named, too.
        """
        there: dict[str, set[dt.date]] = {}
        present: set[str] = set()  # variables of which any day is there
        for key in keys:
            if (any_fields := fields_of(key)) is not None:
                present.add(any_fields.variable)
            if (fields := self._wanted(key)) is not None:
                there.setdefault(fields.variable, set()).update(fields.span.days())
        if not present:
            return [f"`{self.source}`: the month is empty"]
        texts = []
        for variable in sorted(there) if self.variables is None else self.variables:
            if variable not in present:
                near = _near(variable, present)
                texts.append(f"`{self.source}`: no file of `{variable}`; near it: {near}")
            elif lacking := sorted(self.days - there.get(variable, set())):
                texts.append(f"`{self.source}`: `{variable}`: {_named(lacking, len(self.days))}")
        if not there and self.variables is None:
            texts.append(f"`{self.source}`: {_named(sorted(self.days), len(self.days))}")
        return texts


def _grid(product: str, variable: str) -> str:
    return "ll025uv" if product == "an.pl" and variable in {"u", "v"} else "ll025sc"


def _near(variable: str, present: Iterable[str]) -> str:
    known = sorted(present)
    found = nearest(variable, known, count=3, alike=0.3) or known[:3]
    return ", ".join(f"`{name}`" for name in found)


def _named(days: list[dt.date], wanted: int) -> str:
    shown = ", ".join(f"{day:%Y%m%d}" for day in days[:MAX_MISSING])
    rest = ", ..." if len(days) > MAX_MISSING else ""
    return f"{len(days)} of {wanted} days are not there: {shown}{rest}"


@dataclass(frozen=True, slots=True)
class Era5:
    """A plan: months, each with what is wanted of it."""

    parts: tuple[Month, ...]


def plan(*, date: str, vars: str | None = None, product: str = "an.pl") -> Era5:  # noqa: A002 - as the option is called
    """Return where to look for which files. Pure.

    Raises DownloadError (HF-1003) for a date that cannot be, a variable or a product that is
    not known, with what is near.
    """
    if product not in PRODUCTS:
        known = " or ".join(f"`{name}`" for name in PRODUCTS)
        raise _refused("product", product, f"the products are {known}")
    variables = None if vars is None else _variables(vars, product)
    months: dict[str, set[dt.date]] = {}
    for span in dates(date):
        for day in span.days():
            months.setdefault(f"{day:%Y%m}", set()).add(day)
    return Era5(
        tuple(
            Month(product, month, variables, frozenset(days))
            for month, days in sorted(months.items())
        )
    )


def _variables(text: str, product: str) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for word in (part.strip() for part in text.split(",")):
        if product == "an.pl" and word not in LEVELS:
            raise _refused("vars", word, f"no variable of an.pl; {_nearest_level(word)}")
        if not _TOKEN.match(word):
            raise _refused("vars", word, "no name of a variable; write for instance `2t,sp`")
        found[word] = None
    return tuple(found)


def _nearest_level(word: str) -> str:
    plain = word.lower().replace(" ", "_").replace("-", "_")
    by_name = {**{name: name for name in LEVELS}, **{long: name for name, long in LEVELS.items()}}
    found = [plain] if plain in by_name else nearest(plain, by_name)
    if found:
        return f"did you mean `{by_name[found[0]]}` ({LEVELS[by_name[found[0]]]})?"
    return "known: " + ", ".join(LEVELS)


# -- dates -----------------------------------------------------------------------------------------


def dates(text: str) -> tuple[Span, ...]:
    """Read `--date`, as it stands; spans may overlap. Raises DownloadError (HF-1003)."""
    return tuple(_span(part.strip()) for part in text.split(","))


def _span(text: str) -> Span:
    begin, dots, end = text.partition("..")
    first = _either(begin.strip())
    if not dots:
        return first
    last = _either(end.strip())
    if last.last < first.first:
        raise _refused("date", text, f"the range runs backwards; write `{end}..{begin}`")
    return Span(first.first, last.last)


def _either(text: str) -> Span:
    """Read a month or a day."""
    if not re.fullmatch(r"[0-9]{6}|[0-9]{8}", text):
        raise _refused("date", text, _form(text))
    year, month = int(text[:4]), int(text[4:6])
    if not FIRST.year <= year <= LAST.year:
        near = FIRST if year < FIRST.year else LAST
        raise _refused("date", text, f"ERA5 begins with {FIRST:%Y%m}; nearest: `{near:%Y%m}`")
    if not 1 <= month <= 12:
        near_month = min(max(month, 1), 12)
        raise _refused("date", text, f"there is no such month; nearest: `{year}{near_month:02}`")
    length = calendar.monthrange(year, month)[1]
    if len(text) == 6:
        return Span(dt.date(year, month, 1), dt.date(year, month, length))
    day = int(text[6:])
    if not 1 <= day <= length:
        near_day = min(max(day, 1), length)
        near_text = f"{text[:6]}{near_day:02}"
        raise _refused("date", text, f"there is no such day; nearest: `{near_text}`")
    return Span(dt.date(year, month, day), dt.date(year, month, day))


def _form(text: str) -> str:
    """Say how a date is written, by what was meant if that can be seen."""
    digits = re.sub(r"[-/. ]", "", text)
    if re.fullmatch(r"[0-9]{6}|[0-9]{8}", digits):
        return f"write `{digits}`"
    if re.fullmatch(r"[0-9]{4}", text):
        return f"a year is written as `{text}01..{text}12`"
    return "write a month (YYYYMM), a day (YYYYMMDD), a range (A..B), or several with commas"


def _refused(option: str, given: str, reason: str) -> DownloadError:
    return DownloadError("bad-option", f"`--{option} {given[:60]}`: {reason}")
