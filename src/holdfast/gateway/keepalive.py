"""How long an unused connection to an endpoint lives, learned from when it died.

A server closes idle connections after a time that it rarely tells, and a request written into one
that has just been closed fails through nobody's fault. So the lowest age at which that happened,
less a fifth, is how long one is used again; it grows back slowly while nothing happens, since the
server may have been changed.

A server that is restarted closes its connections too, all at once and whatever their ages are.
That says nothing of how long they live.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MARGIN = 0.8
"""Of the lowest age seen, so much is relied on."""
GROWTH = 1.1
GROWTH_OF = 100
"""So many reuses without a fault let the lifetime grow by a tenth."""
LEAST = 0.05
"""Below so many seconds connections are not used again at all, but for a trial now and then."""
TRIAL_SECONDS = 60.0
HINT_MARGIN = 1.0
"""A server that says `Keep-Alive: timeout=5` is believed for 4 s."""
BURST = 0.5
"""Connections that end within so many seconds of each other were ended for one reason."""
ALIKE = 0.2
"""Their ages are alike if they differ by less than such a share, or by less than `LEAST`."""
CAREFUL = 0.25
"""What may not be sent twice takes connections that are younger than so much of the lifetime."""


class Lifetime:
    """The lifetime of idle connections to one endpoint. most: seconds that are configured."""

    __slots__ = (
        "_before",
        "_clean",
        "_died_at",
        "_died_first",
        "_hint",
        "_learned",
        "_limit",
        "_most",
        "_restarted",
        "_trial_at",
    )

    def __init__(self, most: float) -> None:
        self._most = most
        self._learned = self._before = self._hint = math.inf
        self._learn(math.inf)
        self._clean = 0
        self._trial_at = self._died_at = -math.inf
        self._died_first = 0.0
        self._restarted = False

    @property
    def learned(self) -> float | None:
        """What was learned, in seconds; None if nothing ever died."""
        return self._learned if self._learned < math.inf else None

    def limit(self) -> float:
        """Return for how many idle seconds a connection is used again; 0: not at all."""
        return self._limit

    def _learn(self, seconds: float) -> None:
        self._learned = seconds
        found = min(self._most, seconds, self._hint)
        self._limit = found if found >= LEAST else 0.0

    def shelf(self) -> float:
        """Return for how many idle seconds a connection stays open, if only for a trial."""
        return self._limit or min(self._most, TRIAL_SECONDS)

    def may_reuse(self, idle: float, now: float, *, careful: bool) -> bool:
        """Say whether a connection that has been idle for so long is used again.

        careful: for a request that must not be sent twice.
        """
        limit = self._limit
        if limit:
            return idle < limit * (CAREFUL if careful else 1.0)
        # Not to stay with nothing for ever because of one hasty close.
        if careful or not self._most or now - self._trial_at < TRIAL_SECONDS:
            return False
        self._trial_at = now
        return True

    def keeps(self, now: float) -> bool:
        """Say whether a connection is worth keeping at all."""
        return self._limit > 0 or (self._most > 0 and now - self._trial_at >= TRIAL_SECONDS)

    def died(self, idle: float, now: float | None = None) -> None:
        """Take note that a connection was closed by the server when it had been idle so long.

        now: when, for one that was idle; a reused one that was dead counts whatever came before.
        """
        self._clean = 0
        if now is not None and self._is_restart(idle, now):
            return
        self._learn(min(self._learned, MARGIN * idle))

    def _is_restart(self, idle: float, now: float) -> bool:
        """Whether it is one of several that end together at unlike ages; take all of them back."""
        begins = now - self._died_at >= BURST
        self._died_at = now
        if begins:
            self._before, self._died_first, self._restarted = self._learned, idle, False
            return False
        apart = abs(idle - self._died_first)
        if apart >= LEAST and apart > ALIKE * max(idle, self._died_first):
            self._restarted = True
            self._learn(self._before)
        return self._restarted

    def reused(self, idle: float = 0.0) -> None:
        """Take note of a reuse that went well. idle: for how long the connection had rested."""
        if self._learned < LEAST <= idle:
            self._learn(idle)  # a trial: they live for so long at least
        self._clean += 1
        if self._clean >= GROWTH_OF:
            self._clean = 0
            if self._learned < math.inf:
                self._learn(max(self._learned, LEAST) * GROWTH)

    def retune(self, most: float) -> None:
        """Take another configured time; what was learned stays."""
        self._most = most
        self._learn(self._learned)

    def hinted(self, seconds: float) -> None:
        """Take the timeout of a Keep-Alive field."""
        self._hint = max(0.0, seconds - HINT_MARGIN)
        self._learn(self._learned)


_TIMEOUT = re.compile(rb"(?:^|[,;])\s*timeout\s*=\s*\"?([0-9]{1,9})\"?\s*(?:$|[,;])", re.IGNORECASE)


def hint_of(fields: Sequence[tuple[bytes, bytes]]) -> float | None:
    """Return the timeout of a head's Keep-Alive field, in seconds; None without one."""
    for name, value in fields:
        if name.lower() == b"keep-alive":
            found = _TIMEOUT.search(value)
            if found is not None:
                return float(found[1])
    return None
