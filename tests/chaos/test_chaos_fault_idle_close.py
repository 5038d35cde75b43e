from __future__ import annotations

import http.client
import socket
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from holdfast import chaos

if TYPE_CHECKING:
    from chaos_clients import Served


def test_connection_is_closed_without_a_word_after_the_answer(served: Served) -> None:
    with served(10, chaos.IdleClose(0.0)) as (server, _, _):
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
            sock.sendall(b"GET /o HTTP/1.1\r\nHost: x\r\n\r\n")
            received = b""
            while part := sock.recv(65536):  # ends only because the server closes
                received += part
        assert received.endswith(server.expected_bytes("/o"))
        assert b"connection:" not in received.lower()


def test_reuse_of_the_stale_connection_fails_and_executes_nothing() -> None:
    call = chaos.Call("/call", faults=[chaos.IdleClose(0.0, limit=1)])
    with chaos.server(call) as server:
        connection = http.client.HTTPConnection(server.address, timeout=5)
        with closing(connection):
            connection.request("GET", "/call?id=1")
            connection.getresponse().read()
            assert connection.sock is not None
            while not _closed_by_peer(connection.sock):
                pass
            with pytest.raises(ConnectionError):  # RemoteDisconnected is one as well
                _call(connection, "/call?id=2")
        assert call.executed == {"1": 1}


def test_request_that_comes_in_time_is_served(served: Served) -> None:
    with served(10, chaos.IdleClose(3.0, at_least=3.0)) as (server, _, _):
        connection = http.client.HTTPConnection(server.address, timeout=5)
        with closing(connection):
            for _ in range(3):
                connection.request("GET", "/o")
                assert connection.getresponse().read() == server.expected_bytes("/o")
        assert server.stats.connections == 1


def _call(connection: http.client.HTTPConnection, path: str) -> None:
    connection.request("GET", path)
    connection.getresponse()


def _closed_by_peer(sock: socket.socket) -> bool:
    try:
        return sock.recv(1, socket.MSG_PEEK) == b""
    except ConnectionError:
        return True
