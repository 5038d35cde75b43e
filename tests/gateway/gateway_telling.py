"""What the tests of ledger, pages, metrics and log have in common."""

from __future__ import annotations

import asyncio
import functools
import json
from contextlib import suppress

from gateway_rig import read


def runs(test):
    """Run a coroutine function as a test, for 30 s at most."""

    @functools.wraps(test)
    def wrapped(*args, **kwargs):
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 30))

    return wrapped


async def get(port, path, *fields, host="localhost", method="GET", minor=1):
    """Return (status, head, body) of a request for a page."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"{method} {path} HTTP/1.{minor}", *([f"Host: {host}"] if host else []), *fields]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    try:
        return await read(reader, method)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def stats_of(port, *fields, **options):
    """Return the statistics as a client reads them."""
    status, _, body = await get(port, "/__holdfast__/stats", *fields, **options)
    assert status == 200, body
    return json.loads(body)


async def until(condition, seconds=5.0):
    """Wait until something is so."""
    for _ in range(int(seconds / 0.01)):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come true")
