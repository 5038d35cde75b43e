"""What happened to one attempt: the only thing that decisions are made from.

A `Verdict` is data. It is built once per failed attempt, from types, errno, status and
provider codes (see `tables`), never from the text of a message.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Kind(enum.Flag):
    """The class of a failure. Kinds combine with `|` for `on=`.

    CONNECT      no connection came up; nothing was sent
    TRANSIENT    broke on the way or inside the server; likely to pass
    THROTTLED    the server asks for less load (429, 529, 503 with Retry-After)
    CONCURRENCY  too many at once, here or there (Kling 1303, EMFILE, 423)
    TIMEOUT      no answer in time
    AUTH         credentials are missing, wrong or expired
    PERMANENT    the same request will fail the same way
    CANCELLED    somebody asked for it to end
    UNKNOWN      not classified; said once per type by an `Unclassified` event
    """

    CONNECT = enum.auto()
    TRANSIENT = enum.auto()
    THROTTLED = enum.auto()
    CONCURRENCY = enum.auto()
    TIMEOUT = enum.auto()
    AUTH = enum.auto()
    PERMANENT = enum.auto()
    CANCELLED = enum.auto()
    UNKNOWN = enum.auto()


CONNECT = Kind.CONNECT
TRANSIENT = Kind.TRANSIENT
THROTTLED = Kind.THROTTLED
CONCURRENCY = Kind.CONCURRENCY
TIMEOUT = Kind.TIMEOUT
AUTH = Kind.AUTH
PERMANENT = Kind.PERMANENT
CANCELLED = Kind.CANCELLED
UNKNOWN = Kind.UNKNOWN


class Sent(enum.StrEnum):
    """Whether the request may have reached the server.

    NO until the connection (TLS included) is up, MAYBE from the first request byte
    to the status line, YES after it.
    """

    NO = "no"
    MAYBE = "maybe"
    YES = "yes"


class Hint(enum.StrEnum):
    """Which rule a server's `retry_after` follows.

    HTTP: at least the hint, at most six hours, with up to 10 % of jitter on top.
    AWS: `max(t, min(hint, t + 5))`, where t is the backoff (x-amz-retry-after).
    """

    HTTP = "http"
    AWS = "aws"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The classified failure of one attempt.

    kind: exactly one member of `Kind`.
    sent: whether the request may have been executed.
    reason: short stable word for logs and metrics ("ECONNRESET", "http 503", "kling 1303").
    retry_after: seconds the server asked to wait, or None.
    local: the cause is on this machine (EMFILE, ENOSPC): says nothing of the backend.
    evidence: which table row decided ("errno", "status", "type httpx.ReadError", ...).
    not_executed: the answer itself says that nothing was done (408, 421, 425, 429).
    max_retries: at most this many repeats for this cause, or None for the policy's own limit.
    hint: the rule for `retry_after`.
    """

    kind: Kind
    sent: Sent = Sent.MAYBE
    reason: str = ""
    retry_after: float | None = None
    local: bool = False
    evidence: str = ""
    not_executed: bool = False
    max_retries: int | None = None
    hint: Hint = Hint.HTTP
