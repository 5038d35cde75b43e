"""What a row of a classification table is, and what a provider's code table is.

Rows are data. They are keyed by what a machine can compare: the qualified name of an
exception type, an errno, an HTTP status, a provider's code; never by text meant for people.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from holdfast.core.verdict import Kind, Sent

if TYPE_CHECKING:
    from collections.abc import Mapping

By = Literal["type", "errno", "getaddrinfo", "status", "holdfast"]

# How near to the raised error a type must be for its row to count. A `KeyError` that was
# being handled when a socket failed (`__context__`) says nothing about the socket, and a
# cancellation inside another library's timeout does not mean that our caller gave up.
ANYWHERE, CAUSED, ITSELF = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Row:
    """What one type, errno, status or code means.

    kind, sent, local, max_retries, not_executed, retry_after: as in `Verdict`.
    Of types only:
    by: what decides: "type" (this row), "errno", "getaddrinfo" (its code, kept as errno),
    "status" (the HTTP status that the error carries) or "holdfast" (one of our own errors);
    this row is for when that is missing, unless its kind is UNKNOWN.
    inside: a classified error inside this one goes before all of that.
    errno: the name of the errno that the type itself stands for.
    connecting: what failed under it failed while connecting, so nothing was sent.
    provider: whose codes the error carries.
    needs: ANYWHERE in the chain, CAUSED by explicit links only, or the error ITSELF.
    """

    kind: Kind
    sent: Sent = Sent.MAYBE
    local: bool = False
    max_retries: int | None = None
    not_executed: bool = False
    retry_after: float | None = None
    by: By = "type"
    inside: bool = False
    errno: str = ""
    connecting: bool = False
    provider: str | None = None
    needs: int = ANYWHERE


@dataclass(frozen=True, slots=True)
class Provider:
    """The codes of one API.

    name: for reasons ("kling 1303").
    codes: code -> row; these win over the status.
    weak: code -> row, for codes that decide only where no status of 400 or more does (an
    error event inside a stream that began with 200).
    rest: for a code that stands nowhere, if the API's codes are all there is.
    paths: where an error object or a parsed body keeps its code: names of attributes or keys,
    most specific path first.
    """

    name: str
    codes: Mapping[str, Row]
    weak: Mapping[str, Row] = field(default_factory=dict)
    rest: Row | None = None
    paths: tuple[tuple[str, ...], ...] = (("code",),)


def rows(row: Row, names: str, prefix: str = "") -> dict[str, Row]:
    """Return `row` under every one of the space-separated `names`, each after `prefix`."""
    return {prefix + name: row for name in names.split()}
