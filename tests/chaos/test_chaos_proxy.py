"""The proxy itself: it carries bytes faithfully, and its faults repeat."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from chaos_clients import drain

from holdfast import chaos
from holdfast.chaos.proxy import parse_address

if TYPE_CHECKING:
    from chaos_clients import Get, Raw, Served, Sink

MIX = (
    chaos.Reset(mean_bytes=30_000, share=0.4),
    chaos.Fin(mean_bytes=30_000, share=0.3),
    chaos.Flip(mean_bytes=30_000, share=0.3),
    chaos.Refuse(share=0.1),
)


def test_without_faults_everything_passes_in_both_directions(
    served: Served, get: Get, sink: Sink
) -> None:
    with served(20 << 20, via="proxy") as (server, address, _):
        body = get(address, "/o").body
        assert hashlib.sha256(body).hexdigest() == server.expected_sha256("/o")
    data = chaos.Content(3_000_000).read()
    with chaos.proxy(sink.port).running() as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)  # half-close passes, and the answer still comes
            assert sock.recv(10) == b"ok"
        assert proxy.stats.bytes_up == len(data)
    assert sink.received == [data]


def test_same_seed_gives_the_same_fault_to_the_same_connection(served: Served, get: Get) -> None:
    def run(seed: int) -> tuple[list[chaos.Hit], list[int]]:
        with served(100_000, *MIX, via="proxy", seed=seed) as (_, address, proxy):
            sizes = [len(get(address, "/o").body) for _ in range(40)]
            return list(proxy.stats.hits), sizes

    first = run(1)
    assert run(1) == first
    assert run(2) != first
    assert {hit.kind for hit in first[0]} == {"reset", "fin", "flip", "refuse"}


def test_hits_of_a_number_do_not_depend_on_what_happens_at_once(served: Served, get: Get) -> None:
    with served(100_000, *MIX, via="proxy", seed=1) as (_, address, proxy):
        for _ in range(40):
            get(address, "/o")
        one_by_one = set(proxy.stats.hits)
    with (
        served(100_000, *MIX, via="proxy", seed=1) as (_, address, proxy),
        ThreadPoolExecutor(8) as pool,
    ):
        list(pool.map(lambda _: get(address, "/o"), range(40)))
        assert set(proxy.stats.hits) == one_by_one


def test_async_face(get: Get) -> None:
    async def main() -> None:
        async with (
            chaos.server(chaos.Object("/o", 1000)) as server,
            chaos.proxy(server.address, chaos.Reset(first=1, after_bytes=500)) as proxy,
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(b"GET /o HTTP/1.1\r\nHost: x\r\n\r\n")
            with pytest.raises(ConnectionResetError):
                await reader.read(-1)
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(b"GET /o HTTP/1.0\r\n\r\n")
            assert (await reader.read(-1)).endswith(server.expected_bytes("/o"))
            writer.close()
            await writer.wait_closed()
            assert proxy.stats.faults == {"reset": 1}

    asyncio.run(main())


def test_dead_upstream_is_a_reset_and_a_reset_is_passed_on(served: Served, get: Get) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: refused
        with chaos.proxy(("127.0.0.1", closed.getsockname()[1])).running() as proxy:
            assert isinstance(get(proxy.address).error, ConnectionResetError)
    with (
        served(1000, chaos.Reset(after_bytes=100)) as (server, _, _),
        chaos.proxy(server.port).running() as proxy,
    ):
        assert isinstance(get(proxy.address, "/o").error, ConnectionResetError)


def test_drop_resets_open_connections_and_new_ones_work(served: Served, get: Get) -> None:
    with served(1000, via="proxy") as (_, address, proxy):
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as sock:
            sock.sendall(b"GET /o HTTP/1.1\r\nHost: x\r\n\r\n")
            assert sock.recv(12) == b"HTTP/1.1 200"
            proxy.drop()
            with pytest.raises(ConnectionResetError):
                drain(sock)
        assert get(address, "/o").status == 200


def test_shut_port_refuses_and_opens_again_under_its_number(served: Served, get: Get) -> None:
    with served(10, via="proxy") as (_, address, proxy):
        proxy.shut()
        for _ in range(3):
            assert isinstance(get(address, "/o").error, ConnectionRefusedError)
        proxy.open()
        assert get(address, "/o").status == 200


def test_redirect_moves_new_connections(served: Served, get: Get) -> None:
    with (
        served(10, via="proxy") as (_, address, proxy),
        chaos.server(chaos.Handler("/o", lambda _: "the other")) as other,
    ):
        assert isinstance(proxy, chaos.Proxy)
        proxy.redirect(other.address)
        assert get(address, "/o").body == b"the other"
        with pytest.raises(OSError, match="illegal IP address"):
            proxy.redirect("some.name:80")


def test_two_faults_on_one_connection_both_strike(served: Served, get: Get) -> None:
    faults = (chaos.Reset(after_bytes=50_000), chaos.Flip(after_bytes=10_000))
    with served(100_000, *faults, via="proxy") as (_, address, proxy):
        assert get(address, "/o").error is not None
        assert [hit.kind for hit in proxy.stats.hits] == ["flip", "reset"]


def test_slow_reader_is_not_buffered_without_bound(served: Served) -> None:
    # Back-pressure reaches the server: it cannot push 64 MiB into a proxy nobody reads from.
    with (
        served(64 << 20, via="proxy") as (server, _, proxy),
        socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as sock,
    ):
        sock.sendall(b"GET /o HTTP/1.1\r\nHost: x\r\n\r\n")
        before = -1
        while (sent := server.stats.bytes_down) != before or not sent:
            before = sent
            time.sleep(0.05)
        assert sent < 32 << 20


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("name.example:65535", ("name.example", 65535)),
        ("[::1]:8080", ("::1", 8080)),
        (8080, ("127.0.0.1", 8080)),
        (("10.0.0.1", 5), ("10.0.0.1", 5)),
    ],
)
def test_addresses(address: str | int | tuple[str, int], expected: tuple[str, int]) -> None:
    assert parse_address(address) == expected


@pytest.mark.parametrize("address", ["", "host", ":80", "host:", "host:-1", "host:99999", 0])
def test_bad_addresses_are_refused(address: str | int) -> None:
    with pytest.raises(ValueError, match="address: "):
        parse_address(address)


def test_http_faults_are_sent_to_the_server() -> None:
    with pytest.raises(TypeError, match="Status speaks HTTP"):
        chaos.proxy(80, chaos.Status(503))


def test_ipv6_on_both_sides(raw: Raw, get: Get) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with (
        chaos.server(chaos.Object("/o", 100), host="::1") as server,
        chaos.proxy(server.address, host="::1").running() as proxy,
    ):
        assert proxy.address.startswith("[::1]:")
        assert get(proxy.address, "/o").body == server.expected_bytes("/o")
