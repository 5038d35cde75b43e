"""An in-memory network for `SimLoop`: names, servers, connections, and what goes wrong.

Unmodified asyncio code runs on it: `open_connection`, `start_server`, `create_connection`,
`create_server`, `getaddrinfo`.

    network.host("api.test", "10.0.0.1")
    await asyncio.start_server(serve, "api.test", 80)
    reader, writer = await asyncio.open_connection("api.test", 80)

Faults come from `Faults` at three points: "dns" (each look-up), "connect" (each attempt to
connect) and "stream" (each connection that came up). Where `zones` names a zone for a host or an
address, its points are "ZONE/dns" and so on: one server can be worse than another.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
from typing import TYPE_CHECKING, Any

from holdfast.testing.tcp import STREAM_KINDS, Connection, Link, SimTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.testing.faults import Decision, Faults
    from holdfast.testing.loop import SimLoop
    from holdfast.testing.trace import Trace

DNS_KINDS = ("dns_fail", "dns_none", "dns_changed")
"""dns_fail: EAI_AGAIN.  dns_none: EAI_NONAME.  dns_changed: an address where nobody answers."""

CONNECT_KINDS = ("refuse", "blackhole", "slow_connect")
"""refuse: ECONNREFUSED.  blackhole: nothing comes back.  slow_connect: it takes seconds."""

KINDS = {"dns": DNS_KINDS, "connect": CONNECT_KINDS, "stream": STREAM_KINDS}
"""All faults of the network by the point where they are drawn."""

CONNECT_SECONDS = 130.0
"""How long Linux tries to connect before ETIMEDOUT (tcp_syn_retries = 6)."""

NOWHERE = "192.0.2.1"
"""An address of TEST-NET-1 (RFC 5737): a changed DNS answer points there."""

_ANY = ("0.0.0.0", "::", "")  # noqa: S104 - simulated


class SimNetwork:
    """All hosts, listening servers and connections of one simulated loop.

    link: latency, bandwidth and window of connections made from now on.
    faults: what goes wrong; None for a perfect network.
    reach: the byte at which a stream fault strikes is log-uniform in [0, reach).
    zones: host or address -> name of the zone whose faults it has.
    """

    def __init__(
        self,
        loop: SimLoop,
        *,
        faults: Faults | None = None,
        trace: Trace | None = None,
        link: Link | None = None,
        reach: int = 65536,
    ) -> None:
        self.loop = loop
        self.faults = faults
        self.link = link or Link()
        self.reach = reach
        self.connections = 0
        self.zones: dict[str, str] = {}
        self._trace = trace
        self._names: dict[str, tuple[str, ...]] = {"localhost": ("127.0.0.1",)}
        self._servers: dict[tuple[str, int], SimServer] = {}
        self._open: dict[SimTransport, None] = {}
        self._ports = 49151

    # -- names ---------------------------------------------------------------------------------

    def host(self, name: str, *addresses: str) -> None:
        """Let `name` resolve to `addresses`, in this order; none takes the name away."""
        if addresses:
            self._names[name] = addresses
        else:
            self._names.pop(name, None)

    async def getaddrinfo(self, host: str, port: int) -> list[tuple[Any, ...]]:
        """Resolve as `socket.getaddrinfo` would, for TCP."""
        return [
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                socket.SOCK_STREAM,
                socket.IPPROTO_TCP,
                "",
                (address, int(port)),
            )
            for address in await self._resolve(host)
        ]

    async def _resolve(self, host: str) -> tuple[str, ...]:
        if _is_address(host):
            return (host,)
        await asyncio.sleep(self.link.latency)
        fault = self._fault("dns", host)
        if fault is not None and fault.kind == "dns_fail":
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        if fault is not None and fault.kind == "dns_changed":
            return (NOWHERE,)
        addresses = self._names.get(host)
        if addresses is None or fault is not None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return addresses

    # -- servers -------------------------------------------------------------------------------

    def listen(
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], host: str, port: int
    ) -> SimServer:
        """Return a server bound to the addresses of `host`; port 0 picks a free one."""
        if host in _ANY:
            addresses: tuple[str, ...] = (_ANY[0],)
        elif _is_address(host):
            addresses = (host,)
        elif host in self._names:
            addresses = self._names[host]
        else:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        port = port or self._next_port()
        for address in addresses:
            if (address, port) in self._servers:
                raise OSError(errno.EADDRINUSE, f"address already in use: {address}:{port}")
        server = SimServer(self, protocol_factory, [(address, port) for address in addresses])
        self._servers.update(dict.fromkeys(server.addresses, server))
        return server

    def unbind(self, server: SimServer) -> None:
        """Free the addresses of `server`."""
        for address in server.addresses:
            self._servers.pop(address, None)

    def _server_at(self, address: str, port: int) -> SimServer | None:
        found = self._servers.get((address, port)) or self._servers.get((_ANY[0], port))
        return found if found is not None and found.is_serving() else None

    def _known(self, address: str) -> bool:
        return (
            any(address in addresses for addresses in self._names.values())
            or any(address == bound for bound, _ in self._servers)
            or ipaddress.ip_address(address).is_loopback
        )

    # -- connections ---------------------------------------------------------------------------

    async def connect(
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], host: str, port: int
    ) -> tuple[SimTransport, asyncio.BaseProtocol]:
        """Connect to the first address of `host` that answers.

        Raises what `loop.create_connection` raises: gaierror, OSError with its errno.
        """
        addresses = [(address, port) for address in await self._resolve(host)]
        return (await self.dial(addresses)).start(protocol_factory)

    async def dial(self, addresses: Sequence[tuple[str, int]]) -> SimSocket:
        """Connect to the first of `addresses` that answers; nobody talks on it yet."""
        errors: list[OSError] = []
        for address, port in addresses:
            try:
                connection = await self._handshake(address, port)
            except OSError as error:
                errors.append(error)
                continue
            return SimSocket(connection.client.get_extra_info("sockname"), connection)
        if len({str(error) for error in errors}) == 1:
            raise errors[0]
        raise OSError("Multiple exceptions: " + ", ".join(str(error) for error in errors))

    async def _handshake(self, address: str, port: int) -> Connection:
        fault = self._fault("connect", address)
        kind = fault.kind if fault is not None else ""
        no = self.connections = self.connections + 1
        self.note("syn", no, address, port, kind)
        if kind == "blackhole" or not self._known(address):
            await asyncio.sleep(CONNECT_SECONDS)
            raise _connect_error(errno.ETIMEDOUT, address, port)
        if fault is not None and kind == "slow_connect":
            await asyncio.sleep(0.1 * 300**fault.x)
        await asyncio.sleep(self.link.latency)
        server = self._server_at(address, port)
        if kind == "refuse" or server is None:
            await asyncio.sleep(self.link.latency)
            raise _connect_error(errno.ECONNREFUSED, address, port)
        ends = (("10.255.0.1", self._next_port()), (address, port))
        connection = Connection(self, no, self.link, ends)
        fault = self._fault("stream", address)
        if fault is not None:
            connection.fault(fault, self.reach)
        server.accept(connection.server)
        try:
            await asyncio.sleep(self.link.latency)
        except BaseException:
            connection.client.abort()  # the caller left during the handshake
            raise
        return connection

    def _fault(self, point: str, where: str) -> Decision | None:
        if self.faults is None:
            return None
        zone = self.zones.get(where)
        return self.faults.at(f"{zone}/{point}" if zone else point, self.loop.time())

    def _next_port(self) -> int:
        self._ports = self._ports + 1 if self._ports < 65535 else 49152
        return self._ports

    # -- records -------------------------------------------------------------------------------

    def note(self, *what: object) -> None:
        """Put an entry with the time into the trace."""
        if self._trace is not None:
            self._trace.add("net", self.loop.time(), *what)

    def opened(self, transport: SimTransport) -> None:
        """Remember a transport that its protocol knows."""
        self._open[transport] = None

    def closed(self, transport: SimTransport) -> None:
        """Forget a transport whose protocol is told that it is lost."""
        self._open.pop(transport, None)

    def left(self) -> list[str]:
        """Return the transports that are still open and the servers that still listen."""
        servers = [f"<SimServer {address}:{port}>" for address, port in self._servers]
        return [repr(transport) for transport in self._open] + servers

    def close_servers_ends(self) -> None:
        """Close the server's end of every connection, as when all servers stop."""
        for transport in list(self._open):
            if transport is transport.connection.server:
                transport.close()

    def abort_all(self) -> None:
        """Reset every connection: the end of the world."""
        for transport in list(self._open):
            transport.abort()

    def left_by_clients(self) -> list[str]:
        """Return the client ends that nobody has closed yet."""
        return [
            repr(transport)
            for transport in self._open
            if transport is transport.connection.client and not transport.is_closing()
        ]


class SimServer(asyncio.AbstractServer):
    """A listening server of the simulated network; the interface is asyncio's."""

    def __init__(
        self,
        network: SimNetwork,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        addresses: list[tuple[str, int]],
    ) -> None:
        self.addresses = addresses
        self._network = network
        self._factory = protocol_factory
        self._serving = self._closed = False
        self._clients: dict[SimTransport, None] = {}
        self._forever: asyncio.Future[None] | None = None
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def sockets(self) -> tuple[SimSocket, ...]:
        """What `asyncio.Server.sockets` is used for: to learn the port."""
        return () if self._closed else tuple(SimSocket(address) for address in self.addresses)

    def get_loop(self) -> SimLoop:
        """Return the loop."""
        return self._network.loop

    def is_serving(self) -> bool:
        """Return whether connections are accepted."""
        return self._serving

    async def start_serving(self) -> None:
        """Accept connections from now on."""
        if not self._closed:
            self._serving = True

    async def serve_forever(self) -> None:
        """Accept connections until cancelled or closed."""
        await self.start_serving()
        self._forever = self._network.loop.create_future()
        try:
            await self._forever
        finally:
            self._forever = None
            self.close()

    def close(self) -> None:
        """Stop accepting. Connections that are up stay."""
        if self._closed:
            return
        self._closed, self._serving = True, False
        self._network.unbind(self)
        self._wake()
        if self._forever is not None and not self._forever.done():
            self._forever.cancel()

    def close_clients(self) -> None:
        """Close the connections that are up."""
        for transport in list(self._clients):
            transport.close()

    def abort_clients(self) -> None:
        """Reset the connections that are up, as when the process dies."""
        for transport in list(self._clients):
            transport.abort()

    async def wait_closed(self) -> None:
        """Return when the server is closed and its connections are gone (as Python 3.12 does)."""
        while not self._closed or self._clients:
            waiter = self._network.loop.create_future()
            self._waiters.append(waiter)
            await waiter

    def accept(self, transport: SimTransport) -> None:
        """Take a new connection."""
        self._clients[transport] = None
        transport.on_lost = self._client_lost
        try:
            transport.start(self._factory())
        except Exception as error:  # noqa: BLE001 - as asyncio: report, drop the connection
            self._network.loop.call_exception_handler(
                {"message": "Error on transport creation", "exception": error}
            )
            transport.abort()

    def _client_lost(self, transport: SimTransport) -> None:
        self._clients.pop(transport, None)
        self._wake()

    def _wake(self) -> None:
        """Let everybody in `wait_closed` look again."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def __repr__(self) -> str:
        return f"<SimServer {self.addresses}>"


class SimSocket:
    """The little of a socket that programs ask for: of a listening one, or a connected one."""

    family = socket.AF_INET
    type = socket.SOCK_STREAM

    def __init__(self, name: tuple[str, int], connection: Connection | None = None) -> None:
        self._name = name
        self._connection = connection

    def getsockname(self) -> tuple[str, int]:
        """Return the address and the port."""
        return self._name

    def start(
        self, protocol_factory: Callable[[], asyncio.BaseProtocol]
    ) -> tuple[SimTransport, asyncio.BaseProtocol]:
        """Let a protocol talk over the connection."""
        assert self._connection is not None  # noqa: S101 - only `dial` makes connected ones
        transport, protocol = self._connection.client, protocol_factory()
        transport.start(protocol)
        return transport, protocol

    def close(self) -> None:
        """Give up a connection on which nobody talks."""
        if self._connection is not None:
            self._connection.client.abort()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _connect_error(number: int, address: str, port: int) -> OSError:
    text = f"Connect call failed ({address!r}, {port}): {os.strerror(number)}"
    return OSError(number, text)  # the subclass (ConnectionRefusedError, ...) follows the number
