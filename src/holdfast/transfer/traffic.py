"""What a transfer asks of whoever runs many of them: connections, company and pace.

A transfer knows its object, and nothing of the others. Who runs them knows how many
connections a host bears, which threads are free, and how fast all may be together. Each
exchange is a `Flow`; an object that several streams may fetch is offered, and free threads
come to help.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from holdfast.transfer.plane import Received
    from holdfast.transfer.wanted import Attempt
    from holdfast.wire.cancel import Cancel


class Flow(Protocol):
    """One exchange, as seen from outside.

    cancel: ends it. That is no failure, and the stream goes on with a new connection, but
    for too_slow: then it was ended because hardly a byte came.
    """

    cancel: Cancel
    too_slow: bool

    def moved(self, n: int) -> None:
        """Count `n` bytes, 0 for the head; waits if they came faster than they may."""

    def ended(self, received: Received, *, resumed: bool) -> None:
        """Say how the exchange ended. resumed: the object had answered well before."""


class Shared(Protocol):
    """An object that several streams may fetch."""

    @property
    def host(self) -> str:
        """Whom it is fetched from."""
        ...

    @property
    def streams(self) -> int:
        """How many streams fetch it now."""
        ...

    @property
    def wants_help(self) -> bool:
        """Whether there is something to do for one more."""
        ...

    def help(self, attempts: Callable[[str, Cancel], Iterable[Attempt]]) -> None:
        """Be one more stream on this thread, until there is nothing to do for it.

        attempts: of a policy, for a host; their waits end when the `Cancel` is set.
        """


class Traffic(Protocol):
    """Who runs the transfers. Every method may be called from any thread."""

    piece: int | None
    """Bytes that a stream should hand on at once, at most."""

    def streams(self, host: str) -> int:
        """Return how many streams one object may count on now, itself included."""
        ...

    def may_stay(self, host: str) -> bool:
        """Return whether a helper may go on: there are not too many connections."""
        ...

    def flow(self, host: str, cancel: Cancel) -> AbstractContextManager[Flow]:
        """Wait until the host may be asked, or `cancel` is set, and begin an exchange."""
        ...

    def offer(self, work: Shared) -> None:
        """Let others help."""

    def withdraw(self, work: Shared) -> None:
        """Let nobody more help."""


class _Plain:
    def __init__(self, cancel: Cancel) -> None:
        self.cancel = cancel
        self.too_slow = False

    def moved(self, n: int) -> None:
        """Count nothing."""

    def ended(self, received: Received, *, resumed: bool) -> None:
        """Learn nothing."""


class Alone:
    """One transfer by itself: one stream, no limits."""

    piece: int | None = None

    def streams(self, host: str) -> int:  # noqa: ARG002 - the same for all
        """One."""
        return 1

    def may_stay(self, host: str) -> bool:  # noqa: ARG002 - the same for all
        """Nobody came."""
        return True

    @contextmanager
    def flow(self, host: str, cancel: Cancel) -> Iterator[Flow]:  # noqa: ARG002 - see above
        """Begin at once."""
        with cancel.child() as mine:
            yield _Plain(mine)

    def offer(self, work: Shared) -> None:
        """Nobody hears it."""

    def withdraw(self, work: Shared) -> None:
        """Nobody hears it."""
