"""Runs items: threads that fetch files and help each other, until all have ended or are stopped.

Ctrl-C must end within two seconds, whatever a worker is doing. Those that move bytes are
woken (their sockets are shut down), flush and commit; those that sit in a backoff are woken
as well. One that is in the resolver or in a sync is waited for `GRACE` seconds only: it holds
nothing uncommitted that is worth more. It is a daemon thread, and finds the journal closed to
it should it wake.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Literal

from holdfast.core.errors import Stopped
from holdfast.core.events import Alert, EndpointState
from holdfast.downloads.crew import Crew
from holdfast.downloads.fetch import WISHED, Fetch, Options, Outcome
from holdfast.downloads.hands import Threads
from holdfast.downloads.items import FailedItem, FileState, Item, ItemEvent, Report
from holdfast.downloads.room import is_there
from holdfast.downloads.smallrun import SmallRun
from holdfast.downloads.states import Input, State, after, is_open
from holdfast.downloads.tally import Tally
from holdfast.downloads.through import Way
from holdfast.runtime.clock import clock
from holdfast.runtime.files import files
from holdfast.runtime.hub import hub
from holdfast.transfer.failures import Interrupted
from holdfast.transfer.plane_threads import ThreadPlane
from holdfast.transfer.scores import Ledger
from holdfast.wire.cancel import Cancel
from holdfast.wire.resolve import Resolver
from holdfast.wire.urls import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from holdfast.core.events import Event
    from holdfast.downloads.addresses import Addresses
    from holdfast.downloads.flows import Job
    from holdfast.downloads.hands import Hand, Hands
    from holdfast.downloads.rows import Done, Small
    from holdfast.downloads.store import Store
    from holdfast.runtime.policy import Policy
    from holdfast.transfer.plane import Plane
    from holdfast.transfer.wanted import Attempt

LOOK_EVERY = 0.1
ROOM_EVERY = 5.0
"""Seconds between two looks at a full disk."""
ROOM_LEAST = 1 << 20
"""Bytes that must be free for a paused file to go on: what it lacks, but at least so many."""
MANY_HOSTS = 1000
"""Names of hosts that are remembered."""
GRACE = 1.5
"""Seconds that a stop waits for workers to commit what they have."""


def _is_wanted(item: Item) -> bool:
    return is_open(item.state) and not item.is_held


class Engine:
    """One run over the open items of a journal.

    workers: threads at most.  per_host: connections to one host at most.  limit_rate: bytes per
    second, all together.
    addresses: where items are asked, with what is secret in it.
    heard: called with every event of an item, on the thread where it happened.
    way: how items are fetched, if not by ourselves (see `through`).
    until: the moment of the clock at which the run stops by itself.
    """

    def __init__(
        self,
        store: Store,
        into: str,
        policy: Policy,
        *,
        workers: int,
        options: Options,
        per_host: int = 16,
        limit_rate: float | None = None,
        addresses: Addresses,
        heard: Callable[[ItemEvent], None] | None = None,
        until: float | None = None,
        plane: Plane | None = None,
        lane: Literal["auto", "threads", "asyncio"] | None = None,
        resolver: Resolver | None = None,
        hands: Hands | None = None,
        way: Way | None = None,
    ) -> None:
        self._store = store.view()
        self._into = into
        self._policy = policy
        self._workers = workers
        self._options = options
        self._addresses = addresses
        self._heard = heard
        resolver = resolver or Resolver()
        self._hands_of: Hands = hands or Threads()
        self._plane = plane or ThreadPlane(resolver)
        self._cancel = Cancel()
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._threads: list[Hand] = []
        self._active: dict[str, Cancel] = {}
        self._wishes: dict[str, Input] = {}
        self._steered: set[str] = set()
        self._hosts: dict[str, str] = {}
        self._closed = False
        self._stop_asked = False
        self._until = until
        self._out_of_time = False
        self._full = False
        self._running = self._hands = 0
        self._finisher: Hand | None = None
        self._stop_at: float | None = None
        self._tally = Tally()
        self._crash: BaseException | None = None
        self._crew = self._new_crew(per_host, limit_rate)
        self._ledger = Ledger(self._crew.held)
        self._way = way or Way()
        # A plane or way of somebody's own is meant for all files, unless he says otherwise.
        self._lane = lane or ("auto" if plane is None else None)
        if way is not None:
            self._lane = None
        self._small = self._small_run(policy, resolver)

    def _new_crew(self, per_host: int, limit_rate: float | None) -> Crew:
        return Crew(
            self._open_items(),
            self._host_of,
            others_of=self._others_of,
            per_host=per_host,
            workers=self._workers,
            limit_rate=limit_rate,
            called=self._changed.set,
            starving=self._hurry,
        )

    def _small_run(self, policy: Policy, resolver: Resolver) -> SmallRun:
        return SmallRun(
            self._store,
            self._into,
            policy,
            crew=self._crew,
            options=self._options,
            hands=self._hands_of,
            resolver=resolver,
            steered=self._steered,
            done=self._done,
            left=self._left,
            stopping=lambda: self._stop_asked,
        )

    def _hurry(self) -> None:
        self._small.group.hurry()

    def _open_items(self) -> Iterator[Item | Small]:
        yield from self._small.items()

    def _others_of(self, item: Item | Small) -> Sequence[str]:
        return self._addresses.others(item) if isinstance(item, Item) else ()

    def _host_of(self, item: Item | Small) -> str:
        if isinstance(item, Item):
            return self._addresses.host(item)
        host = self._hosts.get(item.origin)
        if host is None:
            if len(self._hosts) >= MANY_HOSTS:
                self._hosts.clear()
            host = self._hosts[item.origin] = parse(item.origin + "/").host
        return host

    @property
    def connections(self) -> int:
        """How many connections are in use, or may be at any moment; none after a run."""
        return self._crew.connections

    def stop(self) -> None:
        """Ask the run to end; what was received is kept.

        Only a flag, looked at ten times a second: a signal handler runs on the thread that
        waits for the workers, possibly while that holds the lock of what it waits on.
        """
        self._stop_asked = True

    def run(self) -> Report:
        """Bring every open item to an end and report. Call once.

        KeyboardInterrupt stops the run as `stop` does and is raised again at its end.
        """
        started = clock.monotonic()
        unsubscribe = hub.subscribe(self._forward) if self._heard else lambda: None
        try:
            self._tally.skipped = self._check_done()
            self._work()
        finally:
            with self._lock:
                self._closed = True
            self._store.retire()
            unsubscribe()
        if self._crash is not None:
            raise self._crash
        return self._report(clock.monotonic() - started)

    def _check_done(self) -> int:
        """Look after finished items that were asked for again; return how many are fine."""
        fine = 0
        session = self._store.session
        for item in self._store.items(State.DONE, State.SKIPPED, session=session):
            if not self._way.seen or is_there(item, self._into):
                fine += 1
                self._tell(item, Outcome(State.SKIPPED, size=item.known_size or 0))
            else:
                self._store.update(item.id, state=after(item.state, Input.LOST).value)
        return fine

    # -- threads -----------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            lane = self._lane is not None and self._small.open(self._lane)
            if self._small.is_used:
                self._finisher = self._spawn(self._small.group.run, "finish", counted=False)
            if lane:
                self._spawn(self._small.run_lane, "small")
            else:
                self._start(min(self._workers, max(1, self._store.open_count())))
            self._wait()
        except KeyboardInterrupt:
            self.stop()
            self._wait()
            raise
        finally:
            self._end_groups()
        if not self._cancel.is_set():
            for thread in self._threads:
                thread.join()

    def _end_groups(self) -> None:
        """Let what is in a group have its end; after a stop, within the time that is left."""
        self._small.group.close()
        if self._finisher is not None:
            limit = None if self._stop_at is None else self._stop_at + GRACE - clock.monotonic()
            self._finisher.join(None if limit is None else max(0.1, limit))

    def _start(self, count: int) -> None:
        """Start so many more threads, if there may be so many."""
        for _ in range(min(count, self._workers - self._hands)):
            self._hands += 1
            self._spawn(self._worker, f"get-{self._hands}")

    def _spawn(self, work: Callable[[], None], name: str, *, counted: bool = True) -> Hand:
        """Start a thread. counted: the run goes on for as long as it does."""
        if counted:
            with self._lock:
                self._running += 1
        hand = self._hands_of.start(
            lambda: self._run_thread(work, counted=counted), f"holdfast-{name}"
        )
        if counted:
            self._threads.append(hand)
        return hand

    def _run_thread(self, work: Callable[[], None], *, counted: bool) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again by `run`, on its thread
            with self._lock:
                if not self._closed:
                    self._crash = self._crash or error
            self.stop()
        finally:
            if counted:
                with self._lock:
                    self._running -= 1
            self._changed.set()

    def _wait(self) -> None:
        """Wait until all workers have ended; after a stop, for `GRACE` seconds at most."""
        until: float | None = None
        while True:
            self._changed.clear()
            with self._lock:
                busy = self._running
            if not busy and not self._crew.has_work:
                return
            now = clock.monotonic()
            if self._until is not None and now >= self._until and not self._stop_asked:
                self._out_of_time = True
                self.stop()
            if self._stop_asked and until is None:
                self._stop_at = now
                until = now + GRACE
                self._cancel.set()
                self._crew.stop()
                continue
            if until is not None and now >= until:
                return
            self._crew.tick()
            self._start(self._crew.hands_wanted())
            clock.wait(self._changed, LOOK_EVERY)

    def _worker(self) -> None:
        try:
            while not self._stop_asked and (job := self._crew.next()) is not None:
                try:
                    self._do(job)
                finally:
                    self._crew.ended(job)
        finally:
            self._small.leave()

    def _do(self, job: Job) -> None:
        if job.work is not None:
            job.work.help(self._attempts)
            return
        with self._cancel.child() as mine:
            item = self._begin(job.item, mine)
            try:
                while item is not None:
                    outcome = self._fetch(item, mine).run(lambda host: self._attempts(host, mine))
                    if outcome.state is State.DONE:
                        self._small.ended(job.item, outcome.size)
                    item = self._room_made(item, outcome, mine)
                    with self._lock:
                        self._tally.add(job.item, outcome, again=item is not None)
            finally:
                with self._lock:
                    if self._active.get(job.item.id) is mine:
                        del self._active[job.item.id]

    # -- steered from outside ------------------------------------------------------------------

    def steer(self, item_id: str, wish: Input) -> bool:
        """Let an item end by `wish`: PAUSE or CANCEL. False: no thread has it."""
        with self._lock:
            self._steered.add(item_id)
            mine = self._active.get(item_id)
            if mine is not None:
                self._wishes[item_id] = wish
        if mine is not None:
            mine.set()
            return True
        return self._small.steer(item_id, wish)

    def resume(self, item: Item) -> None:
        """Take up an item that was paused."""
        self._crew.add(item)

    def _begin(self, item: Item | Small, mine: Cancel) -> Item | None:
        """Make an item known as active; None if there is nothing to do for it (any more)."""
        with self._lock:
            steered = item.id in self._steered
            known = self._store.item(item.id) if steered else item
            if known is None or (isinstance(known, Item) and not _is_wanted(known)):
                return None
            if item.id in self._active:
                return None  # it was resumed while it still stood in the line
            self._active[item.id] = mine
            self._wishes.pop(item.id, None)
        if isinstance(known, Item):
            return known
        if self._small.try_small(known, mine):
            return None
        whole = self._store.item(item.id)
        return whole if whole is not None and _is_wanted(whole) else None

    def _room_made(self, item: Item, outcome: Outcome, mine: Cancel) -> Item | None:
        """Wait until a full disk has room again; return the item as it is then."""
        why = outcome.failure
        if not self._options.wait_for_room or outcome.state is not State.PAUSED:
            return None
        if why is None or why.reason != "disk":
            return None
        known = self._store.item(item.id) or item  # its size may be news
        # All that it lacks: room is taken beforehand, so with less it would stop again at once.
        needed = max((known.known_size or 0) - known.kept, ROOM_LEAST)
        self._alert("the disk is full: downloads wait until there is room")
        while not clock.wait(mine.event, ROOM_EVERY):
            if files().free_space(self._into) >= needed:
                self._alert("the disk has room again", cleared=True)
                return self._store.item(item.id)
        wish = self._wishes.get(item.id)
        if wish is not None:
            self._store.ended(item.id, after(outcome.state, wish), WISHED[wish])
        return None

    def _alert(self, text: str, *, cleared: bool = False) -> None:
        """Say once that the disk is full, and once that it is not any more."""
        with self._lock:
            news = self._full is cleared
            self._full = not cleared
        if news and hub.listening:
            now = clock.monotonic()
            hub.publish(
                Alert(time=now, policy="downloads", name="disk", text=text, cleared=cleared)
            )

    def _attempts(self, host: str, cancel: Cancel) -> Iterator[Attempt]:
        """Yield the policy's attempts; a stop ends its waits, too."""
        try:
            yield from self._policy.attempts(key=host, method="GET", stop=cancel.event)
        except Stopped:
            raise Interrupted from None

    def _fetch(self, item: Item, mine: Cancel) -> Fetch:
        plane, traffic = self._small.way_of(item.id, self._plane, self._crew)
        return self._way.maker(
            item,
            self._addresses.of(item),
            into=self._into,
            store=self._store,
            options=self._options,
            plane=plane,
            cancel=mine,
            wish=lambda: self._wishes.get(item.id),
            traffic=traffic,
            ledger=self._ledger,
            told=lambda at: self._tell(item, at),
        )

    # -- small files (see `smallrun`) ------------------------------------------------------------

    def _done(self, group: Sequence[Done]) -> None:
        with self._lock:
            tally = self._tally
            tally.done += len(group)
            size = sum(done.whole.size for done in group)
            tally.bytes += size
            for done in group:
                tally.count(done.whole.verified)
            tally.fetched += size
        if self._heard is not None:
            for done in group:
                whole = done.whole
                for state in (State.ACTIVE, State.VERIFYING, State.FINISHING):
                    self._tell(done, Outcome(state, received=whole.size))
                self._tell(
                    done,
                    Outcome(
                        State.DONE,
                        size=whole.size,
                        received=whole.size,
                        verified=whole.verified,
                        source=whole.source,
                        ignored=whole.ignored,
                    ),
                )

    def _left(self, group: Sequence[Done], outcome: Outcome) -> None:
        with self._lock:
            if outcome.failure is not None:
                self._tally.left_why.add(outcome.failure.reason)
            self._tally.fetched += sum(done.whole.size for done in group)
        for done in group:
            self._tell(done, outcome)

    # -- events --------------------------------------------------------------------------------

    def _tell(self, item: Item | Done, at: Outcome) -> None:
        if self._heard is not None and not self._closed:
            why = at.failure
            event = FileState(
                time=clock.monotonic(),
                policy="downloads",
                state=at.state.value,
                reason=why.reason if why else "",
                code=why.code if why else "",
                text=why.text if why else "",
                size=at.size or None,
                verified=at.verified,
                source=at.source,
                ignored=at.ignored,
            )
            self._heard(ItemEvent(item.id, at.path or item.path, event))

    def _forward(self, event: Event) -> None:
        """Pass on what the policy and the transfer publish on a worker's thread."""
        if self._heard is None or self._closed:
            return
        if isinstance(event, EndpointState):
            # It is about a host, not a file, whoever found it out.
            self._heard(ItemEvent("", "", event))
        elif (item := getattr(self._crew.here, "item", None)) is not None:
            self._heard(ItemEvent(item.id, item.path, event))

    # -- the end ---------------------------------------------------------------------------------

    def _failed(self) -> tuple[FailedItem, ...]:
        """Return what failed in this run or was asked for and failed in the plan."""
        session = self._store.session
        asked = {item.id for item in self._store.items(State.FAILED, session=session)}
        chosen = asked | self._tally.failed
        return tuple(item for item in self._store.failed_list() if item.id in chosen)

    def _report(self, seconds: float) -> Report:
        tally = self._tally
        left = self._store.open_count()
        interrupted = self._stop_asked and left > 0 and not self._out_of_time
        if interrupted:
            tally.left_why.add("interrupted")
        elif self._out_of_time and left:
            tally.left_why.discard("interrupted")  # what was under way says that
            tally.left_why.add("max-time")
        if left and self._store.held_count():
            tally.left_why.add("paused")
        return Report(
            done=tally.done,
            skipped=tally.skipped,
            failed=self._failed(),
            left=left,
            left_why=tuple(sorted(tally.left_why)),
            unverified=tally.unverified,
            checked=dict(sorted(tally.checked.items())),
            bytes=tally.bytes,
            fetched=tally.fetched,
            waste=tally.waste,
            seconds=round(seconds, 3),
            interrupted=interrupted,
        )
