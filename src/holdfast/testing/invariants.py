"""What must hold in every run, whatever went wrong in it.

A scenario tells a `Ledger` what it saw; the ledger says what was wrong with that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.testing.simulation import Sim

TICK = 1e-3
"""Seconds that a deadline may be exceeded by: one tick of a timer."""


@dataclass(slots=True)
class _Call:
    start: float
    deadline: float
    outcome: str = ""


class Ledger:
    """Keeps one line per logical call: exactly one outcome, in time, a good one after the storm.

    recovery: seconds after the end of the faults from which a call that starts must succeed;
    None: nothing is demanded.
    """

    def __init__(self, sim: Sim, *, recovery: float | None = None) -> None:
        self._sim = sim
        self._recovery = recovery
        self._calls: dict[object, _Call] = {}
        self._slept = self._woke = -1.0

    def started(self, call: object, limit: float) -> None:
        """Note that a logical call begins; it must end within `limit` seconds and a tick."""
        self._sim.calls += 1
        now = self._sim.clock.monotonic()
        self._calls[call] = _Call(now, now + limit)

    def suspended(self, begin: float) -> None:
        """Note that the machine slept from `begin` until now: no deadline could be kept."""
        self._slept, self._woke = begin, self._sim.clock.monotonic()

    def ended(self, call: object, outcome: str) -> None:
        """Note how a logical call ended: "ok", "cancelled", or the name of an error."""
        sim, line = self._sim, self._calls[call]
        now = sim.clock.monotonic()
        sim.trace.add("outcome", call, outcome, now)
        sim.check(not line.outcome, "two outcomes", f"call {call}: {line.outcome}, {outcome}")
        due = max(line.deadline, self._woke) if line.start <= self._slept else line.deadline
        sim.check(now <= due + TICK, "late", f"call {call}: {now - due:.6f} s")
        line.outcome = outcome
        if self._recovery is not None and line.start >= sim.faults.until + self._recovery:
            sim.check(
                outcome in ("ok", "cancelled"),
                "no recovery",
                f"call {call}: {outcome}, {line.start - sim.faults.until:.3f} s after the faults",
            )

    def finish(self) -> dict[str, int]:
        """Check that every call had an outcome; return how many calls had which."""
        counts: dict[str, int] = {}
        for call, line in self._calls.items():
            self._sim.check(line.outcome, "no outcome", f"call {call}")
            counts[line.outcome] = counts.get(line.outcome, 0) + 1
        return dict(sorted(counts.items()))
