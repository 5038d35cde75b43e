"""What a server says about its rate limit: RateLimit and its many relatives.

Like its neighbour for Retry-After the parser is total: whatever arrives, it answers with
numbers in [0, CAP] and never raises. What it does not understand it ignores.

Field                                                    Source
  RateLimit: "default";r=50;t=30                           IETF draft, from -08 on
  RateLimit-Policy: "default";q=100;w=60;qu="requests"
  RateLimit: limit=100, remaining=50, reset=30             -07
  RateLimit-Limit, -Remaining, -Reset, -Policy: 100;w=60   -00 to -06
  X-RateLimit-*, X-Rate-Limit-*                            habit; a reset may be epoch seconds
  x-ratelimit-remaining-tokens, -reset-requests: 6m0s      OpenAI and its like
  anthropic-ratelimit-requests-remaining, -reset           Anthropic; the reset is RFC 3339
  X-RateLimit-Remaining-Minute                             Kong; the name tells the window
  Retry-After                                              RFC 9110; it wins over any reset

A quota that counts something else than requests (tokens, bytes) tells nothing about the
pace of requests, but when nothing is left of it the next request waits all the same.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from holdfast.core.retry_after import (
    CAP,
    days_since_epoch,
    digits,
    field_text,
    parse_http_date,
    plain_number,
    read_hint,
    seconds_of_day,
    zone_offset,
)
from holdfast.core.verdict import Hint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from holdfast.core.retry_after import Headers


class ServerLimits(NamedTuple):
    """What the headers of one response say about the requests that follow.

    wait: seconds until the next one makes sense.  interval: seconds per request that the
    server's quota allows, for the next `lasts` seconds.  Each in [0, CAP]; 0: nothing said.
    """

    wait: float = 0.0
    interval: float = 0.0
    lasts: float = 0.0


NO_LIMITS = ServerLimits()

# Far above any wait and far below any date: a reset beyond is a time, not a distance.
_EPOCH = 1e8
_EPOCH_MS = 1e11

_SHORT = 60.0  # seconds; the longest window over which requests are spread from its beginning

_MOST_ITEMS = 32  # of one structured field
_LONGEST = 4096  # characters of a field that are looked at

_SPAN_UNITS = {
    "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0,
}  # fmt: skip
_SPAN_PART = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)(ns|us|µs|ms|s|m|h|d)")
# A quote that is never closed ends with the text: without that each one would be searched anew.
_PIECES = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|[^",;]+|[,;]', re.DOTALL)
_PLAIN = re.compile(r"(?:x-)?rate-?limit-(limit|remaining|reset)(?:-(.+))?")
_ANTHROPIC = re.compile(r"anthropic-ratelimit-(.+)-(limit|remaining|reset)")
_SCOPE_WINDOWS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
_REQUESTS = frozenset(("", "after", "requests", *_SCOPE_WINDOWS))


@dataclass(slots=True)
class _Quota:
    """One quota: at most `limit` per `window` s; `left` of it until `reset` s from now."""

    limit: float | None = None
    left: float | None = None
    reset: float | None = None
    window: float | None = None
    requests: bool = True


def mentions_limits(headers: Headers | None) -> bool:
    """Say whether any name looks like one that is understood; quick, and never wrong with "no".

    Most responses have none, and then nothing else needs to be done. headers: not an iterator.
    """
    if headers is None:
        return False
    found: Any = headers
    try:
        names = "\n".join(found).lower()  # of a mapping with text names, as most libraries have
    except TypeError:
        try:
            if not hasattr(headers, "keys"):
                found = [name for name, _ in headers]
            try:
                names = "\n".join(found).lower()
            except TypeError:
                names = b"\n".join(found).lower().decode("latin-1")
        except (TypeError, ValueError):
            return True  # text and bytes mixed, or nothing that we know: the slow way finds out
    # Two searches for the most part: few names have "rate" in them.
    return "retry-after" in names or (
        "rate" in names and ("ratelimit" in names or "rate-limit" in names)
    )


def read_limits(headers: Headers | None, *, now_wall: float | None) -> ServerLimits:
    """Return what the headers of a response say about the rate of requests.

    headers: a mapping or pairs, names in any case, text or bytes.
    now_wall: seconds since the epoch, for a reset that is a time, if there is no `Date`.
    """
    pairs = _pairs(headers)
    fields = _fields(pairs)
    asked = None
    if any("retry-after" in name for name, _ in pairs):
        hint = read_hint(cast("Headers", pairs), now_wall=now_wall)
        asked = hint.retry_after if hint.rule is Hint.HTTP else None
    if not fields:
        return NO_LIMITS if asked is None else ServerLimits(wait=asked)
    base = parse_http_date(fields["date"], near=now_wall) if "date" in fields else None
    quotas = list(_quotas(fields, now_wall if base is None else base))
    wait = max((_emptied(quota) for quota in quotas), default=0.0) if asked is None else asked
    interval, lasts = max((_pace(quota) for quota in quotas), default=(0.0, 0.0))
    return ServerLimits(min(wait, CAP), min(interval, CAP), min(lasts, CAP))


def parse_reset(value: str | bytes, *, now_wall: float | None = None) -> float | None:
    """Return the seconds until a reset, in [0, CAP], or None.

    Understood: seconds; seconds or milliseconds since the epoch; spans such as "6m0s" and
    "350ms"; RFC 3339 and HTTP dates. now_wall: seconds since the epoch, for the times.
    """
    text = field_text(value)[:_LONGEST]
    number = plain_number(text)
    if number is not None and number < _EPOCH:
        return min(number, CAP)
    then = _time(text) if number is None else number / 1000.0 if number >= _EPOCH_MS else number
    if then is not None:
        if now_wall is None or not math.isfinite(now_wall):
            return None
        return min(max(0.0, then - now_wall), CAP)
    span = _span(text)
    return None if span is None else min(span, CAP)


def _emptied(quota: _Quota) -> float:
    """Return the seconds until this quota allows anything again."""
    nothing = quota.left == 0.0 or (quota.left is None and quota.limit == 0.0)
    until = quota.window if quota.reset is None else quota.reset
    return until if nothing and until is not None else 0.0


def _pace(quota: _Quota) -> tuple[float, float]:
    """Return (seconds per request, for how long); (0, 0) if this quota sets no pace.

    A short window is spread evenly. A long one (per hour, per day) is not: with 900 of 1,000
    left for today, one request every 86 s is what nobody wants. Its rest is spread once less
    than a tenth is left.
    """
    limit, left, reset, window = quota.limit, quota.left, quota.reset, quota.window
    span = reset if window is None else window
    if not quota.requests or not span:
        return 0.0, 0.0
    if span > _SHORT:
        rare = bool(limit and left and reset) and (left or 0.0) < (limit or 0.0) / 10
        return ((reset or 0.0) / (left or 1.0), reset or 0.0) if rare else (0.0, 0.0)
    if limit and window:
        return window / limit, window if reset is None else reset
    # Without its window the limit says nothing, but what is left lasts until the reset.
    return (span / left, span) if left else (0.0, 0.0)


# -- fields ------------------------------------------------------------------------------


def _pairs(headers: Headers | None) -> list[tuple[str, object]]:
    """Return the fields that may matter, names in lower case."""
    items: Callable[[], Iterable[tuple[object, object]]] | None
    items = getattr(headers, "items", None)
    try:
        pairs = cast("Iterable[tuple[object, object]]", headers or ()) if items is None else items()
        named = [(field_text(name).lower(), value) for name, value in pairs]
    except (TypeError, ValueError):  # not pairs: then there is nothing to read in it
        return []
    return [pair for pair in named if "rate" in pair[0] or pair[0] == "date" or "retry" in pair[0]]


def _fields(pairs: list[tuple[str, object]]) -> dict[str, str]:
    """Return the fields about limits, lines of one name joined."""
    found: dict[str, str] = {}
    date = ""
    for key, value in pairs:
        if "ratelimit" in key or "rate-limit" in key:
            text = field_text(value)[:_LONGEST]
            found[key] = f"{found[key]}, {text}"[:_LONGEST] if key in found else text
        elif key == "date":
            date = date or field_text(value)
    if found and date:
        found["date"] = date
    return found


def _quotas(fields: dict[str, str], wall: float | None) -> Iterator[_Quota]:
    """Yield every quota that the fields tell of."""
    named: dict[str, _Quota] = {}
    simple: dict[str, _Quota] = {}
    windows: list[tuple[float, float]] = []
    for name, text in fields.items():
        if name in ("ratelimit", "x-ratelimit"):
            _read_current(text, named, simple, wall)
        elif name.endswith("ratelimit-policy"):
            _read_policies(text, named, windows)
        elif (match := _PLAIN.fullmatch(name)) is not None:
            _read_simple(simple, match[2] or "", match[1], text, wall)
            if match[1] == "limit" and not match[2]:
                windows += _windows(_items(text))
        elif (match := _ANTHROPIC.fullmatch(name)) is not None:
            _read_simple(simple, match[1], match[2], text, wall)
    yield from named.values()
    # Drafts before -07 list all policies; the limit in force is one of them, by its number.
    inforce = simple.get("", _Quota())
    for limit, window in windows:
        if limit == inforce.limit and inforce.window is None:
            inforce.window = window
        elif limit != inforce.limit:
            yield _Quota(limit=limit, window=window)
    yield from simple.values()


def _read_simple(
    simple: dict[str, _Quota], scope: str, field: str, text: str, wall: float | None
) -> None:
    scope = "" if scope == "after" else scope
    quota = simple.setdefault(
        scope, _Quota(requests=scope in _REQUESTS, window=_SCOPE_WINDOWS.get(scope))
    )
    if field == "reset":
        quota.reset = parse_reset(text, now_wall=wall)
    elif field == "remaining":
        quota.left = plain_number(text)
    else:
        quota.limit = plain_number(text.partition(",")[0].partition(";")[0].strip(" \t"))


def _read_current(
    text: str, named: dict[str, _Quota], simple: dict[str, _Quota], wall: float | None
) -> None:
    """Read the `RateLimit` field, in the form of draft -08 or -07."""
    for item, parameters in _items(text):
        for part in (item, *(f"{key}={value}" for key, value in parameters.items())):
            key, equals, value = part.partition("=")
            if equals and key in ("limit", "remaining", "reset"):
                _read_simple(simple, "", key, value, wall)
        if "r" in parameters or "t" in parameters:
            quota = named.setdefault(item, _Quota())
            quota.left = plain_number(parameters.get("r", ""))
            quota.reset = parse_reset(parameters.get("t", ""))


def _read_policies(text: str, named: dict[str, _Quota], windows: list[tuple[float, float]]) -> None:
    """Read the `RateLimit-Policy` field, in the form of draft -08 or of those before."""
    items = _items(text)
    for item, parameters in items:
        if "q" in parameters:
            quota = named.setdefault(item, _Quota())
            quota.limit = plain_number(parameters["q"])
            quota.window = _above_zero(parameters.get("w", ""))
            quota.requests = parameters.get("qu", "requests") == "requests"
    windows += _windows(items)


def _windows(items: list[tuple[str, dict[str, str]]]) -> list[tuple[float, float]]:
    """Return (limit, window) of the items like `100;w=60`."""
    found = []
    for item, parameters in items:
        limit, window = _above_zero(item), _above_zero(parameters.get("w", ""))
        if limit is not None and window is not None:
            found.append((limit, window))
    return found


def _items(text: str) -> list[tuple[str, dict[str, str]]]:
    """Return the items of a structured list (RFC 9651) with their parameters, unquoted.

    Not a validator: what is malformed yields less, or nothing.
    """
    found: list[tuple[str, dict[str, str]]] = []
    item, parameters, depth = "", dict[str, str](), 0
    for piece in [*_PIECES.findall(text), ","]:
        if piece == ",":
            if item:
                found.append((item, parameters))
            if len(found) == _MOST_ITEMS:
                break
            item, parameters, depth = "", {}, 0
        elif piece == ";":
            depth += 1
        elif not depth:
            item += piece.strip(' \t"')
        elif "=" in piece:
            key, _, value = piece.strip(" \t").partition("=")
            parameters[key.lower()] = value
        elif piece.startswith('"') and parameters:  # the quoted value of the key just read
            key = next(reversed(parameters))
            parameters[key] = parameters[key] or piece[1:-1]
    return found


# -- values ------------------------------------------------------------------------------


def _above_zero(text: str) -> float | None:
    number = plain_number(text)
    return number if number is not None and 0.0 < number < math.inf else None


def _span(text: str) -> float | None:
    """Return the seconds of a span as Go writes it: "6m0s", "1h2m3.5s", "350ms"."""
    seconds, at = 0.0, 0
    while at < len(text):
        part = _SPAN_PART.match(text, at)
        if part is None:
            return None
        seconds += float(part[1]) * _SPAN_UNITS[part[2]]
        at = part.end()
    return seconds if text else None


def _time(text: str) -> float | None:
    """Return seconds since the epoch for an RFC 3339 or an HTTP date, or None."""
    if len(text) > 64 or not text.isascii():
        return None
    day, mark, rest = text[:10], text[10:11], text[11:]
    if mark not in ("T", "t", " ") or day[4:5] != "-" or day[7:8] != "-":
        return parse_http_date(text)
    days = days_since_epoch(digits(day[:4], 4, 4), digits(day[5:7], 2, 2), digits(day[8:], 2, 2))
    time, zone = rest[:8], rest[8:]
    if zone[:1] == ".":
        zone = zone[1:].lstrip("0123456789")  # parts of a second change nothing
    seconds = seconds_of_day(time)
    offset = 0 if zone in ("Z", "z") else _east(zone)
    if days is None or seconds is None or offset is None:
        return None
    return float(days * 86400 + seconds - offset)


def _east(zone: str) -> int | None:
    return zone_offset(zone.replace(":", "", 1)) if zone[:1] in ("+", "-") else None
