"""A client in a process of its own: `clients_aiohttp_bomb.py HOW`, against a bomb of 1 GiB.

It writes by how many bytes its peak memory grew, how many bytes it got, and the error's type.
"""

import asyncio
import gzip
import resource
import sys
from contextlib import suppress

import aiohttp

import holdfast as hf

MEMBER = gzip.compress(bytes(1 << 20), mtime=0)  # gzip files may be put one after the other
HEAD = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n"


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


async def serve(reader, writer):
    target = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1]
    if target == b"/small":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    elif target == b"/length":
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % (1024 * len(MEMBER)) + MEMBER * 1024)
    else:
        writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        writer.write(b"%x\r\n%s\r\n" % (len(MEMBER), MEMBER) * 1024 + b"0\r\n\r\n")
    with suppress(ConnectionError):
        await writer.drain()
    writer.close()


async def main(how, form):
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    options = {"max_ratio": 1e9} if how == "all" else {}
    wrapped = hf.clients.aiohttp.Middleware(hf.policy(hf.Retry(3)), **options)
    got, failure = 0, ""
    async with aiohttp.ClientSession(middlewares=[wrapped]) as session:
        async with session.get(url + "small") as response:
            await response.read()
        before = peak()
        try:
            async with session.get(url + form) as response:
                if how == "read":
                    got = len(await response.read())
                else:
                    async for piece in response.content.iter_any():
                        got += len(piece)
        except aiohttp.ClientError as error:
            failure = type(error).__name__
    server.close()
    sys.stdout.write(f"{peak() - before} {got} {failure}")


asyncio.run(main(*sys.argv[1:]))
