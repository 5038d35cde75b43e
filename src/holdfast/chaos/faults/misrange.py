"""Wrong answers to range requests, as found on real servers and caches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from holdfast.chaos.fault import HttpFault
from holdfast.chaos.line import Plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.chaos.fault import HttpTarget
    from holdfast.chaos.message import Answer

_BOUNDARY: Final = "holdfast-part"


@dataclass(frozen=True, slots=True)
class Misrange(HttpFault):
    """Spoil a 206; other answers are left alone.

    how: "shifted"    other bytes than asked, and Content-Range says so
         "lying"      other bytes than asked, and Content-Range says what was asked
         "unnamed"    206 without Content-Range
         "whole"      200 and the whole object
         "200"        the right part and its Content-Range, under status 200
         "multipart"  multipart/byteranges for a single range
         "total"      Content-Range claims another total size
    """

    how: Literal["shifted", "lying", "unnamed", "whole", "200", "multipart", "total"] = "shifted"

    def __post_init__(self) -> None:
        """Check the ranges."""
        HttpFault.__post_init__(self)
        if self.how not in _WAYS:
            raise ValueError(f"Misrange: how: {self.how!r} is none of {', '.join(_WAYS)}")

    def alter(self, on: HttpTarget) -> None:
        """Change the answer."""
        if on.answer.status == 206:
            _WAYS[self.how](on.answer)


def _shift(answer: Answer) -> None:
    """Send the part one byte earlier; from byte 0, one byte less at the end."""
    stop = answer.end
    answer.start, answer.stop = max(0, answer.start - 1), stop - 1


def _shifted(answer: Answer) -> None:
    _shift(answer)
    answer.headers["Content-Range"] = _content_range(answer)


def _unnamed(answer: Answer) -> None:
    del answer.headers["Content-Range"]


def _whole(answer: Answer) -> None:
    _unnamed(answer)
    answer.status, answer.start, answer.stop = 200, 0, len(answer.body)


def _plain_200(answer: Answer) -> None:
    answer.status = 200


def _multipart(answer: Answer) -> None:
    kind = answer.headers.get("Content-Type", "application/octet-stream")
    part = b"".join(answer.body.pieces(answer.start, answer.end))
    head = f"--{_BOUNDARY}\r\nContent-Type: {kind}\r\nContent-Range: {_content_range(answer)}"
    body = f"{head}\r\n\r\n".encode() + part + f"\r\n--{_BOUNDARY}--\r\n".encode()
    answer.body, answer.start, answer.stop = Plain(body), 0, None
    _unnamed(answer)
    answer.headers["Content-Type"] = f"multipart/byteranges; boundary={_BOUNDARY}"


def _total(answer: Answer) -> None:
    named, _, total = answer.headers["Content-Range"].rpartition("/")
    answer.headers["Content-Range"] = f"{named}/{int(total) + 1}"


def _content_range(answer: Answer) -> str:
    return f"bytes {answer.start}-{answer.end - 1}/{len(answer.body)}"


_WAYS: Final[dict[str, Callable[[Answer], None]]] = {
    "shifted": _shifted,
    "lying": _shift,
    "unnamed": _unnamed,
    "whole": _whole,
    "200": _plain_200,
    "multipart": _multipart,
    "total": _total,
}
