"""The client libraries themselves, failing on real sockets, and the names in our tables.

Runs for each library that is installed. Libraries are used bare, without our adapters: what
is checked is that their exceptions, as they really come, mean what the tables say.
"""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
from core_failing_server import failing_server

from holdfast.core.classify import classify
from holdfast.core.tables import aiohttp as aiohttp_table
from holdfast.core.tables import anthropic as anthropic_table
from holdfast.core.tables import botocore as botocore_table
from holdfast.core.tables import httpx as httpx_table
from holdfast.core.tables import requests as requests_table
from holdfast.core.verdict import (
    CONNECT,
    PERMANENT,
    THROTTLED,
    TIMEOUT,
    TRANSIENT,
    Kind,
    Sent,
    Verdict,
)

if TYPE_CHECKING:
    from collections.abc import Callable

SILENCE = 0.2  # seconds after which clients give up waiting for bytes


def with_httpx(url: str, module: str = "httpx") -> None:
    httpx = pytest.importorskip(module)
    with httpx.Client(timeout=SILENCE, trust_env=False) as client:
        client.get(url).raise_for_status()


def with_httpx2(url: str) -> None:
    with_httpx(url, "httpx2")


def with_requests(url: str) -> None:
    requests = pytest.importorskip("requests")
    with requests.Session() as session:
        session.trust_env = False
        session.get(url, timeout=SILENCE).raise_for_status()


def with_aiohttp(url: str) -> None:
    aiohttp = pytest.importorskip("aiohttp")

    async def main() -> None:
        limits = aiohttp.ClientTimeout(sock_connect=SILENCE, sock_read=SILENCE)
        async with aiohttp.ClientSession(timeout=limits) as session:
            session._retry_connection = False
            async with session.get(url) as response:
                response.raise_for_status()
                await response.read()

    asyncio.run(main())


def with_botocore(url: str) -> None:
    session = pytest.importorskip("botocore.session").get_session()
    config = pytest.importorskip("botocore.config").Config(
        connect_timeout=SILENCE,
        read_timeout=SILENCE,
        retries={"total_max_attempts": 1},
        s3={"addressing_style": "path"},
    )
    client = session.create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=url.rstrip("/"),
        aws_access_key_id="a",
        aws_secret_access_key="b",
        config=config,
        verify=False,
    )
    try:
        client.get_object(Bucket="bucket", Key="key")["Body"].read()
    finally:
        client.close()


CLIENTS: dict[str, Callable[[str], None]] = {
    "httpx": with_httpx,
    "httpx2": with_httpx2,
    "requests": with_requests,
    "aiohttp": with_aiohttp,
    "botocore": with_botocore,
}

NO, MAYBE, YES = Sent.NO, Sent.MAYBE, Sent.YES
FACTS: list[tuple[str, Kind, Sent]] = [
    ("refused", CONNECT, NO),
    ("rst_head", TRANSIENT, MAYBE),
    ("fin_head", TRANSIENT, MAYBE),
    ("garbage", TRANSIENT, MAYBE),
    ("rst_body", TRANSIENT, YES),
    ("fin_body", TRANSIENT, YES),
    ("cut_chunk", TRANSIENT, YES),
    ("bad_chunk", TRANSIENT, YES),
    ("silent_head", TIMEOUT, MAYBE),
    ("silent_body", TIMEOUT, MAYBE),
    ("tls_eof", CONNECT, MAYBE),
    ("throttled", THROTTLED, YES),
    ("missing", PERMANENT, YES),
]


def failure(client: str, what: str) -> Verdict:
    scheme = "https" if what == "tls_eof" else "http"
    with failing_server(what) as port, pytest.raises(Exception) as caught:  # noqa: PT011 - foreign types are the subject
        CLIENTS[client](f"{scheme}://127.0.0.1:{port}/")
    return classify(caught.value)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(("what", "kind", "sent"), FACTS)
def test_a_client_fails_and_we_know_how(client: str, what: str, kind: Kind, sent: Sent) -> None:
    verdict = failure(client, what)
    assert verdict.kind is kind, verdict
    expected = {sent}
    if client.startswith("httpx") and what.endswith(("body", "chunk")):
        expected = {MAYBE}  # their types do not tell a head from a body
    elif what == "tls_eof":
        expected = {NO, MAYBE}  # those that name the handshake know that nothing was sent
    elif (client, what) == ("aiohttp", "silent_body"):
        expected = {MAYBE, YES}
    assert verdict.sent in expected, verdict
    assert verdict.retry_after == (7 if what == "throttled" else None)


TABLES: list[tuple[str, dict[str, Any]]] = [
    ("httpx", httpx_table.TYPES),
    ("httpx2", httpx_table.TYPES),
    ("httpcore", httpx_table.TYPES),
    ("httpcore2", httpx_table.TYPES),
    ("requests", requests_table.TYPES),
    ("urllib3", requests_table.TYPES),
    ("aiohttp", aiohttp_table.TYPES),
    ("botocore", botocore_table.TYPES),
    ("boto3", botocore_table.TYPES),
    ("s3transfer", botocore_table.TYPES),
    ("anthropic", anthropic_table.TYPES),
]
# In one of the two families only.
ABSENT = {"httpx.SSEError"}


@pytest.mark.newest
@pytest.mark.parametrize(("library", "table"), TABLES, ids=lambda value: str(value)[:10])
def test_every_row_names_a_type_that_exists(library: str, table: dict[str, Any]) -> None:
    pytest.importorskip(library)
    names = [name for name in table if name.partition(".")[0] == library and name not in ABSENT]
    assert names
    for name in names:
        module, _, short = name.rpartition(".")
        found = getattr(import_module(module), short)
        assert issubclass(found, BaseException)
        assert f"{found.__module__}.{found.__qualname__}" == name
