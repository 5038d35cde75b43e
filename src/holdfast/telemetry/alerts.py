"""Alert rules over events: one alert when something starts, one when it is over.

`Rule` is data. `Alerts` is the engine: samples and times come as arguments, alerts are
returned, so it runs the same in a test, a simulation and a daemon. `alert_on` connects it to
the event hub, where its alerts become events like all others: logs, metrics and dashboards
hear of them there.

A rule looks at each policy and key apart. It fires when the measure of its window is beyond
its threshold for `fire_for` seconds, and clears when it is within `clear_at` of it for
`clear_for` seconds; in between nothing is said, so an alert does not flap. Too few samples
say nothing: they never fire, and they let clear.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.core import events
from holdfast.core.checks import at_least, between, number, one_of, positive, whole
from holdfast.runtime.clock import clock
from holdfast.runtime.hub import hub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BUCKETS = 12
"""Parts of a window; a part leaves it as a whole."""

MAX_TARGETS = 200
"""Policies and keys that one rule tells apart; what comes later is `other`."""

TICK = 1.0
"""Seconds between two looks at what time alone has changed."""

_SHARES = {"p50": 0.5, "p90": 0.1, "p95": 0.05, "p99": 0.01}
MEASURES = ("mean", "last", *_SHARES)

METRICS = {
    "error_rate": "1 for an attempt that failed (connect, transient, timeout, unknown), else 0",
    "failure_rate": "1 for a call that gave up, 0 for one that succeeded",
    "attempt_seconds": "duration of an attempt that succeeded",
    "wait_seconds": "length of a wait, when it begins",
    "retry_budget": "tokens left, at each wait",
    "circuit_open": "1 when a circuit opens, 0 when it closes",
}
"""What events give samples of."""

_FAILURES = frozenset({"connect", "transient", "timeout", "unknown"})


@dataclass(frozen=True, slots=True)
class Rule:
    """When to alert.

    name: of the alert.  metric: one of `METRICS`, or what a surface gives samples of.
    above, below: the threshold, one of the two.  policy: look at this one only; "*": at all.
    measure: of the samples in the window: "mean" (default); "p50", "p90", "p95", "p99", which
    go with `above`; "last", which needs no window and no count.
    window: seconds.  min_count: samples that it must hold.  fire_for, clear_for: seconds that
    the measure must stay beyond, and within.  clear_at: share of the threshold at which it
    clears, in (0, 1]; for `below` the threshold is divided by it.
    Raises ValueError for values out of range.
    """

    name: str
    metric: str
    above: float | None = None
    below: float | None = None
    policy: str = "*"
    measure: str = "mean"
    window: float = 60.0
    min_count: int = 20
    fire_for: float = 0.0
    clear_for: float = 30.0
    clear_at: float = 0.8

    def __post_init__(self) -> None:
        if not self.name or (self.above is None) == (self.below is None):
            raise ValueError(f"`Rule` needs a name, and either `above` or `below`: {self.name!r}")
        number("Rule", "above" if self.below is None else "below", self.threshold)
        one_of("Rule", "measure", self.measure, MEASURES)
        if self.measure in _SHARES and self.above is None:
            raise ValueError(f"`Rule(measure={self.measure!r})` goes with `above`: {self.name!r}")
        positive("Rule", "window", self.window)
        whole("Rule", "min_count", self.min_count, 1)
        at_least("Rule", "fire_for", self.fire_for, 0)
        at_least("Rule", "clear_for", self.clear_for, 0)
        between("Rule", "clear_at", self.clear_at, 0.01, 1)

    @property
    def threshold(self) -> float:
        """The value beyond which it fires."""
        found = self.above if self.above is not None else self.below
        assert found is not None  # noqa: S101 - one of the two is given
        return found

    @property
    def calm(self) -> float:
        """The value within which it clears."""
        found = self.threshold
        return found * self.clear_at if self.above is not None else found / self.clear_at

    def is_beyond(self, value: float, limit: float) -> bool:
        """Say whether `value` is on the wrong side of `limit`."""
        return value > limit if self.above is not None else value < limit


class _Window:
    """Running sums over the last seconds: [number, samples, total, beyond, not calm]."""

    __slots__ = ("_buckets", "_width", "sums")

    def __init__(self, seconds: float) -> None:
        self._width = seconds / BUCKETS
        self._buckets: deque[list[float]] = deque()
        self.sums = [0.0, 0.0, 0.0, 0.0, 0.0]

    def add(self, now: float, value: float, *, beyond: bool, restless: bool) -> None:
        bucket = int(now // self._width)
        if not self._buckets or self._buckets[-1][0] != bucket:
            self._buckets.append([bucket, 0.0, 0.0, 0.0, 0.0])
        for at, n in enumerate((1.0, value, beyond, restless), 1):
            self._buckets[-1][at] += n
            self.sums[at] += n

    def forget(self, now: float) -> None:
        first = int(now // self._width) - BUCKETS + 1
        while self._buckets and self._buckets[0][0] < first:
            gone = self._buckets.popleft()
            for at in range(1, 5):
                self.sums[at] -= gone[at]
        if not self._buckets:
            self.sums = [0.0] * 5  # no rest of rounding stays


class _Watch:
    """One rule for one policy and key."""

    __slots__ = ("_latest", "_rule", "_since", "_window", "firing", "key", "policy")

    def __init__(self, rule: Rule, policy: str, key: str) -> None:
        self._rule = rule
        self.policy, self.key = policy, key
        self.firing = False
        self._since: float | None = None  # when the change that is due began
        self._latest: float | None = None
        self._window = _Window(rule.window)

    def add(self, value: float, now: float) -> None:
        rule = self._rule
        self._latest = value
        beyond = rule.is_beyond(value, rule.threshold)
        self._window.add(now, value, beyond=beyond, restless=rule.is_beyond(value, rule.calm))

    def judge(self, now: float) -> events.Alert | None:
        """Return the alert that is due, if any."""
        rule = self._rule
        self._window.forget(now)
        changing = not self._is(restless=True) if self.firing else self._is(restless=False)
        if not changing:
            self._since = None
            return None
        self._since = now if self._since is None else self._since
        if now - self._since < (rule.clear_for if self.firing else rule.fire_for):
            return None
        self._since = None
        self.firing = not self.firing
        return events.Alert(
            time=now,
            policy=self.policy,
            key=self.key,
            name=rule.name,
            text=self._text(),
            cleared=not self.firing,
        )

    def _is(self, *, restless: bool) -> bool:
        """Say whether the measure is beyond the threshold, or (restless) beyond `calm`."""
        rule = self._rule
        limit = rule.calm if restless else rule.threshold
        if rule.measure == "last":
            return self._latest is not None and rule.is_beyond(self._latest, limit)
        _, count, total, beyond, not_calm = self._window.sums
        if count < rule.min_count:
            return False
        if rule.measure == "mean":
            return rule.is_beyond(total / count, limit)
        # More than 5 % of the samples are above x: their 95th percentile is.
        return (not_calm if restless else beyond) / count > _SHARES[rule.measure]

    def _text(self) -> str:
        rule = self._rule
        _, count, total, beyond, _ = self._window.sums
        side = "above" if rule.above is not None else "below"
        limit = _shown(rule.metric, rule.threshold)
        word = f"{rule.metric} is {side}" if self.firing else f"{rule.metric} is no longer {side}"
        if rule.measure == "last":
            return f"{word} {limit}: {_shown(rule.metric, self._latest or 0.0)}"
        if not count:
            return f"{word} {limit}: no samples in {rule.window:g} s"
        if rule.measure == "mean":
            now = _shown(rule.metric, total / count)
        else:
            now = f"{beyond / count:.3g} of the samples are, {rule.measure}"
        return f"{word} {limit}: {now} ({count:.0f} samples in {rule.window:g} s)"


def _shown(metric: str, value: float) -> str:
    return f"{value:.3g}" if not metric.endswith(("_rate", "_use")) else f"{value * 100:.3g}%"


class Alerts:
    """The engine. It has no clock and tells nobody: it returns the alerts that are due."""

    def __init__(self, *rules: Rule) -> None:
        names = [rule.name for rule in rules]
        if len(set(names)) < len(names):
            raise ValueError(f"two rules have one name: {', '.join(sorted(names))}")
        self._rules: dict[str, list[Rule]] = {}
        for rule in rules:
            self._rules.setdefault(rule.metric, []).append(rule)
        self._watches: dict[str, dict[tuple[str, str], _Watch]] = {name: {} for name in names}

    def sample(
        self, metric: str, value: float, now: float, *, policy: str = "", key: str = ""
    ) -> list[events.Alert]:
        """Take a sample at `now` (monotonic seconds); return the alerts that are due."""
        found = []
        for rule in self._rules.get(metric, ()):
            if rule.policy in ("*", policy):
                watch = self._watch(rule, policy, key)
                watch.add(value, now)
                alert = watch.judge(now)
                if alert is not None:
                    found.append(alert)
        return found

    def tick(self, now: float) -> list[events.Alert]:
        """Return the alerts that are due because time passed."""
        watches = [watch for found in self._watches.values() for watch in found.values()]
        alerts = [watch.judge(now) for watch in watches]
        return [alert for alert in alerts if alert is not None]

    def firing(self) -> list[tuple[str, str, str]]:
        """Return (rule, policy, key) of the alerts that are on."""
        return [
            (name, watch.policy, watch.key)
            for name, found in self._watches.items()
            for watch in found.values()
            if watch.firing
        ]

    def _watch(self, rule: Rule, policy: str, key: str) -> _Watch:
        watches = self._watches[rule.name]
        if (policy, key) not in watches and len(watches) >= MAX_TARGETS:
            policy, key = "other", ""
        found = watches.get((policy, key))
        if found is None:
            found = watches[policy, key] = _Watch(rule, policy, key)
        return found


def samples_of(event: events.Event) -> Iterator[tuple[str, float]]:
    """Yield (metric, value) of what an event says about `METRICS`."""
    if isinstance(event, events.Attempt):
        if event.kind == "ok":
            yield from (("error_rate", 0.0), ("failure_rate", 0.0))
            yield "attempt_seconds", event.seconds
        elif event.kind != "cancelled":
            yield "error_rate", float(event.kind in _FAILURES)
    elif isinstance(event, events.GaveUp):
        yield "failure_rate", 1.0
    elif isinstance(event, events.Waited):
        yield "wait_seconds", event.seconds
        if event.budget_left is not None:
            yield "retry_budget", event.budget_left
    elif isinstance(event, events.CircuitOpened | events.CircuitClosed):
        yield "circuit_open", float(isinstance(event, events.CircuitOpened))


def alert_on(
    *rules: Rule, tell: Callable[[events.Alert], object] = hub.publish
) -> Callable[[], None]:
    """Watch all events by `rules` from now on; return how to stop that.

    tell: what to do with an alert; by default it is an event, heard by logs, metrics and
    every other subscriber. It is called on the thread where the last sample arose. Time is
    looked at when an event comes, at most once in `TICK` seconds: in silence nothing clears.
    Raises ValueError for a rule whose metric no event gives.
    """
    for rule in rules:
        one_of("Rule", "metric", rule.metric, tuple(METRICS))
    watcher = _Watcher(Alerts(*rules), tell)
    return hub.subscribe(watcher.hear, success=watcher.good)


class _Watcher:
    """Gives the engine what the hub says, under a lock, and tells its alerts outside it."""

    def __init__(self, alerts: Alerts, tell: Callable[[events.Alert], object]) -> None:
        self._alerts = alerts
        self._tell = tell
        self._lock = threading.RLock()
        self._ticked = clock.monotonic()

    def hear(self, event: events.Event) -> None:
        self._take(event.policy, event.key, event.time, list(samples_of(event)))

    def good(self, policy: str, key: str, began: float, ended: float) -> None:
        seconds = ended - began
        samples = [("error_rate", 0.0), ("failure_rate", 0.0), ("attempt_seconds", seconds)]
        self._take(policy, key, ended, samples)

    def _take(self, policy: str, key: str, now: float, samples: list[tuple[str, float]]) -> None:
        with self._lock:
            due: list[events.Alert] = []
            for metric, value in samples:
                due += self._alerts.sample(metric, value, now, policy=policy, key=key)
            if now - self._ticked >= TICK:
                self._ticked = now
                due += self._alerts.tick(now)
        for alert in due:
            self._tell(alert)
