"""What a run of downloads looks like, as numbers and short texts: fed by events, drawn by others.

Nothing here prints or asks for the time. Memory is bounded by what is under way: a file that
has ended is only counted.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from holdfast.cli.output import size_text, time_text
from holdfast.core import events
from holdfast.downloads.items import FileState

if TYPE_CHECKING:
    from holdfast.core.events import Event
    from holdfast.downloads.items import ItemEvent

WINDOW = 10.0
"""Seconds over which the rate of all files together is measured."""
MAX_HOSTS = 100
"""Hosts that are remembered; one that is held and forgotten is told again by its next answer."""


@dataclass(slots=True)
class Row:
    """One file that is under way.

    retries: attempts that failed.  wait_until: monotonic time.  why: of the wait, or what
    is being done with it.
    """

    path: str
    began: float
    kept: int = 0
    size: int | None = None
    rate: float = 0.0
    eta: float | None = None
    retries: int = 0
    wait_until: float = 0.0
    why: str = ""

    @property
    def share(self) -> float | None:
        """How much of it is there, 0 to 1; None while its size is unknown."""
        return min(1.0, self.kept / self.size) if self.size else None


@dataclass(slots=True)
class Board:
    """All files of a run.

    files: how many there are in all, size: their bytes; None while unknown.
    on_disk: bytes of them that are there; received: what of it came in this run.
    """

    files: int | None = None
    size: int | None = None
    done: int = 0
    skipped: int = 0
    failed: int = 0
    on_disk: int = 0
    received: int = 0
    rows: dict[str, Row] = field(default_factory=dict)
    held: dict[str, tuple[float, str]] = field(default_factory=dict)
    changes: int = 0
    _sized: int = 0
    _begun: bool = False
    _stopped: set[str] = field(default_factory=set)
    _points: deque[tuple[float, int, int]] = field(default_factory=deque)

    @property
    def ended(self) -> int:
        """How many files have ended, in whatever way."""
        return self.done + self.skipped + self.failed + self.stopped

    @property
    def stopped(self) -> int:
        """How many were left with work to do."""
        return len(self._stopped)

    # -- fed ---------------------------------------------------------------------------------

    def take(self, heard: ItemEvent) -> Row:
        """Take an event; return the row that it is about, which may just have ended."""
        event = heard.event
        self.changes += 1
        self._begun |= not (isinstance(event, FileState) and event.state == "skipped")
        if isinstance(event, events.EndpointState):
            self._host(event)
            return Row("", event.time)
        row = self.rows.get(heard.id)
        if row is None:
            row = Row(heard.path, event.time)
            if not isinstance(event, FileState) or event.state == "active":
                self.rows[heard.id] = row
        self._file(heard.id, row, event)
        return row

    def _host(self, event: events.EndpointState) -> None:
        if event.until is None:
            self.held.pop(event.key, None)
        elif event.key in self.held or len(self.held) < MAX_HOSTS:
            self.held[event.key] = (event.until, event.reason)

    def _file(self, item_id: str, row: Row, event: Event) -> None:
        if isinstance(event, events.Progress):
            self._moved(row, event.bytes)
            row.size, row.rate, row.eta, row.why = event.size, event.rate, event.eta, ""
        elif isinstance(event, events.Attempt) and event.kind not in {"ok", "cancelled"}:
            row.why = event.reason
            row.retries += 1
        elif isinstance(event, events.Waited):
            row.wait_until, row.rate, row.eta = event.next_at, 0.0, None
        elif isinstance(event, events.ResumeAccepted):
            # What an earlier run brought is there, and was not received now.
            self.on_disk += max(0, event.offset - row.kept)
            row.kept = max(row.kept, event.offset)
        elif isinstance(event, events.ResumeDeclined):
            self.on_disk -= row.kept
            row.kept = 0
        elif isinstance(event, FileState):
            self._state(item_id, row, event)

    def _moved(self, row: Row, at: int) -> None:
        self.on_disk += at - row.kept
        self.received += max(0, at - row.kept)
        row.kept = at

    def _state(self, item_id: str, row: Row, event: FileState) -> None:
        if event.state in {"active", "queued"}:
            self._stopped.discard(item_id)  # a full disk has room again, or it was resumed
            return
        if event.state in {"verifying", "finishing"}:
            row.why = event.state
            return
        self.rows.pop(item_id, None)
        if event.state == "done":
            self.done += 1
            self._moved(row, event.size or 0)
        elif event.state == "skipped":
            if not self._begun and self.files is not None:
                # Finished files that were asked for again are told first, and were not counted.
                self.files += 1
                self.size = None if self.size is None else self.size + (event.size or 0)
            self.skipped += 1
            self.on_disk += (event.size or 0) - row.kept
        else:
            self.failed += event.state == "failed"
            if event.state != "failed":
                self._stopped.add(item_id)
            self.on_disk -= row.kept
        self._sized += event.size or 0

    # -- read --------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Remember where all files are now, for the rate."""
        points = self._points
        points.append((now, self.received, self.ended))
        while now - points[0][0] > WINDOW:
            points.popleft()

    @property
    def rate(self) -> float:
        """Bytes per second of the last ten seconds."""
        return self._per_second(1)

    def _per_second(self, column: int) -> float:
        if len(self._points) < 2:
            return 0.0
        first, last = self._points[0], self._points[-1]
        seconds = last[0] - first[0]
        return (last[column] - first[column]) / seconds if seconds > 0 else 0.0

    @property
    def known_size(self) -> int | None:
        """Bytes of all files: as planned, or as found once every file has begun."""
        if self.size is not None:
            return self.size
        sizes = [row.size for row in self.rows.values()]
        if self.files is None or self.ended + len(sizes) < self.files or None in sizes:
            return None
        return self._sized + sum(size or 0 for size in sizes)

    @property
    def eta(self) -> float | None:
        """Seconds left: by bytes if all sizes are known, else by files; None if neither helps."""
        size, rate = self.known_size, self.rate
        if size is not None:
            return max(0, size - self.on_disk) / rate if rate else None
        pace = self._per_second(2)
        if self.files is None or not pace:
            return None
        return max(0, self.files - self.ended) / pace

    def total_text(self) -> str:
        """Return the line about all files: files, bytes, rate, time left, what did not go well."""
        count = f"{self.ended} of {self.files}" if self.files is not None else f"{self.ended}"
        size = self.known_size
        amount = size_text(self.on_disk) + (f" of {size_text(size)}" if size is not None else "")
        noun = "file" if self.files == 1 else "files"
        parts = [f"{count} {noun}", amount, f"{size_text(self.rate)}/s"]
        if self.eta is not None:
            parts.append(f"{time_text(self.eta)} left")
        named = (("skipped", self.skipped), ("failed", self.failed), ("stopped", self.stopped))
        parts += [f"{count} {name}" for name, count in named if count]
        return "   ".join(parts)

    def held_texts(self, now: float) -> list[str]:
        """Return a line per host that wants no request now, the longest wait first."""
        held = sorted(self.held.items(), key=lambda one: -one[1][0])
        return [
            f"{host} asked to wait, {time_text(until - now)} more: {why}"
            for host, (until, why) in held
            if until - now >= 0.5
        ]


def row_text(row: Row, now: float) -> str:
    """Return what is said of a file beside its name and bar."""
    share = row.share
    parts = [size_text(row.kept).rjust(4) if share is None else f"{share:4.0%}"]
    if row.wait_until - now >= 0.5:
        parts.append(f"waits {time_text(row.wait_until - now)}" + (row.why and f": {row.why}"))
    elif row.why:
        parts.append(row.why)
    else:
        parts.append(f"{size_text(row.rate)}/s".rjust(10))
        if row.eta is not None:
            parts.append(f"{time_text(row.eta)} left")
    if row.retries:
        parts.append("1 retry" if row.retries == 1 else f"{row.retries} retries")
    return "  ".join(parts)
