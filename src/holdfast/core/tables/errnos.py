"""errno -> what it means, in the two phases of an attempt.

While a connection is being made nothing has been sent, and a fault of the network is
CONNECT. Later the same errno means that something broke on the way. An errno that stands
in no table is UNKNOWN. Names that a platform lacks are skipped there.
"""

from __future__ import annotations

import errno

from holdfast.core.tables.row import Row, rows
from holdfast.core.verdict import (
    CANCELLED,
    CONCURRENCY,
    CONNECT,
    PERMANENT,
    TIMEOUT,
    TRANSIENT,
    UNKNOWN,
    Sent,
    Verdict,
)

# True while connecting, False after, None if that is not known.
Phase = bool | None

_NETWORK = "ECONNRESET ECONNABORTED EPIPE EHOSTUNREACH ENETUNREACH EHOSTDOWN ENETDOWN"

# Only connect() (or the bind before it) can answer these, so they mean the same in every phase.
_ONLY_CONNECTING = "ECONNREFUSED ENONET EADDRNOTAVAIL"

_ANY_PHASE = {
    # This machine's limits: neither the backend's fault nor worth a breaker's attention.
    **rows(Row(CONCURRENCY, local=True), "EMFILE ENFILE ENOBUFS ENOMEM"),
    **rows(
        Row(PERMANENT, local=True),
        "EACCES EPERM EINVAL EBADF ENOTSOCK EAFNOSUPPORT EPROTONOSUPPORT EMSGSIZE EADDRINUSE"
        " ENAMETOOLONG ENOSPC EDQUOT EROFS EFBIG EIO",
    ),
    "ECANCELED": Row(CANCELLED),
}

# While connecting (the second table goes before the first) and later.
CONNECTING: dict[str, Row] = {
    **rows(Row(CONNECT, Sent.NO), f"{_NETWORK} {_ONLY_CONNECTING} ETIMEDOUT"),
    # A Unix socket: its queue is full; nobody has made it yet.
    **rows(Row(CONNECT, Sent.NO), "EAGAIN ENOENT"),
    **_ANY_PHASE,
}

LATER: dict[str, Row] = {
    **rows(
        Row(TRANSIENT),
        f"{_NETWORK} ENETRESET ENOTCONN ESHUTDOWN EPROTO ECOMM ENOLINK EREMOTEIO EINTR EAGAIN",
    ),
    **rows(Row(TIMEOUT), "ETIMEDOUT ETIME"),
    **rows(Row(CONNECT, Sent.NO), _ONLY_CONNECTING),
    **_ANY_PHASE,
}


# getaddrinfo's own codes, which are no errnos: glibc and musl below zero, BSD and macOS
# above, Windows from 11001 on. The three ranges do not meet, so one table serves all.
# A resolver that is busy or broken recovers; a name that is not there may appear within
# one more try (a fresh DNS record, a VPN coming up), but rarely within five.
_NAME_AGAIN = Row(CONNECT, Sent.NO)
_NAME_ABSENT = Row(CONNECT, Sent.NO, max_retries=1)
_NAME_WRONG = Row(PERMANENT, Sent.NO)
_NO_MEMORY = Row(CONCURRENCY, Sent.NO, local=True)

GETADDRINFO: dict[int, tuple[str, Row]] = {
    **dict.fromkeys((-3, 2, 11002), ("EAI_AGAIN", _NAME_AGAIN)),
    **dict.fromkeys((-4, 4, 11003), ("EAI_FAIL", _NAME_AGAIN)),
    **dict.fromkeys((-2, 8, 11001), ("EAI_NONAME", _NAME_ABSENT)),
    **dict.fromkeys((-5, 7, 11004), ("EAI_NODATA", _NAME_ABSENT)),
    **dict.fromkeys((-10, 6), ("EAI_MEMORY", _NO_MEMORY)),
}


def verdict_for_errno(number: int, connecting: Phase) -> Verdict:
    """Return what an OSError with this errno means."""
    found = _VERDICTS[connecting].get(number)
    if found is None:
        name = errno.errorcode.get(number, f"errno {number}")
        found = Verdict(UNKNOWN, reason=name, evidence="unknown", max_retries=1)
    return found


def verdict_for_getaddrinfo(number: object) -> Verdict:
    """Return what a gaierror with this code (an integer, or nothing of use) means."""
    name, row = "gaierror", _NAME_ABSENT  # made by a resolver that is not libc's
    if type(number) is int:
        name, row = GETADDRINFO.get(number, (f"gaierror {number}", _NAME_WRONG))
    return Verdict(
        row.kind,
        row.sent,
        reason=name,
        local=row.local,
        evidence="getaddrinfo",
        max_retries=row.max_retries,
    )


def _verdicts(phase: Phase) -> dict[int, Verdict]:
    found = {}
    for name, row in (LATER | CONNECTING if phase else LATER).items():
        number = getattr(errno, name, None)
        if number is None:
            continue
        kind, sent = row.kind, Sent.NO if phase else row.sent
        if phase and kind in (TRANSIENT, TIMEOUT):
            kind = CONNECT
        elif phase is False and kind is CONNECT:
            # Only connect() answers so, but the caller knows that a connection was up: this
            # is a second one (a redirect, FTP's data). What went out first is not undone.
            kind, sent = TRANSIENT, Sent.MAYBE
        found[number] = Verdict(kind, sent, reason=name, local=row.local, evidence="errno")
    return found


_VERDICTS: dict[Phase, dict[int, Verdict]] = {
    phase: _verdicts(phase) for phase in (True, False, None)
}
