"""The Python clients of `faults.py`, each run as a program: fetch one object into `data.bin`.

    python benchmarks/faults_programs.py NAME '{"url": ..., "sha256": ..., "pieces": ...}'

The exit code is 0 if the client reported success, else 1. Each does what its documents show, with
time limits of 5 s where it has them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

TARGET = Path("data.bin")
PART = Path("data.bin.part")
LIMIT = 5
RANGE = 8 << 20
RANGES = 8


def place(url: str) -> tuple[str, str, str]:
    """Return endpoint, bucket and key of a URL in path style."""
    parts = urlsplit(url)
    bucket, _, key = parts.path.strip("/").partition("/")
    return f"{parts.scheme}://{parts.netloc}", bucket, key


def holdfast(asked: dict[str, Any]) -> int:
    """`hf.Downloads` with its defaults, but for the time limits."""
    import holdfast as hf  # noqa: PLC0415 - each program loads its own client only
    from holdfast.transfer.plane import Timeouts  # noqa: PLC0415

    limit = asked.get("limit", LIMIT)
    limits = Timeouts(connect=limit, first_byte=limit, idle=limit)
    with hf.Downloads(timeouts=limits) as downloads:
        if asked.get("s3"):
            endpoint, bucket, key = place(asked["url"])
            downloads.add_s3(f"s3://{bucket}/{key}", auth="anonymous", endpoint=endpoint)
        else:
            pieces = asked.get("pieces")
            downloads.add(
                asked["url"],
                sha256=asked.get("sha256"),
                pieces=tuple(pieces) if pieces else None,
            )
        report = downloads.run()
    for failed in report.failed:
        print(failed, file=sys.stderr)
    return report.exit_code


def boto3(asked: dict[str, Any]) -> int:
    """`download_file` of boto3: ranges of 8 MiB, ten at a time."""
    import boto3 as library  # noqa: PLC0415
    from botocore import UNSIGNED  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    endpoint, bucket, key = place(asked["url"])
    config = Config(
        signature_version=UNSIGNED,
        connect_timeout=LIMIT,
        read_timeout=LIMIT,
        s3={"addressing_style": "path"},
    )
    client = library.client("s3", endpoint_url=endpoint, region_name="us-east-1", config=config)
    client.download_file(bucket, key, str(TARGET))
    return 0


def obstore_store(asked: dict[str, Any]) -> tuple[Any, str]:
    from obstore.store import S3Store  # noqa: PLC0415

    endpoint, bucket, key = place(asked["url"])
    store = S3Store(
        bucket,
        endpoint=endpoint,
        region="us-east-1",
        skip_signature=True,
        virtual_hosted_style_request=False,
        client_options={
            "allow_http": True,
            "connect_timeout": f"{LIMIT}s",
            "read_timeout": f"{LIMIT}s",
        },
    )
    return store, key


def obstore_stream(asked: dict[str, Any]) -> int:
    """`obstore.get`, written chunk by chunk; renamed at the end."""
    store, key = obstore_store(asked)
    with PART.open("wb") as file:
        for chunk in store.get(key).stream():
            file.write(chunk)
    PART.rename(TARGET)
    return 0


def obstore_ranges(asked: dict[str, Any]) -> int:
    """`obstore.get_ranges`: 8 ranges of 8 MiB at a time; renamed at the end."""
    store, key = obstore_store(asked)
    size = store.head(key)["size"]
    starts = list(range(0, size, RANGE))
    with PART.open("wb") as file:
        for first in range(0, len(starts), RANGES):
            some = starts[first : first + RANGES]
            ends = [min(size, start + RANGE) for start in some]
            for body in store.get_ranges(key, starts=some, ends=ends):
                file.write(body)
    PART.rename(TARGET)
    return 0


PROGRAMS: dict[str, Callable[[dict[str, Any]], int]] = {
    "holdfast": holdfast,
    "boto3": boto3,
    "obstore-stream": obstore_stream,
    "obstore-ranges": obstore_ranges,
}


if __name__ == "__main__":
    raise SystemExit(PROGRAMS[sys.argv[1]](json.loads(sys.argv[2])))
