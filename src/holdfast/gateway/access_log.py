"""The access log: one JSON object per line and request, written beside the loop.

A finished request leaves its line in a buffer (see `log_line`), which a thread writes once a
second: a disk that is slow, or full, costs the log its lines and the requests nothing. The buffer
is bounded; what does not fit, or cannot be written, is dropped, counted and said once, as an
`Alert` that clears when lines are written again. Lines are not made by that thread: it would hold
the interpreter for as long as that takes for all of a second, and every request would wait.

What may be secret is not there to begin with: no query, no header, no body; the path is redacted
all the same.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

from holdfast.core.events import Alert
from holdfast.core.settings import Problem
from holdfast.gateway.log_line import forget, line_of, note_of
from holdfast.gateway.options import ConfigError
from holdfast.runtime.append import Appender
from holdfast.runtime.clock import clock
from holdfast.runtime.hub import hub
from holdfast.runtime.random import rng

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from holdfast.gateway.config import GatewayConfig
    from holdfast.gateway.ledger import Ledger, Log
    from holdfast.gateway.request import Record
    from holdfast.runtime.clock import Timer
    from holdfast.wire.requests import RequestHead

FLUSH_SECONDS = 1.0
MAX_LINES = 20_000
"""Requests whose lines wait at most."""
CLOSE_SECONDS = 2.0
"""How long the end waits for the last lines."""
Written = tuple[int, str]
"""How many lines were lost, and why."""


class _Thread:
    """One thread that does one thing after the other, begun with the first of them.

    A process can end while it waits for a disk: those of an executor would be joined.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[
            tuple[Future[Written], Callable[[list[bytes]], Written], list[bytes]] | None
        ] = SimpleQueue()
        self._begun = False

    def submit(self, work: Callable[[list[bytes]], Written], lines: list[bytes]) -> Future[Written]:
        done: Future[Written] = Future()
        if not self._begun:
            self._begun = True
            threading.Thread(target=self._run, name="holdfast-log", daemon=True).start()
        self._jobs.put((done, work, lines))
        return done

    def end(self) -> None:
        """End once all is done."""
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            done, work, lines = job
            try:
                done.set_result(work(lines))
            except Exception as error:  # noqa: BLE001 - who asks for the result has it
                done.set_exception(error)


class AccessLog:
    """Writes the requests of one process. For the loop's thread.

    where: `stderr`, or a path.  sample: share of requests that are written.
    ledger: where lines that are lost are counted.
    """

    def __init__(
        self, where: str, loop: asyncio.AbstractEventLoop, ledger: Ledger, *, sample: float = 1.0
    ) -> None:
        self.where = where
        self.sample = sample
        self._loop = loop
        self.ledger = ledger
        self._file = Appender(where, descriptor=2 if where == "stderr" else None)
        self._thread = _Thread()
        self._waiting: list[bytes] = []
        self._timer: Timer | None = None
        self._writing: Future[Written] | None = None
        self._failing = self._closed = False

    # -- on the loop -----------------------------------------------------------------------------

    def take(self, record: Record, outcome: str, now: float) -> None:
        """Remember a finished request. now: monotonic."""
        if self._takes():
            self._add(line_of(record, outcome, now))

    def note(
        self, head: RequestHead | None, status: int, outcome: str, *, client: str, size: int
    ) -> None:
        """Remember a request that was answered here, or refused before it was read.

        head: None for one that could not be read.  client: its address.  size: of the answer.
        """
        if self._takes():
            self._add(note_of(head, status, outcome, client=client, size=size))

    def _takes(self) -> bool:
        """Say whether a line is wanted, and has room; count the one that has none."""
        if self.sample < 1 and rng.draw() >= self.sample:
            return False
        if self._closed or len(self._waiting) >= MAX_LINES:
            self.ledger.lines_dropped += 1
            return False
        return True

    def _add(self, line: bytes) -> None:
        self._waiting.append(line)
        if self._timer is None:
            self._timer = clock.call_later(self._loop, FLUSH_SECONDS, self._flush)

    def _flush(self) -> None:
        """Let the thread write what is there, unless it is busy still."""
        self._timer = None
        if self._writing is None and self._waiting:
            lines, self._waiting = self._waiting, []
            self._writing = self._thread.submit(self._write, lines)
            self._writing.add_done_callback(self._tell)
        elif self._waiting:
            self._timer = clock.call_later(self._loop, FLUSH_SECONDS, self._flush)

    def _tell(self, done: Future[Written]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody counts any more
            self._loop.call_soon_threadsafe(self._written, done)

    def _written(self, done: Future[Written]) -> None:
        self._writing = None
        dropped, why = done.result()
        self.ledger.lines_dropped += dropped
        if bool(dropped) is not self._failing:
            self._failing = bool(dropped)
            self._say(why)

    def _say(self, why: str) -> None:
        if hub.listening:
            text = f"the access log loses lines: {why}" if self._failing else "it is written again"
            hub.publish(
                Alert(
                    time=clock.monotonic(),
                    policy="gateway",
                    name="access_log",
                    text=text,
                    cleared=not self._failing,
                )
            )

    def close(self) -> None:
        """Write the rest; waits for it for a moment."""
        count = len(self._waiting)
        try:
            dropped, _ = self._end().result(CLOSE_SECONDS)
        except TimeoutError:
            dropped = count
        self.ledger.lines_dropped += dropped

    def leave(self) -> None:
        """Write the rest, and wait for nothing: the loop goes on with another log."""
        self._end().add_done_callback(self._tell)

    def _end(self) -> Future[Written]:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lines, self._waiting = self._waiting, []
        last = self._thread.submit(self._write_last, lines)
        self._thread.end()
        return last

    # -- on the thread ---------------------------------------------------------------------------

    def _write_last(self, lines: list[bytes]) -> Written:
        try:
            return self._write(lines)
        finally:
            self._file.close()

    def _write(self, lines: list[bytes]) -> Written:
        """Write lines; return how many could not be written, and why."""
        try:
            left = len(lines) - self._file.write(lines)
        except OSError as error:
            return len(lines), error.strerror or type(error).__name__
        return left, "the disk is full" if left else ""


def check_log(config: GatewayConfig) -> None:
    """Look whether lines can be written where the log is to be. Raises ConfigError."""
    if config.access_log in {"off", "stderr"}:
        return
    path = Path(config.access_log)
    why = ""
    if path.is_dir():
        why = "it is a directory"
    elif not path.parent.is_dir():
        why = f"there is no directory `{path.parent}`"
    elif not os.access(path if path.exists() else path.parent, os.W_OK):
        why = "it may not be written"
    if why:
        raise ConfigError([Problem("access_log", f"`{path}`: {why}")])


def log_of(
    config: GatewayConfig, loop: asyncio.AbstractEventLoop, ledger: Ledger
) -> AccessLog | None:
    """Return the log that is configured, if any. Nothing is opened before there is a line.

    Raises ConfigError if lines could not be written there.
    """
    check_log(config)
    forget()
    if config.access_log == "off":
        return None
    return AccessLog(config.access_log, loop, ledger, sample=config.access_log_sample)


def continued(old: Log | None, new: Log | None, ledger: Ledger) -> Log | None:
    """Return the log after a reload: the old one, if it is the same file."""
    if isinstance(old, AccessLog) and isinstance(new, AccessLog) and old.where == new.where:
        old.sample = new.sample
        return old
    if isinstance(old, AccessLog):
        old.leave()
    elif old is not None:
        old.close()
    if isinstance(new, AccessLog):
        new.ledger = ledger
    return new
