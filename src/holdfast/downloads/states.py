"""The states of an item, as one table. Code asks the table; a test walks every cell.

    planned -> queued -> active -> verifying -> finishing -> done
                 ^         |  `--------------------------'
                 |         +-> paused, needs-url, failed, skipped, cancelled
                 `-- added again, or a new run

`verifying` is not journaled: a process that dies in it verifies again.
"""

from __future__ import annotations

import enum


class State(enum.StrEnum):
    """Where an item is.

    PLANNED    in the journal, not yet looked at
    QUEUED     waits for a worker
    ACTIVE     a worker has it
    PAUSED     stopped with work left: disk full, interrupted, or the host asked to wait
    NEEDS_URL  its signed address is not known any more
    VERIFYING  all bytes are there and are being checked
    FINISHING  checked; the rename is due
    DONE       the final name is there
    SKIPPED    the final name was there before
    FAILED     it ended without its file
    CANCELLED  somebody took it back
    """

    PLANNED = "planned"
    QUEUED = "queued"
    ACTIVE = "active"
    PAUSED = "paused"
    NEEDS_URL = "needs-url"
    VERIFYING = "verifying"
    FINISHING = "finishing"
    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Input(enum.StrEnum):
    """What moves an item."""

    ADD = "add"  # somebody wants it (again)
    QUEUE = "queue"  # a run begins
    START = "start"  # a worker takes it
    PAUSE = "pause"
    EXPIRE = "expire"  # the signed address is not valid, or not known
    WHOLE = "whole"  # all bytes are there
    AGAIN = "again"  # they are not the right ones: from zero
    PROVEN = "proven"
    PUBLISHED = "published"
    SKIP = "skip"
    FAIL = "fail"
    LOST = "lost"  # the final file has gone or changed
    CANCEL = "cancel"


_S, _I = State, Input
_OPEN = (_S.PLANNED, _S.QUEUED, _S.ACTIVE, _S.PAUSED, _S.NEEDS_URL, _S.VERIFYING, _S.FINISHING)
_ENDED = (_S.DONE, _S.SKIPPED, _S.FAILED, _S.CANCELLED)

TRANSITIONS: dict[tuple[State, Input], State] = {
    # Adding what is under way changes nothing; what ended without its file starts afresh.
    **{(state, _I.ADD): state for state in (*_OPEN, _S.DONE, _S.SKIPPED)},
    (_S.NEEDS_URL, _I.ADD): _S.QUEUED,
    (_S.FAILED, _I.ADD): _S.QUEUED,
    (_S.CANCELLED, _I.ADD): _S.QUEUED,
    # A run begins: whatever another process left is taken up. `finishing` goes on as it is.
    **{(state, _I.QUEUE): _S.QUEUED for state in _OPEN},
    (_S.FINISHING, _I.QUEUE): _S.FINISHING,
    (_S.QUEUED, _I.START): _S.ACTIVE,
    (_S.ACTIVE, _I.PAUSE): _S.PAUSED,
    **{(state, _I.PAUSE): _S.PAUSED for state in (_S.PLANNED, _S.QUEUED, _S.PAUSED)},
    (_S.VERIFYING, _I.PAUSE): _S.PAUSED,
    (_S.FINISHING, _I.PAUSE): _S.FINISHING,
    (_S.QUEUED, _I.EXPIRE): _S.NEEDS_URL,
    (_S.ACTIVE, _I.EXPIRE): _S.NEEDS_URL,
    (_S.ACTIVE, _I.WHOLE): _S.VERIFYING,
    (_S.VERIFYING, _I.AGAIN): _S.ACTIVE,
    (_S.VERIFYING, _I.PROVEN): _S.FINISHING,
    (_S.FINISHING, _I.PUBLISHED): _S.DONE,
    (_S.FINISHING, _I.LOST): _S.QUEUED,
    (_S.DONE, _I.LOST): _S.QUEUED,
    (_S.SKIPPED, _I.LOST): _S.QUEUED,
    **{(state, _I.SKIP): _S.SKIPPED for state in (_S.QUEUED, _S.ACTIVE, _S.FINISHING)},
    **{
        (state, _I.FAIL): _S.FAILED
        for state in (_S.PLANNED, _S.QUEUED, _S.ACTIVE, _S.VERIFYING, _S.FINISHING)
    },
    **{(state, _I.CANCEL): _S.CANCELLED for state in (*_OPEN, _S.FAILED)},
}


def after(state: State, happened: Input) -> State:
    """Return the next state. Raises ValueError for a cell that does not exist: a defect."""
    found = TRANSITIONS.get((state, happened))
    if found is None:
        raise ValueError(f"`{happened}` does not apply to an item that is {state}")
    return found


def is_open(state: State) -> bool:
    """Whether there is work left."""
    return state in _OPEN
