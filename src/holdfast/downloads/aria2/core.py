"""What a client is made of, without the client: its parts, and the operations on them.

Apart from the face, so that the background thread does not keep the face alive: a client that
nobody holds any more ends its thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import posixpath
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.downloads.aria2.control import Control
from holdfast.downloads.aria2.errors import Aria2Error, Aria2Unavailable
from holdfast.downloads.aria2.item import (
    Item,
    Source,
    as_options,
    is_here,
    public_options,
    service_url,
)
from holdfast.downloads.aria2.ledger import Ledger
from holdfast.downloads.aria2.loop import BackgroundLoop
from holdfast.downloads.aria2.parts import Parts
from holdfast.downloads.aria2.roster import Roster, logger
from holdfast.downloads.aria2.rpc import Rpc
from holdfast.downloads.aria2.service import Service
from holdfast.downloads.aria2.states import State, is_open
from holdfast.downloads.aria2.supervisor import Supervisor
from holdfast.downloads.failures import DownloadError
from holdfast.downloads.items import item_id
from holdfast.downloads.names import name_from_url
from holdfast.runtime.clock import clock
from holdfast.runtime.random import rng
from holdfast.telemetry import redact
from holdfast.wire.urls import parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from holdfast.downloads.aria2.item import Option
    from holdfast.telemetry.secret import Secret

READY = 30.0
"""Seconds in which a service that answered a call must also answer the first comparison."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One download that is wanted. gid: of its first URL and its path, the same each time."""

    gid: str
    path: str
    source: Source


class Core:
    """Rpc, ledger, supervisor and watcher of one client. See `Aria2Client` for the options."""

    def __init__(
        self,
        rpc_url: str,
        secret: Secret | None,
        *,
        level: int,
        most: int,
        delay: float,
        auto: bool,
        journal: str,
    ) -> None:
        url = service_url(rpc_url)
        self._level = level
        self._rpc = Rpc(url, secret, attempts=max(1, most), delay=delay, say=self.say)
        self._ledger = Ledger(journal, self._rpc.address)
        self.shared = is_here(url)
        self._parts = Parts(shared=self.shared)
        try:
            self.roster = Roster(self._ledger, most)
            self.batches = self._ledger.batches()
        except BaseException:
            self._ledger.close()
            raise
        self._supervisor = Supervisor(
            self._rpc, self.roster, self._parts, delay=delay, auto=auto, say=self.say
        )
        self._control = Control(self._supervisor)
        self.service = Service(self._rpc, self._supervisor, self.say)
        self.loop = BackgroundLoop("holdfast-aria2")
        self._watcher: asyncio.Task[None] | None = None
        self._directory = ""

    @property
    def address(self) -> str:
        """The service's `host:port`."""
        return self._rpc.address

    def say(self, text: str) -> None:
        """Log a line, without secrets."""
        if logger.isEnabledFor(self._level):
            logger.log(self._level, "%s", redact.text(text))

    # -- life ------------------------------------------------------------------------------------

    def take_up(self) -> None:
        """Watch the service at once if the journal has work left."""
        if any(is_open(item.state) for item in self.roster.items.values()):
            self.loop.submit(self._start())

    async def check(self) -> None:
        """Ask the service once whether it is there and accepts us. Raises Aria2Error."""
        await self._rpc.multicall([("aria2.getVersion", ())])

    async def _start(self) -> None:
        if self._watcher is None:
            loop = asyncio.get_running_loop()
            # Not in the context of the call that came first: its deadline is not ours.
            self._watcher = loop.create_task(self.service.run(), context=contextvars.Context())

    def close(self) -> None:
        """End the thread and close the journal."""
        self.loop.close(self._last)
        self._ledger.close()

    async def aclose(self) -> None:
        """Do what `close` does, without blocking the caller's loop meanwhile."""
        if self.loop.running:
            await self.loop.run(self._last())
        self.close()

    async def _last(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        await self.roster.aclose()
        await self._supervisor.leaving.aclose()
        await self._rpc.aclose()

    async def _reach(self) -> None:
        """Return when the service is there and compared. Raises Aria2Error."""
        if self._watcher is not None and self._watcher.done():
            self._watcher.result()  # a broken journal, or a defect
        if self.roster.up.is_set():
            return
        await self._rpc.call("aria2.getVersion")
        await self._start()
        try:
            async with asyncio.timeout(READY):
                await self.roster.up.wait()
        except TimeoutError:
            text = f"`{self.address}`: aria2 answers, but not in time"
            raise Aria2Unavailable(text, address=self.address, attempts=1) from None

    # -- adding ------------------------------------------------------------------------------------

    async def add(
        self, url: str | Sequence[str], path: str | None, options: Mapping[str, object] | None
    ) -> str:
        """Add one download and hand it over."""
        source = _source(url, options)
        await self._reach()
        plan = await self._plan(source, path)
        self._check_names([plan])
        item, starts = self._accept(plan)
        self._ledger.keep(item)
        self.roster.adopt(item)
        if starts:
            await self._supervisor.launch_now(item)
        return item.gid

    async def add_batch(
        self,
        wanted: Iterable[tuple[str | Sequence[str], str | None]],
        batch: str | None,
        options: Mapping[str, object] | None,
    ) -> str:
        """Add many downloads in one commit; they are handed over in the background."""
        sources = [(_source(url, options), path) for url, path in wanted]
        await self._reach()
        batch = batch or f"batch-{rng.token(8)}"
        plans = {}
        for source, path in sources:
            plan = await self._plan(source, path)
            plans[plan.gid] = plan
        self._check_names(list(plans.values()))
        accepted = [self._accept(plan) for plan in plans.values()]
        self._ledger.add_batch(batch, [item for item, _ in accepted])
        created_at, gids = self.batches.get(batch, (clock.wall(), []))
        self.batches[batch] = (created_at, list(dict.fromkeys([*gids, *plans])))
        for item, starts in accepted:
            self.roster.adopt(item)
            if starts:
                self._supervisor.launch(item)
        return batch

    async def _plan(self, source: Source, path: str | None) -> Plan:
        path = await self._path(source, path)
        gid = item_id(source.urls[0].canonical(), path)
        return Plan(gid, path, source)

    def _check_names(self, plans: Sequence[Plan]) -> None:
        """Refuse two downloads that would write one file."""
        items = self.roster.items.values()
        holders = {item.path: item.gid for item in items if is_open(item.state)}
        for plan in plans:
            if holders.setdefault(plan.path, plan.gid) != plan.gid:
                text = f"`{plan.path}`: another download has the same name"
                raise DownloadError("name-collision", text)

    def _accept(self, plan: Plan) -> tuple[Item, bool]:
        """Return the download that is meant, and whether it is to be started."""
        source = plan.source
        overwrite = source.options.get("allow-overwrite") == "true"
        known = self.roster.items.get(plan.gid)
        if known is None:
            item = Item(
                gid=plan.gid,
                path=plan.path,
                part=self._parts.part_for(plan.path, plan.gid),
                urls=tuple(source.canonical()),
                options=public_options(source.options),
                source=source,
                secret=source.has_secrets,
                overwrite=overwrite,
                added_at=clock.wall(),
            )
            return item, True
        if known.state is State.COMPLETE and self._parts.is_there(known):
            return known, False
        known.source, known.secret = source, source.has_secrets
        known.urls = tuple(source.canonical())
        known.options, known.overwrite = public_options(source.options), overwrite
        if is_open(known.state):
            return known, False
        self._supervisor.restart(known, afresh=True)
        return known, True

    async def _path(self, source: Source, path: str | None) -> str:
        """Return where the finished file goes, absolute if we know whose paths they are."""
        name = _one(source.options.get("out")) or name_from_url(source.urls[0])
        if path is None:
            directory = _one(source.options.get("dir")) or await self._service_directory()
            path = posixpath.join(directory, name)
        elif path.endswith("/") or (self.shared and _is_directory(path)):
            path = posixpath.join(path, name)
        if self.shared:
            return _absolute(path)
        if not path.startswith("/"):
            path = posixpath.join(await self._service_directory(), path)
        return posixpath.normpath(path)

    async def _service_directory(self) -> str:
        if not self._directory:
            found = await self._rpc.call("aria2.getGlobalOption")
            self._directory = str(found.get("dir", "."))
        return self._directory

    # -- by hand -----------------------------------------------------------------------------------

    async def restart_all(self) -> int:
        """Restart what failed and may be repeated."""
        items = self.roster.items.values()
        return sum([await self._restart(item) for item in list(items)])

    async def restart_one(self, gid: str) -> str | None:
        """Restart one that failed."""
        item = self.roster.items.get(gid)
        return gid if item is not None and await self._restart(item) else None

    async def _restart(self, item: Item) -> bool:
        if not self._is_restartable(item):
            return False
        await self._reach()
        if not self._is_restartable(item):
            return False  # somebody else was quicker
        self._supervisor.restart(item)
        self._supervisor.launch(item)
        return True

    def _is_restartable(self, item: Item) -> bool:
        return item.state is State.ERROR and self.roster.can_restart(item)

    async def cancel(self, gid: str) -> bool:
        """Remove one."""
        item = self.roster.items.get(gid)
        return item is not None and await self._control.cancel(item)

    async def cancel_batch(self, batch: str) -> int:
        """Remove all of a batch."""
        _, gids = self.batches.get(batch, (0.0, []))
        return sum([await self.cancel(gid) for gid in list(gids)])

    async def pause(self, gid: str) -> bool:
        """Hold one."""
        item = self.roster.items.get(gid)
        return item is not None and await self._control.pause(item)

    async def resume(self, gid: str) -> bool:
        """Let one go on."""
        item = self.roster.items.get(gid)
        return item is not None and await self._control.resume(item)

    async def cleanup(self) -> int:
        """Forget what is complete or removed."""
        over = {State.COMPLETE, State.REMOVED}
        gids = [item.gid for item in self.roster.items.values() if item.state in over]
        if not gids:
            return 0
        self._ledger.forget(gids)
        for gid in gids:
            self.roster.drop(gid)
        self.batches = self._ledger.batches()
        if self.roster.up.is_set():
            with contextlib.suppress(Aria2Error):  # only tidies up over there
                await self._rpc.multicall([("aria2.removeDownloadResult", (g,)) for g in gids])
        return len(gids)


def _source(url: str | Sequence[str], options: Mapping[str, object] | None) -> Source:
    urls = [url] if isinstance(url, str) else list(url)
    if not urls:
        raise DownloadError("bad-option", "`url`: an empty list: at least one is needed")
    return Source(tuple(parse(each) for each in urls), as_options(options))


def _one(value: Option | None) -> str:
    return "" if value is None or isinstance(value, list) else value


def _is_directory(path: str) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - text paths, as everywhere in downloads


def _absolute(path: str) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - links stay as they are
