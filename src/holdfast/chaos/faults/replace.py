"""The object changes while somebody is fetching it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.chaos.fault import HttpFault, check
from holdfast.chaos.routes import Object

if TYPE_CHECKING:
    from holdfast.chaos.fault import HttpTarget
    from holdfast.chaos.line import Line


@dataclass(frozen=True, slots=True, kw_only=True)
class Replace(HttpFault):
    """Put in the next version of the object: new bytes, new ETag, new Last-Modified.

    after_bytes: so many bytes of the object are served first, over all answers together and
    counted from the request that is hit. 0: that request gets the new version already.
    size: of the new version; None keeps it.  limit: once by default.
    Answers under way go on with the old version, as a server with the old file open does.
    Only for `Object` routes: give it to the route.
    """

    after_bytes: int = 0
    size: int | None = None
    limit: int | None = 1

    def __post_init__(self) -> None:
        """Check the ranges."""
        HttpFault.__post_init__(self)
        check(self, "after_bytes", low=0)
        check(self, "size", low=0)

    @property
    def strikes_later(self) -> bool:
        """It is counted when the object is replaced."""
        return self.after_bytes > 0

    def prepare(self, on: HttpTarget) -> None:
        """Replace now, or when enough bytes have gone out."""
        found = on.route
        if not isinstance(found, Object):
            return

        number = on.number

        async def strike(_: Line) -> None:
            found.replace(self.size)
            on.tell(self, self.after_bytes, number)

        if self.after_bytes:
            found.track.at(self.after_bytes, strike)
        else:
            found.replace(self.size)
