"""One worker process: serves at sockets that its parent has opened, and does what it is told.

Started by `workers` as a program of its own, not as a fork: a fork of a process with an event
loop and threads has their locks and descriptors, and nobody who would ever free them.

When its parent is gone it takes nobody new, ends what is asked, and goes too. When it alone is told
to end by SIGTERM it does the same, and its parent lets a neighbour serve its socket meanwhile.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import signal
import socket
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from holdfast.gateway.gateway import Gateway
from holdfast.gateway.link import Broken, Link
from holdfast.gateway.listeners import ignore_newcomers
from holdfast.gateway.source import of_table
from holdfast.gateway.voice import Voice
from holdfast.runtime.clock import clock
from holdfast.runtime.loops import new_loop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    Message = dict[str, Any]

ORPHANED = 30.0
"""Seconds for what is asked when the parent has died: nobody can be told to hurry any more."""
DONE: Message = {"ok": True}


class Worker:
    """What one process is told by its parent, and does."""

    def __init__(self) -> None:
        self._gateway: Gateway
        self._sockets: list[socket.socket] = []
        self._slots: list[list[socket.socket]] = []
        self._ours = True
        self._adopted: dict[int, list[asyncio.AbstractServer]] = {}
        self._others: list[Message] = []
        self._serving: asyncio.Task[None] | None = None
        self._leaving = self._left = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._link = Link(self._answer)
        self._does: dict[str, Callable[[Message], Awaitable[Message]]] = {
            "start": self._start,
            "reload": self._reload,
            "quiesce": self._quiesce,
            "drain": self._drain,
            "hurry": self._hurry,
            "stop": self._stop,
            "snapshot": self._snapshot,
            "others": self._take_others,
            "adopt": self._adopt,
            "leave": self._leave,
        }

    async def run(self, sock: socket.socket) -> None:
        """Serve until it is told to end, or the parent is gone."""
        # The parent is told by its own signals, and tells us. A terminal signals the whole group.
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._end_by_signal)
        await self._link.open(sock)
        await self._link.run()
        if self._serving is None or self._left:
            return
        limit = min(ORPHANED, self._gateway.config.drain_timeout)
        if not (self._gateway.draining or self._serving.done()):
            text = "the parent is gone: it takes nobody new, and ends in %g s at most"
            logging.getLogger("holdfast.gateway").warning(text, limit)
        for one in self._sockets if self._ours else ():
            ignore_newcomers(one)
        await self._quiesce({})
        self._spawn(self._hurry_after(limit))  # a drain that is under way may have had more
        await self._gateway.drain(limit)
        await self._serving

    async def _hurry_after(self, seconds: float) -> None:
        await clock.asleep(seconds)
        self._gateway.hurry()

    def _end_by_signal(self) -> None:
        """End, though the parent has not said so: it starts another one."""
        if self._leaving:
            self._gateway.hurry()
        elif self._serving is not None:
            self._leaving = True
            self._link.tell({"do": "leaving"})
            self._spawn(self._leave_well())

    async def _leave_well(self) -> None:
        # Sockets are left as they are: others serve them.
        await self._gateway.drain()
        self._left = True
        self._link.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, message: Message) -> Message:
        does = self._does.get(str(message.get("do")))
        if does is None or (self._serving is None and does != self._start):
            raise Broken("that cannot be asked")
        return await does(message)

    async def _start(self, message: Message) -> Message:
        made = {
            number: socket.socket(fileno=number)
            for number in set(itertools.chain.from_iterable(message["slots"]))
        }
        self._sockets = list(made.values())  # several slots may have the same one
        self._slots = [[made[number] for number in numbers] for numbers in message["slots"]]
        self._ours = message["ours"]
        name = message["name"]
        Voice(**message["voice"]).speak()
        gateway = Gateway(of_table(name, message["table"]), name=name)
        await gateway.start(self._slots[message["slot"]])
        gateway.cluster.ledger.others = lambda: self._others
        self._gateway = gateway
        self._serving = asyncio.get_running_loop().create_task(gateway.serve())
        return DONE

    async def _reload(self, message: Message) -> Message:
        done = self._gateway.use(of_table(self._gateway.name, message["table"]))
        return {"ok": True, **asdict(done)}

    async def _quiesce(self, _: Message) -> Message:
        await self._gateway.take_nobody_new()
        for sock in self._sockets:  # as long as anybody has a copy, the kernel goes on accepting
            sock.close()
        return DONE

    async def _drain(self, message: Message) -> Message:
        cut = await self._gateway.drain(message.get("seconds"))
        return {"ok": True, "cut": cut}

    async def _hurry(self, _: Message) -> Message:
        self._gateway.hurry()
        return DONE

    async def _stop(self, _: Message) -> Message:
        await self._gateway.stop()
        return DONE

    async def _snapshot(self, _: Message) -> Message:
        return {"ok": True, "snapshot": self._gateway.snapshot()}

    async def _take_others(self, message: Message) -> Message:
        self._others = message["snapshots"]
        return DONE

    async def _adopt(self, message: Message) -> Message:
        slot = message["slot"]
        if self._gateway.draining:
            return {"ok": False}
        if slot not in self._adopted:
            self._adopted[slot] = [await self._gateway.listen(one) for one in self._slots[slot]]
        return DONE

    async def _leave(self, message: Message) -> Message:
        for server in self._adopted.pop(message["slot"], ()):
            self._gateway.leave(server)
        return DONE


def main() -> None:
    """Be a worker. The one argument is the descriptor on which the parent speaks."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(Worker().run(socket.socket(fileno=int(sys.argv[1]))))


if __name__ == "__main__":
    main()
