"""HTTP status -> what it means, where no provider's code says otherwise.

Source: RFC 9110 section 15; RFC 4918 (423), RFC 7540 (421), RFC 8470 (425), RFC 6585 (429, 511);
509, 529 and 52x as Apache, Anthropic and Cloudflare use them.
"""

from __future__ import annotations

from holdfast.core.tables.row import Row
from holdfast.core.verdict import (
    AUTH,
    CONCURRENCY,
    PERMANENT,
    THROTTLED,
    TIMEOUT,
    TRANSIENT,
    UNKNOWN,
    Sent,
)

_ANSWERED = Sent.YES

STATUSES: dict[int, Row] = {
    401: Row(AUTH, _ANSWERED, max_retries=1),  # once, with fresh credentials
    407: Row(AUTH, _ANSWERED, max_retries=1),
    408: Row(TIMEOUT, _ANSWERED, not_executed=True),
    421: Row(TRANSIENT, _ANSWERED, not_executed=True),  # the repeat needs a fresh connection
    423: Row(CONCURRENCY, _ANSWERED),
    425: Row(TRANSIENT, _ANSWERED, not_executed=True),
    429: Row(THROTTLED, _ANSWERED, not_executed=True),
    501: Row(PERMANENT, _ANSWERED),
    509: Row(THROTTLED, _ANSWERED),
    510: Row(PERMANENT, _ANSWERED),
    511: Row(PERMANENT, _ANSWERED),
    529: Row(THROTTLED, _ANSWERED),
    **dict.fromkeys((505, 506, 507, 508), Row(PERMANENT, _ANSWERED)),
    **dict.fromkeys((525, 526), Row(PERMANENT, _ANSWERED)),  # the origin's certificate
}

OTHER_4XX = Row(PERMANENT, _ANSWERED)
OTHER_5XX = Row(TRANSIENT, _ANSWERED)
NO_ERROR = Row(UNKNOWN, _ANSWERED, max_retries=1)  # below 400, or no status at all
UNAVAILABLE_UNTIL = Row(THROTTLED, _ANSWERED)  # 503 with a time to come back


def row_for(status: int, *, come_back: bool) -> Row:
    """Return the row of a status; come_back: the response says when to try again."""
    if status == 503 and come_back:
        return UNAVAILABLE_UNTIL
    found = STATUSES.get(status)
    if found is not None:
        return found
    if 400 <= status < 500:
        return OTHER_4XX
    return OTHER_5XX if 500 <= status < 600 else NO_ERROR
