"""The errors that Holdfast itself decides to raise.

    HoldfastError
    |-- Rejected                      refused before any I/O; `retry_after` says when to come back
    |   |-- CircuitOpen               the breaker of this key is open, isolated or out of probes
    |   |-- BulkheadFull              no permit and no place in the queue (or no worker thread)
    |   |-- RateLimited               the next slot lies beyond the deadline
    |   `-- BudgetEmpty               client throttling: the backend accepts too little of the load
    |-- Stopped                       the event given as `stop=` was set during a wait
    `-- DeadlineExceeded              also a TimeoutError; the operation's own time is over

Foreign exceptions are never wrapped: they pass through with a note. One of ours
therefore always means that *we* decided.
"""

from __future__ import annotations


class HoldfastError(Exception):
    """Base of every error that Holdfast raises by its own decision.

    code: stable, documented (`HF-5xxx` for the core and the clients).
    """

    code = "HF-5000"


class _Decision(HoldfastError):
    """Carries the data of a decision, and pickles with it."""

    def __init__(
        self,
        message: str = "",
        *,
        retry_after: float | None = None,
        policy: str = "",
        key: str = "",
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.policy = policy
        self.key = key

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (str(self),), self.__dict__)


class Rejected(_Decision):
    """The call was refused before any I/O, so it was certainly not executed.

    retry_after: seconds until a new call may be admitted; None if unknown.
    policy, key: which policy and which of its keys refused.
    """

    code = "HF-5100"


class CircuitOpen(Rejected):
    """The breaker of this key is open, isolated, or has all its probes out."""

    code = "HF-5101"


class BulkheadFull(Rejected):
    """All permits are taken and the queue is full (or all worker threads are)."""

    code = "HF-5102"


class RateLimited(Rejected):
    """The next slot of the rate limit lies beyond the deadline; nothing was reserved."""

    code = "HF-5103"


class BudgetEmpty(Rejected):
    """Client throttling refused the call: the backend accepts too small a share of the load."""

    code = "HF-5104"


class Stopped(_Decision):
    """A wait between attempts was ended by the event given as `stop=`; nothing else happened."""

    code = "HF-5300"


class DeadlineExceeded(_Decision, TimeoutError):
    """The time for the whole operation is over.

    retry_after: seconds that the server asked to wait, if that hint ended the operation.
    """

    code = "HF-5200"
