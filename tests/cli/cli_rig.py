"""What the tests of `holdfast get` share: running it, also on a terminal, and its screen."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KIB = 1024


def command(*words: str) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "holdfast", "get", *words]


def get(*words: str, given: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end. given: its standard input."""
    return subprocess.run(
        command(*words),
        capture_output=True,
        text=True,
        check=False,
        input=given,
        env={**os.environ, **env},
    )


def events_of(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


@contextmanager
def running(*words: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    # A shell lets its background jobs, and so their children, ignore SIGINT.
    process = subprocess.Popen(
        command(*words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **env},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads yet
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def on_a_terminal(*words: str, columns: int = 80, **env: str) -> tuple[int, str]:
    """Run it with a terminal as all three streams; return its exit code and what was drawn."""
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    hidden = {"NO_COLOR", "TERM", "COLUMNS", "LINES"}
    clean = {name: value for name, value in os.environ.items() if name not in hidden}
    process = subprocess.Popen(
        command(*words),
        stdin=other,
        stdout=other,
        stderr=other,
        env={**clean, "TERM": "xterm", **env},
    )
    os.close(other)
    drawn = b""
    while process.poll() is None or select.select([main], [], [], 0.1)[0]:
        if select.select([main], [], [], 0.1)[0]:
            try:
                drawn += os.read(main, 65536)
            except OSError:  # Linux says EIO when the last writer has gone
                break
    process.wait()
    os.close(main)
    return process.returncode, drawn.decode()


_STEP = re.compile(r"\x1b\[\??[0-9;]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+")


def screens(drawn: str) -> list[list[str]]:
    """Return what stood on the screen after each redraw, as lines without colours.

    It knows what Rich's display sends: text, CR, LF, erase a line, cursor up. Faithful as far as
    no line is longer than the screen is wide, and that is tested, too.
    """
    lines, at, found = [""], 0, []
    for step in _STEP.findall(drawn):
        if step == "\n":
            at += 1
            if at == len(lines):
                lines.append("")
        elif step.startswith("\x1b["):
            if step.endswith("A"):
                at -= int(step[2:-1] or 1)
            elif step.endswith("K"):
                if lines[at]:
                    found.append(list(lines))
                lines[at] = ""
        elif step != "\r":
            lines[at] += step
    return [*found, lines]
