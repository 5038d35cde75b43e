from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast import chaos

if TYPE_CHECKING:
    from chaos_clients import Raw, Served


def test_more_bytes_come_than_were_announced(served: Served, raw: Raw) -> None:
    with served(1000, chaos.Surplus(20)) as (server, _, _):
        received = raw(server.port, b"GET /o HTTP/1.1\r\nHost: x\r\n\r\n")
        head, body = received.split(b"\r\n\r\n", 1)
        assert b"Content-Length: 1000\r\n" in head + b"\r\n"
        assert len(body) == 1020
        assert body[:1000] == server.expected_bytes("/o")
