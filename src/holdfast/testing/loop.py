"""A deterministic asyncio event loop in virtual time.

How it works: asyncio's own `BaseEventLoop` keeps its ready queue and its timers; it asks a
selector to wait for I/O "until the next timer". Ours has no I/O, so `select` moves the clock to
that timer instead and returns. Nothing ready and no timer is a deadlock, said at once with the
stack of every task, where a real loop would hang for ever.

Determinism: `asyncio.TaskGroup` and `asyncio.wait` keep tasks in sets, and the order in which a
set yields its members follows their hashes, which by default are addresses. So tasks and
futures of this loop hash to a counter. Threads would bring back the scheduler of the machine, so
`run_in_executor` runs its function at once, on the spot. `asyncio.as_completed(coroutines)` is
the one trap left: it puts bare coroutines into a set before the loop sees them; give it tasks.
"""

from __future__ import annotations

import asyncio
import math
import types
from typing import TYPE_CHECKING, Any, NoReturn

from holdfast.testing.virtual import VirtualClock

if TYPE_CHECKING:
    import socket
    from collections import deque
    from collections.abc import Callable, Coroutine, Generator, Iterator

    from holdfast.testing.network import SimNetwork


class SimDeadlock(RuntimeError):
    """Nothing is ready and nothing is scheduled: all tasks wait for ever.

    stacks: one text per task, outermost frame first.
    """

    def __init__(self, why: str, stacks: list[str]) -> None:
        super().__init__("\n".join([why, *stacks]))
        self.stacks = stacks


class SimTimeout(RuntimeError):
    """The simulated time or the number of loop steps exceeded the limit of the run."""


class SimTask(asyncio.Task[Any]):
    """A task that hashes to its number, so that sets of tasks have one order."""

    __slots__ = ("number",)

    def __init__(
        self,
        coro: Generator[Any, None, Any] | Coroutine[Any, Any, Any],
        *,
        loop: SimLoop,
        **options: Any,
    ) -> None:
        # Before the base class: it adds the task to a WeakSet, which asks for the hash.
        self.number = loop.next_number()
        if options.get("name") is None:
            options["name"] = f"sim-{self.number}"
        super().__init__(coro, loop=loop, **options)

    def set_name(self, value: object) -> None:
        """Keep our name if asyncio sets none: Python 3.13.0 calls this with None."""
        if value is not None:
            super().set_name(value)

    def __hash__(self) -> int:
        return self.number


class SimFuture(asyncio.Future[Any]):
    """A future that hashes to its number."""

    __slots__ = ("number",)

    def __init__(self, *, loop: SimLoop) -> None:
        self.number = loop.next_number()
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.number


class _VirtualSelector:
    """Stands where asyncio expects a selector; waiting is moving the clock."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> tuple[()]:
        self._loop.step(idle=timeout is None or timeout > 0)
        return ()

    def close(self) -> None:
        """There is nothing to close."""


class SimLoop(asyncio.BaseEventLoop):
    """An event loop whose time is `clock` and whose network is `network`.

    clock: a `VirtualClock`; a fresh one by default.
    horizon: SimTimeout beyond this many virtual seconds (default: ten years).
    max_steps: SimTimeout beyond this many loop steps; finds loops that spin without time.
    on_step: called with the number of each step before it runs; a sweep cancels from here.
    """

    # What asyncio keeps, for the type checker.
    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]

    def __init__(
        self,
        clock: VirtualClock | None = None,
        *,
        horizon: float = 3.2e8,
        max_steps: int = 50_000_000,
    ) -> None:
        super().__init__()
        self.clock = clock or VirtualClock()
        self.horizon = horizon
        self.max_steps = max_steps
        self.steps = 0
        self.on_step: Callable[[int], object] | None = None
        self.unhandled: list[str] = []
        self._numbers = 0
        self._network: SimNetwork | None = None
        self._selector = _VirtualSelector(self)
        self.set_task_factory(_task_factory)
        self.set_exception_handler(_note_unhandled)

    # -- time -----------------------------------------------------------------------------

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self.clock.monotonic()

    @property
    def _clock_resolution(self) -> float:
        # asyncio runs a timer if when < now + resolution. Past about 10**7 s one nanosecond is
        # less than the distance of two floats, and a due timer would never run.
        return max(1e-9, 2 * math.ulp(self.clock.monotonic()))

    @_clock_resolution.setter
    def _clock_resolution(self, _: float) -> None:
        """Ignore it: asyncio sets what the machine's clock has; ours differs."""

    def step(self, *, idle: bool) -> None:
        """Count one round of the loop; if it is idle, move time to the next timer."""
        self.steps += 1
        if self.on_step is not None:
            self.on_step(self.steps)
            idle = idle and not self._ready
        if self.steps > self.max_steps:
            raise SimTimeout(f"{self.max_steps} loop steps at t={self.time():.6f} s")
        if idle:
            self._move()

    def _move(self) -> None:
        # asyncio has dropped cancelled timers from the head before it asked us to wait.
        if not self._scheduled:
            raise SimDeadlock(
                f"deadlock at t={self.time():.6f} s: nothing is ready and nothing is scheduled",
                list(self.stacks()),
            )
        when: float = self._scheduled[0].when()
        if not self.clock.auto:
            raise SimDeadlock(
                f"all tasks wait until t={when:.6f} s, but the clock is moved by hand "
                "(auto=False) and nobody is left to do it",
                list(self.stacks()),
            )
        if when > self.horizon:
            raise SimTimeout(f"the next timer, t={when:.6f} s, lies beyond {self.horizon} s")
        self.clock.move_to(when)

    def next_timer(self) -> float | None:
        """Return when the next timer is due, in seconds of `time()`; None if there is none."""
        times = [handle.when() for handle in self._scheduled if not handle.cancelled()]
        return min(times, default=None)

    # -- tasks ----------------------------------------------------------------------------

    def next_number(self) -> int:
        """Return the next number for a task or future."""
        self._numbers += 1
        return self._numbers

    def create_future(self) -> SimFuture:
        """Return a future of this loop."""
        return SimFuture(loop=self)

    def tasks(self) -> list[asyncio.Task[Any]]:
        """Return the tasks that are not done, oldest first."""
        return sorted(asyncio.all_tasks(self), key=hash)

    def stacks(self) -> Iterator[str]:
        """Yield one text per unfinished task: its name and the frames it waits in."""
        for task in self.tasks():
            yield f"task {task.get_name()}:\n" + "\n".join(_frames(task.get_coro()))

    def run_in_executor(
        self, executor: object, func: Callable[..., Any], *args: object
    ) -> SimFuture:
        """Run `func` now, in this thread: other threads would not be deterministic."""
        del executor
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except StopIteration as error:
            # A future refuses StopIteration; an executor's thread would run into the same.
            future.set_exception(RuntimeError(f"the function raised {error!r}"))
        except Exception as error:  # noqa: BLE001 - it belongs to whoever awaits the future
            future.set_exception(error)
        return future

    # -- network --------------------------------------------------------------------------

    @property
    def network(self) -> SimNetwork:
        """The in-memory network; made at first use unless one was set."""
        if self._network is None:
            from holdfast.testing.network import SimNetwork  # noqa: PLC0415 - it imports us

            self._network = SimNetwork(self)
        return self._network

    @network.setter
    def network(self, network: SimNetwork) -> None:
        self._network = network

    async def getaddrinfo(  # type: ignore[override]  # fewer types than a real resolver knows
        self, host: str, port: int, **options: int
    ) -> list[tuple[Any, ...]]:
        """Resolve a name of the simulated network."""
        del options
        return await self.network.getaddrinfo(host, port)

    async def create_connection(  # type: ignore[override]  # the options that make sense here
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | None = None,
        port: int | None = None,
        *,
        ssl: object = None,
        **options: Any,
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """Connect over the simulated network. TLS and real sockets are refused.

        sock: a connected `SimSocket`, instead of host and port.
        """
        sock = options.pop("sock", None)
        _refuse_real(ssl, sock)
        if sock is not None:
            made: tuple[asyncio.Transport, asyncio.BaseProtocol] = sock.start(protocol_factory)
            return made
        if host is None or port is None:
            raise ValueError("create_connection: host and port are needed in a simulation")
        return await self.network.connect(protocol_factory, host, port)

    async def create_server(  # type: ignore[override]  # the options that make sense here
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | None = None,
        port: int | None = None,
        *,
        ssl: object = None,
        start_serving: bool = True,
        **options: object,
    ) -> asyncio.AbstractServer:
        """Listen on the simulated network."""
        _refuse_real(ssl, options.get("sock"))
        server = self.network.listen(protocol_factory, host or "0.0.0.0", port or 0)  # noqa: S104 - simulated
        if start_serving:
            await server.start_serving()
        return server

    # -- what BaseEventLoop asks of its children -------------------------------------------

    def _process_events(self, event_list: object) -> None:
        """There is no I/O."""

    def _write_to_self(self) -> None:
        """There is no other thread to be woken from."""

    def add_signal_handler(self, sig: int, callback: object, *args: object) -> NoReturn:
        """Refuse: signals do not come at a virtual time."""
        raise NotImplementedError("a simulated loop takes no signals")

    async def sock_connect(self, sock: socket.socket, address: object) -> NoReturn:
        """Refuse: a real socket has no place in a simulation."""
        raise NotImplementedError(f"a simulated loop cannot connect the real socket {sock!r}")


def _task_factory(
    loop: asyncio.AbstractEventLoop,
    coro: Generator[Any, None, Any] | Coroutine[Any, Any, Any],
    **options: Any,
) -> SimTask:
    assert isinstance(loop, SimLoop)  # noqa: S101 - set only there; tells the type checker
    return SimTask(coro, loop=loop, **options)


def _note_unhandled(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Keep what asyncio would log, as text: a run with such a note has a defect."""
    assert isinstance(loop, SimLoop)  # noqa: S101 - set only there; tells the type checker
    error = context.get("exception")
    text = context.get("message", "unhandled error")
    loop.unhandled.append(f"{text}: {error!r}" if error is not None else str(text))


def _refuse_real(ssl: object, sock: object) -> None:
    if ssl:
        raise NotImplementedError("TLS is not simulated: test it on real sockets")
    if sock is not None and not hasattr(sock, "start"):
        raise NotImplementedError("a real socket has no place in a simulation")


def _frames(awaited: object) -> Iterator[str]:
    """Yield the chain of awaits from the task's coroutine to what it waits for."""
    while awaited is not None:
        inner = None
        for kind, below in (("cr", "await"), ("gi", "yieldfrom"), ("ag", "await")):
            frame = getattr(awaited, f"{kind}_frame", None)
            if isinstance(frame, types.FrameType):
                code = frame.f_code
                yield f"  {code.co_filename}:{frame.f_lineno} in {code.co_qualname}"
                inner = getattr(awaited, f"{kind}_{below}", None)
        awaited = inner
