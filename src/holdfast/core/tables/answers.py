"""What an answer means: its HTTP status, its provider's code, its headers.

A code of the provider wins over the status, because one status stands for many causes
(Kling answers 429 for "too fast", "no slot" and "no money").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from holdfast.core.retry_after import NO_HINT, read_hint
from holdfast.core.tables.statuses import NO_ERROR, row_for
from holdfast.core.tables.types import provider_for
from holdfast.core.verdict import Sent, Verdict

if TYPE_CHECKING:
    from holdfast.core.retry_after import Headers, ServerHint
    from holdfast.core.tables.row import Provider, Row

# Where client libraries keep the status, and the headers beside it, on an error.
_STATUS_AT = (
    (("status_code",), ("headers",)),
    (("status",), ("headers",)),
    (("response", "status_code"), ("response", "headers")),
    (("response", "status"), ("response", "headers")),
    (
        ("response", "ResponseMetadata", "HTTPStatusCode"),
        ("response", "ResponseMetadata", "HTTPHeaders"),
    ),
)

_by_status: dict[int, Verdict] = {}  # of answers without a hint: there are at most 1000


def verdict_for_status(
    status: int,
    headers: Headers | None = None,
    *,
    now_wall: float | None = None,
    provider: Provider | str | None = None,
    code: str | int | None = None,
) -> Verdict:
    """Return what an answer with this status means.

    headers: a mapping or pairs, names in any case.
    now_wall: seconds since the epoch, for a Retry-After date without a `Date` beside it.
    provider: name of a code table, or a table; ValueError if there is none of that name.
    code: the provider's code in the body (see `provider_code`).
    A status below 400 without a known code is UNKNOWN: it is no failure.
    """
    hint = NO_HINT if headers is None else read_hint(headers, now_wall=now_wall)
    if provider is not None and code is not None:
        found = _by_code(provider_for(provider), code, status, hint)
        if found is not None:
            return found
    if hint == NO_HINT:
        known = _by_status.get(status)
        if known is not None:
            return known
    row = row_for(status, come_back=hint.retry_after is not None)
    evidence = "unknown" if row is NO_ERROR else "status"
    verdict = _built(row, row.sent, f"http {status}", evidence, hint)
    if hint == NO_HINT and 0 <= status < 1000:
        _by_status[status] = verdict
    return verdict


def verdict_for_code(
    provider: Provider | str,
    code: str | int,
    headers: Headers | None = None,
    *,
    now_wall: float | None = None,
) -> Verdict:
    """Return what a provider's code means where no status of 400 or more comes with it.

    For an error inside a stream that began with 200, and for what is not HTTP (aria2).
    A code that the table does not know is UNKNOWN, unless the table is complete.
    """
    table = provider_for(provider)
    hint = NO_HINT if headers is None else read_hint(headers, now_wall=now_wall)
    found = _by_code(table, code, None, hint)
    if found is None:
        row, evidence = (NO_ERROR, "unknown") if table.rest is None else (table.rest, table.name)
        found = _built(row, Sent.MAYBE, f"{table.name} {_clean(str(code))}", evidence, hint)
    return found


def provider_code(provider: Provider | str, body: object) -> str | None:
    """Return the code that a parsed body (or an error object) carries, or None.

    Of several (a type, and a detail under it) the most specific one that the table knows.
    """
    table = provider_for(provider)
    first = None
    for path in table.paths:
        found = _dig(body, path)
        if isinstance(found, str) or type(found) is int:
            code = _clean(str(found))
            if code in table.codes or code in table.weak:
                return code
            first = first or code
    return first


def verdict_on(
    error: object, provider: Provider | str | None, now_wall: float | None, *, by_status: bool
) -> Verdict | None:
    """Return the verdict by the answer that an error carries, None if it carries none.

    by_status: the status counts too, not only a known code of the provider.
    """
    status, headers = _answer(error)
    if provider is not None:
        code = provider_code(provider, error)
        if code is not None:
            hint = read_hint(headers, now_wall=now_wall)
            found = _by_code(provider_for(provider), code, status, hint)
            if found is not None:
                return found
    if not by_status or status is None or not 400 <= status <= 599:
        return None
    return verdict_for_status(status, headers, now_wall=now_wall)


def attribute(owner: object, name: str) -> object:
    """Return an attribute, None if it is missing or its property fails (httpx's `.request`)."""
    try:
        return getattr(owner, name, None)
    except Exception:  # noqa: BLE001 - a foreign property may raise anything
        return None


def _by_code(
    table: Provider, code: str | int, status: int | None, hint: ServerHint
) -> Verdict | None:
    key = _clean(str(code))
    row = table.codes.get(key)
    if row is None and (status is None or status < 400):
        row = table.weak.get(key)
    if row is None:
        return None
    sent = row.sent if status is None else Sent.YES
    return _built(row, sent, f"{table.name} {key}", table.name, hint)


def _built(row: Row, sent: Sent, reason: str, evidence: str, hint: ServerHint) -> Verdict:
    return Verdict(
        row.kind,
        sent,
        reason=reason,
        retry_after=row.retry_after if hint.retry_after is None else hint.retry_after,
        local=row.local,
        evidence=evidence,
        not_executed=row.not_executed,
        max_retries=row.max_retries if hint.may_retry else 0,
        hint=hint.rule,
    )


def _answer(error: object) -> tuple[int | None, Headers | None]:
    for status_path, headers_path in _STATUS_AT:
        status = _dig(error, status_path)
        if isinstance(status, int) and not isinstance(status, bool):
            headers = _dig(error, headers_path)
            return int(status), headers  # type: ignore[return-value] # read_hint is total
    return None, None


def _dig(owner: object, path: tuple[str, ...]) -> object:
    """Follow attributes and keys; None where the path ends early."""
    for step in path:
        if owner is None:
            return None
        owner = owner.get(step) if isinstance(owner, Mapping) else attribute(owner, step)
    return owner


def _clean(code: str) -> str:
    """Return the code without the namespace and address that some AWS protocols put around it."""
    return code.rpartition("#")[2].partition(":")[0]
