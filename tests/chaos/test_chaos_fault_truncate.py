from __future__ import annotations

import http.client
import time
from typing import TYPE_CHECKING

from holdfast import chaos

if TYPE_CHECKING:
    from chaos_clients import Get, Raw, Served, Sink


def test_server_announces_more_than_comes(served: Served, get: Get) -> None:
    with served(50_000, chaos.Truncate(after_bytes=20_000)) as (server, address, _):
        got = get(address, "/o")
        assert got.headers["Content-Length"] == "50000"
        assert isinstance(got.error, http.client.IncompleteRead)
        assert got.body == server.expected_bytes("/o", 0, 20_000)


def test_upload_is_cut_although_every_write_succeeded(sink: Sink, raw: Raw) -> None:
    data = bytes(range(256)) * 8_000  # more than the buffers on the way hold
    with chaos.proxy(
        sink.port, chaos.Truncate(after_bytes=100_000, direction="up")
    ).running() as proxy:
        # The other direction goes on: the answer of the peer arrives.
        assert raw(proxy.port, data, shut=True) == b"ok"
        assert sink.received == [data[:100_000]]
        assert proxy.stats.bytes_up == 100_000


def test_answer_through_the_proxy_is_cut_and_the_upstream_drained(served: Served, get: Get) -> None:
    fault = chaos.Truncate(after_bytes=10_000)
    with served(5_000_000, fault, via="proxy") as (server, address, _):
        got = get(address, "/o")
        assert isinstance(got.error, http.client.IncompleteRead)
        assert len(got.body) < 10_000
        until = time.monotonic() + 5
        while server.stats.bytes_down < 5_000_000 and time.monotonic() < until:
            time.sleep(0.005)
        assert server.stats.bytes_down == 5_000_000
