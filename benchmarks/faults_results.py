"""What came of a run of `faults.py`: cells, the table, the goals, the page."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING

from faults_clients import CLIENTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

FAULTS = {
    "none": "no fault",
    "rst": "RST",
    "fin": "FIN",
    "stall": "stall",
    "503": "503 bursts",
    "replaced": "replaced",
    "flipped": "byte flipped",
    "kill": "kill -9, again",
}
MARKS = ("<!-- measured -->", "<!-- end of what was measured -->")
RIGHT, FAILED, SILENT = "right", "F", "S"
_WORSE = (RIGHT, FAILED, SILENT)


@dataclass(frozen=True, slots=True)
class Cell:
    """How one client fared against one fault.

    outcome: RIGHT, FAILED or SILENT (exit code 0 with a wrong file or none).
    ratio: bytes that the origin sent / size.  struck: how often the fault did.
    exit: the exit code; None if it was killed at the ceiling.  stray: files left behind.
    """

    outcome: str
    ratio: float
    seconds: float
    struck: int
    exit: int | None
    stray: int = 0

    def __str__(self) -> str:
        mark = {RIGHT: "", FAILED: "F ", SILENT: "**S** "}[self.outcome]
        left = f" +{self.stray}" if self.stray else ""
        return f"{mark}{self.ratio:.2f}{left}, {self.seconds:.0f} s"


def worst(cells: Sequence[Cell]) -> Cell:
    """Return the worst outcome of several rounds, with the medians of the rounds that had it."""
    outcome = max((cell.outcome for cell in cells), key=_WORSE.index)
    such = [cell for cell in cells if cell.outcome == outcome]
    return replace(
        such[0],
        ratio=median(cell.ratio for cell in such),
        seconds=median(cell.seconds for cell in such),
        stray=max(cell.stray for cell in such),
    )


# -- the table -------------------------------------------------------------------------------

Results = dict[str, dict[str, list[Cell]]]


def table(results: Results, faults: Iterable[str]) -> list[str]:
    """Return the comparison, one line per client."""
    shown = [FAULTS[fault] for fault in faults]
    lines = [f"| client | {' | '.join(shown)} |", "|---" * (len(shown) + 1) + "|"]
    for name, cells in results.items():
        of = [str(worst(cells[fault])) for fault in faults if fault in cells]
        lines.append(f"| {name} | {' | '.join(of)} |")
    return lines


@dataclass(frozen=True, slots=True)
class Goal:
    """An aim. limit: of the bytes sent / size; 0: only the right file counts."""

    client: str
    fault: str
    limit: float = 0.0


OURS = tuple(client.name for client in CLIENTS if client.is_ours)
DIGEST, PIECES = "holdfast, sha256", "holdfast, piece sums"
GOALS = (
    *(Goal(name, fault, 1.01) for name in OURS for fault in ("rst", "fin", "stall")),
    *(Goal(name, "503") for name in OURS),
    *(Goal(name, "replaced", 1.40 + 0.01) for name in OURS),
    Goal(DIGEST, "flipped", 2.02),
    Goal(PIECES, "flipped", 1.1),
    *(Goal(name, "kill", 1.02) for name in OURS),
)


def goals(results: Results) -> Iterator[tuple[str, str, str, bool]]:
    """Yield client, fault, what was aimed at and what came, and whether it was met."""
    for goal in GOALS:
        cells = results.get(goal.client, {}).get(goal.fault)
        if cells is None:
            continue
        cell = worst(cells)
        met = cell.outcome == RIGHT and (not goal.limit or cell.ratio <= goal.limit)
        met = met and not cell.stray
        aim = f"<= {goal.limit:.2f}" if goal.limit else "right"
        yield goal.client, FAULTS[goal.fault], f"{aim}: {cell.outcome} {cell.ratio:.3f}", met
    for name in (name for name in OURS if name in results):
        silent = [FAULTS[f] for f, cells in results[name].items() if worst(cells).outcome == SILENT]
        # One byte that nothing vouches for cannot be found; that is why there are digests.
        allowed = [FAULTS["flipped"]] if name == "holdfast" else []
        yield name, "all", f"none silent: {', '.join(silent) or 'none'}", silent in ([], allowed)
    peer = results.get("aria2c -x4", {}).get("stall")
    ours = results.get("holdfast", {}).get("stall")
    if peer is not None and ours is not None:
        a, b = worst(ours).seconds, worst(peer).seconds
        yield "holdfast", FAULTS["stall"], f"<= aria2c, s: {a:.1f} / {b:.1f}", a <= b


def page(about: dict[str, str], lines: Sequence[str]) -> list[list[str]]:
    """Return what a document says of a run."""
    told = f"{about['date']}; {about['machine']}; {about['python']}; {about['tools']}"
    return [["", f"`{about['command']}`"], [told], [*lines, ""]]
