"""Where clients connect: sockets that are bound, inherited or handed over, and how they close.

The kernel accepts connections before we do and keeps them in a queue; closing the socket resets
them all. So an end has three steps: the kernel is told to ignore who begins to connect now (the
client tries again a second later, and is refused then, before it has sent anything), the queue
is emptied, and then the socket is closed.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import socket
import stat
import struct
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from holdfast.core.errors import HoldfastError
from holdfast.gateway.occupant import occupant_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Sequence

    from holdfast.gateway.config import Listen

BACKLOG = 1024
"""Connections in the kernel's queue at most; the kernel lowers it to `net.core.somaxconn`."""

FIRST_INHERITED = 3

_SO_ATTACH_FILTER = 26
# Classic BPF on the TCP header: byte 13 holds the flags; a SYN without ACK is dropped.
_NO_SYN = ((0x30, 0, 0, 13), (0x54, 0, 0, 0x12), (0x15, 0, 1, 2), (6, 0, 0, 0), (6, 0, 0, 1 << 31))


class CannotListen(HoldfastError, OSError):
    """An address cannot be listened at. listen: which one.  errno: as of the OSError."""

    code = "HF-3202"
    next_step = "Choose another address with `listen` or `--listen`, or end what has it."

    def __init__(self, listen: str, error: OSError) -> None:
        why = str(error)
        if error.errno and not isinstance(error, socket.gaierror):
            why = os.strerror(error.errno)  # without the address, which is named already
        port = listen.rpartition(":")[2]
        who = occupant_of(int(port)) if error.errno == errno.EADDRINUSE and port.isdigit() else ""
        if who:
            why += f", by {who}"
        super().__init__(f"`{listen}`: the address cannot be listened at: {why}")
        self.listen, self.errno, self._error = listen, error.errno, error

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.listen, self._error))


class Listeners:
    """The listening sockets of one process.

    factory: makes the protocol of a connection.  context: what clients are shown; None: no TLS.
    """

    def __init__(
        self,
        factory: Callable[[], asyncio.Protocol],
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._factory = factory
        self.context = context
        self._servers: list[asyncio.AbstractServer] = []
        self._handed: list[socket.socket] = []
        self._paths: list[str] = []

    def __bool__(self) -> bool:
        return bool(self._servers)

    @property
    def sockets(self) -> list[Any]:
        """All that are listening."""
        return [sock for server in self._servers for sock in getattr(server, "sockets", ())]

    async def bind(self, listens: Iterable[Listen]) -> None:
        """Listen at addresses. Raises CannotListen; then at none of them."""
        loop = asyncio.get_running_loop()
        for listen in listens:
            try:
                if listen.path:
                    server = await self._bind_path(loop, listen.path)
                else:
                    server = await loop.create_server(
                        self._factory,
                        listen.host,
                        listen.port,
                        ssl=self.context,
                        backlog=BACKLOG,
                    )
            except OSError as error:
                self.abort()
                raise CannotListen(str(listen), error) from None
            self._servers.append(server)

    async def _bind_path(
        self, loop: asyncio.AbstractEventLoop, path: str
    ) -> asyncio.AbstractServer:
        remove_dead(path)
        server = await loop.create_unix_server(
            self._factory, path, ssl=self.context, backlog=BACKLOG
        )
        self._paths.append(path)
        return server

    async def use(self, sock: socket.socket) -> asyncio.AbstractServer:
        """Listen at a socket that somebody else has bound and keeps open."""
        own = sock.dup()
        own.settimeout(0)
        loop = asyncio.get_running_loop()
        make: Any = loop.create_server
        more: dict[str, Any] = {}
        if sock.family == socket.AF_UNIX:
            make = loop.create_unix_server
            if sys.version_info >= (3, 13):
                more["cleanup_socket"] = False  # the name is for who has bound it to remove
        server: asyncio.AbstractServer = await make(
            self._factory, sock=own, ssl=self.context, backlog=BACKLOG, **more
        )
        self._servers.append(server)
        self._handed.append(sock)
        return server

    def leave(self, server: asyncio.AbstractServer) -> None:
        """Listen there no more; whoever else has the socket goes on."""
        if server in self._servers:
            self._servers.remove(server)
            server.close()

    async def close(self) -> None:
        """Take in who waits in the queues, then close them."""
        loop = asyncio.get_running_loop()
        queues = [sock.dup() for sock in self.sockets if hasattr(sock, "dup")]
        if not self._handed:
            for sock in queues:
                ignore_newcomers(sock)
        # asyncio accepts in one turn and makes the transport in the next, which fails if its
        # server was closed in between; so it is kept from accepting first.
        for sock in self.sockets if queues else ():
            loop.remove_reader(sock.fileno())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.abort()
        waiting = [one for sock in queues for one in _rest_of(sock)]
        await asyncio.gather(
            *(
                loop.connect_accepted_socket(self._factory, one, ssl=self.context)
                for one in waiting
            ),
            return_exceptions=True,  # a client that is gone already, or speaks no TLS
        )
        for sock in queues:
            sock.close()

    def abort(self) -> None:
        """Close them at once."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        for path in self._paths:
            with suppress(OSError):
                os.unlink(path)  # noqa: PTH108 - a socket, not a file of the seam
        self._paths.clear()


def ignore_newcomers(sock: socket.socket) -> None:
    """Let the kernel ignore who begins to connect; where it cannot, nothing changes."""
    if sys.platform != "linux" or sock.family == socket.AF_UNIX:
        return
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in _NO_SYN))
    program = struct.pack("HP", len(_NO_SYN), ctypes.addressof(code))
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def _rest_of(sock: socket.socket) -> list[socket.socket]:
    sock.settimeout(0)
    found: list[socket.socket] = []
    while True:
        try:
            one, _ = sock.accept()
        except InterruptedError:
            continue
        except OSError:  # nothing more, or no descriptor for it
            return found
        one.settimeout(0)
        found.append(one)


def bind_shared(listens: Iterable[Listen], count: int) -> list[list[socket.socket]]:
    """Return for each of `count` processes a socket at each address.

    The kernel deals connections out among the sockets of one port. A path has one socket, which
    all of them get. Raises CannotListen.
    """
    found: list[list[socket.socket]] = [[] for _ in range(count)]
    try:
        for listen in listens:
            try:
                made = _path_socket(listen.path) if listen.path else None
                if made is not None:
                    for sockets in found:
                        sockets.append(made)
                else:
                    _bind_ports(listen, found)
            except OSError as error:
                raise CannotListen(str(listen), error) from None
    except BaseException:
        for sock in {sock for sockets in found for sock in sockets}:
            sock.close()
        raise
    return found


def _bind_ports(listen: Listen, found: list[list[socket.socket]]) -> None:
    infos = socket.getaddrinfo(
        listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    for family, _, _, _, address in dict.fromkeys(infos):
        # Shared ports can be shared by strangers of the same user: one that is not shared
        # tells whether anybody has it.
        with _bound(family, address, shared=False) as probe:
            taken = probe.getsockname()
        for sockets in found:
            sock = _bound(family, taken, shared=True)
            sock.listen(BACKLOG)
            sockets.append(sock)


def _bound(family: int, address: Any, *, shared: bool) -> socket.socket:  # noqa: ANN401 - as the family has it
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _path_socket(path: str) -> socket.socket:
    remove_dead(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def remove_dead(path: str) -> None:
    """Remove a socket's name if nobody listens there. Raises OSError (EADDRINUSE) if one does."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return  # whoever binds will say so
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(1)
        try:
            sock.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)  # noqa: PTH108 - a socket, not a file of the seam
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def inherited() -> list[socket.socket]:
    """Return the listening sockets that a service manager has opened for this process.

    Source: sd_listen_fds(3). The variables are removed: they are not meant for children.
    """
    pid, count = os.environ.get("LISTEN_PID", ""), os.environ.get("LISTEN_FDS", "")
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    found = []
    for number in range(FIRST_INHERITED, FIRST_INHERITED + int(count)):
        os.set_inheritable(number, False)  # noqa: FBT003 - that is how it is called
        found.append(socket.socket(fileno=number))
    return found


def tell_manager(text: str) -> None:
    """Tell the service manager, if there is one: `READY=1`, `STOPPING=1`. Source: sd_notify(3)."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(text.encode(), "\0" + path[1:] if path.startswith("@") else path)


def address_of(sock: Any) -> str:  # noqa: ANN401 - a socket, or what a loop shows of one
    """Return a listening socket's address as people write it."""
    name = sock.getsockname()
    if isinstance(name, str | bytes):
        return f"unix:{os.fsdecode(name)}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"{host}:{name[1]}"


def first_port(sockets: Sequence[Any]) -> int:
    """Return the first port among listening sockets; 0 if all are paths."""
    for sock in sockets:
        name = sock.getsockname()
        if isinstance(name, tuple):
            return int(name[1])
    return 0
