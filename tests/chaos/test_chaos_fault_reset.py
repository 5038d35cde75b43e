from __future__ import annotations

import http.client
import socket
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from chaos_clients import drain

from holdfast import chaos

if TYPE_CHECKING:
    from chaos_clients import Get, Served

SIZE = 300_000
BEHIND = ["server", "proxy"]


@pytest.mark.parametrize("via", BEHIND)
def test_reset_gives_econnreset_at_the_position(via: str, served: Served, get: Get) -> None:
    with served(SIZE, chaos.Reset(after_bytes=100_000), via=via) as (server, address, _):
        got = get(address, "/o")
        assert isinstance(got.error, ConnectionResetError)
        # The proxy counts the head too, which is why fewer bytes of the body pass there.
        head = 0 if via == "server" else 100_000 - len(got.body)
        assert 0 <= head < 400
        assert len(got.body) == 100_000 - head
        assert got.body == server.expected_bytes("/o", 0, len(got.body))


@pytest.mark.parametrize(
    ("after", "arrives"),
    [(0, b""), (10, b"HTTP/1.1 2")],
    ids=["before the head", "inside the head"],
)
def test_reset_before_and_inside_the_head(after: int, arrives: bytes, served: Served) -> None:
    fault = chaos.Reset(part="head", after_bytes=after)
    with (
        served(SIZE, fault) as (server, _, _),
        socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock,
    ):
        sock.sendall(b"GET /o HTTP/1.1\r\nHost: x\r\n\r\n")
        received = bytearray()
        with pytest.raises(ConnectionResetError):
            drain(sock, received)
        assert received == arrives
        assert server.log[-1].status == 0


def test_answer_is_lost_after_the_call_was_executed(get: Get) -> None:
    call = chaos.Call("/pay", faults=[chaos.Reset(part="head", limit=1)])
    with chaos.server(call) as server:
        assert isinstance(get(server.address, "/pay?id=7").error, ConnectionResetError)
        assert get(server.address, "/pay?id=7").status == 200
        assert call.executed == {"7": 2}


def test_stream_that_ends_before_the_position_is_whole(served: Served, get: Get) -> None:
    with served(5_000, chaos.Reset(after_bytes=5_000)) as (server, address, _):
        got = get(address, "/o")
        assert got.error is None
        assert got.body == server.expected_bytes("/o")
        assert server.stats.faults == {}


def test_per_connection_position_counts_over_all_its_answers(served: Served) -> None:
    fault = chaos.Reset(after_bytes=25_000, per="connection")
    with served(10_000, fault) as (server, address, _):
        connection = http.client.HTTPConnection(address, timeout=5)
        with closing(connection):
            for _ in range(2):
                connection.request("GET", "/o")
                assert len(connection.getresponse().read()) == 10_000
            connection.request("GET", "/o")
            with connection.getresponse() as response, pytest.raises(ConnectionResetError):
                response.read()
        assert [hit.position for hit in server.stats.hits] == [25_000]


def test_random_positions_have_the_mean_and_repeat(served: Served, get: Get) -> None:
    def positions(seed: int) -> list[int]:
        fault = chaos.Reset(mean_bytes=20_000)
        with served(1 << 20, fault, seed=seed) as (server, address, _):
            for _ in range(40):
                assert get(address, "/o").error is not None
            return [hit.position for hit in server.stats.hits]

    first = positions(3)
    assert positions(3) == first
    assert positions(4) != first
    # The mean of 40 exponential draws lies within a factor of two with p > 0.9999.
    assert 10_000 < sum(first) / 40 < 40_000
