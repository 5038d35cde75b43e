"""The end of a gateway: nobody new, everybody answered, and what is left told so."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from gateway_process import with_socket
from gateway_rig import always, answer, ask, gateway, hangs, read

from holdfast.gateway import service, workers
from holdfast.gateway.gateway import ConfigError, Gateway
from holdfast.gateway.listeners import CannotListen, bind_shared, ignore_newcomers
from holdfast.gateway.source import Source

STREAM = b"HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'data: {"n":1}\n\n'
PIECE = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)


def on_loop(test):
    """Run a test on a loop of its own, for 30 s at most."""

    @functools.wraps(test)
    def run(**fixtures):
        asyncio.run(asyncio.wait_for(test(**fixtures), 30))

    return run


class Slow:
    """An upstream that begins to answer at once and ends when it may."""

    def __init__(self, *, first=b"", last=b""):
        self.begun, self.go = asyncio.Event(), asyncio.Event()
        self.first, self.last = first, last

    async def __call__(self, upstream, no, writer):
        writer.write(self.first)
        self.begun.set()
        await self.go.wait()
        writer.write(self.last)


@on_loop
async def test_what_is_asked_is_answered_and_the_connection_closed():
    slow = Slow(last=answer(body=b"late"))
    async with gateway(slow) as (made, _):
        asked = asyncio.create_task(ask(made.port))
        await slow.begun.wait()
        ending = asyncio.create_task(made.drain(20))
        await asyncio.sleep(0.05)
        assert made.draining
        slow.go.set()
        status, head, body = await asked
        assert (status, body) == (200, b"late")
        assert "connection: close" in head.lower()
        assert await ending == 0


@on_loop
async def test_nobody_can_connect_once_the_listener_is_closed():
    slow = Slow(last=answer())
    async with gateway(slow) as (made, _):
        port = made.port
        asked = asyncio.create_task(ask(port))
        await slow.begun.wait()
        ending = asyncio.create_task(made.drain(20))
        await asyncio.sleep(0.05)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        slow.go.set()
        assert (await asked)[0] == 200
        await ending


@on_loop
async def test_connections_that_the_kernel_has_accepted_are_served():
    async with gateway(always(answer())) as (made, _):
        # The loop is held meanwhile, so they are in the kernel's queue when the drain begins.
        waiting = [socket.create_connection(("127.0.0.1", made.port)) for _ in range(60)]
        for sock in waiting:
            sock.sendall(b"POST /x HTTP/1.1\r\nHost: g\r\nContent-Length: 0\r\n\r\n")
        ending = asyncio.create_task(made.drain(20))
        got = []
        for sock in waiting:
            reader, writer = await asyncio.open_connection(sock=sock)
            got.append(await read(reader))
            writer.close()
        assert [status for status, _, _ in got] == [200] * 60
        assert await ending == 0


@on_loop
async def test_an_idle_client_may_ask_once_more_and_is_told_to_come_no_more():
    async with gateway(always(answer())) as (made, _):
        port = made.port
        keep = await asyncio.open_connection("127.0.0.1", port)
        quiet = await asyncio.open_connection("127.0.0.1", port)
        assert "connection: close" not in (await ask(port, keep=keep))[1].lower()
        began = time.monotonic()
        ending = asyncio.create_task(made.drain(20))
        await asyncio.sleep(0.1)
        status, head, _ = await ask(port, keep=keep)
        assert status == 200
        assert "connection: close" in head.lower()
        assert await keep[0].read() == b""
        assert await quiet[0].read() == b""  # it asked nothing within the second that it had
        assert await ending == 0
        assert time.monotonic() - began < 5
        for _, writer in (keep, quiet):
            writer.close()


@on_loop
async def test_it_says_that_it_is_not_ready_as_soon_as_it_ends():
    asked = b"GET /__holdfast__/ready HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with gateway(always(answer())) as (made, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", made.port)
        writer.write(asked)
        assert (await read(reader))[0] == 200
        ending = asyncio.create_task(made.drain(20))
        await asyncio.sleep(0.05)
        writer.write(asked)
        status, _, body = await read(reader)
        assert status == 503
        assert b"draining" in body
        assert made.stats()["draining"] is True
        writer.close()
        await ending


async def open_stream(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /x HTTP/1.1\r\nHost: g\r\nContent-Length: 0\r\n\r\n")
    return reader, writer


@pytest.mark.parametrize("how", ["limit", "hurry"])
@on_loop
async def test_a_stream_that_is_not_over_in_time_ends_with_an_error_event(how):
    slow = Slow(first=STREAM + PIECE)
    async with gateway(slow) as (made, _):
        reader, writer = await open_stream(made.port)
        await reader.readuntil(b"\n\n")
        ending = asyncio.create_task(made.drain(0.3 if how == "limit" else 60))
        await asyncio.sleep(0.05)
        if how == "hurry":
            made.hurry()
        rest = await reader.read()
        assert b"event: error\n" in rest
        assert b'"HF-3108"' in rest
        assert rest.endswith(b"\r\n0\r\n\r\n")
        assert await ending == 1
        writer.close()
        slow.go.set()


@on_loop
async def test_a_request_without_an_answer_is_refused_at_the_limit_and_blames_nobody():
    slow = Slow()
    async with gateway(slow) as (made, _):
        asked = asyncio.create_task(ask(made.port))
        await slow.begun.wait()
        cluster = made.cluster
        assert await made.drain(0.1) == 1
        status, head, body = await asked
        assert status == 503
        assert "connection: close" in head.lower()
        assert json.loads(body)["error"]["code"] == "HF-3107"
        health = cluster.balancer.endpoints[0].health
        assert health.in_flight == 0
        assert health.breaker.counts(time.monotonic()) == (0, 0, 0)
        slow.go.set()


@on_loop
async def test_a_second_drain_waits_for_the_first_one():
    slow = Slow(last=answer())
    async with gateway(slow) as (made, _):
        asked = asyncio.create_task(ask(made.port))
        await slow.begun.wait()
        first = asyncio.create_task(made.drain(20))
        await asyncio.sleep(0)
        second = asyncio.create_task(made.drain(0))
        await asyncio.sleep(0.1)
        assert not second.done()
        slow.go.set()
        assert (await asked)[0] == 200
        assert await asyncio.gather(first, second) == [0, 0]


@on_loop
async def test_serve_ends_with_the_drain():
    async with gateway(always(answer())) as (made, _):
        serving = asyncio.create_task(made.serve())
        await asyncio.sleep(0)
        await made.drain(5)
        await asyncio.wait_for(serving, 5)


@on_loop
async def test_a_drain_of_what_was_never_started_is_over_at_once():
    made = Gateway(endpoints="http://127.0.0.1:9")
    assert await asyncio.wait_for(made.drain(), 5) == 0


@on_loop
async def test_after_a_drain_that_was_cancelled_the_next_one_ends_it():
    async with gateway(hangs) as (made, (up,)):
        asking = asyncio.create_task(ask(made.port))
        await up.asked_first.wait()
        first = asyncio.create_task(made.drain(600))
        second = asyncio.create_task(made.drain(0))  # it waits for the first
        await asyncio.sleep(0.05)
        first.cancel()
        assert await asyncio.wait_for(second, 5) == 1
        assert (await asking)[0] == 503


@on_loop
async def test_a_client_that_asks_for_nothing_is_no_request_that_was_cut():
    async with gateway(always(answer())) as (made, _):
        idle = await asyncio.open_connection("127.0.0.1", made.port)
        assert (await ask(made.port, keep=idle))[0] == 200
        assert await made.drain(0) == 0
        idle[1].close()


@on_loop
async def test_it_can_be_started_again_at_the_same_port():
    async with gateway(always(answer())) as (made, _):
        port = made.port
        await made.drain(5)
        made.config = type(made.config)(
            listen=(type(made.config.listen[0])("127.0.0.1", port),), endpoint=made.config.endpoint
        )
        await made.start()
        assert made.port == port
        assert (await ask(port))[0] == 200


# -- sockets -----------------------------------------------------------------------------------


def test_newcomers_are_ignored_and_those_who_were_there_are_not():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        before = socket.create_connection(sock.getsockname())
        ignore_newcomers(sock)
        late = socket.socket()
        late.settimeout(0.2)
        with pytest.raises(TimeoutError):
            late.connect(sock.getsockname())
        before.sendall(b"x")
        accepted, _ = sock.accept()
        assert accepted.recv(1) == b"x"
        for one in (before, late, accepted):
            one.close()


def test_a_port_that_somebody_has_is_not_shared_with_him():
    from holdfast.gateway.config import Listen  # noqa: PLC0415 - of these two tests

    mine = bind_shared([Listen("127.0.0.1", 0)], 2)
    port = mine[0][0].getsockname()[1]
    assert {one.getsockname()[1] for sockets in mine for one in sockets} == {port}
    with pytest.raises(CannotListen, match=f"`127.0.0.1:{port}`.*in use"):
        bind_shared([Listen("127.0.0.1", port)], 2)
    for sockets in mine:
        for one in sockets:
            one.close()


def test_a_path_of_the_dead_is_taken_and_one_of_the_living_is_not(tmp_path):
    from holdfast.gateway.config import Listen  # noqa: PLC0415 - of these two tests

    path = str(tmp_path / "s")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(path)
    mine = bind_shared([Listen(path=path)], 2)
    assert mine[0][0] is mine[1][0]
    with pytest.raises(CannotListen, match="in use"):
        bind_shared([Listen(path=path)], 1)
    mine[0][0].close()


def socket_at(host, family=socket.AF_INET):
    return SimpleNamespace(family=family, getsockname=lambda: (host, 80))


@on_loop
async def test_sockets_that_other_machines_reach_need_tokens(monkeypatch):
    monkeypatch.setenv("GATEWAY_TOKEN", "a-token")
    without = Gateway(endpoints="http://127.0.0.1:9", listen="127.0.0.1:0")
    for far in (socket_at("0.0.0.0"), socket_at("::", socket.AF_INET6), socket_at("192.0.2.1")):
        with pytest.raises(ConfigError, match=r"client_tokens.*can be reached from other machines"):
            await without.start([far])
    async with Gateway(
        endpoints="http://127.0.0.1:9", listen="127.0.0.1:0", client_tokens="env:GATEWAY_TOKEN"
    ) as made:
        with monkeypatch.context() as patch:
            patch.setattr(type(made._listeners), "sockets", [socket_at("0.0.0.0")])
            with pytest.raises(ConfigError, match="client_tokens"):
                made.use(without.config)
        assert made.config.client_tokens
        made.use(without.config)


@on_loop
async def test_so_do_those_of_a_service_manager_whoever_serves(monkeypatch, tmp_path):
    file = tmp_path / "holdfast.toml"
    file.write_text('[[gateway.g.endpoint]]\nurl = "http://127.0.0.1:9"\n')
    loaded = Source(file, flags={"listen": "127.0.0.1:0", "workers": 2}).load()
    for module in (service, workers):
        monkeypatch.setattr(module, "inherited", lambda: [socket_at("0.0.0.0")])
    for site in (service.Alone(loaded.config), service.Crew(loaded, print)):
        with pytest.raises(ConfigError, match="client_tokens"):
            await site.start()
        await site.stop()


@on_loop
async def test_a_socket_that_one_lets_go_is_still_where_others_find_it(tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen(5)
        made = Gateway(endpoints="http://127.0.0.1:9")
        await made.start([sock])
        made.leave(await made.listen(sock))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
        await made.stop()
        assert (tmp_path / "s").is_socket()


INHERITS = """
import asyncio, os, sys
from holdfast.gateway.gateway import Gateway
from holdfast.gateway.listeners import inherited
async def main():
    gateway = Gateway(endpoints=["http://127.0.0.1:9"], listen="127.0.0.1:1")
    await gateway.start(inherited())
    print(gateway.port, os.environ.get("LISTEN_FDS"), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    await gateway.drain(5)
asyncio.run(main())
"""


def test_sockets_of_a_service_manager_are_used_and_stay_open():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        with subprocess.Popen(
            with_socket(sock, [sys.executable, "-c", INHERITS]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(sock.fileno(),),
        ) as process:
            assert process.stdout.readline().split() == [str(port).encode(), b"None"]
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(b"GET /__holdfast__/ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert client.recv(100).startswith(b"HTTP/1.1 200")
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert process.wait(10) == 0
        # The manager's socket is still there, and takes who comes for the next process.
        socket.create_connection(("127.0.0.1", port)).close()
