"""What came of a run of `gateway_speed.py`: the tables and the goals."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Sample = dict[str, float]
Samples = dict[str, dict[str, list[Sample]]]
DIRECT = "(no proxy)"

COLUMNS = {
    "requests": {"us": "CPU us / request", "per_core": "requests / s of CPU",
                 "per_second": "requests / s", "rss": "RSS MiB"},
    "latency": {"p50": "p50 ms", "p99": "p99 ms"},
    "streams": {"us": "CPU us / token", "core": "share of a core", "tokens": "tokens / s",
                "rss_stream": "RSS KiB / stream", "p50": "p50 ms", "p99": "p99 ms"},
    "abort": {"running": "streams before", "left": "upstream streams after 1 s",
              "rss": "RSS after / before"},
    "slow": {"opened": "slow heads", "closed": "share closed", "closed_after": "at most after s",
             "p99_before": "p99 ms without", "p99": "p99 ms beside them",
             "good_failed": "good ones that failed"},
}  # fmt: skip
TITLES = {
    "requests": "requests: CPU per request",
    "latency": "latency: 1,000 requests a second",
    "streams": "streams: CPU per token",
    "abort": "abort: 200 clients leave",
    "slow": "slow: heads byte by byte",
}
RATIO_OF = "us"


@dataclass(frozen=True)
class Goal:
    """`subject` has at most `most` (or at least, if `least`) of `what`; with a peer: by its."""

    load: str
    subject: str
    what: str
    most: float
    peer: str = ""
    least: bool = False


GOALS = (
    Goal("requests", "holdfast bare", "us", 1.8, "nginx"),
    Goal("requests", "holdfast", "us", 2.5, "nginx"),
    Goal("requests", "holdfast", "us", 0.8, "Envoy"),
    Goal("requests", "holdfast", "per_core", 4.0, "granian+aiohttp", least=True),
    Goal("requests", "holdfast", "per_core", 5.0, "aiohttp", least=True),
    Goal("streams", "holdfast", "us", 1.3, "nginx"),
    Goal("streams", "holdfast", "us", 0.7, "Envoy"),
    Goal("streams", "holdfast", "core", 0.5),
    Goal("streams", "holdfast", "rss_stream", 16.0),
    Goal("streams", "holdfast", "added p50 ms", 0.2),
    Goal("streams", "holdfast", "p99", 1.5, "nginx"),
    Goal("abort", "holdfast", "left", 0.0),
    Goal("abort", "holdfast", "rss", 1.1),
    Goal("slow", "holdfast", "closed", 1.0, least=True),
    Goal("slow", "holdfast", "closed_after", 10.1),
    Goal("slow", "holdfast", "p99 by p99 without", 1.2),
)


def middle(samples: Sequence[Sample], what: str) -> float:
    """Return the median of one figure."""
    return median(sample[what] for sample in samples)


def ratio(ours: Sequence[Sample], theirs: Sequence[Sample], what: str) -> float:
    """Return the median over rounds of our figure by theirs."""
    return median(a[what] / b[what] for a, b in zip(ours, theirs, strict=True) if b[what])


def tables(samples: Samples) -> dict[str, list[str]]:
    """Return a table per load; where CPU was measured, with ratios to nginx and to Envoy."""
    return {load: _table(load, taken) for load, taken in samples.items()}


def _table(load: str, taken: dict[str, list[Sample]]) -> list[str]:
    columns = COLUMNS[load]
    peers = [name for name in ("nginx", "Envoy") if name in taken and RATIO_OF in columns]
    head = [TITLES[load], *columns.values(), *(f"/ {name}" for name in peers)]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for name, found in taken.items():
        cells = [name, *(_text(middle(found, what), what) for what in columns)]
        for peer in peers:
            known = name != DIRECT
            cells.append(f"{ratio(found, taken[peer], RATIO_OF):.2f}" if known else "")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _text(value: float, what: str) -> str:
    if what in {"per_core", "per_second", "tokens", "opened", "running", "left", "good_failed"}:
        return f"{value:,.0f}"
    return f"{value:.1f}" if what in {"us", "rss_stream", "closed_after"} else f"{value:.2f}"


def reached(goal: Goal, taken: dict[str, list[Sample]]) -> float | None:
    """Return what a goal is about, as measured; None if somebody was not measured."""
    ours = taken.get(goal.subject)
    if not ours:
        return None
    if goal.what == "added p50 ms":
        direct = taken.get(DIRECT)
        return middle(ours, "p50") - middle(direct, "p50") if direct else None
    if goal.what == "p99 by p99 without":
        return median(sample["p99"] / sample["p99_before"] for sample in ours)
    if not goal.peer:
        return middle(ours, goal.what)
    theirs = taken.get(goal.peer)
    return ratio(ours, theirs, goal.what) if theirs else None


def judged(samples: Samples) -> Iterator[dict[str, Any]]:
    """Yield each goal with what was measured."""
    for goal in GOALS:
        value = reached(goal, samples.get(goal.load, {}))
        if value is not None:
            value = round(value, 3)
            met = value >= goal.most if goal.least else value <= goal.most
            yield {**asdict(goal), "measured": value, "met": met}


def goal_table(goals: Sequence[dict[str, Any]]) -> list[str]:
    """Return the goals, a line each."""
    lines = ["| load | of | what | by | measured | goal | |", "|---|---|---|---|---:|---:|---|"]
    for goal in goals:
        sign = ">=" if goal["least"] else "<="
        met = "met" if goal["met"] else "not met"
        cells = (goal["load"], goal["subject"], goal["what"], goal["peer"], goal["measured"],
                 f"{sign} {goal['most']}", met)  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines
