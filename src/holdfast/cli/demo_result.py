"""What came of one job of `holdfast demo`, in figures."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Result:
    """What one side made of one job.

    asked: how many things; finished: reported as done; wrong: of these, not what they should be.
    requests, sent: what its server received, and the bytes of the bodies that it sent.
    reasons: why the others were not finished -> how many.
    """

    asked: int
    finished: int
    wrong: int
    requests: int
    sent: int
    seconds: float
    reasons: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls, ends: Sequence[tuple[str, bool]], requests: int, sent: int, seconds: float
    ) -> Result:
        """Sum up. ends: why each thing was not finished, or ""; and whether it is wrong."""
        reasons = Counter(why for why, _ in ends if why)
        wrong = sum(wrong for _, wrong in ends)
        finished = len(ends) - reasons.total()
        return cls(len(ends), finished, wrong, requests, sent, seconds, dict(reasons))

    @property
    def right(self) -> bool:
        """Whether all is done, and done right."""
        return self.finished == self.asked and not self.wrong

    def data(self) -> dict[str, object]:
        """Return it for JSON."""
        return {**asdict(self), "seconds": round(self.seconds, 2)}
