"""Conditional and range requests: which part of an object to send, if any. Pure.

The order of evaluation is RFC 9110, section 13.2.2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_ONE_RANGE: Final = re.compile(r"bytes=[ \t]*(\d*)-(\d*)[ \t]*")


@dataclass(frozen=True, slots=True)
class Selected:
    """What to send. status: 200, 206, 304, 412 or 416; start, stop: of the bytes sent."""

    status: int
    start: int = 0
    stop: int = 0


def select(
    headers: Mapping[str, str], size: int, *, etag: str, modified: str, ranges: bool = True
) -> Selected:
    """Return what an object of `size` bytes answers to a GET with these headers.

    headers: names in lower case.  etag: with its quotes, `W/` if weak; "" if there is none.
    modified: the Last-Modified field; "" if there is none.  ranges: whether Range is honoured.
    """
    if "if-match" in headers:
        if not _in_list(headers["if-match"], etag, strong=True):
            return Selected(412)
    elif "if-unmodified-since" in headers and headers["if-unmodified-since"] != modified:
        return Selected(412)
    if "if-none-match" in headers:
        if _in_list(headers["if-none-match"], etag, strong=False):
            return Selected(304)
    elif "if-modified-since" in headers and headers["if-modified-since"] == modified:
        return Selected(304)
    wanted = headers.get("range") if ranges else None
    if wanted is None or not _still_same(headers.get("if-range"), etag, modified):
        return Selected(200, 0, size)
    return _ranged(wanted, size)


def _still_same(if_range: str | None, etag: str, modified: str) -> bool:
    if if_range is None:
        return True
    if if_range.startswith('"'):
        return if_range == etag
    # A weak ETag never matches here (RFC 9110, 13.1.5); a date must be equal, not newer.
    return bool(modified) and if_range == modified


def _ranged(wanted: str, size: int) -> Selected:
    found = _ONE_RANGE.fullmatch(wanted)
    if found is None or found[0].endswith("=-"):
        return Selected(200, 0, size)  # several ranges, or none that we know: ignored
    first, last = found[1], found[2]
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return Selected(200, 0, size)  # invalid, hence ignored (RFC 9110, 14.1.1)
    if start >= size or start >= stop:
        return Selected(416)
    return Selected(206, start, stop)


def _in_list(field: str, etag: str, *, strong: bool) -> bool:
    if field.strip() == "*":
        return True
    if not etag or (strong and etag.startswith("W/")):
        return False
    plain = etag.removeprefix("W/")
    listed = [item.strip() for item in field.split(",")]
    return plain in [item if strong else item.removeprefix("W/") for item in listed]
