r"""The states of one request, from its last byte to the last byte of its answer.

    choosing --> connecting --> sending --> sent --> answering --> passing --> over
       |   ^        |              |         |           |
       v   |        |              |         |           |
    waiting|        v              v         v           v
           +--------+--------------+---------+-----------+   what failed, before anything was passed

What leads from one to another is in the table, and nowhere else. `passing` is the point of no
return: something was given to the client, so that no other endpoint can answer.
"""

from __future__ import annotations

import enum


class State(enum.IntEnum):
    """Where a request is.

    CHOOSING    which endpoint is asked next; nothing is under way
    WAITING     for an endpoint that cools down, for a place, or for the end of a backoff
    CONNECTING  an endpoint was chosen, and a connection to it is being made
    SENDING     a large body is on its way to the endpoint, as it comes
    SENT        all of the request was written, and no byte of the answer has come
    ANSWERING   the answer comes, and is held back
    PASSING     the answer comes, and is passed on
    OVER        answered, refused, given up or left by the client
    """

    CHOOSING = 0
    WAITING = 1
    CONNECTING = 2
    SENDING = 3
    SENT = 4
    ANSWERING = 5
    PASSING = 6
    OVER = 7


class Input(enum.IntEnum):
    """What happens to a request.

    WAIT    nobody can be asked now     WOKEN     somebody may be, now
    DIAL    a connection is to be made  UPLOAD    there is one, and the body is still coming
    SEND    all of it was written       ANSWER    the head of the answer is there
    COMMIT  some of it is passed on     FAIL      the attempt has come to nothing
    END     nothing more is done for it
    """

    WAIT = 0
    WOKEN = 1
    DIAL = 2
    UPLOAD = 3
    SEND = 4
    ANSWER = 5
    COMMIT = 6
    FAIL = 7
    END = 8


# As names of this module: a member looked up in its class costs as much as the table.
CHOOSING, WAITING, CONNECTING, SENDING, SENT, ANSWERING, PASSING, OVER = State
WAIT, WOKEN, DIAL, UPLOAD, SEND, ANSWER, COMMIT, FAIL, END = Input

TRANSITIONS: dict[tuple[State, Input], State] = {
    (CHOOSING, WAIT): WAITING,
    (CHOOSING, DIAL): CONNECTING,
    (CHOOSING, UPLOAD): SENDING,
    (CHOOSING, SEND): SENT,
    (CHOOSING, END): OVER,
    (WAITING, WOKEN): CHOOSING,
    (WAITING, END): OVER,
    (CONNECTING, UPLOAD): SENDING,
    (CONNECTING, SEND): SENT,
    (CONNECTING, FAIL): CHOOSING,
    (CONNECTING, END): OVER,
    (SENDING, SEND): SENT,
    (SENDING, DIAL): CONNECTING,  # the kept connection was dead: a fresh one to the same endpoint
    (SENDING, ANSWER): ANSWERING,  # some servers answer before they have read the request
    (SENDING, FAIL): CHOOSING,
    (SENDING, END): OVER,
    (SENT, DIAL): CONNECTING,
    (SENT, ANSWER): ANSWERING,
    (SENT, FAIL): CHOOSING,
    (SENT, END): OVER,
    (ANSWERING, COMMIT): PASSING,
    (ANSWERING, FAIL): CHOOSING,
    (ANSWERING, END): OVER,
    (PASSING, END): OVER,
}
"""What each state turns into. What is missing cannot happen, and is an error of ours."""
