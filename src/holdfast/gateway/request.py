"""One request: what is known of it, and what has been done for it so far.

Whoever works for a request reads it here and notes here what he did, so that the client, the
ledger and the log are all told the same.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Protocol

from holdfast.gateway.errors import Tried
from holdfast.gateway.headers import wants_events
from holdfast.gateway.search import Search

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.core.balance import Endpoint, Pick
    from holdfast.core.verdict import Sent
    from holdfast.gateway.client import Client
    from holdfast.gateway.cluster import Cluster
    from holdfast.gateway.forms import Form
    from holdfast.gateway.upload import Upload
    from holdfast.wire.requests import RequestHead

_STREAM = re.compile(rb'"stream"\s*:\s*true')


class Record(Protocol):
    """What the log wants to know of a request that is over."""

    @property
    def id(self) -> str:
        """Its name, in answers, errors and the log."""

    @property
    def client(self) -> Client:
        """Who asked."""

    @property
    def head(self) -> RequestHead:
        """What was asked."""

    @property
    def size(self) -> int:
        """Bytes of the body, as far as it has come."""

    @property
    def status(self) -> int:
        """Of the answer that the client was given; 0 for none."""

    @property
    def began(self) -> float:
        """When it had come, monotonic."""

    @property
    def given_at(self) -> float:
        """When the client got the first part of an answer that was passed on as it came, or NaN."""

    @property
    def pick(self) -> Pick | None:
        """Which endpoint was asked last, and where it stood then."""

    @property
    def sent_at(self) -> float:
        """When that was asked."""

    @property
    def attempts(self) -> int:
        """How many there were."""

    @property
    def told(self) -> Sequence[Tried]:
        """Those that came to nothing."""


class Request:
    """One request of a client: a `Record`, and what it takes to answer it.

    body: all of it; or upload: a large one, which is still coming.
    profile: the API that it speaks.  repeatable: it may be sent twice.
    stream: its client wants the answer as it comes.
    deadline: when its whole time is over, monotonic; a stream that has begun gets another one.
    was_stale: it was sent on a kept connection that was dead; that is made up for once.
    """

    __slots__ = (
        "_blamed",
        "attempts",
        "began",
        "body",
        "client",
        "cluster",
        "deadline",
        "given_at",
        "head",
        "number",
        "pick",
        "profile",
        "repeatable",
        "sent_at",
        "status",
        "stream",
        "told",
        "upload",
        "was_stale",
    )

    def __init__(
        self,
        cluster: Cluster,
        client: Client,
        form: Form,
        body: bytes,
        now: float,
        *,
        number: int,
        stream: bool = False,
        upload: Upload | None = None,
    ) -> None:
        self.cluster = cluster
        self.client = client
        self.head = form.head
        self.profile = form.profile
        self.repeatable = form.repeatable
        self.deadline = now + form.total
        self.body = body
        self.upload = upload
        self.number = number
        self.stream = stream
        self.began = self.sent_at = now
        self.given_at = math.nan
        self.pick: Pick | None = None
        self.attempts = self.status = 0
        self.told: tuple[Tried, ...] = ()
        self.was_stale = False
        self._blamed: tuple[str, ...] = ()  # ids, which outlive a reload

    @property
    def id(self) -> str:
        """Its name, in answers, errors and the log."""
        return name_of(self.client, self.number)

    @property
    def size(self) -> int:
        """Bytes of its body, as far as it has come."""
        return len(self.body) if self.upload is None else self.upload.size

    @property
    def is_intact(self) -> bool:
        """Whether all of its body is there to be sent, again or for the first time."""
        return self.upload is None or self.upload.intact

    @property
    def endpoint_id(self) -> str:
        """The endpoint that is asked, or was asked last."""
        return self.pick.endpoint.id if self.pick is not None else ""

    def use_latest(self) -> Cluster | None:
        """Go on by the configuration that holds now, and return it; None: that is its own.

        For who would wait in line: by its own it would wait for places that there are no longer,
        or pass by those that are new, and all who have come since would wait behind it.
        """
        latest = self.cluster.turns.cluster
        if latest is self.cluster:
            return None
        self.cluster = latest
        return latest

    def search(self) -> Search:
        """Return its way from endpoint to endpoint, as far as it has got."""
        cluster = self.cluster
        return Search(
            cluster.balancer,
            cluster.retries,
            cluster.bounds,
            repeatable=self.repeatable,
            deadline=self.deadline,
            begun=self.attempts,
        )

    def ask(self, pick: Pick, now: float) -> None:
        """Note that another attempt begins."""
        self.attempts += 1
        self.pick = pick
        self.sent_at = now

    def tell(self, verdict: str, sent: Sent, now: float, status: int = 0) -> None:
        """Note that the attempt under way has come to nothing, and why."""
        ms = round((now - self.sent_at) * 1000)
        self.told = (*self.told, Tried(self.endpoint_id, verdict, sent.value, ms, status))

    def blame(self, endpoint: Endpoint) -> bool:
        """Say whether a failure counts against an endpoint: the first of each request does."""
        if endpoint.id in self._blamed:
            return False
        self._blamed = (*self._blamed, endpoint.id)
        return True


def name_of(client: Client, number: int) -> str:
    """Return the name of a client's request. number: how many requests there were before it."""
    return f"{client.serial.decode()}-{number:x}"


def wants_stream(form: Form, body: bytes) -> bool:
    """Say whether a request asks for its answer as it comes, by its head or by its body."""
    asks = form.profile != "generic" and _STREAM.search(body) is not None
    return asks or wants_events(form.head)
