from __future__ import annotations

import http.client
import urllib.request
from typing import TYPE_CHECKING

import pytest

from holdfast import chaos

if TYPE_CHECKING:
    from chaos_clients import Get, Raw, Served

SIZE = 300_000


def test_fin_inside_the_body_is_an_incomplete_read(served: Served) -> None:
    with served(SIZE, chaos.Fin(after_bytes=100_000)) as (server, _, _):
        with (
            urllib.request.urlopen(server.url("/o"), timeout=5) as response,
            pytest.raises(http.client.IncompleteRead) as short,
        ):
            response.read()
        assert short.value.partial == server.expected_bytes("/o", 0, 100_000)
        assert server.stats.faults == {"fin": 1}


def test_fin_through_the_proxy_ends_both_sides(served: Served, get: Get) -> None:
    with served(SIZE, chaos.Fin(after_bytes=50_000), via="proxy") as (server, address, proxy):
        got = get(address, "/o")
        assert isinstance(got.error, http.client.IncompleteRead)
        assert got.body == server.expected_bytes("/o", 0, len(got.body))
        assert proxy.stats.bytes_down == 50_000


def test_fin_cuts_a_chunked_body_inside_a_chunk(get: Get) -> None:
    route = chaos.Object("/o", SIZE, framing="chunked", faults=[chaos.Fin(after_bytes=1000)])
    with chaos.server(route) as server:
        got = get(server.address, "/o")
        assert isinstance(got.error, http.client.IncompleteRead)
        assert got.body == server.expected_bytes("/o", 0, 1000)


def test_fin_before_the_head_closes_without_an_answer(served: Served, get: Get) -> None:
    with served(SIZE, chaos.Fin(part="head")) as (_, address, _):
        assert isinstance(get(address, "/o").error, http.client.RemoteDisconnected)


def test_fin_is_no_reset_even_when_the_client_sent_more(served: Served, raw: Raw) -> None:
    # Unread bytes in the buffer of a closed socket turn FIN into RST, unless they are read.
    request = b"GET /o HTTP/1.1\r\nHost: x\r\n\r\n"
    with served(SIZE, chaos.Fin(after_bytes=10)) as (server, _, _):
        assert raw(server.port, request * 200).endswith(server.expected_bytes("/o", 0, 10))
