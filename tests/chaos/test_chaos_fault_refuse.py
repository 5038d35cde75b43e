from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import pytest

from holdfast import chaos

if TYPE_CHECKING:
    from chaos_clients import Get, Served


@pytest.mark.parametrize("via", ["server", "proxy"])
def test_refused_connection_is_reset_and_reaches_nobody(via: str, served: Served, get: Get) -> None:
    with served(100, chaos.Refuse(first=2), via=via) as (server, address, broken):
        for _ in range(2):
            assert isinstance(get(address, "/o").error, ConnectionError)
        assert server.stats.requests == 0
        assert broken.stats.refused == 2
        assert get(address, "/o").status == 200


def test_refuse_for_seconds_closes_the_port(served: Served, get: Get) -> None:
    with served(100, chaos.Refuse(first=1, seconds=0.3)) as (_, address, server):
        assert isinstance(get(address, "/o").error, ConnectionResetError)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), timeout=5)
        until = time.monotonic() + 5
        while get(address, "/o").status != 200 and time.monotonic() < until:
            time.sleep(0.02)
        assert get(address, "/o").status == 200
        assert server.stats.faults == {"refuse": 1}
