"""The circuit breaker: stop calling what is down, find out carefully when it is back.

State x input -> next state. Every transition makes a new *generation*; a result that
carries another generation than the breaker's own says nothing about the present and is
ignored (a success that started before the outage must not close the breaker, a failure
that started before it must not reopen it).

Half-open admits exactly its probes. A probe is *leased*: if its result never comes (the
task was lost, the process of the caller hangs), the place is free again when the lease is
over. A cancelled or neutral probe gives its place back at once and is not counted.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

from holdfast.core.backoff import doubled
from holdfast.core.checks import between, positive, whole
from holdfast.core.window import Window


class State(enum.StrEnum):
    """What the breaker does with a call that asks for admission."""

    CLOSED = "closed"  # passes, counts
    OPEN = "open"  # refuses until `until`
    HALF_OPEN = "half-open"  # passes probes only
    ISOLATED = "isolated"  # refuses until reset; set by hand
    DISABLED = "disabled"  # passes everything, counts nothing; set by hand


class Input(enum.StrEnum):
    """What can move the breaker from one state to another."""

    TRIPPED = "tripped"  # closed: the share or the row of failures is reached
    WAITED = "waited"  # open: asked for admission after the open time
    PROBED = "probed"  # open: something else found a sign of life
    PROBES_GOOD = "probes-good"  # half-open: enough results, enough of them good
    PROBES_BAD = "probes-bad"  # half-open: enough good results cannot be reached any more
    ISOLATE = "isolate"
    RESET = "reset"
    DISABLE = "disable"


_BY_HAND = {
    Input.ISOLATE: State.ISOLATED,
    Input.RESET: State.CLOSED,
    Input.DISABLE: State.DISABLED,
}
TRANSITIONS: dict[tuple[State, Input], State] = {
    (State.CLOSED, Input.TRIPPED): State.OPEN,
    (State.OPEN, Input.WAITED): State.HALF_OPEN,
    (State.OPEN, Input.PROBED): State.HALF_OPEN,
    (State.HALF_OPEN, Input.PROBES_GOOD): State.CLOSED,
    (State.HALF_OPEN, Input.PROBES_BAD): State.OPEN,
    **{(state, by_hand): to for state in State for by_hand, to in _BY_HAND.items()},
}
"""Every cell that exists; any other pair cannot happen and raises KeyError."""


class Result(enum.Enum):
    """What an attempt says about the backend.

    NEUTRAL: throttling, client faults, cancellation, causes on this machine. They say
    nothing about whether the backend works.
    """

    OK = "ok"
    FAILED = "failed"
    NEUTRAL = "neutral"


@dataclass(frozen=True, slots=True)
class Breaker:
    """Open after too many failures; the state is per key.

    ratio: share of failures in the window that opens it, in (0, 1].
    window: seconds looked at (10 buckets).  min_calls: below this many, the ratio is not used.
    consecutive: this many failures in a row open it; None: only the ratio counts.
    slow_after: a success that took longer counts as slow; None: durations do not matter.
    slow_ratio: share of slow calls that opens it.
    open_for: seconds open, doubled per reopening up to max_open, +-20 % of jitter.
    half_open: probes at once.  close_after: results that decide; it closes if the share of
        good ones is at least `1 - ratio`.

    Failures are CONNECT, TRANSIENT, TIMEOUT and UNKNOWN that are not local. All else is neutral.
    """

    ratio: float = 0.5
    window: float = 30
    min_calls: int = 20
    consecutive: int | None = 5
    slow_after: float | None = None
    slow_ratio: float = 1.0
    open_for: float = 5
    max_open: float = 300
    half_open: int = 1
    close_after: int = 3

    def __post_init__(self) -> None:
        for name in ("ratio", "slow_ratio"):
            positive("Breaker", name, getattr(self, name))
            between("Breaker", name, getattr(self, name), 0, 1)
        for name in ("window", "open_for", "max_open"):
            positive("Breaker", name, getattr(self, name))
        for name in ("min_calls", "half_open", "close_after"):
            whole("Breaker", name, getattr(self, name), 1)
        if self.consecutive is not None:
            whole("Breaker", "consecutive", self.consecutive, 1)
        if self.slow_after is not None:
            positive("Breaker", "slow_after", self.slow_after)


@dataclass(frozen=True, slots=True)
class Change:
    """A transition that took place.

    until: monotonic time of the next look; may be infinite.  alert: True when a person should
    hear that it opened, False when that is over, None when nothing is new.
    """

    state: State
    gen: int
    why: str
    until: float
    alert: bool | None


class Permit:
    """Admission of one attempt. probe: it decides about a half-open breaker."""

    __slots__ = ("gen", "lease", "probe")

    def __init__(self, gen: int, *, probe: bool = False, lease: float = math.inf) -> None:
        self.gen = gen
        self.probe = probe
        self.lease = lease


@dataclass(slots=True)
class BreakerState:
    """The breaker of one key. Not thread-safe: the driver holds the lock.

    `tally` and `calm_until` belong to the drivers' fast path: while `now < calm_until` the
    breaker is closed with no failure in a row, and a success is no more than `tally += 1`.
    Every failure and transition puts another object at `calm_until`, which a call that was
    on its way meanwhile can tell by identity. `wanted` calls more are to go by the full path
    first, which alone measures how long a success takes.

    strict: all results of a half-open one have to be good. A call has nowhere else to go, so
    a backend that fails now and then is better than none; of several endpoints it is not.
    """

    options: Breaker
    state: State = State.CLOSED
    gen: int = 0
    until: float = -math.inf
    changes: list[Change] = field(default_factory=list)
    tally: int = 0
    calm_until: float = -math.inf
    wanted: int = 0
    strict: bool = False
    _window: Window = field(init=False)
    _row: int = 0  # failures in a row
    _reopened: int = 0  # the k of open_for * 2**k
    _closed_at: float = -math.inf
    _probes: list[Permit] = field(default_factory=list)
    _good: int = 0
    _bad: int = 0
    _alerting: bool = False

    def __post_init__(self) -> None:
        self._window = Window(self.options.window)

    def retune(self, options: Breaker) -> None:
        """Go by other options from now on; another window begins empty."""
        if options.window != self.options.window:
            self._window = Window(options.window)
        self.options = options

    # -- admission ---------------------------------------------------------------------

    def renew(self, now: float, missing: int) -> None:
        """Open the fast path for the rest of the bucket, as a call begins by the full path.

        So at least one call per bucket is measured; missing: how many should be, this one
        included, before the fast path opens.
        """
        if self.wanted > 0:
            self.wanted -= 1
        elif now >= self.calm_until:
            self.wanted = missing - 1
        else:
            return
        # Now, not when this call has succeeded, or a crowd that begins together would go by
        # the full path together.
        if self.state is State.CLOSED:
            self.fold(now)
            self._calm(now)

    def acquire(self, now: float, limit: float, u: float) -> Permit | float:  # noqa: ARG002
        """Return a permit, or how many seconds to stay away (infinite if isolated).

        limit: seconds that the attempt may take; infinite if it has no limit.
        """
        state = self.state
        if state is State.CLOSED or state is State.DISABLED:
            return Permit(self.gen)
        if state is State.ISOLATED:
            return math.inf
        if state is State.OPEN:
            if now < self.until:
                return self.until - now
            self._move(Input.WAITED, "open time over", now, math.inf)
        return self._probe(now, limit)

    def _probe(self, now: float, limit: float) -> Permit | float:
        self._probes = [probe for probe in self._probes if probe.lease > now]
        undecided = self.options.close_after - self._good - self._bad
        # One at least: other options may ask for fewer than were good already.
        if len(self._probes) < min(self.options.half_open, max(1, undecided)):
            lease = now + (limit if limit < math.inf else self.options.open_for)
            permit = Permit(self.gen, probe=True, lease=lease)
            self._probes.append(permit)
            return permit
        return max(0.0, min(probe.lease for probe in self._probes) - now)

    # -- results -----------------------------------------------------------------------

    def settle(self, permit: Permit, result: Result, seconds: float, now: float, u: float) -> None:
        """Take the result of an admitted attempt that took `seconds`; u: for the open time."""
        if permit.gen != self.gen:
            return  # another generation: it says nothing about the present
        if permit.probe:
            if permit not in self._probes:
                return  # its lease was over and the place was given to another
            self._probes.remove(permit)
        if result is Result.NEUTRAL or self.state is State.DISABLED:
            return
        slow_after = self.options.slow_after
        slow = slow_after is not None and result is Result.OK and seconds > slow_after
        if self.state is State.HALF_OPEN:
            if not permit.probe and result is Result.OK:
                return  # it was counted when it began to answer
            self._count_probe(good=result is Result.OK and not slow, now=now, u=u)
        else:
            self._count(failed=result is Result.FAILED, slow=slow, now=now, u=u)

    def count_success(self, now: float) -> None:
        """Count a success of a closed breaker, and open the fast path for the next ones."""
        self.fold(now)
        self._window.add(now, calls=1)
        self._row = 0
        self._calm(now)

    def _count(self, *, failed: bool, slow: bool, now: float, u: float) -> None:
        self.fold(now)
        self._window.add(now, calls=1, failures=failed, slow=slow)
        self._row = self._row + 1 if failed else 0
        options = self.options
        if failed and options.consecutive is not None and self._row >= options.consecutive:
            self._open(Input.TRIPPED, f"{self._row} failures in a row", now, u)
        elif failed or slow:
            calls, failures, slows = self._window.totals(now)
            if calls >= options.min_calls and failures >= options.ratio * calls:
                self._open(Input.TRIPPED, f"{failures} of {calls} calls failed", now, u)
            elif calls >= options.min_calls and slows >= options.slow_ratio * calls and slow:
                self._open(Input.TRIPPED, f"{slows} of {calls} calls were slow", now, u)
        self._calm(now)

    def _count_probe(self, *, good: bool, now: float, u: float) -> None:
        options = self.options
        self._good += good
        self._bad += not good
        share = 1.0 if self.strict else 1 - options.ratio
        need = math.ceil(options.close_after * share - 1e-9)
        if options.close_after - self._bad < need:
            self._open(Input.PROBES_BAD, f"{self._bad} probes failed", now, u)
        elif self._good + self._bad >= options.close_after:
            self._move(Input.PROBES_GOOD, f"{self._good} probes succeeded", now, math.inf)

    def fold(self, now: float) -> None:
        """Move the fast path's tally into the window.

        A tally never outlives its bucket by more than one call: `calm_until` is the end of
        the bucket, after which the next call takes the full path and comes here.
        """
        count, self.tally = self.tally, 0
        if count:
            last = math.nextafter(self.calm_until, -math.inf)
            self._window.add(now if last == -math.inf else min(now, last), calls=count)

    def _calm(self, now: float) -> None:
        # Only here may the fast path be opened, so its precondition is in one place.
        calm = (
            self.state is State.CLOSED
            and self._row == 0
            and self.wanted <= 0
            and self.options.slow_after is None
        )
        until = self._window.bucket_end(now) if calm else -math.inf
        if until != self.calm_until:
            # The same value stays the same object: it is by identity that calls on their way
            # tell whether they were disturbed.
            self.calm_until = until

    # -- transitions -------------------------------------------------------------------

    def probed(self, now: float) -> None:
        """Take a sign of life from outside: an open breaker lets its probes try at once."""
        if self.state is State.OPEN:
            self._move(Input.PROBED, "a sign of life", now, math.inf)

    def by_hand(self, what: Input, now: float) -> None:
        """Isolate, reset or disable."""
        self._move(what, f"{what.value} by hand", now, math.inf)

    def _open(self, what: Input, why: str, now: float, u: float) -> None:
        options = self.options
        flapping = what is Input.PROBES_BAD or now < self._closed_at + 2 * options.window
        self._reopened = self._reopened + 1 if flapping else 0
        seconds = doubled(options.open_for, self._reopened, options.max_open)
        self._move(what, why, now, now + seconds * (0.8 + 0.4 * u))

    def _move(self, what: Input, why: str, now: float, until: float) -> None:
        self.state = TRANSITIONS[self.state, what]
        self.gen += 1
        self.until = until
        self._probes = []
        self._good = self._bad = self._row = 0
        self.tally = 0
        self.calm_until = -math.inf
        if self.state is State.CLOSED:
            self._window.clear()
            self._closed_at = now
        self.changes.append(Change(self.state, self.gen, why, until, self._alert(what)))

    def _alert(self, what: Input) -> bool | None:
        # One alert when it trips, one when it is closed again; reopenings in between and what
        # a person did by hand are no news.
        if what is Input.TRIPPED and not self._alerting:
            self._alerting = True
            return True
        if self._alerting and self.state in (State.CLOSED, State.DISABLED):
            self._alerting = False
            return False
        return None

    # -- reading -----------------------------------------------------------------------

    def counts(self, now: float) -> tuple[int, int, int]:
        """Return (calls, failures, slow) of the window; changes nothing."""
        calls, failures, slow = self._window.totals(now)
        return calls + self.tally, failures, slow

    @property
    def probes_out(self) -> int:
        """How many probes are on their way."""
        return len(self._probes)


class NoBreaker(BreakerState):
    """Stands where a policy has no breaker: calm, but for a measured call now and then."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(Breaker())

    def fold(self, now: float) -> None:  # noqa: ARG002 - the shape of a breaker
        """Drop the tally."""
        self.tally = 0
