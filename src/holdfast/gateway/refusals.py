"""What an answer that refuses means: whether another endpoint is asked, and whose fault it is.

status        asked elsewhere  counts as a failure  cools down
408           yes              no                   nobody
421, 425      yes              no                   nobody
429           yes              no                   the key
500, 502-504  yes              yes                  503 with Retry-After: the endpoint instead
520-524       yes              yes                  nobody
529           yes              no                   the endpoint
401, 403      with a key of ours  no                the key, for 10 minutes
others        no: they say something about the request, and the client is told
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from holdfast.core.breaker import Result

KEY_OUT_SECONDS = 600.0
"""How long a key rests that an endpoint refused."""


class Cools(enum.Enum):
    """Who is left alone for a while."""

    NOBODY = "nobody"
    KEY = "key"
    KEY_LONG = "key, long"
    ENDPOINT = "endpoint"


class Refusal(NamedTuple):
    """What a refusal means.

    result: for the endpoint's health.  safe: the request was not executed, so that any may be
    sent again.
    """

    result: Result
    cools: Cools = Cools.NOBODY
    safe: bool = False


_FAILED = Refusal(Result.FAILED)
_ELSEWHERE = Refusal(Result.NEUTRAL)
_NOT_EXECUTED = Refusal(Result.NEUTRAL, safe=True)
_COME_BACK = Refusal(Result.NEUTRAL, Cools.ENDPOINT, safe=True)
_KEY_REFUSED = Refusal(Result.NEUTRAL, Cools.KEY_LONG)

REFUSALS = {
    408: _ELSEWHERE,
    421: _NOT_EXECUTED,
    425: _NOT_EXECUTED,
    429: Refusal(Result.NEUTRAL, Cools.KEY, safe=True),
    **dict.fromkeys((500, 502, 503, 504, 520, 521, 522, 523, 524), _FAILED),
    529: _COME_BACK,
}
"""By status."""


def refusal_of(status: int, *, own_key: bool, retry_after: float | None = None) -> Refusal | None:
    """Return what a status means; None for an answer that the client is given.

    own_key: the request carried a key of ours.  retry_after: seconds, if it says when.
    """
    if status in {401, 403}:
        return _KEY_REFUSED if own_key else None
    if status == 503 and retry_after is not None:
        return _COME_BACK
    return REFUSALS.get(status)
