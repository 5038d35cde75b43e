"""What an adapter costs per request, beside the bare client and its usual retry add-on.

    python benchmarks/clients.py [--rounds N] [--requests N] [--json FILE] [--only CLIENT]

All subjects of a client fetch the same 1 KiB over a kept-alive connection from a server in
another process. Rounds are interleaved; shown is the median round, and the ratio is the median
of the ratios to the bare client of the same round. Nothing fails here: the goal is printed
with what was measured, met or not.

| subject | has | lacks, of what ours has |
|---|---|---|
| holdfast | deadline, bulkhead, rate limit, retry, budget, breaker, attempt limit | |
| httpx-retries | 3 retries, backoff, Retry-After | the rest |
| aiohttp-retry | 3 attempts, backoff | the rest |
| urllib3 Retry | 3 retries, backoff, Retry-After | the rest |
| botocore standard | 3 attempts, retry quota | the rest |
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import time
import warnings
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import aiohttp
import aiohttp_retry
import boto3
import httpx
import httpx2
import httpx_retries
import requests
import urllib3
from about import machine, show
from botocore import UNSIGNED
from botocore.config import Config
from processes import Script

import holdfast as hf

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Fetch = Callable[[], Any]
    AsyncFetch = Callable[[], Awaitable[Any]]

SIZE = 1024
LIMIT = 1.1
PACKAGES = (
    "httpx", "httpx2", "httpx-retries", "aiohttp", "aiohttp-retry", "requests", "urllib3",
    "boto3",
)  # fmt: skip
BARE = "bare"


def full_policy() -> hf.Policy:
    """Return a policy with everything, none of which ever bites here."""
    return hf.policy(
        hf.Deadline(60),
        hf.Bulkhead(1000),
        hf.RateLimit(1_000_000),
        hf.Retry(3),
        hf.Breaker(),
        hf.Timeout(10),
    )


# -- subjects --------------------------------------------------------------------------


def httpx_subjects(library: Any, url: str, stack: ExitStack) -> dict[str, Fetch]:
    """Synchronous httpx and httpx2."""
    adapter = hf.clients.httpx.Transport(full_policy(), library.HTTPTransport())
    clients = {
        BARE: library.Client(),
        "holdfast": library.Client(transport=adapter),
    }
    if library is httpx:
        clients["httpx-retries"] = httpx.Client(transport=httpx_retries.RetryTransport())
    for client in clients.values():
        stack.enter_context(client)
    return {name: lambda client=client: client.get(url).content for name, client in clients.items()}


def requests_subjects(url: str, stack: ExitStack) -> dict[str, Fetch]:
    """Synchronous requests."""
    bare, ours, retried = (stack.enter_context(requests.Session()) for _ in range(3))
    hf.clients.requests.mount(ours, full_policy())
    rule = urllib3.Retry(3, backoff_factor=0.1, status_forcelist=[429, 502, 503, 504])
    retried.mount("http://", requests.adapters.HTTPAdapter(max_retries=rule))
    clients = {BARE: bare, "holdfast": ours, "urllib3 Retry": retried}
    return {name: lambda client=client: client.get(url).content for name, client in clients.items()}


def botocore_subjects(url: str, stack: ExitStack) -> dict[str, Fetch]:
    """GetObject by boto3, unsigned, so that the signature is not what is measured."""

    def client(**retries: Any) -> Any:
        made = boto3.client(
            "s3",
            endpoint_url=url,
            region_name="us-east-1",
            config=Config(
                signature_version=UNSIGNED,
                retries=retries,
                s3={"addressing_style": "path"},
                response_checksum_validation="when_required",
            ),
        )
        stack.callback(made.close)
        return made

    clients = {
        BARE: client(total_max_attempts=1, mode="standard"),
        "holdfast": hf.clients.botocore.attach(client(), full_policy()),
        "botocore standard": client(total_max_attempts=3, mode="standard"),
    }
    return {
        name: lambda client=client: client.get_object(Bucket="b", Key="k")["Body"].read()
        for name, client in clients.items()
    }


async def async_httpx_subjects(
    library: Any, url: str, stack: AsyncExitStack
) -> dict[str, AsyncFetch]:
    """Asynchronous httpx and httpx2."""
    adapter = hf.clients.httpx.AsyncTransport(full_policy(), library.AsyncHTTPTransport())
    clients = {BARE: library.AsyncClient(), "holdfast": library.AsyncClient(transport=adapter)}
    if library is httpx:
        clients["httpx-retries"] = httpx.AsyncClient(transport=httpx_retries.RetryTransport())

    def fetching(client: Any) -> AsyncFetch:
        async def fetch() -> bytes:
            return (await client.get(url)).content

        return fetch

    return {
        name: fetching(await stack.enter_async_context(client)) for name, client in clients.items()
    }


async def aiohttp_subjects(url: str, stack: AsyncExitStack) -> dict[str, AsyncFetch]:
    """Asynchronous aiohttp."""
    policy = hf.clients.aiohttp.Middleware(full_policy())
    clients: dict[str, Any] = {
        BARE: aiohttp.ClientSession(),
        "holdfast": aiohttp.ClientSession(middlewares=[policy]),
        "aiohttp-retry": aiohttp_retry.RetryClient(),
    }

    def fetching(client: Any) -> AsyncFetch:
        async def fetch() -> bytes:
            async with client.get(url) as response:
                return await response.read()

        return fetch

    return {
        name: fetching(await stack.enter_async_context(client)) for name, client in clients.items()
    }


# -- measuring -------------------------------------------------------------------------

Rounds = dict[str, list[float]]


def rounds_of(subjects: dict[str, Fetch], rounds: int, requests: int) -> Rounds:
    """Return seconds per request of each round, by subject."""
    taken: Rounds = {name: [] for name in subjects}
    for number in range(rounds + 1):
        for name, fetch in subjects.items():
            gc.collect()
            began = time.perf_counter()
            for _ in range(requests):
                body = fetch()
            if number:  # the first round opens connections and fills caches
                taken[name].append((time.perf_counter() - began) / requests)
            assert len(body) == SIZE
    return taken


async def async_rounds_of(subjects: dict[str, AsyncFetch], rounds: int, requests: int) -> Rounds:
    """As `rounds_of`, one request at a time."""
    taken: Rounds = {name: [] for name in subjects}
    for number in range(rounds + 1):
        for name, fetch in subjects.items():
            gc.collect()
            began = time.perf_counter()
            for _ in range(requests):
                body = await fetch()
            if number:
                taken[name].append((time.perf_counter() - began) / requests)
            assert len(body) == SIZE
    return taken


def measure_sync(client: str, url: str, rounds: int, requests: int) -> Rounds:
    """Measure one of the synchronous clients."""
    makers: dict[str, Callable[[ExitStack], dict[str, Fetch]]] = {
        "httpx": lambda stack: httpx_subjects(httpx, url, stack),
        "httpx2": lambda stack: httpx_subjects(httpx2, url, stack),
        "requests": lambda stack: requests_subjects(url, stack),
        "botocore": lambda stack: botocore_subjects(url, stack),
    }
    with ExitStack() as stack:
        return rounds_of(makers[client](stack), rounds, requests)


async def measure_async(client: str, url: str, rounds: int, requests: int) -> Rounds:
    """Measure one of the asynchronous clients."""
    makers: dict[str, Callable[[AsyncExitStack], Awaitable[dict[str, AsyncFetch]]]] = {
        "httpx async": lambda stack: async_httpx_subjects(httpx, url, stack),
        "httpx2 async": lambda stack: async_httpx_subjects(httpx2, url, stack),
        "aiohttp": lambda stack: aiohttp_subjects(url, stack),
    }
    async with AsyncExitStack() as stack:
        return await async_rounds_of(await makers[client](stack), rounds, requests)


CLIENTS = ("httpx", "httpx2", "requests", "botocore", "httpx async", "httpx2 async", "aiohttp")


def measure(client: str, url: str, rounds: int, requests: int) -> Rounds:
    """Measure one client."""
    if client in ("httpx async", "httpx2 async", "aiohttp"):
        return asyncio.run(measure_async(client, url, rounds, requests))
    return measure_sync(client, url, rounds, requests)


def ratio(taken: Rounds, name: str) -> float:
    """Return the median over rounds of this subject's time by the bare client's."""
    return median(one / bare for one, bare in zip(taken[name], taken[BARE], strict=True))


def table(results: dict[str, Rounds]) -> list[str]:
    """Return the comparison, one line per client and subject."""
    lines = ["| client | with | us per request | x bare |", "|---|---|---:|---:|"]
    for client, taken in results.items():
        for name, rounds in taken.items():
            cells = (client, name, f"{median(rounds) * 1e6:,.0f}", f"{ratio(taken, name):.2f}")
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Measure, print, and write the file that was asked for."""
    parser = argparse.ArgumentParser(description="What an adapter costs, beside peers.")
    parser.add_argument("--rounds", type=int, default=60, metavar="N", help="default: 60")
    parser.add_argument("--requests", type=int, default=40, metavar="N", help="default: 40")
    parser.add_argument("--only", choices=CLIENTS, action="append", help="may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results there")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    about = machine(PACKAGES)
    show(about)
    print(f"rounds:    {args.rounds} of {args.requests} requests, interleaved; medians\n")
    with Script("answering.py", SIZE) as server:
        url = f"http://127.0.0.1:{server.said}/"
        results = {
            client: measure(client, url, args.rounds, args.requests)
            for client in args.only or CLIENTS
        }
    lines = table(results)
    print("\n".join(lines))
    print(f"\n| client | holdfast / bare | limit {LIMIT:g} |\n|---|---:|---|")
    goals = {client: ratio(taken, "holdfast") for client, taken in results.items()}
    for client, value in goals.items():
        print(f"| {client} | {value:.3f} | {'met' if value <= LIMIT else 'not met'} |")
    if args.json is not None:
        text = json.dumps(
            {**about, "rounds": args.rounds, "requests": args.requests, "table": lines,
             "results": results, "goals": goals},
            indent=2,
        )  # fmt: skip
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
