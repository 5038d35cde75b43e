"""What an answer that refuses means: whether another endpoint is asked, and whose fault it is.

    status        asked elsewhere    is a failure  cools down
    408, 421      yes                no            nobody
    425           yes                no            nobody
    429           yes                no            the key
    500, 502-504  yes                yes           503 with Retry-After: no, but the endpoint
    520-524       yes                yes           nobody
    529           yes                no            the endpoint
    401, 403      with a key of ours no            the key, for 10 minutes
    402           with a key of ours no            the key, for an hour
    others        no: they say something about the request, and the client is told

A code in the body may say more than the status: that the money of a key is spent, which the
status hides behind a 429 or a 400, or that the content is refused, which it is everywhere. And an
error may come in a 200: then its type stands for a status. Nothing here reads the text of a
message.

Sources: the error pages of Anthropic's and OpenAI's API references.
"""

from __future__ import annotations

import enum
import json
import re
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.core.breaker import Result
from holdfast.core.retry_after import read_hint
from holdfast.wire.strict import BadMessage, Chunks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from holdfast.core.balance import Pick
    from holdfast.wire.responses import ResponseHead

    Fields = Iterable[tuple[bytes, bytes]]

KEY_OUT_SECONDS = 600.0
"""How long a key rests that an endpoint refused."""
QUOTA_SECONDS = 3600.0
"""How long a key rests whose money is spent."""
MAX_READ = 64 * 1024
"""Bytes of an error's body that are looked into."""


class Cools(enum.Enum):
    """Who is left alone for a while."""

    NOBODY = "nobody"
    KEY = "key"
    KEY_OUT = "key, refused"
    KEY_SPENT = "key, its money is spent"
    ENDPOINT = "endpoint"


class Refusal(NamedTuple):
    """What a refusal means.

    result: for the endpoint's health.  safe: the request was not executed, so that any may be
    sent again.  retry_after: seconds, if the answer names them.
    """

    result: Result
    cools: Cools = Cools.NOBODY
    safe: bool = False
    retry_after: float | None = None


_FAILED = Refusal(Result.FAILED)
_COME_BACK = Refusal(Result.NEUTRAL, Cools.ENDPOINT, safe=True)
_KEY_OUT = Refusal(Result.NEUTRAL, Cools.KEY_OUT, safe=True)
_KEY_SPENT = Refusal(Result.NEUTRAL, Cools.KEY_SPENT, safe=True)

REFUSALS = {
    408: Refusal(Result.NEUTRAL),
    421: Refusal(Result.NEUTRAL, safe=True),
    425: Refusal(Result.NEUTRAL, safe=True),
    429: Refusal(Result.NEUTRAL, Cools.KEY, safe=True),
    **dict.fromkeys((500, 502, 503, 504, 520, 521, 522, 523, 524), _FAILED),
    529: _COME_BACK,
}
"""By status."""
OF_A_KEY = {401: _KEY_OUT, 402: _KEY_SPENT, 403: _KEY_OUT}
"""By status, if the request carried a key of ours."""

SPENT = frozenset(
    {
        "billing_error",
        "billing_hard_limit_reached",
        "billing_not_active",
        "contract_spend_limit_reached",
        "enforced_spend_limit_reached",
        "insufficient_quota",
    }
)
"""Codes that say that no money is left behind a key."""
CONTENT = frozenset({"content_filter", "content_policy_violation", "moderation_blocked"})
"""Codes that say that the content is not wanted: no endpoint will want it."""
STATUS_OF = {
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "invalid_request_error": 400,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "api_error": 500,
    "server_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The status that a type or a code of an error stands for, where it came in a 200."""
OTHER_STATUS = 500

_BEGINS = re.compile(rb'(?:[0-9A-Fa-f]{1,8}\r\n)?\s*\{\s*"(?:error"\s*:\s*\{|type"\s*:\s*"error")')
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS


def refusal_of(
    status: int, codes: frozenset[str], fields: Fields, *, own_key: bool, now_wall: float
) -> Refusal | None:
    """Return what a status, and the codes of the error beside it, mean.

    None for an answer that the client is given.  fields: of the answer's head.
    own_key: the request carried a key of ours.
    now_wall: seconds since the epoch, for a Retry-After that is a date.
    """
    if codes & CONTENT:
        return None
    if own_key and codes & SPENT:
        return _KEY_SPENT
    found = REFUSALS.get(status) or (OF_A_KEY.get(status) if own_key else None)
    if found is None:
        return None
    hint = read_hint(fields, now_wall=now_wall).retry_after
    if status == 503 and hint is not None:
        found = _COME_BACK
    return found if hint is None else found._replace(retry_after=hint)


def heed(refusal: Refusal, pick: Pick, now: float) -> None:
    """Leave those alone who asked for it, or have nothing to give."""
    health, key = pick.endpoint.health, pick.key
    if refusal.cools is Cools.KEY:
        health.throttled(now, refusal.retry_after, key)
    elif refusal.cools is Cools.ENDPOINT:
        health.throttled(now, refusal.retry_after)
    elif refusal.cools is Cools.KEY_OUT:
        health.key_out(key, now, KEY_OUT_SECONDS)
    elif refusal.cools is Cools.KEY_SPENT:
        health.key_out(key, now, QUOTA_SECONDS)


def looks_like_error(data: bytes, at: int = 0) -> bool:
    """Say whether a JSON body begins as an error does. at: where in `data` it begins."""
    return _BEGINS.match(data, at) is not None


def status_of(codes: frozenset[str]) -> int:
    """Return the status that an error in a 200 stands for."""
    return next((STATUS_OF[code] for code in STATUS_OF if code in codes), OTHER_STATUS)


def codes_of(error: Mapping[str, Any]) -> frozenset[str]:
    """Return the types and codes that an error's JSON carries."""
    return frozenset(_codes(error))


def _codes(value: Mapping[str, Any]) -> Iterator[str]:
    inner = value.get("error")
    for part in (inner, value):
        if not isinstance(part, dict):
            continue
        details = part.get("details")
        for name in ("code", "type"):
            if isinstance(part.get(name), str):
                yield part[name]
        if isinstance(details, dict) and isinstance(details.get("error_code"), str):
            yield details["error_code"]
    if isinstance(inner, str):
        yield inner


def codes_in(head: ResponseHead, body: bytes, *, framed: bool) -> frozenset[str]:
    """Return the codes in the body of an error, as far as it can be read.

    body: as it came, compressed or not.  framed: in chunks.
    """
    if len(body) > MAX_READ or b"json" not in head.media_type:
        return frozenset()
    try:
        value = json.loads(_plain(head, body, framed=framed))
    except (ValueError, BadMessage, zlib.error, RecursionError):
        return frozenset()
    return codes_of(value) if isinstance(value, dict) else frozenset()


def _plain(head: ResponseHead, body: bytes, *, framed: bool) -> bytes:
    coding = next((v for n, v in head.fields if n.lower() == b"content-encoding"), b"")
    if framed:
        pieces: list[bytes] = []
        Chunks().feed(body, pieces)
        body = b"".join(pieces)
    if coding.lower() in {b"gzip", b"deflate"}:
        return zlib.decompressobj(_GZIP_OR_ZLIB).decompress(body, MAX_READ)
    return body
