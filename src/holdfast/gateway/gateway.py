"""`hf.Gateway`: the public face of one gateway in one process."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from holdfast.gateway.background import Background
from holdfast.gateway.checking import check_reach, check_usable
from holdfast.gateway.listeners import Listeners, first_port
from holdfast.gateway.lobby import Lobby
from holdfast.gateway.options import ConfigError, Endpoint, chosen, configured, find_secret
from holdfast.gateway.reloading import Reloaded, now_usable, take_over
from holdfast.gateway.snapshots import snapshot
from holdfast.gateway.stats import shown
from holdfast.gateway.tls import listener_context, renew
from holdfast.runtime.clock import clock
from holdfast.runtime.random import rng
from holdfast.runtime.wheel import Wheel

try:
    from holdfast.gateway.client import Client
    from holdfast.gateway.cluster import Cluster
except ModuleNotFoundError as missing:
    if missing.name != "httptools":
        raise
    raise ModuleNotFoundError(
        "`holdfast.Gateway` needs httptools: pip install 'holdfast[gateway]'", name=missing.name
    ) from missing

if TYPE_CHECKING:
    import os
    import socket
    from collections.abc import Sequence

    from holdfast.gateway.config import GatewayConfig

__all__ = ["ConfigError", "Endpoint", "Gateway", "Reloaded"]

LINGER = 1.0
"""Seconds of a drain in which an idle client may still ask; it is told to come no more."""
_LOOK = 0.02
_FLUSH = 1.0
"""Seconds in which the last words must have been taken."""


class Gateway(Background):
    """One address in front of several endpoints.

        gateway = hf.Gateway(endpoints=[hf.Endpoint(url, keys="env:KEY")], listen="127.0.0.1:0")
        async with gateway:
            await gateway.serve()

    Without `async`, `with gateway:` serves on a thread of its own until the block ends.

    endpoints: `Endpoint` or addresses; one at least.  name: what it is called where there are
    several.  settings: those of `[gateway.NAME]`, as in a file (`listen=`, `queue=`, ...).
    config: all of that, read already; then nothing else is given.

    Raises ConfigError, which names every setting that cannot be used.
    """

    def __init__(
        self,
        config: GatewayConfig | None = None,
        *,
        endpoints: Sequence[Endpoint | str] = (),
        name: str = "main",
        **settings: Any,
    ) -> None:
        if config is not None and (endpoints or settings):
            raise TypeError("Gateway: `config` is whole: nothing can be given beside it")
        self.name = name
        self.config = configured(name, endpoints, settings) if config is None else config
        self.cluster: Cluster
        self.clients: dict[Client, None] = {}
        self.lobby = Lobby()
        self.draining = False
        self._path: Path | None = None
        self._listeners = Listeners(self._client)
        self._serial = ""
        self._wheel: Wheel | None = None
        self._over = asyncio.Event()
        self._ending = asyncio.Lock()
        self._hurry = False

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str], name: str | None = None) -> Self:
        """Read a configuration file. name: of the gateway, if there are several.

        Raises ConfigError, or the OSError of a file that cannot be read.
        """
        found, config = chosen(Path(path), name)
        made = cls(config, name=found)
        made._path = Path(path)
        return made

    @property
    def port(self) -> int:
        """The port of the first listener."""
        if not self._listeners:
            raise RuntimeError("Gateway: it does not listen: the port is not known")
        return first_port(self._listeners.sockets)

    @property
    def url(self) -> str:
        """The address that clients are pointed to: `http://127.0.0.1:7860`."""
        listen = self.config.listen[0]
        if listen.path:
            return str(listen)
        scheme = "https" if self.config.tls_cert else "http"
        return f"{scheme}://{replace(listen, port=self.port)}"

    def stats(self) -> dict[str, Any]:
        """Return the JSON of `/__holdfast__/stats`; changes nothing. Empty before it is started."""
        return self.on_loop(self._stats)

    def _stats(self) -> dict[str, Any]:
        if not hasattr(self, "cluster"):
            return {}
        return shown([self.snapshot(), *self.cluster.ledger.others()])

    def snapshot(self) -> dict[str, Any]:
        """Return what this process alone knows, to be summed: see `stats`."""
        return snapshot(self.cluster, draining=self.draining)

    # -- beginning -------------------------------------------------------------------------------

    async def start(self, sockets: Sequence[socket.socket] | None = None) -> None:
        """Listen at the configured addresses, or at sockets that somebody else has opened.

        sockets: listen at these; whoever gives them keeps them open.
        Raises CannotListen, ConfigError (a secret is not there, or other machines could ask
        without one), and RuntimeError if it runs.
        """
        if self._wheel is not None:
            raise RuntimeError("Gateway: it is running already")
        check_reach(self.config, sockets or ())
        loop = asyncio.get_running_loop()
        self._serial = rng.token(4)
        self._over = asyncio.Event()
        self._ending = asyncio.Lock()
        self.draining = self._hurry = False
        wheel = Wheel(loop)
        self._listeners = Listeners(self._client, listener_context(self.config))
        self.cluster = self._cluster(self.config, wheel)
        self._wheel = wheel
        try:
            await self._listen(sockets or ())
        except BaseException:
            await self.stop()
            raise

    async def _listen(self, sockets: Sequence[socket.socket]) -> None:
        for sock in sockets:
            await self._listeners.use(sock)
        if not sockets:
            await self._listeners.bind(self.config.listen)

    async def listen(self, sock: socket.socket) -> asyncio.AbstractServer:
        """Listen at one more socket, of which others have a copy."""
        return await self._listeners.use(sock)

    def leave(self, server: asyncio.AbstractServer) -> None:
        """Listen there no more; whoever else has that socket goes on."""
        self._listeners.leave(server)

    def _client(self) -> Client:
        return Client(self, self._serial)

    def _cluster(self, config: GatewayConfig, wheel: Wheel) -> Cluster:
        via = f"holdfast-{self._serial}"
        try:
            return Cluster(config, asyncio.get_running_loop(), wheel, secret=find_secret, via=via)
        except ConfigError:
            check_usable(config)  # which tells everything that is missing, not the first thing
            raise

    async def serve(self) -> None:
        """Serve until it is drained or stopped, or the task is cancelled.

        Objects that are there by then are taken out of garbage collection: a process that
        serves keeps them anyway, and each collection would look at them all.
        """
        if self._wheel is None:
            await self.start()
        gc.collect()
        gc.freeze()
        await self._over.wait()

    # -- another configuration -------------------------------------------------------------------

    async def reload(self, config: GatewayConfig | None = None) -> Reloaded:
        """Use another configuration for the requests that begin from now on.

        config: default is the file again, as `from_toml` read it. Endpoints that stay keep their
        state and their connections; requests under way keep their configuration, those that wait
        in line for an endpoint take the new one.
        Raises ConfigError with all problems, or OSError; then nothing has changed.
        """
        if config is None:
            if self._path is None:
                raise RuntimeError("Gateway: it was not made from a file: give a configuration")
            _, config = chosen(self._path, self.name)
        return self.use(config)

    def use(self, config: GatewayConfig) -> Reloaded:
        """Do what `reload` does, at once; for the thread of its loop."""
        usable, restart = now_usable(config, self.config)
        if self._wheel is None:
            self.config = config
            return Reloaded()
        check_reach(usable, self._listeners.sockets)
        listener_context(usable)  # asks whether its files can be used; nothing has changed yet
        cluster = self._cluster(usable, self._wheel)
        if self._listeners.context is not None:
            renew(self._listeners.context, usable)
        done = replace(take_over(cluster, self.cluster), restart=tuple(restart))
        self.config, self.cluster = usable, cluster
        cluster.turns.soon(clock.monotonic())
        return done

    # -- the end ---------------------------------------------------------------------------------

    async def drain(self, seconds: float | None = None) -> int:
        """End well: take nobody new, answer what is asked, then stop.

        seconds: for requests under way; default: `drain_timeout`. What is not over by then is
        cut, and its client told so (a stream by an `error` event). Returns how many that were.
        A second one waits for the first, and has nothing to do then.
        """
        async with self._ending:
            return await self._drain(seconds) if self._wheel is not None else 0

    async def _drain(self, seconds: float | None) -> int:
        began = clock.monotonic()
        await self.take_nobody_new()
        limit = self.config.drain_timeout if seconds is None else seconds
        await self._until_gone(began + min(limit, LINGER))
        for client in list(self.clients):
            client.drain()
        await self._until_gone(began + limit)
        cut = sum(client.is_asking for client in self.clients)
        for client in list(self.clients):
            client.cut("draining")
        self._hurry = False
        await self._until_gone(clock.monotonic() + _FLUSH)
        await self.stop()
        return cut

    async def take_nobody_new(self) -> None:
        """Begin a drain: say that it is not ready, empty the queue, listen no more."""
        self.draining = True
        await self._listeners.close()

    def hurry(self) -> None:
        """Let a drain wait no longer: what is not over is cut now."""
        self._hurry = True

    async def _until_gone(self, due: float) -> None:
        while self.clients and not self._hurry and clock.monotonic() < due:
            await clock.asleep(_LOOK)

    async def stop(self) -> None:
        """End at once; whatever is under way breaks."""
        wheel, self._wheel = self._wheel, None
        self._listeners.abort()
        for client in list(self.clients):
            client.transport.abort()
        if wheel is not None:
            await asyncio.sleep(0)  # each hears that it is lost, and its request is counted
            self.cluster.close()
            await asyncio.sleep(0)
            wheel.close()
        self._over.set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()
