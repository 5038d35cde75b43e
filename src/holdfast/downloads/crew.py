"""Who does what: the threads of a run, shared by files and by the streams of large files.

A free thread takes the next file whose host bears one more connection. If no file waits, it
helps with a large one, that with the fewest streams. So one huge file keeps nobody waiting,
and the last one gets all the connections that are allowed.

The crew is the `Traffic` of all transfers: each exchange passes its gate, is watched, and
counts against the limit of its host (see `hosts`) and the bandwidth of all.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

from holdfast.core.classify import verdict_for_status
from holdfast.core.verdict import Kind, Sent
from holdfast.downloads.flows import Flow, Host, Job, tell, wants_hours
from holdfast.downloads.hosts import Bucket, HostLimit, crawls, laggards
from holdfast.runtime.clock import clock
from holdfast.transfer.failures import LONGEST_WAIT
from holdfast.transfer.plane import End

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from holdfast.downloads.items import Item
    from holdfast.downloads.rows import Small
    from holdfast.transfer.plane import Received
    from holdfast.transfer.traffic import Flow as Flowing
    from holdfast.transfer.traffic import Shared
    from holdfast.wire.cancel import Cancel

AHEAD = 256
"""Items looked at beyond the first that could not begin, so that a busy host stops no other."""
MANY_HOSTS = 1000
"""With more hosts than this, one without work is forgotten."""
GATE_EVERY = 0.1


class Crew:
    """Hands out jobs and connections. Thread-safe.

    items: what is open, in order.  host_of: whom an item is fetched from.
    workers: connections at most, all hosts together.  limit_rate: bytes per second, all together.
    called: told when more hands are wanted.  starving: told when a thread waits for items that
    are expected.
    """

    def __init__(
        self,
        items: Iterator[Item | Small],
        host_of: Callable[[Item | Small], str],
        *,
        others_of: Callable[[Item | Small], Sequence[str]] = lambda _: (),
        per_host: int,
        workers: int = 1 << 16,
        limit_rate: float | None = None,
        called: Callable[[], object] = lambda: None,
        starving: Callable[[], object] = lambda: None,
    ) -> None:
        self.here = threading.local()
        self._items = items
        self._host_of = host_of
        self._others_of = others_of
        self._per_host = per_host
        self._bucket = Bucket(limit_rate) if limit_rate else None
        self.piece = self._bucket.piece if self._bucket else None
        self._called = called
        self._starving = starving
        self._workers = workers
        self._connections = 0
        self._expected = 0
        self._turns: dict[threading.Event, None] = {}  # of threads that wait for a connection
        self._lock = threading.RLock()
        self._hosts: dict[str, Host] = {}
        self._ahead = 0  # items that wait for their host
        self._exhausted = False
        self._files = 0
        self._offers: dict[Shared, Item | Small] = {}
        self._idle: deque[threading.Event] = deque()
        self._stopped = False

    def host(self, name: str) -> Host:
        """Return what is known of a host."""
        with self._lock:
            return self._host(name)

    def _host(self, name: str) -> Host:
        found = self._hosts.get(name)
        if found is None:
            found = self._hosts[name] = Host(name, HostLimit(self._per_host))
        return found

    # -- jobs ----------------------------------------------------------------------------------

    def next(self) -> Job | None:
        """Return the next job, when there is one; None: there will be no more."""
        while True:
            with self._lock:
                if self._stopped:
                    return None
                job = self._pick()
                if job is not None:
                    return job
                if self._exhausted and not (self._ahead or self._files or self._expected):
                    self._wake(len(self._idle))
                    return None
                event = threading.Event()
                self._idle.append(event)
                expected = self._expected
            if expected:
                self._starving()
            clock.wait(event, None)

    def _pick(self) -> Job | None:
        now = clock.monotonic()
        job = self._pick_item(now) or self._pick_help(now)
        if job is not None:
            host = self._host(job.host)
            host.jobs += 1
            if job.work is None:
                host.files += 1
                self._files += 1
            self.here.item = job.item
        return job

    def _pick_item(self, now: float) -> Job | None:
        for name, host in self._hosts.items():
            if host.waiting:
                way = name if self._has_room(host, now) else self._other_way(host, now)
                if way is not None:
                    self._ahead -= 1
                    return Job(host.waiting.popleft(), way)
        while self._look_ahead():
            # What was put last is at the end of its host's line; a free host has only that.
            name, host = self._newest
            if self._has_room(host, now):
                self._ahead -= 1
                return Job(host.waiting.popleft(), name)
        return None

    def _other_way(self, host: Host, now: float) -> str | None:
        """Return a mirror's host for the first in the line of a host that wants no request."""
        if host.limit.wait(now):
            for name in self._others_of(host.waiting[0]):
                other = self._hosts.get(name)
                if other is None or (not other.limit.wait(now) and self._has_room(other, now)):
                    return name
        return None

    def held(self, name: str) -> float:
        """Return the seconds for which a host wants no request."""
        with self._lock:
            host = self._hosts.get(name)
            return host.limit.wait(clock.monotonic()) if host is not None else 0.0

    def add(self, item: Item) -> None:
        """Take one more item into the line of its host."""
        with self._lock:
            self._put(item)
            self._wake(1)
        self._called()

    @property
    def connections(self) -> int:
        """How many connections are in use, or may be at any moment."""
        return self._connections

    @property
    def ahead(self) -> int:
        """How many items wait for a thread."""
        return self._ahead

    @property
    def has_work(self) -> bool:
        """Whether items wait, or may yet be added."""
        return not self._stopped and bool(self._ahead or self._expected)

    def expect(self, count: int) -> None:
        """Note that so many items more (less, if negative) may yet be added: nobody leaves."""
        with self._lock:
            self._expected += count
            if not self._expected:
                self._wake(len(self._idle))

    def _put(self, item: Item | Small) -> None:
        name = self._host_of(item)
        host = self._host(name)
        host.waiting.append(item)
        self._ahead += 1
        self._newest = (name, host)

    def _look_ahead(self) -> bool:
        """Put one more item into the line of its host; False if there is none, or enough."""
        if self._exhausted or self._ahead >= AHEAD:
            return False
        item = next(self._items, None)
        if item is None:
            self._exhausted = True
            return False
        self._put(item)
        return True

    @staticmethod
    def _has_room(host: Host, now: float) -> bool:
        held = host.limit.wait(now)
        # One that asked for hours is not waited for: who goes there is told so at the gate.
        return host.jobs < host.limit.limit and (held == 0 or held > LONGEST_WAIT)

    def _pick_help(self, now: float) -> Job | None:
        for work in sorted(self._offers, key=lambda work: work.streams):
            host = self._host(work.host)
            if not host.limit.wait(now) and self._has_room(host, now) and work.wants_help:
                return Job(self._offers[work], work.host, work)
        return None

    def ended(self, job: Job) -> None:
        """Take note that a job is over."""
        with self._lock:
            host = self._host(job.host)
            host.jobs -= 1
            if job.work is None:
                host.files -= 1
                self._files -= 1
                if len(self._hosts) > MANY_HOSTS and not (host.jobs or host.waiting or host.slots):
                    del self._hosts[job.host]
            self.here.item = None
            self._wake(1 if self._files or self._ahead or not self._exhausted else len(self._idle))

    def stop(self) -> None:
        """Hand out nothing more, and wake all who wait."""
        with self._lock:
            self._stopped = True
            self._wake(len(self._idle))

    def _wake(self, n: int) -> None:
        for _ in range(min(n, len(self._idle))):
            self._idle.popleft().set()

    def hands_wanted(self) -> int:
        """Return how many more threads would find work."""
        with self._lock:
            if self._idle or self._stopped:
                return 0
            now = clock.monotonic()
            hosts = [self._host(work.host) for work in self._offers if work.wants_help]
            hosts += [host for host in self._hosts.values() if host.waiting]
            return sum(
                host.limit.limit - host.jobs
                for host in dict.fromkeys(hosts)
                if self._has_room(host, now)
            )

    # -- traffic ---------------------------------------------------------------------------------

    def streams(self, host: str) -> int:
        """Return how many streams one file may count on: none waits, and its share."""
        with self._lock:
            at = self._host(host)
            if not at.waiting and not self._exhausted:
                self._look_ahead()
            if self._ahead:
                return 1
            return max(1, at.limit.limit // max(1, at.files))

    def may_stay(self, host: str) -> bool:
        """Return whether a helper is not one too many."""
        with self._lock:
            at = self._host(host)
            return not self._stopped and at.jobs <= at.limit.limit and not at.waiting

    @contextmanager
    def flow(self, host: str, cancel: Cancel) -> Iterator[Flowing]:
        """Wait at the gate, then begin an exchange."""
        at = self._host(host)
        with cancel.child() as mine:
            flow = Flow(self, at, mine)
            self._admit(at, flow)
            try:
                yield flow
            finally:
                with self._lock:
                    if at.flows.pop(flow, 0) is None:
                        self._freed()

    def _admit(self, host: Host, flow: Flow) -> None:
        turn: threading.Event | None = None
        try:
            while not flow.cancel.is_set():
                with self._lock:
                    wait = host.limit.wait(clock.monotonic())
                    if not wait and self._is_open(host):
                        host.flows[flow] = None
                        self._connections += 1
                        return
                    if turn is None and not wait:
                        turn = threading.Event()
                        self._turns[turn] = None
                if wait > LONGEST_WAIT:
                    raise wants_hours(wait)
                event = flow.cancel.event if turn is None else turn
                clock.wait(event, min(wait, GATE_EVERY) or GATE_EVERY)
                if turn is not None:
                    turn.clear()
        finally:
            if turn is not None:
                with self._lock:
                    self._turns.pop(turn, None)

    def _is_open(self, host: Host) -> bool:
        return host.connections < host.limit.limit and self._connections < self._workers

    def _freed(self) -> None:
        """Note that a connection is free, and let those look who wait for one."""
        self._connections -= 1
        for turn in self._turns:
            turn.set()

    # -- the lane of small files -----------------------------------------------------------------

    def take_slot(self, host: Host) -> bool:
        """Let the lane have one more connection to a host; False if it may not."""
        with self._lock:
            now = clock.monotonic()
            if self._stopped or self._turns or host.limit.wait(now) or not self._is_open(host):
                return False
            host.slots += 1
            self._connections += 1
            return True

    def give_slot(self, host: Host) -> None:
        """Take a connection of the lane back."""
        with self._lock:
            host.slots -= 1
            self._freed()

    def may_go_on(self, host: Host, now: float) -> bool:
        """Whether a connection of the lane may be asked again. Without the lock: it is a look."""
        limit = host.limit
        may = limit.held_until <= now and host.connections <= limit.limit
        return may and not (self._turns or self._stopped)

    def bears(self, host: Host) -> bool:
        """Whether a host bears all the connections that it has; then one may be kept."""
        return host.connections <= host.limit.limit and not self._turns

    def counted(self, host: Host, count: int, n: int) -> float:
        """Count files that the lane has, `n` bytes; return the seconds to wait before more."""
        now = clock.monotonic()
        with self._lock:
            host.moved += n
            host.limit.ended(now, broken=False, count=count)
            return self._bucket.take(n, now) if self._bucket else 0.0

    def offer(self, work: Shared) -> None:
        """Let free threads help with it."""
        with self._lock:
            self._offers[work] = self.here.item
            self._wake(self._host(work.host).limit.limit)
        self._called()

    def withdraw(self, work: Shared) -> None:
        """Let nobody more help."""
        with self._lock:
            self._offers.pop(work, None)

    def moved(self, host: Host, n: int, cancel: Cancel) -> None:
        """Count bytes of a host; wait as the bandwidth limit asks."""
        with self._lock:
            host.moved += n
            wait = self._bucket.take(n, clock.monotonic()) if self._bucket and n else 0.0
        if wait:
            clock.wait(cancel.event, wait)

    def learn(self, host: Host, received: Received, *, resumed: bool) -> None:
        """Let the limit of a host learn how an exchange ended."""
        now = clock.monotonic()
        head, fault, limit = received.head, received.fault, host.limit
        why = "broken"
        with self._lock:
            before = limit.limit, limit.held_until
            if fault is not None:
                if fault.reason == "ECONNREFUSED":
                    why = "refused"
                    limit.refused(now, host.connections)
                elif fault.kind is not Kind.CANCELLED and fault.sent is not Sent.NO:
                    limit.ended(now, broken=True)
            elif head is not None and head.status >= 400:
                said = verdict_for_status(head.status, head.headers, now_wall=clock.wall())
                if said.kind in {Kind.THROTTLED, Kind.CONCURRENCY}:
                    why = "throttled"
                    limit.throttled(now, said.retry_after)
                elif head.status == 403 and resumed:
                    why = "refused"
                    limit.refused(now, host.connections)
            elif received.end is not End.UNREAD:
                limit.ended(now, broken=False)
            changed = before != (limit.limit, limit.held_until)
        if changed:  # told without the lock: who hears it may ask us something
            tell(host, now, why)

    def tick(self) -> None:
        """Look at all hosts: let limits grow, end what stalls, wake who finds work."""
        now = clock.monotonic()
        raised: list[Host] = []
        with self._lock:
            for host in self._hosts.values():
                if host.limit.tick(now, host.moved, host.connections):
                    raised.append(host)
                    self._wake(1)
                if self._bucket is None:
                    self._watch(host, now)
            if self._idle:
                self._wake(1)
        for host in raised:
            tell(host, now, "room")

    @staticmethod
    def _watch(host: Host, now: float) -> None:
        flows = {flow.pace: flow for flow in host.flows}
        for pace in flows:
            pace.look(now)
        for pace in laggards(list(flows), now):
            flows[pace].cancel.set()
        for pace, flow in flows.items():
            if crawls(pace, now):
                flow.too_slow = True
                flow.cancel.set()
