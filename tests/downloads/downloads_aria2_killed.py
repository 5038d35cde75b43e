"""A program that adds a batch to a service and is killed: run by a test, as a process."""

from __future__ import annotations

import asyncio
import sys

import holdfast as hf


async def main(rpc_url: str, secret: str, journal: str, *pairs: str) -> None:
    client = hf.Aria2Client(rpc_url, secret, journal=journal, retry_delay=0.05)
    wanted = [tuple(pair.split("|")) for pair in pairs]
    batch = await client.add_batch_downloads(wanted, batch_id="night")
    while True:
        found = client.get_batch_progress(batch).downloads
        history = [client.get_retry_info(each.gid).history for each in found]
        if all(each.completed_length for each in found) and any(history):
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            await asyncio.sleep(60)
        await asyncio.sleep(0.02)


asyncio.run(main(*sys.argv[1:]))
