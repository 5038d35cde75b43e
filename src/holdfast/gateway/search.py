"""Whom a request asks next, and when: decisions only, of one request.

    Pick     this endpoint, now: another one at once, one that was not tried before those that were
    Pause    nobody yet: all were tried, and a backoff is to pass before they are again
    Wait     nobody yet: all cool down, are full or try a request to prove themselves; in line
             with others, see `core.line`
    GiveUp   nobody any more, for this reason

What an endpoint is worth is decided by the `Balancer`, which all requests share. A request adds
what it has seen itself, and its limits: how often, how long, and whether a retry can be paid.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from holdfast.core.balance import Nobody, Pick, Wait

if TYPE_CHECKING:
    from collections.abc import Iterable

    from holdfast.core.balance import Balancer, Endpoint

BACKOFF, BACKOFF_THROTTLED, BACKOFF_MOST = 0.05, 1.0, 20.0
"""Seconds before the same endpoint is asked again, doubled each time."""


class Pause(NamedTuple):
    """A backoff. until: monotonic."""

    until: float


class GiveUp(NamedTuple):
    """The end. code: the reason, as errors have it."""

    code: str


Step = Pick | Pause | Wait | GiveUp
NOBODY = (GiveUp("HF-3104"), GiveUp("HF-3109"))
"""There is no endpoint to be had: another configuration may have one."""


class Bounds(NamedTuple):
    """What a configuration says of every search.

    attempts: at most.  free: those that were throttled do not count; they are bounded by time.
    max_wait: seconds for which a request waits in line.
    """

    attempts: int
    free: bool
    max_wait: float


class Budget:
    """What the retries of all requests may cost together.

    share: of a retry that each request brings in.  most: retries that are saved up, and that
    there are to begin with.  left: how many there are.
    """

    __slots__ = ("left", "most", "share")

    def __init__(self, share: float, most: float) -> None:
        self.share = share
        self.most = self.left = most

    def earn(self) -> None:
        """Add the share of one request."""
        self.left = min(self.most, self.left + self.share)

    def take(self) -> bool:
        """Take the price of a retry, if there is so much."""
        if self.left < 1:
            return False
        self.left -= 1
        return True

    def succeed(self, before: Budget) -> None:
        """Go on with what another configuration has left."""
        self.left = min(before.left, self.most)


class Search:
    """One request's way from endpoint to endpoint.

    repeatable: it may be sent twice.  deadline: when its whole time is over, monotonic.
    begun: attempts that were decided on elsewhere.
    tried: whom it has asked since its last backoff, or need not ask.
    left: how many attempts it may still make.
    patience: until when it waits in line, monotonic; infinite before it has had to.
    """

    __slots__ = (
        "_balancer",
        "_bounds",
        "_budget",
        "_deadline",
        "_keys_tried",
        "_repeatable",
        "_row",
        "_throttled",
        "left",
        "patience",
        "tried",
    )

    def __init__(
        self,
        balancer: Balancer,
        budget: Budget,
        bounds: Bounds,
        *,
        repeatable: bool,
        deadline: float,
        begun: int = 0,
    ) -> None:
        self._balancer = balancer
        self._budget = budget
        self._bounds = bounds
        self._repeatable = repeatable
        self._deadline = deadline
        self._row = 0  # of backoffs
        self._throttled = False
        self.tried: tuple[Endpoint, ...] = ()
        self._keys_tried: tuple[Endpoint, ...] = ()  # each as often as keys of it were refused
        self.left = bounds.attempts - begun
        self.patience = math.inf

    # -- what is done next -----------------------------------------------------------------------

    def next(self, now: float, u: float, *, intact: bool) -> Step:
        """Decide what is done now. u: uniform in [0, 1).  intact: all of its body can be sent."""
        if now >= self._deadline:
            return GiveUp("HF-3102")
        if not intact:
            return GiveUp("HF-3106")
        found = self._pick(now, u)
        if self.tried and not isinstance(found, Pick) and found is not Nobody.DISABLED:
            # Those that were tried may be asked again before what it would wait for; and the line
            # is for who would take any endpoint, or one that wants a certain one would hold up
            # all behind it.
            self._forget()
            if not self._balancer.has_to_wait(now, self._patience_left(now)):
                return self._pause(now, u)
            found = self._pick(now, u)  # all cool down or are full, which takes its own time
        if isinstance(found, Pick):
            self.left -= 1
            return found
        return self.queue(found, now) if isinstance(found, Wait) else GiveUp("HF-3109")

    def _pick(self, now: float, u: float) -> Pick | Wait | Nobody:
        return self._balancer.pick(
            now,
            u,
            tried=self.tried,
            repeatable=self._repeatable,
            limit=self._deadline - now,
            patience=self._patience_left(now),
        )

    def _patience_left(self, now: float) -> float:
        return min(self._bounds.max_wait, self.patience - now)

    def _pause(self, now: float, u: float) -> Pause | GiveUp:
        """Wait a little, then begin with all of them again."""
        base = BACKOFF_THROTTLED if self._throttled else BACKOFF
        seconds = min(BACKOFF_MOST, base * 2.0 ** min(self._row, 16)) * (0.5 + u / 2)
        self._row += 1
        return Pause(now + seconds) if now + seconds < self._deadline else GiveUp("HF-3102")

    def queue(self, wait: Wait, now: float) -> Wait | GiveUp:
        """Wait in line, unless that is in vain. wait: what for, or what those in line wait for."""
        if self.patience == math.inf:
            self.patience = now + self._bounds.max_wait
        if wait.why == "cooling" and wait.until >= min(self.patience, self._deadline):
            return GiveUp("HF-3104")
        return wait

    def force(self, now: float, *, held: bool, intact: bool) -> Pick | GiveUp:
        """Decide for one whose patience is over. held: the line waits for all to cool down."""
        if not intact:
            return GiveUp("HF-3106")
        found = None if held else self._balancer.force(now)
        if found is None:
            return GiveUp("HF-3104" if held else "HF-3103")
        self.left -= 1
        return found

    def use(self, balancer: Balancer, budget: Budget, bounds: Bounds) -> None:
        """Go on by another configuration, whose endpoints it has not asked."""
        self.left += bounds.attempts - self._bounds.attempts
        self._balancer, self._budget, self._bounds = balancer, budget, bounds
        self._forget()

    def _forget(self) -> None:
        self.tried = self._keys_tried = ()

    # -- what has come of it ---------------------------------------------------------------------

    def throttled(self) -> None:
        """Take note that the endpoint asked wants less."""
        self._throttled = True
        if self._bounds.free:
            self.left += 1

    def again(
        self,
        endpoint: Endpoint,
        now: float,
        u: float,
        *,
        safe: bool,
        intact: bool,
        here: bool = False,
        malformed: bool = False,
    ) -> Step:
        """Decide what is done after an attempt that came to nothing.

        endpoint: which was asked.  here: it may be asked again at once, with another of its keys;
        with each once, or keys that cool for less than an answer takes would be asked for ever.
        safe: the request was not executed.  malformed: what it answered was no HTTP.
        """
        if here and self._keys_tried.count(endpoint) + 1 < len(endpoint.health.keys):
            self._keys_tried = (*self._keys_tried, endpoint)
        elif endpoint not in self.tried:
            self.tried = (*self.tried, endpoint)
        if not (self.may_repeat(safe=safe) and intact):
            return GiveUp("HF-3105" if malformed else "HF-3106")
        if self.left <= 0 or not self._is_paid(now):
            return GiveUp("HF-3105" if malformed else "HF-3101")
        return self.next(now, u, intact=intact)

    def may_repeat(self, *, safe: bool) -> bool:
        """Say whether the request may be sent again. safe: it was not executed."""
        return self._repeatable or safe

    def _is_paid(self, now: float) -> bool:
        """Take a retry's price. One to a healthy endpoint that was not tried is free."""
        return self._has_fresh(now) or self._budget.take()

    def _has_fresh(self, now: float) -> bool:
        return any(
            one.enabled and one not in self.tried and one.health.tier(now) == 0
            for one in self._balancer.endpoints
        )


def soonest(endpoints: Iterable[Endpoint], now: float) -> float:
    """Return in how many seconds the first of some endpoints will have cooled down."""
    free = [one.health.free_at(now) for one in endpoints if one.enabled]
    return max(0.0, min(free, default=now) - now)
