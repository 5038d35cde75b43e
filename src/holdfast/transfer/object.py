"""One object, whole and right: exchanges are joined until the part file holds all of it.

    ask -> judge the head (answers.TABLE) -> write; or drop, then write; or ask otherwise
        -> checkpoint -> ... -> seal -> verify

A large object is fetched by several streams (see `streams`); this one, the first, is the one
that decides. The others only fetch ranges of the version that it pinned.

Retries are the policy's: this module raises a `TransferFailed` with a verdict, and tells the
attempt whenever bytes were journaled beyond what had been reached before. "Beyond" matters:
a server without ranges that always breaks at 10 MB lets bytes be journaled each time and
gets nowhere, and must not be asked for ever.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from holdfast.transfer import extents
from holdfast.transfer.answers import Action, Decision, Facts, Question
from holdfast.transfer.asking import Asking
from holdfast.transfer.crc import crc32_of
from holdfast.transfer.failures import (
    Interrupted,
    Reason,
    TransferFailed,
    captive,
    contradicting,
    failed_exchange,
    failed_status,
    permanent,
    transient,
    wrong_digest,
)
from holdfast.transfer.meter import Meter
from holdfast.transfer.mirrors import How, Mirrors, Need, Pick, Place, disagrees
from holdfast.transfer.plane import End, Plane, Received, Take
from holdfast.transfer.repair import ROUNDS, Repair
from holdfast.transfer.sink import Sink, Stream
from holdfast.transfer.streams import Streams
from holdfast.transfer.traffic import Alone, Traffic
from holdfast.transfer.turns import Turns
from holdfast.transfer.validators import (
    Rung,
    Validators,
    overlap_start,
)
from holdfast.transfer.verify import Digest, Hasher, contradiction, promises_in, to_check
from holdfast.transfer.wanted import Attempt, Standing, Wanted, Whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from holdfast.transfer.extents import Extent
    from holdfast.transfer.part import Part
    from holdfast.transfer.scores import Ledger
    from holdfast.wire.cancel import Cancel
    from holdfast.wire.http1 import Head

_ANYWHERE = frozenset({Rung.IF_MATCH, Rung.IF_RANGE, Rung.VERSION, Rung.DATE})
"""Rungs on which a range may begin anywhere, also at zero."""
_STRONG = frozenset({Rung.IF_MATCH, Rung.IF_RANGE, Rung.VERSION})
MAX_CHANGES = 3


class _Differs(Exception):
    """What came shows that the bytes on disk are of another version. str: what it was."""


class ObjectTransfer:
    """Fetches one object into its part.

    note: commits the standing, and drops all extents in the same commit if told so.
    look: called with the first head that carries the object, and what was read from it; what it
    raises ends the transfer.
    phase: called when all bytes are there and are verified, and when they were wrong.
    failed: called with each failed attempt and the bytes that it received.
    traffic: who lends connections and company; by default it is alone.
    ledger: how well the hosts of a run do; by default it is this transfer's own.
    received: bytes that came over the network, all attempts together.
    """

    def __init__(
        self,
        wanted: Wanted,
        part: Part,
        standing: Standing,
        *,
        note: Callable[[Standing, bool], None],
        plane: Plane,
        cancel: Cancel,
        look: Callable[[Validators, Head], None] | None = None,
        phase: Callable[[bool], None] = lambda _: None,
        failed: Callable[[TransferFailed, int], None] = lambda *_: None,
        traffic: Traffic | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        self.wanted = wanted
        self.part = part
        self.standing = standing
        self.received = 0
        self._note = note
        self._cancel = cancel
        self._look = look
        self._phase = phase
        self._failed = failed
        self._checks = to_check(wanted.digests, standing.promised)
        self._ignored: tuple[str, ...] = ()
        self._meter = Meter(wanted.url.host)
        self._counting = threading.Lock()
        self.mirrors = Mirrors((wanted.url, *wanted.mirrors), ledger)
        self._doubtful = False  # the bytes at hand are not the ones promised
        self._found_first = ""  # the digest before the bytes of one mirror were read again
        self._first = Stream(Pick(0, wanted.url), reached=part.saved)
        self._streams = Streams(self, part, traffic or Alone(), cancel)
        self._asking = Asking(wanted, plane, self._streams)
        self._repair: Repair | None = None
        self._repairing = False
        self._rounds = 0
        self._wrong: tuple[Digest, str] | None = None

    def run(self, attempts: Iterable[Attempt]) -> Whole:
        """Fetch, as often as `attempts` (of a policy) yields, until the object is whole.

        Raises TransferFailed, Interrupted, or the OSError of a file operation.
        """
        whole: Whole | None = None
        try:
            for attempt in attempts:
                with attempt:
                    self._first.progress = attempt.progress
                    whole = self._attempt()
        finally:
            self._streams.close()
        if whole is None:
            raise RuntimeError("the attempts ended without an outcome")
        return whole

    def _attempt(self) -> Whole:
        turns = Turns(self, self._first)
        try:
            while True:
                if self._is_whole() and (whole := self._verified()) is not None:
                    return whole
                if self._cancel.is_set():
                    raise Interrupted
                self._streams.settle()
                if self._streams.assign(self._first, self.size, company=self._foresees_company()):
                    turns.ask(self._exchange)
                else:
                    self._streams.wait()  # the others have all that is left
        except TransferFailed as error:
            self.count_progress(self._first)
            turns.tell(error)
            raise

    def failed(self, error: TransferFailed, received: int) -> None:
        """Tell of a failed attempt of any stream."""
        self._failed(error, received)

    @property
    def size(self) -> int | None:
        """The size of the version that is pinned, if it is known."""
        return self.standing.pinned.size if self.standing.pinned else None

    def release(self, stream: Stream) -> None:
        """Take back the range of a stream that asks nobody."""
        self._streams.release(stream)

    def turned(self, pick: Pick, *, helping: bool) -> None:
        """Tell that a stream turns to another mirror."""
        if not helping:
            self._meter.turned(pick.url.host, pick.no, pick.how)

    @property
    def host(self) -> str:
        """Whom it is fetched from now."""
        return self._first.pick.url.host

    @property
    def need(self) -> Need:
        """What the bytes at hand ask of a mirror."""
        pinned = self.standing.pinned
        if pinned is not None and pinned.coding:
            return Need(self.part.held)  # two codings of one object need not be equal
        strong = pinned is not None and self._rung(pinned) in {Rung.IF_MATCH, Rung.IF_RANGE}
        digest = bool(self._checks) or self.wanted.pieces is not None
        return Need(self.part.held, digest, strong, self._doubtful)

    def _is_whole(self) -> bool:
        # A listing may be of yesterday: an empty object, too, is asked for.
        return self.size is not None and self.size == self.part.held and not self.standing.listed

    # -- one exchange ------------------------------------------------------------------------

    def _exchange(self) -> None:
        stream = self._first
        question = self.question(stream)
        try:
            sink = Sink(self, question, stream, only_append=stream.pick.is_foreign)
            received, decision = self.follow(sink, self._cancel)
        except _Differs as differs:
            if stream.pick.is_foreign:
                raise disagrees(str(differs)) from None
            self._count_change()
            self._drop(str(differs))
            return
        finally:
            # Whatever happened, what was received is kept to the byte.
            self._streams.release(stream)
            self.save(stream)
        if stream.was_cut_off:
            return  # by us: it goes on otherwise
        if received.fault is not None:
            raise failed_exchange(received)
        if decision is None:
            raise RuntimeError("an exchange without fault shows its head")
        self.check_mirror(stream, decision)
        self._conclude(question, received, decision)

    @staticmethod
    def check_mirror(stream: Stream, decision: Decision) -> None:
        """Tell a mirror that has another version from one that does not answer well.

        Whatever it has, it says nothing of the version at hand, which is another mirror's.
        """
        told = {Action.APPEND, Action.FAIL, Action.CAPTIVE, Action.WRONG_SIZE}
        if stream.pick.is_foreign and decision.action not in told:
            raise disagrees(decision.row)

    def question(self, stream: Stream) -> Question:
        """Return what a stream asks for the range that it was assigned."""
        standing, wanted, at = self.standing, self.wanted, stream.at
        if stream.pick.how is How.BORROW:
            return self._borrowed(at)
        if stream.pick.how is How.FRESH:
            standing = Standing()
        pinned = standing.pinned
        # While it is repaired all may have been given back; it is still read in ranges.
        joins = self.part.held > 0 or stream is not self._first or self._repair is not None
        rung = self._rung(pinned) if pinned and joins else Rung.RESTART
        start = overlap_start(rung, at)
        if rung is Rung.OVERLAP and start < self.part.run_start(at):
            rung, start = Rung.RESTART, 0  # there is nothing to compare
        return Question(
            start=start,
            rung=rung,
            pinned=pinned,
            size=wanted.size,
            allow_html=wanted.allow_html,
            data_suffix=wanted.data_suffix,
            nodes=standing.nodes,
            ranged=at == 0 and rung in _ANYWHERE,
            listed=standing.listed and rung is Rung.RESTART,
        )

    def _borrowed(self, at: int) -> Question:
        """Return the question for a range of whatever a mirror has; a digest is checked later.

        Its size must be the same, and so must the last bytes before the range, if there are any.
        """
        start = overlap_start(Rung.OVERLAP, at)
        if self._doubtful or start == 0 or start < self.part.run_start(at):
            start = at
        return Question(
            start=start,
            rung=Rung.OVERLAP,
            pinned=Validators(size=self.size),
            size=self.wanted.size,
            allow_html=self.wanted.allow_html,
            data_suffix=self.wanted.data_suffix,
            ranged=True,
        )

    def _rung(self, pinned: Validators) -> Rung:
        """Return the rung on which `pinned` is resumed now."""
        if not self._gives_versions:
            pinned = replace(pinned, version="")
        if pinned.version and self.standing.changes:
            return Rung.VERSION  # it changed under our hands once: hold what we have
        return pinned.rung(self.standing.limit)

    @property
    def _gives_versions(self) -> bool:
        # A version that is part of a signed address cannot be put into it.
        url = self.wanted.url
        return self.wanted.s3 and not url.is_signed and "versionid=" not in url.query.lower()

    def follow(self, sink: Sink, cancel: Cancel) -> tuple[Received, Decision | None]:
        """Do the exchange of `sink` (see `asking`)."""
        return self._asking.follow(sink, cancel, self.size, joins=self.part.held > 0)

    def save(self, stream: Stream) -> None:
        """Make safe what has come."""
        self.part.checkpoint()
        self.count_progress(stream)

    def count_progress(self, stream: Stream) -> None:
        """Bytes that any stream brought are progress for each: the object gets on."""
        saved = self.part.saved
        if saved > stream.reached:
            stream.reached = saved
            stream.progress()
            self.mirrors.progressed()

    # -- beginning a body ----------------------------------------------------------------------

    def begin(self, decision: Decision, stream: Stream) -> Take:
        """Prepare for the body that `decision` lets in, and say how much of it is wanted."""
        facts = decision.facts
        if stream is not self._first:
            self.mirrors.gave(stream.pick)
            return self._streams.take(stream, facts.question.start, facts.until)
        if self._look is not None:
            self._look(facts.seen, facts.head)
            self._look = None
        resuming = decision.action is Action.APPEND and facts.resuming
        promised = self._promised(facts.head, resuming=resuming)
        if resuming:
            self._resume(decision, stream, promised)
        else:
            self._start_over(decision, promised)
        self.mirrors.gave(stream.pick)
        start, size = facts.question.start if resuming else 0, self.size
        if size is None:
            # One byte beyond the limit tells a body that is too long from one that just fits.
            return Take(self.wanted.max_size + 1 - start)
        if size > self.wanted.max_size:
            text = f"larger than the limit (size: {size}, limit: {self.wanted.max_size})"
            raise TransferFailed(Reason.TOO_BIG, text, permanent("too big"))
        self.part.allocate(size)
        self._streams.begin(stream, size, shared=self._may_share(facts))
        return self._streams.take(stream, start, facts.until if resuming else None)

    def _may_share(self, facts: Facts) -> bool:
        """Whether several streams may fetch it: ranges, and something that vouches for each.

        A date vouches weakly, so it is used for that only where a digest follows.
        """
        pinned = self.standing.pinned
        if pinned is None or self.standing.nodes or (pinned.size or 0) < extents.SPLIT_FROM:
            return False
        ranges = facts.status == 206 or "bytes" in facts.head.headers.get("accept-ranges", "")
        rung = self._rung(pinned)
        vouched = rung in _STRONG or (rung is Rung.DATE and self._checks)
        return ranges and bool(vouched)

    def _promised(self, head: Head, *, resuming: bool) -> tuple[Digest, ...]:
        """Return the digests that the server promises of this version, and check them so far."""
        found = promises_in(head, s3=self.wanted.s3)
        known = self.standing.promised if resuming else ()
        new = tuple(digest for digest in found.digests if digest not in known)
        pair = contradiction(self.wanted.digests, found.digests)
        if pair is not None:
            raise contradicting(*pair)
        if contradiction(known, new) is not None:
            raise _Differs("another digest is promised")
        self._ignored = found.ignored or (self._ignored if resuming else ())
        self._checks = to_check(self.wanted.digests, (*known, *new))
        return (*known, *new)

    def _foresees_company(self) -> bool:
        """Whether a transfer that goes on will be shared, so far as its version tells."""
        large = (self.size or 0) >= extents.SPLIT_FROM
        return large and self.part.held > 0 and not self.standing.nodes and self._can_ask_anywhere()

    def _resume(self, decision: Decision, stream: Stream, promised: tuple[Digest, ...]) -> None:
        facts = decision.facts
        rung = facts.question.rung
        pinned = self.standing.pinned or facts.seen
        if pinned.size is None:
            pinned = replace(pinned, size=facts.seen.size)
        borrowed = self._first.pick.how is How.BORROW
        weak = self.standing.weak or (rung.is_weak and not borrowed)
        self.mirrors.recognised(stream.pick)
        standing = replace(self.standing, pinned=pinned, weak=weak, promised=promised, listed=False)
        self._stand(standing)
        self._meter.resumed(rung, stream.at)

    def _start_over(self, decision: Decision, promised: tuple[Digest, ...]) -> None:
        facts = decision.facts
        if decision.action is Action.NEW_VERSION:
            self._count_change(sibling=facts.sibling)
        if self.part.held or decision.action is Action.NEW_VERSION:
            self._meter.declined(decision.row, self.part.held)
        changes = self.standing.changes
        if self._first.pick.how is How.FRESH:
            changes, self._first.reached = 0, 0  # it was another mirror's object that changed
        self.mirrors.settled(self._first.pick)
        self._doubtful = False
        # From here on all bytes come from one answer, so nothing weak is left.
        pinned = facts.seen
        if self.standing.nodes and self.wanted.digests:
            # Any node will do: the digest of the whole vouches for what is joined.
            pinned = replace(pinned, etag="")
        self._streams.restart()
        # One that cannot be read in ranges has been read as a whole: that ends, too.
        mismatches = self.standing.mismatches + (self._repair is not None)
        self._repair, self._wrong = None, None
        standing = replace(
            self.standing,
            pinned=pinned,
            mismatches=mismatches,
            weak=False,
            promised=promised,
            listed=False,
            changes=changes,
        )
        self._stand(standing, drop=True)
        algorithms = self._hashed_algorithms
        self.part.restart(Hasher(algorithms) if algorithms else None)
        self._streams.assign(self._first, self.size)

    def write(self, data: memoryview, overlap: int, stream: Stream) -> None:
        """Write the next bytes of a body; the first `overlap` are compared instead."""
        stream.received += len(data)
        with self._counting:
            self.received += len(data)
        if overlap:
            same = data[:overlap]
            if self.part.read(len(same), stream.at - overlap) != same:
                text = "the overlap differs"
                raise disagrees(text) if stream.pick.is_foreign else _Differs(text)
            data = data[overlap:]
        self._streams.write(stream, data)
        self.count_progress(stream)
        with self._counting:
            self._meter.moved(len(data), self.part.saved, self.size)

    # -- after a body, or instead of one ---------------------------------------------------------

    def _conclude(self, question: Question, received: Received, decision: Decision) -> None:
        match decision.action:
            case Action.APPEND | Action.FROM_ZERO | Action.NEW_VERSION:
                self._end_body(received)
            case Action.CHANGED:
                self._count_change(sibling=decision.facts.sibling)
                self._drop(decision.row)
            case Action.NEXT_RUNG if question.start or question.ranged:
                self._meter.declined(decision.row, self.part.held)
                self._step_down(question)
            case Action.WHOLE:
                self._pin_size(self.part.offset)
            case Action.RESTART:
                self._stand(replace(self.standing, limit=Rung.RESTART))
                self._drop(decision.row)
            case Action.CAPTIVE:
                raise captive(decision.facts.seen.media_type)
            case Action.OTHER_NODE:
                text = "the server's nodes give different ETags, and this was not the right one"
                raise TransferFailed(Reason.CHANGING, text, transient("other node"))
            case Action.WRONG_SIZE:
                raise self._wrong_size(decision.facts.seen.size)
            case Action.FAIL:
                # An object that was served before, a signed address, and now a refusal: the
                # signature has run out.
                expired = self._first.pick.url.is_signed and self.part.held > 0
                raise failed_status(decision.facts.head, signed=expired)
            case _:
                text = f"an answer that does not fit the question: {decision.row}"
                raise TransferFailed(Reason.ANSWER, text, transient("answer"))

    def _step_down(self, question: Question) -> None:
        if question.rung is Rung.VERSION and question.pinned is not None:
            # Not for good: the rungs above may never have been tried.
            self._stand(replace(self.standing, pinned=replace(question.pinned, version="")))
        else:
            self._stand(replace(self.standing, limit=question.rung.below))

    def _end_body(self, received: Received) -> None:
        size, at = self.size, self.part.offset
        if size is None:
            if at > self.wanted.max_size:
                text = f"larger than the limit (limit: {self.wanted.max_size})"
                raise TransferFailed(Reason.TOO_BIG, text, permanent("too big"))
            promised = self.wanted.size
            if received.end is End.UNFRAMED and promised is not None and at < promised:
                raise self._cut(at, promised)
            if promised not in {None, at}:
                raise self._wrong_size(at)
            if received.end is End.UNFRAMED and promised is None:
                # A cut looks the same as the end here; only a digest can tell.
                self._stand(replace(self.standing, weak=True))
            self._pin_size(at)
        else:
            self.check_end(received, self._first)

    def check_end(self, received: Received, stream: Stream) -> None:
        """Tell a body that ended early from one that was only asked in pieces."""
        end = stream.at if stream.end is None else stream.end
        if stream.at < end and (received.end is End.UNFRAMED or not received.taken):
            raise self._cut(stream.at, end)

    @staticmethod
    def _cut(at: int, size: int) -> TransferFailed:
        text = f"the answer ended early ({at} of {size} bytes)"
        return TransferFailed(Reason.CUT, text, transient("cut short"))

    def _pin_size(self, size: int) -> None:
        pinned = self.standing.pinned or Validators()
        self._stand(replace(self.standing, pinned=replace(pinned, size=size)))

    def _wrong_size(self, found: int | None) -> TransferFailed:
        text = f"the size is not the one expected (expected: {self.wanted.size}, found: {found})"
        return TransferFailed(Reason.SIZE, text, permanent("size"))

    def _count_change(self, *, sibling: bool = False) -> None:
        """Count another version. sibling: all but its ETag says that it is the same.

        Twice a sibling is no change but a group of servers with ETags of their own. From
        then on only bytes of one ETag are joined, and answers of other nodes tried again.
        """
        changes = self.standing.changes + 1
        nodes = self.standing.nodes or (sibling and changes == MAX_CHANGES - 1)
        self._first.reached = 0  # reaching the same offset in a new version is progress
        self._stand(replace(self.standing, changes=changes, nodes=nodes))
        if changes >= MAX_CHANGES:
            text = f"the object changed {changes} times while it was fetched"
            raise TransferFailed(Reason.CHANGING, text, permanent("changing"))

    def _drop(self, why: str) -> None:
        """Forget all bytes, journal first."""
        self._meter.declined(why, self.part.held)
        self._streams.restart()
        standing = replace(self.standing, pinned=None, weak=False, promised=(), listed=False)
        self._stand(standing, drop=True)
        self.part.restart()
        self._repair, self._wrong = None, None
        self._doubtful = False

    def _stand(self, standing: Standing, *, drop: bool = False) -> None:
        if drop or standing != self.standing:
            self._note(standing, drop)
        self.standing = standing

    # -- the end -----------------------------------------------------------------------------------

    def _verified(self) -> Whole | None:
        """Check what is there; None: a part of it is to be fetched again."""
        self._streams.close()
        self._streams.settle()  # a helper may have met an error with its last bytes
        self.part.seal()
        size = self.part.offset
        self._check_size(size)
        if not self._repairing:
            self._phase(True)  # noqa: FBT003 - see the class
        whole = self._checked(size)
        if whole is not None and self._repairing:
            self._phase(True)  # noqa: FBT003 - see the class
        return whole

    def _check_size(self, size: int) -> None:
        if self.wanted.size not in {None, size}:
            raise self._wrong_size(size)
        pieces = self.wanted.pieces
        if pieces is not None and not pieces.fits(size):
            text = f"{len(pieces.hexes)} piece sums of {pieces.size} bytes do not fit {size} bytes"
            raise TransferFailed(Reason.SIZE, text, permanent("size"))

    def _checked(self, size: int) -> Whole | None:
        wrong, pieces = self._wrong, self.wanted.pieces
        if self._repair is None or self._repair.judge(self.part) or wrong is None:
            wrong = self._wrong = self._wrong_one()
        if wrong is not None:
            self._mismatch(*wrong)
            return None
        if self._checks:
            best = self._checks[0]
            return Whole(size, best.algorithm, best.hex, best.source, self._ignored)
        if pieces is None:
            word = "unverified" if self.standing.weak else "size-only"
            return Whole(size, word, ignored=self._ignored)
        bad = pieces.bad(self.part, size)
        if not bad:
            return Whole(size, pieces.algorithm, "", "pieces", self._ignored)
        if not self._refetch(bad):
            text = f"{len(bad)} of {len(pieces.hexes)} pieces are not the ones expected"
            error = TransferFailed(Reason.DIGEST, text, permanent("digest"))
            if not self._elsewhere(str(bad), error):
                raise error
        return None

    def _wrong_one(self) -> tuple[Digest, str] | None:
        """Return a digest that is wrong, and what it is instead."""
        hasher = self._hashed()
        for digest in self._checks:
            if digest.algorithm == "crc32":
                # The extents have theirs, computed as the bytes came: nothing is read again.
                found = f"{crc32_of(self.part.extents):08x}"
            else:
                found = hasher.hex(digest.algorithm)
            if found != digest.hex:
                return digest, found
        return None

    def _refetch(self, bad: Sequence[tuple[int, int]]) -> bool:
        """Have the extents of bad pieces fetched again; False if that was done already."""
        self._rounds += 1
        if self._rounds > ROUNDS:
            return False
        hit = [e for e in self.part.extents if any(s < e.end and e.off < t for s, t in bad)]
        self._again(hit)
        return True

    def _again(self, hit: Sequence[Extent]) -> None:
        """Fetch some extents once more."""
        if not self._repairing:
            self._phase(False)  # noqa: FBT003 - see the class
        self._repairing = True
        if self.mirrors.several and not self._doubtful:
            self._doubtful = True
            self.mirrors.doubt()
        self._meter.declined("digest mismatch", sum(extent.len for extent in hit))
        self.part.forget(hit)
        self._first.reached = self.part.saved
        self._streams.reopen()

    @property
    def _hashed_algorithms(self) -> list[str]:
        return [digest.algorithm for digest in self._checks if digest.algorithm != "crc32"]

    def _hashed(self) -> Hasher:
        algorithms = self._hashed_algorithms
        running = self.part.hasher
        if running is None or not set(algorithms) <= set(running.algorithms):
            running = Hasher(algorithms)
        if algorithms:
            self.part.digest_all(running)  # what was hashed on the way is not read again
        return running

    def _mismatch(self, digest: Digest, found: str) -> None:
        """Have what is wrong fetched again: by pieces, by extents, or all of it.

        If it stays wrong it is kept, for the case that the digest was mistyped: with the
        right one the part is verified and adopted, and nothing is fetched.
        """
        pieces, size = self.wanted.pieces, self.part.offset
        bad = pieces.bad(self.part, size) if pieces is not None and self._repair is None else []
        if bad and self._refetch(bad):
            return
        mismatches = self.standing.mismatches + 1
        if mismatches < 2 and (self._repair is not None or self._can_repair()):
            if self._repair is None and len(self.mirrors.givers) == 1:
                self._found_first = found
            self._repair = self._repair or Repair(self.part.extents)
            chosen = self._repair.next(self._streams.expected)
            if chosen:
                self._again(chosen)
                return
            mismatches = 2
        if self._elsewhere(found, wrong_digest(digest, found, again=False)):
            return
        again = mismatches < 2
        self._stand(replace(self.standing, mismatches=mismatches))
        if again:
            self._phase(False)  # noqa: FBT003 - see the class
            self._first.reached = 0
            self._drop(f"{digest.algorithm} mismatch")
        raise wrong_digest(digest, found, again=again)

    def _elsewhere(self, found: str, error: TransferFailed) -> bool:
        """Begin anew with other mirrors than those that gave what is wrong; False: there are none.

        found: what there is in place of what was promised.
        """
        mirrors = self.mirrors
        if not mirrors.several:
            return False
        if len(mirrors.givers) > 1 and mirrors.mixing and found != self._found_first:
            mirrors.mixing = False  # each may be right by itself
        elif not mirrors.quarantine(error):
            return False
        if not self._repairing:
            self._phase(False)  # noqa: FBT003 - see the class
        self._repairing = False
        self._rounds = 0
        self._first.reached = 0
        self._drop("digest mismatch")
        self._stand(replace(self.standing, mismatches=0))
        return True

    def _can_repair(self) -> bool:
        """Whether ranges can be read again: of a mirror that has not given any, if there are some.

        What two have given is rather fetched from each by itself. And one that has another
        version, if there is nobody else, says that this version is the wrong one.
        """
        mirrors = self.mirrors
        if len(self.part.extents) < 2 or (mirrors.mixing and len(mirrors.givers) > 1):
            return False
        others = mirrors.others()
        if others is None:
            return self._can_ask_anywhere()
        return others is Place.OPEN and mirrors.mixing

    def _can_ask_anywhere(self) -> bool:
        """Whether any range of this version can be asked for."""
        pinned = self.standing.pinned
        return pinned is not None and self._rung(pinned) in _STRONG
