"""What a run has for its small files: the lane, the groups, and the way to the threads."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Literal

from holdfast.downloads.failures import Failure, failure_of
from holdfast.downloads.fetch import WISHED, Outcome, check_way
from holdfast.downloads.group import Group
from holdfast.downloads.origins import origin_of
from holdfast.downloads.rows import MANY, MOST, Rows, Small
from holdfast.downloads.states import State, after, is_open
from holdfast.runtime.files import files
from holdfast.runtime.passes import Passes
from holdfast.storage.journal import JournalFull
from holdfast.transfer.replay import AfterAll, Answer, Replay
from holdfast.wire.addresses import Reach
from holdfast.wire.proxy import proxies_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from holdfast.downloads.crew import Crew
    from holdfast.downloads.fetch import Options
    from holdfast.downloads.hands import Hands
    from holdfast.downloads.items import Item
    from holdfast.downloads.rows import Done
    from holdfast.downloads.small import Lane
    from holdfast.downloads.small_threads import SmallThreads
    from holdfast.downloads.states import Input
    from holdfast.downloads.store import Store
    from holdfast.runtime.policy import Policy
    from holdfast.transfer.plane import Plane
    from holdfast.transfer.traffic import Traffic
    from holdfast.wire.addresses import AddrInfo
    from holdfast.wire.cancel import Cancel
    from holdfast.wire.resolve import Resolver
    from holdfast.wire.urls import Url

KEPT_WAYS = 1000
KEPT_NAMES = 100
"""Directories, and names of each, that are remembered; of others each name is looked for."""


class SmallRun:
    """The small files of one run.

    done: told the files that have their names.  left: told those that the next run must finish,
    with the reason.  stopping: whether the run is to end.
    """

    def __init__(
        self,
        store: Store,
        into: str,
        policy: Policy,
        *,
        crew: Crew,
        options: Options,
        hands: Hands,
        resolver: Resolver,
        steered: set[str],
        done: Callable[[Sequence[Done]], None],
        left: Callable[[Sequence[Done], Outcome], None],
        stopping: Callable[[], bool],
    ) -> None:
        self._store = store
        self._into = into
        self._policy = policy
        self._crew = crew
        self._options = options
        self._hands = hands
        self._resolver = resolver
        self._steered = steered
        self._done = done
        self._left = left
        self._stopping = stopping
        self._answers: dict[str, Answer] = {}
        self._ways: dict[str, frozenset[str] | None] = {}
        self._proxies = proxies_of(os.environ)
        self._lock = threading.Lock()
        self.lane: Lane | None = None
        self.threads: SmallThreads | None = None
        self.is_used = False
        self._rows: Rows | None = None
        self.group = Group(
            store,
            into,
            durable=options.durable,
            ended=self._ended,
            refused=self._refused,
            stuck=self._stuck,
            room=self._wake,
            where=self._on_lane,
        )

    def open(self, plane: Literal["auto", "threads", "asyncio"]) -> bool:
        """Make ready for what there is to do; return whether there is a lane to be run."""
        options = self._options
        if options.sidecars is not None or options.content_disposition:
            return False  # there is more than one question to each file
        rows = Rows(self._store, MOST)
        least = 1 if plane == "asyncio" else MANY
        if rows.count(least) < least:
            return False
        self.group.open()
        self.is_used = True
        if plane == "threads":
            self._open_threads(rows)
        else:
            self._open_lane(rows)
        return self.lane is not None

    def _open_lane(self, rows: Rows) -> None:
        # It brings asyncio (40 ms), which a run of few files does not need.
        from holdfast.downloads.small import Lane  # noqa: PLC0415

        self._crew.expect(1)  # the lane itself
        self.lane = Lane(
            rows,
            self._into,
            crew=self._crew,
            group=self.group,
            options=self._options,
            passes=lambda host: Passes(self._policy, host),
            reach=self._reach,
            look_up=self._look_up,
            proxied=self._is_proxied,
            steered=self._steered,
            reread=lambda item_id: self._hand(item_id, None),
            handed=self._hand,
            clear=self._is_clear,
            stopping=self._stopping,
        )

    def _open_threads(self, rows: Rows) -> None:
        from holdfast.downloads.small_threads import SmallThreads  # noqa: PLC0415 - see above

        self._rows = rows
        self.threads = SmallThreads(
            crew=self._crew,
            group=self.group,
            options=self._options,
            resolver=self._resolver,
            origin_of=lambda row: origin_of(
                row,
                self._crew,
                lambda host: Passes(self._policy, host),
                self._reach,
                self._is_proxied,
            ),
            clear=self._is_clear,
        )

    def items(self) -> Iterator[Item | Small]:
        """Yield what the threads begin with; if there is a lane it hands them what is theirs."""
        if self.lane is not None:
            return
        if self.threads is None:
            yield from self._store.open_items()
            return
        ended = False
        while self._rows is not None and not ended:
            page, ended = self._rows.page()
            for row in page:
                found = self._store.item(row) if isinstance(row, str) else row
                if found is not None:
                    yield found

    def run_lane(self) -> None:
        """Do what the lane has to do, on this thread."""
        if self.lane is not None:
            try:
                self._hands.run(self.lane.main)
            finally:
                self._crew.expect(-1)

    # -- what the lane asks ----------------------------------------------------------------------

    def _reach(self, typed: bool) -> Reach:  # noqa: FBT001 - a fact of the row
        allowed = self._options.allow_private
        if allowed is None:
            return Reach.TYPED if typed else Reach.PUBLIC
        return Reach.ANY if allowed else Reach.PUBLIC

    async def _look_up(self, host: str, port: int) -> Sequence[AddrInfo]:
        import asyncio  # noqa: PLC0415 - it is there

        return await asyncio.wrap_future(self._resolver.ask(host, port))

    def _is_proxied(self, url: Url) -> bool:
        try:
            return self._proxies.choose(url) is not None
        except OSError:
            return True  # a proxy that cannot be used is told by who tries to

    def _is_clear(self, parent: str, name: str) -> bool:
        """Whether nothing is in the way of a file; its directory is made.

        What a directory held at first is remembered, where that is not much: a file that comes
        later is seen before the name is given, as always.
        """
        if parent not in self._ways and not self._look_into(parent):
            return False
        known = self._ways.get(parent)
        if known is not None:
            return name not in known
        directory = f"{self._into}/{parent}" if parent else self._into
        return files().stat(f"{directory}/{name}") is None

    def _look_into(self, parent: str) -> bool:
        try:
            check_way(self._into, parent)
            found = files().listdir(f"{self._into}/{parent}")
        except Exception:  # noqa: BLE001 - whoever looks again meets it, and says it
            return False
        if len(self._ways) >= KEPT_WAYS:
            self._ways.clear()
        names = frozenset(found) if len(found) <= KEPT_NAMES else None
        self._ways[parent] = names
        return True

    # -- to the threads --------------------------------------------------------------------------

    def try_small(self, item: Small, cancel: Cancel) -> bool:
        """Try a file on this thread; False: it goes on as every other."""
        threads = self.threads
        done = threads.fetch(item, cancel) if threads is not None else False
        if isinstance(done, Answer):
            with self._lock:
                self._answers[item.id] = done
        return done is True

    def ended(self, item: Item | Small, size: int) -> None:
        """Learn how large a file was that went the usual way."""
        if self.threads is not None and isinstance(item, Small):
            self.threads.learn(item.origin, size)

    def leave(self) -> None:
        """Give up what this thread keeps for small files."""
        if self.threads is not None:
            self.threads.leave()

    def _hand(self, item_id: str, answer: Answer | None) -> None:
        """Let a thread go on with a file, with what was received of it."""
        item = self._store.item(item_id)
        if item is None or not is_open(item.state) or item.is_held:
            return
        if answer is not None:
            with self._lock:
                self._answers[item_id] = answer
        self._crew.add(item)

    def way_of(self, item_id: str, plane: Plane, traffic: Traffic) -> tuple[Plane, Traffic]:
        """Return the plane and the traffic of a transfer that begins now."""
        with self._lock:
            answer = self._answers.pop(item_id, None)
        if answer is None:
            return plane, traffic
        return Replay(answer, plane), AfterAll(traffic)

    # -- from the groups -------------------------------------------------------------------------

    def _ended(self, group: Sequence[Done]) -> None:
        self._done(group)
        self._crew.expect(-len(group))
        self._wake()

    def _wake(self) -> None:
        if self.lane is not None:
            self.lane.wake()

    def _on_lane(self, work: Callable[[], None]) -> None:
        if self.lane is None:
            work()
        else:
            self.lane.do(work)

    def _refused(self, done: Done) -> None:
        self._hand(done.id, None)
        self._crew.expect(-1)

    def _stuck(self, group: Sequence[Done], error: Exception) -> None:
        failure = failure_of(error)
        if isinstance(error, JournalFull):
            failure = Failure("disk", "the disk is full: the journal could not be written")
        self._left(group, Outcome(State.FINISHING, failure))
        self._crew.expect(-len(group))

    # -- steered from outside --------------------------------------------------------------------

    def steer(self, item_id: str, wish: Input) -> bool:
        """Let a file that the lane asks for end by `wish`; False if it does not ask for it."""
        lane = self.lane
        if lane is None or not lane.holds(item_id):
            return False
        lane.drop(item_id, lambda: self._end_by(item_id, wish))
        return True

    def _end_by(self, item_id: str, wish: Input) -> None:
        item = self._store.item(item_id)
        if item is not None and is_open(item.state) and item.state is not State.FINISHING:
            self._store.ended(item_id, after(item.state, wish), WISHED[wish])
