"""Our own look at an object: what its origin says of it, before aria2 fetches and resumes it.

aria2 sends no If-Range, so it joins bytes of two versions when an object changes between two
attempts. A HEAD before the first byte and one before each resume tell that.
"""

from __future__ import annotations

import base64
import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp

from holdfast.core.classify import classify
from holdfast.core.tables.answers import verdict_for_status
from holdfast.core.verdict import Kind
from holdfast.downloads.aria2.states import RETRYABLE
from holdfast.transfer.validators import Match, Validators, validators_of
from holdfast.wire.http1 import Framing, Head

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.downloads.aria2.item import Item, Option, Source
    from holdfast.wire.urls import Url

FIRST_LOOK, LATER_LOOK = 5.0, 15.0
"""Seconds for a look at the origin: before the first byte somebody waits for it."""
TOO_SMALL_TO_SPLIT = 2 * 1024 * 1024
"""Below this size aria2 makes one request, and one answer is of one version."""

# A HEAD that is not allowed (also by a signature that is for GET only) is asked as a GET of one
# byte. Anything else that says no would say it to that GET as well.
_NO_HEAD = frozenset({403, 405, 501})


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look brought. validators: None if the origin said nothing of the object.

    code, text: in aria2's terms, why not; empty if it did.  passing: it may be better later.
    by_head: HEAD was allowed.
    """

    validators: Validators | None
    code: str = ""
    text: str = ""
    passing: bool = False
    by_head: bool = False


class Resume(enum.StrEnum):
    """What may be done with the bytes that are there.

    KEEP   they are of this object          FRESH  nobody vouches for them, or there are none
    LATER  it cannot be asked just now
    """

    KEEP = "keep"
    FRESH = "fresh"
    LATER = "later"


def resume_of(item: Item, seen: Seen, *, kept: bool) -> Resume:
    """Say what to do with what is on disk. kept: there is something."""
    if not kept:
        return Resume.FRESH
    if item.has_checksum:
        # A mix of two versions would be found at the end; a known change is not waited for.
        return Resume.FRESH if has_changed(item, seen) else Resume.KEEP
    if seen.validators is None:
        # A server that refuses us for good refuses aria2 as well: let it say so.
        return Resume.LATER if seen.passing else Resume.FRESH
    if item.pinned is None:
        return Resume.FRESH
    match = item.pinned.compare(seen.validators)
    return Resume.KEEP if match in {Match.STRONG, Match.WEAK} else Resume.FRESH


def has_changed(item: Item, seen: Seen) -> bool:
    """Whether the object is known to be another one than before."""
    if item.pinned is None or seen.validators is None:
        return False
    return item.pinned.compare(seen.validators) is Match.DIFFERENT


async def look(
    session: aiohttp.ClientSession, source: Source, seconds: float, *, by_get: bool = False
) -> Seen:
    """Ask the origin about an object; never raises for what the network does.

    by_get: by a GET of one byte, whose head is that of the object itself.
    """
    url = source.urls[0]
    if not by_get:
        seen, status = await _ask(session, "HEAD", url, source, seconds)
        if status not in _NO_HEAD:
            return seen
    seen, _ = await _ask(session, "GET", url, source, seconds)
    return seen


async def was_cut(session: aiohttp.ClientSession, item: Item) -> bool:
    """Whether a body without a framed end, which aria2 calls complete, ended too early."""
    told = item.pinned.size if item.pinned is not None else None
    if told in {None, item.total} or item.source is None or item.has_checksum:
        return False
    # Some servers say another length to a HEAD: only that of a GET counts against the file.
    seen = await look(session, item.source, LATER_LOOK, by_get=True)
    now = seen.validators.size if seen.validators is not None else None
    return item.total != (told if now is None else now)


async def was_mixed(session: aiohttp.ClientSession, item: Item) -> bool:
    """Whether requests of different versions may have met in what aria2 calls complete."""
    one_answer = item.tries == 1 and item.total < TOO_SMALL_TO_SPLIT
    if item.has_checksum or one_answer or item.source is None or item.pinned is None:
        return False
    return has_changed(item, await look(session, item.source, LATER_LOOK))


async def _ask(
    session: aiohttp.ClientSession, method: str, url: Url, source: Source, seconds: float
) -> tuple[Seen, int]:
    headers = _headers(url, source.options)
    if method == "GET":
        headers["Range"] = "bytes=0-0"
    verify = source.options.get("check-certificate") != "false"
    try:
        async with session.request(
            method,
            url.full(),
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=seconds),
            proxy=_proxy(url, source.options),
            ssl=verify,
        ) as answer:
            return _seen(answer, by_head=method == "HEAD"), answer.status
    except (aiohttp.ClientError, OSError, ValueError) as error:
        verdict = classify(error)
        code = "2" if verdict.kind is Kind.TIMEOUT else "6"
        text = f"the origin could not be asked ({type(error).__name__})"
        return Seen(None, code, text, passing=bool(verdict.kind & RETRYABLE)), 0


def _seen(answer: aiohttp.ClientResponse, *, by_head: bool) -> Seen:
    status = answer.status
    if status not in {200, 206}:
        verdict = verdict_for_status(status)
        code = "29" if status == 503 else "22"
        text = f"the origin answered our look with status={status}"
        return Seen(None, code, text, passing=bool(verdict.kind & RETRYABLE))
    headers = {name.lower(): value for name, value in answer.headers.items()}
    length = headers.get("content-length", "")
    head = Head(status, headers, Framing.LENGTH, int(length) if length.isdecimal() else None)
    return Seen(validators_of(head), by_head=by_head)


def _headers(url: Url, options: Mapping[str, Option]) -> dict[str, str]:
    found = {"Accept-Encoding": "identity", "Accept": "*/*"}
    for name, field in (("user-agent", "User-Agent"), ("referer", "Referer")):
        if name in options:
            found[field] = str(options[name])
    if "http-user" in options:
        pair = f"{options['http-user']}:{options.get('http-passwd', '')}"
        found["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode("ascii")
    if url.authorization:
        found["Authorization"] = url.authorization
    for line in options.get("header", []):
        name, colon, value = line.partition(":")
        if colon:
            found[name.strip()] = value.strip()
    return found


def _proxy(url: Url, options: Mapping[str, Option]) -> str | None:
    proxy = options.get(f"{url.scheme}-proxy") or options.get("all-proxy")
    if not isinstance(proxy, str):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"
