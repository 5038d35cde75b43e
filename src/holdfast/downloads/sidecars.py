"""Looks for the sums beside files, and remembers those of whole directories for a while.

A file of its own is asked for per file; the sums of a directory once, by whichever worker comes
first, while the others wait. What is not there, or is a page, or too large, is no sum. What
cannot be asked, since the server is away, is an error: a promise that exists is not passed over.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from holdfast.core.verdict import Kind
from holdfast.runtime.clock import clock
from holdfast.transfer.failures import Interrupted, Reason, TransferFailed
from holdfast.transfer.object import ObjectTransfer
from holdfast.transfer.scratch import Scratch
from holdfast.transfer.sums import Place, choose, places, read
from holdfast.transfer.wanted import Standing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from holdfast.transfer.plane import Plane
    from holdfast.transfer.traffic import Traffic
    from holdfast.transfer.verify import Digest
    from holdfast.transfer.wanted import Attempt, Wanted
    from holdfast.wire.cancel import Cancel
    from holdfast.wire.urls import Url

KEPT_SECONDS = 300.0
MOST_NAMES = 200_000
"""Names remembered of all directories together; a name and its digest take some 200 bytes."""
LOOK_EVERY = 0.1
_REFUSALS = frozenset({Kind.PERMANENT, Kind.AUTH})
_NONE = frozenset({Reason.TOO_BIG, Reason.REDIRECTS, Reason.ANSWER, Reason.CAPTIVE, Reason.SIZE})


@dataclass(slots=True, eq=False)
class _Known:
    """The sums of a directory. sums: None while somebody asks for them."""

    until: float
    ready: threading.Event = field(default_factory=threading.Event)
    sums: dict[str, str] | None = None


class Sidecars:
    """The sums of many files. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}

    def find(
        self, url: Url, names: Sequence[str], ask: Callable[[Place], bytes | None], cancel: Cancel
    ) -> Digest | None:
        """Return the digest that lies beside what `url` leads to, or None.

        names: what the file may be called.  ask: fetches; None if nothing is there.
        Raises what `ask` raises, and Interrupted.
        """
        looked = places(url)
        for place in looked:  # what is known already costs no request
            known = self._known.get(place.url.full()) if place.whole else None
            sums = known.sums if known is not None and clock.monotonic() < known.until else None
            if sums is not None and (found := choose(sums, names, place)):
                return found
        for place in looked:
            sums = self._whole(place, ask, cancel) if place.whole else _read(place, ask)
            if found := choose(sums, names, place):
                return found
        return None

    def _whole(
        self, place: Place, ask: Callable[[Place], bytes | None], cancel: Cancel
    ) -> dict[str, str]:
        key = place.url.full()
        while True:
            with self._lock:
                known, now = self._known.get(key), clock.monotonic()
                mine = known is None or now >= known.until
                if known is None or mine:
                    known = self._known[key] = _Known(now + KEPT_SECONDS)
            if mine:
                return self._ask(key, known, place, ask)
            while not known.ready.is_set():
                if cancel.is_set():
                    raise Interrupted
                clock.wait(known.ready, LOOK_EVERY)
            if known.sums is not None:
                return known.sums  # else whoever asked had to give up

    def _ask(
        self, key: str, known: _Known, place: Place, ask: Callable[[Place], bytes | None]
    ) -> dict[str, str]:
        try:
            known.sums = sums = _read(place, ask)
        except BaseException:
            with self._lock:
                self._known.pop(key, None)
            raise
        finally:
            known.ready.set()
        self._make_room()
        return sums

    def _make_room(self) -> None:
        with self._lock:
            while len(self._known) > 1 and self._names() > MOST_NAMES:
                del self._known[next(iter(self._known))]  # the oldest

    def _names(self) -> int:
        return sum(1 + len(known.sums or ()) for known in self._known.values())


def _read(place: Place, ask: Callable[[Place], bytes | None]) -> dict[str, str]:
    data = ask(place)
    return {} if data is None else read(data, place.algorithm)


def fetch(
    wanted: Wanted,
    name: str,
    *,
    plane: Plane,
    cancel: Cancel,
    traffic: Traffic,
    attempts: Iterable[Attempt],
) -> bytes | None:
    """Fetch a small object into memory, by all rules of a file; None if there is none.

    name: for a failure's text.
    """
    part = Scratch()
    part.open()
    transfer = ObjectTransfer(
        wanted,
        part,
        Standing(),
        note=lambda *_: None,
        plane=plane,
        cancel=cancel,
        traffic=traffic,
    )
    try:
        transfer.run(attempts)
    except Interrupted:
        raise
    except TransferFailed as error:
        said_no = error.reason is Reason.STATUS and error.verdict.kind in _REFUSALS
        if said_no or error.reason in _NONE:
            return None
        text = f"the sums `{name}` cannot be had: {error}"
        raise TransferFailed(error.reason, text, error.verdict, status=error.status) from None
    return part.content()
