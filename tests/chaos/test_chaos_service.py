"""Beginning and end: nothing is left, whatever was going on."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from holdfast import chaos

if TYPE_CHECKING:
    from collections.abc import Callable

    from chaos_clients import Get, Served

REQUEST = b"GET /o HTTP/1.1\r\nHost: x\r\n\r\n"


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()  # noqa: PTH112, PTH208 - descriptors, not files


@pytest.mark.parametrize(
    "fault",
    [
        chaos.Stall(),
        chaos.Stall(part="head"),
        chaos.Slow(10),
        chaos.Latency(60),
        chaos.Slices(1, gap=5),
    ],
    ids=repr,
)
@pytest.mark.parametrize("via", ["server", "proxy"])
def test_end_takes_less_than_a_second_with_hurt_connections(
    fault: chaos.Fault, via: str, served: Served
) -> None:
    gc.collect()
    before, threads = descriptors(), threading.active_count()
    with ExitStack() as stack:
        service = stack.enter_context(served(10 << 20, fault, via=via))
        _, address, broken = service
        host, port = address.split(":")
        socks = [
            stack.enter_context(socket.create_connection((host, int(port)), timeout=5))
            for _ in range(20)
        ]
        for sock in socks:
            sock.sendall(REQUEST)
        while broken.stats.faults.total() < 20:
            time.sleep(0.005)
        for sock in socks:
            sock.close()
        began = time.monotonic()
    assert time.monotonic() - began < 1.0
    gc.collect()  # a forgotten socket would warn here, and warnings are errors
    assert threading.active_count() <= threads  # one of others may have ended meanwhile
    assert descriptors() == before


def test_end_under_load_leaves_nothing(get: Get) -> None:
    gc.collect()
    before = descriptors()
    for _ in range(10):
        with (
            ThreadPoolExecutor(4) as pool,
            chaos.server(chaos.Object("/o", 5 << 20)) as server,
            chaos.proxy(server.address, chaos.Reset(mean_bytes=1 << 20)).running() as proxy,
        ):
            for _ in range(8):
                pool.submit(get, proxy.address, "/o")
            time.sleep(0.01)
    gc.collect()
    assert descriptors() == before


def test_counters_and_port_can_be_read_after_the_end(served: Served, get: Get) -> None:
    with served(100) as (server, address, _):
        get(address, "/o")
    assert server.stats.requests == 1
    assert server.log[0].status == 200
    assert server.address == address
    assert server.stats.open == 0


def test_snapshot_does_not_change(served: Served, get: Get) -> None:
    with served(100) as (server, address, _):
        before = server.stats
        get(address, "/o")
        assert before.requests == 0
        assert server.stats.requests == 1


def test_error_at_the_start_is_raised_in_the_caller() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use"), chaos.server(port=port):
            pass
    with pytest.raises(OSError, match=r"\S"), chaos.proxy("no-such-host.invalid:80").running():
        pass


def test_body_error_passes_through_both_faces() -> None:
    def sync() -> None:
        with chaos.server():
            raise KeyError("mine")

    async def asynchronous() -> None:
        async with chaos.server():
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        sync()
    with pytest.raises(KeyError, match="mine"):
        asyncio.run(asynchronous())


def test_a_service_runs_once_at_a_time() -> None:
    server = chaos.server()
    with pytest.raises(RuntimeError, match="not started"):
        _ = server.port

    async def twice() -> None:
        async with server:
            await server.__aenter__()

    with pytest.raises(RuntimeError, match="already running"):
        asyncio.run(twice())


def test_port_can_be_chosen_and_is_the_same_the_next_time(get: Get) -> None:
    server = chaos.server(chaos.Object("/o", 10))
    ports = []
    for _ in range(2):
        with server:
            ports.append(server.port)
            assert get(server.address, "/o").status == 200
    assert ports[0] == ports[1]
    with chaos.server(chaos.Object("/o", 10), port=ports[0]) as other:
        assert other.port == ports[0]


def test_use_from_the_loop_itself_does_not_wait_for_itself() -> None:
    async def main() -> None:
        async with chaos.server(faults=[chaos.Status(503)]) as server:
            server.use()
            server.drop()
            server.shut()
            server.open()
            assert server.stats.connections == 0

    asyncio.run(main())


@pytest.mark.parametrize("build", [chaos.server, lambda: chaos.proxy(9)])
def test_address_is_loopback_unless_asked_otherwise(build: Callable[[], chaos.Server]) -> None:
    with build() as service:
        assert service.address.startswith("127.0.0.1:")


STARVED = """
import resource, sys, time
from holdfast import chaos
with chaos.server(chaos.Object("/o", 10)) as server:
    resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
    print(server.port, flush=True)
    sys.stdin.readline()
    print(time.process_time(), flush=True)
    sys.stdin.readline()
    print(time.process_time(), flush=True)
    sys.stdin.readline()
"""


def test_without_descriptors_it_waits_without_spinning_and_recovers(get: Get) -> None:
    with (
        subprocess.Popen(
            [sys.executable, "-c", STARVED],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as child,
        ExitStack() as stack,
    ):
        assert child.stdin is not None
        assert child.stdout is not None
        port = int(child.stdout.readline())
        for _ in range(40):  # the kernel completes them; the server can take about ten
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
        child.stdin.write("\n")
        child.stdin.flush()
        before = float(child.stdout.readline())
        time.sleep(0.3)
        child.stdin.write("\n")
        child.stdin.flush()
        assert float(child.stdout.readline()) - before < 0.15
        stack.close()
        assert get(f"127.0.0.1:{port}", "/o").status == 200
        child.stdin.close()
    assert child.returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what was not delivered")
@pytest.mark.parametrize("via", ["server", "proxy"])
def test_bytes_of_a_client_that_hung_up_count_as_lost(via: str, served: Served) -> None:
    with served(64 << 20, via=via) as (server, address, proxy):
        host, port = address.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=5) as sock:
            sock.sendall(REQUEST)
            got = len(sock.recv(65536))
            time.sleep(0.2)  # until the kernels on both sides are full
        watched = proxy if via == "proxy" else server
        until = time.monotonic() + 5
        while watched.stats.open and time.monotonic() < until:
            time.sleep(0.01)
        stats = watched.stats
        assert 0 < stats.bytes_lost < stats.bytes_down - got


def test_nothing_is_lost_if_the_client_reads_to_the_end(served: Served, get: Get) -> None:
    with served(8 << 20, via="server") as (server, address, _):
        assert len(get(address, "/o").body) == 8 << 20
        assert server.stats.bytes_lost == 0
