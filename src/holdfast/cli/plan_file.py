"""`holdfast plan FILE`: the worst case of everything that a configuration file configures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.cli.output import Exit, exact_text
from holdfast.gateway.source import Source
from holdfast.gateway.worst import plan_of

if TYPE_CHECKING:
    import argparse

    from holdfast.cli.output import Console
    from holdfast.gateway.worst import GatewayPlan


def run(args: argparse.Namespace) -> int:
    """Print the plan of each gateway, or of the one that is named. Raises ConfigError."""
    source, console = Source(Path(args.policy), args.cluster), args.console
    for number, loaded in enumerate(source.load_all()):
        plan = plan_of(loaded.config)
        fields = {"config": str(source.path), "cluster": loaded.name, **plan.as_dict()}
        console.event("Plan", fields)
        if number:
            console.line("")
        show(console, loaded.name, plan)
    return Exit.DONE


def show(console: Console, name: str, plan: GatewayPlan) -> None:
    """Print the plan of a gateway for people."""
    line = console.line
    line(f"gateway `{name}`: the worst case of one request, endpoints: {plan.endpoints}")
    line("")
    pauses = f", with pauses of {exact_text(plan.wait_total)}" if plan.wait_total else ""
    line(f"attempts:     {plan.attempts_max:,d}, where every endpoint fails at once{pauses}")
    line(f"requests:     {plan.requests_max:,d}, as a kept connection may have been dead")
    if plan.throttled_max:
        line(f"throttled:    {plan.throttled_max:,d} besides, where all of them refuse (429)")
    line(
        f"longest:      {exact_text(plan.seconds_max or 0)} to the answer, or a stream's beginning"
    )
    line(f"in line:      {exact_text(plan.wait_max)} of that; requests that wait: {plan.queue:,d}")
    silent, stream = exact_text(plan.silent_max), exact_text(plan.silent_stream_max)
    line(f"silence:      {silent}, then another endpoint is asked; streams: {stream}")
    end = exact_text(plan.stream_max) if plan.stream_max else "no end"
    line(f"stream:       {end}, if something comes every {exact_text(plan.idle_timeout)}")
    line(f"retry budget: {plan.retry_reserve:g} saved up, {plan.retry_budget:g} per request")
    line(f"dead backend: {plan.dead_backend_factor:g} requests per request, over 1,000 requests")
    if plan.workers != 1:
        line(f"workers:      {plan.workers}; each has a line and a budget of its own")
    for text in plan.warnings:
        console.note(f"{console.paint('warning:', 'yellow')} gateway `{name}`: {text}")
