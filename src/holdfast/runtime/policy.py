"""The public policy: an immutable composition, with its state per key and both drivers."""

from __future__ import annotations

import functools
import inspect
import itertools
import math
import warnings
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar, cast

from holdfast.core.breaker import Breaker, Input
from holdfast.core.bulkhead import NO_LIMIT
from holdfast.core.call import circuit_events
from holdfast.core.checks import whole
from holdfast.core.deadline import Deadline
from holdfast.core.plan import Plan, make_plan
from holdfast.core.policy import (
    Lane,
    PolicyWarning,
    Shape,
    Strategy,
    compile_shape,
    describe,
    with_change,
)
from holdfast.core.retry import Request, Retry
from holdfast.core.throttle import ClientThrottle
from holdfast.runtime.aio import AsyncDriver
from holdfast.runtime.base import HAS_GIL, text_of
from holdfast.runtime.block import Attempts
from holdfast.runtime.clock import clock
from holdfast.runtime.fast import fast_acall, fast_call
from holdfast.runtime.hub import hub
from holdfast.runtime.lock import deciding, deliver
from holdfast.runtime.sync import SyncDriver

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Hashable

    from holdfast.core.verdict import Kind, Verdict

P = ParamSpec("P")
R = TypeVar("R")
Classify = "Callable[[Any], Verdict | Kind | None]"

_policy_numbers = itertools.count(1)


class Policy(SyncDriver, AsyncDriver):
    """What to do when a call fails. Make one with `policy(...)`, share it, keep it.

    Strategies never change; the state they need (breaker, permits, tokens) is kept per key,
    shared by threads and event loops, for at most `max_keys` keys.
    """

    def __init__(self, shape: Shape, *, checked: bool, **options: Any) -> None:
        super().__init__(shape, **options)
        self._checked = checked
        self._choose()

    def _choose(self) -> None:
        """Choose how calls are made: once, not on each call."""
        shape, lane = self._shape, self._lane
        by_machine = not HAS_GIL or shape.learns or shape.part(ClientThrottle) is not None
        self._fast = not by_machine and shape.hedge is None
        if by_machine:
            self.call, self.acall = self._call_fully, self._acall_fully  # type: ignore[method-assign]  # the machine
        elif lane is not None:
            self.call, self.acall = fast_call(self, lane), fast_acall(self, lane)  # type: ignore[method-assign]  # see there
        if shape.limited and shape.interrupt:
            self.call = self._call_fully  # type: ignore[method-assign]  # worker threads
        if shape.hedge is not None:
            self.acall = self._acall_fully  # type: ignore[method-assign]  # it has the copies
            self.call = self.outcome = self.stream = self._only_async  # type: ignore[method-assign]  # see there

    def __getstate__(self) -> dict[str, Any]:
        # What `_choose` chose is bound to this object.
        chosen = ("call", "acall", "outcome", "stream")
        return {name: value for name, value in self.__dict__.items() if name not in chosen}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._choose()

    def _only_async(self, fn: object, /, *_: Any, **__: Any) -> NoReturn:
        """Refuse a synchronous call: a function on a thread cannot be cancelled once it lost."""
        name = getattr(fn, "__qualname__", type(fn).__qualname__)
        raise TypeError(
            f"`{self.name}` has a Hedge, which is for asynchronous calls only: "
            f"await `acall` or `aoutcome`, or leave Hedge out for `{name}`"
        )

    # -- use -----------------------------------------------------------------------------

    def __call__(self, fn: Callable[P, R]) -> Callable[P, R]:
        """Decorate a function, a coroutine function, or a generator of either kind."""
        if inspect.iscoroutinefunction(fn):
            acall = self.acall

            async def acalled(*args: P.args, **kwargs: P.kwargs) -> Any:
                return await acall(fn, *args, **kwargs)

            chosen: Any = acalled
        elif inspect.isasyncgenfunction(fn):

            def astreamed(*args: P.args, **kwargs: P.kwargs) -> Any:
                return self.astream(fn, *args, **kwargs)  # type: ignore[arg-type]  # `resume` is ours

            chosen = astreamed
        elif self._shape.hedge is not None:
            self._only_async(fn)
        elif inspect.isgeneratorfunction(fn):

            def streamed(*args: P.args, **kwargs: P.kwargs) -> Any:
                return self.stream(fn, *args, **kwargs)  # type: ignore[arg-type]  # `resume` is ours

            chosen = streamed
        else:
            call = self.call

            def called(*args: P.args, **kwargs: P.kwargs) -> R:
                return call(fn, *args, **kwargs)

            chosen = called
        return cast("Callable[P, R]", functools.wraps(fn)(chosen))

    def attempts(
        self,
        *,
        key: Hashable = None,
        method: str | None = None,
        idempotent: bool | None = None,
        replayable: bool = True,
        stop: threading.Event | None = None,
    ) -> Attempts:
        """Return the block form: `for attempt in policy.attempts(): with attempt: ...`.

        `async for` works as well. key: the state to use; without it `key=` of the policy is
        asked.  method, idempotent, replayable: what the gate needs to know of the request;
        without any of them the block counts as idempotent.  stop: set it, from any thread, to
        end a wait of the `for` form at once by raising `Stopped`; `async for` is cancelled.
        """
        request = Request(method=method, idempotent=idempotent, replayable=replayable)
        lane = self._lane_for(request) if key is None else self._lane_of(text_of(key))
        return Attempts(self, lane, request, stop)

    def but(self, *changes: Strategy, name: str | None = None) -> Policy:
        """Return a policy with `changes` in place of the strategies of the same type.

        A type that this policy does not have is added at its usual place. Strategies that
        stay keep their state: the bulkhead in front of a backend is one, however many
        policies are derived.
        """
        parts = functools.reduce(with_change, changes, self._shape.parts)
        return _build(
            parts,
            name=self.name if name is None else name,
            key=self._key,
            classify=self._hook,
            max_keys=self._max_keys,
            order="checked" if self._checked else "free",
            parent=self,
        )

    # -- look and steer --------------------------------------------------------------------

    def describe(self) -> dict[str, object]:
        """Return every option as data that `json.dumps` takes."""
        return describe(self.name, self._shape)

    def plan(self) -> Plan:
        """Return the worst case: attempts, requests, waits and seconds."""
        return make_plan(self._shape)

    def state(self, key: Hashable = "") -> dict[str, object]:
        """Return what this key's state is now; reading changes nothing.

        An unknown key reads as a fresh one and is not created.
        """
        lane = self._lanes.get(text_of(key)) or Lane(self._shape, text_of(key))
        now = clock.monotonic()
        with deciding:
            calls, failures, slow = lane.breaker.counts(now)
            left = lane.budget.left(now)
            return {
                "key": lane.key,
                "circuit": lane.breaker.state.value,
                "circuit_gen": lane.breaker.gen,
                "circuit_until": lane.breaker.until if lane.breaker.until > 0 else None,
                "probes": lane.breaker.probes_out,
                "calls": calls,
                "failures": failures,
                "slow": slow,
                "active": lane.bulkhead.active,
                "queued": lane.bulkhead.queued,
                "limit": None if lane.bulkhead.limit == NO_LIMIT else lane.bulkhead.limit,
                "rate": lane.rate.rate,
                "rate_wait": lane.rate.wait_time(now),
                "budget": left if left < math.inf else None,
            }

    def keys(self) -> list[str]:
        """Return the keys that have state."""
        return list(self._lanes)

    def isolate(self, key: Hashable = "") -> None:
        """Refuse all calls of this key until `reset`. Raises ValueError without a Breaker."""
        self._by_hand(key, Input.ISOLATE)

    def reset(self, key: Hashable = "") -> None:
        """Close the breaker of this key and forget its counts."""
        self._by_hand(key, Input.RESET)

    def disable(self, key: Hashable = "") -> None:
        """Let all calls of this key pass, whatever happens, until `reset`."""
        self._by_hand(key, Input.DISABLE)

    def _by_hand(self, key: Hashable, what: Input) -> None:
        if self._shape.part(Breaker) is None:
            raise ValueError(f"`{self.name}` has no Breaker to {what.value}")
        lane = self._lane_of(text_of(key))
        now = clock.monotonic()
        with deciding:
            breaker = lane.breaker
            breaker.by_hand(what, now)
            changes, breaker.changes = breaker.changes, []
        if hub.listening:
            labels = {"time": now, "policy": self.name, "key": lane.key, "call_id": 0}
            deliver(circuit_events(changes, labels))  # type: ignore[arg-type]  # a TypedDict

    def __repr__(self) -> str:
        parts = ", ".join(type(part).__name__ for part in self._shape.parts)
        return f"<Policy {self.name!r}: {parts or 'nothing'}; keys: {len(self._lanes)}>"


def policy(
    *strategies: Strategy,
    name: str | None = None,
    key: Callable[[Request], Hashable] | None = None,
    classify: Callable[[Any], Verdict | Kind | None] | None = None,
    max_keys: int = 4096,
    order: str = "checked",
) -> Policy:
    """Compose strategies, outermost first, into a policy.

    name: shown in events and errors; default "policy-N".  key: a function from the call
    (`holdfast.Request`: fn, args, kwargs, method, host) to the key whose state it uses;
    default one state for all.  classify: asked first about every error (and by adapters about
    every response); returns a Verdict, a Kind, or None for "as usual".  max_keys: keys kept;
    the least recently used idle ones go.  order: "free" silences warnings about compositions
    that are legal but rarely meant.

    Raises ValueError for two strategies of a type, TypeError for anything else than strategies.
    """
    return _build(
        strategies,
        name=f"policy-{next(_policy_numbers)}" if name is None else name,
        key=key,
        classify=classify,
        max_keys=max_keys,
        order=order,
    )


def _build(
    parts: tuple[Strategy, ...],
    *,
    name: str,
    key: Callable[[Request], Hashable] | None,
    classify: Callable[[Any], Verdict | Kind | None] | None,
    max_keys: int,
    order: str,
    parent: Policy | None = None,
) -> Policy:
    whole("policy", "max_keys", max_keys, 1)
    if order not in ("checked", "free"):
        raise ValueError(f"`policy(order=...)` must be checked or free: {order!r}")
    shape = compile_shape(parts)
    if order == "checked":
        for text in shape.warnings:
            warnings.warn(f"`{name}`: {text} (order='free' silences this)", PolicyWarning, 3)
    return Policy(
        shape,
        checked=order == "checked",
        name=name,
        key=key,
        classify=classify,
        max_keys=max_keys,
        parent=parent,
    )


@functools.cache
def _default() -> Policy:
    return policy(Deadline(60), Retry(), Breaker(), name="hold", key=_by_function)


def _by_function(call: Request) -> str:
    fn = call.fn
    return f"{getattr(fn, '__module__', '')}.{getattr(fn, '__qualname__', repr(fn))}"


def hold(fn: Callable[P, R]) -> Callable[P, R]:
    """Decorate with the default policy: Deadline(60), Retry(), Breaker(); state per function."""
    return _default()(fn)
