"""Lets an unmodified aiohttp run in a simulated loop.

    with simulated_aiohttp():
        async with aiohttp.ClientSession() as session: ...

aiohttp 3.14 does two things past its event loop: it connects real sockets itself (by
`aiohappyeyeballs.start_connection`), and it reads the machine's clock to expire kept-alive
connections and names. Both are replaced inside the block. Its server needs nothing.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from holdfast.runtime.clock import clock
from holdfast.testing.loop import SimLoop

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Sequence

    from holdfast.testing.network import SimSocket


@contextmanager
def simulated_aiohttp() -> Iterator[None]:
    """Run aiohttp on the simulated network and the seam's clock inside the block.

    Raises ImportError without aiohttp.
    """
    import aiohappyeyeballs  # noqa: PLC0415 - an optional dependency
    import aiohttp.connector  # noqa: PLC0415 - an optional dependency

    real = aiohappyeyeballs.start_connection

    async def start_connection(
        addr_infos: Sequence[tuple[Any, ...]],
        **options: Any,
    ) -> SimSocket | socket.socket:
        loop = asyncio.get_running_loop()
        if not isinstance(loop, SimLoop):
            made: socket.socket = await real(addr_infos, **options)
            return made
        return await loop.network.dial([(info[4][0], info[4][1]) for info in addr_infos])

    def monotonic() -> float:
        return clock.monotonic()  # looked up each time: the seam may change meanwhile

    with (
        patch.object(aiohappyeyeballs, "start_connection", start_connection),
        patch.object(aiohttp.connector, "monotonic", monotonic),
    ):
        yield
