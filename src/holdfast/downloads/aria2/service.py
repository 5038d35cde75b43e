"""Whether the aria2 service is there, and what it says: one watcher per client.

The service counts as lost when its websocket ends, or when it refuses two calls in a row. On
its return one multicall compares what it knows with what we know. While it is there, it is
asked twice a second for what is under way; events only make that quicker, because they carry
no more than a gid, and none is sent again.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast.core.events import EndpointState
from holdfast.downloads.aria2.errors import Aria2AuthError, Aria2Error, Aria2Refused
from holdfast.downloads.aria2.roster import logger
from holdfast.downloads.aria2.rpc import Fault
from holdfast.downloads.aria2.states import HEARD, State, is_open, is_with_aria2
from holdfast.downloads.aria2.supervisor import KEYS
from holdfast.runtime.clock import clock
from holdfast.runtime.hub import hub
from holdfast.telemetry import redact

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.downloads.aria2.item import Item
    from holdfast.downloads.aria2.rpc import Call, Rpc
    from holdfast.downloads.aria2.supervisor import Supervisor

BUSY, IDLE = 0.5, 2.0
"""Seconds between two looks: while something is under way, and else."""
FIRST_PAUSE, LAST_PAUSE = 0.1, 1.0
"""Seconds between two tries to reach a service that is away."""
MISSES = 2
MOST_ASKED = 50
"""Downloads beyond the active ones that one look asks for."""
PAGE = 1000


@dataclass(frozen=True, slots=True)
class Asked:
    """A download that was asked for, and which attempt it was on then."""

    item: Item
    tries: int


class Service:
    """Watches one service. Used on one loop only. stats: its global numbers."""

    def __init__(self, rpc: Rpc, supervisor: Supervisor, say: Callable[[str], None]) -> None:
        self._rpc = rpc
        self._supervisor = supervisor
        self._roster = supervisor.roster
        self._say = say
        self._wake = asyncio.Event()
        self._stirred: set[str] = set()
        self._turn = 0
        self._lost = False
        self.stats: dict[str, int] = {}
        supervisor.wake = self._wake.set

    async def run(self) -> None:
        """Watch until cancelled. Raises DownloadError if the journal breaks."""
        try:
            await self._watch()
        except Exception as error:
            logger.error("aria2: the watcher ended: %s", redact.text(str(error)))
            self._lose("journal")
            raise

    async def _watch(self) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                await self._reconcile()
            except Aria2Error as error:
                self._lose("auth" if isinstance(error, Aria2AuthError) else "refused")
                await clock.asleep(pause)
                pause = min(2 * pause, LAST_PAUSE)
            else:
                pause = FIRST_PAUSE
                self._lose(await self._session())

    # -- there or not --------------------------------------------------------------------------

    def _arrive(self) -> None:
        self._roster.up.set()
        self._roster.show_all()
        if self._lost:
            self._lost = False
            self._say(f"aria2 is back: {self._rpc.address}")
            self._tell("up", "reconciled")

    def _lose(self, reason: str) -> None:
        self._roster.up.clear()
        if self._lost:
            return
        self._lost = True
        self._roster.show_all()
        self._say(f"aria2 is away: {self._rpc.address} ({reason})")
        self._tell("lost", reason)

    def _tell(self, state: str, reason: str) -> None:
        if hub.listening:
            hub.publish(
                EndpointState(
                    time=clock.monotonic(),
                    policy="aria2",
                    key=self._rpc.address,
                    state=state,
                    reason=reason,
                )
            )

    async def _session(self) -> str:
        """Watch while it is there; return why it is not any more."""
        loop = asyncio.get_running_loop()
        listener = loop.create_task(self._rpc.listen(self._stir))
        listener.add_done_callback(lambda _: self._wake.set())
        misses = 0
        try:
            while misses < MISSES:
                await self._pause(loop)
                if listener.done() and listener.result():
                    return "closed"
                try:
                    await self._look()
                    misses = 0
                except Aria2AuthError:
                    return "auth"
                except Aria2Refused:
                    misses = 0  # an answer all the same
                except Aria2Error:
                    misses += 1
            return "refused"
        finally:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)

    def _stir(self, gid: str) -> None:
        if gid in self._roster.items:
            self._stirred.add(gid)
            self._wake.set()

    async def _pause(self, loop: asyncio.AbstractEventLoop) -> None:
        busy = any(is_with_aria2(item.state) for item in self._roster.items.values())
        timer = clock.call_later(loop, BUSY if busy else IDLE, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()
        self._wake.clear()

    # -- what it says --------------------------------------------------------------------------

    async def _look(self) -> None:
        """Ask for what is under way, and for what an event was about."""
        everything = [
            Asked(item, item.tries)
            for item in self._roster.items.values()
            if is_with_aria2(item.state) and not item.held
        ]
        asked = {each.item.gid: each for each in everything}
        first = [gid for gid in self._stirred if gid in asked]
        self._stirred.clear()
        calls: list[Call] = [("aria2.getGlobalStat", ()), ("aria2.tellActive", (KEYS,))]
        calls += [("aria2.tellStatus", (gid, KEYS)) for gid in first]
        stat, active, *told = await self._rpc.multicall(calls)
        self._take_stats(stat)
        seen = self._take(active, asked)
        seen |= self._take_each(first, told, asked)
        rest = [gid for gid in asked if gid not in seen]
        if rest:
            await self._ask_rest(rest, asked)

    async def _ask_rest(self, rest: list[str], asked: dict[str, Asked]) -> None:
        """Ask for those that are not active: queued, paused, or over without an event."""
        self._turn %= len(rest)
        chosen = (rest + rest)[self._turn : self._turn + min(MOST_ASKED, len(rest))]
        self._turn += len(chosen)
        told = await self._rpc.multicall([("aria2.tellStatus", (gid, KEYS)) for gid in chosen])
        self._take_each(chosen, told, asked)

    def _take(self, statuses: Any, asked: dict[str, Asked]) -> set[str]:  # noqa: ANN401 - JSON
        seen = set()
        for status in statuses if isinstance(statuses, list) else []:
            each = asked.get(status.get("gid", "")) if isinstance(status, dict) else None
            if each is not None:
                seen.add(each.item.gid)
                self._supervisor.told(each.item, status, each.tries)
        return seen

    def _take_each(self, gids: list[str], told: list[Any], asked: dict[str, Asked]) -> set[str]:
        for gid, status in zip(gids, told, strict=True):
            each = asked[gid]
            if isinstance(status, Fault):
                # A gid of the right form with the right token is refused for one cause only.
                self._supervisor.missing(each.item, each.tries)
            elif isinstance(status, dict):
                self._supervisor.told(each.item, status, each.tries)
        return set(gids)

    def _take_stats(self, found: object) -> None:
        if isinstance(found, dict):
            self.stats = {
                name: int(value)
                for name, value in found.items()
                if isinstance(value, str) and value.isdecimal()
            }

    # -- after a loss, and at the start ----------------------------------------------------------

    async def _reconcile(self) -> None:
        """Compare in one exchange what it knows with what we know. Raises Aria2Error."""
        asked = {item.gid: Asked(item, item.tries) for item in self._roster.items.values()}
        version, *lists = await self._rpc.multicall(
            [
                ("aria2.getVersion", ()),
                ("aria2.tellActive", (KEYS,)),
                ("aria2.tellWaiting", (0, PAGE, KEYS)),
                ("aria2.tellStopped", (0, PAGE, KEYS)),
            ]
        )
        if isinstance(version, Fault):
            raise Aria2Refused("aria2.getVersion", version.reason, address=self._rpc.address)
        self._arrive()
        known = {
            status["gid"]: status
            for found in lists
            for status in (found if isinstance(found, list) else [])
            if isinstance(status, dict) and isinstance(status.get("gid"), str)
        }
        for gid, each in asked.items():
            self._compare(each, known.get(gid))

    def _compare(self, each: Asked, status: dict[str, str] | None) -> None:
        item = each.item
        word = status.get("status") if status is not None else None
        if item.state is State.REMOVED:
            if word in HEARD:
                self._supervisor.leaving.begin(item.gid)
        elif not is_open(item.state):
            return
        elif (
            status is None
            or item.state is State.FINISHING  # whole already: what is left is ours
            # The failure was noted before; what is left of it is its restart.
            or (item.state in {State.PENDING, State.RESTARTING} and word in {"error", "removed"})
        ):
            self._supervisor.missing(item, each.tries)
        else:
            self._supervisor.told(item, status, each.tries)
