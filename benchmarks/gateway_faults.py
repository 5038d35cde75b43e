"""What a client sees of flaky upstreams: holdfast's gateway beside nginx, HAProxy and Envoy.

    python benchmarks/gateway_faults.py [--only PEER] [--fault FAULT] [--requests N] [--rounds N]
                                        [--seed N] [--json FILE] [--page FILE]

Three upstreams (`gateway_upstream`), one of them broken in one way (`idle`, `429` and the
outages: all), a proxy with its defaults in front of them (`gateway_peers`), 16 connections that
send 3,000 POSTs of 1 KiB to /v1/messages, each one request after the other. A cell is the share
of requests that did not get their whole, right answer with 200 within 2 s, and of what kind most
of these were: a status, `cut` (the connection ended before the end of the answer), `timeout`.

In the row `hang` every proxy gives an upstream 2 s (holdfast has that by default, once it knows
how fast the others are) and the client 10 s; after 20 s no further request is sent, since some
need minutes for 3,000. Behind the share: the p99 of further requests, 10 s after the start, as a
multiple of that of the row `none`. Row `429` sends 500 a second, so that each upstream has its
second of throttling more than once. In the outages every answer is a failure; shown is how many
requests (or connections, where none comes about) arrive at the upstreams by request of a client,
after the first 500, when a budget for retries is spent.

With several rounds (other seeds) a cell is the median.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import uvloop
from about import facts, machine, put_into, show
from gateway_load import Load, Seen, quantile
from gateway_peers import Peer, Proxy, Upstreams, there, versions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FAULTS = {
    "none": ("none", ("", "", "")),
    "rst": ("RST on 30 % of requests", ("rst", "", "")),
    "idle": ("idle closed 0-10 ms after the answer", ("idle", "idle", "idle")),
    "hang": ("never answers", ("hang", "", "")),
    "cut": ("RST within 30 % of answers", ("cut", "", "")),
    "503": ("always 503", ("503", "", "")),
    "429": ("429 bursts, in turn", ("429", "429", "429")),
    "out-503": ("all out: 503", ("503", "503", "503")),
    "out-refuse": ("all out: no connection", ("refuse", "refuse", "refuse")),
}
NAMES = ("holdfast", "nginx", "HAProxy", "Envoy")
GOALS = {"none": 0.0, "rst": 0.0, "idle": 0.0, "503": 0.0, "429": 0.0, "hang": 0.001, "cut": 0.001}
"""Shares of requests that may fail, with holdfast in between."""
SLOWER = 2.0
OUTAGE_LOAD = {"out-503": 1.1, "out-refuse": 1.11}
"""By request asked. Connections are counted where none comes about, and probes are such, too."""
SPENT = 500
REQUESTS = 3000
PATIENCE, PATIENCE_HANG = 2.0, 10.0
HANG_MOST = 20.0
SETTLED = 10.0
RATE_429 = 500.0
RATE_BETWEEN = 200.0
MARKS = ("<!-- faults -->", "<!-- end of faults -->")

Results = dict[str, dict[str, list["Cell"]]]


@dataclass(frozen=True, slots=True)
class Cell:
    """One run. asked: requests; failed: kind -> how many of them; seconds: for all of them.

    p99: of good answers, in seconds; settled: of those that came 10 s after the start (`hang`)
    or after the first half (`none`).  struck: how often the fault did.
    load: what arrived at the upstreams by what was asked; in an outage after the first `SPENT`.
    """

    asked: int
    failed: dict[str, int]
    seconds: float
    p99: float
    settled: float
    struck: int
    load: float

    @property
    def share(self) -> float:
        return sum(self.failed.values()) / max(1, self.asked)


# -- one cell ------------------------------------------------------------------------------------


class Trial:
    """One proxy in front of upstreams with one fault."""

    def __init__(self, peer: Peer, fault: str, requests: int, seed: int) -> None:
        self._peer = peer
        self._fault = fault
        self._requests = requests
        self._seed = seed

    def run(self) -> Cell:
        """Send the requests, and return what came of them."""
        hang = self._fault == "hang" and not self._peer.is_ours
        with (
            Upstreams(FAULTS[self._fault][1], seed=self._seed) as upstreams,
            Proxy(self._peer, upstreams.ports, timeout=PATIENCE if hang else 0.0) as proxy,
        ):
            return uvloop.run(self._asked(proxy, upstreams))

    async def _asked(self, proxy: Proxy, upstreams: Upstreams) -> Cell:
        began = time.monotonic()
        load = Load(proxy.port, self._requests, timeout=PATIENCE)
        if self._fault == "hang":
            load.timeout, load.most = PATIENCE_HANG, HANG_MOST
        elif self._fault == "429":
            load.rate = RATE_429
        elif self._fault.startswith("out-"):
            return await self._outage(load, upstreams)
        # The throttling has its seconds from now on.
        upstreams.ask(json.dumps(FAULTS[self._fault][1]))
        seen = await load.run()
        seconds = time.monotonic() - began
        settled = 0.0
        if self._fault in {"hang", "none"}:
            settled = await self._settled(proxy, began, seen)
        return self._cell(seen, seconds, settled, upstreams.ask(), seen.asked)

    async def _settled(self, proxy: Proxy, began: float, seen: Seen) -> float:
        """Return the p99 of further requests, when what can be learnt has been learnt."""
        number = seen.asked
        if self._fault == "hang":
            left = max(0.0, began + SETTLED - time.monotonic())
            between = Load(proxy.port, round(RATE_BETWEEN * left), timeout=PATIENCE_HANG,
                           rate=RATE_BETWEEN, most=left, first=number)  # fmt: skip
            _add(seen, await between.run())
            number += between.requests
        load = Load(proxy.port, self._requests, timeout=PATIENCE_HANG, most=HANG_MOST / 4,
                    first=number)  # fmt: skip
        further = await load.run()
        _add(seen, further)
        return quantile(further.seconds, 0.99)

    async def _outage(self, load: Load, upstreams: Upstreams) -> Cell:
        began = time.monotonic()
        load.requests = min(SPENT, self._requests // 2)
        first = await load.run()
        upstreams.ask(json.dumps(FAULTS[self._fault][1]))
        rest = Load(load.port, self._requests - first.asked, timeout=PATIENCE, first=first.asked)
        seen = await rest.run()
        asked = seen.asked
        _add(seen, first)
        return self._cell(seen, time.monotonic() - began, 0.0, upstreams.ask(), asked)

    def _cell(
        self,
        seen: Seen,
        seconds: float,
        settled: float,
        counts: Sequence[dict[str, int]],
        asked: int,
    ) -> Cell:
        what = "connections" if self._fault == "out-refuse" else "requests"
        arrived = sum(one[what] for one in counts)
        return Cell(
            seen.asked,
            dict(seen.failures),
            round(seconds, 3),
            round(quantile(seen.seconds, 0.99), 6),
            round(settled, 6),
            sum(one["struck"] for one in counts),
            round(arrived / max(1, asked), 4),
        )


def _add(to: Seen, more: Seen) -> None:
    to.good += more.good
    to.failures.update(more.failures)
    to.seconds += more.seconds


# -- tables --------------------------------------------------------------------------------------


def middle(cells: Sequence[Cell]) -> Cell:
    """Return the round in the middle, by the share of failures, then by load and time."""
    ordered = sorted(cells, key=lambda cell: (cell.share, cell.load, cell.settled))
    return ordered[(len(ordered) - 1) // 2]


def slower(row: dict[str, list[Cell]]) -> float | None:
    """Return the p99 beside an upstream that hangs, as a multiple of that in good health."""
    if not row.get("hang") or not row.get("none"):
        return None
    healthy = median(cell.settled for cell in row["none"])
    return median(cell.settled for cell in row["hang"]) / healthy if healthy else None


def shown(fault: str, row: dict[str, list[Cell]]) -> str:
    """Return what the table says of one cell."""
    cell = middle(row[fault])
    if fault.startswith("out-"):
        return f"load {cell.load:.2f}"
    if not cell.failed:
        text = "0"
    else:
        percent = 100 * cell.share
        kind = max(cell.failed, key=lambda kind: cell.failed[kind])
        text = f"{percent:.2f} % {kind}" if percent < 0.995 else f"{percent:.1f} % {kind}"
    multiple = slower(row) if fault == "hang" else None
    return f"{text}, p99 x {multiple:,.1f}" if multiple is not None else text


def table(results: Results, faults: Sequence[str]) -> list[str]:
    """Return a line per fault."""
    lines = [f"| fault | {' | '.join(results)} |", f"|---|{'---|' * len(results)}"]
    for fault in faults:
        cells = [shown(fault, row) for row in results.values()]
        lines.append(f"| {FAULTS[fault][0]} | {' | '.join(cells)} |")
    return lines


def goals(results: Results) -> Iterator[dict[str, Any]]:
    """Yield each goal with what was measured: the worst round counts, not the median."""
    row = results.get("holdfast", {})
    for fault, cells in row.items():
        if fault in GOALS:
            yield _goal(fault, "share that fails", max(c.share for c in cells), GOALS[fault])
        else:
            yield _goal(fault, "load of upstreams", max(c.load for c in cells), OUTAGE_LOAD[fault])
    multiple = slower(row)
    if multiple is not None:
        yield _goal("hang", "p99 by that in good health, after 10 s", multiple, SLOWER)


def _goal(fault: str, what: str, measured: float, most: float) -> dict[str, Any]:
    value = round(measured, 5)
    return {"fault": fault, "what": what, "measured": value, "most": most, "met": value <= most}


def goal_table(found: Sequence[dict[str, Any]]) -> list[str]:
    """Return the goals, a line each."""
    lines = ["| fault | of holdfast | measured | goal | |", "|---|---|---:|---:|---|"]
    for goal in found:
        met = "met" if goal["met"] else "not met"
        name = FAULTS[goal["fault"]][0]
        lines.append(f"| {name} | {goal['what']} | {goal['measured']} | {goal['most']} | {met} |")
    return lines


# -- the command ---------------------------------------------------------------------------------


def measure(peers: Sequence[Peer], args: argparse.Namespace) -> Results:
    """Run all cells, the peers of a fault one after the other; say each on stderr."""
    results: Results = {peer.name: {fault: [] for fault in args.fault} for peer in peers}
    for number in range(args.rounds):
        for fault in args.fault:
            for peer in peers:
                cell = Trial(peer, fault, args.requests, args.seed + number).run()
                results[peer.name][fault].append(cell)
                print(f"round {number + 1}, {fault}: {peer.name}: {cell}", file=sys.stderr)
    return results


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="What a client sees of flaky upstreams.")
    add = parser.add_argument
    add("--only", choices=NAMES, action="append", metavar="PEER", help="may be repeated")
    add("--fault", choices=FAULTS, action="append", help="may be repeated")
    add("--requests", type=int, default=REQUESTS, metavar="N", help=f"default: {REQUESTS}")
    add("--rounds", type=int, default=1, metavar="N", help="default: 1")
    add("--seed", type=int, default=1, metavar="N", help="default: 1")
    add("--json", type=Path, metavar="FILE", help="write all results there")
    add("--page", type=Path, metavar="FILE", help="put the tables into that document")
    args = parser.parse_args()
    args.fault = args.fault or list(FAULTS)
    return args


def main() -> None:
    """Measure, print, and write what was asked for."""
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what runs is ended
    peers = there(args.only or NAMES)
    about = {**machine(()), "programs": versions(peers)}
    show(about)
    results = measure(peers, args)
    lines, aims = table(results, args.fault), list(goals(results))
    print("\n".join(["", *lines, "", *goal_table(aims)]))
    told = {
        **about, "requests": args.requests, "rounds": args.rounds, "seed": args.seed,
        "table": lines, "goals": aims, "goal_table": goal_table(aims),
        "results": {
            name: {fault: [asdict(cell) for cell in cells] for fault, cells in row.items()}
            for name, row in results.items()
        },
    }  # fmt: skip
    if args.json is not None:
        args.json.write_text(json.dumps(told, indent=2) + "\n")
    if args.page is not None:
        about["rounds"] = f"{args.rounds}, seed {args.seed}; medians"
        put_into(args.page, MARKS, [facts(about), lines, goal_table(aims)])


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # what was started is ended by now
        raise SystemExit(130) from None
