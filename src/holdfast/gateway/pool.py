"""The connections to one server: made when they are needed, kept while they are good.

The newest idle connection is used first, so that the rest grow old and go. Each belongs to its
server alone: one that resets touches no connection to another. When there are as many as there
may be, who wants one waits in line for the first that comes back; but the balancer sends nobody
here then, as long as all go by one configuration.
"""

from __future__ import annotations

import errno
import math
import os
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from holdfast.gateway.connection import Connection, Dial
from holdfast.gateway.keepalive import LEAST, Lifetime, hint_of
from holdfast.runtime.clock import clock
from holdfast.runtime.wheel import Due

if TYPE_CHECKING:
    import asyncio

    from holdfast.gateway.connection import Asker
    from holdfast.gateway.dial import Dialer
    from holdfast.runtime.wheel import Wheel

MAX_IDLE = 64
"""Idle connections that a pool keeps."""


class Pool(Due):
    """The connections to one server. For the loop's thread.

    dialer: how they are made.  most: so many at a time.
    lifetime: what is known of how long idle ones live.
    waiting: who waits for a place.  reused: how often a kept connection was used.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        wheel: Wheel,
        dialer: Dialer,
        *,
        most: int,
        keepalive: float,
    ) -> None:
        super().__init__()
        self.dialer = dialer
        self.most = most
        self.lifetime = Lifetime(keepalive)
        self.waiting: deque[Dial] = deque()
        self.reused = 0
        self._loop = loop
        self._wheel = wheel
        self._retired = False
        self._idle: list[Connection] = []  # the oldest first
        self._all: dict[Connection, None] = {}  # dicts keep their order, so runs can be repeated
        self._making: dict[Dial, None] = {}
        self._beside: set[Connection | Dial] = set()  # of both, those that take no place

    # -- taking ----------------------------------------------------------------------------------

    def take(self, now: float, *, careful: bool) -> Connection | None:
        """Return an idle connection that is young enough, the newest first.

        careful: for a request that must not be sent twice.
        """
        lifetime = self.lifetime
        while self._idle:
            connection = self._idle[-1]
            rested = now - connection.idle_since
            if rested < LEAST and not lifetime.limit():
                break  # for a trial it has to live first
            if not lifetime.may_reuse(rested, now, careful=careful):
                break
            self._idle.pop()
            if not connection.transport.is_closing():
                connection.rested = rested
                self.reused += 1
                return connection
        return None

    @property
    def is_full(self) -> bool:
        """Whether no further connection may be made."""
        return len(self._all) + len(self._making) - len(self._beside) >= self.most

    def connect(self, asker: Asker) -> None:
        """Make a connection for one who wants it, or put it into the line for one."""
        dial = asker.connecting = Dial(self, asker)
        while self.is_full and self._idle:  # several, since there may have been more places
            self._idle[0].close()  # too old for this request: its place is worth more
        if self.is_full:
            self.waiting.append(dial)
        else:
            self._begin(dial)

    def dial(self, asker: Asker) -> None:
        """Make a connection beside the others, which takes no place: for a probe, one at a time.

        Else a request that was sent here because there is room would wait for it.
        """
        dial = asker.connecting = Dial(self, asker)
        self._beside.add(dial)
        self._begin(dial)

    def _begin(self, dial: Dial) -> None:
        self._making[dial] = None
        task = self._loop.create_task(self._make(dial))
        # One that is cancelled before its first step never gets to its `finally`.
        task.add_done_callback(lambda _: self._made(dial))
        dial.begin(task)

    def _made(self, dial: Dial) -> None:
        """Give a place back that is taken by nobody any more."""
        self._making.pop(dial, None)
        self._beside.discard(dial)
        self._fill()

    async def _make(self, dial: Dial) -> None:
        try:
            connection = await self.open()
            if dial in self._beside:
                self._beside.add(connection)
        except OSError as error:
            self._making.pop(dial, None)
            self._beside.discard(dial)
            if dial.asker is not None:
                dial.asker.not_connected(error)
            return
        finally:
            self._made(dial)
        if dial.asker is not None:
            dial.asker.send(connection)
        elif connection in self._beside:
            connection.close()
        else:
            self.give(connection)  # whom it was made for is gone; the next one will want it

    async def open(self) -> Connection:
        """Return a new connection, which counts as one of the pool's. Raises OSError."""
        connection = await self.dialer.open(lambda: Connection(self))
        if connection.transport.is_closing():  # it broke before anybody listened
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        self._all[connection] = None
        return connection

    def _fill(self) -> None:
        """Make connections for those in line, as far as there are places."""
        while self.waiting and not self.is_full:
            self._begin(self.waiting.popleft())

    # -- giving back -----------------------------------------------------------------------------

    def give(self, connection: Connection) -> None:
        """Take a connection back after a whole answer, or one that nobody has used."""
        self._learn(connection)
        connection.exchange = connection.answer = None
        now = clock.monotonic()
        connection.idle_since = now
        if connection.transport.is_closing():
            connection.close()
            return
        lifetime = self.lifetime
        while self.waiting and lifetime.limit():
            asker = self.waiting.popleft().asker
            if asker is not None:
                connection.rested = 0.0
                asker.send(connection)
                return
        off = not lifetime.limit()
        if self._retired or not lifetime.keeps(now) or (off and (self._idle or self.waiting)):
            connection.close()  # where reuse is off, one is kept for the next trial
            return
        if len(self._idle) >= MAX_IDLE:
            self._idle[0].close()
        self._idle.append(connection)
        due = now + lifetime.shelf()
        if due < self.due:  # the first, or the others are to go sooner by now
            self._wheel.set(self, due)

    def _learn(self, connection: Connection) -> None:
        if connection.uses > 1:
            self.lifetime.reused(connection.rested)
            return
        connection.remember()
        answer = connection.answer
        head = answer.head if answer is not None else None
        if head is not None and b"keep-alive" in head.options:
            seconds = hint_of(head.fields)
            if seconds is not None:
                self.lifetime.hinted(seconds)

    # -- losing ----------------------------------------------------------------------------------

    def lost(self, connection: Connection) -> None:
        """Take note that the peer ended a connection; an idle one tells for how long they live."""
        if connection in self._idle:
            now = clock.monotonic()
            if connection.uses:  # servers have another limit for one that was never used
                self.lifetime.died(now - connection.idle_since, now)
            self._idle.remove(connection)
            self._set_sweep(now)
        self.forget(connection)

    def forget(self, connection: Connection) -> None:
        """Count a connection no more, and make one for who waits for its place."""
        if connection not in self._all:
            return
        self._all.pop(connection, None)
        self._beside.discard(connection)
        with suppress(ValueError):
            self._idle.remove(connection)
        self._fill()

    def expire(self, now: float) -> None:
        """Close what has been idle for too long."""
        shelf = self.lifetime.shelf()
        while self._idle and now - self._idle[0].idle_since >= shelf:
            self._idle[0].close()

    def on_due(self, now: float) -> None:
        """Close what has been idle for too long, and look again when the next one will be."""
        self.expire(now)
        self._set_sweep(now)

    def _set_sweep(self, now: float) -> None:
        due = self._idle[0].idle_since + self.lifetime.shelf() if self._idle else math.inf
        self._wheel.set(self, max(now, due))

    # -- another configuration -------------------------------------------------------------------

    def retune(self, dialer: Dialer, *, most: int, keepalive: float) -> None:
        """Take what another configuration says of the same server."""
        self.dialer = dialer
        self.most = most
        self.lifetime.retune(keepalive)
        self.expire(clock.monotonic())
        self._fill()

    def retire(self) -> None:
        """Keep nothing any more: what is in use goes on, and is the last."""
        self._retired = True
        while self._idle:
            self._idle[0].close()

    def close(self) -> None:
        """End all connections; who waits for one is told nothing."""
        self.waiting.clear()
        for dial in list(self._making):
            dial.cancel()
        for connection in list(self._all):
            connection.close()
        self._wheel.set(self, math.inf)

    @property
    def connections(self) -> tuple[int, int]:
        """How many are open, and how many of them idle."""
        return len(self._all), len(self._idle)
