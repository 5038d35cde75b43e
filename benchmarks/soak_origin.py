"""The origin of the soak: small objects on kept-alive connections, some of them struck once.

    python soak_origin.py '[SHARE, SEED]'      prints its port; ends when stdin is closed

A raw protocol, because it has to be faster than what it serves: on one CPU it answers some
20,000 requests per second, with uvloop where that is installed. What an object holds, and which
fault strikes its first request, follows from its number and the seed alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import struct
import sys
import threading
from typing import Any, Final

FAULTS: Final = ("reset", "fin", "503", "cut head", "stall")
MAX_SIZE: Final = 4096
_PATTERN = bytes(range(256)) * (MAX_SIZE // 256 + 1)


def draw(seed: int, n: int) -> int:
    """Return 64 bits that follow from the seed and the number of an object."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {n}".encode(), digest_size=8).digest())


def content(seed: int, n: int) -> bytes:
    """Return what object `n` holds: 64 to 4,096 bytes."""
    bits = draw(seed, n)
    size, start = 64 + bits % (MAX_SIZE - 64), bits >> 16 & 0xFF
    return b"%016x" % bits + _PATTERN[start : start + size - 16]


def fault_of(seed: int, n: int, share: float) -> str:
    """Return which fault strikes the first request for object `n`; "" for none."""
    bits = draw(seed + 1, n)
    return FAULTS[bits % len(FAULTS)] if (bits >> 8) % 10_000 < share * 10_000 else ""


def name_of(n: int) -> str:
    """Return the path of object `n`: a thousand in each directory."""
    return f"{n // 1000:04}/{n:07}.bin"


class Origin(asyncio.Protocol):
    """One connection."""

    struck: set[int] = set()  # noqa: RUF012 - of all connections

    def __init__(self, seed: int, share: float) -> None:
        self._seed = seed
        self._share = share
        self._read = b""
        self._silent = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self._read += data
        while b"\r\n\r\n" in self._read and not self._silent:
            head, self._read = self._read.split(b"\r\n\r\n", 1)
            self._answer(head)

    def _answer(self, head: bytes) -> None:
        n = int(head.split(b" ", 2)[1][-11:-4])
        fault = ""
        if n not in self.struck:
            fault = fault_of(self._seed, n, self._share)
            if fault:
                self.struck.add(n)
        body = content(self._seed, n)
        etag, start = b'"%x"' % draw(self._seed, n), 0
        fields = [b"HTTP/1.1 200 OK"]
        at = head.lower().find(b"range: bytes=")
        if at > 0:
            start = int(head[at + 13 : head.index(b"-", at)])
            told = b"Content-Range: bytes %d-%d/%d"
            fields = [b"HTTP/1.1 206 Partial Content", told % (start, len(body) - 1, len(body))]
        length = b"Content-Length: %d" % (len(body) - start)
        fields += [b"ETag: " + etag, b"Accept-Ranges: bytes", length]
        whole = b"\r\n".join(fields) + b"\r\n\r\n" + body[start:]
        if fault:
            self._strike(fault, whole)
            return
        self._transport.write(whole)
        if b"connection: close" in head.lower():
            self._transport.close()

    def _strike(self, fault: str, whole: bytes) -> None:
        transport, half = self._transport, len(whole) - 32
        if fault == "503":
            transport.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
            return
        self._silent = True
        transport.write(whole[:20] if fault == "cut head" else whole[:half])
        if fault == "stall":
            return  # until the client has had enough
        if fault == "reset":
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.close()


async def serve(share: float, seed: int) -> None:
    """Answer until stdin is closed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Origin(seed, share), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    over = asyncio.Event()

    def watch() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(over.set)

    threading.Thread(target=watch, daemon=True).start()
    await over.wait()
    server.close()


def main() -> None:
    """Run it."""
    share, seed = json.loads(sys.argv[1])
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        asyncio.run(serve(share, seed))
    else:
        uvloop.run(serve(share, seed))


if __name__ == "__main__":
    main()
