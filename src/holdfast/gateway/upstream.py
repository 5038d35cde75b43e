"""One endpoint as the gateway knows it: its configuration, its credentials, its connections."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from holdfast.gateway.connection import Asker, Connection, Dial
from holdfast.gateway.dial import Dialer
from holdfast.gateway.headers import Route, route
from holdfast.gateway.pool import Pool
from holdfast.gateway.tls import endpoint_context

if TYPE_CHECKING:
    import asyncio
    from collections import deque
    from collections.abc import Sequence

    from holdfast.core.balance import Endpoint
    from holdfast.gateway.config import EndpointConfig
    from holdfast.gateway.keepalive import Lifetime
    from holdfast.gateway.names import Names
    from holdfast.runtime.wheel import Wheel

__all__ = ["Asker", "Connection", "Dial", "Upstream"]

KEY_FIELDS = {"x-api-key": "{}", "api-key": "{}", "authorization": "Bearer {}"}


class Upstream:
    """One endpoint and its connections. For the loop's thread.

    endpoint: what the balancer knows of it.  keys: the credentials, as many as its health has.
    first_look: seconds after which a request without an answer is looked at first.
    pool: its connections; after a reload it is that of the endpoint before, if they are alike.
    Raises ConfigError for a `ca_file` that cannot be used.
    """

    def __init__(
        self,
        config: EndpointConfig,
        endpoint: Endpoint,
        keys: Sequence[str],
        loop: asyncio.AbstractEventLoop,
        wheel: Wheel,
        names: Names,
        *,
        credentials: bool,
    ) -> None:
        parts = urlsplit(config.url)
        secure = parts.scheme == "https"
        host = parts.hostname or ""
        self.config = config
        self.endpoint = endpoint
        self.name = endpoint.id.encode("latin-1")
        self.keys = tuple(keys)
        self.first_look = math.inf
        dialer = Dialer(
            loop,
            names,
            host,
            parts.port or (443 if secure else 80),
            context=endpoint_context(config) if secure else None,
            name=urlsplit(f"//{config.host}").hostname or host,
        )
        self.pool = Pool(
            loop, wheel, dialer, most=config.max_connections, keepalive=config.keepalive
        )
        shown = config.host or parts.netloc
        self.routes = tuple(
            self._route(shown, parts.path, key, credentials=credentials) for key in keys or [""]
        )

    def _route(self, host: str, base: str, key: str, *, credentials: bool) -> Route:
        field: tuple[str, str] | None = None
        if key:
            name = {"auto": self._usual_field(), "bearer": "authorization"}.get(
                self.config.key_header, self.config.key_header
            )
            field = (name, KEY_FIELDS[name].format(key))
        return route(
            host=host, base=base, key=field, headers=self.config.headers, credentials=credentials
        )

    def _usual_field(self) -> str:
        return "x-api-key" if self.pool.dialer.host.endswith("anthropic.com") else "authorization"

    @property
    def server(self) -> tuple[object, ...]:
        """Where its connections lead, and how they are verified."""
        dialer, config = self.pool.dialer, self.config
        secure = config.url.startswith("https:")
        how = (dialer.name, config.verify, config.ca_file) if secure else ()
        return secure, dialer.host, dialer.port, *how

    # -- connections -----------------------------------------------------------------------------

    def take(self, now: float, *, careful: bool) -> Connection | None:
        """Return an idle connection that is young enough: see `Pool.take`."""
        return self.pool.take(now, careful=careful)

    def connect(self, asker: Asker) -> None:
        """Make a connection for one who wants it, or put it into the line for one."""
        self.pool.connect(asker)

    @property
    def lifetime(self) -> Lifetime:
        """What is known of how long idle connections live."""
        return self.pool.lifetime

    @property
    def waiting(self) -> deque[Dial]:
        """Who waits for a place in the pool."""
        return self.pool.waiting

    @property
    def reused(self) -> int:
        """How often a kept connection was used."""
        return self.pool.reused

    @property
    def connections(self) -> tuple[int, int]:
        """How many are open, and how many of them idle."""
        return self.pool.connections

    # -- another configuration -------------------------------------------------------------------

    def succeed(self, before: Upstream) -> None:
        """Go on with the connections of the endpoint whose place this one takes.

        Requests of the configuration before share them until they are over. Certificates that
        are trusted are read anew, for the connections that are made from now on.
        """
        if self.server != before.server:
            before.retire()
            return
        pool, dialer = before.pool, self.pool.dialer
        self.pool.close()
        self.pool = pool
        pool.retune(dialer, most=self.config.max_connections, keepalive=self.config.keepalive)

    def retire(self) -> None:
        """Let requests under way end, and keep no connection any more."""
        self.pool.retire()

    def close(self) -> None:
        """End all connections."""
        self.pool.close()
