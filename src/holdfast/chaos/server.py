"""An HTTP/1.1 server that misbehaves on purpose: for everything that a proxy cannot do.

It serves objects of any size (see `content`), answers calls, and applies faults to requests
or to connections. TLS and HTTP/2 are not its subject.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from holdfast.chaos.exchange import Exchange, Visit
from holdfast.chaos.fault import Fault, HttpFault
from holdfast.chaos.line import Cut, close_cleanly, linger_not
from holdfast.chaos.message import BadRequest, text_answer
from holdfast.chaos.reader import Reader
from holdfast.chaos.routes import Object, Route
from holdfast.chaos.service import Service
from holdfast.chaos.stats import KEPT

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from holdfast.chaos.fault import Draws
    from holdfast.chaos.message import Answer, Request
    from holdfast.chaos.stats import Entry


class Server(Service):
    """The running fault server; made by `server`."""

    def __init__(
        self,
        routes: Sequence[Route],
        faults: Sequence[Fault],
        *,
        seed: int | str = 0,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        super().__init__(faults, seed, host, port)
        self._per_connection: list[Draws] = []
        self._per_request: list[Draws] = []
        self._routes: list[Route] = []
        self._log: deque[Entry] = deque(maxlen=KEPT)
        for route in routes:
            self._check_route(route)
        self._given = tuple(routes)

    @property
    def routes(self) -> list[Route]:
        """The routes, in the order in which they are tried."""
        return list(self._routes)

    @property
    def log(self) -> list[Entry]:
        """The newest requests (at most 10,000), in order of arrival."""
        return self._on_loop(lambda: list(self._log))

    def url(self, path: str = "/") -> str:
        """Return the whole URL of `path`."""
        return f"http://{self.address}{path}"

    def add(self, route: Route) -> None:
        """Serve one more route; an earlier one that matches goes first."""
        self._check_route(route)
        self._on_loop(lambda: self._add(route))

    def route(self, path: str) -> Route:
        """Return the route that answers for `path`. Raises KeyError if none does."""
        found = self._find(path)
        if found is None:
            raise KeyError(path)
        return found

    def replace(self, path: str, size: int | None = None) -> int:
        """Put in the next version of an object; return its number."""
        found = self._object(path)
        return self._on_loop(lambda: found.replace(size))

    def expected_sha256(self, path: str, version: int | None = None) -> str:
        """Return the digest of what `path` serves, now or in the given version."""
        return self._object(path).content(path, version).sha256()

    def expected_bytes(
        self, path: str, start: int = 0, stop: int | None = None, version: int | None = None
    ) -> bytes:
        """Return the bytes [start, stop) of what `path` serves."""
        return self._object(path).content(path, version).read(start, stop)

    def _object(self, path: str) -> Object:
        found = self.route(path)
        if not isinstance(found, Object):
            raise TypeError(f"{path}: {type(found).__name__} is not an object")
        return found

    # -- inside --------------------------------------------------------------------------

    async def _prepare(self) -> None:
        for route in self._given:
            self._add(route)

    def _check_route(self, route: Route) -> None:
        if not isinstance(route, Route):
            raise TypeError(f"{route!r} is not a route")
        for fault in self._checked(route.faults):
            if fault.per == "connection":
                name = type(fault).__name__
                raise ValueError(f"{name}: per: a route sees requests; give it to the server")

    def _checked(self, faults: Sequence[Fault]) -> tuple[Fault, ...]:
        checked = super()._checked(faults)
        for fault in checked:
            name = type(fault).__name__
            if fault.direction == "up":
                raise ValueError(f"{name}: direction: the server hurts what it sends; use a proxy")
            if isinstance(fault, HttpFault) and fault.per == "connection":
                raise ValueError(f"{name}: per: it is about a request")
        return checked

    def _use(self, faults: tuple[Fault, ...]) -> None:
        super()._use(faults)
        self._per_connection = [d for d in self._draws if d.fault.per == "connection"]
        self._per_request = [d for d in self._draws if d.fault.per == "request"]

    def _add(self, route: Route) -> None:
        route.begin(self.seed, self._draws_for(route.faults, f"route {route.path}"))
        self._routes.append(route)

    def _find(self, path: str) -> Route | None:
        return next((route for route in self._routes if route.matches(path)), None)

    async def _serve(self, client: socket.socket, number: int) -> None:
        visit = Visit(client, number, self._stats, partial(self._refuse, client))
        visit.draw(self._per_connection)
        if visit.refused:
            return
        try:
            await self._serve_requests(visit)
        except Cut as cut:
            if cut.how == "fin":
                await close_cleanly(client)
            else:
                linger_not(client)
        except BadRequest as error:
            refused = text_answer(error.status, f"{error}\n")
            refused.close = True
            await visit.line("down").write_all(refused.head())
            await visit.line("down").write_all(f"{error}\n".encode())
            await close_cleanly(client)

    async def _serve_requests(self, visit: Visit) -> None:
        reader = Reader(visit.client)
        idle: float | None = None
        while True:
            try:
                async with asyncio.timeout(idle):
                    request = await reader.request(partial(_proceed, visit))
            except TimeoutError:
                return  # idle too long: the socket is closed as it is, whatever is arriving
            if request is None:
                return
            answer = await self._exchange(visit, request)
            if answer.close:
                raise Cut("fin")
            idle = answer.close_idle

    async def _exchange(self, visit: Visit, request: Request) -> Answer:
        self._stats.requests += 1
        request.number = self._stats.requests
        request.connection = visit.number
        route = self._find(request.path)
        if route is not None:
            route.requests += 1
        exchange = Exchange(visit, request, route)
        self._log.append(exchange.entry)
        try:
            return await exchange.run(self._per_request)
        finally:
            self._failure = self._failure or exchange.failure


async def _proceed(visit: Visit) -> None:
    with contextlib.suppress(OSError):
        await visit.line("down").write_all(b"HTTP/1.1 100 Continue\r\n\r\n")


def server(
    *routes: Route,
    faults: Sequence[Fault] = (),
    seed: int | str = 0,
    host: str = "127.0.0.1",
    port: int = 0,
) -> Server:
    """Return a fault server for these routes, to be entered.

    `with server(...) as s` runs it in a background thread, `async with` in this event loop.
    Then `s.url("/path")`, `s.stats`, `s.log`, `s.expected_sha256("/path")`, `s.replace(...)`,
    `s.use(*faults)`.

    routes: `Object`, `Call`, `Redirect`, `Handler`; the first that matches answers, else 404.
    faults: for all routes, and for connections (`per="connection"`); a route can have its own.
    seed: same seed, same objects, and same faults for the same number of request or connection.
    host, port: where to listen; 0 picks a free port. Raises OSError if that fails.
    """
    return Server(routes, faults, seed=seed, host=host, port=port)
