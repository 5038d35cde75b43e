"""Small files on the worker threads: what the lane does (see `small`), one file at a time.

Each thread keeps one connection alive. A file is tried here if it is known to be small, or its
origin has given small files before; a plain good answer goes into the group, and everything
else goes on where the thread takes every other file, with what was received.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from holdfast.core.verdict import Kind, Sent
from holdfast.downloads.origins import Origin, wants
from holdfast.downloads.rows import MOST
from holdfast.transfer.failures import TransferFailed
from holdfast.transfer.line_threads import BlockingLine
from holdfast.transfer.plain import checked, is_plain
from holdfast.transfer.plane import End, Received
from holdfast.transfer.plane_threads import describe, verdict_of
from holdfast.transfer.replay import Answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.downloads.crew import Crew
    from holdfast.downloads.fetch import Options
    from holdfast.downloads.group import Group
    from holdfast.downloads.rows import Small
    from holdfast.transfer.plane_async import Line
    from holdfast.transfer.traffic import Flow as Flowing
    from holdfast.wire.cancel import Cancel
    from holdfast.wire.resolve import Resolver

MANY_ORIGINS = 100
IN_A_ROW = 4
"""After so many small files of an origin one of unknown size is taken for small, too."""


class SmallThreads:
    """Tries small files for the threads. For any thread.

    origin_of: whom a file is asked from; None if that is not for here.
    clear: whether nothing is in the way of a name in a directory.
    """

    def __init__(
        self,
        *,
        crew: Crew,
        group: Group,
        options: Options,
        resolver: Resolver,
        origin_of: Callable[[Small], Origin | None],
        clear: Callable[[str, str], bool],
    ) -> None:
        self._crew = crew
        self._group = group
        self._options = options
        self._most = min(MOST, options.max_size)
        self._resolver = resolver
        self._origin_of = origin_of
        self._clear = clear
        self._mine = threading.local()
        self._rows: dict[str, int] = {}  # of small files in a row, per origin

    def learn(self, origin: str, size: int) -> None:
        """Note how large a file was."""
        self._rows[origin] = self._rows.get(origin, 0) + 1 if size <= self._most else 0

    def fetch(self, item: Small, cancel: Cancel) -> bool | Answer:
        """Try a file: True if it is in the group; else False, or what was received of it."""
        known = item.size is not None or self._rows.get(item.origin, 0) >= IN_A_ROW
        origin = self._origin(item) if known else None
        parent, _, name = item.path.rpartition("/")
        if origin is None or not self._clear(parent, name):
            return False
        given = origin.passes.enter()
        if given is None:
            return False
        done: bool | Answer = False
        try:
            with self._crew.flow(origin.url.host, cancel) as flow:
                done = self._exchange(item, origin, flow)
        except TransferFailed:
            pass  # the gate said no; it will say so again
        finally:
            if done is True:
                origin.passes.succeeded(given)
            else:
                origin.passes.abandoned(given)
        return done

    def _origin(self, item: Small) -> Origin | None:
        # Of each thread its own: what is counted there needs no lock.
        origins: dict[tuple[str, bool], Origin | None] | None
        origins = getattr(self._mine, "origins", None)
        if origins is None:
            origins = self._mine.origins = {}
        key = (item.origin, item.typed)
        if key not in origins:
            if len(origins) >= MANY_ORIGINS:
                origins.clear()
            origins[key] = self._origin_of(item)
        return origins[key]

    def _exchange(self, item: Small, origin: Origin, flow: Flowing) -> bool | Answer:
        received, body = None, b""
        try:
            line = self._asked(item, origin, flow.cancel)
        except OSError as error:
            fault = verdict_of(error, Sent.NO)
            received = Received(End.BROKEN, fault=fault, text=describe(error))
        else:
            flow.moved(len(line.body))
            if self._take(item, line):
                flow.ended(line.received(), resumed=False)
                self.learn(item.origin, len(line.body))
                self._keep(origin)
                return True
            if line.end in {End.UNREAD, End.LIMIT} and line.head is not None and wants(line.head):
                self._rows[item.origin] = 0  # it is large, and asked for as such
            else:
                received, body = line.received(), bytes(line.body)
            self._keep(origin)
        if received is None or flow.cancel.is_set():
            return False
        flow.ended(received, resumed=False)
        return Answer(received, body)

    def _asked(self, item: Small, origin: Origin, cancel: Cancel) -> Line:
        question = origin.question(item.target)
        line = self._connected(origin, cancel).ask(question, cancel)
        fault = line.fault
        stale = fault is not None and line.silent and line.asked > 1
        if stale and fault is not None and fault.kind is not Kind.TIMEOUT and not cancel.is_set():
            # The peer had closed a connection that was idle: nobody's failure.
            self.leave()
            line = self._connected(origin, cancel).ask(question, cancel)
        return line

    def _connected(self, origin: Origin, cancel: Cancel) -> BlockingLine:
        kept: tuple[Origin, BlockingLine] | None = getattr(self._mine, "kept", None)
        if kept is not None and kept[0] is origin and not kept[1].line.is_dead:
            return kept[1]
        self.leave()
        made = BlockingLine(
            origin.url,
            wants,
            most=self._most,
            timeouts=self._options.timeouts,
            reach=origin.reach,
            resolver=self._resolver,
            cancel=cancel,
        )
        self._mine.kept = (origin, made)
        return made

    def _keep(self, origin: Origin) -> None:
        """Keep the connection for the next file, unless the host bears fewer than there are."""
        kept: tuple[Origin, BlockingLine] | None = getattr(self._mine, "kept", None)
        if kept is None or not kept[1].line.may_reuse or not self._crew.bears(origin.host):
            self.leave()

    def leave(self) -> None:
        """Give the connection of this thread up."""
        kept: tuple[Origin, BlockingLine] | None = getattr(self._mine, "kept", None)
        if kept is not None:
            self._mine.kept = None
            kept[0].passes.flush()
            kept[1].close()

    def _take(self, item: Small, line: Line) -> bool:
        """Put a good and plain answer into the group; False for every other."""
        head = line.head
        if line.end is not End.COMPLETE or head is None or not is_plain(head, item.size):
            return False
        whole = checked(line.body, head, item.size, item.digests)
        if whole is None:
            return False
        self._crew.expect(1)
        try:
            self._group.put(self._group.write(item, head, whole, line.body))
        except OSError:
            self._crew.expect(-1)
            return False
        return True
