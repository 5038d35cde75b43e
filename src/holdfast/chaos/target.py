"""The part of a fault's target that the proxy and the server have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.chaos.stats import Hit
from holdfast.runtime.clock import clock
from holdfast.runtime.random import SeededRandom

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from holdfast.chaos.fault import Direction, Draws, Fault, Positioned
    from holdfast.chaos.line import Line, Track
    from holdfast.chaos.stats import Stats


_NOTHING = SeededRandom("nothing drawn yet")


class Struck:
    """A connection or an exchange that faults may hit.

    number: its number.  stats: where hits are counted.  turn_away: what `refuse` does.
    lines: its streams; the subclass fills them in.  kinds: of the faults that hit it so far.
    """

    def __init__(
        self, number: int, stats: Stats, turn_away: Callable[[float | None], None]
    ) -> None:
        self.number = number
        self.stats = stats
        self.refused = False
        self.lines: dict[Direction, Line] = {}
        self.kinds: list[str] = []
        self.rng = _NOTHING
        self._turn_away = turn_away

    def line(self, direction: Direction) -> Line:
        """Return the stream of that direction."""
        return self.lines[direction]

    def track(self, fault: Positioned) -> Track:
        """Return the byte count along which `fault` waits."""
        raise NotImplementedError

    def draw(self, all_draws: Iterable[Draws]) -> list[tuple[Fault, SeededRandom]]:
        """Install the faults that hit this number; return them with their sources."""
        now = clock.monotonic()
        found = []
        for draws in all_draws:
            # Asked in any case: a refusal by one fault must not shift the others' draws.
            source = draws.hit(self.number, now)
            if source is None or self.refused:
                continue
            self.rng = source
            draws.fault.install(self)
            found.append((draws.fault, source))
            if not draws.fault.strikes_later:
                self.tell(draws.fault)
        return found

    def at(self, fault: Positioned, offset: int, strike: Callable[[Line], Awaitable[None]]) -> None:
        """Let `strike` wait for its position; it is counted when it happens."""
        number = self.number  # the draw's own count, which changes for the next draw

        async def strike_and_tell(line: Line) -> None:
            self.tell(fault, offset, number)
            await strike(line)

        self.track(fault).at(offset, strike_and_tell)

    def tell(self, fault: Fault, position: int = 0, number: int | None = None) -> None:
        """Count a strike. number: whose, if not that of the draw at hand."""
        whose = self.number if number is None else number
        self.kinds.append(fault.kind)
        self.stats.struck(Hit(fault.kind, whose, fault.direction, position))

    def refuse(self, seconds: float | None) -> None:
        """Turn the client away."""
        self.refused = True
        self._turn_away(seconds)
