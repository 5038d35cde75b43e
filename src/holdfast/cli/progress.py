"""How downloads look while they run: a live block on a terminal, plain lines, or JSON events.

On a terminal Rich draws it (see `live`). Without Rich, when piped, under `NO_COLOR` or
`TERM=dumb` there is one line per file that ended, one per wait (one a second at most), and
one about all files every ten seconds.
"""

from __future__ import annotations

import threading
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Self

from holdfast.cli.board import Board
from holdfast.cli.output import size_text
from holdfast.core import events
from holdfast.downloads.failures import CODES
from holdfast.downloads.items import FileState, ListingPage
from holdfast.runtime.clock import clock
from holdfast.telemetry import redact

if TYPE_CHECKING:
    from holdfast.cli.board import Row
    from holdfast.cli.live import LiveDisplay
    from holdfast.cli.output import Console
    from holdfast.core.events import Event
    from holdfast.downloads.items import ItemEvent

PLAIN_EVERY = 10.0
WAIT_EVERY = 1.0
FEW = 20
"""With so many files at most a terminal gets a line for each that is done, not only a count."""
NO_RICH = "For a live display: pip install 'holdfast[cli]'"

# What a JSON event always has, and what it has where there is something to say.
SCHEMA: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "FileState": (
        ("state", "reason"),
        ("code", "text", "size", "verified", "source", "ignored"),
    ),
    "Attempt": (("no", "verdict", "sent", "seconds"), ("reason", "host")),
    "Waited": (("seconds", "why"), ("host",)),
    "MirrorChosen": (("host", "no", "how"), ()),
    "ResumeAccepted": (("rung", "offset"), ("host",)),
    "ResumeDeclined": (("reason", "offset"), ("host",)),
    "Progress": (("bytes", "size", "rate", "eta"), ()),
    "EndpointState": (("host", "limit", "until"), ("state", "reason")),
    "Alert": (("name", "text", "cleared"), ()),
    "ListingPage": (("source", "objects", "bytes", "seen", "ended"), ()),
}


def event_fields(heard: ItemEvent) -> dict[str, object] | None:
    """Return an event as JSON fields: id and path first, then its own. None: not shown."""
    event = heard.event
    schema = SCHEMA.get(type(event).__name__)
    if schema is None:
        return None
    own: dict[str, Any] = {spec.name: getattr(event, spec.name) for spec in fields(event)}
    own["host"] = event.key
    if isinstance(event, ListingPage):
        own["source"] = heard.path
    elif isinstance(event, events.Attempt):
        own["verdict"] = event.kind
    elif isinstance(event, events.EndpointState) and event.until is not None:
        # Monotonic times mean nothing to a reader; `t` is wall time, and so is this.
        own["until"] = round(clock.wall() + event.until - clock.monotonic(), 3)
    about = {"id": heard.id, "path": heard.path} if heard.id else {}
    always, sometimes = schema
    found = {name: own[name] for name in always}
    return {**about, **found, **{n: own[n] for n in sometimes if own.get(n) not in _NOTHING}}


_NOTHING = (None, "", ())


class Display:
    """Shows the events of a run. Enter it; give `heard` to `Downloads.watch`.

    failed: ids of the files whose end was told with its reason.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._is_piped = not console.out.isatty()  # a call of the system: not for every file
        self._lock = threading.Lock()
        self._board = Board()
        self._said_at = clock.monotonic()
        self._waited_at = float("-inf")
        self._live: LiveDisplay | None = None
        self.failed: set[str] = set()

    def __enter__(self) -> Self:
        if self._console.live:
            try:
                from holdfast.cli.live import LiveDisplay  # noqa: PLC0415 - loads Rich: 60 ms
            except ModuleNotFoundError:
                self._console.note(NO_RICH)
            else:
                self._live = LiveDisplay(self._console, self._board, self._lock)
                self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    # -- before the run ----------------------------------------------------------------------

    def listing(self, text: str) -> None:
        """Say what is read or listed; an empty text: that is over."""
        with self._lock:
            if self._live is not None:
                self._live.listing = text
                self._board.changes += 1
            elif text and self._is_time():
                self._console.note(text)

    def expect(self, files: int, size: int | None) -> None:
        """Say how many files there are in all, and their bytes if all are known."""
        with self._lock:
            self._board.files, self._board.size = files, size

    # -- events --------------------------------------------------------------------------------

    def heard(self, heard: ItemEvent) -> None:
        """Take one event, on whatever thread."""
        if self._console.json:
            found = event_fields(heard)
            if found is not None:
                with self._lock:
                    self._console.event(type(heard.event).__name__, found)
            return
        if isinstance(heard.event, ListingPage):
            self.listing(_listing_text(heard.path, heard.event))
            return
        with self._lock:
            row = self._board.take(heard)
            live = self._live
            if live is None:
                self._plain(row, heard.event)
        # Written without the lock: a terminal that is stopped must not stop the workers' locks,
        # and the painter, which takes both locks, takes them in the other order.
        self._tell(heard, live)

    def _tell(self, heard: ItemEvent, live: LiveDisplay | None) -> None:
        event = heard.event
        if isinstance(event, events.Alert):
            self._note(redact.text(event.text), live)
        if not isinstance(event, FileState):
            return
        if event.state == "done":
            size = size_text(event.size or 0)
            self._result(f"done: `{heard.path}` ({size}, {verified_text(event.verified)})", live)
        elif event.state == "skipped":
            how = f" ({verified_text(event.verified)})" if event.verified else ""
            self._result(f"skipped: `{heard.path}` is there already{how}", live)
        elif event.reason in CODES and event.state not in {"active", "verifying", "finishing"}:
            self.failed.add(heard.id)
            self._ended(heard.path, event, live)

    def _ended(self, path: str, event: FileState, live: LiveDisplay | None) -> None:
        row = CODES[event.reason]
        text = redact.text(f"`{path}`: {event.text}")
        if live is not None:
            failed = event.state == "failed"
            live.line(f" {text}" if failed else f"{event.state}: {text}", mark="error:" * failed)
            live.line(f"  {row.next} [{row.code}]")
        elif event.state == "failed":
            self._console.error(text, next_step=row.next, code=row.code)
        else:
            self._console.note(f"{event.state}: {text}")
            self._console.note(f"  {row.next} [{row.code}]")

    def _result(self, text: str, live: LiveDisplay | None) -> None:
        """Write a line of result; on a terminal only if there are few of them."""
        if self._is_piped or live is None:
            self._console.line(text)
        elif (self._board.files or 0) <= FEW:
            live.line(text)

    def _note(self, text: str, live: LiveDisplay | None) -> None:
        if live is None:
            self._console.note(text)
        else:
            live.line(text)

    # -- plain lines ---------------------------------------------------------------------------

    def _plain(self, row: Row, event: Event) -> None:
        if self._is_time():
            self._board.look(event.time)
            self._console.note(self._board.total_text())
        if isinstance(event, events.Waited):
            if event.time - self._waited_at >= WAIT_EVERY:
                self._waited_at = event.time
                self._console.note(f"{row.path}: {row.why}; waits {event.seconds:.1f} s")
        elif isinstance(event, events.MirrorChosen):
            self._console.note(f"{row.path}: turns to {event.key}")
        elif isinstance(event, events.ResumeAccepted):
            self._console.note(f"{row.path}: goes on at {size_text(event.offset)}")
        elif isinstance(event, events.ResumeDeclined):
            self._console.note(f"{row.path}: starts over ({event.reason})")
        elif isinstance(event, events.EndpointState) and event.until is not None:
            seconds = event.until - event.time
            self._console.note(f"{event.key} asked to wait {seconds:.0f} s: {event.reason}")

    def _is_time(self) -> bool:
        now = clock.monotonic()
        if now - self._said_at < PLAIN_EVERY:
            return False
        self._said_at = now
        return True


def _listing_text(source: str, event: ListingPage) -> str:
    if event.ended:
        return ""
    found = f"{event.objects} files, {size_text(event.bytes)}"
    return f"listing {source}: {found}, of {event.seen} objects so far"


def verified_text(verified: str) -> str:
    """Return what was verified, for people."""
    words = {
        "size-only": "size checked, no digest known",
        "unverified": "unverified: nothing vouches for the content",
        "": "unverified",
    }
    return words.get(verified, f"{verified} verified")
