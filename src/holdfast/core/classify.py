"""From an exception or a response to the one `Verdict` that decisions are made from.

The order: the caller's hook; a verdict that the error carries; the provider's code; then
for the error, and after it for each error inside it until one is known,

    its type, by the nearest row along the MRO
    its errno, read by the phase of the attempt
    the HTTP status that it carries

Errors inside are `__cause__`, `.reason`, `args[0]` and the only member of a group, then
`__context__` unless it was suppressed; at most 8 deep, each once. An error at hand goes before
one inside it, because a `__context__` may be any exception that happened to be handled at the
time. Rows that only wrap (`requests.ConnectionError`) say so, and let what is inside decide.

Nothing here reads the text of a message. What no table knows is UNKNOWN.
"""

from __future__ import annotations

import errno as _errno
from dataclasses import replace
from typing import TYPE_CHECKING

from holdfast.core.errors import DeadlineExceeded, Rejected
from holdfast.core.tables.answers import (
    attribute,
    provider_code,
    verdict_for_code,
    verdict_for_status,
    verdict_on,
)
from holdfast.core.tables.errnos import verdict_for_errno, verdict_for_getaddrinfo
from holdfast.core.tables.row import ANYWHERE, CAUSED, ITSELF
from holdfast.core.tables.types import entry_for, provider_for
from holdfast.core.verdict import (
    CONCURRENCY,
    CONNECT,
    TIMEOUT,
    TRANSIENT,
    UNKNOWN,
    Kind,
    Sent,
    Verdict,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from holdfast.core.tables.errnos import Phase
    from holdfast.core.tables.row import Provider
    from holdfast.core.tables.types import Entry

    Hook = Callable[[object], "Verdict | Kind | None"]

__all__ = [
    "classify",
    "provider_code",
    "type_name",
    "unknown",
    "verdict_for_code",
    "verdict_for_status",
    "with_kind",
]

_DEPTH = 8  # links from the error that was raised
_NODES = 64  # errors looked at in all; real chains are short, a malicious one is not
_SINGLE = frozenset(Kind)


def classify(
    error: BaseException,
    *,
    hook: Hook | None = None,
    provider: Provider | str | None = None,
    connecting: Phase = None,
    now_wall: float | None = None,
) -> Verdict:
    """Return what `error` means. Never raises of itself; what `hook` raises passes through.

    hook: asked first; a `Verdict` is taken as it is, a `Kind` replaces the kind that the
    tables give (whether it was sent stays a fact), None leaves it to the tables.
    provider: name of a code table, or a table; ValueError if there is none of that name.
    connecting: True while the connection is being made (nothing was sent), False after,
    None if that is not known.
    now_wall: seconds since the epoch, for a Retry-After date without a `Date` beside it.

    A verdict with evidence "unknown" is for an `Unclassified` event (see `type_name`).
    """
    if hook is not None:
        answer = hook(error)
        if isinstance(answer, Verdict):
            return answer
        if answer is not None:
            tables = classify(error, provider=provider, connecting=connecting, now_wall=now_wall)
            return with_kind(tables, answer)
    own = attribute(error, "verdict")
    if own is not None and isinstance(own, Verdict):
        return own
    if provider is None and connecting is None:
        # Most failures are of a type, or have an errno, that says it all.
        entry = entry_for(type(error))
        if entry is not None and not entry.row.inside:
            if entry.plain and entry.verdict is not None:
                return entry.verdict
            if entry.row.by == "errno":
                found = _by_errno(error, entry, None)
                if found is not None:
                    return found
    table = None if provider is None else provider_for(provider)
    return _Search(table, now_wall).visit(error, connecting, 0, ITSELF) or unknown(error)


def with_kind(verdict: Verdict, kind: object) -> Verdict:
    """Return `verdict` with the kind that a hook named; ValueError for anything but one kind."""
    if not isinstance(kind, Kind) or kind not in _SINGLE:
        raise ValueError(f"classify: {kind!r} is neither a Verdict, nor one Kind, nor None")
    return replace(verdict, kind=kind, evidence="hook", max_retries=1 if kind is UNKNOWN else None)


def type_name(error: BaseException) -> str:
    """Return the qualified name of the error's type, for an `Unclassified` event."""
    cls = type(error)
    return f"{cls.__module__}.{cls.__qualname__}".removeprefix("builtins.")


def unknown(error: BaseException) -> Verdict:
    """Return the verdict for an error that no table knows: at most one repeat."""
    return Verdict(UNKNOWN, reason=type_name(error), evidence="unknown", max_retries=1)


class _Search:
    """One walk over an error and what is inside it."""

    __slots__ = ("now_wall", "provider", "seen")

    def __init__(self, provider: Provider | None, now_wall: float | None) -> None:
        self.provider = provider
        self.now_wall = now_wall
        self.seen: set[int] = set()

    def visit(
        self, node: BaseException, connecting: Phase, depth: int, reach: int
    ) -> Verdict | None:
        """Return the verdict of `node` or of something inside it, None if nothing is known."""
        self.seen.add(id(node))
        own = attribute(node, "verdict")
        if isinstance(own, Verdict):
            return own
        # A SystemExit has a `.code` too, and is nobody's answer.
        if self.provider is not None and isinstance(node, Exception):
            found = verdict_on(node, self.provider, self.now_wall, by_status=False)
            if found is not None:
                return found
        entry = entry_for(type(node))
        if entry is None:
            found = verdict_on(node, None, self.now_wall, by_status=True)
        elif entry.row.needs > reach:
            return None
        elif entry.row.by == "holdfast":
            return _ours(node)
        else:
            found = self._row(node, entry, connecting, depth, reach)
        found = found or self._inside(node, connecting, depth, reach)
        if found is None and connecting and isinstance(node, OSError):
            # Several addresses failed, each in its own way: such an OSError has no errno.
            return Verdict(CONNECT, Sent.NO, reason="OSError", evidence="type OSError")
        return found

    def _row(
        self, node: BaseException, entry: Entry, connecting: Phase, depth: int, reach: int
    ) -> Verdict | None:
        row, found = entry.row, None
        under = True if row.connecting else connecting
        if row.inside:
            # An answer is explained by the cause of its error alone, not by an earlier
            # failure in whose handler the request was made.
            context = row.by != "status"
            found = self._inside(node, under, depth, reach, context=context)
        if found is None:
            if row.by == "errno":
                found = _by_errno(node, entry, under)
            elif row.by == "getaddrinfo":
                found = verdict_for_getaddrinfo(attribute(node, "errno"))
            elif row.by == "status":
                found = verdict_on(node, row.provider, self.now_wall, by_status=True)
        found = found or entry.verdict
        if found is None:
            return None
        if row.connecting or (connecting and found.sent is not Sent.YES):
            return _as_connecting(found)
        if connecting is False and found.kind is CONNECT and found.sent is Sent.MAYBE:
            return replace(found, kind=TRANSIENT)  # the connection had been made
        if row.sent is not Sent.MAYBE and found.sent is not row.sent:
            return replace(found, sent=row.sent)
        return found

    def _inside(
        self,
        node: BaseException,
        connecting: Phase,
        depth: int,
        reach: int,
        *,
        context: bool = True,
    ) -> Verdict | None:
        """Return the first known verdict among the errors inside `node`."""
        if depth >= _DEPTH:
            return None
        for child, explicit in _children(node):
            if id(child) in self.seen or len(self.seen) >= _NODES or not (explicit or context):
                continue
            near = min(reach, CAUSED if explicit else ANYWHERE)
            found = self.visit(child, connecting, depth + 1, near)
            if found is not None and found.kind is not UNKNOWN:
                return found
        return None


def _children(node: BaseException) -> Iterator[tuple[BaseException, bool]]:
    """Yield the errors inside `node`, and whether the link was made on purpose."""
    if node.__cause__ is not None:
        yield node.__cause__, True
    reason = attribute(node, "reason")
    if isinstance(reason, BaseException):
        yield reason, True
    first = node.args[0] if node.args else None
    if isinstance(first, BaseException):
        yield first, True
    if isinstance(node, BaseExceptionGroup) and len(node.exceptions) == 1:
        yield node.exceptions[0], True  # a TaskGroup's wrapping of one failure
    if node.__context__ is not None and not node.__suppress_context__:
        yield node.__context__, False


def _by_errno(node: BaseException, entry: Entry, connecting: Phase) -> Verdict | None:
    """Return the verdict by errno, None if the error has none and its type stands for none."""
    number = attribute(node, "errno")
    if type(number) is int:
        found = verdict_for_errno(number, connecting)
        # getaddrinfo's code in the place of an errno (aiohttp): the row knows better.
        return None if found.kind is UNKNOWN and entry.verdict is not None else found
    number = getattr(_errno, entry.row.errno, None) if entry.row.errno else None
    return None if number is None else verdict_for_errno(number, connecting)


def _ours(error: BaseException) -> Verdict:
    """Return the verdict for a decision of a policy inside the one that asks."""
    name = type(error).__name__
    if isinstance(error, Rejected):
        # Refused before any I/O, by this machine: the backend's record stays clean.
        return Verdict(
            CONCURRENCY,
            Sent.NO,
            reason=name,
            retry_after=error.retry_after,
            local=True,
            evidence="holdfast",
        )
    retry_after = error.retry_after if isinstance(error, DeadlineExceeded) else None
    return Verdict(TIMEOUT, reason=name, retry_after=retry_after, evidence="holdfast")


def _as_connecting(verdict: Verdict) -> Verdict:
    """Return the verdict of a failure before the connection was up."""
    kind = CONNECT if verdict.kind in (TRANSIENT, TIMEOUT) else verdict.kind
    if kind is verdict.kind and verdict.sent is Sent.NO:
        return verdict
    return replace(verdict, kind=kind, sent=Sent.NO)
