"""Several streams for one object: who fetches which range, and how they stay of one version.

The first stream is that of `ObjectTransfer`: it asks without a range, pins the version and
decides everything. The others are helpers: they ask for ranges of the pinned version, write
only what the table lets them append, and decide nothing.

    a range is answered as asked               written
    412, another ETag, another version         all streams stop; the first asks alone, and
                                               the table decides about its answer
    200 to a range, 416, a range not asked     the helpers leave; the first goes on
    a failure                                  repeated as the policy says; a helper that
                                               gives up leaves, and its place stays empty
"""

from __future__ import annotations

import math
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from holdfast.core.verdict import Kind
from holdfast.runtime.clock import clock
from holdfast.transfer import extents
from holdfast.transfer.answers import Action, Decision
from holdfast.transfer.failures import (
    Interrupted,
    Reason,
    TransferFailed,
    captive,
    failed_exchange,
    failed_status,
    transient,
)
from holdfast.transfer.mirrors import Pick
from holdfast.transfer.plane import Take
from holdfast.transfer.ranges import Ranges
from holdfast.transfer.sink import Sink, Stream
from holdfast.transfer.turns import Turns
from holdfast.transfer.verify import Follower
from holdfast.wire.cancel import Cancel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from holdfast.transfer.object import ObjectTransfer
    from holdfast.transfer.part import Part
    from holdfast.transfer.plane import Received
    from holdfast.transfer.traffic import Flow, Traffic
    from holdfast.transfer.wanted import Attempt

LOOK_EVERY = 0.1
MOST = 256
FEWER_SECONDS = 30.0
"""For so long the place of a helper that failed stays empty; if it was refused, for good."""


class Streams:
    """The streams of one object.

    settle, wait, restart, close and begin belong to the first stream; `help` to all others.
    """

    def __init__(
        self, transfer: ObjectTransfer, part: Part, traffic: Traffic, cancel: Cancel
    ) -> None:
        self._transfer = transfer
        self._part = part
        self._traffic = traffic
        self._cancel = cancel
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._team = Cancel()  # of the helpers; the first stream goes on when they are sent away
        self._ranges: Ranges | None = None
        self._follower: Follower | None = None
        self._first: Stream | None = None
        self._helpers = 0
        self._most = MOST
        self._fewer_until = -math.inf
        self._offered = False
        self._alone = False  # not to be shared any more, in this version
        self._upset = False
        self._error: BaseException | None = None

    @property
    def host(self) -> str:
        """Whom the object is fetched from now; what mirror it is may change."""
        return self._transfer.host

    # -- ranges ------------------------------------------------------------------------------

    def assign(self, stream: Stream, size: int | None, *, company: bool = False) -> bool:
        """Give a stream its next range; False if there is none for it.

        company: helpers are not here yet, but will be: then all that is left is not asked for.
        """
        if size is None:
            stream.at, stream.end = self._part.offset, None
            return True
        if self._ranges is None:
            self._part.extent = extents.extent_size(size)
            self._part.step = extents.checkpoint_size(size)
            self._ranges = Ranges(self._part.gaps(size), self._part.extent)
        now = clock.monotonic()
        count = self.expected if company and not self._alone else self._count()
        stream.claim = claim = self._ranges.claim(count, now, whole=self._is_first(stream))
        if claim is None:
            # An empty object is asked for all the same: only an answer says that it is one.
            stream.at = stream.end = 0
            return size == 0
        stream.at, stream.end = claim.at, claim.end
        return True

    def _is_first(self, stream: Stream) -> bool:
        return stream is self._first or self._first is None

    def _count(self) -> int:
        """Return how many streams to reckon with."""
        if self._alone or not self._offered:
            return 1
        return max(self.streams, min(self._allowed, self._traffic.streams(self.host)))

    @property
    def _allowed(self) -> int:
        """How many streams there may be; fewer for a while after one had to give up."""
        return self._most if clock.monotonic() < self._fewer_until else MOST

    def release(self, stream: Stream) -> None:
        """Take back what a stream has not fetched."""
        claim, stream.claim = stream.claim, None
        if claim is not None and self._ranges is not None:
            stream.end = claim.end
            self._ranges.give_back(claim, stream.at)
            self._news.set()

    def take(self, stream: Stream, start: int, until: int | None = None) -> Take:
        """Return what a stream wants of a body that begins at `start`.

        until: where the body ends by its own word; what comes beyond is of nobody.
        """

        def most() -> int:
            claim, ranges = stream.claim, self._ranges
            if claim is None or ranges is None:
                return 0
            if until is not None and stream.at >= until:
                return until - start
            end = claim.end if claim.at < claim.end else ranges.extend(claim, self._count())
            return (end if until is None else min(end, until)) - start

        return Take(most=most, piece=self._traffic.piece)

    def write(self, stream: Stream, data: memoryview) -> None:
        """Write the next bytes of a stream, as far as they are still its own."""
        claim = stream.claim
        if claim is not None and self._ranges is not None:
            data = data[: self._ranges.take(claim, len(data))]
        self._part.put(data, stream.at)
        stream.at += len(data)
        if stream.flow is not None:
            stream.flow.moved(len(data))

    @contextmanager
    def flow(self, stream: Stream, cancel: Cancel) -> Iterator[Flow]:
        """Begin an exchange of a stream."""
        with self._traffic.flow(stream.pick.url.host, cancel) as flow:
            with self._lock:
                stream.flow = flow
                if self._upset:
                    flow.cancel.set()
            try:
                yield flow
            finally:
                with self._lock:
                    stream.flow = None
                    ended_by_us = flow.cancel.is_set() and not self._cancel.is_set()
                    stream.was_cut_off = ended_by_us
            if flow.too_slow and ended_by_us:
                text = "hardly a byte came"
                raise TransferFailed(Reason.STALL, text, transient("too slow"))

    # -- the first stream ----------------------------------------------------------------------

    def begin(self, stream: Stream, size: int, *, shared: bool) -> None:
        """Note that the object answers well; shared: helpers may come."""
        self._first = stream
        if not shared or self._alone or self._offered:
            return
        self._offered = True
        claim, ranges, count = stream.claim, self._ranges, self._count()
        if count > 1 and claim is not None and ranges is not None and claim.end == size:
            ranges.share(claim, count)
        if self._part.hasher is not None and self._follower is None:
            self._follower = Follower(self._part, self._part.hasher)
        self._traffic.offer(self)

    def settle(self) -> None:
        """After an upset: send all away, and raise what a helper met; then go on alone."""
        if self._upset:
            self._send_away()
            error = self._error
            if error is not None:
                raise error
            self._upset, self._alone, self._ranges = False, True, None

    def wait(self) -> None:
        """Wait until a helper brings news; it may give its range back."""
        self._news.clear()
        clock.wait(self._news, LOOK_EVERY)

    def restart(self) -> None:
        """All bytes will be dropped: nobody may write. A new version may be shared again."""
        self._send_away()
        self._end_hashing()
        if self._first is not None:
            self._first.claim = None
        self._ranges, self._alone, self._upset = None, False, False
        self._fewer_until = -math.inf

    @property
    def expected(self) -> int:
        """How many streams one may count on."""
        return self._traffic.streams(self.host)

    def reopen(self) -> None:
        """There are new gaps; no helper is there."""
        self._ranges = None

    def close(self) -> None:
        """Send the helpers away and end the hashing. It may be called again."""
        self._send_away()
        self._end_hashing()

    def _send_away(self) -> None:
        if self._offered:
            self._traffic.withdraw(self)
        with self._lock:
            self._offered = False
            self._team.set()
        while self._helpers:
            self.wait()
        self._team = Cancel()

    def _end_hashing(self) -> None:
        follower, self._follower = self._follower, None
        if follower is not None:
            follower.close()

    # -- helpers -------------------------------------------------------------------------------

    @property
    def streams(self) -> int:
        """How many streams fetch it now."""
        return self._helpers + 1

    @property
    def wants_help(self) -> bool:
        """Whether there is something to do for one more."""
        ranges = self._ranges
        return (
            self._offered
            and not self._alone
            and self.streams < self._allowed
            and ranges is not None
            and ranges.has_work(clock.monotonic())
        )

    def help(self, attempts: Callable[[str, Cancel], Iterable[Attempt]]) -> None:
        """Be one more stream, until there is nothing to do for it."""
        with self._lock:
            if not self._offered:
                return
            self._count_helpers(1)
            team = self._team
        pick = self._first.pick if self._first else Pick(0, self._transfer.wanted.url)
        stream = Stream(pick, reached=self._part.saved)
        try:
            with self._cancel.child() as mine:
                self._help(stream, team, mine, attempts)
        except Interrupted:
            pass
        except TransferFailed as error:
            # The first stream decides about the object; this one was one too many.
            self._most = max(1, self.streams - 1)
            passing = error.verdict.kind is not Kind.PERMANENT
            self._fewer_until = clock.monotonic() + FEWER_SECONDS if passing else math.inf
        except BaseException as error:
            self._stop_all(error)
            if not isinstance(error, Exception):
                raise
        finally:
            with self._lock:
                self._count_helpers(-1)
            self._news.set()

    def _count_helpers(self, n: int) -> None:
        self._helpers += n
        self._part.streams = self.streams

    def _help(
        self,
        stream: Stream,
        team: Cancel,
        mine: Cancel,
        attempts: Callable[[str, Cancel], Iterable[Attempt]],
    ) -> None:
        team.adopt(mine)
        try:
            while (
                not (mine.is_set() or self._alone)
                and self._traffic.may_stay(self.host)
                and self.assign(stream, self._transfer.size)
            ):
                try:
                    for attempt in attempts(self.host, mine):
                        with attempt:
                            stream.progress = attempt.progress
                            self._fetch(stream, mine)
                finally:
                    self.release(stream)
                    self._transfer.save(stream)
        finally:
            team.disown(mine)

    def _fetch(self, stream: Stream, mine: Cancel) -> None:
        """Fetch a stream's range, in one attempt."""
        turns = Turns(self._transfer, stream, helping=True)
        try:
            while stream.claim is not None and stream.at < stream.claim.end:
                stream.end = stream.claim.end
                turns.ask(lambda: self._exchange(stream, mine))
        except Interrupted:
            raise
        except TransferFailed as error:
            turns.tell(error)
            raise

    def _exchange(self, stream: Stream, mine: Cancel) -> None:
        if mine.is_set() or self._alone:
            raise Interrupted
        transfer = self._transfer
        question = transfer.question(stream)
        try:
            sink = Sink(transfer, question, stream, only_append=True)
            received, decision = transfer.follow(sink, mine)
        finally:
            transfer.save(stream)
        if stream.was_cut_off and not mine.is_set():
            return
        if received.fault is not None:
            raise failed_exchange(received)
        if decision is None:
            raise RuntimeError("an exchange without fault shows its head")
        transfer.check_mirror(stream, decision)
        self._conclude(stream, received, decision)

    def _conclude(self, stream: Stream, received: Received, decision: Decision) -> None:
        action, status = decision.action, decision.facts.status
        if action is Action.APPEND:
            self._transfer.check_end(received, stream)
        elif action is Action.CAPTIVE:
            raise captive(decision.facts.seen.media_type)
        elif action is Action.FAIL:
            raise failed_status(decision.facts.head, signed=False)
        elif status == 412 or action in _OTHER_VERSION:
            self._stop_all()
            raise Interrupted
        else:
            # It does not give ranges, or not as asked: the first stream goes on alone.
            self._alone = True
            text = f"ranges are not answered as asked: {decision.row}"
            raise TransferFailed(Reason.ANSWER, text, transient("ranges"))

    def _stop_all(self, error: BaseException | None = None) -> None:
        with self._lock:
            self._error = self._error or error
            self._upset = True
            self._offered = False
            self._team.set()
            first = self._first
            if first is not None and first.flow is not None:
                first.flow.cancel.set()
        self._traffic.withdraw(self)
        self._news.set()


_OTHER_VERSION = {Action.CHANGED, Action.NEW_VERSION, Action.OTHER_NODE, Action.WRONG_SIZE}
