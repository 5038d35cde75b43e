"""Downloads a list with a library, in a process of its own, and prints the seconds it took.

    python throughput_library.py SUBJECT JOB.json

The clock runs from the first call to the last byte; imports and the start of the interpreter
are not in it (they are in the time of the process, which is measured outside). So imports stand
in the functions: a process loads only the library that it is for.
"""

# ruff: noqa: PLC0415 - see above

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    Plane = Literal["auto", "threads", "asyncio"]

RANGE = 8 << 20
"""Bytes that are asked for at once where the library leaves that to its user."""


def holdfast(job: dict[str, Any], plane: Plane) -> Callable[[], None]:
    """`Downloads`, journal and syncs on, as by default."""
    import holdfast as hf
    from holdfast.downloads.lists import Entry

    def fetch() -> None:
        entries = [Entry(file["url"], path=file["name"]) for file in job["files"]]
        with hf.Downloads(job["out"], job["workers"], durability="power", plane=plane) as downloads:
            downloads.add_many(entries)
            report = downloads.run()
        if report.exit_code:
            raise SystemExit(f"holdfast: {report}")

    return fetch


def boto3(job: dict[str, Any]) -> Callable[[], None]:
    """`download_file`: a HEAD, then one GET, or parts of 8 MiB by so many threads."""
    import boto3 as library
    from boto3.s3.transfer import TransferConfig
    from botocore import UNSIGNED
    from botocore.config import Config

    many = len(job["files"]) > 1

    def fetch() -> None:
        config = Config(
            signature_version=UNSIGNED,
            s3={"addressing_style": "path"},
            max_pool_connections=job["workers"],
        )
        client = library.client(
            "s3", endpoint_url=job["endpoint"], region_name="us-east-1", config=config
        )
        transfer = TransferConfig(max_concurrency=job["workers"], use_threads=not many)

        def one(file: dict[str, Any]) -> None:
            path = Path(job["out"], file["name"])
            client.download_file(job["bucket"], file["name"], str(path), Config=transfer)

        with ThreadPoolExecutor(job["workers"] if many else 1) as pool:
            list(pool.map(one, job["files"]))

    return fetch


def obstore(job: dict[str, Any]) -> Callable[[], None]:
    """`get_async` of many, or ranges of 8 MiB of one by so many threads."""
    import obstore as library
    from obstore.store import S3Store

    store = S3Store(
        job["bucket"],
        endpoint=job["endpoint"],
        region="us-east-1",
        skip_signature=True,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )

    def opened(name: str) -> BinaryIO:
        return Path(job["out"], name).open("wb")

    async def one(file: dict[str, Any], gate: asyncio.Semaphore) -> None:
        async with gate:
            answer = await library.get_async(store, file["name"])
            with opened(file["name"]) as target:
                async for piece in answer.stream(min_chunk_size=1 << 20):
                    target.write(piece)

    async def all_of_them() -> None:
        gate = asyncio.Semaphore(job["workers"])
        await asyncio.gather(*(one(file, gate) for file in job["files"]))

    def in_ranges() -> None:
        (file,) = job["files"]
        size = library.head(store, file["name"])["size"]
        with (
            opened(file["name"]) as target,
            ThreadPoolExecutor(job["workers"]) as pool,
        ):
            target.truncate(size)

            def part(start: int) -> None:
                end = min(size, start + RANGE)
                data = library.get_range(store, file["name"], start=start, end=end)
                os.pwrite(target.fileno(), data, start)

            list(pool.map(part, range(0, size, RANGE)))

    return in_ranges if len(job["files"]) == 1 else lambda: asyncio.run(all_of_them())


SUBJECTS: dict[str, Callable[[dict[str, Any]], Callable[[], None]]] = {
    "holdfast-auto": lambda job: holdfast(job, "auto"),
    "holdfast-asyncio": lambda job: holdfast(job, "asyncio"),
    "holdfast-threads": lambda job: holdfast(job, "threads"),
    "boto3": boto3,
    "obstore": obstore,
}


def main() -> None:
    """Do the job and print the seconds."""
    fetch = SUBJECTS[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text()))
    began = time.perf_counter()
    fetch()
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "threads": threading.active_count()}))


if __name__ == "__main__":
    main()
