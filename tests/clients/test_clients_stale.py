"""A server that hangs up on idle connections at the worst moment: nobody notices.

It closes each connection 0 to 10 ms after an answer, so that many requests meet a connection
that is just being closed. Two thousand of them per client, and a bare client for contrast.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import aiohttp
import boto3
import httpx
import httpx2
import pytest
import requests
from botocore import UNSIGNED
from botocore.config import Config

import holdfast as hf
from scripted import Listening

REQUESTS = 2000
THREADS = 8
ANSWER = b'HTTP/1.1 200 OK\r\nContent-Length: 4\r\nETag: "e"\r\n\r\nfine'


class Server(Listening):
    """Hangs up some 0 to 10 ms after each answer. requests: those that were answered."""

    def __init__(self):
        self.requests = 0
        self._numbers = itertools.count(1)
        super().__init__()
        self.url = f"http://127.0.0.1:{self.port}/"

    def serve(self, sock):
        draw = random.Random(next(self._numbers))
        sock.settimeout(10)  # the first request has time
        while True:
            head = b""
            while b"\r\n\r\n" not in head:
                data = sock.recv(65536)
                if not data:
                    return
                head += data
            with self._lock:
                self.requests += 1
            sock.sendall(ANSWER)
            sock.settimeout(draw.uniform(0.0001, 0.01))


@pytest.fixture
def server():
    with Server() as made:
        yield made


def policy() -> hf.Policy:
    # One attempt: what is hidden is hidden by the fresh connection, not by a retry.
    return hf.policy(hf.Deadline(30), hf.Retry(1), hf.Breaker())


def run_sync(fetch) -> list[Exception]:
    """Make the requests on several threads, with short pauses; return what went wrong."""

    def one(number):
        time.sleep(random.Random(number).uniform(0, 0.01))
        try:
            assert fetch() == b"fine"
        except Exception as error:
            return error
        return None

    with ThreadPoolExecutor(THREADS) as pool:
        return [error for error in pool.map(one, range(REQUESTS)) if error is not None]


async def run_async(fetch) -> list[Exception]:
    """The same by tasks."""
    wrong = []

    async def worker(number):
        draw = random.Random(number)
        for _ in range(REQUESTS // THREADS):
            await asyncio.sleep(draw.uniform(0, 0.01))
            try:
                assert await fetch() == b"fine"
            except Exception as error:
                wrong.append(error)

    await asyncio.gather(*map(worker, range(THREADS)))
    return wrong


def s3(url):
    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        config=Config(
            signature_version=UNSIGNED,
            retries={"total_max_attempts": 1, "mode": "standard"},
            response_checksum_validation="when_required",
        ),
    )


@contextmanager
def httpx_client(library, ours):
    transport = hf.clients.httpx.Transport(ours, library.HTTPTransport()) if ours else None
    with library.Client(transport=transport) as client:
        yield lambda url: client.get(url).content


@contextmanager
def requests_client(ours):
    with requests.Session() as session:
        if ours:
            hf.clients.requests.mount(session, ours)
        yield lambda url: session.get(url).content


@contextmanager
def botocore_client(ours, url):
    client = s3(url)
    if ours:
        hf.clients.botocore.attach(client, ours)
    yield lambda _: client.get_object(Bucket="bucket", Key="key")["Body"].read()
    client.close()


SYNC = {
    "httpx": lambda ours, _: httpx_client(httpx, ours),
    "httpx2": lambda ours, _: httpx_client(httpx2, ours),
    "requests": lambda ours, _: requests_client(ours),
    "botocore": botocore_client,
}


@pytest.mark.parametrize("name", SYNC)
def test_stale_connections_are_never_seen_by_the_caller(name, server):
    ours = policy()
    with SYNC[name](ours, server.url) as fetch:
        assert run_sync(partial(fetch, server.url)) == []
    state = ours.state()
    assert (state["failures"], state["active"]) == (0, 0)
    assert server.requests >= REQUESTS
    assert server.connections > 100  # it did hang up, all the time


@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
def test_stale_connections_are_never_seen_by_a_task_of_httpx(library, server):
    ours = policy()

    async def run():
        transport = hf.clients.httpx.AsyncTransport(ours, library.AsyncHTTPTransport())
        async with library.AsyncClient(transport=transport) as client:

            async def fetch():
                return (await client.get(server.url)).content

            return await run_async(fetch)

    assert asyncio.run(run()) == []
    assert ours.state()["failures"] == 0
    assert server.connections > 100


def test_stale_connections_are_never_seen_by_a_task_of_aiohttp(server):
    ours = policy()

    async def run():
        middleware = hf.clients.aiohttp.Middleware(ours)
        async with aiohttp.ClientSession(middlewares=[middleware]) as session:

            async def fetch():
                async with session.get(server.url) as response:
                    return await response.read()

            return await run_async(fetch)

    assert asyncio.run(run()) == []
    assert ours.state()["failures"] == 0
    assert server.connections > 100


@pytest.mark.parametrize("name", ["httpx", "requests"])
def test_the_bare_client_does_see_them(name, server):
    """Else the tests above would show nothing."""
    with SYNC[name](None, server.url) as fetch:
        assert run_sync(partial(fetch, server.url)) != []
