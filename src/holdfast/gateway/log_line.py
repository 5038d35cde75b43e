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
    from collections.abc import Sequence

    from holdfast.core.health import Tier
    from holdfast.gateway.errors import Tried
    from holdfast.gateway.request import Record
    from holdfast.wire.requests import RequestHead

MAX_PATH = 1024
"""Characters of a path; the rest is cut."""
KEPT = 256
"""Bytes of a path up to which its lines are kept."""


def line_of(record: Record, outcome: str, now: float) -> bytes:
    """Return the line of a request that is over. now: monotonic."""
    client, head, pick, told = record.client, record.head, record.pick, record.told
    given, path = record.given_at, head.target.partition(b"?")[0]
    last = ""  # how the last attempt ended, if it came to an answer, or was left
    if record.attempts > len(told):
        last = CANCELLED if outcome == CANCELLED else OK
    make = _form if len(path) <= KEPT else _form.__wrapped__
    endpoint, tier = (pick.endpoint.id, pick.tier) if pick is not None else ("", None)
    form = make(client.host, head.method, path, record.status, endpoint, tier, outcome, last)
    first = ms = f"{1000 * (now - record.began):.3f}"
    if given == given:  # noqa: PLR0124 - not NaN: it was passed on as it came
        first = f"{1000 * (given - record.began):.3f}"
    elif outcome not in ANSWERED:
        first = "null"
    before = _told(told, more=last) if told else ""
    took = 1000 * (now - record.sent_at) + 0.5
    sizes = record.size, client.written
    return (form % (_stamp(), record.id, *sizes, ms, first, before, took)).encode()


def note_of(
    head: RequestHead | None, status: int, outcome: str, *, client: str, size: int
) -> bytes:
    """Return the line of a request that no endpoint was to answer.

    head: None for one that could not be read.  client: its address.  size: of the answer.
    """
    method, path = (head.method, head.target.partition(b"?")[0]) if head is not None else (b"", b"")
    form = _form.__wrapped__(client, method, path, status, "", None, outcome, "")
    return (form % (_stamp(), "", 0, size, "0.000", "null", "", 0)).encode()


def forget() -> None:
    """Forget what was made: a new key may stand in a path that was shown before."""
    _form.cache_clear()


def _stamp() -> str:
    wall = clock.wall()
    second = int(wall)
    return f"{_second(second)}.{int((wall - second) * 1000):03d}Z"


@lru_cache(4)
def _second(wall: int) -> str:
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%S")


_string = json.JSONEncoder(ensure_ascii=False).encode


@lru_cache(1024)
def _form(
    client: str,
    method: bytes,
    path: bytes,
    status: int,
    endpoint: str,
    tier: Tier | None,
    outcome: str,
    last: str,
) -> str:
    """Return a line with a place for each thing that `line_of` puts in.

    last: how the last of the attempts ended, whose milliseconds get a place; empty for none.
    """
    shown = visible(path.decode("utf-8", "backslashreplace"))[:MAX_PATH]
    asked = (
        f'"client":{_string(client)},"method":{_string(method.decode("latin-1"))}'
        f',"path":{_string(shown)},"status":{status or "null"}'
    )
    stood = "null" if tier is None else _string(tier.name.lower())
    attempt = _attempt(endpoint, last, "maybe" if last == CANCELLED else "yes")
    ended = f'"outcome":{_string(outcome)},"tier":{stood}'
    parts = asked, _string(endpoint) if endpoint else "null", attempt, ended
    asked, named, attempt, ended = (one.replace("%", "%%") for one in parts)
    return (
        f'{{"ts":"%s","id":"%s",{asked},"bytes_in":%d,"bytes_out":%d,"ms":%s,"ttfb_ms":%s'
        f',"endpoint":{named},"attempts":[%s{attempt + "%d}" if last else "%.0s"}],{ended}}}\n'
    )


def _told(told: Sequence[Tried], *, more: str) -> str:
    """Return the attempts that came to nothing. more: there is another one."""
    text = ",".join(f"{_attempt(o.endpoint, visible(o.verdict), o.sent)}{o.ms}}}" for o in told)
    return f"{text}," if more else text


@lru_cache(1024)
def _attempt(endpoint: str, verdict: str, sent: str) -> str:
    return (
        f'{{"endpoint":{_string(endpoint)},"verdict":{_string(verdict)},"sent":{_string(sent)}'
        f',"ms":'
    )
