from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from holdfast import chaos

if TYPE_CHECKING:
    from chaos_clients import Get, Served


@pytest.mark.parametrize("via", ["server", "proxy"])
def test_rate_is_kept(via: str, served: Served, get: Get) -> None:
    with served(60_000, chaos.Slow(200_000), via=via) as (server, address, _):
        began = time.monotonic()
        got = get(address, "/o")
        took = time.monotonic() - began
        assert got.body == server.expected_bytes("/o")
        # 0.3 s less one portion of 50 ms; the upper bound is loose, as machines are busy.
        assert 0.2 <= took < 2.0


def test_only_the_slow_connection_is_slow(served: Served, get: Get) -> None:
    with served(60_000, chaos.Slow(10_000, first=1), via="proxy") as (server, address, proxy):
        with pytest.raises(AssertionError, match="slow"):
            _read_within(address, seconds=0.3)
        assert get(address, "/o").body == server.expected_bytes("/o")
        assert [hit.number for hit in proxy.stats.hits] == [1]


def _read_within(address: str, seconds: float) -> None:
    import socket  # noqa: PLC0415 - for this helper only

    host, port = address.split(":")
    until = time.monotonic() + seconds
    with socket.create_connection((host, int(port)), timeout=seconds) as sock:
        sock.sendall(b"GET /o HTTP/1.0\r\n\r\n")
        while sock.recv(65536):
            assert time.monotonic() < until, "slow"
