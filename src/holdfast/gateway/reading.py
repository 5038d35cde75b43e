"""What a client sends, cut into requests: a head, and its body in pieces.

A body is read whole before anything is done, up to `WHOLE`: then it can be sent again, and its
length is known. A larger one is given on as it comes.

What is refused is refused as soon as it is sure, before any of the body is asked for. A client
that sends too slowly is told apart from one that is waited for: only the time in which we were
ready to read counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.gateway.headers import is_loop
from holdfast.wire.requests import Heads, RequestHead, parse_head
from holdfast.wire.strict import BadMessage, Chunks

if TYPE_CHECKING:
    from holdfast.gateway.cluster import Cluster

WHOLE = 1024 * 1024
"""Bytes of a body that is read before anything is done."""
GATHERED = 4096
"""Bytes up to which small pieces of a body are put together: each has some 50 bytes of its own."""
RATE_AFTER = 1 / 3
"""Of `body_timeout`: so long a body may come as slowly as it likes."""


class Reader:
    """Cuts the bytes of one connection into requests.

    head: of the request that is being read; None before it is there.
    judged: the same, also while it is decided whether it is served at all.
    ahead: what has come and was not read yet.  size: bytes of the body that have come.
    """

    __slots__ = (
        "_began",
        "_chunks",
        "_heads",
        "_left",
        "_pieces",
        "ahead",
        "head",
        "judged",
        "size",
    )

    def __init__(self, head_max: int) -> None:
        self._heads = Heads(head_max)
        self._chunks: Chunks | None = None
        self._left = 0
        self._pieces: list[bytes] = []
        self._began = 0.0
        self.ahead = bytearray()
        self.head: RequestHead | None = None
        self.judged: RequestHead | None = None
        self.size = 0

    @property
    def is_within(self) -> bool:
        """Whether a request has begun to come, and has not come whole."""
        return self.head is not None or bool(self.ahead)

    def take_head(self, cluster: Cluster) -> RequestHead | None:
        """Read a head, if it is there. Raises BadMessage for one that is refused."""
        heads = self._heads
        heads.limit = cluster.config.head_max
        self.judged = None
        raw = heads.take(self.ahead)
        if raw is None:
            return None
        self.judged = head = parse_head(raw)
        check(head, cluster)
        if head.length is None:
            self._chunks = Chunks(cluster.config.body_max)
        else:
            self._left = head.length
        self.head = head
        return head

    def take_body(self) -> bool:
        """Read what there is of the body; True when it is whole. Raises BadMessage."""
        ahead = self.ahead
        chunks = self._chunks
        if chunks is not None:
            content: list[bytes] = []
            taken = chunks.feed(bytes(ahead), content)
            del ahead[:taken]
            if content:
                self._add(content[0] if len(content) == 1 else b"".join(content))
            return chunks.done
        left = self._left
        if not left:
            return True
        if ahead:
            piece = bytes(ahead[:left])
            del ahead[:left]
            self._add(piece)
            self._left = left = left - len(piece)
        return not left

    def _add(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self.size += len(piece)
        gather(self._pieces, len(self._pieces))

    def pieces(self) -> list[bytes]:
        """Return what was read of the body, once."""
        found, self._pieces = self._pieces, []
        return found

    def ended(self) -> None:
        """Begin with the next request."""
        self.head = self.judged = self._chunks = None
        self.size = self._left = 0
        self._pieces = []

    @property
    def is_large(self) -> bool:
        """Whether the body is not to be read whole."""
        return self.known > WHOLE

    @property
    def known(self) -> int:
        """Bytes of the body that have come or were announced."""
        return self.size + self._left

    @property
    def expects(self) -> bool:
        """Whether the client waits to be told that it may send the body."""
        head = self.head
        if head is None or not head.expect or not head.minor or self.ahead:
            return False
        return bool(self._left) or self._chunks is not None

    def begin_clock(self, now: float) -> None:
        """Begin to measure how fast the body comes."""
        self._began = now

    def put_off(self, seconds: float) -> None:
        """Leave out so many seconds, in which we did not read."""
        self._began += seconds

    def is_too_slow(self, now: float, cluster: Cluster) -> bool:
        """Say whether the body comes too slowly."""
        seconds = now - self._began
        if seconds < RATE_AFTER * cluster.config.body_timeout:
            return False
        return self.size < cluster.config.body_min_rate * seconds


def gather(pieces: list[bytes], end: int, start: int = 0) -> int:
    """Put the last small pieces from `start` to `end` together; return where that ends then.

    A piece is put to the one before it while that is no longer: so of n bytes that come one by
    one no more than log n pieces below `GATHERED` are left, and each byte is moved log n times.
    """
    while end - start > 1 and len(pieces[end - 2]) <= len(pieces[end - 1]) < GATHERED:
        pieces[end - 2 : end] = [pieces[end - 2] + pieces[end - 1]]
        end -= 1
    return end


def check(head: RequestHead, cluster: Cluster) -> None:
    """Refuse what no endpoint is asked. Raises BadMessage."""
    if head.length is not None and head.length > cluster.config.body_max:
        raise BadMessage(413, "the body is too large")
    if head.method in {b"CONNECT", b"TRACE"}:
        raise BadMessage(405, "the method is not served here")
    if head.expect == "other":
        raise BadMessage(417, "that expectation cannot be met")
    if b"websocket" in head.upgrade or (head.upgrade and head.length != 0):
        raise BadMessage(501, "a switch of protocols is not supported")
    if cluster.via and is_loop(head, cluster.via):
        raise BadMessage(508, "the request has been here before")
    if cluster.tokens:
        if not cluster.is_page(head) and not cluster.tokens.admits(head):
            raise BadMessage(401, "a valid token is needed")
    elif head.origin is not None and not (cluster.is_page(head) or cluster.knows(head.origin)):
        # A browser on this machine asks for whatever site it shows: with our keys.
        raise BadMessage(403, "that site is not one of `hosts`, and there are no tokens")
