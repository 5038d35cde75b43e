"""How httpx transports begin and end: imports, cancellation, hedging, closing."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time

import pytest
from clients_shapes import cutter
from httpx_faces import FACES, NOW, Connection, answer, answers, serving

import holdfast as hf

asynchronous = pytest.mark.parametrize("face", [face for face in FACES if face.is_async], ids=repr)


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_neither_library_is_imported_before_it_is_used():
    code = """
import sys
import holdfast as hf
transport = hf.clients.httpx.Transport(hf.policy(hf.Retry(2)))
print(sorted({"httpx", "httpx2", "httpcore", "httpcore2"} & set(sys.modules)))
"""
    assert python(code) == "[]"


def test_without_any_library_it_says_what_to_install():
    code = """
import sys
import holdfast as hf
import importlib.machinery
find = importlib.machinery.PathFinder.find_spec
importlib.machinery.PathFinder.find_spec = classmethod(
    lambda cls, name, *rest: None if name in ("httpx", "httpx2") else find(name, *rest)
)
try:
    hf.clients.httpx.Transport(hf.policy(hf.Retry(2)))
except ModuleNotFoundError as error:
    print(error)
"""
    assert python(code) == "hf.clients.httpx needs httpx2 or httpx: `pip install httpx2`"


@pytest.mark.parametrize("name", ["httpx", "httpx2"])
def test_certificates_are_loaded_with_the_transport_if_the_library_is_known(name):
    code = f"""
import sys
import {name}
import holdfast as hf
made = []
{name}.HTTPTransport.__init__ = lambda self: made.append(self)
hf.clients.httpx.Transport(hf.policy(hf.Retry(2)))
print(len(made))
"""
    assert python(code) == "1"


@asynchronous
def test_a_cancelled_request_leaves_nothing(face):
    """Cancelled at many moments: connecting, sending, waiting for the head, in the body."""

    def script(connection: Connection) -> None:
        if connection.request() is not None:
            whole = answer(b"x" * 30)
            for at in range(0, len(whole), 8):
                connection.send(whole[at : at + 8])
                time.sleep(0.002)
            connection.wait()

    held = hf.policy(hf.Deadline(20), hf.Bulkhead(1000), hf.Retry(3, backoff=NOW))
    with serving(script) as server, face.client(held) as c:

        async def main() -> int:
            done = 0
            for at in range(100):
                task = asyncio.ensure_future(c.client.get(server.url))
                await asyncio.sleep(at * 0.0004)
                task.cancel()
                try:
                    await task
                    done += 1
                except asyncio.CancelledError:
                    pass
                assert held.state()["active"] == 0
            assert len(asyncio.all_tasks()) == 1
            return done

        assert c.run(main()) < 100
        pool = c.transport._inner._pool
        assert list(pool._requests) == []  # httpcore 1.0.9 alone loses two places of a hundred
    assert server.quiet()


@asynchronous
def test_a_cancelled_reader_of_an_open_body_leaves_nothing(face):
    def script(connection: Connection) -> None:
        if connection.request() is not None:
            connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
            connection.wait()

    held = hf.policy(hf.Deadline(20), hf.Bulkhead(5))
    with serving(script) as server, face.client(held) as c:

        async def main() -> None:
            task = asyncio.ensure_future(c.client.get(server.url))
            await asyncio.sleep(0.1)
            assert held.state()["active"] == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert held.state()["active"] == 0

        c.run(main())
        assert server.quiet()


@asynchronous
def test_a_slow_attempt_is_hedged_and_the_loser_is_closed(face):
    slow = threading.Event()

    def script(connection: Connection) -> None:
        while connection.request() is not None:
            if slow.is_set():
                slow.clear()
                connection.wait()
                return
            connection.send(answer())

    held = hf.policy(hf.Deadline(20), hf.Bulkhead(20), hf.Hedge(after=0.05, budget=1.0))
    with serving(script) as server, face.client(held) as c:
        for _ in range(30):
            assert c.get(server.url).content == b"fine"
        slow.set()
        began = time.monotonic()
        assert c.get(server.url).content == b"fine"
        assert time.monotonic() - began < 2
        assert len(server.requests) == 32
        assert held.state()["active"] == 0
    assert server.quiet()


@pytest.mark.parametrize("face", FACES, ids=repr)
def test_a_client_can_be_closed_with_an_open_answer(face):
    big = answer(b"0123456789" * 200_000)
    with serving(answers(big)) as server, face.client(hf.policy(hf.Deadline(10))) as c:
        r = c.open("GET", server.url)
        c.run(c.client.aclose() if face.is_async else c.client.close())
        c.shut(r)
        assert server.quiet()


@pytest.mark.parametrize("face", FACES, ids=repr)
def test_without_a_policy_to_speak_of_all_is_as_before(face):
    with cutter() as server, face.client(hf.policy()) as c:
        from clients_shapes import SHAPES  # noqa: PLC0415 - only here

        for shape in SHAPES:
            url, _ = server.url(shape, "none", 0)
            r = c.request(shape.method, url)
            assert (r.status_code, r.content) == (shape.status, shape.body), shape.name
