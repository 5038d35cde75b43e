"""Several processes on one port: a parent that opens the sockets, starts them and sums them up.

Each worker has a socket of its own at each address (SO_REUSEPORT), so the kernel deals out the
connections and no two workers wake up for one. The parent keeps a copy of all of them: when a
worker dies, its queue is not reset, as it would be with the last copy of its socket. A neighbour
listens there too until the next worker is up, so nobody in that queue waits for it.

The parent serves nobody itself. It must outlive its workers, and nothing it does can fail by what
a client sends.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from holdfast.core.errors import HoldfastError
from holdfast.gateway.checking import check_reach, check_usable
from holdfast.gateway.control import Refused
from holdfast.gateway.link import Broken, Gone, Link
from holdfast.gateway.listeners import bind_shared, ignore_newcomers, inherited, remove_dead
from holdfast.gateway.reloading import Reloaded, now_usable
from holdfast.gateway.slots import FIRST_WAIT, MOST_WAIT, Slot, how_ended, python
from holdfast.gateway.stats import ended, merged, shown
from holdfast.gateway.voice import Voice
from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from holdfast.gateway.source import Loaded

    Answer = dict[str, Any] | None

START_SECONDS = 60.0
RELOAD_SECONDS = 20.0
SHARE_SECONDS = 1.0
"""Each worker hears so often what the others have counted."""
HUNG = 10
"""A worker that has not answered so many questions in a row, one each 3 s, is ended."""
LIVED = 10.0
"""A worker that lived for so many seconds did not die of its configuration."""
_LOOK = 0.01


class Workers:
    """The workers of one gateway, and what can be done with all of them at once.

    say: takes lines about workers that die.  voice: how the workers talk of their endpoints.
    """

    def __init__(
        self, loaded: Loaded, say: Callable[[str], None], voice: Voice | None = None
    ) -> None:
        self._loaded = loaded
        self._voice = voice or Voice()
        self.config = loaded.config
        wanted = loaded.config.workers
        self._count = wanted if isinstance(wanted, int) else len(os.sched_getaffinity(0))
        self._say = say
        self._slots: list[Slot] = []
        self._ours = True
        self._ending = False
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def sockets(self) -> list[socket.socket]:
        """Where the first of them listens."""
        return self._slots[0].sockets

    @property
    def pids(self) -> list[int]:
        """The processes that are there."""
        return [slot.process.pid for slot in self._slots if slot.process is not None]

    # -- beginning -------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the sockets and start all workers; returns when all of them serve.

        Raises CannotListen, ConfigError, or what the first worker that failed says.
        """
        check_usable(self.config)
        shared = inherited()
        check_reach(self.config, shared)
        self._ours = not shared
        sockets = [shared] * self._count if shared else bind_shared(self.config.listen, self._count)
        self._slots = [Slot(number, found) for number, found in enumerate(sockets)]
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._tend(slot)) for slot in self._slots]
        try:
            await asyncio.gather(*(slot.first for slot in self._slots))
        except BaseException:
            await self.stop()
            for slot in self._slots:
                if slot.first.done() and not slot.first.cancelled():
                    slot.first.exception()  # one of them is told; it is rarely another reason
            raise
        self._tasks.append(loop.create_task(self._share()))

    async def _tend(self, slot: Slot) -> None:
        """Keep a worker in a slot, until the end."""
        while not self._is_over():
            began = clock.monotonic()
            try:
                code = await self._one(slot)
            except (HoldfastError, OSError) as error:
                if not slot.first.done():
                    slot.first.set_exception(error)
                    return
                self._say(f"{slot.name} does not start: {error}")
                code = None
            if self._is_over():
                return
            self._bury(slot)
            if code is not None:
                how = "has ended" if slot.leaving else f"died ({how_ended(code)})"
                self._say(f"{slot.name} {how}; it is started again")
            await self._find_neighbour(slot)
            slot.waits = FIRST_WAIT if clock.monotonic() - began > LIVED else slot.waits
            await clock.asleep(slot.waits)
            slot.waits = min(MOST_WAIT, 2 * slot.waits)

    def _is_over(self) -> bool:
        return self._ending

    async def _one(self, slot: Slot) -> int:
        """Start a worker, and return the exit status that it ends with."""
        here, there = socket.socketpair()
        try:
            slot.process = self._spawn(there)
        except BaseException:
            here.close()
            raise
        finally:
            there.close()
        slot.leaving = False
        slot.link = link = Link(partial(self._heard, slot))
        await link.open(here)
        reading = asyncio.get_running_loop().create_task(link.run())
        try:
            await self._begin(slot, link)
            await reading
        finally:
            slot.serving = False
            link.close()
            reading.cancel()
            code = await self._reap(slot)
        return code

    def _spawn(self, there: socket.socket) -> subprocess.Popen[bytes]:
        numbers = {sock.fileno() for slot in self._slots for sock in slot.sockets}
        argv, env = python("holdfast.gateway.worker", str(there.fileno()))
        return subprocess.Popen(  # noqa: S603 - our own module
            argv,
            env=env,
            stdin=subprocess.DEVNULL,
            pass_fds=(there.fileno(), *numbers),
            process_group=0,  # a Ctrl-C in the terminal is for us, and we tell them
        )

    async def _begin(self, slot: Slot, link: Link) -> None:
        loaded = self._loaded
        message = {
            "do": "start",
            "name": loaded.name,
            "table": loaded.table,
            "slot": slot.number,
            "ours": self._ours,
            "voice": asdict(replace(self._voice, worker=slot.number + 1)),
            "slots": [[sock.fileno() for sock in one.sockets] for one in self._slots],
        }
        try:
            answer = await link.ask(message, START_SECONDS)
        except Gone:
            raise Gone(f"{slot.name} ended while it was starting") from None
        _checked(answer)
        while loaded is not self._loaded:  # there was a reload meanwhile
            loaded = self._loaded
            _checked(await link.ask(_reload(loaded.table), RELOAD_SECONDS))
        slot.serving = True
        if slot.adopted_by is not None:
            neighbour, slot.adopted_by = slot.adopted_by, None
            await self._ask(neighbour, {"do": "leave", "slot": slot.number})
        if not slot.first.done():
            slot.first.set_result(None)

    @staticmethod
    async def _reap(slot: Slot) -> int:
        process = slot.process
        if process is None:
            return 0
        due = clock.monotonic() + 5
        while process.poll() is None:
            if clock.monotonic() > due:
                process.kill()
            await clock.asleep(_LOOK)
        slot.process = None
        return process.returncode

    async def _heard(self, slot: Slot, message: dict[str, Any]) -> dict[str, Any]:
        """Hear that a worker was told to end, though not by us; workers say nothing else."""
        if message.get("do") != "leaving":
            return {"ok": False}
        slot.leaving = True
        if not self._ending:
            await self._find_neighbour(slot)
        return {"ok": True}

    # -- a death ---------------------------------------------------------------------------------

    @staticmethod
    def _bury(slot: Slot) -> None:
        """Keep what a dead worker had counted, as far as it was heard."""
        if slot.snapshot is not None:
            known = [one for one in (slot.gone, slot.snapshot) if one is not None]
            slot.gone = ended(merged(known))
            slot.snapshot = None

    async def _find_neighbour(self, slot: Slot) -> None:
        """Let another worker serve who is in the queue, and who comes."""
        for other in [*self._slots[slot.number + 1 :], *self._slots[: slot.number]]:
            if other.serving and not other.leaving and slot.adopted_by is None:
                found = await self._ask(other, {"do": "adopt", "slot": slot.number})
                if found is not None and found.get("ok"):
                    slot.adopted_by = other
            elif other.adopted_by is slot:
                other.adopted_by = None  # it has died with us, so look for another one
                await self._find_neighbour(other)

    # -- all at once -----------------------------------------------------------------------------

    async def _ask(
        self, slot: Slot, message: Mapping[str, Any], seconds: float = 5.0
    ) -> dict[str, Any] | None:
        """Return a worker's answer; None if it has none."""
        if slot.link is None or not slot.serving:
            return None
        try:
            return await slot.link.ask(message, seconds)
        except Broken:
            return None

    async def _all(self, message: Mapping[str, Any], seconds: float = 5.0) -> list[dict[str, Any]]:
        answers = await asyncio.gather(*(self._ask(slot, message, seconds) for slot in self._slots))
        return [one for one in answers if one is not None]

    async def reload(self, loaded: Loaded) -> Reloaded:
        """Give all workers another configuration. Raises ConfigError, Refused: nothing changes.

        A worker that does not take it though another has is ended; the next one begins with it.
        """
        usable, restart = now_usable(loaded.config, self.config)
        check_usable(usable)
        check_reach(usable, () if self._ours else self.sockets)
        table = {name: one for name, one in loaded.table.items() if name not in restart}
        before = self._loaded.table
        table |= {name: before[name] for name in restart if name in before}
        asked = {slot: slot.process for slot in self._slots if slot.serving}
        answers = await self._give(table, asked)
        good = [one for one in answers if one is not None and one["ok"]]
        refused = [one for one in answers if one is not None and not one["ok"]]
        if refused and not good:
            self._end_those(asked, answers, but=refused)
            raise Refused(refused[0])
        self._loaded, self.config = replace(loaded, table=table), usable
        self._end_those(asked, answers)
        late = {slot: slot.process for slot in self._slots if slot.serving and slot not in asked}
        self._end_those(late, await self._give(table, late))  # those that began meanwhile
        found = good[0] if good else {}
        kept, added, removed = (tuple(found.get(n, ())) for n in ("kept", "added", "removed"))
        return Reloaded(kept, added, removed, tuple(restart))

    async def _give(self, table: Mapping[str, Any], slots: Iterable[Slot]) -> list[Answer]:
        asking = (self._ask(slot, _reload(table), RELOAD_SECONDS) for slot in slots)
        return list(await asyncio.gather(*asking))

    def _end_those(
        self,
        asked: Mapping[Slot, subprocess.Popen[bytes] | None],
        answers: Iterable[Answer],
        but: Sequence[Answer] = (),
    ) -> None:
        """End processes that have not taken a configuration: what they have is not known."""
        for (slot, process), answer in zip(asked.items(), answers, strict=True):
            took = answer is not None and (answer["ok"] or answer in but)
            if not took and process is not None and process is slot.process:
                self._say(f"{slot.name} has not taken the configuration; it is ended")
                process.kill()

    async def stats(self) -> dict[str, Any]:
        """Return the sum of what all workers have counted, dead ones included.

        Empty if none of them has answered yet.
        """
        await self._gather()
        found = self._snapshots()
        return shown(found) if found else {}

    async def _gather(self) -> list[Slot]:
        """Ask each what it has counted; return who serves and has not answered."""
        answers = await asyncio.gather(
            *(self._ask(slot, {"do": "snapshot"}, 2.0) for slot in self._slots)
        )
        silent: list[Slot] = []
        for slot, found in zip(self._slots, answers, strict=True):
            if found is not None and found.get("ok"):
                slot.snapshot = found["snapshot"]
            elif slot.serving:
                silent.append(slot)
        return silent

    def _snapshots(self, but: Slot | None = None) -> list[dict[str, Any]]:
        living = [one.snapshot for one in self._slots if one is not but]
        gone = [one.gone for one in self._slots]
        return [one for one in (*living, *gone) if one is not None]

    async def _share(self) -> None:
        """Tell each worker what the others have counted: any of them may be asked by a client."""
        while True:
            silent = await self._gather()
            for slot in self._slots:
                slot.missed = slot.missed + 1 if slot in silent else 0
                if slot.missed >= HUNG and slot.process is not None:
                    self._say(f"{slot.name} does not answer any more; it is ended")
                    slot.missed = 0
                    slot.process.kill()
                if slot.link is not None and slot.serving:
                    slot.link.tell({"do": "others", "snapshots": self._snapshots(slot)})
            await clock.asleep(SHARE_SECONDS)

    # -- the end ---------------------------------------------------------------------------------

    async def drain(self, seconds: float | None = None) -> int:
        """End all of them well; return how many requests were cut. See `Gateway.drain`."""
        self._ending = True
        limit = self.config.drain_timeout if seconds is None else seconds
        if self._ours:
            for sock in self._unique():
                ignore_newcomers(sock)
        await self._all({"do": "quiesce"}, 10.0)
        for sock in self._unique():
            sock.close()
        answers = await self._all({"do": "drain", "seconds": limit}, limit + 10)
        await self.stop()
        return sum(one.get("cut", 0) for one in answers)

    def hurry(self) -> None:
        """Let a drain wait no longer."""
        for slot in self._slots:
            if slot.link is not None:
                slot.link.tell({"do": "hurry"})

    async def stop(self) -> None:
        """End all of them at once."""
        self._ending = True
        await self._all({"do": "stop"}, 2.0)
        for slot in self._slots:
            if slot.link is not None:
                slot.link.close()  # whoever has not ended sees that nobody is there
            if not slot.serving and slot.process is not None:
                slot.process.kill()  # it has not begun, and hears nothing yet
        ending = self._tasks[: len(self._slots)]
        for slot, task in zip(self._slots, ending, strict=False):
            if slot.process is None:
                task.cancel()  # it waits until it may start another one
        if ending:
            await asyncio.wait(ending, timeout=10)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        for sock in self._unique():
            sock.close()
        self._free_paths()

    def _free_paths(self) -> None:
        for listen in self.config.listen if self._ours and self._slots else ():
            if listen.path:
                with suppress(OSError):  # whoever listens there by now keeps it
                    remove_dead(listen.path)

    def _unique(self) -> set[socket.socket]:
        return {sock for slot in self._slots for sock in slot.sockets}


def _reload(table: Mapping[str, Any]) -> dict[str, Any]:
    return {"do": "reload", "table": table}


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    if not answer.get("ok"):
        raise Refused(answer)
    return answer
