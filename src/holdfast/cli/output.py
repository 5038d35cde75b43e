"""What the commands say, and where: results to stdout, notes and errors to stderr.

With `--json` stdout holds JSON objects only, one per line, errors included. Colour and
live lines appear on a terminal only, and never under `NO_COLOR` or `TERM=dumb`.

A command reports an error by raising a `HoldfastError`. Beyond its text and `code`, two
attributes are honoured on any of them: `next_step` (one sentence: what the user can do)
and `exit_code` (see `Exit`; 1 if absent). `CliError` is the one to raise for usage.
"""

from __future__ import annotations

import enum
import os
import sys
import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from holdfast.core.errors import HoldfastError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Exit(enum.IntEnum):
    """The exit codes of every command."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    PARTLY = 3
    LATER = 75
    INTERRUPTED = 130


class CliError(HoldfastError):
    """A command cannot go on.

    text: what and why, without a final full stop.  next_step: what the user can do.
    code: stable, documented.  exit_code: one of `Exit`.
    """

    code = "HF-6001"

    def __init__(
        self, text: str, *, next_step: str = "", code: str = "", exit_code: int = Exit.USAGE
    ) -> None:
        super().__init__(text)
        self.next_step = next_step
        self.exit_code = exit_code
        if code:
            self.code = code


class CannotWrite(HoldfastError, OSError):
    """What a command has to say cannot be written: the disk is full, the terminal is gone."""

    code = "HF-6003"
    next_step = "Send the output elsewhere."

    def __init__(self, error: OSError) -> None:
        super().__init__(f"the output cannot be written: {error.strerror or error}")

    def __str__(self) -> str:
        return str(self.args[0])


def write(stream: TextIO, text: str) -> None:
    """Write a text at once. Raises CannotWrite, or BrokenPipeError if the reader is gone."""
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CannotWrite(error) from None


# Cc: control, Cs: half a surrogate pair, Zl and Zp: line ends that are none in a text file,
# Cf: formatting, among it the marks that turn the direction of what follows.
_UNSAFE = {"Cc", "Cs", "Cf", "Zl", "Zp"}


def printable(text: str) -> str:
    r"""Return `text` with control and direction marks written out (`\x1b`), for a terminal.

    A file name or a server's text must not move the cursor or hide what follows.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_written_out(c) if unicodedata.category(c) in _UNSAFE else c for c in text)


def _written_out(char: str) -> str:
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def size_text(n: float) -> str:
    """Return bytes for people: `340 MiB`, `1.2 GiB`; binary units, three figures at most."""
    if n < 1024:
        return f"{int(n)} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        n /= 1024
        if n < 1000 or unit == "TiB":
            break
    return f"{n:.1f} {unit}" if n < 100 else f"{n:.0f} {unit}"


def time_text(seconds: float) -> str:
    """Return a duration for people: `8 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def exact_text(seconds: float) -> str:
    """Return a duration to the millisecond: `0.05 s`, and from a minute on `90 s (1 min 30 s)`."""
    text = f"{seconds:.3f}".rstrip("0").rstrip(".") + " s"
    return f"{text} ({time_text(seconds)})" if seconds >= 60 else text


_COLOURS = {"red": "31", "green": "32", "yellow": "33", "blue": "34", "dim": "2", "bold": "1"}


def _may_decorate(stream: TextIO) -> bool:
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


@dataclass(slots=True)
class Console:
    """The two streams of a command and what they can show.

    json: stdout carries JSON objects, one per line, and nothing else.
    live: stderr is a terminal that may be redrawn; lines may be replaced.
    """

    json: bool = False
    out: TextIO = field(default_factory=lambda: sys.stdout)
    err: TextIO = field(default_factory=lambda: sys.stderr)

    @property
    def live(self) -> bool:
        """Whether lines on stderr may be redrawn."""
        return not self.json and _may_decorate(self.err)

    def line(self, text: str) -> None:
        """Write one line of result to stdout; silent under `--json`."""
        if not self.json:
            write(self.out, printable(text) + "\n")

    def note(self, text: str) -> None:
        """Write one line about the work to stderr; silent under `--json`."""
        if not self.json:
            write(self.err, printable(text) + "\n")

    def event(self, name: str, fields: Mapping[str, object]) -> None:
        """Write one JSON object to stdout; silent without `--json`."""
        if not self.json:
            return
        import json  # noqa: PLC0415 - 8 ms that `--help` need not pay

        from holdfast.runtime.clock import clock  # noqa: PLC0415 - the same

        record = {"v": 1, "t": round(clock.wall(), 3), "event": name, **fields}
        write(self.out, json.dumps(record, ensure_ascii=True, separators=(",", ":")) + "\n")

    def error(self, text: str, *, next_step: str = "", code: str = "") -> None:
        """Write an error, redacted: to stderr in words, or as a JSON object to stdout."""
        from holdfast.telemetry import redact  # noqa: PLC0415 - only where something failed

        text, next_step = redact.text(text), redact.text(next_step)
        if self.json:
            self.event("Error", {"code": code, "error": text, "next": next_step})
            return
        tail = f"{next_step} [{code}]" if next_step else f"[{code}]"
        mark = self.paint("error:", "red")
        # Lines of a text are indented, which nobody else's line break is.
        shown = "\n  ".join(printable(line) for line in text.split("\n  "))
        write(self.err, f"{mark} {shown}\n  {printable(tail)}\n")

    def paint(self, text: str, colour: str) -> str:
        """Return `text` in a colour, or as it is where stderr shows none."""
        if not _may_decorate(self.err):
            return text
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def report_error(error: HoldfastError, console: Console) -> int:
    """Say what happened and return the exit code of it."""
    console.error(str(error), next_step=getattr(error, "next_step", ""), code=error.code)
    return int(getattr(error, "exit_code", Exit.FAILED))
