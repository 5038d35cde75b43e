"""Making a connection to an endpoint: look-up, the race of its addresses, TLS.

Only done when no kept connection is at hand. An address has a quarter of a second before the next
one is tried beside it (RFC 8305, 5), and one that failed or was overtaken comes last for a while.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import deque
from typing import TYPE_CHECKING, TypeVar

from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from holdfast.gateway.names import Names
    from holdfast.gateway.tls import Verified

    Made = asyncio.Task[tuple[asyncio.Transport, asyncio.Protocol]]

P = TypeVar("P", bound=asyncio.Protocol)

STAGGER = 0.25
MOST_ADDRESSES = 16
LAST_SECONDS = 60.0
"""An address that failed, or that another one overtook, is tried last for so long."""
_NO_ROUTE = {errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EHOSTUNREACH}


class Dialer:
    """Connects to one host and port. For the loop's thread.

    context: how it is verified; None for plain TCP.  name: what its certificate must say, and
    what it is told it is asked for (SNI).
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        names: Names,
        host: str,
        port: int,
        *,
        context: Verified | None = None,
        name: str = "",
    ) -> None:
        self.host = host
        self.port = port
        self._loop = loop
        self.names = names
        self._context = context
        self.name = name or host
        self._last: dict[str, float] = {}  # address -> until when it is tried last

    async def open(self, factory: Callable[[], P]) -> P:
        """Return a protocol on a new connection. Raises OSError (gaierror, SSLError too)."""
        try:
            found = await self.names.addresses(self.host, self.port)
            if len(found) > 1:
                return await self._secured(await self._race(found), factory)
            _, made = await self._loop.create_connection(
                factory,
                found[0],
                self.port,
                ssl=self._context,
                server_hostname=self.name if self._context is not None else None,
            )
        except OSError:  # a certificate that is refused is a ValueError, too
            if self._context is not None:
                self._context.forget(self.name)
            raise
        except ValueError as error:  # a name that cannot be put into a certificate's terms
            raise OSError(errno.EINVAL, str(error)) from None
        return made

    async def _race(self, found: list[str]) -> asyncio.Transport:
        """Return a TCP connection to the first address that answers."""
        now = clock.monotonic()
        late = {one for one, until in self._last.items() if now < until}
        waiting = deque(sorted(found, key=late.__contains__)[:MOST_ADDRESSES])
        running: dict[Made, str] = {}
        errors: list[OSError] = []
        try:
            while waiting or running:
                if waiting:
                    address = waiting.popleft()
                    task = self._loop.create_task(
                        self._loop.create_connection(asyncio.Protocol, address, self.port)
                    )
                    running[task] = address
                won = await self._first(running, errors, hurry=bool(waiting))
                if won is not None:
                    return won
        finally:
            for task in running:
                # Also one that ended in the same round as the winner.
                task.add_done_callback(_discard)
                task.cancel()
        raise _telling(errors)

    async def _first(
        self, running: dict[Made, str], errors: list[OSError], *, hurry: bool
    ) -> asyncio.Transport | None:
        """Wait for one to connect, all to fail or, if others wait, one failure or the stagger."""
        while running:
            done, _ = await asyncio.wait(
                running,
                timeout=STAGGER if hurry else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in [one for one in running if one in done]:
                address = running.pop(task)
                error = task.exception()
                if error is None:
                    self._last.pop(address, None)
                    self._put_last(running.values())
                    return task.result()[0]
                self._put_last((address,))
                if not isinstance(error, OSError):
                    raise error
                errors.append(error)
            if hurry:
                break
        return None

    def _put_last(self, addresses: Iterable[str]) -> None:
        now = clock.monotonic()
        self._last = {one: until for one, until in self._last.items() if now < until}
        self._last.update(dict.fromkeys(addresses, now + LAST_SECONDS))

    async def _secured(self, transport: asyncio.Transport, factory: Callable[[], P]) -> P:
        """Give a TCP connection to its protocol, after the handshake if there is one."""
        made = factory()
        if self._context is not None:
            secure = await self._loop.start_tls(
                transport, made, self._context, server_hostname=self.name
            )
            if secure is None:  # the peer left during the handshake (asyncio before 3.12)
                raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
            transport = secure
        else:
            transport.set_protocol(made)
        if transport.is_closing():  # it broke before anybody listened
            transport.abort()
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        made.connection_made(transport)
        return made


def _discard(task: Made) -> None:
    """Close a connection that nobody wants any more."""
    if not task.cancelled() and task.exception() is None:
        task.result()[0].abort()


def _telling(errors: list[OSError]) -> OSError:
    """Return the error that says most: a lack of IPv6 here says less than a refusal there."""
    told = [one for one in errors if one.errno not in _NO_ROUTE]
    return (told or errors)[-1]
