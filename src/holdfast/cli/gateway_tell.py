"""What is told to a gateway that runs, and asked of it: stop, status, reload, drain, logs."""

from __future__ import annotations

import os
import signal
from collections import deque
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from holdfast.cli.gateway_state import Known
from holdfast.cli.output import CliError, Exit, time_text
from holdfast.core.errors import HoldfastError
from holdfast.gateway.control import Refused, tell
from holdfast.gateway.pidfile import Handle
from holdfast.gateway.reloading import told_reload
from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from holdfast.cli.output import Console
    from holdfast.gateway.pidfile import Running

NOT_ENDED = "HF-3208"
NO_LOG = "HF-3209"
USUAL = 600.0
"""Seconds of a drain, where the gateway does not say."""
GRACE = 10.0
"""Seconds beyond those of a drain in which it must have ended."""
KILLED = 5.0
SOON = 2.0
"""Seconds to hear that it is to end by force."""
FOLLOW = 0.2


# -- stop, drain -----------------------------------------------------------------------------


def stop(args: argparse.Namespace) -> int:
    """End a gateway, and wait for it."""
    known, console = Known(args), args.console
    running = known.running
    if running is None:
        return _was_not_there(known, console)
    try:
        handle = Handle(running)
    except ProcessLookupError:
        return _was_not_there(known, console)
    with handle:
        limit = 0.0
        if args.force:
            _cut(handle, known)
        else:
            limit = _end(handle, known, args.timeout, console)
        if not handle.wait(limit + (KILLED if args.force else GRACE)):
            if not args.force:
                raise CliError(
                    f"gateway `{known.name}` (process {running.pid}) has not ended",
                    next_step="End it with `holdfast gateway stop --force`.",
                    code=NOT_ENDED,
                    exit_code=Exit.FAILED,
                )
            handle.signal(signal.SIGKILL)
            handle.wait(KILLED)
    console.event("Stopped", {"cluster": known.name, "pid": running.pid})
    console.line(f"gateway `{known.name}` has ended (process {running.pid})")
    return Exit.DONE


def _was_not_there(known: Known, console: Console) -> int:
    console.event("Stopped", {"cluster": known.name, "pid": None})
    console.line(f"gateway `{known.name}` does not run{known.others}")
    return Exit.DONE


def _end(handle: Handle, known: Known, seconds: float | None, console: Console) -> float:
    """Ask it to end; return how many seconds it may take."""
    try:
        answer = tell(known.paths.control, {"do": "drain", "seconds": seconds})
    except HoldfastError:
        handle.signal(signal.SIGTERM)  # it does not listen; perhaps it still hears
        return USUAL if seconds is None else seconds
    if answer["inflight"]:
        limit = time_text(answer["seconds"])
        console.note(f"requests under way: {answer['inflight']}; they have {limit}")
    return float(answer["seconds"])


def _cut(handle: Handle, known: Known) -> None:
    """Ask it to end at once; whether it hears that or not, it is killed soon."""
    try:
        tell(known.paths.control, {"do": "hurry"}, SOON)
    except HoldfastError:
        handle.signal(signal.SIGTERM)


def drain(args: argparse.Namespace) -> int:
    """Let a gateway end by itself."""
    known = Known(args)
    if known.running is None:
        raise known.not_running()
    answer = tell(known.paths.control, {"do": "drain", "seconds": args.timeout})
    answer.pop("ok")
    args.console.event("Draining", {"cluster": known.name, **answer})
    args.console.line(
        f"gateway `{known.name}` takes nobody new; requests under way: {answer['inflight']}"
        + (f", for {time_text(answer['seconds'])} at most" if answer["inflight"] else "")
    )
    return Exit.DONE


# -- reload ----------------------------------------------------------------------------------


def reload(args: argparse.Namespace) -> int:
    """Let a gateway read its configuration again."""
    known = Known(args)
    if known.running is None:
        raise known.not_running()
    try:
        answer = tell(known.paths.control, {"do": "reload"}, 60.0)
    except Refused as error:
        text = f"gateway `{known.name}` goes on with its old configuration:\n  {error}"
        raise Refused({**error.answer, "error": text}) from None
    answer.pop("ok")
    args.console.event("Reloaded", {"cluster": known.name, **answer})
    for line in told_reload(answer).splitlines():
        args.console.line(line)
    return Exit.DONE


# -- status ----------------------------------------------------------------------------------


def status(args: argparse.Namespace) -> int:
    """Say whether a gateway runs, and how it does."""
    known, console = Known(args), args.console
    if known.running is None:
        console.event("Status", {"cluster": known.name, "running": False})
        console.line(f"gateway `{known.name}` does not run{known.others}")
        return Exit.FAILED
    if not known.running.host:  # it says where it serves as soon as it does
        console.event("Status", {"running": False, "starting": True, **asdict(known.running)})
        console.line(f"gateway `{known.name}` is starting, as process {known.running.pid}")
        return Exit.FAILED
    try:
        answer = tell(known.paths.control, {"do": "status"})
    except HoldfastError as error:
        answer = {"error": str(error)}
    answer.pop("ok", None)
    console.event("Status", {"running": True, **asdict(known.running), **answer})
    _show(known.running, answer, console)
    return Exit.DONE


def _show(running: Running, answer: dict[str, Any], console: Console) -> None:
    line = console.line
    began = datetime.fromtimestamp(running.start_time, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    doing = "ends, and takes nobody new" if answer.get("draining") else "runs"
    port = f":{running.port}" if running.port else ""
    addresses = answer.get("addresses") or [f"{running.host}{port}"]
    line(f"gateway `{running.cluster}` {doing}: {', '.join(addresses)}")
    line(f"process {running.pid}, version {running.version}, since {began}")
    stats = answer.get("stats")
    if not stats:
        why = answer.get("error", "none of its workers has answered yet")
        console.note(f"  It does not answer: {why}")
        return
    if len(answer["pids"]) > 1:
        line(f"workers: {', '.join(map(str, answer['pids']))}")
    good = stats["success_rate"]
    line(
        f"requests: {stats['total_requests']:,d}"
        + (f" ({good:g} % good)" if good is not None else "")
        + f", under way: {stats['inflight']}, streams: {stats['streams']}, "
        f"waiting: {stats['waiting']}, retries: {stats['retries']:,d}"
    )
    if stats["access_log_dropped"]:
        line(f"lines of the access log that were lost: {stats['access_log_dropped']:,d}")
    if stats["p50_ms"] is not None:
        line(f"first byte: {stats['p50_ms']:g} ms (half), {stats['p99_ms']:g} ms (99 %)")
    line("")
    width = max(8, *(len(one["id"]) for one in stats["endpoints"]))
    line(f"{'endpoint':<{width}}  {'state':<12}  in flight  attempts  failed  address")
    for one in stats["endpoints"]:
        health = one["health_status"]
        line(
            f"{one['id']:<{width}}  {one['state']:<12}  {one['inflight']:9,d}  "
            f"{health['total_requests']:8,d}  {health['failed_requests']:6,d}  {one['base_url']}"
        )
    for one in stats["endpoints"]:
        last = one["health_status"]["last_error"]
        if last:
            until = f"; rests until {one['cooling_until']}" if one["cooling_until"] else ""
            line(f"{one['id']}: {last['verdict']}, last at {last['at']}{until}")


# -- logs ------------------------------------------------------------------------------------


def logs(args: argparse.Namespace) -> int:
    """Print what a detached gateway has said."""
    known = Known(args)
    path = known.paths.log
    try:
        place = _last(path, max(0, args.lines), args.console)
    except FileNotFoundError:
        text, next_step = "was never started detached", "Start it: holdfast gateway start"
        if known.running is not None:
            text = f"runs in the foreground, as process {known.running.pid}"
            next_step = "It says what happens where it was started."
        raise CliError(
            f"`{path}`: there is no log: gateway `{known.name}` {text}",
            next_step=next_step,
            code=NO_LOG,
            exit_code=Exit.FAILED,
        ) from None
    while args.follow:
        clock.sleep(FOLLOW)
        place = _more(path, place, args.console)
    return Exit.DONE


def _last(path: Path, count: int, console: Console) -> int:
    with path.open("rb") as log:
        lines = deque(log, maxlen=count)
        place = log.tell()
    for line in lines:
        _print(line, console)
    return place


def _more(path: Path, place: int, console: Console) -> int:
    """Print what was added; return up to where."""
    if os.path.getsize(path) < place:  # noqa: PTH202 - it was cut, and begins anew
        place = 0
    with path.open("rb") as log:
        log.seek(place)
        for line in log:
            if not line.endswith(b"\n"):
                break  # the rest of it is not there yet
            place += len(line)
            _print(line, console)
    return place


def _print(line: bytes, console: Console) -> None:
    text = line.decode("utf-8", "replace").rstrip("\n")
    console.event("Log", {"line": text})
    console.line(text)
