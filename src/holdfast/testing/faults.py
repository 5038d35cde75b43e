"""Which faults happen in a run: drawn from the seed, recorded, replayed, and shrunk.

A run asks at every *opportunity* ("connect number 17") what should go wrong there. The answer
depends on the seed, the point and the number only: leaving one fault out changes no other draw.
That is what makes shrinking work. What was answered is recorded as a `Decision`; a file of
decisions replays exactly these and draws nothing.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from holdfast.runtime.random import SeededRandom
    from holdfast.testing.trace import Trace


@dataclass(frozen=True, slots=True)
class Decision:
    """One fault that a run has.

    point: the kind of opportunity ("connect", "stream", "attempt", ...).  no: its number.
    kind: the fault.  x, y: two draws in [0, 1) for its particulars (which byte, how long).
    """

    point: str
    no: int
    kind: str
    x: float
    y: float


class Faults:
    """Answers what goes wrong at each opportunity.

    source: the generator; each point gets a child of its own.
    rates: point -> {kind: chance}. The chances of one point sum to at most 1.
    until: virtual time in seconds from which nothing fails any more.
    replay: give exactly these decisions instead of drawing.
    """

    def __init__(
        self,
        source: SeededRandom,
        rates: Mapping[str, Mapping[str, float]],
        *,
        until: float = math.inf,
        replay: Iterable[Decision] | None = None,
        trace: Trace | None = None,
    ) -> None:
        for point, kinds in rates.items():
            if sum(kinds.values()) > 1.0 + 1e-9:
                raise ValueError(f"rates[{point!r}]: {dict(kinds)}: the chances exceed 1")
        self.rates = {point: tuple(kinds.items()) for point, kinds in rates.items()}
        self.until = until
        self.taken: list[Decision] = []
        self._source = source
        self._trace = trace
        self._draws: dict[str, Callable[[], float]] = {}
        self._count: dict[str, int] = {}
        self._replay = None if replay is None else {(d.point, d.no): d for d in replay}

    def at(self, point: str, now: float) -> Decision | None:
        """Return the fault of the next opportunity of this kind, or None."""
        no = self._count.get(point, 0)
        self._count[point] = no + 1
        if self._replay is not None:
            decision = self._replay.get((point, no))
        else:
            decision = self._draw(point, no)
        if decision is None or now >= self.until:
            return None
        self.taken.append(decision)
        if self._trace is not None:
            self._trace.add("fault", point, no, decision.kind, decision.x, decision.y)
        return decision

    def _draw(self, point: str, no: int) -> Decision | None:
        kinds = self.rates.get(point)
        if not kinds:
            return None
        draw = self._draws.get(point)
        if draw is None:
            draw = self._draws[point] = self._source.child(point).draw
        # Always three draws: the n-th opportunity sees the same ones whatever came before.
        u, x, y = draw(), draw(), draw()
        for kind, chance in kinds:
            if u < chance:
                return Decision(point, no, kind, x, y)
            u -= chance
        return None


class Swarm:
    """Draws which kinds of fault a seed has at all, and how often (swarm testing).

    A run in which everything fails a little hides what needs one fault often and another never.
    Source: Groce et al., "Swarm Testing", ISSTA 2012.
    """

    def __init__(self, source: SeededRandom) -> None:
        self._source = source

    def chance(self, present: float, low: float, high: float) -> float:
        """Return 0 unless the kind is present; else a rate between `low` and `high`, log-uniform.

        present: the chance that this seed has the kind at all.
        """
        there, level = self._source.draw() < present, self._source.draw()
        return low * (high / low) ** level if there else 0.0

    def rates(
        self, kinds: Sequence[str], *, present: float = 0.5, low: float = 0.01, high: float = 0.3
    ) -> dict[str, float]:
        """Return `{kind: chance}` for the kinds that this seed has; the sum is at most 0.9."""
        drawn = {kind: self.chance(present, low, high) for kind in kinds}
        scale = min(1.0, 0.9 / (sum(drawn.values()) or 1.0))
        return {kind: rate * scale for kind, rate in drawn.items() if rate}

    def between(self, low: float, high: float) -> float:
        """Return a number between `low` and `high` (> 0), log-uniform."""
        return float(low * (high / low) ** self._source.draw())

    def whole(self, low: int, high: int) -> int:
        """Return an integer in [low, high], uniform."""
        return self._source.between(low, high)


def to_json(decisions: Sequence[Decision]) -> str:
    """Return the decisions as text, one per line, for `--decisions FILE`."""
    return "".join(json.dumps(asdict(decision)) + "\n" for decision in decisions)


def from_json(text: str) -> list[Decision]:
    """Read what `to_json` wrote."""
    return [Decision(**json.loads(line)) for line in text.splitlines() if line.strip()]


def shrink(
    decisions: Sequence[Decision], fails: Callable[[list[Decision]], bool], *, max_runs: int = 400
) -> list[Decision]:
    """Return few of `decisions` with which the run still fails: halves first, then singles.

    fails: runs with these decisions and says whether the failure is still there.
    max_runs: stop after this many runs and return the best so far.
    The result is 1-minimal if the runs sufficed: without any one of them nothing fails.
    """
    runs = 0

    def check(candidate: list[Decision]) -> bool:
        nonlocal runs
        runs += 1
        return fails(candidate)

    kept = list(decisions)
    size = max(1, len(kept) // 2)
    while kept and runs < max_runs:
        dropped = False
        start = 0
        while start < len(kept) and runs < max_runs:
            candidate = kept[:start] + kept[start + size :]
            if check(candidate):
                kept, dropped = candidate, True
            else:
                start += size
        if size == 1 and not dropped:
            break
        # After a success at single size go round again: one drop can make another possible.
        size = max(1, size // 2)
    return kept
