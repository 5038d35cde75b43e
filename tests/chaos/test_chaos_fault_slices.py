from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from holdfast import chaos

if TYPE_CHECKING:
    from chaos_clients import Raw, Served, Sink


@pytest.mark.parametrize("via", ["server", "proxy"])
def test_every_read_returns_at_most_one_slice(via: str, served: Served) -> None:
    with served(300, chaos.Slices(7, gap=0.005), via=via) as (server, address, _):
        host, port = address.split(":")
        with socket.create_connection((host, int(port)), timeout=5) as sock:
            sock.sendall(b"GET /o HTTP/1.0\r\n\r\n")
            parts = []
            while part := sock.recv(65536):
                parts.append(part)
        assert b"".join(parts).endswith(server.expected_bytes("/o"))
        # A busy machine may join some slices; it cannot cut them.
        alone = [part for part in parts if len(part) <= 7]
        assert len(alone) > 10


def test_upload_in_single_bytes_is_whole(sink: Sink, raw: Raw) -> None:
    one_byte = chaos.Slices(1, gap=0.0, direction="up")
    with chaos.proxy(sink.port, one_byte).running() as proxy:
        assert raw(proxy.port, b"hello" * 50, shut=True) == b"ok"
        assert sink.received == [b"hello" * 50]
