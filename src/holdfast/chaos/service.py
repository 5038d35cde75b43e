"""A listening socket with a life: started, numbered, and ended without leaving anything.

`Service` is what the proxy and the server have in common. It runs in the caller's event
loop (`async with`) or in one background thread with a loop of its own (`with`). At the end
every connection task is cancelled and awaited, so a stalled connection delays nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Final, Self, TypeVar

from holdfast.chaos.fault import Draws, Fault
from holdfast.chaos.line import abort, linger_not, undelivered
from holdfast.chaos.stats import Stats
from holdfast.runtime.clock import clock
from holdfast.runtime.random import SeededRandom

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from types import TracebackType

    from holdfast.runtime.clock import Timer

_T = TypeVar("_T")
_BACKLOG: Final = 1024
_THREAD_LIMIT: Final = 10.0  # seconds to start or end in the background; 10 ms is usual
_REUSE: Final = getattr(socket, "SO_REUSEPORT", None)


class Service:
    """The base of `Proxy` and `Server`; not of use by itself.

    host, port: where to listen; 0 picks a free port.  faults: see `use`.
    seed: all that is random comes from it.
    """

    def __init__(
        self, faults: Sequence[Fault], seed: int | str, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.seed = seed
        self.host = host
        self._port = port
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._faults = self._checked(faults)
        self._draws: list[Draws] = []
        self._stats = Stats()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reserve: socket.socket | None = None
        self._listener: socket.socket | None = None
        self._reopening: Timer | None = None
        self._open_now: dict[asyncio.Task[None], socket.socket] = {}
        self._failure: BaseException | None = None
        self._background: AbstractContextManager[Self] | None = None

    # -- what it is ------------------------------------------------------------------

    @property
    def port(self) -> int:
        """The port it listens on; the same after the end."""
        if not self._port:
            raise RuntimeError("not started yet: the port is not known")
        return self._port

    @property
    def address(self) -> str:
        """The host and port, as in a URL: `127.0.0.1:41234`."""
        host = f"[{self.host}]" if self._family == socket.AF_INET6 else self.host
        return f"{host}:{self.port}"

    @property
    def stats(self) -> Stats:
        """A snapshot of the counters. It holds all that a client has seen by now."""
        # Taken on the loop's thread: there, the step that sent the last byte is over.
        return self._on_loop(self._stats.snapshot)

    # -- what can be done to it while it runs ------------------------------------------

    def use(self, *faults: Fault) -> None:
        """Replace the faults, for connections (server: also requests) from now on.

        Numbers go on; limits, `since` and `until` of the new faults start now. Without
        arguments the trouble ends.
        """
        checked = self._checked(faults)
        self._on_loop(lambda: self._use(checked))

    def drop(self) -> None:
        """Reset every open connection now, as `ss -K` or a dying middlebox would."""
        self._on_loop(self._drop)

    def shut(self) -> None:
        """Close the port: connecting gives ECONNREFUSED. The number stays reserved."""
        self._on_loop(self._shut)

    def open(self) -> None:
        """Listen again after `shut`."""
        self._on_loop(self._open)

    # -- both faces --------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._loop is not None:
            raise RuntimeError(f"{type(self).__name__}: already running")
        self._loop = asyncio.get_running_loop()
        try:
            await self._prepare()
            self._bind()
        except BaseException:
            self._close_sockets()
            self._loop = None
            raise
        self._use(self._faults)
        self._open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._shut()
        tasks = list(self._open_now)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._close_sockets()
        self._loop = None
        if self._failure is not None and error is None:
            raise self._failure

    @contextlib.contextmanager
    def running(self) -> Iterator[Self]:
        """Run in a background thread for the time of the block, for code without a loop."""
        ready: Future[Callable[[], object]] = Future()
        done: Future[None] = Future()
        thread = threading.Thread(
            target=self._run, args=(ready, done), name=f"holdfast-{type(self).__name__.lower()}"
        )
        thread.start()
        try:
            end = ready.result(_THREAD_LIMIT)
            try:
                yield self
            finally:
                end()
        finally:
            thread.join(_THREAD_LIMIT)
        done.result(0)

    def __enter__(self) -> Self:
        background = self.running()
        value = background.__enter__()
        self._background = background
        return value

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        background, self._background = self._background, None
        if background is not None:
            background.__exit__(kind, error, trace)

    def _run(self, ready: Future[Callable[[], object]], done: Future[None]) -> None:
        async def main() -> None:
            async with self:
                stop = asyncio.Event()
                loop = asyncio.get_running_loop()
                ready.set_result(partial(loop.call_soon_threadsafe, stop.set))
                await stop.wait()

        try:
            asyncio.run(main())
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            (done if ready.done() else ready).set_exception(error)
        else:
            done.set_result(None)

    # -- for the subclasses --------------------------------------------------------------

    async def _prepare(self) -> None:
        """Do what must happen before the port opens."""

    async def _serve(self, client: socket.socket, number: int) -> None:
        """Serve one connection; `client` is closed afterwards in any case."""
        raise NotImplementedError

    def _checked(self, faults: Sequence[Fault]) -> tuple[Fault, ...]:
        """Raise TypeError or ValueError for a fault that cannot be done here."""
        for fault in faults:
            if not isinstance(fault, Fault):
                raise TypeError(f"{type(self).__name__}: {fault!r} is not a fault")
        return tuple(faults)

    def _use(self, faults: tuple[Fault, ...]) -> None:
        self._faults = faults
        self._draws = self._draws_for(faults, "faults")

    def _draws_for(self, faults: Sequence[Fault], name: str) -> list[Draws]:
        source = SeededRandom(self.seed).child(name)
        now = clock.monotonic()
        return [Draws(fault, source.child(str(i)), now) for i, fault in enumerate(faults)]

    def _refuse(self, client: socket.socket, seconds: float | None) -> None:
        self._stats.refused += 1
        if seconds is not None:  # first the port, so that who sees the reset finds it closed
            self._shut()
            loop = asyncio.get_running_loop()
            self._reopening = clock.call_later(loop, seconds, self._open)
        abort(client)

    # -- the port ------------------------------------------------------------------------

    def _bind(self) -> None:
        # A bound socket that does not listen keeps the number while the port is shut.
        # Without it a client's own ephemeral port could be this one, and TCP would
        # connect the client to itself.
        if _REUSE is not None:
            self._reserve = self._new_socket()
            self._reserve.bind((self.host, self._port))
            self._port = self._reserve.getsockname()[1]
        self._listener = self._listen()
        self._port = self._listener.getsockname()[1]

    def _listen(self) -> socket.socket:
        listener = self._new_socket()
        try:
            listener.bind((self.host, self._port))
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
        return listener

    def _new_socket(self) -> socket.socket:
        sock = socket.socket(self._family, socket.SOCK_STREAM)
        sock.settimeout(0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if _REUSE is not None:
            sock.setsockopt(socket.SOL_SOCKET, _REUSE, 1)
        return sock

    def _shut(self) -> None:
        if self._reopening is not None:
            self._reopening.cancel()
            self._reopening = None
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _open(self) -> None:
        if self._loop is None:
            raise RuntimeError(f"{type(self).__name__}: not running")
        self._listener = self._listener or self._listen()
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        # A callback, not a task in `sock_accept`: a task that is cancelled between the
        # accept and its next step loses the new socket.
        while self._listener is not None:
            try:
                client, _ = self._listener.accept()
            except (BlockingIOError, ConnectionError):
                return
            except OSError:  # out of descriptors: come back when some were given back
                loop = asyncio.get_running_loop()
                loop.remove_reader(self._listener)
                self._reopening = clock.call_later(loop, 0.02, self._open)
                return
            self._begin(client)

    # -- connections ---------------------------------------------------------------------

    def _begin(self, client: socket.socket) -> None:
        client.settimeout(0)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stats.connections += 1
        self._stats.open += 1
        serving = self._serve(client, self._stats.connections)
        task = asyncio.get_running_loop().create_task(serving)
        self._open_now[task] = client
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        # Here and not in the task: one that is cancelled before its first step runs no
        # `finally`.
        client = self._open_now.pop(task)
        # Megabytes may wait in our kernel when a client hangs up; they never were on the line.
        self._stats.bytes_lost += undelivered(client)
        client.close()
        self._stats.open -= 1
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not isinstance(error, OSError):
            # A defect of ours or of a route: not to be lost, so told at the end.
            self._failure = self._failure or error

    def _drop(self) -> None:
        for task, client in self._open_now.items():
            linger_not(client)
            task.cancel()

    def _close_sockets(self) -> None:
        for sock in (self._listener, self._reserve):
            if sock is not None:
                sock.close()
        self._listener = self._reserve = None

    def _on_loop(self, action: Callable[[], _T]) -> _T:
        """Run `action` on the loop's thread and return its result."""
        loop = self._loop
        if loop is None or _running_loop() is loop:
            return action()
        result: Future[_T] = Future()

        def act() -> None:
            try:
                result.set_result(action())
            except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
                result.set_exception(error)

        loop.call_soon_threadsafe(act)
        return result.result(_THREAD_LIMIT)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
