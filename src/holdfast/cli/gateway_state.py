"""Which gateway a command means, and what is known of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.cli.output import CliError, Exit
from holdfast.core.errors import HoldfastError
from holdfast.gateway.control import Paths
from holdfast.gateway.pidfile import PidFile, state_directory
from holdfast.gateway.source import DEFAULT, Source

if TYPE_CHECKING:
    import argparse

NOT_RUNNING = "HF-3205"


def source_of(args: argparse.Namespace) -> Source:
    """Return where the settings come from: the flag, `HOLDFAST_CONFIG`, `holdfast.toml`."""
    path = args.config or os.environ.get("HOLDFAST_CONFIG") or DEFAULT
    flags: dict[str, Any] = {}
    if getattr(args, "listen", None):
        flags["listen"] = args.listen
    return Source(Path(path), args.cluster, flags)


class Known:
    """One gateway by its name: its files, and who serves, if anybody does."""

    def __init__(self, args: argparse.Namespace) -> None:
        directory = state_directory()
        self.name = _name(args, directory)
        self.paths = Paths(directory, self.name)
        self.running = PidFile(directory, self.name).read()

    @property
    def others(self) -> str:
        """Which gateways of other names run, in words; empty if none does."""
        names = ", ".join(f"`{one}`" for one in _running(self.paths.directory) if one != self.name)
        return f"; these do: {names}" if names else ""

    def not_running(self) -> CliError:
        """Return the error that says so."""
        return CliError(
            f"gateway `{self.name}` does not run{self.others}",
            next_step="Start it: holdfast gateway start",
            code=NOT_RUNNING,
            exit_code=Exit.FAILED,
        )


def _name(args: argparse.Namespace, directory: Path) -> str:
    """Return the name that is meant: a file that cannot be used must not hinder a `stop`."""
    if args.cluster:
        return _safe(args.cluster)
    try:
        return source_of(args).find_name()
    except HoldfastError:
        if args.config:
            raise
    running = _running(directory)
    if len(running) > 1:
        raise CliError(
            f"several gateways run: {', '.join(f'`{one}`' for one in running)}",
            next_step="Name one: --cluster NAME",
        )
    return running[0] if running else "main"


def _running(directory: Path) -> list[str]:
    found = [one.stem.removeprefix("gateway-") for one in sorted(directory.glob("gateway-*.json"))]
    return [name for name in found if PidFile(directory, name).read() is not None]


def _safe(name: str) -> str:
    if "/" in name or name.startswith("."):
        raise CliError(f"`{name}`: no gateway has such a name", next_step="See `holdfast.toml`.")
    return name
