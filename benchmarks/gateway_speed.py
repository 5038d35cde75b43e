"""What holdfast's gateway costs, beside nginx, HAProxy, Envoy and two proxies in Python.

    python benchmarks/gateway_speed.py [--rounds N] [--seconds S] [--load LOAD] [--only PEER]
                                       [--streams N] [--slow N] [--json FILE] [--page FILE]

| load     | what                                                                     |
|----------|--------------------------------------------------------------------------|
| requests | wrk, 64 connections, as fast as they go: CPU per request                 |
| latency  | h2load, HTTP/1.1, 1,000 requests a second over 20 connections            |
| streams  | 1,000 streams of events with 20 tokens a second each: CPU per token      |
| abort    | 200 clients leave their streams: what is left after a second             |
| slow     | connections that send a head byte by byte: when they are closed, and what |
|          | the others feel of it                                                    |

The proxy has core 0, load and upstreams have core 1 (on a machine with one core, all share it).
Everyone has one worker and three upstreams (`gateway_peers`, `gateway_upstream`); a request is a
POST of 1 KiB, its answer as long. Rounds take turns, with another one first each time; shown are
medians, a ratio is the median of the ratios within a round. CPU is utime + stime of all processes
of the proxy by what the upstreams have answered meanwhile: it is worth more than throughput and
the latency of a full machine. Nothing fails here: a goal is printed with what was measured.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop
from about import facts, machine, put_into, show
from gateway_load import Load, Seen, body_of, open_slow, open_streams, quantile
from gateway_peers import Peer, Proxy, Upstreams, there, versions
from gateway_speed_results import goal_table, judged, tables
from processes import version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PROXY_CORE, LOAD_CORE = 0, 1
CONNECTIONS = 64
LATENCY_CLIENTS, LATENCY_RATE = 20, 1000
STREAM_SECONDS = 4.0
ABORTED = 200
LEFT_AFTER = 1.0
SLOW_LIMIT = 12.0
SLOW_RATE = 500.0
MARKS = ("<!-- speed -->", "<!-- end of speed -->")
NAMES = {
    "requests": ("holdfast bare", "holdfast", "nginx", "HAProxy no-delay", "Envoy",
                 "granian+aiohttp", "aiohttp"),
    "latency": ("holdfast bare", "holdfast", "nginx", "HAProxy no-delay", "Envoy",
                "granian+aiohttp"),
    "streams": ("holdfast bare", "holdfast", "nginx", "HAProxy no-delay", "Envoy"),
    "abort": ("holdfast", "nginx", "Envoy"),
    "slow": ("holdfast", "nginx", "Envoy"),
}  # fmt: skip

Sample = dict[str, float]
Samples = dict[str, dict[str, list[Sample]]]


@dataclass
class Bench:
    """One proxy under one load. args: of the command line."""

    proxy: Proxy
    upstreams: Upstreams
    args: argparse.Namespace
    scratch: Path


# -- requests ------------------------------------------------------------------------------------


def requests(bench: Bench) -> Sample:
    """Let wrk saturate it for a round."""
    script = bench.scratch / "post.lua"
    body = body_of(1).decode()
    script.write_text(
        f'wrk.method = "POST"\nwrk.body = [[{body}]]\n'
        'wrk.headers["Content-Type"] = "application/json"\n'
    )
    answered, cpu = bench.upstreams.total("answered"), bench.proxy.cpu()
    told = _output(
        ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{bench.args.seconds:g}s", "-s", str(script),
         f"http://127.0.0.1:{bench.proxy.port}/v1/messages"]
    )  # fmt: skip
    if "Non-2xx" in told or "Socket errors" in told:
        raise RuntimeError(f"not all was answered: {told}")
    count = bench.upstreams.total("answered") - answered
    spent = bench.proxy.cpu() - cpu
    return {
        "us": 1e6 * spent / count,
        "per_second": count / bench.args.seconds,
        "per_core": count / spent,
        "rss": bench.proxy.memory() / (1 << 20),
    }


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


# -- latency -------------------------------------------------------------------------------------


def latency(bench: Bench) -> Sample:
    """Ask at a rate that leaves it room."""
    body, log = bench.scratch / "body", bench.scratch / "log"
    body.write_bytes(body_of(1))
    log.unlink(missing_ok=True)
    _output(
        ["h2load", "--h1", f"--rps={LATENCY_RATE / LATENCY_CLIENTS:g}", f"-c{LATENCY_CLIENTS}",
         f"-D{bench.args.seconds:g}", f"--log-file={log}", "-d", str(body),
         f"http://127.0.0.1:{bench.proxy.port}/v1/messages"]
    )  # fmt: skip
    rows = [line.split() for line in log.read_text().splitlines()]
    times = [int(row[2]) / 1e3 for row in rows if row[1] == "200"]
    if len(times) < 0.9 * len(rows) or not times:
        raise RuntimeError(f"{len(rows) - len(times)} of {len(rows)} were not answered with 200")
    return {"p50": quantile(times, 0.5), "p99": quantile(times, 0.99)}


# -- streams -------------------------------------------------------------------------------------


def streams(bench: Bench) -> Sample:
    """Let many streams run at once."""
    return uvloop.run(_streams(bench))


async def _streams(bench: Bench) -> Sample:
    into: list[int] = []
    opened = await open_streams(bench.proxy.port, bench.args.streams, into)
    await asyncio.sleep(0.5)
    into.clear()
    cpu, began = bench.proxy.cpu(), time.monotonic()
    await asyncio.sleep(STREAM_SECONDS)
    spent, tokens, seconds = bench.proxy.cpu() - cpu, len(into), time.monotonic() - began
    grown = bench.proxy.memory() - bench.proxy.idle_memory
    times = [ns / 1e6 for ns in into]
    for stream in opened:
        stream.transport.abort()
    await asyncio.sleep(0.5)
    return {
        "us": 1e6 * spent / max(1, tokens),
        "core": spent / seconds,
        "tokens": tokens / seconds,
        "rss_stream": grown / 1024 / bench.args.streams,
        "p50": quantile(times, 0.5),
        "p99": quantile(times, 0.99),
    }


# -- clients that leave --------------------------------------------------------------------------


def abort(bench: Bench) -> Sample:
    """Let clients leave in the middle of their streams, all at once."""
    return uvloop.run(_abort(bench))


async def _abort(bench: Bench) -> Sample:
    # Once without looking: buffers that are kept for the next time are no leak.
    for _ in range(2):
        rss = bench.proxy.memory()
        opened = await open_streams(bench.proxy.port, ABORTED, [])
        running = bench.upstreams.total("streams")
        for stream in opened:
            stream.transport.abort()
        await asyncio.sleep(LEFT_AFTER)
        left = bench.upstreams.total("streams")
    return {
        "running": running,
        "left": left,
        "rss": bench.proxy.memory() / max(1, rss),
    }


# -- slow heads ----------------------------------------------------------------------------------


def slow(bench: Bench) -> Sample:
    """Let clients send their heads byte by byte, beside clients who do not."""
    return uvloop.run(_slow(bench))


async def _slow(bench: Bench) -> Sample:
    before = await _good(bench, 0)
    opened = await open_slow(bench.proxy.port, bench.args.slow)
    during = asyncio.create_task(_good(bench, 1))
    until = time.monotonic() + SLOW_LIMIT
    while time.monotonic() < until and any(one.closed_at > until for one in opened):
        await asyncio.sleep(1)
        for one in opened:
            one.drip()
    seen = await during
    lasted = [one.closed_at - one.opened_at for one in opened]
    for one in opened:
        one.transport.abort()
    closed = [seconds for seconds in lasted if seconds < SLOW_LIMIT + 5]
    return {
        "opened": len(opened),
        "closed": len(closed) / max(1, len(opened)),
        "closed_after": max(closed, default=0.0),
        "good_failed": seen.failures.total() + before.failures.total(),
        "p99_before": 1e3 * quantile(before.seconds, 0.99),
        "p99": 1e3 * quantile(seen.seconds, 0.99),
    }


async def _good(bench: Bench, number: int) -> Seen:
    load = Load(bench.proxy.port, int(SLOW_RATE * 5), rate=SLOW_RATE, first=number * 100_000)
    return await load.run()


# -- rounds --------------------------------------------------------------------------------------

LOADS: dict[str, Callable[[Bench], Sample]] = {
    "requests": requests,
    "latency": latency,
    "streams": streams,
    "abort": abort,
    "slow": slow,
}
ROUNDS_MOST = {"streams": 3, "abort": 1, "slow": 1}
"""Of loads that take long, and whose figures change little."""


def measure(name: str, peers: Sequence[Peer], args: argparse.Namespace) -> dict[str, list[Sample]]:
    """Run one load with all peers, in turns, after a round that does not count."""
    taken: dict[str, list[Sample]] = {peer.name: [] for peer in peers}
    once = name in {"abort", "slow"}
    rounds = min(args.rounds, ROUNDS_MOST.get(name, args.rounds))
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstreams = stack.enter_context(Upstreams(("", "", ""), LOAD_CORE))
        # By default holdfast opens at most 200 connections to one endpoint.
        most = {"connections": args.streams} if name == "streams" else {}
        running = [
            (peer, stack.enter_context(Proxy(peer, upstreams.ports, PROXY_CORE, **most)))
            for peer in peers
        ]
        for number in range(0 if not once else 1, rounds + 1):
            at = number % max(1, len(running))
            for peer, proxy in running[at:] + running[:at]:
                sample = LOADS[name](Bench(proxy, upstreams, args, scratch))
                if number:
                    taken[peer.name].append(sample)
                    print(f"{name}, round {number}: {peer.name}: {_short(sample)}", file=sys.stderr)
    return taken


def _short(sample: Sample) -> str:
    return ", ".join(f"{what} {value:,.2f}" for what, value in sample.items())


def direct(args: argparse.Namespace) -> dict[str, list[Sample]]:
    """Measure the ways of load and upstreams without a proxy, to take them off."""
    found: dict[str, list[Sample]] = {"latency": [], "streams": []}
    with (
        tempfile.TemporaryDirectory() as scratch,
        Upstreams(("",), LOAD_CORE) as upstreams,
    ):
        for _ in range(3):
            for name, samples in found.items():
                nobody: Any = _Nobody(upstreams.ports[0])
                bench = Bench(nobody, upstreams, args, Path(scratch))
                samples.append(LOADS[name](bench))
    return found


@dataclass
class _Nobody:
    """Stands where a proxy would be."""

    port: int
    idle_memory = 0

    def cpu(self) -> float:
        return 0.0

    def memory(self) -> int:
        return 0


# -- the command ---------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="What holdfast's gateway costs, beside peers.")
    add = parser.add_argument
    known = sorted({name for names in NAMES.values() for name in names})
    add("--rounds", type=int, default=7, metavar="N", help="default: 7")
    add("--seconds", type=float, default=1.0, metavar="S", help="of a round; default: 1")
    add("--load", choices=LOADS, action="append", help="may be repeated; default: all")
    add("--only", choices=known, action="append", metavar="PEER", help="may be repeated")
    add("--streams", type=int, default=1000, metavar="N", help="default: 1000")
    add("--slow", type=int, default=2000, metavar="N", help="slow heads; default: 2000")
    add("--json", type=Path, metavar="FILE", help="write all results there")
    add("--page", type=Path, metavar="FILE", help="put the tables into that document")
    args = parser.parse_args()
    args.load = args.load or list(LOADS)
    return args


def tool_versions() -> str:
    """Return the versions of what makes the load."""
    return f"wrk {version('wrk', '-v')}, h2load {version('h2load', '--version')}"


def all_peers(args: argparse.Namespace) -> Iterator[tuple[str, list[Peer]]]:
    """Yield each load with the peers that can run."""
    for name in args.load:
        wanted = [one for one in NAMES[name] if not args.only or one in args.only]
        yield name, there(wanted)


def main() -> None:
    """Measure, print, and write what was asked for."""
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what runs is ended
    os.sched_setaffinity(0, {LOAD_CORE} & os.sched_getaffinity(0) or os.sched_getaffinity(0))
    chosen = dict(all_peers(args))
    programs = list(dict.fromkeys(peer for peers in chosen.values() for peer in peers))
    about = {**machine(("uvloop", "httptools")),
             "programs": f"{versions(programs)}, {tool_versions()}"}  # fmt: skip
    show(about)
    samples: Samples = {name: measure(name, peers, args) for name, peers in chosen.items()}
    if {"latency", "streams"} & set(samples):
        for name, found in direct(args).items():
            if name in samples:
                samples[name]["(no proxy)"] = found
    shown = tables(samples)
    aims = list(judged(samples))
    for lines in [*shown.values(), goal_table(aims)]:
        print("\n".join(["", *lines]))
    if args.json is not None:
        told = {**about, "rounds": args.rounds, "seconds": args.seconds, "streams": args.streams,
                "slow": args.slow, "tables": shown, "goals": aims, "goal_table": goal_table(aims),
                "samples": samples}  # fmt: skip
        args.json.write_text(json.dumps(told, indent=2) + "\n")
    if args.page is not None:
        about["rounds"] = f"{args.rounds} of {args.seconds:g} s, interleaved; medians"
        put_into(args.page, MARKS, [facts(about), *shown.values(), goal_table(aims)])


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # what was started is ended by now
        raise SystemExit(130) from None
