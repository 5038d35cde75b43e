from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from holdfast import chaos

if TYPE_CHECKING:
    from chaos_clients import Get, Raw, Served


def test_interim_answers_come_first(served: Served, raw: Raw) -> None:
    with served(10, chaos.Interim(103, 2)) as (server, _, _):
        received = raw(server.port, b"GET /o HTTP/1.0\r\n\r\n")
        first, second, final, body = received.split(b"\r\n\r\n", 3)
        assert first == second
        assert first.startswith(b"HTTP/1.1 103 Early Hints\r\nLink: ")
        assert final.startswith(b"HTTP/1.1 200 OK")
        assert body == server.expected_bytes("/o")


def test_standard_library_skips_100(served: Served, get: Get) -> None:
    with served(10, chaos.Interim(100, 3)) as (server, address, _):
        got = get(address, "/o")
        assert (got.status, got.body) == (200, server.expected_bytes("/o"))


def test_switching_protocols_is_refused() -> None:
    with pytest.raises(ValueError, match="101"):
        chaos.Interim(101)
