"""What a server says about coming back: Retry-After and its relatives.

The parser is total: whatever bytes arrive, it returns seconds in [0, CAP] or None, and
never raises. What it does not understand it ignores; a wrong hint must not stop a client
(urllib3 raises on 9 of the 19 shapes we tried) nor hold it for a year.

Understood                                             Ignored
  whole seconds, zero, decimal fraction                  negative, "1m0s", exponent, NaN, Infinity
  spaces around                                          digits outside ASCII
  IMF-fixdate, RFC 850, asctime (RFC 9110, 5.6.7)        ISO 8601
  the first two with a numeric zone                      two values in one field, nothing at all

A date is read against the response's own `Date`, so that a wrong local clock does not
matter; without one, against the wall time that the caller gives.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, cast

from holdfast.core.verdict import Hint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Headers = Mapping[str, str] | Mapping[bytes, bytes] | Iterable[tuple[object, object]]

# Six hours. No request is worth holding for longer on one server's word.
CAP = 21600.0

_AWS_EXTRA = 5.0  # seconds by which x-amz-retry-after may exceed our own backoff

_MONTHS = {
    name: number
    for number, name in enumerate(
        ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), 1
    )
}
_MONTH_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_WEEKDAYS = frozenset(("mon", "tue", "wed", "thu", "fri", "sat", "sun"))
# RFC 850 spells them out; some servers write the short name in that form too.
_LONG_WEEKDAYS = _WEEKDAYS | frozenset(
    ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
)
_UTC = frozenset(("gmt", "utc", "ut"))

_WANTED = frozenset(
    ("retry-after", "retry-after-ms", "x-amz-retry-after", "x-should-retry", "date")
)


class ServerHint(NamedTuple):
    """What the headers of one response say.

    retry_after: seconds in [0, CAP], or None.  rule: how it combines with a backoff.
    may_retry: False if the server says `x-should-retry: false`.
    """

    retry_after: float | None = None
    rule: Hint = Hint.HTTP
    may_retry: bool = True


NO_HINT = ServerHint()


def combine(backoff: float, retry_after: float | None, u: float, rule: Hint = Hint.HTTP) -> float:
    """Return the seconds to wait, given our own backoff and the server's hint.

    HTTP: at least the hint, plus up to 10 % (u in [0, 1), a draw of its own), so that all
    who were told the same second do not come at the same instant. Hints end at CAP.
    AWS: max(t, min(hint, t + 5)), where t is the backoff (SDK standard retry mode 2.1).
    A hint that is None, negative or NaN changes nothing.
    """
    if retry_after is None or not retry_after >= 0.0:
        return backoff
    if rule is Hint.AWS:
        return max(backoff, min(retry_after, backoff + _AWS_EXTRA))
    return max(backoff, min(retry_after * (1.0 + 0.1 * u), CAP))


def read_hint(headers: Headers | None, *, now_wall: float | None) -> ServerHint:
    """Return what the headers of a response ask for.

    headers: a mapping or pairs, names in any case, text or bytes.
    now_wall: seconds since the epoch, for a date without a `Date` beside it; None: such a
    date is ignored.
    """
    found = _pick(headers)
    if not found:
        return NO_HINT
    may_retry = found.get("x-should-retry", "").strip().lower() != "false"
    seconds = _milliseconds(found.get("x-amz-retry-after"))
    if seconds is not None:
        return ServerHint(seconds, Hint.AWS, may_retry)
    # The finer unit first: who sends both means the same wait.
    seconds = _milliseconds(found.get("retry-after-ms"))
    if seconds is None and "retry-after" in found:
        seconds = parse_retry_after(found["retry-after"], date=found.get("date"), now_wall=now_wall)
    return ServerHint(seconds, Hint.HTTP, may_retry)


def parse_retry_after(
    value: str | bytes, *, date: str | bytes | None = None, now_wall: float | None = None
) -> float | None:
    """Return the seconds that a Retry-After field asks for, in [0, CAP], or None.

    date: the response's `Date` field.  now_wall: seconds since the epoch, used without it.
    """
    text = field_text(value)
    seconds = plain_number(text)
    if seconds is None:
        base = None if date is None else parse_http_date(date, near=now_wall)
        if base is None:
            base = now_wall
        if base is None or not math.isfinite(base):
            return None
        then = parse_http_date(text, near=base)
        if then is None:
            return None
        seconds = max(0.0, then - base)
    return min(seconds, CAP)


def parse_http_date(value: str | bytes, *, near: float | None = None) -> float | None:
    """Return seconds since the epoch for a date as HTTP writes it, or None.

    near: the time around which a year of two digits is meant (RFC 9110, 5.6.7: at most 50
    years ahead); None: 1971 to 2070.
    """
    text = field_text(value).lower()
    if not text.isascii() or len(text) > 64:  # the longest form has 35 characters
        return None
    parts = text.split()
    names = _WEEKDAYS
    if len(parts) == 6:  # Sun, 06 Nov 1994 08:49:37 GMT
        weekday, day, month, year, time, zone = parts
    elif len(parts) == 5:  # Sun Nov  6 08:49:37 1994
        weekday, month, day, time, year = parts
        weekday, zone = weekday + ",", "gmt"
    elif len(parts) == 4 and parts[1].count("-") == 2:  # Sunday, 06-Nov-94 08:49:37 GMT
        weekday, written, time, zone = parts
        day, month, year = written.split("-")
        names = _LONG_WEEKDAYS
    else:
        return None
    if not weekday.endswith(",") or weekday[:-1] not in names:
        return None
    days = days_since_epoch(_year(year, near), _MONTHS.get(month), digits(day, 1, 2))
    seconds, offset = seconds_of_day(time), zone_offset(zone)
    if days is None or seconds is None or offset is None:
        return None
    return float(days * 86400 + seconds - offset)


def _pick(headers: Headers | None) -> dict[str, str]:
    """Return the fields that matter, names in lower case; of a repeated field the first."""
    found: dict[str, str] = {}
    if headers is None:
        return found
    items: Callable[[], Iterable[tuple[object, object]]] | None
    items = getattr(headers, "items", None)
    pairs = cast("Iterable[tuple[object, object]]", headers) if items is None else items()
    try:
        for name, value in pairs:
            key = field_text(name).lower()
            if key in _WANTED:
                found.setdefault(key, field_text(value))
    except (TypeError, ValueError):  # not pairs: then there is nothing to read in it
        return found
    return found


def field_text(value: object) -> str:
    """Return the field without the white space that HTTP allows around it."""
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    elif type(value) is int:  # a mapping made by hand
        value = str(value)
    return value.strip(" \t\r\n") if isinstance(value, str) else ""


def plain_number(text: str) -> float | None:
    """Return a plain decimal number >= 0 (infinity beyond floats), or None."""
    whole, dot, fraction = text.partition(".")
    figures = whole + fraction if dot else whole
    if not (whole and figures.isascii() and figures.isdigit()) or (dot and not fraction):
        return None
    return float(text)


def _milliseconds(text: str | None) -> float | None:
    number = None if text is None else plain_number(text)
    return None if number is None else min(number / 1000.0, CAP)


def digits(text: str, least: int, most: int) -> int | None:
    """Return a number written with `least` to `most` digits (the text is known as ASCII)."""
    return int(text) if least <= len(text) <= most and text.isdigit() else None


def _year(text: str, near: float | None) -> int | None:
    year = digits(text, 4, 4)
    short = digits(text, 2, 2)
    if short is None:
        return year
    middle = 2020
    if near is not None and -1e11 < near < 1e11:  # five-digit years are no clock's time
        middle = 1970 + int(near // 31556952)  # the mean Gregorian year in seconds
    first = middle - 49
    return first + (short - first) % 100


def days_since_epoch(year: int | None, month: int | None, day: int | None) -> int | None:
    """Return days since 1970-01-01 in the Gregorian calendar, or None for no such day."""
    if year is None or month is None or day is None:
        return None
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if not 1 <= day <= _MONTH_DAYS[month - 1] or (month == 2 and day == 29 and not leap):
        return None
    # Count from 1 March of year 0: then the leap day is the last day of a year, and the
    # months before `month` have (153 m + 2) // 5 days. 719468 of them precede 1970.
    if month < 3:
        year, month = year - 1, month + 12
    return (
        year * 365
        + year // 4
        - year // 100
        + year // 400
        + (153 * (month - 3) + 2) // 5
        + (day - 1)
        - 719468
    )


def seconds_of_day(text: str) -> int | None:
    """Return seconds since midnight for hh:mm:ss; second 60 is a leap second."""
    parts = [digits(part, 1, 2) for part in text.split(":")]
    if len(parts) != 3:
        return None
    hour, minute, second = parts
    if hour is None or minute is None or second is None:
        return None
    if hour > 23 or minute > 59 or second > 60:
        return None
    return hour * 3600 + minute * 60 + second


def zone_offset(zone: str) -> int | None:
    """Return the zone's seconds east of UTC."""
    if zone in _UTC:
        return 0
    hours, minutes = digits(zone[1:3], 2, 2), digits(zone[3:], 2, 2)
    if zone[0] not in "+-" or hours is None or minutes is None or minutes > 59:
        return None
    return (hours * 3600 + minutes * 60) * (-1 if zone[0] == "-" else 1)
