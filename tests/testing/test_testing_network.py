"""The simulated network: unmodified asyncio code, and each fault alone."""

import asyncio
import contextlib
import errno
import math
import socket

import pytest

from holdfast.runtime.random import SeededRandom
from holdfast.testing import Decision, Faults, Sim, sim_run
from holdfast.testing.network import CONNECT_SECONDS
from holdfast.testing.tcp import RETRANSMIT_SECONDS, Link


async def echo(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def shut(writer):
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def serving(sim, handler=echo, *faults):
    """Start a server on echo.test:7 of a network that has exactly these faults."""
    sim.network.host("echo.test", "10.0.0.1")
    sim.network.faults = Faults(SeededRandom(0), {}, replay=faults)
    return await asyncio.start_server(handler, "echo.test", 7)


async def closing(sim, server):
    server.close()
    sim.network.close_servers_ends()
    await server.wait_closed()


def exchange(*faults, send=b"hello", expect=None, handler=echo, link=None):
    """Connect, send, read until as much came back; return what happened and when."""

    async def main(sim: Sim):
        if link is not None:
            sim.network.link = link
        server = await serving(sim, handler, *faults)
        got, error = b"", None
        writer = None
        try:
            async with asyncio.timeout(2000):
                reader, writer = await asyncio.open_connection("echo.test", 7)
                writer.write(send)
                await writer.drain()
                while len(got) < len(send if expect is None else expect):
                    piece = await reader.read(65536)
                    if not piece:
                        break
                    got += piece
        except (OSError, EOFError) as caught:
            error = caught
        time = sim.loop.time()
        if writer is not None:
            await shut(writer)
        await closing(sim, server)
        return got, error, time

    return sim_run(main).value


def fault(kind, *, point="stream", x=0.0, up=True, size=0.0):
    return Decision(point, 0, kind, x, (0.0 if up else 0.5) + size / 2)


def at_byte(k, reach=65536):
    """Return the draw that makes a fault strike at byte k."""

    return (math.log(k + 1.5)) / math.log(reach)


def test_bytes_go_there_and_back():
    got, error, time = exchange(send=bytes(range(256)) * 1000)
    assert got == bytes(range(256)) * 1000
    assert error is None
    assert 0 < time < 1


def test_latency_and_bandwidth_take_their_time():
    link = Link(latency=0.1, bandwidth=1000, window=1 << 20)
    got, _, time = exchange(send=b"x" * 5000, link=link)
    assert len(got) == 5000
    # Name, handshake there and back, then 5 s of bytes each way (they overlap hardly) and 0.2 s.
    assert time == pytest.approx(0.1 + 0.2 + 5 + 0.1 + 5 + 0.1)


def test_unread_bytes_stop_the_sender():
    async def main(sim):
        read = asyncio.Event()

        async def slow_reader(reader, writer):
            await read.wait()
            assert len(await reader.readexactly(1_000_000)) == 1_000_000
            writer.close()

        server = await serving(sim, slow_reader)
        reader, writer = await asyncio.open_connection("echo.test", 7, limit=1024)
        writer.write(b"x" * 1_000_000)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await writer.drain()
        # What is under way or unread at the other side is a window and its reader's buffer.
        assert writer.transport.get_write_buffer_size() > 700_000
        read.set()
        await writer.drain()
        assert await reader.read() == b""
        await shut(writer)
        await closing(sim, server)

    sim_run(main)


def test_half_closing_keeps_the_other_direction():
    async def main(sim):
        async def answer_after_eof(reader, writer):
            writer.write(b"got " + await reader.read())
            writer.close()

        server = await serving(sim, answer_after_eof)
        reader, writer = await asyncio.open_connection("echo.test", 7)
        writer.write(b"all")
        writer.write_eof()
        assert await reader.read() == b"got all"
        await shut(writer)
        await closing(sim, server)

    sim_run(main)


def test_buffered_protocols_work():
    class Collector(asyncio.BufferedProtocol):
        def __init__(self):
            self.buffer, self.got, self.lost = bytearray(7), b"", False

        def get_buffer(self, sizehint):
            return self.buffer

        def buffer_updated(self, nbytes):
            self.got += self.buffer[:nbytes]

        def connection_lost(self, exc):
            self.lost = True

    async def main(sim):
        server = await serving(sim)
        transport, protocol = await sim.loop.create_connection(Collector, "echo.test", 7)
        assert transport.get_extra_info("peername") == ("10.0.0.1", 7)
        transport.writelines([b"twenty ", b"bytes of payload"])
        await asyncio.sleep(1)
        assert protocol.got == b"twenty bytes of payload"
        transport.close()
        await asyncio.sleep(1)
        assert protocol.lost
        await closing(sim, server)

    sim_run(main)


# -- names and connecting ------------------------------------------------


def test_unknown_names_and_closed_ports():
    async def main(sim):
        with pytest.raises(socket.gaierror) as caught:
            await asyncio.open_connection("nobody.test", 1)
        assert caught.value.errno == socket.EAI_NONAME
        with pytest.raises(ConnectionRefusedError) as refused:
            await asyncio.open_connection("localhost", 1)
        assert refused.value.errno == errno.ECONNREFUSED

    sim_run(main)


def test_an_address_where_nobody_is_times_out_like_linux():
    async def main(sim):
        with pytest.raises(TimeoutError) as caught:
            await asyncio.open_connection("10.9.9.9", 1)
        assert caught.value.errno == errno.ETIMEDOUT
        return sim.loop.time()

    assert sim_run(main).value == CONNECT_SECONDS


def test_the_second_address_is_tried():
    async def main(sim):
        server = await serving(sim)
        sim.network.host("two.test", "127.0.0.1", "10.0.0.1")
        _, writer = await asyncio.open_connection("two.test", 7)
        assert writer.get_extra_info("peername")[0] == "10.0.0.1"
        await shut(writer)
        await closing(sim, server)

    sim_run(main)


def test_getaddrinfo_knows_the_names():
    async def main(sim):
        sim.network.host("two.test", "10.0.0.1", "10.0.0.2")
        found = await sim.loop.getaddrinfo("two.test", 80)
        return [address for *_, address in found]

    assert sim_run(main).value == [("10.0.0.1", 80), ("10.0.0.2", 80)]


def test_an_address_is_bound_once():
    async def main(sim):
        server = await serving(sim)
        with pytest.raises(OSError, match="in use") as caught:
            await asyncio.start_server(echo, "echo.test", 7)
        assert caught.value.errno == errno.EADDRINUSE
        await closing(sim, server)
        again = await asyncio.start_server(echo, "echo.test", 7)
        await closing(sim, again)

    sim_run(main)


def test_port_zero_picks_a_free_port():
    async def main(sim):
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        _, port = server.sockets[0].getsockname()
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        await shut(writer)
        await closing(sim, server)

    sim_run(main)


@pytest.mark.parametrize(
    ("kind", "error", "number"),
    [
        ("dns_fail", socket.gaierror, socket.EAI_AGAIN),
        ("dns_none", socket.gaierror, socket.EAI_NONAME),
        ("dns_changed", TimeoutError, errno.ETIMEDOUT),
    ],
)
def test_faults_of_a_look_up(kind, error, number):
    _, caught, _ = exchange(fault(kind, point="dns"))
    assert type(caught) is error
    assert caught.errno == number


@pytest.mark.parametrize(
    ("kind", "error", "seconds"),
    [
        ("refuse", ConnectionRefusedError, 0.0015),
        ("blackhole", TimeoutError, CONNECT_SECONDS + 0.0005),
        ("slow_connect", type(None), 0.1 * 300**0.5 + 0.0025),
    ],
)
def test_faults_of_connecting(kind, error, seconds):
    _, caught, time = exchange(fault(kind, point="connect", x=0.5))
    assert type(caught) is error
    assert time == pytest.approx(seconds)


# -- faults of a connection ------------------------------------------------

BODY = bytes(range(200))


@pytest.mark.parametrize("k", [0, 1, 99, 199])
@pytest.mark.parametrize("up", [True, False])
def test_reset_at_byte_k(k, up):
    got, error, _ = exchange(fault("rst", x=at_byte(k), up=up), send=BODY)
    assert type(error) is ConnectionResetError
    assert got == (b"" if up else BODY[:k])


@pytest.mark.parametrize("k", [0, 1, 99, 199])
def test_end_at_byte_k_on_the_way_down(k):
    got, error, _ = exchange(fault("fin", x=at_byte(k), up=False), send=BODY)
    assert error is None
    assert got == BODY[:k]


@pytest.mark.parametrize("k", [0, 7, 199])
@pytest.mark.parametrize("up", [True, False])
def test_one_bit_of_byte_k(k, up):
    got, _, _ = exchange(fault("flip", x=at_byte(k), up=up, size=0.5), send=BODY)
    wrong = [i for i in range(200) if got[i] != BODY[i]]
    assert wrong == [k]
    assert got[k] == BODY[k] ^ 1 << 4


@pytest.mark.parametrize("up", [True, False])
def test_stall_delays_the_rest(up):
    got, error, time = exchange(fault("stall", x=at_byte(10), up=up, size=0.5), send=BODY)
    assert (got, error) == (BODY, None)
    assert time == pytest.approx(0.1 * 1000**0.5, abs=0.01)


def test_slow_leaves_few_bytes_per_second():
    got, _, time = exchange(fault("slow", x=at_byte(100), up=False), send=BODY)
    assert got == BODY
    assert time == pytest.approx(10, abs=0.1)  # 100 bytes at 10 per second


def test_trickle_delivers_single_bytes_up_to_byte_k():
    sizes = []

    class Watch(asyncio.Protocol):
        def data_received(self, data):
            sizes.append(len(data))

    async def main(sim):
        sim.network.host("echo.test", "10.0.0.1")
        sim.network.faults = Faults(
            SeededRandom(0), {}, replay=[fault("trickle", x=at_byte(20, 2048), up=True)]
        )
        server = await sim.loop.create_server(Watch, "echo.test", 7)
        transport, _ = await sim.loop.create_connection(asyncio.Protocol, "echo.test", 7)
        transport.write(BODY)
        await asyncio.sleep(1)
        transport.close()
        await closing(sim, server)

    sim_run(main)
    assert sizes == [1] * 20 + [180]


def test_a_hole_is_noticed_by_a_sender_after_minutes_and_by_a_reader_never():
    got, error, time = exchange(fault("hole", x=0.0, up=True), send=BODY)
    assert got == b""
    assert type(error) is TimeoutError
    assert error.errno == errno.ETIMEDOUT
    assert time == pytest.approx(RETRANSMIT_SECONDS, abs=0.1)

    got, error, time = exchange(fault("hole", x=at_byte(50), up=False), send=BODY)
    assert got == BODY[:50]
    assert time >= 2000  # the reader's own patience; our side heard nothing
    assert type(error) is TimeoutError


def test_half_open_the_server_forgets_and_says_nothing():
    ended = []

    async def handler(reader, writer):
        try:
            await echo(reader, writer)
        finally:
            ended.append(asyncio.get_running_loop().time())

    got, error, time = exchange(fault("half_open", x=at_byte(50)), send=BODY, handler=handler)
    assert got == b""
    assert type(error) is TimeoutError
    assert time == pytest.approx(RETRANSMIT_SECONDS, abs=0.1)
    assert ended[0] < 1


def test_the_server_closes_what_is_idle():
    async def main(sim):
        server = await serving(sim, echo, fault("idle_close", size=0.5))
        seconds = 0.05 * 1000**0.5
        reader, writer = await asyncio.open_connection("echo.test", 7)
        for _ in range(3):  # traffic keeps it open
            await asyncio.sleep(seconds * 0.9)
            writer.write(b"x")
            assert await reader.read(1) == b"x"
        begin = sim.loop.time()
        assert await reader.read(1) == b""
        assert sim.loop.time() - begin == pytest.approx(seconds, abs=0.01)
        # The stale keep-alive race: the next request meets a closed connection.
        writer.write(b"y")
        await asyncio.sleep(1)
        with pytest.raises(ConnectionResetError):
            await writer.drain()
        await shut(writer)
        await closing(sim, server)

    sim_run(main)


def test_closing_with_unread_bytes_resets_the_peer():
    async def main(sim):
        async def rude(reader, writer):
            await asyncio.sleep(1)
            writer.transport.pause_reading()
            await asyncio.sleep(1)
            writer.close()

        server = await serving(sim, rude)
        reader, writer = await asyncio.open_connection("echo.test", 7)
        await asyncio.sleep(1.5)
        writer.write(b"never read")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await shut(writer)
        await closing(sim, server)

    sim_run(main)


def test_abort_resets_the_peer_at_once():
    async def main(sim):
        server = await serving(sim)
        reader, writer = await asyncio.open_connection("echo.test", 7)
        await asyncio.sleep(1)
        server.abort_clients()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await shut(writer)
        server.close()
        await server.wait_closed()

    sim_run(main)


def test_cancelled_handshake_leaves_nothing():
    async def main(sim):
        server = await serving(sim)
        sim.network.link = Link(latency=1)
        for patience in (0.5, 1.5, 2.5):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(patience):
                    await asyncio.open_connection("echo.test", 7)
        await asyncio.sleep(10)
        assert sim.network.left_by_clients() == []
        await closing(sim, server)

    sim_run(main)


def test_serve_forever_ends_with_its_task():
    async def main(sim):
        server = await serving(sim)
        task = asyncio.create_task(server.serve_forever())
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not server.is_serving()
        assert sim.network.left() == []

    sim_run(main)


def test_a_protocol_that_raises_loses_its_connection():
    class Bad(asyncio.Protocol):
        def data_received(self, data):
            raise ValueError("bad")

    async def main(sim):
        sim.network.host("echo.test", "10.0.0.1")
        server = await sim.loop.create_server(Bad, "echo.test", 7)
        reader, writer = await asyncio.open_connection("echo.test", 7)
        writer.write(b"x")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await shut(writer)
        await closing(sim, server)
        notes, sim.loop.unhandled = sim.loop.unhandled, []
        return notes

    (note,) = sim_run(main).value
    assert "data_received() call failed" in note
