"""Starts processes that fetch and die, and says what they had done by then."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = Path(__file__).with_name("downloads_killed.py")


@dataclass(frozen=True, slots=True)
class Death:
    """How a process ended. calls: of the file system; written: bytes into parts."""

    signal: int
    exit_code: int
    calls: int
    written: int


class Killer:
    """Runs `downloads_killed.py`. Used as a context.

    extent: bytes of an extent and of a checkpoint; group: files that are finished together; 0
    for the usual.  options: of `Downloads`.
    """

    def __init__(
        self, *, extent: int = 0, group: int = 0, wrapper: Sequence[str] = (), **options: Any
    ) -> None:
        self._extent = extent
        self._group = group
        self._options = options
        self._process = subprocess.Popen(
            [*wrapper, sys.executable, str(PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.communicate()

    def run(
        self,
        into: Path,
        files: Sequence[tuple[str, str | None]],
        *,
        call: int = 0,
        after: float = 0,
    ) -> Death:
        """Fetch (url, sha256) into a directory. call: which one kills; after: seconds to live."""
        order = {
            "into": str(into),
            "files": files,
            "call": call,
            "after": after,
            "extent": self._extent,
            "group": self._group,
            "options": self._options,
        }
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(order) + "\n")
        stdin.flush()
        return Death(**json.loads(stdout.readline()))
