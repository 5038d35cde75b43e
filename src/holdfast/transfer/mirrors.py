"""Several addresses of one object: which is asked next, and whose bytes may be joined.

Two things are known of a mirror, and kept apart:

    Score     how well its host does: goodput, errors in a row, a cool-down after an error. Shared
              by all objects of a run, and decides who comes first.
    Place     what it is worth for this object: OPEN; ASIDE, if it has another version than the
              bytes at hand; OUT, if it does not have the object, or not the one promised.

Bytes of two mirrors come into one file only if something vouches for the whole: a digest (BORROW:
the last bytes are compared as well), or an equal strong ETag (JOIN). Without, the mirror that the
bytes are of (the home) is kept to, and another one begins anew (FRESH): when the home is out, when
it failed three times without progress, or when hardly a byte would be lost.

Pure but for one lock: the time comes as an argument.
"""

from __future__ import annotations

import enum
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from holdfast.core.verdict import Kind, Verdict
from holdfast.transfer.failures import Interrupted, Reason, TransferFailed, transient
from holdfast.transfer.scores import Ledger, ranked

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from holdfast.wire.urls import Url

CHEAP = 1 << 20
"""Bytes that may be fetched again from another mirror without second thoughts."""
MOVE_AFTER = 3
MOST_MOVES = 4
_DISAGREES = "disagrees"


class Place(enum.StrEnum):
    """What a mirror is worth for this object (see the module)."""

    OPEN = "open"
    ASIDE = "aside"
    OUT = "out"


class How(enum.StrEnum):
    """How a mirror is asked.

    HOME    the bytes at hand are its own, or there are none
    JOIN    for the version at hand, by its strong ETag
    BORROW  for a range of whatever it has; a digest vouches for the whole
    FRESH   for all of it; what is at hand is dropped once it answers
    """

    HOME = "home"
    JOIN = "join"
    BORROW = "borrow"
    FRESH = "fresh"


class Pick(NamedTuple):
    """Who is asked next. no: of the mirror, 0 is the first address."""

    no: int
    url: Url
    how: How = How.HOME

    @property
    def is_foreign(self) -> bool:
        """Whether only what continues the bytes at hand is wanted of it."""
        return self.how in {How.JOIN, How.BORROW}


class Need(NamedTuple):
    """What the bytes at hand ask for.

    held: how many there are.  digest: one vouches for the whole.  strong: the version has a
    strong ETag.  doubtful: the bytes at hand are not the ones promised; others are wanted.
    """

    held: int = 0
    digest: bool = False
    strong: bool = False
    doubtful: bool = False


@dataclass(frozen=True, slots=True)
class Why:
    """The failure of a mirror, as a record."""

    reason: Reason
    text: str
    verdict: Verdict
    status: int = 0


@dataclass(frozen=True, slots=True)
class Mirror:
    """One address. why: its last failure."""

    url: Url
    place: Place = Place.OPEN
    why: Why | None = None


class Mirrors:
    """The addresses of one object. Thread-safe.

    home: the number of the one that the bytes at hand are of; None if that is not known.
    givers: those that bytes at hand came from in this run.  mixing: there may be several.
    """

    def __init__(self, urls: Iterable[Url], ledger: Ledger | None = None) -> None:
        self._all = [Mirror(url) for url in urls]
        self._ledger = ledger or Ledger()
        self._lock = threading.Lock()
        self.home: int | None = 0 if len(self._all) == 1 else None
        self.mixing = True
        self.givers: set[int] = set()
        self._doubted: frozenset[int] = frozenset()
        self._fails = 0  # of the home, without progress
        self._moves = 0

    @property
    def several(self) -> bool:
        """Whether there is a choice."""
        return len(self._all) > 1

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._all)

    def place(self, no: int) -> Place:
        """Return what one of them is worth."""
        return self._all[no].place

    # -- choosing --------------------------------------------------------------------------------

    def pick(
        self,
        need: Need,
        now: float,
        *,
        tried: Collection[int] = (),
        last: int | None = None,
        helping: bool = False,
    ) -> Pick | None:
        """Return who is asked next; None if there is nobody.

        tried: those that failed in this attempt.  last: whom this stream asked last.
        helping: only what continues the bytes at hand is of use.
        """
        if not self.several:
            return None if tried else Pick(0, self._all[0].url)
        with self._lock:
            for how, group in self._groups(need, helping=helping):
                left = [no for no in group if no not in tried]
                if left:
                    no = self._best(left, now, last)
                    return Pick(no, self._all[no].url, How.HOME if no == self.home else how)
        return None

    def _groups(self, need: Need, *, helping: bool) -> list[tuple[How, list[int]]]:
        """Return who may be asked, and how, best first."""
        opened = self._in(Place.OPEN)
        aside = self._in(Place.ASIDE)
        if not (need.held or need.doubtful or helping):
            return [(How.FRESH, opened), (How.FRESH, aside)]
        home = self.home
        if home is None and not (need.digest or need.strong):
            home = self.home = 0  # bytes of an earlier run; the first address is the best guess
        groups = []
        if not self.mixing:
            need = Need(need.held)
        if need.doubtful:
            groups.append((How.BORROW, [no for no in opened if no not in self._doubted]))
        own = [home] if home is not None and self._all[home].place is not Place.OUT else []
        if need.digest:
            groups.append((How.BORROW, sorted({*opened, *own})))
        elif need.strong:
            groups.append((How.JOIN, sorted({*opened, *own})))
        else:
            groups.append((How.HOME, own))
        if not helping and self._may_move(need, gone=not own):
            groups.append((How.FRESH, [no for no in opened if no != home]))
            if not own or self._is_given_up:
                groups.append((How.FRESH, [no for no in aside if no != home]))
        return groups

    def _may_move(self, need: Need, *, gone: bool) -> bool:
        return gone or need.held < CHEAP or self._is_given_up

    @property
    def _is_given_up(self) -> bool:
        """Whether the home had chances enough."""
        return self._fails >= MOVE_AFTER and self._moves < MOST_MOVES

    def _in(self, place: Place) -> list[int]:
        return [no for no, mirror in enumerate(self._all) if mirror.place is place]

    def _best(self, numbers: list[int], now: float, last: int | None) -> int:
        scores = [self._ledger.now(self._all[no].url.origin, now) for no in numbers]
        current = self.home if last is None else last
        at = numbers.index(current) if current in numbers else None
        return numbers[ranked(scores, now, at)[0]]

    # -- what came of it -------------------------------------------------------------------------

    def moved(self, pick: Pick, n: int, seconds: float, *, whole: bool) -> None:
        """Note an exchange that did not fail. whole: it ended of itself."""
        if self.several:
            self._ledger.note(pick.url.origin, n, seconds, None, whole=whole)

    def others(self) -> Place | None:
        """Return the best place of those who gave nothing yet; None if there are none."""
        for place in (Place.OPEN, Place.ASIDE):
            if any(no not in self.givers for no in self._in(place)):
                return place
        return None

    def doubt(self) -> None:
        """Note that the bytes at hand are wrong: they are asked of others, if there are some."""
        self._doubted = frozenset(self.givers)

    def gave(self, pick: Pick) -> None:
        """Note that bytes of it are in the file."""
        self.givers.add(pick.no)

    def settled(self, pick: Pick) -> None:
        """Note that the bytes at hand are, or will be, all its own: there is a new home.

        Who disagreed with the version before may agree with this one.
        """
        with self._lock:
            if self.home not in {None, pick.no}:
                self._moves += 1
            self.home, self.givers, self._fails = pick.no, set(), 0
            for no in self._in(Place.ASIDE):
                self._all[no] = replace(self._all[no], place=Place.OPEN)

    def recognised(self, pick: Pick) -> None:
        """Note that a mirror has the very version that is at hand; one that lends may not."""
        if self.home is None and pick.how is not How.BORROW:
            self.home = pick.no

    def progressed(self) -> None:
        """Note that the object got on."""
        self._fails = 0

    def failed(self, pick: Pick, error: TransferFailed, now: float, n: int, seconds: float) -> None:
        """Note a failure: for good, for this version, or for a while."""
        if isinstance(error, Interrupted) or not self.several:
            return
        verdict = error.verdict
        why = Why(error.reason, str(error), verdict, error.status)
        with self._lock:
            if verdict.reason == _DISAGREES:
                place = Place.ASIDE
            elif _is_final(verdict):
                place = Place.OUT
            else:
                place = self._all[pick.no].place
                self._ledger.note(
                    pick.url.origin, n, seconds, (now, verdict.retry_after), whole=False
                )
            if pick.no == self.home:
                self._fails += 1
            self._all[pick.no] = replace(self._all[pick.no], place=place, why=why)

    def quarantine(self, error: TransferFailed) -> bool:
        """Put out all who gave bytes to a file that is not the one promised.

        False if nobody else would be left.
        """
        with self._lock:
            blamed = self.givers or ({self.home} if self.home is not None else set())
            left = [
                n
                for n, one in enumerate(self._all)
                if n not in blamed and one.place is not Place.OUT
            ]
            why = Why(error.reason, str(error), error.verdict)
            for no in blamed if left else ():
                self._all[no] = replace(self._all[no], place=Place.OUT, why=why)
            return bool(left)

    def outcome(self, error: TransferFailed) -> TransferFailed:
        """Return how the object fails when `error` was the last failure and nobody is left to ask.

        While one of them may be better next time, that is what it fails by; else by the failure
        that says most, with those of the others.
        """
        failed = [(one, one.why) for one in self._all if one.why is not None]
        if isinstance(error, Interrupted) or not self.several or not failed:
            return error
        whys = [why for one, why in failed if one.place is not Place.OUT]
        if whys:
            passing = [why for why in whys if why.verdict.reason != _DISAGREES] or whys
            best = min(passing, key=lambda why: why.verdict.retry_after or 0.0)
        else:
            best = max((why for _, why in failed), key=lambda why: _TELLING.get(why.reason, 0))
        if len(failed) == self.count:
            told = "; ".join(f"{one.url.host}: {why.text[:80]}" for one, why in failed)
            return _failure(best, f"{best.text} (all {self.count} addresses failed: {told[:300]})")
        return _failure(best, best.text)


_TELLING = {
    Reason.NETWORK: 1,
    Reason.REDIRECTS: 2,
    Reason.STATUS: 3,
    Reason.NEEDS_URL: 4,
    Reason.SIZE: 5,
    Reason.TOO_BIG: 5,
    Reason.CHANGING: 6,
    Reason.DIGEST: 7,
}
"""Which reason says most of why an object cannot be had."""


def disagrees(row: str) -> TransferFailed:
    """Return the failure of a mirror that has another version than the bytes at hand."""
    text = f"it does not have the version that was begun ({row})"
    return TransferFailed(Reason.CHANGING, text, transient(_DISAGREES))


def _is_final(verdict: Verdict) -> bool:
    return verdict.kind in {Kind.PERMANENT, Kind.AUTH}


def _failure(why: Why, text: str) -> TransferFailed:
    return TransferFailed(why.reason, text, why.verdict, status=why.status)
