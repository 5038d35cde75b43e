"""Three layers that all retry, around a backend that is down: the load is hardly more than one.

A thousand calls, each through two policies and an adapter with a third; what counts is what
the backend saw.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager

import aiohttp
import boto3
import httpx
import pytest
import requests
from botocore import UNSIGNED
from botocore.config import Config

import holdfast as hf
from scripted import Listening

CALLS = 1000
DOWN = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\n\r\ndown"


class Down(Listening):
    """Answers 500 to everything, and counts."""

    def __init__(self):
        self.requests = 0
        super().__init__()
        self.url = f"http://127.0.0.1:{self.port}/"

    def serve(self, sock):
        head = b""
        while data := sock.recv(65536):
            head += data
            while b"\r\n\r\n" in head:
                head = head.partition(b"\r\n\r\n")[2]
                self.requests += 1
                sock.sendall(DOWN)


@pytest.fixture
def down():
    with Down() as server:
        yield server


@pytest.fixture(autouse=True)
def clock():
    with hf.testing.clock():  # the waits between attempts take no time
        yield


def layer() -> hf.Policy:
    return hf.policy(hf.Retry(3))


def failing(status: int) -> None:
    """What a caller of a plain client does with a bad answer: the layers outside see an error."""
    if status >= 500:
        raise ConnectionError(status)


@contextmanager
def httpx_client(policy, url):
    with httpx.Client(transport=hf.clients.httpx.Transport(policy)) as client:
        yield lambda: failing(client.get(url).status_code)


@contextmanager
def requests_client(policy, url):
    with requests.Session() as session:
        hf.clients.requests.mount(session, policy)
        yield lambda: failing(session.get(url).status_code)


@contextmanager
def botocore_client(policy, url):
    config = Config(signature_version=UNSIGNED, s3={"addressing_style": "path"})
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", config=config)
    hf.clients.botocore.attach(client, policy)
    yield lambda: client.get_object(Bucket="bucket", Key="key")
    client.close()


@pytest.mark.parametrize("client", [httpx_client, requests_client, botocore_client])
def test_three_layers_of_synchronous_retries_do_not_multiply(client, down):
    outer, middle = layer(), layer()
    with client(layer(), down.url) as call:
        ended = [outer.outcome(middle.call, call) for _ in range(CALLS)]
    assert [one for one in ended if one.ok] == []
    assert CALLS <= down.requests <= 1.05 * CALLS


@pytest.mark.parametrize("library", ["httpx", "aiohttp"])
def test_three_layers_of_asynchronous_retries_do_not_multiply(library, down):
    outer, middle = layer(), layer()

    async def by_httpx():
        transport = hf.clients.httpx.AsyncTransport(layer())
        async with httpx.AsyncClient(transport=transport) as client:

            async def call():
                failing((await client.get(down.url)).status_code)

            return [await outer.aoutcome(middle.acall, call) for _ in range(CALLS)]

    async def by_aiohttp():
        middleware = hf.clients.aiohttp.Middleware(layer())
        async with aiohttp.ClientSession(middlewares=[middleware]) as session:

            async def call():
                async with session.get(down.url) as response:
                    failing(response.status)

            return [await outer.aoutcome(middle.acall, call) for _ in range(CALLS)]

    ended = asyncio.run(by_httpx() if library == "httpx" else by_aiohttp())
    assert [one for one in ended if one.ok] == []
    assert CALLS <= down.requests <= 1.05 * CALLS
