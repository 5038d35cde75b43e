"""The one vocabulary of events. All telemetry is a subscriber of these.

Every event is frozen and carries `time` (monotonic seconds of the seam), `policy`, `key`
and `call_id`; labels are bounded, and no event holds a URL, a body or an exception.
Events of a surface (downloads, streams, ...) say in `policy` which surface they are from.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What all events have.

    time: monotonic seconds.  policy: its name.  key: the key of the state concerned.
    call_id: number of the logical call within the process; 0 where there is none.
    """

    time: float
    policy: str = ""
    key: str = ""
    call_id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt(Event):
    """One attempt ended.

    no: from 1.  kind: "ok" or the verdict's kind in lower case.  sent: "no", "maybe", "yes".
    seconds: its duration.  reused: it went out on a kept-alive connection.
    reason: the verdict's reason; empty for a success.
    hedge: which copy of a hedged attempt; 0 is the first. One that lost is "cancelled".
    """

    no: int
    kind: str
    sent: str = "yes"
    seconds: float
    reused: bool = False
    reason: str = ""
    hedge: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hedged(Event):
    """A slow attempt is sent once more. no: of the attempt; hedge: which copy, from 1.

    after: seconds since the attempt began.  budget_left: hedges that can still be paid.
    """

    no: int
    hedge: int
    after: float
    budget_left: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Waited(Event):
    """A wait begins. seconds: how long; why: "backoff", "retry_after", "bulkhead", "rate_limit".

    next_at: monotonic time of the next step.  budget_left: tokens, or None without a budget.
    """

    seconds: float
    why: str
    next_at: float
    budget_left: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GaveUp(Event):
    """A logical call ended without success.

    reason: one of attempts, permanent, not_idempotent, body_not_replayable, budget, deadline,
    retry_after_too_long, rejected, committed, nested.
    """

    reason: str
    attempts: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Event):
    """A strategy refused a call before I/O. kind: the class name of the refusal."""

    kind: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitOpened(Event):
    """The breaker opened. gen: its generation; until: monotonic time of the next probe."""

    gen: int
    why: str
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitHalfOpened(Event):
    """The breaker lets probes pass. until: when the leases of the first probes end."""

    gen: int
    why: str
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitClosed(Event):
    """The breaker closed, or was reset. until: infinity, as nothing is scheduled."""

    gen: int
    why: str
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitChanged(Event):
    """A limit that follows the backend is another now.

    what: "concurrency" (calls at once) or "rate" (per second).  before: what it was, or None
    if there was none.  limit: what it is.  why: in words, from a fixed set.
    """

    what: str
    before: float | None
    limit: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointState(Event):
    """What is known of an endpoint changed. key: the host, with its port for a service.

    state: "lost" or "up" of a service that is used; "held": it asked that no request be sent
    before `until`; "limited": it is given another number of connections. Of a gateway, where the
    key is the endpoint's id: "healthy", "degraded", "unhealthy", "circuit_open", "cooling" or
    "disabled"; "key_out": one of its keys rests for long.
    reason: why, from a fixed set.  limit: connections at once, or None.
    until: monotonic time, or None.
    """

    state: str
    reason: str = ""
    limit: int | None = None
    until: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TierChanged(Event):
    """The best that a gateway's endpoints have to offer is another now.

    before, tier: "healthy", "degraded", "unhealthy" or "circuit_open", the better first.
    """

    before: str
    tier: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert(Event):
    """Something a person should know. One when it starts, one (`cleared`) when it ends."""

    name: str
    text: str
    cleared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Unclassified(Event):
    """An exception type that no table knows, once per type. type: its qualified name."""

    type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorChosen(Event):
    """A transfer turned to another address of its object. key: the host.

    no: which of its addresses, 0 is the first.  how: "home", its bytes are those at hand;
    "join", an equal ETag vouches; "borrow", a digest does; "fresh", it begins anew.
    """

    no: int
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeAccepted(Event):
    """A transfer continues. rung: which validator vouches for it; offset: bytes kept."""

    rung: str
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeDeclined(Event):
    """A transfer starts over. reason: why the bytes on disk may not be used."""

    reason: str
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(Event):
    """How far a transfer is. bytes: safely on disk; size: total or None; rate: bytes/s."""

    bytes: int
    size: int | None = None
    rate: float = 0.0
    eta: float | None = None
