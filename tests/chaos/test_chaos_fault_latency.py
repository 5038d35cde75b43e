from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import pytest

from holdfast import chaos

if TYPE_CHECKING:
    from chaos_clients import Get, Served, Sink


@pytest.mark.parametrize("via", ["server", "proxy"])
def test_answer_comes_later(via: str, served: Served, get: Get) -> None:
    with served(1000, chaos.Latency(0.15), via=via) as (server, address, _):
        began = time.monotonic()
        assert get(address, "/o").body == server.expected_bytes("/o")
        assert time.monotonic() - began >= 0.15


def test_portions_are_on_their_way_together(served: Served, get: Get) -> None:
    # 3 MB are at least 12 portions. One after the other they would take 12 x 0.1 s.
    with served(3_000_000, chaos.Latency(0.1), via="proxy") as (server, address, _):
        began = time.monotonic()
        assert get(address, "/o").body == server.expected_bytes("/o")
        assert 0.1 <= time.monotonic() - began < 1.0


def test_jitter_keeps_the_order(sink: Sink) -> None:
    late = chaos.Latency(0.02, 0.02, direction="up")
    sent = [b"%04d" % i for i in range(40)]
    with (
        chaos.proxy(sink.port, late, seed=3).running() as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as sock,
    ):
        for part in sent:
            sock.sendall(part)
            time.sleep(0.001)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(10) == b"ok"
    assert sink.received == [b"".join(sent)]


def test_faults_strike_late_bytes_too(served: Served, get: Get) -> None:
    faults = (chaos.Latency(0.01), chaos.Reset(after_bytes=5000))
    with served(100_000, *faults, via="proxy") as (_, address, proxy):
        assert isinstance(get(address, "/o").error, ConnectionResetError)
        assert proxy.stats.faults == {"latency": 1, "reset": 1}
