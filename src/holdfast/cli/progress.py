"""How downloads look while they run: a block that is redrawn, plain lines, or JSON events.

On a terminal, five times a second:

    era5_t.nc   ######............  34 %   1.2 GiB of 3.5 GiB   48 MiB/s   49 s
    era5_u.nc   waits 4 s: http 503
    2 files: 1 active, 1 waits   1.2 GiB   48 MiB/s

Elsewhere one line per change of state, per wait, and every ten seconds of progress.
"""

from __future__ import annotations

import shutil
import threading
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

from holdfast.cli.output import printable, size_text, time_text
from holdfast.core import events
from holdfast.downloads.failures import CODES
from holdfast.downloads.items import FileState
from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    from holdfast.cli.output import Console
    from holdfast.core.events import Event
    from holdfast.downloads.items import ItemEvent

REDRAW = 0.2
MAX_LINES = 10
PLAIN_EVERY = 10.0
_BAR = 18
_INTERNAL = {"time", "policy", "call_id", "key"}


def event_fields(heard: ItemEvent) -> dict[str, object]:
    """Return an event as JSON fields: id and path first, then its own."""
    event = heard.event
    own = {f.name: getattr(event, f.name) for f in fields(event) if f.name not in _INTERNAL}
    kept = {name: value for name, value in own.items() if value is not None and value != ""}
    host = {"host": event.key} if event.key else {}
    return {"id": heard.id, "path": heard.path, **kept, **host}


@dataclass(slots=True)
class _Line:
    """One file on the screen."""

    path: str
    kept: int = 0
    size: int | None = None
    rate: float = 0.0
    eta: float | None = None
    wait_until: float = 0.0
    why: str = ""
    said_at: float = 0.0


class Display:
    """Shows the events of a run. Enter it; give `heard` to `Downloads.watch`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = console.live
        self._lock = threading.Lock()
        self._lines: dict[str, _Line] = {}
        self._drawn = 0
        self._ended = threading.Event()
        self._painter = threading.Thread(target=self._paint, name="holdfast-display", daemon=True)
        self.failed: set[str] = set()

    def __enter__(self) -> Self:
        if self._live:
            self._painter.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        if self._live:
            self._painter.join()
            with self._lock:
                self._erase()

    # -- events --------------------------------------------------------------------------

    def heard(self, heard: ItemEvent) -> None:
        """Take one event, on whatever thread."""
        with self._lock:
            if self._console.json:
                self._console.event(type(heard.event).__name__, event_fields(heard))
                return
            line = self._lines.setdefault(heard.id, _Line(heard.path))
            self._take(heard.id, line, heard.event)

    def _take(self, item_id: str, line: _Line, event: Event) -> None:
        if isinstance(event, events.Progress):
            line.kept, line.size = event.bytes, event.size
            line.rate, line.eta = event.rate, event.eta
            line.why = ""
            if event.time - line.said_at >= PLAIN_EVERY:
                self._plain(f"{line.path}: {_amount(line)}", line)
        elif isinstance(event, events.Attempt) and event.kind != "ok":
            line.why = event.reason
        elif isinstance(event, events.Waited):
            line.wait_until = event.next_at
            line.rate = 0.0
            self._plain(f"{line.path}: {line.why}; waits {event.seconds:.1f} s", line)
        elif isinstance(event, events.ResumeAccepted):
            self._plain(f"{line.path}: goes on at {size_text(event.offset)}", line)
        elif isinstance(event, events.ResumeDeclined):
            self._plain(f"{line.path}: starts over ({event.reason})", line)
        elif isinstance(event, FileState):
            self._state(item_id, line, event)

    def _state(self, item_id: str, line: _Line, event: FileState) -> None:
        if event.state == "active":
            self._plain(f"{line.path}: begins", line)
            return
        if event.state in {"verifying", "finishing"}:
            line.why = event.state
            return
        self._lines.pop(item_id, None)
        if event.state == "done":
            size = size_text(event.size or 0)
            self._say(f"done: `{line.path}` ({size}, {_verified_text(event.verified)})")
        elif event.state == "skipped":
            how = f" ({_verified_text(event.verified)})" if event.verified else ""
            self._say(f"skipped: `{line.path}` is there already{how}")
        else:
            self.failed.add(item_id)
            self._erase()
            row = CODES[event.reason]
            if event.state == "failed":
                self._console.error(
                    f"`{line.path}`: {event.text}", next_step=row.next, code=row.code
                )
            else:
                self._console.note(f"{event.state}: `{line.path}`: {event.text}")
                self._console.note(f"  {row.next} [{row.code}]")

    def _say(self, text: str) -> None:
        """Write a line of result above the block."""
        self._erase()
        self._console.line(text)

    def _plain(self, text: str, line: _Line) -> None:
        if not self._live:
            line.said_at = clock.monotonic()
            self._console.note(text)

    # -- the block ---------------------------------------------------------------------------

    def _paint(self) -> None:
        while not clock.wait(self._ended, REDRAW):
            with self._lock:
                self._erase()
                self._draw()

    def _erase(self) -> None:
        if self._drawn:
            # Up to the first line of the block, then clear to the end of the screen.
            self._console.err.write(f"\x1b[{self._drawn}F\x1b[J")
            self._console.err.flush()
            self._drawn = 0

    def _draw(self) -> None:
        if not self._lines:
            return
        width = shutil.get_terminal_size().columns - 1
        now = clock.monotonic()
        lines = [_row(line, now) for line in list(self._lines.values())[:MAX_LINES]]
        lines.append(self._total(now))
        self._console.err.write("".join(f"{printable(text)[:width]}\n" for text in lines))
        self._console.err.flush()
        self._drawn = len(lines)

    def _total(self, now: float) -> str:
        lines = self._lines.values()
        waiting = sum(line.wait_until > now for line in lines)
        rate = sum(line.rate for line in lines if line.wait_until <= now)
        kept = sum(line.kept for line in lines)
        what = f"{len(lines)} active" + (f", {waiting} of them wait" if waiting else "")
        return f"{what}   {size_text(kept)}   {size_text(rate)}/s"


def _row(line: _Line, now: float) -> str:
    name = line.path if len(line.path) <= 40 else f"\u2026{line.path[-39:]}"
    if line.wait_until > now:
        return f"{name}   waits {line.wait_until - now:.0f} s: {line.why}"
    return f"{name}   {line.why or _amount(line)}"


def _amount(line: _Line) -> str:
    parts = [size_text(line.kept)]
    if line.size:
        share = line.kept / line.size
        bar = "#" * int(share * _BAR)
        parts = [
            f"{bar:.<{_BAR}} {share:4.0%}",
            f"{size_text(line.kept)} of {size_text(line.size)}",
        ]
    if line.rate:
        parts.append(f"{size_text(line.rate)}/s")
    if line.eta is not None:
        parts.append(time_text(line.eta))
    return "   ".join(parts)


def _verified_text(verified: str) -> str:
    """Return what was verified, for people."""
    words = {
        "size-only": "size checked, no digest known",
        "unverified": "unverified: nothing vouches for the content",
        "": "unverified",
    }
    return words.get(verified, f"{verified} verified")
