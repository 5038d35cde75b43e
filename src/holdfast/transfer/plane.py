"""How bytes move: the interface between what decides (above) and what reads sockets (below).

A data plane does one exchange: it connects, sends one GET, shows the head to the sink, and
hands it the body as far as the sink wants it. It follows no redirect, repeats nothing and
judges nothing; it reports. So a plane can be exchanged (threads, asyncio, libcurl) and
everything that could make a wrong file stays in one place.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from holdfast.wire.addresses import Reach

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from holdfast.core.verdict import Verdict
    from holdfast.wire.cancel import Cancel
    from holdfast.wire.http1 import Head
    from holdfast.wire.urls import Url


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds without which no transfer can be told from a dead one.

    connect: for all addresses and the TLS handshake together.
    first_byte: from the request to the end of the answer's head.
    idle: of silence inside the body; the stall limit.
    """

    connect: float = 10.0
    first_byte: float = 30.0
    idle: float = 15.0

    def __post_init__(self) -> None:
        for name in ("connect", "first_byte", "idle"):
            value = getattr(self, name)
            if not 0 < value <= 3600:
                raise ValueError(f"`{name}`: {value}: it must be above 0 and at most 3600 seconds")


@dataclass(frozen=True, slots=True)
class Request:
    """One GET.

    headers: added to those that every request has.  reach: which addresses it may go to.
    """

    url: Url
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeouts: Timeouts = field(default_factory=Timeouts)
    reach: Reach = Reach.TYPED


@dataclass(frozen=True, slots=True)
class Take:
    """The sink wants the body, up to `limit` bytes; None: all of it.

    most: asked again before each read, in place of `limit`, by a sink that changes its mind
    while the body comes.  piece: bytes that one write may have at most.
    """

    limit: int | None = None
    most: Callable[[], int] | None = None
    piece: int | None = None

    def now(self) -> int | None:
        """Return how many bytes of the body are wanted, as things stand."""
        return self.limit if self.most is None else self.most()


class Sink(Protocol):
    """What takes the bytes. Whatever it raises ends the exchange and passes through."""

    def accept(self, head: Head) -> Take | None:
        """Look at the head; None leaves the body unread."""
        ...

    def write(self, data: memoryview) -> None:
        """Take the next bytes of the body; the buffer is reused after the call."""

    def lull(self) -> None:
        """Note that nothing comes, for up to half a second: a moment to make safe what has."""


class End(enum.StrEnum):
    """How an exchange ended.

    COMPLETE  the body came to its framed end
    UNFRAMED  the connection ended a body that has no other end (RFC 9112, 6.3 rule 8)
    LIMIT     the sink's limit was reached before the body's end
    UNREAD    the sink did not want the body
    BROKEN    connection, answer or body failed; `fault` says how
    """

    COMPLETE = "complete"
    UNFRAMED = "unframed"
    LIMIT = "limit"
    UNREAD = "unread"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Received:
    """What came of one exchange.

    head: None if no answer came.  taken: bytes given to the sink.
    fault: set if and only if `end` is BROKEN.  text: the fault for people, at most 500 bytes.
    peer: the IP address that answered; empty if a proxy asked it for us.
    """

    end: End
    head: Head | None = None
    taken: int = 0
    fault: Verdict | None = None
    text: str = ""
    peer: str = ""


class Plane(Protocol):
    """A data plane that blocks its thread."""

    def fetch(self, request: Request, sink: Sink, cancel: Cancel) -> Received:
        """Do one exchange; return within about a second once `cancel` is set.

        Network failures are returned, not raised; what `sink` raises passes through.
        """
        ...
