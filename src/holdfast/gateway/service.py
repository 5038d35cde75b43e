"""A gateway as a program: one at a time by its name, told by signals and by its control socket.

SIGTERM     takes nobody new, answers what is asked, ends; a second one cuts what is left
SIGINT      the same (Ctrl-C)
SIGHUP      reads the configuration again; one that cannot be used changes nothing
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import shutil
import signal
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

from holdfast.core.errors import HoldfastError
from holdfast.gateway.control import Control, Paths
from holdfast.gateway.gateway import Gateway
from holdfast.gateway.link import Broken
from holdfast.gateway.listeners import address_of, first_port, inherited, tell_manager
from holdfast.gateway.options import ConfigError
from holdfast.gateway.pidfile import BadState, PidFile, state_directory
from holdfast.gateway.reloading import told_reload
from holdfast.gateway.voice import Voice
from holdfast.gateway.workers import Workers
from holdfast.runtime.clock import clock
from holdfast.runtime.loops import new_loop

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from holdfast.gateway.config import GatewayConfig
    from holdfast.gateway.pidfile import Running
    from holdfast.gateway.reloading import Reloaded
    from holdfast.gateway.source import Loaded, Source

LOG_MOST = 50 * 1024 * 1024
"""Bytes of the log of a detached gateway; then it becomes `.1` and a new one begins."""
LOG_LOOK = 10.0
OWN_ENVIRONMENT = (
    "A process that runs has the environment that it was started with: "
    "end it and start it again, or use `file:PATH`."
)
"""The next step where a reload misses a variable, which another shell may well have."""


class Tell(Protocol):
    """What is said of a gateway while it runs."""

    def __call__(self, event: str, fields: Mapping[str, Any], text: str) -> None:
        """Say something: an event with its fields for programs, and a text for people."""


class Site(Protocol):
    """What serves: this process, or several."""

    config: GatewayConfig

    @property
    def sockets(self) -> list[Any]:
        """Where it listens."""
        ...

    async def start(self) -> None:
        """Begin to serve."""

    async def drain(self, seconds: float | None = None) -> int:
        """End well."""
        ...

    def hurry(self) -> None:
        """Cut what is left."""

    async def stop(self) -> None:
        """End at once."""

    async def load(self, loaded: Loaded) -> Reloaded:
        """Use another configuration."""
        ...

    async def told(self) -> dict[str, Any]:
        """Return its statistics."""
        ...

    @property
    def pids(self) -> list[int]:
        """The processes that serve."""
        ...


class Alone(Gateway):
    """A gateway in this very process."""

    @property
    def sockets(self) -> list[Any]:
        """Where it listens."""
        return self._listeners.sockets

    async def start(self, sockets: Sequence[socket.socket] | None = None) -> None:
        """Listen where it was told, or at the sockets that a service manager has opened."""
        await super().start(inherited() if sockets is None else sockets)

    async def load(self, loaded: Loaded) -> Reloaded:
        """Use another configuration."""
        return self.use(loaded.config)

    async def told(self) -> dict[str, Any]:
        """Return its statistics."""
        return self.stats()

    @property
    def pids(self) -> list[int]:
        """The process itself."""
        return [os.getpid()]


class Crew(Workers):
    """A gateway of several processes."""

    async def load(self, loaded: Loaded) -> Reloaded:
        """Use another configuration."""
        return await self.reload(loaded)

    async def told(self) -> dict[str, Any]:
        """Return the sum of their statistics."""
        return await self.stats()


class Service:
    """One run. tell: what is said meanwhile.  ready: called once it serves.

    voice: how its endpoints are talked of.
    log: the file that stdout and stderr are, kept below `LOG_MOST`.
    """

    def __init__(
        self,
        source: Source,
        tell: Tell,
        ready: Callable[[Running], None],
        *,
        voice: Voice | None = None,
        log: Path | None = None,
    ) -> None:
        self._source = source.pinned()
        self._tell = tell
        self._ready = ready
        self._voice = voice or Voice()
        self._log = log
        self._site: Site
        self._paths: Paths
        self._asked = asyncio.Event()
        self._seconds: float | None = None
        self._due: float | None = None
        self._interrupted = False
        self._reloading = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()

    def run(self) -> bool:
        """Serve until it is told to end; return whether that was Ctrl-C.

        Raises ConfigError, AlreadyRuns, CannotListen, BadState.
        """
        loaded = self._source.load()
        raise_file_limit()
        self._paths = Paths(state_directory(), loaded.name)
        pidfile = PidFile(self._paths.directory, loaded.name)
        try:
            pidfile.acquire()
        except OSError as error:
            raise BadState(f"`{pidfile.path}`: {error.strerror}") from None
        try:
            with asyncio.Runner(loop_factory=new_loop) as runner:
                runner.run(self._run(loaded, pidfile))
        finally:
            pidfile.release()
        return self._interrupted

    async def _run(self, loaded: Loaded, pidfile: PidFile) -> None:
        self._heed_signals()
        control = Control(self._paths.control, self._answer)
        self._site = site = self._make(loaded)
        try:
            if await self._start(site):
                await self._open(control)
                self._say_ready(loaded, pidfile)
                await self._asked.wait()
                await self._drain()
        finally:
            for task in self._tasks:
                task.cancel()
            await site.stop()
            await control.close()

    async def _open(self, control: Control) -> None:
        try:
            await control.start()
        except OSError as error:
            raise BadState(f"`{self._paths.control}`: {error.strerror}") from None

    def _make(self, loaded: Loaded) -> Site:
        if loaded.config.workers == 1:
            self._voice.speak()
            return Alone(loaded.config, name=loaded.name)
        return Crew(loaded, lambda text: self._tell("Worker", {"text": text}, text), self._voice)

    async def _start(self, site: Site) -> bool:
        """Start; False if it was told to end meanwhile."""
        starting = asyncio.ensure_future(site.start())
        asked = asyncio.ensure_future(self._asked.wait())
        try:
            await asyncio.wait({starting, asked}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                await starting
        finally:
            for task in (starting, asked):
                task.cancel()
            await asyncio.gather(starting, asked, return_exceptions=True)
        return starting.done() and not starting.cancelled()

    def _say_ready(self, loaded: Loaded, pidfile: PidFile) -> None:
        # What is there by now stays: a collection need not look at it ever again.
        gc.collect()
        gc.freeze()
        sockets = self._site.sockets
        addresses = [address_of(sock) for sock in sockets]
        port = first_port(sockets)
        host = addresses[0].rpartition(":")[0].strip("[]") if port else addresses[0]
        running = pidfile.write(host, port)
        scheme = "https" if loaded.config.tls_cert else "http"
        urls = [one if one.startswith("unix:") else f"{scheme}://{one}" for one in addresses]
        count = len(loaded.config.endpoint)
        text = (
            f"gateway `{loaded.name}` serves {', '.join(urls)} as process {running.pid}, "
            f"endpoints: {count}, workers: {len(self._site.pids)}"
        )
        fields = {"urls": urls, "endpoints": count, "workers": self._site.pids}
        self._tell("Serving", {**asdict(running), **fields}, text)
        tell_manager("READY=1")
        self._ready(running)
        if self._log is not None:
            self._spawn(self._keep_log_small(self._log))

    async def _drain(self) -> None:
        tell_manager("STOPPING=1")
        stats = await self._site.told()
        under_way = stats.get("inflight", 0)
        limit = self._limit
        text = f"it takes nobody new; requests under way: {under_way}"
        if under_way:
            text += f", for {limit:g} s at most; a second signal cuts them"
        self._tell("Draining", {"inflight": under_way, "seconds": limit}, text)
        self._due = clock.monotonic() + limit
        cut = await self._site.drain(limit)
        text = f"ended; requests cut: {cut}" if cut else "ended; every request was answered"
        self._tell("Ended", {"cut": cut}, text)

    # -- signals ---------------------------------------------------------------------------------

    def _heed_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._end)
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._spawn(self._reload_aloud()))

    def _end(self) -> None:
        if self._asked.is_set():
            self._site.hurry()
        self._asked.set()

    def _interrupt(self) -> None:
        self._interrupted = True
        self._end()

    def _spawn(self, work: Any) -> None:  # noqa: ANN401 - a coroutine of any kind
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reload_aloud(self) -> None:
        with suppress(HoldfastError):  # it was told already
            await self._reload({})

    # -- the control socket ----------------------------------------------------------------------

    async def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        does = {
            "status": self._status,
            "reload": self._reload,
            "drain": self._end_by_control,
            "hurry": self._hurry,
        }.get(str(message.get("do")))
        if does is None:
            raise Broken("that cannot be asked of a gateway")
        return {"ok": True, **await does(message)}

    async def _status(self, _: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "pids": self._site.pids,
            "draining": self._asked.is_set(),
            "drain_timeout": self._site.config.drain_timeout,
            "config": str(self._source.path),
            "addresses": [address_of(sock) for sock in self._site.sockets],
            "stats": await self._site.told(),
        }

    async def _reload(self, _: Mapping[str, Any]) -> dict[str, Any]:
        async with self._reloading:
            try:
                loaded = self._source.load()
                done = await self._site.load(loaded)
            except HoldfastError as error:
                if isinstance(error, ConfigError) and error.names_environment:
                    error.next_step = OWN_ENVIRONMENT
                text = f"the configuration was not changed:\n{error}"
                self._tell("ReloadFailed", {"code": error.code, "error": str(error)}, text)
                raise
        self._tell("Reloaded", asdict(done), told_reload(asdict(done)))
        return asdict(done)

    async def _end_by_control(self, message: Mapping[str, Any]) -> dict[str, Any]:
        seconds = message.get("seconds")
        stats = await self._site.told()
        if isinstance(seconds, int | float):
            self._give(max(0.0, float(seconds)))
        self._asked.set()
        left = self._limit if self._due is None else max(0.0, self._due - clock.monotonic())
        under_way = {name: stats.get(name, 0) for name in ("inflight", "streams")}
        return {"seconds": round(left, 3), **under_way}

    @property
    def _limit(self) -> float:
        """Seconds of the drain."""
        return self._site.config.drain_timeout if self._seconds is None else self._seconds

    def _give(self, seconds: float) -> None:
        """Let the drain have so many seconds from now on; one that was asked for, not more."""
        if self._due is not None:
            due = clock.monotonic() + seconds
            if due < self._due:
                self._due = due
                self._spawn(self._hurry_after(seconds))
        elif self._asked.is_set():
            self._seconds = min(self._limit, seconds)
        else:
            self._seconds = seconds

    async def _hurry_after(self, seconds: float) -> None:
        await clock.asleep(seconds)
        self._site.hurry()

    async def _hurry(self, _: Mapping[str, Any]) -> dict[str, Any]:
        if not self._asked.is_set():
            self._seconds = 0.0
        self._asked.set()
        self._site.hurry()
        return {}

    # -- the log ---------------------------------------------------------------------------------

    @staticmethod
    async def _keep_log_small(path: Path) -> None:
        while True:
            await clock.asleep(LOG_LOOK)
            await asyncio.get_running_loop().run_in_executor(None, keep_small, path)


def raise_file_limit() -> None:
    """Let this process and its workers open as many files as they may.

    A connection is one, and the usual limit of 1,024 is meant for programs that use select(2).
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def keep_small(path: Path, most: int = LOG_MOST) -> None:
    """Begin a log anew that has more bytes than `most`; what it had is in `.1`.

    All processes write to the end of one file (O_APPEND), so it is copied and cut: none of them
    has to open another. Lines that come in between are lost.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with suppress(OSError):
        if path.stat().st_size > most:
            older = os.open(path.with_name(f"{path.name}.1"), flags, 0o600)
            with open(older, "wb") as target, path.open("rb") as source:  # noqa: PTH123 - it is open
                os.fchmod(older, 0o600)
                shutil.copyfileobj(source, target)
            os.truncate(path, 0)
