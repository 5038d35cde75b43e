"""The place of one worker among several, and how its process is started and talked of."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import holdfast

if TYPE_CHECKING:
    import socket
    import subprocess

    from holdfast.gateway.link import Link

FIRST_WAIT, MOST_WAIT = 0.1, 30.0
"""Seconds before a worker that died is started again: doubled while they die soon."""


@dataclass(eq=False, slots=True)
class Slot:
    """The place of one worker.

    leaving: it was told to end, though not by us, and takes nobody new.
    missed: questions in a row that it has not answered.  gone: what those before it had counted.
    """

    number: int
    sockets: list[socket.socket]
    process: subprocess.Popen[bytes] | None = None
    link: Link | None = None
    serving: bool = False
    leaving: bool = False
    missed: int = 0
    waits: float = FIRST_WAIT
    snapshot: dict[str, Any] | None = None
    gone: dict[str, Any] | None = None
    adopted_by: Slot | None = None
    first: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    @property
    def name(self) -> str:
        """How it is called: they are counted from 1."""
        return f"worker {self.number + 1}"


def how_ended(code: int) -> str:
    """Return what an exit status says, for people."""
    if code >= 0:
        return f"exit status {code}"
    with suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


def python(module: str, *words: str) -> tuple[list[str], dict[str, str]]:
    """Return what starts one of our modules as a program of its own, and its environment.

    The directory that we happen to be in is no place to import from (`-P`), unless this very
    package was found there.
    """
    env = dict(os.environ)
    root = str(Path(holdfast.__file__).resolve().parents[1])
    if root not in {str(Path(one).resolve()) for one in sys.path[1:] if one}:
        env["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [env.get("PYTHONPATH")])])
    return [sys.executable, "-P", "-m", module, *words], env
