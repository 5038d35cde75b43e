"""The blocking data plane on real sockets: what it reports, and that it loses no byte."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

import holdfast as hf
from holdfast.core.verdict import Kind, Sent
from holdfast.transfer.plane import End, Received, Request, Take, Timeouts
from holdfast.transfer.plane_threads import ThreadPlane
from holdfast.wire.cancel import Cancel
from holdfast.wire.urls import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from holdfast.wire.http1 import Head

SHORT = Timeouts(connect=2, first_byte=0.3, idle=0.3)


class Taking:
    """A sink that takes all, or up to `limit`, or nothing."""

    def __init__(self, limit: int | None = None, *, wanted: bool = True) -> None:
        self.got = bytearray()
        self.writes = 0
        self._take = Take(limit) if wanted else None

    def accept(self, head: Head) -> Take | None:
        return self._take

    def write(self, data: memoryview) -> None:
        self.writes += 1
        self.got += data

    def lull(self) -> None:
        pass


class Pausing(Taking):
    """A sink that notes what it has in each lull."""

    def __init__(self) -> None:
        super().__init__()
        self.had: list[int] = []

    def lull(self) -> None:
        self.had.append(len(self.got))


def fetch(
    url: str, sink: Taking, *, cancel: Cancel | None = None, timeouts: Timeouts = SHORT
) -> Received:
    return ThreadPlane().fetch(Request(parse(url), timeouts=timeouts), sink, cancel or Cancel())


@contextmanager
def answering(say: Callable[[socket.socket], None]) -> Iterator[str]:
    """Accept one connection, read the request, and let `say` go on."""

    def serve() -> None:
        client, _ = server.accept()
        with client:
            client.recv(65536)
            say(client)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}/"
        finally:
            thread.join()


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_a_body_comes_whole_and_in_few_writes(framing: str) -> None:
    size = 2 << 20
    obj = hf.chaos.Object("/x", size, framing=framing)  # type: ignore[arg-type] # a literal
    with hf.chaos.server(obj) as server:
        sink = Taking()
        got = fetch(server.url("/x"), sink)
        assert got.end is (End.UNFRAMED if framing == "close" else End.COMPLETE)
        assert got.taken == size
        assert bytes(sink.got) == server.expected_bytes("/x")
        assert sink.writes <= 20


def test_a_limit_ends_it_early() -> None:
    with hf.chaos.server(hf.chaos.Object("/x", 2 << 20)) as server:
        sink = Taking(limit=300_001)
        got = fetch(server.url("/x"), sink)
        assert (got.end, got.taken, len(sink.got)) == (End.LIMIT, 300_001, 300_001)


def test_a_body_that_is_not_wanted_is_left_unread() -> None:
    with hf.chaos.server(hf.chaos.Object("/x", 2 << 20)) as server:
        got = fetch(server.url("/x"), Taking(wanted=False))
        assert (got.end, got.taken) == (End.UNREAD, 0)
        assert got.head is not None
        assert got.head.length == 2 << 20


@pytest.mark.parametrize("at", [1, 70_000, 262_144, 262_145, 1_000_003])
def test_a_reset_loses_no_byte_that_came_before(at: int) -> None:
    faults = [hf.chaos.Reset(after_bytes=at)]
    with hf.chaos.server(hf.chaos.Object("/x", 2 << 20), faults=faults) as server:
        sink = Taking()
        got = fetch(server.url("/x"), sink, timeouts=Timeouts())
        assert got.end is End.BROKEN
        assert got.fault is not None
        assert (got.fault.kind, got.fault.sent, got.fault.reason) == (
            Kind.TRANSIENT,
            Sent.YES,
            "ECONNRESET",
        )
        assert len(sink.got) == server.stats.bytes_down == at


def test_a_stall_is_noticed_and_loses_nothing() -> None:
    faults = [hf.chaos.Stall(after_bytes=100_000)]
    with hf.chaos.server(hf.chaos.Object("/x", 2 << 20), faults=faults) as server:
        sink = Taking()
        before = time.monotonic()
        got = fetch(server.url("/x"), sink)
        assert time.monotonic() - before < 2
        assert got.fault is not None
        assert got.fault.kind is Kind.TIMEOUT
        assert len(sink.got) == 100_000


def test_in_a_lull_the_sink_gets_what_has_come() -> None:
    faults = [hf.chaos.Stall(after_bytes=100_000, seconds=1.2)]
    with hf.chaos.server(hf.chaos.Object("/x", 200_000), faults=faults) as server:
        sink = Pausing()
        got = fetch(server.url("/x"), sink, timeouts=Timeouts())
        assert (got.end, got.taken) == (End.COMPLETE, 200_000)
        assert sink.had[:2] == [100_000, 100_000]


def test_a_slow_trickle_reaches_the_sink_within_a_second() -> None:
    came: list[float] = []

    class Watching(Taking):
        def write(self, data: memoryview) -> None:
            came.append(time.monotonic())
            super().write(data)

    def drip(client: socket.socket) -> None:
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n")
        for _ in range(12):
            client.sendall(b"x")
            time.sleep(0.1)

    with answering(drip) as url:
        before = time.monotonic()
        got = fetch(url, Watching())
    assert got.taken == 12
    assert came[0] - before < 0.9
    assert len(came) >= 2


def test_silence_after_the_request_may_have_been_heard() -> None:
    with answering(lambda client: time.sleep(0.6)) as url:
        got = fetch(url, Taking())
    assert got.fault is not None
    assert (got.end, got.fault.kind, got.fault.sent) == (End.BROKEN, Kind.TIMEOUT, Sent.MAYBE)
    assert got.head is None


def test_a_connection_that_was_refused_sent_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
    got = fetch(url, Taking())
    assert got.fault is not None
    assert (got.fault.kind, got.fault.sent, got.fault.reason) == (
        Kind.CONNECT,
        Sent.NO,
        "ECONNREFUSED",
    )


@pytest.mark.parametrize(
    ("answer", "word", "sent"),
    [
        (b"", "cut short", Sent.MAYBE),
        (b"HTTP/1.1 200 OK\r\nX: ", "cut short", Sent.MAYBE),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "not http", Sent.MAYBE),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", "cut short", Sent.YES),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf", "cut short", Sent.YES),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "not http", Sent.YES),
    ],
)
def test_an_early_end_is_a_transient_fault(answer: bytes, word: str, sent: Sent) -> None:
    with answering(lambda client: client.sendall(answer)) as url:
        got = fetch(url, Taking())
    assert got.fault is not None
    assert (got.fault.kind, got.fault.reason, got.fault.sent) == (Kind.TRANSIENT, word, sent)


def test_cancel_ends_it_at_once_and_hands_on_what_came() -> None:
    cancel = Cancel()
    faults = [hf.chaos.Stall(after_bytes=100_000)]
    with hf.chaos.server(hf.chaos.Object("/x", 2 << 20), faults=faults) as server:
        sink = Taking()
        timer = threading.Timer(0.3, cancel.set)
        timer.start()
        before = time.monotonic()
        got = fetch(server.url("/x"), sink, cancel=cancel, timeouts=Timeouts())
        timer.join()
        assert time.monotonic() - before < 2
    assert got.fault is not None
    assert got.fault.kind is Kind.CANCELLED
    assert len(sink.got) == 100_000


def test_what_the_sink_raises_passes_through_and_closes() -> None:
    class Full(Taking):
        def write(self, data: memoryview) -> None:
            raise OSError(28, "No space left on device")

    with (
        hf.chaos.server(hf.chaos.Object("/x", 2 << 20)) as server,
        pytest.raises(OSError, match="No space"),
    ):
        fetch(server.url("/x"), Full())


class Changing(Taking):
    """A sink that wants `ends` bytes, one after the other, as it gets there."""

    def __init__(self, *ends: int, piece: int | None = None) -> None:
        super().__init__()
        self._ends = list(ends)
        self._take = Take(most=self._most, piece=piece)

    def _most(self) -> int:
        while len(self._ends) > 1 and len(self.got) >= self._ends[0]:
            del self._ends[0]
        return self._ends[0]


def test_a_sink_may_want_more_when_it_has_got_there() -> None:
    with hf.chaos.server(hf.chaos.Object("/x", 2 << 20)) as server:
        sink = Changing(100_000, 300_001, 1_500_000)
        got = fetch(server.url("/x"), sink)
        assert (got.end, got.taken) == (End.LIMIT, 1_500_000)
        assert sink.got == server.expected_bytes("/x", 0, 1_500_000)
        assert server.stats.requests == 1


def test_a_sink_may_want_less_while_the_body_comes() -> None:
    class Shrinking(Changing):
        def write(self, data: memoryview) -> None:
            super().write(data)
            self._ends = [min(self._ends[0], 600_000)]

    with hf.chaos.server(hf.chaos.Object("/x", 2 << 20)) as server:
        sink = Shrinking(2 << 20, piece=64 * 1024)
        got = fetch(server.url("/x"), sink)
    assert got.end is End.LIMIT
    assert 600_000 <= len(sink.got) <= 600_000 + 64 * 1024


def test_pieces_are_as_small_as_the_sink_wants_them() -> None:
    with hf.chaos.server(hf.chaos.Object("/x", 1 << 20)) as server:
        sink = Changing(1 << 20, piece=10_000)
        fetch(server.url("/x"), sink)
    assert len(sink.got) == 1 << 20
    assert sink.writes >= (1 << 20) // 10_000


@pytest.mark.skipif(not hasattr(socket, "TCP_WINDOW_CLAMP"), reason="Linux only")
def test_a_body_that_will_be_cut_off_is_not_sent_much_further() -> None:
    """The window of the receiver never exceeds what is wanted; the sender's buffer is its own."""
    with hf.chaos.server(hf.chaos.Object("/x", 256 << 20)) as server:
        fetch(server.url("/x"), Taking(32 << 20))
        assert server.stats.bytes_down <= (32 << 20) + (6 << 20)
