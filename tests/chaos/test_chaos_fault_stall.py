from __future__ import annotations

import http.client
import socket
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from chaos_clients import drain

from holdfast import chaos

if TYPE_CHECKING:
    from chaos_clients import Get, Served

SIZE = 300_000


@pytest.mark.parametrize("via", ["server", "proxy"])
def test_stall_gives_a_timeout_and_the_connection_stays_open(via: str, served: Served) -> None:
    with served(SIZE, chaos.Stall(after_bytes=100_000), via=via) as (_, address, broken):
        connection = http.client.HTTPConnection(address, timeout=0.2)
        with closing(connection):
            connection.request("GET", "/o")
            with connection.getresponse() as response, pytest.raises(TimeoutError):
                response.read()
            assert broken.stats.open == 1
            assert broken.stats.faults == {"stall": 1}


@pytest.mark.parametrize("via", ["server", "proxy"])
def test_stalled_connection_ends_when_the_client_has_gone(via: str, served: Served) -> None:
    with served(SIZE, chaos.Stall(after_bytes=100_000), via=via) as (_, address, broken):
        host, port = address.split(":")
        with socket.create_connection((host, int(port)), timeout=0.1) as sock:
            sock.sendall(b"GET /o HTTP/1.1\r\nHost: x\r\n\r\n")
            with pytest.raises(TimeoutError):
                drain(sock)
        until = time.monotonic() + 5
        while broken.stats.open and time.monotonic() < until:
            time.sleep(0.01)
        assert broken.stats.open == 0


def test_stall_of_some_seconds_goes_on_afterwards(served: Served, get: Get) -> None:
    with served(SIZE, chaos.Stall(after_bytes=1000, seconds=0.15)) as (server, address, _):
        began = time.monotonic()
        got = get(address, "/o")
        assert time.monotonic() - began >= 0.15
        assert got.body == server.expected_bytes("/o")


def test_stall_before_the_head_gives_no_status(served: Served) -> None:
    with served(SIZE, chaos.Stall(part="head")) as (_, address, _):
        connection = http.client.HTTPConnection(address, timeout=0.1)
        with closing(connection):
            connection.request("GET", "/o")
            with pytest.raises(TimeoutError):
                connection.getresponse()


def test_black_hole_lets_nothing_through(served: Served) -> None:
    hole = chaos.Stall(direction="up")
    with served(SIZE, hole, via="proxy") as (server, address, _):
        connection = http.client.HTTPConnection(address, timeout=0.1)
        with closing(connection):
            connection.request("GET", "/o")
            with pytest.raises(TimeoutError):
                connection.getresponse()
            assert server.stats.connections == 1
            assert server.stats.requests == 0
