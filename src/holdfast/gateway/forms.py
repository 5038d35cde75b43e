"""Heads of requests that recur: read and judged once, then known by their bytes.

A program that calls an API says the same in each of its heads, but for the length of the body.
So a head is read by the strict parser once, with all that follows from it: the API that it
speaks, whether it may be sent twice, how it goes on to each endpoint. The next one with the same
bytes, its length apart, has been read already.

Safe, because only what the parser and every rule has let pass is kept, and what is looked up is
equal to it in each byte but the digits of one length, which are read anew. Bounded: `MOST` heads
of up to `LARGEST` bytes. A program that puts an id of its own into each head gains nothing here,
so after `MOST` heads that nobody sent again none is kept for a while.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.gateway.headers import BODYLESS, NOBODY, request_head, wants_events
from holdfast.gateway.reading import WHOLE, check
from holdfast.wire.requests import parse_head
from holdfast.wire.strict import BadMessage

if TYPE_CHECKING:
    from holdfast.gateway.cluster import Cluster
    from holdfast.gateway.headers import Route
    from holdfast.wire.requests import RequestHead

MOST = 256
LARGEST = 4096
PAUSE = 4096
"""Heads that are not looked at after so many were kept in vain."""

_FIELD = b"\r\nContent-Length: "
_FIELD_LOWER = b"\r\ncontent-length: "
_LENGTH = len(_FIELD)
_DIGITS = 18


class Form:
    """One such head. head: as it was read; its length is that of the first one.

    profile: the API that it speaks.  repeatable: it may be sent twice.  total: seconds it has.
    routes: how it goes on, up to the length of its body.
    """

    __slots__ = ("head", "profile", "repeatable", "routes", "total")

    def __init__(self, head: RequestHead, cluster: Cluster) -> None:
        self.head = head
        self.profile = cluster.profile_of(head.target)
        self.repeatable = cluster.is_repeatable(head)
        self.total = cluster.total(head)
        self.routes: dict[Route, bytes] = {}

    def head_for(self, route: Route, via: bytes) -> bytes:
        """Return the head that goes to an endpoint, without the digits of its length."""
        found = self.routes.get(route)
        if found is None:
            whole = request_head(self.head, route, NOBODY, length=1, via=via)
            found = self.routes[route] = whole.removesuffix(b"1\r\n\r\n")
        return found


class Forms:
    """The heads that are known to one cluster."""

    __slots__ = ("_cluster", "_forms", "_hits", "_pause")

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._forms: dict[bytes, Form | None] = {}
        self._hits = self._pause = 0

    @property
    def known(self) -> int:
        """How many heads are kept."""
        return len(self._forms)

    def find(self, data: bytes, end: int) -> tuple[Form, int] | None:
        """Return the form of the head that `data` begins with, and the length of its body.

        end: of the head, which is there whole.  None: the long way is the right one.
        """
        at = data.find(_FIELD, 0, end)
        if at < 0:
            at = data.find(_FIELD_LOWER, 0, end)
            if at < 0:
                return None
        stop = data.find(b"\r\n", at + _LENGTH)
        digits = data[at + _LENGTH : stop]
        if not digits.isdigit() or len(digits) > _DIGITS or end > LARGEST:
            return None
        key = data[:at] + data[stop:end]
        form = self._forms.get(key)
        if form is None:
            form = self._learn(key, data[:end])
            if form is None:
                return None
        self._hits += 1
        return form, int(digits)

    def _learn(self, key: bytes, raw: bytes) -> Form | None:
        if self._pause:
            self._pause -= 1
            return None
        if key in self._forms:
            return None  # it is known not to be one of those
        if len(self._forms) >= MOST:
            self._forms.clear()
            if self._hits < MOST:
                self._pause = PAUSE
            self._hits = 0
            return None
        self._forms[key] = form = self._read(raw)
        self._hits -= form is not None
        return form

    def _read(self, raw: bytes) -> Form | None:
        cluster = self._cluster
        try:
            head = parse_head(raw)
            check(head, cluster)
        except BadMessage:
            return None  # it is refused where all are read
        plain = head.minor and head.keeps_alive and not head.expect and not head.upgrade
        if not plain or head.method in BODYLESS or wants_events(head) or cluster.is_local(head):
            return None
        config = cluster.config
        if config.forwarded or len(raw) > config.head_max - _DIGITS or config.body_max < WHOLE:
            return None
        return Form(head, cluster)
