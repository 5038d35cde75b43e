"""What both drivers stand on: the state per key, and the machine's steps under the lock."""

from __future__ import annotations

import itertools
import math
import sys
from typing import TYPE_CHECKING, Any

from holdfast.core import events
from holdfast.core.call import Attempt, Call, Step
from holdfast.core.classify import classify
from holdfast.core.deadline import OUTSIDE
from holdfast.core.policy import Lane, Shape
from holdfast.core.verdict import Kind, Verdict
from holdfast.runtime.clock import clock
from holdfast.runtime.hub import hub
from holdfast.runtime.lock import deciding, deliver
from holdfast.runtime.random import rng

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from holdfast.core.deadline import Scope
    from holdfast.core.retry import Request
    from holdfast.core.retry_after import Headers

_call_ids = itertools.count(1)
_unclassified: set[type] = set()
_MOST_UNCLASSIFIED = 1000

# The fast paths' straight-line sections are atomic only under the GIL (see `lock`).
HAS_GIL: bool = getattr(sys, "_is_gil_enabled", lambda: True)()


class Base:
    """The part of a policy that its drivers share."""

    def __init__(
        self,
        shape: Shape,
        *,
        name: str,
        key: Callable[[Request], Hashable] | None,
        classify: Callable[[Any], Verdict | Kind | None] | None,
        max_keys: int,
        parent: Base | None,
    ) -> None:
        self.name = name
        self._shape = shape
        self._key = key
        self._hook = classify
        self._max_keys = max_keys
        self._parent = parent
        self._lanes: dict[str, Lane] = {}
        # What the drivers need to know, worked out once.
        self._span = min(shape.seconds, shape.limit)
        self._retrying = shape.rule is not None
        self._first = Attempt(1, self._span, shape.seconds <= self._span)
        self._lane: Lane | None = None  # the only one, if there is no `key=`
        if key is None:
            self._lane = self._lane_of("")

    # -- state per key -----------------------------------------------------------------

    def _lane_for(self, request: Request) -> Lane:
        if self._lane is not None:
            return self._lane
        assert self._key is not None
        key = text_of(self._key(request))
        lane = self._lanes.get(key)
        return self._lane_of(key) if lane is None else lane

    def _lane_of(self, key: str) -> Lane:
        with deciding:
            lane = self._lanes.get(key)
            if lane is None:
                if len(self._lanes) >= self._max_keys:
                    self._evict()
                parent = self._parent
                inherited = None if parent is None else (parent._shape, parent._lane_of(key))
                lane = self._lanes[key] = Lane(self._shape, key, inherited)
            return lane

    def _evict(self) -> None:
        # A quarter at once, so that sorting costs little per new key. Never one with permits
        # out: they would come back to a state that nobody looks at.
        idle = sorted((lane.used, key) for key, lane in self._lanes.items() if not lane.in_use)
        for _, key in idle[: max(1, self._max_keys // 4)]:
            del self._lanes[key]

    # -- the machine's steps -----------------------------------------------------------

    def _begin(self, lane: Lane, now: float, outer: Scope, request: Request | None) -> Call:
        with deciding:
            lane.begin(now)
            return Call(
                self._shape,
                lane,
                now,
                outer,
                name=self.name,
                call_id=next(_call_ids),
                watched=hub.listening,
                request=request,
                draw=rng.draw,
            )

    def _adopt(self, lane: Lane, now: float, gen: int, *, succeeded: bool = False) -> Call:
        """Go on by the full path with an attempt that a fast path began at `now`."""
        with deciding:
            call = self._begin(lane, now, OUTSIDE, None)
            call.adopt(gen)
            if succeeded:
                call.succeeded(clock.monotonic())
        flush(call)
        return call

    def _failed(self, call: Call, error: BaseException) -> Step:
        """Tell the machine of a failure; a cancellation is none and is raised again."""
        verdict = self._verdict(error, call)
        if verdict.kind is Kind.CANCELLED:
            raise error
        with deciding:
            step = call.failed(clock.monotonic(), verdict, error)
        flush(call)
        return step

    def _verdict(
        self, error: BaseException, call: Call, *, connecting: bool | None = None
    ) -> Verdict:
        verdict = classify(error, hook=self._hook, connecting=connecting, now_wall=clock.wall())
        if verdict.kind is Kind.UNKNOWN and call.watched and type(error) not in _unclassified:
            if len(_unclassified) < _MOST_UNCLASSIFIED:
                _unclassified.add(type(error))
            hub.publish(
                events.Unclassified(
                    time=clock.monotonic(),
                    policy=self.name,
                    call_id=call.call_id,
                    type=f"{type(error).__module__}.{type(error).__qualname__}",
                )
            )
        return verdict


def next_step(call: Call) -> Step:
    """Ask the machine."""
    with deciding:
        step = call.next(clock.monotonic())
    flush(call)
    return step


def succeeded(call: Call) -> None:
    """Tell it of a success."""
    with deciding:
        call.succeeded(clock.monotonic())
    flush(call)


def answered(call: Call, headers: Headers | None) -> None:
    """Tell it of the headers of an answer, as soon as they are there."""
    if call.learns:
        with deciding:
            call.answered(clock.monotonic(), headers, clock.wall())
        flush(call)


def item_out(call: Call, *, resumable: bool) -> None:
    """Tell it that a stream's item comes out: no repetition from the start, and progress."""
    now = clock.monotonic()
    with deciding:
        call.committed(now, resumable=resumable)
        call.progressed()


def abandon(call: Call) -> None:
    """End it without a result; nothing happens if it has ended already."""
    with deciding:
        call.abandoned(clock.monotonic())
    flush(call)


def flush(call: Call) -> None:
    """Deliver what it said."""
    if call.outbox:
        outbox, call.outbox = call.outbox, []
        deliver(outbox)


def text_of(key: Hashable) -> str:
    """Return the key as events and errors show it."""
    return key if isinstance(key, str) else str(key)


def wait_limit(seconds: float) -> float | None:
    """Return a wait's limit the way that `wait` functions take it: None is for ever."""
    return None if seconds == math.inf else seconds
