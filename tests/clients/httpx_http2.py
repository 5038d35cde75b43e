"""A server that speaks HTTP/2, by script: one step per request, over all connections."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import h2.config
import h2.connection
import h2.events

if TYPE_CHECKING:
    from collections.abc import Callable

    from httpx_faces import Connection


def h2_script(seen: list[str], steps: list[object]) -> Callable[[Connection], None]:
    """Return the script. seen: gets the method of each request.

    A step is a status; "goaway" (the connection ends in good order, nothing was done),
    "rst" (it ends with a reset) or "hole" (nothing more is said on it).
    """
    lock = threading.Lock()

    def script(connection: Connection) -> None:
        sock = connection.sock
        protocol = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        protocol.initiate_connection()
        sock.sendall(protocol.data_to_send())
        while data := sock.recv(65536):
            events = protocol.receive_data(data)
            seen.extend(method for event in events for method in _methods(event))
            for event in events:
                if isinstance(event, h2.events.StreamEnded):
                    with lock:
                        step = steps.pop(0)
                    if not _respond(connection, protocol, event.stream_id, step):
                        return
            sock.sendall(protocol.data_to_send())

    return script


def _methods(event: h2.events.Event) -> list[str]:
    if not isinstance(event, h2.events.RequestReceived):
        return []
    return [dict(event.headers)[b":method"].decode()]


def _respond(
    connection: Connection, protocol: h2.connection.H2Connection, stream: int, step: object
) -> bool:
    """Take the step for one request; return whether the connection goes on."""
    if isinstance(step, int):
        body = b"fine" if step == 200 else b"busy"
        head = [(":status", str(step)), ("content-length", str(len(body)))]
        protocol.send_headers(stream, head)
        protocol.send_data(stream, body, end_stream=True)
        return True
    if step == "goaway":
        protocol.close_connection(last_stream_id=max(stream - 2, 0))
        connection.send(protocol.data_to_send())
    elif step == "rst":
        connection.reset()
    else:
        connection.wait()
    return False
