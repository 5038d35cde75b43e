"""Small proxies as one writes them in an afternoon: what holdfast's gateway is measured beside.

    granian --interface asgi --port PORT gateway_proxies:app      (UPSTREAMS=PORT,PORT,...)
    python gateway_proxies.py PORT UPSTREAM...                    aiohttp on both sides

Both take the three upstreams in turn, keep connections to them, and pass the answer on as it
comes: no retry, no health, no rules about fields but the ones that HTTP cannot do without.
"""

from __future__ import annotations

import itertools
import os
import sys
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Message = dict[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]

HOP = {"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "host", "content-length"}


def session() -> aiohttp.ClientSession:
    """Return a client that keeps its connections and decodes nothing."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
    return aiohttp.ClientSession(connector=connector, auto_decompress=False, timeout=timeout)


# -- ASGI: granian in front, aiohttp's client behind -------------------------------------------

_ports = itertools.cycle(os.environ.get("UPSTREAMS", "0").split(","))
_client: list[aiohttp.ClientSession] = []


async def app(scope: Message, receive: Receive, send: Send) -> None:
    """Pass one request on."""
    if scope["type"] != "http":
        return
    if not _client:
        _client.append(session())
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    headers = [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in scope["headers"]
        if name.decode("latin-1").lower() not in HOP
    ]
    path = scope["path"] + ("?" + scope["query_string"].decode() if scope["query_string"] else "")
    url = f"http://127.0.0.1:{next(_ports)}{path}"
    async with _client[0].request(scope["method"], url, data=body, headers=headers) as answer:
        fields = [
            (name.lower(), value)
            for name, value in answer.raw_headers
            if name.decode("latin-1").lower() not in HOP - {"content-length"}
        ]
        await send({"type": "http.response.start", "status": answer.status, "headers": fields})
        async for piece in answer.content.iter_any():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


# -- aiohttp on both sides ---------------------------------------------------------------------


def serve(port: int, upstreams: list[str]) -> None:
    """Serve until killed."""
    ports = itertools.cycle(upstreams)
    client: list[aiohttp.ClientSession] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        if not client:
            client.append(session())
        url = f"http://127.0.0.1:{next(ports)}{request.path_qs}"
        fields = [
            (name, value) for name, value in request.headers.items() if name.lower() not in HOP
        ]
        body = await request.read()
        async with client[0].request(request.method, url, data=body, headers=fields) as upstream:
            answer = web.StreamResponse(status=upstream.status)
            for name, value in upstream.headers.items():
                if name.lower() not in HOP - {"content-length"}:
                    answer.headers.add(name, value)
            await answer.prepare(request)
            async for piece in upstream.content.iter_any():
                await answer.write(piece)
            await answer.write_eof()
            return answer

    application = web.Application(client_max_size=64 << 20)
    application.router.add_route("*", "/{path:.*}", handle)
    web.run_app(application, host="127.0.0.1", port=port, access_log=None, print=None)


if __name__ == "__main__":
    import uvloop

    uvloop.install()
    serve(int(sys.argv[1]), sys.argv[2:])
