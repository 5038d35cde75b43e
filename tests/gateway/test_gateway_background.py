"""`with hf.Gateway(...)`: for programs, tests and notebooks that have no event loop."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import urllib.error
import urllib.request

import pytest

import holdfast as hf


@pytest.fixture
def calls():
    with hf.chaos.server(hf.chaos.Call("/call")) as server:
        yield server


def test_it_serves_while_the_block_lasts(calls):
    with hf.Gateway(endpoints=[calls.url("")], listen="127.0.0.1:0") as gateway:
        assert gateway.url == f"http://127.0.0.1:{gateway.port}"
        with urllib.request.urlopen(f"{gateway.url}/call?id=1", timeout=10) as answer:
            assert "value" in json.load(answer)
        url = gateway.url
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=10)
    with pytest.raises(RuntimeError, match="it does not listen"):
        gateway.url  # noqa: B018 - the access is the test
    assert "holdfast-gateway" not in {thread.name for thread in threading.enumerate()}


def test_its_coroutines_can_be_waited_for_and_looked_at_on_its_loop(calls):
    async def name():
        return threading.current_thread().name

    with hf.Gateway(endpoints=[calls.url("")], listen="127.0.0.1:0") as gateway:
        assert gateway.wait(name()) == "holdfast-gateway"
        assert gateway.on_loop(lambda: threading.current_thread().name) == "holdfast-gateway"
        with pytest.raises(TimeoutError):
            gateway.wait(asyncio.sleep(60), timeout=0.01)
    with pytest.raises(RuntimeError, match="it does not run in the background"):
        gateway.wait(name())


def test_it_cannot_be_entered_twice(calls):
    with hf.Gateway(endpoints=[calls.url("")], listen="127.0.0.1:0") as gateway:
        with pytest.raises(RuntimeError, match="it is running already"):
            gateway.__enter__()
        assert gateway.port


def test_a_port_in_use_is_raised_where_it_was_entered(calls):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(OSError, match="in use"),
            hf.Gateway(endpoints=[calls.url("")], listen=listen),
        ):
            pass
    assert "holdfast-gateway" not in {thread.name for thread in threading.enumerate()}
