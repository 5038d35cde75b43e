"""How long an unused connection to an endpoint lives, learned from when it died.

A server closes idle connections after a time that it rarely tells, and a request written into one
that has just been closed fails through nobody's fault. So the lowest age at which that happened,
less a fifth, is how long one is used again; it grows back slowly while nothing happens, since the
server may have been changed.
"""

from __future__ import annotations

import math

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
CAREFUL = 0.25
"""What may not be sent twice takes connections that are younger than so much of the lifetime."""


class Lifetime:
    """The lifetime of idle connections to one endpoint. most: seconds that are configured."""

    __slots__ = ("_clean", "_hint", "_learned", "_most", "_trial_at")

    def __init__(self, most: float) -> None:
        self._most = most
        self._learned = math.inf
        self._hint = math.inf
        self._clean = 0
        self._trial_at = -math.inf

    @property
    def learned(self) -> float | None:
        """What was learned, in seconds; None if nothing ever died."""
        return self._learned if self._learned < math.inf else None

    def limit(self) -> float:
        """Return for how many idle seconds a connection is kept; 0: it is not kept."""
        found = min(self._most, self._learned, self._hint)
        return found if found >= LEAST else 0.0

    def may_reuse(self, idle: float, now: float, *, careful: bool) -> bool:
        """Say whether a connection that has been idle for so long is used again.

        careful: for a request that must not be sent twice.
        """
        limit = self.limit()
        if limit:
            return idle < limit * (CAREFUL if careful else 1.0)
        # Not to stay with nothing for ever because of one hasty close.
        if careful or not self._most or now - self._trial_at < TRIAL_SECONDS:
            return False
        self._trial_at = now
        return True

    def keeps(self, now: float) -> bool:
        """Say whether a connection is worth keeping at all."""
        return self.limit() > 0 or (self._most > 0 and now - self._trial_at >= TRIAL_SECONDS)

    def died(self, idle: float) -> None:
        """Take note that a connection was closed by the server when it had been idle so long."""
        self._learned = min(self._learned, MARGIN * idle)
        self._clean = 0

    def reused(self) -> None:
        """Take note of a reuse that went well."""
        self._clean += 1
        if self._clean >= GROWTH_OF:
            self._clean = 0
            if self._learned < math.inf:
                self._learned = max(self._learned, LEAST) * GROWTH

    def hinted(self, seconds: float) -> None:
        """Take the timeout of a Keep-Alive field."""
        self._hint = max(0.0, seconds - HINT_MARGIN)
