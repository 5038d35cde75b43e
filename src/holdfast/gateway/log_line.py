"""A finished request as a line of the access log: JSON, written out rather than made from a dict.

Most requests of a program differ from the one before in a few numbers. So the rest of the line is
made once, with places for these, and kept; with `json` a line would take five times as long, and
it is made for every request.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from holdfast.gateway.ledger import ANSWERED, CANCELLED, OK
from holdfast.runtime.clock import clock
from holdfast.telemetry.redact import visible

if TYPE_CHECKING:
    from holdfast.core.health import Tier
    from holdfast.gateway.request import Record
    from holdfast.wire.requests import RequestHead

MAX_PATH = 1024
"""Characters of a path; the rest is cut."""
KEPT = 256
"""Bytes of a path up to which its lines are kept."""


def line_of(record: Record, outcome: str, now: float) -> bytes:
    """Return the line of a request that is over. now: monotonic."""
    client, head, pick, began = record.client, record.head, record.pick, record.began
    endpoint, tier = ("", None) if pick is None else (pick.endpoint.id, pick.tier)
    given, told = record.given_at, record.told
    ms = f"{1000 * (now - began):.3f}"
    if given == given:  # noqa: PLR0124 - not NaN: it was passed on as it came
        first = f"{1000 * (given - began):.3f}"
    else:
        first = ms if outcome in ANSWERED else "null"
    attempts = [f"{_attempt(o.endpoint, visible(o.verdict), o.sent)}{o.ms}}}" for o in told]
    if record.attempts > len(told):  # the last one came to an answer, or was left
        last = (CANCELLED, "maybe") if outcome == CANCELLED else (OK, "yes")
        took = round(1000 * (now - record.sent_at))
        attempts.append(f"{_attempt(endpoint, *last)}{took}}}")
    path = head.target.partition(b"?")[0]
    make = _form if len(path) <= KEPT else _form.__wrapped__
    form = make(client.host, head.method, path, record.status, endpoint, outcome, tier)
    return _filled(form, record.id, record.size, client.written, ms, first, ",".join(attempts))


def note_of(
    head: RequestHead | None, status: int, outcome: str, *, client: str, size: int
) -> bytes:
    """Return the line of a request that no endpoint was to answer.

    head: None for one that could not be read.  client: its address.  size: of the answer.
    """
    method, path = (head.method, head.target.partition(b"?")[0]) if head is not None else (b"", b"")
    form = _form.__wrapped__(client, method, path, status, "", outcome, None)
    return _filled(form, "", 0, size, "0.000", "null", "")


def forget() -> None:
    """Forget what was made: a new key may stand in a path that was shown before."""
    _form.cache_clear()


def _filled(
    form: str, name: str, taken: int, given: int, ms: str, first: str, attempts: str
) -> bytes:
    wall = clock.wall()
    second = int(wall)
    milli = int((wall - second) * 1000)
    return (form % (_second(second), milli, name, taken, given, ms, first, attempts)).encode()


_string = json.JSONEncoder(ensure_ascii=False).encode


@lru_cache(1024)
def _form(
    client: str,
    method: bytes,
    path: bytes,
    status: int,
    endpoint: str,
    outcome: str,
    tier: Tier | None,
) -> str:
    """Return a line with places for what `_filled` puts there, in that order."""
    asked = (
        f'"client":{_string(client)},"method":{_string(method.decode("latin-1"))}'
        f',"path":{_string(_shown(path))},"status":{status or "null"}'
    )
    answered = f'"endpoint":{_string(endpoint) if endpoint else "null"}'
    stood = "null" if tier is None else _string(tier.name.lower())
    ended = f'"outcome":{_string(outcome)},"tier":{stood}'
    asked, answered, ended = (one.replace("%", "%%") for one in (asked, answered, ended))
    return (
        f'{{"ts":"%s.%03dZ","id":"%s",{asked},"bytes_in":%d,"bytes_out":%d,"ms":%s,"ttfb_ms":%s'
        f',{answered},"attempts":[%s],{ended}}}\n'
    )


def _shown(path: bytes) -> str:
    return visible(path.decode("utf-8", "backslashreplace"))[:MAX_PATH]


@lru_cache(1024)
def _attempt(endpoint: str, verdict: str, sent: str) -> str:
    return (
        f'{{"endpoint":{_string(endpoint)},"verdict":{_string(verdict)},"sent":{_string(sent)}'
        f',"ms":'
    )


@lru_cache(4)
def _second(wall: int) -> str:
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%S")
