"""`hf.Gateway`: the public face of one gateway in one process."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from holdfast.gateway.background import Background
from holdfast.gateway.options import ConfigError, Endpoint, chosen, configured, find_secret
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
    from collections.abc import Sequence

    from holdfast.gateway.config import GatewayConfig, Listen

__all__ = ["ConfigError", "Endpoint", "Gateway"]


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
        self.draining = False
        self._servers: list[asyncio.Server] = []
        self._wheel: Wheel | None = None

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str], name: str | None = None) -> Self:
        """Read a configuration file. name: of the gateway, if there are several.

        Raises ConfigError, or the OSError of a file that cannot be read.
        """
        found, config = chosen(Path(path), name)
        return cls(config, name=found)

    @property
    def port(self) -> int:
        """The port of the first listener."""
        if not self._servers or not self._servers[0].sockets:
            raise RuntimeError("Gateway: it does not listen: the port is not known")
        return int(self._servers[0].sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """The address that clients are pointed to: `http://127.0.0.1:7860`."""
        listen = self.config.listen[0]
        if listen.path:
            return str(listen)
        scheme = "https" if self.config.tls_cert else "http"
        return f"{scheme}://{replace(listen, port=self.port)}"

    async def start(self) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        serial = rng.token(4)
        self._wheel = wheel = Wheel(loop)
        self.cluster = Cluster(
            self.config, loop, wheel, secret=find_secret, via=f"holdfast-{serial}"
        )
        for listen in self.config.listen:
            self._servers.append(await self._listen(loop, listen, serial))

    async def _listen(
        self, loop: asyncio.AbstractEventLoop, listen: Listen, serial: str
    ) -> asyncio.Server:
        def client() -> Client:
            return Client(self, serial)

        if listen.path:
            return await loop.create_unix_server(client, listen.path)
        return await loop.create_server(client, listen.host, listen.port)

    async def serve(self) -> None:
        """Serve until the task is cancelled."""
        if not self._servers:
            await self.start()
        await asyncio.gather(*(server.serve_forever() for server in self._servers))

    async def stop(self) -> None:
        """End at once."""
        for server in self._servers:
            server.close()
        if self._wheel is not None:
            self.cluster.close()
            self._wheel.close()
        await asyncio.sleep(0)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()
