"""One object, whole and right: exchanges are joined until the part file holds all of it.

    ask -> judge the head (answers.TABLE) -> write; or drop, then write; or ask otherwise
        -> checkpoint -> ... -> seal -> verify

Retries are the policy's: this module raises a `TransferFailed` with a verdict, and tells the
attempt whenever bytes were journaled beyond what had been reached before. "Beyond" matters:
a server without ranges that always breaks at 10 MB lets bytes be journaled each time and
gets nowhere, and must not be asked for ever.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, Self

from holdfast.transfer.answers import Action, Decision, Question, judge
from holdfast.transfer.failures import (
    Interrupted,
    Reason,
    TransferFailed,
    captive,
    failed_exchange,
    failed_status,
    permanent,
    transient,
    wrong_digest,
)
from holdfast.transfer.meter import Meter
from holdfast.transfer.plane import End, Plane, Received, Request, Take, Timeouts
from holdfast.transfer.validators import Rung, Validators, conditions, overlap_start
from holdfast.transfer.verify import (
    Digest,
    Hasher,
    contradiction,
    digests_in,
    to_check,
)
from holdfast.wire.urls import BadUrl, Url, is_cross_site, redirected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType

    from holdfast.transfer.part import Part
    from holdfast.wire.cancel import Cancel
    from holdfast.wire.http1 import Head

MAX_REDIRECTS = 10
MAX_CHANGES = 3
MAX_SIZE = 1 << 40


class Attempt(Protocol):
    """What the block form of a policy yields."""

    def progress(self) -> None:
        """Start the count of attempts afresh."""

    def __enter__(self) -> Self:
        """Begin it."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """End it; True: the failure is taken, another attempt follows."""
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be fetched.

    size, digests: what the caller says that they are.  data_suffix: the name ends like data,
    so that a page in its place is suspicious.  max_size: bytes; bounds what has no size.
    """

    url: Url
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    size: int | None = None
    digests: tuple[Digest, ...] = ()
    allow_html: bool = False
    data_suffix: bool = False
    max_size: int = MAX_SIZE
    timeouts: Timeouts = field(default_factory=Timeouts)


@dataclass(frozen=True, slots=True)
class Standing:
    """What is remembered of an object between attempts and processes, beside its extents.

    pinned: the version that the extents are of.  limit: the best rung that this server
    honours.  weak: a resume relied on a weak rung.  changes, mismatches: counted to their
    ends, 3 and 2.  nodes: several servers give the object each its own ETag.
    """

    pinned: Validators | None = None
    limit: Rung = Rung.IF_MATCH
    weak: bool = False
    changes: int = 0
    mismatches: int = 0
    nodes: bool = False


@dataclass(frozen=True, slots=True)
class Whole:
    """A finished object. verified: the algorithm that was checked, `size-only` or `unverified`."""

    size: int
    verified: str
    digest: str = ""


class _OverlapDiffers(Exception):
    """The bytes that were fetched again are not the ones on disk."""


class ObjectTransfer:
    """Fetches one object into its part.

    note: commits the standing, and drops all extents in the same commit if told so.
    look: called with the first head that carries the object; what it raises ends the transfer.
    phase: called when all bytes are there and are verified, and when they were wrong.
    failed: called with each failed attempt and the bytes that it received.
    received: bytes that came over the network, all attempts together; exchanges: requests.
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
        look: Callable[[Validators], None] | None = None,
        phase: Callable[[bool], None] = lambda _: None,
        failed: Callable[[TransferFailed, int], None] = lambda *_: None,
    ) -> None:
        self.wanted = wanted
        self.part = part
        self.standing = standing
        self.received = 0
        self.exchanges = 0
        self._note = note
        self._plane = plane
        self._cancel = cancel
        self._look = look
        self._phase = phase
        self._failed = failed
        self._checks = to_check(wanted.digests, [])
        self._reached = part.saved
        self._progress: Callable[[], None] = lambda: None
        self._meter = Meter(wanted.url.host)

    def run(self, attempts: Iterable[Attempt]) -> Whole:
        """Fetch, as often as `attempts` (of a policy) yields, until the object is whole.

        Raises TransferFailed, Interrupted, or the OSError of a file operation.
        """
        whole: Whole | None = None
        for attempt in attempts:
            with attempt:
                self._progress = attempt.progress
                whole = self._attempt()
        if whole is None:
            raise RuntimeError("the attempts ended without an outcome")
        return whole

    def _attempt(self) -> Whole:
        before = self.received
        try:
            while not self._is_whole():
                if self._cancel.is_set():
                    raise Interrupted
                self._exchange()
            return self._verified()
        except TransferFailed as error:
            self._failed(error, self.received - before)
            raise

    def _is_whole(self) -> bool:
        pinned = self.standing.pinned
        return pinned is not None and pinned.size == self.part.offset

    # -- one exchange ------------------------------------------------------------------------

    def _exchange(self) -> None:
        question = self._question()
        try:
            received, decision = self._follow(question)
        except _OverlapDiffers:
            self._count_change()
            self._drop("the overlap differs")
            return
        finally:
            # Whatever happened, what was received is kept to the byte.
            self._save()
        if received.fault is not None:
            raise failed_exchange(received)
        if decision is None:
            raise RuntimeError("an exchange without fault shows its head")
        self._conclude(question, received, decision)

    def _question(self) -> Question:
        standing, wanted = self.standing, self.wanted
        pinned, kept = standing.pinned, self.part.offset
        rung = pinned.rung(standing.limit) if pinned and kept else Rung.RESTART
        return Question(
            start=overlap_start(rung, kept),
            rung=rung,
            pinned=pinned,
            size=wanted.size,
            allow_html=wanted.allow_html,
            data_suffix=wanted.data_suffix,
            nodes=standing.nodes,
        )

    def _follow(self, question: Question) -> tuple[Received, Decision | None]:
        """Do the exchange at the original address and go where it redirects.

        Each attempt begins at the original: a target that was signed for some minutes must
        be asked for anew.
        """
        first = url = self.wanted.url
        seen = {url.full()}
        asked = replace(question)
        while True:
            sink = _Sink(self, asked)
            received = self._plane.fetch(self._request(url, question), sink, self._cancel)
            self.exchanges += 1
            decision = sink.decision
            if decision is None or decision.action is not Action.REDIRECT:
                return received, decision
            url = self._target(url, decision)
            if url.full() in seen or len(seen) > MAX_REDIRECTS:
                kind = "in a circle" if url.full() in seen else f"more than {MAX_REDIRECTS} times"
                text = f"the server redirects {kind}"
                raise TransferFailed(Reason.REDIRECTS, text, permanent("redirects"))
            seen.add(url.full())
            asked = replace(question, cross_site=question.cross_site or is_cross_site(first, url))

    @staticmethod
    def _target(url: Url, decision: Decision) -> Url:
        try:
            return redirected(url, decision.facts.head.headers["location"])
        except BadUrl as error:
            text = f"a redirect that is not followed: {error}"
            raise TransferFailed(Reason.REDIRECTS, text, permanent("redirects")) from None

    def _request(self, url: Url, question: Question) -> Request:
        # Headers of the caller may hold credentials, so they stay within the origin.
        own = self.wanted.headers if url.origin == self.wanted.url.origin else {}
        pinned = question.pinned
        added = conditions(pinned, question.rung, self.part.offset) if pinned else {}
        return Request(url, {**own, **added}, self.wanted.timeouts)

    def _save(self) -> None:
        self.part.checkpoint()
        self._count_progress()

    def _count_progress(self) -> None:
        saved = self.part.saved
        if saved > self._reached:
            self._reached = saved
            self._progress()

    # -- beginning a body ----------------------------------------------------------------------

    def begin(self, decision: Decision) -> Take:
        """Prepare for the body that `decision` lets in, and say how much of it is wanted."""
        facts = decision.facts
        if self._look is not None:
            self._look(facts.seen)
            self._look = None
        self._check_promises(facts.head)
        overlap = 0
        if decision.action is Action.APPEND and facts.resuming:
            overlap = self.part.offset - facts.question.start
            self._resume(decision)
        else:
            self._start_over(decision)
        size, at = self._size(), self.part.offset
        if (size or 0) > self.wanted.max_size:
            text = f"larger than the limit (size: {size}, limit: {self.wanted.max_size})"
            raise TransferFailed(Reason.TOO_BIG, text, permanent("too big"))
        # One byte beyond the limit tells a body that is too long from one that just fits.
        return Take((self.wanted.max_size + 1 if size is None else size) - at + overlap)

    def _size(self) -> int | None:
        return self.standing.pinned.size if self.standing.pinned else None

    def _check_promises(self, head: Head) -> None:
        sent = digests_in(head)
        pair = contradiction(self.wanted.digests, sent)
        if pair is not None:
            raise wrong_digest(pair[0], pair[1].hex, again=False)
        self._checks = to_check(self.wanted.digests, sent) or self._checks

    def _resume(self, decision: Decision) -> None:
        facts = decision.facts
        rung = facts.question.rung
        pinned = self.standing.pinned or facts.seen
        if pinned.size is None:
            pinned = replace(pinned, size=facts.seen.size)
        weak = self.standing.weak or rung.is_weak
        self._stand(replace(self.standing, pinned=pinned, weak=weak))
        self._meter.resumed(rung, self.part.offset)

    def _start_over(self, decision: Decision) -> None:
        facts = decision.facts
        if decision.action is Action.NEW_VERSION:
            self._count_change(sibling=facts.sibling)
        if self.part.offset:
            self._meter.declined(decision.row, self.part.offset)
        # From here on all bytes come from one answer, so nothing weak is left.
        pinned = facts.seen
        if self.standing.nodes and self.wanted.digests:
            # Any node will do: the digest of the whole vouches for what is joined.
            pinned = replace(pinned, etag="")
        self._stand(replace(self.standing, pinned=pinned, weak=False), drop=True)
        algorithms = [digest.algorithm for digest in self._checks]
        self.part.restart(Hasher(algorithms) if algorithms else None)

    def take(self, data: memoryview, overlap: int) -> None:
        """Write the next bytes of a body; the first `overlap` are compared instead."""
        self.received += len(data)
        if overlap:
            same = data[:overlap]
            if self.part.read(len(same), self.part.offset - overlap) != same:
                raise _OverlapDiffers
            data = data[overlap:]
        self.part.write(data)
        self._count_progress()
        self._meter.moved(len(data), self.part.saved, self._size())

    def lull(self) -> None:
        """Make safe what has come: more may never come."""
        self._save()

    # -- after a body, or instead of one ---------------------------------------------------------

    def _conclude(self, question: Question, received: Received, decision: Decision) -> None:
        match decision.action:
            case Action.APPEND | Action.FROM_ZERO | Action.NEW_VERSION:
                self._end_body(received)
            case Action.CHANGED:
                self._count_change(sibling=decision.facts.sibling)
                self._drop(decision.row)
            case Action.NEXT_RUNG if question.start:
                self._meter.declined(decision.row, self.part.offset)
                self._stand(replace(self.standing, limit=question.rung.below))
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
                expired = self.wanted.url.is_signed and self.part.offset > 0
                raise failed_status(decision.facts.head, signed=expired)
            case _:
                text = f"an answer that does not fit the question: {decision.row}"
                raise TransferFailed(Reason.ANSWER, text, transient("answer"))

    def _end_body(self, received: Received) -> None:
        size, at = self._size(), self.part.offset
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
        elif at < size and (received.end is End.UNFRAMED or not received.taken):
            raise self._cut(at, size)

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
        self._reached = 0  # reaching the same offset in a new version is progress
        self._stand(replace(self.standing, changes=changes, nodes=nodes))
        if changes >= MAX_CHANGES:
            text = f"the object changed {changes} times while it was fetched"
            raise TransferFailed(Reason.CHANGING, text, permanent("changing"))

    def _drop(self, why: str) -> None:
        """Forget all bytes, journal first."""
        self._meter.declined(why, self.part.offset)
        self._stand(replace(self.standing, pinned=None, weak=False), drop=True)
        self.part.restart()

    def _stand(self, standing: Standing, *, drop: bool = False) -> None:
        if drop or standing != self.standing:
            self._note(standing, drop)
        self.standing = standing

    # -- the end -----------------------------------------------------------------------------------

    def _verified(self) -> Whole:
        self.part.seal()
        size = self.part.offset
        if self.wanted.size not in {None, size}:
            raise self._wrong_size(size)
        self._phase(True)  # noqa: FBT003 - see the class
        if not self._checks:
            verified = "unverified" if self.standing.weak else "size-only"
            return Whole(size, verified)
        hasher = self._hashed()
        for digest in self._checks:
            found = hasher.hex(digest.algorithm)
            if found != digest.hex:
                self._mismatch(digest, found)
        best = self._checks[0]
        return Whole(size, best.algorithm, best.hex)

    def _hashed(self) -> Hasher:
        algorithms = [digest.algorithm for digest in self._checks]
        running = self.part.hasher
        if (
            running is not None
            and running.position == self.part.offset
            and set(algorithms) <= set(running.algorithms)
        ):
            return running
        hasher = Hasher(algorithms)
        self.part.digest_all(hasher)
        return hasher

    def _mismatch(self, digest: Digest, found: str) -> None:
        """Fetch it once more from zero; if it is wrong again, keep it but fail.

        It is kept for the case that the digest was mistyped: with the right one the part is
        verified and adopted, and nothing is fetched.
        """
        mismatches = self.standing.mismatches + 1
        again = mismatches < 2
        self._stand(replace(self.standing, mismatches=mismatches))
        if again:
            self._phase(False)  # noqa: FBT003 - see the class
            self._reached = 0
            self._drop(f"{digest.algorithm} mismatch")
        raise wrong_digest(digest, found, again=again)


class _Sink:
    """Lets a body in as the table says."""

    def __init__(self, owner: ObjectTransfer, question: Question) -> None:
        self.decision: Decision | None = None
        self._owner = owner
        self._question = question
        self._overlap = 0

    def accept(self, head: Head) -> Take | None:
        self.decision = decision = judge(self._question, head)
        if decision.action not in {Action.APPEND, Action.FROM_ZERO, Action.NEW_VERSION}:
            return None
        if decision.action is Action.APPEND and self._question.start:
            self._overlap = self._owner.part.offset - self._question.start
        return self._owner.begin(decision)

    def write(self, data: memoryview) -> None:
        overlap, self._overlap = self._overlap, max(0, self._overlap - len(data))
        self._owner.take(data, overlap)

    def lull(self) -> None:
        self._owner.lull()
