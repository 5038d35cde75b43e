"""One simulated TCP connection: two asyncio transports and what lies between them.

Faithful in what breaks programs: bytes arrive in order but in other pieces than they were
written; a window of unread bytes stops the sender (`pause_writing`); FIN and RST differ;
closing with unread bytes resets; writing to a closed peer resets after a round trip; a paused
reader does not notice a reset; a hole is noticed by a sender after minutes, by a reader never.
Left out: retransmission, congestion control, urgent data, TLS.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from holdfast.testing.faults import Decision
    from holdfast.testing.network import SimNetwork

RETRANSMIT_SECONDS = 924.6
"""How long Linux keeps sending into a hole before ETIMEDOUT (tcp_retries2 = 15)."""

STREAM_KINDS = ("rst", "fin", "stall", "slow", "flip", "hole", "half_open", "trickle", "idle_close")
"""Faults of an established connection, as `Decision.kind`.

rst, fin: both sides are reset, or the reader sees the end, after byte k of one direction.
stall: nothing moves for a while after byte k.  slow: few bytes per second from byte k.
flip: one bit of byte k.  hole: from byte k one direction vanishes.
half_open: at byte k the server forgets the connection and says nothing.
trickle: one byte at a time up to byte k.
idle_close: the server closes after some seconds of silence.
"""


@dataclass(slots=True)
class Link:
    """What a connection runs over.

    latency: seconds one way.  bandwidth: bytes per second, or None for no limit.
    window: bytes under way or unread at most.
    """

    latency: float = 0.0005
    bandwidth: float | None = None
    window: int = 65536


@dataclass(slots=True)
class Rule:
    """A fault of one direction: `kind` at byte `at`, of size `value`."""

    kind: str
    at: int
    value: float


def rule_of(decision: Decision, reach: int) -> tuple[bool, Rule]:
    """Return whether the fault is on the way up (client to server), and the fault itself.

    reach: byte k is log-uniform in [0, reach).
    """
    up, size = decision.y < 0.5, decision.y * 2 % 1
    values = {
        "stall": 0.1 * 1000**size,
        "slow": 10 * 1000**size,
        "flip": int(size * 8),
        "idle_close": 0.05 * 1000**size,
    }
    if decision.kind == "trickle":
        reach = min(reach, 2048)  # each byte is an event: thousands show what millions would
    return up, Rule(decision.kind, int(reach**decision.x) - 1, values.get(decision.kind, 0.0))


class Connection:
    """Both ends of one connection, and its fault. broken: the kind of it; empty for none."""

    def __init__(
        self,
        network: SimNetwork,
        no: int,
        link: Link,
        addresses: tuple[tuple[str, int], tuple[str, int]],
    ) -> None:
        self.network = network
        self.loop = network.loop
        self.no = no
        self.link = link
        self.client = SimTransport(self, "up", *addresses)
        self.server = SimTransport(self, "down", *reversed(addresses))
        self.client.peer, self.server.peer = self.server, self.client
        self._idle: asyncio.TimerHandle | None = None
        self._idle_seconds = 0.0
        self.broken = ""

    def fault(self, decision: Decision, reach: int) -> None:
        """Give this connection a fault."""
        up, rule = rule_of(decision, reach)
        self.broken = rule.kind
        if rule.kind == "idle_close":
            self._idle_seconds = rule.value
            self.active()
        else:
            (self.client if up else self.server).rule = rule

    def active(self) -> None:
        """Restart the server's idle timer."""
        if self._idle_seconds:
            self.quiet()
            self._idle = self.loop.call_later(self._idle_seconds, self._idle_over)

    def quiet(self) -> None:
        """Stop the server's idle timer."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _idle_over(self) -> None:
        self._idle = None
        self.network.note("idle close", self.no)
        self.server.close()

    def forget_server(self) -> None:
        """Let the server's end die without a word to the client."""
        self.client.hole = self.server.hole = True
        self.server.lose(_reset())


class SimTransport(asyncio.Transport):
    """One end of a simulated connection."""

    def __init__(
        self, connection: Connection, way: str, sockname: tuple[str, int], peername: tuple[str, int]
    ) -> None:
        super().__init__({"sockname": sockname, "peername": peername})
        self.connection = connection
        self.peer: SimTransport
        self.rule: Rule | None = None
        self.hole = False
        self._loop = connection.loop
        self._way = way
        self._protocol: asyncio.BaseProtocol | None = None
        self._out = bytearray()
        self._rx: deque[bytes] = deque()
        self._wire: deque[tuple[Callable[..., None], bytes, asyncio.TimerHandle]] = deque()
        self._sent = 0
        self._unacked = 0
        self._free_at = 0.0
        self._rate = connection.link.bandwidth
        self._high, self._low = 65536, 16384
        self._write_paused = self._read_paused = False
        self._closing = self._lost = self._eof = self._fin_sent = False
        self._fin_seen = self._eof_told = self._unread = self._cut = False
        self._reset_seen: Exception | None = None
        self._give_up: asyncio.TimerHandle | None = None
        self.on_lost: Callable[[SimTransport], object] | None = None

    @property
    def is_lost(self) -> bool:
        """Whether this end is gone: nothing more is sent or delivered."""
        return self._lost

    def start(self, protocol: asyncio.BaseProtocol) -> None:
        """Connect the protocol; what arrived before is delivered now."""
        self._protocol = protocol
        self.connection.network.opened(self)
        protocol.connection_made(self)
        self._loop.call_soon(self._deliver)

    # -- asyncio.Transport: reading ----------------------------------------------------------

    def is_reading(self) -> bool:
        """Return whether data is being delivered."""
        return not (self._read_paused or self._closing)

    def pause_reading(self) -> None:
        """Deliver nothing until `resume_reading`; the window fills and the sender stops."""
        self._read_paused = True

    def resume_reading(self) -> None:
        """Deliver again."""
        if self._read_paused:
            self._read_paused = False
            self._loop.call_soon(self._deliver)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand the connection to another protocol."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol."""
        assert self._protocol is not None  # noqa: S101 - start() comes first
        return self._protocol

    # -- asyncio.Transport: writing ----------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Queue `data`. Lost connections swallow it, as asyncio's do."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data: must be bytes-like, not {type(data).__name__}")
        if self._eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self._lost or not data:
            return
        if self._reset_seen is not None:
            self.lose(self._reset_seen)
            return
        self._out += data
        self._pump()
        if len(self._out) > self._high and not self._write_paused:
            self._write_paused = True
            self._tell("pause_writing")

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        """Queue all pieces."""
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        """Return True: the directions close apart."""
        return True

    def write_eof(self) -> None:
        """Close this direction once all is written."""
        if not (self._closing or self._eof):
            self._eof = True
            self._pump()

    def get_write_buffer_size(self) -> int:
        """Return the bytes that are not on the wire yet."""
        return len(self._out)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the low and the high mark in bytes."""
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the marks between which writing is paused and resumed."""
        if high is None:
            high = 65536 if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._high, self._low = high, low

    def is_closing(self) -> bool:
        """Return whether the connection is closed or about to be."""
        return self._closing

    def close(self) -> None:
        """Close once all is written; the protocol hears `connection_lost(None)`."""
        if self._closing:
            return
        self._closing = True
        self._pump()

    def abort(self) -> None:
        """Close at once; the peer is reset."""
        if not self._lost:
            self._put(self._rst_arrives)
            self.lose(None)

    # -- the way out -------------------------------------------------------------------------

    def _pump(self) -> None:
        """Put on the wire what fits the window; then finish what waited for an empty buffer."""
        room = self.connection.link.window - self._unacked
        if self._out and room > 0:
            chunk = bytes(self._out[:room])
            del self._out[:room]
            self._unacked += len(chunk)
            self._send(chunk)
        if self._write_paused and len(self._out) <= self._low:
            self._write_paused = False
            self._tell("resume_writing")
        if self._out or self._lost:
            return
        if self._closing:
            # Linux resets if bytes are left unread at close(): the peer may lose our last words.
            self._put(self._rst_arrives if self._unread or self._rx else self._fin_arrives)
            self.lose(None)
        elif self._eof and not self._fin_sent:
            self._fin_sent = True
            self._put(self._fin_arrives)

    def _send(self, chunk: bytes) -> None:
        if self._cut:
            return
        rule = self.rule
        start, self._sent = self._sent, self._sent + len(chunk)
        if rule is None:
            self._put(self._data_arrives, chunk)
            return
        cut = rule.at - start
        if rule.kind == "trickle":
            for byte in chunk[: max(0, cut)]:
                self._put(self._data_arrives, bytes((byte,)))
            if cut < len(chunk):
                self._put(self._data_arrives, chunk[max(0, cut) :])
            return
        if cut >= len(chunk):
            self._put(self._data_arrives, chunk)
            return
        self.rule = None
        if cut > 0:
            self._put(self._data_arrives, chunk[:cut])
        self._break(rule, chunk[max(0, cut) :])

    def _break(self, rule: Rule, rest: bytes) -> None:
        """Do what `rule` says at its byte; `rest` starts with that byte."""
        self.connection.network.note("fault", self.connection.no, self._way, rule.kind, rule.at)
        if rule.kind == "flip":
            rest = bytes((rest[0] ^ 1 << int(rule.value),)) + rest[1:]
        elif rule.kind == "slow":
            self._rate = min(rule.value, self._rate or rule.value)
        elif rule.kind == "stall":
            self._free_at = max(self._free_at, self._loop.time()) + rule.value
        elif rule.kind == "hole":
            self.hole = True
        elif rule.kind == "half_open":
            self.connection.forget_server()
        elif rule.kind == "rst":
            self._cut = True
            self._put(self._rst_arrives)
            self._loop.call_later(self.connection.link.latency, self.lose, _reset())
            return
        elif rule.kind == "fin":
            # As when a middlebox ends it: the reader sees the end, the writer is reset.
            self._cut = True
            self._put(self._fin_arrives)
            self._loop.call_later(2 * self.connection.link.latency, self.lose, _reset())
            return
        self._put(self._data_arrives, rest)

    def _put(self, arrives: Callable[[bytes], None], data: bytes = b"") -> None:
        """Put one piece on the wire."""
        if self.hole:
            if self._give_up is None and not self._lost:
                self._give_up = self._loop.call_later(RETRANSMIT_SECONDS, self._gave_up)
            return
        start = max(self._free_at, self._loop.time())
        self._free_at = start + (len(data) / self._rate if self._rate else 0.0)
        # A queue besides the timers: asyncio may run timers of one moment in any order.
        at = self._free_at + self.connection.link.latency
        self._wire.append((arrives, data, self._loop.call_at(at, self._next_arrival)))

    def _gave_up(self) -> None:
        self.lose(TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)))

    # -- the way in (called on the sender's end, at the time of arrival) ----------------------

    def _next_arrival(self) -> None:
        if not self._wire:
            return  # dropped by what came in the same moment, whose timers run in any order
        arrives, data, _ = self._wire.popleft()
        arrives(data)

    def _data_arrives(self, data: bytes) -> None:
        peer = self.peer
        self.connection.network.note("data", self.connection.no, self._way, len(data))
        if peer._lost:  # noqa: SLF001 - the other end of the same wire
            peer._put(peer._rst_arrives)  # noqa: SLF001
        elif peer._closing:  # noqa: SLF001
            peer._unread = True  # noqa: SLF001
        else:
            peer._rx.append(data)  # noqa: SLF001
            self.connection.active()
            peer._deliver()  # noqa: SLF001

    def _fin_arrives(self, _: bytes) -> None:
        self.connection.network.note("fin", self.connection.no, self._way)
        self.peer._fin_seen = True  # noqa: SLF001 - the other end of the same wire
        self.peer._deliver()  # noqa: SLF001

    def _rst_arrives(self, _: bytes) -> None:
        peer = self.peer
        if peer._lost:  # noqa: SLF001 - the other end of the same wire
            return
        self.connection.network.note("rst", self.connection.no, self._way)
        peer._rx.clear()  # noqa: SLF001
        if peer._protocol is None or (peer._read_paused and not peer._out):  # noqa: SLF001
            peer._reset_seen = _reset()  # noqa: SLF001 - seen at the next read or write
        else:
            peer.lose(_reset())

    def _deliver(self) -> None:
        """Give the protocol what has arrived, unless it is paused."""
        if self._protocol is None or self._read_paused or self._closing:
            return
        if self._reset_seen is not None:
            self.lose(self._reset_seen)
            return
        while self._rx and self.is_reading():
            data = self._rx.popleft()
            self._receive(data)
            peer = self.peer
            peer._unacked -= len(data)  # noqa: SLF001 - the other end of the same wire
            if peer._out or peer._eof:  # noqa: SLF001
                peer._pump()  # noqa: SLF001
        if self._fin_seen and not self._rx:
            self._tell_eof()

    def _tell_eof(self) -> None:
        if not (self._eof_told or self._closing):
            self._eof_told = True
            if not self._tell("eof_received"):
                self.close()

    def _receive(self, data: bytes) -> None:
        protocol = self._protocol
        try:
            if isinstance(protocol, asyncio.BufferedProtocol):
                while data:
                    buffer = memoryview(protocol.get_buffer(len(data))).cast("B")
                    n = min(len(buffer), len(data))
                    buffer[:n] = data[:n]
                    data = data[n:]
                    protocol.buffer_updated(n)
            else:
                protocol.data_received(data)  # type: ignore[union-attr]  # a Protocol by contract
        except Exception as error:  # noqa: BLE001 - asyncio reports it and aborts, so we do
            self._fatal(error, "data_received")

    # -- the end -----------------------------------------------------------------------------

    def lose(self, error: Exception | None) -> None:
        """End this end of the connection; the protocol is told in the next step."""
        if self._lost:
            return
        self._lost = self._closing = True
        self._out.clear()
        if self._give_up is not None:
            self._give_up.cancel()
        self.connection.quiet()
        if self.peer.is_lost:
            self._forget_wire()
            self.peer._forget_wire()  # noqa: SLF001 - the other end of the same wire
        if self._protocol is None:
            return  # the handshake was not over: nobody knows this end
        self._loop.call_soon(self._say_lost, error)

    def _forget_wire(self) -> None:
        """Drop what is under way: nobody is left at either end."""
        for *_, timer in self._wire:
            timer.cancel()
        self._wire.clear()

    def _say_lost(self, error: Exception | None) -> None:
        self.connection.network.closed(self)
        if self.on_lost is not None:
            self.on_lost(self)
        self._tell("connection_lost", error)

    def _tell(self, method: str, *args: object) -> object:
        try:
            return getattr(self._protocol, method)(*args)
        except Exception as error:  # noqa: BLE001 - asyncio reports it and aborts, so we do
            self._fatal(error, method)
            return None

    def _fatal(self, error: Exception, method: str) -> None:
        self._loop.call_exception_handler(
            {
                "message": f"Fatal error: protocol.{method}() call failed.",
                "exception": error,
                "transport": self,
                "protocol": self._protocol,
            }
        )
        self.abort()

    def __repr__(self) -> str:
        state = "lost" if self._lost else "closing" if self._closing else "open"
        return f"<SimTransport {self.connection.no} {self._way} {state}>"


def _reset() -> ConnectionResetError:
    return ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
