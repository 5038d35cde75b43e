"""The states of one download, what moves it between them, and what a failure leads to.

`SHOWN` says which of aria2's words stands for a state. While the service is away, every open
download is shown as `suspended`; that is a view and no state, so nothing is lost by it.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from holdfast.core.classify import verdict_for_code
from holdfast.core.tables.answers import verdict_for_status
from holdfast.core.verdict import Kind, Verdict


class State(enum.StrEnum):
    """Where a download is.

    PENDING     to be handed to aria2
    WAITING     in aria2's queue
    ACTIVE      aria2 fetches it
    PAUSED      held, by the user or because the disk is full
    RESTARTING  it failed; the wait before the next attempt runs
    FINISHING   whole; it is checked and gets its name
    COMPLETE    there
    ERROR       failed; nothing happens by itself any more
    REMOVED     cancelled
    """

    PENDING = "pending"
    WAITING = "waiting"
    ACTIVE = "active"
    PAUSED = "paused"
    RESTARTING = "restarting"
    FINISHING = "finishing"
    COMPLETE = "complete"
    ERROR = "error"
    REMOVED = "removed"


class Input(enum.StrEnum):
    """What can happen to a download.

    ADD        asked for, perhaps again         QUEUED     aria2 says: waiting
    STARTED    aria2 says: active               STOPPED    aria2 says: paused
    BROKE      it failed, and may be repeated   FAILED     it failed for good
    DUE        the wait is over                 MISSING    aria2 does not know it
    WHOLE      aria2 says: complete             PUBLISHED  checked and named
    HOLD       to be paused                     RELEASE    to go on
    CANCEL     to be removed
    """

    ADD = "add"
    QUEUED = "queued"
    STARTED = "started"
    STOPPED = "stopped"
    BROKE = "broke"
    FAILED = "failed"
    DUE = "due"
    MISSING = "missing"
    WHOLE = "whole"
    PUBLISHED = "published"
    HOLD = "hold"
    RELEASE = "release"
    CANCEL = "cancel"


_S, _I = State, Input
_WITH_ARIA2 = (_S.WAITING, _S.ACTIVE, _S.PAUSED)
_OPEN = (_S.PENDING, *_WITH_ARIA2, _S.RESTARTING, _S.FINISHING)
_ENDED = (_S.COMPLETE, _S.ERROR, _S.REMOVED)

TRANSITIONS: dict[tuple[State, Input], State] = {
    # Adding what is under way changes nothing; what has ended starts afresh.
    **{(state, _I.ADD): state for state in _OPEN},
    **{(state, _I.ADD): _S.PENDING for state in _ENDED},
    # What aria2 says. RESTARTING: somebody else handed it to aria2 meanwhile.
    **{(state, _I.QUEUED): _S.WAITING for state in (_S.PENDING, *_WITH_ARIA2, _S.RESTARTING)},
    **{(state, _I.STARTED): _S.ACTIVE for state in (_S.PENDING, *_WITH_ARIA2, _S.RESTARTING)},
    **{(state, _I.STOPPED): _S.PAUSED for state in (_S.PENDING, *_WITH_ARIA2, _S.RESTARTING)},
    **{(state, _I.WHOLE): _S.FINISHING for state in (_S.PENDING, *_WITH_ARIA2, _S.RESTARTING)},
    # After a kill during FINISHING the journal has that state, and aria2 may have forgotten it.
    **{(state, _I.MISSING): _S.PENDING for state in _OPEN},
    (_S.PAUSED, _I.MISSING): _S.PAUSED,
    (_S.RESTARTING, _I.MISSING): _S.RESTARTING,
    (_S.FINISHING, _I.PUBLISHED): _S.COMPLETE,
    **{(state, _I.BROKE): _S.RESTARTING for state in _OPEN},
    **{(state, _I.FAILED): _S.ERROR for state in _OPEN},
    (_S.RESTARTING, _I.DUE): _S.PENDING,
    # A restart by hand.
    (_S.ERROR, _I.DUE): _S.PENDING,
    **{(state, _I.HOLD): _S.PAUSED for state in (_S.PENDING, *_WITH_ARIA2, _S.RESTARTING)},
    (_S.PAUSED, _I.RELEASE): _S.PENDING,
    # FINISHING has no such cell: the file is there, and is about to get its name.
    **{(state, _I.CANCEL): _S.REMOVED for state in (*_OPEN, _S.ERROR) if state != _S.FINISHING},
}

SHOWN: dict[State, str] = {
    _S.PENDING: "waiting",
    _S.WAITING: "waiting",
    _S.ACTIVE: "active",
    _S.PAUSED: "paused",
    _S.RESTARTING: "waiting",
    _S.FINISHING: "active",
    _S.COMPLETE: "complete",
    _S.ERROR: "error",
    _S.REMOVED: "removed",
}
SUSPENDED = "suspended"

HEARD = {"waiting": Input.QUEUED, "active": Input.STARTED, "paused": Input.STOPPED}
"""aria2's words for what is not over."""


def after(state: State, happened: Input) -> State:
    """Return the next state. Raises ValueError for a cell that does not exist: a defect."""
    found = TRANSITIONS.get((state, happened))
    if found is None:
        raise ValueError(f"`{happened}` does not apply to a download that is {state}")
    return found


def applies(state: State, happened: Input) -> bool:
    """Whether there is such a cell."""
    return (state, happened) in TRANSITIONS


def is_open(state: State) -> bool:
    """Whether there is work left."""
    return state in _OPEN


def is_with_aria2(state: State) -> bool:
    """Whether aria2 is expected to know it."""
    return state in _WITH_ARIA2


# -- failures --------------------------------------------------------------------------------


class Next(enum.StrEnum):
    """What a failure leads to.

    AGAIN   another attempt, with the bytes that are there if something vouches for them
    AFRESH  another attempt, from the first byte
    HOLD    wait until the disk has room
    END     nothing
    """

    AGAIN = "again"
    AFRESH = "afresh"
    HOLD = "hold"
    END = "end"


@dataclass(frozen=True, slots=True)
class Ruling:
    """What to do about a failure. most: restarts without progress for this cause, or None."""

    next: Next
    verdict: Verdict
    most: int | None = None

    @property
    def may_restart(self) -> bool:
        """Whether another attempt may help."""
        return self.next in {Next.AGAIN, Next.AFRESH}


# 8: the server cannot resume. 10: the pieces have another length. 32: the checksum is wrong.
# What is on disk is of no use in any of them.
_AFRESH = frozenset({"8", "10", "32"})
_DISK = "9"
_UNKNOWN = "1"
_STATUS = "22"
_STATUS_IN_TEXT = re.compile(r"\bstatus=([1-5]\d\d)\b")
_UNSUPPORTED = re.compile(r"\bunsupported\b", re.IGNORECASE)
RETRYABLE = Kind.CONNECT | Kind.TRANSIENT | Kind.THROTTLED | Kind.TIMEOUT


def judge(code: str, text: str) -> Ruling:
    """Say what follows from aria2's error code. text: what it says beside it.

    Two codes stand for many causes, and only their text tells those apart: 22 carries the
    HTTP status in it, and 1 is said of refused connections as well as of addresses that aria2
    does not support (or of nothing, with an empty text).
    Source: aria2c(1), EXIT STATUS; texts of aria2 1.36.
    """
    verdict = verdict_for_code("aria2", code)
    if code == _DISK:
        return Ruling(Next.HOLD, verdict)
    if code in _AFRESH:
        return Ruling(Next.AFRESH, verdict, verdict.max_retries)
    if code == _UNKNOWN and (not text.strip() or _UNSUPPORTED.search(text)):
        return Ruling(Next.END, verdict)
    if code == _STATUS and status_in(text):
        verdict = verdict_for_status(status_in(text))
    if verdict.kind & RETRYABLE:
        return Ruling(Next.AGAIN, verdict, verdict.max_retries)
    return Ruling(Next.END, verdict)


def status_in(text: str) -> int:
    """Return the HTTP status in the text of code 22; 0 if there is none."""
    found = _STATUS_IN_TEXT.search(text)
    return int(found[1]) if found is not None else 0
