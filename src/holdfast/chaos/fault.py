"""What a fault is: whom it hits, where it strikes, and what it may touch.

    Fault                    selection: which connections or requests are hit
    |-- Positioned           strikes once, at a byte position of a stream
    |-- HttpFault            speaks HTTP: only the fault server can do it
    `-- (others)             change a stream from its first byte on: Slow, Latency, ...

A fault is a frozen value and has no state. What it decided for connection 17 depends on
the seed, on its place among the faults, and on the number 17, so a run can be repeated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from holdfast.chaos.line import Line
    from holdfast.chaos.message import Answer, Request
    from holdfast.chaos.routes import Route
    from holdfast.runtime.random import SeededRandom

Direction = Literal["down", "up"]
Part = Literal["body", "head"]
Per = Literal["request", "connection"]


class Target(Protocol):
    """What a fault is let loose on: a connection of the proxy, or an exchange of the server."""

    @property
    def number(self) -> int:
        """The number of the connection or request, from 1."""
        ...

    @property
    def rng(self) -> SeededRandom:
        """The source of this fault for this number; draw here what is random."""
        ...

    def line(self, direction: Direction) -> Line:
        """Return the stream that goes `down` to the client or `up` to the server."""
        ...

    def at(self, fault: Positioned, offset: int, strike: Callable[[Line], Awaitable[None]]) -> None:
        """Run `strike` before the byte with index `offset` passes."""
        ...

    def refuse(self, seconds: float | None) -> None:
        """Reset this connection now (None), or close the port for `seconds` after it."""
        ...

    def tell(self, fault: Fault, position: int = 0, number: int | None = None) -> None:
        """Count a strike of `fault`; number: whose, None for this one.

        Done for you, unless the fault has `strikes_later` and does not wait with `at`.
        """


class HttpTarget(Target, Protocol):
    """An exchange of the fault server."""

    @property
    def request(self) -> Request:
        """The request, read to its end."""
        ...

    @property
    def route(self) -> Route | None:
        """Who answers; None if nobody does (404)."""
        ...

    @property
    def answer(self) -> Answer:
        """The answer that will be sent, open to changes in `alter`; LookupError before."""
        ...

    def respond(self, answer: Answer) -> None:
        """Send this, and do not ask the route: what was requested is not executed."""


def check(fault: object, field: str, *, low: float, high: float = math.inf) -> None:
    """Raise ValueError unless the field is None or in [low, high]."""
    value = getattr(fault, field)
    if value is not None and not low <= value <= high:
        bound = f"at least {low}" if high == math.inf else f"in [{low}, {high}]"
        raise ValueError(f"{type(fault).__name__}: {field}: {value!r} must be {bound}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Whom a fault hits. Connections (the server: requests) are numbered from 1.

    share: chance in [0, 1] that one is hit; each is drawn on its own, from the seed.
    skip: the first so many are left alone.
    first: only so many after those come into question; None: all.
    limit: at most so many are drawn; None: no limit. A burst counts as its members, and a
    stream that ends before the fault's position counts too.
    burst: one that is drawn takes the next ones with it, so many in all.
    since, until: seconds after the start between which hits happen.
    per: "request" draws for each request; "connection" draws once for each connection, and
    positions then count over all answers on it. The proxy knows only connections.
    direction: which stream is hurt, "down" to the client or "up" to the server. The fault
    server hurts only what it sends.
    """

    share: float = 1.0
    skip: int = 0
    first: int | None = None
    limit: int | None = None
    burst: int = 1
    since: float = 0.0
    until: float = math.inf
    per: Per = "request"
    direction: Direction = "down"

    speaks_http: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        check(self, "share", low=0, high=1)
        for field in ("skip", "limit", "since", "until"):
            check(self, field, low=0)
        for field in ("first", "burst"):
            check(self, field, low=1)
        if self.direction not in ("down", "up"):
            raise ValueError(f"{type(self).__name__}: direction: {self.direction!r}: down or up")
        if self.per not in ("request", "connection"):
            raise ValueError(f"{type(self).__name__}: per: {self.per!r}: request or connection")

    def __init_subclass__(cls) -> None:
        """Keep the short repr: `dataclass` writes its own unless the class has one already."""
        cls.__repr__ = Fault.__repr__  # type: ignore[method-assign]  # on purpose, see above

    def __repr__(self) -> str:
        """Show what differs from the default."""
        shown = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in fields(self)
            if getattr(self, field.name) != field.default
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    @property
    def strikes_later(self) -> bool:
        """Whether it is counted when it strikes, and not already when it is drawn."""
        return False

    @property
    def kind(self) -> str:
        """The name in counters and logs: the class name in lower case."""
        return type(self).__name__.lower()

    def install(self, on: Target) -> None:
        """Prepare what was hit."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Positioned(Fault):
    """A fault that strikes once, before a certain byte passes.

    after_bytes: so many bytes pass first. 0 strikes at the first byte: at the proxy the
    request went up and its answer is lost.
    mean_bytes: draw the position from the exponential distribution with this mean instead.
    part: "body" counts the bytes of the answer's body; "head" counts from the first byte of
    the answer, so that 0 is "before the head" and 10 is inside the status line. The proxy
    knows no heads and counts from the connection's first byte in both cases.
    A stream that ends before the position is not hit.
    """

    after_bytes: int | None = None
    mean_bytes: float | None = None
    part: Part = "body"

    def __post_init__(self) -> None:
        """Check the ranges."""
        # Not `super()`: `slots=True` makes a second class object, which the cell misses.
        Fault.__post_init__(self)
        check(self, "after_bytes", low=0)
        check(self, "mean_bytes", low=1)
        if self.after_bytes is not None and self.mean_bytes is not None:
            name = type(self).__name__
            raise ValueError(f"{name}: after_bytes and mean_bytes: give one of the two")
        if self.part not in ("body", "head"):
            raise ValueError(f"{type(self).__name__}: part: {self.part!r}: body or head")

    @property
    def strikes_later(self) -> bool:
        """It is counted at its position, if the stream comes so far."""
        return True

    def offset(self, rng: SeededRandom) -> int:
        """Return the position in bytes, drawn if it is random."""
        if self.mean_bytes is None:
            return self.after_bytes or 0
        return int(-self.mean_bytes * math.log(1.0 - rng.draw()))

    def install(self, on: Target) -> None:
        """Draw the position and wait there."""
        on.at(self, self.offset(on.rng), self.strike)

    async def strike(self, line: Line) -> None:
        """Do it. Ends the connection by raising `Cut`, or returns and the stream goes on."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpFault(Fault):
    """A fault in terms of HTTP: another answer, or a wrong one. Fault server only."""

    speaks_http: ClassVar[bool] = True

    def install(self, on: Target) -> None:
        """Do nothing to the connection: see `prepare` and `alter`."""

    def prepare(self, on: HttpTarget) -> None:
        """Act before the route is asked, for instance with `on.respond(...)`."""

    def alter(self, on: HttpTarget) -> None:
        """Act on `on.answer` before it is sent."""


class Draws:
    """Which numbers one fault hits: the mutable side of its selection.

    rng: the source of this fault alone.  started: monotonic seconds of the start.
    Ask for each number once, in rising order.
    """

    def __init__(self, fault: Fault, rng: SeededRandom, started: float) -> None:
        self.fault = fault
        self._rng = rng
        self._started = started
        self._hits = 0
        self._burst_left = 0

    def hit(self, number: int, now: float) -> SeededRandom | None:
        """Return the source of this number's own draws if it is hit, else None."""
        fault = self.fault
        source = self._rng.child(str(number))
        # Drawn also where nothing can be hit: a change of `limit` must move no other hit.
        drawn = source.draw() < fault.share
        if self._burst_left:
            self._burst_left -= 1
        elif not (drawn and self._in_question(number, now)):
            return None
        else:
            self._burst_left = fault.burst - 1
        if fault.limit is not None and self._hits >= fault.limit:
            return None
        self._hits += 1
        return source

    def _in_question(self, number: int, now: float) -> bool:
        fault = self.fault
        if number <= fault.skip:
            return False
        if fault.first is not None and number > fault.skip + fault.first:
            return False
        return fault.since <= now - self._started < fault.until
