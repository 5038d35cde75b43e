"""What a run brought, counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.downloads.states import State

if TYPE_CHECKING:
    from holdfast.downloads.fetch import Outcome
    from holdfast.downloads.items import Item
    from holdfast.downloads.rows import Small


class Tally:
    """What the workers brought. Whoever uses it holds a lock."""

    def __init__(self) -> None:
        self.done = 0
        self.skipped = 0
        self.unverified = 0
        self.checked: dict[str, int] = {}
        self.bytes = 0
        self.fetched = 0
        self.waste = 0
        self.left_why: set[str] = set()
        self.failed: set[str] = set()

    def count(self, verified: str) -> None:
        """Count by what a file was checked."""
        self.unverified += verified == "unverified"
        self.checked[verified] = self.checked.get(verified, 0) + 1

    def add(self, item: Item | Small, outcome: Outcome, *, again: bool) -> None:
        """Count an end. again: the item goes on, so only its bytes count."""
        self.fetched += outcome.received
        self.waste += outcome.wasted
        if again:
            return
        if outcome.state is State.DONE:
            self.done += 1
            self.bytes += outcome.size
            self.count(outcome.verified)
        elif outcome.state is State.SKIPPED:
            self.skipped += 1
        elif outcome.failure is not None:
            if outcome.state is State.FAILED:
                self.failed.add(item.id)
            elif outcome.state is not State.CANCELLED:
                self.left_why.add(outcome.failure.reason)
