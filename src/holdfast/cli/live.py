"""The display on a terminal, drawn by Rich: a total, at most ten files, hosts that are waited for.

    e5.oper.an.pl.128_130_t.ll025sc.20210…  ━━━━━━━━━━━━━━    34%  48.2 MiB/s  49 s left
    data.example asked to wait, 12 s more: throttled
    12 of 500 files   3.4 GiB of 480 GiB   48.2 MiB/s   2 h 44 min left   1 failed

Of more than ten files one appears once it takes more than a second, so that thousands of small
ones cost nothing and nothing flickers. Text is laid out here, line by line: a table of Rich
costs six times as much per redraw (4.6 ms against 0.8 ms for ten files).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from rich.console import Console as RichConsole
from rich.console import Group
from rich.live import Live
from rich.text import Text

from holdfast.cli.board import row_text
from holdfast.cli.output import printable
from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    from holdfast.cli.board import Board, Row
    from holdfast.cli.output import Console

REDRAW = 0.2
IDLE_REDRAW = 1.0
"""Seconds between two redraws while no event comes: only the times on the screen change."""
MAX_FILES = 10
MAX_HOSTS = 3
SHOWN_AFTER = 1.0
_BAR = 18
_SAID = 34
_NARROW = 60


class LiveDisplay:
    """Draws a board until it is left. lock: of the board."""

    def __init__(self, console: Console, board: Board, lock: threading.Lock) -> None:
        self._board = board
        self._lock = lock
        self._rich = RichConsole(
            file=console.err, highlight=False, markup=False, emoji=False, legacy_windows=False
        )
        self._live = Live(
            console=self._rich,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._ended = threading.Event()
        self._painter = threading.Thread(target=self._paint, name="holdfast-display", daemon=True)
        self.listing = ""

    def start(self) -> None:
        """Begin."""
        self._live.start()
        self._painter.start()

    def stop(self) -> None:
        """Take the block off the screen."""
        self._ended.set()
        self._painter.join()
        self._live.stop()

    def line(self, text: str, *, mark: str = "") -> None:
        """Write a line above the block. mark: an uncoloured word at its begin, shown in red."""
        self._rich.print(Text.assemble((mark, "red"), printable(text)), soft_wrap=True)

    # -- drawing -------------------------------------------------------------------------------

    def _paint(self) -> None:
        drawn, drawn_at = -1, 0.0
        while not clock.wait(self._ended, REDRAW):
            now = clock.monotonic()
            with self._lock:
                self._board.look(now)
                if self._board.changes == drawn and now - drawn_at < IDLE_REDRAW:
                    continue
                drawn, drawn_at = self._board.changes, now
                block = self._block(now)
            self._live.update(block, refresh=True)

    def _block(self, now: float) -> Group:
        board, width = self._board, self._rich.width
        if self.listing:
            return Group(_line(Text(printable(self.listing)), width))
        few = board.files is not None and board.files <= MAX_FILES
        since = now if few else now - SHOWN_AFTER
        slow = [row for row in board.rows.values() if row.began <= since]
        lines = [_file(row, now, width) for row in slow[:MAX_FILES]]
        if len(slow) > MAX_FILES:
            lines.append(_line(Text(f"and {len(slow) - MAX_FILES} more", style="dim"), width))
        held = board.held_texts(now)[:MAX_HOSTS]
        lines += [_line(Text(printable(text), style="yellow"), width) for text in held]
        return Group(*lines, _line(Text(board.total_text(), style="bold"), width))


def _file(row: Row, now: float, width: int) -> Text:
    bar = _BAR if width >= _NARROW else 0
    said = row_text(row, now).ljust(_SAID)  # so that the bars stand below one another
    room = max(8, width - len(said) - (bar + 2 if bar else 0) - 3)
    line = Text()
    name = Text(printable(row.path))
    if name.cell_len > room:  # its end tells files apart better than its beginning
        name = Text("\u2026") + name[-(room - 1) :]
    name.truncate(room, pad=True)
    line.append_text(name)
    line.append("  ")
    if bar:
        full = round((row.share or 0.0) * bar)
        line.append("\u2501" * full, style="green")
        line.append("\u2501" * (bar - full), style="bright_black")
        line.append("  ")
    line.append(printable(said.rstrip()))
    return _line(line, width)


def _line(text: Text, width: int) -> Text:
    """Keep it on one line of the screen: a wrapped one would be redrawn as two."""
    text.no_wrap, text.overflow = True, "ellipsis"
    text.truncate(width - 1, overflow="ellipsis")
    return text
