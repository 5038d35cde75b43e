"""`hf.Gateway`: the public face of one gateway in one process."""

from __future__ import annotations

import asyncio
import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Self

from holdfast.core.errors import HoldfastError
from holdfast.gateway.client import Client
from holdfast.gateway.cluster import Cluster
from holdfast.gateway.config import GatewayConfig, Listen, read_gateways
from holdfast.runtime.random import rng
from holdfast.runtime.wheel import Wheel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.core.settings import Problem


class ConfigError(HoldfastError):
    """A configuration that cannot be used. problems: all of them."""

    code = "HF-3201"
    exit_code = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.problems,))


class Gateway:
    """One address in front of several endpoints.

        async with hf.Gateway(config) as gateway:
            await gateway.serve()

    config: see `config.GatewayConfig`.  port: of the first listener, once it is started.
    """

    def __init__(self, config: GatewayConfig) -> None:
        self.config = config
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
        return cls(_chosen(Path(path), name))

    @property
    def port(self) -> int:
        """The port of the first listener."""
        return int(self._servers[0].sockets[0].getsockname()[1])

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


def _chosen(path: Path, name: str | None) -> GatewayConfig:
    from holdfast.core.settings import Problem  # noqa: PLC0415 - for errors only

    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(str(path), f"it is no TOML ({error})")]) from None
    result = read_gateways(tree)
    if result.value is None:
        raise ConfigError(result.problems)
    found = result.value
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    if name not in found:
        known = ", ".join(f"`{one}`" for one in found) or "none"
        text = f"there is no gateway `{name}`" if name else "which gateway? Name one"
        raise ConfigError([Problem(str(path), f"{text} (known: {known})")])
    return found[name]


def find_secret(reference: str) -> str:
    """Return the secret that `env:NAME` or `file:PATH` refers to. Raises ConfigError."""
    from holdfast.core.settings import Problem  # noqa: PLC0415 - for errors only

    kind, _, where = reference.partition(":")
    if kind == "env":
        value = os.environ.get(where, "")
    else:
        try:
            value = Path(where).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(
                [Problem(reference, f"it cannot be read ({error.strerror})")]
            ) from None
    if not value:
        raise ConfigError([Problem(reference, "there is no secret")])
    return value
