"""A TCP proxy that breaks connections on purpose, in front of any server.

    client --- up ---> proxy --- up ---> upstream
    client <-- down -- proxy <-- down -- upstream

It knows nothing of HTTP or TLS: it counts bytes. What happens to connection number n
follows from the seed and from n.
"""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import TYPE_CHECKING, Final

from holdfast.chaos.fault import Fault, HttpFault
from holdfast.chaos.line import Cut, Line, Plain, Track, close_cleanly, linger_not
from holdfast.chaos.service import Service
from holdfast.chaos.target import Struck
from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from holdfast.chaos.fault import Direction, Positioned
    from holdfast.chaos.stats import Stats

_PORTION: Final = 256 * 1024
_LATE_PORTIONS: Final = 32  # on their way at once under `Latency`: at most 8 MiB
Address = str | int | tuple[str, int]


class Proxy(Service):
    """The running fault proxy; made by `proxy`."""

    def __init__(
        self,
        upstream: Address,
        faults: Sequence[Fault],
        *,
        seed: int | str = 0,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        super().__init__(faults, seed, host, port)
        self._upstream = parse_address(upstream)
        self._resolved: tuple[int, tuple[str, int]] | None = None

    def redirect(self, upstream: Address) -> None:
        """Send connections from now on to another server. Numeric addresses only."""
        target = parse_address(upstream)
        family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
        socket.inet_pton(family, target[0])
        self._resolved = family, target

    def _checked(self, faults: Sequence[Fault]) -> tuple[Fault, ...]:
        for fault in faults:
            if isinstance(fault, HttpFault):
                raise TypeError(f"{type(fault).__name__} speaks HTTP: use it at `chaos.server`")
        return super()._checked(faults)

    async def _prepare(self) -> None:
        """Resolve the upstream once: a name must not cost each connection a look-up."""
        host, port = self._upstream
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, _, _, _, address = found[0]
        self._resolved = family, (str(address[0]), int(address[1]))

    async def _serve(self, client: socket.socket, number: int) -> None:
        if self._resolved is None:
            raise RuntimeError("the upstream was not resolved")
        family, address = self._resolved
        with socket.socket(family, socket.SOCK_STREAM) as upstream:
            upstream.settimeout(0)
            turn_away = partial(self._refuse, client)
            link = _Link(client, upstream, number, self._stats, turn_away)
            link.draw(self._draws)
            if link.refused:
                return
            try:
                await asyncio.get_running_loop().sock_connect(upstream, address)
                upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                await _together(
                    _pump(client, link.line("up"), link.tracks["up"]),
                    _pump(upstream, link.line("down"), link.tracks["down"]),
                )
            except Cut as cut:
                if cut.how == "fin":
                    await close_cleanly(client)
                else:
                    linger_not(client)
                    linger_not(upstream)
            except OSError:
                # One side was reset, or the upstream refused: tell the other the same.
                linger_not(client)
                linger_not(upstream)


class _Link(Struck):
    """One connection with its two lines."""

    def __init__(
        self,
        client: socket.socket,
        upstream: socket.socket,
        number: int,
        stats: Stats,
        turn_away: Callable[[float | None], None],
    ) -> None:
        super().__init__(number, stats, turn_away)
        self.tracks: dict[Direction, Track] = {"down": Track(), "up": Track()}
        self.lines["down"] = Line(client, client, self._went_down)
        self.lines["up"] = Line(upstream, client, self._went_up)

    def track(self, fault: Positioned) -> Track:
        """Return the byte count of the fault's direction."""
        return self.tracks[fault.direction]

    def _went_down(self, count: int) -> None:
        self.stats.bytes_down += count

    def _went_up(self, count: int) -> None:
        self.stats.bytes_up += count


async def _pump(source: socket.socket, line: Line, track: Track) -> None:
    """Carry bytes from `source` to `line` until its end, then pass the end on."""
    if line.delay is not None:
        await _pump_late(source, line, track, line.delay)
        return
    loop = asyncio.get_running_loop()
    buffer = bytearray(_PORTION)
    plain = Plain(buffer)
    while count := await loop.sock_recv_into(source, buffer):
        await line.send(plain, 0, count, (track,))
    await line.finish()


async def _pump_late(
    source: socket.socket, line: Line, track: Track, delay: Callable[[], float]
) -> None:
    """Carry bytes with a delay; what is on its way does not hold up what follows."""
    loop = asyncio.get_running_loop()
    on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_LATE_PORTIONS)

    async def depart() -> None:
        data = b"-"
        while data:
            data = await loop.sock_recv(source, _PORTION)
            await on_the_way.put((clock.monotonic() + delay(), data))

    async def arrive() -> None:
        # The queue keeps the order, so a portion with less delay waits for its predecessor.
        while True:
            due, data = await on_the_way.get()
            await clock.asleep(max(0.0, due - clock.monotonic()))
            if not data:
                break
            await line.send(Plain(data), 0, len(data), (track,))
        await line.finish()

    await _together(depart(), arrive())


async def _together(*parts: Coroutine[None, None, None]) -> None:
    """Run all parts; the first error ends the others and is raised.

    A TaskGroup would wrap it in an ExceptionGroup, of which only the first matters here.
    """
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(part) for part in parts]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        failed = [task for task in tasks if task.done() and not task.cancelled()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in failed:
        task.result()


def parse_address(address: Address) -> tuple[str, int]:
    """Return host and port of `"host:port"`, `"[::1]:port"`, a port, or a pair.

    Raises ValueError if it is none of these.
    """
    if isinstance(address, int):
        host, port = "127.0.0.1", address
    elif isinstance(address, tuple):
        host, port = address
    else:
        host, colon, digits = address.rpartition(":")
        if not (colon and host and digits.isascii() and digits.isdigit()):
            raise ValueError(f"address: {address!r} is not host:port")
        host, port = host.removeprefix("[").removesuffix("]"), int(digits)
    if not 0 < port < 65536:
        raise ValueError(f"address: port {port} is not in [1, 65535]")
    return host, port


def proxy(
    upstream: Address,
    *faults: Fault,
    seed: int | str = 0,
    host: str = "127.0.0.1",
    port: int = 0,
) -> Proxy:
    """Return a fault proxy in front of `upstream`, to be entered.

    `async with proxy(...) as p` runs it in this event loop, `with proxy(...).running() as p`
    (or plain `with`) in a background thread. Then `p.port`, `p.address`, `p.stats`, and
    `p.use(*faults)`, `p.drop()`, `p.shut()`, `p.open()` to change things while it runs.

    upstream: `"host:port"`, `(host, port)`, or the port of a local server.
    faults: tried in this order for every connection; see `Reset`, `Stall`, `Slow`, ...
    seed: same seed, same faults for the same connection number.
    host, port: where to listen; 0 picks a free port.
    Raises OSError if it cannot listen, or if the name of the upstream is not found.
    """
    return Proxy(upstream, faults, seed=seed, host=host, port=port)
